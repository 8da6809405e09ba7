"""One person's mask of one photo, from a file or from MediaPipe's segmentation. Torch-free.

Runs in worker processes (curation.worker_pool): pictures are large, what comes back is small.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from bodymodel.keypoints import CONVENTIONS
from curation.evidence import SAME_PERSON_GAP
from curation.images import ImageError, read_image
from curation.people import as_fit, body_gap, keypoint_box, person_size
from curation.proposals import enlarged
from curation.samples import PersonObservation
from fitting.masks import MaskField, mask_field

__all__ = ["MaskAnswer", "MaskJob", "find_mask_file", "start_masker"]

LOOK = 1.5
"""The segmentation sees the box of a person's keypoints grown by this: it wants some room."""

KEEP = 1.25
"""And what it says counts in the box grown by this: beyond it are other people."""

_SURE = 0.3  # keypoints from this confidence on are where the person is
_LEAST_INSIDE = 0.6  # of those, in the person's mask
_NEAR = 0.03  # of the person's size: as far beside the mask a point still counts as in it
_POSE = "mediapipe_pose33"


@dataclass(frozen=True, eq=False)
class MaskJob:
    """What mask is wanted.

    Attributes:
        photo: The file.
        person: Who.
        mask: File of the mask, white on the person; None to segment the photo.
        shared: Whether that file is of everybody in the photo.
    """

    photo: Path
    person: PersonObservation
    mask: Path | None = None
    shared: bool = False


@dataclass(frozen=True, eq=False)
class MaskAnswer:
    """A mask, or one plain sentence why there is none."""

    field: MaskField | None = None
    problem: str = ""


def find_mask_file(folder: Path, image_id: str, person_index: int) -> tuple[Path, bool] | None:
    """Return the mask file of a person, and whether it is of the whole photo.

    ``a/b.jpg`` has ``a/b.K.png`` for person K or ``a/b.png`` for everybody; leading folders of the
    photo may be left out.
    """
    parts = Path(image_id).with_suffix("").parts
    for first in range(len(parts)):
        stem = folder.joinpath(*parts[first:])
        for name, shared in (
            (f"{stem.name}.{person_index}.png", False),
            (f"{stem.name}.png", True),
        ):
            if (path := stem.with_name(name)).is_file():
                return path, shared
    return None


def start_masker() -> Callable[[MaskJob], MaskAnswer]:
    """Return the function that does a job; MediaPipe is loaded when it is needed."""
    os.environ.setdefault("GLOG_minloglevel", "3")
    return partial(_answer, segmenter=_Segmenter())


def _answer(job: MaskJob, segmenter: "_Segmenter") -> MaskAnswer:
    try:
        if job.mask is None:
            mask = segmenter(job)
        else:
            mask = _read(job.mask, (job.person.width, job.person.height))
    except ImageError as error:
        return MaskAnswer(problem=f"{job.mask or job.photo} cannot be read: {error.reason}")
    except _NoMaskError as error:
        return MaskAnswer(problem=str(error))
    if job.mask is None or job.shared:
        mask = _cut(mask, _box(job.person, KEEP))
    if problem := _why_not(mask, job.person):
        return MaskAnswer(problem=problem)
    return MaskAnswer(mask_field(mask))


class _NoMaskError(Exception):
    """The message is one plain sentence."""


def _read(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a mask of a photo of this width and height."""
    rgb = read_image(path)[0]
    if rgb.shape[1::-1] != size:
        raise _NoMaskError(
            f"{path} must have the size of the upright photo, {size[0]}x{size[1]}, got "
            f"{rgb.shape[1]}x{rgb.shape[0]}"
        )
    light = rgb.mean(2)
    if light.max() <= 127:
        raise _NoMaskError(
            f"{path} must be white (255) on the person, its brightest pixel is {light.max():.0f}"
        )
    return light > 127


def _box(person: PersonObservation, factor: float) -> np.ndarray:
    """(4,) box of the person's surer keypoints and of their own box, grown."""
    points = np.where(person.keypoints_2d[:, 2:] >= _SURE, person.keypoints_2d, 0)
    boxes = np.stack([keypoint_box(points), person.bbox_xyxy_px])
    boxes = boxes[np.isfinite(boxes).all(1)]
    if not len(boxes):
        raise _NoMaskError("nobody knows where in the photo this person is")
    return enlarged(np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)]), factor)


def _cut(mask: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the mask without what is outside a box."""
    height, width = mask.shape
    x0, y0 = np.floor(box[:2]).astype(int).clip(0, (width, height))
    x1, y1 = np.ceil(box[2:]).astype(int).clip(0, (width, height))
    cut = np.zeros_like(mask)
    cut[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
    return cut


def _why_not(mask: np.ndarray, person: PersonObservation) -> str:
    """Say why a mask is not this person's, or nothing."""
    if mask.sum() < 16:
        return "the mask is empty"
    points = person.keypoints_2d[person.keypoints_2d[:, 2] >= _SURE]
    inside = (points[:, :2] >= 0).all(1) & (points[:, :2] < mask.shape[::-1]).all(1)
    points = points[inside]
    if not len(points):
        return ""
    from scipy.ndimage import distance_transform_edt

    step = max(1, int(person_size(points) / 200))  # a coarse look is enough
    coarse = mask[::step, ::step]
    away = distance_transform_edt(~coarse) if coarse.any() else np.full(coarse.shape, np.inf)
    column, row = (points[:, :2] // step).astype(int).T
    near = away[row.clip(0, coarse.shape[0] - 1), column.clip(0, coarse.shape[1] - 1)]
    share = (near * step <= _NEAR * person_size(points)).mean()
    if share < _LEAST_INSIDE:
        return f"only {100 * share:.0f} % of the person's keypoints lie in the mask"
    return ""


@dataclass(eq=False)
class _Segmenter:
    """MediaPipe's pose graph with its segmentation, loaded with the first photo."""

    _graph: list = field(default_factory=list)

    def __call__(self, job: MaskJob) -> np.ndarray:
        """Return the (H, W) mask of the person; False outside what was looked at."""
        rgb = read_image(job.photo)[0]
        height, width = rgb.shape[:2]
        box = _box(job.person, LOOK)
        x0, y0 = np.floor(box[:2]).astype(int).clip(0, (width, height))
        x1, y1 = np.ceil(box[2:]).astype(int).clip(0, (width, height))
        if min(x1 - x0, y1 - y0) < 16:
            raise _NoMaskError("the person is too small to be segmented")
        if not self._graph:
            import mediapipe

            self._graph.append(
                mediapipe.solutions.pose.Pose(
                    static_image_mode=True, model_complexity=1, enable_segmentation=True
                )
            )
        found = self._graph[0].process(np.ascontiguousarray(rgb[y0:y1, x0:x1]))
        if found.segmentation_mask is None or not found.pose_landmarks:
            raise _NoMaskError("MediaPipe's segmentation sees nobody there")
        points = np.array([(p.x, p.y, p.visibility) for p in found.pose_landmarks.landmark])
        points[:, :2] = points[:, :2] * (x1 - x0, y1 - y0) + (x0, y0)
        assert len(points) == len(CONVENTIONS[_POSE])
        if body_gap(job.person.keypoints_2d, as_fit(points, _POSE)) > SAME_PERSON_GAP:
            raise _NoMaskError("MediaPipe's segmentation sees somebody else there")
        mask = np.zeros((height, width), bool)
        mask[y0:y1, x0:x1] = np.asarray(found.segmentation_mask) > 0.5
        return mask
