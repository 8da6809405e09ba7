"""Levenberg-Marquardt for many small problems at once.

Each person of the batch has its own damping, accepts or rejects its own steps and leaves the batch
when it is done, so that nobody waits for the hardest one and nobody's result depends on the others.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fitting.energy import Energy, Quadratic

_DAMPING_START = 1e-2
_DAMPING_MIN, _DAMPING_MAX = 1e-6, 1e8
_COMPACT_EVERY = 4  # iterations between the points where finished persons leave the batch


@dataclass(frozen=True, eq=False)
class Solution:
    """Where the solver stopped.

    Attributes:
        x: (B, size) states.
        energy: (B,), terms: (B, T).
        iterations: (B,) int64.
        converged: (B,) bool: stopped because the energy no longer fell.
    """

    x: Tensor
    energy: Tensor
    terms: Tensor
    iterations: Tensor
    converged: Tensor


def minimise(
    energy: Energy,
    x: Tensor,
    step: Callable[[Tensor, Tensor], Tensor],
    *,
    iterations: int,
    tolerance: float,
) -> Solution:
    """Minimise the energy from the states ``x``.

    A step d solves (A + l diag A) d = -g (Marquardt 1963). It is taken if it lowers the energy;
    then the damping l falls, else it grows. One evaluation an iteration: the energy, gradient and
    matrix of the trial state are computed together, since most steps are taken.

    Args:
        energy: Of the whole batch.
        x: (B, size).
        step: Adds an increment (B, size) to states.
        iterations: Most evaluations after the first.
        tolerance: Stop a person when a step lowers its energy by less than this part of it.
    """
    total = x.shape[0]
    alive = torch.arange(total, device=x.device)
    out_x = x.clone()
    here: Quadratic = energy(x)
    out_energy, out_terms = here.energy.clone(), here.terms.clone()
    out_iterations = torch.zeros(total, dtype=torch.int64, device=x.device)
    out_converged = torch.zeros(total, dtype=torch.bool, device=x.device)
    damping = torch.full((total,), _DAMPING_START, dtype=x.dtype, device=x.device)
    done = ~torch.isfinite(here.energy)

    for iteration in range(iterations):
        if iteration % _COMPACT_EVERY == 0 and bool(done.any()):
            keep = torch.nonzero(~done)[:, 0]
            if not len(keep):
                break
            alive, x, damping, done = alive[keep], x[keep], damping[keep], done[keep]
            here, energy = here.take(keep), energy.take(keep)
        diagonal = torch.diagonal(here.matrix, dim1=1, dim2=2)
        floor = 1e-6 * diagonal.amax(1, keepdim=True)
        damped = here.matrix + torch.diag_embed(damping[:, None] * diagonal + floor)
        factor, failed = torch.linalg.cholesky_ex(damped)
        delta = -torch.cholesky_solve(here.gradient[..., None], factor)[..., 0]
        trial = step(x, energy.widen(delta))
        there = energy(trial)

        better = (there.energy < here.energy) & (failed == 0) & ~done
        fall = (here.energy - there.energy) / here.energy.clamp_min(1e-12)
        # What the quadratic model promises; once that is nothing, rounding decides who is better.
        promise = -(here.gradient * delta).sum(1) / here.energy.clamp_min(1e-12)
        small = (better & (fall < tolerance)) | (~done & (failed == 0) & (promise < tolerance))
        out_iterations[alive] += (~done).long()
        x = torch.where(better[:, None], trial, x)
        here = there.where(better, here)
        damping = torch.where(better, damping / 4, damping * 6)
        stuck = ~better & (damping > _DAMPING_MAX)
        damping = damping.clamp(_DAMPING_MIN, _DAMPING_MAX)
        done = done | small | stuck
        out_converged[alive] |= small | stuck
        out_x[alive], out_energy[alive], out_terms[alive] = x, here.energy, here.terms
    return Solution(out_x, out_energy, out_terms, out_iterations, out_converged)
