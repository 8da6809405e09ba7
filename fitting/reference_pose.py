"""What the reference solver solves for of the body's pose: its axis-angles, or a VPoser's code."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fitting.priors import BodyPrior
from fitting.reference_energy import squared_axis_angles
from fitting.vposer import VPoser

__all__ = ["AxisAngles", "Code", "PoseUnknown", "pose_unknown"]


class PoseUnknown(Protocol):
    """The pose as L-BFGS sees it; it starts at zero."""

    @property
    def size(self) -> int:
        """Numbers to solve for."""
        ...

    def decode(self, unknown: Tensor) -> Tensor:
        """(..., size) -> (..., 63) axis-angle. Differentiable."""
        ...

    def of(self, body_pose: Tensor) -> Tensor:
        """(..., 63) -> (..., size), the unknown that stands for a pose."""
        ...

    def penalty(self, unknown: Tensor) -> Tensor:
        """(..., size) -> (...) the prior at weight 1. Differentiable."""
        ...


@dataclass(frozen=True, eq=False)
class AxisAngles:
    """The pose itself, under any prior; None is the squared norm, as published without VPoser."""

    prior: BodyPrior | None = None
    size: int = 63

    def decode(self, unknown: Tensor) -> Tensor:
        """Return what is given."""
        return unknown

    def of(self, body_pose: Tensor) -> Tensor:
        """Return what is given."""
        return body_pose

    def penalty(self, unknown: Tensor) -> Tensor:
        """|r|^2 of the prior."""
        return (
            squared_axis_angles(unknown) if self.prior is None else 2 * self.prior.energy(unknown)
        )


@dataclass(frozen=True, eq=False)
class Code:
    """A VPoser's code z with |z|^2 as the prior, as SMPLify-X does with ``use_vposer``."""

    vposer: VPoser

    @property
    def size(self) -> int:
        """Length of the code."""
        return self.vposer.code_size

    def decode(self, unknown: Tensor) -> Tensor:
        """The pose of a code."""
        return self.vposer.decode(unknown)

    def of(self, body_pose: Tensor) -> Tensor:
        """The mean of what the encoder proposes."""
        return self.vposer.encode(body_pose)

    def penalty(self, unknown: Tensor) -> Tensor:
        """The code's squared norm."""
        return unknown.square().sum(-1)


def pose_unknown(
    prior: BodyPrior | None, dtype: torch.dtype, device: torch.device | str
) -> PoseUnknown:
    """Return what to solve for under a prior."""
    prior = prior if prior is None else prior.to(dtype=dtype, device=device)
    return Code(prior) if isinstance(prior, VPoser) else AxisAngles(prior)
