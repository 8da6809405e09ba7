"""COCO and COCO-WholeBody keypoints, as annotations and as detectors' results. Torch-free.

COCO counts pixels from 0 and means their centres, hence half a pixel is added to every point.
Boxes are x, y, width, height from the corner of the first pixel.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bodymodel.keypoints import CONVENTIONS, Keypoints2D
from curation.samples import KeypointSource, LabelledPerson

__all__ = ["parse_annotation", "parse_result"]

_CENTRE = np.float32(0.5)
# The confidence of COCO's v: not labelled, labelled but hidden, labelled and visible.
_OF_VISIBILITY = np.array([0.0, 0.5, 1.0], np.float32)
_WHOLEBODY_PARTS = (
    # key of the points, key of their validity, number of points; the order of the 133
    ("foot_kpts", "foot_valid", 6),
    ("face_kpts", "face_valid", 68),
    ("lefthand_kpts", "lefthand_valid", 21),
    ("righthand_kpts", "righthand_valid", 21),
)


def parse_annotation(annotation: Mapping[str, Any], person_index: int) -> LabelledPerson | None:
    """Turn a COCO or COCO-WholeBody annotation into a person.

    Points of a part that is declared invalid are dropped even where their own flag says they are
    labelled. The flags of hands and face are themselves confidences in 0..1 (all 1 or 0 in the
    released files), those of body and feet are COCO's 0, 1, 2.

    Returns:
        The person, or None for a crowd and for somebody without a single labelled point.

    Raises:
        ValueError: If the annotation does not have the structure of COCO's.
    """
    if annotation.get("iscrowd"):
        return None
    body = _triples(annotation, "keypoints", 17)
    body[:, 2] = _OF_VISIBILITY[np.clip(np.nan_to_num(body[:, 2]), 0, 2).astype(int)]
    sets = [(KeypointSource.ANNOTATION, _shifted("coco17", body))]
    if any(key in annotation for key, _, _ in _WHOLEBODY_PARTS):
        parts = [body]
        for key, valid, size in _WHOLEBODY_PARTS:
            points = _triples(annotation, key, size)
            if key == "foot_kpts":
                points[:, 2] = _OF_VISIBILITY[
                    np.clip(np.nan_to_num(points[:, 2]), 0, 2).astype(int)
                ]
            if not annotation.get(valid, True):
                points[:] = 0
            parts.append(points)
        sets.append(
            (KeypointSource.WHOLEBODY, _shifted("coco_wholebody133", np.concatenate(parts)))
        )
    if not any((points.points[:, 2] > 0).any() for _, points in sets):
        return None
    return LabelledPerson(person_index, _box(annotation), tuple(sets))


def parse_result(result: Mapping[str, Any], person_index: int) -> LabelledPerson:
    """Turn one entry of a detector's result file into a person.

    The entry has ``keypoints``, 133 or 17 times x, y, confidence, and may have ``bbox``; or it has
    the split keys of COCO-WholeBody's evaluation (``keypoints`` with 17, ``foot_kpts`` ...), whose
    third numbers are confidences as well.

    Raises:
        ValueError: If it does not have one of these forms.
    """
    size = len(result.get("keypoints") or ()) // 3
    if size == 17 and any(key in result for key, _, _ in _WHOLEBODY_PARTS):
        points = [_triples(result, "keypoints", 17)]
        points += [_triples(result, key, count) for key, _, count in _WHOLEBODY_PARTS]
        keypoints = _shifted("coco_wholebody133", np.concatenate(points))
    elif size in (17, 133):
        convention = "coco17" if size == 17 else "coco_wholebody133"
        keypoints = _shifted(convention, _triples(result, "keypoints", size))
    else:
        raise ValueError(f"a result has {size} keypoints; expected 133 or 17")
    return LabelledPerson(person_index, _box(result), ((KeypointSource.WHOLEBODY, keypoints),))


def _triples(entry: Mapping[str, Any], key: str, size: int) -> np.ndarray:
    """Return (size, 3) float32; zeros where the key is missing or empty."""
    values = entry.get(key)
    if values is None or len(values) == 0:
        return np.zeros((size, 3), np.float32)
    try:
        points = np.array(values, np.float32).reshape(-1, 3)
    except (TypeError, ValueError):
        points = np.zeros((0, 3), np.float32)
    if len(points) != size:
        raise ValueError(f"{key!r} must be {3 * size} numbers, got {len(values)}")
    return points


def _shifted(convention: str, points: np.ndarray) -> Keypoints2D:
    assert len(CONVENTIONS[convention]) == len(points)
    return Keypoints2D(convention, points + np.array([_CENTRE, _CENTRE, 0], np.float32))


def _box(entry: Mapping[str, Any]) -> np.ndarray | None:
    try:
        x, y, width, height = (float(v) for v in entry["bbox"])
    except (KeyError, TypeError, ValueError):
        return None
    box = np.array([x, y, x + width, y + height], np.float32)
    return box if np.isfinite(box).all() and width > 0 and height > 0 else None
