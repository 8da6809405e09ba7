"""People with 3D keypoints, or seen by several calibrated cameras: ``targets.json``. Torch-free.

    {"convention": "coco17", "people": [
      {"image": "a.jpg", "keypoints_3d": [[0.1, -0.4, 3.1, 1.0], ...], "frame": "camera"},
      {"views": [
        {"image": "left/0.jpg", "focal_px": 1450, "center_px": [960, 540],
         "rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "translation": [0, 0, 0],
         "keypoints_2d": [[812.5, 301.0, 0.9], ...]},
        {"image": "right/0.jpg", ...}]}]}

``convention`` is a key of ``bodymodel.keypoints.CONVENTIONS`` and may stand at a person, too. Rows
are of a person's first view; a person who is no list of views is their own only one, and may have
``bbox`` (x0 y0 x1 y1), ``keypoints_2d`` and a camera, all optional. Cameras are as in
``cameras.json``; ``rotation`` and ``translation`` (metres) lead from the world to the camera.
3D keypoints are metres and confidence, in the frame of the first view's camera, in the ``world`` of
its rotation and translation, or ``free``: known up to a rigid motion.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from bodymodel.keypoints import CONVENTIONS, Keypoints2D
from curation.datasets.base import DatasetError
from curation.datasets.cameras import parse_camera
from curation.people import as_fit
from curation.samples import (
    FurtherEvidence,
    KeypointSource,
    KnownCamera,
    LabelledPerson,
    Sample,
    View,
)

__all__ = ["TARGETS_FILE", "TargetsDataset"]

TARGETS_FILE = "targets.json"

_FORM = '{"convention": "coco17", "people": [{"image": "a.jpg", "keypoints_3d": [[x, y, z, c]]}]}'
_FRAMES = ("camera", "world", "free")
_RIGID = 1e-3  # as far from a rotation as rounded numbers may be


@dataclass(frozen=True)
class TargetsDataset:
    """The photos that ``targets.json`` names, with their people."""

    root: Path
    kind: str = "targets"

    def count(self) -> int:
        """Return the number of photos that rows are of."""
        return len(self._by_image)

    def iter_samples(self) -> Iterator[Sample]:
        """Yield the photos in the order of their names."""
        for image_id in sorted(self._by_image):
            yield self._sample(image_id)

    @cached_property
    def _entries(self) -> tuple[list[Mapping[str, Any]], str | None]:
        """All people as the file has them, and their convention."""
        path = self.root / TARGETS_FILE
        try:
            data = json.loads(path.read_bytes())
            people, convention = data["people"], data.get("convention")
            if not people or not all(isinstance(p, dict) for p in people):
                raise ValueError("people must be a list of at least one object")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DatasetError(f"{path} cannot be read: {error!r}. Expected {_FORM}") from None
        return people, convention

    @cached_property
    def _by_image(self) -> dict[str, list[int]]:
        """Places in the file of the people of each photo."""
        found: dict[str, list[int]] = {}
        for place, entry in enumerate(self._entries[0]):
            try:
                name = _views(entry)[0]["image"]
                image_id = PurePosixPath(name).as_posix()
            except (KeyError, TypeError, IndexError) as error:
                raise DatasetError(
                    f"{self.root / TARGETS_FILE}: person {place} has no image ({error!r}); name "
                    'the photo, "image": "a.jpg", there or in the first of "views"'
                ) from None
            if image_id.startswith("/") or ".." in PurePosixPath(image_id).parts:
                raise DatasetError(
                    f"{self.root / TARGETS_FILE}: person {place}: {name!r} must be a path below "
                    "the directory"
                )
            found.setdefault(image_id, []).append(place)
        return found

    def _sample(self, image_id: str) -> Sample:
        entries, convention = self._entries
        people: list[LabelledPerson] = []
        problems: list[str] = []
        cameras: list[KnownCamera] = []
        for index, place in enumerate(self._by_image[image_id]):
            try:
                person, camera = _person(index, entries[place], convention)
                if camera is not None and cameras and camera != cameras[0]:
                    raise ValueError(
                        f"one photo has one camera, got {camera} after {cameras[0]} of the person "
                        "before; make them equal"
                    )
                cameras += [camera] if camera is not None else []
            except (ValueError, TypeError, KeyError, IndexError) as error:
                words = f"it has no {error}" if isinstance(error, KeyError) else str(error)
                problems.append(f"person {place} of {TARGETS_FILE}: {words}")
                person = LabelledPerson(index)
            people.append(person)
        camera = cameras[0] if cameras else None
        path = self.root / image_id
        return Sample(image_id, path, tuple(people), "; ".join(problems), camera)


def _views(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return entry.get("views") or [entry]


def _person(
    index: int, entry: Mapping[str, Any], convention: str | None
) -> tuple[LabelledPerson, KnownCamera | None]:
    """Read a person, and the camera of their first view.

    Raises:
        ValueError: If something is not as it should be; KeyError or TypeError likewise.
    """
    convention = entry.get("convention", convention)
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
    views = _views(entry)
    first, several = views[0], len(views) > 1
    camera = parse_camera(first) if several or "K" in first or "focal_px" in first else None
    points = _points(first, convention, needed=several)
    keypoints = ()
    if points is not None:
        keypoints = ((KeypointSource.ANNOTATION, Keypoints2D(convention, points)),)
    points_3d, frame = _points_3d(entry, first, convention)
    if not several and points is None and points_3d is None:
        raise ValueError("expected keypoints_3d, views or keypoints_2d, got none of them")
    further = None
    if several:
        _center(camera)
        rest = tuple(_view(view, first, convention) for view in views[1:])
        further = FurtherEvidence(points_3d, frame, (convention,), rest)
    elif points_3d is not None:
        further = FurtherEvidence(points_3d, frame, (convention,))
    box = first.get("bbox")
    box = None if box is None else np.array(box, np.float32).reshape(4)
    return LabelledPerson(index, box, keypoints, further=further), camera


def _center(camera: KnownCamera) -> tuple[float, float]:
    if camera.center_px is None:
        raise ValueError("every camera of several views needs its center_px")
    return camera.center_px


def _view(view: Mapping[str, Any], first: Mapping[str, Any], convention: str) -> View:
    """Place a view in the frame of the first one."""
    camera = parse_camera(view)
    (turn, shift), (first_turn, first_shift) = _motion(view), _motion(first)
    rotation = turn @ first_turn.T
    return View(
        as_fit(_points(view, convention, needed=True), convention),
        camera.focal_px,
        np.array(_center(camera)),
        rotation,
        shift - rotation @ first_shift,
    )


def _motion(view: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(3, 3) and (3,) from the world to the camera."""
    turn = np.array(view["rotation"], np.float64)
    shift = np.array(view["translation"], np.float64)
    if turn.shape != (3, 3) or shift.shape != (3,):
        raise ValueError(
            f"rotation must be 3 x 3 and translation 3 numbers, got {turn.shape}, {shift.shape}"
        )
    is_turn = np.abs(turn @ turn.T - np.eye(3)).max() < _RIGID and np.linalg.det(turn) > 0
    if not (is_turn and np.isfinite(shift).all()):
        raise ValueError(
            "rotation must be a rotation matrix from the world to the camera, translation metres; "
            f"got {turn.tolist()}, {shift.tolist()}"
        )
    return turn, shift


