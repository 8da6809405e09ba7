"""Further calibrated photos of the same person at the same moment."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from bodymodel.sliced import SlicedState, sliced_jacobian
from fitting.energy import Energy
from fitting.records import FitTarget

__all__ = ["ViewsTerm", "stack_views", "triangulate"]

_NEAREST_M = 0.1


@dataclass(frozen=True, eq=False)
class ViewsTerm:
    """The reprojection error in V further views, robust as in the first.

    Attributes:
        points_px: (B, V, P, 2).
        weights: (B, V, P) of the squared residuals, 0 where a person has fewer views.
        focal_px: (B, V), center_px: (B, V, 2).
        rotation: (B, V, 3, 3), translation: (B, V, 3): from the first camera's frame to the view's.
        unit: (B, V) residual units per pixel.
    """

    points_px: Tensor
    weights: Tensor
    focal_px: Tensor
    center_px: Tensor
    rotation: Tensor
    translation: Tensor
    unit: Tensor

    name = "views"

    def take(self, index: Tensor) -> "ViewsTerm":
        """Return it for some of the persons."""
        return ViewsTerm(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def at(self, index: Tensor) -> "ViewsTerm":
        """Return it for some of the points."""
        return replace(
            self, points_px=self.points_px[:, :, index], weights=self.weights[:, :, index]
        )

    def add(
        self, energy: Energy, x: Tensor, state: SlicedState, gradient: Tensor, matrix: Tensor
    ) -> Tensor:
        """Add to half the gradient and to J^T J; see fitting.energy.Term."""
        rho2 = energy.stage.robust_px**2
        total = torch.zeros_like(x[:, 0])
        for v in range(self.weights.shape[1]):
            turn = self.rotation[:, v]
            points = state.points @ turn.mT + self.translation[:, v, None]
            depth = points[..., 2].clamp_min(_NEAREST_M)
            ray = points[..., :2] / depth[..., None]
            scale = (self.focal_px[:, v] * self.unit[:, v])[:, None]
            target = self.points_px[:, v] - self.center_px[:, v, None]
            residual = scale[..., None] * ray - target * self.unit[:, v, None, None]
            square = residual.square()
            inlier = rho2 / (rho2 + square)
            weights = self.weights[:, v, :, None]
            root_weight = weights.sqrt() * inlier
            rows = torch.zeros(*ray.shape[:2], 2, 3, dtype=x.dtype, device=x.device)
            rows[..., 0, 0] = rows[..., 1, 1] = 1
            rows[..., 2] = -ray
            rows = rows @ turn[:, None]
            rows = rows * (scale / depth)[..., None, None] * root_weight[..., None]
            jacobian = energy.columns(
                *sliced_jacobian(energy.sliced, state, rows, root_on_manifold=True)
            )
            weighted = (root_weight * residual).flatten(1)
            gradient += (jacobian.mT @ weighted[..., None])[..., 0]
            matrix += jacobian.mT @ jacobian
            total = total + (weights * square * inlier).sum((1, 2))
        return total


def triangulate(target: FitTarget, min_confidence: float) -> np.ndarray:
    """Place keypoints where their rays from the person's views meet, by least squares.

    Returns:
        (145, 4) x y z in metres, first camera's frame, and a confidence: 0 where fewer than two
        views see a point, or their rays are within 2 degrees of parallel.
    """
    views = [
        (target.keypoints_2d, target.focal_px, target.center_px, np.eye(3), np.zeros(3)),
        *(
            (v.keypoints_2d, v.focal_px, v.center_px, v.rotation, v.translation)
            for v in target.views
        ),
    ]
    normal, right, seen, mean_ray = np.zeros((145, 3, 3)), np.zeros((145, 3)), 0, 0
    for keypoints, focal_px, center_px, rotation, translation in views:
        points = np.asarray(keypoints, np.float64)
        weight = np.where(np.isfinite(points).all(-1), points[:, 2], 0)
        weight = np.where(weight >= min_confidence, weight, 0)
        pixels = np.where(weight[:, None] > 0, points[:, :2], 0)
        ray = np.column_stack([(pixels - center_px) / focal_px, np.ones(145)]) @ rotation
        ray /= np.linalg.norm(ray, axis=1, keepdims=True)
        across = np.eye(3) - ray[:, :, None] * ray[:, None]
        normal += weight[:, None, None] * across
        right += weight[:, None] * (across @ (-np.asarray(rotation).T @ translation))
        seen = seen + (weight > 0)
        mean_ray = mean_ray + weight[:, None] * ray
    smallest = np.linalg.eigvalsh(normal)[:, 0]
    ok = (seen >= 2) & (smallest > 1e-3)
    points = np.linalg.solve(np.where(ok[:, None, None], normal, np.eye(3)), right[..., None])
    return np.column_stack([np.where(ok[:, None], points[..., 0], 0), ok.astype(float)])


def stack_views(
    targets: Sequence[FitTarget], rows: list[int], min_confidence: float, own_weight: np.ndarray
) -> dict[str, np.ndarray]:
    """Gather the further views of B persons, padded to the most that one has.

    Args:
        targets: The persons.
        rows: Which of the 145 points, P.
        min_confidence: Points below it are not used.
        own_weight: (P,) of the points.

    Returns:
        The fields of ViewsTerm but ``unit``, as arrays.
    """
    batch, most = len(targets), max(len(t.views) for t in targets)
    out = {
        "points_px": np.zeros((batch, most, len(rows), 2)),
        "weights": np.zeros((batch, most, len(rows))),
        "focal_px": np.ones((batch, most)),
        "center_px": np.zeros((batch, most, 2)),
        "rotation": np.tile(np.eye(3), (batch, most, 1, 1)),
        "translation": np.zeros((batch, most, 3)),
    }
    for b, target in enumerate(targets):
        for v, view in enumerate(target.views):
            points = np.asarray(view.keypoints_2d, np.float64)[rows]
            seen = np.isfinite(points).all(-1) & (points[:, 2] >= min_confidence)
            points = np.where(seen[:, None], points, 0)
            out["points_px"][b, v] = points[:, :2]
            out["weights"][b, v] = points[:, 2] ** 2 * own_weight
            for name in ("focal_px", "center_px", "rotation", "translation"):
                out[name][b, v] = getattr(view, name)
    return out
