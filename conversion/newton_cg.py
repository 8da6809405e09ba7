"""The published optimiser, for reading and as an oracle: Trust Region Newton-CG.

Nocedal and Wright, Numerical Optimization, algorithms 4.1 (trust region) and 7.2 (CG-Steihaug); the
Hessian only ever multiplies vectors, by differentiating the gradient once more. Each body of the
batch has its own radius and its own conjugate gradients. Much slower than
:func:`conversion.solver.minimize`, and without any knowledge of bodies.

Second derivatives at the T-pose need a rotation formula that has them (bodymodel.rotations); with
the usual one, which divides by the angle, the products are wrong there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bodymodel.model import BodyModel

__all__ = ["NewtonResult", "edge_loss", "hessian_vector_product", "newton_cg", "vertex_loss"]

Loss = Callable[[Tensor], Tensor]
"""(B, P) parameters to (B,) losses, each of its own row only."""


@dataclass(frozen=True, eq=False)
class NewtonResult:
    """Where Newton-CG ended.

    Attributes:
        x: (B, P).
        loss: (B,).
        has_converged: (B,) whether the gradient got small enough.
        iterations: (B,) steps tried.
        products: (B,) Hessian-vector products.
    """

    x: Tensor
    loss: Tensor
    has_converged: Tensor
    iterations: Tensor
    products: Tensor


def _differentiate(loss: Loss, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(x)
        (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    return x, value.detach(), gradient


def hessian_vector_product(loss: Loss, x: Tensor, vector: Tensor) -> Tensor:
    """Return the second derivative of each row's loss times a vector, (B, P)."""
    x, _, gradient = _differentiate(loss, x)
    return torch.autograd.grad((gradient * vector).sum(), x)[0]


def newton_cg(
    loss: Loss,
    start: Tensor,
    *,
    radius: float = 1.0,
    max_radius: float = 1000.0,
    eta: float = 0.15,
    gtol: float = 1e-4,
    max_iterations: int = 200,
) -> NewtonResult:
    """Minimise B losses.

    Args:
        loss: (B, P) -> (B,), twice differentiable.
        start: (B, P).
        radius: First radius.
        max_radius: Largest.
        eta: Least ratio of actual to predicted decrease of a step that is taken.
        gtol: Done when the gradient is shorter.
        max_iterations: Steps tried.
    """
    x = start.detach().clone()
    batch = len(x)
    radii = torch.full((batch,), radius, dtype=x.dtype)
    tried, products = torch.zeros(batch, dtype=torch.int64), torch.zeros(batch, dtype=torch.int64)
    leaf, value, gradient = _differentiate(loss, x)
    for _ in range(max_iterations):
        active = gradient.detach().norm(dim=1) >= gtol
        if not active.any():
            break

        def product(v: Tensor, leaf=leaf, gradient=gradient) -> Tensor:
            return torch.autograd.grad((gradient * v).sum(), leaf, retain_graph=True)[0]

        step, at_edge, bent, used = _steihaug(product, gradient.detach(), radii, active)
        predicted = -(gradient.detach() * step).sum(1) - (step * bent).sum(1) / 2
        new = loss(x + step).detach()
        ratio = torch.where(active, (value - new) / predicted.clamp_min(1e-300), 1)
        radii = torch.where(ratio < 0.25, radii / 4, radii)
        radii = torch.where((ratio > 0.75) & at_edge, (2 * radii).clamp(max=max_radius), radii)
        take = active & (ratio > eta)
        x = torch.where(take[:, None], x + step, x)
        tried += active
        products += used
        leaf, value, gradient = _differentiate(loss, x)
    converged = gradient.detach().norm(dim=1) < gtol
    return NewtonResult(x, value, converged, tried, products)


def _steihaug(
    product: Callable[[Tensor], Tensor], gradient: Tensor, radius: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Solve the quadratic model inside each radius by conjugate gradients (algorithm 7.2).

    Returns:
        The steps p (B, P), whether they end at the radius (B,), H p (B, P), and how many products
        each row needed (B,).
    """
    size = gradient.norm(dim=1)
    tolerance = torch.minimum(torch.full_like(size, 0.5), size.sqrt()) * size
    z, bent = torch.zeros_like(gradient), torch.zeros_like(gradient)
    r, d = gradient.clone(), -gradient
    running, at_edge = active.clone(), torch.zeros_like(active)
    used = torch.zeros(len(size), dtype=torch.int64)
    for _ in range(4 * gradient.shape[1]):
        if not running.any():
            break
        hd = product(d)
        used += running
        curve, rr = (d * hd).sum(1), (r * r).sum(1)
        alpha = rr / torch.where(curve > 0, curve, torch.ones_like(curve))
        further = z + alpha[:, None] * d
        leaves = running & ((curve <= 0) | (further.norm(dim=1) >= radius))
        length = torch.where(leaves, _to_edge(z, d, radius), alpha)
        go = torch.where(running, length, 0)[:, None]
        z, bent = z + go * d, bent + go * hd
        at_edge |= leaves
        running &= ~leaves
        r = torch.where(running[:, None], r + alpha[:, None] * hd, r)
        running &= r.norm(dim=1) >= tolerance
        beta = (r * r).sum(1) / rr.clamp_min(1e-300)
        d = torch.where(running[:, None], -r + beta[:, None] * d, d)
    return z, at_edge, bent, used


def _to_edge(z: Tensor, d: Tensor, radius: Tensor) -> Tensor:
    """Return t >= 0 with |z + t d| = radius."""
    a, b, c = (d * d).sum(1), (z * d).sum(1), (z * z).sum(1) - radius**2
    root = (b * b - a * c).clamp_min(0).sqrt()
    return (root - b) / a.clamp_min(1e-300)


def edge_loss(model: BodyModel, target: Tensor, valid: Tensor) -> Loss:
    """Return equation 4 over the pose, as a function of (B, 3 J) axis-angles.

    Args:
        model: The target's body model.
        target: (B, V, 3) meshes in its topology.
        valid: (V,) bool, the mask m.
    """
    faces = model.faces
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(1)[0]
    edges = edges.unique(dim=0)
    edges = edges[valid[edges].all(1)]
    goal = target[:, edges[:, 0]] - target[:, edges[:, 1]]

    def loss(x: Tensor) -> Tensor:
        v = model.forward_pose(x.unflatten(1, (-1, 3))).vertices
        return (v[:, edges[:, 0]] - v[:, edges[:, 1]] - goal).square().sum((1, 2))

    return loss


def vertex_loss(model: BodyModel, target: Tensor, valid: Tensor) -> Loss:
    """Return equation 6, as a function of (B, 3 J + S + 3): pose, betas, expression, translation.

    Args:
        model: The target's body model.
        target: (B, V, 3).
        valid: (V,) bool.
    """
    pose, betas = 3 * model.num_joints, model.num_betas

    def loss(x: Tensor) -> Tensor:
        sizes = (pose, betas, model.num_expression, 3)
        rotvecs, shape, expression, transl = x.split(sizes, dim=1)
        out = model.forward_pose(rotvecs.unflatten(1, (-1, 3)), shape, expression, transl)
        return ((out.vertices - target)[:, valid]).square().sum((1, 2))

    return loss
