"""Fits as arrays: what every format is written from and read into. Torch-free.

The parameters are the store's: axis-angles in radians, hands whole with their mean included, the
camera's frame (x right, y down, z forward), ``transl`` added after posing, pixels from the top-left
corner of the top-left pixel. Each format's module says where it differs and converts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import PARTS
from curation.schema import POSE_SHAPES

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FILE_COLUMNS", "Fits", "FormatError", "empty_keypoints", "fits_from_table"]

FILE_COLUMNS = (
    "fit_id", "dataset", "image_id", "image_path", "person_index", "width", "height",
    "bbox_xyxy_px", *POSE_SHAPES, "betas", "expression", "transl", "focal_px", "center_px",
    "body_name", "body_sha256", "body_is_open", "keypoints_2d", "has_left_hand", "has_right_hand",
    "has_face",
)  # fmt: skip
"""Columns of the store that a Fits is made of."""


class FormatError(ValueError):
    """A file that cannot be read or fits that a format cannot hold. The message says why."""


@dataclass(frozen=True, eq=False)
class Fits:
    """N fits of one body.

    Attributes:
        fit_id: (N,) names of the fits; empty strings where a file has none.
        dataset: Name of the data set.
        image_path: (N,) relative to the data set's root, forward slashes.
        person_index: (N,) int32.
        size: (N, 2) int32 width and height of the photo; 0 where unknown.
        bbox_xyxy_px: (N, 4) float32; NaN where unknown.
        params: POSE_SHAPES, "betas", "expression", "transl", each (N, ...) float32; transl is NaN
            where a file does not tell it.
        focal_px: (N,) float32; NaN where unknown.
        center_px: (N, 2) float32; NaN where unknown.
        keypoints_2d: (N, 145, 3) float32 in the ``fit`` convention.
        good: (N, 4) bool, which of spec.PARTS are to be trusted.
        body_name: The body that the parameters belong to; empty where a file does not tell.
        body_sha256: Likewise.
        gender: neutral, female or male.
        split: (N,) train, val or test; empty where there is none.
    """

    fit_id: tuple[str, ...]
    dataset: str
    image_path: tuple[str, ...]
    person_index: np.ndarray
    size: np.ndarray
    bbox_xyxy_px: np.ndarray
    params: Mapping[str, np.ndarray]
    focal_px: np.ndarray
    center_px: np.ndarray
    keypoints_2d: np.ndarray
    good: np.ndarray
    body_name: str = ""
    body_sha256: str = ""
    gender: str = "neutral"
    split: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.fit_id)

    @property
    def full_pose(self) -> np.ndarray:
        """(N, 55, 3), the order of SMPL-X's joints."""
        return np.concatenate(
            [self.params[name].reshape(len(self), -1, 3) for name in POSE_SHAPES], 1
        )

    def select(self, rows: np.ndarray) -> "Fits":
        """Return some of the fits, by index or mask."""
        arrays = ("person_index", "size", "bbox_xyxy_px", "focal_px", "center_px", "keypoints_2d",
                  "good")  # fmt: skip
        names = {n: tuple(np.array(getattr(self, n), object)[rows])
                 for n in ("fit_id", "image_path", "split") if len(getattr(self, n))}  # fmt: skip
        return replace(
            self,
            params={k: v[rows] for k, v in self.params.items()},
            **{n: getattr(self, n)[rows] for n in arrays},
            **names,
        )

    def boxes(self) -> np.ndarray:
        """Return (N, 4) x0 y0 x1 y1: the box, or that of the keypoints where there is none."""
        boxes = self.bbox_xyxy_px.astype(np.float64)
        seen = self.keypoints_2d[..., 2] > 0
        for row in np.flatnonzero(~np.isfinite(boxes).all(1)):
            points = self.keypoints_2d[row, seen[row], :2]
            if len(points):
                boxes[row] = [*points.min(0), *points.max(0)]
        return boxes


def empty_keypoints(count: int) -> np.ndarray:
    """Return (count, 145, 3) keypoints, all absent."""
    return np.zeros((count, len(FIT_KEYPOINTS), 3), np.float32)


