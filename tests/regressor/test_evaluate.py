"""Each protocol from the command line on a made folder, with answers that are known."""

import json
import pickle

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from bodymodel.files import load_body
from regressor.evaluate import main
from regressor.evaluation import ehf
from tests.regressor.datasets import files
from tests.toy_body import toy_arrays


def run(capsys, *arguments):
    """Return status, the figures of the last line, and all that was printed."""
    status = main([str(a) for a in arguments])
    out = capsys.readouterr()
    last = out.out.strip().splitlines()[-1] if out.out else "{}"
    return status, json.loads(last), out.out + out.err


def predictions(path, keys, **arrays):
    np.savez(path, key=np.array(keys), **arrays)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The user's folder: a toy that goes as SMPL-X, and SMPL's two genders."""
    folder = tmp_path_factory.mktemp("models")
    for family, name in (
        ("smplx", "SMPLX_NEUTRAL"),
        ("smpl", "SMPL_MALE"),
        ("smpl", "SMPL_FEMALE"),
    ):
        np.savez(folder / f"{name}.npz", **toy_arrays(family))
    return folder


# --- EHF ------------------------------------------------------------------------------------------


@pytest.fixture
def ehf_folder(tmp_path, models):
    body = load_body(models)
    rng = np.random.default_rng(0)
    truth = []
    for k in (1, 2, 3):
        world = body.v_template @ Rotation.from_rotvec([0, 0.4 * k, 0]).as_matrix().T
        world = world + rng.normal(0, 0.1, 3)
        ply = trimesh.Trimesh(world, body.faces, process=False).export(file_type="ply")
        (tmp_path / f"{k:02d}_align.ply").write_bytes(ply)
        truth.append(ehf.world_to_camera(world))
    return tmp_path, np.stack(truth)


def test_ehf_of_the_truth_itself_is_zero(ehf_folder, models, capsys):
    folder, truth = ehf_folder
    path = predictions(folder / "p.npz", ["01", "02", "03"], vertices=truth + np.array([1, 2, 3]))
    status, figures, text = run(capsys, "ehf", folder, "--predictions", path, "--body", models)
    assert status == 0, text
    assert figures["n"] == 3 and figures["missing"] == 0
    for name in ("pve_all", "pve_hands", "pve_face", "pa_pve_body", "pa_mpjpe_hands", "p2s_mean"):
        assert figures[name] == pytest.approx(0, abs=2e-3), name
    assert "SMPLX_to_J14.pkl" in text and "by skinning" in text


def test_ehf_measures_parts_by_themselves(ehf_folder, models, capsys):
    folder, truth = ehf_folder
    turned = truth @ Rotation.from_rotvec([0, 0, 0.5]).as_matrix().T
    path = predictions(folder / "p.npz", ["03", "01"], vertices=turned[[2, 0]])
    np.save(folder / "SMPLX_to_J14.npy", np.eye(14, truth.shape[1]))
    status, figures, text = run(
        capsys, "ehf", folder, "--predictions", path, "--body", models, "--files", folder
    )
    assert status == 0, text
    assert figures["n"] == 2 and figures["missing"] == 1
    assert figures["pve_all"] > 30 and figures["pa_pve_all"] < 2e-3
    assert figures["pa_mpjpe"] < 2e-3 < figures["mpjpe"]
    assert "middle of the hips" in text


def test_ehf_needs_no_model_but_says_what_it_cannot_do(ehf_folder, capsys):
    folder, truth = ehf_folder
    path = predictions(folder / "p.npz", ["01"], vertices=truth[:1])
    status, figures, text = run(capsys, "ehf", folder, "--predictions", path)
    assert status == 0, text
    assert figures["pa_pve_all"] < 2e-3 and "pve_all" not in figures
    assert "--body" in text
    wrong = predictions(folder / "w.npz", ["01"], vertices=truth[:1, :9])
    status, _, text = run(capsys, "ehf", folder, "--predictions", wrong)
    assert status == 1 and "SMPL-X's topology" in text


def test_ehf_camera_sees_the_room_upright():
    """Its world is y up; the camera's y is down, and people stand two metres before it."""
    feet, head = ehf.world_to_camera(np.array([[0.0, -1.2, 0], [0, 0.5, 0]]))
    assert head[1] < feet[1] and 1.5 < feet[2] < 4
    pixel = ehf.FOCAL_PX * head[:2] / head[2] + ehf.CENTER_PX
    assert (pixel > 0).all() and (pixel < (1600, 1200)).all()


