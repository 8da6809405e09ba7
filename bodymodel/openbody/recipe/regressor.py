"""Joint regressors: joints as convex blends of skin vertices, fitted over a population."""

import numpy as np
from scipy.optimize import nnls

from bodymodel.spec import mirror_name

_NEAR, _FAR = 120, 330
_RADIUS = {
    "pelvis": 0.26, "spine1": 0.26, "spine2": 0.26, "spine3": 0.26, "neck": 0.20, "head": 0.16,
    "hip": 0.24, "knee": 0.16, "ankle": 0.12, "foot": 0.10, "collar": 0.20, "shoulder": 0.18,
    "elbow": 0.12, "wrist": 0.09, "hand": 0.09, "jaw": 0.12, "eye": 0.02,
}  # fmt: skip


def fit_regressor(
    vertices: np.ndarray,
    targets: np.ndarray,
    joints: tuple[str, ...],
    mirror: np.ndarray,
    allowed: np.ndarray,
) -> np.ndarray:
    """Fit joints as blends with weights >= 0 that sum to 1.

    Args:
        vertices: (S, V, 3) bodies in the T-pose.
        targets: (S, J, 3) their joints.
        joints: J names.
        mirror: (V,) vertex on the other side.
        allowed: (V,) bool, vertices that may be used for joints other than the eyes.

    Returns:
        (J, V), mirror-symmetric.
    """
    mean, goal = vertices.mean(0), targets.mean(0)
    out = np.zeros((len(joints), vertices.shape[1]))
    rng = np.random.default_rng(7)
    for index, name in enumerate(joints):
        other = joints.index(mirror_name(name))
        if other < index:
            out[index] = out[other][mirror]
            continue
        picked = _candidates(name, mean, goal[index], allowed, rng)
        a = vertices[:, picked].transpose(0, 2, 1).reshape(-1, len(picked))
        b = targets[:, index].reshape(-1)
        centre = goal[index][None, :, None]
        a = a - np.tile(centre, (len(vertices), 1, 1)).reshape(-1, 1)
        b = b - np.tile(goal[index], len(vertices))
        # Weights sum to 1 by a heavy row; a light pull keeps any one vertex from carrying all.
        n = len(picked)
        scale = np.sqrt(len(vertices))
        rows = np.concatenate([a, 10 * scale * np.ones((1, n)), 2e-3 * scale * np.eye(n)])
        rhs = np.concatenate([b, [10 * scale], np.zeros(n)])
        r = np.linalg.qr(np.column_stack([rows, rhs]), mode="r")
        weights, _ = nnls(r[:, :n], r[:, n], maxiter=50 * n)
        weights[weights < 1e-4] = 0
        out[index, picked] = weights / weights.sum()
        if other == index:
            out[index] = (out[index] + out[index][mirror]) / 2
    return out


def _candidates(name, mean, centre, allowed, rng) -> np.ndarray:
    distance = np.linalg.norm(mean - centre, axis=1)
    if "eye" in name:
        return np.flatnonzero(distance < _RADIUS["eye"])
    key = name.split("_")[-1]
    radius = _RADIUS.get(key, 0.05)  # fingers
    distance = np.where(allowed, distance, np.inf)
    order = np.argsort(distance, kind="stable")
    near, wide = order[:_NEAR], order[_NEAR:]
    wide = wide[distance[wide] < radius]
    if len(wide) > _FAR:
        wide = rng.choice(wide, _FAR, replace=False)
    return np.sort(np.concatenate([near, wide]))
