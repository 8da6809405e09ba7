"""AMASS npz of SMPL-X poses, one file a fit of one frame. Torch-free.

``poses`` (1, 165), ``trans``, ``betas`` (16), ``gender``, ``mocap_frame_rate``,
``surface_model_type``, and the pose again by parts, in AMASS's world: z up, the person upright.
A photo has no world, so the camera is taken to look along +y, level with the ground. What is ours
beside AMASS's keys brings the camera's frame back.
"""

from pathlib import Path

import numpy as np

from curation.file_stems import unique_stems
from curation.formats.fits import (
    Fits,
    FormatError,
    from_extras,
    load_npz,
    new_fits,
    our_extras,
    pose_from_full,
    save_npz,
)
from curation.formats.posing import Poser
from curation.reproject import rotvec_to_rotmat

__all__ = ["read_amass", "write_amass"]

# Camera (x right, y down, z forward) to world (x right, y forward, z up).
_TO_WORLD = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
_FPS = 30.0


def _turned(params: dict, rotation: np.ndarray, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return global_orient and transl in a frame that is turned by ``rotation``.

    The root turns about the pelvis at rest, which is not the origin.
    """
    from scipy.spatial.transform import Rotation

    orient = rotation @ rotvec_to_rotmat(params["global_orient"])
    transl = (np.asarray(params["transl"], np.float64) + roots) @ rotation.T - roots
    return Rotation.from_matrix(orient).as_rotvec().reshape(-1, 3), transl


def write_amass(fits: Fits, folder: Path, poser: Poser) -> None:
    """Write ``<photo>_<person>.npz`` a fit.

    Raises:
        FormatError: If the fits are of another body than the poser's.
    """
    poser.check(fits)
    roots = poser.root_joints(fits.params)
    orient, transl = _turned(dict(fits.params), _TO_WORLD, roots)
    poses = fits.full_pose.reshape(len(fits), 165).astype(np.float64)
    poses[:, :3] = orient
    stems = unique_stems(fits.image_path)
    for row, (path, person) in enumerate(zip(fits.image_path, fits.person_index, strict=True)):
        target = folder / f"{stems[path]}_{int(person)}.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        betas = fits.params["betas"][row]
        pose = poses[row : row + 1]
        arrays = {
            "poses": pose,
            "trans": transl[row : row + 1],
            "betas": np.pad(betas, (0, max(0, 16 - len(betas)))).astype(np.float64),
            "num_betas": np.int64(max(16, len(betas))),
            "gender": np.array(fits.gender),
            "mocap_frame_rate": np.float64(_FPS),
            "mocap_time_length": np.float64(1 / _FPS),
            "surface_model_type": np.array("smplx"),
            "root_orient": pose[:, :3],
            "pose_body": pose[:, 3:66],
            "pose_jaw": pose[:, 66:69],
            "pose_eye": pose[:, 69:75],
            "pose_hand": pose[:, 75:],
            "image_path": np.array([path]),
            "betas_fit": betas[None],
            "expression_fit": fits.params["expression"][row : row + 1],
        }
        extras = our_extras(fits.select(np.array([row])))
        save_npz(target, {k: v for k, v in extras.items() if k not in arrays} | arrays)


def read_amass(folder: Path, poser: Poser) -> Fits:
    """Read the npz files below a folder that write_amass wrote.

    Motion capture has no photos: other AMASS files are for ``conversion.run``.

    Raises:
        FormatError: If there are none, or one has no photo.
    """
    files = sorted(folder.rglob("*.npz"))
    if not files:
        raise FormatError(f"{folder} holds no npz files")
    rows = []
    for path in files:
        arrays = load_npz(path)
        if "poses" not in arrays or "image_path" not in arrays:
            raise FormatError(
                f"{path} has no photo beside its poses; motion capture is converted with "
                "python -m conversion.run, not reviewed"
            )
        rows.append(arrays)
    pose = np.concatenate([r["poses"].reshape(1, 55, 3) for r in rows])
    params = pose_from_full(pose) | {
        "betas": np.concatenate([r["betas_fit"] for r in rows]),
        "expression": np.concatenate([r["expression_fit"] for r in rows]),
        "transl": np.concatenate([r["trans"] for r in rows]),
    }
    # float64 until both are turned back
    exact = params | {"global_orient": pose[:, 0].astype(np.float64)}
    roots = poser.root_joints(params)
    params["global_orient"], params["transl"] = _turned(exact, _TO_WORLD.T, roots)
    keys = [k for k in rows[0] if k in our_extras(_NOTHING)]
    merged = {k: np.concatenate([np.atleast_1d(r[k]) for r in rows]) for k in keys}
    return new_fits([str(r["image_path"][0]) for r in rows], params, **from_extras(merged))


_NOTHING = new_fits([], {})
