"""The interpenetration term of SMPLify-X: conic distance fields of colliding triangles.

Tzionas et al., "Capturing Hands in Action using Discriminative Salient Points and Physics
Simulation" (2016), section 3.4; used by Pavlakos et al. 2019 over triangles that a tree of boxes
found on CUDA. Here the pairs come from ``bodymodel.triangles``, on any device, with nothing to
compile.
"""

import torch
from torch import Tensor

from bodymodel.penetration import Surface
from bodymodel.triangles import colliding_triangles

__all__ = ["PUBLISHED_SIGMA", "conic_field", "penetration_energy"]

PUBLISHED_SIGMA = 1e-4
"""Height of the cone in SMPLify-X's settings, metres."""


def conic_field(intruder: Tensor, receiver: Tensor, sigma: float = PUBLISHED_SIGMA) -> Tensor:
    """Return how far each corner of one triangle is in the cone behind another, squared.

    The cone stands on the receiver's circumscribed circle, ``sigma`` high in front of it, and
    widens without end behind it. With x the height of a corner over the receiver's plane, d its
    distance from the axis and r the circle's radius, the field is ``((1 - d / (r - r x / sigma))
    U(x))^2`` inside the cone, and 0 outside.

    Args:
        intruder: (K, 3, 3) corners.
        receiver: (K, 3, 3) corners.
        sigma: Metres.

    Returns:
        (K, 3), differentiable in both.
    """
    a, b, c = receiver.unbind(1)
    ab, ac = b - a, c - a
    cross = torch.linalg.cross(ab, ac)
    square = cross.square().sum(1, keepdim=True).clamp_min(1e-24)
    b2, c2 = ab.square().sum(1, keepdim=True), ac.square().sum(1, keepdim=True)
    to_centre = torch.linalg.cross(c2 * ab - b2 * ac, cross, dim=1) / (-2 * square)
    radius = to_centre.norm(dim=1, keepdim=True)
    normal = cross / square.sqrt()
    way = intruder - (a + to_centre)[:, None]
    x = (way * normal[:, None]).sum(2)  # (K, 3)
    across = way - x[..., None] * normal[:, None]
    distance = (across.square().sum(2) + 1e-24).sqrt()
    width = radius - radius / sigma * x
    is_in = (width > 0) & (distance < width)
    phi = distance / torch.where(is_in, width, 1)
    bent = -(1 - 2 * sigma) / (4 * sigma**2) * x.square() - x / (2 * sigma) + (3 - 2 * sigma) / 4
    height = torch.where(x <= -sigma, 1 - sigma - x, bent)
    height = torch.where(x < sigma, height, 0)
    return torch.where(is_in, ((1 - phi) * height).square(), 0)


def penetration_energy(
    surface: Surface, vertices: Tensor, sigma: float = PUBLISHED_SIGMA
) -> Tensor:
    """Return the sum of the fields over all pairs of colliding triangles, both ways, (B,).

    Args:
        surface: Of the body.
        vertices: (B, V, 3) metres; differentiable in them.
        sigma: Metres.
    """
    energies = []
    for points in vertices:
        pairs = colliding_triangles(surface, points)
        first, second = (points[surface.faces[pairs[:, k]]] for k in (0, 1))
        field = conic_field(torch.cat([first, second]), torch.cat([second, first]), sigma)
        energies.append(field.sum())
    return torch.stack(energies)
