import json

import numpy as np
import pytest
from scipy.io import savemat

from bodymodel.keypoints import CONVENTIONS
from curation.datasets import DatasetError, open_dataset
from curation.samples import KeypointSource

EMPTY = np.zeros((0, 0))


def struct(*entries):
    """A MATLAB struct array: one record per dict."""
    keys = list(entries[0]) if entries else ["x1"]
    array = np.empty((1, len(entries)), [(key, object) for key in keys])
    for i, entry in enumerate(entries):
        for key in keys:
            array[0, i][key] = entry[key]
    return array


def point(joint, x, y, visible):
    return {"x": x, "y": y, "id": joint, "is_visible": visible}


def rect(points, scale=2.0, x=100.0, y=80.0):
    head = {"x1": 10, "y1": 11, "x2": 20, "y2": 22}
    annopoints = struct({"point": struct(*points)}) if points is not None else EMPTY
    objpos = struct({"x": x, "y": y}) if scale is not None else EMPTY
    scale = EMPTY if scale is None else scale
    return head | {"annopoints": annopoints, "scale": scale, "objpos": objpos}


@pytest.fixture
def released(tmp_path):
    """The quirks of mpii_human_pose_v1_u12_1.mat, one image each."""
    three = [point(6, 100.0, 50.0, 1), point(0, 10, 20, "0"), point(9, 30.5, 40.25, EMPTY)]
    rects = {
        "two.jpg": struct(rect(three), rect([point(15, 7, 8, "1")], scale=1.0, x=300.0)),
        "single.jpg": struct(rect(three)),
        "test_only.jpg": struct({"scale": 3.0, "objpos": struct({"x": 50.0, "y": 60.0})}),
        "head_only.jpg": struct({"x1": 1, "y1": 2, "x2": 3, "y2": 4}),
        "nobody.jpg": EMPTY,
        "bad_joint.jpg": struct(rect([point(16, 1, 2, 1)])),
        "mixed.jpg": struct(rect(None, scale=None), rect(three)),
    }
    annolist = struct(
        *(
            {
                "image": struct({"name": name}),
                "annorect": rectangles,
                "frame_sec": EMPTY,
                "vididx": EMPTY,
            }
            for name, rectangles in rects.items()
        )
    )
    release = struct({"annolist": annolist, "img_train": np.ones((1, len(rects)))})
    savemat(tmp_path / "mpii_human_pose_v1_u12_1.mat", {"RELEASE": release})
    (tmp_path / "images").mkdir()
    return tmp_path


def points_of(person):
    ((source, keypoints),) = person.keypoints
    assert source == KeypointSource.ANNOTATION and keypoints.convention == "mpii16"
    return keypoints.points


def test_the_released_file_with_its_quirks(released):
    dataset = open_dataset(released)
    assert dataset.kind == "mpii"
    samples = {s.image_id.removeprefix("images/"): s for s in dataset.iter_samples()}
    assert dataset.count() == len(samples) == 7

    first, second = samples["two.jpg"].people
    names = CONVENTIONS["mpii16"]
    points = dict(zip(names, points_of(first).tolist(), strict=True))
    assert points["pelvis"] == [99.5, 49.5, 1.0]
    assert points["right_ankle"] == [9.5, 19.5, 0.5]  # "0": hidden
    assert points["head_top"] == [30.0, 39.75, 1.0]  # empty: not said to be hidden
    assert sum(p[2] > 0 for p in points.values()) == 3
    assert [p.person_index for p in (first, second)] == [0, 1]
    assert points_of(second)[15].tolist() == [6.5, 7.5, 1.0]
    # objpos moved 15 scale down, side 1.25 * 200 scale
    assert first.bbox_xyxy_px.tolist() == [99.5 - 250, 79.5 + 30 - 250, 99.5 + 250, 79.5 + 30 + 250]

    assert np.array_equal(points_of(samples["single.jpg"].people[0]), points_of(first))
    (boxed,) = samples["test_only.jpg"].people
    assert not points_of(boxed).any() and boxed.bbox_xyxy_px is not None
    assert samples["head_only.jpg"].people == samples["nobody.jpg"].people == ()
    (bad,) = samples["bad_joint.jpg"].people
    assert not bad.keypoints and "joint id must be 0 to 15" in samples["bad_joint.jpg"].problem
    (mixed,) = samples["mixed.jpg"].people
    assert mixed.person_index == 1


def test_mmposes_json(tmp_path):
    joints = [[-1.0, -1.0]] + [[10.0 * j, 5.0] for j in range(1, 16)]
    entry = {
        "joints_vis": [0] + [1] * 15,
        "joints": joints,
        "image": "015601864.jpg",
        "scale": 2.5,
        "center": [100.0, 90.0],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "mpii_train.json").write_text(json.dumps([entry, entry]))
    dataset = open_dataset(tmp_path)
    assert dataset.kind == "mpii" and dataset.count() == 1
    (sample,) = dataset.iter_samples()
    assert [p.person_index for p in sample.people] == [0, 1]
    points = points_of(sample.people[0])
    assert points[0].tolist() == [0, 0, 0] and points[3].tolist() == [30.5, 5.5, 1]
    assert sample.people[0].bbox_xyxy_px.tolist() == [-149.5, -159.5, 350.5, 340.5]


def test_a_mat_file_that_is_damaged(tmp_path):
    savemat(tmp_path / "a.mat", {"RELEASE": np.zeros(3)})
    with pytest.raises(DatasetError, match=r"a\.mat"):
        list(open_dataset(tmp_path, "mpii").iter_samples())
