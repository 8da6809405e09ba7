"""What a source can tell of a target's parameters, and how the rest is held. Torch-free."""

from dataclasses import dataclass

import numpy as np

from bodymodel.body import BodyData
from bodymodel.spec import FACE_JOINTS, LEFT_HAND_JOINTS, RIGHT_HAND_JOINTS, Family

__all__ = ["Knowable", "hand_of", "joint_map", "knowable"]

_FINGERS = frozenset((*LEFT_HAND_JOINTS, *RIGHT_HAND_JOINTS))
_PALMS = ("left_hand", "right_hand")  # SMPL's stand-in for all fingers
_HAS_FINGERS: tuple[Family, ...] = ("smplx", "smplh")
_PART_BETAS_WEIGHT = 0.3  # a hand or a head says little of a body's shape, and must not invent it
_NECK_WEIGHT = 1.0  # mm^2 / rad^2: FLAME has one joint where SMPL-X has neck and head
_FINGERLESS_MASS = 0.003  # of a bent finger where the target's fingers are all one piece


@dataclass(frozen=True, eq=False)
class Knowable:
    """How each parameter of the target is treated.

    Attributes:
        joints: (J,) bool, solved for; the others stay at zero.
        joint_hold: (J,) mm^2 per rad^2 of mean square distance, 0 for free.
        shape: (S,) bool, solved for: betas, then expression.
        shape_hold: (S,) mm^2 per squared standard deviation.
        masses: (V,) how much each of the target's vertices counts, 0 for invalid ones.
    """

    joints: np.ndarray
    joint_hold: np.ndarray
    shape: np.ndarray
    shape_hold: np.ndarray
    masses: np.ndarray


def knowable(
    source: BodyData,
    target: BodyData,
    valid: np.ndarray,
    *,
    betas_weight: float,
    expression_weight: float,
    fingers_weight: float,
) -> Knowable:
    """Decide what is solved for.

    Jaw, eyes and expression are solved for only from a source that has them, else they stay at
    zero: a closed mouth, a neutral face. Fingers from a source without (SMPL, whose hand turns in
    one piece) are tied to the flat hand. Fingers to a target without count for little, and its
    hand is tied a little.

    Args:
        source: Where meshes come from.
        target: Whose parameters are wanted.
        valid: (V,) bool, the target's vertices that the source has.
        betas_weight: mm^2 per squared standard deviation.
        expression_weight: Likewise.
        fingers_weight: mm^2 per rad^2, of fingers that the source does not have.
    """
    if source.family in ("mano", "flame"):
        return _of_a_part(source, target, valid, betas_weight, expression_weight)
    has_fingers = source.family in _HAS_FINGERS
    has_face = source.family == "smplx"
    joints = np.ones(len(target.joints), bool)
    hold = np.zeros(len(target.joints))
    for k, name in enumerate(target.joints):
        if name in _FINGERS:
            hold[k] = 0 if has_fingers else fingers_weight
        elif name in FACE_JOINTS:
            joints[k] = has_face
        elif name in _PALMS and source.family != "smpl":
            hold[k] = 1.0
    # A joint that moves nothing valid cannot be told either.
    reach = np.array([(target.weights[valid, k] > 0.01).sum() for k in range(len(joints))])
    below = reach.copy()
    for k in range(len(joints) - 1, 0, -1):
        below[target.parents[k]] += below[k]
    joints &= below > 0

    face = np.full(target.num_expression, has_face)
    shape = np.concatenate([np.ones(target.num_betas, bool), face])
    shape_hold = np.concatenate(
        [np.full(target.num_betas, betas_weight), np.full(target.num_expression, expression_weight)]
    )
    masses = valid.astype(np.float64)
    if has_fingers and target.family == "smpl":
        palms = [target.joints.index(name) for name in _PALMS]
        in_palm = target.weights[:, palms].max(1) > 0.5
        masses[in_palm] *= _FINGERLESS_MASS
    return Knowable(joints, hold, shape, shape_hold, masses)


def hand_of(target: BodyData, valid: np.ndarray) -> str:
    """Return which of the target's hands valid vertices are of, left or right."""
    count = {
        side: target.weights[valid][:, [target.joints.index(name) for name in names]].sum()
        for side, names in (("left", LEFT_HAND_JOINTS), ("right", RIGHT_HAND_JOINTS))
    }
    return max(count, key=count.get)


def joint_map(source: BodyData, target: BodyData, hand: str = "right") -> dict[int, int]:
    """Return the target's joint for each joint of the source that both have, by name.

    The roots of MANO and FLAME, a wrist and the base of a neck, are left out: they say where the
    part is in the world. FLAME's neck carries jaw and eyes, as SMPL-X's head does.

    Args:
        source: The body that there are parameters of.
        target: The body that parameters are wanted of.
        hand: Which hand MANO's is.
    """
    names = list(source.joints)
    if source.family == "mano":
        names = ["", *(f"{hand}_{name}" for name in names[1:])]
    elif source.family == "flame":
        names = ["", "head", *names[2:]]
    return {k: target.joints.index(name) for k, name in enumerate(names) if name in target.joints}


def _of_a_part(
    source: BodyData,
    target: BodyData,
    valid: np.ndarray,
    betas_weight: float,
    expression_weight: float,
) -> Knowable:
    """A hand or a head alone: its own joints, and the root, which carries all to its place."""
    joints = np.zeros(len(target.joints), bool)
    hold = np.zeros(len(target.joints))
    joints[0] = True
    joints[list(joint_map(source, target, hand_of(target, valid)).values())] = True
    if source.family == "flame":
        neck = target.joints.index("neck")
        joints[neck], hold[neck] = True, _NECK_WEIGHT
    moves = (target.weights[valid] > 0.01).any(0)
    joints[1:] &= moves[1:]
    face = np.full(target.num_expression, source.family == "flame")
    shape = np.concatenate([np.ones(target.num_betas, bool), face])
    shape_hold = np.concatenate(
        [
            np.full(target.num_betas, max(betas_weight, _PART_BETAS_WEIGHT)),
            np.full(target.num_expression, expression_weight),
        ]
    )
    return Knowable(joints, hold, shape, shape_hold, valid.astype(np.float64))
