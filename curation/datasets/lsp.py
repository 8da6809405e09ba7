"""Leeds Sports Pose (LSP) and its extended training set (LSPET). Torch-free.

Layout: ``joints.mat`` beside ``images/im0001.jpg`` (LSP) or ``images/im00001.jpg`` (LSPET). The
two files differ in everything but the joint order (``lsp14``):

* LSP ``joints`` is (3, 14, N), and its flag is 1 where the joint is *occluded*.
* LSPET ``joints`` is (14, 3, N), and its flag is 1 where the joint is *labelled*; elsewhere x and
  y mean nothing (they are even negative).

Coordinates were clicked in MATLAB, where the centre of the first pixel is 1. Ours is 0.5, hence
0.5 px is subtracted.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from bodymodel.keypoints import Keypoints2D
from curation.datasets.base import (
    OCCLUDED_CONFIDENCE,
    VISIBLE_CONFIDENCE,
    DatasetError,
    is_image_name,
    relative_id,
)
from curation.samples import KeypointSource, LabelledPerson, Sample

_MATLAB_TO_CORNER = np.float32(-0.5)
_IMAGE_NAME = re.compile(r"im(\d+)\.\w+", re.IGNORECASE)


def lsp_kind(joints_mat: Path) -> Literal["lsp", "lspet"] | None:
    """Tell by the shape of its array which of the two sets a ``joints.mat`` belongs to."""
    from scipy.io import whosmat

    try:
        shapes = {name: shape for name, shape, _ in whosmat(joints_mat)}
    except Exception:
        return None  # scipy raises a dozen types on files that are not MATLAB's
    shape = shapes.get("joints", ())
    shape = (*shape, 1) if len(shape) == 2 else shape  # MATLAB drops a last axis of one
    if len(shape) != 3:
        return None
    return {(3, 14): "lsp", (14, 3): "lspet"}.get(shape[:2])


@dataclass(frozen=True)
class LspDataset:
    """LSP or LSPET in the original layout, with the demo set's ``truth.npz`` if there is one."""

    root: Path
    kind: Literal["lsp", "lspet"]

    def count(self) -> int:
        """Return the number of labelled images and of images without labels."""
        return len(self._numbers)

    def iter_samples(self) -> Iterator[Sample]:
        """Yield the images in the order of their numbers.

        A number that has labels and no file is given as well (reading its image will fail); a file
        without labels has a problem.
        """
        digits = 4 if self.kind == "lsp" else 5
        for number in self._numbers:
            name = self._names.get(number, f"im{number:0{digits}d}.jpg")
            path = self._folder / name
            image_id = relative_id(self.root, path)
            if not 1 <= number <= len(self._points):
                problem = (
                    f"joints.mat has labels for {len(self._points)} images, "
                    f"none for number {number}"
                )
                yield Sample(image_id, path, problem=problem)
                continue
            truth = self._truth(image_id)
            # nobody clicked the joints of rendered people: they are the body's own
            convention = "lsp14" if truth is None else "smplx_lsp14"
            points = Keypoints2D(convention, self._points[number - 1])
            person = LabelledPerson(
                person_index=0,
                bbox_xyxy_px=None,
                keypoints=((KeypointSource.ANNOTATION, points),),
                truth=truth,
            )
            yield Sample(image_id, path, (person,))

    @property
    def _folder(self) -> Path:
        images = self.root / "images"
        return images if images.is_dir() else self.root

    @cached_property
    def _names(self) -> dict[int, str]:
        """File names by number; of two files with one number the JPEG, then the first."""
        names: dict[int, str] = {}
        for path in sorted(self._folder.iterdir(), reverse=True):
            match = _IMAGE_NAME.fullmatch(path.name)
            if match and is_image_name(path.name):
                number = int(match[1])
                if not names.get(number, "").lower().endswith((".jpg", ".jpeg")):
                    names[number] = path.name
        return names

    @cached_property
    def _numbers(self) -> list[int]:
        return sorted(set(self._names) | set(range(1, len(self._points) + 1)))

    @cached_property
    def _points(self) -> np.ndarray:
        """(N, 14, 3) float32: x px, y px, confidence; zero where unlabelled."""
        from scipy.io import loadmat

        try:
            joints = np.asarray(loadmat(self.root / "joints.mat")["joints"], np.float32)
        except Exception as error:
            raise DatasetError(f"{self.root / 'joints.mat'} cannot be read: {error}") from None
        joints = joints[..., None] if joints.ndim == 2 else joints
        joints = joints.transpose(2, 1, 0) if self.kind == "lsp" else joints.transpose(2, 0, 1)
        if joints.shape[1:] != (14, 3):
            raise DatasetError(
                f"{self.root / 'joints.mat'} is not {self.kind.upper()}'s: joints must be "
                f"{'(3, 14, N)' if self.kind == 'lsp' else '(14, 3, N)'}"
            )
        flag = joints[..., 2]
        if self.kind == "lsp":
            confidence = np.where(flag > 0.5, OCCLUDED_CONFIDENCE, VISIBLE_CONFIDENCE)
        else:
            confidence = np.where(flag > 0.5, VISIBLE_CONFIDENCE, 0.0)
        points = np.empty(joints.shape, np.float32)
        points[..., :2] = joints[..., :2] + _MATLAB_TO_CORNER
        points[..., 2] = confidence
        return points

    def _truth(self, image_id: str) -> dict[str, np.ndarray] | None:
        row = self._truth_rows.get(image_id)
        if row is None:
            return None
        count = len(self._truth_arrays["image_id"])
        return {
            key: value[row] if value.ndim and len(value) == count else value
            for key, value in self._truth_arrays.items()
            if key not in ("image_id", "person_index")
        }

    @cached_property
    def _truth_arrays(self) -> dict[str, np.ndarray]:
        path = self.root / "truth.npz"
        if not path.is_file():
            return {"image_id": np.zeros(0, "U1")}
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = {key: arrays[key] for key in arrays.files}
            found["image_id"] = np.atleast_1d(found["image_id"]).astype(str)
        except Exception as error:
            raise DatasetError(f"{path} cannot be read: {error!r}") from None
        return found

    @cached_property
    def _truth_rows(self) -> dict[str, int]:
        arrays = self._truth_arrays
        person = np.atleast_1d(arrays.get("person_index", np.zeros(len(arrays["image_id"]))))
        return {str(n): i for i, n in enumerate(arrays["image_id"]) if person[i] == 0}
