"""Estimate a PosePrior from poses, and judge it by what it takes for a human pose. Torch-free."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.spatial.transform import Rotation
from scipy.stats import rankdata

from bodymodel.skeleton import mirror_pose
from bodymodel.spec import BODY_JOINTS

__all__ = [
    "Gaussians",
    "bend_knees_backwards",
    "energy",
    "fit_gaussians",
    "mirror_rows",
    "recording_noise",
    "roc_auc",
    "shuffle_joints",
    "subject_weights",
    "turn_one_joint",
]

_FLOOR_DEG = {
    "hip": (2.5, 2.5, 2.5), "knee": (2.0, 2.0, 2.0), "ankle": (3.0, 3.0, 3.0),
    "foot": (8.0, 8.0, 8.0), "spine": (3.0, 3.0, 3.0), "neck": (3.5, 3.5, 3.5),
    "head": (3.5, 3.5, 3.5), "collar": (8.0, 8.0, 8.0), "shoulder": (3.0, 3.0, 3.0),
    "elbow": (3.0, 3.0, 3.0), "wrist": (6.0, 15.0, 15.0),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Gaussians:
    """C Gaussians on 63 axis-angles, as PosePrior stores them.

    Attributes:
        means: (C, 63).
        whitening: (C, 63, 63), upper triangular.
        costs: (C,) >= 0.
    """

    means: np.ndarray
    whitening: np.ndarray
    costs: np.ndarray


def subject_weights(subject: np.ndarray) -> np.ndarray:
    """Return (F,) frame weights, sum 1: a subject counts as the square root of its frames.

    Between every frame alike (one subject has two fifths of them) and every subject alike
    (half of those walk and run, nothing else).
    """
    _, inverse, count = np.unique(subject, return_inverse=True, return_counts=True)
    weights = 1 / np.sqrt(count[inverse])
    return weights / weights.sum()


def recording_noise() -> np.ndarray:
    """Return (63,) standard deviations, radians: the root of what ``_floor`` says."""
    return np.sqrt(_floor())


def _floor() -> np.ndarray:
    """Return (63,) variances added to the data's: what the recording could not see or resolve.

    Toes, the wrist's bending and the clavicle were not recorded. The shares of
    spine, neck and head, and of elbow and wrist in pronation, are ours (bodymodel.mocap), so the
    data show them as laws. A prior must not be stiff in any of these because of that.
    """
    degrees = [next(v for k, v in _FLOOR_DEG.items() if k in name) for name in BODY_JOINTS[1:]]
    return np.radians(degrees).reshape(-1) ** 2


def mirror_rows(x: np.ndarray) -> np.ndarray:
    """Return the mirrored poses of rows (F, 63)."""
    return mirror_pose(x.reshape(-1, 21, 3)).reshape(-1, 63)


def _nearest_centres(
    x: np.ndarray, weights: np.ndarray, pairs: int, rng: np.random.Generator
) -> np.ndarray:
    """Return (F, 2 pairs) one-hot: the nearest of k-means++ centres and their mirror images."""
    half = len(x) // 2  # the rest is the mirror image of the first half
    centres = [x[rng.choice(half, p=weights[:half] / weights[:half].sum())]]
    while True:
        both = np.concatenate([np.stack(centres), mirror_rows(np.stack(centres))])
        distance = ((x**2).sum(1)[:, None] - 2 * x @ both.T + (both**2).sum(1)).clip(0)
        if len(centres) == pairs:
            return np.eye(2 * pairs)[distance.argmin(1)]
        chance = distance[:half].min(1) * weights[:half]
        centres.append(x[rng.choice(half, p=chance / chance.sum())])


def fit_gaussians(
    pose: np.ndarray,
    weights: np.ndarray,
    *,
    pairs: int = 0,
    shrinkage: float = 0.5,
    iterations: int = 40,
    seed: int = 0,
) -> Gaussians:
    """Fit one Gaussian, or mirror pairs of them by expectation-maximisation.

    The data are used together with their mirror images and each component has its mirror image
    among the components, so the prior knows no handedness.

    Args:
        pose: (F, 21, 3) axis-angle.
        weights: (F,) sum 1.
        pairs: 0 for a single Gaussian, else the number of mirror pairs.
        shrinkage: Share of the covariance pooled over components in each component's.
        iterations: Of expectation-maximisation.
        seed: Of the starting components.

    Returns:
        max(1, 2 pairs) components.
    """
    x = np.concatenate([pose, mirror_pose(pose)]).reshape(-1, 63).astype(np.float64)
    w = np.concatenate([weights, weights]) / 2
    floor = np.diag(_floor())
    if pairs == 0:
        mean = w @ x
        covariance = (x - mean).T @ ((x - mean) * w[:, None]) + floor
        return _as_gaussians(mean[None], covariance[None], np.ones(1))

    mirror = mirror_rows(np.eye(63))  # symmetric: a pose's mirror image is mirror @ pose
    share = _nearest_centres(x, w, pairs, np.random.default_rng(seed)) * w[:, None]
    for _ in range(iterations):
        # Only the first of each pair is estimated; the data are symmetric, so the second is its
        # mirror image.
        prior = np.maximum(share.sum(0), 1e-9)
        prior = np.tile(prior[:pairs] + prior[pairs:], 2) / 2
        first = share[:, :pairs].T @ x / share[:, :pairs].sum(0)[:, None]
        scatter = [
            (x - m).T @ ((x - m) * s[:, None]) / s.sum()
            for m, s in zip(first, share.T, strict=False)
        ]
        pooled = sum(p * (c + mirror @ c @ mirror) for p, c in zip(prior, scatter, strict=False))
        scatter = [(1 - shrinkage) * c + shrinkage * pooled + floor for c in scatter]
        means = np.concatenate([first, mirror_rows(first)])
        covariances = np.stack(scatter + [mirror @ c @ mirror for c in scatter])
        log = np.stack(
            [
                np.log(p) - _negative_log_likelihood(x, m, c)
                for p, m, c in zip(prior, means, covariances, strict=True)
            ],
            axis=1,
        )
        share = np.exp(log - log.max(1, keepdims=True))
        share *= (w / share.sum(1))[:, None]
    return _as_gaussians(means, covariances, prior / prior.sum())


def _negative_log_likelihood(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    factor = np.linalg.cholesky(covariance)
    white = solve_triangular(factor, (x - mean).T, lower=True)
    return 0.5 * (white**2).sum(0) + np.log(np.diag(factor)).sum()


def _as_gaussians(means: np.ndarray, covariances: np.ndarray, prior: np.ndarray) -> Gaussians:
    whitening = np.swapaxes(np.linalg.cholesky(np.linalg.inv(covariances)), -1, -2)
    costs = 0.5 * np.linalg.slogdet(covariances)[1] - np.log(prior)
    return Gaussians(means, whitening, costs - costs.min())


def energy(model: Gaussians, pose: np.ndarray) -> np.ndarray:
    """Return (F,) energies of poses (F, 21, 3): the numpy twin of PosePrior.energy."""
    delta = pose.reshape(-1, 1, 63) - model.means
    white = np.einsum("cij,fcj->fci", model.whitening, delta, optimize=True)
    return (0.5 * (white**2).sum(-1) + model.costs).min(-1)


# --- poses that are none ---------------------------------------------------------------------


def shuffle_joints(pose: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (F, 21, 3) where each joint's rotation comes from another frame."""
    out = np.empty_like(pose)
    for joint in range(pose.shape[1]):
        out[:, joint] = pose[rng.permutation(len(pose)), joint]
    return out


