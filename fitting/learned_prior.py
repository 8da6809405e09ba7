"""The open prior on the body's pose: heavy tails and a small network, learnt from motion capture.

    E(x) = 0.5 v log(1 + q(x) / v) + 0.5 |g(x)|^2,   q(x) = (x - m)^T P (x - m).

The first is the tail of Student's t: like a Gaussian among the data, and lenient to those who move
more than the recorded people; it alone speaks far from all data, since the network's hidden units
are bounded. The residuals g vanish for what people do. Gauss-Newton takes the network as it is, and
the tail as reweighted squares. A pose and its mirror image have the same energy by construction.

``fitting.prior_network`` trains it; ``python -m fitting.build_prior`` rebuilds the file.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fitting.priors import PosePrior

__all__ = ["LearnedPrior", "load_learned_prior"]

_DIM = 63
TAIL = 63.0


@dataclass(frozen=True, eq=False)
class LearnedPrior:
    """A heavy tail and a network's residuals.

    Attributes:
        mean: (63,) radians, the middle of the tail, and where fits start.
        precision: (63, 63), P.
        weights: (H1, 63), (H2, H1), ..., (K, H): the network's matrices; hidden units are tanh, the
            K outputs are residuals. It is given x - mean.
        biases: (H1,), ..., (K,).
        tail: v, about the q that recorded poses have; infinity is a Gaussian.
    """

    mean: Tensor
    precision: Tensor
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    tail: float = TAIL

    def __post_init__(self) -> None:
        widths = [_DIM, *(len(b) for b in self.biases)]
        expected = [(after, before) for before, after in pairwise(widths)]
        shapes = [tuple(w.shape) for w in self.weights]
        if shapes != expected or self.mean.shape != (_DIM,) or len(self.precision) != _DIM:
            raise ValueError(
                f"expected a mean (63,), a precision (63, 63) and weights {expected}, got "
                f"{tuple(self.mean.shape)}, {tuple(self.precision.shape)}, {shapes}"
            )

    @property
    def start(self) -> Tensor:
        """(63,) the mean."""
        return self.mean

    @property
    def coarse(self) -> PosePrior:
        """The Gaussian alone: it has one minimum, so that it does not hold a fit where it began."""
        root = torch.linalg.cholesky(self.precision).mT
        return PosePrior(self.mean[None], root[None], self.mean.new_zeros(1))

    def to(self, *args, **kwargs) -> "LearnedPrior":
        """Return it on another device or in another dtype, as ``Tensor.to``."""
        return LearnedPrior(
            self.mean.to(*args, **kwargs),
            self.precision.to(*args, **kwargs),
            tuple(w.to(*args, **kwargs) for w in self.weights),
            tuple(b.to(*args, **kwargs) for b in self.biases),
            self.tail,
        )

    def energy(self, body_pose: Tensor) -> Tensor:
        """Return (...) from (..., 63) axis-angle: 0.5 |r|^2. Differentiable.

        Raises:
            ValueError: If the last axis is not 63.
        """
        delta = self._delta(body_pose)
        hidden = delta
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = torch.tanh(hidden @ weight.mT + bias)
        residual = hidden @ self.weights[-1].mT + self.biases[-1]
        far = (delta @ self.precision * delta).sum(-1) / self.tail
        return 0.5 * (self.tail * torch.log1p(far) + residual.square().sum(-1))

    def quadratic(self, body_pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return |r|^2 (...), J^T r (..., 63) and J^T J (..., 63, 63), the tail's reweighted."""
        delta = self._delta(body_pose)
        hidden, slopes = delta, []
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = torch.tanh(hidden @ weight.mT + bias)
            slopes.append(1 - hidden.square())
        residual = hidden @ self.weights[-1].mT + self.biases[-1]
        jacobian = self.weights[-1]
        for weight, slope in zip(reversed(self.weights[:-1]), reversed(slopes), strict=True):
            jacobian = (jacobian * slope[..., None, :]) @ weight
        pull = delta @ self.precision
        far = (delta * pull).sum(-1) / self.tail
        weight = 1 / (1 + far)
        energy = self.tail * torch.log1p(far) + residual.square().sum(-1)
        pull = weight[..., None] * pull + (residual[..., None, :] @ jacobian)[..., 0, :]
        stiff = torch.addcmul(jacobian.mT @ jacobian, weight[..., None, None], self.precision)
        return energy, pull, stiff

    def _delta(self, body_pose: Tensor) -> Tensor:
        if body_pose.shape[-1] != _DIM:
            raise ValueError(
                f"body_pose must be (..., 63), got {tuple(body_pose.shape)}; "
                "flatten BodyParams.body_pose (..., 21, 3) with .flatten(-2)"
            )
        return body_pose - self.mean


@lru_cache(maxsize=8)
def load_learned_prior(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64
) -> LearnedPrior:
    """Return the open prior that comes with the package (see fitting/data/PROVENANCE.md)."""
    with (resources.files("fitting") / "data" / "open_prior.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)

        def real(name: str) -> Tensor:
            return torch.as_tensor(arrays[name].astype(np.float64)).to(device, dtype)

        layers = range(sum(name.startswith("weight") for name in arrays.files))
        return LearnedPrior(
            real("mean"),
            real("precision"),
            tuple(real(f"weight{k}") for k in layers),
            tuple(real(f"bias{k}") for k in layers),
        )
