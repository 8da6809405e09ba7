"""A convention with known places is found again from its projections."""

import numpy as np
import pytest

from bodymodel.keypoints import FIT_KEYPOINTS
from fitting.point_calibration import PointSamples, calibrate, neighbours, signed_errors
from tests.fitting.people import make_people

INDEX = FIT_KEYPOINTS.index
TRUE = {"left_hip": 1.1, "right_hip": -0.1, "pelvis": -0.2, "spine1": 0.2}


@pytest.fixture(scope="module")
def samples(toy_body):
    targets, _, points = make_people(toy_body, 80, noise_px=0.0)
    seen = np.stack([t.keypoints_2d for t in targets])
    focal, center = targets[0].focal_px, targets[0].center_px
    rng = np.random.default_rng(0)
    for side in ("left", "right"):
        swap = {"left": "right", "right": "left"}[side]
        name = {n: n if side == "left" else n.replace("left_", "#").replace("right_", "left_")
                .replace("#", "right_") for n in TRUE}  # fmt: skip
        place = sum(w * points[:, INDEX(name[n])] for n, w in TRUE.items())
        pixels = place[:, :2] / place[:, 2:] * focal + center + rng.normal(0, 1, (80, 2))
        wrong = rng.random(80) < 0.1  # left and right confused, say
        pixels[wrong] += 60
        seen[:, INDEX(f"{side}_hip"), :2] = pixels
        assert swap != side
    return PointSamples(points, seen, np.full(80, focal), np.tile(center, (80, 1)))


def test_the_place_is_found_despite_outliers(samples):
    mix = calibrate(samples, ("left_hip", "right_hip"), noise_m=0.01)
    errors = signed_errors(samples, mix, ("left_hip",))["left_hip"]
    before = signed_errors(samples, {}, ("left_hip",))["left_hip"]
    assert before[2] > 15  # mm
    assert errors[2] < 3
    assert sum(mix["left_hip"].values()) == pytest.approx(1, abs=1e-3)


def test_both_sides_are_mirror_images(samples):
    mix = calibrate(samples, ("left_hip", "right_hip"))
    assert mix["left_hip"]["right_hip"] == mix["right_hip"]["left_hip"]
    assert mix["left_hip"]["left_knee"] == mix["right_hip"]["right_knee"]


def test_without_people_points_stay_where_they_are(samples):
    mix = calibrate(samples.take(np.zeros(0, int)), ("left_hip",))
    assert mix["left_hip"]["left_hip"] == 1


def test_few_people_hardly_move_a_point(samples):
    one = calibrate(samples.take(np.arange(1)), ("left_hip",), prior_m=0.002)
    assert one["left_hip"]["left_hip"] == pytest.approx(1, abs=0.05)


def test_points_of_the_middle_are_even(samples):
    mix = calibrate(samples, ("pelvis",))["pelvis"]
    assert mix["left_hip"] == mix["right_hip"]


def test_fingers_have_no_neighbours():
    assert neighbours("left_index1") == ()
    assert neighbours("right_hip") == ("left_hip", "pelvis", "spine1", "right_knee")
