"""Priors on the pose as least-squares residuals, for Gauss-Newton solvers.

A prior is a residual r(pose) whose energy is 0.5 |r|^2. All that a solver asks of one is
``BodyPrior``; the Gaussians are here, the others in ``fitting.learned_prior`` and
``fitting.vposer``, and ``fitting.prior_choice`` finds the one that a user named.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["BodyPrior", "PosePrior", "free_pose", "load_pose_prior", "squared_pose"]

_DIM = 63


class BodyPrior(Protocol):
    """What a solver asks of a prior on body_pose; the energy is 0.5 |r|^2."""

    @property
    def start(self) -> Tensor:
        """(63,) the pose to start from."""
        ...

    @property
    def coarse(self) -> "BodyPrior":
        """What to anneal with from far away: the same, or something smoother without traps."""
        ...

    def to(self, *args, **kwargs) -> "BodyPrior":
        """Return it on another device or in another dtype, as ``Tensor.to``."""
        ...

    def energy(self, body_pose: Tensor) -> Tensor:
        """Return (...) from (..., 63) axis-angle. Differentiable."""
        ...

    def quadratic(self, body_pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return |r|^2 (...), J^T r (..., 63) and J^T J (..., 63, 63)."""
        ...


@dataclass(frozen=True, eq=False)
class PosePrior:
    """Gaussians on the body's axis-angles; the one with the lowest energy speaks.

    E(x) = min_c 0.5 |W_c (x - m_c)|^2 + a_c, the max-component form of a mixture's negative log
    likelihood, as in SMPLify (Bogo et al. 2016, eq. 5). Within one component it is a linear
    residual with a constant Jacobian, so Gauss-Newton is exact; the energy is continuous where
    components meet. One component is the plain Gaussian.

    With the shipped prior recorded poses have an energy of 4 to 32 (5 to 95 %), the T-pose 35.

    Attributes:
        means: (C, 63) radians.
        whitening: (C, 63, 63), W_c^T W_c is the inverse covariance.
        costs: (C,) a_c >= 0, the normalisers' and the weights' share; the smallest is 0.
    """

    means: Tensor
    whitening: Tensor
    costs: Tensor

    def __post_init__(self) -> None:
        count = len(self.means)
        expected = {
            "means": (count, _DIM), "whitening": (count, _DIM, _DIM), "costs": (count,),
        }  # fmt: skip
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(
                    f"PosePrior.{name} must be {shape}, got {tuple(getattr(self, name).shape)}"
                )

    @property
    def num_residuals(self) -> int:
        """63 whitened axis-angles, and one constant for the component's cost."""
        return _DIM + 1

    @property
    def start(self) -> Tensor:
        """(63,) the mean of the component that costs least."""
        return self.means[self.costs.argmin()]

    @property
    def coarse(self) -> "PosePrior":
        """The same: a Gaussian is as smooth as can be."""
        return self

    @cached_property
    def precisions(self) -> Tensor:
        """(C, 63, 63), the inverse covariances."""
        return self.whitening.mT @ self.whitening

    def to(self, *args, **kwargs) -> "PosePrior":
        """Return the prior on another device or in another dtype, as ``Tensor.to``."""
        return PosePrior(
            self.means.to(*args, **kwargs),
            self.whitening.to(*args, **kwargs),
            self.costs.to(*args, **kwargs),
        )

    def energies(self, body_pose: Tensor) -> Tensor:
        """Return (..., C) energies, one by component.

        Args:
            body_pose: (..., 63) axis-angle, radians.

        Raises:
            ValueError: If the last axis is not 63.
        """
        _check(body_pose)
        delta = body_pose.unsqueeze(-2) - self.means
        white = torch.einsum("cij,...cj->...ci", self.whitening, delta)
        return 0.5 * white.square().sum(-1) + self.costs

    def component(self, body_pose: Tensor) -> Tensor:
        """Return (...) int64, the component with the lowest energy."""
        if len(self.means) == 1:
            _check(body_pose)
            return body_pose.new_zeros(body_pose.shape[:-1], dtype=torch.int64)
        return self.energies(body_pose).argmin(-1)

    def energy(self, body_pose: Tensor) -> Tensor:
        """Return (...) the energy, 0.5 |residual|^2."""
        return self.energies(body_pose).amin(-1)

    def residual(self, body_pose: Tensor) -> Tensor:
        """Return the residual.

        Args:
            body_pose: (..., 63) axis-angle, radians.

        Returns:
            (..., 64), energy 0.5 |r|^2.

        Raises:
            ValueError: If the last axis is not 63.
        """
        return self._residual(body_pose, self.component(body_pose))

    def residual_and_jacobian(self, body_pose: Tensor) -> tuple[Tensor, Tensor]:
        """Return the residual (..., 64) and its Jacobian (..., 64, 63).

        With one component the Jacobian is a constant, expanded over the batch and not copied.
        """
        component = self.component(body_pose)
        jacobian = torch.cat([self.whitening, torch.zeros_like(self.whitening[:, :1])], dim=-2)
        return self._residual(body_pose, component), self._of(jacobian, component)

    def quadratic(self, body_pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return |r|^2 (...), J^T r (..., 63) and J^T J (..., 63, 63) of the residual.

        Cheaper than the residual and its Jacobian, since J^T J is one constant matrix a component.
        """
        component = self.component(body_pose)
        precision = self._of(self.precisions, component)
        delta = body_pose - self._of(self.means, component)
        pull = (precision @ delta.unsqueeze(-1)).squeeze(-1)
        return (delta * pull).sum(-1) + 2 * self._of(self.costs, component), pull, precision

    def _of(self, values: Tensor, component: Tensor) -> Tensor:
        """Return each item's own component's values, (..., *values.shape[1:])."""
        if len(values) == 1:
            return values[0].expand(component.shape + values.shape[1:])
        return values[component]

    def _residual(self, body_pose: Tensor, component: Tensor) -> Tensor:
        delta = body_pose - self._of(self.means, component)
        if len(self.whitening) == 1:
            white = delta @ self.whitening[0].T
        else:
            white = (self.whitening[component] @ delta.unsqueeze(-1)).squeeze(-1)
        cost = (2 * self._of(self.costs, component)).sqrt().unsqueeze(-1)
        return torch.cat([white, cost], dim=-1)


def _check(body_pose: Tensor) -> None:
    if body_pose.shape[-1] != _DIM:
        raise ValueError(
            f"body_pose must be (..., 63), got {tuple(body_pose.shape)}; "
            "flatten BodyParams.body_pose (..., 21, 3) with .flatten(-2)"
        )


def squared_pose(
    dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> PosePrior:
    """Return the prior whose |r|^2 is the squared norm of the axis-angles (SMPLify-X's ``l2``)."""
    zero = torch.zeros(1, _DIM, dtype=dtype, device=device)
    return PosePrior(zero, torch.eye(_DIM, dtype=dtype, device=device)[None], zero[:, 0])


def free_pose(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> PosePrior:
    """Return the prior that likes every pose the same. Fits still start from the mean pose."""
    start = load_pose_prior(device, dtype).means
    return PosePrior(start, start.new_zeros(1, _DIM, _DIM), start.new_zeros(1))


@lru_cache(maxsize=8)
def load_pose_prior(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> PosePrior:
    """Return the Gaussian that comes with the package (see fitting/data/PROVENANCE.md)."""
    with (resources.files("fitting") / "data" / "pose_prior.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        return PosePrior(
            *(
                torch.as_tensor(arrays[k].astype(np.float64)).to(device, dtype)
                for k in ("means", "whitening", "costs")
            )
        )
