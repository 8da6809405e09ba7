import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from bodymodel import mocap as mc
from bodymodel.skeleton import BODY_PARENTS, forward_kinematics, mirror_pose
from bodymodel.spec import BODY_JOINTS, mirror_name
from fitting import build_prior
from fitting.build_prior import CREDIT, BuildPrior, build, trunk_lean

NAMES = (
    "hip", "abdomen", "chest", "neck", "head",
    "rCollar", "rShldr", "rForeArm", "rHand", "rMid1",
    "lCollar", "lShldr", "lForeArm", "lHand", "lMid1",
    "rThigh", "rShin", "rFoot", "lThigh", "lShin", "lFoot",
)  # fmt: skip
PARENTS = (-1, 0, 1, 2, 3, 2, 5, 6, 7, 8, 2, 10, 11, 12, 13, 0, 15, 16, 0, 18, 19)
LEFT = {  # a rest pose unlike SMPL-X's: sloping arms, forearms forward, shins back
    "abdomen": (0, 0.2, 0), "chest": (0, 0.12, 0), "neck": (0, 0.22, -0.02),
    "head": (0, 0.07, 0.01),
    "lCollar": (0.03, 0.19, -0.05), "lShldr": (0.09, -0.02, 0.01), "lForeArm": (0.28, -0.02, 0),
    "lHand": (0.22, 0.01, 0.07), "lMid1": (0.08, 0.01, 0.03), "lThigh": (0.09, 0.03, -0.01),
    "lShin": (0, -0.37, 0.01), "lFoot": (-0.01, -0.45, -0.05),
}  # fmt: skip
# Left; the right one is mirrored. At a right angle to the upper arm, half a radian from upright.
HINGE = np.array([-0.02, -0.28, 0.28 * np.tan(0.5)])
HINGE = HINGE / np.linalg.norm(HINGE)


def recording(seed: int, frames: int = 40) -> mc.Mocap:
    """Random frames on a small skeleton with single-axis elbows and knees, of two clips."""
    rng = np.random.default_rng(seed)
    rotations = rng.normal(size=(frames, len(NAMES), 3)) * 0.3
    for name in ("lCollar", "rCollar", "lMid1", "rMid1"):
        rotations[:, NAMES.index(name)] = 0
    for side, sign in (("l", 1), ("r", -1)):
        elbow = HINGE * [1, sign, sign]
        rotations[:, NAMES.index(side + "ForeArm")] = rng.uniform(0.2, 1.8, (frames, 1)) * elbow
        knee = rng.uniform(0.3, 1.8, (frames, 1)) * [1.0, 0, 0]
        rotations[:, NAMES.index(side + "Shin")] = knee
    offsets = np.zeros((len(NAMES), 3))
    for k, name in enumerate(NAMES[1:], start=1):
        left = LEFT.get(name) or LEFT["l" + name[1:]]
        offsets[k] = np.array(left) * ([-1, 1, 1] if name[0] == "r" else [1, 1, 1])
    positions = np.zeros((frames, len(NAMES), 3))
    world: list[Rotation] = []
    for k, parent in enumerate(PARENTS):
        local = Rotation.from_rotvec(rotations[:, k])
        world.append(local if parent < 0 else world[parent] * local)
        if parent >= 0:
            positions[:, k] = positions[:, parent] + world[parent].apply(offsets[k])
    return mc.Mocap(
        NAMES, np.array(PARENTS), np.repeat(offsets[None], 2, 0), rotations, positions,
        np.arange(frames) % 2, np.array(["01_01", "02_01"]), np.array(["01", "02"]),
    )  # fmt: skip


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_bones_point_where_the_source_s_do(seed: int):
    mocap = recording(seed)
    motion = mc.retarget(mocap, straighten_legs=False)
    angle = dict(zip(mc.BONE_PAIRS, mc.bone_angles(mocap, motion).T, strict=True))
    # Forearms: the source's are bent at rest. Legs: SMPL-X's thigh and shin make an angle.
    expected = {"elbow": (15, 20), "hip": (0.5, 3), "knee": (0.5, 3), "shoulder": (0, 0.05)}
    for pair, degrees in angle.items():
        if pair[:2] == ("right_hip", "left_hip"):
            assert degrees.max() < 0.05
        elif pair[0] != "hips":
            low, high = expected[pair[0].split("_")[1]]
            np.testing.assert_allclose(degrees, degrees[0], atol=0.02)  # rest poses differ, no more
            assert low <= degrees[0] <= high, pair


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_straight_source_knees_are_nearly_zero(seed: int):
    mocap = recording(seed)
    for side in "lr":
        mocap.rotations[:, NAMES.index(side + "Shin")] = 0
    motion = mc.retarget(mocap, straighten_legs=False)
    for name in ("left_knee", "right_knee"):
        knee = np.degrees(motion.body_pose[:, BODY_JOINTS.index(name) - 1])
        # The synthetic shin is 8 degrees back at rest, and that is flexion, nothing else.
        np.testing.assert_allclose(knee, np.broadcast_to([8, 0, 0], knee.shape), atol=1.5)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_hinges_become_smplx_hinges(seed: int):
    mocap = recording(seed)
    motion = mc.retarget(mocap, straighten_legs=False)
    for side, sign in (("l", -1), ("r", 1)):
        name = "left" if side == "l" else "right"
        forearm = Rotation.from_rotvec(
            motion.body_pose[:, BODY_JOINTS.index(f"{name}_elbow") - 1]
        ).apply([-sign, 0.0, 0.0])
        bend = np.arctan2(forearm[:, 2], -sign * forearm[:, 0])
        wanted = np.linalg.norm(mocap.rotations[:, NAMES.index(side + "ForeArm")], axis=1)
        np.testing.assert_allclose(bend, wanted, atol=0.02)
        assert np.abs(forearm[:, 1]).max() < 0.02  # no bend out of the hinge's plane


