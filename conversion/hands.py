"""How people write hand poses: whole or by components, with the mean pose in them or beside them.

SMPL-X, SMPL-H and MANO rotate fingers from a flat hand. What is stored is the whole rotation, or
its difference from the file's mean hand (``flat_hand_mean=False``, the usual default of MANO), as
45 numbers or as the first few principal components. Torch-free.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from bodymodel.body import BodyData
from bodymodel.spec import LEFT_HAND_JOINTS, RIGHT_HAND_JOINTS

__all__ = ["HandMean", "Side", "complete_hands", "fingers_of", "whole_hand"]

Side = Literal["left", "right"]
HandMean = Literal["auto", "included", "add"]
_WHOLE = 45


def whole_hand(
    pose: np.ndarray, body: BodyData, side: Side, mean: HandMean, is_flat: bool | None = None
) -> np.ndarray:
    """Return whole axis-angles of a hand.

    Args:
        pose: (F, 45) axis-angle, or (F, K) components.
        body: Whose components and mean they are.
        side: Which hand.
        mean: Whether the body's mean pose is in the numbers already; auto decides: the file's word
            where it has one; components come without it; 45 numbers of a body come with it; for 45
            numbers of MANO both are common, and nothing is guessed.
        is_flat: The file's word (``flat_hand_mean``), None where it has none.

    Returns:
        (F, 45).

    Raises:
        ValueError: If it cannot be told, or the body has no components.
    """
    row, width = int(side == "right"), pose.shape[1]
    if width > _WHOLE:
        raise ValueError(f"a hand pose has up to 45 numbers, got {width}")
    if mean == "auto":
        if is_flat is not None:
            mean = "included" if is_flat else "add"
        elif width < _WHOLE:
            mean = "add"
        elif body.family == "mano":
            raise ValueError(
                "MANO's 45 numbers are written with the mean pose in them (flat_hand_mean=True, "
                "manopth) or without (smplx, InterHand2.6M, FreiHAND): say --hand-mean included or "
                "--hand-mean add"
            )
        else:
            mean = "included"
    if width < _WHOLE:
        components = body.hand_components[row, :width]
        if not components.any():
            raise ValueError(
                f"{body.name} has no components of the {side} hand, so {width} numbers of it say "
                "nothing; give the model file that they belong to (--from-models)"
            )
        pose = pose @ components
    return pose + body.hand_means[row] if mean == "add" else pose


def fingers_of(body: BodyData, side: Side) -> list[int]:
    """Return the body's joints of a hand's fingers, in MANO's order; empty if it has none."""
    if body.family == "mano":
        return list(range(1, 16))
    names = LEFT_HAND_JOINTS if side == "left" else RIGHT_HAND_JOINTS
    return [body.joints.index(name) for name in names if name in body.joints]


def complete_hands(
    full_pose: np.ndarray,
    hands: Mapping[Side, np.ndarray],
    body: BodyData,
    mean: HandMean,
    is_flat: bool | None,
) -> np.ndarray:
    """Return full poses with the fingers in them.

    Args:
        full_pose: (F, J, 3) of the body, zero at fingers that ``hands`` has.
        hands: (F, K) by side, as the file has them.
        body: The body.
        mean: As in :func:`whole_hand`.
        is_flat: Likewise.
    """
    sides: dict[Side, np.ndarray] = dict(hands)
    if mean == "add" or (mean == "auto" and is_flat is False):
        for side in ("left", "right"):
            joints = fingers_of(body, side) if body.family != "mano" else []
            if joints and side not in sides:  # whole in the poses, but without the mean
                sides[side] = full_pose[:, joints].reshape(len(full_pose), _WHOLE)
    if not sides:
        return full_pose
    full_pose = full_pose.copy()
    for side, pose in sides.items():
        joints = fingers_of(body, side)
        if joints:
            whole = whole_hand(pose, body, side, mean, is_flat)
            full_pose[:, joints] = whole.reshape(len(whole), -1, 3)
    return full_pose
