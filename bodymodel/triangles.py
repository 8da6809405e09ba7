"""Which triangles of a surface cross each other, found without an acceleration structure."""

import torch
from torch import Tensor

from bodymodel.penetration import Surface

__all__ = ["colliding_triangles"]

_PAIRS_AT_ONCE = 2_000_000


def colliding_triangles(surface: Surface, vertices: Tensor) -> Tensor:
    """Return the pairs of faces that cross, of parts that count as strangers.

    Boxes of parts, then boxes of faces, then the edges of each against the other. Coplanar faces
    do not cross.

    Args:
        surface: Of the body.
        vertices: (V, 3) of one person, metres.

    Returns:
        (K, 2) int64 faces of ``surface.faces``, the smaller first, ascending.
    """
    points = vertices.detach()
    if not torch.isfinite(points).all():
        return surface.faces.new_zeros(0, 2)
    triangles = points[surface.faces]
    low, high = triangles.amin(1), triangles.amax(1)
    starts = surface.part_face_start.tolist()
    count = len(surface.joints)
    index = surface.face_part[:, None].expand(-1, 3)
    part_low = points.new_full((count, 3), torch.inf)
    part_low = part_low.scatter_reduce(0, index, low, "amin")
    part_high = points.new_full((count, 3), -torch.inf)
    part_high = part_high.scatter_reduce(0, index, high, "amax")
    meet = (part_low[:, None] <= part_high).all(-1)
    meet = (meet & meet.T & surface.may_meet).triu()
    pairs = [surface.faces.new_zeros(0, 2)]
    for first, second in meet.nonzero().tolist():
        chosen = []
        for part, other in ((first, second), (second, first)):
            run = slice(starts[part], starts[part + 1])
            near = (low[run] <= part_high[other]) & (high[run] >= part_low[other])
            chosen.append(near.all(1).nonzero()[:, 0] + starts[part])
        one, two = chosen
        if not (len(one) and len(two)):
            continue
        for piece in one.split(max(1, _PAIRS_AT_ONCE // len(two))):
            overlap = low[piece, None, 0] <= high[two, 0]
            for axis in range(3):
                overlap &= low[piece, None, axis] <= high[two, axis]
                overlap &= high[piece, None, axis] >= low[two, axis]
            row, column = overlap.nonzero(as_tuple=True)
            pairs.append(torch.stack([piece[row], two[column]], 1))
    found = torch.cat(pairs)
    found = found[_cross(triangles[found[:, 0]], triangles[found[:, 1]])]
    return torch.unique(found.sort(1).values, dim=0)


def _cross(first: Tensor, second: Tensor) -> Tensor:
    """(K,) whether an edge of one triangle (K, 3, 3) goes through the other."""
    hit = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    for edges, triangle in ((first, second), (second, first)):
        for k in range(3):
            hit |= _pierces(edges[:, k], edges[:, (k + 1) % 3], triangle)
    return hit


def _pierces(start: Tensor, end: Tensor, triangle: Tensor) -> Tensor:
    """(K,) whether a segment goes through a triangle (Moller and Trumbore 1997)."""
    a, b, c = triangle.unbind(1)
    way, ab, ac, at = end - start, b - a, c - a, start - a
    p = torch.linalg.cross(way, ac)
    q = torch.linalg.cross(at, ab)
    det = (ab * p).sum(1)
    safe = torch.where(det == 0, 1, det)
    u, v, t = (at * p).sum(1) / safe, (way * q).sum(1) / safe, (ac * q).sum(1) / safe
    return (det != 0) & (u >= 0) & (v >= 0) & (u + v <= 1) & (t >= 0) & (t <= 1)
