"""The one-euro filter for videos (Casiez et al. 2012): still where it is still, quick where not."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bodymodel.rotations import rotmat_to_rotvec


@dataclass(frozen=True)
class OneEuro:
    """Strength of the smoothing.

    Attributes:
        min_cutoff_hz: Below it nothing moves by itself: the lower, the less jitter.
        speed: How much faster motion raises the cutoff (per unit of speed): the higher, the less
            lag.
        derivative_hz: Cutoff of the speed's own estimate.
    """

    min_cutoff_hz: float = 1.0
    speed: float = 0.5
    derivative_hz: float = 1.0


def _share(cutoff_hz: Tensor, seconds: float) -> Tensor:
    """How much of the new value is taken."""
    step = 2 * math.pi * cutoff_hz * seconds
    return step / (step + 1)


def smooth_vectors(values: Tensor, fps: float, config: OneEuro | None = None) -> Tensor:
    """Filter (T, ...) values; each number by itself."""
    config, seconds = config or OneEuro(), 1 / fps
    state, speed = values[0], torch.zeros_like(values[0])
    out = [state]
    share_d = _share(torch.tensor(config.derivative_hz), seconds)
    for value in values[1:]:
        speed = speed + share_d * ((value - state) / seconds - speed)
        share = _share(config.min_cutoff_hz + config.speed * speed.abs(), seconds)
        state = state + share * (value - state)
        out.append(state)
    return torch.stack(out)


def smooth_rotations(rotmats: Tensor, fps: float, config: OneEuro | None = None) -> Tensor:
    """Filter (T, ..., 3, 3) rotations along the shortest turns, so that no axis-angle jumps."""
    from bodymodel.rotations import rotvec_to_rotmat

    config, seconds = config or OneEuro(), 1 / fps
    state = rotmats[0]
    speed = torch.zeros_like(rotmats[0][..., 0])  # rotation vectors a second
    out = [state]
    share_d = _share(torch.tensor(config.derivative_hz), seconds)
    for value in rotmats[1:]:
        turn = rotmat_to_rotvec(state.mT @ value)
        speed = speed + share_d * (turn / seconds - speed)
        pace = speed.norm(dim=-1, keepdim=True)
        share = _share(config.min_cutoff_hz + config.speed * pace, seconds)
        state = state @ rotvec_to_rotmat(share * turn)
        out.append(state)
    return torch.stack(out)
