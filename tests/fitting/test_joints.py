import numpy as np
import pytest

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import BODY_JOINTS
from fitting.joints import fit_joints
from tests.fitting.people import make_people


def test_recorded_joints_are_met_within_millimetres(toy_body):
    _, _, points = make_people(toy_body, 2, noise_px=0.0)
    joints = points[:, [FIT_KEYPOINTS.index(name) for name in BODY_JOINTS]]
    world = joints * [1, -1, -1] + [3, 0, 9]  # y up, far from the origin
    world[1, 7] = np.nan  # a marker that was lost
    found = fit_joints(toy_body, world, BODY_JOINTS, is_clip=False)
    assert [r.status for r in found.results] == ["ok", "ok"]
    assert np.isnan(found.error_mm[1, 7])
    assert np.nanmax(found.error_mm) < 5
    assert found.params["body_pose"].shape == (2, 21, 3)


def test_wrong_names_are_said(toy_body):
    with pytest.raises(ValueError, match="hip_of_nobody"):
        fit_joints(toy_body, np.zeros((1, 1, 3)), ["hip_of_nobody"])
