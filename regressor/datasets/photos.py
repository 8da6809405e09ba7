"""Photos with annotated keypoints alone, as ``curation`` opens them: LSP, LSPET, MPII, COCO ...

Flags are those data sets' own trouble (LSP's third number is 1 where a joint is hidden, LSPET's
where it is labelled) and are settled there. Such examples teach by their 2D points only.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bodymodel.body import BodyData
from regressor.datasets.labels import LabelError, LabelRows, Layout, checked_rows, merge_points
from regressor.examples import Example, PictureFile, box_of_keypoints

__all__ = ["LAYOUT", "open_photos"]


@dataclass(frozen=True, eq=False)
class _Row:
    path: Path
    key: str
    points: np.ndarray
    box: np.ndarray | None


@dataclass(frozen=True, eq=False)
class _Photos:
    name: str
    rows: list[_Row] = field(repr=False)

    def make(self, index: int) -> Example:
        row = self.rows[index]
        if row.box is not None and np.isfinite(row.box).all():
            center, side = (row.box[:2] + row.box[2:]) / 2, float((row.box[2:] - row.box[:2]).max())
        else:
            center, side = box_of_keypoints(row.points)
        return Example(
            picture=PictureFile(row.path),
            center_px=center,
            side_px=side,
            source=self.name,
            key=row.key,
            keypoints_2d=row.points,
        )


def open_photos(path: Path, images: Path | None, body: BodyData) -> LabelRows:
    """Open a folder of photos with labels of one of ``curation``'s kinds.

    Args:
        path: The folder.
        images: Not used: those layouts say where their photos are.
        body: Not needed: nothing but points is read.

    Raises:
        LabelError: If it is no such folder, or nobody in it is labelled.
    """
    from curation.datasets import DatasetError, open_dataset
    from curation.people import as_fit

    try:
        dataset = open_dataset(path)
    except DatasetError as error:
        raise LabelError(str(error)) from None
    rows, bad = [], 0
    for sample in dataset.iter_samples():
        bad += bool(sample.problem)
        for person in sample.people:
            points = np.zeros((145, 3), np.float32)
            for _, found in person.keypoints:
                points = merge_points(points, as_fit(found.points, found.convention))
            rows.append(_Row(sample.path, sample.image_id, points, person.bbox_xyxy_px))
    if not rows:
        raise LabelError(f"{path} ({dataset.kind}) has photos, but nobody in them is labelled")
    made = checked_rows(path.resolve().name, len(rows), _Photos(path.resolve().name, rows).make)
    skipped = dict(made.skipped) | ({"its labels cannot be used": bad} if bad else {})
    return LabelRows(made.name, made.make, made.rows, skipped)


def _is_photos(path: Path) -> bool:
    if not path.is_dir():
        return False
    from curation.datasets.lsp import lsp_kind
    from curation.datasets.mpii import mpii_files

    joints = path / "joints.mat"
    return (joints.is_file() and lsp_kind(joints) is not None) or any(mpii_files(path))


LAYOUT = Layout(
    "photos", "LSP, LSPET, MPII as downloaded (COCO, OpenPose too if named): 2D points only",
    _is_photos, open_photos,
)  # fmt: skip
