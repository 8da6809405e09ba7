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
CLOSER = 1.4  # times the box of the points seen
_LIMBS, _FACE = slice(11, 29), slice(75, 543)  # of the 543 points
TILE_OVERLAP = 0.25
MIN_TILED_PX = 100
SMALL_SHARE = 0.4  # of the photo's shorter side


def find_everyone(detector: HolisticDetector, rgb: np.ndarray) -> list[Detection]:
    """Return the people in a photo, the largest first.

    A photo of one person costs one Holistic run and one face detection. More faces are looked for
    on tiles of the photo only if something says that there may be more people: nobody was found,
    the person found is small, or there is a face that is not theirs. Each face that is nobody's
    then costs up to three Holistic runs.
    """
    main = detector.person(rgb)
    people = [] if main is None else [main]
    faces = detector.faces(rgb)
    is_unclear = main is None or any(_is_unclaimed(face, people) for face in faces)
    if is_unclear or _is_small(main, rgb):
        faces = _faces_on_tiles(detector, rgb, faces, 2)
        if len(faces) >= 3 or (main is None and len(faces) < 2):
            faces = _faces_on_tiles(detector, rgb, faces, 4)
        if main is not None:  # among others, or far away, a closer look is a better one
            people = [_closer(detector, rgb, main)]
    for face in faces:
        if _is_unclaimed(face, people):
            person = _person_of_face(detector, rgb, face)
            if person is not None and not any(_is_same(person, p) for p in people):
                people.append(person)
    # Sorted by what was found, not by the order of finding, so that indices mean something.
    return sorted(people, key=_sort_key)


def _is_small(person: Detection, rgb: np.ndarray) -> bool:
    x0, y0, x1, y1 = keypoint_box(_seen(person))
    return bool(max(x1 - x0, y1 - y0) < SMALL_SHARE * min(rgb.shape[:2]))


def _faces_on_tiles(
    detector: HolisticDetector, rgb: np.ndarray, faces: np.ndarray, count: int
) -> np.ndarray:
    """Add the faces on count x count tiles of a photo; the detector sees 192 x 192 pixels."""
    if min(rgb.shape[:2]) < MIN_TILED_PX * count:
        return faces
    return _distinct(np.concatenate([faces, *(detector.faces(rgb, t) for t in _tiles(rgb, count))]))


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
        if found is None or not _is_body_of(face, found):
            continue
        # The first box may have cut limbs off; the second is made for this person.
        again = _closer(detector, rgb, found)
        return again if _is_body_of(face, again) else found
    return None


def _closer(detector: HolisticDetector, rgb: np.ndarray, person: Detection) -> Detection:
    """Look again in a box about a person; what was known if somebody else is seen there."""
    extent = keypoint_box(_seen(person))
    if not np.isfinite(extent).all():
        return person
    again = detector.person(rgb, enlarged(extent, CLOSER))
    return person if again is None or not _is_same(person, again) else again


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


def _is_body_of(face: np.ndarray, person: Detection) -> bool:
    """Whether a face leads to this person. A face that Holistic cannot see as well is none."""
    points = person.keypoints.points
    has_limbs = points[_LIMBS, 2].mean() >= MIN_VISIBILITY
    return bool(has_limbs and points[_FACE, 2].any() and is_head_of(face, person))


def _is_same(a: Detection, b: Detection) -> bool:
    one, two = (as_fit(p.keypoints.points, CONVENTION) for p in (a, b))
    return body_gap(one, two) < DUPLICATE_GAP


def _tiles(rgb: np.ndarray, count: int) -> list[np.ndarray]:
    """Cut a photo into count x count boxes that overlap by a quarter, so as to cut no face."""
    height, width = rgb.shape[:2]
    w, h = (side / (count - (count - 1) * TILE_OVERLAP) for side in (width, height))
    xs, ys = (np.linspace(0, side - tile, count) for side, tile in ((width, w), (height, h)))
    return [np.array([x, y, x + w, y + h], np.float32) for y in ys for x in xs]


def _distinct(faces: np.ndarray) -> np.ndarray:
    """Return the faces, best first, without those whose middle lies in a better one."""
    kept: list[np.ndarray] = []
    for face in faces[np.argsort(-faces[:, 4], kind="stable")]:
        x, y = (face[0] + face[2]) / 2, (face[1] + face[3]) / 2
        if not any(k[0] <= x <= k[2] and k[1] <= y <= k[3] for k in kept):
            kept.append(face)
    return np.array(kept, np.float32).reshape(-1, 5)
