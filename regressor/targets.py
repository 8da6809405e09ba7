"""What a network is taught: one batch of labels, every one of which may be missing."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Targets:
    """Labels of B persons. A weight of 0 says that a label is missing.

    Attributes:
        keypoints_2d: (B, 145, 3) ``fit`` convention, x px, y px of the whole picture, weight.
        keypoints_3d: (B, 145, 4) metres, camera axes, relative to the pelvis, weight.
        rotations: (B, 55, 3, 3) relative to the parents, the root's model to camera.
        rotation_weight: (B, 55).
        betas: (B, 10). betas_weight: (B,).
        expression: (B, 10). expression_weight: (B,).
    """

    keypoints_2d: Tensor
    keypoints_3d: Tensor
    rotations: Tensor
    rotation_weight: Tensor
    betas: Tensor
    betas_weight: Tensor
    expression: Tensor
    expression_weight: Tensor

    @classmethod
    def unknown(cls, batch: int, device: torch.device | str = "cpu") -> "Targets":
        """Return labels none of which is known."""
        options = {"device": device}
        return cls(
            keypoints_2d=torch.zeros(batch, 145, 3, **options),
            keypoints_3d=torch.zeros(batch, 145, 4, **options),
            rotations=torch.eye(3, **options).expand(batch, 55, 3, 3).clone(),
            rotation_weight=torch.zeros(batch, 55, **options),
            betas=torch.zeros(batch, 10, **options),
            betas_weight=torch.zeros(batch, **options),
            expression=torch.zeros(batch, 10, **options),
            expression_weight=torch.zeros(batch, **options),
        )

    def to(self, device: torch.device | str) -> "Targets":
        """Return them on a device."""
        return Targets(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def take(self, index: Tensor) -> "Targets":
        """Return some of the persons."""
        return Targets(**{f.name: getattr(self, f.name)[index] for f in fields(self)})
