"""The field's error measures, in millimetres and pixels, for any leading batch dimensions.

Points come in metres. An item whose points are not finite, or that has no valid point, gets NaN and
disturbs no other. Alignment is said by the name: none, at a root, or Procrustes (PA), which is
fitted on the very points that are measured.
"""

import torch
from torch import Tensor

_MM = 1000.0


def _pair(predicted: Tensor, truth: Tensor) -> None:
    if predicted.shape[-1] != 3 or predicted.shape[-2:] != truth.shape[-2:]:
        raise ValueError(
            "predicted and truth must both be (..., K, 3), "
            f"got {tuple(predicted.shape)} and {tuple(truth.shape)}"
        )


def _weights(points: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return torch.ones(points.shape[:-1], dtype=points.dtype, device=points.device)
    if valid.shape[-1] != points.shape[-2]:
        raise ValueError(
            f"valid must be (..., {points.shape[-2]}), one flag a point, got {tuple(valid.shape)}"
        )
    return valid.to(points.dtype).expand(points.shape[:-1])


def _mean_distance(a: Tensor, b: Tensor, valid: Tensor | None) -> Tensor:
    distance = torch.linalg.vector_norm(a - b, dim=-1)
    weights = _weights(distance[..., None], valid)
    distance = torch.where(weights > 0, distance, torch.zeros_like(distance))
    return (distance * weights).sum(-1) / weights.sum(-1)  # 0 / 0 is the NaN that is meant


def align_root(points: Tensor, root: int | tuple[int, ...]) -> Tensor:
    """Move points so that a joint, or the mean of several, is the origin.

    Args:
        points: (..., K, 3).
        root: Index of the joint, or indices of joints whose middle is meant (the two hips).

    Returns:
        (..., K, 3).
    """
    indices = [root] if isinstance(root, int) else list(root)
    return points - points[..., indices, :].mean(-2, keepdim=True)


def procrustes_align(source: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return ``source`` after the similarity that brings it closest to ``target``.

    Rotation, uniform scale and translation minimise the sum of squared distances (Umeyama 1991,
    eq. 39-42); a mirror image is never used.

    Args:
        source: (..., K, 3).
        target: (..., K, 3).
        valid: (..., K) bool, the points to fit on; all if None. All points are moved.

    Returns:
        (..., K, 3); NaN where an item's valid points are not finite or there are none.

    Raises:
        ValueError: If the shapes do not match.
    """
    _pair(source, target)
    shape = torch.broadcast_shapes(source.shape, target.shape)
    source, target = source.expand(shape), target.expand(shape)
    weights = _weights(source, valid)
    used = weights[..., None] > 0
    zero = torch.zeros((), dtype=source.dtype, device=source.device)
    a, b = torch.where(used, source, zero), torch.where(used, target, zero)
    # An SVD of anything not finite fails for the whole batch, so such items sit it out.
    good = torch.isfinite(a).all((-1, -2)) & torch.isfinite(b).all((-1, -2)) & used.any((-1, -2))
    a, b = (torch.where(good[..., None, None], x, zero) for x in (a, b))

    w = weights[..., None] / weights.sum(-1).clamp(min=1)[..., None, None]
    mean_a, mean_b = (a * w).sum(-2, keepdim=True), (b * w).sum(-2, keepdim=True)
    a, b = (a - mean_a) * used, (b - mean_b) * used
    variance = (w * a * a).sum((-1, -2))
    u, singular, vh = torch.linalg.svd(b.mT @ (w * a))
    sign = torch.ones_like(singular)
    sign[..., 2] = torch.where(torch.linalg.det(u @ vh) < 0, -1.0, 1.0)
    rotation = (u * sign[..., None, :]) @ vh
    # Points that all coincide have no size to scale.
    scale = (singular * sign).sum(-1) / torch.where(
        variance > 0, variance, torch.ones_like(variance)
    )
    moved = scale[..., None, None] * ((source - mean_a) @ rotation.mT) + mean_b
    return torch.where(good[..., None, None], moved, torch.full_like(moved, torch.nan))


def mpjpe_mm(
    predicted: Tensor,
    truth: Tensor,
    root: int | tuple[int, ...] | None = 0,
    valid: Tensor | None = None,
) -> Tensor:
    """Return the mean per-joint position error after alignment at the root.

    Args:
        predicted: (..., K, 3) metres.
        truth: (..., K, 3) metres.
        root: Joint(s) whose middle is put in the same place; None for no alignment. Protocols
            differ: say which with the number.
        valid: (..., K) bool, the joints to measure; all if None. The root is used regardless.

    Returns:
        (...) millimetres.

    Raises:
        ValueError: If the shapes do not match.
    """
    _pair(predicted, truth)
    if root is not None:
        predicted, truth = align_root(predicted, root), align_root(truth, root)
    return _MM * _mean_distance(predicted, truth, valid)


def pa_mpjpe_mm(predicted: Tensor, truth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the mean per-joint position error after Procrustes alignment.

    Args:
        predicted: (..., K, 3) metres.
        truth: (..., K, 3) metres.
        valid: (..., K) bool, the joints to align and measure; all if None.

    Returns:
        (...) millimetres.

    Raises:
        ValueError: If the shapes do not match.
    """
    return _MM * _mean_distance(procrustes_align(predicted, truth, valid), truth, valid)


def pve_mm(
    predicted: Tensor,
    truth: Tensor,
    predicted_root: Tensor | None = None,
    true_root: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Return the mean per-vertex error, aligned at a root point if the roots are given.

    Args:
        predicted: (..., V, 3) metres, in vertex correspondence with ``truth``.
        truth: (..., V, 3) metres.
        predicted_root: (..., 3), the joint of the prediction to align at (pelvis; a wrist for a
            hand, the neck for a face).
        true_root: (..., 3), the same of the truth.
        valid: (..., V) bool, the part to measure; all if None.

    Returns:
        (...) millimetres.

    Raises:
        ValueError: If the shapes do not match, or only one root is given.
    """
    _pair(predicted, truth)
    if (predicted_root is None) != (true_root is None):
        raise ValueError("give both roots, or neither for no alignment")
    if predicted_root is not None and true_root is not None:
        predicted = predicted - predicted_root[..., None, :]
        truth = truth - true_root[..., None, :]
    return _MM * _mean_distance(predicted, truth, valid)


def pa_pve_mm(predicted: Tensor, truth: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the mean per-vertex error after Procrustes alignment on the same vertices.

    Args:
        predicted: (..., V, 3) metres, in vertex correspondence with ``truth``.
        truth: (..., V, 3) metres.
        valid: (..., V) bool, the part to align and measure; all if None.

    Returns:
        (...) millimetres.

    Raises:
        ValueError: If the shapes do not match.
    """
    return pa_mpjpe_mm(predicted, truth, valid)


def reproj_px(projected_2d: Tensor, keypoints_2d: Tensor, min_confidence: float = 0.0) -> Tensor:
    """Return the mean distance in pixels to the points that were seen.

    Args:
        projected_2d: (..., K, 2) pixels.
        keypoints_2d: (..., K, 3) x px, y px, confidence.
        min_confidence: Points of no more confidence are left out.

    Returns:
        (...) pixels, NaN where no point was seen.

    Raises:
        ValueError: If the shapes do not match.
    """
    if (
        projected_2d.shape[-1] != 2
        or keypoints_2d.shape[-1] != 3
        or projected_2d.shape[-2] != keypoints_2d.shape[-2]
    ):
        raise ValueError(
            "projected_2d must be (..., K, 2) and keypoints_2d (..., K, 3), "
            f"got {tuple(projected_2d.shape)} and {tuple(keypoints_2d.shape)}"
        )
    seen = keypoints_2d[..., 2] > min_confidence
    return _mean_distance(projected_2d, keypoints_2d[..., :2], seen)
