"""Half-edge collapse by quadric error on one half of a mirror-symmetric mesh."""

import heapq

import numpy as np


def collapse_half(
    vertices: np.ndarray,
    faces: np.ndarray,
    midline: np.ndarray,
    cost: np.ndarray,
    locked: np.ndarray,
    remove: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Remove vertices from the left half of a body so that its two halves stay mirror images.

    A collapse moves a vertex onto a neighbour; vertices that stay do not move. A collapse of a
    vertex beside the midline counts twice, since its mirror image goes with it.

    Args:
        vertices: (N, 3) metres, x >= 0.
        faces: (F, 3) the left half.
        midline: (N,) bool, vertices on the mirror plane.
        cost: (N,) factor on the error of removing a vertex.
        locked: (N,) bool, vertices that must stay.
        remove: Vertices of the whole body to remove.

    Returns:
        (N,) bool the vertices that stay, (F', 3) the faces.

    Raises:
        RuntimeError: If no admissible collapse is left.
    """
    mesh = _Half(vertices, faces, midline)
    heap: list[tuple[float, int, int, int]] = []
    version = np.zeros(len(vertices), int)

    def push(u: int) -> None:
        if locked[u]:
            return
        best = None
        for v in sorted(mesh.neighbours(u)):
            if midline[u] and not midline[v]:
                continue
            error = mesh.error(u, v) * cost[u]
            if best is None or error < best[0]:
                best = (error, v)
        if best is not None:
            heapq.heappush(heap, (best[0], u, -1, version[u]))

    for u in range(len(vertices)):
        if mesh.around[u]:
            push(u)
    removed = 0
    while removed < remove:
        if not heap:
            raise RuntimeError(f"no collapse left after {removed} of {remove}; loosen the locks")
        _, u, _, stamp = heapq.heappop(heap)
        if stamp != version[u] or not mesh.around[u]:
            continue
        # The last collapse must not take one vertex too many.
        if not midline[u] and remove - removed == 1:
            continue
        target = mesh.target(u)
        if target is None:
            continue
        removed += 1 if midline[u] else 2
        touched = mesh.neighbours(u)
        mesh.collapse(u, target)
        for w in sorted(touched):
            version[w] += 1
            push(w)
    keep = np.array([bool(a) for a in mesh.around])
    left = sorted(f for f in range(len(faces)) if mesh.alive[f])
    return keep, np.array([mesh.faces[f] for f in left])


class _Half:
    """Faces, who touches whom, and the quadrics of the left half."""

    def __init__(self, vertices, faces, midline) -> None:
        self.vertices = [tuple(v) for v in vertices.tolist()]
        self.midline = midline.tolist()
        self.faces = [tuple(f) for f in faces.tolist()]
        self.alive = [True] * len(faces)
        self.around: list[set[int]] = [set() for _ in range(len(vertices))]
        for index, face in enumerate(self.faces):
            for v in face:
                self.around[v].add(index)
        corners = vertices[faces]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        area = np.linalg.norm(normal, axis=1)
        unit = normal / np.maximum(area, 1e-15)[:, None]
        plane = np.concatenate([unit, -(unit * corners[:, 0]).sum(1, keepdims=True)], 1)
        quadric = area[:, None, None] * plane[:, :, None] * plane[:, None, :]
        self.q = np.zeros((len(vertices), 4, 4))
        self.area = np.zeros(len(vertices))
        flip = np.diag([-1.0, 1, 1, 1])
        for k in range(3):
            np.add.at(self.q, faces[:, k], quadric)
            np.add.at(self.area, faces[:, k], area)
        # On the midline the mirrored faces count as well.
        self.q[midline] += flip @ self.q[midline] @ flip

    def neighbours(self, u: int) -> set[int]:
        return {v for f in self.around[u] for v in self.faces[f]} - {u}

    def error(self, u: int, v: int) -> float:
        p = np.array([*self.vertices[v], 1.0])
        a, b = self.vertices[u], self.vertices[v]
        length = (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2
        # The second term spreads the vertices where the surface is flat.
        return float(p @ self.q[u] @ p) + 2e-4 * length * self.area[u]

    def target(self, u: int) -> int | None:
        """Return the cheapest neighbour that ``u`` may be moved onto."""
        options = sorted((self.error(u, v), v) for v in self.neighbours(u))
        for _, v in options:
            if self._allowed(u, v):
                return v
        return None

    def _allowed(self, u: int, v: int) -> bool:
        if self.midline[u] and not self.midline[v]:
            return False
        shared = self.around[u] & self.around[v]
        # Two vertices of the midline may only be joined along it.
        if len(shared) != (1 if self.midline[u] else 2):
            return False
        if len(self.neighbours(u) & self.neighbours(v)) != len(shared):
            return False
        for f in self.around[u] - shared:
            old = self.faces[f]
            new = tuple(v if w == u else w for w in old)
            if self.midline[v] and all(self.midline[w] for w in new):
                return False
            if not self._good_face(old, new):
                return False
        return len(self.around[v]) + len(self.around[u]) - 2 * len(shared) >= (
            2 if self.midline[v] else 3
        )

    def _good_face(self, old, new) -> bool:
        n0, _ = _normal(*(self.vertices[w] for w in old))
        n1, q1 = _normal(*(self.vertices[w] for w in new))
        dot = n0[0] * n1[0] + n0[1] * n1[1] + n0[2] * n1[2]
        return dot > 0.35 and q1 > 0.06

    def collapse(self, u: int, v: int) -> None:
        for f in sorted(self.around[u]):
            if v in self.faces[f]:
                self.alive[f] = False
                for w in self.faces[f]:
                    self.around[w].discard(f)
            else:
                self.faces[f] = tuple(v if w == u else w for w in self.faces[f])
                self.around[v].add(f)
        self.around[u] = set()
        self.q[v] += self.q[u]
        self.area[v] += self.area[u]


def _normal(a, b, c):
    """Unit normal of a triangle, and its quality: 1 for equilateral, 0 for a sliver."""
    ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    area = (nx * nx + ny * ny + nz * nz) ** 0.5
    longest = max(
        ux * ux + uy * uy + uz * uz,
        vx * vx + vy * vy + vz * vz,
        (ux - vx) ** 2 + (uy - vy) ** 2 + (uz - vz) ** 2,
    )
    if area <= 0:
        return (0.0, 0.0, 0.0), 0.0
    return (nx / area, ny / area, nz / area), area / (0.866 * longest)
