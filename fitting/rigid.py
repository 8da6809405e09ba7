"""The rigid motion between two sets of points, and what is left of derivatives without it."""

import torch
from torch import Tensor

from bodymodel.rotations import skew


def align(source: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rotation and translation that lay one set of points on another (Kabsch 1976).

    Args:
        source: (..., P, 3).
        target: (..., P, 3).
        weights: (..., P) of the squared distances.

    Returns:
        R (..., 3, 3) and t (..., 3) with target = R source + t.
    """
    share = (weights / weights.sum(-1, keepdim=True).clamp_min(1e-12))[..., None]
    from_mean, to_mean = (share * source).sum(-2), (share * target).sum(-2)
    cross = (share * (target - to_mean[..., None, :])).mT @ (source - from_mean[..., None, :])
    u, _, vt = torch.linalg.svd(cross)
    sign = torch.linalg.det(u @ vt)
    flip = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], -1)
    rotation = (u * flip[..., None, :]) @ vt
    return rotation, to_mean - (rotation @ from_mean[..., None])[..., 0]


def without_rigid_motion(jacobian: Tensor, places: Tensor, root_weight: Tensor) -> Tensor:
    """Take from weighted derivatives the part that a rigid motion would undo.

    With the motion at its best for every state (variable projection; Kaufman 1975), these are the
    derivatives of the weighted residuals that remain.

    Args:
        jacobian: (B, 3 P, F), rows times root_weight already.
        places: (B, P, 3) the points that would be moved.
        root_weight: (B, P).
    """
    batch, count = root_weight.shape
    total = root_weight.square().sum(1).clamp_min(1e-12)
    middle = (root_weight.square()[..., None] * places).sum(1) / total[:, None]
    eye = torch.eye(3, dtype=places.dtype, device=places.device).expand(batch, count, 3, 3)
    motion = torch.cat([skew(places - middle[:, None]), eye], -1)  # (B, P, 3, 6)
    motion = (motion * root_weight[..., None, None]).flatten(1, 2)
    normal = motion.mT @ motion
    # points on a line leave one turn open
    normal = normal + 1e-9 * total[:, None, None] * torch.eye(6).to(normal)
    return jacobian - motion @ torch.linalg.solve(normal, motion.mT @ jacobian)
