"""Every kind of file that people have, written as its makers write it."""

import json
import pickle

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from conversion.clips import Clip, ClipError
from conversion.readers import check_source, read_clips


def only(source):
    (clip,) = read_clips(source)
    assert isinstance(clip, Clip), clip
    return clip


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("width, family", [(156, "smplh"), (165, "smplx"), (72, "smpl")])
def test_amass(tmp_path, rng, width, family):
    poses, trans = rng.normal(size=(5, width)), rng.normal(size=(5, 3))
    betas = np.r_[rng.normal(size=12), np.zeros(4)]
    np.savez(
        tmp_path / "walk_poses.npz", poses=poses, trans=trans, betas=betas,
        gender=np.array("female"), mocap_framerate=120.0, dmpls=np.zeros((5, 8)),
        marker_labels=np.array(["a", None], object),
    )  # fmt: skip
    clip = only(tmp_path)
    assert (clip.name, clip.family, clip.gender, clip.fps) == ("walk_poses", family, "female", 120)
    assert clip.is_motion and len(clip) == 5
    frames = clip.frames(1, 3)
    np.testing.assert_allclose(frames.full_pose, poses[1:3].reshape(2, -1, 3), rtol=1e-6)
    np.testing.assert_allclose(frames.betas, np.tile(betas[:12], (2, 1)), rtol=1e-6)
    np.testing.assert_array_equal(frames.transl, trans[1:3])
    again = clip.without_arrays().reread()
    np.testing.assert_array_equal(again.frames(1, 3).full_pose, frames.full_pose)


def test_spin(tmp_path, rng):
    fits = rng.normal(size=(4, 82))
    np.save(tmp_path / "lsp_fits.npy", fits)
    np.savez(
        tmp_path / "train.npz", pose=fits[:, :72], shape=fits[:, 72:],
        imgname=np.array([f"im{k}.jpg" for k in range(4)]),
    )  # fmt: skip
    clips = {clip.name: clip for clip in read_clips(tmp_path)}
    for clip in clips.values():
        assert clip.family == "smpl" and not clip.is_motion
        np.testing.assert_allclose(clip.arrays["betas"], fits[:, 72:], rtol=1e-6)
    assert clips["train"].labels == ("im0.jpg", "im1.jpg", "im2.jpg", "im3.jpg")


def test_eft(tmp_path, rng):
    rotvecs = rng.normal(size=(2, 24, 3))
    matrices = Rotation.from_rotvec(rotvecs.reshape(-1, 3)).as_matrix().reshape(2, 24, 3, 3)
    rows = [
        {"parm_pose": m.round(6).tolist(), "parm_shape": [0.5] * 10, "imageName": f"{k}.jpg"}
        for k, m in enumerate(matrices)
    ]
    (tmp_path / "eft.json").write_text(json.dumps({"ver": 0.1, "data": rows}))
    clip = only(tmp_path / "eft.json")
    turned = Rotation.from_rotvec(clip.frames(0, 2).full_pose.reshape(-1, 3))
    gap = turned.inv() * Rotation.from_rotvec(rotvecs.reshape(-1, 3))
    assert gap.magnitude().max() < 1e-5 and clip.labels == ("0.jpg", "1.jpg")


def test_3dpw(tmp_path, rng):
    poses, trans = [rng.normal(size=(3, 72)) for _ in "ab"], [rng.normal(size=(3, 3)) for _ in "ab"]
    content = {
        "poses": poses, "trans": trans, "betas": [np.arange(10.0), np.ones(10)],
        "genders": ["m", "f"], "img_frame_ids": np.array([0, 2, 4]), "sequence": "x",
    }  # fmt: skip
    with (tmp_path / "x.pkl").open("wb") as file:
        pickle.dump(content, file, protocol=2)
    first, second = read_clips(tmp_path)
    assert (first.name, first.gender, second.gender) == ("x_0", "male", "female")
    assert first.labels[1] == "imageFiles/x/image_00002.jpg"
    np.testing.assert_allclose(second.arrays["full_pose"], poses[1], rtol=1e-6)
    np.testing.assert_array_equal(
        second.without_arrays().reread().frames(0, 1).full_pose, second.frames(0, 1).full_pose
    )


