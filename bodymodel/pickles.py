"""Reading the arrays of a model pickle without letting it run anything.

SMPL, MANO and FLAME come as pickles, many of them written by Python 2 with chumpy and scipy
objects inside. A pickle is a program that may call whatever it can name. Here it can name only the
classes of this module: they record what the file says, call nothing, and are turned into
arrays after the pickle is done. Neither chumpy nor scipy is needed, and no numpy function is
within the file's reach.
"""

import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

_SIMPLE_DTYPE = re.compile(r"[<>|=]?([?bB]|[iu][1248]|[bf][1248]|[SU]\d{1,4})")
_MAX_DENSE = 100_000_000  # entries; ten times the largest matrix of any published file


class UnsafePickleError(ValueError):
    """The pickle names something that no model file needs."""


def load_model_pickle(path: str | Path) -> dict[str, object]:
    """Read a pickled dict of arrays as data only.

    Args:
        path: A ``.pkl`` file, by Python 2 or 3, with or without chumpy and scipy.sparse objects.

    Returns:
        Its entries: dense numpy arrays, numbers and strings. An entry that is none of these
        stays an inert record, which no array check will take for numbers.

    Raises:
        UnsafePickleError: If it names anything but arrays, sparse matrices, chumpy objects and
            plain containers. Nothing of it was executed.
        ValueError: If it is damaged or not a dict.
    """
    path = Path(path)
    with path.open("rb") as file, explained(str(path), "; is the download complete?"):
        content = _Unpickler(file, encoding="latin1").load()
    if not isinstance(content, dict):
        kind = type(content).__name__.lstrip("_")
        raise ValueError(f"{path} must hold a dict of arrays, it holds {kind}")
    return {_text(key): _resolve(value) for key, value in content.items()}


def load_plain_pickle(file: BinaryIO, source: str) -> object:
    """Read a pickle of arrays in plain containers as data only, nested to any depth.

    Arrays of objects, as numpy writes them for dicts in an npz, become what they hold: the single
    object of an array without axes, else a list.

    Args:
        file: Open for reading, at the pickle's first byte.
        source: What to call it in errors.

    Raises:
        UnsafePickleError: As load_model_pickle.
        ValueError: If it is damaged.
    """
    with explained(source):
        return _plain(_Unpickler(file, encoding="latin1").load())


