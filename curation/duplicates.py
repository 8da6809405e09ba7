"""Near-duplicate photos: perceptual hashes, the mirror image included, and groups. Torch-free.

A photo's hash is the signs of 64 low frequencies of its cosine transform (pHash). Mirroring a photo
only changes the sign of its odd horizontal frequencies, so the mirror's hash comes for nothing. A
second hash, of brightness steps between neighbours (dHash), has to agree: two hashes are seldom
wrong on the same pair.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["PhotoHash", "close_pairs", "hash_photo", "hash_pixels", "near_duplicate_groups"]

MAX_DISTANCE = 10
"""Bits of 64 in which pHashes of one photo, cropped a little or compressed, may differ."""

MAX_STEP_DISTANCE = 16
"""Likewise dHashes, which move more. Unrelated photos differ by 32 on average."""

_SIDE = 32
_BANDS = 4  # of 16 bits each


@dataclass(frozen=True)
class PhotoHash:
    """What is kept of a photo, 32 bytes.

    Attributes:
        frequencies: 64 bits, pHash.
        frequencies_mirrored: Of the mirror image.
        steps: 64 bits, dHash.
        steps_mirrored: Of the mirror image.
    """

    frequencies: int
    frequencies_mirrored: int
    steps: int
    steps_mirrored: int


def hash_photo(path: Path) -> PhotoHash:
    """Hash a photo's upright pixels.

    Raises:
        images.ImageError: If it cannot be read.
    """
    from curation.images import open_image

    return hash_pixels(open_image(path).decode())


def hash_pixels(rgb: np.ndarray) -> PhotoHash:
    """Hash pixels.

    Args:
        rgb: (H, W, 3) uint8.
    """
    from PIL import Image
    from scipy.fft import dctn

    # Float, so that rounding does not decide the sign of a weak frequency.
    grey = Image.fromarray(np.ascontiguousarray(rgb)).convert("L").convert("F")
    small = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float64)
    # Frequencies 1..8 along x: the mirror changes the sign of the odd ones exactly.
    waves = dctn(small, norm="ortho")[:8, 1:9]
    odd = np.where(np.arange(1, 9) % 2, -1.0, 1.0)
    row = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), np.float64)
    steps = np.diff(row, axis=1)
    return PhotoHash(
        _bits(waves > 0), _bits(waves * odd > 0), _bits(steps > 0), _bits(-steps[:, ::-1] > 0)
    )


def _bits(signs: np.ndarray) -> int:
    return int.from_bytes(np.packbits(signs.reshape(-1)).tobytes(), "big")


def close_pairs(left: np.ndarray, right: np.ndarray, distance: int) -> np.ndarray:
    """Return all pairs of 64-bit hashes that differ in few bits.

    Hashes that differ in at most ``distance`` of 64 bits differ in at most a quarter of that in one
    of four bands of 16 bits: only hashes that share such a band are compared.

    Args:
        left: (n,) uint64.
        right: (m,) uint64.
        distance: Bits, at most 11.

    Returns:
        (p, 2) int64, indices into left and right, each pair once, in order.

    Raises:
        ValueError: If distance is more than 11.
    """
    if not 0 <= distance <= 11:
        raise ValueError(f"distance must lie in 0..11 bits, got {distance}")
    masks = _masks(distance // _BANDS)
    found = []
    for band in range(_BANDS):
        shift = np.uint64(16 * band)
        key_left = ((left >> shift) & np.uint64(0xFFFF)).astype(np.uint32)
        key_right = ((right >> shift) & np.uint64(0xFFFF)).astype(np.uint32)
        order = np.argsort(key_right, kind="stable")
        size = np.bincount(key_right, minlength=1 << 16)
        start = np.cumsum(size) - size
        for mask in masks:
            begin, count = start[key_left ^ mask], size[key_left ^ mask]
            for rows in _chunks(count):
                i = np.repeat(np.arange(len(left))[rows], count[rows])
                first = np.repeat(np.cumsum(count[rows]) - count[rows], count[rows])
                j = order[np.repeat(begin[rows], count[rows]) + np.arange(len(i)) - first]
                near = _bit_count(left[i] ^ right[j]) <= distance
                found.append(np.column_stack([i[near], j[near]]))
    pairs = np.concatenate(found) if found else np.zeros((0, 2), np.int64)
    return np.unique(pairs, axis=0)


def _masks(radius: int) -> np.ndarray:
    """Return the 16-bit numbers with at most ``radius`` bits."""
    bits = _bit_count(np.arange(1 << 16, dtype=np.uint64))
    return np.flatnonzero(bits <= radius).astype(np.uint32)


def _chunks(count: np.ndarray, size: int = 4_000_000) -> Iterable[slice]:
    """Yield ranges of rows with some millions of candidates each, so that memory stays flat."""
    edges = np.searchsorted(np.cumsum(count), np.arange(size, count.sum() + size, size), "left") + 1
    begin = 0
    for end in edges:
        yield slice(begin, int(end))
        begin = int(end)


def _bit_count(numbers: np.ndarray) -> np.ndarray:
    """Return how many bits are set; numpy has it from 2.0 on."""
    table = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)
    return table[np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, 8)].sum(1, dtype=np.uint8)


def near_duplicate_groups(
    hashes: Sequence[PhotoHash | None],
    distance: int = MAX_DISTANCE,
    step_distance: int = MAX_STEP_DISTANCE,
) -> np.ndarray:
    """Return the group of each photo: what is connected by near-duplicates, mirrored or not.

    Args:
        hashes: Of the n photos; one that could not be read (None) is a group of its own.
        distance: Most bits in which pHashes may differ.
        step_distance: Most bits in which dHashes may differ.

    Returns:
        (n,) int64, the lowest index in each photo's group.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    known = [k for k, one in enumerate(hashes) if one is not None]
    columns = ("frequencies", "frequencies_mirrored", "steps", "steps_mirrored")
    table = np.array([[getattr(hashes[k], c) for c in columns] for k in known], np.uint64)
    table = table.reshape(-1, 4)
    # Equal photos are one: ten thousand copies of a black frame are no fifty million pairs.
    unique, of = np.unique(table, axis=0, return_inverse=True)
    of = of.reshape(-1)
    edges = []
    for mirrored in (0, 1):
        pairs = close_pairs(unique[:, 0], unique[:, mirrored], distance)
        apart = _bit_count(unique[pairs[:, 0], 2] ^ unique[pairs[:, 1], 2 + mirrored])
        edges.append(pairs[apart <= step_distance])
    pairs = np.concatenate(edges)
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), (len(unique), len(unique)))
    label = connected_components(graph, directed=False)[1] if len(unique) else np.zeros(0, int)
    group = np.arange(len(hashes))
    first: dict[int, int] = {}
    for place, k in enumerate(known):
        group[k] = first.setdefault(int(label[of[place]]), k)
    return group
