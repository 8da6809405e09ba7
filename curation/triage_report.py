"""Train the triage model, show how far it can be trusted, and order the review by it.

    python -m curation.triage_report lsp/ --order

Writes ``triage.html`` into the store: precision and recall, calibration, what it looks at, and
which fits it is most surely wrong about. ``--order`` gives the fits their places in the queue.
"""

import html
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from curation.cli import parse_command_line

if TYPE_CHECKING:
    from curation.triage import TriageModel

__all__ = ["TriageConfig", "calibration_rows", "main", "triage_page"]

_PRECISIONS = (0.8, 0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class TriageConfig:
    """What to do. Every field is a flag."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Directory of a data set with fits."""
    out: Path | None = None
    """The store of fits. [DATA/fits]"""
    decisions: str | None = None
    """Database (path or URL) or Parquet file of decisions. [decisions.sqlite in the store]"""
    run_id: str | None = None
    """Only this run's fits. [all]"""
    order: bool = False
    """Give the queue's items their priority."""
    explore: float = 0.4
    """Share of the order that is random."""
    seed: int = 0
    """Of the folds and of what is random."""
    config: Path | None = None
    """YAML file of settings; the command line wins over it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if done, 1 if it failed or there is too little to learn from."""
    config = parse_command_line(TriageConfig, argv, "python -m curation.triage_report", __doc__)
    from curation.store import StoreError

    try:
        return _run(config)
    except (StoreError, FileNotFoundError, ValueError, OSError) as error:
        sys.stderr.write(f"curation.triage_report: {error}\n")
        return 1


def _run(config: TriageConfig) -> int:
    from curation.decisions import default_url
    from curation.quality import read_quality
    from curation.store import FitStore
    from curation.summary import gold_answers
    from curation.tables import text_table
    from curation.triage import order_by_usefulness
    from curation.verdicts import find_verdicts, open_decisions, train_on_verdicts

    store = FitStore(config.out or config.data / "fits")
    source = config.decisions or default_url(store.root)
    quality = read_quality(store, config.run_id)
    verdicts = find_verdicts(open_decisions(source), gold_answers(source))
    names = store.read_table(["fit_id", "image_id"], config.run_id)
    photo = dict(zip(*(names[c].to_pylist() for c in names.column_names), strict=True))
    model = train_on_verdicts(quality, verdicts, photo, config.seed)
    scores = model.score(quality)
    path = store.root / "triage.html"
    page = triage_page(model, scores)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)
    ordered = 0
    if config.order:
        if source.endswith(".parquet"):
            raise ValueError("--order needs the database of a review, not an exported file")
        order = order_by_usefulness(scores, explore=config.explore, seed=config.seed)
        ordered = _set_order(source, quality.fit_id, order)
    lines = [
        (f"{100 * p:.0f} %", "none" if math.isinf(t) else f"{t:.3f}",
         "-" if math.isinf(t) else f"{100 * (scores >= t).mean():.0f} %")
        for p in _PRECISIONS for t in [model.threshold_for(p)]
    ]  # fmt: skip
    head = ("precision (surely)", "probability of at least", "of all fits")
    sys.stdout.write(text_table(head, lines) + "\n")
    summary = {
        "model": model.kind, "decided": len(model.is_accepted), "fits": len(scores),
        "log_loss": round(model.log_loss, 4), "brier": round(model.brier, 4),
        "ordered": ordered, "report": str(path),
    }  # fmt: skip
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


def _set_order(source: str, fit_ids: Sequence[str], order: np.ndarray) -> int:
    from curation.decisions import DecisionStore
    from curation.queue import ReviewQueue

    decisions = DecisionStore(source)
    try:
        priority = {fit_ids[k]: 1 - place / len(order) for place, k in enumerate(order)}
        ReviewQueue(decisions).set_priorities(priority)
    finally:
        decisions.close()
    return len(order)


def calibration_rows(model: "TriageModel", bins: int = 10) -> list[tuple[float, float, int]]:
    """Return mean held-out probability, share that was accepted, and fits, by tenth of the fits."""
    order = np.argsort(model.held_out, kind="stable")
    return [
        (
            float(np.average(model.held_out[rows], weights=model.weights[rows] + 1e-12)),
            float(np.average(model.is_accepted[rows], weights=model.weights[rows] + 1e-12)),
            len(rows),
        )
        for rows in np.array_split(order, bins)
        if len(rows)
    ]


