"""MPII Human Pose: the released ``.mat`` and mmpose's JSON of it. Torch-free.

The MATLAB file is read as it is released: a person may be a struct or one of an array, fields may
be missing or empty arrays, ``is_visible`` may be a number, a string or empty, and points may come
in any order. Its coordinates are MATLAB's (the first pixel's centre is 1), hence 0.5 px is
subtracted; mmpose's JSON has had 1 subtracted already, hence 0.5 px is added, and -1 is absent.

The person's box is the one the HRNet family uses: centred 15 ``scale`` pixels below ``objpos``,
1.25 times 200 ``scale`` pixels wide and high. It is generous, not tight.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bodymodel.keypoints import Keypoints2D
from curation.datasets.base import (
    OCCLUDED_CONFIDENCE,
    VISIBLE_CONFIDENCE,
    DatasetError,
    relative_id,
)
from curation.samples import KeypointSource, LabelledPerson, Sample

_BOX_DOWN, _BOX_SIDE = 15.0, 1.25 * 200.0


@dataclass(frozen=True)
class MpiiDataset:
    """MPII with its photos in ``images/`` (or beside the label file)."""

    root: Path
    kind: str = "mpii"

    def count(self) -> int:
        """Return the number of photos that the labels list."""
        return len(self._labels)

    def iter_samples(self) -> Iterator[Sample]:
        """Yield the photos in the order of the label file; person indices are its own."""
        folder = self.root / "images"
        folder = folder if folder.is_dir() else self.root
        for name, people in self._labels.items():
            path = folder / Path(name).name
            persons, problems = [], []
            for index, person in enumerate(people):
                try:
                    persons.append(_person(person, index))
                except (TypeError, ValueError, IndexError, KeyError) as error:
                    problems.append(f"person {index} of the label file: {error}")
                    persons.append(LabelledPerson(index))
            persons = [p for p in persons if p is not None]
            yield Sample(relative_id(self.root, path), path, tuple(persons), "; ".join(problems))

    @cached_property
    def _labels(self) -> dict[str, list[Any]]:
        """The people's records by photo, in the file's order."""
        labels: dict[str, list[Any]] = {}
        mats, jsons = mpii_files(self.root)
        for path in mats:
            for name, person in _mat_rows(path):
                labels.setdefault(name, []).extend(person)
        for path in () if mats else jsons:
            for entry in json.loads(path.read_bytes()):
                labels.setdefault(str(entry["image"]), []).append(entry)
        if not labels:
            raise DatasetError(f"{self.root} has no MPII label file; {MPII_FILES}")
        return labels


MPII_FILES = "looked for *.mat with a variable RELEASE and *.json with joints_vis, also in " + (
    "annotations/ and mpii_human_pose_v1_u12_2/"
)


def mpii_files(root: Path) -> tuple[list[Path], list[Path]]:
    """Return MPII's ``.mat`` files and mmpose's JSON files below a directory."""
    from scipy.io import whosmat

    mats, jsons = [], []
    for folder in (root, root / "annotations", *sorted(root.glob("mpii_human_pose*"))):
        for path in sorted(folder.glob("*.mat")) if folder.is_dir() else ():
            try:
                if any(name == "RELEASE" for name, _, _ in whosmat(path)):
                    mats.append(path)
            except Exception:
                continue  # not a MATLAB file; scipy raises a dozen types
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            with path.open("rb") as file:
                head = file.read(4096).lstrip()
            if head.startswith(b"[") and b'"joints_vis"' in head and b'"center"' in head:
                jsons.append(path)
    return mats, jsons


def _mat_rows(path: Path) -> Iterator[tuple[str, list[Any]]]:
    from scipy.io import loadmat

    try:
        release = loadmat(path, squeeze_me=True, struct_as_record=False)["RELEASE"]
        annolist = np.atleast_1d(release.annolist)
    except Exception as error:
        raise DatasetError(f"{path} cannot be read as MPII's: {error!r}") from None
    for annotation in annolist:
        name = getattr(getattr(annotation, "image", None), "name", None)
        if isinstance(name, str) and name:
            yield name, _structs(getattr(annotation, "annorect", None))


def _structs(value: Any) -> list[Any]:
    """A MATLAB struct array as a list: missing, empty, one struct, or many."""
    if value is None:
        return []
    return [v for v in np.atleast_1d(value).ravel() if hasattr(v, "_fieldnames")]


def _person(record: Any, index: int) -> LabelledPerson | None:
    points = np.zeros((16, 3), np.float32)
    if isinstance(record, Mapping):  # mmpose's JSON
        joints = np.asarray(record["joints"], np.float32).reshape(16, 2)
        visible = np.asarray(record["joints_vis"], np.float32).reshape(16)
        present = (visible > 0) & (joints > -1).all(-1)
        points[:, :2] = joints + 0.5
        points[:, 2] = np.where(present, VISIBLE_CONFIDENCE, 0)
        centre, scale = np.asarray(record["center"], np.float32) + 0.5, _number(record["scale"])
        down = 0.0  # this file's centre has been moved down already
        side = 200.0 * scale  # and its scale multiplied by 1.25
    else:
        for point in _structs(getattr(getattr(record, "annopoints", None), "point", None)):
            joint = int(_number(point.id))
            if not 0 <= joint < 16:
                raise ValueError(f"joint id must be 0 to 15, got {joint}")
            visible = _number(getattr(point, "is_visible", None))
            hidden = np.isfinite(visible) and visible <= 0
            confidence = OCCLUDED_CONFIDENCE if hidden else VISIBLE_CONFIDENCE
            points[joint] = _number(point.x) - 0.5, _number(point.y) - 0.5, confidence
        objpos = getattr(record, "objpos", None)
        centre = np.array([_number(getattr(objpos, axis, None)) - 0.5 for axis in "xy"])
        scale = _number(getattr(record, "scale", None))
        down, side = _BOX_DOWN * scale, _BOX_SIDE * scale
    middle = centre + np.array([0, down])
    box = np.array([*(middle - side / 2), *(middle + side / 2)], np.float32)
    usable_box = box if np.isfinite(box).all() and side > 0 else None
    if usable_box is None and not (points[:, 2] > 0).any():
        return None  # somebody of whom only the head was boxed: nothing to go by
    return LabelledPerson(
        index, usable_box, ((KeypointSource.ANNOTATION, Keypoints2D("mpii16", points)),)
    )


def _number(value: Any) -> float:
    """A MATLAB scalar that may be a number, a string or an empty array (NaN)."""
    if value is None or (isinstance(value, np.ndarray) and value.size != 1) or value == "":
        return float("nan")
    return float(value)
