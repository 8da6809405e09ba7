from dataclasses import replace
from pathlib import Path

import numpy as np

from bodymodel.keypoints import FIT_KEYPOINTS
from curation.samples import KeypointSource, PersonObservation, Sample
from fitting.run import main
from fitting.tracks import follow
from tests.fitting.fakes import FakeFitter, fake_rooms

SHAPE = np.random.default_rng(0).uniform(0, 200, (len(FIT_KEYPOINTS), 2))


def person(x, y=0.0):
    points = np.column_stack([SHAPE + np.array([x, y]), np.ones(len(SHAPE))])
    return points.astype(np.float32)


def test_people_are_followed_through_gaps_and_crossings():
    frames, people, truth = [], [], []
    for frame in range(8):
        for who, x in (("a", 12.0 * frame), ("b", 500 - 12.0 * frame)):
            if (who, frame) in (("a", 3), ("b", 5)):
                continue  # not detected
            frames.append(frame)
            people.append(person(x))
            truth.append(who)
    names = follow(frames, people, "cam")
    for who in "ab":
        assert len({n for n, t in zip(names, truth, strict=True) if t == who}) == 1
    assert len(set(names)) == 2
    assert all(name.startswith("cam#") for name in names)


def test_who_is_seen_once_or_jumps_is_nobodys_track():
    assert follow([0, 1], [person(0), person(400)], "") == ["", ""]
    late = follow([0, 1, 40, 41], [person(0)] * 4, "")
    assert late[0] == late[1] != late[2] == late[3]


class Video:
    """Two folders of six frames; two people in each but one frame."""

    kind = "folder"

    def __init__(self, root):
        self.root = Path(root)

    def count(self):
        return 12

    def iter_samples(self):
        for folder in ("left", "right"):
            for k in range(6):
                yield Sample(f"{folder}/{k}.jpg", self.root / folder / f"{k}.jpg")


def observe_video(samples, **_):
    for sample in samples:
        k = int(sample.path.stem)
        common = {"image_sha256": "0" * 64, "width": 640, "height": 480}
        if k == 2:
            yield PersonObservation(sample.image_id, 0, **common, status="no_person", reason="-")
            continue
        for index, x in enumerate((10.0 * k, 400 + 10.0 * k)):
            yield PersonObservation(
                sample.image_id, index, **common, keypoints_2d=person(x),
                keypoint_source=np.full(len(SHAPE), KeypointSource.ANNOTATION, np.int8),
            )  # fmt: skip


def test_a_run_of_clips_solves_each_person_of_a_folder_as_one(tmp_path):
    batches = []

    class Recorder(FakeFitter):
        def fit(self, targets):
            batches.append([(t.clip, t.frame) for t in targets])
            return super().fit(targets)

    rooms = replace(
        fake_rooms(observe=observe_video),
        open_dataset=lambda root, kind: Video(root),
        make_fitter=lambda body, *_: Recorder(body),
    )
    assert main([str(tmp_path), "--clip", "--overlays", "none"], rooms=rooms) == 0
    assert [len(batch) for batch in batches] == [10, 10]  # a folder each
    for batch, folder in zip(batches, ("left", "right"), strict=True):
        clips = {name for name, _ in batch}
        assert len(clips) == 2
        assert all(name.startswith(folder) for name in clips)
        for name in clips:
            assert [frame for clip, frame in batch if clip == name] == [1, 2, 4, 5, 6]
    # without the flag nobody is followed
    assert main([str(tmp_path), "--overlays", "none"], rooms=rooms) == 0
    assert {clip for clip, _ in batches[-1]} == {""}
