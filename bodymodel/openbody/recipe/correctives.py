"""Pose correctives fitted to a better deformer than linear blending.

Teacher: a mix of dual-quaternion skinning (keeps the volume of a bent limb, bulges) and linear
blending (loses it), with the twist of the wrist spread along the forearm as radius and ulna do.
What linear blending lacks against it is pulled back to the rest pose and fitted, by ridge
regression over many poses with one and with several joints turned, on the entries of R - I of the
joints that move the vertex: exactly the correctives of the SMPL family.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from bodymodel.openbody.recipe.skeleton import joint_mirror
from bodymodel.spec import SMPLX_JOINTS, SMPLX_PARENTS, mirror_name

_SPHERICAL = 0.65  # share of dual-quaternion skinning
_RIDGE = 2e-3
_ALONE = 3.0  # weight of a pose with one joint turned
_LEAST = 3e-5  # metres; smaller entries are dropped

# Ranges of motion (degrees) about x, y, z in the T-pose, left side; the right by mirror.
_RANGES: dict[str, tuple[tuple[float, float], ...]] = {
    "left_hip": ((-120, 30), (-45, 45), (-30, 50)),
    "left_knee": ((0, 140), (-15, 15), (-6, 6)),
    "left_ankle": ((-25, 50), (-20, 20), (-20, 20)),
    "left_foot": ((-40, 20), (-5, 5), (-5, 5)),
    "spine1": ((-15, 35), (-20, 20), (-20, 20)),
    "spine2": ((-15, 30), (-20, 20), (-20, 20)),
    "spine3": ((-15, 25), (-20, 20), (-15, 15)),
    "neck": ((-30, 35), (-40, 40), (-25, 25)),
    "head": ((-25, 25), (-35, 35), (-20, 20)),
    "left_collar": ((-10, 10), (-20, 15), (-10, 30)),
    "left_shoulder": ((-80, 60), (-110, 30), (-85, 75)),
    "left_elbow": ((-25, 25), (-145, 5), (-10, 10)),
    "left_wrist": ((-90, 70), (-30, 30), (-75, 75)),
    "jaw": ((0, 25), (-6, 6), (-3, 3)),
}
_FINGER = ((-15, 15), (-20, 20), (-95, 15))
_THUMB = ((-40, 40), (-50, 30), (-30, 30))


@dataclass(frozen=True)
class CorrectiveReport:
    """What the fit achieves on held-out poses, mm.

    Attributes:
        single: joint -> (before, after): rms over the joint's region, one joint turned.
        several: (before, after): rms over all corrected vertices, every joint turned.
        nonzero: Share of non-zero entries.
    """

    single: dict[str, tuple[float, float]]
    several: tuple[float, float]
    nonzero: float


def random_poses(rng: np.random.Generator, count: int, several: bool) -> np.ndarray:
    """Return (count, 55, 3) axis-angles within the ranges of motion.

    Args:
        rng: Random numbers.
        count: Poses.
        several: True to turn every joint, False to turn one joint a pose, in turn.
    """
    poses = np.zeros((count, len(SMPLX_JOINTS), 3))
    movable = [k for k, name in enumerate(SMPLX_JOINTS) if k and _range(name) is not None]
    for p in range(count):
        turned = movable if several else [movable[p % len(movable)]]
        for k in turned:
            low, high = np.deg2rad(np.array(_range(SMPLX_JOINTS[k])).T)
            # Bell-shaped about rest when all joints turn, flat when one does.
            draw = rng.random(3) if not several else rng.beta(2, 2, 3)
            angles = low + draw * (high - low)
            if several and rng.random() < 0.25:
                angles *= 0.2
            poses[p, k] = Rotation.from_euler("ZYX", angles[::-1]).as_rotvec()
    return poses


def fit_correctives(
    vertices: np.ndarray,
    joints: np.ndarray,
    weights: np.ndarray,
    mirror: np.ndarray,
    seed: int = 17,
    single: int = 1060,
    several: int = 500,
) -> tuple[np.ndarray, CorrectiveReport]:
    """Fit pose correctives on one body.

    Args:
        vertices: (N, 3) template in the T-pose, mirror-symmetric.
        joints: (55, 3) its joints.
        weights: (N, 55) skinning weights.
        mirror: (N,) vertex on the other side.
        seed: Of the poses.
        single: Training poses with one joint turned.
        several: Training poses with all joints turned.

    Returns:
        (N, 3, 486) correctives in metres per entry of R - I, and how well they do on poses that
        were not fitted.
    """
    rng = np.random.default_rng(seed)
    half = np.flatnonzero(vertices[:, 0] >= -1e-9)
    v, w = vertices[half], weights[half]
    poses = np.concatenate([random_poses(rng, single, False), random_poses(rng, several, True)])
    features, wanted = _teach(v, joints, w, poses)
    # A joint turned alone is common and seen, so it weighs more than a contortion of all.
    weight = np.repeat([_ALONE, 1.0], [single, several])
    features = features * weight[:, None]
    wanted = wanted * weight[:, None, None]
    out = np.zeros((len(vertices), 3, 9 * (len(SMPLX_JOINTS) - 1)))
    for members, columns in _groups(w, joints, v):
        x = features[:, columns]
        y = wanted[:, members].reshape(len(poses), -1)
        if np.abs(y).max() < _LEAST:
            continue
        gram = x.T @ x + _RIDGE * len(poses) / 100 * np.eye(len(columns))
        solved = np.linalg.solve(gram, x.T @ y).reshape(len(columns), len(members), 3)
        out[half[members][:, None, None], np.arange(3)[:, None], columns] = solved.transpose(
            1, 2, 0
        )
    out = _symmetric(out, vertices, mirror)
    out[np.abs(out) < _LEAST] = 0
    return out, _report(v, joints, w, out[half], rng)


def _range(name: str):
    """Return the joint's range of motion, None for joints that are not fitted."""
    if name in _RANGES:
        return _RANGES[name]
    left = mirror_name(name)
    flip = ((1, 1), (-1, -1), (-1, -1))
    if name.startswith("right_") and left in _RANGES:
        base = _RANGES[left]
    elif "eye" in name or name == "pelvis":
        return None
    else:
        base = _THUMB if "thumb" in name else _FINGER
        if name.startswith("left_"):
            return base
    return tuple(
        tuple(sorted((s * a, t * b))) for (a, b), (s, t) in zip(base, flip, strict=True)
    )  # fmt: skip


