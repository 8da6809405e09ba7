import dataclasses

import numpy as np
import pytest
import torch

from bodymodel.arrays import body_from_arrays
from bodymodel.body import BodyData
from bodymodel.lbs import contour_row, tree_levels
from bodymodel.model import BodyModel
from bodymodel.params import BodyParams
from bodymodel.rotations import rotvec_to_rotmat
from bodymodel.spec import FAMILIES, SMPLX_KEYPOINTS
from tests.toy_body import toy_arrays


def random_params(*batch: int, seed: int = 0, dtype=torch.float64) -> BodyParams:
    generator = torch.Generator().manual_seed(seed)
    return BodyParams.zeros(*batch, dtype=dtype).map(
        lambda x: x + 0.4 * torch.randn(x.shape, generator=generator, dtype=dtype)
    )


@pytest.fixture(scope="module")
def model(toy_body: BodyData) -> BodyModel:
    return BodyModel(toy_body, dtype=torch.float64)


def test_zero_parameters_give_the_template(model, toy_body):
    out = model(BodyParams.zeros(dtype=torch.float64))
    np.testing.assert_allclose(out.vertices, toy_body.v_template, atol=1e-7)
    np.testing.assert_allclose(
        out.joints, toy_body.joint_regressor @ toy_body.v_template, atol=1e-6
    )
    assert out.keypoints.shape == (len(SMPLX_KEYPOINTS), 3)


def test_keypoints_are_where_their_names_say(model):
    at = dict(
        zip(SMPLX_KEYPOINTS, model(BodyParams.zeros(dtype=torch.float64)).keypoints, strict=True)
    )
    assert at["nose"][2] > at["head"][2]
    assert at["left_ear"][0] > 0 > at["right_ear"][0]
    assert at["left_thumb"][2] > at["left_pinky"][2]
    assert at["left_heel"][2] < at["left_foot"][2] < at["left_big_toe"][2]
    assert at["left_heel"][1] < at["left_ankle"][1]
    assert at["left_contour_1"][0] > 0 > at["right_contour_1"][0]


@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 3), (0,)])
def test_any_leading_dimensions(model, toy_body, batch):
    out = model(random_params(*batch))
    assert out.vertices.shape == (*batch, len(toy_body.v_template), 3)
    assert out.joints.shape == (*batch, 55, 3)
    assert out.keypoints.shape == (*batch, 144, 3)


def test_a_batch_is_its_members_one_by_one(model):
    params = random_params(2, 3)
    together = model(params)
    for i in range(2):
        for j in range(3):
            one = model(params.map(lambda x, i=i, j=j: x[i, j]))
            for name in ("vertices", "joints", "keypoints"):
                torch.testing.assert_close(
                    getattr(one, name), getattr(together, name)[i, j], rtol=0, atol=1e-12
                )


def test_batch_dimensions_broadcast(model):
    pose = random_params(4)
    shape = random_params(seed=1)
    mixed = dataclasses.replace(pose, betas=shape.betas, transl=shape.transl)
    out = model(mixed)
    whole = dataclasses.replace(
        pose, betas=shape.betas.expand(4, -1), transl=shape.transl.expand(4, -1)
    )
    torch.testing.assert_close(out.vertices, model(whole).vertices, rtol=0, atol=1e-12)
    many_shapes = dataclasses.replace(shape, betas=pose.betas)
    out = model(many_shapes)
    assert out.joints.shape == (4, 55, 3)
    assert out.keypoints.shape == (4, 144, 3)


def test_global_orient_turns_the_body_about_its_pelvis(model):
    params = random_params(3)
    still = dataclasses.replace(params, global_orient=torch.zeros(3, 3).double())
    out, base = model(params), model(still)
    r = rotvec_to_rotmat(params.global_orient)
    pelvis, base_pelvis = out.joints[:, :1], base.joints[:, :1]
    expected = (base.vertices - base_pelvis) @ r.mT + pelvis
    torch.testing.assert_close(pelvis, base_pelvis, rtol=0, atol=1e-12)
    torch.testing.assert_close(out.vertices, expected, rtol=0, atol=1e-12)


def test_transl_moves_everything(model):
    params = random_params(2)
    moved = dataclasses.replace(params, transl=params.transl + 1)
    torch.testing.assert_close(
        model(moved).keypoints, model(params).keypoints + 1, rtol=0, atol=1e-7
    )


def test_missing_components_are_zero_components(model):
    params = random_params(2)
    short = dataclasses.replace(
        params, betas=params.betas[:, :4], expression=params.expression[:, :0]
    )
    long = dataclasses.replace(
        params,
        betas=torch.cat([params.betas[:, :4], torch.zeros(2, 6)], -1),
        expression=torch.zeros(2, 10).double(),
    )
    torch.testing.assert_close(model(short).vertices, model(long).vertices)


def test_gradients(model):
    params = random_params()
    names = [f.name for f in dataclasses.fields(BodyParams)]

    def keypoints(*tensors):
        return model(BodyParams(**dict(zip(names, tensors, strict=True)))).keypoints[::7]

    inputs = [getattr(params, n).requires_grad_() for n in names]
    assert torch.autograd.gradcheck(keypoints, inputs)


