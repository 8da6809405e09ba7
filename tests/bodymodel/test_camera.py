import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bodymodel.camera import (
    Crop,
    default_focal_px,
    focal_from_fov,
    project,
    transl_to_weak,
    weak_project,
    weak_to_transl,
)

F64 = torch.float64


def random_crop(*batch, angle=False, seed=0, width=192, height=256):
    g = torch.Generator().manual_seed(seed)
    return Crop(
        torch.rand(*batch, 2, generator=g, dtype=F64) * 1000,
        50 + torch.rand(*batch, generator=g, dtype=F64) * 500,
        width,
        height,
        torch.rand(*batch, generator=g, dtype=F64) * 6 - 3 if angle else None,
    )


def test_project_by_hand():
    points = torch.tensor([[0.1, -0.2, 2.0], [0.0, 0.0, 5.0]])
    got = project(points, 500.0, torch.tensor([64.0, 32.0]))
    assert got.tolist() == [[89.0, -18.0], [64.0, 32.0]]


def test_project_takes_one_camera_per_batch_entry():
    points = torch.rand(4, 7, 3, dtype=F64) + 1
    focal, center = torch.rand(4, dtype=F64) + 1, torch.rand(4, 2, dtype=F64)
    got = project(points, focal, center)
    for i in range(4):
        torch.testing.assert_close(got[i], project(points[i], focal[i], center[i]))


def test_project_agrees_with_opencv():
    cv2 = pytest.importorskip("cv2")
    import numpy as np

    points = np.random.default_rng(0).normal(size=(20, 3)) + np.array([0, 0, 6])
    matrix = np.array([[700.0, 0, 320], [0, 700, 240], [0, 0, 1]])
    expected, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), matrix, None)
    got = project(torch.tensor(points), 700.0, torch.tensor([320.0, 240.0], dtype=F64))
    np.testing.assert_allclose(got.numpy(), expected[:, 0], atol=1e-9)


def test_focal_lengths():
    assert default_focal_px(300, 400) == 500
    assert focal_from_fov(math.pi / 2, 640).item() == pytest.approx(320)
    edge = project(
        torch.tensor([[math.tan(0.3), 0.0, 1.0]]), focal_from_fov(0.6, 640), torch.zeros(2)
    )
    assert edge[0, 0].item() == pytest.approx(320, rel=1e-5)


@pytest.mark.parametrize("angle", [False, True])
def test_crop_maps_undo_each_other(angle):
    crop = random_crop(5, angle=angle)
    points = torch.rand(5, 9, 2, dtype=F64) * 800
    torch.testing.assert_close(crop.to_full(crop.to_crop(points)), points)
    torch.testing.assert_close(crop.from_ndc(crop.to_ndc(points)), points)


def test_crop_corners():
    """The box's corners are the crop's corners, in pixel corners: x in [0, W]."""
    crop = Crop(torch.tensor([100.0, 50.0]), torch.tensor(40.0), 80, 120)
    corners = torch.tensor([[80.0, 20.0], [120.0, 80.0], [100.0, 50.0]])
    assert crop.to_crop(corners).tolist() == [[0, 0], [80, 120], [40, 60]]
    ndc = crop.to_ndc(crop.to_crop(corners))
    assert ndc.tolist() == [[-1, -1.5], [1, 1.5], [0, 0]]


def test_a_turned_crop_is_turned_clockwise_in_the_image():
    crop = Crop(torch.tensor([100.0, 50.0]), torch.tensor(40.0), 40, 40, torch.tensor(math.pi / 2))
    # Its right-hand side is what lies below the centre in the photo.
    got = crop.to_full(torch.tensor([[40.0, 20.0]]))
    torch.testing.assert_close(got, torch.tensor([[100.0, 70.0]]))


@settings(max_examples=50)
@given(
    st.tuples(st.floats(-50, 500), st.floats(-50, 500), st.floats(1, 300), st.floats(1, 300)),
    st.sampled_from([(224, 224), (192, 256), (512, 384)]),
)
def test_crop_from_box_holds_the_box_tightly(box, shape):
    x, y, w, h = box
    width, height = shape
    crop = Crop.from_box(torch.tensor([x, y, x + w, y + h], dtype=F64), width, height, 1.0)
    corners = crop.to_crop(torch.tensor([[x, y], [x + w, y + h]], dtype=F64))
    assert corners.min() >= -1e-6
    assert (corners <= torch.tensor([width, height], dtype=F64) + 1e-6).all()
    touching = (corners[0].abs() < 1e-6) & ((corners[1] - torch.tensor(shape)).abs() < 1e-6)
    assert touching.any()


