"""Object keypoint similarity as COCO defines it. Torch-free."""

import numpy as np

from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS

__all__ = ["COCO_SIGMAS", "object_keypoint_similarity"]

_SIGMA = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062,
    "hip": 0.107, "knee": 0.087, "ankle": 0.089,
}  # fmt: skip
"""How far annotators of COCO disagree on a point, in square roots of the object's area."""

_AREA_OF_BOX = 0.53  # people's masks fill about this part of their box; masks are not kept here
_NAMES = CONVENTIONS["coco17"]
_ROWS = np.array([FIT_KEYPOINTS.index(name) for name in _NAMES])
COCO_SIGMAS = np.array([_SIGMA[name.split("_")[-1]] for name in _NAMES])
"""(17,) of the points of ``coco17``."""


def object_keypoint_similarity(
    points_px: np.ndarray, labels: np.ndarray, box_xyxy_px: np.ndarray | None = None
) -> float:
    """Return the mean over labelled points of ``exp(-d^2 / (2 s^2 k^2))``, k = 2 sigma.

    The 17 points of COCO count. ``s^2`` is the object's area, here 0.53 of its box.

    Args:
        points_px: (145, 2) or (145, 3), ``fit`` convention. A point that is not finite, or has
            a confidence of 0, is taken for infinitely far.
        labels: (145, 3), ``fit`` convention, confidence 0 where not labelled.
        box_xyxy_px: (4,) of the person; the box of the labelled points if None or not finite.

    Returns:
        0 to 1; NaN if fewer than three points are labelled or the box is empty.
    """
    points, labels = np.asarray(points_px, np.float64), np.asarray(labels, np.float64)
    present = labels[:, 2] > 0
    if box_xyxy_px is None or not np.isfinite(box_xyxy_px).all():
        if not present.any():
            return float("nan")
        seen = labels[present, :2]
        box_xyxy_px = np.concatenate([seen.min(0), seen.max(0)])
    x0, y0, x1, y1 = np.asarray(box_xyxy_px, np.float64)
    area = _AREA_OF_BOX * max(x1 - x0, 0) * max(y1 - y0, 0)
    is_labelled = present[_ROWS]
    if is_labelled.sum() < 3 or not area > 0:
        return float("nan")
    found, wanted = points[_ROWS][is_labelled], labels[_ROWS][is_labelled]
    square = np.square(found[:, :2] - wanted[:, :2]).sum(1)
    if found.shape[1] == 3:
        square = np.where(found[:, 2] > 0, square, np.inf)
    square = np.where(np.isfinite(square), square, np.inf)
    return float(np.exp(-square / (2 * area * (2 * COCO_SIGMAS[is_labelled]) ** 2)).mean())
