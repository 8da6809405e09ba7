from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bodymodel.keypoints import FIT_KEYPOINTS
from regressor.augment import AugmentConfig, make_batch
from regressor.datasets import LAYOUTS, LabelError, open_labels
from regressor.datasets.labels import fit_points, known_params
from regressor.examples import Modality
from tests.regressor.datasets import files

AT = {name: k for k, name in enumerate(FIT_KEYPOINTS)}


@pytest.fixture
def smplx(toy_body):
    """A body that counts as SMPL-X, with a mean hand that can be told from none."""
    means = np.linspace(-0.5, 0.5, 90, dtype=np.float32).reshape(2, 45)
    return replace(toy_body, is_open=False, hand_means=means)


@pytest.fixture
def open_one(toy_body):
    return replace(toy_body, is_open=True)


def usable(examples):
    """Every example can be cut into a batch, which reads its photo."""
    batch = make_batch(
        [examples[k] for k in range(len(examples))], AugmentConfig.none(), 32, 48,
        np.random.default_rng(0),
    )  # fmt: skip
    assert np.isfinite(batch.targets.rotations.numpy()).all()
    return batch


# --- SPIN ------------------------------------------------------------------------------------


def test_spin_boxes_points_and_poses(tmp_path, smplx):
    pose = np.random.default_rng(1).normal(0, 0.3, (3, 72))
    path = files.spin(tmp_path, pose=pose, shape=np.ones((3, 10)), has_smpl=np.array([1, 0, 1]))
    labels = open_labels(path, smplx)
    assert len(labels) == 3 and not labels.skipped and labels.modality is Modality.BODY
    example = labels[0]
    part = np.load(path)["part"]
    assert example.side_px == pytest.approx(40)
    np.testing.assert_allclose(example.keypoints_2d[AT["left_knee"], :2], part[0, 4, :2] + 0.5)
    np.testing.assert_allclose(example.keypoints_2d[AT["left_eye"], :2], part[0, 20, :2] + 0.5)
    np.testing.assert_allclose(example.keypoints_2d[AT["right_big_toe"]], (11.5, 12.5, 0.9))
    np.testing.assert_allclose(example.params["body_pose"].reshape(-1), pose[0, 3:66], atol=1e-6)
    assert set(example.params) == {"global_orient", "body_pose"}, "SMPL's shape means nothing here"
    assert not labels[1].params, "has_smpl is 0"
    usable(labels)


def test_points_of_lspet_that_nobody_saw_are_no_labels_and_stretch_no_box(tmp_path, smplx):
    path = files.spin(tmp_path, "hr-lspet_train")
    arrays = dict(np.load(path))
    arrays["part"][0, 0, :2] = -322, -40  # right ankle, with a confidence of 1
    arrays["scale"][0] = 9
    np.savez(path, **arrays)
    seen = open_labels(path, smplx)[0]
    assert seen.keypoints_2d[AT["right_ankle"], 2] == 0
    assert seen.side_px < 60
    other = tmp_path / "mpii"
    other.mkdir()
    np.savez(other / "mpii_train.npz", **arrays)
    kept = open_labels(f"spin:{other / 'mpii_train.npz'}@{tmp_path}", smplx)[0]
    assert kept.keypoints_2d[AT["right_ankle"], 2] == 1, "elsewhere a point may leave the picture"


def test_spins_points_in_space_start_at_the_hips(tmp_path, smplx):
    space = np.random.default_rng(2).normal(size=(3, 24, 4))
    space[..., 3] = 1
    example = open_labels(files.spin(tmp_path, S=space), smplx)[0]
    middle = space[0, [2, 3], :3].mean(0)
    np.testing.assert_allclose(
        example.keypoints_3d[AT["right_knee"], :3], space[0, 1, :3] - middle, atol=1e-6
    )
    assert example.keypoints_3d[AT["right_hip"], 3] == 0, "defined elsewhere than SMPL-X's"


def test_broken_rows_are_counted_not_fatal(tmp_path, smplx):
    path = files.spin(tmp_path)
    arrays = dict(np.load(path))
    arrays["center"][1] = np.nan
    arrays["scale"][2] = 0
    np.savez(path, **arrays)
    labels = open_labels(path, smplx)
    assert len(labels) == 1
    assert labels.skipped == {"its box is not finite": 1, "its box is empty": 1}
    arrays["scale"][:] = 0
    np.savez(path, **arrays)
    with pytest.raises(LabelError, match="none of 3 rows"):
        open_labels(path, smplx)


