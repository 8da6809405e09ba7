"""Clips: motions and sets of fits or meshes of one body, read as they are needed. Torch-free.

A source is a list of clips; :mod:`conversion.readers` knows the formats. Nothing in a file is
executed, and of a long motion only the frames asked for are in memory.
"""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bodymodel.spec import FAMILIES, Family, Gender
from conversion.hands import Side
from conversion.rows import Rows

__all__ = ["POSE_COLUMNS", "Clip", "ClipError", "Frames", "as_text", "gender_of", "make_clip"]

_log = logging.getLogger(__name__)
# In the order of each family's joints: the column and how many joints it holds.
POSE_COLUMNS: dict[Family, tuple[tuple[str, int], ...]] = {
    "smplx": (
        ("global_orient", 1), ("body_pose", 21), ("jaw_pose", 1), ("leye_pose", 1),
        ("reye_pose", 1), ("left_hand_pose", 15), ("right_hand_pose", 15),
    ),
    "smplh": (
        ("global_orient", 1), ("body_pose", 21), ("left_hand_pose", 15), ("right_hand_pose", 15),
    ),
    "smpl": (("global_orient", 1), ("body_pose", 23)),
    "mano": (("global_orient", 1), ("hand_pose", 15)),
    "flame": (
        ("global_orient", 1), ("neck_pose", 1), ("jaw_pose", 1), ("leye_pose", 1),
        ("reye_pose", 1),
    ),
}  # fmt: skip


class ClipError(ValueError):
    """A file that holds no clip that can be converted. The message says why."""


