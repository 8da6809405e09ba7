"""The regressors' camera, and the way to a perspective camera in the whole picture.

A crop is seen by a scaled orthographic camera: ``x = s (X_xy + t)`` in [-1, 1] over the crop, with
``s = softplus(raw)`` so that it stays positive.
"""

import math

import torch
from torch import Tensor

from regressor.crops import AffineCrop


def inverse_softplus(scale: float) -> float:
    """Return the raw value whose softplus is ``scale``."""
    return math.log(math.expm1(scale))


def project_weak(points: Tensor, camera: Tensor) -> Tensor:
    """Project with raw weak-perspective cameras.

    Args:
        points: (..., P, 3) metres, camera axes (x right, y down).
        camera: (..., 3) raw scale, shift x, shift y (metres).

    Returns:
        (..., P, 2) in [-1, 1] over the crop.
    """
    scale = torch.nn.functional.softplus(camera[..., None, :1])
    return scale * (points[..., :2] + camera[..., None, 1:])


def to_perspective(camera: Tensor, crop: AffineCrop, focal_px: Tensor, center_px: Tensor) -> Tensor:
    """Return the translation with which a perspective camera sees nearly the same.

    The person's own depth is small against the distance, so a scale is a distance: a metre that is
    ``s side / 2`` pixels long is ``2 f / (s side)`` metres away.

    Args:
        camera: (B, 3) raw.
        crop: Of the picture; unrotated.
        focal_px: (B,) of the whole picture.
        center_px: (B, 2) its principal point.

    Returns:
        (B, 3) metres, to be added to the points.
    """
    scale = torch.nn.functional.softplus(camera[:, 0])
    depth = 2 * focal_px / (scale * crop.side_px)
    aside = (crop.center_px - center_px) * (depth / focal_px)[:, None]
    return torch.cat([camera[:, 1:] + aside, depth[:, None]], -1)
