"""Arrays of which only the rows asked for are read: a long motion need not fit in memory."""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bodymodel.pickles import load_plain_pickle

__all__ = ["Rows", "read_header", "read_npz", "table_rows"]

_LARGE_BYTES = 1 << 20  # arrays of an npz up to this size are read at once
_CHUNK = 4096


class Rows:
    """A two-dimensional array, read as it is asked for.

    Args:
        count: Rows.
        width: Columns.
        read: From the first row and the last (exclusive) to an array (n, width).
        axes: The shape of a row before it was flattened, where it is known.
    """

    def __init__(
        self,
        count: int,
        width: int,
        read: Callable[[int, int], np.ndarray],
        axes: tuple[int, ...] = (),
    ) -> None:
        self.shape, self.axes = (count, width), axes or (width,)
        self._read = read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return rows of a slice without a step."""
        first, last, _ = rows.indices(len(self))
        return self._read(first, max(first, last))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def chunks(self) -> Iterator[np.ndarray]:
        """Yield all rows, some thousands at a time."""
        for first in range(0, len(self), _CHUNK):
            yield self[first : first + _CHUNK]

    def map(self, width: int, function: Callable[[np.ndarray], np.ndarray]) -> "Rows":
        """Return rows of which each piece goes through a function to (n, width)."""
        return Rows(len(self), width, lambda first, last: function(self[first:last]))

    def columns(self, first: int, last: int) -> "Rows":
        """Return some of the columns."""
        return self.map(last - first, lambda x: x[:, first:last])

    def take(self, ids: np.ndarray) -> "Rows":
        """Return the rows of ascending ids (n,)."""

        def read(first: int, last: int) -> np.ndarray:
            wanted = ids[first:last]
            if not len(wanted):
                return self[0:0]
            return self[int(wanted[0]) : int(wanted[-1]) + 1][wanted - wanted[0]]

        return Rows(len(ids), self.shape[1], read, self.axes)

    @staticmethod
    def of(array: "np.ndarray | Rows") -> "Rows":
        """Return an array as rows; further axes are flattened."""
        if isinstance(array, Rows):
            return array
        flat = array.reshape(len(array), -1)
        return Rows(len(flat), flat.shape[1], lambda first, last: flat[first:last], array.shape[1:])

    @staticmethod
    def repeated(row: np.ndarray, count: int) -> "Rows":
        """Return one row (W,), ``count`` times."""
        return Rows(
            count, len(row), lambda first, last: np.broadcast_to(row, (last - first, len(row)))
        )

    @staticmethod
    def beside(parts: "Sequence[Rows]") -> "Rows":
        """Return the columns of several, one after the other."""
        return Rows(
            len(parts[0]),
            sum(part.shape[1] for part in parts),
            lambda first, last: np.concatenate([part[first:last] for part in parts], 1),
        )


class _Member:
    """One array of an npz, read forwards; going back means starting over."""

    def __init__(self, path: Path, name: str, dtype: np.dtype, head: int, row_bytes: int) -> None:
        self._path, self._name, self._dtype = path, name, dtype
        self._head, self._row_bytes = head, row_bytes
        self._zip: zipfile.ZipFile | None = None
        self._file: Any = None

    def __call__(self, first: int, last: int) -> np.ndarray:
        if self._file is None:
            self._zip = zipfile.ZipFile(self._path)
            self._file = self._zip.open(self._name)
        self._file.seek(self._head + first * self._row_bytes)
        wanted = (last - first) * self._row_bytes
        data = self._file.read(wanted)
        if len(data) != wanted:
            raise ValueError(f"{self._path}: {self._name} is cut off")
        return np.frombuffer(data, self._dtype).reshape(last - first, -1)


def read_npz(path: Path, objects: Sequence[str] = ()) -> dict[str, Any]:
    """Return the arrays of an npz: small ones as they are, large ones as rows.

    Arrays of pickled objects are read, as data only, if ``objects`` names them: HumanData and ROMP
    keep dicts of arrays so. Else they are left out; nothing in the file is executed.

    Raises:
        ValueError: If it is damaged (or zipfile.BadZipFile, OSError).
    """
    out: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                continue
            with archive.open(info) as file:
                shape, fortran, dtype = read_header(file)
                head = file.tell()
            name = info.filename.removesuffix(".npy")
            if dtype.hasobject:
                if name in objects:
                    with archive.open(info) as file:
                        file.read(head)
                        out[name] = load_plain_pickle(file, f"{path}: {name}")
                continue
            size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            if info.file_size != head + size:
                raise ValueError(f"{name} should have {size} bytes, it has {info.file_size - head}")
            if size > _LARGE_BYTES and len(shape) > 1 and not fortran and dtype.kind in "fiu":
                width = int(np.prod(shape[1:], dtype=np.int64))
                read = _Member(path, info.filename, dtype, head, width * dtype.itemsize)
                out[name] = Rows(shape[0], width, read, shape[1:])
            else:
                with archive.open(info) as file:
                    out[name] = np.lib.format.read_array(file, allow_pickle=False)
    return out


def read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return an npy's shape, whether it is in Fortran's order, and its type."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


class _Table:
    """List columns of a Parquet file, read forwards in batches; going back means starting over."""

    def __init__(self, path: Path, columns: list[str], keep: np.ndarray | None) -> None:
        self._path, self._columns, self._keep = path, columns, keep
        self._batches: Iterator[Any] | None = None
        self._at, self._held = 0, {name: np.zeros((0, 0)) for name in columns}

    def rows(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Return rows of the kept ones, by column."""
        ids = np.arange(first, last) if self._keep is None else self._keep[first:last]
        pieces: list[dict[str, np.ndarray]] = []
        todo = ids
        while len(todo):
            if self._batches is None or todo[0] < self._at:
                self._start()
            held = len(self._held[self._columns[0]])
            inside = todo[todo < self._at + held] - self._at
            if len(inside):
                pieces.append({name: x[inside] for name, x in self._held.items()})
                todo = todo[len(inside) :]
            else:
                self._at += held
                self._held = self._next()
        if not pieces:
            return {name: np.zeros((0, 0)) for name in self._columns}
        return {name: np.concatenate([p[name] for p in pieces]) for name in self._columns}

    def _start(self) -> None:
        import pyarrow.parquet as pq

        file = pq.ParquetFile(self._path)
        self._batches = file.iter_batches(2048, columns=self._columns)
        self._at, self._held = 0, self._next()

    def _next(self) -> dict[str, np.ndarray]:
        import pyarrow as pa

        batch = next(self._batches, None)
        if batch is None:
            raise ValueError(f"{self._path} has fewer rows than it says")
        out = {}
        for name in self._columns:
            column = batch.column(name)
            flat = column.flatten().to_numpy(zero_copy_only=False)
            if not pa.types.is_fixed_size_list(column.type) and len(batch):
                lengths = np.unique(np.diff(column.offsets.to_numpy()))
                if len(lengths) != 1:
                    raise ValueError(f"{self._path}: {name} has lists of different lengths")
            out[name] = flat.reshape(len(batch), -1).astype(np.float64)
        return out


def table_rows(
    path: Path, columns: Sequence[str], keep: np.ndarray | None, count: int
) -> dict[str, Rows]:
    """Return list columns of a Parquet file as rows.

    Args:
        path: The file.
        columns: Which.
        keep: Ids of the rows that count, None for all.
        count: How many they are.
    """
    table = _Table(path, list(columns), keep)
    first = table.rows(0, min(1, count))
    last_read: dict[str, Any] = {"span": None}

    def reader(name: str) -> Callable[[int, int], np.ndarray]:
        def read(low: int, high: int) -> np.ndarray:
            # the columns are asked for one after the other, with one span
            if last_read["span"] != (low, high):
                last_read["rows"], last_read["span"] = table.rows(low, high), (low, high)
            return last_read["rows"][name]

        return read

    return {name: Rows(count, first[name].shape[1], reader(name)) for name in columns}
