"""3D keypoints as a target: motion capture, depth cameras, triangulation, lifters."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bodymodel.sliced import SlicedState, sliced_jacobian
from fitting.energy import Energy
from fitting.rigid import align, without_rigid_motion

__all__ = ["UNITS_PER_M", "Points3DTerm"]

UNITS_PER_M = 1000 / (1.25 * 1.7)
"""A residual of one metre counts like one of this many units in the image: a metre of a person of
usual stature is seen as that many."""


@dataclass(frozen=True, eq=False)
class Points3DTerm:
    """E = sum w rho(|p - q|), p the body's points and q where they should be.

    rho is Geman-McClure's function per point. Where the frame of q is free, q is first laid on p by
    the rigid motion that fits best, so that only the pose within the body counts; rho is then the
    square, for which that motion is known in closed form.

    Attributes:
        points: (B, P, 3) metres.
        weights: (B, P) of the squared residuals.
        is_free: (B,) whether the frame of the points is unknown.
        robust_m: Scale of the Geman-McClure function.
    """

    points: Tensor
    weights: Tensor
    is_free: Tensor
    robust_m: float = 0.3

    name = "points_3d"

    def take(self, index: Tensor) -> "Points3DTerm":
        """Return it for some of the persons."""
        return replace(
            self,
            points=self.points[index],
            weights=self.weights[index],
            is_free=self.is_free[index],
        )

    def at(self, index: Tensor) -> "Points3DTerm":
        """Return it for some of the points, those of a limb; in a free frame they say nothing."""
        weights = torch.where(self.is_free[:, None], 0.0, self.weights[:, index])
        return replace(self, points=self.points[:, index], weights=weights)

    def add(
        self, energy: Energy, x: Tensor, state: SlicedState, gradient: Tensor, matrix: Tensor
    ) -> Tensor:
        """Add to half the gradient and to J^T J; see fitting.energy.Term."""
        batch, count = self.weights.shape
        rotation, shift = align(self.points, state.points, self.weights)
        moved = self.points @ rotation.mT + shift[:, None]
        free = self.is_free[:, None, None]
        target = torch.where(free, moved, self.points)
        away = (state.points - target) * UNITS_PER_M
        square = away.square().sum(-1)
        rho2 = (self.robust_m * UNITS_PER_M) ** 2
        inlier = torch.where(self.is_free[:, None], 1.0, rho2 / (rho2 + square))
        root_weight = self.weights.sqrt() * inlier
        eye = torch.eye(3, dtype=x.dtype, device=x.device).expand(batch, count, 3, 3)
        rows = eye * (UNITS_PER_M * root_weight)[..., None, None]
        jacobian = energy.columns(
            *sliced_jacobian(energy.sliced, state, rows, root_on_manifold=True)
        )
        if self.is_free.any():
            inner = without_rigid_motion(jacobian, target, root_weight)
            jacobian = torch.where(free, inner, jacobian)
        weighted = (root_weight[..., None] * away).flatten(1)
        gradient += (jacobian.mT @ weighted[..., None])[..., 0]
        matrix += jacobian.mT @ jacobian
        return (self.weights * square * inlier).sum(1)
