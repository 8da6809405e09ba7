"""Fits of data sets of photos: EFT's json and 3DPW's pickles, with their cameras. Torch-free."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from conversion.clips import Clip, ClipError, as_text, gender_of, make_clip

__all__ = ["from_3dpw", "from_eft", "is_3dpw"]

_SPIN_FOCAL, _SPIN_SIDE = 5000.0, 224.0  # the camera that SPIN and EFT assume, on their crop


def from_eft(path: Path, name: str) -> Clip:
    """Read EFT's fits, one by one: as a whole the file takes ten times its size.

    Raises:
        ClipError: If it holds none.
    """
    from scipy.spatial.transform import Rotation

    from curation.json_stream import iter_items

    with path.open("rb") as file:
        is_list = file.read(64).lstrip()[:1] == b"["
    poses, betas, labels, cameras = [], [], [], []
    for _, item in iter_items(path) if is_list else iter_items(path, "data"):
        row = item.value
        if not isinstance(row, dict) or "parm_pose" not in row:
            break
        matrices = np.array(row["parm_pose"], np.float64).reshape(-1, 3, 3)
        # Their matrices have six digits; the nearest rotation is meant.
        poses.append(Rotation.from_matrix(matrices).as_rotvec().ravel().astype(np.float32))
        betas.append(np.array(row["parm_shape"], np.float32).ravel())
        labels.append(str(row.get("imageName", "")))
        cameras.append(_crop_camera(row))
    if not poses:
        raise ClipError(f"{path} holds no EFT fits ('data' with 'parm_pose')")
    columns = {"full_pose": np.stack(poses), "betas": np.stack(betas)}
    given = np.stack(cameras)
    if np.isfinite(given).any():
        columns |= {"focal_px": given[:, :1], "center_px": given[:, 1:3]}
        columns["transl"] = np.nan_to_num(given[:, 3:])
    return replace(make_clip(name, "smpl", columns, tuple(labels)), has_images=True)


def _crop_camera(row: Mapping[str, Any]) -> np.ndarray:
    """Focal length, centre and translation (6,) of a weak perspective on a square crop.

    EFT: ``normalised = scale * xyz + trans`` on a crop of 200 * bbox_scale pixels, from -1 to 1.
    The perspective camera is SPIN's: a focal length of 5000 on a crop of 224 pixels.
    """
    try:
        scale, x, y = (float(v) for v in row["parm_cam"])
        side = 200 * float(row["bbox_scale"])
        center = np.array(row["bbox_center"], np.float64).reshape(2)
    except (KeyError, TypeError, ValueError):
        return np.full(6, np.nan)
    if not scale > 0 or not side > 0:
        return np.full(6, np.nan)
    depth = 2 * _SPIN_FOCAL / (_SPIN_SIDE * scale)
    return np.array([_SPIN_FOCAL * side / _SPIN_SIDE, *center, x / scale, y / scale, depth])


def is_3dpw(content: Any) -> bool:
    """Whether a pickle's content is a 3DPW sequence: lists, with an item a person."""
    return isinstance(content, Mapping) and all(
        isinstance(content.get(key), list) and content[key] for key in ("poses", "betas", "trans")
    )


def from_3dpw(content: Mapping[str, Any], path: Path, name: str) -> Iterator[Clip]:
    """Yield a clip a person of a 3DPW sequence."""
    people = [content.get(key) for key in ("poses", "betas", "trans")]
    genders = content.get("genders") or ["n"] * len(people[0])
    frames = np.asarray(content.get("img_frame_ids", ()))
    sequence = as_text(content.get("sequence", "")) or path.stem
    for k, (pose, betas, transl) in enumerate(zip(*people, strict=True)):
        pose = np.asarray(pose)
        labels = ()
        if frames.shape == (len(pose),):
            labels = tuple(f"imageFiles/{sequence}/image_{int(i):05d}.jpg" for i in frames)
        columns = {
            "full_pose": pose, "betas": np.asarray(betas)[..., :10], "transl": np.asarray(transl),
        }  # fmt: skip
        columns |= _camera_3dpw(content, len(pose))
        clip = make_clip(f"{name}_{k}", "smpl", columns, labels)
        yield replace(
            clip, gender=gender_of(genders[k]), fps=30.0, is_motion=True, has_images=bool(labels)
        )


def _camera_3dpw(content: Mapping[str, Any], count: int) -> dict[str, np.ndarray]:
    """The moving camera: world to camera, focal length, principal point."""
    inner, outer = (np.asarray(content.get(key, ())) for key in ("cam_intrinsics", "cam_poses"))
    if inner.shape != (3, 3) or outer.shape != (count, 4, 4):
        return {}
    return {
        "focal_px": np.full((count, 1), (inner[0, 0] + inner[1, 1]) / 2),
        "center_px": np.tile(inner[:2, 2], (count, 1)),
        "to_camera": outer[:, :3].reshape(count, 12),
    }
