from dataclasses import replace

import pytest
import torch

from bodymodel.files import load_body
from regressor.crops import AffineCrop
from regressor.expose import PART_NAMES, Expose, ExposeConfig, Pictures
from regressor.expose_loss import expose_loss
from regressor.kinematics import absolute_rotations, mirror_rotations
from regressor.losses import LossWeights
from regressor.targets import Targets


@pytest.fixture(scope="module")
def body():
    return load_body()


def make(body, **changes):
    torch.manual_seed(0)
    return Expose(body, replace(ExposeConfig.tiny(), **changes)).eval()


def some_pictures(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(batch, 3, 12, 12, generator=generator)
    image = torch.nn.functional.interpolate(small, size=192, mode="bilinear")
    center = torch.full((batch, 2), 300.0)
    return Pictures(
        image,
        AffineCrop.from_boxes(center, torch.full((batch,), 420.0), 192),
        AffineCrop.from_boxes(center, torch.full((batch,), 300.0), 128),
    )


def silence_parts(model):
    """Make the parts' networks correct nothing."""
    for expert in (model.hand, model.head):
        for step in expert.head.steps:
            torch.nn.init.zeros_(step[-1].weight)
            torch.nn.init.zeros_(step[-1].bias)


def test_starts_upright_facing_the_camera_inside_the_crop(body):
    model = make(body, parts=False)
    for step in model.body.head.steps:
        torch.nn.init.zeros_(step[-1].weight)
    pictures = some_pictures()
    out = model(pictures).final
    names = list(model.point_names)
    head, foot = names.index("head_top"), names.index("left_ankle")
    left, right = names.index("left_wrist"), names.index("right_wrist")
    assert (out.points_px[:, head, 1] < out.points_px[:, foot, 1] - 100).all()
    assert (out.points_px[:, left, 0] > out.points_px[:, right, 0] + 100).all()
    nose, pelvis = names.index("nose"), names.index("pelvis")
    assert (out.points[:, nose, 2] < out.points[:, pelvis, 2]).all()
    unit = pictures.body_crop.to_unit(out.points_px)
    assert unit.abs().max() < 1


def test_without_corrections_of_the_parts_the_body_stands(body):
    model = make(body)
    silence_parts(model)
    out = model(some_pictures())
    torch.testing.assert_close(out.final.rotations, out.body.rotations, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.final.expression, out.body.expression)
    torch.testing.assert_close(out.final.points, out.body.points, atol=1e-5, rtol=0)


def test_parts_replace_wrists_fingers_jaw_and_expression_only(body):
    model = make(body)
    with torch.no_grad():
        for expert in (model.hand, model.head):
            for step in expert.head.steps:
                step[-1].bias.normal_(std=0.05)
    out = model(some_pictures())
    changed = (out.final.rotations - out.body.rotations).abs().amax((0, 2, 3)) > 1e-4
    expected = torch.zeros(55, dtype=torch.bool)
    expected[[20, 21, 22, *range(25, 55)]] = True
    assert torch.equal(changed, expected)
    assert torch.equal(out.final.betas, out.body.betas)
    assert not torch.equal(out.final.expression, out.body.expression)


def test_the_hand_network_says_how_the_wrist_is_turned_absolutely(body):
    model = make(body)
    out = model(some_pictures())
    absolute = absolute_rotations(out.final.rotations, body.parents)
    local = absolute[:, 18].mT @ absolute[:, 20]
    torch.testing.assert_close(local, out.final.rotations[:, 20], atol=1e-5, rtol=0)


def test_parts_are_looked_for_where_the_body_says(body):
    model = make(body, hand_box=2.0)
    out = model(some_pictures())
    for name in PART_NAMES:
        points = out.body.points_px[:, model.part_points(name)]
        low, high = points.amin(1), points.amax(1)
        crop = out.crops[name]
        torch.testing.assert_close(crop.center_px, (low + high) / 2, atol=0.05, rtol=1e-4)
        side = (2 * (high - low).amax(-1)).clamp_min(8)
        torch.testing.assert_close(crop.side_px, side, atol=0.05, rtol=1e-3)


def test_a_mirrored_hand_is_seen_the_same(body):
    """The left hand goes through the right hand's network as its mirror image."""
    model = make(body)
    pictures = some_pictures(1)
    crop = AffineCrop.from_boxes(
        torch.tensor([[300.0, 300.0]]), torch.tensor([80.0]), 96, flip=torch.tensor([True])
    )
    right = AffineCrop.from_boxes(torch.tensor([[300.0, 300.0]]), torch.tensor([80.0]), 96)
    mirrored = Pictures(pictures.source.flip(-1), pictures.source_crop, pictures.body_crop)
    torch.testing.assert_close(pictures.look(crop), mirrored.look(right), atol=1e-5, rtol=0)
    body_out = model.assemble(
        model.layouts["body"].split(model.body.head.mean[None]), pictures.body_crop
    )
    absolute = absolute_rotations(body_out.rotations, body.parents)
    left = model._look_at_hand(pictures.look(crop), body_out, absolute, "left_hand", torch.zeros(1))
    swapped = body_out.rotations.clone()
    swapped[:, 40:55] = mirror_rotations(body_out.rotations[:, 25:40])
    other = absolute.clone()
    other[:, 21] = mirror_rotations(absolute[:, 20])
    again = model._look_at_hand(
        mirrored.look(right),
        replace(body_out, rotations=swapped),
        other,
        "right_hand",
        torch.zeros(1),
    )
    torch.testing.assert_close(left["hand_pose"], mirror_rotations(again["hand_pose"]))
    torch.testing.assert_close(left["wrist"], mirror_rotations(again["wrist"]))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_hands_loss_reaches_the_body_only_if_it_is_not_frozen(body, frozen):
    model = make(body, freeze_body=frozen).train()
    pictures, targets = some_pictures(), labels(model, body)
    terms = expose_loss(model, model(pictures), pictures, targets, LossWeights())
    terms["left_hand_2d"].backward()
    of_body = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.body.parameters()]
    of_hand = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.hand.parameters()]
    assert any(of_hand)
    assert any(of_body) == (not frozen)
    assert model.body.training == (not frozen)


