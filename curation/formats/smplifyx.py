"""SMPLify-X's results: one pickle a person at ``results/<photo>/<person>.pkl``. Torch-free.

Hands are PCA coefficients about the mean hand of the body's own file (12 by default, as SMPLify-X
writes them; 45 lose nothing), the translation is the camera's. The pickles hold a dict of arrays
and are read as data only. What is ours beside SMPLify-X's keys: focal length, principal point, the
photo's path, the body.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from bodymodel.body import BodyData
from bodymodel.pickles import load_model_pickle
from curation.file_stems import unique_stems
from curation.formats.fits import Fits, FormatError, new_fits
from curation.schema import POSE_SHAPES

__all__ = ["read_smplifyx", "write_smplifyx"]

_SIDES = ("left_hand_pose", "right_hand_pose")


def write_smplifyx(fits: Fits, folder: Path, body: BodyData, num_pca: int = 12) -> float:
    """Write a pickle a person.

    Args:
        fits: What to write.
        folder: Where to; ``results`` is made below it.
        body: Whose hand components are used.
        num_pca: Coefficients a hand, 1..45.

    Returns:
        The largest change of a finger's rotation vector by the PCA, rad.
    """
    worst = 0.0
    coefficients = {}
    for side, name in enumerate(_SIDES):
        offset = fits.params[name].reshape(len(fits), 45) - body.hand_means[side]
        components = body.hand_components[side][:num_pca].astype(np.float64)
        coefficients[name] = offset @ np.linalg.pinv(components)
        if len(fits):
            worst = max(worst, float(np.abs(coefficients[name] @ components - offset).max()))
    stems = unique_stems(fits.image_path)
    for row, (path, person) in enumerate(zip(fits.image_path, fits.person_index, strict=True)):
        target = folder / "results" / stems[path] / f"{int(person):03d}.pkl"
        target.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "camera_rotation": np.eye(3, dtype=np.float32)[None],
            "camera_translation": fits.params["transl"][row][None].astype(np.float32),
            **{
                name: np.asarray(coefficients.get(name, fits.params[name])[row], np.float32)
                .reshape(1, -1)
                for name in (*POSE_SHAPES, "betas", "expression")
            },
            "focal_length": np.float32(fits.focal_px[row]).reshape(1),
            "camera_center": fits.center_px[row][None],
            "image_path": path,
            "body_name": fits.body_name,
            "body_sha256": fits.body_sha256,
            "fit_id": fits.fit_id[row],
            "bbox_xyxy_px": fits.bbox_xyxy_px[row],
            "keypoints_fit": fits.keypoints_2d[row],
            "good_parts": fits.good[row],
            "image_size": fits.size[row],
        }  # fmt: skip
        temporary = target.with_name(target.name + ".tmp")
        with temporary.open("wb") as file:
            pickle.dump(result, file, protocol=2)
        temporary.replace(target)
    return worst


def read_smplifyx(folder: Path, body: BodyData) -> Fits:
    """Read the pickles below a folder, ours or SMPLify-X's.

    Args:
        folder: That holds ``results``, or is it.
        body: Whose hand components were used.

    Raises:
        FormatError: If there are none, or the body's pose is a code of VPoser.
    """
    root = folder / "results" if (folder / "results").is_dir() else folder
    files = sorted(root.rglob("*.pkl"))
    if not files:
        raise FormatError(f"{folder} holds no results of SMPLify-X (*.pkl)")
    rows = []
    for path in files:
        try:
            entry = load_model_pickle(path)
        except ValueError as error:
            raise FormatError(str(error)) from None
        rows.append(_row(path, root, entry, body))
    params = {k: np.stack([row["params"][k] for row in rows]) for k in rows[0]["params"]}
    keys = ("bbox_xyxy_px", "focal_px", "center_px", "keypoints_2d", "good", "size", "person_index")
    known = {k: np.stack([row[k] for row in rows]) for k in keys if all(k in r for r in rows)}
    return new_fits(
        [row["image_path"] for row in rows],
        params,
        fit_id=[row["fit_id"] for row in rows],
        body_name=rows[0]["body_name"],
        body_sha256=rows[0]["body_sha256"],
        gender=body.gender,
        **known,
    )


def _row(path: Path, root: Path, entry: dict[str, Any], body: BodyData) -> dict[str, Any]:
    def array(key: str) -> np.ndarray:
        if key not in entry:
            raise FormatError(f"{path} is no result of SMPLify-X: it lacks {key}")
        return np.asarray(entry[key], np.float32).reshape(-1)

    pose = array("body_pose")
    if pose.size == 32:
        raise FormatError(
            f"{path}: body_pose is a code of VPoser; decode it with SMPLify-X's own VPoser first"
        )
    params = {}
    for name, shape in POSE_SHAPES.items():
        values = array(name)
        if name in _SIDES and values.size < 45:
            side = _SIDES.index(name)
            values = values @ body.hand_components[side][: values.size] + body.hand_means[side]
        elif name in _SIDES:
            side = _SIDES.index(name)
            values = values @ body.hand_components[side] + body.hand_means[side]
        if values.size != int(np.prod(shape)):
            raise FormatError(f"{path}: {name} must be {shape}, got {values.size} numbers")
        params[name] = values.reshape(shape).astype(np.float32)
    rotation = array("camera_rotation").reshape(3, 3)
    if not np.allclose(rotation, np.eye(3), atol=1e-5):
        raise FormatError(f"{path}: its camera is turned; only upright ones are read")
    params |= {"betas": array("betas"), "expression": array("expression"),
               "transl": array("camera_translation")}  # fmt: skip
    folder = path.parent.relative_to(root).as_posix()
    row: dict[str, Any] = {
        "params": params,
        "image_path": str(entry.get("image_path", folder)),
        "fit_id": str(entry.get("fit_id", "")),
        "body_name": str(entry.get("body_name", "")),
        "body_sha256": str(entry.get("body_sha256", "")),
        "person_index": np.int32(path.stem) if path.stem.isdigit() else np.int32(0),
    }
    for ours, theirs in (
        ("focal_px", "focal_length"), ("center_px", "camera_center"),
        ("bbox_xyxy_px", "bbox_xyxy_px"), ("keypoints_2d", "keypoints_fit"),
        ("good", "good_parts"), ("size", "image_size"),
    ):  # fmt: skip
        if theirs in entry:
            row[ours] = np.squeeze(np.asarray(entry[theirs]))
    return row
