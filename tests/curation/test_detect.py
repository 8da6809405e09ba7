import numpy as np
import pytest
from PIL import Image

from bodymodel.keypoints import Keypoints2D
from curation import detect
from curation.detect import DetectJob, PersonQuery, start_detector
from curation.holistic import CONVENTION, Detection
from curation.people import as_fit


def detection(x=10.0):
    points = np.full((543, 3), 0.5, np.float32)
    points[:, 0] = x + np.arange(543)
    points[:, 1] = 2 * np.arange(543)
    return Detection(Keypoints2D(CONVENTION, points), np.full((33, 3), x, np.float32))


class FakeDetector:
    """Finds one person, 100 pixels right of the box's corner, unless the box is empty there."""

    def __init__(self):
        self.calls = []

    def person(self, rgb, box=None):
        self.calls.append(None if box is None else tuple(box))
        if box is not None and box[0] < 0:
            return None
        return detection(0.0 if box is None else float(box[0]) + 100)

    def faces(self, rgb, box=None):
        return np.zeros((0, 5), np.float32)


@pytest.fixture
def detector(monkeypatch):
    made = FakeDetector()
    monkeypatch.setattr(detect, "HolisticDetector", lambda: made)
    return made


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (60, 40)).save(path)
    return path


def query(*corners, reference=None):
    boxes = np.array([[x, 0, x + 50, 50] for x in corners], np.float32)
    return PersonQuery(boxes, np.zeros((145, 3)) if reference is None else reference)


def test_a_job_gives_header_and_people(detector, photo):
    result = start_detector()(DetectJob(photo))
    assert (result.header.width, result.header.height) == (60, 40)
    assert len(result.people) == 1 and not result.problem and not result.cached
    result = start_detector()(DetectJob(photo, (query(5.0), query(-1.0))))
    assert result.people[0].keypoints.points[0, 0] == 105 and result.people[1] is None


def test_the_next_box_is_tried_when_nobody_or_another_person_is_found(detector, photo):
    reference = as_fit(detection(300.0).keypoints.points, CONVENTION)
    (found,) = start_detector()(
        DetectJob(photo, (query(-1.0, 3.0, 200.0, 205.0, reference=reference),))
    ).people
    assert [c[0] for c in detector.calls] == [-1, 3, 200]
    assert found.keypoints.points[0, 0] == 300


def test_an_unreadable_photo_is_a_problem_and_no_exception(detector, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no photo")
    result = start_detector()(DetectJob(tmp_path / "a.jpg"))
    assert "not an image" in result.problem and result.header.sha256 and result.people == ()
    assert not detector.calls


def test_a_second_run_reads_the_cache(detector, photo, tmp_path):
    jobs = [
        DetectJob(photo, None, tmp_path / "cache"),
        DetectJob(photo, (query(5.0), query(-1.0)), tmp_path / "cache"),
        DetectJob(photo, (query(6.0),), tmp_path / "cache"),
    ]
    first = [start_detector()(job) for job in jobs]
    calls = len(detector.calls)
    second = [start_detector()(job) for job in jobs]
    assert len(detector.calls) == calls == 4
    assert all(r.cached for r in second) and not any(r.cached for r in first)
    for a, b in zip(first, second, strict=True):
        assert a.header == b.header and len(a.people) == len(b.people)
        for p, q in zip(a.people, b.people, strict=True):
            assert (p is None) == (q is None)
            if p is not None:
                assert np.array_equal(p.keypoints.points, q.keypoints.points)
                assert np.array_equal(p.world, q.world)


def test_the_cache_goes_by_content_and_not_by_name(detector, photo, tmp_path):
    cache = tmp_path / "cache"
    start_detector()(DetectJob(photo, None, cache))
    copy = tmp_path / "copy of it.png"
    copy.write_bytes(photo.read_bytes())
    assert start_detector()(DetectJob(copy, None, cache)).cached
    Image.new("RGB", (60, 40), (1, 1, 1)).save(photo)
    assert not start_detector()(DetectJob(photo, None, cache)).cached


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"junk" * 100,
        lambda data: data[:3000] + b"\xff" * 8 + data[3008:],
    ],
)
def test_a_damaged_entry_is_made_again(detector, photo, tmp_path, damage):
    job = DetectJob(photo, None, tmp_path / "cache")
    whole = start_detector()(job)
    (entry,) = (tmp_path / "cache").rglob("*.npz")
    entry.write_bytes(damage(entry.read_bytes()))
    again = start_detector()(job)
    assert not again.cached
    assert np.array_equal(again.people[0].keypoints.points, whole.people[0].keypoints.points)
    assert start_detector()(job).cached


def test_an_entry_that_could_run_code_is_not_opened(detector, photo, tmp_path):
    job = DetectJob(photo, None, tmp_path / "cache")
    start_detector()(job)
    (entry,) = (tmp_path / "cache").rglob("*.npz")
    with entry.open("wb") as file:
        np.savez(file, format=np.int64(1), found=np.array([print], object))
    assert not start_detector()(job).cached


def test_entries_are_whole_or_absent(detector, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(detect.Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError))
    result = start_detector()(DetectJob(photo, None, tmp_path / "cache"))
    assert len(result.people) == 1
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


def test_a_cache_that_cannot_be_written_costs_the_cache_only(detector, photo, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(start_detector()(DetectJob(photo, None, tmp_path / "cache")).people) == 1
