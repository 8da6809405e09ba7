"""AGORA as Hand4Whole's tool lays it out: JSON of people, SMPL-X in the camera's frame.

``AGORA_{train,validation}_SMPLX.json``, ``smplx_params_cam/``, ``cam_params/``. The official data
frames are pickles that name pandas' code, which nothing here runs; the tool turns them into these
files. Traps: hand poses are offsets from the mean hand (BEDLAM's are not); boxes are 3840x2160 and
1.2 times the tight ones, photos may be the 1280x720 ones; bodies are gendered and may be children,
so shape is a label only for a body of the same gender, and never for children.
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
    read_json,
)
from regressor.examples import Example, PictureFile

__all__ = ["LAYOUT", "open_agora"]

_LARGE, _SMALL = "file_name_3840x2160", "file_name_1280x720"
_WIDE = 3840 / 1280
_MARGIN = 1.2
_POSES = (
    "global_orient", "body_pose", "jaw_pose", "leye_pose", "reye_pose",
    "left_hand_pose", "right_hand_pose", "betas", "expression",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Agora:
    name: str
    root: Path
    photos: Path
    images: Mapping[int, Mapping[str, Any]] = field(repr=False)
    people: list[Mapping[str, Any]] = field(repr=False)
    is_small: bool = False
    body: BodyData | None = field(default=None, repr=False)

    def make(self, row: int) -> Example:
        assert self.body is not None
        person = self.people[row]
        image = self.images[person["image_id"]]
        photo = str(image[_SMALL if self.is_small else _LARGE])
        try:
            given = read_json(self.root / person["smplx_param_path"])
            camera = read_json(self.root / person["cam_param_path"])
        except LabelError:
            raise LabelError("its parameters or camera cannot be read") from None
        params = {name: given[name] for name in _POSES if name in given}
        if not {"global_orient", "body_pose"} <= set(params):
            raise LabelError("its parameters have no global_orient and body_pose")
        if person.get("kid") or person.get("gender", self.body.gender) != self.body.gender:
            params.pop("betas", None)
        scale = 1 / _WIDE if self.is_small else 1.0
        x, y, width, height = (float(v) * scale for v in person["bbox"])
        return Example(
            picture=PictureFile(self.photos / photo),
            center_px=np.array([x + width / 2, y + height / 2], np.float32),
            side_px=max(width, height) / _MARGIN,
            source="agora",
            key=str(image[_LARGE]),
            params=known_params(self.body, params, hands="add"),
            focal_px=scale * float(np.mean(camera["focal"])),
            center_of_view_px=scale * np.asarray(camera["princpt"], np.float32),
        )


def open_agora(path: Path, images: Path | None, body: BodyData) -> LabelRows:
    """Open the labels of one split.

    Args:
        path: The JSON, or the folder of ``AGORA_train_SMPLX.json``.
        images: Folder that the photos' names are relative to, if it is not that of the JSON.
        body: That will be posed.

    Raises:
        LabelError: If it is not that layout, or its photos are not there.
    """
    file = path if path.is_file() else path / "AGORA_train_SMPLX.json"
    content = read_json(file)
    try:
        photos = {image["id"]: image for image in content["images"]}
        people = [p for p in content["annotations"] if p["is_valid"]]
        first = next(iter(photos.values()), {_LARGE: "", _SMALL: ""})
        names = {False: str(first[_LARGE]), True: str(first[_SMALL])}
    except (KeyError, TypeError) as error:
        raise LabelError(
            f"{file} is not what Hand4Whole's AGORA tool writes ({type(error).__name__}: {error})"
        ) from None
    root = images or file.parent
    small = [is_small for is_small, name in names.items() if (root / name).is_file()]
    if photos and not small:
        raise LabelError(
            f"neither {names[False]} nor {names[True]} is below {root}; say where the photos "
            f"are: {file}@FOLDER"
        )
    source = _Agora(file.stem, file.parent, root, photos, people, bool(small and small[0]), body)
    made = checked_rows(file.stem, len(people), source.make)
    invalid = len(content["annotations"]) - len(people)
    skipped = dict(made.skipped) | ({"declared invalid": invalid} if invalid else {})
    return LabelRows(made.name, made.make, made.rows, skipped)


def _is_agora(path: Path) -> bool:
    if path.suffix == ".json":
        return path.name.startswith("AGORA_") and "SMPLX" in path.name
    return (path / "AGORA_train_SMPLX.json").is_file()


LAYOUT = Layout(
    "agora", "AGORA by Hand4Whole's tool (AGORA_train_SMPLX.json, smplx_params_cam/)",
    _is_agora, open_agora,
)  # fmt: skip
