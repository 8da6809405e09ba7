"""Human3.6M as Hand4Whole lays it out: JSON by subject, fits of NeuralAnnot in world coordinates.

``annotations/Human36M_subject<S>_{data,camera,joint_3d,SMPLX_NeuralAnnot}.json`` and ``images/``.
Traps: joints and translations are world millimetres; the fits' root rotation is the world's, so the
camera's rotation comes before it; the 17 joints have the right leg first here, SPIN's the left.
Ankles and wrists of the fits are not to be trusted (nor are feet), and hands and face only where a
flag says so. A photo in five is taken, as everybody does for training.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bodymodel.body import BodyData
from bodymodel.spec import BODY_JOINTS
from regressor.datasets.labels import (
    LabelError,
    LabelRows,
    Layout,
    checked_rows,
    fit_points,
    read_json,
    turned,
)
from regressor.datasets.wholebody import neuralannot_params
from regressor.examples import Example, PictureFile

__all__ = ["H36M17", "LAYOUT", "SUBJECTS", "camera_of", "frame_joints", "open_human36m"]

H36M17: tuple[str, ...] = (
    "pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "torso_h36m", "thorax_h36m", "head_h36m", "head_top", "left_shoulder", "left_elbow",
    "left_wrist", "right_shoulder", "right_elbow", "right_wrist",
)  # fmt: skip
"""Its 17 joints, right leg first; the spine's are not SMPL-X's."""

SUBJECTS = {"train": (1, 5, 6, 7, 8), "test": (9, 11)}
_STRIDE = 5
_STRICT_3D = frozenset(
    f"{side}_{joint}" for side in ("left", "right")
    for joint in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")
)  # fmt: skip
_HALF = 0.5  # its calibration counts from the first pixel's centre
_DISTRUSTED = [BODY_JOINTS.index(f"{s}_{j}") - 1 for s in ("left", "right")
               for j in ("ankle", "wrist", "foot")]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Camera:
    """One camera of a subject.

    Attributes:
        rotation: (3, 3) world to camera.
        transl_mm: (3,).
        focal_px: (2,).
        center_px: (2,) from the corner of the first pixel.
    """

    rotation: np.ndarray
    transl_mm: np.ndarray
    focal_px: np.ndarray
    center_px: np.ndarray


def camera_of(entry: Mapping[str, Any]) -> Camera:
    """Return the camera of an entry ``R``, ``t``, ``f``, ``c``."""
    return Camera(
        np.asarray(entry["R"], np.float64).reshape(3, 3),
        np.asarray(entry["t"], np.float64).reshape(3),
        np.asarray(entry["f"], np.float64).reshape(2),
        np.asarray(entry["c"], np.float64).reshape(2) + _HALF,
    )


def frame_joints(camera: Camera, world_mm: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return joints (17, 3) in metres before the camera, and their pixels (17, 2)."""
    world = np.asarray(world_mm, np.float64)
    if world.shape != (17, 3):
        raise LabelError(f"its joints are {world.shape} instead of (17, 3)")
    joints = (world @ camera.rotation.T + camera.transl_mm) / 1000
    pixels = joints[:, :2] / joints[:, 2:] * camera.focal_px + camera.center_px
    return joints, pixels


@dataclass(frozen=True, eq=False)
class Subject:
    """The files of one subject; joints and fits by action, subaction and frame."""

    cameras: Mapping[str, Any]
    joints: Mapping[str, Any] = field(repr=False)
    fits: Mapping[str, Any] = field(repr=False)

    def joints_of(self, image: Mapping[str, Any]) -> Any:
        """Return the world joints of a photo's frame."""
        return _frame(self.joints, image)

    def fit_of(self, image: Mapping[str, Any]) -> Any:
        """Return the fit of a photo's frame, or None."""
        try:
            return _frame(self.fits, image)
        except KeyError:
            return None


def _frame(tree: Mapping[str, Any], image: Mapping[str, Any]) -> Any:
    keys = (str(image[k]) for k in ("action_idx", "subaction_idx", "frame_idx"))
    for key in keys:
        tree = tree[key]
    return tree


