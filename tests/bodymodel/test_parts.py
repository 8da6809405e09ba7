import pickle

import numpy as np
import pytest

from bodymodel.parts import IGNORED_PAIRS, REGIONS, body_parts, published_parts, region_of
from bodymodel.pickles import UnsafePickleError


def test_every_joint_is_in_a_region(open_body):
    assert {region_of(joint) for joint in open_body.joints} == set(REGIONS)
    assert region_of("left_index2") == "left_hand"
    assert region_of("right_collar") == "trunk"


def test_neighbours_may_not_meet_and_strangers_may(open_body):
    parts = body_parts(open_body)
    of = open_body.joints.index
    np.testing.assert_array_equal(parts.may_meet, parts.may_meet.T)
    assert not parts.may_meet.diagonal().any()
    for a, b in (
        ("left_wrist", "left_elbow"), ("left_index1", "left_middle1"), *IGNORED_PAIRS,
        ("left_hip", "pelvis"), ("neck", "left_collar"),
    ):  # fmt: skip
        assert not parts.may_meet[of(a), of(b)], (a, b)
    for a, b in (
        ("left_wrist", "spine1"), ("left_wrist", "right_wrist"), ("left_hip", "right_knee"),
        ("left_index3", "left_wrist"), ("left_wrist", "head"),
    ):  # fmt: skip
        assert parts.may_meet[of(a), of(b)], (a, b)


def test_the_published_file_gives_the_parts(open_body, tmp_path):
    mine = body_parts(open_body)
    parents = np.array([max(p, 0) for p in open_body.parents])[mine.face_part]
    path = tmp_path / "smplx_parts_segm.pkl"
    with path.open("wb") as file:
        pickle.dump({"segm": mine.face_part, "parents": parents}, file, protocol=2)
    parts = published_parts(path, open_body)
    np.testing.assert_array_equal(parts.face_part, mine.face_part)
    np.testing.assert_array_equal(parts.may_meet, mine.may_meet)
    assert (parts.vertex_part == mine.vertex_part).mean() > 0.97


def test_a_file_of_another_body_is_refused(open_body, toy_body, tmp_path):
    path = tmp_path / "parts.pkl"
    with path.open("wb") as file:
        pickle.dump({"segm": np.zeros(7, int), "parents": np.zeros(7, int)}, file)
    with pytest.raises(ValueError, match="another body"):
        published_parts(path, toy_body)


class _Harm:
    def __reduce__(self):
        return print, ("harm",)


def test_a_file_that_wants_to_run_code_is_refused(toy_body, tmp_path, capsys):
    path = tmp_path / "parts.pkl"
    with path.open("wb") as file:
        pickle.dump({"segm": _Harm()}, file)
    with pytest.raises(UnsafePickleError):
        published_parts(path, toy_body)
    assert "harm" not in capsys.readouterr().out