def test_columns_in_npz_and_parquet(tmp_path, rng):
    import pandas as pd

    arrays = {
        "global_orient": rng.normal(size=(3, 3)), "body_pose": rng.normal(size=(3, 21, 3)),
        "betas": rng.normal(size=(3, 10)), "transl": rng.normal(size=(3, 3)),
        "jaw_pose": rng.normal(size=(3, 3)), "expression": rng.normal(size=(3, 10)),
    }  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    lists = {name: list(value.reshape(3, -1)) for name, value in arrays.items()}
    table = pd.DataFrame(lists | {"image_id": ["x", "y", "z"], "has_fit": [True, False, True]})
    table.to_parquet(tmp_path / "b.parquet")
    one, two = read_clips(tmp_path)
    assert one.family == two.family == "smplx" and two.labels == ("x", "z")
    np.testing.assert_array_equal(np.asarray(one.arrays["full_pose"])[::2], two.arrays["full_pose"])
    np.testing.assert_allclose(one.frames(0, 3).full_pose[:, 22], arrays["jaw_pose"], rtol=1e-6)
    np.testing.assert_allclose(two.arrays["expression"], arrays["expression"][::2], rtol=1e-6)


@pytest.mark.parametrize("ending", ["obj", "ply"])
def test_meshes_keep_their_order(tmp_path, rng, smpl, ending):
    # seams: vertices that are at one place must stay two
    vertices = smpl.v_template.astype(np.float64).copy()
    vertices[1] = vertices[0]
    for name in ("b", "a"):
        mesh = trimesh.Trimesh(vertices + (name == "b"), smpl.faces, process=False)
        mesh.export(tmp_path / f"{name}.{ending}")
    (tmp_path / f"c.{ending}").write_bytes((tmp_path / f"a.{ending}").read_bytes()[:700])
    clip = only(tmp_path)
    assert clip.labels == tuple(f"{x}.{ending}" for x in "abc") and clip.family is None
    read = clip.frames(0, 3).vertices
    np.testing.assert_allclose(read[0], vertices, atol=1e-5)
    np.testing.assert_allclose(read[1], vertices + 1, atol=1e-5)
    assert isinstance(read[2], str) or len(read[2]) < 6890


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(tmp_path, rng):
    good = {"poses": rng.normal(size=(5, 72)), "trans": np.zeros((5, 3)), "betas": np.zeros(10)}
    np.savez(tmp_path / "z.npz", **good)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "z.npz").read_bytes()[:500])
    np.savez(tmp_path / "width.npz", **(good | {"poses": np.zeros((5, 100))}))
    np.savez(tmp_path / "rows.npz", **(good | {"trans": np.zeros((4, 3))}))
    np.savez(tmp_path / "none.npz", x=np.zeros(3))
    np.savez(tmp_path / "pca.npz", global_orient=np.zeros((2, 3)), body_pose=np.zeros((2, 63)),
             left_hand_pose=np.zeros((2, 46)))  # fmt: skip
    np.save(tmp_path / "wide.npy", np.zeros((3, 85)))
    (tmp_path / "x.json").write_text("{}")
    with (tmp_path / "evil.pkl").open("wb") as file:
        pickle.dump({"poses": print}, file)
    told = {e.args[0].split("/")[-1].split()[0].strip(":"): str(e)
            for e in read_clips(tmp_path) if isinstance(e, ClipError)}  # fmt: skip
    wanted = {
        "cut.npz": "cannot be read", "width.npz": "(N, 156)", "rows.npz": "one row or 5",
        "none.npz": "holds no poses", "pca.npz": "1 to 45", "wide.npy": "(N, 82)",
        "x.json": "EFT", "evil.pkl": "refused",
    }  # fmt: skip
    text = " ".join(told.values())
    assert sum(isinstance(c, ClipError) for c in read_clips(tmp_path)) == len(wanted)
    for phrase in wanted.values():
        assert phrase in text, phrase
    assert [c.name for c in read_clips(tmp_path) if isinstance(c, Clip)] == ["z"]


def test_what_is_doubtful_is_told(tmp_path, rng, caplog):
    np.savez(tmp_path / "a.npz", poses=rng.normal(size=72), gender="Mxyz")  # one pose
    np.savez(tmp_path / "b.npz", poses=rng.normal(size=(2, 72)), betas=np.zeros(10), gender="x")
    with caplog.at_level("WARNING", "conversion"):
        one, two = read_clips(tmp_path)
    assert len(one) == 1 and (one.gender, two.gender) == ("male", "neutral")
    assert caplog.messages == [
        "a has no betas: the mean shape is taken",
        "the gender 'x' is none of female, male, neutral: taken for neutral",
    ]


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check_source(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="known kind"):
        check_source(tmp_path)
