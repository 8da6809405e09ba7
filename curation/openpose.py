"""OpenPose's JSON files, versions 1.0 to 1.7. Torch-free.

Version 1.0 has ``pose_keypoints`` with COCO's 18 points, later ones ``pose_keypoints_2d`` with
BODY_25's (or still 18). Hands have 21 points each, the face 70. A key that is missing or empty
means that OpenPose did not look for the part; zeros mean that it looked and saw nothing.
OpenPose's coordinates are already those of the upright image with the origin at the corner of the
first pixel (it adds half a pixel to the position of a heat map's maximum).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bodymodel.keypoints import Keypoints2D
from curation.samples import KeypointSource, LabelledPerson

__all__ = ["OpenPoseError", "parse_openpose", "read_openpose"]

_BODY_CONVENTIONS = {25: "openpose_body25", 18: "openpose_coco18"}
_PARTS = (
    ("hand_left_keypoints", "openpose_hand21_left", 21),
    ("hand_right_keypoints", "openpose_hand21_right", 21),
    ("face_keypoints", "openpose_face70", 70),
)


class OpenPoseError(ValueError):
    """A file that is not OpenPose's. The message is a plain sentence with the file's name."""


def read_openpose(path: Path) -> tuple[LabelledPerson, ...]:
    """Read the people of one OpenPose JSON file.

    Raises:
        OpenPoseError: If the file cannot be read or is not OpenPose's.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise OpenPoseError(f"{path.name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise OpenPoseError(f"{path.name} is not JSON: {error}") from None
    try:
        return parse_openpose(data)
    except OpenPoseError as error:
        raise OpenPoseError(f"{path.name}: {error}") from None


def parse_openpose(data: Any) -> tuple[LabelledPerson, ...]:
    """Turn the content of an OpenPose JSON file into people, in the order of the file.

    A person without any point (all zero or not finite) is kept, with point sets that are empty,
    so that the indices of the others do not depend on it.

    Args:
        data: The parsed file.

    Raises:
        OpenPoseError: If it does not have OpenPose's structure.
    """
    if not isinstance(data, Mapping):
        raise OpenPoseError(f"expected an object with 'people', got {type(data).__name__}")
    people = data.get("people")
    if people is None:
        people = []
    if not isinstance(people, list) or not all(isinstance(p, Mapping) for p in people):
        raise OpenPoseError("'people' is not a list of objects")
    return tuple(LabelledPerson(i, None, _point_sets(p, i)) for i, p in enumerate(people))


def _point_sets(
    person: Mapping[str, Any], index: int
) -> tuple[tuple[KeypointSource, Keypoints2D], ...]:
    sets = []
    body = _points(person, "pose_keypoints", index)
    if len(body):
        convention = _BODY_CONVENTIONS.get(len(body))
        if convention is None:
            raise OpenPoseError(
                f"person {index} has {len(body)} body points; BODY_25 has 25, COCO 18"
            )
        sets.append(Keypoints2D(convention, body))
    for key, convention, size in _PARTS:
        points = _points(person, key, index)
        if len(points) not in (0, size):
            raise OpenPoseError(f"person {index} has {len(points)} {key}, expected {size}")
        if len(points):
            sets.append(Keypoints2D(convention, points))
    return tuple((KeypointSource.OPENPOSE, points) for points in sets)


def _points(person: Mapping[str, Any], key: str, index: int) -> np.ndarray:
    """Return (K, 3) float32; both spellings of the key, K = 0 if there is none."""
    values = person.get(f"{key}_2d") or person.get(key) or []
    try:
        # float64 takes numbers that float32 cannot hold; None is NaN.
        array = np.asarray(values, np.float64).reshape(-1, 3)
    except (TypeError, ValueError):
        raise OpenPoseError(f"person {index}: {key} is not a list of x, y, confidence") from None
    with np.errstate(over="ignore"):
        return array.astype(np.float32)
