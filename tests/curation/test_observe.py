import json
import math
import os
import signal
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS, Keypoints2D
from curation import observe as observe_module
from curation.datasets import open_dataset
from curation.detect import DetectResult
from curation.holistic import CONVENTION, Detection
from curation.images import ImageError, ImageHeader, read_header
from curation.observe import observe
from curation.samples import KeypointSource, LabelledPerson, Sample
from curation.worker_pool import JobError

SIZE = 200


def points_of_a_person(convention, at=(50, 20), confidence=0.9):
    """Points spread over 100 x 160 pixels; a name is at one place in every convention."""
    points = np.zeros((len(CONVENTIONS[convention]), 3), np.float32)
    for i, name in enumerate(CONVENTIONS[convention]):
        rng = np.random.default_rng(sum(map(ord, name)))
        root = name.split("_")[0] + "_wrist" if name.endswith(("1", "2", "3")) else name
        rng = np.random.default_rng(sum(map(ord, root)))
        points[i] = (*(at + rng.uniform(0, 1, 2) * (100, 160)), confidence)
    return points


def labelled(convention, points=None, index=0, source=KeypointSource.ANNOTATION, box=None):
    points = points_of_a_person(convention) if points is None else points
    return LabelledPerson(index, box, ((source, Keypoints2D(convention, points)),))


def detection(at=(50, 20)):
    keypoints = Keypoints2D(CONVENTION, points_of_a_person(CONVENTION, at, 0.6))
    return Detection(keypoints, np.zeros((33, 3), np.float32))


class FakePool:
    """Answers at once: as many people as asked for, or ``everyone``."""

    everyone = (detection(),)
    found = staticmethod(lambda query: detection())
    failure = None

    def __init__(self, *_):
        self.jobs = []
        FakePool.last = self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, job):
        self.jobs.append(job)
        future = Future()
        if self.failure:
            future.set_exception(JobError(self.failure))
            return future
        try:
            header = read_header(job.path)
        except ImageError as error:
            header = ImageHeader(error.sha256, 0, 0, math.nan)
            future.set_result(DetectResult(header, problem=error.reason))
            return future
        people = self.everyone if job.queries is None else map(self.found, job.queries)
        future.set_result(DetectResult(header, tuple(people)))
        return future


@pytest.fixture
def pool(monkeypatch):
    made = type("Pool", (FakePool,), {})
    monkeypatch.setattr(observe_module, "WorkerPool", made)
    return made


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (SIZE, SIZE)).save(path)
    return path


def one(sample, **options):
    (observation,) = observe([sample], **options)
    return observation


def sources(observation):
    return {KeypointSource(v) for v in np.unique(observation.keypoint_source)}


def source_of(observation, name):
    return observation.keypoint_source[FIT_KEYPOINTS.index(name)]


def test_annotations_are_taken_as_they_are_and_nothing_is_detected(pool, photo):
    truth = {"betas": np.ones(10)}
    person = labelled("lsp14")
    person = LabelledPerson(0, None, person.keypoints, truth)
    seen = one(Sample("a.png", photo, (person,)), source="annotations")
    assert seen.status == "ok" and seen.reason == "" and seen.truth is truth
    assert (seen.width, seen.height) == (SIZE, SIZE) and len(seen.image_sha256) == 64
    assert math.isnan(seen.focal_px)
    assert seen.keypoints_2d.shape == (145, 3) and seen.keypoints_2d.dtype == np.float32
    assert seen.keypoint_source.dtype == np.int8
    expected = person.keypoints[0][1].to("fit").points
    assert np.array_equal(seen.keypoints_2d, expected)
    assert sources(seen) == {KeypointSource.NONE, KeypointSource.ANNOTATION}
    assert seen.bbox_xyxy_px[0] == expected[expected[:, 2] > 0, 0].min()
    assert not pool.last.jobs


def test_auto_says_which_point_came_from_where(pool, photo):
    seen = one(Sample("a.png", photo, (labelled("lsp14"),)))
    for name in CONVENTIONS["lsp14"]:
        assert source_of(seen, name) == KeypointSource.ANNOTATION, name
    for name in ("left_index1", "right_pinky3", "left_heel"):
        assert source_of(seen, name) == KeypointSource.MEDIAPIPE, name
    ((query,),) = [job.queries for job in pool.last.jobs]
    extent = np.ptp(points_of_a_person("lsp14")[:, :2], axis=0)
    assert (query.boxes[0, 2:] - query.boxes[0, :2] > 1.3 * extent).all()


def test_auto_detects_nothing_where_labels_are_complete(pool, photo):
    person = labelled("openpose137", source=KeypointSource.OPENPOSE)
    seen = one(Sample("a.png", photo, (person,)))
    assert seen.status == "ok" and sources(seen) <= {KeypointSource.NONE, KeypointSource.OPENPOSE}
    assert not pool.last.jobs


