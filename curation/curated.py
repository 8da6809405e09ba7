"""The curated set: accepted fits, their verdicts and splits, as Parquet with a card. Torch-free.

Also a data set of Hugging Face: ``datasets.load_dataset("parquet", ...)`` and the Hub's viewer read
the files as they are, and the card's header names the splits.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bodymodel.spec import PARTS
from curation.schema import FORMAT_VERSION
from curation.store import FitStore, StoreError
from curation.verdicts import Verdicts

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Curated", "CuratedColumns", "curate", "write_card", "write_parquet"]

CuratedColumns: dict[str, str] = {
    "verdict": "accept, reject, unsure, disputed or none",
    "decided_by": "adjudication, majority, rule:<name>; all, if everything was exported",
    "probability_good": "of being good, by Dawid and Skene; NaN where no human decided",
    "num_votes": "humans who accepted or rejected",
    "body_good": "the body's pose and shape may be trained on",
    "left_hand_good": "likewise the left hand; needs a hand that the photo shows",
    "right_hand_good": "likewise",
    "face_good": "likewise jaw and expression",
    "group": "photos of one group are near-duplicates",
    "split": "train, val or test; a group is on one side",
}
"""Columns that a curated row has beside those of a fit row."""

_ROW_GROUP = 16_384


@dataclass(frozen=True, eq=False)
class Curated:
    """A curated set.

    Attributes:
        table: Fit rows and CuratedColumns.
        card: Figures for the card.
    """

    table: "pa.Table"
    card: dict[str, Any]


def curate(
    store: FitStore,
    run_id: str | None,
    verdicts: Verdicts | None,
    *,
    min_probability: float = 0.0,
    groups: Mapping[str, str] | None = None,
    splits: Mapping[str, str] | None = None,
) -> Curated:
    """Return the fits that are accepted.

    Args:
        store: Of the fits.
        run_id: Of the run; None if the store has one body.
        verdicts: Of the review; None takes every fit whose status is ok, unreviewed.
        min_probability: Leave out fits that humans decided and that are less probably good.
        groups: Name of the group of near-duplicates by image_id.
        splits: Side by image_id; by default everything is train.

    Raises:
        StoreError: If there are fits of several bodies, or none.
    """
    import pyarrow as pa

    table = store.read_table(None, run_id)
    table = table.filter(table["has_fit"])
    if not len(table):
        raise StoreError(
            f"there are no fits in {store.root}{f' of run {run_id}' if run_id else ''}"
        )
    ids = table["fit_id"].to_pylist()
    where = {} if verdicts is None else {f: k for k, f in enumerate(verdicts.fit_id)}
    chosen, columns = [], {name: [] for name in CuratedColumns}
    images = table["image_id"].to_pylist()
    status = table["status"].to_pylist()
    shown = np.column_stack(
        [np.ones(len(ids), bool), *(table[f"has_{p}"].to_numpy() for p in PARTS[1:])]
    )
    for row, fit_id in enumerate(ids):
        k = where.get(fit_id)
        if verdicts is None:
            keep, verdict, by, p, votes = status[row] == "ok", "none", "all", np.nan, 0
            good = shown[row]
        elif k is None:
            continue
        else:
            p, votes = float(verdicts.probability[k]), int(verdicts.votes[k])
            verdict, by = verdicts.verdict[k], verdicts.decided_by[k]
            keep = verdict == "accept" and not (votes and p < min_probability)
            good = verdicts.parts[k] & shown[row]
        if not keep:
            continue
        chosen.append(row)
        image = images[row]
        values = (verdict, by, p, votes, *map(bool, good), (groups or {}).get(image, image),
                  (splits or {}).get(image, "train"))  # fmt: skip
        for name, value in zip(CuratedColumns, values, strict=True):
            columns[name].append(value)
    if not chosen:
        raise StoreError("no fit is accepted; review some first, or export all with --all")
    kinds = {"probability_good": pa.float32(), "num_votes": pa.int32()}
    kinds |= {f"{part}_good": pa.bool_() for part in PARTS}
    out = _flat(table.take(pa.array(chosen)))
    for name, note in CuratedColumns.items():
        field = pa.field(name, kinds.get(name, pa.string()), False, {"doc": note})
        out = out.append_column(field, pa.array(columns[name], field.type))
    order = np.lexsort((out["person_index"].to_numpy(), np.array(out["image_id"].to_pylist())))
    out = out.take(pa.array(order))
    return Curated(out, _figures(out, verdicts))


def _flat(table: "pa.Table") -> "pa.Table":
    """Put a column a term for the map of energies: Hugging Face's datasets know no maps."""
    import pyarrow as pa

    if "energy" not in table.column_names:
        return table
    energies = table["energy"].to_pylist(maps_as_pydicts="strict")
    place = table.column_names.index("energy")
    table = table.remove_column(place)
    for name in sorted({term for row in energies for term in row}, reverse=True):
        column = f"energy_{name}"
        if column not in table.column_names:
            values = pa.array([row.get(name, np.nan) for row in energies], pa.float32())
            table = table.add_column(place, pa.field(column, pa.float32(), False), values)
    return table


