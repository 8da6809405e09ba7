import pickle
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from scipy.spatial.transform import Rotation

from bodymodel.files import load_body
from conversion.bodies import Bodies
from conversion.correspondence import Correspondence, build_correspondence
from conversion.correspondence_files import load_correspondence, save_correspondence
from conversion.nearest import closest_on_triangles, nearest_on_mesh


def test_one_topology_is_the_identity(smpl):
    match = build_correspondence(smpl, smpl)
    points = np.random.default_rng(0).normal(size=(2, 6890, 3))
    assert match.is_identity and match.valid.all()
    np.testing.assert_array_equal(match.apply(points), points)


def test_templates_of_one_surface_fall_together(smpl, smplx, up_match):
    template = smpl.v_template.astype(np.float64)
    gap_mm = 1000 * np.linalg.norm(up_match.apply(template) - smplx.v_template, axis=1)
    assert gap_mm[up_match.valid].max() < 1e-3  # nothing is moved or scaled
    assert 0.95 < up_match.valid.mean() < 0.99
    eyes = [smplx.joints.index(f"{side}_eye_smplhf") for side in ("left", "right")]
    assert not up_match.valid[smplx.weights[:, eyes].max(1) > 0.5].any()
    plain = build_correspondence(smpl, smplx, one_surface=False)
    assert plain.lift is None
    gap_mm = 1000 * np.linalg.norm(plain.apply(template) - smplx.v_template, axis=1)
    assert 0.5 < gap_mm[plain.valid].mean() < 1.0  # chords of a coarser mesh


def test_invalid_vertices_stay_on_their_triangles(up_match):
    laid = up_match.lift.rest
    bary = (laid[up_match.corners] * up_match.weights[..., None]).sum(1)
    out = ~up_match.valid
    np.testing.assert_allclose(up_match.apply(laid)[out], bary[out], atol=1e-12)


def test_another_gender_is_matched_by_its_own_templates():
    """A woman's and the neutral template are centimetres apart: that is no correspondence."""
    bodies = Bodies("open", "open", "smplx", 10, gender="neutral")
    woman, target = load_body("open", "smpl", "female"), bodies.target("female")
    match = bodies.correspondence(woman, target)
    assert target.gender == "neutral" and match.valid.mean() > 0.95
    own = load_body("open", "smplx", "female").v_template
    gap_mm = 1000 * np.linalg.norm(match.apply(woman.v_template.astype(np.float64)) - own, axis=1)
    assert gap_mm[match.valid].max() < 1e-3
    # of these two bodies themselves, what separates them would be taken for the sampling's
    direct = build_correspondence(woman, target)
    assert direct.lift is None and direct.valid.mean() < match.valid.mean()


def test_a_lift_follows_a_smooth_twist(up_match):
    """All of space is twisted about y: where the target's template goes is known."""

    def twist(points):
        c, s = np.cos(1.5 * points[:, 1]), np.sin(1.5 * points[:, 1])
        x, y, z = points.T
        return np.stack([c * x + s * z, y, c * z - s * x], 1)

    lift, valid = up_match.lift, up_match.valid
    truth = twist(lift.goal)[valid]
    lifted = np.linalg.norm(up_match.apply(twist(lift.rest))[valid] - truth, axis=1)
    plain = Correspondence(up_match.corners, up_match.weights, valid, 6890)
    flat = np.linalg.norm(plain.apply(twist(lift.rest))[valid] - truth, axis=1)
    assert lifted.mean() < 0.25 * flat.mean()


def test_a_lift_on_tensors_is_that_on_arrays(smpl, up_match):
    import torch

    from conversion.sampler import Sampler

    meshes = smpl.v_template + 0.01 * np.random.default_rng(0).normal(size=(3, 6890, 3))
    out = Sampler(up_match, torch.float64, "cpu")(torch.tensor(meshes))
    np.testing.assert_allclose(out.mT.numpy(), up_match.apply(meshes), atol=1e-9)


def test_a_turned_and_scaled_source_is_laid_over_the_target(smpl, smplx):
    """Licensed templates stand each at its own place."""
    turn = Rotation.from_rotvec([0.3, 2.0, -0.5]).as_matrix()
    vertices = (1.3 * smpl.v_template @ turn.T + 2).astype(np.float32)
    plain = build_correspondence(smpl, smplx, one_surface=False)
    other = replace(smpl, v_template=vertices, is_open=False)
    match = build_correspondence(other, smplx)
    assert match.lift is None
    both = match.valid & plain.valid
    assert both.sum() > 0.99 * plain.valid.sum()
    gap = match.apply(smpl.v_template)[both] - plain.apply(smpl.v_template)[both]
    assert np.quantile(np.linalg.norm(gap, axis=1), 0.99) < 5e-4


def test_sampling_follows_similarities(smpl, up_match):
    points = smpl.v_template.astype(np.float64)
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    moved = up_match.apply(2.5 * points @ turn.T + 1)
    np.testing.assert_allclose(moved, 2.5 * up_match.apply(points) @ turn.T + 1, atol=1e-9)


