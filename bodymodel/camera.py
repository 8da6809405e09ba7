"""Cameras and crops: one place where a pixel is defined.

Points are in the OpenCV camera frame (x right, y down, z forward), metres. Pixel coordinates have
their origin at the top-left CORNER of the top-left pixel, so an image W wide spans x in [0, W] and
its first pixel's centre is at 0.5. All functions take leading batch dimensions and are
differentiable.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def default_focal_px(width: int, height: int) -> float:
    """Return the focal length assumed of an unknown camera: the image's diagonal.

    That is a 53 degree view across the diagonal, a common lens, and does not change when the
    image is turned or rescaled with its focal length.

    Args:
        width: Image width, pixels.
        height: Image height, pixels.

    Returns:
        Pixels.
    """
    return math.hypot(width, height)


def focal_from_fov(fov_rad: Tensor | float, size_px: Tensor | float) -> Tensor:
    """Return the focal length that sees ``size_px`` pixels under the angle ``fov_rad``.

    Args:
        fov_rad: Full angle of view across that side, radians.
        size_px: Image width for a horizontal angle, height for a vertical one.

    Returns:
        Pixels.
    """
    return torch.as_tensor(size_px) / (2 * torch.tan(torch.as_tensor(fov_rad) / 2))


def project(points: Tensor, focal_px: Tensor | float, center_px: Tensor) -> Tensor:
    """Project camera-frame points to pixels, u = f x / z + c.

    A point at z <= 0 is behind the camera: its result is what the formula gives, not a pixel.

    Args:
        points: (..., K, 3) metres.
        focal_px: (...) one focal length per batch entry (square pixels), or a number.
        center_px: (..., 2) principal point, pixels.

    Returns:
        (..., K, 2) pixels.

    Raises:
        ValueError: If a last dimension is wrong.

    Example:
        >>> project(torch.tensor([[0.1, 0.0, 2.0]]), 500.0, torch.tensor([64.0, 64.0]))
        tensor([[89., 64.]])
    """
    if points.ndim < 2 or points.shape[-1] != 3:
        raise ValueError(f"points must be (..., K, 3), got {tuple(points.shape)}")
    if center_px.shape[-1] != 2:
        raise ValueError(f"center_px must be (..., 2), got {tuple(center_px.shape)}")
    if isinstance(focal_px, Tensor):
        focal_px = focal_px[..., None, None]
    return focal_px * points[..., :2] / points[..., 2:] + center_px[..., None, :]


@dataclass(frozen=True, eq=False)
class Crop:
    """A box of the full image, resampled to ``width`` x ``height`` pixels.

    Attributes:
        center_px: (..., 2) centre of the box in the full image.
        size_px: (...) width of the box in full-image pixels; its height follows from the shape of
            the crop, so that pixels stay square.
        width: Of the crop, pixels.
        height: Of the crop, pixels.
        angle_rad: (...) by which the box is turned clockwise (as seen) in the full image, or None
            for an upright box.
    """

    center_px: Tensor
    size_px: Tensor
    width: int
    height: int
    angle_rad: Tensor | None = None

    @classmethod
    def from_box(
        cls, bbox_xyxy_px: Tensor, width: int, height: int, padding: float = 1.2
    ) -> "Crop":
        """Return the smallest upright crop of this shape that holds a box, padded.

        Args:
            bbox_xyxy_px: (..., 4) left, top, right, bottom in the full image.
            width: Of the crop, pixels.
            height: Of the crop, pixels.
            padding: Factor on the box.

        Returns:
            The crop.

        Raises:
            ValueError: If the last dimension is not 4.
        """
        if bbox_xyxy_px.shape[-1] != 4:
            raise ValueError(f"bbox_xyxy_px must be (..., 4), got {tuple(bbox_xyxy_px.shape)}")
        low, high = bbox_xyxy_px[..., :2], bbox_xyxy_px[..., 2:]
        extent = high - low
        size = torch.maximum(extent[..., 0], extent[..., 1] * (width / height)) * padding
        return cls((low + high) / 2, size, width, height)

    @property
    def scale(self) -> Tensor:
        """(...) crop pixels per full-image pixel."""
        return self.width / self.size_px

    def matrix(self) -> Tensor:
        """Return the (..., 2, 3) affine map from full-image to crop pixels."""
        scale = self.scale
        if self.angle_rad is None:
            a, b = scale, torch.zeros_like(scale)
        else:
            a, b = scale * torch.cos(self.angle_rad), scale * torch.sin(self.angle_rad)
        linear = torch.stack((a, b, -b, a), dim=-1).unflatten(-1, (2, 2))
        half = self.center_px.new_tensor((self.width / 2, self.height / 2))
        offset = half - (linear @ self.center_px[..., None])[..., 0]
        return torch.cat((linear, offset[..., None]), dim=-1)

    def to_crop(self, points: Tensor) -> Tensor:
        """Map full-image pixels (..., K, 2) to crop pixels."""
        matrix = self.matrix()
        return points @ matrix[..., :2].mT + matrix[..., None, :, 2]

    def to_full(self, points: Tensor) -> Tensor:
        """Map crop pixels (..., K, 2) to full-image pixels; undoes ``to_crop``."""
        matrix = self.matrix()
        # The linear part is a scaled rotation: its inverse is its transpose over scale^2.
        inverse = matrix[..., :2].mT / self.scale[..., None, None] ** 2
        return (points - matrix[..., None, :, 2]) @ inverse.mT

    def to_ndc(self, points: Tensor) -> Tensor:
        """Map crop pixels (..., K, 2) so that the crop's width spans [-1, 1], centre at 0."""
        half = points.new_tensor((self.width / 2, self.height / 2))
        return (points - half) / (self.width / 2)

    def from_ndc(self, points: Tensor) -> Tensor:
        """Map normalised points (..., K, 2) to crop pixels; undoes ``to_ndc``."""
        half = points.new_tensor((self.width / 2, self.height / 2))
        return points * (self.width / 2) + half

    def sampling_grid(self, image_width: int, image_height: int) -> Tensor:
        """Return where the crop's pixel centres lie, for ``grid_sample(align_corners=False)``.

        Args:
            image_width: Of the full image, pixels.
            image_height: Of the full image, pixels.

        Returns:
            (..., height, width, 2), the full image spanning [-1, 1] in both directions.
        """
        options = {"dtype": self.center_px.dtype, "device": self.center_px.device}
        x = torch.arange(self.width, **options) + 0.5
        y = torch.arange(self.height, **options) + 0.5
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (height, width, 2)
        full = self.to_full(centres.flatten(0, 1))
        span = self.center_px.new_tensor((image_width, image_height))
        return (2 * full / span - 1).unflatten(-2, (self.height, self.width))

    def camera(self, focal_px: Tensor | float, center_px: Tensor) -> tuple[Tensor, Tensor]:
        """Return focal length (...) and principal point (..., 2) of the crop as an image.

        Args:
            focal_px: (...) of the full image.
            center_px: (..., 2) of the full image.

        Returns:
            What ``project`` needs to give crop pixels.

        Raises:
            ValueError: If the crop is turned; no pinhole with upright axes sees it.
        """
        self._require_upright()
        return self.scale * focal_px, self.to_crop(center_px[..., None, :])[..., 0, :]

    def _require_upright(self) -> None:
        if self.angle_rad is not None:
            raise ValueError("only an upright crop has a camera; turn the body instead of the crop")


