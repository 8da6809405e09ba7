import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from bodymodel.rotations import rotvec_to_rotmat
from regressor.losses import (
    centred_keypoint_loss,
    keypoint_loss,
    masked,
    rotation_angle,
    rotation_loss,
    shape_margin_loss,
    squared_loss,
)


@given(st.floats(0, 3.1))
def test_angle_between_rotations(angle):
    axis = torch.nn.functional.normalize(torch.tensor([1.0, 2.0, -1.0]), dim=0)
    start = rotvec_to_rotmat(torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64))
    turn = rotvec_to_rotmat((angle * axis).double())
    assert abs(float(rotation_angle(start, start @ turn)) - angle) < 2e-3 + 1e-3 * angle


def test_angle_has_a_finite_slope_at_both_ends():
    for angle in (0.0, math.pi):
        a = torch.eye(3, requires_grad=True)
        b = rotvec_to_rotmat(torch.tensor([angle, 0.0, 0.0]))
        rotation_angle(a, b).backward()
        assert torch.isfinite(a.grad).all()


def test_reductions():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    weight = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert float(masked(values, weight, "sum")) == (1 + 3 + 4) / 2
    assert abs(float(masked(values, weight, "mean")) - (1 + 3 + 4) / 3) < 1e-6
    assert float(masked(values, torch.zeros(2, 2), "mean")) == 0


def test_missing_labels_count_nothing_even_as_nan():
    points = torch.randn(2, 3, 2, requires_grad=True)
    target = torch.full((2, 3, 2), torch.nan)
    target[0, 0] = 1
    weight = torch.zeros(2, 3)
    weight[0, 0] = 1
    loss = keypoint_loss(points, target, weight, "sum")
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(points.grad).all()
    assert points.grad[1].abs().sum() == 0


def test_terms_are_zero_at_the_truth():
    rotations = rotvec_to_rotmat(torch.randn(2, 4, 3))
    assert float(rotation_loss(rotations, rotations, torch.ones(2, 4), "mean")) < 1e-5
    betas = torch.randn(2, 10)
    assert float(squared_loss(betas, betas, torch.ones(2), "sum")) == 0
    assert float(shape_margin_loss(betas.clamp(-3, 3))) == 0
    assert float(shape_margin_loss(torch.full((1, 10), 5.0))) == 40


def test_centred_points_do_not_know_where_they_are():
    points, shift = torch.randn(2, 5, 2), torch.tensor([[[3.0, -1.0]], [[0.0, 7.0]]])
    weight = torch.tensor([[1.0, 1, 0, 1, 0.5], [1, 1, 1, 1, 1]])
    target = points + shift
    target[0, 2] = torch.nan  # not labelled
    off = centred_keypoint_loss(points, target, weight, "sum")
    assert float(off) < 1e-5
    away = centred_keypoint_loss(2 * points, target, weight, "sum")
    assert torch.isfinite(away) and float(away) > 0.1