def test_a_detection_of_somebody_else_adds_nothing(pool, photo):
    pool.found = staticmethod(lambda query: detection((150, 20)))
    seen = one(Sample("a.png", photo, (labelled("lsp14"),)))
    assert sources(seen) == {KeypointSource.NONE, KeypointSource.ANNOTATION}


def test_a_photo_without_labels_gives_everybody(pool, photo):
    pool.everyone = tuple(detection((x, 20)) for x in range(0, 100, 10))
    seen = list(observe([Sample("a.png", photo)]))
    assert [s.person_index for s in seen] == list(range(10))
    assert {s.image_sha256 for s in seen} == {read_header(photo).sha256}
    assert all(sources(s) == {KeypointSource.NONE, KeypointSource.MEDIAPIPE} for s in seen)


def test_nobody_is_a_row_with_a_reason(pool, photo):
    pool.everyone = ()
    seen = one(Sample("a.png", photo))
    assert (seen.status, seen.person_index) == ("no_person", 0)
    assert "nobody" in seen.reason and seen.width == SIZE
    assert not seen.keypoints_2d.any() and np.isnan(seen.bbox_xyxy_px).all()


@pytest.mark.parametrize("source", ["annotations", "openpose", "wholebody"])
def test_a_source_that_says_nothing_of_a_photo(pool, photo, source):
    assert one(Sample("a.png", photo), source=source).status == "no_person"
    other = labelled("lsp14")
    seen = one(Sample("a.png", photo, (other,)), source=source)
    assert seen.status == ("ok" if source == "annotations" else "no_person")
    assert (seen.reason == "") == (seen.status == "ok")


def test_labels_of_one_source_can_be_chosen(pool, photo):
    sets = tuple(
        (source, Keypoints2D(convention, points_of_a_person(convention)))
        for source, convention in (
            (KeypointSource.ANNOTATION, "coco17"),
            (KeypointSource.OPENPOSE, "openpose_body25"),
            (KeypointSource.WHOLEBODY, "coco_wholebody133"),
        )
    )
    sample = Sample("a.png", photo, (LabelledPerson(0, None, sets),))
    assert sources(one(sample, source="openpose")) == {0, KeypointSource.OPENPOSE}
    assert sources(one(sample, source="wholebody")) == {0, KeypointSource.WHOLEBODY}
    assert sources(one(sample, source="annotations")) == {0, 1, 2, 3}
    assert sources(one(sample, source="mediapipe")) == {0, KeypointSource.MEDIAPIPE}


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_people_whose_points_are_all_zero_or_not_finite(pool, photo, value):
    nothing = labelled("openpose_body25", np.full((25, 3), value), 0, KeypointSource.OPENPOSE)
    somebody = labelled("openpose_body25", None, 1, KeypointSource.OPENPOSE)
    for source in ("auto", "annotations", "openpose"):
        first, second = observe([Sample("a.png", photo, (nothing, somebody))], source=source)
        assert (first.person_index, first.status) == (0, "no_person"), source
        assert "no point" in first.reason
        assert (second.person_index, second.status) == (1, "ok")


def test_somebody_of_whom_only_the_box_is_known(pool, photo):
    box = np.array([20, 10, 180, 190], np.float32)
    sample = Sample("a.png", photo, (LabelledPerson(4, box),))
    seen = one(sample)
    assert (seen.person_index, seen.status) == (4, "ok")
    assert np.array_equal(seen.bbox_xyxy_px, box)
    pool.found = staticmethod(lambda query: None)
    seen = one(sample)
    assert seen.status == "no_person" and "MediaPipe found nobody" in seen.reason
    assert one(sample, source="annotations").status == "no_person"


def test_bad_labels(pool, photo):
    seen = one(Sample("a.png", photo, problem="a_keypoints.json is not JSON"))
    assert (seen.status, seen.reason) == ("label_error", "a_keypoints.json is not JSON")
    assert seen.width == SIZE and not pool.last.jobs
    # One bad person among good ones
    people = (labelled("lsp14"), LabelledPerson(1))
    good, bad = observe([Sample("a.png", photo, people, "annotation 1: bad")], source="annotations")
    assert good.status == "ok" and (bad.status, bad.reason) == ("label_error", "annotation 1: bad")
    # MediaPipe does not need them
    assert one(Sample("a.png", photo, problem="bad"), source="mediapipe").status == "ok"


def test_labels_of_another_resolution_are_told(pool, photo):
    points = points_of_a_person("lsp14")
    points[:, :2] *= 5
    for source in ("auto", "annotations"):
        seen = one(Sample("a.png", photo, (labelled("lsp14", points),)), source=source)
        assert seen.status == "label_error" and "another resolution" in seen.reason
    # A person who is cut off by the edge is none of that.
    points = points_of_a_person("lsp14", at=(-30, 20))
    assert (
        one(Sample("a.png", photo, (labelled("lsp14", points),)), source="annotations").status
        == "ok"
    )


