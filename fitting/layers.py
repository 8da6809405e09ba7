"""Small networks of affine maps, with analytic Jacobians for Gauss-Newton."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Layer", "Network", "batch_norm"]


@dataclass(frozen=True, eq=False)
class Layer:
    """y = f(W x + b), f the leaky rectifier of a slope, the identity where the slope is 1.

    Attributes:
        weight: (out, in).
        bias: (out,).
        slope: Below zero.
    """

    weight: Tensor
    bias: Tensor
    slope: float = 1.0

    @classmethod
    def of(cls, state: Mapping[str, Tensor], name: str, slope: float = 1.0) -> "Layer":
        """Return the linear layer of that name in a state dict."""
        return cls(state[f"{name}.weight"], state[f"{name}.bias"], slope)

    def after(self, inner: "Layer") -> "Layer":
        """Return this layer applied to what ``inner`` gives, as one; ``inner`` must be affine."""
        if inner.slope != 1:
            raise ValueError("only affine maps can be merged; the inner layer bends its output")
        return Layer(
            self.weight @ inner.weight, self.weight @ inner.bias + self.bias, self.slope
        )  # fmt: skip


def batch_norm(state: Mapping[str, Tensor], name: str, epsilon: float = 1e-5) -> Layer:
    """Return a trained batch normalisation as the affine map that it is."""
    scale = state[f"{name}.weight"] / (state[f"{name}.running_var"] + epsilon).sqrt()
    shift = state[f"{name}.bias"] - scale * state[f"{name}.running_mean"]
    return Layer(torch.diag(scale), shift)


@dataclass(frozen=True, eq=False)
class Network:
    """Layers one after the other."""

    layers: tuple[Layer, ...]

    def to(self, *args, **kwargs) -> "Network":
        """Return it on another device or in another dtype, as ``Tensor.to``."""
        return Network(
            tuple(
                Layer(x.weight.to(*args, **kwargs), x.bias.to(*args, **kwargs), x.slope)
                for x in self.layers
            )
        )

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out). Differentiable."""
        for layer in self.layers:
            x = x @ layer.weight.mT + layer.bias
            if layer.slope != 1:
                x = torch.where(x > 0, x, layer.slope * x)
        return x

    def with_jacobian(self, x: Tensor, *, forward: bool = False) -> tuple[Tensor, Tensor]:
        """Return the output (..., out) and its Jacobian (..., out, in).

        Args:
            x: (..., in).
            forward: Multiply from the input on, cheaper where that is the narrower end.
        """
        slopes = []
        for layer in self.layers:
            x = x @ layer.weight.mT + layer.bias
            if layer.slope != 1:
                slope = torch.full_like(x, layer.slope).masked_fill(x > 0, 1.0)
                x = x * slope
                slopes.append(slope)
            else:
                slopes.append(None)
        order = list(zip(self.layers, slopes, strict=True))
        if not forward:
            order.reverse()
        jacobian = None
        for layer, slope in order:
            weight = layer.weight
            if slope is not None:
                weight = slope[..., :, None] * weight
            if jacobian is None:
                jacobian = weight
            elif forward:
                jacobian = layer.weight @ jacobian
                if slope is not None:
                    jacobian = slope[..., :, None] * jacobian
            elif slope is not None:
                jacobian = (jacobian * slope[..., None, :]) @ layer.weight
            else:
                jacobian = jacobian @ layer.weight
        return x, jacobian.expand(*x.shape, jacobian.shape[-1])