def triage_page(model: "TriageModel", scores: np.ndarray) -> str:
    """Return the model's page, one HTML file that stands alone.

    Args:
        model: The model.
        scores: (n,) of all fits.
    """
    thresholds, precision, recall = model.precision_recall()
    calibration = calibration_rows(model)
    base = float(np.average(model.is_accepted, weights=model.weights + 1e-12))
    guess = -sum(p * math.log(p) for p in (base, 1 - base) if p > 0)
    rows = []
    for wanted in _PRECISIONS:
        bound = model.threshold_for(wanted)
        if math.isinf(bound):
            rows.append((f"{100 * wanted:.0f} %", "not reached", "", ""))
            continue
        k = int(np.flatnonzero(thresholds == bound)[0])
        rows.append((f"{100 * wanted:.0f} %", f"{bound:.3f}", f"{100 * recall[k]:.0f} %",
                     f"{100 * (scores >= bound).mean():.0f} %"))  # fmt: skip
    features = [(html.escape(name), f"{gain:.4f}") for name, gain in
                list(model.importance.items())[:12]]  # fmt: skip
    wrong = np.abs(model.held_out - model.is_accepted)
    return _PAGE.format(
        facts=f"{model.kind} model of {len(model.is_accepted)} decided fits, "
        f"{100 * base:.0f} % of them accepted. Held-out log loss <b>{model.log_loss:.3f}</b> nats "
        f"(always guessing the share: {guess:.3f}), Brier score <b>{model.brier:.3f}</b>. "
        f"{int((wrong > 0.9).sum())} fits were decided against odds of more than 9 to 1: look "
        "at them again, or at the guideline.",
        precision_recall=_chart(
            "precision by recall", "recall", "precision", [(recall, precision)], min(0.5, base)
        ),
        calibration=_chart(
            "calibration, by tenth of the fits", "probability", "accepted",
            [(np.array([c[0] for c in calibration]), np.array([c[1] for c in calibration]))],
            0.0, diagonal=True,
        ),
        thresholds=_table(
            ("precision, by 90 % confidence", "accept at or above", "finds of the accepted",
             "share of all fits"), rows),
        features=_table(("column", "worse without, nats"), features),
    )  # fmt: skip


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _chart(
    title: str, x_name: str, y_name: str, lines: Sequence[tuple[Any, Any]], low: float,
    diagonal: bool = False,
) -> str:  # fmt: skip
    """Return a line chart as SVG: x from 0 to 1, y from low to 1."""
    width, height, left, top = 420, 260, 46, 30

    def place(x: float, y: float) -> str:
        y = (np.clip(y, low, 1) - low) / (1 - low)
        return f"{left + x * (width - left - 12):.1f},{top + (1 - y) * height:.1f}"

    marks = []
    for k in range(5):
        y, x = low + k * (1 - low) / 4, k / 4
        px, py = place(0, y).split(",")
        marks += [
            f'<text x="{left - 6}" y="{float(py) + 4}" text-anchor="end">{y:.2f}</text>',
            f'<line class="grid" x1="{px}" x2="{width - 12}" y1="{py}" y2="{py}"/>',
        ]
        px, _ = place(x, low).split(",")
        marks.append(f'<text x="{px}" y="{top + height + 16}" text-anchor="middle">{x:.2f}</text>')
    if diagonal:
        marks.append(f'<polyline class="diagonal" points="{place(0, 0)} {place(1, 1)}"/>')
    for x, y in lines:
        step = max(1, len(x) // 400)  # no more points than pixels
        points = [place(a, b) for a, b in zip(x[::step], y[::step], strict=True)]
        marks.append(f'<polyline class="line" points="{" ".join(points)}"/>')
        if len(x) <= 20:
            marks += [f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3.5"/>'
                      for p in points]  # fmt: skip
    return (
        f'<svg viewBox="0 0 {width} {top + height + 40}" role="img" aria-label="{title}">'
        f'<text class="title" x="{left}" y="16">{title}</text>{"".join(marks)}'
        f'<text x="{width - 12}" y="{top + height + 34}" text-anchor="end">{x_name}</text>'
        f'<text x="{left}" y="{top + height + 34}">{y_name} upwards</text></svg>'
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Triage model</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; --ink: #1d2126; --soft: #68707a; --paper: #fbfbf9;
  --card: #fff; --line: #dcdcd6; --bar: #4a76b8; --mark: #c2452d; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e4e6e8; --soft: #99a1aa; --paper: #16181b;
  --card: #1f2226; --line: #363a40; --bar: #6f9bdc; --mark: #f08a6c; }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }}
svg {{ background: var(--card); border: 1px solid var(--line); border-radius: 6px; width: 100%; }}
svg text {{ font-size: 11px; fill: var(--soft); }}
svg .title {{ font-size: 13px; font-weight: 600; fill: var(--ink); }}
.grid {{ stroke: var(--line); }} .line {{ fill: none; stroke: var(--bar); stroke-width: 2; }}
.diagonal {{ stroke: var(--mark); stroke-dasharray: 4 3; }} circle {{ fill: var(--bar); }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
td, th {{ padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid var(--line);
  text-align: right; }}
td:first-child, th:first-child {{ text-align: left; }}
th {{ color: var(--soft); font-weight: 500; }}
</style></head><body>
<h1>Triage model</h1>
<p>{facts}</p>
<p>All figures are of fits that the model and its calibration had not seen, nor any of their photos.
"Accepted" means what people decided, with their errors.</p>
<div class="charts">{precision_recall}{calibration}</div>
<h2>Thresholds</h2>{thresholds}
<h2>What it looks at</h2>{features}
</body></html>
"""


if __name__ == "__main__":
    sys.exit(main())