# --- fits that curation reads -------------------------------------------------------------------


def test_curated_fits_of_expose(tmp_path, smplx, open_one):
    arrays = files.curated(tmp_path)
    labels = open_labels(tmp_path / "train.npz", smplx)
    assert labels.skipped == {"its body_pose is not finite": 1}
    example = labels[1]
    assert example.key == "im0003.jpg"
    np.testing.assert_allclose(
        example.params["left_hand_pose"], arrays["pose"][2, 23:38], atol=1e-6
    )  # whole: nothing is added
    np.testing.assert_allclose(example.params["betas"], arrays["betas"][2], atol=1e-6)
    assert "leye_pose" not in example.params, "53 joints have no eyes"
    assert example.keypoints_2d[AT["nose"], 0] == pytest.approx(
        arrays["keypoints2D"][2, 0, 0] + 0.5, abs=1e-4
    )
    open_params = open_labels(tmp_path / "train.npz", open_one)[0].params
    assert "betas" not in open_params and "expression" not in open_params
    assert "left_hand_pose" in open_params
    usable(labels)


def our_fits(body):
    """Two people of a body, with everything that a store knows of them."""
    from curation.formats.fits import new_fits, pose_from_full

    rng = np.random.default_rng(9)
    params = pose_from_full(rng.normal(0, 0.2, (2, 55, 3))) | {
        "betas": rng.normal(size=(2, 10)), "expression": rng.normal(size=(2, 10)),
        "transl": np.array([[0, 0, 3.0]] * 2),
    }  # fmt: skip
    points = np.zeros((2, 145, 3))
    points[:, :22] = (20, 30, 1)
    points[:, 0] = (5, 6, 1)
    return new_fits(
        ["a.jpg", "b.jpg"], params, focal_px=np.array([80.0, 80]), center_px=np.full((2, 2), 32.0),
        keypoints_2d=points, good=np.array([[1, 1, 1, 1], [1, 0, 1, 0]]),
        bbox_xyxy_px=np.array([[4, 4, 44, 40]] * 2), body_name=body.name, body_sha256=body.sha256,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["expose", "spin", "humandata"])
def test_what_we_export_comes_back_with_its_shape(tmp_path, open_one, toy_body, kind):
    from curation.formats.expose import write_expose
    from curation.formats.humandata import write_humandata
    from curation.formats.spin import write_spin

    fits = our_fits(open_one)
    files.photo(tmp_path / "a.jpg")
    path = tmp_path / "train.npz"
    if kind == "humandata":
        write_humandata(fits, path, None)
    else:
        {"expose": write_expose, "spin": write_spin}[kind](fits, path)
    labels = open_labels(path, open_one)
    np.testing.assert_allclose(labels[0].params["betas"], fits.params["betas"][0], atol=1e-6)
    np.testing.assert_allclose(
        labels[0].params["right_hand_pose"], fits.params["right_hand_pose"][0], atol=1e-6
    )
    assert labels[0].side_px == 40 and labels[0].focal_px == 80
    assert "left_hand_pose" not in labels[1].params, "not accepted"
    assert "expression" not in labels[1].params and "right_hand_pose" in labels[1].params
    with pytest.raises(LabelError, match="--body"):
        open_labels(path, replace(toy_body, sha256="another"))


def test_pymaf_xs_additions(tmp_path, smplx):
    rng = np.random.default_rng(3)
    hand = np.ones((3, 21, 3))
    hand[..., :2] = rng.uniform(5, 40, (3, 21, 2))
    more = {
        "xpose": rng.normal(0, 0.2, (3, 66)), "xshape": rng.normal(size=(3, 10)),
        "left_hand_pose": np.zeros((3, 45)), "jaw_pose": np.full((3, 3), 0.1),
        "expression": np.ones((3, 10)), "valid_fit": np.array([1, 0, 1]),
        "valid_fit_fa": np.array([1, 1, 0]), "lhand_kp2d": hand,
    }  # fmt: skip
    labels = open_labels(files.spin(tmp_path, **more), smplx)
    first = labels[0].params
    assert set(first) == {"global_orient", "body_pose", "betas", "jaw_pose", "expression"}
    assert not labels[1].params and "jaw_pose" not in labels[2].params
    found = labels[0].keypoints_2d[AT["left_thumb"], :2]
    np.testing.assert_allclose(found, hand[0, 4, :2] + 0.5, rtol=1e-6)


