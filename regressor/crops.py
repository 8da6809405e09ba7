"""Square crops of pictures as affine maps, and sampling through them.

One definition of pixels for the whole room: the origin is the top left *corner* of the top left
pixel, so the centre of the first pixel is (0.5, 0.5), in the picture and in the crop alike. That is
``grid_sample`` with ``align_corners=False``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from regressor.upright import about_view


@dataclass(frozen=True, eq=False)
class AffineCrop:
    """Maps from pictures to square crops, one for each of a batch.

    Attributes:
        matrix: (B, 2, 3), from pixels of the picture to pixels of the crop.
        size: Side of the crop in its own pixels.
    """

    matrix: Tensor
    size: int

    @classmethod
    def from_boxes(
        cls,
        center_px: Tensor,
        side_px: Tensor,
        size: int,
        rotation: Tensor | None = None,
        flip: Tensor | None = None,
    ) -> "AffineCrop":
        """Crop squares.

        Args:
            center_px: (B, 2) middle of the square in the picture.
            side_px: (B,) its side in pixels of the picture.
            size: Side of the crop in its own pixels.
            rotation: (B,) radians by which the picture turns in the crop, clockwise as seen.
            flip: (B,) bool, then mirrored left to right.

        Raises:
            ValueError: If the shapes do not fit.
        """
        if center_px.shape != (*side_px.shape, 2):
            raise ValueError(
                f"center_px must be (B, 2) and side_px (B,), got {tuple(center_px.shape)} and "
                f"{tuple(side_px.shape)}"
            )
        scale = size / side_px.clamp_min(1e-3)
        angle = torch.zeros_like(side_px) if rotation is None else rotation
        across = scale if flip is None else torch.where(flip, -scale, scale)
        cos, sin = angle.cos(), angle.sin()
        linear = torch.stack(
            [torch.stack([across * cos, -across * sin], -1),
             torch.stack([scale * sin, scale * cos], -1)], -2,
        )  # fmt: skip
        shift = size / 2 - (linear @ center_px[..., None])
        return cls(torch.cat([linear, shift], -1), size)

    def __post_init__(self) -> None:
        if self.matrix.shape[-2:] != (2, 3):
            raise ValueError(f"matrix must be (B, 2, 3), got {tuple(self.matrix.shape)}")

    @property
    def scale(self) -> Tensor:
        """(B,) pixels of the crop per pixel of the picture."""
        return _determinant(self.matrix).abs().sqrt()

    @property
    def rotation(self) -> Tensor:
        """(B,) radians by which the picture turns in the crop, before it is mirrored if it is."""
        return torch.atan2(self.matrix[..., 1, 0], self.matrix[..., 1, 1])

    @property
    def side_px(self) -> Tensor:
        """(B,) side of the square in pixels of the picture."""
        return self.size / self.scale

    @property
    def center_px(self) -> Tensor:
        """(B, 2) middle of the square in the picture."""
        middle = self.matrix.new_full((self.matrix.shape[0], 1, 2), self.size / 2)
        return self.to_image(middle)[:, 0]

    def to_crop(self, points_px: Tensor) -> Tensor:
        """(B, P, 2) pixels of the picture -> pixels of the crop."""
        return points_px @ self.matrix[..., :2].mT + self.matrix[:, None, :, 2]

    def to_image(self, points_px: Tensor) -> Tensor:
        """(B, P, 2) pixels of the crop -> pixels of the picture."""
        inverse = _inverse(self.matrix)
        return (points_px - self.matrix[:, None, :, 2]) @ inverse.mT

    def to_unit(self, points_px: Tensor) -> Tensor:
        """(B, P, 2) pixels of the picture -> [-1, 1] over the crop."""
        return 2 * self.to_crop(points_px) / self.size - 1

    def from_unit(self, points: Tensor) -> Tensor:
        """(B, P, 2) [-1, 1] over the crop -> pixels of the picture."""
        return self.to_image((points + 1) * self.size / 2)

    def turned(self, angle: Tensor) -> "AffineCrop":
        """Turn what the crop shows about its middle by (B,) radians, clockwise as seen."""
        turn = about_view(angle)[..., :2, :2]
        linear = turn @ self.matrix[..., :2]
        middle = self.size / 2
        shift = turn @ (self.matrix[..., 2:] - middle) + middle
        return AffineCrop(torch.cat([linear, shift], -1), self.size)

    def after(self, first: "AffineCrop") -> "AffineCrop":
        """This crop of the picture as a map from another crop of the same picture.

        ``first`` is where pixels are at hand, e.g. a large crop of the person; the result takes
        pixels of it to pixels of this crop.
        """
        inverse = _inverse(first.matrix)
        linear = self.matrix[..., :2] @ inverse
        shift = self.matrix[..., 2:] - linear @ first.matrix[..., 2:]
        return AffineCrop(torch.cat([linear, shift], -1), self.size)

    def sample(self, image: Tensor) -> Tensor:
        """Cut the crops out, bilinearly, zero outside; differentiable in picture and map.

        Args:
            image: (B, C, H, W).

        Returns:
            (B, C, size, size).
        """
        height, width = image.shape[-2:]
        steps = torch.arange(self.size, dtype=image.dtype, device=image.device) + 0.5
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        grid = torch.stack([columns, rows], -1).reshape(1, -1, 2)
        points = self.to_image(grid.expand(image.shape[0], -1, -1).to(self.matrix.dtype))
        # not by a tensor of both sizes: that would be a constant in an exported model
        unit = torch.stack([2 * points[..., 0] / width - 1, 2 * points[..., 1] / height - 1], -1)
        unit = unit.view(-1, self.size, self.size, 2).to(image.dtype)
        return torch.nn.functional.grid_sample(
            image, unit, mode="bilinear", padding_mode="zeros", align_corners=False
        )


def _determinant(matrix: Tensor) -> Tensor:
    """Of the linear part of (..., 2, 3)."""
    return matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]


def _inverse(matrix: Tensor) -> Tensor:
    """Of the linear part of (..., 2, 3), in closed form: no solver to wait for, and exportable."""
    a, b = matrix[..., 0, 0], matrix[..., 0, 1]
    c, d = matrix[..., 1, 0], matrix[..., 1, 1]
    adjugate = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)
    return adjugate / _determinant(matrix)[..., None, None]


def box_around(points: Tensor, seen: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return the square around points, enlarged.

    Args:
        points: (B, P, 2).
        seen: (B, P) bool; unseen points do not count. A row without any gets side 0.
        scale: Times the longer side of the bounding box.

    Returns:
        (B, 2) centres and (B,) sides.
    """
    low = torch.where(seen[..., None], points, torch.inf).amin(1)
    high = torch.where(seen[..., None], points, -torch.inf).amax(1)
    any_seen = seen.any(1)
    center = torch.where(any_seen[:, None], (low + high) / 2, 0)
    side = torch.where(any_seen, (high - low).amax(-1), 0)
    return center, scale * side
