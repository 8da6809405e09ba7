"""A person's mask, prepared for the solver: a field of distances and an outline. Torch-free."""

from dataclasses import dataclass

import numpy as np

__all__ = ["MaskField", "mask_field"]

_SIDE = 160  # samples along the longer side of the mask's box
_OUTLINE = 240  # points of the outline
_MARGIN = 0.35  # of the box, on every side: as far as the body may stick out and still be pulled


@dataclass(frozen=True, eq=False)
class MaskField:
    """A mask as the solver wants it.

    Attributes:
        outside_px: (H, W) float32, distance to the mask in pixels of the photo, 0 in it; on a grid.
        corner_px: (2,) of the grid's first sample, step_px between its samples.
        outline_px: (N, 2) points of the outline that do not lie on the edge of the photo.
        normal: (N, 2) unit vectors out of the mask there.
    """

    outside_px: np.ndarray
    corner_px: np.ndarray
    step_px: float
    outline_px: np.ndarray
    normal: np.ndarray


def mask_field(mask: np.ndarray, size_px: tuple[int, int] | None = None) -> MaskField | None:
    """Prepare a mask; None if it is empty.

    Args:
        mask: (h, w) bool or 0-1, of the whole photo, at any resolution of the same shape.
        size_px: Width and height of the photo; those of the mask if None.
    """
    from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter

    mask = np.asarray(mask) > 0.5
    ys, xs = np.nonzero(mask)
    if len(ys) < 16:
        return None
    height, width = mask.shape
    scale = (size_px[0] / width) if size_px else 1.0  # pixels of the photo a pixel of the mask
    low, high = np.array((xs.min(), ys.min())), np.array((xs.max() + 1, ys.max() + 1))
    longer = float((high - low).max())
    step = longer / _SIDE
    low, high = low - _MARGIN * longer, high + _MARGIN * longer
    grid_x = np.arange(low[0], high[0], step) + step / 2
    grid_y = np.arange(low[1], high[1], step) + step / 2
    column = np.floor(grid_x).astype(int)
    row = np.floor(grid_y).astype(int)
    # beyond the edge nothing is known: what is there is as good as the mask's nearest pixel
    sampled = mask[row.clip(0, height - 1)[:, None], column.clip(0, width - 1)]
    known = ((row >= 0) & (row < height))[:, None] & ((column >= 0) & (column < width))
    # a sample beside the mask may be in it by a fraction of a step
    outside = (distance_transform_edt(~sampled) - 1).clip(0) * step * scale
    edge = sampled & ~binary_erosion(sampled, border_value=1)
    inner = binary_erosion(known, iterations=max(2, int(np.ceil(2 / step))))
    edge_y, edge_x = np.nonzero(edge & inner)
    outline = np.stack([grid_x[edge_x], grid_y[edge_y]], 1) * scale
    pick = np.linspace(0, len(outline) - 1, min(_OUTLINE, len(outline))).round().astype(int)
    signed = distance_transform_edt(~sampled) - distance_transform_edt(sampled)
    slope_y, slope_x = np.gradient(gaussian_filter(signed, max(1.5, 1.5 / step)))
    normal = np.stack([slope_x[edge_y, edge_x], slope_y[edge_y, edge_x]], 1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-6)
    outside = np.where(known, outside, 0.0).astype(np.float32)
    return MaskField(
        outside, np.array((grid_x[0], grid_y[0])) * scale, step * scale,
        outline[pick], normal[pick],
    )  # fmt: skip
