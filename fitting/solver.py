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
        energy: (B,).
        iterations: (B,) int64.
        converged: (B,) bool: stopped because the energy no longer fell.
    """

    x: Tensor
    energy: Tensor
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
    here: Quadratic = energy(x)
    out = Solution(
        x.clone(),
        here.energy.clone(),
        torch.zeros(total, dtype=torch.int64, device=x.device),
        torch.zeros(total, dtype=torch.bool, device=x.device),
    )
    damping = torch.full((total,), _DAMPING_START, dtype=x.dtype, device=x.device)
    done = ~torch.isfinite(here.energy)
    spent = out.iterations.clone()
    converged = out.converged.clone()

    def leave(who: Tensor) -> None:
        """Note where some of those who are alive have come to."""
        place = alive[who]
        out.x[place], out.energy[place] = x[who], here.energy[who]
        out.iterations[place], out.converged[place] = spent[who], converged[who]

    for iteration in range(iterations):
        if iteration % _COMPACT_EVERY == 0 and bool(done.any()):
            leave(torch.nonzero(done)[:, 0])
            keep = torch.nonzero(~done)[:, 0]
            alive, x, damping, done = alive[keep], x[keep], damping[keep], done[keep]
            spent, converged = spent[keep], converged[keep]
            if not len(keep):
                break
            here, energy = here.take(keep), energy.take(keep)
        damped = here.matrix.clone()
        diagonal = torch.diagonal(damped, dim1=1, dim2=2)
        diagonal += damping[:, None] * diagonal + 1e-6 * diagonal.amax(1, keepdim=True)
        factor, failed = torch.linalg.cholesky_ex(damped)
        delta = -torch.cholesky_solve(here.gradient[..., None], factor)[..., 0]
        trial = step(x, energy.widen(delta))
        there = energy(trial)

        active = (failed == 0) & ~done
        better = (there.energy < here.energy) & active
        scale = here.energy.clamp_min(1e-12)
        fall = (here.energy - there.energy) / scale
        # What the quadratic model promises; once that is nothing, rounding decides who is better.
        promise = -(here.gradient * delta).sum(1) / scale
        small = (better & (fall < tolerance)) | (active & (promise < tolerance))
        spent += ~done
        x = torch.where(better[:, None], trial, x)
        here = there.where(better, here)
        damping = torch.where(better, damping / 4, damping * 6)
        stopped = small | (~better & (damping > _DAMPING_MAX))
        damping = damping.clamp(_DAMPING_MIN, _DAMPING_MAX)
        done = done | stopped
        converged = converged | stopped
    leave(torch.arange(len(alive), device=x.device))
    return out
