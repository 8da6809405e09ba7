"""Hand-made poses for rendered people: joint to axis-angle in degrees. Torch-free.

SMPL-X's axes: x to the person's left, y up, z ahead, from the T-pose. For the person's left side:
shoulder z < 0 lowers the arm, y < 0 brings it forward, x turns it about its own axis; elbow y < 0
bends it; hip x < 0 lifts the thigh ahead, z > 0 spreads it; knee x > 0 bends it. The right side has
y and z of the other sign.

Hand-made, and not taken from motion capture, because the pose prior is made from that: the truth
that fits are held to should not come from where their prior comes from.
"""

from typing import NamedTuple

import numpy as np

from bodymodel.spec import BODY_JOINTS, mirror_name

__all__ = ["POSES", "Pose", "build_pose", "mirror_pose"]

Rotation = tuple[float, float, float]


class Pose(NamedTuple):
    """One pose of the table.

    Attributes:
        name: What the person does.
        joints: Axis-angle in degrees by the name of the joint; those not named stay at rest.
        hand: How far the fingers are bent: 0 the mean hand, 1 nearly a fist, negative flat.
    """

    name: str
    joints: dict[str, Rotation]
    hand: float = 0.0


_ARMS_DOWN: dict[str, Rotation] = {
    "left_shoulder": (0, -8, -68), "right_shoulder": (0, 8, 68),
    "left_elbow": (0, -18, 0), "right_elbow": (0, 18, 0),
}  # fmt: skip


POSES: tuple[Pose, ...] = (
    Pose("stand", {**_ARMS_DOWN, "left_hip": (0, 0, 3), "right_hip": (0, 0, -3)}),
    Pose(
        "stand on one leg more",
        {
            **_ARMS_DOWN, "pelvis": (0, 0, 4), "spine1": (0, 0, -4), "left_hip": (-14, 8, 10),
            "left_knee": (24, 0, 0), "right_hip": (0, 0, -6), "left_ankle": (-8, 0, 0),
            "neck": (6, 12, 0),
        },
    ),
    Pose(
        "wave",
        {
            **_ARMS_DOWN, "right_collar": (0, 0, -5), "right_shoulder": (-82, 10, 8),
            "right_elbow": (0, 72, 0), "head": (0, -10, 6),
        },
        -0.3,
    ),
    Pose(
        "both hands up",
        {
            "left_collar": (0, 0, 12), "right_collar": (0, 0, -12), "left_shoulder": (-69, -30, 36),
            "right_shoulder": (-60, 26, -32), "left_elbow": (0, -29, 0), "right_elbow": (0, 36, 0),
            "spine2": (-6, 0, 0), "head": (-12, 0, 0), "left_hip": (0, 0, 8),
            "right_hip": (0, 0, -8),
        },
        -0.4,
    ),
    Pose(
        "hands on the hips",
        {
            "left_shoulder": (75, -4, -47), "right_shoulder": (75, 4, 47),
            "left_elbow": (0, -103, 0), "right_elbow": (0, 103, 0),
            "left_hip": (0, 0, 9), "right_hip": (0, 0, -9), "neck": (0, 15, 0),
        },
        0.3,
    ),
    Pose(
        "walk",
        {
            "left_hip": (-26, 0, 1), "left_knee": (14, 0, 0), "right_hip": (18, 0, -1),
            "right_knee": (22, 0, 0), "right_ankle": (14, 0, 0), "spine1": (4, 5, 0),
            "spine3": (0, -8, 0), "left_shoulder": (0, 22, -66), "right_shoulder": (0, 30, 64),
            "left_elbow": (0, -22, 0), "right_elbow": (0, 30, 0),
        },
        0.3,
    ),
    Pose(
        "run",
        {
            "left_hip": (-58, 0, 2), "left_knee": (82, 0, 0), "right_hip": (24, 0, -2),
            "right_knee": (28, 0, 0), "right_ankle": (22, 0, 0), "pelvis": (8, 0, 0),
            "spine1": (8, 8, 0), "spine3": (0, -14, 0), "left_shoulder": (0, 40, -62),
            "right_shoulder": (0, 38, 60), "left_elbow": (0, -80, 0), "right_elbow": (0, 84, 0),
            "head": (-10, 0, 0),
        },
        0.6,
    ),
    Pose(
        "reach ahead",
        {
            "left_shoulder": (0, -72, -12), "right_shoulder": (0, 64, 14),
            "left_elbow": (0, -22, 0), "right_elbow": (0, 34, 0), "spine1": (10, 0, 0),
            "right_hip": (12, 0, -3), "left_hip": (-16, 0, 3), "left_knee": (12, 0, 0),
        },
        -0.2,
    ),
    Pose(
        "reach up",
        {
            **_ARMS_DOWN, "left_collar": (0, 0, 18), "left_shoulder": (0, -16, 58),
            "left_elbow": (0, -14, 0), "spine2": (0, 0, -7), "spine3": (-6, 0, -5),
            "head": (-18, 10, 0), "right_hip": (4, 0, -3), "left_hip": (0, 0, 2),
            "left_ankle": (12, 0, 0), "right_ankle": (12, 0, 0),
        },
    ),
    Pose(
        "point to the side",
        {
            **_ARMS_DOWN, "left_shoulder": (0, -14, -6), "left_elbow": (0, -6, 0),
            "neck": (0, 26, 0), "head": (0, 18, 0), "right_hip": (0, 0, -5),
        },
        0.4,
    ),
    Pose(
        "sit",
        {
            "left_hip": (-82, 0, 9), "right_hip": (-84, 0, -9), "left_knee": (84, 0, 0),
            "right_knee": (80, 0, 0), "spine1": (6, 0, 0), "spine2": (4, 0, 0),
            "left_shoulder": (0, -29, -72), "right_shoulder": (0, 28, 70),
            "left_elbow": (0, -62, 0), "right_elbow": (0, 66, 0),
        },
        0.1,
    ),
    Pose(
        "sit and talk",
        {
            "left_hip": (-86, 0, 14), "right_hip": (-80, 0, -6), "left_knee": (76, 0, 0),
            "right_knee": (92, 0, 0), "spine1": (10, 6, 0), "spine3": (4, 6, 0),
            "left_shoulder": (0, -22, -72), "right_shoulder": (0, 42, 55),
            "left_elbow": (0, -72, 0), "right_elbow": (0, 70, 0), "neck": (0, -10, 0),
        },
        -0.2,
    ),
    Pose(
        "squat",
        {
            "left_hip": (-96, 0, 20), "right_hip": (-98, 0, -20), "left_knee": (104, 0, 0),
            "right_knee": (104, 0, 0), "left_ankle": (-24, 0, 0), "right_ankle": (-24, 0, 0),
            "pelvis": (26, 0, 0), "spine1": (10, 0, 0), "head": (-16, 0, 0),
            "left_shoulder": (0, -66, -16), "right_shoulder": (0, 66, 16),
            "left_elbow": (0, -24, 0), "right_elbow": (0, 24, 0),
        },
    ),
    Pose(
        "lunge",
        {
            "left_hip": (-66, 0, 5), "left_knee": (68, 0, 0), "right_hip": (26, 0, -3),
            "right_knee": (34, 0, 0), "right_ankle": (-4, 0, 0), "pelvis": (4, 0, 0),
            "left_shoulder": (0, 6, -14), "right_shoulder": (0, -6, 12),
            "left_elbow": (0, -14, 0), "right_elbow": (0, 14, 0),
        },
        -0.2,
    ),
    Pose(
        "kick",
        {
            "right_hip": (-70, 0, -8), "right_knee": (18, 0, 0), "right_ankle": (20, 0, 0),
            "left_hip": (6, 0, 4), "left_knee": (10, 0, 0), "spine1": (-8, 0, 0),
            "left_shoulder": (0, -40, -24), "right_shoulder": (0, -20, 34),
            "left_elbow": (0, -28, 0), "right_elbow": (0, 24, 0),
        },
        0.3,
    ),
    Pose(
        "lean and look",
        {
            "pelvis": (16, 0, 0), "spine1": (16, 0, 0), "spine2": (10, 6, 0), "head": (-18, 14, 0),
            "left_hip": (-26, 0, 4), "right_hip": (-26, 0, -4), "left_knee": (16, 0, 0),
            "right_knee": (14, 0, 0), "left_shoulder": (0, -26, -60),
            "right_shoulder": (0, 26, 60), "left_elbow": (0, -24, 0), "right_elbow": (0, 28, 0),
        },
        0.2,
    ),
    Pose(
        "hand at the chin",
        {
            **_ARMS_DOWN, "right_shoulder": (-20, 66, 84), "right_elbow": (0, 106, 0),
            "left_shoulder": (0, -30, -62), "left_elbow": (0, -82, 0), "neck": (8, 0, 0),
            "left_hip": (0, 0, 3), "right_hip": (-4, 0, -4), "right_knee": (6, 0, 0),
        },
        0.5,
    ),
    Pose(
        "stride with open arms",
        {
            "left_shoulder": (0, -18, -24), "right_shoulder": (0, 18, 20),
            "left_elbow": (0, -32, 0), "right_elbow": (0, 26, 0), "left_hip": (-18, 0, 12),
            "right_hip": (8, 0, -14), "right_knee": (8, 0, 0), "left_knee": (10, 0, 0),
            "spine2": (0, -8, 0), "head": (0, 10, 0),
        },
        -0.3,
    ),
)  # fmt: skip


