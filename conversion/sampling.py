"""A few vertices that stand for all: spread over each part of the body, weighted. Torch-free."""

from dataclasses import dataclass

import numpy as np

from bodymodel.body import BodyData

__all__ = ["Sample", "sample_edges", "sample_vertices"]

_LEAST = 15  # vertices a part


@dataclass(frozen=True, eq=False)
class Sample:
    """Chosen vertices.

    Attributes:
        ids: (N,) of the body's.
        masses: (N,), sum of the masses of the vertices that each stands for.
    """

    ids: np.ndarray
    masses: np.ndarray


def sample_vertices(body: BodyData, masses: np.ndarray, count: int) -> Sample:
    """Choose vertices, farthest point by farthest point, in every part.

    A part is what one joint moves most. Each vertex that is left out lends its mass to the nearest
    chosen one of its part.

    Args:
        body: The body.
        masses: (V,), 0 for vertices that do not count.
        count: About how many; small parts get 15 all the same.
    """
    rest = body.v_template.astype(np.float64)
    part = np.where(masses > 0, body.weights.argmax(1), -1)
    total = max(int((part >= 0).sum()), 1)
    ids, weights = [], []
    for joint in range(len(body.parents)):
        mine = np.flatnonzero(part == joint)
        if not len(mine):
            continue
        wanted = min(len(mine), max(_LEAST, round(count * len(mine) / total)))
        chosen, owner = _farthest(rest[mine], wanted)
        ids.append(mine[chosen])
        weights.append(np.bincount(owner, masses[mine], wanted))
    order = np.argsort(np.concatenate(ids))
    return Sample(np.concatenate(ids)[order], np.concatenate(weights)[order])


def _farthest(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the chosen points and, for every point, which of the chosen is nearest."""
    first = int(((points - points.mean(0)) ** 2).sum(1).argmax())
    chosen = [first]
    distance = ((points - points[first]) ** 2).sum(1)
    owner = np.zeros(len(points), int)
    for k in range(1, count):
        chosen.append(int(distance.argmax()))
        to_new = ((points - points[chosen[-1]]) ** 2).sum(1)
        owner[to_new < distance] = k
        distance = np.minimum(distance, to_new)
    return np.array(chosen), owner


def sample_edges(faces: np.ndarray, masses: np.ndarray, sample: Sample) -> tuple[np.ndarray, ...]:
    """Choose edges of the mesh at chosen vertices: up to three at each, in different directions.

    Args:
        faces: (F, 3) of the body.
        masses: (V,), 0 for vertices that do not count; edges need both ends (m_i m_j).
        sample: The chosen vertices.

    Returns:
        (M, 2) vertex ids and (M,) masses, their vertex's in equal shares.
    """
    both = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    both = np.unique(np.concatenate([both, both[:, ::-1]]), axis=0)  # sorted by the first end
    both = both[(masses[both] > 0).all(1)]
    first = np.searchsorted(both[:, 0], sample.ids)
    last = np.searchsorted(both[:, 0], sample.ids, side="right")
    edges, weights = [], []
    for low, high, mass in zip(first, last, sample.masses, strict=True):
        picked = both[low:high][:: max(1, (high - low) // 3)][:3]
        edges.append(picked)
        weights.append(np.full(len(picked), mass / max(len(picked), 1)))
    return np.concatenate(edges), np.concatenate(weights)
