"""The part of a photo that a person's pictures show. Torch-free."""

import numpy as np

__all__ = ["person_window"]

_MARGIN = 0.35  # round the person's box, in parts of its longer side


def person_window(
    size: tuple[int, int], box: np.ndarray, margin: float = _MARGIN
) -> tuple[int, int, int, int]:
    """Return the window round a person: x0, y0, x1, y1 in whole pixels, at least one pixel.

    Args:
        size: Height and width of the photo.
        box: (4,) x0 y0 x1 y1 in pixels.
        margin: Round the box, in parts of its longer side.
    """
    height, width = size
    box = np.asarray(box, np.float64)
    around = margin * (box[2:] - box[:2]).max()
    low = np.clip(np.floor(box[:2] - around), 0, (width - 1, height - 1)).astype(int)
    high = np.clip(np.ceil(box[2:] + around), low + 1, (width, height)).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
