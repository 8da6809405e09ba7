import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from bodymodel.rotations import (
    compose_rotvecs,
    left_jacobian,
    left_jacobian_inverse,
    nearest_rotmat,
    rot6d_to_rotmat,
    rotmat_and_left_jacobian,
    rotmat_to_rot6d,
    rotmat_to_rotvec,
    rotvec_to_rotmat,
    skew,
)

AXIS = torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64) / 3
WEIGHT = torch.tensor(np.random.default_rng(0).normal(size=(3, 3)))
ANGLES = [0.0, 1e-12, 1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.4999, 0.5001, 1.0, 2.0, 3.14]

vectors = hnp.arrays(np.float64, 3, elements=st.floats(-3.5, 3.5))


def exponential(v: torch.Tensor, terms: int = 40) -> torch.Tensor:
    """exp of the cross-product matrix by its power series: smooth, and exact for small angles."""
    k = skew(v)
    total = power = torch.eye(3, dtype=v.dtype).expand(*v.shape[:-1], 3, 3)
    for n in range(1, terms):
        power = power @ k / n
        total = total + power
    return total


def double_backward_hessian(function, v: torch.Tensor) -> torch.Tensor:
    v = v.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(v), v, create_graph=True)
    rows = [torch.autograd.grad(gradient[i], v, retain_graph=True)[0] for i in range(3)]
    return torch.stack(rows)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 5e-14), (torch.float32, 5e-6)], ids=["f64", "f32"]
)
def test_value_jacobian_and_hessian_against_the_power_series(angle, dtype, tolerance):
    """The table of errors by angle: value, first and second derivative, through zero."""
    v = (AXIS * angle).to(dtype)
    exact = v.double()

    def loss(x, f):
        return (WEIGHT.to(x.dtype) * f(x)).sum()

    value_error = (rotvec_to_rotmat(v).double() - exponential(exact)).abs().max()
    jacobian = torch.autograd.functional.jacobian(rotvec_to_rotmat, v)
    reference = torch.autograd.functional.jacobian(exponential, exact)
    hessian = double_backward_hessian(lambda x: loss(x, rotvec_to_rotmat), v)
    hessian_reference = double_backward_hessian(lambda x: loss(x, exponential), exact)
    assert value_error < tolerance
    assert (jacobian.double() - reference).abs().max() < tolerance
    assert (hessian.double() - hessian_reference).abs().max() < 4 * tolerance


def test_forward_over_reverse_hessian_at_zero_is_finite_and_right():
    v = torch.zeros(3, dtype=torch.float64)
    got = torch.func.hessian(lambda x: (WEIGHT * rotvec_to_rotmat(x)).sum())(v)
    expected = (WEIGHT + WEIGHT.T) / 2 - torch.eye(3) * WEIGHT.trace()
    assert torch.allclose(got, expected, atol=1e-14)


@given(vectors)
def test_rotvec_to_rotmat_agrees_with_scipy(v):
    got = rotvec_to_rotmat(torch.tensor(v)).numpy()
    np.testing.assert_allclose(got, Rotation.from_rotvec(v).as_matrix(), atol=1e-13)


