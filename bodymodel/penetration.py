"""Where a body goes through itself: the vertices that are inside another part, and how deep.

No acceleration structure of others and nothing to compile: boxes of parts choose few candidates,
six rays through a grid tell which of those are inside, and the nearest face of the part that holds
them says how deep. All persons at once, on any device.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.parts import BodyParts, body_parts

__all__ = ["Contacts", "Surface", "closest_on_triangle", "find_contacts", "make_surface"]

_MARGIN_M = 0.02  # the nearest face is sought in parts whose box, larger by this, holds the vertex
_VOTES = 4  # of six rays that must find a vertex inside; skipped parts leave holes for one or two
_CELLS = 128  # along each side of the grid
_PAIRS_AT_ONCE = 4_000_000

# A turn about a general axis: the rays run along no symmetry plane and hit no mirrored vertex.
_TURN = (
    (0.8045, -0.5059, 0.3106),
    (0.5835, 0.7747, -0.2436),
    (-0.1174, 0.3772, 0.9187),
)


@dataclass(frozen=True, eq=False)
class Surface:
    """What does not change with pose or shape.

    Attributes:
        faces: (F, 3) int64, ordered by part.
        vertex_part: (V,), face_part: (F,) int64.
        may_meet: (J, J) bool.
        area: (V,) square metres of the template's surface that a vertex stands for.
        part_vertices: (V,) vertices ordered by part, part_vertex_start: (J + 1,).
        part_face_start: (J + 1,) where each part's faces begin.
        joints: Names of the parts.
    """

    faces: Tensor
    vertex_part: Tensor
    face_part: Tensor
    may_meet: Tensor
    area: Tensor
    part_vertices: Tensor
    part_vertex_start: Tensor
    part_face_start: Tensor
    joints: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Contacts:
    """Vertices inside another part, of all persons, one after the other.

    Attributes:
        person: (M,) which person, ascending.
        vertex: (M,) the vertex that is inside.
        corners: (M, 3) vertices of the nearest face of the part that holds it.
        bary: (M, 3) where on that face the nearest point is.
        depth: (M,) metres to it.
        direction: (M, 3) unit vector towards it.
        area: (M,) square metres that the vertex stands for.
        part: (M,) of the vertex, other: (M,) of the face.
    """

    person: Tensor
    vertex: Tensor
    corners: Tensor
    bary: Tensor
    depth: Tensor
    direction: Tensor
    area: Tensor
    part: Tensor
    other: Tensor

    def __len__(self) -> int:
        return len(self.person)


def make_surface(
    body: BodyData, parts: BodyParts | None = None, device: torch.device | str = "cpu"
) -> Surface:
    """Return a body's surface, divided into parts.

    Args:
        body: The body.
        parts: Its parts; by skinning weights if None.
        device: Of the tensors.
    """
    parts = parts or body_parts(body)
    template = torch.as_tensor(body.v_template, device=device)
    vertex_part = torch.as_tensor(parts.vertex_part, device=device)
    face_part = torch.as_tensor(parts.face_part, device=device)
    order = face_part.argsort(stable=True)
    faces = torch.as_tensor(body.faces, dtype=torch.int64, device=device)[order]
    corners = template[faces]
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    third = cross.norm(dim=1) / 6
    area = torch.zeros(len(template), dtype=template.dtype, device=device)
    area.index_add_(0, faces.flatten(), third.repeat_interleave(3))
    count = len(parts.joints)
    return Surface(
        faces=faces,
        vertex_part=vertex_part,
        face_part=face_part[order],
        may_meet=torch.as_tensor(parts.may_meet, device=device),
        area=area,
        part_vertices=vertex_part.argsort(stable=True),
        part_vertex_start=_starts(vertex_part, count),
        part_face_start=_starts(face_part, count),
        joints=parts.joints,
    )


def find_contacts(surface: Surface, vertices: Tensor) -> Contacts:
    """Find the vertices that are inside another part, as far as the two count as strangers.

    A vertex is inside if at least four of six rays, one of the first two among them, leave the
    surface more often than they enter it, not counting faces of parts that its own may not meet.
    Exact for closed parts; the holes of what is not counted cost single rays.

    Args:
        surface: Of the body.
        vertices: (B, V, 3) posed, metres, any frame. Vertices that are not finite meet nothing.
    """
    points = vertices.detach().float()
    points = torch.nan_to_num(points - points.nanmean(1, keepdim=True), nan=1e6)
    points = points @ points.new_tensor(_TURN)
    low, high = _boxes(surface, points)
    candidates = _candidates(surface, points, low, high)
    if not len(candidates):
        return _no_contacts(surface, vertices)
    size = points.shape[1]
    inside = _are_inside(surface, points, candidates // size, candidates % size)
    inside = candidates[inside]
    if not len(inside):
        return _no_contacts(surface, vertices)
    face, owner = _nearest_faces(surface, points, inside, low - _MARGIN_M, high + _MARGIN_M)
    if not len(face):
        return _no_contacts(surface, vertices)
    person, vertex = owner // size, owner % size
    exact = vertices.detach()
    corners = surface.faces[face]
    triangle = exact[person[:, None], corners]
    bary = closest_on_triangle(exact[person, vertex], triangle)
    way = (bary[..., None] * triangle).sum(1) - exact[person, vertex]
    depth = way.norm(dim=1)
    normal = torch.linalg.cross(triangle[:, 1] - triangle[:, 0], triangle[:, 2] - triangle[:, 0])
    normal = torch.nn.functional.normalize(normal, dim=1)
    direction = torch.where(depth[:, None] > 1e-6, way / depth[:, None].clamp_min(1e-6), normal)
    return Contacts(
        person, vertex, corners, bary, depth, direction, surface.area[vertex].to(exact.dtype),
        surface.vertex_part[vertex], surface.face_part[face],
    )  # fmt: skip


def closest_on_triangle(point: Tensor, triangle: Tensor) -> Tensor:
    """Return barycentric coordinates of the point of a triangle that is nearest.

    Args:
        point: (..., 3).
        triangle: (..., 3 corners, 3).

    Returns:
        (..., 3), none negative, their sum 1.
    """
    a, b, c = triangle.unbind(-2)
    ab, ac, bc = b - a, c - a, c - b
    ap, bp = point - a, point - b

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1)

    tiny = torch.finfo(point.dtype).tiny
    on_ab = (dot(ap, ab) / dot(ab, ab).clamp_min(tiny)).clamp(0, 1)
    on_ac = (dot(ap, ac) / dot(ac, ac).clamp_min(tiny)).clamp(0, 1)
    on_bc = (dot(bp, bc) / dot(bc, bc).clamp_min(tiny)).clamp(0, 1)
    zero = torch.zeros_like(on_ab)
    edges = torch.stack(
        [
            torch.stack([1 - on_ab, on_ab, zero], -1),
            torch.stack([1 - on_ac, zero, on_ac], -1),
            torch.stack([zero, 1 - on_bc, on_bc], -1),
        ],
        -2,
    )
    places = edges @ triangle
    nearest = (places - point[..., None, :]).square().sum(-1).argmin(-1)
    edge = edges.gather(-2, nearest[..., None, None].expand(*nearest.shape, 1, 3))[..., 0, :]

    normal = torch.linalg.cross(ab, ac)
    square = dot(normal, normal).clamp_min(tiny)
    v = dot(torch.linalg.cross(ap, ac), normal) / square
    w = dot(torch.linalg.cross(ab, ap), normal) / square
    inner = torch.stack([1 - v - w, v, w], -1)
    return torch.where((inner >= 0).all(-1, keepdim=True), inner, edge)


def _starts(part: Tensor, count: int) -> Tensor:
    sizes = torch.bincount(part, minlength=count)
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def _no_contacts(surface: Surface, vertices: Tensor) -> Contacts:
    none = surface.vertex_part.new_zeros(0)
    real = vertices.new_zeros(0)
    three = vertices.new_zeros(0, 3)
    return Contacts(none, none, none.new_zeros(0, 3), three, real, three, real, none, none)


def _expand(start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Runs of numbers: which run each is of, and the number."""
    owner = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    before = count.cumsum(0) - count
    place = torch.arange(len(owner), device=count.device) - before[owner]
    return owner, start[owner] + place


