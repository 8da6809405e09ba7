"""report.html: what a run did, in one file that can be mailed. Torch-free."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from curation.store import FitStore
from fitting.statistics import (
    DEEP_MM,
    OPEN_BODY_NOTE,
    PART_LABELS,
    RunNumbers,
    read_numbers,
    summary_rows,
)

__all__ = ["histogram_svg", "shown_fits", "write_report"]

_NUM_SAMPLE, _NUM_BEST, _NUM_WORST, _NUM_FAILED = 24, 6, 12, 40
_THUMBNAIL_PX = 220


def _sample(numbers: RunNumbers) -> np.ndarray:
    """Fits chosen by their id, which is a hash: a fair sample, the same at every reading."""
    known = np.flatnonzero(numbers.has_fit)
    return np.array(sorted(known, key=lambda i: numbers.texts["fit_id"][i])[:_NUM_SAMPLE], int)


def _chosen(numbers: RunNumbers) -> dict[str, np.ndarray]:
    order = numbers.order_by_residual()
    num_worst = min(_NUM_WORST, (len(order) + 1) // 2)
    return {
        "worst": order[::-1][:num_worst],
        "best": order[: min(_NUM_BEST, len(order) - num_worst)],
        "sample": _sample(numbers),
    }


def shown_fits(store: FitStore, run_id: str) -> set[str]:
    """Return the ids of the fits whose pictures the report shows."""
    numbers = read_numbers(store, run_id)
    return {numbers.texts["fit_id"][i] for group in _chosen(numbers).values() for i in group}


def write_report(store: FitStore, run_id: str, numbers: RunNumbers | None = None) -> Path:
    """Write report.html into the store and return its path.

    The pictures in it are small copies, so the file stands alone; they link to the full ones.

    Args:
        store: Of the run.
        run_id: Which run.
        numbers: Of read_numbers, if they are at hand.
    """
    numbers = read_numbers(store, run_id) if numbers is None else numbers
    record = store.run_record(run_id)
    chosen = _chosen(numbers)
    parts = [
        f"<h1>Fits of {html.escape(str(record.get('dataset', '')))}</h1>",
        _facts(store, run_id, record),
        f'<p class="note">{OPEN_BODY_NOTE}</p>' if record.get("body_is_open") else "",
        "<h2>Summary</h2>",
        _table(numbers),
        "<h2>Distributions</h2>",
        _histograms(numbers),
        "<h2>Worst by body residual</h2>",
        _cards(store, run_id, numbers, chosen["worst"]),
        "<h2>Best by body residual</h2>",
        _cards(store, run_id, numbers, chosen["best"]),
        "<h2>A sample</h2>",
        "<p>Chosen by a hash of the name, so neither the best nor the worst. Left the photo with "
        "the body, right the body from its side: an error along the camera's axis shows only "
        "there.</p>",
        _cards(store, run_id, numbers, chosen["sample"]),
        _failures(numbers),
    ]
    if store.unreadable:
        names = "".join(f"<li>{html.escape(str(p))}: {html.escape(r)}</li>" for p, r in
                        store.unreadable.items())  # fmt: skip
        parts.append(f"<h2>Parts that could not be read</h2><ul>{names}</ul>")
    text = _PAGE.format(title=html.escape(run_id), style=_STYLE, body="\n".join(parts))
    path = store.root / "report.html"
    temporary = path.with_suffix(".html.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path


def _facts(store: FitStore, run_id: str, record: dict) -> str:
    config = store.run_path(run_id).relative_to(store.root)
    facts = {
        "run": html.escape(run_id),
        "body": html.escape(f"{record.get('body_name')} ({str(record.get('body_sha256'))[:12]})"),
        "settings": f'<a href="{quote(str(config))}">{html.escape(str(config))}</a>',
        "version": html.escape(str(record.get("code_version"))),
    }
    return '<p class="facts">' + " · ".join(f"{k} <b>{v}</b>" for k, v in facts.items()) + "</p>"


def _table(numbers: RunNumbers) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("", "count", "median", "90 %", ""))
    lines = []
    for what, *cells in summary_rows(numbers):
        row = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{html.escape(what)}</th>{row}</tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _histograms(numbers: RunNumbers) -> str:
    fits = {name: values[numbers.has_fit] for name, values in numbers.numbers.items()}
    truth = {name: values[numbers.has_truth] for name, values in numbers.numbers.items()}
    charts = [histogram_svg(fits["residual_body_pct"], "body residual", "% of height")]
    charts += [
        histogram_svg(numbers.part_px(part), f"{label} residual", "px")
        for part, label in PART_LABELS.items()
    ]
    charts += [
        histogram_svg(fits["trunk_lean_deg"], "trunk lean, + to the camera", "deg"),
        histogram_svg(fits["self_penetration_mm"], "self-penetration", "mm"),
        histogram_svg(fits["betas_abs_max"], "largest |beta|", "sd"),
        histogram_svg(fits["oks_fit"], "OKS against the labels", ""),
        histogram_svg(truth["mpjpe_mm"], "MPJPE", "mm"),
        histogram_svg(truth["pa_mpjpe_mm"], "PA-MPJPE", "mm"),
        histogram_svg(truth["trunk_lean_error_deg"], "trunk lean error", "deg"),
    ]
    return f'<div class="charts">{"".join(charts)}</div>'


def histogram_svg(values: np.ndarray, title: str, unit: str) -> str:
    """Return a histogram as an SVG element; nothing if there are no numbers.

    The axis ends at the 1st and 99th percentile; what lies beyond is counted in the outer bars.

    Args:
        values: (n,) numbers, NaN ignored.
        title: Shown above.
        unit: Of the values.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    bins = int(np.clip(3 * np.sqrt(len(values)), 8, 30))
    low, high = np.percentile(values, (1, 99))
    low = 0.0 if 0 <= low < 0.5 * high else float(low)
    high = float(high) if high > low else low + 1
    counts, _ = np.histogram(np.clip(values, low, high), bins, (low, high))
    width, height, left, top = 300, 130, 10, 26
    step = (width - 2 * left) / bins
    bars = []
    for k, count in enumerate(counts):
        tall = height * count / counts.max()
        start, end = low + k * (high - low) / bins, low + (k + 1) * (high - low) / bins
        bars.append(
            f'<rect x="{left + k * step:.1f}" y="{top + height - tall:.1f}" '
            f'width="{step - 1:.1f}" height="{tall:.1f}">'
            f"<title>{start:.3g} to {end:.3g} {unit}: {count}</title></rect>"
        )
    middle = float(np.median(values))
    at = left + (min(max(middle, low), high) - low) / (high - low) * (width - 2 * left)
    base = top + height
    return (
        f'<svg viewBox="0 0 {width} {base + 34}" role="img" aria-label="{html.escape(title)}">'
        f'<text x="{left}" y="15" class="title">{html.escape(title)}</text>'
        f'<g class="bars">{"".join(bars)}</g>'
        f'<line x1="{left}" x2="{width - left}" y1="{base}" y2="{base}" class="axis"/>'
        f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{base}" class="median"/>'
        f'<text x="{left}" y="{base + 15}">{low:.3g}</text>'
        f'<text x="{width - left}" y="{base + 15}" text-anchor="end">{high:.3g} {unit}</text>'
        f'<text x="{left}" y="{base + 30}" class="soft">median {middle:.3g} {unit}, '
        f"n = {len(values)}</text></svg>"
    )


