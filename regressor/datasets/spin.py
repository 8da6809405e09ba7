"""SPIN's npz of people: boxes, 24 and 25 points, SMPL fits; PyMAF-X's additions to it.

Traps: ``scale`` is the box over 200 px *with* a margin of 1.2. Converters of LSPET ignored its
visibility flag, so points nobody saw stand in the file as labels at coordinates of 0 or less and
stretch the box: of LSP and LSPET such points are dropped and the box is made anew. Fits are SMPL's
unless they are 165 wide.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bodymodel.body import BodyData
from bodymodel.keypoints import CONVENTIONS, LOOSE_POINTS
from regressor.datasets.fits import open_fits
from regressor.datasets.labels import (
    LabelError,
    LabelRows,
    Layout,
    checked_rows,
    find_photos,
    fit_points,
    known_params,
    merge_points,
    npz_keys,
    params_of_smpl,
    read_arrays,
)
from regressor.examples import Example, PictureFile, box_of_keypoints

__all__ = ["LAYOUT", "SPIN24", "open_spin"]

SPIN24: tuple[str, ...] = (
    *CONVENTIONS["lsp14"],
    "pelvis_mpii", "thorax_mpii", "spine_h36m", "jaw_h36m", "head_h36m",
    "nose", "left_eye", "right_eye", "left_ear", "right_ear",
)  # fmt: skip
"""SPIN's 24 points; those of MPII and Human3.6M are no points of SMPL-X."""

_BOX_PX, _MARGIN = 200.0, 1.2
_HALF = np.array([0.5, 0.5, 0], np.float32)  # it counts from the first pixel's centre
_MORE_POINTS = (
    ("openpose", CONVENTIONS["openpose_body25"]),
    ("lhand_kp2d", CONVENTIONS["openpose_hand21_left"]),
    ("rhand_kp2d", CONVENTIONS["openpose_hand21_right"]),
    ("face_kp2d", CONVENTIONS["openpose_face70"][:68]),
    ("feet_kp2d", CONVENTIONS["coco_wholebody133"][17:23]),
)


@dataclass(frozen=True, eq=False)
class _Spin:
    name: str
    photos: Path
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    body: BodyData = field(repr=False)
    unseen_are_labels: bool = False

    def make(self, row: int) -> Example:
        arrays = self.arrays
        points = np.zeros((145, 3), np.float32)
        dropped = False
        if "part" in arrays:
            part = np.array(arrays["part"][row], np.float32)
            if self.unseen_are_labels:
                unseen = (part[:, :2] <= 0).any(1) & (part[:, 2] > 0)
                dropped = bool(unseen.any())
                part[unseen] = 0
            points = fit_points(SPIN24, _shifted(part))
        for key, names in _MORE_POINTS:
            if key in arrays:
                points = merge_points(points, fit_points(names, _shifted(arrays[key][row])))
        if dropped:
            center, side = box_of_keypoints(points)
        else:
            center = np.asarray(arrays["center"][row], np.float32)
            side = float(arrays["scale"][row]) * _BOX_PX / _MARGIN
        name = _text(arrays["imgname"][row])
        return Example(
            picture=PictureFile(self.photos / name),
            center_px=center,
            side_px=side,
            source=self.name,
            key=name,
            keypoints_2d=points,
            keypoints_3d=self._points_3d(row),
            params=self._params(row),
        )

    def _params(self, row: int) -> dict[str, np.ndarray]:
        arrays = self.arrays
        if "xpose" in arrays:  # PyMAF-X: SMPL-X's root and body first; of hands the mean is unsaid
            pose = np.asarray(arrays["xpose"][row], np.float32).reshape(-1)
            if pose.size < 66 or not _flag(arrays, "valid_fit", row):
                return {}
            params = {"global_orient": pose[:3], "body_pose": pose[3:66]}
            if "xshape" in arrays:
                params["betas"] = arrays["xshape"][row]
            if "jaw_pose" in arrays and _flag(arrays, "valid_fit_fa", row):
                params["jaw_pose"] = arrays["jaw_pose"][row]
                if "expression" in arrays:
                    params["expression"] = arrays["expression"][row]
            return known_params(self.body, params)
        if "pose" not in arrays:
            return {}
        if not (_flag(arrays, "has_smpl", row) and _flag(arrays, "valid_fit", row)):
            return {}
        return params_of_smpl(arrays["pose"][row])

    def _points_3d(self, row: int) -> np.ndarray:
        """Points whose place is SMPL-X's too, from the middle of the hips."""
        if "S" not in self.arrays:
            return np.zeros((145, 4), np.float32)
        space = np.array(self.arrays["S"][row], np.float32)
        if space.shape != (24, 4):
            raise LabelError(f"its S is {space.shape} instead of (24, 4)")
        hips = [SPIN24.index("left_hip"), SPIN24.index("right_hip")]
        if not (space[hips, 3] > 0).all():
            return np.zeros((145, 4), np.float32)
        space[:, :3] -= space[hips, :3].mean(0)
        strict = [k for k, name in enumerate(SPIN24) if name not in LOOSE_POINTS]
        return fit_points([SPIN24[k] for k in strict], space[strict])


def _shifted(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, np.float32)
    return np.where(points[:, 2:] > 0, points + _HALF, 0)


def _flag(arrays: Mapping[str, np.ndarray], name: str, row: int) -> bool:
    return name not in arrays or bool(np.asarray(arrays[name][row]).reshape(-1)[0] > 0)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def open_spin(path: Path, images: Path | None, body: BodyData) -> LabelRows:
    """Open one npz.

    Args:
        path: Of the npz.
        images: Folder that ``imgname`` is relative to; looked for near the npz if None.
        body: That will be posed.

    Raises:
        LabelError: If it is no such file.
    """
    arrays = read_arrays(path, ("imgname", "center", "scale"), "SPIN's npz")
    count = len(arrays["imgname"])
    if "pose" in arrays and arrays["pose"].reshape(count, -1).shape[1] == 165:
        return open_fits(path, "spin", images, body)
    photos = find_photos(path, _text(arrays["imgname"][0]) if count else "", images)
    lsp = "lsp" in path.stem.lower() or (count > 0 and "lsp" in _text(arrays["imgname"][0]).lower())
    source = _Spin(path.stem, photos, arrays, body, unseen_are_labels=lsp)
    return checked_rows(path.stem, count, source.make)


def _is_spin(path: Path) -> bool:
    keys = npz_keys(path)
    return {"imgname", "center", "scale"} <= keys and "pose_cam" not in keys


LAYOUT = Layout("spin", "SPIN's npz (imgname, center, scale, part ...)", _is_spin, open_spin)