def mirror_pose(joints: dict[str, Rotation]) -> dict[str, Rotation]:
    """Return the pose in the mirror: sides swapped, rotations about y and z reversed."""
    return {mirror_name(name): (x, -y, -z) for name, (x, y, z) in joints.items()}


def build_pose(
    pose: Pose, rng: np.random.Generator, *, mirrored: bool, spread_deg: float = 5.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return a pose of the table with small random deviations.

    Args:
        pose: Of ``POSES``.
        rng: Source of the deviations.
        mirrored: Swap left and right.
        spread_deg: Standard deviation of each angle; a third of it where a joint hardly moves.

    Returns:
        (3,) rotation of the pelvis within the pose and (21, 3) ``body_pose``, radians.
    """
    joints = mirror_pose(pose.joints) if mirrored else pose.joints
    angles = np.array([joints.get(name, (0, 0, 0)) for name in BODY_JOINTS], np.float64)
    hinges = ("knee", "ankle", "foot", "collar", "spine", "pelvis")
    spread = np.array(
        [[spread_deg / 3 if any(h in name for h in hinges) else spread_deg] for name in BODY_JOINTS]
    )
    angles += spread * rng.standard_normal(angles.shape)
    for side, sign in (("left", -1), ("right", 1)):  # hinges: one axis, one direction
        knee, elbow = (BODY_JOINTS.index(f"{side}_{joint}") for joint in ("knee", "elbow"))
        angles[knee] = (max(angles[knee, 0], 2.0), 0, 0)
        angles[elbow] = (angles[elbow, 0], sign * max(sign * angles[elbow, 1], 2.0), 0)
    radians = np.deg2rad(angles)
    return radians[0], radians[1:]