def _boxes(surface: Surface, points: Tensor) -> tuple[Tensor, Tensor]:
    """(B, J, 3) corners of the parts' boxes; empty parts' are inside out."""
    batch, count = len(points), len(surface.joints)
    index = surface.vertex_part[None, :, None].expand(batch, -1, 3)
    low = points.new_full((batch, count, 3), 1e9)
    high = points.new_full((batch, count, 3), -1e9)
    low.scatter_reduce_(1, index, points, "amin")
    high.scatter_reduce_(1, index, points, "amax")
    return low, high


def _candidates(surface: Surface, points: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Vertices in the box of a part that counts for them: person * V + vertex, ascending."""
    meet = (low[:, :, None] <= high[:, None]) & (low[:, None] <= high[:, :, None])
    person, part, other = (meet.all(-1) & surface.may_meet).nonzero(as_tuple=True)
    start = surface.part_vertex_start
    owner, place = _expand(start[part], start[part + 1] - start[part])
    person, other = person[owner], other[owner]
    vertex = surface.part_vertices[place]
    point = points[person, vertex]
    is_in = ((point >= low[person, other]) & (point <= high[person, other])).all(-1)
    chosen = torch.zeros(points.shape[:2], dtype=torch.bool, device=points.device)
    chosen[person[is_in], vertex[is_in]] = True
    return chosen.flatten().nonzero()[:, 0]


def _are_inside(surface: Surface, points: Tensor, person: Tensor, vertex: Tensor) -> Tensor:
    """(N,) whether candidates are inside, by three lines through each."""
    votes = torch.zeros(len(person), dtype=torch.int64, device=points.device)
    left = torch.arange(len(person), device=points.device)
    for axis in range(3):
        who, slot = torch.unique_consecutive(person[left], return_inverse=True)
        may_meet = surface.may_meet[surface.vertex_part[vertex[left]]]  # (N, J)
        places = points[person[left], vertex[left]].roll(axis, 1)
        corners = points[who].roll(axis, 2)[:, surface.faces]  # (W, F, 3, 3)
        above, below = _crossings(surface, corners, places, slot, may_meet)
        votes[left] += (above >= 1).long() + (below >= 1).long()
        left = left[votes[left] > 0]  # most are outside, and seen so by the first line
        if not len(left):
            break
    return votes >= _VOTES


def _crossings(
    surface: Surface, corners: Tensor, places: Tensor, slot: Tensor, may_meet: Tensor
) -> tuple[Tensor, Tensor]:
    """(N,) how often more a line leaves than enters, upwards and downwards along the last axis."""
    num, device = len(places), places.device
    persons = len(corners)
    # a grid over the candidates of each person
    flat = slot[:, None].expand(-1, 2)
    low = places.new_full((persons, 2), 1e9)
    low.scatter_reduce_(0, flat, places[:, :2], "amin")
    high = places.new_full((persons, 2), -1e9)
    high.scatter_reduce_(0, flat, places[:, :2], "amax")
    cell = ((high - low) / _CELLS).clamp_min(1e-4)
    at = ((places[:, :2] - low[slot]) / cell[slot]).long().clamp_(0, _CELLS - 1)
    key = (slot * _CELLS + at[:, 0]) * _CELLS + at[:, 1]
    order = key.argsort()
    start = _starts(key, persons * _CELLS * _CELLS)
    filled = start.diff().view(persons, _CELLS, _CELLS)
    table = torch.nn.functional.pad(filled.cumsum(1).cumsum(2), (1, 0, 1, 0))

    flat_corners = corners[..., :2]
    first = ((flat_corners.amin(2) - low[:, None]) / cell[:, None]).floor().clamp(-1, _CELLS)
    last = ((flat_corners.amax(2) - low[:, None]) / cell[:, None]).floor().clamp(-1, _CELLS)
    first, last = first.long(), last.long()
    (i0, j0), (i1, j1) = first.clamp_min(0).unbind(2), last.clamp_max(_CELLS - 1).unbind(2)
    is_seen = (i0 <= i1) & (j0 <= j1)
    who = torch.arange(persons, device=device)[:, None]
    i0, j0, i1, j1 = (x.clamp(0, _CELLS - 1) for x in (i0, j0, i1, j1))
    count = (
        table[who, i1 + 1, j1 + 1] - table[who, i0, j1 + 1]
        - table[who, i1 + 1, j0] + table[who, i0, j0]
    )  # fmt: skip
    who, face = (is_seen & (count > 0)).nonzero(as_tuple=True)
    i0, j0, i1, j1 = (x[who, face] for x in (i0, j0, i1, j1))
    row, line = _expand(i0, i1 - i0 + 1)  # a face's rows of cells; candidates of a row are a run
    base = (who[row] * _CELLS + line) * _CELLS
    begin, end = start[base + j0[row]], start[base + j1[row] + 1]
    above = torch.zeros(num, dtype=torch.int64, device=device)
    below = torch.zeros(num, dtype=torch.int64, device=device)
    total = end - begin
    for chunk in _chunks(total):
        run, place = _expand(begin[chunk], total[chunk])
        of = row[chunk][run]
        candidate, hit_face = order[place], face[of]
        counts = may_meet[candidate, surface.face_part[hit_face]]
        candidate, hit_face, of = candidate[counts], hit_face[counts], of[counts]
        side, gap = _line_through(places[candidate], corners[who[of], hit_face])
        above.index_add_(0, candidate, torch.where(gap > 0, side, 0))
        below.index_add_(0, candidate, torch.where(gap < 0, -side, 0))
    return above, below


def _chunks(count: Tensor) -> list[Tensor]:
    """Runs in groups of a bounded number of pairs."""
    if not len(count):
        return []
    group = count.cumsum(0) // _PAIRS_AT_ONCE
    ids = torch.arange(len(count), device=count.device)
    last = int(group[-1])
    return [ids] if last == 0 else [ids[group == k] for k in range(last + 1)]


def _line_through(point: Tensor, triangle: Tensor) -> tuple[Tensor, Tensor]:
    """Which way (+1 up, -1 down, 0 not) a face looks that a line along z meets, and how far up."""
    a, b, c = (triangle[:, k] - point for k in range(3))

    def area(u: Tensor, v: Tensor) -> Tensor:
        return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]

    wa, wb, wc = area(b, c), area(c, a), area(a, b)
    is_hit = ((wa > 0) & (wb > 0) & (wc > 0)) | ((wa < 0) & (wb < 0) & (wc < 0))
    total = wa + wb + wc
    safe = torch.where(total == 0, 1, total)
    gap = (wa * a[:, 2] + wb * b[:, 2] + wc * c[:, 2]) / safe
    return torch.where(is_hit, total.sign(), 0).long(), gap


def _nearest_faces(
    surface: Surface, points: Tensor, inside: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """The nearest face of the part that holds each vertex, and person * V + vertex; ascending.

    Of the parts in whose box (B, J, 3) the vertex is, those hold it whose nearest face looks away
    from it. It leaves by the nearest of these.
    """
    size = points.shape[1]
    person, vertex = inside // size, inside % size
    place = points[person, vertex][:, None]
    is_in = ((place >= low[person]) & (place <= high[person])).all(-1)
    item, other = (is_in & surface.may_meet[surface.vertex_part[vertex]]).nonzero(as_tuple=True)
    start = surface.part_face_start
    count = start[other + 1] - start[other]
    who, slot = torch.unique_consecutive(person, return_inverse=True)
    first = points[who][:, surface.faces[:, 0]]
    reach = torch.maximum(
        (points[who][:, surface.faces[:, 1]] - first).norm(dim=2),
        (points[who][:, surface.faces[:, 2]] - first).norm(dim=2),
    )
    nearest = points.new_full((len(item),), torch.inf)
    face = torch.full((len(item),), -1, dtype=torch.int64, device=points.device)
    for chunk in _chunks(count):
        run, near = _expand(start[other[chunk]], count[chunk])
        run = chunk[run]
        owner = item[run]
        at = points[person[owner], vertex[owner]]
        # a face is no farther than its first corner, and no nearer than that less its size
        far = (first[slot[owner], near] - at).norm(dim=1)
        bound = points.new_full((len(item),), torch.inf).scatter_reduce(0, run, far, "amin")
        kept = (far - reach[slot[owner], near] <= bound[run]).nonzero()[:, 0]
        run, near, owner, at = run[kept], near[kept], owner[kept], at[kept]
        corners = points[person[owner][:, None], surface.faces[near]]
        bary = closest_on_triangle(at, corners)
        way = (bary[..., None] * corners).sum(1) - at
        square = way.square().sum(1)
        nearest.scatter_reduce_(0, run, square, "amin")
        tied = (square <= nearest[run] * (1 + 1e-5) + 1e-14).nonzero()[:, 0]
        run, near, corners, way = run[tied], near[tied], corners[tied], way[tied]
        normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        # of faces that share the nearest point, the one seen most squarely tells the side
        side = (way * torch.nn.functional.normalize(normal, dim=1)).sum(1)
        most = points.new_zeros(len(item)).scatter_reduce(0, run, side.abs(), "amax")
        is_told = (side > 0) & (side >= most[run])
        face[run[is_told]] = near[is_told]
    holds = (face >= 0).nonzero()[:, 0]
    best = points.new_full((len(inside),), torch.inf)
    best.scatter_reduce_(0, item[holds], nearest[holds], "amin")
    holds = holds[nearest[holds] == best[item[holds]]]
    chosen = torch.full((len(inside),), -1, dtype=torch.int64, device=points.device)
    chosen[item[holds]] = face[holds]
    found = chosen >= 0
    return chosen[found], inside[found]
