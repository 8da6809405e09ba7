"""Frames of one person solved together: one shape, one focal length, smooth motion.

The energy is the sum of the frames' and sum_tu M_tu (p_t . p_u + q_t . D q_u), with p the body's
joints in space, q the other unknowns, and M the squared second differences over time. Gauss-Newton
then has a matrix with a band of five blocks, one a frame, and a border for what is shared:

    [ B   C ] [ frames ]       B x = b by block Cholesky, in time proportional to the frames;
    [ C^T S ] [ shared ]       the border by its Schur complement S - C^T B^-1 C.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bodymodel.sliced import SlicedBody, sliced_forward, sliced_jacobian
from fitting.clip_config import ClipConfig
from fitting.energy import Energy
from fitting.points3d import UNITS_PER_M

__all__ = ["ClipSolution", "choose_path", "minimise_clip", "motion_matrix"]

_DAMPING_START, _DAMPING_MAX = 1e-3, 1e8


@dataclass(frozen=True, eq=False)
class ClipSolution:
    """Where the joint solver stopped.

    Attributes:
        x: (T, size), the shared unknowns equal in all frames.
        iterations: How many it took.
        converged: Whether the energy no longer fell.
    """

    x: Tensor
    iterations: int
    converged: bool


def motion_matrix(frames: Sequence[int], longest_gap: int) -> Tensor:
    """Return (T, T) M such that sum M_tu p_t p_u is the squared second differences of p.

    Args:
        frames: Increasing numbers, T.
        longest_gap: Differences across a longer one are left out.
    """
    count = len(frames)
    out = torch.zeros(count, count, dtype=torch.float64)
    for k in range(1, count - 1):
        before, after = frames[k] - frames[k - 1], frames[k + 1] - frames[k]
        if max(before, after) > longest_gap:
            continue
        mean = (before + after) / 2
        row = torch.zeros(count, dtype=torch.float64)
        row[k - 1], row[k + 1] = 1 / (before * mean), 1 / (after * mean)
        row[k] = -row[k - 1] - row[k + 1]
        out += mean * row[:, None] * row  # a longer time says less of the acceleration
    return out


def choose_path(
    energy: Tensor, joints: Tensor, frames: Sequence[int], config: ClipConfig
) -> Tensor:
    """Choose one answer a frame, so that few jump (Viterbi 1967).

    Args:
        energy: (T, C) of the answers, infinite for none.
        joints: (T, C, J, 3) their joints, metres.
        frames: Increasing numbers, T.
        config: What a jump is.

    Returns:
        (T,) which answer.
    """
    reach = (config.step_m * UNITS_PER_M) ** 2
    cost, back = energy[0], []
    for t in range(1, len(energy)):
        gap = frames[t] - frames[t - 1]
        step = (joints[t][None] - joints[t - 1][:, None]) * (UNITS_PER_M / gap)  # (C, C, J, 3)
        square = step.square().sum(-1)
        jump = (square * reach / (square + reach)).sum(-1)
        if gap > config.longest_gap:
            jump = torch.zeros_like(jump)
        total, best = (cost[:, None] + jump).min(0)
        cost = total + energy[t]
        back.append(best)
    path = [int(cost.argmin())]
    for best in reversed(back):
        path.append(int(best[path[-1]]))
    return torch.tensor(path[::-1], device=energy.device)


@dataclass(frozen=True, eq=False)
class _System:
    """Normal equations: bands (T, n, n) of distance 0, 1, 2; border (T, n, m); shared (m, m)."""

    energy: float
    bands: tuple[Tensor, Tensor, Tensor]
    border: Tensor
    shared: Tensor
    pull: Tensor
    shared_pull: Tensor


def minimise_clip(
    energy: Energy,
    x: Tensor,
    joints: SlicedBody,
    motion: Tensor,
    shared: Tensor,
    config: ClipConfig,
    tolerance: float = 1e-5,
) -> ClipSolution:
    """Minimise the energy of all frames together (Levenberg-Marquardt).

    Args:
        energy: Of the T frames.
        x: (T, size); the shared unknowns must be equal in all.
        joints: The body reduced to the points whose motion is smooth.
        motion: (T, T) of motion_matrix.
        shared: Positions of the shared unknowns.
        config: Weights.
        tolerance: Stop when a step lowers the energy by less than this part.
    """
    size = energy.layout.size
    is_local = torch.ones(size, dtype=torch.bool, device=x.device)
    is_local[shared] = False
    local = torch.nonzero(is_local)[:, 0]
    motion = motion.to(x)
    here = _system(energy, x, joints, motion, local, shared, config)
    damping, converged, spent = _DAMPING_START, False, 0
    while spent < config.iterations and not converged:
        spent += 1
        step = _solve(here, damping)
        if step is None:
            damping *= 10
            converged = damping > _DAMPING_MAX
            continue
        own, common = step
        delta = x.new_zeros(len(x), size)
        delta[:, local], delta[:, shared] = own, common
        trial = energy.layout.step(x, delta)
        there = _system(energy, trial, joints, motion, local, shared, config)
        fall = (here.energy - there.energy) / max(here.energy, 1e-12)
        if fall > 0:
            x, here, damping = trial, there, max(damping / 5, 1e-8)
            converged = fall < tolerance
        else:
            damping *= 8
            converged = damping > _DAMPING_MAX
    return ClipSolution(x, spent, converged)


def _weights(energy: Energy, local: Tensor, config: ClipConfig) -> Tensor:
    """(n,) of the second differences of the local unknowns themselves."""
    layout = energy.layout
    out = torch.zeros(layout.size, dtype=layout.hand_means.dtype, device=local.device)
    for name, weight in (
        ("body_pose", config.w_turns), ("jaw_pose", config.w_details),
        ("leye_pose", config.w_details), ("reye_pose", config.w_details),
        ("left_hand_pca", config.w_details), ("right_hand_pca", config.w_details),
        ("expression", config.w_expression),
    ):  # fmt: skip
        out[layout.slices[name]] = weight
    return out[local]


def _system(
    energy: Energy,
    x: Tensor,
    joints: SlicedBody,
    motion: Tensor,
    local: Tensor,
    shared: Tensor,
    config: ClipConfig,
) -> _System:
    layout, count = energy.layout, len(x)
    at = energy(x)
    state = sliced_forward(joints, layout.full_pose(x), layout.shape(x), layout.transl(x))
    eye = torch.eye(3, dtype=x.dtype, device=x.device)
    rows = eye.expand(count, len(joints.points), 3, 3).contiguous()
    jacobian = energy.columns(*sliced_jacobian(joints, state, rows, root_on_manifold=True))
    scale = UNITS_PER_M * config.w_motion**0.5
    places, jacobian = scale * state.points.flatten(1), scale * jacobian
    mine, common = jacobian[..., local], jacobian[..., shared]
    details = _weights(energy, local, config)

    uneven = motion @ places  # (T, 3 J)
    moved = motion @ (x[:, local] * details)
    total = at.energy.sum() + (places * uneven).sum() + (x[:, local] * moved).sum()
    pull = at.gradient[:, local] + (mine.mT @ uneven[..., None])[..., 0] + moved
    shared_pull = at.gradient[:, shared].sum(0) + (common.mT @ uneven[..., None])[..., 0].sum(0)

    bands = []
    for distance in range(3):
        factor = torch.diagonal(motion, distance)[:, None, None]
        first = mine[: count - distance] if distance < count else mine[:0]
        band = factor * (first.mT @ mine[distance:]) + factor * torch.diag(details)
        bands.append(band)
    bands[0] = bands[0] + at.matrix[:, local[:, None], local]
    tied = torch.einsum("tu,urm->trm", motion, common)
    border = at.matrix[:, local[:, None], shared] + mine.mT @ tied
    corner = at.matrix[:, shared[:, None], shared].sum(0) + (common.mT @ tied).sum(0)
    return _System(float(total), tuple(bands), border, corner, pull, shared_pull)


def _solve(system: _System, damping: float) -> tuple[Tensor, Tensor] | None:
    """Return the step of the frames (T, n) and of the shared unknowns (m,), None if singular."""
    (own, next_, over), border = system.bands, system.border
    count, size = border.shape[:2]

    def stiffer(matrix: Tensor) -> Tensor:
        diagonal = torch.diagonal(matrix, dim1=-2, dim2=-1)
        more = damping * diagonal + 1e-9 * diagonal.amax(-1, keepdim=True)
        return matrix + torch.diag_embed(more)

    own, corner = stiffer(own), stiffer(system.shared)
    right = torch.cat([border, system.pull[..., None]], 2)  # (T, n, m + 1)
    # pairs of frames: five bands of blocks become three
    pairs = (count + 1) // 2
    eye = torch.eye(size, dtype=own.dtype, device=own.device)
    zero = torch.zeros_like(eye)
    factors, below, middle = [], [], []
    for k in range(pairs):
        a, b = 2 * k, 2 * k + 1
        has = b < count
        block = torch.cat(
            [
                torch.cat([own[a], next_[a] if has else zero], 1),
                torch.cat([next_[a].mT if has else zero, own[b] if has else eye], 1),
            ]
        )
        sides = torch.cat([right[a], right[b] if has else torch.zeros_like(right[a])])
        if k:
            # from the pair before (p, q) to this one (a, b)
            down = torch.cat(
                [
                    torch.cat([over[a - 2].mT, next_[a - 1].mT], 1),
                    torch.cat([zero, over[a - 1].mT if has else zero], 1),
                ]
            )
            left = torch.linalg.solve_triangular(factors[-1], down.mT, upper=False)
            below.append(left)
            block = block - left.mT @ left
            sides = sides - left.mT @ middle[-1]
        factor, failed = torch.linalg.cholesky_ex(block)
        if failed:
            return None
        factors.append(factor)
        middle.append(torch.linalg.solve_triangular(factor, sides, upper=False))
    found: list[Tensor] = []
    for k in reversed(range(pairs)):
        sides = middle[k]
        if found:
            sides = sides - below[k] @ found[-1]
        found.append(torch.linalg.solve_triangular(factors[k].mT, sides, upper=True))
    inner = torch.cat(found[::-1]).view(2 * pairs, size, -1)[:count]
    by_shared, by_pull = inner[..., :-1], inner[..., -1]
    rest = corner - (border.mT @ by_shared).sum(0)
    missing = system.shared_pull - (border.mT @ by_pull[..., None])[..., 0].sum(0)
    factor, failed = torch.linalg.cholesky_ex(rest)
    if failed:
        return None
    common = -torch.cholesky_solve(missing[:, None], factor)[:, 0]
    return -by_pull - by_shared @ common, common
