"""How a person's keypoints are shown to the lifter: as rays of a camera that looks at them.

Where a person stands in the picture and how long the lens is should not matter, so the keypoints
become rays, the rays are turned until the middle of the person lies on the optical axis, and their
spread is taken out. What is left is the person's silhouette of points in units of its own size;
the spread itself (an angle) goes along as one number, for it tells how strong the perspective is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_CONFIDENCE = 0.1


@dataclass(frozen=True, eq=False)
class View:
    """What the lifter sees of B persons.

    Attributes:
        features: (B, 3 P + 1) normalised x, y of each point, 0 where unseen; confidences; the
            logarithm of the spread.
        rotation: (B, 3, 3) from the real camera's frame to that of the camera that looks at them.
        spread: (B,) root mean square distance of the rays from the axis, tangent of an angle.
    """

    features: Tensor
    rotation: Tensor
    spread: Tensor


def look_at(rays: Tensor, confidence: Tensor) -> View:
    """Turn the camera to the person and normalise.

    Args:
        rays: (B, P, 2) x / z and y / z of the points in the real camera's frame.
        confidence: (B, P); below MIN_CONFIDENCE a point counts as unseen.
    """
    seen = (confidence >= MIN_CONFIDENCE) & torch.isfinite(rays).all(-1)
    weight = torch.where(seen, confidence, 0).clamp_max(1)
    rays = torch.where(seen[..., None], rays, 0)
    total = weight.sum(1, keepdim=True).clamp_min(1e-6)
    middle = (weight[..., None] * rays).sum(1) / total

    rotation = _towards(middle)
    directions = torch.cat([rays, torch.ones_like(rays[..., :1])], -1) @ rotation.mT
    points = directions[..., :2] / directions[..., 2:].clamp_min(0.05)
    points = torch.where(seen[..., None], points, 0)
    spread = ((weight * points.square().sum(-1)).sum(1) / total[:, 0]).sqrt().clamp_min(1e-4)
    points = (points / spread[:, None, None]).clamp(-6, 6)
    features = torch.cat([points.flatten(1), weight, spread.log()[:, None]], 1)
    return View(features, rotation, spread)


def _towards(middle: Tensor) -> Tensor:
    """(B, 2) rays -> (B, 3, 3) the shortest turn that brings them onto the optical axis."""
    direction = torch.nn.functional.pad(middle, (0, 1), value=1.0)
    x, y, z = (direction / direction.norm(dim=-1, keepdim=True)).unbind(-1)
    # Rodrigues' formula for the turn from (x, y, z) to (0, 0, 1); z > 0, so 1 + z is far from 0
    k = 1 / (1 + z)
    rows = [1 - k * x * x, -k * x * y, -x, -k * x * y, 1 - k * y * y, -y, x, y, z]
    return torch.stack(rows, -1).view(-1, 3, 3)