def labels(model, body):
    """The truth of two persons, from the model's own body."""
    from bodymodel.keypoints import FIT_KEYPOINTS
    from regressor.kinematics import BodyPoints, all_rotations

    rows = [FIT_KEYPOINTS.index(n) for n in model.point_names]
    values = model.layouts["body"].split(model.body.head.mean[None].expand(2, -1))
    rotations = all_rotations(values)
    points = BodyPoints(body)(rotations, torch.zeros(2, 10))
    targets = Targets.unknown(2)
    targets.keypoints_3d[:, rows, :3], targets.keypoints_3d[:, rows, 3] = points.detach(), 1
    targets.keypoints_2d[:, rows, :2] = 120 * points[..., :2].detach() + 300
    targets.keypoints_2d[:, rows, 2] = 1
    targets.rotations[:] = rotations
    targets.rotation_weight[:] = 1
    targets.betas_weight[:] = 1
    return targets


def test_every_known_label_pulls_and_no_unknown_one_does(body):
    model = make(body)
    pictures = some_pictures()
    with torch.no_grad():
        out = model(pictures)
    none = expose_loss(model, out, pictures, Targets.unknown(2), LossWeights())
    assert all(float(v) == 0 for k, v in none.items() if k != "betas_margin")
    some = expose_loss(model, out, pictures, labels(model, body), LossWeights())
    assert all(
        float(some[k]) > 0
        for k in ("body_2d", "points_3d", "left_hand_2d", "right_hand_2d", "head_2d", "rotations")
    )


@pytest.mark.slow
def test_overfits_a_few_pictures(body):
    """Noise pictures and their labels: what cannot be learned by rote would show here."""
    model = make(body, parts=False).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    pictures, targets = some_pictures(), labels(model, body)
    turned = targets.rotations.clone()
    turned[1, 16:18] = turned[1, 16:18] @ torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    targets = replace(targets, rotations=turned, keypoints_3d=targets.keypoints_3d * 0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(150):
        out = model(pictures)
        loss = expose_loss(model, out, pictures, targets, LossWeights())["rotations"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) / 53 < 0.05  # radians a joint