@contextmanager
def explained(source: str, question: str = "") -> Iterator[None]:
    """Turn whatever reading a pickle raises into errors that name the file.

    Args:
        source: What to call it.
        question: What ends the message of a damaged one.

    Raises:
        UnsafePickleError: If that was raised.
        ValueError: If anything else was.
    """
    try:
        yield
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{source}: {error}") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(
            f"{source} cannot be read as a pickle ({type(error).__name__}: {error}){question}"
        ) from error


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {_text(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, _Array) and isinstance(value.state, tuple) and len(value.state) >= 4:
        shape, dtype, _, raw = value.state[-4:]
        if isinstance(dtype, _DType) and str(dtype.args[0]) in ("O", "O8", "|O"):
            items = [_plain(item) for item in raw] if isinstance(raw, list) else []
            return items[0] if shape == () and len(items) == 1 else items
    return _resolve(value)


class _Record:
    """Something a pickle may name: takes any arguments and any state, does nothing with them."""

    args: tuple = ()
    state: object = None

    def __new__(cls, *args, **_):
        record = object.__new__(cls)
        record.args = args
        return record

    def __setstate__(self, state: object) -> None:
        # Called on a class instead of an instance, python itself refuses: no class is altered.
        self.state = state

    def entries(self) -> dict:
        """The attributes that the file gives the object."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        merged: dict = {}
        for part in parts:
            if isinstance(part, dict):
                merged.update({_text(k): v for k, v in part.items()})
        return merged

    def array(self) -> np.ndarray:
        raise ValueError("holds no array")


class _DType(_Record):
    def dtype(self) -> np.dtype:
        code = _text(self.args[0])
        if not _SIMPLE_DTYPE.fullmatch(code):
            raise ValueError(f"dtype {code!r} is not one of plain numbers or strings")
        dtype = np.dtype(code)
        if isinstance(self.state, tuple) and len(self.state) > 1:
            order = _text(self.state[1])
            if order not in ("<", ">", "|", "="):
                raise ValueError(f"byte order {order!r}")
            dtype = dtype.newbyteorder(order)
        return dtype


def _array_of(raw: object, dtype: object, shape: object, order: str) -> np.ndarray:
    if isinstance(raw, str):  # bytes of a Python 2 pickle
        raw = raw.encode("latin1")
    if not isinstance(dtype, _DType) or not isinstance(raw, bytes | bytearray):
        raise ValueError("not an array of plain numbers")
    shape = (shape,) if isinstance(shape, int) else shape
    return np.frombuffer(raw, dtype.dtype()).reshape(shape, order=order)


class _Array(_Record):
    """What ``numpy.core.multiarray._reconstruct`` makes, filled by its state."""

    def array(self) -> np.ndarray:
        if not isinstance(self.state, tuple) or len(self.state) not in (4, 5):
            raise ValueError("not an array's state")
        shape, dtype, fortran, raw = self.state[-4:]
        return _array_of(raw, dtype, shape, "F" if fortran else "C")


class _FromBuffer(_Record):
    """What protocol 5 writes for contiguous arrays."""

    def array(self) -> np.ndarray:
        raw, dtype, shape, order = self.args
        return _array_of(raw, dtype, shape, "F" if order == "F" else "C")


class _Scalar(_Record):
    def array(self) -> np.ndarray:
        dtype, raw = self.args
        return _array_of(raw, dtype, (), "C")


class _Encoded(_Record):
    """``_codecs.encode``, the way that protocol 2 spells bytes in Python 3."""

    def __new__(cls, text="", encoding="latin1", *_, **__):
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise UnsafePickleError(f"refused: it encodes {type(text).__name__} as {encoding!r}")
        return text.encode("latin1")


class _NoBytes(_Record):
    """``bytes()``, the way that protocol 2 spells no bytes."""

    def __new__(cls, *args, **_):
        if args:
            raise UnsafePickleError("refused: it makes bytes other than none")
        return b""


class _Reconstructed(_Record):
    """``copyreg._reconstructor``, the way that protocols 0 and 1 spell an instance."""

    def __new__(cls, wanted=None, *_, **__):
        if not (isinstance(wanted, type) and issubclass(wanted, _Record)):
            raise UnsafePickleError(f"refused: it reconstructs {wanted!r}")
        return wanted()


class _Sparse(_Record):
    """A scipy.sparse matrix, made dense without scipy, which would trust the indices."""

    layout = ""

    def array(self) -> np.ndarray:
        entries = self.entries()
        shape = tuple(int(n) for n in entries.get("_shape", entries.get("shape")))
        if len(shape) != 2 or min(shape) < 0 or shape[0] * shape[1] > _MAX_DENSE:
            raise ValueError(f"sparse matrix of shape {shape}")
        values = _resolved_array(entries["data"])
        if self.layout == "coo":
            pair = entries.get("coords") or (entries["row"], entries["col"])
            rows, columns = (_resolved_array(x) for x in pair)
        else:
            minor = _resolved_array(entries["indices"])
            counts = np.diff(_resolved_array(entries["indptr"]))
            major = np.repeat(np.arange(len(counts)), counts)
            rows, columns = (major, minor) if self.layout == "csr" else (minor, major)
        dense = np.zeros(shape, values.dtype)
        for index, size in ((rows, shape[0]), (columns, shape[1])):
            if index.shape != values.shape or ((index < 0) | (index >= size)).any():
                raise ValueError("sparse matrix with indices out of range")
        np.add.at(dense, (rows, columns), values)
        return dense


class _Csc(_Sparse):
    layout = "csc"


class _Csr(_Sparse):
    layout = "csr"


class _Coo(_Sparse):
    layout = "coo"


class _Chumpy(_Record):
    """A chumpy object: a plain one holds its array as ``x``, a selection its source and places."""

    def array(self) -> np.ndarray:
        entries = self.entries()
        if "x" in entries:
            return _resolved_array(entries["x"])
        if "a" in entries and "idxs" in entries:
            picked = _resolved_array(entries["a"]).ravel()[_resolved_array(entries["idxs"])]
            shape = entries.get("preferred_shape")
            return picked if shape is None else picked.reshape(tuple(int(n) for n in shape))
        raise ValueError(f"chumpy object with {sorted(entries)} and no array")


class _Object(_Record):
    """``object`` itself, the base that ``copyreg._reconstructor`` names."""


class _DefaultDict(dict):
    """``collections.defaultdict``, whose default nobody calls."""

    def __init__(self, *_: object) -> None:
        super().__init__()


_NAMES: dict[tuple[str, str], type] = {
    ("_codecs", "encode"): _Encoded,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): _DefaultDict,
    **{(module, "dict"): dict for module in ("__builtin__", "builtins")},
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Object,
    **{
        (f"numpy.{core}.{module}", name): record
        for core in ("core", "_core")
        for module, name, record in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _Scalar),
            ("numeric", "_frombuffer", _FromBuffer),
        )
    },
    **{
        (f"scipy.sparse.{module}", f"{layout}_{kind}"): record
        for layout, record in (("csc", _Csc), ("csr", _Csr), ("coo", _Coo))
        for module in (layout, f"_{layout}")
        for kind in ("matrix", "array")
    },
    **{(module, "_reconstructor"): _Reconstructed for module in ("copy_reg", "copyreg")},
    **{(module, "object"): _Object for module in ("__builtin__", "builtins")},
    **{(module, "bytes"): _NoBytes for module in ("__builtin__", "builtins")},
    **{(module, "set"): set for module in ("__builtin__", "builtins")},
    **{(module, "frozenset"): frozenset for module in ("__builtin__", "builtins")},
}


def find_record(module: str, name: str) -> type:
    """Return the class of this module that stands for one that a pickle names.

    Raises:
        UnsafePickleError: If it is none that files of arrays need.
    """
    if (module, name) in _NAMES:
        return _NAMES[module, name]
    if module == "chumpy" or module.startswith("chumpy."):
        return _Chumpy
    raise UnsafePickleError(
        f"refused: it asks for {module}.{name}, which no model file needs; nothing of it was "
        "run. Get the file from its publisher, or save its arrays as .npz"
    )


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        return find_record(module, name)

    def persistent_load(self, _: object) -> object:
        raise UnsafePickleError("refused: it refers to objects outside of itself")


def _text(key: object) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def _resolved_array(value: object) -> np.ndarray:
    return value.array() if isinstance(value, _Record) else np.asarray(value)


def _resolve(value: object) -> object:
    if isinstance(value, list):  # 3DPW: one array a person
        return [_resolve(item) if isinstance(item, _Record) else item for item in value]
    if isinstance(value, _Record):
        try:
            return value.array()
        # The records hold what the file says, so anything may be missing or of the wrong type.
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return value
    return value