def test_sampling_a_crop_at_its_own_resolution_copies_the_pixels():
    """The one definition of a pixel: an unscaled crop on the grid is a slice."""
    image = torch.rand(1, 3, 40, 60)
    crop = Crop(torch.tensor([[30.0, 20.0]]), torch.tensor([16.0]), 16, 8)
    got = torch.nn.functional.grid_sample(
        image, crop.sampling_grid(60, 40), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(got, image[..., 16:24, 22:38], atol=1e-5, rtol=0)


def test_the_crops_camera_sees_the_same():
    crop = random_crop(4)
    focal = torch.tensor([500.0, 700, 900, 1100], dtype=F64)
    center = torch.rand(4, 2, dtype=F64) * 600
    points = torch.randn(4, 6, 3, dtype=F64) + torch.tensor([0, 0, 8.0])
    direct = project(points, *crop.camera(focal, center))
    torch.testing.assert_close(direct, crop.to_crop(project(points, focal, center)))


def random_weak(*batch, seed=3):
    g = torch.Generator().manual_seed(seed)
    weak = torch.randn(*batch, 3, generator=g, dtype=F64) * 0.3
    weak[..., 0] = 0.5 + weak[..., 0].abs()
    return weak


def test_weak_and_perspective_agree_on_the_bodys_plane():
    crop, weak = random_crop(6), random_weak(6)
    focal = torch.full((6,), 800.0, dtype=F64)
    center = torch.tensor([320.0, 240.0], dtype=F64).expand(6, 2)
    points = torch.randn(6, 10, 3, dtype=F64)
    points[..., 2] = 0
    seen = crop.from_ndc(weak_project(points, weak))
    transl = weak_to_transl(weak, crop, focal, center)
    expected = crop.to_crop(project(points + transl[:, None], focal, center))
    torch.testing.assert_close(seen, expected)


def test_a_long_lens_is_weak_perspective():
    crop, weak = random_crop(6), random_weak(6)
    center = torch.zeros(6, 2, dtype=F64)
    points = torch.randn(6, 10, 3, dtype=F64) * 0.3
    seen = weak_project(points, weak)
    off = []
    for focal in (1e5, 1e6):
        transl = weak_to_transl(weak, crop, focal, center)
        there = crop.to_ndc(crop.to_crop(project(points + transl[:, None], focal, center)))
        off.append((there - seen).abs().max().item())
    assert off[1] < 0.02
    assert off[1] == pytest.approx(off[0] / 10, rel=0.05)


def test_weak_round_trip_and_gradients():
    crop, weak = random_crop(2, 3), random_weak(2, 3)
    focal, center = torch.full((2, 3), 900.0, dtype=F64), torch.rand(2, 3, 2, dtype=F64) * 100
    back = transl_to_weak(weak_to_transl(weak, crop, focal, center), crop, focal, center)
    torch.testing.assert_close(back, weak)

    def pixels(w, f, c, size):
        box = Crop(c, size, 64, 64)
        transl = weak_to_transl(w, box, f, center[0, 0])
        points = torch.tensor([[0.1, 0.2, 0.3], [-0.1, 0.0, 0.1]], dtype=F64)
        return box.to_crop(project(points + transl[..., None, :], f, center[0, 0]))

    inputs = [weak[0, 0], focal[0, 0], crop.center_px[0, 0], crop.size_px[0, 0]]
    assert torch.autograd.gradcheck(pixels, [x.clone().requires_grad_() for x in inputs])


def test_errors():
    with pytest.raises(ValueError, match="points must be"):
        project(torch.zeros(3, 2), 1.0, torch.zeros(2))
    with pytest.raises(ValueError, match="center_px must be"):
        project(torch.zeros(3, 3), 1.0, torch.zeros(3))
    with pytest.raises(ValueError, match="upright"):
        random_crop(1, angle=True).camera(1.0, torch.zeros(2, dtype=F64))
    with pytest.raises(ValueError, match="bbox_xyxy_px"):
        Crop.from_box(torch.zeros(3), 4, 4)
