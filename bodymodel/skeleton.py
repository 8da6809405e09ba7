"""The body's 22 joints without a mesh: rest joints, forward kinematics, mirroring. Torch-free.

For motion capture, where only directions of bones matter. The body model proper is ``bodymodel``.
"""

import numpy as np
from scipy.spatial.transform import Rotation

from bodymodel.spec import BODY_JOINTS, FAMILIES, mirror_name

__all__ = ["BODY_PARENTS", "REST_JOINTS", "forward_kinematics", "mirror_pose"]

_INDEX = {name: k for k, name in enumerate(BODY_JOINTS)}
BODY_PARENTS: tuple[int, ...] = FAMILIES["smplx"].parents[: len(BODY_JOINTS)]
"""Parents of spec.BODY_JOINTS."""

_MIDLINE_AND_LEFT = {
    "pelvis": (0, -0.35, 0.01), "left_hip": (0.081, -0.41, 0.03), "spine1": (0, -0.25, 0.01),
    "left_knee": (0.126, -0.81, 0.03), "spine2": (0, -0.16, 0.01),
    "left_ankle": (0.144, -1.22, 0.03), "spine3": (0, -0.04, 0),
    "left_foot": (0.155, -1.27, 0.17), "neck": (0, 0.15, 0.03),
    "left_collar": (0.02, 0.07, 0.04), "head": (0, 0.25, 0.07),
    "left_shoulder": (0.18, 0.085, 0.04), "left_elbow": (0.44, 0.085, 0.04),
    "left_wrist": (0.67, 0.085, 0.04),
}  # fmt: skip
_FLIP_X = np.array([-1.0, 1.0, 1.0])

REST_JOINTS: np.ndarray = np.array(
    [
        np.asarray(_MIDLINE_AND_LEFT[name.replace("right_", "left_")], float)
        * (_FLIP_X if name.startswith("right_") else 1)
        for name in BODY_JOINTS
    ]
)
"""(22, 3) metres: the open body's T-pose to the centimetre; thighs point 6 degrees outwards, shins
2, arms along x. Only the directions of its bones matter here."""

_MIRROR = np.array([_INDEX[mirror_name(name)] for name in BODY_JOINTS])


def mirror_pose(pose: np.ndarray) -> np.ndarray:
    """Return the pose of the mirrored person: sides exchanged, y and z of the axis-angle negated.

    Args:
        pose: (..., 21, 3) body pose, or (..., 22, 3) with the root first.
    """
    order = _MIRROR if pose.shape[-2] == len(_MIRROR) else _MIRROR[1:] - 1
    return pose[..., order, :] * np.array([1, -1, -1], pose.dtype)


def forward_kinematics(global_orient: np.ndarray, body_pose: np.ndarray) -> np.ndarray:
    """Return joint positions (F, 22, 3) of poses on REST_JOINTS, pelvis at the origin."""
    rotation: list[Rotation] = [Rotation.from_rotvec(global_orient)]
    position = [np.zeros((len(global_orient), 3))]
    for joint, parent in enumerate(BODY_PARENTS[1:], start=1):
        offset = REST_JOINTS[joint] - REST_JOINTS[parent]
        position.append(position[parent] + rotation[parent].apply(offset))
        rotation.append(rotation[parent] * Rotation.from_rotvec(body_pose[:, joint - 1]))
    return np.stack(position, axis=1)
