"""Hands and heads of whole people as examples of their own, as if nothing else were in the photo.

People whose labels are complete (rendered ones, good fits) so become part-only data: their crops go
to the hand's and the head's network without a body network that would have to find them first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from bodymodel.spec import SMPLX_PARENTS, keypoint_part
from regressor.examples import Example, ExampleSource, Modality, box_of_keypoints
from regressor.kinematics import absolute_rotations

_INDEX = {name: k for k, name in enumerate(FIT_KEYPOINTS)}
_LEAST_POINTS = 8  # a crop that shows less of its part teaches nothing (ExPose's release)
_JOINT = {"left_hand": 20, "right_hand": 21, "face": 15}
_ROOT = {"left_hand": "left_wrist", "right_hand": "right_wrist", "face": "neck"}
_NAMES = {
    "left_hand": ("left_hand_pose", "betas"),
    "right_hand": ("right_hand_pose", "betas"),
    "face": ("jaw_pose", "expression", "betas"),
}


@dataclass(frozen=True, eq=False)
class CloseUps:
    """Parts of a source of whole people. Build it with ``close_ups``.

    Attributes:
        source: The people.
        modality: Hands or heads.
        rows: (index of the person, part).
    """

    source: ExampleSource
    modality: Modality
    rows: Sequence[tuple[int, str]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        """Return one part."""
        person, part = self.rows[index]
        return _part_of(self.source[person], part, self.modality)


def close_ups(source: ExampleSource, modality: Modality, least_px: float = 0.0) -> CloseUps:
    """Return the hands or the heads of people that are seen and labelled well enough.

    Args:
        source: Of whole people.
        modality: HAND or HEAD.
        least_px: The part's box must be so large.
    """
    parts = ("left_hand", "right_hand") if modality is Modality.HAND else ("face",)
    rows = []
    for person in range(len(source)):
        example = source[person]
        for part in parts:
            seen = _points(example, part)
            if (seen[:, 2] > 0).sum() >= _LEAST_POINTS and box_of_keypoints(seen)[1] >= least_px:
                rows.append((person, part))
    return CloseUps(source, modality, tuple(rows))


def _points(example: Example, part: str) -> np.ndarray:
    """(145, 3) of the part only."""
    points = example.keypoints_2d.copy()
    points[[k for k, n in enumerate(FIT_KEYPOINTS) if not _belongs(n, part)]] = 0
    return points


def _belongs(name: str, part: str) -> bool:
    return keypoint_part(name) == part or (part != "face" and name == _ROOT[part])


def _part_of(example: Example, part: str, modality: Modality) -> Example:
    points = _points(example, part)
    center, side = box_of_keypoints(points)
    points_3d = example.keypoints_3d.copy()
    points_3d[:, :3] -= points_3d[_INDEX[_ROOT[part]], :3]
    if not points_3d[_INDEX[_ROOT[part]], 3] > 0:
        points_3d[:, 3] = 0
    points_3d[[k for k, n in enumerate(FIT_KEYPOINTS) if not _belongs(n, part)]] = 0
    params = {name: example.params[name] for name in _NAMES[part] if name in example.params}
    if {"global_orient", "body_pose"} <= example.params.keys():
        params["global_orient"] = _absolute(example, _JOINT[part])
    return replace(
        example,
        center_px=center,
        side_px=side,
        keypoints_2d=points,
        keypoints_3d=points_3d,
        params=params,
        modality=modality,
        is_right=part != "left_hand",
    )


def _absolute(example: Example, joint: int) -> np.ndarray:
    """(3,) axis-angle: the rotation of a joint to the camera."""
    local = np.concatenate(
        [
            np.asarray(example.params["global_orient"], np.float32).reshape(1, 3),
            np.asarray(example.params["body_pose"], np.float32).reshape(21, 3),
        ]
    )
    rotations = rotvec_to_rotmat(torch.from_numpy(local))
    return rotmat_to_rotvec(absolute_rotations(rotations, SMPLX_PARENTS[:22])[joint]).numpy()