def test_nearest_points_of_triangles():
    """Against a dense sampling of each triangle."""
    rng = np.random.default_rng(0)
    corners, points = rng.normal(size=(40, 3, 3)), 2 * rng.normal(size=(40, 3))
    weights = closest_on_triangles(corners, points)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1)
    found = np.linalg.norm((weights[..., None] * corners).sum(1) - points, axis=1)
    u = rng.dirichlet((0.6, 0.6, 0.6), 4000)
    tried = np.linalg.norm(np.einsum("sk,tkc->tsc", u, corners) - points[:, None], axis=2)
    assert (found <= tried.min(1) + 1e-12).all()
    assert (found > tried.min(1) - 0.1).all()


def test_nearest_points_of_meshes(smpl):
    """Against open3d, near and far; it computes in float32."""
    import open3d as o3d

    rng = np.random.default_rng(0)
    vertices = smpl.v_template.astype(np.float64)
    points = np.concatenate([vertices[::7] + 0.01 * rng.normal(size=(985, 3)),
                             rng.normal(size=(200, 3))])  # fmt: skip
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor(smpl.v_template), o3d.core.Tensor(smpl.faces.astype(np.uint32))
    )
    wanted = scene.compute_distance(o3d.core.Tensor(points.astype(np.float32))).numpy()
    triangle, weights, at = nearest_on_mesh(vertices, smpl.faces, points)
    np.testing.assert_allclose(np.linalg.norm(at - points, axis=1), wanted, atol=2e-6)
    corners = vertices[smpl.faces[triangle]]
    np.testing.assert_allclose((corners * weights[..., None]).sum(1), at, atol=1e-12)


def test_files(tmp_path, up_match):
    path = tmp_path / "match.npz"
    save_correspondence(path, up_match)
    again = load_correspondence(path)
    for name in ("corners", "weights", "valid", "num_source", "source", "target"):
        np.testing.assert_array_equal(getattr(again, name), getattr(up_match, name))
    for name in ("rest", "faces", "goal"):
        np.testing.assert_array_equal(getattr(again.lift, name), getattr(up_match.lift, name))
    cut = tmp_path / "cut.npz"
    cut.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="cannot be read"):
        load_correspondence(cut)
    with pytest.raises(FileNotFoundError):
        load_correspondence(tmp_path / "none.npz")


def official_file(path, matrix):
    with path.open("wb") as file:
        pickle.dump({"mtx": matrix}, file, protocol=2)
    return path


@pytest.mark.parametrize("kind", [sparse.csc_matrix, sparse.csr_matrix, np.asarray])
def test_published_files(tmp_path, kind):
    rng = np.random.default_rng(0)
    dense = np.zeros((7, 2 * 5))
    for row in range(6):  # the last has no weights
        dense[row, rng.choice(5, 3, replace=False)] = rng.dirichlet((1, 1, 1))
    dense[:, 5:] = rng.normal(size=(7, 5))  # of normals: not used
    mask = tmp_path / "mask.npy"
    np.save(mask, np.array([0, 1, 2, 3, 6]))
    match = load_correspondence(official_file(tmp_path / "x_deftrafo_setup.pkl", kind(dense)), mask)
    points = rng.normal(size=(5, 3))
    assert match.num_source == 5 and match.valid.tolist() == [True] * 4 + [False] * 3
    np.testing.assert_allclose(match.apply(points)[:6], dense[:6, :5] @ points, atol=1e-9)
    np.save(mask, np.array([True, False] * 3 + [True]))
    match = load_correspondence(tmp_path / "x_deftrafo_setup.pkl", mask)
    assert match.valid.tolist() == [True, False] * 3 + [False]


def test_published_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="mtx"):
        load_correspondence(official_file(tmp_path / "a.pkl", np.zeros((3, 5))))
    with pytest.raises(ValueError, match="three weights"):
        load_correspondence(official_file(tmp_path / "b.pkl", np.full((3, 8), 0.25)))
    with (tmp_path / "c.pkl").open("wb") as file:
        pickle.dump({"mtx": pytest.raises}, file)
    with pytest.raises(ValueError, match="refused"):
        load_correspondence(tmp_path / "c.pkl")


def test_bad_correspondences_are_refused():
    good = dict(
        corners=np.zeros((2, 3), int), weights=np.full((2, 3), 1 / 3), valid=np.ones(2, bool),
        num_source=4,
    )  # fmt: skip
    Correspondence(**good)
    for change in (
        {"corners": np.full((2, 3), 4)},
        {"weights": np.full((2, 3), 0.5)},
        {"weights": np.full((2, 3), np.nan)},
        {"valid": np.ones(3, bool)},
    ):
        with pytest.raises(ValueError):
            Correspondence(**(good | change))
    with pytest.raises(ValueError, match=r"\(\.\.\., 4, 3\)"):
        Correspondence(**good).apply(np.zeros((5, 3)))