def test_lspet_as_downloaded(tmp_path, smplx):
    from scipy.io import savemat

    joints = np.random.default_rng(0).uniform(5, 40, (14, 3, 2))
    joints[:, 2] = 1
    joints[0, :, 0] = -322, -40, 0
    savemat(tmp_path / "joints.mat", {"joints": joints})
    for k in (1, 2):
        files.photo(tmp_path / "images" / f"im{k:05d}.jpg")
    labels = open_labels(tmp_path, smplx)
    assert len(labels) == 2
    assert labels[0].keypoints_2d[AT["right_ankle"], 2] == 0 and labels[0].side_px < 40
    np.testing.assert_allclose(
        labels[1].keypoints_2d[AT["right_ankle"], :2], joints[0, :2, 1] - 0.5, rtol=1e-6
    )
    usable(labels)


# --- COCO-WholeBody and NeuralAnnot --------------------------------------------------------------


def test_wholebody_alone(tmp_path, smplx):
    files.wholebody(tmp_path)
    labels = open_labels(tmp_path, smplx)
    assert len(labels) == 1 and sum(labels.skipped.values()) == 2
    example = labels[0]
    np.testing.assert_allclose(example.keypoints_2d[AT["nose"]], (10.5, 20.5, 1))
    assert example.keypoints_2d[AT["left_index1"], 2] == 1
    assert example.keypoints_2d[AT["right_index1"], 2] == 0, "declared invalid"
    np.testing.assert_allclose(example.center_px, (19, 25))
    assert example.side_px == 40
    usable(labels)


def test_neuralannot_beside_it(tmp_path, smplx, open_one):
    path = files.wholebody(tmp_path)
    entry = files.neuralannot(lhand_valid=True, rhand_valid=False, face_valid=True)
    camera = {"focal": [500.0, 500.0], "princpt": [30.0, 20.0]}
    fits = files.dump(
        path.parent / "MSCOCO_train_SMPLX_NeuralAnnot.json",
        {"183126": {"smplx_param": entry, "cam_param": camera}},
    )
    for source in (tmp_path, fits):
        example = open_labels(source, smplx)[0]
        np.testing.assert_allclose(
            example.params["left_hand_pose"].reshape(-1),
            np.array(entry["lhand_pose"]) + smplx.hand_means[0], atol=1e-6,
        )  # fmt: skip
        assert "right_hand_pose" not in example.params
        assert example.focal_px == 500
    assert "left_hand_pose" not in open_labels(tmp_path, open_one)[0].params
    fits.write_text(fits.read_text().replace('"root_pose"', '"rot"'))
    assert not open_labels(tmp_path, smplx)[0].params, "a broken fit leaves the keypoints"


# --- Human3.6M ----------------------------------------------------------------------------------


def test_human36m_is_turned_into_the_camera(tmp_path, smplx):
    made = files.human36m(tmp_path)
    files.photo(tmp_path / "images" / made["images"][0]["file_name"], 100, 100)
    files.photo(tmp_path / "images" / made["images"][1]["file_name"], 100, 100)
    labels = open_labels(tmp_path, smplx)
    assert len(labels) == 2, "every fifth frame"
    example = labels[0]
    camera = (made["world"] @ made["rotation"].T + made["camera"]["t"]) / 1000
    found = example.keypoints_3d[AT["left_knee"]]
    np.testing.assert_allclose(found[:3], camera[5] - camera[0], atol=1e-5)
    pixel = 1145 * camera[5, 0] / camera[5, 2] + 512 + 0.5
    assert example.keypoints_2d[AT["left_knee"], 0] == pytest.approx(pixel, abs=1e-3)
    root = Rotation.from_rotvec(files.neuralannot(0)["root_pose"])
    whole = Rotation.from_matrix(made["rotation"]) * root
    mine = Rotation.from_rotvec(example.params["global_orient"])
    assert (whole * mine.inv()).magnitude() < 1e-5
    assert "left_hand_pose" not in example.params, "no flag says that hands are fits"
    batch = usable(labels)
    trust = batch.targets.rotation_weight[0]
    assert trust[7] == 0 and trust[20] == 0 and trust[4] == 1, "ankles and wrists are not trusted"


