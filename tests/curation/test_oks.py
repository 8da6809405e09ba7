import math

import numpy as np
import pytest

from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS
from curation.oks import object_keypoint_similarity

ROWS = [FIT_KEYPOINTS.index(name) for name in CONVENTIONS["coco17"]]
BOX = np.array([0, 0, 100, 200.0])
# COCO's constants in its own order, as its evaluation code lists them (times ten)
SIGMAS = (
    np.array(
        [.26, .25, .25, .35, .35, .79, .79, .72, .72, .62, .62, 1.07, 1.07, .87, .87, .89, .89]
    ) / 10
)  # fmt: skip


@pytest.fixture()
def labels():
    points = np.zeros((len(FIT_KEYPOINTS), 3))
    points[ROWS, :2] = np.random.default_rng(0).uniform(20, 100, (17, 2))
    points[ROWS, 2] = 1
    return points


def test_the_same_points_agree(labels):
    assert object_keypoint_similarity(labels[:, :2], labels, BOX) == 1


def test_it_is_the_formula_of_coco(labels):
    moved = labels.copy()
    offset = np.random.default_rng(1).normal(0, 4, (17, 2))
    moved[ROWS, :2] += offset
    area = 0.53 * 100 * 200
    error = np.square(offset).sum(1) / (2 * SIGMAS) ** 2 / area / 2
    expected = np.exp(-error).mean()
    assert object_keypoint_similarity(moved, labels, BOX) == pytest.approx(expected)


def test_what_was_not_labelled_does_not_count(labels):
    labels[ROWS[5:], 2] = 0
    moved = labels.copy()
    moved[ROWS[5:], :2] += 1000
    assert object_keypoint_similarity(moved, labels, BOX) == 1


def test_what_was_not_found_is_infinitely_far(labels):
    missing = labels.copy()
    missing[ROWS[0], 2] = 0
    assert object_keypoint_similarity(missing, labels, BOX) == pytest.approx(16 / 17)
    missing = labels[:, :2].copy()
    missing[ROWS[:2]] = np.nan
    assert object_keypoint_similarity(missing, labels, BOX) == pytest.approx(15 / 17)


def test_without_labels_there_is_no_number(labels):
    nothing = np.zeros_like(labels)
    assert math.isnan(object_keypoint_similarity(labels, nothing, BOX))
    assert math.isnan(object_keypoint_similarity(labels, labels, np.zeros(4)))


def test_without_a_box_the_labels_have_one(labels):
    low, high = labels[ROWS, :2].min(0), labels[ROWS, :2].max(0)
    moved = labels.copy()
    moved[:, 0] += 3
    known = object_keypoint_similarity(moved, labels, np.concatenate([low, high]))
    for none in (None, np.full(4, np.nan)):
        assert object_keypoint_similarity(moved, labels, none) == pytest.approx(known)
