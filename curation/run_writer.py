"""Writing one run's rows: whole parts or none, one writer a shard, safe to kill. Torch-free.

A part is written to ``*.parquet.tmp``, flushed to the disk and renamed, so what readers see is
whole. A writer holds its shard's lock while it lives; what a killed writer left is removed by the
next one that opens the run, and never what a living one is writing.
"""

import contextlib
import datetime as dt
import errno
import json
import logging
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.compaction import finish_compaction
from curation.locks import FileLock, is_locked, waiting_lock
from curation.schema import FORMAT_VERSION, fit_schema, rows_to_table
from curation.store import FitStore, StoreError, new_info

__all__ = ["RunInfo", "RunWriter", "check_run_id", "write_part", "write_text"]

_log = logging.getLogger(__name__)

_ROW_GROUP = 16_384
_PART_NAME = re.compile(r"part-(?P<shard>\d+of\d+)-(?P<seq>\d+)\.parquet")


@dataclass(frozen=True)
class RunInfo:
    """What all rows of a run share.

    Attributes:
        run_id: Names the run, its folder and its record; see check_run_id.
        config: The resolved settings, as plain YAML types.
        config_hash: Of the settings that change results.
        dataset: Name of the dataset.
        dataset_root: Its directory.
        body_name: The body that is fitted.
        body_sha256: Of its file.
        body_is_open: Whether it is the open body.
        code_version: Of this project.
        num_betas: Shape components that are fitted.
        num_expression: Expression components that are fitted.
    """

    run_id: str
    config: Mapping[str, Any]
    config_hash: str
    dataset: str
    dataset_root: Path
    body_name: str
    body_sha256: str
    body_is_open: bool
    code_version: str
    num_betas: int = 10
    num_expression: int = 10


