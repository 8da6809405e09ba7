"""Flat vectors of network outputs as named rotations, coefficients and cameras, and back.

Rotations leave a network as six numbers and are matrices everywhere else. Which six differs between
projects: ours are the first two columns, one after the other; HMR, SPIN, ExPose and those after
them hold the same two columns interleaved (``view(3, 2)``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from bodymodel.rotations import rot6d_to_rotmat, rotmat_to_rot6d

Order6D = Literal["columns", "interleaved"]


@dataclass(frozen=True)
class Part:
    """A named stretch of the vector: ``count`` rotations, or ``count`` numbers."""

    name: str
    count: int
    rotation: bool = False

    @property
    def width(self) -> int:
        """How many numbers it takes."""
        return 6 * self.count if self.rotation else self.count


@dataclass(frozen=True)
class ParamLayout:
    """The order of a network's outputs.

    Attributes:
        parts: In the vector's order.
        order_6d: How the six numbers of a rotation lie.
    """

    parts: tuple[Part, ...]
    order_6d: Order6D = "columns"

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each part lies."""
        slices, start = {}, 0
        for part in self.parts:
            slices[part.name] = slice(start, start + part.width)
            start += part.width
        return slices

    @property
    def size(self) -> int:
        """Length of the vector."""
        return sum(part.width for part in self.parts)

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """(..., size) -> by name (..., count, 3, 3) rotations or (..., count) numbers."""
        if flat.shape[-1] != self.size:
            raise ValueError(f"expected (..., {self.size}), got {tuple(flat.shape)}")
        values = {}
        for part in self.parts:
            value = flat[..., self.slices[part.name]]
            if part.rotation:
                value = rot6d_to_rotmat(self._to_columns(value.unflatten(-1, (part.count, 6))))
            values[part.name] = value
        return values

    def join(self, values: Mapping[str, Tensor]) -> Tensor:
        """The inverse of ``split``, for values that broadcast; names that lack raise KeyError."""
        flat = [self._flat(part, values[part.name]) for part in self.parts]
        batch = torch.broadcast_shapes(*(v.shape[:-1] for v in flat))
        return torch.cat([v.expand(*batch, -1) for v in flat], -1)

    def replace(self, flat: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Return the vector (..., size) with some parts replaced; rotations come as matrices."""
        pieces = [
            self._flat(part, values[part.name]).expand(*flat.shape[:-1], -1)
            if part.name in values
            else flat[..., self.slices[part.name]]
            for part in self.parts
        ]
        return torch.cat(pieces, -1)

    def _flat(self, part: Part, value: Tensor) -> Tensor:
        """A part's numbers (..., width)."""
        if not part.rotation:
            return value
        return self._from_columns(rotmat_to_rot6d(value)).flatten(-2)

    def _to_columns(self, six: Tensor) -> Tensor:
        if self.order_6d == "columns":
            return six
        return six.unflatten(-1, (3, 2)).mT.flatten(-2)

    def _from_columns(self, six: Tensor) -> Tensor:
        if self.order_6d == "columns":
            return six
        return six.unflatten(-1, (2, 3)).mT.flatten(-2)


BODY_PARTS: tuple[Part, ...] = (
    Part("global_orient", 1, rotation=True),
    Part("body_pose", 21, rotation=True),
    Part("left_hand_pose", 15, rotation=True),
    Part("right_hand_pose", 15, rotation=True),
    Part("jaw_pose", 1, rotation=True),
    Part("betas", 10),
    Part("expression", 10),
    Part("camera", 3),
)
"""What ExPose's body network predicts: 341 numbers (its released sizes)."""

HAND_PARTS: tuple[Part, ...] = (
    Part("wrist", 1, rotation=True),
    Part("hand_pose", 15, rotation=True),
    Part("betas", 10),
    Part("camera", 3),
)
"""What its hand network predicts, of a right hand: 109. The wrist is the absolute rotation."""

HEAD_PARTS: tuple[Part, ...] = (
    Part("neck", 1, rotation=True),
    Part("jaw_pose", 1, rotation=True),
    Part("betas", 100),
    Part("expression", 50),
    Part("camera", 3),
)
"""What its head network predicts: 165. The neck is the head's absolute rotation."""
