"""What all label files share: photos, points by name, what their numbers mean to a body, bad rows.

A row that is broken is skipped and counted; a file that is another thing than it should be is
refused with what was expected and how to go on.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bodymodel.body import BodyData
from bodymodel.keypoints import FIT_KEYPOINTS
from regressor.examples import Example, Modality

_LOG = logging.getLogger("regressor.datasets")
_INDEX = {name: k for k, name in enumerate(FIT_KEYPOINTS)}
_SHAPES = {
    "global_orient": (3,), "body_pose": (21, 3), "jaw_pose": (3,), "leye_pose": (3,),
    "reye_pose": (3,), "left_hand_pose": (15, 3), "right_hand_pose": (15, 3),
}  # fmt: skip
_HANDS = {"left_hand_pose": 0, "right_hand_pose": 1}

HandMean = Literal["included", "add"]
"""Whether hand poses are whole (``flat_hand_mean=True``) or offsets from the file's mean hand."""


class LabelError(ValueError):
    """A label file or a row of it that cannot be used; says why."""


@dataclass(frozen=True, eq=False)
class LabelRows:
    """A data set whose examples are made as they are asked for.

    Attributes:
        name: Of the data set, for tables.
        make: Returns the example of a row of the file.
        rows: The rows that are sound.
        skipped: How many were not, by reason.
        modality: Of all of them.
    """

    name: str
    make: Callable[[int], Example] = field(repr=False)
    rows: np.ndarray = field(repr=False)
    skipped: Mapping[str, int]
    modality: Modality = Modality.BODY

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        """Return one example."""
        return self.make(int(self.rows[index]))


def checked_rows(
    name: str,
    count: int,
    make: Callable[[int], Example],
    modality: Modality = Modality.BODY,
) -> LabelRows:
    """Try every row once, and keep those that make an example.

    Pictures are not opened: what cannot be read is known when it is drawn.

    Args:
        name: Of the data set.
        count: Rows of the file.
        make: Makes the example of a row, or raises LabelError (or what arrays of odd shapes raise).
        modality: Of the data set.

    Raises:
        LabelError: If there are rows, and none is sound.
    """
    rows, skipped = [], Counter[str]()
    for row in range(count):
        try:
            example = make(row)
            _check(example)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError) as error:
            reason = str(error) if isinstance(error, LabelError) else type(error).__name__
            skipped[reason] += 1
        else:
            rows.append(row)
    if skipped:
        told = ", ".join(f"{n} x {reason}" for reason, n in skipped.most_common(5))
        _LOG.warning("%s: %d of %d rows are left out: %s", name, skipped.total(), count, told)
    if count and not rows:
        raise LabelError(
            f"{name}: none of {count} rows can be used ({skipped.most_common(1)[0][0]}); is it "
            "really of this layout? Name another as LAYOUT:PATH"
        )
    return LabelRows(name, make, np.array(rows, np.int64), dict(skipped), modality)


def _check(example: Example) -> None:
    if not np.isfinite(example.center_px).all() or not np.isfinite(example.side_px):
        raise LabelError("its box is not finite")
    if not example.side_px > 0:
        raise LabelError("its box is empty")
    for name, value in example.params.items():
        if not np.isfinite(value).all():
            raise LabelError(f"its {name} is not finite")
    known = bool(example.params) or (example.keypoints_2d[:, 2] > 0).any()
    if not known and not (example.keypoints_3d[:, 3] > 0).any():
        raise LabelError("nothing of it is labelled")


def fit_points(names: Sequence[str], points: np.ndarray) -> np.ndarray:
    """Return points in the ``fit`` convention by their names.

    Of a name that comes twice the point of more weight is taken; names that are not in the
    convention are left out, and so are points that are not finite.

    Args:
        names: K of them.
        points: (K, C), the last number is a weight.

    Returns:
        (145, C) float32, zero where there is none.

    Raises:
        LabelError: If there are not K points.
    """
    points = np.asarray(points, np.float32)
    if points.ndim != 2 or len(points) != len(names):
        raise LabelError(f"expected {len(names)} points, got {points.shape}")
    places = _places(tuple(names))
    rows = np.flatnonzero((places >= 0) & np.isfinite(points).all(1) & (points[:, -1] > 0))
    rows = rows[np.argsort(points[rows, -1], kind="stable")]  # the last of a name stays
    out = np.zeros((len(FIT_KEYPOINTS), points.shape[1]), np.float32)
    out[places[rows]] = points[rows]
    return out


@cache
def _places(names: tuple[str, ...]) -> np.ndarray:
    """Return where each name stands in the convention, -1 if it is not there."""
    return np.array([_INDEX.get(name, -1) for name in names])