def weak_project(points: Tensor, weak_camera: Tensor) -> Tensor:
    """Project with a weak-perspective camera, u = s (x + tx), v = s (y + ty).

    Args:
        points: (..., K, 3) metres, camera axes, origin at the body's.
        weak_camera: (..., 3): s, tx, ty.

    Returns:
        (..., K, 2) in the crop's normalised coordinates (``Crop.from_ndc`` gives pixels).

    Raises:
        ValueError: If a last dimension is not 3.
    """
    if points.shape[-1] != 3 or weak_camera.shape[-1] != 3:
        raise ValueError(
            f"points must be (..., K, 3) and weak_camera (..., 3), "
            f"got {tuple(points.shape)} and {tuple(weak_camera.shape)}"
        )
    scale, shift = weak_camera[..., None, :1], weak_camera[..., None, 1:]
    return scale * (points[..., :2] + shift)


def weak_to_transl(
    weak_camera: Tensor, crop: Crop, focal_px: Tensor | float, center_px: Tensor
) -> Tensor:
    """Return the translation under which the full image's camera sees what the crop's sees.

    The two projections agree exactly on the plane z = 0 of the body's frame, and everywhere in
    the limit of a long lens. Undone by ``transl_to_weak``.

    Args:
        weak_camera: (..., 3): s > 0, tx, ty in the crop's normalised coordinates.
        crop: An upright crop.
        focal_px: (...) of the full image.
        center_px: (..., 2) principal point of the full image.

    Returns:
        (..., 3) metres.

    Raises:
        ValueError: If the crop is turned.
    """
    crop._require_upright()
    pixels_per_metre = weak_camera[..., 0] * crop.size_px / 2
    xy = weak_camera[..., 1:] + (crop.center_px - center_px) / pixels_per_metre[..., None]
    z = focal_px / pixels_per_metre
    return torch.cat((xy, z[..., None].expand(*xy.shape[:-1], 1)), dim=-1)


def transl_to_weak(
    transl: Tensor, crop: Crop, focal_px: Tensor | float, center_px: Tensor
) -> Tensor:
    """Return the weak-perspective camera of a crop for a translated body.

    Args:
        transl: (..., 3) metres, z > 0.
        crop: An upright crop.
        focal_px: (...) of the full image.
        center_px: (..., 2) principal point of the full image.

    Returns:
        (..., 3): s, tx, ty; see ``weak_to_transl``.

    Raises:
        ValueError: If the crop is turned.
    """
    crop._require_upright()
    pixels_per_metre = focal_px / transl[..., 2]
    xy = transl[..., :2] - (crop.center_px - center_px) / pixels_per_metre[..., None]
    s = 2 * pixels_per_metre / crop.size_px
    return torch.cat((s[..., None].expand(*xy.shape[:-1], 1), xy), dim=-1)
