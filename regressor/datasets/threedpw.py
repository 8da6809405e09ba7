"""3DPW: sequences as pickles, SMPL poses of each person in the world, a moving camera.

Read as data only (``bodymodel.pickles``). Traps: poses are the world's, so the camera's rotation
comes before the root's; frames whose camera was not found (``campose_valid``) are no labels; shape
is that of gendered SMPL and says nothing to SMPL-X. Joints are SMPL's 24, of which 22 are SMPL-X's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bodymodel.body import BodyData
from bodymodel.keypoints import CONVENTIONS
from bodymodel.spec import SMPL_JOINTS
from regressor.datasets.labels import (
    LabelError,
    LabelRows,
    Layout,
    checked_rows,
    fit_points,
    params_of_smpl,
    turned,
)
from regressor.examples import Example, PictureFile, box_of_keypoints

__all__ = ["LAYOUT", "Sequence3dpw", "open_3dpw", "read_sequence", "sequence_files"]

_OPENPOSE18 = CONVENTIONS["openpose_coco18"]
_PHOTO = "imageFiles/{sequence}/image_{frame:05d}.jpg"
_HALF = 0.5  # a calibration: from the first pixel's centre


@dataclass(frozen=True, eq=False)
class Sequence3dpw:
    """One sequence; lists are by person.

    Attributes:
        name: Of the sequence.
        poses: (F, 72) each.
        betas: (10+,) each.
        transl: (F, 3) each, metres.
        joints: (F, 24, 3) each, metres in the world; empty if the file has none.
        points: (F, 18, 3) each, OpenPose's order, pixels.
        valid: (F,) bool each.
        genders: f, m or n each.
        world_to_camera: (F, 4, 4).
        intrinsics: (3, 3).
        frames: (F,) numbers of the photos.
    """

    name: str
    poses: list[np.ndarray] = field(repr=False)
    betas: list[np.ndarray] = field(repr=False)
    transl: list[np.ndarray] = field(repr=False)
    joints: list[np.ndarray] = field(repr=False)
    points: list[np.ndarray] = field(repr=False)
    valid: list[np.ndarray] = field(repr=False)
    genders: list[str] = field(repr=False)
    world_to_camera: np.ndarray = field(repr=False)
    intrinsics: np.ndarray = field(repr=False)
    frames: np.ndarray = field(repr=False)

    def photo(self, frame: int) -> str:
        """Return the photo's name relative to the data set."""
        return _PHOTO.format(sequence=self.name, frame=int(self.frames[frame]))


def read_sequence(path: Path) -> Sequence3dpw:
    """Read one pickle as data.

    Raises:
        LabelError: If it is not one of 3DPW's.
    """
    from bodymodel.pickles import load_model_pickle

    try:
        content = load_model_pickle(path)
    except (ValueError, OSError) as error:
        raise LabelError(str(error)) from None

    def people(key: str) -> list[np.ndarray]:
        values = content.get(key)
        if not isinstance(values, list) or not values:
            raise LabelError(f"{path} is no sequence of 3DPW: {key} must be a list by person")
        return [np.asarray(value) for value in values]

    poses = people("poses")
    count = len(poses[0])
    outer = np.asarray(content.get("cam_poses", ()))
    inner = np.asarray(content.get("cam_intrinsics", ()))
    if outer.shape != (count, 4, 4) or inner.shape != (3, 3):
        raise LabelError(
            f"{path}: cam_poses and cam_intrinsics must be ({count}, 4, 4) and (3, 3), got "
            f"{outer.shape} and {inner.shape}"
        )
    frames = np.asarray(content.get("img_frame_ids", ()))
    joints = content.get("jointPositions")
    genders = content.get("genders") or ["n"] * len(poses)
    return Sequence3dpw(
        name=str(content.get("sequence") or path.stem),
        poses=poses,
        betas=people("betas"),
        transl=people("trans") if "trans" in content else [np.zeros((count, 3))] * len(poses),
        joints=[np.asarray(j).reshape(-1, 24, 3) for j in joints] if joints else [],
        points=[p.transpose(0, 2, 1) for p in people("poses2d")],
        valid=[v.astype(bool) for v in people("campose_valid")],
        genders=[str(g)[:1].lower() for g in genders],
        world_to_camera=outer.astype(np.float64),
        intrinsics=inner.astype(np.float64),
        frames=frames if frames.shape == (count,) else np.arange(count),
    )