def test_hessian_at_the_zero_pose(model):
    """Fits start here; the usual Rodrigues forms give NaN or nonsense."""
    pose = torch.zeros(55, 3, dtype=torch.float64)
    target = torch.tensor(model.body.v_template) + 0.01
    direction = torch.randn(55, 3, generator=torch.Generator().manual_seed(1)).double()

    def gradient(p):
        p = p.detach().requires_grad_()
        loss = (model.forward_pose(p).vertices - target).square().sum()
        return p, torch.autograd.grad(loss, p, create_graph=True)[0]

    p, g = gradient(pose)
    (product,) = torch.autograd.grad((g * direction).sum(), p)
    h = 1e-5
    numeric = (gradient(pose + h * direction)[1] - gradient(pose - h * direction)[1]) / (2 * h)
    torch.testing.assert_close(product, numeric.detach(), rtol=1e-6, atol=1e-6)


def test_float32_agrees_with_float64(model, toy_body):
    params = random_params(8)
    single = BodyModel(toy_body)(params.map(lambda x: x.float()))
    assert single.vertices.dtype == torch.float32
    assert (single.keypoints - model(params).keypoints).abs().max() < 1e-5


def test_nothing_of_the_model_file_is_in_a_checkpoint(model):
    assert model.state_dict() == {}


def test_buffers_do_not_share_memory_with_the_body(toy_body):
    model = BodyModel(toy_body)
    model._weights.zero_()
    assert toy_body.weights.max() > 0


@pytest.mark.parametrize("family", ["smplx", "smplh", "smpl", "mano", "flame"])
def test_every_family_poses(family):
    body = body_from_arrays(toy_arrays(family), family, "neutral")
    model = BodyModel(body)
    num = len(FAMILIES[family].joints)
    extra = {"smplx": 21 + 51 + 17, "smplh": 21, "smpl": 21, "mano": 0, "flame": 0}[family]
    out = model.forward_pose(0.2 * torch.randn(2, num, 3), torch.randn(2, 10))
    assert out.joints.shape == (2, num, 3)
    assert out.keypoints.shape == (2, num + extra, 3)
    if family != "smplx":
        with pytest.raises(ValueError, match="forward_pose"):
            model(BodyParams.zeros())


def test_tree_levels_cover_every_joint_once():
    for spec in FAMILIES.values():
        levels = tree_levels(spec.parents)
        assert sorted(j for joints, _ in levels for j in joints) == list(
            range(1, len(spec.parents))
        )
    with pytest.raises(ValueError, match="before their children"):
        tree_levels((-1, 2, 0))


@pytest.mark.parametrize(
    ("yaw", "row"),
    [(0, 0), (10, 10), (39, 39), (80, 39), (-1, 40), (-10, 49), (-39, 78), (-70, 78)],
)
def test_contour_row_by_yaw_in_front_of_a_camera(yaw, row):
    """For a person who faces an OpenCV camera, turning left by k degrees is row k."""
    facing = rotvec_to_rotmat(torch.tensor([torch.pi, 0, 0], dtype=torch.float64))
    turn = rotvec_to_rotmat(torch.tensor([0, np.deg2rad(yaw), 0], dtype=torch.float64))
    assert contour_row(facing @ turn).item() == row


def test_wrong_shapes_are_told(model):
    with pytest.raises(ValueError, match=r"full_pose of smplx must be \(\.\.\., 55, 3\)"):
        model.forward_pose(torch.zeros(54, 3).double())
    with pytest.raises(ValueError, match=r"betas must be \(\.\.\., 10\) or shorter"):
        model.forward_pose(torch.zeros(55, 3).double(), torch.zeros(11).double())
    with pytest.raises(ValueError, match="transl must be"):
        model.forward_pose(torch.zeros(55, 3).double(), transl=torch.zeros(4).double())


def test_published_vertex_ids_need_the_published_topology(toy_body):
    with pytest.raises(ValueError, match="bring its own vertex_ids"):
        BodyModel(dataclasses.replace(toy_body, vertex_ids=()))


def test_nothing_waits_for_the_device(toy_body):
    """Tensors without data have no value to wait for: reading one would raise."""
    model = BodyModel(toy_body).to("meta")
    out = model(random_params(2, 3, dtype=torch.float32).map(lambda x: x.to("meta")))
    assert out.keypoints.device.type == "meta"
    assert out.keypoints.shape == (2, 3, 144, 3)


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(model, toy_body):
    params = random_params(16)
    out = BodyModel(toy_body, dtype=torch.float64).to("cuda")(params.map(lambda x: x.cuda()))
    expected = model(params)
    for name in ("vertices", "joints", "keypoints"):
        got = getattr(out, name).cpu()
        torch.testing.assert_close(got, getattr(expected, name), rtol=0, atol=1e-10)


def test_output_is_contiguous_and_typed(model):
    out = model(random_params(3))
    assert out.vertices.is_contiguous()
    assert model.dtype == out.vertices.dtype == torch.float64
    assert model.device == out.vertices.device
