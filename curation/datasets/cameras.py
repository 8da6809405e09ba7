"""Calibrated cameras of any dataset: ``cameras.json`` beside the photos. Torch-free.

    {"images/0001.jpg": {"focal_px": 1450, "center_px": [960, 540]},
     "left": {"K": [[1450, 0, 960], [0, 1450, 540], [0, 0, 1]]},
     "*": {"focal_px": 1200}}

A key is a photo's path below the directory, a folder above it, or ``*`` for all; the closest one
counts. In pixels of the upright image, no distortion.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from curation.datasets.base import Dataset, DatasetError
from curation.samples import KnownCamera, Sample

__all__ = ["CAMERAS_FILE", "CalibratedDataset", "parse_camera", "with_cameras"]

CAMERAS_FILE = "cameras.json"

_SQUARE = 0.02  # pixels whose sides differ by less are square


@dataclass(frozen=True)
class CalibratedDataset:
    """A dataset whose photos' cameras are known.

    Attributes:
        base: The photos and their labels.
        cameras: By photo, folder or ``*``.
    """

    base: Dataset
    cameras: Mapping[str, KnownCamera]

    @property
    def kind(self) -> str:
        """The kind of the dataset."""
        return self.base.kind

    @property
    def root(self) -> Path:
        """The directory."""
        return self.base.root

    def count(self) -> int:
        """Return the number of samples."""
        return self.base.count()

    def iter_samples(self) -> Iterator[Sample]:
        """Yield the samples with their cameras, in their order."""
        for sample in self.base.iter_samples():
            yield replace(sample, camera=self._camera_of(sample.image_id) or sample.camera)

    def _camera_of(self, image_id: str) -> KnownCamera | None:
        path = PurePosixPath(image_id)
        names = (image_id, *(parent.as_posix() for parent in path.parents), "*")
        return next((self.cameras[name] for name in names if name in self.cameras), None)


def with_cameras(dataset: Dataset) -> Dataset:
    """Add the cameras of ``cameras.json``, if the dataset's directory has one.

    Raises:
        DatasetError: If the file is not as described above.
    """
    path = dataset.root / CAMERAS_FILE
    if not path.is_file():
        return dataset
    try:
        entries = json.loads(path.read_bytes())
        cameras = {str(name): parse_camera(value) for name, value in entries.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise DatasetError(
            f"{path} cannot be read: {error}. Expected "
            '{"PHOTO or FOLDER or *": {"focal_px": 1200, "center_px": [960, 540]}}, '
            'or {"K": 3x3 matrix} instead'
        ) from None
    return CalibratedDataset(dataset, cameras)


def parse_camera(entry: Mapping[str, Any]) -> KnownCamera:
    """Read one camera.

    Args:
        entry: ``focal_px`` and perhaps ``center_px``; or ``K``, the 3 x 3 matrix.

    Raises:
        ValueError: If the pixels are not square, the matrix has a skew, or a number is not usable.
        KeyError: If neither is there.
    """
    if "K" in entry:
        (fx, skew, cx), (_, fy, cy), _ = ([float(v) for v in row] for row in entry["K"])
        if abs(skew) > _SQUARE * fx or abs(math.log(fx / fy)) > _SQUARE:
            raise ValueError(
                f"pixels must be square and without skew, got fx {fx}, fy {fy}, skew {skew}; "
                "rectify the photos"
            )
        focal, center = math.sqrt(fx * fy), (cx, cy)
    else:
        focal = float(entry["focal_px"])
        x, y = entry.get("center_px") or (math.nan, math.nan)
        center = None if entry.get("center_px") is None else (float(x), float(y))
    if not (math.isfinite(focal) and focal > 0):
        raise ValueError(f"the focal length must be positive, got {focal}")
    if center is not None and not all(map(math.isfinite, center)):
        raise ValueError(f"the principal point must be two numbers, got {center}")
    return KnownCamera(focal, center)
