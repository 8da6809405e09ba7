"""ExPose's curated fits: ``train.npz`` and ``val.npz``. Torch-free.

``pose`` (N, 55, 3) axis-angle in the order of SMPL-X's joints, hands whole, ``betas``,
``expression``, ``keypoints2D`` (N, 137, 3) in OpenPose's order, ``img_fns``. Its loader and
mmhuman3d's converter also take 53 joints, without eyes. There is no camera and no translation in
the public file; ours are beside them, under names that both loaders ignore.
"""

from pathlib import Path

import numpy as np

from bodymodel.keypoints import convert_keypoints
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

__all__ = ["read_expose", "write_expose"]

_CENTRE = np.array([0.5, 0.5, 0], np.float32)  # OpenPose counts from the first pixel's centre


def to_openpose137(keypoints_2d: np.ndarray) -> np.ndarray:
    """Return (N, 137, 3) points of OpenPose from (N, 145, 3); absent points are zero."""
    points, _ = convert_keypoints(keypoints_2d, "fit", "openpose137")
    return np.where(points[..., 2:] > 0, points - _CENTRE, 0).astype(np.float32)


def from_openpose137(points: np.ndarray) -> np.ndarray:
    """Return (N, 145, 3) points in the ``fit`` convention; negative confidences are absent."""
    points = np.where(points[..., 2:] > 0, points + _CENTRE, 0)
    found, _ = convert_keypoints(points, "openpose137", "fit")
    return found.astype(np.float32)


def write_expose(fits: Fits, path: Path) -> None:
    """Write one npz, such as ``train.npz``."""
    arrays = {
        "img_fns": np.array([name.encode() for name in fits.image_path], "S"),
        "pose": fits.full_pose.astype(np.float32),
        "betas": fits.params["betas"].astype(np.float32),
        "expression": fits.params["expression"].astype(np.float32),
        "keypoints2D": to_openpose137(fits.keypoints_2d),
    }
    save_npz(path, arrays | our_extras(fits))


def read_expose(path: Path) -> Fits:
    """Read one npz, ours or a public one.

    Raises:
        FormatError: If it is none.
    """
    arrays = load_npz(path)
    missing = {"img_fns", "pose", "betas", "expression", "keypoints2D"} - set(arrays)
    if missing:
        raise FormatError(f"{path} holds no curated fits of ExPose: it lacks {sorted(missing)}")
    pose = arrays["pose"]
    if pose.ndim != 3 or pose.shape[1] not in (53, 55):
        raise FormatError(f"{path}: pose must be (N, 53, 3) or (N, 55, 3), got {pose.shape}")
    if pose.shape[1] == 53:  # no eyes
        pose = np.insert(pose, [23, 23], 0, axis=1)
    params = pose_from_full(pose) | {
        "betas": arrays["betas"][:, :10], "expression": arrays["expression"][:, :10],
    }  # fmt: skip
    extras = from_extras(arrays)
    if extras:
        params |= {"betas": arrays["betas"], "expression": arrays["expression"],
                   "transl": arrays["transl"]}  # fmt: skip
    else:
        extras = {"keypoints_2d": from_openpose137(arrays["keypoints2D"])}
    return new_fits(text_list(arrays["img_fns"]), params, **extras)
