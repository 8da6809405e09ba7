"""BEDLAM's npz: rendered people, SMPL-X in the camera's frame.

``pose_cam`` (N, 165) in SMPL-X's order. Traps: hands are whole (``flat_hand_mean=True``), the
opposite of AGORA's; ``scale`` has a margin of 1.2; ``gtkps`` are projections of ``smplx``'s joints
whose third number is 1, in the picture or not; shape has 11 components and belongs to ``gender``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bodymodel.body import BodyData
from bodymodel.spec import SMPLX_KEYPOINTS
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
from regressor.examples import Example, PictureFile

__all__ = ["LAYOUT", "open_bedlam"]

_BOX_PX, _MARGIN = 200.0, 1.2


@dataclass(frozen=True, eq=False)
class _Bedlam:
    name: str
    photos: Path
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    genders: tuple[str, ...] = field(repr=False)
    body: BodyData = field(repr=False)

    def make(self, row: int) -> Example:
        from curation.formats.fits import pose_from_full

        arrays = self.arrays
        pose = np.asarray(arrays["pose_cam"][row], np.float32)
        if pose.shape != (165,):
            raise LabelError(f"its pose_cam is {pose.shape} instead of (165,)")
        params = {k: v[0] for k, v in pose_from_full(pose.reshape(1, 55, 3)).items()}
        if "shape" in arrays and self.genders[row] in ("", self.body.gender):
            params["betas"] = np.asarray(arrays["shape"][row], np.float32)[:10]
        for eye in ("leye_pose", "reye_pose"):  # nobody moved them
            params.pop(eye)
        matrix = np.asarray(arrays["cam_int"][row], np.float64)
        if matrix.shape != (3, 3):
            raise LabelError(f"its cam_int is {matrix.shape} instead of (3, 3)")
        return Example(
            picture=PictureFile(self.photos / self.names[row]),
            center_px=np.asarray(arrays["center"][row], np.float32),
            side_px=float(arrays["scale"][row]) * _BOX_PX / _MARGIN,
            source=self.name,
            key=self.names[row],
            keypoints_2d=self._points(row, matrix),
            params=known_params(self.body, params),
            focal_px=float((matrix[0, 0] + matrix[1, 1]) / 2),
            center_of_view_px=matrix[:2, 2].astype(np.float32),
        )

    def _points(self, row: int, matrix: np.ndarray) -> np.ndarray:
        """Joints in the picture, whose principal point is its middle."""
        if "gtkps" not in self.arrays:
            return np.zeros((145, 3), np.float32)
        given = np.asarray(self.arrays["gtkps"][row], np.float32)
        if given.ndim != 2 or given.shape[1] < 2 or len(given) not in (127, 144):
            return np.zeros((145, 3), np.float32)  # another set of points, whose order is unknown
        pixels = given[:, :2]
        inside = ((pixels > 0) & (pixels < 2 * matrix[:2, 2])).all(1)
        return fit_points(SMPLX_KEYPOINTS[: len(given)], np.column_stack([pixels, inside]))


def open_bedlam(path: Path, images: Path | None, body: BodyData) -> LabelRows:
    """Open one npz.

    Args:
        path: Of the npz.
        images: Folder that ``imgname`` is relative to (the scene's ``png``).
        body: That will be posed.

    Raises:
        LabelError: If it is no such file.
    """
    from curation.formats.fits import text_list

    needed = ("imgname", "center", "scale", "pose_cam", "cam_int")
    arrays = read_arrays(path, needed, "BEDLAM's npz")
    names = tuple(text_list(arrays["imgname"]))
    genders = tuple(text_list(arrays["gender"])) if "gender" in arrays else ()
    if len(genders) != len(names):
        genders = ("",) * len(names)
    photos = find_photos(path, names[0] if names else "", images)
    source = _Bedlam(path.stem, photos, arrays, names, genders, body)
    return checked_rows(path.stem, len(names), source.make)


LAYOUT = Layout(
    "bedlam", "BEDLAM's npz (imgname, pose_cam, cam_int)",
    lambda path: {"imgname", "pose_cam"} <= npz_keys(path), open_bedlam,
)  # fmt: skip
