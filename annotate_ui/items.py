"""What the page says of an item: a small index in memory, whole rows from the store on demand."""

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bodymodel.spec import PARTS
from curation.schema import unpack_column
from curation.store import FitStore

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Item", "ItemIndex"]

_COLUMNS = (
    "fit_id", "run_id", "dataset", "image_id", "image_path", "person_index", "attempt", "status",
    "has_fit", "has_left_hand", "has_right_hand", "has_face", "person_height_px", "width", "height",
    *(f"residual_{part}_px" for part in PARTS),
)  # fmt: skip
_CACHE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """One fit, as far as every request needs it."""

    fit_id: str
    run_id: str
    dataset: str
    image_id: str
    person_index: int
    status: str
    seen: frozenset[str]
    residual_px: tuple[float, ...]
    person_height_px: float
    part: int
    row: int
    attempt: int

    def errors(self) -> list[dict[str, Any]]:
        """Return the pixel error by part: part, px, % of height, seen."""
        found = []
        for part, px in zip(PARTS, self.residual_px, strict=True):
            known = math.isfinite(px)
            tall = self.person_height_px
            share = 100 * px / tall if known and math.isfinite(tall) and tall > 0 else None
            found.append(
                {
                    "part": part,
                    "px": round(px, 2) if known else None,
                    "pct": None if share is None else round(share, 2),
                    "seen": part == "body" or part in self.seen,
                }
            )
        return found


class ItemIndex:
    """The fits of a store that can be judged.

    Args:
        store: The store.
        run_ids: Only these runs; None for all.

    Attributes:
        items: By fit_id, in the order of the store.
    """

    def __init__(self, store: FitStore, run_ids: Sequence[str] | None = None) -> None:
        import pyarrow.parquet as pq

        self._store, self._run_ids = store, run_ids
        self._parts: list[Path] = []
        self.items: dict[str, Item] = {}
        self._cache: OrderedDict[tuple[Path, int], pa.Table] = OrderedDict()
        self._lock = threading.Lock()
        self._listed = self._listing()
        for run_id in store.run_ids() if run_ids is None else run_ids:
            for info in store.parts(run_id):
                number = len(self._parts)
                self._parts.append(info.path)
                with pq.ParquetFile(info.path) as file:
                    table = file.read(list(_COLUMNS))
                self._add(table, number)

    def refresh(self) -> bool:
        """Read the store again if its parts are others than before; return whether they were."""
        if self._listing() == self._listed:
            return False
        new = ItemIndex(self._store, self._run_ids)
        with self._lock:
            self._parts, self.items, self._listed = new._parts, new.items, new._listed
            self._cache.clear()
        return True

    def _listing(self) -> list[str]:
        runs = self._store.run_ids() if self._run_ids is None else self._run_ids
        folders = [self._store.run_dir(run_id) for run_id in runs]
        return sorted(str(path) for folder in folders for path in folder.glob("*.parquet"))

    def _add(self, table: "pa.Table", part: int) -> None:
        columns = {name: table[name].to_pylist() for name in _COLUMNS}
        residuals = list(zip(*(columns[f"residual_{part}_px"] for part in PARTS), strict=True))
        flags = [columns[f"has_{name}"] for name in ("left_hand", "right_hand", "face")]
        for row, fit_id in enumerate(columns["fit_id"]):
            known = self.items.get(fit_id)
            if known is not None and known.attempt > columns["attempt"][row]:
                continue
            if not columns["has_fit"][row]:
                self.items.pop(fit_id, None)
                continue
            names = ("left_hand", "right_hand", "face")
            seen = frozenset(n for n, flag in zip(names, flags, strict=True) if flag[row])
            self.items[fit_id] = Item(
                fit_id=fit_id,
                run_id=columns["run_id"][row],
                dataset=columns["dataset"][row],
                image_id=columns["image_id"][row],
                person_index=columns["person_index"][row],
                status=columns["status"][row],
                seen=seen,
                residual_px=residuals[row],
                person_height_px=columns["person_height_px"][row],
                part=part,
                row=row,
                attempt=columns["attempt"][row],
            )

    def row(self, fit_id: str, columns: Sequence[str]) -> dict[str, Any]:
        """Return columns of a fit's row; arrays have the shape that the schema gives.

        Raises:
            KeyError: If there is no such fit.
        """
        with self._lock:
            item = self.items[fit_id]
            path = self._parts[item.part]
        table, row = self._group(path, item.row)
        one = table.select(list(columns)).slice(row, 1)
        return {f.name: unpack_column(one[f.name], f)[0] for f in one.schema}

    def _group(self, path: Path, row: int) -> "tuple[pa.Table, int]":
        """Return the row group that holds a row, and the row's place in it."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            group = 0
            while row >= file.metadata.row_group(group).num_rows:
                row -= file.metadata.row_group(group).num_rows
                group += 1
            with self._lock:
                table = self._cache.get((path, group))
                if table is not None:
                    self._cache.move_to_end((path, group))
                    return table, row
            table = file.read_row_group(group)
        with self._lock:
            self._cache[path, group] = table
            while len(self._cache) > 1 and (
                sum(held.nbytes for held in self._cache.values()) > _CACHE_BYTES
            ):
                self._cache.popitem(last=False)
        return table, row
