"""MANO's and FLAME's parameters and meshes into SMPL-X's hands and head."""

import pickle

import numpy as np
import pytest
import torch

from bodymodel.arrays import body_from_arrays
from bodymodel.model import BodyModel
from bodymodel.rotations import rotvec_to_rotmat
from conversion.correspondence import build_correspondence, side_of
from conversion.correspondence_files import VertexIds, load_correspondence
from conversion.options import TransferOptions
from conversion.transfer import Transfer
from tests.conversion.parts import part_arrays


def angle(a, b):
    a, b = (rotvec_to_rotmat(torch.as_tensor(x).double()) for x in (a, b))
    cosine = ((a.mT @ b).diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return float(torch.arccos(cosine.clamp(-1, 1)).max())


def part(body, family, hand="right", scale=1.0):
    arrays, ids = part_arrays(body, family, hand, scale)
    source = f"MANO_{hand.upper()}" if family == "mano" else family
    return body_from_arrays(arrays, family, "neutral", source=source), ids


@pytest.fixture(scope="module", params=["left", "right"])
def hand(request, smplx):
    body, ids = part(smplx, "mano", request.param)
    match = VertexIds({f"{request.param}_hand": ids}).between(body, smplx)
    return request.param, body, Transfer(body, smplx, correspondence=match), ids


@pytest.fixture(scope="module")
def head(smplx):
    body, ids = part(smplx, "flame")
    return body, Transfer(body, smplx, correspondence=VertexIds({"head": ids}).between(body, smplx))


def hand_pose(count, seed=0):
    rng = np.random.default_rng(seed)
    pose = 0.4 * rng.normal(size=(count, 16, 3))
    pose[:, 0] *= 4  # wrists turn any way in the world
    return pose.astype(np.float32), rng.normal(size=(count, 3))


def test_mano_parameters(hand, smplx):
    side, mano, transfer, ids = hand
    assert side_of(mano) == side and len(ids) > 700
    pose, transl = hand_pose(4)
    betas = np.random.default_rng(1).normal(size=(4, 10)).astype(np.float32)
    result = transfer.convert_params(pose, betas, transl)
    assert result.status == ["ok"] * 4
    first = 25 if side == "left" else 40
    np.testing.assert_allclose(result.full_pose[:, first : first + 15], pose[:, 1:], atol=1e-5)
    others = np.r_[1:first, first + 15 : 55]
    assert not result.full_pose[:, others].any()
    assert angle(result.full_pose[:, 0], pose[:, 0]) < 0.03  # the wrist's turn carries the body
    # betas are tied: a hand says little of them
    assert (result.v2v_mean_mm < 1.0).all() and np.isfinite(
        result.v2v_part_mm[f"{side}_hand"]
    ).all()
    with torch.no_grad():
        there = BodyModel(mano).forward_pose(torch.tensor(pose), torch.tensor(betas)).vertices
        here = BodyModel(smplx).forward_pose(
            torch.tensor(result.full_pose), torch.tensor(result.betas)
        )
    gap = here.vertices.numpy()[:, ids] + result.transl[:, None] - there.numpy() - transl[:, None]
    own = transfer.correspondence.valid[ids]
    assert np.linalg.norm(gap, axis=2)[:, own].mean() < 1e-3


def test_mano_meshes_give_the_same_pose(hand):
    side, mano, transfer, _ = hand
    pose, _ = hand_pose(3, seed=2)
    with torch.no_grad():
        meshes = BodyModel(mano).forward_pose(torch.tensor(pose)).vertices.numpy()
    result = transfer.convert_vertices(meshes + 1.0)
    assert result.status == ["ok"] * 3 and (result.v2v_mean_mm < 0.1).all()
    first = 25 if side == "left" else 40
    assert angle(result.full_pose[:, first : first + 15], pose[:, 1:]) < 0.05
    assert angle(result.full_pose[:, 0], pose[:, 0]) < 0.02


def test_a_hand_without_ids_is_laid_over_the_body(smplx):
    """Scaled, so that it is not the body's own; correspondence from the surfaces alone."""
    mano, _ = part(smplx, "mano", "right", scale=1.1)
    match = build_correspondence(mano, smplx)
    wrist = smplx.weights[:, [smplx.joints.index("right_wrist"), *range(40, 55)]].sum(1) > 0.5
    assert not match.valid[~wrist].any() and match.valid[wrist].mean() > 0.8
    pose, transl = hand_pose(2)
    result = Transfer(mano, smplx, correspondence=match).convert_params(
        pose, np.zeros((2, 10)), transl
    )
    assert result.status == ["ok"] * 2 and (result.v2v_mean_mm < 4).all()


def test_flame_parameters(head, smplx):
    _, transfer = head
    rng = np.random.default_rng(0)
    pose = np.zeros((3, 5, 3), np.float32)
    pose[:, 0] = rng.normal(size=(3, 3))
    pose[:, 1] = 0.3 * rng.normal(size=(3, 3))
    pose[:, 2, 0] = (0.0, 0.2, 0.4)
    pose[:, 3:] = 0.2 * rng.normal(size=(3, 2, 3))
    expression = rng.normal(size=(3, 10)).astype(np.float32)
    result = transfer.convert_params(pose, np.zeros((3, 10)), np.ones((3, 3)), expression)
    assert result.status == ["ok"] * 3
    np.testing.assert_allclose(result.full_pose[:, 22:25], pose[:, 2:], atol=1e-5)
    np.testing.assert_allclose(result.full_pose[:, 15], pose[:, 1], atol=1e-5)
    np.testing.assert_allclose(result.expression, expression, atol=1e-4)  # one space in both
    assert angle(result.full_pose[:, 0], pose[:, 0]) < 0.02
    assert (result.v2v_mean_mm < 0.3).all()


def test_flame_solved_from_the_mesh(head, smplx):
    flame, transfer = head
    pose = np.zeros((2, 5, 3), np.float32)
    pose[:, 0, 1], pose[:, 2, 0], pose[1, 1, 1] = 2.0, 0.3, 0.3
    expression = np.random.default_rng(0).normal(size=(2, 10)).astype(np.float32)
    solved = Transfer(
        flame, smplx, TransferOptions(part_pose="solved"), transfer.correspondence
    ).convert_params(pose, np.zeros((2, 10)), np.zeros((2, 3)), expression)
    assert solved.status == ["ok"] * 2 and (solved.v2v_mean_mm < 0.2).all()
    np.testing.assert_allclose(solved.full_pose[:, 22], pose[:, 2], atol=0.03)
    np.testing.assert_allclose(solved.expression, expression, atol=0.1)


def test_fewer_components_of_the_expression(smplx):
    """FLAME has 50 or 100; here other ones, of which two are SMPL-X's."""
    arrays, ids = part_arrays(smplx, "flame")
    first = arrays["shapedirs"][..., :10]
    mixed = np.concatenate([first, arrays["shapedirs"][..., [12, 11]]], 2)
    wide = np.zeros((len(ids), 3, 400))
    wide[..., :10], wide[..., 300:302] = first, mixed[..., 10:]
    arrays["shapedirs"] = wide
    flame = body_from_arrays(arrays, "flame", "neutral", num_expression=2)
    match = VertexIds({"head": ids}).between(flame, smplx)
    result = Transfer(flame, smplx, correspondence=match).convert_params(
        np.zeros((1, 5, 3)), np.zeros((1, 10)), np.zeros((1, 3)), np.array([[1.0, 2.0]])
    )
    wanted = np.zeros((1, 10))
    wanted[0, [2, 1]] = 1, 2
    np.testing.assert_allclose(result.expression, wanted, atol=1e-3)


def test_published_ids(tmp_path, smplx):
    mano, ids = part(smplx, "mano", "left")
    path = tmp_path / "MANO_SMPLX_vertex_ids.pkl"
    with path.open("wb") as file:
        pickle.dump({"left_hand": ids, "right_hand": ids + 1}, file, protocol=2)
    match = load_correspondence(path).between(mano, smplx)
    np.testing.assert_array_equal(match.corners[ids][:, 0], np.arange(len(ids)))
    flame, ids = part(smplx, "flame")
    np.save(tmp_path / "SMPL-X__FLAME_vertex_ids.npy", ids)
    found = load_correspondence(tmp_path / "SMPL-X__FLAME_vertex_ids.npy")
    assert found.between(flame, smplx).valid.sum() > 1500
    with pytest.raises(ValueError, match="do not lead"):
        found.between(mano, smplx)
    np.save(tmp_path / "x.npy", ids[:-1])
    with pytest.raises(ValueError, match="vertices"):
        load_correspondence(tmp_path / "x.npy").between(flame, smplx)
    np.save(tmp_path / "x.npy", ids[:-1] * 1.0)
    with pytest.raises(ValueError, match="vertex ids"):
        load_correspondence(tmp_path / "x.npy")