def test_a_checkpoint_predicts_by_itself(tmp_path, capsys):
    import torch

    from regressor.checkpoints import save_checkpoint
    from regressor.expose import Expose, ExposeConfig

    body = load_body()
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "m.safetensors", Expose(body, ExposeConfig.tiny()), body.sha256, {})
    for key in ("01", "02"):
        ply = trimesh.Trimesh(body.v_template, body.faces, process=False).export(file_type="ply")
        (tmp_path / f"{key}_align.ply").write_bytes(ply)
        files.photo(tmp_path / f"{key}_img.png", 160, 120)
        points = np.zeros((25, 3))
        points[:] = (60, 40, 0.9)
        points[0] = (90, 100, 0.9)
        person = {"pose_keypoints_2d": points.reshape(-1).tolist()}
        files.dump(tmp_path / f"{key}_2Djnt.json", {"people": [person]})
    (tmp_path / "02_img.png").write_bytes(b"no picture")
    status, figures, text = run(
        capsys, "ehf", tmp_path, "--checkpoint", tmp_path / "m.safetensors",
        "--save", tmp_path / "kept.npz",
    )  # fmt: skip
    assert status == 0, text
    assert figures["n"] == 1 and figures["missing"] == 1
    assert figures["pa_pve_all"] > 1
    status, again, _ = run(capsys, "ehf", tmp_path, "--predictions", tmp_path / "kept.npz")
    assert status == 0 and again["pa_pve_all"] == pytest.approx(figures["pa_pve_all"], abs=1e-3)


# --- 3DPW, Human3.6M ---


def test_3dpw_against_gendered_bodies(tmp_path, models, capsys):
    import torch

    from bodymodel.model import BodyModel

    content = files.threedpw(tmp_path, "test")
    body = load_body(models, "smpl", "male")
    frame = 2
    pose = content["poses"][0][frame].copy()
    turn = Rotation.from_matrix(content["cam_poses"][frame, :3, :3])
    pose[:3] = (turn * Rotation.from_rotvec(pose[:3])).as_rotvec()
    with torch.no_grad():
        out = BodyModel(body).forward_pose(
            torch.as_tensor(pose, dtype=torch.float32).view(1, 24, 3),
            torch.as_tensor(content["betas"][0], dtype=torch.float32)[None],
        )
    vertices = out.vertices.numpy() + np.array([0.3, 0.1, 4])
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.ones(vertices.shape[1]), 17)
    path = predictions(tmp_path / "p.npz", ["downtown_walking_00/0/4"], vertices=vertices)
    arguments = ("3dpw", tmp_path, "--predictions", path, "--body", models)
    status, _, text = run(capsys, *arguments)
    assert status == 1 and "J_regressor_h36m.npy" in text and "--files" in text
    np.save(tmp_path / "J_regressor_h36m.npy", rows)
    status, figures, text = run(capsys, *arguments, "--files", tmp_path)
    assert status == 0, text
    assert figures["n"] == 1
    assert figures["missing"] == 5, "two people, three frames whose camera is known"
    for name in ("mpjpe", "pa_mpjpe", "pve_all", "pa_pve_all"):
        assert figures[name] == pytest.approx(0, abs=2e-3), name
    assert "row 0 of the regressor" in text
    turned = vertices @ Rotation.from_rotvec([0, 0, 1]).as_matrix().T
    predictions(path, ["downtown_walking_00/0/4"], vertices=turned)
    _, figures, _ = run(capsys, *arguments, "--files", tmp_path)
    assert figures["pve_all"] > 50 and figures["pa_pve_all"] < 2e-3
    predictions(path, ["nobody/0/4"], vertices=turned)
    status, _, text = run(capsys, *arguments, "--files", tmp_path)
    assert status == 1 and "<sequence>/<person>/<photo number>" in text
    status, _, text = run(capsys, *arguments[:4], "--files", tmp_path)
    assert status == 1


def test_human36m_protocols(tmp_path, capsys):
    truth, keys = [], []
    for subject, camera in ((9, 4), (11, 2)):
        made = files.human36m(tmp_path, subject, camera=camera)
        joints = (made["world"] @ made["rotation"].T + made["camera"]["t"]) / 1000
        for frame in (0, 5):
            keys.append(f"S{subject}/2/1/{frame}/{camera}")
            truth.append(joints)
    joints = np.stack(truth)
    joints[2:, 3] += (0.14, 0, 0)  # of camera 2, an ankle is 140 mm off: 10 mm of 14 joints
    joints[:, 7] += 9  # the torso does not count
    path = predictions(tmp_path / "p.npz", keys, joints=joints + 1)
    status, figures, text = run(capsys, "human36m", tmp_path, "--predictions", path)
    assert status == 0, text
    assert figures["p1_mpjpe"] == pytest.approx(5, abs=1e-3)
    assert figures["p2_mpjpe"] == pytest.approx(0, abs=1e-3)
    assert figures["n"] == 4 and figures["missing"] == 0
    _, figures, _ = run(capsys, "human36m", tmp_path, "--predictions", path, "--stride", "64")
    assert figures["n"] == 2


