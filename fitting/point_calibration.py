"""Where a keypoint convention puts its points on the body, learned from people whose pose is known.

A detector's or annotator's "hip" is not SMPL-X's joint. Each point of a convention becomes a
weighted sum of a few of SMPL-X's own points near it, weights summing to 1: it moves and grows with
the body, works for every body that has the joints, and costs the solver next to nothing. The
weights are fitted to the 2D offsets from the projected joints, robustly, left and right together,
with a pull towards SMPL-X's own place that matters where there are few people.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import mirror_name

__all__ = ["NEIGHBOURS", "PointSamples", "calibrate", "signed_errors"]

NEIGHBOURS: dict[str, tuple[str, ...]] = {
    "pelvis": ("left_hip", "right_hip", "spine1"),
    "left_hip": ("right_hip", "pelvis", "spine1", "left_knee"),
    "left_knee": ("left_hip", "left_ankle"),
    "left_ankle": ("left_knee", "left_foot", "left_heel"),
    "left_big_toe": ("left_small_toe", "left_ankle", "left_heel"),
    "left_small_toe": ("left_big_toe", "left_ankle", "left_heel"),
    "left_heel": ("left_ankle", "left_big_toe", "left_foot"),
    "neck": ("head", "spine3", "left_shoulder", "right_shoulder"),
    "head_top": ("head", "neck", "nose"),
    "left_shoulder": ("right_shoulder", "neck", "left_collar", "spine3", "left_elbow"),
    "left_elbow": ("left_shoulder", "left_wrist"),
    "left_wrist": ("left_elbow", "left_middle1"),
    "nose": ("left_eye", "right_eye", "left_ear", "right_ear"),
    "left_eye": ("right_eye", "nose", "left_ear"),
    "left_ear": ("right_ear", "nose", "left_eye", "neck"),
}
"""By point, the points that its place may be mixed from; the right side mirrors the left."""

_ROUNDS = 12


@dataclass(frozen=True, eq=False)
class PointSamples:
    """People whose pose is known, as a convention sees them.

    Attributes:
        points: (N, 145, 3) the body's own ``fit`` points, metres, camera frame; NaN where none.
        seen: (N, 145, 3) x px, y px, confidence in the convention.
        focal_px: (N,).
        center_px: (N, 2).
    """

    points: np.ndarray
    seen: np.ndarray
    focal_px: np.ndarray
    center_px: np.ndarray

    def take(self, rows: np.ndarray) -> "PointSamples":
        """Return some of the people."""
        return PointSamples(
            self.points[rows], self.seen[rows], self.focal_px[rows], self.center_px[rows]
        )


def neighbours(name: str) -> tuple[str, ...]:
    """Return the points that a point may be mixed from, on either side of the body."""
    if name in NEIGHBOURS:
        return NEIGHBOURS[name]
    return tuple(mirror_name(n) for n in NEIGHBOURS.get(mirror_name(name), ()))


def calibrate(
    samples: PointSamples,
    names: tuple[str, ...],
    *,
    noise_m: float = 0.02,
    prior_m: float = 0.03,
    min_confidence: float = 0.5,
) -> dict[str, dict[str, float]]:
    """Fit the weights of a convention's points.

    Args:
        samples: The people.
        names: Points of the convention; those without neighbours are left where SMPL-X has them.
        noise_m: Usual error of a point that was seen, metres at the person's depth; errors beyond
            a few times that count little (Geman-McClure).
        prior_m: How far from SMPL-X's place a convention may well be.
        min_confidence: Points below are not looked at.

    Returns:
        By point, the weight of each of SMPL-X's points; 1 in sum. Points of the middle get weights
        that are alike on both sides.
    """
    found: dict[str, dict[str, float]] = {}
    for name in names:
        mirrored = mirror_name(name)
        if name in found or not neighbours(name):
            continue
        sides = [name] if mirrored == name else [name, mirrored]
        rows, targets = [], []
        for side in sides:
            flip = side != name
            around = [mirror_name(n) if flip else n for n in neighbours(name)]
            a, b = _equations(samples, side, around, min_confidence)
            rows.append(a)
            targets.append(b)
        weights = _robust_ridge(
            np.concatenate(rows), np.concatenate(targets), _reach(samples, name),
            noise_m, prior_m,
        )  # fmt: skip
        if mirrored == name:
            weights = _even(weights, neighbours(name))
        for side in sides:
            flip = side != name
            mix = {side: 1 - float(weights.sum())}
            for n, w in zip(neighbours(name), weights, strict=True):
                mix[mirror_name(n) if flip else n] = float(w)
            found[side] = {n: round(w, 4) for n, w in mix.items()}
    return found


def _even(weights: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Give both sides of the body the same weight."""
    order = [names.index(mirror_name(n)) for n in names]
    return (weights + weights[order]) / 2


