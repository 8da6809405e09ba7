"""Image encoders behind one face: a picture in, feature maps by stride out.

ResNet and ConvNeXt come from ``transformers``, built from a configuration with random weights;
HRNet is our own (``regressor.hrnet``). Weights are loaded from a local file when one is given;
nothing is downloaded. MediaPipe's networks (``regressor.mediapipe_encoders``) bring theirs along.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal[
    "resnet", "convnext", "vit", "hrnet", "mediapipe_pose", "mediapipe_hand", "mediapipe_face"
]


@dataclass(frozen=True)
class BackboneConfig:
    """Which encoder.

    ``tiny()`` and the like give the sizes that papers name.
    """

    kind: Kind = "resnet"
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    """Channels of the stages (hrnet: the one width W; vit: the hidden size)."""
    depths: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks of the stages (vit: layers)."""
    bottleneck: bool = True
    """ResNet's bottleneck blocks."""
    stem: int = 64
    """ResNet's channels after the first convolution."""
    image_size: int = 224
    """vit only: the size its positions are for."""
    last_stage: bool = True
    """hrnet only: run stage 4, which ExPose's release builds and never runs."""

    @classmethod
    def tiny(cls) -> "BackboneConfig":
        """0.3 M parameters, for tests and for machines without an accelerator."""
        return cls("resnet", (16, 32, 64, 128), (1, 1, 1, 1), bottleneck=False, stem=16)

    @classmethod
    def small(cls) -> "BackboneConfig":
        """1.2 M parameters: for training on a CPU."""
        return cls("resnet", (32, 64, 128, 256), (1, 1, 1, 1), bottleneck=False, stem=32)

    @classmethod
    def resnet18(cls) -> "BackboneConfig":
        """11.2 M parameters (He et al. 2016)."""
        return cls("resnet", (64, 128, 256, 512), (2, 2, 2, 2), bottleneck=False)

    @classmethod
    def resnet50(cls) -> "BackboneConfig":
        """23.5 M parameters (He et al. 2016)."""
        return cls()

    @classmethod
    def hrnet(cls, width: int = 48) -> "BackboneConfig":
        """HRNet-W48, W32 or W18 (Sun et al. 2019)."""
        return cls("hrnet", (width,))


class Backbone(nn.Module):
    """An encoder.

    Args:
        config: Which.

    Attributes:
        channels: By stride, of the maps that ``forward`` returns.
    """

    channels: dict[int, int]

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        body, self.channels = _BUILDERS[config.kind](config)
        # a third faster on CPUs, and what cards want in half precision
        self.body = body.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """(B, 3, H, W) in 0..1 -> maps by stride."""
        image = image.contiguous(memory_format=torch.channels_last)
        if self.config.kind.startswith("mediapipe"):
            return self.body(image)
        image = normalise(image)
        if self.config.kind == "hrnet":
            return self.body(image)
        maps = self.body(image).feature_maps
        return dict(zip(self.channels, maps, strict=True))


def _resnet(config: BackboneConfig) -> tuple[nn.Module, dict[int, int]]:
    from transformers import ResNetBackbone, ResNetConfig

    body = ResNetBackbone(
        ResNetConfig(
            embedding_size=config.stem,
            hidden_sizes=list(config.widths),
            depths=list(config.depths),
            layer_type="bottleneck" if config.bottleneck else "basic",
            out_features=[f"stage{k}" for k in range(1, 5)],
        )
    )
    return body, dict(zip((4, 8, 16, 32), config.widths, strict=True))


def _convnext(config: BackboneConfig) -> tuple[nn.Module, dict[int, int]]:
    from transformers import ConvNextBackbone, ConvNextConfig

    body = ConvNextBackbone(
        ConvNextConfig(
            hidden_sizes=list(config.widths),
            depths=list(config.depths),
            out_features=[f"stage{k}" for k in range(1, 5)],
        )
    )
    return body, dict(zip((4, 8, 16, 32), config.widths, strict=True))


def _vit(config: BackboneConfig) -> tuple[nn.Module, dict[int, int]]:
    from transformers import Dinov2Backbone, Dinov2Config

    width, depth = config.widths[0], config.depths[0]
    body = Dinov2Backbone(
        Dinov2Config(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=max(1, width // 64),
            image_size=config.image_size,
            patch_size=14,
            out_features=[f"stage{depth}"],
        )
    )
    return body, {14: width}


def _hrnet(config: BackboneConfig) -> tuple[nn.Module, dict[int, int]]:
    from regressor.hrnet import HRNet

    body = HRNet(config.widths[0], config.last_stage)
    return body, body.channels


def _mediapipe(config: BackboneConfig) -> tuple[nn.Module, dict[int, int]]:
    from regressor.mediapipe_encoders import MediaPipeEncoder

    body = MediaPipeEncoder(config.kind.removeprefix("mediapipe_"))
    return body, body.channels


_BUILDERS = {
    "resnet": _resnet, "convnext": _convnext, "vit": _vit, "hrnet": _hrnet,
    "mediapipe_pose": _mediapipe, "mediapipe_hand": _mediapipe, "mediapipe_face": _mediapipe,
}  # fmt: skip


def normalise(image: Tensor) -> Tensor:
    """(B, 3, H, W) in 0..1 -> less ImageNet's mean, over its deviation, as all of them expect."""
    mean = image.new_tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = image.new_tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return (image - mean) / deviation


def load_backbone_weights(backbone: Backbone, path: Path) -> list[str]:
    """Load weights from a safetensors file or a PyTorch state dict; return the keys not used.

    Raises:
        ValueError: If less than half of the encoder's weights are in the file.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
    own = backbone.body.state_dict()
    state = {_strip(key, own): value for key, value in state.items()}
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    if len(fitting) < len(own) / 2:
        raise ValueError(
            f"{path} holds {len(fitting)} of the {len(own)} arrays of this encoder "
            f"({backbone.config}); expected a checkpoint of the same architecture"
        )
    backbone.body.load_state_dict(fitting, strict=False)
    return sorted(set(state) - set(fitting))


def _strip(key: str, own: dict[str, Tensor]) -> str:
    """Take a checkpoint's prefixes off until the name is one of ours."""
    while key not in own and "." in key:
        head, rest = key.split(".", 1)
        if head in {"module", "model", "backbone", "body", "resnet", "convnext", "state_dict"}:
            key = rest
        else:
            break
    return key
