import numpy as np
import pytest
import torch

from bodymodel.keypoints import FIT_KEYPOINTS
from regressor.augment import AugmentConfig, make_batch
from regressor.kinematics import BodyPoints

ONE = AugmentConfig(
    scale=0.2, rotation_deg=40, rotation_share=1.0, shift=0.05, flip_share=0.0, colour=0.0
)
FLIPPED = AugmentConfig(
    scale=0, rotation_deg=0, rotation_share=0, shift=0, flip_share=1.0, colour=0.0
)


def batch_of(rendered, config, count=6, seed=0):
    examples = [rendered[k] for k in range(count)]
    return make_batch(examples, config, 96, 192, np.random.default_rng(seed)).to("cpu")


def similarity_residual(a, b, weight):
    """How far 2D points are from scaled and shifted others, in parts of their own spread."""
    weight = weight / weight.sum(1, keepdim=True)
    a = a - (weight[..., None] * a).sum(1, keepdim=True)
    b = b - (weight[..., None] * b).sum(1, keepdim=True)
    scale = (weight[..., None] * a * b).sum((1, 2)) / (weight[..., None] * a * a).sum((1, 2))
    off = (scale[:, None, None] * a - b).norm(dim=-1)
    return (weight * off).sum(1) / (weight * b.norm(dim=-1)).sum(1), scale


@pytest.mark.parametrize(
    "config", [AugmentConfig.none(), ONE, FLIPPED], ids=["plain", "turned", "flipped"]
)
def test_labels_in_the_crop_agree_with_each_other(rendered, config):
    """The crop's 2D points are nearly a scaled and shifted view of its 3D points, unturned."""
    batch = batch_of(rendered, config)
    targets = batch.targets
    unit = batch.pictures.body_crop.to_unit(targets.keypoints_2d[..., :2])
    off, scale = similarity_residual(
        targets.keypoints_3d[..., :2], unit, targets.keypoints_2d[..., 2]
    )
    assert (scale > 0).all()
    assert off.max() < 0.2  # perspective is not orthography


@pytest.mark.parametrize(
    "config", [AugmentConfig.none(), ONE, FLIPPED], ids=["plain", "turned", "flipped"]
)
def test_rotations_pose_the_points_of_the_label(rendered, config, open_body):
    targets = batch_of(rendered, config).targets
    points = BodyPoints(open_body)
    rows = [FIT_KEYPOINTS.index(name) for name in points.names]
    expression = torch.where(targets.expression_weight[:, None] > 0, targets.expression, 0)
    made = points(targets.rotations, targets.betas, expression)
    off = (made - targets.keypoints_3d[:, rows, :3]).norm(dim=-1)
    body = [k for k, name in enumerate(points.names) if "hand" not in name and k < 25]
    # the mean shape's left and right differ a little from each other's mirror image
    assert off[:, body].max() < 0.012


def test_flipping_drops_the_expression_and_mirrors_the_picture(rendered):
    plain, flipped = batch_of(rendered, AugmentConfig.none()), batch_of(rendered, FLIPPED)
    assert (flipped.targets.expression_weight == 0).all()
    a = plain.pictures.look(plain.pictures.body_crop)
    b = flipped.pictures.look(flipped.pictures.body_crop)
    assert (a.flip(-1) - b).abs().mean() < 0.02


def test_the_picture_is_where_the_labels_say(rendered):
    """A person's pixels move with the labels: the crop at the pelvis shows the same colour."""
    plain, turned = batch_of(rendered, AugmentConfig.none()), batch_of(rendered, ONE)
    pelvis = FIT_KEYPOINTS.index("pelvis")
    colours = []
    for batch in (plain, turned):
        look = batch.pictures.look(batch.pictures.body_crop)
        at = batch.pictures.body_crop.to_unit(batch.targets.keypoints_2d[:, [pelvis], :2])
        colours.append(
            torch.nn.functional.grid_sample(look, at[:, None], align_corners=False)[..., 0, 0]
        )
    assert (colours[0] - colours[1]).abs().mean() < 0.08


def test_same_seed_same_batch(rendered):
    a, b = batch_of(rendered, AugmentConfig(), seed=5), batch_of(rendered, AugmentConfig(), seed=5)
    assert torch.equal(a.pictures.source, b.pictures.source)
    assert torch.equal(a.targets.keypoints_3d, b.targets.keypoints_3d)
