"""The focal length as an unknown: where it starts, and the energy of what is expected of it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bodymodel.sliced import SlicedState
from fitting.energy import Energy
from fitting.focal import FocalConfig


@dataclass(frozen=True, eq=False)
class FocalTerm:
    """Expectations of the focal length and the distance (fitting.focal), for those it is free of.

    E = w free [ ((log zoom + offset) / sd)^2 + (log(z / distance) / s)^2 ], where z is the
    translation's, close to the pelvis's distance, and s is near_sd or far_sd.

    Attributes:
        offset: (B,) log(focal length at the start / expected).
        sd: (B,) of the logarithm of the focal length.
        free: (B,) 1 where it is an unknown, else 0.
        config: The rest.
    """

    offset: Tensor
    sd: Tensor
    free: Tensor
    config: FocalConfig

    name = "focal"

    def take(self, index: Tensor) -> "FocalTerm":
        """Return it for some of the persons."""
        return replace(self, offset=self.offset[index], sd=self.sd[index], free=self.free[index])

    def add(
        self, energy: Energy, x: Tensor, state: SlicedState, gradient: Tensor, matrix: Tensor
    ) -> Tensor:
        """Add to half the gradient and to J^T J; see fitting.energy.Term."""
        layout, config = energy.layout, self.config
        weight = config.weight * self.free
        where, depth = layout.log_focal, layout.slices["transl"].stop - 1
        z = x[:, depth].clamp_min(0.05)
        far = (z / config.distance_m).log()
        spread = torch.where(far < 0, config.near_sd, config.far_sd)
        far = far / spread
        slope = 1 / (z * spread)
        gradient[:, depth] += weight * far * slope
        matrix[:, depth, depth] += weight * slope.square()
        away = (layout.zoom(x).log() + self.offset) / self.sd
        if energy.size == layout.size:
            gradient[:, where] += weight * away / self.sd
            matrix[:, where, where] += weight / self.sd.square()
        return weight * (away.square() + far.square())


def focal_start(focal_px: Tensor, sd: Tensor, scale: Tensor, config: FocalConfig) -> Tensor:
    """Return the likeliest focal lengths (B,) of persons who are seen at a scale.

    Args:
        focal_px: (B,) expected of the photo.
        sd: (B,) of its logarithm; 0 where it is known.
        scale: (B,) pixels per metre of the person.
        config: What is expected of the distance.
    """
    longer = scale * config.distance_m / focal_px  # that is at the usual distance
    spread = torch.where(longer > 1, config.near_sd, config.far_sd)
    return focal_px * longer ** (sd.square() / (sd.square() + spread**2))
