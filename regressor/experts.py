"""Experts: an encoder and a head that corrects its answer step by step."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regressor.backbones import Backbone, BackboneConfig, normalise
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


class Expert(nn.Module):
    """A crop in, parameters out.

    Args:
        backbone: Which encoder.
        layout: Of the parameters.
        mean: (layout.size,) where they start.
        head: The regressor.
        mixed: See Pool.

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
    ) -> None:
        super().__init__()
        self.layout = layout
        self.backbone = Backbone(backbone)
        self.pool = Pool(self.backbone.channels, mixed)
        self.head = IterativeRegressor(self.pool.size, layout, mean, head)

    def forward(self, crop: Tensor, start: Tensor | None = None) -> list[Tensor]:
        """(B, 3, S, S) in 0..1 -> the flat parameters after each stage, (B, layout.size) each."""
        crop = normalise(crop)
        if self.precision is None:
            return self.head(self.pool(self.backbone(crop)), start)
        with torch.autocast(crop.device.type, self.precision):
            features = self.pool(self.backbone(crop))
        return self.head(features.float(), start)
