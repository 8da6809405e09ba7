"""Answers that lost by little: what else a person may have done."""

import torch
from torch import Tensor

from fitting.candidates import Candidates
from fitting.covariance import Rivals
from fitting.prepared import PreparedBody

__all__ = ["gather_rivals", "runner_up"]

_OTHER_ANSWER_M = 0.05  # joints that far from where another answer has them are elsewhere


def runner_up(prepared: PreparedBody, tried: Candidates) -> tuple[Tensor, Tensor]:
    """Find, of the states that were tried, the best that is another answer than the best.

    Args:
        prepared: The body.
        tried: (B, C), energies known.

    Returns:
        (B, 22, 3) where it has the joints against where the best has them, and (B,) the excess of
        its energy, infinite if there is none.
    """
    _, order = tried.best()
    joints = prepared.joints(tried.x)
    away = joints - joints.gather(1, order[..., None, None].expand(-1, -1, *joints.shape[2:]))
    excess = tried.energy - tried.energy.gather(1, order)
    excess = torch.where(away.norm(dim=-1).amax(-1) > _OTHER_ANSWER_M, excess, torch.inf)
    excess, which = excess.min(1)
    return away[torch.arange(len(which), device=which.device), which], excess


def gather_rivals(
    prepared: PreparedBody, kept: Candidates, order: Tensor, limbs: tuple[Tensor, Tensor]
) -> Rivals:
    """Gather the answers that lost against the winner.

    Args:
        prepared: The body.
        kept: (B, K) answers.
        order: (B, 1) which of them won.
        limbs: What else the limbs of each may do, as of fitting.flips.flip_limbs.
    """
    person = torch.arange(len(order), device=order.device)
    winner = order[:, 0]
    joints = prepared.joints(kept.x)
    excess = kept.open_energy - kept.energy.gather(1, order)
    excess = torch.where(excess > 0, excess, torch.inf)  # not the winner itself
    shift, more = (values[person, winner] for values in limbs)
    joints = torch.cat([joints, joints[person, winner][:, None] + shift], 1)
    excess = torch.cat([excess, more], 1)
    return Rivals(joints, excess)