@pytest.mark.parametrize("source", ["auto", "annotations", "mediapipe"])
@pytest.mark.parametrize("labels", [0, 2])
def test_an_unreadable_photo_is_one_row(pool, tmp_path, source, labels):
    (tmp_path / "bad.jpg").write_bytes(b"")
    people = tuple(labelled("lsp14", index=i) for i in range(labels))
    for name, reason in (("bad.jpg", "empty"), ("missing.jpg", "no such file")):
        seen = one(Sample(name, tmp_path / name, people), source=source)
        assert seen.status == "image_error" and reason in seen.reason
        assert (seen.width, seen.height) == (0, 0)


def test_a_crash_is_a_row_and_spares_the_labels(pool, photo, caplog):
    pool.failure = "the detector's process was ended by SIGSEGV"
    seen = one(Sample("a.png", photo))
    assert (seen.status, seen.reason) == ("image_error", pool.failure)
    assert not seen.warning
    seen = one(Sample("a.png", photo, (labelled("lsp14"),)))
    assert seen.warning == pool.failure and not seen.reason
    assert seen.status == "ok" and sources(seen) == {0, KeypointSource.ANNOTATION}
    assert "SIGSEGV" in caplog.text


def test_order_and_laziness(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(observe_module, "PREFETCH", 5)
    Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "a.png")
    taken = []

    def samples():
        for i in range(40):
            taken.append(i)
            people = (labelled("openpose137"),) if i % 3 else ()
            yield Sample(f"{i}", tmp_path / ("a.png" if i % 7 else "missing.png"), people)

    seen = []
    for observation in observe(samples()):
        seen.append(int(observation.image_id))
        assert len(taken) <= len(seen) + 5
    assert seen == list(range(40))


def test_usage_errors_come_at_once():
    with pytest.raises(ValueError, match="source must be one of auto"):
        observe([], source="vitpose")
    with pytest.raises(ValueError, match="workers"):
        observe([], workers=0)


def test_nothing_starts_for_complete_labels(photo, monkeypatch):
    """The real pool: no thread and no process, so that thousands of rows cost nothing."""
    import multiprocessing

    samples = [Sample(f"{i}", photo, (labelled("openpose137"),)) for i in range(300)]
    import time

    start = time.perf_counter()
    assert sum(o.status == "ok" for o in observe(samples, workers=2)) == 300
    assert time.perf_counter() - start < 1.0  # 300 rows a second, with room for a busy machine
    assert not multiprocessing.active_children()


def test_the_package_stays_free_of_torch_and_of_the_detector():
    code = (
        "import sys, curation.observe, curation.datasets, curation.detect\n"
        "print(sorted({'torch', 'mediapipe', 'scipy', 'pandas', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_mediapipe_itself_on_photos_of_nobody(tmp_path, capfd):
    pytest.importorskip("mediapipe")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "one pixel.png")
    Image.new("L", (500, 4)).save(tmp_path / "stripe.jpg")
    (tmp_path / "zero.jpg").write_bytes(b"")
    (tmp_path / "keypoints").mkdir()
    (tmp_path / "keypoints" / "noise_keypoints.json").write_text(json.dumps({"people": []}))
    cache = tmp_path / "fits" / "cache"
    for _ in range(2):
        dataset = open_dataset(tmp_path)
        rows = {o.image_id: o for o in observe(dataset.iter_samples(), workers=1, cache_dir=cache)}
        assert {name: row.status for name, row in rows.items()} == {
            "noise.png": "no_person",
            "one pixel.png": "no_person",
            "stripe.jpg": "no_person",
            "zero.jpg": "image_error",
        }
        assert len(list(cache.rglob("*.npz"))) == 3
    out, err = capfd.readouterr()
    assert out == err == ""  # MediaPipe's C++ logs stay in the worker
    assert Path(rows["noise.png"].image_id).suffix == ".png"


FOREVER = """
import signal
import sys
from pathlib import Path
from curation.observe import observe
from curation.samples import Sample

if __name__ == "__main__":
    # A shell that starts its tests in the background has them ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    path = Path(sys.argv[1])
    for number, _ in enumerate(observe((Sample("a", path) for _ in iter(int, 1)), workers=1)):
        print(number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_run(tmp_path, photo, ending):
    pytest.importorskip("mediapipe")
    psutil = pytest.importorskip("psutil")
    script = tmp_path / "run.py"
    script.write_text(FOREVER)
    run = subprocess.Popen(
        [sys.executable, script, photo],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert run.stdout is not None
    try:
        run.stdout.readline()
        workers = psutil.Process(run.pid).children(recursive=True)
        assert workers
        run.send_signal(ending)
        assert run.wait(60) != 0
    finally:
        run.kill()
        run.wait()
        run.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
