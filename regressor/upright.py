"""Which way is up on a body, a hand and a face, and turning crops so that it points up.

Networks that learned from people who stand, hands whose fingers and faces whose brows are above
know these better when they are turned so. MediaPipe turns its crops likewise, from its detectors.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bodymodel.keypoints import FIT_KEYPOINTS

UPWARDS = {
    "body": ("pelvis", "neck"),
    "left_hand": ("left_wrist", "left_middle1"),
    "right_hand": ("right_wrist", "right_middle1"),
    "head": ("mouth_bottom", "nose1"),
}
"""The points from which and to which up is."""
_HIPS_TO_SHOULDERS = ("left_hip", "right_hip"), ("left_shoulder", "right_shoulder")
_SEEN = 0.1


def upright_turn(upwards: Tensor, mirrored: bool = False) -> Tensor:
    """Return the turn of a crop (see ``AffineCrop.from_boxes``) that lets a direction point up.

    Args:
        upwards: (B, 2) in the picture, y down.
        mirrored: The picture is mirrored before it is turned.

    Returns:
        (B,) radians.
    """
    x = -upwards[..., 0] if mirrored else upwards[..., 0]
    return -0.5 * torch.pi - torch.atan2(upwards[..., 1], x)


def about_view(angle: Tensor) -> Tensor:
    """(B,) radians -> (B, 3, 3) turns of the camera's frame with a picture that turns so."""
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack(
        [
            torch.stack([cos, -sin, zero], -1),
            torch.stack([sin, cos, zero], -1),
            torch.stack([zero, zero, torch.ones_like(angle)], -1),
        ],
        -2,
    )


def labelled_upwards(keypoints_2d: np.ndarray, part: str) -> np.ndarray | None:
    """Return which way is up by labels, (2,) in pixels, y down, or None where they do not say.

    Args:
        keypoints_2d: (145, 3) ``fit`` convention.
        part: A key of ``UPWARDS``. The body's up is from hips to shoulders where pelvis or neck
            are not labelled.
    """
    low, high = UPWARDS[part]
    pairs = [((low,), (high,))] + ([_HIPS_TO_SHOULDERS] if part == "body" else [])
    for lows, highs in pairs:
        start, end = _middle(keypoints_2d, lows), _middle(keypoints_2d, highs)
        if start is not None and end is not None and np.linalg.norm(end - start) > 1:
            return end - start
    return None


def _middle(keypoints_2d: np.ndarray, names: Sequence[str]) -> np.ndarray | None:
    points = keypoints_2d[[FIT_KEYPOINTS.index(name) for name in names]]
    return points[:, :2].mean(0) if (points[:, 2] > _SEEN).all() else None