@given(vectors)
def test_rotvec_survives_the_round_trip(v):
    r = rotvec_to_rotmat(torch.tensor(v))
    back = rotmat_to_rotvec(r)
    assert back.norm() <= math.pi + 1e-12
    assert torch.allclose(rotvec_to_rotmat(back), r, atol=1e-12)
    if np.linalg.norm(v) < math.pi - 1e-6:
        np.testing.assert_allclose(back.numpy(), v, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("angle", [0.0, 1e-10, 1e-5, math.pi - 1e-6, math.pi - 1e-9, math.pi])
def test_rotmat_to_rotvec_near_zero_and_pi(angle, dtype):
    for axis in (AXIS, torch.tensor([0.0, 0, 1]).double(), torch.tensor([-1.0, 0, 0]).double()):
        r = rotvec_to_rotmat((axis * angle).to(dtype))
        v = rotmat_to_rotvec(r)
        tolerance = 1e-7 if dtype == torch.float64 else 1e-5
        assert torch.isfinite(v).all()
        assert torch.allclose(rotvec_to_rotmat(v), r, atol=tolerance)


def test_gradient_of_rotmat_to_rotvec_is_finite_at_the_identity():
    r = torch.eye(3, dtype=torch.float64, requires_grad=True)
    rotmat_to_rotvec(r).sum().backward()
    assert torch.isfinite(r.grad).all()


@settings(max_examples=50)
@given(vectors, vectors)
def test_skew_is_the_cross_product(a, b):
    got = skew(torch.tensor(a)) @ torch.tensor(b)
    np.testing.assert_allclose(got.numpy(), np.cross(a, b), atol=1e-12)


@pytest.mark.parametrize("angle", [*ANGLES, 4.0, 5.0, 6.0])
def test_left_jacobian_is_the_derivative_of_the_rotation(angle):
    """d/dv exp(v) along u equals skew(J u) exp(v)."""
    v = AXIS * angle
    derivative = torch.autograd.functional.jacobian(rotvec_to_rotmat, v)  # (3, 3, 3)
    j = left_jacobian(v)
    r = rotvec_to_rotmat(v)
    expected = torch.stack([skew(j[:, i]) @ r for i in range(3)], dim=-1)
    assert torch.allclose(derivative, expected, atol=1e-13)


@settings(max_examples=50)
@given(vectors, hnp.arrays(np.float64, 3, elements=st.floats(-1, 1)))
def test_left_jacobian_predicts_a_small_step(v, direction):
    v, step = torch.tensor(v), 1e-5 * torch.tensor(direction)
    moved = rotvec_to_rotmat(v + step)
    predicted = rotvec_to_rotmat(left_jacobian(v) @ step) @ rotvec_to_rotmat(v)
    assert torch.allclose(moved, predicted, atol=1e-9)


@pytest.mark.parametrize("angle", [*ANGLES, 4.0, 5.0, 6.0, 6.28])
def test_left_jacobian_inverse_is_the_inverse_up_to_two_pi(angle):
    j, inverse = left_jacobian(AXIS * angle), left_jacobian_inverse(AXIS * angle)
    scale = inverse.abs().max()
    assert torch.allclose(inverse @ j, torch.eye(3).double(), atol=2e-13 * scale)


def test_left_jacobian_inverse_at_pi_is_the_closed_form():
    v = torch.tensor([0.0, 0.0, math.pi], dtype=torch.float64)
    expected = torch.eye(3).double() - skew(v) / 2 + skew(v) @ skew(v) / math.pi**2
    assert torch.allclose(left_jacobian_inverse(v), expected, atol=1e-14)


@pytest.mark.parametrize("function", [rotvec_to_rotmat, left_jacobian, left_jacobian_inverse])
def test_gradients_hold_on_both_sides_of_the_seam_and_at_zero(function):
    lengths = torch.tensor([0.0, 1e-3, 0.4999999, 0.5000001, 1.7], dtype=torch.float64)
    v = (AXIS * lengths[:, None]).requires_grad_()
    assert torch.autograd.gradcheck(function, v)
    assert torch.autograd.gradgradcheck(function, v)


@given(vectors)
def test_six_numbers_survive_the_round_trip(v):
    r = rotvec_to_rotmat(torch.tensor(v))
    assert torch.allclose(rot6d_to_rotmat(rotmat_to_rot6d(r)), r, atol=1e-13)


@settings(max_examples=50)
@given(hnp.arrays(np.float64, 6, elements=st.floats(-4, 4)))
def test_any_six_numbers_give_a_rotation_unless_degenerate(x):
    if np.linalg.norm(np.cross(x[:3], x[3:])) < 1e-3:
        return
    r = rot6d_to_rotmat(torch.tensor(x))
    assert torch.allclose(r @ r.mT, torch.eye(3).double(), atol=1e-10)
    assert torch.linalg.det(r).item() == pytest.approx(1)


def test_six_numbers_are_the_columns_one_after_the_other():
    r = torch.arange(9.0).reshape(3, 3)
    assert rotmat_to_rot6d(r).tolist() == [0, 3, 6, 1, 4, 7]


def test_degenerate_six_numbers_stay_finite():
    x = torch.zeros(6, requires_grad=True)
    r = rot6d_to_rotmat(x)
    r.sum().backward()
    assert torch.isfinite(r).all()
    assert torch.isfinite(x.grad).all()


def test_leading_dimensions_are_kept_and_empty_batches_pass():
    v = torch.randn(2, 0, 5, 3)
    assert rotvec_to_rotmat(v).shape == (2, 0, 5, 3, 3)
    assert rotmat_to_rotvec(rotvec_to_rotmat(torch.randn(4, 5, 3))).shape == (4, 5, 3)


@pytest.mark.parametrize(
    "function", [skew, rotvec_to_rotmat, left_jacobian, left_jacobian_inverse, rot6d_to_rotmat]
)
def test_wrong_shapes_are_told(function):
    with pytest.raises(ValueError, match=r"must be \(\.\.\., [36]\), got \(4, 4\)"):
        function(torch.zeros(4, 4))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from([0.0, 1e-9, 1e-4, 1.0, 3.0, math.pi - 1e-7, math.pi])
)
def test_logarithms_are_roma_s(seed, angle):
    generator = torch.Generator().manual_seed(seed)
    axis = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    vector = angle * torch.nn.functional.normalize(axis, dim=-1)
    rotmat = rotvec_to_rotmat(vector)
    mine, theirs = rotmat_to_rotvec(rotmat), roma.rotmat_to_rotvec(rotmat)
    if angle > 3.1:  # either axis is right
        mine, theirs = rotvec_to_rotmat(mine), rotvec_to_rotmat(theirs)
    torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-5, 1e-3, 1.0, 3.0])
