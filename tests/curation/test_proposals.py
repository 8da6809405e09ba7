import numpy as np
import pytest

from bodymodel.keypoints import CONVENTIONS, Keypoints2D
from curation.holistic import CONVENTION, Detection
from curation.people import keypoint_box
from curation.proposals import find_everyone

POSE = CONVENTIONS["mediapipe_pose33"]


def person_at(x, y, size, has_face=True):
    """A standing person: the face of ``size`` pixels is centred at x, y; eight faces high."""
    points = np.zeros((543, 3))
    side = {"left": 1.0, "right": -1.0}
    heights = {
        "shoulder": (1.0, 1.3), "elbow": (1.3, 2.6), "wrist": (1.4, 3.8), "hip": (0.6, 3.6),
        "knee": (0.6, 5.4), "ankle": (0.6, 7.0), "heel": (0.6, 7.2), "toe": (0.8, 7.3),
    }  # fmt: skip
    for i, name in enumerate(POSE):
        right, down = next((v for k, v in heights.items() if k in name), (0.1, 0.0))
        points[i] = (x + size * right * side.get(name.split("_")[0], 0), y + size * down, 0.9)
    if has_face:
        points[75:] = (x, y, 0.8)
    return Detection(Keypoints2D(CONVENTION, points), np.zeros((33, 3), np.float32))


class FakeDetector:
    """Sees the largest person whose face is in the box, and faces that are not tiny in it."""

    def __init__(self, people, sees_main=True, false_faces=()):
        self.people = [(x, y, s, person_at(x, y, s)) for x, y, s in people]
        self.sees_main = sees_main
        self.false_faces = false_faces
        self.person_calls = self.face_calls = 0

    def _inside(self, rgb, box, entries):
        x0, y0, x1, y1 = (0, 0, rgb.shape[1], rgb.shape[0]) if box is None else box
        return [e for e in entries if x0 <= e[0] <= x1 and y0 <= e[1] <= y1], x1 - x0

    def person(self, rgb, box=None):
        self.person_calls += 1
        if box is None and not self.sees_main:
            return None
        found, _ = self._inside(rgb, box, self.people)
        return max(found, key=lambda e: e[2])[3] if found else None

    def faces(self, rgb, box=None):
        self.face_calls += 1
        found, width = self._inside(rgb, box, [e[:3] for e in self.people] + [*self.false_faces])
        large = [e for e in found if e[2] > 0.04 * width]
        rows = [(x - s / 2, y - s / 2, x + s / 2, y + s / 2, 0.9) for x, y, s in large]
        return np.array(rows, np.float32).reshape(-1, 5)


def picture(width=1000, height=600):
    return np.zeros((height, width, 3), np.uint8)


def heads(people):
    return sorted(tuple(p.keypoints.points[0, :2].round().astype(int)) for p in people)


def test_one_person_costs_one_run_of_each_model():
    detector = FakeDetector([(500, 100, 60)])
    assert len(find_everyone(detector, picture())) == 1
    assert (detector.person_calls, detector.face_calls) == (1, 1)


def test_nobody():
    assert find_everyone(FakeDetector([]), picture()) == []
    assert find_everyone(FakeDetector([]), picture(1, 1)) == []


def test_two_people_of_whom_one_face_is_not_the_first_ones():
    people = find_everyone(FakeDetector([(300, 100, 60), (700, 100, 50)]), picture())
    assert heads(people) == [(300, 100), (700, 100)]
    areas = [
        np.prod(np.ptp(keypoint_box(p.keypoints.points).reshape(2, 2), axis=0)) for p in people
    ]
    assert areas == sorted(areas, reverse=True)


@pytest.mark.parametrize("sees_main", [True, False])
def test_ten_small_people_are_found_on_tiles(sees_main):
    crowd = [(60 + 100 * i, 250 + 15 * (i % 3), 20 + i) for i in range(10)]
    detector = FakeDetector(crowd, sees_main)
    people = find_everyone(detector, picture())
    assert len(heads(people)) == len(set(heads(people))) == 10
    again = find_everyone(FakeDetector(crowd, sees_main), picture())
    assert [p.keypoints.points.tolist() for p in people] == [
        p.keypoints.points.tolist() for p in again
    ]


def test_a_face_on_a_poster_is_nobody():
    detector = FakeDetector([(300, 100, 60)], false_faces=[(800, 300, 60)])
    assert len(find_everyone(detector, picture())) == 1


def test_a_face_that_holistic_does_not_see_is_none():
    detector = FakeDetector([(300, 100, 60)], false_faces=[(800, 300, 60)])
    ghost = person_at(800, 300, 60, has_face=False)
    detector.people.append((800, 300, 59, ghost))
    people = find_everyone(detector, picture())
    assert heads(people) == [(300, 100)]