def _teach(v, joints, w, poses) -> tuple[np.ndarray, np.ndarray]:
    """Return features (P, 486) and the corrections wanted (P, N, 3) in the rest pose."""
    forearms = _forearms(v, joints)
    rotations = Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(len(poses), -1, 3, 3)
    wanted = np.empty((len(poses), *v.shape))
    for p, local in enumerate(rotations):
        maps = _transforms(joints, local)
        blend = _blend(maps, w)
        linear = _apply(blend, v)
        twisted, maps = _spread_twist(v, joints, local, maps, forearms)
        straight = linear if twisted is v else _apply(_blend(maps, w), twisted)
        better = _dual_quaternion(maps, w, twisted)
        teacher = _SPHERICAL * better + (1 - _SPHERICAL) * straight
        # Blended rotations shrink and may be near singular at a half turn: damp the inverse.
        a = blend[:, :, :3]
        at = np.swapaxes(a, 1, 2)
        back = np.linalg.solve(at @ a + 0.01 * np.eye(3), at @ (teacher - linear)[..., None])
        wanted[p] = back[..., 0]
    features = (rotations[:, 1:] - np.eye(3)).reshape(len(poses), -1)
    return features, wanted


def _forearms(v, joints) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Return wrist, axis and share (N,) of its twist for both forearms: 0 elbow to 1 wrist."""
    out = []
    for side in ("left", "right"):
        elbow, wrist = (SMPLX_JOINTS.index(f"{side}_{n}") for n in ("elbow", "wrist"))
        axis = joints[wrist] - joints[elbow]
        place = np.clip((v - joints[elbow]) @ axis / (axis @ axis), 0, 1)
        sign = np.sign(axis[0])
        place = np.where(v[:, 0] * sign > joints[elbow][0] * sign - 0.02, place, 0)
        out.append((wrist, axis / np.linalg.norm(axis), place))
    return out


def _twist(rotation: np.ndarray, axis: np.ndarray) -> float:
    """Return the angle of a rotation about an axis: of the twist in R = swing twist."""
    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return float(2 * np.arctan2(np.dot([x, y, z], axis) * np.sign(w or 1), abs(w)))


def _transforms(joints, local) -> np.ndarray:
    """Return the (J, 3, 4) maps of the rest pose to the posed one."""
    rotations, places = local.copy(), joints.copy()
    for k in range(1, len(joints)):
        parent = SMPLX_PARENTS[k]
        rotations[k] = rotations[parent] @ local[k]
        places[k] = places[parent] + rotations[parent] @ (joints[k] - joints[parent])
    shift = places - np.einsum("jab,jb->ja", rotations, joints)
    return np.concatenate([rotations, shift[:, :, None]], axis=2)


def _spread_twist(v, joints, local, maps, forearms):
    """Turn forearm vertices by their share of the wrist's twist; the hand stays as it is."""
    for wrist, axis, share in forearms:
        angle = _twist(local[wrist], axis)
        if angle == 0:
            continue
        part = Rotation.from_rotvec(share[:, None] * axis * angle).as_matrix()
        v = joints[wrist] + np.einsum("nij,nj->ni", part, v - joints[wrist])
        back = Rotation.from_rotvec(-axis * angle).as_matrix()
        maps = maps.copy()
        for k in _hand(wrist):
            turned = maps[k, :, :3] @ back
            maps[k, :, 3] += (maps[k, :, :3] - turned) @ joints[wrist]
            maps[k, :, :3] = turned
    return v, maps


