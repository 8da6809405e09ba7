"""How far a fit's points are from those that were seen. Torch-free."""

import numpy as np

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import PARTS, keypoint_part

__all__ = ["part_medians", "point_residuals"]

_POINT_PARTS = np.array([keypoint_part(name) for name in FIT_KEYPOINTS])


def point_residuals(projected: np.ndarray, keypoints_2d: np.ndarray) -> np.ndarray:
    """Return the distances to the points that were seen, (145,) float32 px, NaN elsewhere.

    Args:
        projected: (145, 2) the fit's points in pixels.
        keypoints_2d: (145, 3) the person's.
    """
    points = np.asarray(keypoints_2d)
    distance = np.linalg.norm(projected - points[:, :2], axis=-1)
    return np.where(points[:, 2] > 0, distance, np.nan).astype(np.float32)


def part_medians(residual_px: np.ndarray) -> dict[str, float]:
    """Return the median of residuals (145,) by part (spec.PARTS); NaN for one without any."""
    known = np.isfinite(residual_px)
    medians = {}
    for part in PARTS:
        values = residual_px[known & (part == _POINT_PARTS)]
        medians[part] = float(np.median(values)) if len(values) else float("nan")
    return medians
