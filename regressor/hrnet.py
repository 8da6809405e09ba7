"""HRNet (Sun et al. 2019, "Deep high-resolution representation learning", section 3).

Streams at strides 4, 8, 16 and 32 run side by side and exchange after every module. Arrays are
named as in the public ImageNet checkpoints (``stage2.0.branches.1.3.conv2.weight``), so those load.
"""

from torch import Tensor, nn

_STAGES = {2: (1, 2), 3: (4, 3), 4: (3, 4)}  # stage: modules, branches


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, momentum=0.1)


class _Basic(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, width: int, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, 1, 1, bias=False)
        self.bn1 = _norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = _norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        rest = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + rest)


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs: int, width: int, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = _norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = _norm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = _norm(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        rest = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))
        return self.relu(out + rest)


class _Module(nn.Module):
    """Four basic blocks on every branch, then every branch takes the sum of all, resized."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(_Basic(width, width) for _ in range(4))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_exchange(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        out = []
        for target, row in enumerate(self.fuse_layers):
            total = None
            for source, layer in enumerate(row):
                moved = layer(maps[source])
                if source > target:
                    moved = nn.functional.interpolate(
                        moved, size=maps[target].shape[-2:], mode="nearest"
                    )
                total = moved if total is None else total + moved
            out.append(self.relu(total))
        return out


def _exchange(widths: list[int], source: int, target: int) -> nn.Module:
    if source == target:
        return nn.Identity()
    if source > target:  # from coarse to fine; enlarged by the module
        return nn.Sequential(
            nn.Conv2d(widths[source], widths[target], 1, bias=False), _norm(widths[target])
        )
    steps = []
    for k in range(target - source):
        last = k == target - source - 1
        out = widths[target] if last else widths[source]
        step = [nn.Conv2d(widths[source], out, 3, 2, 1, bias=False), _norm(out)]
        steps.append(nn.Sequential(*step) if last else nn.Sequential(*step, nn.ReLU(inplace=True)))
    return nn.Sequential(*steps)


class HRNet(nn.Module):
    """The encoder, without a head.

    Args:
        width: W: 48, 32 or 18.
        last_stage: Run stage 4. ExPose's release builds it and never runs it; its maps are then
            those of the third transition.

    Attributes:
        channels: By stride.
    """

    def __init__(self, width: int = 48, last_stage: bool = True) -> None:
        super().__init__()
        self.last_stage = last_stage
        widths = [width * 2**k for k in range(4)]
        self.channels = dict(zip((4, 8, 16, 32), widths, strict=True))
        self.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
        self.bn1 = _norm(64)
        self.conv2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False)
        self.bn2 = _norm(64)
        self.relu = nn.ReLU(inplace=True)
        widen = nn.Sequential(nn.Conv2d(64, 256, 1, bias=False), _norm(256))
        self.layer1 = nn.Sequential(
            _Bottleneck(64, 64, widen), *(_Bottleneck(256, 64) for _ in range(3))
        )
        before = [256]
        for stage, (modules, branches) in _STAGES.items():
            here = widths[:branches]
            setattr(self, f"transition{stage - 1}", self._transition(before, here))
            setattr(self, f"stage{stage}", nn.Sequential(*(_Module(here) for _ in range(modules))))
            before = here
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _transition(before: list[int], here: list[int]) -> nn.ModuleList:
        layers: list[nn.Module | None] = []
        for k, width in enumerate(here):
            if k < len(before):
                if before[k] == width:
                    layers.append(None)
                else:
                    conv = nn.Conv2d(before[k], width, 3, 1, 1, bias=False)
                    layers.append(nn.Sequential(conv, _norm(width), nn.ReLU(inplace=True)))
            else:
                conv = nn.Conv2d(before[-1], width, 3, 2, 1, bias=False)
                layers.append(
                    nn.Sequential(nn.Sequential(conv, _norm(width), nn.ReLU(inplace=True)))
                )
        return nn.ModuleList(layers)

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """(B, 3, H, W) -> maps at strides 4, 8, 16, 32."""
        x = self.relu(self.bn1(self.conv1(image)))
        x = self.relu(self.bn2(self.conv2(x)))
        maps = [self.layer1(x)]
        for stage in _STAGES:
            transition = getattr(self, f"transition{stage - 1}")
            maps = [
                (maps[k] if layer is None else layer(maps[min(k, len(maps) - 1)]))
                for k, layer in enumerate(transition)
            ]
            if stage < 4 or self.last_stage:
                for module in getattr(self, f"stage{stage}"):
                    maps = module(maps)
        return dict(zip(self.channels, maps, strict=True))
