"""Where points beside a surface go when it is posed: one surface, sampled twice. Torch-free.

Barycentric coordinates (equation 3) put every point on the source's triangles, which cut across
curves: on two samplings of one surface that alone is a millimetre. Here a point keeps its place
against each of its triangle's corners, in a frame that turns and stretches with the corner's
surroundings, and the three places are blended by the barycentric coordinates. So the templates fall
together exactly, and posed meshes to second order of the triangles' size.

The frame of corner k is the deformation gradient F_k that takes the template's edges at k, and its
normal, to the posed ones in the sense of least squares; v = sum_k a_k (v_k + F_k d_k), d_k from the
corner to the point on the templates. All but the normal is linear in the posed vertices, so that it
is one sparse matrix.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

__all__ = ["Lift", "vertex_areas"]

_NORMAL_SHARE = 0.5  # of the edges' weight, that the normal has in a frame
_RIDGE = 1e-6  # of a frame's trace: a vertex whose edges all lie along one line


@dataclass(frozen=True, eq=False)
class Lift:
    """Two templates laid over each other, and which point of one each vertex of the other is.

    Attributes:
        rest: (Vs, 3) float64 the source's template, laid over the target's; any unit.
        faces: (F, 3) int64 the source's.
        goal: (Vt, 3) float64 the target's template.
        corners: (Vt, 3) int64 vertices of the source.
        weights: (Vt, 3) float64 barycentric coordinates.
        valid: (Vt,) bool; the others stay on their triangles.
    """

    rest: np.ndarray
    faces: np.ndarray
    goal: np.ndarray
    corners: np.ndarray
    weights: np.ndarray
    valid: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.goal)
        for name, shape in (
            ("rest", (len(self.rest), 3)),
            ("faces", (len(self.faces), 3)),
            ("goal", (count, 3)),
            ("corners", (count, 3)),
            ("weights", (count, 3)),
            ("valid", (count,)),
        ):
            array = getattr(self, name)
            if array.shape != shape or not np.isfinite(array).all():
                raise ValueError(f"{name} must be {shape} and finite, got {array.shape}")
        if len(self.faces) and not 0 <= self.faces.min() <= self.faces.max() < len(self.rest):
            raise ValueError(f"faces must lie in 0..{len(self.rest) - 1}")

    @cached_property
    def sizes(self) -> np.ndarray:
        """(Vs,) lengths that the template's vertices stand for, metres."""
        return np.sqrt(np.linalg.norm(vertex_areas(self.rest, self.faces), axis=1))

    @cached_property
    def matrices(self) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """(Vt, Vs) of the vertices, and of their normals scaled by size over template's size."""
        sources, targets = len(self.rest), len(self.goal)
        edges = np.concatenate([self.faces[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
        edges = np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)  # sorted by the first
        along = self.rest[edges[:, 1]] - self.rest[edges[:, 0]]
        length = np.linalg.norm(along, axis=1)
        weigh = 1 / np.maximum(length, 1e-9)  # short edges tell as much as long ones

        def around(values: np.ndarray) -> np.ndarray:
            out = np.zeros((sources, *values.shape[1:]))
            np.add.at(out, edges[:, 0], values)
            return out

        area = vertex_areas(self.rest, self.faces)
        normal = area / np.maximum(np.linalg.norm(area, axis=1, keepdims=True), 1e-30)
        stiff = _NORMAL_SHARE * around(weigh * length**2)
        frame = around(weigh[:, None, None] * along[:, :, None] * along[:, None])
        frame += stiff[:, None, None] * normal[:, :, None] * normal[:, None]
        ridge = _RIDGE * np.trace(frame, axis1=1, axis2=2)
        frame += np.maximum(ridge, 1e-20)[:, None, None] * np.eye(3)
        inverse = np.linalg.inv(frame)

        away = (self.goal[:, None] - self.rest[self.corners]) * self.valid[:, None, None]
        away = away * self.weights[..., None]  # (Vt, 3 corners, 3)
        pull = (inverse[self.corners] @ away[..., None])[..., 0]
        rise = stiff[self.corners] * (pull * normal[self.corners]).sum(-1)

        first = np.searchsorted(edges[:, 0], np.arange(sources))
        count = np.bincount(edges[:, 0], minlength=sources)
        # every (target, corner) pair with every edge at that corner
        pair = np.repeat(np.arange(3 * targets), count[self.corners.ravel()])
        start = np.concatenate([[0], np.cumsum(count[self.corners.ravel()])[:-1]])
        which = first[self.corners.ravel()[pair]] + np.arange(len(pair)) - start[pair]
        share = weigh[which] * (along[which] * pull.reshape(-1, 3)[pair]).sum(1)
        rows = pair // 3
        row3 = np.repeat(np.arange(targets), 3)
        shape = (targets, sources)
        points = sparse.coo_matrix((self.weights.ravel(), (row3, self.corners.ravel())), shape)
        points = points + sparse.coo_matrix((share, (rows, edges[which, 1])), shape)
        points = points - sparse.coo_matrix((share, (rows, edges[which, 0])), shape)
        normals = sparse.coo_matrix((rise.ravel(), (row3, self.corners.ravel())), shape)
        return points.tocsr(), normals.tocsr()

    def apply(self, vertices: np.ndarray) -> np.ndarray:
        """Sample posed meshes: (..., Vs, 3) -> (..., Vt, 3), in any unit."""
        points, normals = self.matrices
        flat = vertices.reshape(-1, *vertices.shape[-2:])
        out = np.empty((len(flat), len(self.goal), 3))
        for k, mesh in enumerate(flat):
            area = vertex_areas(mesh, self.faces)
            length = np.linalg.norm(area, axis=1)
            scale = np.sqrt(length) / np.maximum(self.sizes, 1e-12)
            unit = area / np.maximum(length, 1e-30)[:, None]
            out[k] = points @ mesh + normals @ (unit * scale[:, None])
        return out.reshape(*vertices.shape[:-2], *out.shape[1:])


def vertex_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return (V, 3) sums of the cross products of the faces at each vertex: normals by area."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    ids = faces.ravel()
    return np.stack(
        [np.bincount(ids, np.repeat(cross[:, k], 3), len(vertices)) for k in range(3)], 1
    )
