"""Experts: an encoder and a head that corrects its answer step by step."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regressor.backbones import Backbone, BackboneConfig
from regressor.layout import ParamLayout


@dataclass(frozen=True)
class HeadConfig:
    """The iterative regressor (Kanazawa et al. 2018, section 3.2)."""

    hidden: int = 1024
    dropout: float = 0.5
    stages: int = 3
    shared: bool = True
    """One set of weights for all stages (HMR, ExPose); one each otherwise (PyMAF)."""
    activation: bool = True
    """A rectifier after the hidden layers; ExPose's released body network has none."""


class IterativeRegressor(nn.Module):
    """Parameters that are corrected from features and themselves, some times over.

    Args:
        features: Width of the feature vector.
        layout: Of the parameters.
        mean: (layout.size,) where the parameters start.
        config: Sizes.
    """

    def __init__(self, features: int, layout: ParamLayout, mean: Tensor, config: HeadConfig):
        super().__init__()
        self.config = config
        self.layout = layout
        self.register_buffer("mean", mean.detach().clone().float())

        def perceptron() -> nn.Sequential:
            between: list[nn.Module] = [nn.ReLU()] if config.activation else []
            last = nn.Linear(config.hidden, layout.size)
            nn.init.xavier_uniform_(last.weight, gain=0.01)
            nn.init.zeros_(last.bias)
            return nn.Sequential(
                nn.Linear(features + layout.size, config.hidden), *between,
                nn.Dropout(config.dropout),
                nn.Linear(config.hidden, config.hidden), *between,
                nn.Dropout(config.dropout),
                last,
            )  # fmt: skip

        self.steps = nn.ModuleList(
            perceptron() for _ in range(1 if config.shared else config.stages)
        )

    def forward(self, features: Tensor, start: Tensor | None = None) -> list[Tensor]:
        """(B, F), (B, size) or the mean -> the parameters after each stage, (B, size) each."""
        params = self.mean.expand(features.shape[0], -1) if start is None else start
        answers = []
        for stage in range(self.config.stages):
            step = self.steps[0 if self.config.shared else stage]
            params = params + step(torch.cat([features, params], -1))
            answers.append(params)
        return answers