# --- FreiHAND, FFHQ: parts ----------------------------------------------------------------------


def test_freihand_adds_the_mean_hand_and_keeps_the_four_versions_together(
    tmp_path, smplx, open_one
):
    made = files.freihand(tmp_path)
    labels = open_labels(tmp_path, smplx)
    assert len(labels) == 8 and labels.modality is Modality.HAND
    example = labels[5]
    assert example.modality is Modality.HAND and example.is_right
    np.testing.assert_allclose(
        example.params["right_hand_pose"].reshape(-1),
        made["mano"][1, 0, 3:48] + smplx.hand_means[1], atol=1e-6,
    )  # fmt: skip
    np.testing.assert_allclose(
        example.keypoints_3d[AT["right_thumb"], :3],
        made["xyz"][1, 4] - made["xyz"][1, 0], atol=1e-6,
    )  # fmt: skip
    assert len({labels[k].key for k in (1, 3, 5, 7)}) == 1
    assert labels[0].key != labels[1].key
    assert example.picture.path.name == "00000005.jpg"
    assert "betas" not in example.params
    assert "right_hand_pose" not in open_labels(tmp_path, open_one)[0].params


def test_ffhq_gives_heads(tmp_path, smplx):
    path = files.ffhq(tmp_path)
    labels = open_labels(path, smplx)
    example = labels[0]
    arrays = np.load(path)
    assert labels.modality is Modality.HEAD
    np.testing.assert_allclose(example.params["expression"], arrays["expression"][0, :10])
    assert "betas" not in example.params
    np.testing.assert_allclose(
        example.keypoints_2d[AT["right_contour_1"], :2], arrays["keypoints2D"][0, 56], rtol=1e-6
    )
    assert example.keypoints_2d[AT["neck"], 2] == 0
    assert example.focal_px == pytest.approx(4 * 4754.979, abs=0.1)


# --- 3DPW ---------------------------------------------------------------------------------------


def test_3dpw_is_read_as_data_and_turned_into_the_camera(tmp_path, smplx):
    content = files.threedpw(tmp_path)
    labels = open_labels(tmp_path, smplx)
    assert len(labels) == 3, "the second frame has no camera, the second person no points"
    example = labels[1]
    assert example.key == "imageFiles/downtown_walking_00/image_00004.jpg"
    rotation = content["cam_poses"][2, :3, :3]
    whole = Rotation.from_matrix(rotation) * Rotation.from_rotvec(content["poses"][0][2, :3])
    mine = Rotation.from_rotvec(example.params["global_orient"])
    assert (whole * mine.inv()).magnitude() < 1e-5
    joints = content["jointPositions"][0][2].reshape(24, 3) @ rotation.T
    np.testing.assert_allclose(
        example.keypoints_3d[AT["left_knee"], :3], joints[4] - joints[0], atol=1e-5
    )
    np.testing.assert_allclose(
        example.keypoints_2d[AT["nose"], :2], content["poses2d"][0][2, :2, 0], rtol=1e-6
    )
    assert set(example.params) == {"global_orient", "body_pose"}


def test_a_pickle_that_would_run_code_is_refused(tmp_path, smplx):
    files.threedpw(tmp_path)
    bad = tmp_path / "sequenceFiles" / "train" / "evil.pkl"
    bad.write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    labels = open_labels(tmp_path, smplx)
    assert len(labels) == 3 and labels.skipped["sequences that cannot be read"] == 1


# --- AGORA, BEDLAM: opposite hands ----------------------------------------------------------------


