"""The store of fits: immutable Parquet parts under one directory, and how to read them. Torch-free.

Layout, below the directory that ``--out`` names (``DATA/fits`` by default)::

    meta/info.json                           format version, bodies, units, path templates
    meta/runs/<run_id>.yaml                  resolved config, versions, invocations and counts
    meta/locks/                              who is writing
    data/run=<run_id>/part-<shard>-<seq>.parquet
    overlays/<run_id>/<fit_id>.<view>.jpg    a cache, can be deleted

Readers look at ``*.parquet`` only: a part gets that name when it is whole. All rows of one image
are in one part, so an image that has a row is done. Writing is ``curation.run_writer``.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.compaction import replaced_parts
from curation.schema import (
    FORMAT_VERSION,
    PARAMETERS,
    check_format_version,
    image_key,
    unpack_column,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

__all__ = ["FitStore", "StoreError", "StoredImages"]

_log = logging.getLogger(__name__)


class StoreError(RuntimeError):
    """The store cannot be read or written. The message says why, and how to go on."""


@dataclass(frozen=True)
class StoredImages:
    """Which images of a run are done.

    Attributes:
        done: Keys (schema.image_key) of the images that have rows.
        failed: Of those, the ones with a row whose status is not "ok", and their attempt.
    """

    done: set[bytes] = field(default_factory=set)
    failed: dict[bytes, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PartInfo:
    """What a part's footer says.

    Attributes:
        path: Of the part.
        run_id: Its run.
        body_name: The body that its parameters belong to.
        body_sha256: Likewise.
        num_rows: Rows in it.
        max_attempt: The highest attempt in it; 0 but for retried images.
    """

    path: Path
    run_id: str
    body_name: str
    body_sha256: str
    num_rows: int
    max_attempt: int


class FitStore:
    """Reads a store. Parts that cannot be read are skipped, logged once, and listed.

    Args:
        root: Directory of the store. It need not exist: an empty store has no rows.

    Attributes:
        root: As given.
        unreadable: Why, by path, of each part that could not be read so far.

    Raises:
        StoreError: If the store was written by a newer major version.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.unreadable: dict[Path, str] = {}
        info = self.info
        if info:
            try:
                check_format_version(str(info.get("format_version", "")), str(self.info_path))
            except ValueError as error:
                raise StoreError(str(error)) from None

    # --- where things are

    @property
    def info_path(self) -> Path:
        """meta/info.json."""
        return self.root / "meta" / "info.json"

    @property
    def runs_dir(self) -> Path:
        """meta/runs."""
        return self.root / "meta" / "runs"

    def run_path(self, run_id: str) -> Path:
        """Return the path of a run's record."""
        return self.runs_dir / f"{run_id}.yaml"

    def run_dir(self, run_id: str) -> Path:
        """Return the directory of a run's parts."""
        return self.root / "data" / f"run={run_id}"

    def overlay_path(self, run_id: str, fit_id: str, view: str) -> Path:
        """Return where the picture of a fit is or would be; views are front, side, top."""
        return self.root / "overlays" / run_id / f"{fit_id}.{view}.jpg"

    # --- what there is

    @cached_property
    def info(self) -> dict[str, Any]:
        """meta/info.json as it was when first asked for; empty if there is none."""
        try:
            return json.loads(self.info_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{self.info_path} cannot be read ({error}); restore it from a backup, or remove "
                "it: the next run writes it anew"
            ) from None

    def run_ids(self) -> list[str]:
        """Return the ids of the runs that have a record or parts, sorted."""
        recorded = {path.stem for path in self.runs_dir.glob("*.yaml")}
        return sorted(recorded | {p.name[4:] for p in (self.root / "data").glob("run=*")})

    def run_record(self, run_id: str) -> dict[str, Any]:
        """Return meta/runs/<run_id>.yaml; empty if there is none."""
        import yaml

        try:
            record = yaml.safe_load(self.run_path(run_id).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, yaml.YAMLError) as error:
            raise StoreError(f"{self.run_path(run_id)} cannot be read: {error}") from None
        return record if isinstance(record, dict) else {}

    def parts(self, run_id: str | None = None) -> list[PartInfo]:
        """Return the readable parts of a run (of all runs if None), in the order of their names."""
        folder = "run=*" if run_id is None else f"run={run_id}"
        found = []
        gone = replaced_parts((self.root / "data").glob(folder))
        for path in sorted((self.root / "data").glob(f"{folder}/*.parquet")):
            if path in gone:
                continue
            file = self._open(path)
            if file is None:
                continue
            with file:
                found.append(self._part_info(path, file))
        return found

    def _open(self, path: Path) -> "pq.ParquetFile | None":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(path, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            self._skip(path, error)
            return None
        version = (file.schema_arrow.metadata or {}).get(b"format_version", b"").decode()
        try:
            check_format_version(version, str(path))
        except ValueError as error:
            file.close()
            raise StoreError(str(error)) from None
        return file

    def _skip(self, path: Path, error: Exception) -> None:
        if path not in self.unreadable:
            reason = " ".join(str(error).split())
            self.unreadable[path] = reason
            _log.warning("skipping a part that cannot be read: %s (%s)", path, reason)

    @staticmethod
    def _part_info(path: Path, file: "pq.ParquetFile") -> PartInfo:
        notes = {k.decode(): v.decode() for k, v in (file.schema_arrow.metadata or {}).items()}
        max_attempt = 0
        for group in range(file.metadata.num_row_groups):
            row_group = file.metadata.row_group(group)
            for leaf in range(row_group.num_columns):
                column = row_group.column(leaf)
                if column.path_in_schema == "attempt":
                    known = column.is_stats_set and column.statistics.has_min_max
                    max_attempt = max(max_attempt, column.statistics.max if known else 1)
        return PartInfo(
            path=path,
            run_id=notes.get("run_id", path.parent.name.removeprefix("run=")),
            body_name=notes.get("body_name", ""),
            body_sha256=notes.get("body_sha256", ""),
            num_rows=file.metadata.num_rows,
            max_attempt=max_attempt,
        )

    def stored_images(self, run_id: str) -> StoredImages:
        """Return which images of a run are done; memory is a few dozen bytes an image."""
        stored = StoredImages()
        names = ["image_id", "status", "attempt"]
        for table in self.iter_tables(names, run_id=run_id):
            columns = (table[name].to_pylist() for name in names)
            for image_id, status, attempt in zip(*columns, strict=True):
                key = image_key(image_id)
                stored.done.add(key)
                if status != "ok":
                    stored.failed[key] = attempt
        return stored

    # --- rows

    def iter_tables(
        self,
        columns: Sequence[str] | None = None,
        run_id: str | None = None,
        where: "pc.Expression | None" = None,
        batch_size: int = 4096,
    ) -> "Iterator[pa.Table]":
        """Yield the rows as tables, part by part; memory is flat in the number of rows.

        Rows that a later attempt replaced are left out.

        Args:
            columns: Names wanted, None for all.
            run_id: Only this run's rows; None for all runs.
            where: Keep the rows for which this holds, e.g. ``pc.field("status") == "ok"``. Only the
                columns asked for can be named in it.
            batch_size: Rows read at a time.

        Raises:
            StoreError: If parameters of different bodies would be mixed, or a column is unknown.
        """
        parts = self.parts(run_id)
        if columns is None or set(columns) & set(PARAMETERS):
            _refuse_mixed_bodies(parts)
        latest = self._latest_attempts(parts)
        for part in parts:
            yield from self._iter_part(part, columns, latest, where, batch_size)

    def iter_superseded(self, run_id: str) -> "Iterator[tuple[PartInfo, pa.Table]]":
        """Yield the parts that hold rows which a later attempt replaced, and their other rows."""
        import pyarrow as pa

        parts = self.parts(run_id)
        latest = self._latest_attempts(parts)
        for part in parts if latest else ():
            ids = self._iter_part(part, ["image_id"], latest, None, 4096)
            if sum(map(len, ids)) == part.num_rows:
                continue
            kept = list(self._iter_part(part, None, latest, None, 4096))
            if part.path not in self.unreadable:
                yield part, pa.concat_tables(kept) if kept else pa.table({})

    def _iter_part(
        self,
        part: PartInfo,
        columns: Sequence[str] | None,
        latest: dict[tuple[str, bytes], int],
        where: "pc.Expression | None",
        batch_size: int,
    ) -> "Iterator[pa.Table]":
        import pyarrow as pa

        file = self._open(part.path)
        if file is None:
            return
        with file:
            known = list(file.schema_arrow.names)
            wanted = known if columns is None else list(columns)
            missing = sorted(set(wanted) - set(known))
            if missing:
                raise StoreError(f"{part.path} has no column {missing}; it has {known}")
            extra = [name for name in ("image_id", "attempt") if latest and name not in wanted]
            try:
                for batch in file.iter_batches(batch_size, columns=wanted + extra):
                    table = pa.Table.from_batches([batch])
                    if latest:
                        table = _without_superseded(table, part.run_id, latest)
                    if where is not None:
                        table = table.filter(where)
                    if len(table):
                        yield table.select(wanted)
            except (OSError, pa.ArrowException) as error:
                self._skip(part.path, error)

    def _latest_attempts(self, parts: Sequence[PartInfo]) -> dict[tuple[str, bytes], int]:
        """Return run and key of the images that were retried, and their newest attempt."""
        latest: dict[tuple[str, bytes], int] = {}
        for part in parts:
            file = self._open(part.path) if part.max_attempt else None
            if file is None:
                continue
            with file:
                table = file.read(["image_id", "attempt"])
            for row in table.to_pylist():
                key = (part.run_id, image_key(row["image_id"]))
                if row["attempt"]:
                    latest[key] = max(latest.get(key, 0), row["attempt"])
        return latest

    def read_table(
        self,
        columns: Sequence[str] | None = None,
        run_id: str | None = None,
        where: "pc.Expression | None" = None,
    ) -> "pa.Table":
        """Return the rows of iter_tables as one table, an empty one if there are none.

        Args:
            columns: As in iter_tables.
            run_id: As in iter_tables.
            where: As in iter_tables.

        Raises:
            StoreError: As in iter_tables.
        """
        import pyarrow as pa

        tables = list(self.iter_tables(columns, run_id, where))
        if not tables:
            from curation.schema import fit_schema

            empty = fit_schema().empty_table()
            return empty if columns is None else empty.select(list(columns))
        try:
            return pa.concat_tables(tables)
        except pa.ArrowInvalid as error:
            raise StoreError(
                f"the runs of this store do not have the same columns ({error}); pass run_id="
            ) from None

    def iter_rows(
        self,
        columns: Sequence[str] | None = None,
        run_id: str | None = None,
        where: "pc.Expression | None" = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield rows as dicts; array columns are numpy arrays of the shape the schema gives.

        Args:
            columns: As in iter_tables.
            run_id: As in iter_tables.
            where: As in iter_tables.

        Raises:
            StoreError: As in iter_tables.
        """
        for table in self.iter_tables(columns, run_id, where, batch_size=512):
            unpacked = [unpack_column(table[f.name], f) for f in table.schema]
            for values in zip(*unpacked, strict=True):
                yield dict(zip(table.column_names, values, strict=True))


def _refuse_mixed_bodies(parts: Sequence[PartInfo]) -> None:
    bodies = {part.body_sha256: part for part in parts}
    if len(bodies) > 1:
        found = "; ".join(f"run {p.run_id} has {p.body_name}" for p in bodies.values())
        raise StoreError(
            "parameters of different bodies do not mean the same and are not mixed: "
            f"{found}. Ask for one run (run_id=...), or for columns without parameters"
        )


def _without_superseded(
    table: "pa.Table", run_id: str, latest: dict[tuple[str, bytes], int]
) -> "pa.Table":
    import pyarrow as pa

    images, attempts = (table[name].to_pylist() for name in ("image_id", "attempt"))
    keep = [
        attempt >= latest.get((run_id, image_key(image)), 0)
        for image, attempt in zip(images, attempts, strict=True)
    ]
    return table.filter(pa.array(keep, pa.bool_()))


def new_info() -> dict[str, Any]:
    """Return what meta/info.json says of a store without runs."""
    return {
        "format_version": FORMAT_VERSION,
        "made_by": "pseudogt",
        "keypoint_convention": "fit",
        "units": {
            "lengths": "m",
            "rotations": "axis-angle, rad",
            "image": "px of the upright image, origin at the top-left corner of the top-left pixel",
            "camera": "x right, y down, z forward",
        },
        "paths": {
            "run": "meta/runs/{run_id}.yaml",
            "part": "data/run={run_id}/part-{shard}-{seq}.parquet",
            "overlay": "overlays/{run_id}/{fit_id}.{view}.jpg",
        },
        "bodies": {},
    }