@dataclass(frozen=True, eq=False)
class _ThreeDpw:
    photos: Path
    sequences: list[Sequence3dpw] = field(repr=False)
    rows: list[tuple[int, int, int]] = field(repr=False)

    def make(self, row: int) -> Example:
        which, person, frame = self.rows[row]
        sequence = self.sequences[which]
        rotation = sequence.world_to_camera[frame, :3, :3]
        params = params_of_smpl(sequence.poses[person][frame])
        params["global_orient"] = turned(params["global_orient"], rotation)
        points = fit_points(_OPENPOSE18, sequence.points[person][frame])
        center, side = box_of_keypoints(points)
        space = np.zeros((145, 4), np.float32)
        if sequence.joints:
            joints = sequence.joints[person][frame] @ rotation.T
            space = fit_points(SMPL_JOINTS, np.column_stack([joints - joints[0], np.ones(24)]))
        inner = sequence.intrinsics
        return Example(
            picture=PictureFile(self.photos / sequence.photo(frame)),
            center_px=center,
            side_px=side,
            source="3dpw",
            key=sequence.photo(frame),
            keypoints_2d=points,
            keypoints_3d=space,
            params=params,
            focal_px=float((inner[0, 0] + inner[1, 1]) / 2),
            center_of_view_px=(inner[:2, 2] + _HALF).astype(np.float32),
        )


def sequence_files(path: Path, split: str) -> list[Path]:
    """Return a split's pickles below the data set's root, ``sequenceFiles`` or the split itself."""
    for folder in (path / "sequenceFiles" / split, path / split, path):
        files = sorted(folder.glob("*.pkl"))
        if files:
            return files
    return []


def _rows(sequences: list[Sequence3dpw]) -> Iterator[tuple[int, int, int]]:
    for which, sequence in enumerate(sequences):
        for person, valid in enumerate(sequence.valid):
            for frame in np.flatnonzero(valid):
                if (sequence.points[person][frame, :, 2] > 0).any():
                    yield which, person, int(frame)


def open_3dpw(path: Path, images: Path | None, body: BodyData) -> LabelRows:
    """Open the training sequences, or those of the folder given.

    Args:
        path: The data set's root, or a folder of ``.pkl``.
        images: The folder that has ``imageFiles/``.
        body: Not needed: SMPL's rotations mean the same to every body of the tree.

    Raises:
        LabelError: If there are none, or none can be read.
    """
    import logging

    files = sequence_files(path, "train")
    sequences: list[Sequence3dpw] = []
    unread = 0
    for file in files:
        try:
            sequences.append(read_sequence(file))
        except LabelError as error:
            logging.getLogger("regressor.datasets").warning("%s", error)
            unread += 1
    if not sequences:
        raise LabelError(f"{path} has no sequence of 3DPW (sequenceFiles/train/*.pkl) to read")
    rows = list(_rows(sequences))
    root = images
    if root is None:
        near = [files[0].parents[k] for k in range(min(3, len(files[0].parents)))]
        root = next((p for p in near if (p / "imageFiles").is_dir()), near[-1])
    made = checked_rows("3dpw", len(rows), _ThreeDpw(root, sequences, rows).make)
    skipped = dict(made.skipped) | ({"sequences that cannot be read": unread} if unread else {})
    return LabelRows(made.name, made.make, made.rows, skipped)


LAYOUT = Layout(
    "3dpw", "3DPW (sequenceFiles/train/*.pkl, imageFiles/)",
    lambda path: (path / "sequenceFiles").is_dir(), open_3dpw,
)  # fmt: skip