@dataclass(frozen=True, eq=False)
class Frames:
    """Some frames of a clip: parameters, or meshes.

    Attributes:
        full_pose: (F, J, 3) float32 axis-angle; None for meshes.
        betas: (F, B) float32.
        transl: (F, 3) float64 metres.
        expression: (F, E) float32, None where there is none.
        hands: (F, K) by side: hand poses as the file has them, which need a body to be whole.
        focal_px: (F,) of the image, NaN where unknown; None where no frame has one.
        center_px: (F, 2) principal point.
        to_camera: (F, 3, 4) from the source's world to the camera; None if it is the camera's.
        vertices: F meshes, each an array or a sentence that says why it cannot be read.
    """

    full_pose: np.ndarray | None = None
    betas: np.ndarray | None = None
    transl: np.ndarray | None = None
    expression: np.ndarray | None = None
    hands: dict[Side, np.ndarray] = field(default_factory=dict)
    focal_px: np.ndarray | None = None
    center_px: np.ndarray | None = None
    to_camera: np.ndarray | None = None
    vertices: list[np.ndarray | str] | None = None


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of one body.

    Attributes:
        name: Unique in the source; a relative path without its ending.
        family: Of the body; None for meshes, whose topology says it.
        gender: Of the body.
        arrays: Rows of ``full_pose`` (3 J), ``betas``, ``transl``, and where there are such
            ``expression``, ``left_hand`` and ``right_hand``, ``focal_px``, ``center_px`` and
            ``to_camera`` (12).
        meshes: Files, for a clip of meshes.
        labels: What to call each frame: an image's path, a mesh's name; empty for numbered frames.
        body_sha256: Of the body's file, where the clip says it.
        fps: Frames per second, NaN where unknown.
        is_motion: Whether the frames are one person's, one after the other.
        hand: Which hand MANO's is, where the clip says it.
        is_flat_hand: Whether hand poses have the mean in them, where the clip says it.
        has_images: Whether the labels are images.
        origin: The file, and which of its clips; None for meshes.
    """

    name: str
    family: Family | None
    gender: Gender
    arrays: Mapping[str, Rows]
    meshes: tuple[Path, ...] = ()
    labels: tuple[str, ...] = ()
    body_sha256: str = ""
    fps: float = float("nan")
    is_motion: bool = False
    hand: Side | None = None
    is_flat_hand: bool | None = None
    has_images: bool = False
    origin: tuple[Path, int] | None = None

    def reread(self) -> "Clip":
        """Return the clip with its arrays, which :meth:`without_arrays` dropped."""
        if self.origin is None:
            return self
        from conversion.readers import read_file

        path, which = self.origin
        found = next(islice(read_file(path, self.name), which, None))
        return replace(found, name=self.name)

    def without_arrays(self) -> "Clip":
        """Return a clip that takes no memory, for :meth:`reread`."""
        return replace(self, arrays={}, labels=())

    def __len__(self) -> int:
        return len(self.meshes) or len(self.arrays["full_pose"])

    def frames(self, first: int, last: int) -> Frames:
        """Return the frames of a range.

        Raises:
            ClipError: If the file is damaged there.
        """
        if self.meshes:
            from conversion.readers import read_mesh

            return Frames(vertices=[read_mesh(path) for path in self.meshes[first:last]])
        try:
            got = {name: rows[first:last] for name, rows in self.arrays.items()}
        except Exception as error:  # a damaged file can raise nearly anything
            raise ClipError(
                f"{self.name} cannot be read from frame {first} on ({type(error).__name__}: "
                f"{error}); is the file complete?"
            ) from error
        joints = len(FAMILIES[self.family].joints)
        count = len(got["full_pose"])
        camera = got.get("to_camera")
        return Frames(
            full_pose=got["full_pose"].reshape(count, joints, 3).astype(np.float32),
            betas=got["betas"].astype(np.float32),
            transl=got["transl"].astype(np.float64),
            expression=got["expression"].astype(np.float32) if "expression" in got else None,
            hands={
                side: got[f"{side}_hand"] for side in ("left", "right") if f"{side}_hand" in got
            },
            focal_px=got["focal_px"][:, 0] if "focal_px" in got else None,
            center_px=got.get("center_px"),
            to_camera=None if camera is None else camera.reshape(count, 3, 4),
        )


def make_clip(
    name: str, family: Family, columns: Mapping[str, Any], labels: tuple[str, ...] = ()
) -> Clip:
    """Check columns and make a clip of them.

    Args:
        name: Of the clip.
        family: Of the body.
        columns: ``full_pose`` (N, 3 J) and what else there is, as arrays or rows; ``betas`` and
            ``transl`` may be one row for all.
        labels: Of the frames.

    Raises:
        ClipError: If a shape is wrong.
    """
    pose = Rows.of(columns["full_pose"])
    count, joints = len(pose), len(FAMILIES[family].joints)
    if not count:
        raise ClipError(f"{name} has no frames")
    if pose.shape[1] != 3 * joints:
        raise ClipError(f"{name}: poses must be (N, {3 * joints}), got {pose.shape}")
    arrays = {"full_pose": pose}
    if "betas" not in columns:
        _warn_once(f"{name} has no betas: the mean shape is taken")
    for key, array in ({"betas": np.zeros(10), "transl": np.zeros(3)} | dict(columns)).items():
        if key != "full_pose":
            arrays[key] = _per_frame(array, count, f"{name}: {key}")
    for key, width in (("transl", 3), ("focal_px", 1), ("center_px", 2), ("to_camera", 12)):
        if key in arrays and arrays[key].shape[1] != width:
            raise ClipError(f"{name}: {key} must be (N, {width}), got {arrays[key].shape}")
    for key in ("betas", "expression"):
        if key in arrays and arrays[key].shape[1] > 10:  # AMASS has 16, often with zeros behind
            used = max(np.flatnonzero(x.any(0)).max(initial=-1) for x in arrays[key].chunks())
            arrays[key] = arrays[key].columns(0, max(10, 1 + int(used)))
    if "expression" in arrays and not arrays["expression"].shape[1]:
        del arrays["expression"]
    if labels and len(labels) != count:
        raise ClipError(f"{name}: {count} poses and {len(labels)} names")
    return Clip(name, family, "neutral", arrays, (), labels)


@functools.cache  # files are read again for a report's pictures
def _warn_once(sentence: str) -> None:
    _log.warning("%s", sentence)


def _per_frame(array: "np.ndarray | Rows", count: int, what: str) -> Rows:
    if isinstance(array, Rows):
        if len(array) != count:
            raise ClipError(f"{what} must have one row or {count}, got {array.shape}")
        return array
    array = np.asarray(array)
    if array.dtype.kind not in "fiu":
        raise ClipError(f"{what} must be numbers, got {array.dtype}")
    if array.ndim == 1:
        array = array[None]
    if array.ndim > 2 and len(array) == count:  # trackers: (N, 1, 3)
        array = array.reshape(count, -1)
    if array.ndim != 2 or len(array) not in (1, count):
        raise ClipError(f"{what} must have one row or {count}, got {array.shape}")
    return Rows.repeated(array[0], count) if len(array) == 1 else Rows.of(array)


def gender_of(value: Any) -> Gender:
    """Return the gender that a file writes as f, female, b'male' or neutral; else neutral."""
    text = as_text(value).strip().lower()
    if text[:1] not in ("f", "m", "n"):
        _warn_once(f"the gender {text!r} is none of female, male, neutral: taken for neutral")
    return {"f": "female", "m": "male"}.get(text[:1], "neutral")


def as_text(value: Any) -> str:
    """Return text that a file has as a string, bytes or an array of one."""
    if isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