def _cards(store: FitStore, run_id: str, numbers: RunNumbers, indices: Iterable[int]) -> str:
    cards = [_card(store, run_id, numbers, int(index)) for index in indices]
    return f'<div class="cards">{"".join(cards)}</div>' if cards else "<p>None.</p>"


def _card(store: FitStore, run_id: str, numbers: RunNumbers, index: int) -> str:
    texts, values = numbers.texts, numbers.numbers
    fit_id, image_id = texts["fit_id"][index], texts["image_id"][index]
    pictures = "".join(
        _picture(store, store.overlay_path(run_id, fit_id, view), f"{image_id}, {view}")
        for view in ("front", "side")
    )
    words = [
        f"{values['residual_body_pct'][index]:.2f} % of height",
        f"{values['residual_body_px'][index]:.1f} px",
        f"lean {values['trunk_lean_deg'][index]:+.0f}°",
    ]
    if values["self_penetration_mm"][index] > DEEP_MM:
        words.append(f"{values['self_penetration_mm'][index]:.0f} mm in itself")
    if numbers.has_truth[index]:
        words.append(f"MPJPE {values['mpjpe_mm'][index]:.0f} mm")
    if texts["status"][index] != "ok":
        words.append(texts["status"][index].replace("_", " "))
    person = f" · person {numbers.person_index[index]}" if numbers.person_index[index] else ""
    name = html.escape(f"{image_id}{person}")
    return (
        f'<figure><div class="views">{pictures}</div><figcaption title="{fit_id}">{name}<br>'
        f'<span class="soft">{html.escape(" · ".join(words))}</span></figcaption></figure>'
    )


