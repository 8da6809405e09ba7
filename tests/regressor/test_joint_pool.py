import math
from dataclasses import replace

import pytest
import torch

from bodymodel.files import load_body
from regressor.experts import JointPool
from regressor.expose import Expose, ExposeConfig
from regressor.expose_loss import expose_loss
from regressor.losses import LossWeights, place_loss
from regressor.targets import Targets
from tests.regressor.test_expose import some_pictures

CHANNELS = {4: 4, 8: 8, 16: 12, 32: 16}


def maps_of(size=64, batch=2):
    return {
        stride: torch.rand(batch, width, size // stride, size // stride)
        for stride, width in CHANNELS.items()
    }


def test_a_map_with_one_bright_place_is_there():
    pool = JointPool(CHANNELS, joints=3, width=8, per_joint=2)
    torch.nn.init.zeros_(pool.read.weight)
    torch.nn.init.zeros_(pool.read.bias)
    _, joints = pool(maps_of())
    torch.testing.assert_close(joints.xy, torch.zeros(2, 3, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(joints.log_share.exp().sum((-1, -2)), torch.ones(2, 3))
    assert joints.log_share.shape == (2, 3, 8, 8)

    class Bright(torch.nn.Module):
        def forward(self, x):
            out = torch.zeros(len(x), 2 * 3 + 2, 8, 8)
            out[:, 1, 2, 5] = 100.0  # the second joint in row 2, column 5
            out[:, 3:6] = torch.arange(8.0)  # depths: the column
            return out

    pool.read = Bright()
    features, joints = pool(maps_of())
    wanted = torch.tensor([5.5 / 4 - 1, 2.5 / 4 - 1])
    torch.testing.assert_close(joints.xy[:, 1], wanted.expand(2, 2))
    torch.testing.assert_close(joints.z[:, 1], torch.full((2,), 5.0))
    assert features.shape == (2, pool.size)


def test_the_place_loss_is_least_at_the_truth():
    """A blot that is the truth's own has the blot's entropy, and every other place costs more."""
    target = torch.tensor([[[0.1, -0.3]]])
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")

    def blot(x, y):
        far = (columns + 0.5 - 8 * (x + 1)).square() + (rows + 0.5 - 8 * (y + 1)).square()
        return (-0.5 * far).flatten().log_softmax(0).view(1, 1, 16, 16)

    one = torch.ones(1, 1)
    best = place_loss(blot(0.1, -0.3), target, one, "sum")
    assert float(best) == pytest.approx(math.log(2 * math.pi * math.e), abs=0.01)
    for x, y in ((0.2, -0.3), (0.1, -0.1), (-0.5, 0.5)):
        assert place_loss(blot(x, y), target, one, "sum") > best + 0.1
    assert place_loss(blot(0.5, 0.5), target, 0 * one, "sum") == 0


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = replace(
        ExposeConfig.tiny(), parts=False, joint_features=True, dropout=0.0, body_activation=True
    )
    return Expose(load_body(), config).eval()


def test_places_are_taught(model):
    pictures = some_pictures()
    output = model(pictures)
    names = model.point_names
    assert [names[k] for k in model.joint_points][:2] == ["pelvis", "left_hip"]
    assert output.joints.xy.shape == (2, len(model.joint_points), 2)
    unknown = expose_loss(model, output, pictures, Targets.unknown(2), LossWeights())
    assert unknown["joint_places"] == unknown["joint_maps"] == unknown["joint_depths"] == 0
    known = Targets.unknown(2)
    known.keypoints_2d[..., :2] = 300.0
    known.keypoints_2d[..., 2] = 1.0
    terms = expose_loss(model, output, pictures, known, LossWeights())
    assert terms["joint_places"] > 0
    terms["joint_maps"].backward()
    assert model.body.backbone.body.embedder.embedder.convolution.weight.grad.abs().sum() > 0
    known.keypoints_2d[..., :2] = -5000.0  # outside the crop: no map has that place
    outside = expose_loss(model, output, pictures, known, LossWeights())
    assert outside["joint_places"] == outside["joint_maps"] == 0


def test_half_precision_is_of_the_encoders_only(model):
    """Pixels and rotations keep their digits: what comes out hardly changes."""
    pictures = some_pictures()
    with torch.no_grad():
        full = model(pictures).final
        model.use_precision(torch.bfloat16)
        try:
            half = model(pictures).final
        finally:
            model.use_precision(None)
    assert half.points.dtype == half.points_px.dtype == torch.float32
    assert not torch.equal(half.points, full.points)
    torch.testing.assert_close(half.points, full.points, atol=0.01, rtol=0)
    eye = half.rotations @ half.rotations.mT
    torch.testing.assert_close(eye, torch.eye(3).expand_as(eye), atol=1e-5, rtol=0)