def _hand(wrist: int) -> list[int]:
    """Return the wrist and all joints below it."""
    below = [wrist]
    for k, parent in enumerate(SMPLX_PARENTS):
        if parent in below:
            below.append(k)
    return below


def _blend(maps, w) -> np.ndarray:
    return (w @ maps.reshape(len(maps), 12)).reshape(-1, 3, 4)


def _apply(blend, v) -> np.ndarray:
    return np.einsum("nij,nj->ni", blend[:, :, :3], v) + blend[:, :, 3]


def _dual_quaternion(maps, w, v) -> np.ndarray:
    real = np.roll(Rotation.from_matrix(maps[:, :, :3]).as_quat(), 1, axis=1)  # w first
    for k in range(1, len(maps)):
        if real[k] @ real[SMPLX_PARENTS[k]] < 0:
            real[k] = -real[k]
    shift = np.concatenate([np.zeros((len(maps), 1)), maps[:, :, 3]], axis=1)
    dual = 0.5 * _product(shift, real)
    blended = w @ np.concatenate([real, dual], axis=1)
    norm = np.linalg.norm(blended[:, :4], axis=1, keepdims=True)
    real, dual = blended[:, :4] / norm, blended[:, 4:] / norm
    conjugate = real * [1, -1, -1, -1]
    moved = 2 * _product(dual, conjugate)[:, 1:]
    inner = np.cross(real[:, 1:], v) + real[:, :1] * v
    return v + 2 * np.cross(real[:, 1:], inner) + moved


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamilton product, w first."""
    aw, av, bw, bv = a[:, :1], a[:, 1:], b[:, :1], b[:, 1:]
    return np.concatenate(
        [aw * bw - (av * bv).sum(1, keepdims=True), aw * bv + bw * av + np.cross(av, bv)], axis=1
    )


def _groups(w, joints, v) -> list[tuple[np.ndarray, np.ndarray]]:
    """Group vertices by the joints whose rotation deforms them; the columns of those joints."""
    forearm = {wrist: share for wrist, _, share in _forearms(v, joints)}
    keys: dict[tuple[int, ...], list[int]] = {}
    for n, row in enumerate(w):
        moved = _bending(tuple(np.flatnonzero(row > 1e-3)))
        for wrist, share in forearm.items():
            if 0 < share[n] < 1:
                moved |= {wrist}
        if moved:
            keys.setdefault(tuple(sorted(moved)), []).append(n)
    return [
        (np.array(members), np.concatenate([9 * (k - 1) + np.arange(9) for k in key]))
        for key, members in sorted(keys.items())
    ]


def _bending(bones: tuple[int, ...]) -> set[int]:
    """Return the joints on the paths between bones: their own rotations, but not the top one's."""
    if len(bones) < 2:
        return set()
    paths = []
    for bone in bones:
        path = [bone]
        while SMPLX_PARENTS[path[-1]] >= 0:
            path.append(SMPLX_PARENTS[path[-1]])
        paths.append(path)
    common = set(paths[0]).intersection(*paths[1:])
    return set().union(*paths) - common


def _symmetric(out, vertices, mirror) -> np.ndarray:
    """Give the right half the mirrored correctives of the left; average the midline."""
    order = joint_mirror()[1:] - 1
    sign = np.array([-1.0, 1, 1])
    entries = np.outer(sign, sign).ravel()  # of S R S
    shaped = out.reshape(len(out), 3, len(order), 9)
    other = shaped[mirror][:, :, order] * sign[:, None, None] * entries
    x = vertices[:, 0][:, None, None, None]
    middle = np.abs(x) < 1e-9
    mixed = np.where(middle, (shaped + other) / 2, np.where(x > 0, shaped, other))
    return mixed.reshape(out.shape)


def _report(v, joints, w, correctives, rng) -> CorrectiveReport:
    """Measure the correctives on poses that were not fitted."""

    def errors(poses):
        features, wanted = _teach(v, joints, w, poses)
        rest = wanted - (features @ correctives.reshape(-1, features.shape[1]).T).reshape(
            wanted.shape
        )
        return np.linalg.norm(wanted, axis=-1), np.linalg.norm(rest, axis=-1)

    single: dict[str, list] = {}
    poses = random_poses(rng, 318, several=False)
    before, after = errors(poses)
    for p, pose in enumerate(poses):
        name = SMPLX_JOINTS[int(np.abs(pose).sum(1).argmax())]
        if name.startswith("right_"):
            continue
        region = before[p] > 5e-4
        if region.any():
            single.setdefault(name, []).append((before[p][region], after[p][region]))
    rms = {
        name: tuple(
            1000 * float(np.sqrt(np.mean(np.concatenate([r[k] for r in rows]) ** 2)))
            for k in (0, 1)
        )
        for name, rows in single.items()
    }
    before, after = errors(random_poses(rng, 60, several=True))
    region = before > 5e-4
    return CorrectiveReport(
        single=rms,
        several=tuple(1000 * float(np.sqrt(np.mean(e[region] ** 2))) for e in (before, after)),
        nonzero=float((correctives != 0).mean()),
    )