def _picture(store: FitStore, path: Path, label: str) -> str:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * _THUMBNAIL_PX, 2 * _THUMBNAIL_PX))
            image.thumbnail((2 * _THUMBNAIL_PX, _THUMBNAIL_PX))
            data = io.BytesIO()
            image.convert("RGB").save(data, "JPEG", quality=82)
            width, height = image.size
    except OSError:
        return '<span class="missing">no picture</span>'
    text = base64.b64encode(data.getvalue()).decode()
    link = quote(path.relative_to(store.root).as_posix())
    return (
        f'<a href="{link}"><img src="data:image/jpeg;base64,{text}" width="{width}" '
        f'height="{height}" alt="{html.escape(label)}"></a>'
    )


def _failures(numbers: RunNumbers) -> str:
    failed = [i for i, status in enumerate(numbers.texts["status"]) if status != "ok"]
    if not failed:
        return "<h2>Not fitted</h2><p>Nobody.</p>"
    lines = _failure_lines(numbers, failed[:_NUM_FAILED])
    more = len(failed) - _NUM_FAILED
    rest = f"<p>And {more} more; they are the rows whose status is not ok.</p>" if more > 0 else ""
    return (
        f"<h2>Not fitted</h2><table><thead><tr><th>photo</th><th>status</th><th>reason</th></tr>"
        f"</thead><tbody>{lines}</tbody></table>{rest}"
    )


def _failure_lines(numbers: RunNumbers, indices: Sequence[int]) -> str:
    columns = [numbers.texts[name] for name in ("image_id", "status", "reason")]
    return "".join(
        "<tr>" + "".join(f"<td>{html.escape(column[i])}</td>" for column in columns) + "</tr>"
        for i in indices
    )


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #68707a; --paper: #fbfbf9;
  --card: #fff; --line: #dcdcd6; --bar: #4a76b8; --mark: #c2452d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6e8; --soft: #99a1aa; --paper: #16181b;
  --card: #1f2226; --line: #363a40; --bar: #6f9bdc; --mark: #f08a6c; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.facts, .soft { color: var(--soft); } .facts b { color: var(--ink); font-weight: 500; }
.note { border-left: 4px solid var(--mark); padding: .3rem .8rem; background: var(--card); }
a { color: inherit; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .22rem .9rem .22rem 0; border-bottom: 1px solid var(--line); text-align: right; }
th[scope=row], td:last-child, thead th:last-child, td:nth-last-child(-n+1) { text-align: left; }
thead th { color: var(--soft); font-weight: 500; } th[scope=row] { font-weight: 500; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
svg { background: var(--card); border: 1px solid var(--line); border-radius: 6px; width: 100%; }
svg text { font-size: 11px; fill: var(--ink); } svg .title { font-size: 12px; font-weight: 600; }
svg .soft { fill: var(--soft); } .bars rect { fill: var(--bar); }
.axis { stroke: var(--soft); } .median { stroke: var(--mark); stroke-dasharray: 3 3; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  overflow: hidden; }
.views { display: flex; } .views img { display: block; height: 13.75rem; width: auto; }
figcaption { padding: .35rem .6rem; font-size: .8rem; max-width: 30rem; overflow-wrap: anywhere; }
.missing { width: 9rem; height: 13.75rem; display: grid; place-items: center;
  color: var(--soft); border-right: 1px dashed var(--line); }
@media print { figure, svg { break-inside: avoid; } }
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{style}</style></head>
<body>
{body}
</body></html>
"""
