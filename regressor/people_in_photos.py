"""Who is to be looked at: people by labels, by the detector, or in boxes that the user gives."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from curation.datasets import DatasetKind, open_dataset
from curation.images import ImageError, read_header
from curation.observe import ObserveSource, observe
from curation.samples import LabelledPerson, PersonObservation, Sample
from curation.schema import image_key

__all__ = ["BoxesError", "people_in_boxes", "people_in_dataset", "read_boxes", "whole_photos"]

Boxes = dict[str, list[np.ndarray]]
"""By photo, relative to the folder, (4,) x0 y0 x1 y1 of each person."""


class BoxesError(ValueError):
    """A file of boxes that cannot be used; the message says what is wrong with which line."""


def read_boxes(path: Path) -> Boxes:
    """Read a CSV file with a row ``photo,x0,y0,x1,y1`` for each person, a header or none.

    Raises:
        BoxesError: If a line is something else, or there is no such file.
    """
    boxes: Boxes = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BoxesError(f"{path} cannot be read as a CSV file of boxes: {error}") from None
    for number, row in enumerate(csv.reader(lines), start=1):
        if not row:
            continue
        try:
            name, box = row[0].strip(), np.array([float(v) for v in row[1:5]], np.float32)
            if len(row) < 5 or not (box[2:] > box[:2]).all() or not np.isfinite(box).all():
                raise ValueError
        except ValueError:
            if number == 1:
                continue  # a header
            raise BoxesError(
                f"{path}, line {number}: expected photo,x0,y0,x1,y1 with x0 < x1 and "
                f"y0 < y1, got {','.join(row)}"
            ) from None
        boxes.setdefault(name, []).append(box)
    return boxes


def people_in_dataset(
    folder: Path,
    kind: DatasetKind | None,
    source: ObserveSource,
    done: set[bytes],
    cache_dir: Path,
    workers: int = 1,
) -> Iterator[PersonObservation]:
    """Yield the people of a data set whose photos are not done, with keypoints.

    Args:
        folder: Of the data set.
        kind: What it is; None finds out.
        source: Where keypoints come from.
        done: Keys of photos (schema.image_key) to be left out.
        cache_dir: Of detections.
        workers: Processes that detect.

    Raises:
        DatasetError: If the folder is no data set.
    """
    samples = open_dataset(folder, kind).iter_samples()
    wanted = (s for s in samples if image_key(s.image_id) not in done)
    return observe(wanted, source=source, workers=workers, cache_dir=cache_dir)


def people_in_boxes(
    folder: Path,
    boxes: Boxes,
    done: set[bytes],
    keypoints_into: Path | None = None,
    workers: int = 1,
) -> Iterator[PersonObservation]:
    """Yield the people in given boxes; nobody else is looked for.

    Args:
        folder: That the photos' names are relative to.
        boxes: Of read_boxes.
        done: Keys of photos to be left out.
        keypoints_into: Find their keypoints too, by the detector, and keep them there.
        workers: Processes that detect.
    """
    wanted = {name: mine for name, mine in boxes.items() if image_key(name) not in done}
    if keypoints_into is None:
        yield from _boxed(folder, wanted)
        return
    samples = (
        Sample(name, folder / name, tuple(LabelledPerson(k, box) for k, box in enumerate(mine)))
        for name, mine in wanted.items()
    )
    yield from observe(samples, source="mediapipe", workers=workers, cache_dir=keypoints_into)


def _boxed(folder: Path, boxes: Boxes) -> Iterator[PersonObservation]:
    for name, mine in boxes.items():
        try:
            header = read_header(folder / name)
        except ImageError as error:
            yield PersonObservation(name, 0, status="image_error", reason=error.reason)
            continue
        for index, box in enumerate(mine):
            yield PersonObservation(
                name, index, header.sha256, header.width, header.height, box,
                focal_px=header.focal_px,
            )  # fmt: skip


def whole_photos(
    people: Iterator[PersonObservation], batch: int
) -> Iterator[Sequence[PersonObservation]]:
    """Yield people in batches of about so many, never part of a photo."""
    gathered: list[PersonObservation] = []
    for person in people:
        is_new = bool(gathered) and gathered[-1].image_id != person.image_id
        if is_new and len(gathered) >= batch:
            yield gathered
            gathered = []
        gathered.append(person)
    if gathered:
        yield gathered
