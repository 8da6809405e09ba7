"""COCO-WholeBody's annotations, with NeuralAnnot's SMPL-X parameters where they lie beside.

Traps: points of a hand or face that is declared invalid still carry flags of 1 (both count);
crowds and people without points are no examples; hand poses of NeuralAnnot are offsets from the
mean hand; its ``*_valid`` flags say which parts are fits at all. Annotations stay in the file and
are read again as they are asked for, parameters are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bodymodel.body import BodyData
from regressor.datasets.labels import (
    LabelError,
    LabelRows,
    Layout,
    checked_rows,
    known_params,
    merge_points,
    read_json,
)
from regressor.examples import Example, PictureFile, box_of_keypoints

__all__ = ["LAYOUT", "neuralannot_params", "open_wholebody", "photo_root"]

_NEURALANNOT = "*SMPLX*NeuralAnnot*.json"
_PHOTOS = ("images/{split}", "{split}", "images", ".")


@dataclass(frozen=True, eq=False)
class _Annotation:
    offset: int
    length: int
    photo: str
    params: Mapping[str, np.ndarray] = field(default_factory=dict)
    focal_px: float = 0.0
    center_px: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class _WholeBody:
    name: str
    path: Path
    photos: Path
    rows: list[_Annotation] = field(repr=False)

    def make(self, row: int) -> Example:
        from curation.json_stream import read_item
        from curation.people import as_fit
        from curation.wholebody import parse_annotation

        at = self.rows[row]
        person = parse_annotation(read_item(self.path, at.offset, at.length), 0)
        if person is None:
            raise LabelError("a crowd, or nothing is labelled")
        points = np.zeros((145, 3), np.float32)
        for _, found in person.keypoints:
            points = merge_points(points, as_fit(found.points, found.convention))
        if person.bbox_xyxy_px is not None:
            box = person.bbox_xyxy_px
            center, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max())
        else:
            center, side = box_of_keypoints(points)
        return Example(
            picture=PictureFile(self.photos / at.photo),
            center_px=center,
            side_px=side,
            source=self.name,
            key=at.photo,
            keypoints_2d=points,
            params=at.params,
            focal_px=at.focal_px,
            center_of_view_px=np.array(at.center_px, np.float32),
        )


def neuralannot_params(
    entry: Mapping[str, Any], body: BodyData, default_valid: bool = True
) -> dict[str, np.ndarray]:
    """Return what NeuralAnnot's ``smplx_param`` of one person says to a body.

    Args:
        entry: The object in the file; its names are ``curation.formats.neuralannot``'s.
        body: That will be posed.
        default_valid: Whether hands and face count where the file has no flags.

    Raises:
        LabelError: If something is missing or has the wrong size.
    """
    from curation.formats.neuralannot import FIELDS, HAND_FLAGS

    flags = {part: bool(entry.get(flag, default_valid)) for flag, part in HAND_FLAGS.items()}
    parts = {"left_hand_pose": "left_hand", "right_hand_pose": "right_hand"}
    parts |= dict.fromkeys(("jaw_pose", "leye_pose", "reye_pose", "expression"), "face")
    params = {
        ours: entry[theirs]
        for theirs, ours in FIELDS
        if theirs in entry and ours != "transl" and flags.get(parts.get(ours, ""), True)
    }
    if "global_orient" not in params or "body_pose" not in params:
        raise LabelError("its smplx_param has no root_pose and body_pose")
    return known_params(body, params, hands="add")


def open_wholebody(path: Path, images: Path | None, body: BodyData) -> LabelRows:
    """Open COCO-WholeBody's annotations.

    Args:
        path: The annotations' JSON, NeuralAnnot's, or a folder that has the first (and the
            second) in itself or in ``annotations/``.
        images: Folder of the photos; by default ``images/train2017``, ``train2017``, ``images``
            or the folder itself, whichever has the first photo.
        body: That will be posed.

    Raises:
        LabelError: If there are no such annotations, or several.
    """
    from curation.json_stream import iter_items

    labels, fits = _files(path)
    params = read_json(fits) if fits is not None else {}
    photos: dict[int, str] = {}
    found: list[tuple[int, int, int, str]] = []
    try:
        for name, item in iter_items(labels, "images", "annotations"):
            if name == "images":
                photos[item.value["id"]] = item.value["file_name"]
            else:
                found.append((item.offset, item.length, item.value["image_id"],
                              str(item.value["id"])))  # fmt: skip
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise LabelError(
            f"{labels} is not COCO's annotations ({type(error).__name__}: {error}); expected "
            "'images' with id, file_name and 'annotations' with id, image_id"
        ) from None
    rows = []
    unknown = 0
    for offset, length, image, key in found:
        if fits is not None and key not in params:
            continue  # NeuralAnnot left out people too small or too hidden to fit
        if image not in photos:
            unknown += 1
            continue
        row = _Annotation(offset, length, photos[image])
        if fits is not None:
            row = _with_params(row, params[key], body)
        rows.append(row)
    if not rows:
        raise LabelError(f"{labels} has no annotation with a photo" + (
            f" that is in {fits}; are they of the same split?" if fits else ""))  # fmt: skip
    root = photo_root(labels, photos[next(iter(photos))], images)
    source = _WholeBody(labels.stem, labels, root, rows)
    made = checked_rows(labels.stem, len(rows), source.make)
    skipped = dict(made.skipped) | ({"its photo is not listed": unknown} if unknown else {})
    return LabelRows(made.name, made.make, made.rows, skipped, made.modality)


def _with_params(row: _Annotation, entry: Any, body: BodyData) -> _Annotation:
    """Add a fit; one that is broken is no label, the keypoints remain."""
    try:
        params = neuralannot_params(entry["smplx_param"], body)
        camera = entry["cam_param"]
        focal = float(np.mean(camera["focal"]))
        x, y = (float(v) for v in camera["princpt"])
    except (LabelError, KeyError, TypeError, ValueError):
        return row
    if not all(np.isfinite(v).all() for v in params.values()):
        return row
    return _Annotation(row.offset, row.length, row.photo, params, focal, (x, y))


def _is_labels(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(1 << 16)
    return b'"images"' in head or b'"annotations"' in head or b'"info"' in head


def _files(path: Path) -> tuple[Path, Path | None]:
    """Return the annotations and NeuralAnnot's file, if there is one."""
    if path.is_file() and path.match(_NEURALANNOT):
        others = [p for p in sorted(path.parent.glob("*.json"))
                  if not p.match(_NEURALANNOT) and _is_labels(p)]  # fmt: skip
        own = [p for p in others if _split(p) == _split(path)] or others
        if len(own) != 1:
            raise LabelError(
                f"{path} needs COCO's annotations beside it, one file; found {len(own)}. Its ids "
                "mean nothing without them: put coco_wholebody_*.json into the same folder"
            )
        return own[0], path
    if path.is_file():
        fits = [p for p in sorted(path.parent.glob(_NEURALANNOT)) if _split(p) == _split(path)]
        return path, fits[0] if fits else None
    for folder in (path, path / "annotations"):
        if not folder.is_dir():
            continue
        labels = [p for p in sorted(folder.glob("*.json")) if "wholebody" in p.name]
        if len(labels) > 1:
            names = ", ".join(p.name for p in labels)
            raise LabelError(f"{folder} has several annotations ({names}); give one of the files")
        if labels:
            return _files(labels[0])
    raise LabelError(f"{path} has no coco_wholebody_*.json, nor has its annotations/")