def read_subject(
    folder: Path, subject: int, stride: int, with_fits: bool = True
) -> tuple[Subject, list[tuple[dict, list[float]]]]:
    """Return a subject's files, and its photos with their boxes (x, y, width, height).

    Args:
        folder: Of the JSON files.
        subject: Its number.
        stride: Every so many frames are kept; all of them take gigabytes.
        with_fits: Whether NeuralAnnot's are read, if they are there.

    Raises:
        LabelError: If one is missing or damaged.
    """

    def read(what: str) -> Any:
        return read_json(folder / f"Human36M_subject{subject}_{what}.json")

    fits = folder / f"Human36M_subject{subject}_SMPLX_NeuralAnnot.json"
    poses = read_json(fits) if with_fits and fits.exists() else {}
    files = Subject(read("camera"), _thinned(read("joint_3d"), stride), _thinned(poses, stride))
    data = read("data")
    try:
        images = {image["id"]: image for image in data["images"]}
        rows = [(images[a["image_id"]], a["bbox"]) for a in data["annotations"]]
        rows = [(image, box) for image, box in rows if int(image["frame_idx"]) % stride == 0]
    except (KeyError, TypeError, ValueError) as error:
        raise LabelError(
            f"{folder}/Human36M_subject{subject}_data.json has no images and annotations as "
            f"Hand4Whole writes them ({type(error).__name__}: {error})"
        ) from None
    return files, rows


def _thinned(tree: Mapping[str, Any], stride: int) -> dict[str, Any]:
    """Return a tree of action, subaction and frame with some of the frames."""
    try:
        return {
            action: {
                part: {k: v for k, v in frames.items() if int(k) % stride == 0}
                for part, frames in parts.items()
            }
            for action, parts in tree.items()
        }
    except (AttributeError, ValueError) as error:
        raise LabelError(
            f"a file of Human3.6M is not [action][subaction][frame] ({type(error).__name__}: "
            f"{error})"
        ) from None


@dataclass(frozen=True, eq=False)
class _Human36M:
    photos: Path
    subjects: Mapping[int, Subject] = field(repr=False)
    rows: list[tuple[int, dict, list[float]]] = field(repr=False)
    body: BodyData = field(repr=False)

    def make(self, row: int) -> Example:
        subject, image, box = self.rows[row]
        files = self.subjects[subject]
        camera = camera_of(files.cameras[str(image["cam_idx"])])
        joints, pixels = frame_joints(camera, files.joints_of(image))
        ones = np.ones((17, 1))
        space = np.column_stack([joints - joints[0], [n in _STRICT_3D for n in H36M17]])
        params, weights = self._params(files.fit_of(image), camera)
        x, y, width, height = (float(v) for v in box)
        return Example(
            picture=PictureFile(self.photos / image["file_name"]),
            center_px=np.array([x + width / 2, y + height / 2], np.float32),
            side_px=max(width, height),
            source="human36m",
            key=f"{image['action_idx']}/{image['subaction_idx']}/{image['frame_idx']}/S{subject}",
            keypoints_2d=fit_points(H36M17, np.column_stack([pixels, ones])),
            keypoints_3d=fit_points(H36M17, space),
            params=params,
            weights=weights,
            focal_px=float(camera.focal_px.mean()),
            center_of_view_px=camera.center_px.astype(np.float32),
        )

    def _params(self, entry: Any, camera: Camera) -> tuple[dict, dict]:
        if not isinstance(entry, Mapping):
            return {}, {}
        params = neuralannot_params(entry, self.body, default_valid=False)
        params["global_orient"] = turned(params["global_orient"], camera.rotation)
        trust = np.ones(21, np.float32)
        trust[_DISTRUSTED] = 0
        return params, {"body_pose": trust}


def annotation_folder(path: Path) -> Path | None:
    """Return the folder of the JSON files, ``path`` or its ``annotations/``, or None."""
    for folder in (path, path / "annotations"):
        if folder.is_dir() and any(folder.glob("Human36M_subject*_data.json")):
            return folder
    return None


def open_human36m(path: Path, images: Path | None, body: BodyData) -> LabelRows:
    """Open the training subjects that are there.

    Args:
        path: The folder with ``annotations/`` and ``images/``.
        images: Folder of the photos if it is another.
        body: That will be posed.

    Raises:
        LabelError: If there are no such files.
    """
    folder = annotation_folder(path)
    there = [s for s in SUBJECTS["train"]
             if folder and (folder / f"Human36M_subject{s}_data.json").exists()]  # fmt: skip
    if folder is None or not there:
        raise LabelError(
            f"{path} has no annotations/Human36M_subject<S>_data.json of a training subject "
            f"({', '.join(map(str, SUBJECTS['train']))})"
        )
    subjects, rows = {}, []
    for subject in there:
        subjects[subject], found = read_subject(folder, subject, _STRIDE)
        rows += [(subject, image, box) for image, box in found]
    photos = images or folder.parent / "images"
    source = _Human36M(photos, subjects, rows, body)
    return checked_rows("human36m", len(rows), source.make)


LAYOUT = Layout(
    "human36m", "Human3.6M in Hand4Whole's JSON (annotations/Human36M_subject*_data.json)",
    lambda path: annotation_folder(path) is not None, open_human36m,
)  # fmt: skip
