"""Walk through a JSON file of any size item by item, with memory for one item only. Torch-free."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["JsonItem", "iter_items", "read_item"]

_CHUNK = 1 << 20
_SPACE = " \t\n\r"
_DELIMITERS = ",]}" + _SPACE


@dataclass(frozen=True)
class JsonItem:
    """One element of an array in a file.

    Attributes:
        offset: Of its first byte in the file.
        length: In bytes.
        value: The element.
    """

    offset: int
    length: int
    value: Any


def iter_items(path: Path, *keys: str) -> Iterator[tuple[str, JsonItem]]:
    """Yield the elements of arrays of a JSON file in the order of the file.

    With keys, the file must be an object, and the elements of its members of these names are
    given with the name; without, the file must be an array, and the name is "".

    Args:
        path: Of the file, UTF-8.
        *keys: Names of members that are arrays; other members are skipped.

    Raises:
        ValueError: If the file is not such JSON.
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        reader = _Reader(path, file)
        if reader.peek() == "[":
            if keys:
                raise ValueError(f"{path.name} is a JSON array, not an object with {keys}")
            for item in reader.array():
                yield "", item
            return
        if reader.peek() != "{" or not keys:
            raise ValueError(f"{path.name} is not a JSON {'object' if keys else 'array'}")
        reader.take("{")
        while reader.peek() != "}":
            name = reader.value().value
            reader.take(":")
            if name in keys and reader.peek() == "[":
                for item in reader.array():
                    yield name, item
            elif reader.peek() == "[":
                for _ in reader.array():
                    pass
            else:
                reader.value()
            if reader.peek() == ",":
                reader.take(",")


def read_item(path: Path, offset: int, length: int) -> Any:
    """Read again one element that iter_items has given."""
    with path.open("rb") as file:
        file.seek(offset)
        return json.loads(file.read(length))


class _Reader:
    """A window on the file. Bytes are seen as Latin-1, so that a character is a byte."""

    def __init__(self, path: Path, file) -> None:
        self._path = path
        self._file = file
        self._text = ""
        self._start = 0  # offset of the window in the file
        self._at = 0
        self._decoder = json.JSONDecoder()
        self._fill(_CHUNK)
        if self._text.startswith("\xef\xbb\xbf"):
            self._at = 3

    def _fill(self, size: int) -> bool:
        data = self._file.read(size)
        self._text = self._text[self._at :] + data.decode("latin-1")
        self._start += self._at
        self._at = 0
        return bool(data)

    def peek(self) -> str:
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill(_CHUNK):
                raise ValueError(f"{self._path.name} ends in the middle of its JSON")

    def take(self, token: str) -> None:
        if self.peek() != token:
            raise ValueError(
                f"{self._path.name} is not JSON: expected {token!r} at byte "
                f"{self._start + self._at}, got {self._text[self._at]!r}"
            )
        self._at += 1

    def value(self) -> JsonItem:
        self.peek()
        more = _CHUNK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # The element may go on behind the window: doubling keeps the repeats cheap.
                if self._fill(more):
                    more *= 2
                    continue
                raise ValueError(
                    f"{self._path.name} is not JSON: {error.msg} near byte "
                    f"{self._start + error.pos}"
                ) from None
            # "12" may be the beginning of "12.5e3": a number ends at a delimiter, not before.
            is_open = not isinstance(value, dict | list | str)
            if is_open and self._text[end : end + 1] not in tuple(_DELIMITERS) and self._fill(more):
                continue
            break
        offset, length = self._start + self._at, end - self._at
        text = self._text[self._at : end]
        if not text.isascii():
            value = json.loads(text.encode("latin-1"))
        self._at = end
        return JsonItem(offset, length, value)

    def array(self) -> Iterator[JsonItem]:
        self.take("[")
        while self.peek() != "]":
            yield self.value()
            if self.peek() == ",":
                self.take(",")
        self.take("]")