def test_chest_head_and_hands_keep_their_orientation():
    mocap = recording(1)
    motion = mc.retarget(mocap)
    source = mocap.global_rotations()
    world = [Rotation.from_rotvec(motion.global_orient)]
    for joint in range(1, len(BODY_JOINTS)):
        local = Rotation.from_rotvec(motion.body_pose[:, joint - 1])
        world.append(world[BODY_PARENTS[joint]] * local)
    for ours, theirs in (("spine3", "chest"), ("head", "head"), ("left_ankle", "lFoot")):
        turn = source[theirs].inv() * world[BODY_JOINTS.index(ours)]
        assert turn.magnitude().max() < 1e-5
    # The hand differs by a constant, the rest poses' turn.
    turn = source["lHand"].inv() * world[BODY_JOINTS.index("left_wrist")]
    assert (turn[0].inv() * turn).magnitude().max() < 1e-5


def test_crouch_is_undone_and_ankles_stay_in_their_direction():
    mocap = recording(2)
    bent = mc.retarget(mocap, straighten_legs=False)
    straight = mc.retarget(mocap)
    knee, hip = BODY_JOINTS.index("left_knee"), BODY_JOINTS.index("left_hip")
    ankle = BODY_JOINTS.index("left_ankle")
    assert (straight.body_pose[:, knee - 1, 0] < bent.body_pose[:, knee - 1, 0]).all()
    assert straight.body_pose[:, knee - 1, 0].min() >= -1e-3
    before, after = (forward_kinematics(m.global_orient, m.body_pose) for m in (bent, straight))
    u, v = (x[:, ankle] - x[:, hip] for x in (before, after))
    u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (u, v))
    # The source's thigh is a little shorter than its shin; here they are not, hence 2 degrees.
    assert np.degrees(np.arccos((u * v).sum(1).clip(-1, 1))).max() < 2
    stretch = np.linalg.norm(after[:, ankle] - after[:, hip], axis=1) / np.linalg.norm(
        before[:, ankle] - before[:, hip], axis=1
    )
    assert stretch.min() > 1 and stretch.max() < mc.LEG_STRETCH_MAX + 0.01


