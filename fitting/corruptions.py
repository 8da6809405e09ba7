"""Poses that are none, and poses that might be: what a prior is trained and judged on. Torch-free.

A recording of ten people holds few of the combinations that people make, so limbs of different
frames are put together and movements enlarged. What no one does is made in several ways; turning
limbs over in depth makes exactly what a photo cannot tell from the truth.
"""

import numpy as np
from scipy.spatial.transform import Rotation

from bodymodel.skeleton import BODY_PARENTS, REST_JOINTS
from bodymodel.spec import BODY_JOINTS

__all__ = [
    "LIMB_JOINTS",
    "bend_hinges_backwards",
    "enlarge",
    "recombine_limbs",
    "shake_joints",
    "shuffle_some_joints",
    "turn_limbs_over",
    "turn_some_joints",
]

_INDEX = {name: k for k, name in enumerate(BODY_JOINTS)}


def _named(*parts: str) -> np.ndarray:
    """Rows of body_pose whose joint has one of the parts in its name."""
    return np.array([k - 1 for n, k in _INDEX.items() if k and any(p in n for p in parts)])


LIMB_JOINTS: dict[str, np.ndarray] = {
    "legs": _named("hip", "knee", "ankle", "foot"),
    "left arm": _named("left_collar", "left_shoulder", "left_elbow", "left_wrist"),
    "right arm": _named("right_collar", "right_shoulder", "right_elbow", "right_wrist"),
    "head": _named("neck", "head"),
}
"""Rows of body_pose that move together; the legs balance each other."""

_CHAINS = tuple(
    tuple(_INDEX[f"{side}_{n}"] for n in names)
    for names in (("hip", "knee", "ankle"), ("shoulder", "elbow", "wrist"))
    for side in ("left", "right")
)
_HINGES = (
    ("left_knee", 0, -1),
    ("right_knee", 0, -1),
    ("left_elbow", 1, 1),
    ("right_elbow", 1, -1),
)


def recombine_limbs(pose: np.ndarray, rng: np.random.Generator, rate: float) -> np.ndarray:
    """Return (F, 21, 3) where each limb comes from another frame with the chance ``rate``."""
    out = pose.copy()
    for joints in LIMB_JOINTS.values():
        frames = np.flatnonzero(rng.random(len(pose)) < rate)
        other = rng.permutation(len(pose))[frames]
        out[np.ix_(frames, joints)] = pose[np.ix_(other, joints)]
    return out


def enlarge(pose: np.ndarray, rng: np.random.Generator, most: float) -> np.ndarray:
    """Return (F, 21, 3) with all angles of a frame up to ``most`` larger, or a third less."""
    return pose * (1 + most * rng.uniform(-0.3, 1, size=(len(pose), 1, 1)))


def shuffle_some_joints(pose: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (F, 21, 3) where a share of the joints, another in each frame, comes from others."""
    out, rate = pose.copy(), rng.uniform(0.05, 1, size=len(pose))
    for joint in range(pose.shape[1]):
        frames = np.flatnonzero(rng.random(len(pose)) < rate)
        out[frames, joint] = pose[rng.permutation(len(pose))[frames], joint]
    return out


def turn_some_joints(pose: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (F, 21, 3) with one to three joints turned by 20 to 120 degrees."""
    out, frame = pose.copy(), np.arange(len(pose))
    for chance in (1.0, 0.4, 0.4):
        joint = rng.integers(pose.shape[1], size=len(pose))
        axis = rng.normal(size=(len(pose), 3))
        axis /= np.linalg.norm(axis, axis=1, keepdims=True)
        angle = np.radians(rng.uniform(20, 120, len(pose))) * (rng.random(len(pose)) < chance)
        turn = Rotation.from_rotvec(axis * angle[:, None])
        out[frame, joint] = (Rotation.from_rotvec(out[frame, joint]) * turn).as_rotvec()
    return out


def shake_joints(pose: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (F, 21, 3) with some to all joints turned by noise of 5 to 40 degrees (sd)."""
    sd = np.radians(rng.uniform(5, 40, size=(len(pose), 1, 1)))
    which = rng.random((*pose.shape[:2], 1)) < rng.uniform(0.1, 1, size=(len(pose), 1, 1))
    noise = Rotation.from_rotvec((rng.normal(size=pose.shape) * sd * which).reshape(-1, 3))
    return (Rotation.from_rotvec(pose.reshape(-1, 3)) * noise).as_rotvec().reshape(pose.shape)


def bend_hinges_backwards(pose: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (F, 21, 3) with knees and elbows bent the wrong way by 10 to 60 degrees or more."""
    out = pose.copy()
    for name, axis, sign in _HINGES:
        joint = _INDEX[name] - 1
        frames = np.flatnonzero(rng.random(len(pose)) < 0.5)
        least = np.radians(rng.uniform(10, 60, len(frames)))
        out[frames, joint, axis] = sign * np.maximum(np.abs(out[frames, joint, axis]), least)
    return out


def _global_rotations(pose: np.ndarray) -> np.ndarray:
    """(F, 21, 3) -> (F, 22, 3, 3), the pelvis at rest."""
    local = Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix().reshape(len(pose), -1, 3, 3)
    world = [np.broadcast_to(np.eye(3), (len(pose), 3, 3))]
    for joint, parent in enumerate(BODY_PARENTS[1:], start=1):
        world.append(world[parent] @ local[:, joint - 1])
    return np.stack(world, axis=1)


def turn_limbs_over(pose: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (F, 21, 3) with bones of some limbs mirrored at the plane across a line of sight.

    The line is random, mostly level. Bones turn the shortest way, as in ``starts.flip_limb``; at
    least one bone of each frame is turned over.
    """
    out, count = pose.copy(), len(pose)
    world = _global_rotations(pose)
    sight = rng.normal(size=(count, 3)) * [1, 0.35, 1]
    sight /= np.linalg.norm(sight, axis=1, keepdims=True)
    chosen = rng.random((count, len(_CHAINS))) < 0.35
    chosen[np.arange(count), rng.integers(len(_CHAINS), size=count)] = True

    def turn(start: int, end: int, is_on: np.ndarray) -> np.ndarray:
        bone = world[:, start] @ (REST_JOINTS[end] - REST_JOINTS[start])
        bone /= np.linalg.norm(bone, axis=1, keepdims=True)
        mirrored = bone - 2 * (bone * sight).sum(1, keepdims=True) * sight
        axis = np.cross(bone, mirrored)
        sine = np.linalg.norm(axis, axis=1, keepdims=True)
        angle = np.arctan2(sine, (bone * mirrored).sum(1, keepdims=True)) * is_on[:, None]
        return Rotation.from_rotvec(axis / np.maximum(sine, 1e-9) * angle).as_matrix()

    for k, (top, middle, tip) in enumerate(_CHAINS):
        which = rng.integers(1, 4, size=count)  # upper bone, lower bone, both
        upper = turn(top, middle, which & 1 > 0) @ world[:, top]
        lower = turn(middle, tip, which & 2 > 0) @ world[:, middle]
        above = world[:, BODY_PARENTS[top]]
        for joint, rotation in (
            (top, np.swapaxes(above, 1, 2) @ upper),
            (middle, np.swapaxes(upper, 1, 2) @ lower),
        ):
            turned = Rotation.from_matrix(rotation).as_rotvec()
            out[chosen[:, k], joint - 1] = turned[chosen[:, k]]
    return out