def pose_from_full(full_pose: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rotations of POSE_SHAPES from (N, 55, 3) in the order of SMPL-X's joints."""
    params, begin = {}, 0
    for name, shape in POSE_SHAPES.items():
        count = int(np.prod(shape)) // 3
        part = full_pose[:, begin : begin + count].astype(np.float32)
        params[name] = part.reshape(len(part), *shape)
        begin += count
    return params


def fits_from_table(table: "pa.Table", good: np.ndarray | None = None) -> Fits:
    """Return rows of the store.

    Args:
        table: With FILE_COLUMNS; rows that hold a fit, of one body.
        good: (N, 4) bool by part, by default what the photo shows.

    Raises:
        FormatError: If the rows are of several bodies.
    """
    from curation.schema import unpack_column

    columns: dict[str, Any] = {
        name: unpack_column(table[name], table.schema.field(name))
        for name in FILE_COLUMNS
        if name in table.column_names
    }
    bodies = set(columns["body_sha256"])
    if len(bodies) > 1:
        raise FormatError(
            f"fits of {len(bodies)} bodies ({', '.join(sorted(set(columns['body_name'])))}) do not "
            "go into one file; choose a run"
        )
    count = len(table)
    name = columns["body_name"][0] if count else ""
    expression = columns.get("expression", np.zeros((count, 10), np.float32))
    if good is None:
        shown = [columns[f"has_{part}"] for part in PARTS[1:]]
        good = np.column_stack([np.ones(count, bool), *shown])
    return Fits(
        fit_id=tuple(columns["fit_id"]),
        dataset=columns["dataset"][0] if count else "",
        image_path=tuple(columns["image_path"]),
        person_index=np.asarray(columns["person_index"], np.int32),
        size=np.column_stack([columns["width"], columns["height"]]).astype(np.int32),
        bbox_xyxy_px=np.asarray(columns["bbox_xyxy_px"], np.float32),
        params={k: columns[k] for k in (*POSE_SHAPES, "betas", "transl")}
        | {"expression": expression},
        focal_px=np.asarray(columns["focal_px"], np.float32),
        center_px=np.asarray(columns["center_px"], np.float32),
        keypoints_2d=np.asarray(columns["keypoints_2d"], np.float32),
        good=np.asarray(good, bool),
        body_name=name,
        body_sha256=columns["body_sha256"][0] if count else "",
        gender=next((g for g in ("female", "male") if name.endswith(f"-{g}")), "neutral"),
    )


def new_fits(
    image_path: Sequence[str],
    params: Mapping[str, np.ndarray],
    *,
    fit_id: Sequence[str] = (),
    dataset: str = "",
    person_index: np.ndarray | None = None,
    size: np.ndarray | None = None,
    bbox_xyxy_px: np.ndarray | None = None,
    focal_px: np.ndarray | None = None,
    center_px: np.ndarray | None = None,
    keypoints_2d: np.ndarray | None = None,
    good: np.ndarray | None = None,
    body_name: str = "",
    body_sha256: str = "",
    gender: str = "neutral",
) -> Fits:
    """Return fits of which only some things are known, the rest as Fits says; for readers."""
    count = len(image_path)
    nan = np.nan

    def known(value: Any, shape: tuple[int, ...], missing: float, dtype: Any) -> np.ndarray:
        if value is None:
            return np.full((count, *shape), missing, dtype)
        return np.asarray(value, dtype).reshape(count, *shape)

    given = {k: np.asarray(v, np.float32) for k, v in params.items()}
    for name, shape in (*POSE_SHAPES.items(), ("betas", (10,)), ("expression", (10,))):
        given.setdefault(name, np.zeros((count, *shape), np.float32))
        if name in POSE_SHAPES:
            given[name] = given[name].reshape(count, *shape)
    given.setdefault("transl", np.full((count, 3), nan, np.float32))
    if person_index is None:
        seen: dict[str, int] = {}
        person_index = np.zeros(count, np.int32)
        for row, path in enumerate(image_path):
            person_index[row] = seen.get(path, 0)
            seen[path] = person_index[row] + 1
    return Fits(
        fit_id=tuple(fit_id) or ("",) * count,
        dataset=dataset,
        image_path=tuple(image_path),
        person_index=np.asarray(person_index, np.int32),
        size=known(size, (2,), 0, np.int32),
        bbox_xyxy_px=known(bbox_xyxy_px, (4,), nan, np.float32),
        params=given,
        focal_px=known(focal_px, (), nan, np.float32),
        center_px=known(center_px, (2,), nan, np.float32),
        keypoints_2d=empty_keypoints(count) if keypoints_2d is None
        else np.asarray(keypoints_2d, np.float32),
        good=known(good, (4,), 1, bool),
        body_name=body_name,
        body_sha256=body_sha256,
        gender=gender,
    )  # fmt: skip


def text_list(array: Any) -> list[str]:
    """Return an array of str or bytes as a list of str."""
    return [
        x.decode("utf-8", "replace") if isinstance(x, bytes) else str(x)
        for x in np.asarray(array).reshape(-1).tolist()
    ]


def our_extras(fits: Fits) -> dict[str, np.ndarray]:
    """Return what npz formats do not ask for and we want back, one row a fit, by our names.

    Every array has N rows: some loaders index all of a file's arrays by row.
    """
    return {
        "fit_id": np.array(fits.fit_id, "U32"),
        "person_index": fits.person_index,
        "image_size": fits.size,
        "bbox_xyxy_px": fits.bbox_xyxy_px,
        "transl": fits.params["transl"],
        "focal_px": fits.focal_px,
        "center_px": fits.center_px,
        "keypoints_fit": fits.keypoints_2d,
        "good_parts": fits.good,
        "body_name": np.array([fits.body_name] * len(fits), f"U{max(1, len(fits.body_name))}"),
        "body_sha256": np.array([fits.body_sha256] * len(fits), "U64"),
        "gender": np.array([fits.gender] * len(fits), "U7"),
    }


def from_extras(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return arguments of new_fits from what our_extras wrote; empty for others' files."""
    if "body_sha256" not in arrays or "keypoints_fit" not in arrays:
        return {}
    first = {k: (text_list(arrays[k])[0] if len(arrays[k]) else "")
             for k in ("body_name", "body_sha256", "gender")}  # fmt: skip
    return first | {
        "gender": first["gender"] or "neutral",
        "fit_id": text_list(arrays["fit_id"]),
        "person_index": arrays["person_index"],
        "size": arrays["image_size"],
        "bbox_xyxy_px": arrays["bbox_xyxy_px"],
        "focal_px": arrays["focal_px"],
        "center_px": arrays["center_px"],
        "keypoints_2d": arrays["keypoints_fit"],
        "good": arrays["good_parts"],
    }


def load_npz(path: Any) -> dict[str, np.ndarray]:
    """Return the arrays of an npz but those of objects, which are left unread.

    Raises:
        FormatError: If it is no npz.
    """
    out = {}
    try:
        # numpy leaves a damaged file open that it opened itself
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            for key in file.files:
                try:
                    out[key] = file[key]
                except ValueError as error:
                    if "allow_pickle" not in str(error):
                        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise FormatError(f"{path} cannot be read as npz ({error})") from None
    return out


def save_npz(path: Any, arrays: Mapping[str, Any]) -> None:
    """Write an npz whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    temporary.replace(path)
