"""Accepted fits as examples to train on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curation.store import FitStore
from regressor.examples import Example, PictureFile, box_of_keypoints

_OF_PART = {
    "body": ("global_orient", "body_pose", "betas"),
    "left_hand": ("left_hand_pose",),
    "right_hand": ("right_hand_pose",),
    "face": ("jaw_pose", "leye_pose", "reye_pose", "expression"),
}


@dataclass(frozen=True, eq=False)
class StoredFits:
    """The fits of a store that may be trained on.

    Attributes:
        rows: Whole rows of the store.
        roots: By run_id the folder that ``image_path`` is relative to.
        parts: By fit_id the parts that were accepted; all that were seen if a fit is not there.
    """

    rows: list[dict[str, Any]]
    roots: Mapping[str, Path]
    parts: Mapping[str, frozenset[str]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        """Return the fit as labels; a part that was not seen or not accepted is no label."""
        row = self.rows[index]
        good = self.parts.get(row["fit_id"], frozenset(_OF_PART))
        seen = {"body"} | {p for p in ("left_hand", "right_hand", "face") if row[f"has_{p}"]}
        params = {name: row[name] for part in sorted(good & seen) for name in _OF_PART[part]}
        keypoints = np.asarray(row["keypoints_2d"], np.float32)
        if row["has_bbox"]:
            x0, y0, x1, y1 = row["bbox_xyxy_px"]
            center = np.array([(x0 + x1) / 2, (y0 + y1) / 2], np.float32)
            side = float(max(x1 - x0, y1 - y0))
        else:
            center, side = box_of_keypoints(keypoints)
        return Example(
            picture=PictureFile(self.roots[row["run_id"]] / row["image_path"]),
            center_px=center,
            side_px=side,
            source=row["dataset"],
            key=row["image_id"],
            keypoints_2d=keypoints,
            params=params,
            focal_px=float(row["focal_px"]),
            center_of_view_px=np.asarray(row["center_px"], np.float32),
        )


def fits_of_store(
    store: FitStore, accepted: Mapping[str, frozenset[str]] | None = None
) -> StoredFits:
    """Return the usable fits of a store.

    Args:
        store: Where the fits are.
        accepted: By fit_id the parts that people accepted; every fit whose status is ok, with all
            its parts, if None.
    """
    rows = [
        row
        for row in store.iter_rows()
        if row["has_fit"]
        and (row["fit_id"] in accepted if accepted is not None else row["status"] == "ok")
    ]
    roots = {
        run: (store.root / store.run_record(run)["dataset_root"]).resolve()
        for run in sorted({row["run_id"] for row in rows})
    }
    return StoredFits(rows, roots, accepted or {})


def accepted_parts(store_root: Path, decisions: str | None = None) -> dict[str, frozenset[str]]:
    """Return by fit_id the parts that were accepted (curation.verdicts).

    Args:
        store_root: Of the store. One that nobody has reviewed gives nothing.
        decisions: Database (path or URL) or Parquet file of decisions; the store's own if None.
    """
    from curation.decisions import default_url
    from curation.verdicts import find_verdicts, open_decisions

    if decisions is None and not (store_root / "decisions.sqlite").exists():
        return {}
    return find_verdicts(open_decisions(decisions or default_url(store_root))).accepted_parts()
