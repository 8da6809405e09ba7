"""Several people in a photo without labels: boxes from faces, one detection each. Torch-free.

Holistic sees one person. MediaPipe's face detector sees several faces; where there is a face that
does not belong to a person already found, a body is looked for below it.
"""

import numpy as np

from curation.holistic import CONVENTION, Detection, HolisticDetector
from curation.people import as_fit, body_gap, keypoint_box

__all__ = ["body_boxes_of_face", "find_everyone", "is_head_of"]

MIN_FACE_PX = 10.0
MIN_VISIBILITY = 0.3
DUPLICATE_GAP = 0.1
_TILE_SHARE = 0.6  # of the image's side: four tiles that overlap by a fifth


def find_everyone(detector: HolisticDetector, rgb: np.ndarray) -> list[Detection]:
    """Return the people in a photo, the largest first.

    The costs beyond one Holistic run: one face detection; only if that sees a face that is not the
    found person's, four more on quarters of the photo, and up to three Holistic runs per face.
    """
    main = detector.person(rgb)
    people = [] if main is None else [main]
    faces = detector.faces(rgb)
    if any(_is_unclaimed(face, people) for face in faces):
        faces = _distinct(np.concatenate([faces, *(detector.faces(rgb, t) for t in _tiles(rgb))]))
        for face in faces:
            if _is_unclaimed(face, people):
                person = _person_of_face(detector, rgb, face)
                if person is not None and not any(_is_same(person, p) for p in people):
                    people.append(person)
    # Sorted by what was found, not by the order of finding, so that indices mean something.
    return sorted(people, key=_sort_key)


def _sort_key(person: Detection) -> tuple[float, float]:
    x0, y0, x1, y1 = keypoint_box(person.keypoints.points)
    area = float((x1 - x0) * (y1 - y0))
    return (-area if np.isfinite(area) else 0.0, float(np.nan_to_num(x0)))


def _person_of_face(
    detector: HolisticDetector, rgb: np.ndarray, face: np.ndarray
) -> Detection | None:
    """Look for the body of a face: in a box, then again in a box about what was found there."""
    for box in body_boxes_of_face(face):
        found = detector.person(rgb, box)
        if found is None or not is_head_of(face, found) or not _is_visible(found):
            continue
        # The first box may have cut limbs off; the second is made for this person.
        extent = keypoint_box(_seen(found))
        if np.isfinite(extent).all():
            again = detector.person(rgb, enlarged(extent, 1.4))
            if again is not None and is_head_of(face, again) and _is_visible(again):
                return again
        return found
    return None


def body_boxes_of_face(face: np.ndarray) -> np.ndarray:
    """Return (2, 4) boxes in which the body of a face may be: a usual one and a wide one.

    A standing person is about nine of the detector's face boxes high and, arms out, as wide.

    Args:
        face: (>= 4,) x0, y0, x1, y1 in pixels.
    """
    x, y = (face[0] + face[2]) / 2, (face[1] + face[3]) / 2
    size = max(face[2] - face[0], face[3] - face[1])
    return np.array(
        [
            [x - 3.0 * size, y - 1.7 * size, x + 3.0 * size, y + 8.0 * size],
            [x - 5.0 * size, y - 3.0 * size, x + 5.0 * size, y + 9.0 * size],
        ],
        np.float32,
    )


def is_head_of(face: np.ndarray, person: Detection) -> bool:
    """Tell whether a face box lies on the head of a detected person."""
    head = person.keypoints.points[:11]  # nose, eyes, ears, mouth of the pose
    nose = head[head[:, 2] > 0, :2].mean(0) if (head[:, 2] > 0).any() else head[0, :2]
    middle = (face[:2] + face[2:4]) / 2
    size = max(face[2] - face[0], face[3] - face[1])
    return bool(np.abs(nose - middle).max() < 0.75 * size)


def enlarged(box: np.ndarray, factor: float) -> np.ndarray:
    """Return a box grown on every side by the same share of its longer side."""
    grow = (factor - 1) / 2 * max(box[2] - box[0], box[3] - box[1])
    return np.asarray(box, np.float32) + np.array([-grow, -grow, grow, grow], np.float32)


def _seen(person: Detection) -> np.ndarray:
    pose = person.keypoints.points[:33].copy()
    pose[pose[:, 2] < 0.3, 2] = 0
    return pose


def _is_unclaimed(face: np.ndarray, people: list[Detection]) -> bool:
    large = min(face[2] - face[0], face[3] - face[1]) >= MIN_FACE_PX
    return bool(large) and not any(is_head_of(face, person) for person in people)


def _is_visible(person: Detection) -> bool:
    return bool(person.keypoints.points[11:29, 2].mean() >= MIN_VISIBILITY)


def _is_same(a: Detection, b: Detection) -> bool:
    one, two = (as_fit(p.keypoints.points, CONVENTION) for p in (a, b))
    return body_gap(one, two) < DUPLICATE_GAP


def _tiles(rgb: np.ndarray) -> list[np.ndarray]:
    height, width = rgb.shape[:2]
    w, h = width * _TILE_SHARE, height * _TILE_SHARE
    corners = [(x, y) for y in (0, height - h) for x in (0, width - w)]
    return [np.array([x, y, x + w, y + h], np.float32) for x, y in corners]


def _distinct(faces: np.ndarray) -> np.ndarray:
    """Return the faces, best first, without those whose middle lies in a better one."""
    kept: list[np.ndarray] = []
    for face in faces[np.argsort(-faces[:, 4], kind="stable")]:
        x, y = (face[0] + face[2]) / 2, (face[1] + face[3]) / 2
        if not any(k[0] <= x <= k[2] and k[1] <= y <= k[3] for k in kept):
            kept.append(face)
    return np.array(kept, np.float32).reshape(-1, 5)
