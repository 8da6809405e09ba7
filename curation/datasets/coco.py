"""COCO keypoints and COCO-WholeBody annotation files. Torch-free.

A directory with ``annotations/*.json`` (or ``*.json`` at its top) and photos in ``train2017/``,
``val2017/``, ``images/`` or beside the file. The files have hundreds of megabytes; what is kept of
them in memory is the place of each annotation in the file.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from curation.datasets.base import DatasetError, relative_id
from curation.json_stream import JsonItem, iter_items, read_item
from curation.samples import LabelledPerson, Sample
from curation.wholebody import parse_annotation

_SPLIT = re.compile(r"(train|val|test)[-_]?\w*", re.IGNORECASE)


@dataclass(frozen=True)
class CocoDataset:
    """All keypoint annotation files of a directory, the richer ones first."""

    root: Path
    kind: str = "coco"

    def count(self) -> int:
        """Return the number of images that the annotation files list."""
        return sum(1 for _ in self._images())

    def iter_samples(self) -> Iterator[Sample]:
        """Yield the images in the order of the annotation files.

        An image that two files list is given once, with the annotations of the first. Person
        indices count all annotations of the image by their id, those that are skipped (crowds,
        people without a labelled point) included.
        """
        places: dict[Path, dict[int, np.ndarray]] = {}
        for file, image in self._images():
            if file not in places:
                places = {file: _annotation_places(file)}
            path = self._find(str(image["file_name"]), str(image.get("coco_url", "")))
            image_id = relative_id(self.root, path)
            people, problems = [], []
            for index, (_, offset, length) in enumerate(places[file].get(image["id"], ())):
                try:
                    person = parse_annotation(read_item(file, int(offset), int(length)), index)
                except ValueError as error:
                    problems.append(f"annotation {index} in {file.name}: {error}")
                    person = LabelledPerson(index)
                if person is not None:
                    people.append(person)
            yield Sample(image_id, path, tuple(people), "; ".join(problems))

    @cached_property
    def _files(self) -> list[Path]:
        return keypoint_files(self.root)

    def _images(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        seen: set[str] = set()
        for file in self._files:
            for _, item in _items(file, "images"):
                image = item.value
                name = image.get("file_name") if isinstance(image, dict) else None
                if name is None or "id" not in image:
                    raise DatasetError(f"{file}: an image has no 'file_name' or no 'id'")
                key = str(image.get("coco_url", "")).rpartition("/images.cocodataset.org/")[2]
                if (key or name) not in seen:
                    seen.add(key or name)
                    yield file, image

    @cached_property
    def _folders(self) -> list[Path]:
        tops = [self.root, self.root / "images"]
        splits = [
            path
            for top in tops
            if top.is_dir()
            for path in sorted(top.iterdir())
            if _SPLIT.fullmatch(path.name) and path.is_dir()
        ]
        return [*tops, *splits]

    def _find(self, name: str, url: str) -> Path:
        """Return where an image is; where it should be if it is nowhere."""
        parts = PurePosixPath(name).parts
        if PurePosixPath(name).is_absolute() or ".." in parts or not parts:
            return self.root / "invalid-file-name" / PurePosixPath(name).name
        split = PurePosixPath(url).parent.name
        folders = sorted(self._folders, key=lambda folder: folder.name != split)
        found = (folder / name for folder in folders)
        return next((path for path in found if path.is_file()), folders[0] / name)


def keypoint_files(root: Path) -> list[Path]:
    """Return the COCO files below a directory whose annotations have keypoints.

    COCO-WholeBody files come first: they say all that the plain ones say.
    """
    candidates = [*sorted(root.glob("*.json")), *sorted(root.glob("annotations/*.json"))]
    ranked = []
    for path in candidates:
        keys = _first_annotation_keys(path)
        if "keypoints" in keys and "image_id" in keys:
            ranked.append(("face_kpts" not in keys, path))
    return [path for _, path in sorted(ranked)]


def _first_annotation_keys(path: Path) -> frozenset[str]:
    try:
        for _, item in iter_items(path, "annotations"):
            return frozenset(item.value) if isinstance(item.value, dict) else frozenset()
    except (OSError, ValueError):
        pass
    return frozenset()


def _items(file: Path, key: str) -> Iterator[tuple[str, JsonItem]]:
    try:
        yield from iter_items(file, key)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read: {error}") from None


def _annotation_places(file: Path) -> dict[int, np.ndarray]:
    """Return (n, 3) int64 by image id: annotation id, offset, length; sorted by annotation id."""
    rows = []
    for _, item in _items(file, "annotations"):
        if not isinstance(item.value, dict) or "image_id" not in item.value:
            raise DatasetError(f"{file}: an annotation has no 'image_id'")
        rows.append((item.value["image_id"], item.value.get("id", 0), item.offset, item.length))
    try:
        table = np.array(rows, np.int64).reshape(-1, 4)
    except (TypeError, ValueError, OverflowError):
        raise DatasetError(f"{file}: the ids of images and annotations must be integers") from None
    table = table[np.lexsort((table[:, 2], table[:, 1], table[:, 0]))]
    ids, starts = np.unique(table[:, 0], return_index=True)
    return {
        int(image): part[:, 1:]
        for image, part in zip(ids, np.split(table, starts[1:]), strict=len(ids) > 0)
    }
