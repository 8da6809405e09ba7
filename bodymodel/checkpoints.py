"""Reading the tensors of a torch checkpoint without letting it run anything.

A checkpoint is a pickle, and a pickle is a program. ``torch.load(weights_only=True)`` reads those
that hold tensors and plain containers. Older training frameworks also stored their settings, as
objects of classes that are not installed here and should not be. Such a zip file is read by an
unpickler that knows tensors and turns everything else into inert objects of no class.
"""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bodymodel.pickles import UnsafePickleError

__all__ = ["load_arrays", "load_checkpoint"]

_STORAGES = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
    "LongStorage": np.int64, "IntStorage": np.int32, "ShortStorage": np.int16,
    "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_,
}  # fmt: skip


def load_checkpoint(path: str | Path) -> dict[str, object]:
    """Read a torch checkpoint as data only.

    Args:
        path: What ``torch.save`` wrote: a state dict, or a training framework's dict around one.

    Returns:
        Its entries. Objects of unknown classes are inert: they hold nothing and do nothing.

    Raises:
        UnsafePickleError: If it is of the format before torch 1.6 and asks for more than tensors.
        ValueError: If it is damaged or not a dict.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly anything
        if not zipfile.is_zipfile(path):
            kind = UnsafePickleError if "weights_only" in str(error) else ValueError
            raise kind(
                f"{path} cannot be read as a torch checkpoint ({_first_line(error)}); "
                "is the download complete?"
            ) from None
        content = _load_zip(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a dict, it holds {type(content).__name__}")
    return content


def load_arrays(path: str | Path) -> dict[str, object]:
    """Return a checkpoint's content with arrays for tensors, in dicts and lists of any depth.

    Args:
        path: What ``torch.save`` wrote: results of a tracker, say (GVHMR).

    Raises:
        ValueError: As :func:`load_checkpoint`.
    """

    def plain(value: object) -> object:
        if isinstance(value, Tensor):
            return value.detach().cpu().numpy()
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return plain(load_checkpoint(path))


def _load_zip(path: Path) -> object:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith("/data.pkl")]
            if len(names) != 1:
                raise ValueError("it holds no data.pkl, so torch did not write it")
            root = names[0].removesuffix("data.pkl")
            with archive.open(names[0]) as file:
                return _Unpickler(file, archive, root).load()
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a torch checkpoint ({_first_line(error)}); "
            "is the download complete?"
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class _Inert(dict):
    """Stands for an object, a class instance or a function's result; keeps nothing."""

    def __new__(cls, *_: object, **__: object) -> "_Inert":
        return dict.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __setstate__(self, _: object) -> None:
        pass

    def __setitem__(self, *_: object) -> None:
        pass

    def append(self, _: object) -> None:
        pass

    def extend(self, _: object) -> None:
        pass


def _rebuild_tensor(
    storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    if len(size) != len(stride) or min((*size, *stride, offset), default=0) < 0:
        raise ValueError(f"a tensor of size {size} and stride {stride} at {offset}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= len(storage):
        raise ValueError(f"a tensor reaches entry {last} of a storage of {len(storage)}")
    return torch.from_numpy(storage.copy()).as_strided(size, stride, offset).clone()


def _rebuild_parameter(data: Tensor, *_: object) -> Tensor:
    return data


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, archive: zipfile.ZipFile, root: str):
        super().__init__(file, encoding="utf-8")
        self._archive, self._root = archive, root
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        return _Inert

    def persistent_load(self, reference: tuple) -> np.ndarray:
        kind, dtype, key, _, count = reference
        if kind != "storage" or dtype is _Inert:
            raise ValueError(f"an unknown kind of storage, {kind!r}")
        if key not in self._storages:
            raw = self._archive.read(f"{self._root}data/{key}")
            self._storages[key] = np.frombuffer(raw, dtype, count=int(count))
        return self._storages[key]
