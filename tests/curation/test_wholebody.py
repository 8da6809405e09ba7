import numpy as np
import pytest

from bodymodel.keypoints import CONVENTIONS
from curation.samples import KeypointSource
from curation.wholebody import parse_annotation, parse_result


def annotation(**changes):
    """A COCO-WholeBody annotation; part p's points have x = 100 p + i."""

    def part(number, count, flag):
        return [v for i in range(count) for v in (100 * number + i, 7, flag)]

    made = {
        "id": 1,
        "image_id": 5,
        "iscrowd": 0,
        "num_keypoints": 17,
        "bbox": [10, 20, 30, 40],
        "keypoints": part(0, 17, 2),
        "foot_kpts": part(1, 6, 2),
        "face_kpts": part(2, 68, 1.0),
        "lefthand_kpts": part(3, 21, 1.0),
        "righthand_kpts": part(4, 21, 1.0),
        "foot_valid": True,
        "face_valid": True,
        "lefthand_valid": True,
        "righthand_valid": True,
    }
    return made | changes


def by_name(keypoints, name):
    return keypoints.points[CONVENTIONS[keypoints.convention].index(name)]


def test_every_part_lands_on_its_names_and_pixel_centres():
    person = parse_annotation(annotation(), 3)
    assert person.person_index == 3
    assert person.bbox_xyxy_px.tolist() == [10, 20, 40, 60]
    (body_source, body), (whole_source, whole) = person.keypoints
    assert (body_source, whole_source) == (KeypointSource.ANNOTATION, KeypointSource.WHOLEBODY)
    assert body.convention == "coco17" and whole.convention == "coco_wholebody133"
    assert by_name(body, "left_ankle").tolist() == [15.5, 7.5, 1]
    assert by_name(whole, "left_big_toe")[0] == 100.5
    assert by_name(whole, "right_contour_1")[0] == 200.5
    # Body wrist and hand root share a name; the hand's points start behind it.
    left_hand = whole.points[91:112, 0]
    assert left_hand.tolist() == [300.5 + i for i in range(21)]
    assert by_name(whole, "right_pinky")[0] == 420.5


def test_cocos_visibility():
    flags = [0, 1, 2] + [2] * 14
    keypoints = [v for i, f in enumerate(flags) for v in (i, i, f)]
    (_, body), _ = parse_annotation(annotation(keypoints=keypoints), 0).keypoints
    assert body.points[:3, 2].tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ("foot", slice(17, 23)),
        ("face", slice(23, 91)),
        ("lefthand", slice(91, 112)),
        ("righthand", slice(112, 133)),
    ],
)
def test_an_invalid_part_is_absent_whatever_its_points_say(part, where):
    _, (_, whole) = parse_annotation(annotation(**{f"{part}_valid": False}), 0).keypoints
    absent = whole.points[:, 2] == 0
    assert absent[where].all() and absent.sum() == where.stop - where.start


def test_plain_coco_has_the_body_only():
    plain = {k: annotation()[k] for k in ("id", "image_id", "iscrowd", "bbox", "keypoints")}
    ((source, body),) = parse_annotation(plain, 0).keypoints
    assert source == KeypointSource.ANNOTATION and body.convention == "coco17"


def test_crowds_and_people_without_points_are_nobody():
    assert parse_annotation(annotation(iscrowd=1), 0) is None
    nothing = {"image_id": 1, "bbox": [0, 0, 1, 1], "num_keypoints": 0, "keypoints": [0] * 51}
    assert parse_annotation(nothing, 0) is None
    # Nobody's body, but a labelled face
    assert parse_annotation(annotation(keypoints=[0] * 51, num_keypoints=0), 0) is not None


@pytest.mark.parametrize(
    "box", [None, [], [1, 2, 3], [1, 2, 0, 5], ["a", 1, 1, 1], [0, 0, 1e999, 1]]
)
def test_boxes_that_are_none(box):
    assert parse_annotation(annotation(bbox=box), 0).bbox_xyxy_px is None


@pytest.mark.parametrize("keypoints", [[1, 2, 3], [1.0] * 63, ["a"] * 51])
def test_another_number_of_points_is_refused(keypoints):
    with pytest.raises(ValueError, match=r"'keypoints' must be 51 numbers, got \d+"):
        parse_annotation(annotation(keypoints=keypoints), 0)


def test_results_of_detectors():
    flat = np.arange(399, dtype=float)
    flat[2::3] = 0.25
    person = parse_result({"image_id": 1, "keypoints": flat.tolist(), "score": 0.9}, 2)
    ((source, whole),) = person.keypoints
    assert source == KeypointSource.WHOLEBODY and person.person_index == 2
    assert np.allclose(whole.points[:, 0], np.arange(0, 399, 3) + 0.5)
    assert (whole.points[:, 2] == 0.25).all()

    split = {
        "image_id": 1,
        "keypoints": flat[:51].tolist(),
        "foot_kpts": flat[51:69].tolist(),
        "face_kpts": flat[69:273].tolist(),
        "lefthand_kpts": flat[273:336].tolist(),
        "righthand_kpts": flat[336:].tolist(),
    }
    ((_, again),) = parse_result(split, 0).keypoints
    assert np.array_equal(again.points, whole.points)

    ((_, body),) = parse_result({"image_id": 1, "keypoints": flat[:51].tolist()}, 0).keypoints
    assert body.convention == "coco17"
    with pytest.raises(ValueError, match="21 keypoints; expected 133 or 17"):
        parse_result({"image_id": 1, "keypoints": [0.0] * 63}, 0)
