import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bodymodel.files import load_body
from bodymodel.keypoints import FIT_KEYPOINTS
from regressor.crops import AffineCrop
from regressor.expose import Pictures
from regressor.upright import UPWARDS, about_view, labelled_upwards, upright_turn
from tests.regressor.test_expose import make, some_pictures

angles = st.floats(-math.pi, math.pi)


@settings(deadline=None)
@given(angles, st.booleans())
def test_the_turn_lets_the_direction_point_up(angle, mirrored):
    upwards = torch.tensor([[math.cos(angle), math.sin(angle)]])
    turn = upright_turn(upwards, mirrored)
    crop = AffineCrop.from_boxes(
        torch.tensor([[50.0, 40.0]]), torch.tensor([30.0]), 60, flip=torch.tensor([mirrored])
    ).turned(turn)
    ends = torch.stack([torch.tensor([[50.0, 40.0]]), torch.tensor([[50.0, 40.0]]) + upwards], 1)
    start, end = crop.to_crop(ends)[0]
    torch.testing.assert_close(end - start, torch.tensor([0.0, -2.0]), atol=1e-4, rtol=0)


@settings(deadline=None)
@given(angles, angles, st.booleans())
def test_a_crop_knows_its_turn_and_can_be_turned_further(first, further, flip):
    center, side = torch.tensor([[50.0, 40.0]]), torch.tensor([30.0])
    mirrored = torch.tensor([flip])
    crop = AffineCrop.from_boxes(center, side, 60, torch.tensor([first]), mirrored)
    off = torch.remainder(crop.rotation - first + math.pi, 2 * math.pi) - math.pi
    assert abs(float(off)) < 1e-4
    turned = crop.turned(torch.tensor([further]))
    last = first - further if flip else first + further
    both = AffineCrop.from_boxes(center, side, 60, torch.tensor([last]), mirrored)
    torch.testing.assert_close(turned.matrix, both.matrix, atol=1e-3, rtol=0)


def test_points_turn_with_the_picture():
    angle = torch.tensor([0.7])
    crop = AffineCrop.from_boxes(torch.zeros(1, 2), torch.tensor([2.0]), 2, angle)
    point = torch.tensor([[[0.3, -0.4]]])
    in_space = about_view(angle) @ torch.tensor([0.3, -0.4, 5.0])
    torch.testing.assert_close(crop.to_unit(point)[0, 0], in_space[0, :2])
    assert in_space[0, 2] == 5


def keypoints(**places):
    points = np.zeros((len(FIT_KEYPOINTS), 3), np.float32)
    for name, place in places.items():
        points[FIT_KEYPOINTS.index(name)] = (*place, 1)
    return points


def test_labels_say_which_way_is_up_or_nothing():
    low, high = UPWARDS["body"]
    assert labelled_upwards(keypoints(**{low: (5, 9), high: (6, 2)}), "body").tolist() == [1, -7]
    sides = dict(left_hip=(2, 8), right_hip=(4, 8), left_shoulder=(9, 6), right_shoulder=(9, 8))
    assert labelled_upwards(keypoints(**sides), "body").tolist() == [6, -1]
    assert labelled_upwards(keypoints(left_hip=(2, 8)), "body") is None
    assert labelled_upwards(keypoints(**{low: (5, 9), high: (5, 9)}), "body") is None
    assert labelled_upwards(keypoints(**sides), "left_hand") is None


@pytest.fixture(scope="module")
def body():
    return load_body()


def test_a_second_look_is_at_the_crop_turned_upright(body):
    model = make(body, parts=False, looks=2)
    pictures = some_pictures()
    first = make(body, parts=False)
    first.load_state_dict(model.state_dict())
    seen = first(pictures).final
    turn = model._turn_upright("body", seen, pictures.body_crop)
    assert (turn.abs() > 1e-3).all()
    turned = Pictures(pictures.source, pictures.source_crop, pictures.body_crop.turned(turn))
    wanted, found = first(turned).final, model(pictures).final
    # what is seen in the photo is the same, what is turned to the camera turns back
    torch.testing.assert_close(found.points_px, wanted.points_px, atol=1e-2, rtol=0)
    back = about_view(-turn)
    torch.testing.assert_close(found.points, wanted.points @ back.mT, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.rotations[:, 1:], wanted.rotations[:, 1:])


@pytest.mark.parametrize("angle", [0.0, 0.6])
@pytest.mark.parametrize("upright", [False, True])
def test_parts_are_seen_in_the_frame_of_the_bodys_crop(body, angle, upright):
    """Fingers of the body's answer point up in their crop, however the body's crop is turned."""
    model = make(body, upright_parts=upright, hand_box=3.0)
    pictures = some_pictures()
    turned = pictures.body_crop.turned(torch.full((2,), angle))
    out = model(Pictures(pictures.source, pictures.source_crop, turned))
    for part, (low, high) in UPWARDS.items():
        if part == "body":
            continue
        ends = out.body.points_px[:, [model.point_names.index(n) for n in (low, high)]]
        inside = out.crops[part].to_unit(ends)
        way = torch.nn.functional.normalize(inside[:, 1] - inside[:, 0], dim=-1)
        if upright:
            torch.testing.assert_close(way[:, 1], -torch.ones(2), atol=1e-4, rtol=0)
            continue
        plain = turned.to_unit(ends)
        plain = torch.nn.functional.normalize(plain[:, 1] - plain[:, 0], dim=-1)
        if part == "left_hand":
            plain = plain * torch.tensor([-1.0, 1.0])
        torch.testing.assert_close(way, plain, atol=1e-3, rtol=0)


def test_a_hand_that_nothing_corrects_comes_back_as_it_went(body):
    """Turning into the upright crop's frame and back again leaves the wrist where it was."""
    from tests.regressor.test_expose import silence_parts

    model = make(body, upright_parts=True)
    silence_parts(model)
    out = model(some_pictures())
    torch.testing.assert_close(out.final.rotations, out.body.rotations, atol=1e-5, rtol=0)
