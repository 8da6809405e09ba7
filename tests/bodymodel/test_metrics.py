import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bodymodel.metrics import (
    align_root,
    mpjpe_mm,
    pa_mpjpe_mm,
    pa_pve_mm,
    procrustes_align,
    pve_mm,
    reproj_px,
)
from bodymodel.rotations import rotvec_to_rotmat

F64 = torch.float64


def cloud(*shape, seed=0):
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("metric", [mpjpe_mm, pa_mpjpe_mm, pve_mm, pa_pve_mm])
def test_identical_bodies_have_no_error(metric):
    points = cloud(2, 3, 20)
    error = metric(points, points)
    assert error.shape == (2, 3)
    assert error.abs().max() < 1e-9


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.floats(0.05, 20), st.floats(0, math.pi))
def test_procrustes_does_not_see_a_similarity(seed, scale, angle):
    truth, noisy = cloud(30, seed=seed), cloud(30, seed=seed) + 0.1 * cloud(30, seed=seed + 1)
    axis = torch.nn.functional.normalize(cloud(1, seed=seed + 2), dim=-1)[0]
    moved = scale * noisy @ rotvec_to_rotmat(axis * angle).mT + cloud(1, seed=seed + 3)
    torch.testing.assert_close(pa_mpjpe_mm(moved, truth), pa_mpjpe_mm(noisy, truth))
    assert pa_mpjpe_mm(truth * scale + 1, truth) < 1e-8


def test_procrustes_agrees_with_scipy():
    from scipy.spatial import procrustes

    a, b = cloud(15, seed=1), cloud(15, seed=2)
    aligned = procrustes_align(a, b)
    centred = b - b.mean(0)
    _, _, disparity = procrustes(b.numpy(), a.numpy())
    ours = (aligned - b).square().sum() / centred.square().sum()
    assert ours.item() <= disparity * (1 + 1e-9) or ours.item() == pytest.approx(disparity)
    # SciPy may mirror; where it need not, both are the same.
    near = b + 0.05 * a
    _, _, disparity = procrustes(b.numpy(), near.numpy())
    ours = (procrustes_align(near, b) - b).square().sum() / centred.square().sum()
    assert ours.item() == pytest.approx(disparity, rel=1e-9)


def test_procrustes_never_mirrors():
    points = cloud(20)
    mirrored = points * torch.tensor([-1.0, 1, 1])
    assert pa_mpjpe_mm(mirrored, points) > 100
    # The best proper rotation, found the slow way, is not better.
    best = min(
        (scale * mirrored @ rotvec_to_rotmat(v).mT - points).square().sum().item()
        for v in cloud(300, seed=5)
        for scale in (0.3, 0.6, 1.0)
    )
    centred = (procrustes_align(mirrored, points) - points).square().sum().item()
    assert centred <= best


@pytest.mark.parametrize("flat", ["plane", "line", "point"])
def test_procrustes_of_degenerate_points_is_finite(flat):
    keep = {"plane": 2, "line": 1, "point": 0}[flat]
    points = cloud(9)
    points[:, keep:] = 0
    aligned = procrustes_align(points, points + 1)
    torch.testing.assert_close(aligned, points + 1)


def test_root_alignment_sees_a_rotation_but_no_translation():
    truth = cloud(20)
    turned = truth @ rotvec_to_rotmat(torch.tensor([0, 0, 0.5], dtype=F64)).mT
    assert mpjpe_mm(truth + 3, truth) < 1e-9
    assert mpjpe_mm(turned, truth) > 100
    assert mpjpe_mm(truth + 3, truth, root=None).item() == pytest.approx(3000 * math.sqrt(3))


def test_by_hand():
    """Two points: root-aligned, one is off by 3-4-5; the mean of 0 and 50 mm is 25."""
    truth = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    predicted = torch.tensor([[9.0, 9, 9], [10.03, 9.04, 9]])
    assert mpjpe_mm(predicted, truth).item() == pytest.approx(25, rel=1e-3)
    assert mpjpe_mm(predicted, truth, valid=torch.tensor([False, True])).item() == pytest.approx(
        50, rel=1e-3
    )
    middle = mpjpe_mm(predicted, truth, root=(0, 1)).item()
    assert middle == pytest.approx(25, rel=1e-3)
    roots = predicted[0], truth[0]
    assert pve_mm(predicted, truth, *roots).item() == pytest.approx(25, rel=1e-3)
    assert align_root(truth, (0, 1)).tolist() == [[-0.5, 0, 0], [0.5, 0, 0]]


def test_hidden_joints_do_not_count():
    truth, predicted = cloud(4, 12), cloud(4, 12) + 0.05 * cloud(4, 12, seed=1)
    valid = torch.ones(4, 12, dtype=torch.bool)
    valid[:, 5:] = False
    spoilt = predicted.clone()
    spoilt[:, 5:] = math.nan
    for metric in (mpjpe_mm, pa_mpjpe_mm):
        expected = metric(predicted[:, :5], truth[:, :5])
        torch.testing.assert_close(metric(spoilt, truth, valid=valid), expected)


def test_one_bad_item_is_nan_and_alone():
    truth, predicted = cloud(3, 12), cloud(3, 12, seed=1)
    alone = pa_mpjpe_mm(predicted, truth)
    predicted[1, 4] = math.inf
    got = pa_mpjpe_mm(predicted, truth)
    assert torch.isnan(got).tolist() == [False, True, False]
    torch.testing.assert_close(got[[0, 2]], alone[[0, 2]])
    none = torch.zeros(3, 12, dtype=torch.bool)
    assert torch.isnan(pa_mpjpe_mm(cloud(3, 12), truth, valid=none)).all()


def test_float32_is_good_enough_for_millimetres():
    truth = cloud(500)
    predicted = truth + 0.001 * cloud(500, seed=1)
    single = pa_pve_mm(predicted.float() + 5, truth.float() - 5)
    assert single.item() == pytest.approx(pa_pve_mm(predicted, truth).item(), rel=1e-2)


def test_reprojection():
    seen = torch.tensor([[10.0, 10, 0.9], [20, 20, 0.1], [0, 0, 0]])
    projected = torch.tensor([[13.0, 14], [20, 30], [500, 500]])
    assert reproj_px(projected, seen).item() == pytest.approx(7.5)
    assert reproj_px(projected, seen, min_confidence=0.5).item() == pytest.approx(5)
    assert torch.isnan(reproj_px(projected, seen * 0))
    batch = reproj_px(projected.expand(2, 3, 3, 2), seen)
    np.testing.assert_allclose(batch.numpy(), np.full((2, 3), 7.5))


def test_errors():
    with pytest.raises(ValueError, match="must both be"):
        mpjpe_mm(cloud(4), cloud(5))
    with pytest.raises(ValueError, match="both roots"):
        pve_mm(cloud(4), cloud(4), cloud(1)[0])
    with pytest.raises(ValueError, match="valid must be"):
        pa_mpjpe_mm(cloud(4), cloud(4), torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="projected_2d"):
        reproj_px(cloud(4), cloud(4))
