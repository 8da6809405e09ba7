"""targets.json: 3D keypoints and calibrated views, and what is said of files that are wrong."""

import json

import numpy as np
import pytest

from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS
from curation.datasets import DatasetError, open_dataset
from curation.observe import observe

COCO = [FIT_KEYPOINTS.index(n) for n in CONVENTIONS["coco17"]]
TURN = [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]


def write(root, *people, **changes):
    (root / "targets.json").write_text(
        json.dumps({"convention": "coco17", "people": people} | changes)
    )
    return open_dataset(root)


def points(width, seed=0):
    values = np.random.default_rng(seed).uniform(1, 9, (17, width))
    values[:, -1] = 0.75
    return values.tolist()


def camera(**changes):
    known = {"focal_px": 900, "center_px": [320, 240], "rotation": np.eye(3).tolist()}
    return known | {"translation": [0, 0, 0]} | changes


def test_3d_keypoints_are_in_the_fit_convention(tmp_path):
    dataset = write(tmp_path, {"image": "b.jpg", "keypoints_3d": points(4)}, {
        "image": "a/a.jpg", "keypoints_3d": points(4, 1), "frame": "free", "bbox": [1, 2, 30, 40]
    })  # fmt: skip
    assert dataset.kind == "targets"
    assert dataset.count() == 2
    first, second = dataset.iter_samples()
    assert [first.image_id, second.image_id] == ["a/a.jpg", "b.jpg"]
    assert first.path == tmp_path / "a/a.jpg"
    person = first.people[0]
    np.testing.assert_array_equal(person.bbox_xyxy_px, [1, 2, 30, 40])
    assert person.further.frame_3d == "free"
    np.testing.assert_allclose(person.further.keypoints_3d[COCO], points(4, 1), rtol=1e-6)
    others = np.delete(person.further.keypoints_3d, COCO, axis=0)
    assert (others == 0).all()
    assert second.people[0].further.frame_3d == "camera"


def test_points_of_the_world_are_brought_to_the_camera(tmp_path):
    given = points(4)
    given[3] = [None] * 4  # not seen
    entry = camera(rotation=TURN, translation=[1, 2, 3])
    person = {"image": "a.jpg", "keypoints_3d": given, "frame": "world"} | entry
    (sample,) = write(tmp_path, person).iter_samples()
    found = sample.people[0].further.keypoints_3d[COCO]
    x, y, z, c = given[0]
    np.testing.assert_allclose(found[0], [z + 1, y + 2, -x + 3, c], rtol=1e-6)
    np.testing.assert_array_equal(found[3], 0)
    assert sample.camera.focal_px == 900


def test_views_are_relative_to_the_first(tmp_path):
    views = [
        camera(image="a.jpg", rotation=TURN, translation=[1, 2, 3], keypoints_2d=points(3)),
        camera(image="b.jpg", translation=[0, 0, 5], keypoints_2d=points(3, 1), focal_px=800),
    ]
    (sample,) = write(tmp_path, {"views": views}).iter_samples()
    person = sample.people[0]
    (view,) = person.further.views
    world = np.array([0.3, -0.2, 4.0])
    in_first, in_second = np.array(TURN) @ world + [1, 2, 3], world + np.array([0, 0, 5])
    np.testing.assert_allclose(view.rotation @ in_first + view.translation, in_second)
    assert view.focal_px == 800
    np.testing.assert_allclose(view.keypoints_2d[COCO], points(3, 1), rtol=1e-6)
    np.testing.assert_allclose(person.keypoints[0][1].points, points(3), rtol=1e-6)


@pytest.mark.parametrize(
    ("person", "words"),
    [
        ({"keypoints_3d": points(4)[:5]}, r"keypoints_3d must be (17, 4) in 'coco17', got (5, 4)"),
        ({"keypoints_3d": points(4), "frame": "x"}, "frame must be one of camera, world, free"),
        ({"keypoints_3d": points(4), "frame": "world"}, "has no 'rotation'"),
        ({"keypoints_3d": points(4), "convention": "coco"}, "convention must be one of fit"),
        ({}, "expected keypoints_3d, views or keypoints_2d"),
    ],
)
def test_a_person_that_cannot_be_read_is_a_row_with_a_reason(tmp_path, person, words):
    from PIL import Image

    Image.new("RGB", (640, 480)).save(tmp_path / "a.png")
    good = {"image": "a.png", "keypoints_3d": points(4)}
    dataset = write(tmp_path, {"image": "a.png", **person}, good)
    bad, fine = observe(dataset.iter_samples(), source="annotations")
    assert bad.status == "label_error"
    assert words in bad.reason
    assert fine.status == "ok"
    assert fine.person_index == 1
    assert fine.further is not None


@pytest.mark.parametrize("wrong", [{"rotation": [[1, 0], [0, 1]]}, {"rotation": [[2.0] * 3] * 3}])
def test_views_need_rotations(tmp_path, wrong):
    views = [camera(image="a.jpg", keypoints_2d=points(3)) for _ in range(2)]
    (sample,) = write(tmp_path, {"views": [views[0], views[1] | wrong]}).iter_samples()
    assert "rotation must be" in sample.problem


@pytest.mark.parametrize(
    ("people", "words"),
    [
        ([{"keypoints_3d": []}], "person 0 has no image"),
        ([], "at least one"),
        ([{"image": "../a.jpg"}], "must be a path below"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_refused(tmp_path, people, words):
    with pytest.raises(DatasetError, match=words):
        write(tmp_path, *people)
    (tmp_path / "targets.json").write_text("[")
    with pytest.raises(DatasetError, match="cannot be read"):
        open_dataset(tmp_path)
