"""One labelled person as plain arrays, wherever it comes from, before any crop is cut."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

import numpy as np

from bodymodel.keypoints import FIT_KEYPOINTS


class Modality(Enum):
    """What an example shows: a whole person, or only a part close up."""

    BODY = "body"
    HAND = "hand"
    HEAD = "head"


class Picture(Protocol):
    """Where the pixels are."""

    def load(self) -> np.ndarray:
        """Return (H, W, 3) uint8, upright RGB."""
        ...


@dataclass(frozen=True)
class PictureFile:
    """A photo on disk."""

    path: Path

    def load(self) -> np.ndarray:
        """Return (H, W, 3) uint8, upright (EXIF applied) RGB.

        Raises:
            curation.images.ImageError: If it cannot be read.
        """
        from curation.images import read_image

        return read_image(self.path)[0]


_NOTHING_2D = np.zeros((len(FIT_KEYPOINTS), 3), np.float32)
_NOTHING_3D = np.zeros((len(FIT_KEYPOINTS), 4), np.float32)


@dataclass(frozen=True, eq=False)
class Example:
    """A person, a hand or a head with whatever is known of it.

    Attributes:
        picture: The whole photo.
        center_px: (2,) middle of the person's (or part's) box in the photo.
        side_px: Side of its square; the tight box's longer side, without any margin.
        source: Which data set, for sampling and for tables.
        key: Which example of it, for messages and for splits; the same for all of one photo.
        keypoints_2d: (145, 3) ``fit`` convention, px of the photo, confidence 0..1.
        keypoints_3d: (145, 4) metres, camera axes, relative to the pelvis (a hand's: to its
            wrist, a head's: to its neck), weight.
        params: Names of BodyParams -> arrays, whole rotations as axis-angle (the mean hand
            included), ``global_orient`` model to camera. What is unknown is absent.
        weights: By the names of ``params``, 0..1, 1 where absent: how far a label is trusted; one
            number, or one a joint (21 of ``body_pose``, 15 of a hand).
        focal_px: Of the photo, 0 if unknown.
        center_of_view_px: (2,) principal point; only with ``focal_px``.
        modality: Whole person or part.
        is_right: Which hand it is; only for hands.
    """

    picture: Picture
    center_px: np.ndarray
    side_px: float
    source: str
    key: str
    keypoints_2d: np.ndarray = field(default_factory=lambda: _NOTHING_2D)
    keypoints_3d: np.ndarray = field(default_factory=lambda: _NOTHING_3D)
    params: Mapping[str, np.ndarray] = field(default_factory=dict)
    weights: Mapping[str, float | np.ndarray] = field(default_factory=dict)
    focal_px: float = 0.0
    center_of_view_px: np.ndarray = field(default_factory=lambda: np.zeros(2, np.float32))
    modality: Modality = Modality.BODY
    is_right: bool = True


class ExampleSource(Protocol):
    """A data set: a list of examples that is read as needed."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Return one."""
        ...


def modality_of(source: ExampleSource) -> Modality:
    """Return what all examples of a source show; whole people where it does not say."""
    return getattr(source, "modality", Modality.BODY)


def box_of_keypoints(keypoints_2d: np.ndarray, least: float = 0.1) -> tuple[np.ndarray, float]:
    """Return the middle (2,) and the longer side of the box of the keypoints seen.

    Raises:
        ValueError: If none is seen.
    """
    seen = np.isfinite(keypoints_2d).all(-1) & (keypoints_2d[:, 2] >= least)
    if not seen.any():
        raise ValueError("no keypoint is seen; an example needs a box or a keypoint")
    points = keypoints_2d[seen, :2]
    low, high = points.min(0), points.max(0)
    return ((low + high) / 2).astype(np.float32), float((high - low).max())