def test_broken_recordings_are_left_out():
    motion = mc.retarget(recording(3))
    assert mc.plausible_frames(motion).all()
    elbow = BODY_JOINTS.index("left_elbow") - 1
    motion.body_pose[0, elbow] = [0, 1.0, 0]  # one frame of clip 0
    motion.body_pose[1::2, elbow] = [0, 1.0, 0]  # all of clip 1
    motion.body_pose[2, 0] = [3.0, 0, 0]
    good = mc.plausible_frames(motion)
    assert not good[1::2].any() and not good[0] and not good[2] and good[4::2].all()


def test_mirror_is_an_involution_and_mirrors_positions():
    rng = np.random.default_rng(0)
    pose, orient = rng.normal(size=(8, 21, 3)), rng.normal(size=(8, 3))
    np.testing.assert_array_equal(mirror_pose(mirror_pose(pose)), pose)
    here = forward_kinematics(orient, pose)
    there = forward_kinematics(orient * [1, -1, -1], mirror_pose(pose))
    order = [BODY_JOINTS.index(mirror_name(n)) for n in BODY_JOINTS]
    np.testing.assert_allclose(there, here[:, order] * [-1, 1, 1], atol=1e-12)


def test_trunk_lean_has_its_signs_and_ignores_heading():
    pose = np.zeros((4, 21, 3))
    degrees = np.radians(20)
    orient = np.array([[0, 0, 0], [degrees, 0, 0], [-degrees, 0, 0], [0, 0, -degrees]])
    heading = Rotation.from_rotvec([0, 2.0, 0])
    turned = (heading * Rotation.from_rotvec(orient)).as_rotvec()
    for root in (orient, turned):
        forward, left, total = trunk_lean(root, pose).T
        np.testing.assert_allclose(forward, [0, 20, -20, 0], atol=0.5)
        np.testing.assert_allclose(left, [0, 0, 0, 20], atol=0.5)
        np.testing.assert_allclose(total, [0, 20, 20, 20], atol=0.1)


def test_shipped_poses(mocap_poses):
    assert mocap_poses.body_pose.shape == (360, 21, 3)
    assert len(np.unique(mocap_poses.subject)) == 10
    quat = Rotation.from_rotvec(mocap_poses.global_orient).as_quat()
    assert np.abs(quat[:, 1]).max() < 1e-6  # no turn about the vertical is left
    typical = trunk_lean(mocap_poses.global_orient, mocap_poses.body_pose)[~mocap_poses.diverse]
    assert np.median(np.abs(typical[:, 0])) < 12  # people are upright, not on their heads
    # People who stand do not crouch (see _leg_stretch).
    knee = np.degrees(mocap_poses.body_pose[:, BODY_JOINTS.index("left_knee") - 1, 0])
    assert np.percentile(knee, 10) < 8


def test_not_a_mocap_file_is_said(tmp_path: Path):
    path = tmp_path / "other.npz"
    np.savez(path, joint_names=np.array(["hip"]))
    with pytest.raises(ValueError, match=r"not a mocap file.*lacks.*parents"):
        mc.load_mocap(path)


@pytest.mark.slow
def test_rebuild_gives_the_shipped_files(tmp_path: Path, capsys):
    source = os.environ.get("PSEUDOGT_MOCAP")
    if not source:
        pytest.skip("set PSEUDOGT_MOCAP to the CMU motion capture npz to rebuild the prior")
    build(BuildPrior(Path(source), out=tmp_path, poses=tmp_path / "mocap_poses.npz", check=True))
    printed = capsys.readouterr().out
    assert "AUC" in printed
    shipped = {"mocap_poses.npz": Path(mc.__file__).parent / "data"}
    priors = Path(build_prior.__file__).parent / "data"
    provenance = ("credit", "source_sha256", "built_by")
    for name in ("pose_prior.npz", "open_prior.npz", "mocap_poses.npz"):
        with np.load(tmp_path / name) as new, np.load(shipped.get(name, priors) / name) as old:
            assert sorted(new) == sorted(old)
            assert str(old["credit"]) == CREDIT
            for key in new:
                if name == "open_prior.npz" and key not in provenance:
                    # Thousands of steps of training: rounding of another machine shows.
                    assert new[key].shape == old[key].shape
                elif new[key].dtype.kind == "f":
                    np.testing.assert_allclose(new[key], old[key], rtol=1e-3, atol=1e-3)
                else:
                    np.testing.assert_array_equal(new[key], old[key])