def turn_one_joint(pose: np.ndarray, rng: np.random.Generator, degrees: float = 60.0) -> np.ndarray:
    """Return (F, 21, 3) with one random joint turned about a random axis."""
    out = pose.copy()
    frame = np.arange(len(pose))
    joint = rng.integers(pose.shape[1], size=len(pose))
    axis = rng.normal(size=(len(pose), 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    turn = Rotation.from_rotvec(np.radians(degrees) * axis)
    out[frame, joint] = (Rotation.from_rotvec(pose[frame, joint]) * turn).as_rotvec()
    return out


def bend_knees_backwards(pose: np.ndarray, at_least_deg: float = 30.0) -> np.ndarray:
    """Return (F, 21, 3) with both knees bent backwards as far as they were bent, or the least."""
    out = pose.copy()
    for name in ("left_knee", "right_knee"):
        joint = BODY_JOINTS.index(name) - 1
        out[:, joint, 0] = -np.maximum(np.abs(out[:, joint, 0]), np.radians(at_least_deg))
    return out


def roc_auc(real: np.ndarray, corrupted: np.ndarray) -> float:
    """Return the probability that a corrupted pose has the higher energy; 0.5 is chance."""
    rank = rankdata(np.concatenate([real, corrupted]))[len(real) :]
    return float((rank.mean() - (len(corrupted) + 1) / 2) / len(real))
