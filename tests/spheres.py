"""Bodies that are spheres: a joint each, strangers to each other, so that depths are known."""

from dataclasses import replace

import numpy as np

from bodymodel.body import BodyData
from bodymodel.parts import BodyParts


def icosphere(levels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A unit sphere with outward faces: 642 vertices at three levels."""
    t = (1 + 5**0.5) / 2
    vertices = [
        (-1, t, 0), (1, t, 0), (-1, -t, 0), (1, -t, 0), (0, -1, t), (0, 1, t), (0, -1, -t),
        (0, 1, -t), (t, 0, -1), (t, 0, 1), (-t, 0, -1), (-t, 0, 1),
    ]  # fmt: skip
    faces = [
        (0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11), (1, 5, 9), (5, 11, 4),
        (11, 10, 2), (10, 7, 6), (7, 1, 8), (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8), (3, 8, 9),
        (4, 9, 5), (2, 4, 11), (6, 2, 10), (8, 6, 7), (9, 8, 1),
    ]  # fmt: skip
    points = [np.asarray(v, float) / np.linalg.norm(v) for v in vertices]
    for _ in range(levels):
        middle: dict[tuple[int, int], int] = {}

        def half(a: int, b: int, middle=middle) -> int:
            key = (min(a, b), max(a, b))
            if key not in middle:
                new = points[a] + points[b]
                points.append(new / np.linalg.norm(new))
                middle[key] = len(points) - 1
            return middle[key]

        finer = []
        for a, b, c in faces:
            ab, bc, ca = half(a, b), half(b, c), half(c, a)
            finer += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
        faces = finer
    return np.array(points), np.array(faces)


def spheres(body: BodyData, radii_m: tuple[float, ...], levels: int = 3):
    """Return a body whose surface is spheres about the origin, its parts, and each one's vertices.

    Args:
        body: Lends everything else.
        radii_m: Of each sphere; sphere k is joint k's.
        levels: Of the icospheres.
    """
    unit, faces = icosphere(levels)
    count, size = len(radii_m), len(unit)
    vertices = np.concatenate([radius * unit for radius in radii_m]).astype(np.float32)
    all_faces = np.concatenate([faces + k * size for k in range(count)]).astype(np.int32)
    part = np.repeat(np.arange(count), size)
    may_meet = ~np.eye(count, dtype=bool)
    names = tuple(body.joints[:count])
    parts = BodyParts(part, np.repeat(np.arange(count), len(faces)), may_meet, names)
    body = replace(body, v_template=vertices, faces=all_faces)
    return body, parts, [np.flatnonzero(part == k) for k in range(count)]