# --- FreiHAND, AGORA, Stirling, COCO ---


def test_freihand(tmp_path, capsys):
    rng = np.random.default_rng(0)
    xyz, verts = rng.normal(0, 0.04, (3, 21, 3)), rng.normal(0, 0.04, (3, 778, 3))
    files.dump(tmp_path / "evaluation_xyz.json", xyz.tolist())
    files.dump(tmp_path / "evaluation_verts.json", verts.tolist())
    turn = Rotation.from_rotvec([1, 2, 0.5]).as_matrix()
    given = [(2 * xyz @ turn.T + 1).tolist(), (0.5 * verts @ turn.T).tolist()]
    path = files.dump(tmp_path / "pred.json", given)
    status, figures, text = run(capsys, "freihand", tmp_path, "--predictions", path)
    assert status == 0, text
    assert figures["pa_mpjpe"] < 1e-3 and figures["pa_v2v"] < 1e-3
    assert figures["f5"] == figures["f15"] == 1 and figures["auc_xyz"] > 0.99
    noisy = verts + rng.normal(0, 0.01, verts.shape)
    path = predictions(tmp_path / "p.npz", ["0", "2"], verts=noisy[[0, 2]])
    _, figures, _ = run(capsys, "freihand", tmp_path, "--predictions", path)
    assert figures["n"] == 2 and figures["missing"] == 1
    assert 12 < figures["pa_v2v"] < 18 and figures["f5"] < figures["f15"] < 1


def agora_people(size=60):
    rng = np.random.default_rng(1)
    joints = rng.uniform(0, 200, (3, 127, 2)) + np.array([[[0, 0]], [[900, 0]], [[0, 0]]])
    return {
        "image": np.array(["ag_1.png", "ag_1.png", "ag_2.png"]), "joints_2d": joints,
        "joints_3d": rng.normal(0, 0.4, (3, 127, 3)), "vertices": rng.normal(0, 0.4, (3, size, 3)),
        "occlusion": np.array([0.0, 95, 10]), "is_valid": np.array([True, True, True]),
    }  # fmt: skip


def agora_lists(folder):
    hands = {"left_hand": np.arange(10), "right_hand": np.arange(10, 20)}
    (folder / "MANO_SMPLX_vertex_ids.pkl").write_bytes(pickle.dumps(hands, protocol=2))
    np.save(folder / "SMPL-X__FLAME_vertex_ids.npy", np.arange(20, 40))
    np.save(folder / "body_verts_smplx.npy", np.arange(40, 60))


def test_agora_from_an_npz_and_from_a_submission(tmp_path, capsys):
    people = agora_people()
    np.savez(tmp_path / "truth.npz", **people)
    agora_lists(tmp_path)
    np.savez(tmp_path / "p.npz", **{k: v[[0]] for k, v in people.items()})
    arguments = ("agora", tmp_path / "truth.npz", "--files", tmp_path, "--predictions")
    status, figures, text = run(capsys, *arguments, tmp_path / "p.npz")
    assert status == 0, text
    assert figures["mpjpe_body"] == figures["mve_full"] == 0
    assert figures["f1"] == 0.67, "one found, one of another picture missed, one too hidden"
    assert figures["missing"] == 1
    folder = tmp_path / "predictions"
    folder.mkdir()
    moved = people["joints_3d"] + (0, 0, 5)
    moved[0, 3] += (0.22, 0, 0)
    for row, name in ((0, "ag_1_personId_0"), (2, "ag_2_personId_0")):
        content = {"joints": people["joints_2d"][row, :24], "allSmplJoints3d": moved[row],
                   "verts": people["vertices"][row] + (0, 0, 5)}  # fmt: skip
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(content, protocol=2))
    status, figures, text = run(capsys, *arguments, folder)
    assert status == 0, text
    assert figures["f1"] == 1
    assert figures["mpjpe_body"] == 5.0, "220 mm of one of 22 joints, of one of two people"
    assert figures["nmje_full"] == 5.0


