"""FreiHAND: right hands close up, MANO's parameters and 21 joints. Hands only.

``training/rgb/%08d.jpg`` with ``training_{K,mano,xyz}.json``. Traps: each label belongs to four
photos, the same hand before four backgrounds (photo i has label i modulo the number of labels), so
all four have one key and stay on one side of a split; the 45 finger numbers are offsets from MANO's
mean hand, which is added; shape is MANO's own and no label here. The first three are the wrist's
rotation to the camera.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bodymodel.body import BodyData
from bodymodel.keypoints import CONVENTIONS
from regressor.datasets.labels import (
    LabelError,
    LabelRows,
    Layout,
    checked_rows,
    fit_points,
    known_params,
    read_json,
)
from regressor.examples import Example, Modality, PictureFile, box_of_keypoints

__all__ = ["HAND21", "LAYOUT", "open_freihand"]

HAND21 = CONVENTIONS["openpose_hand21_right"]
"""Wrist, then thumb, index, middle, ring, pinky from root to tip."""

_VERSIONS = 4


@dataclass(frozen=True, eq=False)
class _FreiHand:
    camera: Sequence[Any] = field(repr=False)
    mano: Sequence[Any] = field(repr=False)
    xyz: Sequence[Any] = field(repr=False)
    photos: Path
    body: BodyData = field(repr=False)

    def make(self, row: int) -> Example:
        label = row % len(self.xyz)
        joints = np.asarray(self.xyz[label], np.float64)
        matrix = np.asarray(self.camera[label], np.float64)
        if joints.shape != (21, 3) or matrix.shape != (3, 3):
            raise LabelError(f"its joints and K are {joints.shape} and {matrix.shape}")
        if not (joints[:, 2] > 0).all():
            raise LabelError("a joint is behind the camera")
        pixels = joints @ matrix.T
        ones = np.ones((21, 1))
        points = fit_points(HAND21, np.column_stack([pixels[:, :2] / pixels[:, 2:], ones]))
        mano = np.asarray(self.mano[label], np.float32).reshape(-1)
        if mano.size < 48:
            raise LabelError(f"its MANO parameters are {mano.size} numbers instead of 61")
        params = {"global_orient": mano[:3], "right_hand_pose": mano[3:48]}
        center, side = box_of_keypoints(points)
        return Example(
            picture=PictureFile(self.photos / f"{row:08d}.jpg"),
            center_px=center,
            side_px=side,
            source="freihand",
            key=f"freihand/{label:08d}",
            keypoints_2d=points,
            keypoints_3d=fit_points(HAND21, np.column_stack([joints - joints[0], ones])),
            params=known_params(self.body, params, hands="add"),
            focal_px=float((matrix[0, 0] + matrix[1, 1]) / 2),
            center_of_view_px=matrix[:2, 2].astype(np.float32),
            modality=Modality.HAND,
            is_right=True,
        )


def _compact(rows: list) -> Sequence[Any]:
    """Return an array, a tenth of the lists; the lists if a row is broken."""
    try:
        return np.asarray(rows, np.float64)
    except (TypeError, ValueError):
        return rows


def open_freihand(path: Path, images: Path | None, body: BodyData) -> LabelRows:
    """Open the training part.

    Args:
        path: The folder with ``training_xyz.json`` and ``training/rgb``.
        images: Folder of the photos if it is not ``training/rgb``.
        body: Whose mean hand is MANO's; on an open body fingers are no label.

    Raises:
        LabelError: If the files are missing or of different lengths.
    """
    lists = {name: read_json(path / f"training_{name}.json") for name in ("K", "mano", "xyz")}
    counts = {name: len(x) if isinstance(x, list) else -1 for name, x in lists.items()}
    if len(set(counts.values())) != 1 or -1 in counts.values():
        raise LabelError(f"{path}: lists of one length were expected, got {counts}")
    photos = images or path / "training" / "rgb"
    count = counts["K"]
    versions = sum((photos / f"{count * k:08d}.jpg").is_file() for k in range(_VERSIONS))
    if not versions:
        raise LabelError(f"{photos} has no {0:08d}.jpg; say where the photos are: {path}@FOLDER")
    source = _FreiHand(*(_compact(lists[name]) for name in ("K", "mano", "xyz")), photos, body)
    return checked_rows("freihand", count * versions, source.make, Modality.HAND)


LAYOUT = Layout(
    "freihand", "FreiHAND (training_K.json, training_mano.json, training_xyz.json): hands only",
    lambda path: (path / "training_mano.json").is_file(), open_freihand,
)  # fmt: skip
