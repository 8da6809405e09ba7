"""The columns of a fit row that may tell a good fit from a bad one, as one matrix. Torch-free.

This is the only place that says what a fit's quality is measured by. Every column of one number
counts, so that new columns are used as soon as rows have them, but for those named here: names and
places, how the row was made, and everything that compares with a truth (a triage model that read
the truth would be perfect, and useless).
"""

import fnmatch
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import PARTS, keypoint_part

if TYPE_CHECKING:
    import pyarrow as pa

    from curation.store import FitStore

__all__ = ["NOT_QUALITY", "Quality", "quality_of_table", "read_quality"]

NOT_QUALITY: tuple[str, ...] = (
    "person_index", "attempt", "width", "height", "focal_px", "solve_ms", "body_is_open",
    "has_fit", "has_bbox", "has_keypoints",
    # against the truth
    "*truth*", "*mpjpe*", "*_error_*",
    # in pixels: a large photo is no bad photo; they are taken in % of the person's height
    "residual_*_px",
)  # fmt: skip
"""Columns, as patterns, that say nothing of a fit's quality or must not be looked at."""

_ARRAYS = ("betas", "keypoints_2d", "residual_px", "person_height_px")
_RESIDUALS = tuple(f"residual_{part}_px" for part in PARTS)
_PART_OF = np.array([keypoint_part(name) for name in FIT_KEYPOINTS])


@dataclass(frozen=True, eq=False)
class Quality:
    """What is known of the quality of n fits.

    Attributes:
        fit_id: (n,) of the fits.
        names: The F features.
        values: (n, F) float64; NaN where a fit has no such number.
    """

    fit_id: tuple[str, ...]
    names: tuple[str, ...]
    values: np.ndarray

    def column(self, name: str) -> np.ndarray:
        """Return (n,) one feature.

        Raises:
            KeyError: If there is no such feature; lists those that there are.
        """
        if name not in self.names:
            raise KeyError(f"no quality column {name!r}; there are {', '.join(self.names)}")
        return self.values[:, self.names.index(name)]

    def select(self, rows: np.ndarray) -> "Quality":
        """Return some of the fits, by index or mask."""
        return Quality(tuple(np.array(self.fit_id, object)[rows]), self.names, self.values[rows])


def read_quality(
    store: "FitStore", run_id: str | None = None, fit_ids: Collection[str] | None = None
) -> Quality:
    """Read the quality of a store's fits; memory is some 300 bytes a fit.

    Args:
        store: Of the fits.
        run_id: Only this run's; None for all.
        fit_ids: Only these.
    """
    wanted = None if fit_ids is None else set(fit_ids)
    pieces = []
    parts = store.parts(run_id)
    for part_run in sorted({part.run_id for part in parts}):
        names = [n for n in _columns_of(store, part_run) if n]
        for table in store.iter_tables(names, part_run):
            found = quality_of_table(table.filter(table["has_fit"]))
            if wanted is not None:
                found = found.select(np.array([f in wanted for f in found.fit_id], bool))
            pieces.append(found)
    return _joined(pieces)


def _columns_of(store: "FitStore", run_id: str) -> list[str]:
    """Columns that every part of the run has and that are read."""
    import pyarrow.parquet as pq

    schemas = [pq.read_schema(part.path) for part in store.parts(run_id)]
    return [
        field.name
        for field in (schemas[0] if schemas else ())
        if (
            field.name in ("fit_id", "has_fit", "energy", "status", *_ARRAYS, *_RESIDUALS)
            or _is_quality(field)
        )
        and all(field.name in schema.names for schema in schemas)
    ]


def _is_quality(field: "pa.Field") -> bool:
    import pyarrow as pa

    number = (
        pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
        or pa.types.is_boolean(field.type)
    )  # fmt: skip
    return number and not any(fnmatch.fnmatchcase(field.name, p) for p in NOT_QUALITY)


def quality_of_table(table: "pa.Table") -> Quality:
    """Return the features of rows of the store.

    Args:
        table: Rows with ``fit_id`` and any of the schema's columns; what is not there is no
            feature.
    """
    from curation.schema import unpack_column

    features: dict[str, np.ndarray] = {}
    for field in table.schema:
        if _is_quality(field):
            features[field.name] = table[field.name].to_numpy().astype(np.float64)
    features |= _energies(table)
    arrays = {
        name: unpack_column(table[name], table.schema.field(name))
        for name in _ARRAYS
        if name in table.column_names
    }
    height = np.maximum(np.asarray(arrays.get("person_height_px", np.nan), np.float64), 1e-6)
    for part in PARTS:
        name = f"residual_{part}_px"
        if name in table.column_names and "person_height_px" in arrays:
            residual = table[name].to_numpy().astype(np.float64)
            features[f"residual_{part}_pct"] = 100 * residual / height
    if "residual_px" in arrays and "person_height_px" in arrays:
        body = np.array(arrays["residual_px"], np.float64)[:, _PART_OF == "body"]
        seen = np.isfinite(body)
        worst = np.where(seen, body, -np.inf).max(1, initial=-np.inf)
        features["residual_body_max_pct"] = 100 * np.where(seen.any(1), worst, np.nan) / height
    if "trunk_lean_deg" in features:
        features["trunk_lean_size_deg"] = np.abs(features["trunk_lean_deg"])
    if "betas" in arrays:
        features.setdefault("betas_abs_max", np.abs(arrays["betas"]).max(1).astype(np.float64))
    if "keypoints_2d" in arrays:
        confidence = np.asarray(arrays["keypoints_2d"])[..., 2].astype(np.float64)
        for part in PARTS:
            of_part = confidence[:, part == _PART_OF]
            features[f"seen_{part}"] = (of_part > 0).sum(1).astype(np.float64)
            features[f"confidence_{part}"] = of_part.mean(1)
    if "status" in table.column_names:
        features["is_settled"] = np.array([s == "ok" for s in table["status"].to_pylist()], float)
    names = tuple(sorted(features))
    values = np.column_stack([features[n] for n in names]) if names else np.zeros((len(table), 0))
    values[~np.isfinite(values)] = np.nan
    return Quality(tuple(table["fit_id"].to_pylist()), names, values)


def _energies(table: "pa.Table") -> dict[str, np.ndarray]:
    """Return log(1 + energy) by term: energies span five orders of magnitude."""
    features: dict[str, np.ndarray] = {}
    if "energy" in table.column_names:
        column = table["energy"].combine_chunks()
        offsets = column.offsets.to_numpy()
        keys = np.array(column.keys.to_pylist(), object)[offsets[0] : offsets[-1]]
        numbers = column.items.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]
        rows = np.repeat(np.arange(len(column)), np.diff(offsets))
        for key in sorted(set(keys)):
            values = np.full(len(column), np.nan)
            chosen = keys == key
            values[rows[chosen]] = np.log1p(np.maximum(numbers[chosen], 0))
            features[f"energy_{key}"] = values
    if "energy_total" in table.column_names:
        total = table["energy_total"].to_numpy().astype(np.float64)
        features["energy_total"] = np.log1p(np.maximum(total, 0))
    return features


def _joined(pieces: Sequence[Quality]) -> Quality:
    names = tuple(sorted({name for piece in pieces for name in piece.names}))
    values = np.full((sum(len(p.fit_id) for p in pieces), len(names)), np.nan)
    begin = 0
    for piece in pieces:
        rows = slice(begin, begin + len(piece.fit_id))
        for k, name in enumerate(piece.names):
            values[rows, names.index(name)] = piece.values[:, k]
        begin = rows.stop
    return Quality(tuple(f for piece in pieces for f in piece.fit_id), names, values)