def test_logarithms_are_differentiable(angle):
    generator = torch.Generator().manual_seed(1)
    axis = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    vector = (angle * torch.nn.functional.normalize(axis, dim=-1)).requires_grad_()
    jacobian = torch.autograd.functional.jacobian(
        lambda v: rotmat_to_rotvec(rotvec_to_rotmat(v)).sum(0), vector
    )
    expected = torch.eye(3, dtype=torch.float64)[:, None].expand(3, 4, 3)
    torch.testing.assert_close(jacobian, expected, rtol=1e-6, atol=1e-6)


def test_the_nearest_rotation_is_roma_s():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(50, 3, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(nearest_rotmat(matrix), roma.special_procrustes(matrix))
    assert (torch.linalg.det(matrix) < 0).any()


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-5, 0.0099, 0.0101, 0.4, 0.6, 2.0, 3.14, 6.0])
def test_both_at_once_are_what_they_are_apart(angle):
    v = AXIS * angle
    rotmat, jacobian = rotmat_and_left_jacobian(v)
    torch.testing.assert_close(rotmat, rotvec_to_rotmat(v), atol=1e-14, rtol=0)
    torch.testing.assert_close(jacobian, left_jacobian(v), atol=1e-11, rtol=0)


@pytest.mark.parametrize("outer", [0.0, 1e-9, 1e-3, 1.0, 3.0, math.pi, 5.0])
@pytest.mark.parametrize("inner", [0.0, 1e-9, 0.5, 3.1])
def test_composed_axis_angles_turn_as_the_matrices_do(outer, inner):
    generator = torch.Generator().manual_seed(0)
    axes = torch.nn.functional.normalize(
        torch.randn(2, 8, 3, generator=generator, dtype=torch.float64), dim=-1
    )
    a, b = axes[0] * outer, axes[1] * inner
    both = compose_rotvecs(a, b)
    assert (both.norm(dim=-1) <= math.pi + 1e-12).all()
    expected = rotvec_to_rotmat(a) @ rotvec_to_rotmat(b)
    torch.testing.assert_close(rotvec_to_rotmat(both), expected, atol=1e-13, rtol=0)
    nothing = compose_rotvecs(a, -a)
    assert nothing.abs().max() < 1e-12
