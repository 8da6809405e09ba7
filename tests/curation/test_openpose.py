import json

import numpy as np
import pytest

from bodymodel.keypoints import CONVENTIONS
from curation.openpose import OpenPoseError, parse_openpose, read_openpose
from curation.samples import KeypointSource


def numbers(count, start=1.0):
    """Points that tell their index: x = 10 i, y = 10 i + 1, confidence 0.5."""
    return [v for i in range(count) for v in (start + 10 * i, start + 10 * i + 1, 0.5)]


def sets_of(person):
    assert all(source == KeypointSource.OPENPOSE for source, _ in person.keypoints)
    return {keypoints.convention: keypoints.points for _, keypoints in person.keypoints}


def test_version_1_3_has_every_part_in_its_own_place():
    data = {
        "version": 1.3,
        "people": [
            {
                "person_id": [-1],
                "face_keypoints_2d": numbers(70, 4),
                "hand_right_keypoints_2d": numbers(21, 3),
                "hand_left_keypoints_2d": numbers(21, 2),
                "pose_keypoints_2d": numbers(25, 1),
                "pose_keypoints_3d": [],
            }
        ],
    }
    (person,) = parse_openpose(data)
    sets = sets_of(person)
    starts = {"body25": 1, "hand21_left": 2, "hand21_right": 3, "face70": 4}
    assert {f"openpose_{k}" for k in starts} == set(sets)
    for name, start in starts.items():
        points = sets[f"openpose_{name}"]
        assert points[:, 0].tolist() == [start + 10 * i for i in range(len(points))]
    # BODY_25's order, as a fact of its own: 8 is the middle of the hips, 21 the left heel
    body = CONVENTIONS["openpose_body25"]
    assert (body[0], body[8], body[21]) == ("nose", "pelvis", "left_heel")


def test_version_1_0_has_the_18_points_of_coco_and_no_suffix():
    data = {
        "version": 1.0,
        "people": [
            {"pose_keypoints": numbers(18), "face_keypoints": [], "hand_left_keypoints": []}
        ],
    }
    (person,) = parse_openpose(data)
    assert set(sets_of(person)) == {"openpose_coco18"}


def test_a_part_that_was_not_looked_for_differs_from_one_that_was_not_seen():
    body = numbers(25)
    (absent,) = parse_openpose({"people": [{"pose_keypoints_2d": body}]})
    (empty,) = parse_openpose({"people": [{"pose_keypoints_2d": body, "face_keypoints_2d": []}]})
    zeros = {"pose_keypoints_2d": body, "face_keypoints_2d": [0] * 210}
    (unseen,) = parse_openpose({"people": [zeros]})
    assert set(sets_of(absent)) == set(sets_of(empty)) == {"openpose_body25"}
    assert not sets_of(unseen)["openpose_face70"].any()


@pytest.mark.parametrize("data", [{}, {"people": None}, {"people": []}, {"version": 1.3}])
def test_nobody(data):
    assert parse_openpose(data) == ()


def test_people_keep_their_indices_whatever_is_wrong_with_one():
    nan = float("nan")
    people = [
        {"pose_keypoints_2d": [0] * 75},
        {"pose_keypoints_2d": [nan] * 75},
        {"pose_keypoints_2d": [None] * 75},
        {},
        {"pose_keypoints_2d": [1e60] * 75},
        {"pose_keypoints_2d": numbers(25)},
    ]
    parsed = parse_openpose({"people": people})
    assert [p.person_index for p in parsed] == list(range(6))
    seen = [any((k.points[:, 2] > 0).any() for _, k in p.keypoints) for p in parsed]
    assert seen == [False] * 5 + [True]
    assert all(np.isfinite(k.points).all() for p in parsed for _, k in p.keypoints)


def test_confidences_above_one_are_one():
    (person,) = parse_openpose({"people": [{"pose_keypoints": [5.0, 6.0, 1.00587] * 18}]})
    assert sets_of(person)["openpose_coco18"][:, 2].max() == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ('{"people": 3}', "not a list"),
        ('{"people": [3]}', "not a list"),
        ('{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}', "1 body points"),
        ('{"people": [{"pose_keypoints_2d": [1, 2]}]}', "not a list of x, y"),
        ('{"people": [{"pose_keypoints_2d": "abc"}]}', "not a list of x, y"),
        ('{"people": [{"face_keypoints_2d": [1, 2, 3]}]}', "expected 70"),
        ("\u00ff", "not JSON"),
    ],
)
def test_other_files_are_refused_with_their_name(tmp_path, text, message):
    path = tmp_path / "im.1_keypoints.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(OpenPoseError, match=message) as caught:
        read_openpose(path)
    assert "im.1_keypoints.json" in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(OpenPoseError, match="cannot be read"):
        read_openpose(tmp_path / "a.json")


def test_a_whole_file(tmp_path):
    path = tmp_path / "a_keypoints.json"
    path.write_text(json.dumps({"people": [{"pose_keypoints_2d": numbers(25)}] * 10}))
    assert [p.person_index for p in read_openpose(path)] == list(range(10))