def test_agora_adds_the_mean_hand_bedlam_does_not(tmp_path, smplx):
    given = files.agora(tmp_path / "agora")
    labels = open_labels(tmp_path / "agora", smplx)
    assert len(labels) == 3
    assert labels.skipped["declared invalid"] == 1 and sum(labels.skipped.values()) == 2
    first = labels[0]
    np.testing.assert_allclose(
        first.params["left_hand_pose"].reshape(-1),
        np.array(given["left_hand_pose"]) + smplx.hand_means[0], atol=1e-6,
    )  # fmt: skip
    assert first.side_px == pytest.approx(720 / 3 / 1.2), "small photos, boxes of large ones"
    assert first.focal_px == pytest.approx(2986.6 / 3)
    assert "betas" in first.params
    assert "betas" not in labels[1].params and "betas" not in labels[2].params
    usable(labels)

    arrays = files.bedlam(tmp_path)
    path = f"{tmp_path / 'scene.npz'}@{tmp_path / 'png'}"
    labels = open_labels(path, smplx)
    first = labels[0]
    np.testing.assert_allclose(
        first.params["left_hand_pose"].reshape(-1), arrays["pose_cam"][0, 75:120], atol=1e-6
    )
    np.testing.assert_allclose(first.params["jaw_pose"], arrays["pose_cam"][0, 66:69], atol=1e-6)
    assert first.keypoints_2d[AT["spine3"], 2] == 0, "outside of the picture"
    assert first.keypoints_2d[AT["left_ankle"], 2] == (arrays["gtkps"][0, 7, 1] < 720)
    assert "betas" in first.params and "betas" not in labels[1].params
    usable(labels)


def test_sources_go_to_other_processes(tmp_path, smplx):
    import pickle

    files.freihand(tmp_path / "hands")
    files.wholebody(tmp_path / "coco")
    files.human36m(tmp_path / "h36m")
    files.threedpw(tmp_path / "3dpw")
    for folder in ("hands", "coco", "h36m", "3dpw"):
        labels = open_labels(tmp_path / folder, smplx)
        again = pickle.loads(pickle.dumps(labels))
        assert again[0].key == labels[0].key


# --- finding out --------------------------------------------------------------------------------


def test_names_of_layouts_are_unique_and_unknown_files_list_them(tmp_path, smplx):
    names = [layout.name for layout in LAYOUTS]
    assert len(set(names)) == len(names)
    np.savez(tmp_path / "what.npz", a=np.zeros(3))
    with pytest.raises(LabelError, match="bedlam") as error:
        open_labels(tmp_path / "what.npz", smplx)
    assert all(name in str(error.value) for name in names)
    with pytest.raises(LabelError, match="does not exist"):
        open_labels(tmp_path / "none.npz", smplx)


def test_photos_that_are_nowhere_near_are_asked_for(tmp_path, smplx):
    path = files.spin(tmp_path / "labels" / "deep" / "here")
    moved = tmp_path / "moved.npz"
    path.rename(moved)
    with pytest.raises(LabelError, match="@FOLDER"):
        open_labels(moved, smplx)
    assert len(open_labels(f"{moved}@{path.parent}", smplx)) == 3


def test_the_wrong_layout_says_what_is_missing(tmp_path, smplx):
    files.curated(tmp_path)
    with pytest.raises(LabelError, match="lacks imgname"):
        open_labels(f"spin:{tmp_path / 'train.npz'}", smplx)


def test_points_go_by_name():
    points = fit_points(
        ("left_wrist", "no_such", "left_wrist"), [[1, 1, 0.2], [9, 9, 1], [2, 2, 1]]
    )
    assert points[AT["left_wrist"]].tolist() == [2, 2, 1]
    assert (points[:, 2] > 0).sum() == 1
    with pytest.raises(LabelError, match="expected 1 points"):
        fit_points(("nose",), np.zeros((2, 3)))


def test_a_wrong_size_is_told_by_name(smplx):
    with pytest.raises(LabelError, match="its body_pose has 69 numbers instead of 63"):
        known_params(smplx, {"body_pose": np.zeros(69)})


def test_training_opens_people_and_parts(tmp_path, toy_body):
    from regressor.train import TrainConfig, UsageError, _open_source

    files.freihand(tmp_path / "hands")
    assert _open_source(tmp_path / "hands", TrainConfig(), toy_body).modality is Modality.HAND
    path = files.spin(tmp_path / "spin")
    assert len(_open_source(path, TrainConfig(), toy_body)) == 3
    with pytest.raises(UsageError, match="no whole people"):
        _open_source(f"heads:{tmp_path / 'hands'}", TrainConfig(), toy_body)
    with pytest.raises(UsageError, match="nobody there shows"):
        _open_source(f"hands:{path}", TrainConfig(), toy_body)
