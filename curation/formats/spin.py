"""SPIN's npz with SMPL-X parameters, as ExPose's training on SPIN's fits reads it. Torch-free.

SPIN's own keys (``imgname``, ``center``, ``scale`` of a box of 200 px, ``part``, ``openpose``,
``has_smpl``) and ``pose`` (N, 165), ``betas``, ``expression``, ``translation``,
``body_keypoints``, ``left_hand_keypoints``, ``right_hand_keypoints``, ``face_keypoints``. ``pose``
and ``betas`` are SMPL-X's, not SMPL's: to get those, convert (``conversion.run --to smpl``).
"""

from pathlib import Path

import numpy as np

from bodymodel.keypoints import convert_keypoints
from curation.formats.expose import from_openpose137, to_openpose137
from curation.formats.fits import (
    Fits,
    FormatError,
    from_extras,
    load_npz,
    new_fits,
    our_extras,
    pose_from_full,
    save_npz,
    text_list,
)

__all__ = ["read_spin", "write_spin"]

_BOX_PX = 200.0
_MARGIN = 1.2
_SPIN24 = (  # SPIN's order of its own 24 points; the last ten have no point of ours
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
    "neck", "head_top",
)  # fmt: skip


def write_spin(fits: Fits, path: Path) -> None:
    """Write one npz."""
    boxes = fits.boxes()
    count = len(fits)
    sides = boxes[:, 2:] - boxes[:, :2]
    points = to_openpose137(fits.keypoints_2d)
    lsp, _ = convert_keypoints(fits.keypoints_2d, "fit", "lsp14")
    part = np.zeros((count, 24, 3), np.float32)
    part[:, : len(_SPIN24)] = lsp - np.where(lsp[..., 2:] > 0, np.float32([0.5, 0.5, 0]), 0)
    arrays = {
        "imgname": np.array(fits.image_path, "U"),
        "center": ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.float32),
        "scale": (_MARGIN * sides.max(1, initial=0) / _BOX_PX).astype(np.float32),
        "part": part,
        "spin_keypoints": part,
        "openpose": points[:, :25],
        "body_keypoints": points[:, :25],
        "left_hand_keypoints": points[:, 25:46],
        "right_hand_keypoints": points[:, 46:67],
        "face_keypoints": points[:, 67:],
        "pose": fits.full_pose.reshape(count, 165).astype(np.float32),
        "betas": fits.params["betas"].astype(np.float32),
        "expression": fits.params["expression"].astype(np.float32),
        "translation": fits.params["transl"].astype(np.float32),
        "has_smpl": np.ones(count, np.float32),
        "genders": np.array([fits.gender[:1]] * count, "U1"),
    }
    extras = our_extras(fits)
    del extras["gender"]
    save_npz(path, arrays | extras)


def read_spin(path: Path) -> Fits:
    """Read one npz with SMPL-X parameters.

    Raises:
        FormatError: If it is none, or holds SMPL's.
    """
    arrays = load_npz(path)
    if "imgname" not in arrays or "pose" not in arrays:
        raise FormatError(f"{path} is no npz of SPIN: it lacks imgname or pose")
    count = len(arrays["imgname"])
    width = arrays["pose"].reshape(count, -1).shape[1] if count else 165
    if width == 72:
        raise FormatError(
            f"{path} holds SMPL parameters; make them SMPL-X's first: "
            "python -m conversion.run FILE --to smplx"
        )
    if width != 165 or "betas" not in arrays:
        raise FormatError(f"{path}: pose must be (N, 165), with betas, got {arrays['pose'].shape}")
    params = pose_from_full(arrays["pose"].reshape(count, 55, 3)) | {"betas": arrays["betas"]}
    for ours, theirs in (("expression", "expression"), ("transl", "translation")):
        if theirs in arrays:
            params[ours] = arrays[theirs]
    names = ("body_keypoints", "left_hand_keypoints", "right_hand_keypoints", "face_keypoints")
    gender = arrays.get("genders", np.zeros(0))
    extras = from_extras(arrays | {"gender": gender})
    if extras:
        letter = str(text_list(gender)[0]) if len(gender) else "n"
        extras["gender"] = {"f": "female", "m": "male"}.get(letter, "neutral")
    else:
        half = _BOX_PX * arrays["scale"].reshape(-1, 1) / 2
        boxes = np.concatenate([arrays["center"] - half, arrays["center"] + half], 1)
        extras = {"bbox_xyxy_px": boxes}
        if all(name in arrays for name in names):
            points = np.concatenate([arrays[name] for name in names], 1)
            if points.shape[1:] == (137, 3):
                extras["keypoints_2d"] = from_openpose137(points)
    return new_fits(text_list(arrays["imgname"]), params, **extras)