def _split(path: Path) -> str:
    return next((s for s in ("train", "val", "test") if s in path.name.lower()), "")


def photo_root(labels: Path, first: str, images: Path | None = None) -> Path:
    """Return the folder of COCO's photos: what the user said, or where ``first`` is found.

    Raises:
        LabelError: If it is nowhere near the labels.
    """
    if images is not None:
        return images
    splits = [f"{_split(labels)}{year}" for year in ("2017", "2014", "")]
    tried = [
        base / pattern.format(split=split)
        for base in (labels.parent, labels.parent.parent)
        for split in splits
        for pattern in _PHOTOS
    ]
    for folder in tried:
        if (folder / first).is_file():
            return folder
    raise LabelError(
        f"{labels}: its first photo {first} is in none of images/{splits[0]}, {splits[0]}, images "
        f"near it; say where the photos are: {labels}@FOLDER"
    )


def _is_wholebody(path: Path) -> bool:
    if path.suffix == ".json":
        return path.match(_NEURALANNOT) or "wholebody" in path.name
    return path.is_dir() and any(
        "wholebody" in p.name for f in (path, path / "annotations") for p in f.glob("*.json")
    )


LAYOUT = Layout(
    "wholebody",
    "COCO-WholeBody's JSON (coco_wholebody_*.json), NeuralAnnot's SMPL-X JSON beside it",
    _is_wholebody,
    open_wholebody,
)
