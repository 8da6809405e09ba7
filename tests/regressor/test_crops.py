import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regressor.crops import AffineCrop, box_around


def a_crop(angle=0.0, flip=False, size=64):
    return AffineCrop.from_boxes(
        torch.tensor([[100.0, 60.0]]),
        torch.tensor([80.0]),
        size,
        torch.tensor([angle]),
        torch.tensor([flip]),
    )


@given(st.floats(-3, 3), st.booleans(), st.integers(8, 300))
def test_maps_are_inverse_and_know_their_box(angle, flip, size):
    crop = a_crop(angle, flip, size)
    points = torch.tensor([[[3.0, 7.0], [120.0, -40.0]]])
    torch.testing.assert_close(crop.to_image(crop.to_crop(points)), points, atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(crop.from_unit(crop.to_unit(points)), points, atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(crop.side_px, torch.tensor([80.0]), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(crop.center_px, torch.tensor([[100.0, 60.0]]), rtol=1e-4, atol=1e-2)


def test_corners_of_the_box_are_corners_of_the_crop():
    corners = torch.tensor([[[60.0, 20.0], [140.0, 100.0]]])
    torch.testing.assert_close(
        a_crop().to_crop(corners), torch.tensor([[[0.0, 0.0], [64.0, 64.0]]])
    )
    mirrored = a_crop(flip=True).to_crop(corners)
    torch.testing.assert_close(mirrored, torch.tensor([[[64.0, 0.0], [0.0, 64.0]]]))


def test_turning_is_clockwise_as_seen():
    right = torch.tensor([[[120.0, 60.0]]])  # right of the middle
    turned = a_crop(math.pi / 2).to_unit(right)
    torch.testing.assert_close(turned, torch.tensor([[[0.0, 0.5]]]), atol=1e-5, rtol=0)


def test_sampling_whole_pixels_copies_them():
    image = torch.arange(2 * 3 * 10 * 12, dtype=torch.float32).view(2, 3, 10, 12)
    crop = AffineCrop.from_boxes(torch.tensor([[5.0, 4.0], [6.0, 5.0]]), torch.full((2,), 4.0), 4)
    got = crop.sample(image)
    torch.testing.assert_close(got[0], image[0, :, 2:6, 3:7])
    torch.testing.assert_close(got[1], image[1, :, 3:7, 4:8])


def test_outside_is_black_and_mirroring_mirrors():
    image = torch.ones(1, 1, 8, 8)
    crop = AffineCrop.from_boxes(torch.tensor([[0.0, 0.0]]), torch.tensor([8.0]), 8)
    assert crop.sample(image)[0, 0, :4].abs().max() == 0
    image = torch.rand(1, 3, 8, 8)
    boxes = torch.tensor([[4.0, 4.0]]), torch.tensor([8.0])
    plain = AffineCrop.from_boxes(*boxes, 8)
    mirrored = AffineCrop.from_boxes(*boxes, 8, flip=torch.tensor([True]))
    torch.testing.assert_close(mirrored.sample(image), plain.sample(image).flip(-1))


def test_a_crop_of_a_crop_is_the_crop():
    rng = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(1, 3, 6, 6, generator=rng), size=96, mode="bilinear"
    )
    first = AffineCrop.from_boxes(torch.tensor([[48.0, 48.0]]), torch.tensor([64.0]), 64)
    second = AffineCrop.from_boxes(
        torch.tensor([[50.0, 45.0]]), torch.tensor([20.0]), 40, torch.tensor([0.3])
    )
    points = torch.tensor([[[48.0, 50.0]]])
    through = second.after(first).to_crop(first.to_crop(points))
    torch.testing.assert_close(through, second.to_crop(points), atol=1e-4, rtol=0)
    direct = second.sample(smooth)
    torch.testing.assert_close(
        second.after(first).sample(first.sample(smooth)), direct, atol=1e-4, rtol=0
    )


def test_gradients_reach_the_map():
    center = torch.tensor([[10.0, 10.0]], requires_grad=True)
    image = torch.arange(20.0).expand(1, 1, 20, 20).contiguous()
    AffineCrop.from_boxes(center, torch.tensor([8.0]), 8).sample(image).mean().backward()
    torch.testing.assert_close(center.grad, torch.tensor([[1.0, 0.0]]), atol=1e-4, rtol=0)


def test_box_around_points():
    points = torch.tensor([[[0.0, 0.0], [10.0, 4.0], [99.0, 99.0]]]).expand(2, -1, -1)
    seen = torch.tensor([[True, True, False], [False, False, False]])
    center, side = box_around(points, seen, 2.0)
    np.testing.assert_allclose(center[0], [5, 2])
    assert side.tolist() == [20.0, 0.0]


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="center_px must be"):
        AffineCrop.from_boxes(torch.zeros(2, 3), torch.zeros(2), 4)
    with pytest.raises(ValueError, match="matrix must be"):
        AffineCrop(torch.zeros(2, 3, 3), 4)
