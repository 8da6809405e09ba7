"""COCO's keypoints from the projected fits, with COCO-WholeBody's further points. Torch-free.

COCO counts pixels from 0 and means their centres, hence half a pixel is taken from every point. A
point that the photo's own keypoints confirm is visible (2), another one inside the photo is
labelled but hidden (1), one outside of it or of a part that was not accepted is absent (0).
"""

import json
from pathlib import Path

import numpy as np

from bodymodel.keypoints import CONVENTIONS, convert_keypoints
from bodymodel.spec import PARTS
from curation.formats.fits import Fits
from curation.formats.posing import Poser

__all__ = ["write_coco"]

_SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9),
    (8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip
_PARTS = (
    ("foot_kpts", "foot_valid", 17, 23, "body"), ("face_kpts", "face_valid", 23, 91, "face"),
    ("lefthand_kpts", "lefthand_valid", 91, 112, "left_hand"),
    ("righthand_kpts", "righthand_valid", 112, 133, "right_hand"),
)  # fmt: skip


def write_coco(fits: Fits, path: Path, poser: Poser) -> None:
    """Write one JSON file; annotation ids are 1..N in the order of the fits.

    Raises:
        FormatError: If the fits are of another body than the poser's.
    """
    _, points = poser.joints_and_points(fits)
    pixels = poser.project(fits, points)
    inside = np.isfinite(pixels).all(-1)
    size = fits.size[:, None].astype(np.float64)
    inside &= ((pixels >= 0) & (np.where(size > 0, pixels < size, True))).all(-1)
    visible = np.where(fits.keypoints_2d[..., 2] > 0, 2, 1) * inside
    labelled = np.concatenate([np.nan_to_num(pixels - 0.5), visible[..., None]], -1)
    labelled[~inside] = 0
    whole, _ = convert_keypoints(labelled, "fit", "coco_wholebody133")
    image_ids = {name: k for k, name in enumerate(dict.fromkeys(fits.image_path), 1)}
    images, annotations = {}, []
    boxes = fits.boxes()
    for row in range(len(fits)):
        name = fits.image_path[row]
        width, height = (int(n) for n in fits.size[row])
        images[name] = {"id": image_ids[name], "file_name": name, "width": width, "height": height}
        body = whole[row, :17] * fits.good[row, 0]
        box = _box(boxes[row], body)
        annotation = {
            "id": row + 1,
            "image_id": image_ids[name],
            "category_id": 1,
            "iscrowd": 0,
            "keypoints": _flat(body),
            "num_keypoints": int((body[:, 2] > 0).sum()),
            "bbox": [round(float(v), 2) for v in box],
            "area": round(float(box[2] * box[3]), 2),
            "segmentation": [],
            "pseudogt": {
                "fit_id": fits.fit_id[row],
                "person_index": int(fits.person_index[row]),
                "good": dict(zip(PARTS, fits.good[row].tolist(), strict=True)),
            },
        }
        for points_key, valid_key, begin, end, part in _PARTS:
            found = whole[row, begin:end] * fits.good[row, PARTS.index(part)]
            annotation[points_key] = _flat(found)
            annotation[valid_key] = bool((found[:, 2] > 0).any())
        annotations.append(annotation)
    content = {
        "info": {
            "description": f"Projected SMPL-X fits of {fits.dataset}",
            "body_name": fits.body_name,
            "body_sha256": fits.body_sha256,
        },
        "licenses": [],
        "images": list(images.values()),
        "annotations": annotations,
        "categories": [
            {
                "id": 1, "name": "person", "supercategory": "person",
                "keypoints": list(CONVENTIONS["coco17"]), "skeleton": [list(p) for p in _SKELETON],
            }
        ],
    }  # fmt: skip
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    temporary.replace(path)


def _flat(points: np.ndarray) -> list[float]:
    points = np.where(points[:, 2:] > 0, points, 0)
    return [v for x, y, seen in points.tolist() for v in (round(x, 3), round(y, 3), int(seen))]


def _box(box: np.ndarray, body: np.ndarray) -> np.ndarray:
    seen = body[body[:, 2] > 0, :2]
    if not np.isfinite(box).all():
        box = np.concatenate([seen.min(0), seen.max(0)]) if len(seen) else np.zeros(4)
    return np.array([box[0], box[1], box[2] - box[0], box[3] - box[1]])
