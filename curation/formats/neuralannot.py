"""NeuralAnnot's JSON of SMPL-X parameters by COCO annotation. Torch-free.

``{annotation id: {"smplx_param": {...}, "cam_param": {"focal": [fx, fy], "princpt": [cx, cy]}}}``.
Hand poses are offsets from the mean hand of the body's file (``flat_hand_mean`` is false there), so
the body is needed. The annotations that the ids mean are in the COCO file that is written beside.
"""

import json
import math
from pathlib import Path

import numpy as np

from bodymodel.body import BodyData
from curation.formats.fits import Fits, FormatError, new_fits

__all__ = ["FIELDS", "HAND_FLAGS", "read_neuralannot", "write_neuralannot"]

FIELDS: tuple[tuple[str, str], ...] = (
    ("root_pose", "global_orient"), ("body_pose", "body_pose"), ("lhand_pose", "left_hand_pose"),
    ("rhand_pose", "right_hand_pose"), ("jaw_pose", "jaw_pose"), ("leye_pose", "leye_pose"),
    ("reye_pose", "reye_pose"), ("shape", "betas"), ("expr", "expression"), ("trans", "transl"),
)  # fmt: skip
HAND_FLAGS = {"lhand_valid": "left_hand", "rhand_valid": "right_hand", "face_valid": "face"}
"""Its flags by the part that they are of."""

_VALID = tuple(HAND_FLAGS)
_HANDS = {"left_hand_pose": 0, "right_hand_pose": 1}


def write_neuralannot(fits: Fits, path: Path, body: BodyData) -> None:
    """Write one file; annotation ids are 1..N, as in the COCO file of the same fits."""
    content = {}
    for row in range(len(fits)):
        param: dict[str, object] = {}
        for theirs, ours in FIELDS:
            values = fits.params[ours][row].reshape(-1).astype(np.float64)
            if ours in _HANDS:
                values = values - body.hand_means[_HANDS[ours]]
            param[theirs] = [float(np.float32(v)) for v in values]
        for name, good in zip(_VALID, fits.good[row, 1:], strict=True):
            param[name] = bool(good)
        focal = float(fits.focal_px[row])
        content[str(row + 1)] = {
            "smplx_param": param,
            "cam_param": {"focal": [focal, focal], "princpt": fits.center_px[row].tolist()},
        }
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    temporary.replace(path)


def read_neuralannot(path: Path, coco: Path, body: BodyData) -> Fits:
    """Read parameters and the COCO file that their ids mean.

    Args:
        path: Of the parameters.
        coco: Of the annotations.
        body: Whose mean hand the hand poses are offsets from.

    Raises:
        FormatError: If a file is something else.
    """
    from curation.wholebody import parse_annotation

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        labels = json.loads(coco.read_text(encoding="utf-8"))
        images = {image["id"]: image for image in labels["images"]}
        annotations = {str(a["id"]): a for a in labels["annotations"]}
        entries = [
            (key, value["smplx_param"], value["cam_param"]) for key, value in content.items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{path} and {coco} are not NeuralAnnot's SMPL-X parameters and COCO's annotations "
            f"({type(error).__name__}: {error})"
        ) from None
    unknown = [key for key, _, _ in entries if key not in annotations]
    if unknown:
        raise FormatError(f"{coco} has no annotation {unknown[0]}, which {path} has")
    count = len(entries)
    params: dict[str, np.ndarray] = {}
    for theirs, ours in FIELDS:
        if not all(theirs in p for _, p, _ in entries):
            continue  # the public files have no eyes
        values = np.array([p[theirs] for _, p, _ in entries], np.float32).reshape(count, -1)
        if ours in _HANDS:
            values = values + body.hand_means[_HANDS[ours]]
        params[ours] = values
    keypoints, boxes = [], []
    for key, _, _ in entries:
        person = parse_annotation(annotations[key], 0)
        found = np.zeros((145, 3), np.float32)
        for _, points in person.keypoints if person else ():
            other = points.to("fit").points
            found = np.where(other[:, 2:] > found[:, 2:], other, found)
        keypoints.append(found)
        x, y, w, h = annotations[key].get("bbox", [math.nan] * 4)
        boxes.append([x, y, x + w, y + h])
    of = [images[annotations[key]["image_id"]] for key, _, _ in entries]
    ours = [annotations[key].get("pseudogt", {}) for key, _, _ in entries]
    return new_fits(
        [image["file_name"] for image in of],
        params,
        fit_id=[str(o.get("fit_id", "")) for o in ours],
        person_index=np.array([o["person_index"] for o in ours]) if all(ours) else None,
        size=np.array([[i.get("width", 0), i.get("height", 0)] for i in of]).reshape(count, 2),
        bbox_xyxy_px=np.array(boxes).reshape(count, 4),
        focal_px=np.array([np.mean(c["focal"]) for _, _, c in entries]),
        center_px=np.array([c["princpt"] for _, _, c in entries]).reshape(count, 2),
        keypoints_2d=np.array(keypoints).reshape(count, 145, 3),
        good=np.array(
            [[True, *(bool(p.get(v, True)) for v in _VALID)] for _, p, _ in entries]
        ).reshape(count, 4),
        body_name=str(labels.get("info", {}).get("body_name", "")),
        body_sha256=str(labels.get("info", {}).get("body_sha256", "")),
        gender=body.gender,
    )