class Pool(nn.Module):
    """Maps to one feature vector: the mean of the deepest, or ExPose's mix of HRNet's three.

    Args:
        channels: By stride.
        mixed: Bring strides 8 and 16 down to 32, join, and convolve (ExPose's body network).
    """

    def __init__(self, channels: dict[int, int], mixed: bool = False, width: int = 2048) -> None:
        super().__init__()
        self.mixed = mixed
        deepest = max(channels)
        self.size = channels[deepest]
        if mixed:
            down: dict[str, nn.Module] = {}
            for stride in (8, 16):
                layers, have = [], channels[stride]
                at = stride
                while at < 32:
                    want = min(4 * channels[8], 2 * have)
                    layers += [
                        nn.Conv2d(have, want, 3, 2, 1, bias=False),
                        nn.BatchNorm2d(want),
                        nn.ReLU(),
                    ]
                    have, at = want, 2 * at
                down[str(stride)] = nn.Sequential(*layers)
                self.size = self.size + have
            self.down = nn.ModuleDict(down)
            layers, have = [], self.size
            for _ in range(5):
                layers += [
                    nn.Conv2d(have, width, 3, 1, 1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                have = width
            self.convolve = nn.Sequential(*layers)
            self.size = width

    def forward(self, maps: dict[int, Tensor]) -> Tensor:
        """Maps by stride -> (B, size)."""
        if not self.mixed:
            return maps[max(maps)].mean((-1, -2))
        joined = [self.down[str(stride)](maps[stride]) for stride in (8, 16)] + [maps[32]]
        return self.convolve(torch.cat(joined, 1)).mean((-1, -2))


@dataclass(frozen=True, eq=False)
class JointMaps:
    """Where an encoder sees joints.

    Attributes:
        xy: (B, J, 2) in [-1, 1] over the crop.
        z: (B, J) metres behind the pelvis.
        log_share: (B, J, H, W) logarithm of the distribution over places whose mean ``xy`` is.
    """

    xy: Tensor
    z: Tensor
    log_share: Tensor


class JointPool(nn.Module):
    """Maps to one feature vector by way of joints: where they are, and what is seen there.

    The mean over a map forgets where things are, and a small network takes long to learn places
    without it. Here each joint has a map of stride 8 that becomes a distribution over places; its
    mean is the joint's place (integral regression, Sun et al. 2018), depth and features are read
    there (Pose2Pose's positional features, Moon et al. 2022). The places are taught directly.

    Args:
        channels: By stride.
        joints: How many.
        width: Of the map that the deeper ones are brought up to.
        per_joint: Features read at each joint.
    """

    def __init__(
        self, channels: dict[int, int], joints: int, width: int = 64, per_joint: int = 16
    ) -> None:
        super().__init__()
        self.joints, self.per_joint = joints, per_joint
        self.strides = sorted(s for s in channels if s >= 8)
        self.across = nn.ModuleDict(
            {str(s): nn.Conv2d(channels[s], width, 1) for s in self.strides}
        )
        self.smooth = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
            nn.ReLU(),
        )  # fmt: skip
        self.read = nn.Conv2d(width, 2 * joints + per_joint, 1)
        self.size = channels[max(channels)] + joints * (4 + per_joint)

    def forward(self, maps: dict[int, Tensor]) -> tuple[Tensor, JointMaps]:
        """Maps by stride -> (B, size), and where the joints are."""
        finest = maps[self.strides[0]]
        total = self.across[str(self.strides[0])](finest)
        for stride in self.strides[1:]:
            deep = self.across[str(stride)](maps[stride])
            total = total + nn.functional.interpolate(
                deep, total.shape[-2:], mode="bilinear", align_corners=False
            )
        height, width = total.shape[-2:]
        read = self.read(self.smooth(total)).float().flatten(2)
        logits, depth, seen = read.split([self.joints, self.joints, self.per_joint], 1)
        log_share = logits.log_softmax(-1)
        share = log_share.exp()
        x = (torch.arange(width, device=read.device) + 0.5) * 2 / width - 1
        y = (torch.arange(height, device=read.device) + 0.5) * 2 / height - 1
        grid = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1).view(-1, 2)
        xy = share @ grid
        spread = (share @ grid.square().sum(-1) - xy.square().sum(-1)).clamp_min(1e-6).sqrt()
        z = (share * depth).sum(-1)
        at_joints = share @ seen.mT  # (B, J, per_joint)
        whole = maps[max(maps)].float().mean((-1, -2))
        values = torch.cat([xy, z[..., None], spread[..., None], at_joints], -1).flatten(1)
        return torch.cat([whole, values], -1), JointMaps(
            xy, z, log_share.unflatten(-1, (height, width))
        )


class Expert(nn.Module):
    """A crop in, parameters out.

    Args:
        backbone: Which encoder.
        layout: Of the parameters.
        mean: (layout.size,) where they start.
        head: The regressor.
        mixed: See Pool.
        joints: Read features at so many joints (JointPool); 0 as published.

    Attributes:
        precision: What the encoder computes in (autocast); float32 if None. The regressor, and all
            that follows it, is float32: a bfloat16 of a rotation is off by a quarter of a degree.
    """

    precision: torch.dtype | None = None

    def __init__(
        self,
        backbone: BackboneConfig,
        layout: ParamLayout,
        mean: Tensor,
        head: HeadConfig,
        mixed: bool = False,
        joints: int = 0,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.backbone = Backbone(backbone)
        channels = self.backbone.channels
        self.pool = JointPool(channels, joints) if joints else Pool(channels, mixed)
        self.head = IterativeRegressor(self.pool.size, layout, mean, head)

    def forward(self, crop: Tensor, start: Tensor | None = None) -> list[Tensor]:
        """(B, 3, S, S) in 0..1 -> the flat parameters after each stage, (B, layout.size) each."""
        return self.look(crop, start)[0]

    def look(
        self, crop: Tensor, start: Tensor | None = None
    ) -> tuple[list[Tensor], JointMaps | None]:
        """``forward``, and where the encoder sees joints if it was made for that."""
        if self.precision is None:  # without a context that an export would have to keep
            pooled = self.pool(self.backbone(crop))
        else:
            with torch.autocast(crop.device.type, self.precision):
                pooled = self.pool(self.backbone(crop))
        features, joints = pooled if isinstance(pooled, tuple) else (pooled, None)
        return self.head(features.float(), start), joints
