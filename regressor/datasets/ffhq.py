"""FLAME fits to FFHQ's faces, ``ffhq_parameters_with_keyps.npz`` or mmhuman3d's. Heads only.

``global_pose`` is the head's rotation to the camera (not the body's root). Shape is FLAME's own;
its first ten expression components are SMPL-X's. Photos are 1024 pixels; the fits' focal length is
4754.979 at 256. Points are FLAME's 73: five joints, 51 landmarks, 17 of the jaw line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bodymodel.body import BodyData
from bodymodel.spec import FACE_CONTOUR, FACE_LANDMARKS, FLAME_JOINTS
from regressor.datasets.labels import (
    LabelError,
    LabelRows,
    Layout,
    checked_rows,
    find_photos,
    fit_points,
    known_params,
    npz_keys,
    read_arrays,
)
from regressor.examples import Example, Modality, PictureFile, box_of_keypoints

__all__ = ["FLAME73", "LAYOUT", "open_ffhq"]

_SHARED = ("jaw", "left_eye_smplhf", "right_eye_smplhf")  # FLAME's root and neck lie elsewhere
FLAME73: tuple[str, ...] = (
    *(name if name in _SHARED else f"{name}_flame" for name in FLAME_JOINTS),
    *FACE_LANDMARKS, *FACE_CONTOUR,
)  # fmt: skip
"""FLAME's joints, then iBUG's points 17..67, then 0..16."""

_SIDE_PX = 1024.0
_FOCAL_PX = 4754.97941935 * _SIDE_PX / 256
_NAMES = {
    "points": ("keypoints2D", "keypoints2d"),
    "names": ("img_fnames", "image_path"),
}


@dataclass(frozen=True, eq=False)
class _Ffhq:
    photos: Path
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    points: np.ndarray = field(repr=False)
    body: BodyData = field(repr=False)

    def make(self, row: int) -> Example:
        given = np.asarray(self.points[row], np.float32)
        if given.shape not in ((73, 2), (73, 3)):
            raise LabelError(f"its points are {given.shape} instead of (73, 2)")
        points = fit_points(FLAME73, np.column_stack([given[:, :2], np.ones(73)]))
        center, side = box_of_keypoints(points)
        params = {"global_orient": self.arrays["global_pose"][row],
                  "jaw_pose": self.arrays["jaw_pose"][row],
                  "expression": self.arrays["expression"][row]}  # fmt: skip
        return Example(
            picture=PictureFile(self.photos / self.names[row]),
            center_px=center,
            side_px=side,
            source="ffhq",
            key=self.names[row],
            keypoints_2d=points,
            params=known_params(self.body, params),
            focal_px=_FOCAL_PX,
            center_of_view_px=np.full(2, _SIDE_PX / 2, np.float32),
            modality=Modality.HEAD,
        )


def open_ffhq(path: Path, images: Path | None, body: BodyData) -> LabelRows:
    """Open one npz.

    Args:
        path: Of the npz.
        images: Folder of the photos; looked for near the npz if None.
        body: That will be posed.

    Raises:
        LabelError: If it is no such file.
    """
    from curation.formats.fits import text_list

    arrays = read_arrays(path, ("global_pose", "jaw_pose", "expression"), "fits of FFHQ")
    found = {what: next((arrays[n] for n in names if n in arrays), None)
             for what, names in _NAMES.items()}  # fmt: skip
    for what, value in found.items():
        if value is None:
            raise LabelError(
                f"{path} has none of {', '.join(_NAMES[what])}; take the file with keypoints "
                "(ffhq_parameters_with_keyps.npz)"
            )
    names = tuple(text_list(found["names"]))
    photos = find_photos(path, names[0] if names else "", images)
    points = np.asarray(found["points"])
    source = _Ffhq(photos, arrays, names, points, body)
    return checked_rows("ffhq", len(names), source.make, Modality.HEAD)


LAYOUT = Layout(
    "ffhq", "FLAME fits to FFHQ (global_pose, jaw_pose, keypoints2D): heads only",
    lambda path: {"global_pose", "jaw_pose"} <= npz_keys(path), open_ffhq,
)  # fmt: skip
