"""Whether there is enough of a person to fit a body to. Torch-free."""

from collections.abc import Collection

import numpy as np

from bodymodel.keypoints import FIT_KEYPOINTS
from fitting.records import FitTarget

__all__ = ["find_problem", "seen_points"]


def seen_points(
    target: FitTarget, names: Collection[str], min_confidence: float = 0.0
) -> np.ndarray:
    """Return the (n, 2) pixels of the named points that are seen.

    Args:
        target: The person.
        names: Out of FIT_KEYPOINTS.
        min_confidence: A point is seen from here on, and above 0.

    Raises:
        ValueError: If the keypoints are not of the ``fit`` convention.
    """
    points = np.asarray(target.keypoints_2d)
    if points.shape != (len(FIT_KEYPOINTS), 3):
        raise ValueError(
            f"keypoints_2d must be ({len(FIT_KEYPOINTS)}, 3) in the 'fit' convention, got "
            f"{points.shape}; Keypoints2D(...).to('fit') gives them"
        )
    points = points[[FIT_KEYPOINTS.index(name) for name in dict.fromkeys(names)]]
    is_seen = np.isfinite(points).all(1) & (points[:, 2] > 0) & (points[:, 2] >= min_confidence)
    return points[is_seen, :2]


def find_problem(
    target: FitTarget, names: Collection[str], min_points: int, min_confidence: float = 0.0
) -> str:
    """Say why a person cannot be fitted, or nothing.

    Args:
        target: The person.
        names: Points of the body that count.
        min_points: Fewest of them.
        min_confidence: As for seen_points.

    Raises:
        ValueError: If the keypoints are not of the ``fit`` convention.
    """
    count = len(seen_points(target, names, min_confidence))
    if not (np.isfinite(target.focal_px) and target.focal_px > 0):
        return f"the focal length is {target.focal_px} px; it must be positive"
    if not np.isfinite(target.center_px).all():
        return "the principal point is not a number"
    if count < min_points:
        return f"{count} points of the body are seen, at least {min_points} are needed"
    return ""
