"""Losses by name, masked, with reductions that are written down.

ExPose sums over joints and divides by the batch's size only; released weights depend on that, so
``reduction="sum"`` is its. ``"mean"`` divides by the number of labels that are there instead, which
keeps a term's size whatever is missing.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["sum", "mean"]


def masked(values: Tensor, weight: Tensor, reduction: Reduction) -> Tensor:
    """Reduce (B, ...) values by weights that broadcast to them: a scalar.

    ``sum``: over everything, divided by B. ``mean``: the weighted mean; 0 where nothing is known.
    """
    weight = weight.expand_as(values)
    # a missing label may be NaN, and NaN times 0 is NaN
    total = torch.where(weight > 0, values * weight, 0).sum()
    if reduction == "sum":
        return total / len(values)
    return total / weight.sum().clamp_min(1e-6)


def keypoint_loss(points: Tensor, target: Tensor, weight: Tensor, reduction: Reduction) -> Tensor:
    """L1 between (B, P, D) points; weight (B, P)."""
    return masked((points - target).abs().sum(-1), weight, reduction)


def centred_keypoint_loss(
    points: Tensor, target: Tensor, weight: Tensor, reduction: Reduction
) -> Tensor:
    """``keypoint_loss`` of points around their weighted middle, targets around theirs."""
    share = (weight / weight.sum(-1, keepdim=True).clamp_min(1e-6))[..., None]
    target = torch.where(weight[..., None] > 0, target, 0)  # a missing label may be NaN
    points = points - (share * points).sum(-2, keepdim=True)
    target = target - (share * target).sum(-2, keepdim=True)
    return keypoint_loss(points, target, weight, reduction)


def rotation_angle(a: Tensor, b: Tensor) -> Tensor:
    """(..., 3, 3) x 2 -> (...) geodesic distance in radians, with a finite slope everywhere.

    From the chord rather than the arc cosine of the trace, whose slope is infinite at both ends.
    """
    chord = (a - b).square().sum((-1, -2)).clamp_min(1e-12).sqrt()
    return 2 * torch.asin((chord / 8**0.5).clamp_max(1 - 1e-6))


def rotation_loss(
    rotations: Tensor, target: Tensor, weight: Tensor, reduction: Reduction
) -> Tensor:
    """Geodesic angle between (B, J, 3, 3) rotations; weight (B, J)."""
    return masked(rotation_angle(rotations, target), weight, reduction)


def squared_loss(values: Tensor, target: Tensor, weight: Tensor, reduction: Reduction) -> Tensor:
    """Squared difference of (B, N) coefficients, summed over N; weight (B,)."""
    return masked((values - target).square().sum(-1), weight, reduction)


def shape_margin_loss(betas: Tensor, margin: float = 3.0) -> Tensor:
    """ExPose's prior: squared excess of |beta| over the margin, summed, divided by B."""
    return (betas.abs() - margin).clamp_min(0).square().sum() / len(betas)


def place_loss(log_share: Tensor, target: Tensor, weight: Tensor, reduction: Reduction) -> Tensor:
    """Cross-entropy of maps with blots of one cell's deviation around the true places.

    Distances between means alone start with hardly a slope; this finds the places first.

    Args:
        log_share: (B, J, H, W) logarithm of distributions.
        target: (B, J, 2) in [-1, 1] over the map.
        weight: (B, J).
        reduction: See ``masked``.
    """
    height, width = log_share.shape[-2:]
    size = target.new_tensor([width, height])
    cell = (target + 1) / 2 * size - 0.5  # where cells' middles are whole numbers
    across = torch.arange(width, device=target.device) - cell[..., :1]
    down = torch.arange(height, device=target.device) - cell[..., 1:]
    blot = torch.exp(-0.5 * (down.square()[..., :, None] + across.square()[..., None, :]))
    blot = blot / blot.sum((-1, -2), keepdim=True).clamp_min(1e-12)
    return masked(-(blot * log_share).sum((-1, -2)), weight, reduction)


@dataclass(frozen=True)
class LossWeights:
    """ExPose's released weights."""

    body_2d: float = 1.0
    """2D points of all parts in units of the body's crop."""
    part_2d: float = 1.0
    """2D points of hands and head, each in units of its own crop (equation 10)."""
    part_2d_centred: float = 0.0
    """The same around the part's middle, which a body that stands a bit off does not drown (not in
    ExPose, whose body networks are trained for longer)."""
    body_3d: float = 1.0
    part_3d: float = 0.0
    rotations: float = 1.0
    expression: float = 1.0
    betas: float = 0.001
    betas_margin: float = 1.0
    alone_2d: float = 1.0
    """Hands and heads alone: 2D points in units of their crop."""
    alone_3d: float = 0.0
    """3D points around their middle (released: 1 for hands, but from a step never reached)."""
    alone_rotations: float = 1.0
    alone_expression: float = 1.0
    alone_betas: float = 1.0
    part_points_in_body: float = 1.0
    """Of points of hands and face within ``body_2d``; they are 93 of 127."""
    root: float = 1.0
    """Of the root's rotation within ``rotations``."""
    fingers: float = 1.0
    """Of the fingers' within ``rotations``; they are 30 of 55."""
    joint_places: float = 1.0
    """2D of JointPool in units of the crop, where there is one (not in ExPose)."""
    joint_maps: float = 1.0
    """The cross-entropy of its maps."""
    joint_depths: float = 1.0
    """Its depths, metres."""
    reduction: Reduction = "sum"
