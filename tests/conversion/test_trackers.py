"""Files of trackers and of motion sets, written as their makers write them."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from conversion.clips import Clip, ClipError
from conversion.readers import read_clips


def clips_of(source):
    out = list(read_clips(source))
    assert all(isinstance(clip, Clip) for clip in out), out
    return {clip.name: clip for clip in out}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def matrices(rotvecs):
    return Rotation.from_rotvec(rotvecs.reshape(-1, 3)).as_matrix().reshape(*rotvecs.shape, 3)


def assert_same_turns(found, wanted):
    gap = Rotation.from_rotvec(found.reshape(-1, 3)).inv()
    gap = gap * Rotation.from_rotvec(np.asarray(wanted).reshape(-1, 3))
    assert gap.magnitude().max() < 1e-5


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3)])
def test_wham_and_vibe(tmp_path, rng, compress):
    """joblib, a dict a person; WHAM's motions are those of the world."""
    from collections import defaultdict

    people = defaultdict(dict)
    for who, count in ((0, 5), (3, 2)):
        people[who] = {
            "pose": rng.normal(size=(count, 72)).astype("f4"),
            "trans": np.zeros((count, 3), "f4"),
            "pose_world": rng.normal(size=(count, 72)).astype("f4"),
            "trans_world": rng.normal(size=(count, 3)).astype("f4"),
            "betas": rng.normal(size=(count, 10)).astype("f4"),
            "verts": np.zeros((count, 6890, 3), "f4"),
            "frame_ids": np.arange(count),
        }
    joblib.dump(people, tmp_path / "wham_output.pkl", compress=compress)
    vibe = {1: {"pose": people[0]["pose"], "betas": people[0]["betas"], "joints3d": None}}
    joblib.dump(vibe, tmp_path / "vibe_output.pkl", compress=compress)
    clips = clips_of(tmp_path)
    assert set(clips) == {"wham_output_0", "wham_output_3", "vibe_output"}
    clip = clips["wham_output_3"]
    assert clip.is_motion and clip.family == "smpl" and len(clip) == 2
    frames = clip.without_arrays().reread().frames(0, 2)
    np.testing.assert_array_equal(frames.full_pose.reshape(2, 72), people[3]["pose_world"])
    np.testing.assert_array_equal(frames.transl, people[3]["trans_world"])
    frames = clips["vibe_output"].frames(0, 5)
    np.testing.assert_array_equal(frames.full_pose.reshape(5, 72), people[0]["pose"])


def test_4d_humans(tmp_path, rng):
    """A dict a frame, lists of the people seen in it; rotations are matrices."""
    turns, content = rng.normal(size=(3, 2, 24, 3)), {}
    for k, ids in enumerate(([1, 2], [2], [])):
        content[f"img/{k:06d}.jpg"] = {
            "time": k,
            "tid": ids,
            "size": [[720, 1280]] * len(ids),
            "camera": [np.array([0.1, 0.2, 30.0 + i]) for i in ids],
            "smpl": [
                {
                    "global_orient": matrices(turns[k, i - 1, :1]),
                    "body_pose": matrices(turns[k, i - 1, 1:]),
                    "betas": np.full(10, i, "f4"),
                }
                for i in ids
            ],
            "mask": [[{"size": [720, 1280], "counts": b"abc"}]] * len(ids),
        }
    joblib.dump(content, tmp_path / "demo_x.pkl", compress=3)
    clips = clips_of(tmp_path)
    assert set(clips) == {"demo_x_1", "demo_x_2"} and clips["demo_x_2"].is_motion
    assert clips["demo_x_2"].labels == ("img/000000.jpg", "img/000001.jpg")
    frames = clips["demo_x_2"].frames(0, 2)
    assert_same_turns(frames.full_pose, turns[:2, 1])
    np.testing.assert_array_equal(frames.betas, np.full((2, 10), 2))
    np.testing.assert_array_equal(frames.transl[0], [0.1, 0.2, 32])
    assert frames.focal_px.tolist() == [5000, 5000]
    np.testing.assert_array_equal(frames.center_px[0], [640, 360])


def test_gvhmr_and_tram(tmp_path, rng):
    def params(seed):
        g = torch.Generator().manual_seed(seed)
        widths = {"body_pose": 63, "betas": 10, "global_orient": 3, "transl": 3}
        return {k: torch.randn(4, w, generator=g) for k, w in widths.items()}

    content = {
        "smpl_params_global": params(0),
        "smpl_params_incam": params(1),
        "K_fullimg": torch.eye(3).repeat(4, 1, 1),
        "net_outputs": {"x": torch.zeros(4, 2)},
    }
    torch.save(content, tmp_path / "hmr4d_results.pt")
    (clip,) = clips_of(tmp_path).values()
    assert clip.name == "hmr4d_results" and clip.family == "smplx" and clip.is_motion
    np.testing.assert_array_equal(clip.frames(0, 4).transl, params(0)["transl"])

    turns = rng.normal(size=(4, 24, 3))
    tram = {
        "pred_rotmat": matrices(turns),
        "pred_shape": np.ones((4, 10)),
        "pred_trans": np.arange(12.0).reshape(4, 1, 3),
        "frame": np.arange(4),
    }
    np.save(tmp_path / "hps_track_0.npy", np.array(tram, object), allow_pickle=True)
    clip = clips_of(tmp_path)["hps_track_0"]
    assert_same_turns(clip.frames(0, 4).full_pose, turns)
    np.testing.assert_array_equal(clip.frames(0, 4).transl, np.arange(12.0).reshape(4, 3))


