"""See what a store holds and how its review goes.

python -m curation.stats lsp/
python -m curation.stats lsp/ --annotators people.csv
"""

import csv
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from curation.cli import parse_command_line

__all__ = ["StatsConfig", "main"]

_PEOPLE = ("annotator", "decisions", "accepted", "seconds", "right on good", "right on bad")


@dataclass(frozen=True)
class StatsConfig:
    """What to look at. Every field is a flag."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Directory of a data set with fits."""
    out: Path | None = None
    """The store of fits. [DATA/fits]"""
    decisions: str | None = None
    """Database (path or URL) or Parquet file of decisions. [decisions.sqlite in the store]"""
    run_id: str | None = None
    """Only this run's fits. [all]"""
    annotators: Path | None = None
    """Also write the people's table to this CSV file."""
    config: Path | None = None
    """YAML file of settings; the command line wins over it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if done, 1 if it failed."""
    config = parse_command_line(StatsConfig, argv, "python -m curation.stats", __doc__)
    from curation.store import StoreError

    try:
        return _run(config)
    except (StoreError, FileNotFoundError, ValueError, OSError) as error:
        sys.stderr.write(f"curation.stats: {error}\n")
        return 1


def _run(config: StatsConfig) -> int:
    from curation.decisions import default_url
    from curation.store import FitStore, StoreError
    from curation.tables import text_table

    store = FitStore(config.out or config.data / "fits")
    runs = _runs(store, config.run_id)
    if not runs:
        what = f"no run {config.run_id}" if config.run_id else "no fits"
        raise StoreError(f"there are {what} in {store.root}; fit some with python -m fitting.run")
    head = ("run", "body", "parts", "rows", "ok", "others", "residual", "MB")
    write = sys.stdout.write
    write(text_table(head, [line for line, _ in runs], left=(0, 1, 5)) + "\n")
    summary: dict[str, Any] = {
        "runs": {line[0]: numbers for line, numbers in runs},
        "rows": sum(n["rows"] for _, n in runs),
        "unreadable_parts": len(store.unreadable),
    }
    source = config.decisions or default_url(store.root)
    try:
        review = _review(source, store, config)
    except FileNotFoundError:
        if config.decisions is not None:
            raise
        write("\nNo decisions yet.\n")
    else:
        write("\n" + review.pop("text") + "\n")
        summary["review"] = review
    write(json.dumps(summary) + "\n")
    return 0


def _runs(store: Any, run_id: str | None) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    import numpy as np

    found = []
    parts = store.parts(run_id)
    for run in sorted({part.run_id for part in parts}):
        own = [part for part in parts if part.run_id == run]
        statuses: Counter = Counter()
        residuals = []
        for table in store.iter_tables(["status", "residual_body_pct"], run):
            statuses.update(table["status"].to_pylist())
            residuals.append(table["residual_body_pct"].to_numpy())
        known = np.concatenate(residuals) if residuals else np.zeros(0)
        known = known[np.isfinite(known)]
        rows, size = sum(statuses.values()), sum(part.path.stat().st_size for part in own)
        median = float(np.median(known)) if len(known) else math.nan
        others = ", ".join(f"{n} {s}" for s, n in statuses.most_common() if s != "ok")
        line = (
            run, own[0].body_name, str(len(own)), str(rows), str(statuses["ok"]), others or "-",
            f"{median:.2f} %" if len(known) else "-", f"{size / 1e6:.1f}",
        )  # fmt: skip
        numbers = {
            "rows": rows, "parts": len(own), "bytes": size, "statuses": dict(statuses),
            "residual_body_pct": None if math.isnan(median) else round(median, 3),
        }  # fmt: skip
        found.append((line, numbers))
    return found


def _review(source: str, store: Any, config: StatsConfig) -> dict[str, Any]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from curation.agreement import agreement_report
    from curation.estimate import acceptance_rate, estimate_precision
    from curation.summary import annotator_rows, gold_answers, gold_classes, reason_counts
    from curation.tables import text_table
    from curation.verdicts import find_verdicts, open_decisions

    decisions = open_decisions(source)
    if config.run_id is not None:
        ids = pa.array(store.read_table(["fit_id"], config.run_id)["fit_id"].to_pylist())
        decisions = decisions.filter(pc.is_in(decisions["fit_id"], ids))
    gold = gold_answers(source)
    verdicts = find_verdicts(decisions, gold)
    truth = gold_classes(verdicts.fit_id, gold)
    lines: list[tuple[str, ...]] = [
        (verdict, str(n)) for verdict, n in Counter(verdicts.verdict).most_common()
    ]
    text = [text_table(("verdict", "fits"), lines)]
    summary: dict[str, Any] = {
        "decisions": len(decisions), "verdicts": dict(Counter(verdicts.verdict)),
        "reasons": reason_counts(decisions),
    }  # fmt: skip
    report = agreement_report(verdicts.human)
    measured = [(what, i) for what, i in report.rows() if math.isfinite(i.value)]
    audit = decisions.filter(pc.equal(decisions["source"], "audit"))
    clear = np.isin(audit["verdict"].to_pylist(), ["accept", "reject"])
    probability = audit["probability"].to_numpy()[clear]
    accepted = np.array(audit["verdict"].to_pylist(), object)[clear] == "accept"
    known = np.isfinite(probability)
    if known.any():
        # One that two people were asked about counts once, by the mean of their answers.
        ids = np.array(audit["fit_id"].to_pylist(), object)[clear][known]
        names, of = np.unique(ids.astype(str), return_inverse=True)
        share = np.bincount(of, accepted[known]) / np.bincount(of)
        first = np.zeros(len(names))
        first[of] = probability[known]
        measured.append(("acceptance, from the audit", acceptance_rate(share, first)))
    if verdicts.is_accepted.any():
        codes, names = verdicts.stratum
        estimate = estimate_precision(
            verdicts.human, verdicts.is_accepted, truth=truth, stratum=codes, stratum_names=names
        )
        measured.append(("good among the accepted", estimate.precision))
        summary["caution"] = estimate.caution
        if math.isfinite(estimate.precision.value):
            summary["precision_by"] = {k: v for k, v in estimate.by_stratum.items()}
    text.append(
        text_table(
            ("", "value", "95 % interval"),
            [(what, f"{i.value:.3f}", f"{i.low:.3f} to {i.high:.3f}") for what, i in measured],
        )
    )
    summary["measured"] = {
        what: [None if math.isnan(x) else round(x, 4) for x in (i.value, i.low, i.high)]
        for what, i in measured
    }
    if summary.get("caution"):
        text.append(f"Caution: {summary['caution']}.")
    people = annotator_rows(decisions, verdicts, truth)
    text.append(text_table(_PEOPLE, people))
    if config.annotators is not None:
        with config.annotators.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([_PEOPLE, *people])
    if summary["reasons"]:
        text.append(text_table(("rejected for", "decisions"),
                               [(r, str(n)) for r, n in summary["reasons"].items()]))  # fmt: skip
    return summary | {"text": "\n\n".join(text)}


if __name__ == "__main__":
    sys.exit(main())