def _equations(
    samples: PointSamples, name: str, around: list[str], min_confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, 2, K), (n, 2) metres at the person's depth: weights move the point so."""
    index = FIT_KEYPOINTS.index
    base = samples.points[:, index(name)]
    seen = samples.seen[:, index(name)]
    others = samples.points[:, [index(n) for n in around]]
    ok = (seen[:, 2] >= min_confidence) & np.isfinite(base).all(1) & np.isfinite(others).all((1, 2))
    base, seen, others = base[ok], seen[ok], others[ok]
    ray = base[:, :2] / base[:, 2:]
    offset = (seen[:, :2] - samples.center_px[ok]) / samples.focal_px[ok, None] - ray
    step = others - base[:, None]
    moves = step[..., :2] - ray[:, None] * step[..., 2:]  # d(ray) * depth
    return moves.transpose(0, 2, 1), offset * base[:, 2:]


def _reach(samples: PointSamples, name: str) -> np.ndarray:
    """(K,) metres from the point to each neighbour: the pull is on metres, not on weights."""
    if not len(samples.points):
        return np.ones(len(neighbours(name)))
    index = FIT_KEYPOINTS.index
    around = samples.points[:, [index(n) for n in neighbours(name)]]
    step = around - samples.points[:, [index(name)]]
    return np.nanmedian(np.linalg.norm(step, axis=-1), axis=0)


def _robust_ridge(
    rows: np.ndarray, targets: np.ndarray, reach: np.ndarray, noise_m: float, prior_m: float
) -> np.ndarray:
    weights = np.zeros(rows.shape[2])
    if not len(rows):
        return weights
    pull = np.diag((reach * noise_m / prior_m) ** 2)
    scale = 2 * noise_m
    for _ in range(_ROUNDS):
        error = np.linalg.norm(rows @ weights - targets, axis=1)
        trust = (scale**2 / (scale**2 + error**2)) ** 2
        matrix = np.einsum("n,nik,nil->kl", trust, rows, rows) + pull
        weights = np.linalg.solve(matrix, np.einsum("n,nik,ni->k", trust, rows, targets))
    return weights


def signed_errors(
    samples: PointSamples,
    mixes: Mapping[str, Mapping[str, float]],
    names: tuple[str, ...],
    *,
    min_confidence: float = 0.5,
) -> dict[str, np.ndarray]:
    """Return the mean signed error of points against a place on the body.

    Args:
        samples: The people.
        mixes: Of :func:`calibrate`, empty for SMPL-X's own places.
        names: Points; left and right are looked at together, under the left one's name.
        min_confidence: Points below are not looked at.

    Returns:
        By point (4,): outwards (away from the mirrored point; 0 for those of the middle), upwards
        (along the trunk) and the length of the whole, as means over the middle 90 % of people,
        millimetres at their depth; and n, how many points there were.
    """
    index = FIT_KEYPOINTS.index
    out = {}
    for name in names:
        mirrored = mirror_name(name)
        if name.startswith("right_"):
            continue
        errors = []
        for side in {name, mirrored}:
            mix = mixes.get(side, {side: 1.0})
            place = sum(w * samples.points[:, index(n)] for n, w in mix.items())
            seen = samples.seen[:, index(side)]
            ok = (seen[:, 2] >= min_confidence) & np.isfinite(place).all(1)
            ray = place[:, :2] / place[:, 2:]
            error = (seen[:, :2] - samples.center_px) / samples.focal_px[:, None] - ray
            error = 1000 * error * place[:, 2:]
            trunk = _direction(samples.points, "pelvis", "neck")
            away = _direction(samples.points, mirror_name(side), side) if mirrored != name else 0
            up = (error * trunk).sum(1)
            outward = (error * away).sum(1) if mirrored != name else np.zeros_like(up)
            errors.append(np.stack([outward, up], 1)[ok])
        both = np.concatenate(errors)
        if not len(both):
            continue
        length = np.linalg.norm(both - np.median(both, 0), axis=1)
        middle = both[length <= np.quantile(length, 0.9)]
        mean = middle.mean(0)
        out[name] = np.array([*mean, np.linalg.norm(mean), len(both)])
    return out


def _direction(points: np.ndarray, start: str, end: str) -> np.ndarray:
    """(N, 2) image direction from one point to another, of a length of at most 1: its cosine."""
    index = FIT_KEYPOINTS.index
    step = points[:, index(end)] - points[:, index(start)]
    return step[:, :2] / np.linalg.norm(step, axis=1, keepdims=True).clip(1e-6)