def test_emdb(tmp_path, rng):
    """Frames that are not good are left out; the camera moves."""
    count = 4
    outer = np.tile(np.eye(4), (count, 1, 1))
    outer[:, 2, 3] = np.arange(count)
    content = {
        "gender": "female",
        "name": "P0_09",
        "emdb1": True,
        "n_frames": count,
        "good_frames_mask": np.array([True, False, True, True]),
        "camera": {
            "extrinsics": outer,
            "intrinsics": np.array([[960, 0, 500], [0, 960, 700], [0, 0, 1.0]]),
            "width": 1000,
            "height": 1400,
        },
        "smpl": {
            "poses_root": rng.normal(size=(count, 3)),
            "poses_body": rng.normal(size=(count, 69)),
            "trans": rng.normal(size=(count, 3)),
            "betas": np.arange(10.0),
        },
        "kp2d": np.zeros((count, 24, 2)),
        "bboxes": {"bboxes": np.zeros((count, 4))},
    }
    with (tmp_path / "P0_09_data.pkl").open("wb") as file:
        pickle.dump(content, file)
    (clip,) = clips_of(tmp_path).values()
    assert (clip.family, clip.gender, clip.fps, len(clip)) == ("smpl", "female", 30, 3)
    assert clip.labels == ("images/00000.jpg", "images/00002.jpg", "images/00003.jpg")
    frames = clip.frames(0, 3)
    good = [0, 2, 3]
    np.testing.assert_allclose(
        frames.full_pose[:, 0], content["smpl"]["poses_root"][good], rtol=1e-6
    )
    np.testing.assert_array_equal(frames.to_camera, outer[good, :3])
    assert frames.focal_px.tolist() == [960] * 3 and frames.center_px[0].tolist() == [500, 700]


def test_aist_motion_x_and_humandata(tmp_path, rng):
    poses, transl = rng.normal(size=(3, 72)), rng.normal(size=(3, 3))
    with (tmp_path / "gBR_sBM_cAll_d04.pkl").open("wb") as file:
        pickle.dump(
            {
                "smpl_loss": 0.1,
                "smpl_poses": poses,
                "smpl_scaling": np.array([93.0]),
                "smpl_trans": 93 * transl,
            },
            file,
        )
    motion = rng.normal(size=(4, 322)).astype("f4")
    np.save(tmp_path / "motion.npy", motion)
    np.savez(
        tmp_path / "human.npz",
        image_path=np.array(["a.jpg", "b.jpg"]),
        meta=np.array({}, object),
        smpl=np.array(
            {
                "global_orient": poses[:2, :3],
                "body_pose": poses[:2, 3:].reshape(2, 23, 3),
                "betas": np.zeros((2, 10)),
                "transl": transl[:2],
            },
            object,
        ),
    )
    np.savez(
        tmp_path / "romp.npz",
        results=np.array(
            {"smpl_thetas": poses, "smpl_betas": np.zeros((3, 10)), "cam_trans": transl}, object
        ),
    )
    clips = clips_of(tmp_path)
    clip = clips["gBR_sBM_cAll_d04"]
    assert (clip.gender, clip.fps, clip.is_motion) == ("male", 60, True)
    np.testing.assert_allclose(clip.frames(0, 3).transl, transl)
    clip = clips["motion"]
    frames = clip.frames(0, 4)
    assert clip.family == "smplx" and clip.is_motion and frames.expression.shape == (4, 50)
    np.testing.assert_array_equal(frames.full_pose[:, :22].reshape(4, 66), motion[:, :66])
    np.testing.assert_array_equal(frames.full_pose[:, 22], motion[:, 156:159])
    np.testing.assert_array_equal(frames.full_pose[:, 25:].reshape(4, 90), motion[:, 66:156])
    np.testing.assert_array_equal(frames.transl, motion[:, 309:312])
    np.testing.assert_array_equal(frames.betas, motion[:, 312:])
    clip = clips["human"]
    assert clip.labels == ("a.jpg", "b.jpg") and clip.has_images and not clip.is_motion
    np.testing.assert_allclose(clip.frames(0, 2).full_pose.reshape(2, 72), poses[:2], rtol=1e-6)
    np.testing.assert_array_equal(clips["romp"].frames(0, 3).transl, transl)