def merge_points(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return of two sets of ``fit`` points the one of more weight, each point."""
    return np.where(second[:, -1:] > first[:, -1:], second, first)


def known_params(
    body: BodyData, params: Mapping[str, Any], hands: HandMean = "included"
) -> dict[str, np.ndarray]:
    """Return those of a file's SMPL-X parameters that mean something to a body.

    Rotations do to every body of the tree. Shape and expression are SMPL-X's own, and so is the
    mean hand that offsets are relative to: on an open body they are left out.

    Args:
        body: That will be posed.
        params: By BodyParams' names, any shape of the right size; hands as ``hands`` says.
        hands: ``"add"`` for offsets from the mean hand.

    Raises:
        LabelError: If one has the wrong size.
    """
    out: dict[str, np.ndarray] = {}
    for name, value in params.items():
        value = np.asarray(value, np.float32).reshape(-1)
        if name in ("betas", "expression"):
            if not body.is_open:
                out[name] = value[:10]
            continue
        shape = _SHAPES[name]
        if value.size != np.prod(shape):
            raise LabelError(f"its {name} has {value.size} numbers instead of {np.prod(shape)}")
        if name in _HANDS and hands == "add":
            if body.is_open:
                continue
            value = value + body.hand_means[_HANDS[name]].astype(np.float32)
        out[name] = value.reshape(shape)
    return out


def params_of_smpl(pose: Any) -> dict[str, np.ndarray]:
    """Return what a SMPL pose (72,) says of SMPL-X: the rotations of the 22 joints they share.

    SMPL's shape is another space, and its last two joints have no counterpart;
    ``conversion.run --to smplx`` makes whole SMPL-X parameters of them.

    Raises:
        LabelError: If it is no SMPL pose.
    """
    pose = np.asarray(pose, np.float32).reshape(-1)
    if pose.size != 72:
        raise LabelError(f"its pose has {pose.size} numbers instead of 72")
    return {"global_orient": pose[:3], "body_pose": pose[3:66].reshape(21, 3)}


def turned(rotvec: Any, rotation: np.ndarray) -> np.ndarray:
    """Return the axis-angle (3,) of ``rotation`` (3, 3) after an axis-angle: world to camera."""
    from scipy.spatial.transform import Rotation

    whole = Rotation.from_matrix(rotation) * Rotation.from_rotvec(np.asarray(rotvec, np.float64))
    return whole.as_rotvec().astype(np.float32)


def find_photos(path: Path, first_name: str, images: Path | None) -> Path:
    """Return the folder that names of photos are relative to.

    Args:
        path: Of the label file.
        first_name: Of a photo.
        images: What the user said; it is believed.

    Raises:
        LabelError: If nobody said, and the photo is nowhere near the labels.
    """
    if images is not None:
        return images
    near = (path.parent, path.parent.parent)
    tried = [folder for base in near for folder in (base, base / "images")]
    for folder in tried:
        if (folder / first_name).is_file():
            return folder
    raise LabelError(
        f"{path}: its first photo {first_name} is not below {', '.join(map(str, tried))}; say "
        f"where the photos are: {path}@FOLDER"
    )


def read_json(path: Path) -> Any:
    """Return a JSON file's content.

    Raises:
        LabelError: If it cannot be read.
    """
    import json

    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise LabelError(
            f"{path} cannot be read as JSON ({type(error).__name__}: {error}); is the download "
            "complete?"
        ) from None


def read_arrays(path: Path, needed: Sequence[str], layout: str) -> dict[str, np.ndarray]:
    """Return the arrays of an npz.

    Raises:
        LabelError: If it cannot be read, or one of the needed is not there.
    """
    from curation.formats.fits import FormatError, load_npz

    try:
        arrays = load_npz(path)
    except FormatError as error:
        raise LabelError(str(error)) from None
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise LabelError(
            f"{path} is not {layout}: it lacks {', '.join(missing)}; it has {', '.join(arrays)}"
        )
    return arrays


def npz_keys(path: Path) -> frozenset[str]:
    """Return the names of the arrays of an npz, without reading them; empty if it is none."""
    import zipfile

    if path.suffix != ".npz" or not path.is_file():
        return frozenset()
    try:
        with zipfile.ZipFile(path) as file:
            return frozenset(name.removesuffix(".npy") for name in file.namelist())
    except (zipfile.BadZipFile, OSError):
        return frozenset()


@dataclass(frozen=True)
class Layout:
    """A way in which labels lie on disk.

    Attributes:
        name: To ask for it as ``name:PATH``.
        what: One line for messages.
        is_it: Tells from the files alone.
        open: (path, folder of photos or None, body) -> its examples.
    """

    name: str
    what: str
    is_it: Callable[[Path], bool]
    open: Callable[[Path, Path | None, BodyData], LabelRows]
