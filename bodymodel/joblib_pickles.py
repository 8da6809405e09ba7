"""Reading pickles that joblib wrote, without letting them run anything. Torch-free.

Video trackers (VIBE, WHAM, 4D-Humans) save with ``joblib.dump``: a pickle between whose
instructions the arrays' bytes lie raw, as a whole compressed or not. The instructions go through
the reader of :mod:`bodymodel.pickles`, which calls nothing; arrays are mapped, not read, so that
meshes that nobody asks for take no memory.
"""

import gzip
import math
import pickle
import tempfile
import zlib
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np

from bodymodel.pickles import UnsafePickleError, _DType, _plain, _Record, explained, find_record

__all__ = ["load_nested_pickle"]

_WRAPPER = ("joblib.numpy_pickle", "NumpyArrayWrapper")
_PIECE = 1 << 20


def load_nested_pickle(path: str | Path) -> object:
    """Read a pickle of arrays in plain containers, by ``pickle`` or ``joblib``, as data only.

    Args:
        path: What ``pickle.dump`` or ``joblib.dump`` wrote; zlib and gzip are undone.

    Returns:
        Its content: dicts, lists, arrays, numbers, strings; what is none of these stays inert.

    Raises:
        UnsafePickleError: If it names anything but arrays and plain containers. Nothing was run.
        ValueError: If it is damaged, or compressed otherwise.
    """
    path = Path(path)
    with (
        path.open("rb") as file,
        tempfile.TemporaryFile() as unpacked,
        explained(str(path), "; is it complete?"),
    ):
        source = unpacked if _unpack(file, unpacked) else file
        source.seek(0)
        return _plain(_StreamUnpickler(source, encoding="latin1").load())


def _unpack(file: BinaryIO, to: BinaryIO) -> bool:
    """Undo compression, where there is any that the standard library of joblib's default knows."""
    head = file.read(6)
    file.seek(0)
    if head[:2] == b"\x1f\x8b":
        with gzip.open(file) as packed:
            while piece := packed.read(_PIECE):
                to.write(piece)
        return True
    if head[:1] == b"x" and int.from_bytes(head[:2], "big") % 31 == 0:
        packed = zlib.decompressobj()
        while piece := file.read(_PIECE):
            to.write(packed.decompress(piece))
        to.write(packed.flush())
        if not packed.eof:
            raise ValueError("it is cut off")
        return True
    if head[:3] == b"BZh" or head == b"\xfd7zXZ\x00" or head[:4] == b"\x04\x22\x4d\x18":
        raise ValueError("it is compressed by bz2, xz or lz4; save it with compress=('zlib', 3)")
    return False


class _Wrapper(_Record):
    """Says of an array that follows what it is."""


class _Mapped(_Record):
    """An array whose bytes were in the stream."""

    def array(self) -> np.ndarray:
        return self.args[0]


class _StreamUnpickler(pickle._Unpickler):
    # The C unpickler cannot be stopped between two instructions, which is where the bytes are.
    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BinaryIO, **options: str) -> None:
        super().__init__(file, **options)
        self._stream = file

    def find_class(self, module: str, name: str) -> type:
        return _Wrapper if (module, name) == _WRAPPER else find_record(module, name)

    def persistent_load(self, _: object) -> object:
        raise UnsafePickleError("refused: it refers to objects outside of itself")

    def load_build(self) -> None:
        state = self.stack.pop()
        record = self.stack[-1]
        if isinstance(record, list | dict) and isinstance(state, dict):
            return  # a subclass of dict: its attributes are nobody's business
        if not isinstance(record, _Record):
            raise UnsafePickleError(f"refused: it sets the state of a {type(record).__name__}")
        record.__setstate__(state)
        if isinstance(record, _Wrapper):
            self.stack[-1] = self._array(record.entries())

    dispatch[pickle.BUILD[0]] = load_build

    def _array(self, entries: dict) -> object:
        """The array that lies where the stream stands; the stream goes on behind it."""
        dtype = entries.get("dtype")
        if not isinstance(dtype, _DType):
            raise ValueError("an array without a type")
        if str(dtype.args[0]) in ("O", "O8", "|O"):  # a pickle of its own
            return type(self)(self._stream, encoding="latin1").load()
        kind, shape = dtype.dtype(), tuple(int(n) for n in entries["shape"])
        if entries.get("numpy_array_alignment_bytes") is not None:
            self._stream.read(self._stream.read(1)[0])
        if min(shape, default=0) < 0:
            raise ValueError(f"an array of shape {shape}")
        size, start = math.prod(shape) * kind.itemsize, self._stream.tell()
        end = self._stream.seek(0, 2)
        if start + size > end:
            raise ValueError("it is cut off")
        self._stream.seek(start + size)
        order = "F" if entries.get("order") == "F" else "C"
        if not size:
            return _Mapped(np.zeros(shape, kind))
        mapped = np.memmap(self._stream, kind, "r", start, shape, order)
        self._stream.seek(start + size)
        return _Mapped(np.asarray(mapped))
