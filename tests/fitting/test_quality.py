import math
from dataclasses import replace

import numpy as np
import pytest

from bodymodel.keypoints import FIT_KEYPOINTS
from curation.reproject import posed_joints
from curation.samples import KeypointSource, PersonObservation
from curation.schema import fit_columns
from fitting.quality import NO_QUALITY, quality_columns
from fitting.records import SelfPenetration
from tests.fitting.fakes import FakeFitter
from tests.random_body import random_body

K = len(FIT_KEYPOINTS)


@pytest.fixture(scope="module")
def case():
    body = random_body(3)
    points = np.column_stack([np.random.default_rng(0).uniform(0, 400, (K, 2)), np.ones(K)])
    seen = PersonObservation(
        "a.jpg", 0, bbox_xyxy_px=np.array([0, 0, 400, 400], np.float32),
        keypoints_2d=points.astype(np.float32),
        keypoint_source=np.full(K, KeypointSource.ANNOTATION, np.int8),
    )  # fmt: skip
    result = FakeFitter(body)._one(seen)
    result = replace(
        result, energy={"data": 2.0, "pose": 7.0},
        self_penetration=SelfPenetration(12.0, 34.0, ("left_hand+trunk",)),
    )  # fmt: skip
    return body, seen, result, posed_joints(body, result.params)


def test_every_column_is_there_with_and_without_a_fit(case):
    columns = quality_columns(*case)
    assert set(columns) == set(NO_QUALITY)
    assert set(columns) <= {column.name for column in fit_columns()}


def test_the_numbers_are_those_of_the_fit(case):
    _, _, result, _ = case
    columns = quality_columns(*case)
    assert columns["prior_energy"] == 7
    assert columns["betas_abs_max"] == pytest.approx(np.abs(result.params["betas"]).max())
    assert columns["self_penetration_mm"] == 12
    assert columns["self_penetration_cm2"] == 34
    assert columns["self_penetration_parts"] == ["left_hand+trunk"]
    share = 100 * result.residual_part_px["body"] / result.person_height_px
    assert columns["residual_body_pct"] == pytest.approx(share)


def test_only_labels_are_agreed_with(case):
    body, seen, result, joints = case
    result = replace(result, projected_2d=seen.keypoints_2d[:, :2])
    assert quality_columns(body, seen, result, joints)["oks_fit"] == 1
    detected = replace(seen, keypoint_source=np.full(K, KeypointSource.MEDIAPIPE, np.int8))
    assert math.isnan(quality_columns(body, detected, result, joints)["oks_fit"])
