"""How far two sets of points agree that they are the same person. Torch-free."""

from functools import cache

import numpy as np

from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS, LOOSE_POINTS

__all__ = ["LIMBS", "as_fit", "body_gap", "keypoint_box", "known_names", "person_size"]

_LIMB_NAMES = tuple(
    f"{side}_{joint}"
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    for side in ("left", "right")
)
LIMBS = np.array([FIT_KEYPOINTS.index(name) for name in _LIMB_NAMES])
"""The twelve points of the limbs in the ``fit`` convention, left before right."""

_SLACK = np.array([0.05 if name in LOOSE_POINTS else 0.0 for name in _LIMB_NAMES])
_SWAPPED = np.arange(12).reshape(6, 2)[:, ::-1].ravel()


def keypoint_box(points: np.ndarray) -> np.ndarray:
    """Return the (4,) x0, y0, x1, y1 of the (K, 3) points present; NaN without any."""
    present = points[points[:, 2] > 0, :2]
    if not len(present):
        return np.full(4, np.nan, np.float32)
    return np.concatenate([present.min(0), present.max(0)]).astype(np.float32)


def person_size(points: np.ndarray) -> float:
    """Return the longer side of the points' box in pixels; NaN without any."""
    box = keypoint_box(points)
    return float(max(box[2] - box[0], box[3] - box[1]))


def body_gap(points: np.ndarray, other: np.ndarray) -> float:
    """Return how far apart two people are: the median distance of their limbs, in person sizes.

    Left and right may be confused between the two (seen from behind, say) without making them
    two people. Points that annotators place loosely (hips, shoulders) get 5 % for free.

    Args:
        points: (145, 3) ``fit`` points of one; their size is the unit.
        other: (145, 3) of the other.

    Returns:
        The gap; NaN where fewer than three limb points are in both.
    """
    a, b = points[LIMBS], other[LIMBS]
    size = person_size(points)
    gaps = []
    for order in (np.arange(12), _SWAPPED):
        common = (a[:, 2] > 0) & (b[order, 2] > 0)
        if common.sum() < 3 or not size > 0:
            return float("nan")
        distance = np.linalg.norm(a[common, :2] - b[order][common, :2], axis=-1) / size
        gaps.append(np.median(np.maximum(distance - _SLACK[common], 0)))
    return float(min(gaps))


def as_fit(points: np.ndarray, convention: str) -> np.ndarray:
    """Return (K, 3) points of a convention as (145, 3) ``fit`` points.

    The same as ``convert_keypoints``, a hundred times faster for one person: thousands of rows
    pass here.
    """
    first, second = _places(convention)
    padded = np.concatenate([points, np.zeros((1, 3), points.dtype)])
    one, other = padded[first], padded[second]
    return np.where((other[:, 2] > one[:, 2])[:, None], other, one)


def known_names(convention: str) -> np.ndarray:
    """Return the (145,) mask of the ``fit`` names that a convention has."""
    return _places(convention)[0] < len(CONVENTIONS[convention])


@cache
def _places(convention: str) -> tuple[np.ndarray, np.ndarray]:
    """Return where each ``fit`` name is in a convention, and where again; K where it is not.

    A name is there twice at most: a wrist of the body and the root of a hand.
    """
    names = CONVENTIONS[convention]
    places = [[i for i, n in enumerate(names) if n == name] for name in FIT_KEYPOINTS]
    assert max(map(len, places)) <= 2
    absent = len(names)
    first = np.array([p[0] if p else absent for p in places])
    second = np.array([p[1] if len(p) == 2 else absent for p in places])
    return first, second
