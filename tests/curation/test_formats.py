"""Every format is read back as it was written; public readers and loaders' own steps work on it."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS
from bodymodel.pickles import UnsafePickleError
from bodymodel.spec import SMPLX_JOINTS
from curation.formats.amass import read_amass, write_amass
from curation.formats.coco import write_coco
from curation.formats.expose import read_expose, write_expose
from curation.formats.fits import Fits, FormatError, new_fits, pose_from_full
from curation.formats.humandata import read_humandata, write_humandata
from curation.formats.meshes import glb_bytes, obj_text, write_meshes
from curation.formats.neuralannot import read_neuralannot, write_neuralannot
from curation.formats.posing import Poser
from curation.formats.smplifyx import read_smplifyx, write_smplifyx
from curation.formats.spin import read_spin, write_spin
from curation.import_fits import place_fits
from curation.reproject import Reprojector, posed_joints, posed_vertices


@pytest.fixture(scope="module")
def fits(toy_body) -> Fits:
    rng = np.random.default_rng(0)
    count = 5
    pose = rng.normal(0, 0.2, (count, 55, 3))
    pose[:, 0] = [2.9, 0.1, 0]  # not at pi, where two vectors mean the same
    keypoints = np.zeros((count, len(FIT_KEYPOINTS), 3), np.float32)
    made = new_fits(
        ["images/a.jpg", "images/a.jpg", "b.png", "sub dir/c.jpg", "d.é.jpg"],
        pose_from_full(pose)
        | {
            "betas": rng.normal(size=(count, 10)),
            "expression": rng.normal(size=(count, 10)),
            "transl": rng.normal(0, 0.1, (count, 3)) + np.array([0, 0, 4]),
        },
        fit_id=[f"{k:032x}" for k in range(count)],
        size=np.full((count, 2), (640, 480)),
        bbox_xyxy_px=rng.uniform(0, 400, (count, 4)).cumsum(1),
        focal_px=np.full(count, 700.0),
        center_px=np.full((count, 2), (320, 240)),
        good=rng.random((count, 4)) < 0.7,
        body_name=toy_body.name,
        body_sha256=toy_body.sha256,
    )
    poser = Poser(toy_body)
    pixels = poser.project(made, poser.joints_and_points(made)[1])
    seen = np.isfinite(pixels).all(-1) & (rng.random(pixels.shape[:2]) < 0.8)
    keypoints[seen] = np.concatenate([pixels[seen], rng.uniform(0.3, 1, (seen.sum(), 1))], 1)
    return replace(made, keypoints_2d=keypoints)


def assert_same(found: Fits, fits: Fits, atol=0.0, skip=()):
    order = [found.fit_id.index(f) for f in fits.fit_id]
    found = found.select(np.array(order))
    assert found.image_path == fits.image_path
    for name, values in fits.params.items():
        np.testing.assert_allclose(found.params[name], values, atol=atol, err_msg=name)
    for name in ("person_index", "size", "bbox_xyxy_px", "focal_px", "center_px", "good",
                 "keypoints_2d"):  # fmt: skip
        if name not in skip:
            np.testing.assert_allclose(
                getattr(found, name), getattr(fits, name), atol=1e-3, err_msg=name
            )
    assert (found.body_sha256, found.body_name) == (fits.body_sha256, fits.body_name)


def test_the_poser_is_the_reprojector(fits, toy_body):
    joints, points = Poser(toy_body).joints_and_points(fits)
    slow = Reprojector.for_body(toy_body)
    for row in range(len(fits)):
        params = {k: v[row] for k, v in fits.params.items()}
        np.testing.assert_allclose(joints[row], posed_joints(toy_body, params), atol=1e-6)
        np.testing.assert_allclose(points[row], slow.points(params), atol=1e-6)


def test_expose(fits, tmp_path):
    path = tmp_path / "train.npz"
    write_expose(fits, path)
    assert_same(read_expose(path), fits)
    # What its loader does with the file: object arrays allowed, these five keys, casts.
    data = np.load(path, allow_pickle=True)
    data = {key: data[key] for key in data}
    assert data["pose"].shape == (5, 55, 3)
    np.testing.assert_array_equal(
        data["pose"][:, 25:40].reshape(5, 15, 3), fits.params["left_hand_pose"]
    )
    np.testing.assert_array_equal(data["pose"][:, 22], fits.params["jaw_pose"])
    assert data["keypoints2D"].shape == (5, 137, 3)
    names = np.asarray(data["img_fns"], dtype=np.bytes_)
    assert names[4].decode("utf-8") == "d.é.jpg"
    # OpenPose's nose and left wrist, half a pixel from ours.
    nose, wrist = FIT_KEYPOINTS.index("nose"), FIT_KEYPOINTS.index("left_wrist")
    for theirs, ours in ((0, nose), (7, wrist)):
        expected = fits.keypoints_2d[:, ours] - [0.5, 0.5, 0]
        expected[fits.keypoints_2d[:, ours, 2] == 0] = 0
        np.testing.assert_allclose(data["keypoints2D"][:, theirs], expected, atol=1e-4)


def test_public_expose_files_have_53_joints_and_no_camera(fits, tmp_path):
    path = tmp_path / "val.npz"
    pose = np.delete(fits.full_pose, [23, 24], axis=1)
    write_expose(fits, tmp_path / "ours.npz")
    ours = np.load(tmp_path / "ours.npz")
    np.savez(path, pose=pose, img_fns=ours["img_fns"], betas=ours["betas"],
             expression=ours["expression"], keypoints2D=ours["keypoints2D"])  # fmt: skip
    found = read_expose(path)
    np.testing.assert_array_equal(found.params["right_hand_pose"], fits.params["right_hand_pose"])
    assert (found.params["leye_pose"] == 0).all()
    assert np.isnan(found.params["transl"]).all()
    assert found.body_sha256 == ""
    assert found.person_index.tolist() == [0, 1, 0, 0, 0]
    known = found.keypoints_2d[..., 2] > 0
    assert known.sum() > 300
    np.testing.assert_allclose(
        found.keypoints_2d[known][:, :2], fits.keypoints_2d[known][:, :2], atol=1e-3
    )


def test_fits_without_translation_are_placed_by_their_keypoints(fits, toy_body):
    lost = replace(fits, params=dict(fits.params) | {"transl": np.full((5, 3), np.nan, np.float32)})
    few = lost.keypoints_2d.copy()
    few[4] = 0
    found = place_fits(replace(lost, keypoints_2d=few), Poser(toy_body)).params["transl"]
    np.testing.assert_allclose(found[:4], fits.params["transl"][:4], atol=1e-3)
    assert np.isnan(found[4]).all()


def test_spin(fits, tmp_path):
    path = tmp_path / "lsp.npz"
    write_spin(fits, path)
    assert_same(read_spin(path), fits)
    # ExPose's loader of SPIN's fits: no pickles, and every array indexed by has_smpl.
    data = np.load(path)
    chosen = np.asarray(data["has_smpl"]).astype(bool)
    data = {key: data[key][chosen] for key in data}
    points = np.concatenate(
        [data[f"{part}_keypoints"] for part in ("body", "left_hand", "right_hand", "face")], 1
    )
    assert points.shape == (5, 137, 3)
    pose = data["pose"].reshape(5, -1, 3)
    np.testing.assert_array_equal(pose[:, -15:], fits.params["right_hand_pose"])
    boxes = fits.bbox_xyxy_px
    np.testing.assert_allclose(
        data["scale"] * 200 / 1.2, (boxes[:, 2:] - boxes[:, :2]).max(1), rtol=1e-5
    )


def test_spin_of_smpl_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", imgname=["a"], pose=np.zeros((1, 72)), shape=np.zeros((1, 10)))
    with pytest.raises(FormatError, match=r"conversion\.run"):
        read_spin(tmp_path / "a.npz")


def test_humandata(fits, toy_body, tmp_path):
    path = tmp_path / "train.npz"
    write_humandata(fits, path, Poser(toy_body).joints_and_points(fits)[1])
    assert_same(read_humandata(path), fits)
    # What HumanData.fromfile does: 0-d arrays become what they hold.
    with np.load(path, allow_pickle=True) as file:
        data = {k: v.item() if v.ndim == 0 else v for k, v in dict(file).items()}
    shapes = {k: v.shape for k, v in data["smplx"].items()}
    assert shapes["body_pose"] == (5, 21, 3)
    assert shapes["left_hand_pose"] == (5, 15, 3)
    assert shapes["global_orient"] == (5, 3)
    assert data["bbox_xywh"].shape == (5, 5)
    assert data["keypoints2d"].shape == (5, 190, 3)
    assert data["keypoints3d"].shape == (5, 190, 4)
    assert data["misc"]["flat_hand_mean"] is True
    assert data["__keypoints_compressed__"] is False
    assert data["__temporal_len__"] == 5
    # Their place 20 is the left wrist, 147 the top of the head.
    wrist = SMPLX_JOINTS.index("left_wrist")
    assert wrist == 20
    seen = fits.keypoints_2d[:, -1, 2] > 0
    np.testing.assert_allclose(
        data["keypoints2d"][seen, 147, :2], fits.keypoints_2d[seen, -1, :2] - 0.5, atol=1e-4
    )


def test_public_humandata_compressed_keypoints(fits, tmp_path):
    mask = np.zeros(190, np.uint8)
    mask[[0, 20, 147]] = 1
    smplx = {"body_pose": fits.params["body_pose"], "global_orient": fits.params["global_orient"],
             "betas": fits.params["betas"]}  # fmt: skip
    points = np.random.default_rng(0).uniform(1, 100, (5, 3, 3))
    np.savez(
        tmp_path / "a.npz", smplx=smplx, image_path=[f"{k}.jpg" for k in range(5)],
        keypoints2d=points, keypoints2d_mask=mask, __keypoints_compressed__=True,
        bbox_xywh=np.tile([1.0, 2, 30, 40, 1], (5, 1)), meta={"gender": ["n"] * 5},
    )  # fmt: skip
    found = read_humandata(tmp_path / "a.npz")
    np.testing.assert_allclose(found.keypoints_2d[:, 20, :2], points[:, 1, :2] + 0.5, rtol=1e-5)
    np.testing.assert_allclose(found.keypoints_2d[:, -1, :2], points[:, 2, :2] + 0.5, rtol=1e-5)
    assert (found.keypoints_2d[..., 2] > 0).sum() == 15
    np.testing.assert_allclose(found.bbox_xyxy_px[0], [1, 2, 31, 42])


class Harm:
    def __reduce__(self):
        return (print, ("harm",))


def test_files_that_would_run_code_are_refused(tmp_path, toy_body, capsys):
    bad = np.empty((), object)
    bad[()] = {"body_pose": Harm()}
    np.savez(tmp_path / "a.npz", smplx=bad, image_path=["a.jpg"])
    with pytest.raises(FormatError, match="refused"):
        read_humandata(tmp_path / "a.npz")
    (tmp_path / "results" / "a").mkdir(parents=True)
    with (tmp_path / "results" / "a" / "000.pkl").open("wb") as file:
        pickle.dump({"body_pose": Harm()}, file)
    with pytest.raises((FormatError, UnsafePickleError), match="refused"):
        read_smplifyx(tmp_path, toy_body)
    assert "harm" not in capsys.readouterr().out


def test_smplifyx(fits, toy_body, tmp_path):
    lost = write_smplifyx(fits, tmp_path, toy_body, num_pca=45)
    assert lost < 1e-4
    assert_same(read_smplifyx(tmp_path, toy_body), fits, atol=1e-4)
    path = tmp_path / "results" / "images" / "a" / "001.pkl"
    with path.open("rb") as file:
        result = pickle.load(file)
    assert {k: result[k].shape for k in ("camera_rotation", "camera_translation", "betas")} == {
        "camera_rotation": (1, 3, 3), "camera_translation": (1, 3), "betas": (1, 10),
    }  # fmt: skip
    assert result["left_hand_pose"].shape == (1, 45)


def test_smplifyx_with_twelve_hand_coefficients(fits, open_body, tmp_path):
    """What the fitter makes lies in the first twelve components: nothing is lost."""
    rng = np.random.default_rng(0)
    hands = {
        name: (rng.normal(size=(5, 12)) @ open_body.hand_components[k][:12]
               + open_body.hand_means[k]).reshape(5, 15, 3).astype(np.float32)
        for k, name in enumerate(("left_hand_pose", "right_hand_pose"))
    }  # fmt: skip
    inside = replace(fits, params=dict(fits.params) | hands)
    assert write_smplifyx(inside, tmp_path, open_body) < 1e-4
    assert_same(read_smplifyx(tmp_path, open_body), inside, atol=1e-4)
    assert write_smplifyx(fits, tmp_path / "b", open_body) > 0.05


def test_vposer_codes_are_refused(fits, toy_body, tmp_path):
    write_smplifyx(fits, tmp_path, toy_body)
    path = tmp_path / "results" / "b" / "000.pkl"
    with path.open("rb") as file:
        result = pickle.load(file)
    result["body_pose"] = np.zeros((1, 32), np.float32)
    path.write_bytes(pickle.dumps(result))
    with pytest.raises(FormatError, match="VPoser"):
        read_smplifyx(tmp_path, toy_body)


def test_neuralannot(fits, open_body, tmp_path):
    ours = replace(fits, body_name=open_body.name, body_sha256=open_body.sha256)
    write_neuralannot(ours, tmp_path / "a.json", open_body)
    write_coco(ours, tmp_path / "coco.json", Poser(open_body))
    found = read_neuralannot(tmp_path / "a.json", tmp_path / "coco.json", open_body)
    assert_same(found, ours, atol=1e-6, skip=("good", "keypoints_2d", "bbox_xyxy_px"))
    np.testing.assert_array_equal(found.good[:, 1:], ours.good[:, 1:])
    np.testing.assert_allclose(found.bbox_xyxy_px, ours.bbox_xyxy_px, atol=0.02)
    entry = json.loads((tmp_path / "a.json").read_text())["2"]
    sizes = {k: len(v) for k, v in entry["smplx_param"].items() if isinstance(v, list)}
    assert sizes == {
        "root_pose": 3, "body_pose": 63, "lhand_pose": 45, "rhand_pose": 45, "jaw_pose": 3,
        "leye_pose": 3, "reye_pose": 3, "shape": 10, "expr": 10, "trans": 3,
    }  # fmt: skip
    # An offset from the mean hand.
    np.testing.assert_allclose(
        np.array(entry["smplx_param"]["lhand_pose"]) + open_body.hand_means[0],
        ours.params["left_hand_pose"][1].reshape(-1), atol=1e-6,
    )  # fmt: skip


def test_amass(fits, toy_body, tmp_path):
    poser = Poser(toy_body)
    write_amass(fits, tmp_path, poser)
    assert_same(read_amass(tmp_path, poser), fits, atol=2e-6)
    data = np.load(tmp_path / "images" / "a_1.npz")
    assert data["poses"].shape == (1, 165)
    assert data["betas"].shape == (16,)
    assert str(data["gender"]) == "neutral"
    # In their world the same person: x right, y away from the camera, z up.
    params = pose_from_full(data["poses"].reshape(1, 55, 3)) | {
        "betas": data["betas"][None, :10], "expression": fits.params["expression"][1:2],
        "transl": data["trans"],
    }  # fmt: skip
    world = posed_joints(toy_body, {k: v[0] for k, v in params.items()})
    camera = posed_joints(toy_body, {k: v[1] for k, v in fits.params.items()})
    np.testing.assert_allclose(world, camera[:, [0, 2, 1]] * [1, 1, -1], atol=1e-5)
    assert world[SMPLX_JOINTS.index("head"), 2] > world[SMPLX_JOINTS.index("left_foot"), 2]


def test_coco_opens_in_pycocotools(fits, toy_body, tmp_path, capsys):
    path = tmp_path / "coco.json"
    write_coco(fits, path, Poser(toy_body))
    content = json.loads(path.read_text())
    pixels = Poser(toy_body).project(fits, Poser(toy_body).joints_and_points(fits)[1])
    for row, annotation in enumerate(content["annotations"]):
        points = np.array(annotation["keypoints"]).reshape(17, 3)
        if not fits.good[row, 0]:
            assert not points.any()
            continue
        knee = CONVENTIONS["coco17"].index("left_knee")
        if points[knee, 2]:
            np.testing.assert_allclose(
                points[knee, :2], pixels[row, FIT_KEYPOINTS.index("left_knee")] - 0.5, atol=1e-3
            )
        assert annotation["num_keypoints"] == (points[:, 2] > 0).sum()
        hand = np.array(annotation["lefthand_kpts"]).reshape(21, 3)
        assert fits.good[row, 1] or not hand.any()
    assert len(content["images"]) == 4
    pycocotools = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    coco = pycocotools.COCO(str(path))
    annotations = coco.loadAnns(coco.getAnnIds(catIds=coco.getCatIds(["person"])))
    assert len(annotations) == 5
    assert coco.loadImgs(annotations[0]["image_id"])[0]["file_name"] == "images/a.jpg"


def test_meshes_open_in_trimesh(fits, toy_body, tmp_path):
    import trimesh

    write_meshes(fits, tmp_path, toy_body, "glb")
    write_meshes(fits, tmp_path, toy_body, "obj")
    params = {k: v[1] for k, v in fits.params.items()}
    expected = posed_vertices(toy_body, params) * [1, -1, -1]
    for kind in ("glb", "obj"):
        mesh = trimesh.load(
            tmp_path / "images" / f"a_1.{kind}", force="mesh", process=False, maintain_order=True
        )
        np.testing.assert_allclose(mesh.vertices, expected, atol=1e-5)
        np.testing.assert_array_equal(mesh.faces, toy_body.faces)


def test_glb_is_aligned_and_says_its_length():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5]], float)
    data = glb_bytes(vertices, np.array([[0, 1, 2]]), "ä")
    assert data[:4] == b"glTF"
    assert int.from_bytes(data[8:12], "little") == len(data)
    assert len(data) % 4 == 0
    size = int.from_bytes(data[12:16], "little")
    scene = json.loads(data[20 : 20 + size])
    normals = np.frombuffer(data[20 + size + 8 + 48 : 20 + size + 8 + 96], "<f4").reshape(4, 3)
    np.testing.assert_allclose(normals, [[0, 0, 1]] * 4)
    assert scene["accessors"][0]["max"] == [5, 5, 5]
    assert obj_text(vertices, np.array([[0, 1, 2]])).splitlines()[-1] == "f 1 2 3"


@pytest.mark.parametrize("reader", [read_expose, read_spin, read_humandata])
def test_other_files_are_refused_with_a_reason(reader, tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(b"no npz")
    with pytest.raises(FormatError, match="cannot be read"):
        reader(path)
    np.savez(path, a=np.zeros(3))
    with pytest.raises(FormatError, match=r"x\.npz"):
        reader(path)


def test_fits_of_another_body_are_refused(fits, open_body):
    with pytest.raises(FormatError, match="name theirs with --body"):
        Poser(open_body).joints_and_points(fits)
