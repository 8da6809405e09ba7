"""The nearest point of a mesh, exactly, in float64. Torch-free."""

import itertools

import numpy as np
from scipy.spatial import cKDTree

__all__ = ["closest_on_triangles", "nearest_on_mesh"]

_FIRST = 8  # triangles that are looked at before any doubt


def nearest_on_mesh(
    vertices: np.ndarray, faces: np.ndarray, points: np.ndarray, *, is_exact: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the nearest point of a mesh for every point.

    Triangles are looked at in the order of their middles' distances. None whose middle is farther
    away than what was found plus the largest reach of any triangle from its middle can be nearer;
    until that is so, more are looked at. Large triangles go by themselves, so that a few do not
    spoil the bound of all.

    Args:
        vertices: (V, 3).
        faces: (F, 3).
        points: (N, 3).
        is_exact: Otherwise only the first few triangles of each size are looked at.

    Returns:
        The triangle (N,), barycentric coordinates (N, 3) and the point (N, 3).
    """
    corners = vertices[faces].astype(np.float64)
    middle = corners.mean(1)
    reach = np.linalg.norm(corners - middle[:, None], axis=2).max(1)
    triangle = np.zeros(len(points), np.int64)
    weights, best = np.zeros((len(points), 3)), np.full(len(points), np.inf)
    limits = [0.0, *np.quantile(reach, (0.8, 0.98)), np.inf]
    for low, high in itertools.pairwise(limits):
        mine = np.flatnonzero((reach > low) & (reach <= high))
        if not len(mine):
            continue
        tree, bound = cKDTree(middle[mine]), reach[mine].max()
        todo, count = np.arange(len(points)), min(_FIRST, len(mine))
        while len(todo):
            still = []
            for rows in np.array_split(todo, -(-len(todo) * count // 100_000)):
                away, found = tree.query(points[rows], k=range(1, count + 1))
                # what is surely farther than the best so far need not be looked at
                row, column = np.nonzero(away < best[rows, None] + bound)
                which = mine[found[row, column]]
                at = points[rows][row]
                tried = closest_on_triangles(corners[which], at)
                gap = np.full(away.shape, np.inf)
                gap[row, column] = np.linalg.norm(
                    (corners[which] * tried[..., None]).sum(1) - at, axis=1
                )
                share = np.zeros((*away.shape, 3))
                share[row, column] = tried
                first, each = gap.argmin(1), np.arange(len(rows))
                nearer = gap[each, first] < best[rows]
                won = rows[nearer]
                triangle[won] = mine[found[each, first]][nearer]
                best[won] = gap[each, first][nearer]
                weights[won] = share[each, first][nearer]
                still.append(rows[away[:, -1] < best[rows] + bound])
            if count == len(mine) or not is_exact:
                break
            todo, count = np.concatenate(still), min(4 * count, len(mine))
    return triangle, weights, (corners[triangle] * weights[..., None]).sum(1)


def closest_on_triangles(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the barycentric coordinates (N, 3) of the nearest point of each triangle (N, 3, 3)."""
    best, distance = np.zeros((len(points), 3)), np.full(len(points), np.inf)

    def offer(weights: np.ndarray) -> None:
        gap = ((weights[..., None] * corners).sum(1) - points) ** 2
        better = gap.sum(1) < distance
        best[better], distance[better] = weights[better], gap.sum(1)[better]

    for k in range(3):  # the edges
        a, b = corners[:, k], corners[:, (k + 1) % 3]
        along = ((points - a) * (b - a)).sum(1) / np.maximum(((b - a) ** 2).sum(1), 1e-30)
        t = np.clip(along, 0, 1)
        weights = np.zeros((len(points), 3))
        weights[:, k], weights[:, (k + 1) % 3] = 1 - t, t
        offer(weights)
    e, f = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    d = points - corners[:, 0]
    ee, ef, ff = (e * e).sum(1), (e * f).sum(1), (f * f).sum(1)
    de, df = (d * e).sum(1), (d * f).sum(1)
    area = np.maximum(ee * ff - ef * ef, 1e-30)
    v, w = (ff * de - ef * df) / area, (ee * df - ef * de) / area
    inside = (v >= 0) & (w >= 0) & (v + w <= 1)
    offer(np.where(inside[:, None], np.stack([1 - v - w, v, w], 1), best))
    return best
