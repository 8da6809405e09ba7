import pytest
import torch

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.model import BodyModel
from bodymodel.params import BodyParams
from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from bodymodel.sliced import slice_body, sliced_forward, sliced_jacobian
from bodymodel.spec import SMPLX_KEYPOINTS


def random_state(batch: int, num_shape: int, dtype=torch.float64, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return 0.6 * normal(batch, 55, 3), normal(batch, num_shape), normal(batch, 3)


@pytest.fixture(params=["toy", "open"])
def body(request):
    return request.getfixturevalue(f"{request.param}_body")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 2e-6)])
def test_points_are_those_of_the_whole_mesh(body, dtype, tolerance):
    sliced = slice_body(body, dtype=dtype)
    full_pose, shape, transl = random_state(5, sliced.num_shape, dtype)
    found = sliced_forward(sliced, full_pose, shape, transl).points

    model = BodyModel(body, dtype=torch.float64)
    zeros = BodyParams.zeros(5, dtype=torch.float64)
    betas, expression = shape.double().split([body.num_betas, body.num_expression], dim=1)
    params = BodyParams(
        **{
            **vars(zeros.with_full_pose(full_pose.double())),
            "betas": betas,
            "expression": expression,
            "transl": transl.double(),
        }
    )
    keypoints = model(params).keypoints
    for k, name in enumerate(sliced.points):
        if name == "head_top":
            continue
        expected = keypoints[:, SMPLX_KEYPOINTS.index(name)]
        assert (found[:, k] - expected).abs().max() < tolerance, name


def test_all_points_with_a_fixed_place_are_there(toy_body):
    sliced = slice_body(toy_body)
    missing = set(FIT_KEYPOINTS) - set(sliced.points)
    assert len(missing) == 17
    assert all("contour" in name for name in missing)


def test_a_subset_moves_as_in_the_whole(body):
    names = ("left_wrist", "nose", "right_index", "left_heel")
    some, every = slice_body(body, names), slice_body(body)
    full_pose, shape, transl = random_state(3, some.num_shape, torch.float32)
    rows = [every.points.index(name) for name in names]
    torch.testing.assert_close(
        sliced_forward(some, full_pose, shape, transl).points,
        sliced_forward(every, full_pose, shape, transl).points[:, rows],
        atol=2e-6,
        rtol=0,
    )


@pytest.mark.parametrize("at_zero", [False, True])
def test_the_jacobian_is_that_of_automatic_differentiation(body, at_zero):
    names = ("left_wrist", "nose", "right_index", "left_heel", "lip_top", "pelvis", "left_elbow")
    sliced = slice_body(body, names, dtype=torch.float64)
    full_pose, shape, transl = random_state(2, sliced.num_shape)
    if at_zero:
        full_pose = torch.zeros_like(full_pose)
    rows = torch.randn(2, len(names), 2, 3, dtype=torch.float64)

    def seen(p, s, t):
        points = sliced_forward(sliced, p, s, t).points
        return (rows @ points[..., None])[..., 0].flatten(1)

    expected = torch.autograd.functional.jacobian(seen, (full_pose, shape, transl))
    state = sliced_forward(sliced, full_pose, shape, transl)
    pose, by_shape, by_transl = sliced_jacobian(sliced, state, rows)
    for b in range(2):
        used = expected[0][b, :, b, : sliced.num_columns]
        torch.testing.assert_close(pose[b], used, atol=1e-10, rtol=1e-9)
        assert not expected[0][b, :, b, sliced.num_columns :].any()
        torch.testing.assert_close(by_shape[b], expected[1][b, :, b], atol=1e-10, rtol=1e-9)
        torch.testing.assert_close(by_transl[b], expected[2][b, :, b], atol=1e-10, rtol=1e-9)


def test_the_roots_columns_on_the_manifold_are_for_a_turn_on_the_left(toy_body):
    sliced = slice_body(toy_body, ("left_wrist", "nose"), dtype=torch.float64)
    full_pose, shape, transl = random_state(2, sliced.num_shape)
    rows = torch.eye(3, dtype=torch.float64).expand(2, 2, 3, 3)

    def seen(turn):
        root = rotvec_to_rotmat(turn) @ rotvec_to_rotmat(full_pose[:, 0])
        moved = torch.cat([rotmat_to_rotvec(root)[:, None], full_pose[:, 1:]], 1)
        return sliced_forward(sliced, moved, shape, transl).points.flatten(1)

    zero = torch.zeros(2, 3, dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(seen, zero)
    state = sliced_forward(sliced, full_pose, shape, transl)
    pose, _, _ = sliced_jacobian(sliced, state, rows, root_on_manifold=True)
    for b in range(2):
        torch.testing.assert_close(pose[b, :, 0], expected[b, :, b], atol=1e-8, rtol=1e-7)


def test_an_unknown_point_is_refused_by_name(toy_body):
    with pytest.raises(ValueError, match="third_eye"):
        slice_body(toy_body, ("nose", "third_eye"))
    with pytest.raises(ValueError, match="contour"):
        slice_body(toy_body, ("contour_middle",))