def check_run_id(run_id: str) -> str:
    """Return the id if it can be a folder's and a file's name.

    Raises:
        ValueError: If it cannot.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", run_id):
        raise ValueError(
            f"a run id is 1-100 letters, digits, '.', '_' or '-', the first a letter or digit; "
            f"got {run_id!r}"
        )
    return run_id


class RunWriter:
    """Appends parts to one shard of a run.

    Args:
        store: Where to.
        info: The run.
        shard: (I, N): this process writes the images of shard I of N.

    Raises:
        StoreError: If the directory cannot be written, the run exists with another body or other
            settings, or another process writes this shard or another split of the run.
    """

    def __init__(self, store: FitStore, info: RunInfo, shard: tuple[int, int] = (0, 1)) -> None:
        check_run_id(info.run_id)
        self.store = store
        self.info = info
        self._shard = f"{shard[0]:02d}of{shard[1]:02d}"
        self._locks = store.root / "meta" / "locks"
        self._folder = store.run_dir(info.run_id)
        self._started = _now()
        self._has_retried = False  # whether this run has rows that a later attempt replaced
        self._schema = fit_schema(
            info.num_betas,
            info.num_expression,
            {
                "run_id": info.run_id,
                "body_name": info.body_name,
                "body_sha256": info.body_sha256,
                "config_hash": info.config_hash,
                "code_version": info.code_version,
            },
        )
        with _plain_errors(store.root):
            for folder in (store.runs_dir, self._locks, self._folder):
                folder.mkdir(parents=True, exist_ok=True)
            with self._start_lock():
                self._lock = self._take_shard()
                try:
                    self._write_info()
                    self._write_record()
                    self._clean()
                    self._next = self._next_seq()
                except BaseException:
                    self._lock.release()
                    raise

    # --- opening

    def _start_lock(self):
        return waiting_lock(self._locks / f"{self.info.run_id}.start")

    def _shard_lock_path(self, shard: str) -> Path:
        return self._locks / f"{self.info.run_id}.{shard}.lock"

    def _take_shard(self) -> FileLock:
        lock = FileLock(self._shard_lock_path(self._shard))
        if not lock.try_acquire():
            raise StoreError(
                f"process {lock.holder()} is already writing shard {self._shard} of run "
                f"{self.info.run_id} in {self.store.root}; wait for it, or stop it first"
            )
        count = self._shard.split("of")[1]
        for path in self._locks.glob(f"{self.info.run_id}.*of*.lock"):
            shard = path.name.split(".")[-2]
            if shard.split("of")[1] != count and is_locked(path):
                lock.release()
                raise StoreError(
                    f"run {self.info.run_id} is being written as shard {shard}, which shares "
                    f"images with {self._shard}; use the same number of shards, or wait"
                )
        return lock

    def _write_info(self) -> None:
        with waiting_lock(self._locks / "info"):
            info = FitStore(self.store.root).info or new_info()
            check = {"name": self.info.body_name, "is_open": self.info.body_is_open}
            if info.get("bodies", {}).get(self.info.body_sha256) != check:
                info.setdefault("bodies", {})[self.info.body_sha256] = check
                write_text(self.store.info_path, json.dumps(info, indent=2) + "\n")

    def _write_record(self) -> None:
        info, path = self.info, self.store.run_path(self.info.run_id)
        record = self.store.run_record(info.run_id)
        for key in ("body_sha256", "config_hash") if record else ():
            if record.get(key) != getattr(info, key):
                what = "body" if key == "body_sha256" else "settings"
                raise StoreError(
                    f"run {info.run_id} was made with another {what} "
                    f"({record.get('body_name')}, settings {record.get('config_hash')}; now "
                    f"{info.body_name}, settings {info.config_hash}); give another --run-id, or "
                    "--overwrite for a new run beside it"
                )
        if record:
            root = record.get("dataset_root")
            if root != self._relative_root():
                _log.warning("run %s was begun on %s", info.run_id, root)
            return
        record = {
            "run_id": info.run_id,
            "format_version": FORMAT_VERSION,
            "created": self._started,
            "code_version": info.code_version,
            "dataset": info.dataset,
            "dataset_root": self._relative_root(),
            "body_name": info.body_name,
            "body_sha256": info.body_sha256,
            "body_is_open": info.body_is_open,
            "config_hash": info.config_hash,
            "config": dict(info.config),
            "invocations": [],
        }
        _write_yaml(path, record)

    def _relative_root(self) -> str:
        """The dataset seen from the store, so that both can move together."""
        return os.path.relpath(self.info.dataset_root.resolve(), self.store.root.resolve())

    def _clean(self) -> None:
        """Remove what killed writers left; set aside parts that no reader can open."""
        finish_compaction(self._folder)
        for path in self._folder.glob("*.tmp"):
            match = _PART_NAME.match(path.name)
            shard = match["shard"] if match else self._shard
            if shard == self._shard or not is_locked(self._shard_lock_path(shard)):
                path.unlink(missing_ok=True)
        parts = self.store.parts(self.info.run_id)
        self._has_retried = any(part.max_attempt for part in parts)
        for path, reason in list(self.store.unreadable.items()):
            if path.parent == self._folder and os.access(path, os.R_OK):
                aside = path.with_name(path.name + ".unreadable")
                path.replace(aside)
                _log.warning("set aside as %s; its images are fitted again (%s)", aside, reason)

    def _next_seq(self) -> int:
        found = (_PART_NAME.match(path.name) for path in self._folder.iterdir())
        return 1 + max((int(m["seq"]) for m in found if m and m["shard"] == self._shard), default=0)

    # --- writing

    def write(self, rows: Sequence[Mapping[str, Any]]) -> Path | None:
        """Write whole images' rows as one part; when this returns they are on the disk.

        Args:
            rows: As in schema.rows_to_table; all rows of an image together. None are no part.

        Returns:
            The part's path, None without rows.

        Raises:
            StoreError: If the disk is full or the directory cannot be written; nothing is changed.
        """
        if not rows:
            return None
        table = rows_to_table(rows, self._schema)
        path = self._folder / f"part-{self._shard}-{self._next:06d}.parquet"
        with _plain_errors(self.store.root, f"{len(rows)} rows were not written. "):
            write_part(table, path)
        self._next += 1
        self._has_retried |= any(row["attempt"] > 0 for row in rows)
        return path

    def finish(self, outcome: str, counts: Mapping[str, int]) -> None:
        """Tidy up after retries and note this invocation in the run's record.

        Args:
            outcome: "complete", "interrupted" or "failed".
            counts: What to note.
        """
        with _plain_errors(self.store.root), self._start_lock():
            if self._has_retried:
                self._drop_superseded()
            record = self.store.run_record(self.info.run_id)
            record.setdefault("invocations", []).append(
                {
                    "shard": self._shard,
                    "started": self._started,
                    "ended": _now(),
                    "host": platform.node(),
                    "outcome": outcome,
                    "counts": dict(counts),
                }
            )
            _write_yaml(self.store.run_path(self.info.run_id), record)

    def _drop_superseded(self) -> None:
        """Rewrite the parts whose rows a later attempt replaced.

        Interrupted anywhere, it leaves rows that readers skip and the next call removes. Only this
        function rewrites parts, under the run's lock.
        """
        for part, kept in self.store.iter_superseded(self.info.run_id):
            if len(kept):
                write_part(kept, part.path)
            else:
                part.path.unlink()

    def close(self) -> None:
        """Let others write this shard."""
        self._lock.release()

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_part(table: Any, path: Path, row_group: int = _ROW_GROUP) -> None:
    """Write a part whole or not at all, and make it last."""
    import pyarrow.parquet as pq

    text = [f.name for f in table.schema if str(f.type) == "string"]

    def write(file: Any) -> None:
        pq.write_table(
            table,
            file,
            row_group_size=row_group,
            compression="zstd",
            compression_level=3,
            use_dictionary=text,
            write_page_index=True,
            write_page_checksum=True,
        )

    _replace(path, write)


def _write_yaml(path: Path, record: Mapping[str, Any]) -> None:
    import yaml

    write_text(path, yaml.safe_dump(dict(record), sort_keys=False, allow_unicode=True))


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, and make it last."""
    _replace(path, lambda file: file.write(text.encode()))


def _replace(path: Path, write: Callable[[Any], Any]) -> None:
    """Write a file whole or not at all, and make it last."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # some file systems cannot sync a directory
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def _plain_errors(root: Path, lost: str = "") -> Iterator[None]:
    """Turn the operating system's errors into sentences a user can act on."""
    again = "The same command goes on where it stopped."
    try:
        yield
    except TimeoutError as error:
        raise StoreError(f"{error}; wait for it, or stop it first") from None
    except OSError as error:
        where = error.filename or root
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"no space left in {root}. {lost}Free some. {again}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StoreError(
                f"{where} cannot be written ({error.strerror}). {lost}Choose another place with "
                "--out, or change its permissions"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise StoreError(f"{where} is a file, not a directory; choose another --out") from error
        raise StoreError(f"writing to {where} failed: {error}. {lost}{again}") from error


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
