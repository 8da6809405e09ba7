"""Hashes of all photos of a store, kept by the hash of their bytes. Torch-free."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from curation.duplicates import PhotoHash, hash_photo

__all__ = ["hash_photos"]

_COLUMNS = ("frequencies", "frequencies_mirrored", "steps", "steps_mirrored")
_VERSION = "pseudogt photo hashes 1"
"""Raise the number whenever a photo would be hashed otherwise."""


def hash_photos(
    photos: Sequence[tuple[Path, str]], cache: Path | None = None
) -> list[PhotoHash | None]:
    """Return the hash of each photo, None for those that cannot be read.

    Args:
        photos: Where each is, and the sha256 of its bytes, by which hashes are kept.
        cache: A Parquet file; what is not in it is added. None for no cache.
    """
    from tqdm import tqdm

    from curation.images import ImageError

    known = {} if cache is None else _load(cache)
    before = len(known)
    found: list[PhotoHash | None] = []
    for path, sha256 in tqdm(photos, "photos", unit="photo", disable=None):
        if sha256 not in known:
            try:
                known[sha256] = hash_photo(path)
            except ImageError:
                found.append(None)
                continue
        found.append(known[sha256])
    if cache is not None and len(known) > before:
        _save(cache, known)
    return found


def _load(path: Path) -> dict[str, PhotoHash]:
    """Return what is kept; nothing if there is none, or it is damaged or of another version."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if (file.schema_arrow.metadata or {}).get(b"version", b"").decode() != _VERSION:
                return {}
            table = file.read(["sha256", *_COLUMNS])
    except (OSError, pa.ArrowException):
        return {}
    names, *numbers = (table[c].to_pylist() for c in table.column_names)
    return {n: PhotoHash(*row) for n, *row in zip(names, *numbers, strict=True)}


def _save(path: Path, known: dict[str, PhotoHash]) -> None:
    """Write whole or not at all; a full disk costs the cache, not the export."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = {sha: one for sha, one in known.items() if len(sha) == 64}  # others are no hashes
    if not known:
        return
    columns = zip(*(astuple(one) for one in known.values()), strict=True)
    table = pa.table(
        {"sha256": list(known)}
        | {n: pa.array(c, pa.uint64()) for n, c in zip(_COLUMNS, columns, strict=True)}
    ).replace_schema_metadata({"version": _VERSION})
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, temporary)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
