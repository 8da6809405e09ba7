"""How sure a fit is of each joint: covariances from the Gauss-Newton matrix at the solution.

Near its minimum the energy is d^T A d with A = D + P, D from what is seen and P from what is
expected. If the points err by sigma_d in the units of their weighted residuals, and people
deviate from the priors' expectations by sigma_p, the solution errs by

    C = A^-1 (sigma_d^2 D + sigma_p^2 P) A^-1,

and a joint with Jacobian J by J C J^T (the "sandwich" of misspecified models, Huber 1967). sigma_d
is measured on each person's residuals, shrunk to the usual one; sigma_p is calibrated on made
people (tests/benchmarks/bench_uncertainty.py).

Hips and spine are so close to the pelvis that this leaves them almost no error, yet how a pelvis
tilts within a trunk is hardly seen: each joint gets the same small variance on top.

That is the spread about one answer. Which answer is right, limbs turned over in depth among them,
is uncertain as well: each answer that lost by little adds p (1 - p) d d^T, the variance of a choice
between two places that are d apart, p the loser's probability.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bodymodel.sliced import SlicedBody, sliced_forward, sliced_jacobian
from fitting.energy import Energy
from fitting.uncertainty import UncertaintyConfig

__all__ = ["Rivals", "joint_covariance", "relative_joints"]

_LEVER_M = 0.6  # from the hip to between knee and ankle, or a whole arm


@dataclass(frozen=True, eq=False)
class Rivals:
    """Answers that lost.

    Attributes:
        joints: (B, R, J, 3) where they have the joints, relative to the pelvis but for itself.
        excess: (B, R) by how much their energy is above the winner's; infinite for no rival.
    """

    joints: Tensor
    excess: Tensor


def relative_joints(places: Tensor) -> Tensor:
    """(..., J, 3) in the camera frame -> the pelvis as it is, the others relative to it."""
    return torch.cat([places[..., :1, :], places[..., 1:, :] - places[..., :1, :]], -2)


def data_variance(energy: Energy, x: Tensor, config: UncertaintyConfig) -> Tensor:
    """Return (B,) the mean square of the weighted residuals, shrunk to the usual one."""
    layout, evidence = energy.layout, energy.evidence
    points = sliced_forward(
        energy.sliced, layout.full_pose(x), layout.shape(x), layout.transl(x)
    ).points
    unit = evidence.unit[:, None, None]
    focal = (evidence.focal_px * layout.zoom(x))[:, None, None]
    seen = focal * points[..., :2] / points[..., 2:].clamp_min(0.1)
    residual = (seen - evidence.points_px + evidence.center_px[:, None]) * unit
    # outliers are the robust function's business, not noise
    square = residual.square().clamp_max(energy.stage.robust_px**2).mean(-1)
    count = evidence.weights.sum(1)
    total = (evidence.weights * square).sum(1)
    usual = config.data_strength
    return (total + usual * config.data_variance) / (count + usual)


def joint_covariance(
    energy: Energy,
    matrix: Tensor,
    x: Tensor,
    joints: SlicedBody,
    config: UncertaintyConfig,
    rivals: Rivals | None = None,
) -> Tensor:
    """Return the covariances of the joints at a solution.

    Args:
        energy: Of the last stage.
        matrix: (B, F, F), J^T J at the solution.
        x: (B, size) the solution.
        joints: The body reduced to J joints, the pelvis first.
        config: The calibration.
        rivals: Answers that lost, if there are any.

    Returns:
        (B, J, 3, 3) square metres in camera axes: the pelvis's place, and that of every other
        joint relative to the pelvis. NaN where the matrix is not positive definite.
    """
    layout, batch, count = energy.layout, len(x), len(joints.points)
    state = sliced_forward(joints, layout.full_pose(x), layout.shape(x), layout.transl(x))
    rows = torch.eye(3, dtype=x.dtype, device=x.device).expand(batch, count, 3, 3).contiguous()
    columns = energy.columns(*sliced_jacobian(joints, state, rows, root_on_manifold=True))
    columns = columns.view(batch, count, 3, -1)
    jacobian = torch.cat([columns[:, :1], columns[:, 1:] - columns[:, :1]], 1).flatten(1, 2)

    blind = replace(energy.evidence, weights=torch.zeros_like(energy.evidence.weights))
    prior = replace(energy, evidence=blind)(x).matrix
    lens = torch.zeros_like(matrix[0])
    lens[layout.log_focal, layout.log_focal] = 1  # empty where the focal length is known
    known = matrix[:, layout.log_focal, layout.log_focal] <= 0
    factor, failed = torch.linalg.cholesky_ex(matrix + known[:, None, None] * lens)
    spread = torch.cholesky_solve(jacobian.mT, factor)  # (B, F, 3 J), A^-1 J^T
    by_joint = spread.view(batch, -1, count, 3).transpose(1, 2)  # (B, J, F, 3)
    of_all = jacobian.view(batch, count, 3, -1) @ by_joint
    of_prior = by_joint.mT @ (prior @ spread).view(batch, -1, count, 3).transpose(1, 2)
    noise = config.data_factor * data_variance(energy, x, config)
    noise = noise[:, None, None, None]
    betas = by_joint[:, :, layout.slices["betas"]]
    of_shape = energy.stage.w_shape * (betas.mT @ betas)
    covariance = noise * (of_all - of_prior) + config.prior_variance * (of_prior - of_shape)
    covariance = covariance + config.shape_variance * of_shape
    # bones are rigid: a joint that swings far also comes nearer, which a tangent does not show.
    # Two angles of variance s^2 at a lever l: trace 2 l^2 s^2, and E[(l t^2 / 2)^2] = 2 l^2 s^4.
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    inward = trace[:, 1:].square() / (2 * _LEVER_M**2)
    unforeseen = (config.joint_mm / 1000) ** 2
    covariance[:, 1:].diagonal(dim1=-2, dim2=-1).add_(inward[..., None] + unforeseen)
    if rivals is not None:
        here = relative_joints(state.points)
        share = torch.sigmoid(-rivals.excess / config.rival_temperature)  # (B, R)
        away = rivals.joints - here[:, None]
        away = torch.where(torch.isfinite(rivals.excess)[..., None, None], away, 0.0)
        weight = (share * (1 - share))[..., None, None, None]
        covariance = covariance + (weight * away[..., None] * away[..., None, :]).sum(1)
    covariance = (covariance + covariance.mT) / 2
    return torch.where((failed == 0)[:, None, None, None], covariance, torch.nan)