def test_stirling(tmp_path, capsys):
    from tests.regressor.test_protocols import LANDMARKS, moved
    from tests.spheres import icosphere

    vertices, faces = icosphere(3)
    (tmp_path / "scans").mkdir()
    (tmp_path / "annotations").mkdir()
    scan = trimesh.Trimesh(102 * vertices, faces, process=False)
    scan.export(tmp_path / "scans" / "F1001_N.obj")
    lines = [f"mark{k} {x} {y} {z}" for k, (x, y, z) in enumerate(LANDMARKS)]
    (tmp_path / "annotations" / "f1001_n.LND").write_text("\n".join(lines))
    path = predictions(
        tmp_path / "p.npz", ["hq/1.jpg", "hq/2.jpg"], scan=np.array(["f1001_N", "F1001_n"]),
        vertices=np.stack([moved(100 * vertices)] * 2), landmarks=np.stack([moved(LANDMARKS)] * 2),
        faces=faces,
    )  # fmt: skip
    status, figures, text = run(capsys, "stirling", tmp_path, "--predictions", path)
    assert status == 0, text
    assert figures["median"] == pytest.approx(2, abs=0.15) and figures["n"] == 2


def test_coco(tmp_path, capsys):
    keypoints = [v for k in range(17) for v in (10.0 + 3 * k, 20.0 + k, 2)]
    one = {"id": 1, "image_id": 7, "category_id": 1, "keypoints": keypoints, "num_keypoints": 17,
           "area": 1500.0, "bbox": [10.0, 20.0, 48.0, 16.0], "iscrowd": 0}  # fmt: skip
    labels = {
        "images": [{"id": 7}, {"id": 8}],
        "annotations": [one, one | {"id": 2, "image_id": 8}],
    }
    data = files.dump(tmp_path / "person_keypoints_val.json", labels)
    result = {"image_id": 7, "category_id": 1, "keypoints": keypoints, "score": 0.9}
    path = files.dump(tmp_path / "results.json", [result])
    status, figures, text = run(capsys, "coco", data, "--predictions", path)
    assert status == 0, text
    assert figures["AR"] == 0.5 and figures["AP50"] == pytest.approx(51 / 101, abs=1e-4)
    assert figures["missing"] == 1
    files.dump(path, [result | {"keypoints": [1, 2, 3]}])
    status, _, text = run(capsys, "coco", data, "--predictions", path)
    assert status == 1 and "COCO has 17" in text


def test_coco_of_a_checkpoint(tmp_path):
    """The person that is found is the person that was shown, half a pixel taken off."""
    from regressor.evaluation import coco
    from regressor.evaluation.inputs import Predictions

    points = np.random.default_rng(0).uniform(10, 90, (1, 145, 2))
    truth = points[0, coco._ROWS] - 0.5
    keypoints = np.column_stack([truth, np.full(17, 2)]).reshape(-1).tolist()
    one = {"id": 5, "image_id": 7, "category_id": 1, "keypoints": keypoints, "num_keypoints": 17,
           "area": 900.0, "bbox": [10.0, 10.0, 80.0, 80.0], "iscrowd": 0}  # fmt: skip
    crowd = one | {"id": 6, "iscrowd": 1}
    labels = {"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": [one, crowd]}
    data = files.dump(tmp_path / "annotations" / "person_keypoints_val2017.json", labels)
    with pytest.raises(ValueError, match=r"a.jpg is in none of"):
        coco.people_of_coco(data)
    files.photo(tmp_path / "val2017" / "a.jpg")
    (person,) = coco.people_of_coco(data)
    assert person.key == "7/5" and person.photo.exists()
    results = coco.results_of(Predictions((person.key,), {"keypoints_2d": points}))
    assert coco.evaluate_coco(data, results).figures["AP"] == pytest.approx(1)


# --- usage ---


def test_bad_usage_says_how_to_go_on(tmp_path, capsys):
    assert run(capsys, "ehf", tmp_path)[0] == 2
    path = predictions(tmp_path / "p.npz", ["01"], vertices=np.zeros((1, 4, 3)))
    status, _, text = run(capsys, "ehf", tmp_path, "--predictions", path)
    assert status == 1 and "NN_align.ply" in text
    np.savez(path, vertices=np.zeros((1, 4, 3)))
    status, _, text = run(capsys, "ehf", tmp_path, "--predictions", path)
    assert status == 1 and "'key'" in text
    status, _, text = run(capsys, "stirling", tmp_path, "--checkpoint", path)
    assert status == 1 and "whole people" in text
    status, _, text = run(capsys, "ehf", tmp_path / "none", "--predictions", path)
    assert status == 1 and "does not exist" in text
