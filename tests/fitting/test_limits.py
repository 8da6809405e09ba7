import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from bodymodel.skeleton import REST_JOINTS, forward_kinematics
from bodymodel.spec import BODY_JOINTS, SMPLX_JOINTS, mirror_name
from fitting.limits import LIMITS_DEG, joint_limits


def turned(joint: str, axis: int, degrees: float) -> dict[str, np.ndarray]:
    pose = np.zeros((1, 21, 3))
    pose[0, BODY_JOINTS.index(joint) - 1, axis] = np.radians(degrees)
    moved = forward_kinematics(np.zeros((1, 3)), pose)[0] - (REST_JOINTS - REST_JOINTS[0])
    return dict(zip(BODY_JOINTS, moved, strict=True))


@given(seed=st.integers(0, 2**31 - 1), weight=st.floats(0.1, 30))
@settings(max_examples=30, deadline=None)
def test_jacobian_is_that_of_autodiff(seed: int, weight: float):
    limits = joint_limits(dtype=torch.float64)
    g = torch.Generator().manual_seed(seed)
    pose = 2 * torch.randn(3, 165, generator=g, dtype=torch.float64)
    residual, diagonal = limits.residual_and_jacobian(pose, weight)
    assert residual.shape == diagonal.shape == (3, 165)
    for k in range(3):
        expected = torch.autograd.functional.jacobian(lambda p: limits.residual(p, weight), pose[k])
        torch.testing.assert_close(torch.diag(diagonal[k]), expected)


def test_rest_pose_and_root_are_free():
    limits = joint_limits()
    pose = torch.zeros(165)
    pose[:3] = torch.tensor([3.0, -3.0, 3.0])
    residual, diagonal = limits.residual_and_jacobian(pose)
    assert residual.abs().max() == 0 and diagonal.abs().max() == 0


def test_residual_is_the_way_back():
    limits = joint_limits(dtype=torch.float64)
    k = SMPLX_JOINTS.index("left_knee") * 3
    pose = torch.zeros(165, dtype=torch.float64)
    pose[k] = np.radians(-33.0)
    assert limits.residual(pose)[k].item() == pytest.approx(np.radians(30.0))
    pose[k] = np.radians(165.0)
    assert limits.residual(pose, weight=2.0)[k].item() == pytest.approx(2 * np.radians(10.0))


def test_limits_are_mirror_images():
    for name in SMPLX_JOINTS:
        if name.startswith("left_"):
            here, there = LIMITS_DEG[name], LIMITS_DEG[mirror_name(name)]
            np.testing.assert_allclose(here[0], there[0])
            np.testing.assert_allclose(here[1:], -there[1:, ::-1])
    assert list(LIMITS_DEG) == list(SMPLX_JOINTS)
    assert all(
        (limits[:, 0] <= 0).all() and (limits[:, 1] >= 0).all() for limits in LIMITS_DEG.values()
    )


def free(joint: str, axis: int, sign: int) -> float:
    low, high = LIMITS_DEG[joint][axis]
    return high if sign > 0 else -low


@pytest.mark.parametrize(
    ("joint", "axis", "sign", "moves", "direction"),
    [
        ("left_knee", 0, 1, "left_ankle", (0, 0, -1)),  # the heel goes back
        ("right_knee", 0, 1, "right_ankle", (0, 0, -1)),
        ("left_elbow", 1, -1, "left_wrist", (0, 0, 1)),  # the hand comes forward
        ("right_elbow", 1, 1, "right_wrist", (0, 0, 1)),
        ("left_hip", 0, -1, "left_knee", (0, 0, 1)),
        ("spine1", 0, 1, "neck", (0, 0, 1)),
        ("left_shoulder", 2, -1, "left_elbow", (0, -1, 0)),
        ("right_shoulder", 2, 1, "right_elbow", (0, -1, 0)),
        ("left_hip", 2, 1, "left_knee", (1, 0, 0)),
        ("right_hip", 2, -1, "right_knee", (-1, 0, 0)),
        ("left_collar", 2, 1, "left_shoulder", (0, 1, 0)),
        ("left_ankle", 0, 1, "left_foot", (0, -1, 0)),
    ],
)
def test_joints_bend_the_human_way(joint, axis, sign, moves, direction):
    """Forward kinematics says which way a sign moves the limb; that way is the freer one."""
    assert turned(joint, axis, 20.0 * sign)[moves] @ np.array(direction) > 0.02
    assert free(joint, axis, sign) >= 40
    assert (
        free(joint, axis, sign) > free(joint, axis, -sign)
        or joint == "left_shoulder"
        or (joint == "right_shoulder")
    )


@pytest.mark.parametrize("joint", ["left_knee", "right_knee", "left_elbow", "right_elbow"])
def test_hinges_do_not_bend_backwards(joint):
    axis, sign = {"left_knee": (0, -1), "right_knee": (0, -1)}.get(
        joint, (1, 1 if joint == "left_elbow" else -1)
    )
    assert free(joint, axis, sign) <= 5


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("finger", ["index", "middle", "ring", "pinky"])
def test_fingers_close_towards_the_palm(side, finger):
    sign = 1 if side == "left" else -1
    for k in (1, 2, 3):
        z = LIMITS_DEG[f"{side}_{finger}{k}"][2]
        closing = -sign * 80.0
        assert z[0] <= closing <= z[1], "a fist is allowed"
        assert not z[0] <= -closing <= z[1], "a finger bent onto the back of the hand is not"
        tip = Rotation.from_rotvec([0, 0, np.radians(closing)]).apply([sign * 0.03, 0, 0])
        assert tip[1] < -0.02  # palms are down in the T-pose


def test_jaw_only_opens():
    low, high = LIMITS_DEG["jaw"][0]
    assert low == 0 and 25 <= high <= 45
    chin = Rotation.from_rotvec([np.radians(high), 0, 0]).apply([0, -0.02, 0.08])
    assert chin[1] < -0.04


def test_recorded_people_are_within_their_limits(mocap_poses):
    full = torch.zeros(len(mocap_poses.body_pose), 165)
    full[:, 3:66] = torch.as_tensor(mocap_poses.body_pose.reshape(-1, 63))
    outside = joint_limits().residual(full).reshape(-1, 55, 3).amax(-1) > np.radians(2.0)
    typical = torch.as_tensor(~mocap_poses.diverse)
    assert outside[typical].any(-1).float().mean() <= 0.02
    # The others were chosen for being extreme.
    assert outside.any(-1).float().mean() <= 0.06


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(\.\.\., 165\).*flatten"):
        joint_limits().residual(torch.zeros(2, 55, 3))
