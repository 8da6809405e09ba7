"""Put many small parts of a store into few large ones; no row is lost, whenever it is interrupted.

    python -m curation.compact lsp/

A new part is written beside the old ones, read back and compared, and takes their place in one
step (see curation.compaction). A run that is being written is left alone. Do not compact while
others read: a reader that began before may miss parts, and says so.
"""

import json
import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from curation.cli import parse_command_line

__all__ = ["CompactConfig", "compact_run", "main"]

_log = logging.getLogger("curation.compact")
_ROWS = 16_384


@dataclass(frozen=True)
class CompactConfig:
    """What to compact. Every field is a flag."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Directory of a data set with fits."""
    out: Path | None = None
    """The store of fits. [DATA/fits]"""
    run_id: str | None = None
    """Only this run. [all]"""
    rows: int = _ROWS
    """Rows a part and row group."""
    dry_run: bool = False
    """Say what would be done, and write nothing."""
    config: Path | None = None
    """YAML file of settings; the command line wins over it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if done, 1 if it failed, 2 on bad usage."""
    config = parse_command_line(CompactConfig, argv, "python -m curation.compact", __doc__)
    logging.basicConfig(format="%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S")
    from curation.store import FitStore, StoreError
    from curation.tables import text_table

    if config.rows < 1:
        sys.stderr.write(f"curation.compact: --rows must be 1 or more, got {config.rows}\n")
        return 2
    store = FitStore(config.out or config.data / "fits")
    runs = [config.run_id] if config.run_id else sorted({p.run_id for p in store.parts()})
    lines, totals = [], {"parts_before": 0, "parts_after": 0, "rows": 0}
    try:
        for run in runs:
            before, after, rows = compact_run(store, run, config.rows, config.dry_run)
            lines.append((run, str(before), str(after), str(rows)))
            for key, value in zip(totals, (before, after, rows), strict=True):
                totals[key] += value
    except (StoreError, OSError) as error:
        sys.stderr.write(f"curation.compact: {error}\n")
        return 1
    sys.stdout.write(text_table(("run", "parts", "then", "rows"), lines) + "\n")
    sys.stdout.write(json.dumps(totals | {"dry_run": config.dry_run}) + "\n")
    return 0


def compact_run(
    store: Any, run_id: str, rows: int = _ROWS, dry_run: bool = False
) -> tuple[int, int, int]:
    """Compact one run.

    Args:
        store: FitStore.
        run_id: Of the run.
        rows: Of a part at most, but all rows of an image stay together.
        dry_run: Only count.

    Returns:
        Parts before, parts after, rows.

    Raises:
        StoreError: If the run is being written, or a new part does not read back as it should.
    """
    from curation.compaction import finish_compaction
    from curation.locks import FileLock, waiting_lock
    from curation.store import StoreError

    folder, locks = store.run_dir(run_id), store.root / "meta" / "locks"
    with ExitStack() as stack:
        if not dry_run:
            locks.mkdir(parents=True, exist_ok=True)
            # The lock under which fitting.run opens and tidies a run, and every shard's.
            stack.enter_context(waiting_lock(locks / f"{run_id}.start", timeout_s=5))
            for path in sorted(locks.glob(f"{run_id}.*of*.lock")):
                lock = FileLock(path)
                if not lock.try_acquire():
                    raise StoreError(
                        f"process {lock.holder()} is writing run {run_id}; compact it afterwards"
                    )
                stack.callback(lock.release)
            finish_compaction(folder)
        parts = store.parts(run_id)
        total = sum(part.num_rows for part in parts)
        groups = _groups(parts, rows)
        if not dry_run:
            for group in groups:
                if len(group) > 1:
                    _merge(folder, group, rows)
        return len(parts), len(groups), total


def _groups(parts: Sequence[Any], rows: int) -> list[list[Any]]:
    """Parts of the same columns that fit into one, in their order."""
    import pyarrow.parquet as pq

    groups: list[list[Any]] = []
    keys: list[Any] = []
    for part in parts:
        schema = pq.read_schema(part.path)
        metadata = {k: v for k, v in (schema.metadata or {}).items() if k != b"ARROW:schema"}
        key = (tuple(schema.names), tuple(map(str, schema.types)), tuple(sorted(metadata.items())))
        full = groups and sum(p.num_rows for p in groups[-1]) + part.num_rows > rows
        if groups and keys[-1] == key and not full:
            groups[-1].append(part)
        else:
            groups.append([part])
            keys.append(key)
    return groups


def _merge(folder: Path, group: Sequence[Any], rows: int) -> None:
    import pyarrow as pa

    from curation.compaction import JOURNAL, finish_compaction, merged_path
    from curation.run_writer import write_part, write_text
    from curation.store import StoreError

    table = pa.concat_tables([_read(part.path) for part in group])
    images = table["image_id"].to_pylist()
    order = sorted(range(len(images)), key=lambda k: images[k])  # stable: persons keep theirs
    table = table.take(pa.array(order))
    first = group[0].path
    merged = merged_path(first)
    write_part(table, merged, rows)
    if not _read(merged).equals(table):
        raise StoreError(f"{merged} does not read back as it was written; nothing was changed")
    others = [part.path.name for part in group[1:]]
    write_text(folder / JOURNAL, json.dumps({"part": first.name, "replaces": others}))
    merged.replace(first)
    finish_compaction(folder)
    _log.info("%s: %d parts in one, %d rows", first.name, len(group), len(table))


def _read(path: Path) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read()


if __name__ == "__main__":
    sys.exit(main())
