"""The sample set: its labels are the projection of its truth, and it never eats a user's folder."""

import filecmp

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat

from bodymodel.keypoints import CONVENTIONS
from bodymodel.model import BodyModel
from bodymodel.params import BodyParams
from bodymodel.spec import SMPLX_KEYPOINTS
from bodymodel.synthetic import head_top_vertex
from fitting.demo import DemoConfig, DirectoryInUseError, make_demo
from fitting.demo_poses import POSES, build_pose, mirror_pose

COUNT = 6


@pytest.fixture(scope="module")
def demo(tmp_path_factory, toy_body):
    folder = tmp_path_factory.mktemp("demo") / "set"
    assert make_demo(DemoConfig(folder, COUNT, seed=1), toy_body)
    return folder


def project_truth(root, body):
    """Keypoints in pixels by name, (N, 2) each, and the vertices' pixels (N, V, 2)."""
    with np.load(root / "truth.npz", allow_pickle=False) as file:
        truth = {key: file[key] for key in file.files}
    fields = BodyParams.__dataclass_fields__
    params = BodyParams(**{name: torch.as_tensor(truth[name]) for name in fields})
    with torch.no_grad():
        out = BodyModel(body)(params)

    def pixels(points):
        focal, center = truth["focal_px"][:, None, None], truth["center_px"][:, None]
        return (points[..., :2] / points[..., 2:]).numpy() * focal + center

    keypoints = dict(zip(SMPLX_KEYPOINTS, pixels(out.keypoints).swapaxes(0, 1), strict=True))
    vertices = pixels(out.vertices)
    keypoints["head_top"] = vertices[:, head_top_vertex(body)]
    return truth, keypoints, vertices


def check_labels(root, body):
    truth, keypoints, vertices = project_truth(root, body)
    joints = loadmat(root / "joints.mat")["joints"]
    assert joints.shape == (3, 14, len(truth["image_id"]))
    assert set(np.unique(joints[2])) <= {0, 1}
    for k, name in enumerate(CONVENTIONS["lsp14"]):
        # LSP's files count from 1 at the centre of the first pixel.
        np.testing.assert_allclose(joints[:2, k].T, keypoints[name] + 0.5, atol=0.02)
    for row, name in enumerate(truth["image_id"]):
        with Image.open(root / name) as image:
            size = np.array(image.size)
        np.testing.assert_allclose(truth["center_px"][row], size / 2)
        assert vertices[row].min() > 0
        assert (vertices[row].max(0) < size).all()
    return truth, joints


def test_labels_are_the_projection_of_the_truth(demo, toy_body):
    truth, _ = check_labels(demo, toy_body)
    assert list(truth["image_id"]) == [f"images/im{n:04d}.jpg" for n in range(1, COUNT + 1)]
    assert set(truth["body_name"]) == {toy_body.name}
    assert set(truth["body_sha256"]) == {toy_body.sha256}
    assert set(truth["person_index"]) == {0}


def test_people_are_drawn_where_the_labels_say(demo):
    """At a joint that is seen the picture differs from the backdrop: its colours vary around it."""
    joints = loadmat(demo / "joints.mat")["joints"]
    for row in range(COUNT):
        with Image.open(demo / f"images/im{row + 1:04d}.jpg") as image:
            grey = np.asarray(image.convert("L"), float)
        edges = np.hypot(*np.gradient(grey))
        x, y = (joints[:2, :, row] - 0.5).astype(int)
        at_joints = [edges[b - 6 : b + 7, a - 6 : a + 7].max() for a, b in zip(x, y, strict=True)]
        assert np.median(at_joints) > 3 * np.median(edges)


def test_same_seed_same_bytes(demo, toy_body, tmp_path):
    make_demo(DemoConfig(tmp_path / "again", COUNT, seed=1), toy_body)
    names = [str(p.relative_to(demo)) for p in sorted(demo.rglob("*")) if p.is_file()]
    assert len(names) == COUNT + 3
    same, different, missing = filecmp.cmpfiles(demo, tmp_path / "again", names, shallow=False)
    assert (different, missing) == ([], [])
    assert set(same) == set(names)


def test_second_call_does_nothing_and_another_seed_replaces(toy_body, tmp_path):
    folder = tmp_path / "set"
    assert make_demo(DemoConfig(folder, 3), toy_body)
    before = (folder / "images/im0001.jpg").read_bytes()
    assert not make_demo(DemoConfig(folder, 3), toy_body)
    (folder / "images/im0002.jpg").unlink()
    assert make_demo(DemoConfig(folder, 3), toy_body), "an incomplete set is made again"
    assert make_demo(DemoConfig(folder, 2, seed=5), toy_body)
    assert (folder / "images/im0001.jpg").read_bytes() != before
    assert sorted(p.name for p in (folder / "images").iterdir()) == ["im0001.jpg", "im0002.jpg"]


def test_a_folder_of_the_users_is_left_alone(toy_body, tmp_path):
    (tmp_path / "joints.mat").write_bytes(b"mine")
    (tmp_path / "README.md").write_text("# My photos\n")
    with pytest.raises(DirectoryInUseError, match="not a demo set"):
        make_demo(DemoConfig(tmp_path, 2), toy_body)
    assert (tmp_path / "joints.mat").read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match="count"):
        make_demo(DemoConfig(tmp_path / "new", 0), toy_body)
    assert not (tmp_path / "new").exists()


def test_poses_name_real_joints_and_mirror_back():
    from bodymodel.spec import BODY_JOINTS

    for pose in POSES:
        assert set(pose.joints) <= set(BODY_JOINTS), pose.name
        assert mirror_pose(mirror_pose(pose.joints)) == {
            name: tuple(angles) for name, angles in pose.joints.items()
        }


def test_knees_and_elbows_never_bend_backwards():
    from bodymodel.spec import BODY_JOINTS

    rng = np.random.default_rng(0)
    knees = [BODY_JOINTS.index(f"{side}_knee") - 1 for side in ("left", "right")]
    for pose in POSES:
        for _ in range(20):
            _, body_pose = build_pose(pose, rng, mirrored=False, spread_deg=15)
            assert (body_pose[knees, 0] > 0).all()
            assert (body_pose[knees, 1:] == 0).all()
            assert body_pose[BODY_JOINTS.index("left_elbow") - 1, 1] < 0
            assert body_pose[BODY_JOINTS.index("right_elbow") - 1, 1] > 0


@pytest.mark.slow
def test_open_body_set_has_true_labels_and_some_hidden_joints(open_body, tmp_path):
    make_demo(DemoConfig(tmp_path / "set", 12), open_body)
    _, joints = check_labels(tmp_path / "set", open_body)
    assert 0.02 < joints[2].mean() < 0.5


@pytest.mark.slow
def test_detector_sees_the_rendered_people(open_body, tmp_path):
    mediapipe = pytest.importorskip("mediapipe")
    make_demo(DemoConfig(tmp_path / "set", 8), open_body)
    found = 0
    with mediapipe.solutions.holistic.Holistic(static_image_mode=True) as detector:
        for path in sorted((tmp_path / "set/images").iterdir()):
            with Image.open(path) as image:
                found += detector.process(np.asarray(image)).pose_landmarks is not None
    assert found >= 7