def _points(view: Mapping[str, Any], convention: str, *, needed: bool) -> np.ndarray | None:
    """(K, 3) float32 pixels and confidence."""
    if "keypoints_2d" not in view and not needed:
        return None
    return _table(view["keypoints_2d"], "keypoints_2d", convention, 3)


def _points_3d(
    entry: Mapping[str, Any], first: Mapping[str, Any], convention: str
) -> tuple[np.ndarray | None, Literal["camera", "free"]]:
    """(145, 4) float32 in the ``fit`` convention, and what their frame is."""
    if "keypoints_3d" not in entry:
        return None, "camera"
    points = _table(entry["keypoints_3d"], "keypoints_3d", convention, 4)
    frame = entry.get("frame", "camera")
    if frame not in _FRAMES:
        raise ValueError(f"frame must be one of {', '.join(_FRAMES)}, got {frame!r}")
    if frame == "world":
        turn, shift = _motion(first)
        points[:, :3] = points[:, :3] @ turn.T + shift
    places = np.arange(len(points))
    which = as_fit(np.column_stack([places, places, points[:, 3]]), convention)
    found = points[which[:, 0].astype(int)]
    found[which[:, 2] <= 0] = 0
    return found, "free" if frame == "free" else "camera"


def _table(rows: Any, name: str, convention: str, width: int) -> np.ndarray:
    table = np.array(rows, np.float32)  # null is NaN: not seen
    shape = (len(CONVENTIONS[convention]), width)
    if table.shape != shape:
        raise ValueError(f"{name} must be {shape} in {convention!r}, got {table.shape}")
    table[~np.isfinite(table).all(1)] = 0
    if ((table[:, -1] < 0) | (table[:, -1] > 1)).any():
        raise ValueError(f"the confidences of {name} must lie in 0-1")
    return table
