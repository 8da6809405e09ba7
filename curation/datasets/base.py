"""What every dataset adapter gives, and what several of them need. Torch-free."""

import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from curation.samples import Sample

__all__ = [
    "OCCLUDED_CONFIDENCE",
    "VISIBLE_CONFIDENCE",
    "Dataset",
    "DatasetError",
    "FolderOfPhotos",
    "is_image_name",
    "iter_image_files",
    "relative_id",
]

VISIBLE_CONFIDENCE = 1.0
OCCLUDED_CONFIDENCE = 0.5
"""Of a point that the annotator guessed behind something: known, but less exactly."""

_EXTENSIONS = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".webp",
        ".gif",
        ".ppm",
        ".pgm",
        ".pnm",
        ".jp2",
        ".j2k",
        ".mpo",
        ".avif",
        ".heic",
        ".heif",
    ]
)
_OUTPUT_FOLDERS = frozenset(("fits", "exports", "__MACOSX"))


class DatasetError(ValueError):
    """A directory that is not the dataset it should be. The message says what was looked for."""


class Dataset(Protocol):
    """A directory of photos and, perhaps, labels.

    Attributes:
        kind: Its short name, what ``--dataset`` takes.
        root: The directory.
    """

    kind: str
    root: Path

    def count(self) -> int:
        """Return the number of samples that iter_samples gives."""
        ...

    def iter_samples(self) -> Iterator[Sample]:
        """Yield the photos, always in the same order, without holding more than one in memory."""
        ...


def is_image_name(name: str) -> bool:
    """Tell whether a file's name says that it is an image, whatever is in it."""
    return Path(name).suffix.lower() in _EXTENSIONS and not name.startswith(".")


def iter_image_files(root: Path) -> Iterator[Path]:
    """Yield the image files under a directory, sorted by name folder by folder.

    Folders are entered at their place in the order. Hidden files and folders, the project's own
    outputs (``fits`` and ``exports`` at the top, any folder with a ``meta/info.json``) and links
    that lead back to a folder they are in are skipped.
    """
    yield from _walk(root, root, ())


def _walk(folder: Path, root: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    try:
        status = folder.stat()
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        return  # a folder we may not read; a photo in it cannot be named either
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            is_folder = entry.is_dir()
        except OSError:
            is_folder = False
        if is_folder:
            path = Path(entry.path)
            is_output = (folder == root and entry.name in _OUTPUT_FOLDERS) or (
                path / "meta" / "info.json"
            ).is_file()
            if not is_output:
                yield from _walk(path, root, (*above, here))
        elif is_image_name(entry.name):
            yield Path(entry.path)


def relative_id(root: Path, path: Path) -> str:
    """Return the image_id of a file: its path below root, with forward slashes, valid Unicode.

    Bytes of the name that are not UTF-8 appear as backslash escapes, so that every image_id can
    be stored.
    """
    return path.relative_to(root).as_posix().encode("utf-8", "backslashreplace").decode()


def same_name(name: str) -> str:
    """Return the form in which two spellings of a file name compare equal (Unicode NFC)."""
    return unicodedata.normalize("NFC", name)


class FolderOfPhotos(ABC):
    """What datasets share whose photos are the image files below ``root``, by name."""

    root: Path

    def count(self) -> int:
        """Return the number of image files."""
        return sum(1 for _ in iter_image_files(self.root))

    def iter_samples(self) -> Iterator[Sample]:
        """Yield the images in the order of their names."""
        for path in iter_image_files(self.root):
            yield self.sample_of(path)

    @abstractmethod
    def sample_of(self, path: Path) -> Sample:
        """Return the sample of an image below the root."""
