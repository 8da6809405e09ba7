from dataclasses import replace

import pytest
import torch

from regressor.backbones import Backbone, BackboneConfig, load_backbone_weights
from regressor.hrnet import HRNet


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (BackboneConfig.tiny(), 0.31),
        (BackboneConfig.resnet18(), 11.18),
        (BackboneConfig.resnet50(), 23.51),
    ],
)
def test_published_sizes(config, millions):
    backbone = Backbone(config)
    count = sum(p.numel() for p in backbone.parameters()) / 1e6
    assert abs(count - millions) < 0.02 * millions


@pytest.mark.parametrize(
    "config",
    [
        BackboneConfig.tiny(),
        BackboneConfig("convnext", (16, 32, 48, 64), (1, 1, 1, 1)),
        BackboneConfig("vit", (64,), (2,), image_size=224),
        BackboneConfig.hrnet(8),
    ],
    ids=lambda c: c.kind,
)
def test_maps_have_the_strides_and_channels_they_say(config):
    backbone = Backbone(config).eval()
    maps = backbone(torch.rand(1, 3, 224, 224))
    assert set(maps) == set(backbone.channels)
    for stride, features in maps.items():
        assert features.shape == (1, backbone.channels[stride], 224 // stride, 224 // stride)


def test_hrnet_has_the_published_size_and_names():
    net = HRNet(48)
    state = net.state_dict()
    # HRNet-W48's encoder without its classification head: 63.6 M parameters in the pose network
    count = sum(p.numel() for p in net.parameters()) / 1e6
    assert 60 < count < 68
    for name in (
        "stage2.0.branches.1.3.conv2.weight",
        "stage4.2.fuse_layers.3.0.2.0.weight",
        "transition3.3.0.0.weight",
        "layer1.0.downsample.0.weight",
    ):
        assert name in state


def test_hrnets_third_transition_is_what_expose_reads():
    net = HRNet(8, last_stage=False).eval()
    maps = net(torch.rand(1, 3, 64, 64))
    assert maps[32].shape == (1, 64, 2, 2)
    total = sum(v.sum() for v in maps.values())
    total.backward()
    assert all(p.grad is None for p in net.stage4.parameters())
    assert net.transition3[3][0][0].weight.grad is not None


def test_the_release_runs_without_the_last_stage():
    from regressor.expose import ExposeConfig

    assert not Backbone(replace(BackboneConfig.hrnet(8), last_stage=False)).body.last_stage
    assert Backbone(BackboneConfig.hrnet(8)).body.last_stage
    assert not ExposeConfig.released().body.last_stage and ExposeConfig().body.last_stage


def test_weights_load_under_others_prefixes(tmp_path):
    torch.manual_seed(0)
    a, b = Backbone(BackboneConfig.tiny()), Backbone(BackboneConfig.tiny())
    state = {f"module.backbone.{k}": v for k, v in a.body.state_dict().items()}
    torch.save({"state_dict": {**state, "module.head.weight": torch.zeros(3)}}, tmp_path / "w.pth")
    unused = load_backbone_weights(b, tmp_path / "w.pth")
    assert unused == ["head.weight"]
    for mine, theirs in zip(
        b.body.state_dict().values(), a.body.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_weights_of_another_net_are_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="expected a checkpoint of the same architecture"):
        load_backbone_weights(Backbone(BackboneConfig.tiny()), tmp_path / "w.pth")


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return print, ("boom",)

    torch.save({"state_dict": Bomb()}, tmp_path / "w.pth")
    with pytest.raises(pickle.UnpicklingError):
        load_backbone_weights(Backbone(BackboneConfig.tiny()), tmp_path / "w.pth")