def _figures(table: "pa.Table", verdicts: Verdicts | None) -> dict[str, Any]:
    def counts(values: Sequence[Any]) -> dict[str, int]:
        names, number = np.unique(np.array(values, str), return_counts=True)
        return dict(sorted(zip(names.tolist(), number.tolist(), strict=True), key=lambda x: -x[1]))

    figures: dict[str, Any] = {
        "fits": len(table),
        "photos": len(set(table["image_id"].to_pylist())),
        "splits": counts(table["split"].to_pylist()),
        "decided_by": counts(table["decided_by"].to_pylist()),
        "parts": {part: int(table[f"{part}_good"].to_numpy().sum()) for part in PARTS},
        "bodies": counts(table["body_name"].to_pylist()),
        "body_sha256": sorted(set(table["body_sha256"].to_pylist())),
        "runs": counts(table["run_id"].to_pylist()),
        "datasets": counts(table["dataset"].to_pylist()),
    }
    if verdicts is not None:
        figures["verdicts"] = counts(verdicts.verdict)
    return figures


def write_parquet(table: "pa.Table", folder: Path) -> list[Path]:
    """Write ``<split>.parquet`` for each split, whole or not at all; return the paths."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    written = []
    for split in sorted(set(table["split"].to_pylist())):
        path = folder / f"{split}.parquet"
        temporary = path.with_name(path.name + ".tmp")
        pq.write_table(
            table.filter(pc.field("split") == split),
            temporary,
            row_group_size=_ROW_GROUP,
            compression="zstd",
            write_page_index=True,
            write_page_checksum=True,
        )
        temporary.replace(path)
        written.append(path)
    return written


def write_card(
    path: Path,
    name: str,
    figures: Mapping[str, Any],
    *,
    agreement: Sequence[tuple[str, Any]] = (),
    precision: Any = None,
    rejected_for: Mapping[str, int] | None = None,
) -> None:
    """Write the data set's card: README.md with the header that the Hugging Face Hub reads.

    Args:
        path: Of the README.
        name: Of the data set.
        figures: Of Curated.card.
        agreement: Lines of AgreementReport.rows.
        precision: A PrecisionEstimate.
        rejected_for: How many decisions gave which reason.
    """
    splits = figures["splits"]
    header = ["---", f"pretty_name: {json.dumps(name)}", "license: other  # yours to fill in"]
    header += ["configs:", "- config_name: default", "  data_files:"]
    for split in sorted(splits):
        hub = {"val": "validation"}.get(split, split)
        header += [f"  - split: {hub}", f"    path: {split}.parquet"]
    header += ["---"]
    is_open = any(body.startswith("open") for body in figures["bodies"])
    lines = [
        f"# {name}",
        "",
        f"{figures['fits']} SMPL-X fits of people in {figures['photos']} photos, as Parquet "
        f"(format {FORMAT_VERSION}). The photos are not in here; `image_path` names them.",
        "",
        "## To be filled in by its owner",
        "",
        "- Licence of the photos: ",
        "- Licence of these labels: ",
        "- Who may use it, and for what: ",
        "",
        "## Body",
        "",
        *(f"- {body}: {n} fits" for body, n in figures["bodies"].items()),
        *(f"- sha256 {sha}" for sha in figures["body_sha256"]),
        "",
        "Parameters mean nothing with another body."
        + (" This is the open body: SMPL-X's format, not its parameters." if is_open else ""),
        "",
        "## Counts",
        "",
        "| | fits |", "|---|---|",
        *(f"| {split} | {n} |" for split, n in splits.items()),
        *(f"| {part.replace('_', ' ')} good | {n} |" for part, n in figures["parts"].items()),
        *(f"| decided by {by} | {n} |" for by, n in figures["decided_by"].items()),
        *(f"| from {dataset} | {n} |" for dataset, n in figures["datasets"].items()),
    ]  # fmt: skip
    if "verdicts" in figures:
        found = ", ".join(f"{n} {v}" for v, n in figures["verdicts"].items())
        lines += ["", f"All verdicts: {found}."]
    if precision is not None:
        lines += [
            "",
            "## How far to trust it",
            "",
            (
                f"Estimated share of good fits: {precision.precision} (95 % interval), from "
                if math.isfinite(precision.precision.value)
                else "The share of good fits is not known. There are "
            )
            + f"{precision.judged} judged fits, {precision.judged_twice} of them by two or more "
            f"people, and {precision.gold} gold fits.",
        ]
        if precision.caution:
            lines += ["", f"**Caution**: {precision.caution}."]
    if agreement:
        lines += ["", "| agreement | value | 95 % interval |", "|---|---|---|"]
        lines += [f"| {what} | {f.value:.3f} | {f.low:.3f} to {f.high:.3f} |"
                  for what, f in agreement if math.isfinite(f.value)]  # fmt: skip
    if rejected_for:
        lines += ["", "## Why fits were rejected", "", "| reason | decisions |", "|---|---|"]
        lines += [f"| {reason} | {n} |" for reason, n in rejected_for.items()]
    lines += [
        "",
        "## Columns",
        "",
        "Those of a fit row (docs/schema.md of pseudogt; also in each field's metadata), with a "
        "column `energy_<term>` for each energy, and:",
        "",
        "| column | |",
        "|---|---|",
    ]
    lines += [f"| `{column}` | {note} |" for column, note in CuratedColumns.items()]
    path.write_text("\n".join([*header, "", *lines]) + "\n", encoding="utf-8")
