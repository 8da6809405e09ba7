"""Files of SMPL-X fits that ``curation`` reads: ExPose's curated fits, HumanData, SPIN's 165.

Their readers, and so the names of their fields, are ``curation.formats``'; here their rows become
examples. ExPose's public files have OpenPose's confidences, names of LSP photos are those of the
small pictures, hands are whole.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bodymodel.body import BodyData
from bodymodel.spec import PARTS
from regressor.datasets.labels import (
    LabelError,
    LabelRows,
    Layout,
    checked_rows,
    find_photos,
    known_params,
    npz_keys,
)
from regressor.examples import Example, PictureFile, box_of_keypoints

if TYPE_CHECKING:
    from curation.formats.fits import Fits

__all__ = ["EXPOSE", "HUMANDATA", "FitRows", "open_fits"]

_OF_PART = {
    "body": ("global_orient", "body_pose", "betas"),
    "left_hand": ("left_hand_pose",),
    "right_hand": ("right_hand_pose",),
    "face": ("jaw_pose", "leye_pose", "reye_pose", "expression"),
}


@dataclass(frozen=True, eq=False)
class FitRows:
    """Fits as examples.

    Attributes:
        name: Of the data set.
        fits: What was read.
        photos: Folder that their names are relative to.
        body: That will be posed.
        box_margin: Of the file's boxes over tight ones.
        has_eyes: False where the file has no eyes, whose rotation then is no label.
    """

    name: str
    fits: "Fits" = field(repr=False)
    photos: Path
    body: BodyData = field(repr=False)
    box_margin: float = 1.0
    has_eyes: bool = True

    def make(self, row: int) -> Example:
        """Return the example of a row."""
        fits = self.fits
        points = fits.keypoints_2d[row]
        box = fits.bbox_xyxy_px[row]
        if np.isfinite(box).all():
            center = ((box[:2] + box[2:]) / 2).astype(np.float32)
            side = float((box[2:] - box[:2]).max()) / self.box_margin
        else:
            center, side = box_of_keypoints(points)
        names = [n for part, ok in zip(PARTS, fits.good[row], strict=True) if ok
                 for n in _OF_PART[part]]  # fmt: skip
        if not self.has_eyes:
            names = [n for n in names if "eye" not in n]
        params = {name: fits.params[name][row] for name in names}
        focal = float(fits.focal_px[row])
        known = np.isfinite(focal) and np.isfinite(fits.center_px[row]).all()
        return Example(
            picture=PictureFile(self.photos / fits.image_path[row]),
            center_px=center,
            side_px=side,
            source=self.name,
            key=fits.image_path[row],
            keypoints_2d=points,
            params=known_params(self._meant_for(), params),
            focal_px=focal if known else 0.0,
            center_of_view_px=fits.center_px[row] if known else np.zeros(2, np.float32),
        )

    def _meant_for(self) -> BodyData:
        """The body; fits that say they are of this very open body keep their shape."""
        from dataclasses import replace

        if self.body.is_open and self.fits.body_sha256 == self.body.sha256:
            return replace(self.body, is_open=False)
        return self.body


def open_fits(path: Path, kind: str, images: Path | None, body: BodyData) -> LabelRows:
    """Open a file of fits.

    Args:
        path: Of the file.
        kind: ``expose``, ``humandata`` or ``spin``, as ``curation.import_fits`` names them.
        images: Folder of the photos; looked for near the file if None.
        body: That will be posed.

    Raises:
        LabelError: If it is no such file, or of another body.
    """
    from curation.formats.fits import FormatError
    from curation.import_fits import read_fits

    try:
        fits = read_fits(path, kind, body)
    except (FormatError, FileNotFoundError) as error:
        raise LabelError(str(error)) from None
    if fits.body_sha256 and fits.body_sha256 != body.sha256:
        raise LabelError(
            f"{path} holds fits of {fits.body_name or 'another body'}, not of {body.name}; say "
            "whose they are with --body"
        )
    photos = find_photos(path, fits.image_path[0] if len(fits) else "", images)
    ours = bool(fits.body_sha256)
    margin = 1.2 if kind == "spin" and not ours else 1.0
    pose = fits.params["leye_pose"], fits.params["reye_pose"]
    rows = FitRows(path.stem, fits, photos, body, margin, has_eyes=any(p.any() for p in pose))
    return checked_rows(path.stem, len(fits), rows.make)


def _layout(kind: str, what: str, keys: frozenset[str]) -> Layout:
    def is_it(path: Path) -> bool:
        return keys <= npz_keys(path)

    def open_it(path: Path, images: Path | None, body: BodyData) -> LabelRows:
        return open_fits(path, kind, images, body)

    open_typed: Callable[[Path, Path | None, BodyData], LabelRows] = open_it
    return Layout(kind, what, is_it, open_typed)


EXPOSE = _layout(
    "expose", "ExPose's curated fits (train.npz: img_fns, pose, keypoints2D)",
    frozenset(("img_fns", "pose", "keypoints2D")),
)  # fmt: skip
HUMANDATA = _layout(
    "humandata", "HumanData npz (image_path, bbox_xywh, smplx)",
    frozenset(("image_path", "bbox_xywh", "smplx")),
)  # fmt: skip
