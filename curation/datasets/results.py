"""A folder of photos with one file of a detector's results in COCO's form. Torch-free.

This is how the results of RTMW, ViTPose, Sapiens and others come in: a JSON list of
``{"image_id", "keypoints": [x, y, confidence] * 133, "score"}``. The image_id is the path, the
name or the stem of the photo, or the number in its name (``785`` for ``000000000785.jpg``).
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from curation.datasets.base import DatasetError, FolderOfPhotos, relative_id, same_name
from curation.json_stream import iter_items, read_item
from curation.samples import LabelledPerson, Sample
from curation.wholebody import parse_result


@dataclass(frozen=True)
class WholeBodyDataset(FolderOfPhotos):
    """Photos and ``*.json`` result lists at the top of the directory or in ``keypoints/``."""

    root: Path
    kind: str = "wholebody"

    def sample_of(self, path: Path) -> Sample:
        """Return the sample of an image below the root."""
        image_id = relative_id(self.root, path)
        people, problems = [], []
        for index, (file, offset, length) in enumerate(self._of(path, image_id)):
            try:
                person = parse_result(read_item(file, offset, length), index)
            except ValueError as error:
                problems.append(f"result {index} in {file.name}: {error}")
                person = LabelledPerson(index)
            people.append(person)
        return Sample(image_id, path, tuple(people), "; ".join(problems))

    def _of(self, path: Path, image_id: str) -> list[tuple[Path, int, int]]:
        keys = [image_id, path.name, path.stem]
        if path.stem.isdecimal():
            keys.append(str(int(path.stem)))
        return next((self._places[k] for k in map(same_name, keys) if k in self._places), [])

    @cached_property
    def _places(self) -> dict[str, list[tuple[Path, int, int]]]:
        places: dict[str, list[tuple[Path, int, int]]] = {}
        for file in result_files(self.root):
            try:
                for _, item in iter_items(file):
                    key = same_name(str(item.value["image_id"]))
                    places.setdefault(key, []).append((file, item.offset, item.length))
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise DatasetError(f"{file} cannot be read: {error}") from None
        return places


def result_files(root: Path) -> list[Path]:
    """Return the JSON files of a directory that are lists of keypoint results."""
    found = []
    for path in [*sorted(root.glob("*.json")), *sorted(root.glob("keypoints/*.json"))]:
        try:
            first = next(iter_items(path), None)
        except (OSError, ValueError):
            continue
        entry = None if first is None else first[1].value
        if isinstance(entry, dict) and entry.keys() >= {"image_id", "keypoints"}:
            found.append(path)
    return found
