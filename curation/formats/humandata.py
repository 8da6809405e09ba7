"""HumanData of mmhuman3d: an npz of arrays and dicts. Torch-free.

``smplx`` is a dict of parameters (hands whole, hence ``misc.flat_hand_mean`` is true), 2D points
have 190 places, of which the first 144 are SMPL-X's. Dicts in an npz are pickled; what reads them
here knows arrays and plain containers only, and runs nothing.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.pickles import load_plain_pickle
from bodymodel.spec import SMPLX_KEYPOINTS
from curation.formats.fits import (
    Fits,
    FormatError,
    empty_keypoints,
    from_extras,
    new_fits,
    our_extras,
    save_npz,
    text_list,
)
from curation.schema import POSE_SHAPES

__all__ = ["read_humandata", "write_humandata"]

_POINTS = 190
_HEAD_TOP = 147
_CENTRE = np.array([0.5, 0.5, 0], np.float32)


def write_humandata(fits: Fits, path: Path, points: np.ndarray | None = None) -> None:
    """Write one npz.

    Args:
        fits: What to write.
        path: Where to.
        points: (N, 145, 3) metres in the camera's frame, for ``keypoints3d``; left out if None.
    """
    count = len(fits)
    where = np.append(np.arange(len(SMPLX_KEYPOINTS)), _HEAD_TOP)
    keypoints = np.zeros((count, _POINTS, 3), np.float32)
    seen = fits.keypoints_2d[..., 2:] > 0
    keypoints[:, where] = np.where(seen, fits.keypoints_2d - _CENTRE, 0)
    boxes = np.nan_to_num(fits.boxes())
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2], np.ones((count, 1))], 1)
    mask = np.zeros(_POINTS, np.uint8)
    mask[where] = fits.keypoints_2d[..., 2].any(0) if count else 0
    smplx = {
        name: values.reshape(count, -1, 3) if name.endswith("hand_pose") or name == "body_pose"
        else values.reshape(count, -1)
        for name, values in fits.params.items()
    }  # fmt: skip
    arrays: dict[str, Any] = {
        "image_path": np.array(fits.image_path, "U"),
        "bbox_xywh": xywh.astype(np.float32),
        "config": np.array("pseudogt"),
        "keypoints2d": keypoints,
        "keypoints2d_mask": mask,
        "keypoints2d_convention": np.array("human_data"),
        "smplx": _object({k: np.asarray(v, np.float32) for k, v in smplx.items()}),
        "meta": _object({"gender": [fits.gender[:1]] * count}),
        "misc": _object(
            {
                "flat_hand_mean": True,
                "cam_param_type": "prespective",  # their spelling
                "focal_length": fits.focal_px,
                "principal_point": fits.center_px,
                "bbox_source": "pseudogt",
                "kps3d_root_aligned": False,
            }
            | our_extras(fits)
        ),
        "__key_strict__": np.array(False),
        "__temporal_len__": np.array(count),
        "__keypoints_compressed__": np.array(False),
    }
    if points is not None:
        space = np.zeros((count, _POINTS, 4), np.float32)
        known = np.isfinite(points).all(-1)
        space[:, where, :3] = np.where(known[..., None], points, 0)
        space[:, where, 3] = known
        in_space = np.zeros(_POINTS, np.uint8)
        in_space[where] = known.all(0) if count else 0
        arrays |= {"keypoints3d": space, "keypoints3d_mask": in_space,
                   "keypoints3d_convention": np.array("human_data")}  # fmt: skip
    save_npz(path, arrays)


def _object(value: dict) -> np.ndarray:
    array = np.empty((), object)
    array[()] = value
    return array


def read_humandata(path: Path) -> Fits:
    """Read one npz, ours or a public one with ``smplx``.

    Raises:
        FormatError: If it holds no SMPL-X parameters, or asks for code.
    """
    content = _load(path)
    smplx = content.get("smplx")
    if not isinstance(smplx, dict) or "body_pose" not in smplx:
        raise FormatError(
            f"{path} holds no SMPL-X parameters (smplx); it has {sorted(content)}. SMPL ones are "
            "converted first: python -m conversion.run"
        )
    names = text_list(content["image_path"])
    params = {k: smplx[k] for k in (*POSE_SHAPES, "betas", "expression", "transl") if k in smplx}
    misc = content.get("misc") if isinstance(content.get("misc"), dict) else {}
    extras = from_extras(misc)
    if not extras:
        if not misc.get("flat_hand_mean", True):
            raise FormatError(
                f"{path}: hand poses are offsets from the mean hand (flat_hand_mean is false); "
                "add the mean of their body's file to them first"
            )
        params = {k: np.asarray(v)[..., :10] if k in ("betas", "expression") else v
                  for k, v in params.items()}  # fmt: skip
        extras = {"keypoints_2d": _points(content)}
        if "bbox_xywh" in content:
            box = np.asarray(content["bbox_xywh"], np.float32)[:, :4]
            extras["bbox_xyxy_px"] = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], 1)
    return new_fits(names, params, **extras)


def _points(content: dict) -> np.ndarray | None:
    points = content.get("keypoints2d")
    if points is None:
        return None
    points = np.asarray(points, np.float32)
    mask = np.asarray(content.get("keypoints2d_mask", np.ones(_POINTS)), bool)
    if points.shape[1] != _POINTS:  # compressed: only the places of the mask are stored
        full = np.zeros((len(points), _POINTS, 3), np.float32)
        full[:, mask] = points
        points = full
    out = empty_keypoints(len(points))
    where = np.append(np.arange(len(SMPLX_KEYPOINTS)), _HEAD_TOP)
    found = np.where(points[:, where, 2:] > 0, points[:, where] + _CENTRE, 0)
    out[:, : len(FIT_KEYPOINTS)] = found * mask[where][:, None]
    return out


def _load(path: Path) -> dict[str, Any]:
    """Read every entry of the npz; pickled ones as data only."""
    out: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                data = io.BytesIO(archive.read(name))
                version = np.lib.format.read_magic(data)
                read = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }.get(version)
                if read is None:
                    raise FormatError(f"{path}: {name} has an unknown header {version}")
                _, _, dtype = read(data)
                key = name.removesuffix(".npy")
                if dtype.hasobject:
                    out[key] = load_plain_pickle(data, f"{path}: {key}")
                else:
                    data.seek(0)
                    out[key] = np.lib.format.read_array(data, allow_pickle=False)
    except FormatError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise FormatError(f"{path} cannot be read as HumanData: {error}") from None
    return out
