"""What a dataset says of a photo, and what was seen of a person in it. Torch-free."""

from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Literal

import numpy as np

from bodymodel.keypoints import FIT_KEYPOINTS, Keypoints2D


class KeypointSource(IntEnum):
    """Where one point of one person came from; stored as int8 beside the point."""

    NONE = 0
    ANNOTATION = 1
    OPENPOSE = 2
    WHOLEBODY = 3
    MEDIAPIPE = 4


@dataclass(frozen=True)
class KnownCamera:
    """A calibrated camera: square pixels, no distortion.

    Attributes:
        focal_px: In pixels of the upright image.
        center_px: Principal point, x and y; None for the image's centre.
    """

    focal_px: float
    center_px: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class View:
    """A further calibrated photo of the same person at the same moment.

    A point p of the first camera's frame is at ``rotation @ p + translation`` in this one's. From
    world-to-camera matrices: R = R_view R_first^T, t = t_view - R t_first.

    Attributes:
        keypoints_2d: (145, 3) float32, ``fit`` convention.
        focal_px: Focal length in pixels.
        center_px: (2,) principal point.
        rotation: (3, 3).
        translation: (3,) metres.
    """

    keypoints_2d: np.ndarray
    focal_px: float
    center_px: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray


@dataclass(frozen=True, eq=False)
class FurtherEvidence:
    """What is known of a person beside one photo.

    Attributes:
        keypoints_3d: (145, 4) x y z metres and confidence, ``fit`` convention; None for none.
        frame_3d: "camera": the photo's camera frame; "free": known up to a rigid motion.
        conventions: Of the 3D keypoints and those of the views, as PersonObservation's.
        views: Further photos.
    """

    keypoints_3d: np.ndarray | None = None
    frame_3d: Literal["camera", "free"] = "camera"
    conventions: tuple[str, ...] = ()
    views: tuple[View, ...] = ()


@dataclass(frozen=True, eq=False)
class LabelledPerson:
    """A person as the dataset's own files describe them.

    Attributes:
        person_index: Which person of the image; stable between runs.
        bbox_xyxy_px: (4,) float32 in the upright (EXIF applied) image, or None.
        keypoints: The point sets that the files give, each with its source.
        further: 3D keypoints and further views, None for neither.
        truth: Ground-truth parameters by name where the set has them (rendered people), else None.
    """

    person_index: int
    bbox_xyxy_px: np.ndarray | None = None
    keypoints: tuple[tuple[KeypointSource, Keypoints2D], ...] = ()
    truth: dict[str, np.ndarray] | None = None
    further: FurtherEvidence | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """A photo of a dataset, before anything was read but the labels.

    Attributes:
        image_id: The path relative to the dataset's root, with forward slashes; unique in it.
        path: Where the file is.
        people: Labelled people, empty where the set has no labels for the image.
        problem: Why the labels of this image cannot be used, empty if they can.
        camera: Where the dataset says which camera took the photo, else None.
    """

    image_id: str
    path: Path
    people: tuple[LabelledPerson, ...] = ()
    problem: str = ""
    camera: KnownCamera | None = None


@dataclass(frozen=True, eq=False)
class PersonObservation:
    """What the solver is given of one person. ``status`` is "ok" or why there is nothing to fit.

    Attributes:
        image_id: Of the Sample.
        person_index: Of the LabelledPerson, or the detector's order.
        image_sha256: Of the file's bytes; empty if it could not be read.
        width: Of the upright image, pixels; 0 if it could not be read.
        height: Likewise.
        bbox_xyxy_px: (4,) float32, NaN if unknown.
        keypoints_2d: (145, 3) float32 in the ``fit`` convention: x px, y px, confidence.
        keypoint_source: (145,) int8, KeypointSource values.
        conventions: Of the point sets that the points are from, keys of keypoints.CONVENTIONS: each
            point is where the first that has it puts it.
        world_points: (145, 3) float32, the detector's guess of the points in metres, axes of the
            camera, any origin; NaN where it has none. None without a detection.
        focal_px: From EXIF in pixels of the upright image, NaN if unknown.
        status: "ok", "no_person", "image_error", "label_error".
        reason: One plain sentence when status is not "ok".
        truth: As in LabelledPerson.
        camera: As in Sample.
        further: As in LabelledPerson.
        warning: What went wrong without keeping the person from being fitted; empty if nothing.
        oks_detection: How well the detector agrees with the labels (curation.oks), NaN where
            either is missing.
    """

    image_id: str
    person_index: int
    image_sha256: str = ""
    width: int = 0
    height: int = 0
    bbox_xyxy_px: np.ndarray = field(default_factory=lambda: np.full(4, np.nan, np.float32))
    keypoints_2d: np.ndarray = field(
        default_factory=lambda: np.zeros((len(FIT_KEYPOINTS), 3), np.float32)
    )
    keypoint_source: np.ndarray = field(
        default_factory=lambda: np.zeros(len(FIT_KEYPOINTS), np.int8)
    )
    conventions: tuple[str, ...] = ()
    world_points: np.ndarray | None = None
    focal_px: float = float("nan")
    status: str = "ok"
    reason: str = ""
    truth: dict[str, np.ndarray] | None = None
    camera: KnownCamera | None = None
    oks_detection: float = float("nan")
    further: FurtherEvidence | None = None
    warning: str = ""