def test_bedlam(tmp_path, rng):
    """In the camera's frame: translation and the camera's shift belong together."""
    outer = np.tile(np.eye(4), (3, 1, 1))
    outer[:, :3, 3] = rng.normal(size=(3, 3))
    given = {
        "imgname": np.array(["s/a.png", "s/b.png", "s/c.png"]),
        "pose_cam": rng.normal(size=(3, 165)),
        "pose_world": np.zeros((3, 165)),
        "shape": rng.normal(size=(3, 11)),
        "trans_cam": rng.normal(size=(3, 3)),
        "trans_world": np.zeros((3, 3)),
        "cam_ext": outer,
        "cam_int": np.tile([[1200.0, 0, 640], [0, 1200, 360], [0, 0, 1]], (3, 1, 1)),
        "gender": np.array(["female", "male", "male"]),
        "center": np.zeros((3, 2)),
    }
    np.savez(tmp_path / "a.npz", **given)
    (clip,) = clips_of(tmp_path).values()
    assert (clip.family, clip.gender, clip.labels[1]) == ("smplx", "neutral", "s/b.png")
    frames = clip.frames(0, 3)
    np.testing.assert_allclose(frames.full_pose.reshape(3, 165), given["pose_cam"], rtol=1e-6)
    np.testing.assert_allclose(frames.transl, given["trans_cam"] + outer[:, :3, 3])
    assert frames.focal_px.tolist() == [1200] * 3 and frames.betas.shape == (3, 11)


def test_rows_without_fits_and_rows_of_two_genders(tmp_path, rng):
    pose = rng.normal(size=(4, 72))
    np.savez(
        tmp_path / "spin.npz",
        pose=pose,
        shape=np.zeros((4, 10)),
        has_smpl=np.array([1, 0, 1, 1]),
        imgname=np.array(list("abcd")),
        gender=np.array(["m", "f", "f", "m"]),
    )
    clips = clips_of(tmp_path)
    assert {n: (c.gender, c.labels) for n, c in clips.items()} == {
        "spin_female": ("female", ("c",)),
        "spin_male": ("male", ("a", "d")),
    }
    frames = clips["spin_male"].without_arrays().reread().frames(0, 2)
    np.testing.assert_allclose(frames.full_pose.reshape(2, 72), pose[[0, 3]], rtol=1e-6)


def test_names_of_amass_parts_and_matrices(tmp_path, rng):
    """AMASS's parts as SMPL-X has them, without poses; a long array of matrices, read by rows."""
    part = {"root_orient": 3, "pose_body": 63, "pose_hand": 90, "pose_jaw": 3, "pose_eye": 6}
    given = {name: rng.normal(size=(5, width)) for name, width in part.items()}
    np.savez(
        tmp_path / "parts_stageii.npz",
        **given,
        betas=np.zeros(16),
        trans=np.zeros((5, 3)),
        gender="neutral",
        surface_model_type="smplx",
        mocap_frame_rate=120.0,
    )
    np.savez(tmp_path / "neutral_stagei.npz", betas=np.zeros(16), gender="neutral")
    turns = rng.normal(size=(700, 24, 3))
    np.savez(tmp_path / "long.npz", poses=matrices(turns), betas=np.zeros(10))
    clips = clips_of(tmp_path)
    assert set(clips) == {"parts_stageii", "long"}
    frames = clips["parts_stageii"].frames(0, 5)
    order = ("root_orient", "pose_body", "pose_jaw", "pose_eye", "pose_hand")
    wanted = np.concatenate([given[name] for name in order], 1)
    np.testing.assert_allclose(frames.full_pose.reshape(5, 165), wanted, rtol=1e-6)
    assert clips["parts_stageii"].fps == 120
    assert_same_turns(clips["long"].frames(600, 602).full_pose, turns[600:602])


def test_what_is_no_motion_is_told(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 263)))
    np.save(tmp_path / "b.npy", np.zeros((5, 6890, 3)))
    joblib.dump({"x": np.zeros(3)}, tmp_path / "c.pkl")
    joblib.dump({"pose": np.zeros((9, 72))}, tmp_path / "d.pkl")
    (tmp_path / "d.pkl").write_bytes((tmp_path / "d.pkl").read_bytes()[:-900])
    joblib.dump({"pose": np.zeros(3), "x": print}, tmp_path / "e.pkl")
    torch.save(torch.zeros(3), tmp_path / "f.pt")
    joblib.dump({"pose": np.zeros(3)}, tmp_path / "g.pkl", compress=("bz2", 3))
    told = list(read_clips(tmp_path))
    assert all(isinstance(x, ClipError) for x in told)
    for error, phrase in zip(
        told,
        (
            "HumanML3D",
            "save meshes as .ply",
            "holds no poses",
            "cut off",
            "refused",
            "must hold",
            "compress=('zlib', 3)",
        ),
        strict=True,
    ):
        assert phrase in str(error), error
