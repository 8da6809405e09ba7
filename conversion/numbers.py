"""How far a conversion's rows are from their source: counts, means, the worst. Torch-free.

The parts go through one by one; of a row only its distances are kept.
"""

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bodymodel.spec import PARTS
from conversion.output import PartStore, part_columns
from conversion.result import CONVERTED

__all__ = ["Numbers", "Row", "read_numbers", "summary_rows", "text_table"]

_NUM_WORST, _NUM_FAILED = 10, 40
_DISTANCES = ("v2v_mean_mm", "v2v_p99_mm", "v2v_max_mm", *(f"v2v_{part}_mm" for part in PARTS))


@dataclass(frozen=True)
class Row:
    """One row, for the report."""

    clip: str
    frame: int
    label: str
    status: str
    reason: str
    mean_mm: float
    p99_mm: float
    max_mm: float
    path: Path
    row: int


@dataclass(eq=False)
class Numbers:
    """Of all rows of a conversion.

    Attributes:
        count: Rows.
        by_status: Rows.
        distances: By column, (N,) float32 of the rows that have parameters.
        directions: From and to: rows, sum of their mean distances (mm) and of their times (ms).
        worst: The ten farthest, the farthest first.
        failed: The first forty that are not ok.
    """

    count: int = 0
    by_status: Counter = field(default_factory=Counter)
    distances: dict[str, np.ndarray] = field(default_factory=dict)
    directions: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    worst: list[Row] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)


def read_numbers(store: PartStore) -> Numbers:
    """Go through all parts of a conversion."""
    import pyarrow.parquet as pq

    out = Numbers()
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in _DISTANCES}
    worst: list[tuple[float, int, Row]] = []
    texts = ("clip", "frame", "label", "status", "reason", "source_body_name", "body_name")
    for path in sorted((store.root / "data").rglob("part-*.parquet")):
        table = pq.ParquetFile(path).read(list(texts))
        numbers = part_columns(path, [*_DISTANCES, "solve_ms"])
        status = np.array(table["status"].to_pylist(), "U32")
        out.count += len(status)
        out.by_status.update(status.tolist())
        there = np.isin(status, CONVERTED)
        for name in _DISTANCES:
            pieces[name].append(numbers[name][there].astype(np.float32))
        if len(status):
            direction = (table["source_body_name"][0].as_py(), table["body_name"][0].as_py())
            total = out.directions.setdefault(direction, [0, 0.0, 0, 0.0])
            total[0] += int(there.sum())
            total[1] += float(numbers["v2v_mean_mm"][there].sum())
            total[2] += len(status)
            total[3] += float(numbers["solve_ms"].sum())

        def row(k: int, table=table, numbers=numbers, path=path) -> Row:
            told = [table[name][k].as_py() for name in texts[:5]]
            far = [float(numbers[name][k]) for name in _DISTANCES[:3]]
            return Row(*told, *far, path, k)

        mean = np.where(there, numbers["v2v_mean_mm"], -np.inf)
        for k in np.argsort(-mean, kind="stable")[:_NUM_WORST]:
            if there[k]:
                heapq.heappush(worst, (float(mean[k]), -out.count - int(k), row(int(k))))
        worst = heapq.nlargest(_NUM_WORST, worst)
        heapq.heapify(worst)
        for k in np.flatnonzero(status != "ok")[: _NUM_FAILED - len(out.failed)]:
            out.failed.append(row(int(k)))
    out.worst = [item[2] for item in sorted(worst, reverse=True)]
    out.distances = {n: np.concatenate(p) if p else np.zeros(0) for n, p in pieces.items()}
    return out


def summary_rows(numbers: Numbers) -> Iterator[tuple[str, ...]]:
    """Yield lines of the summary: what, count, mean, p99, max."""
    yield ("meshes", str(numbers.count), "", "", "")
    for status, count in numbers.by_status.most_common():
        yield (str(status), str(count), "", "", "")
    d = numbers.distances
    if not len(d["v2v_mean_mm"]):
        return
    yield (
        "v2v, mm", str(len(d["v2v_mean_mm"])), f"{d['v2v_mean_mm'].mean(dtype=np.float64):.3f}",
        f"{d['v2v_p99_mm'].mean(dtype=np.float64):.3f}", f"{d['v2v_max_mm'].max():.3f}",
    )  # fmt: skip
    for part in PARTS:
        values = d[f"v2v_{part}_mm"]
        values = values[np.isfinite(values)]
        if len(values):
            cells = (values.mean(dtype=np.float64), np.quantile(values, 0.99), values.max())
            yield (f"  {part}, mean", str(len(values)), *(f"{x:.3f}" for x in cells))
    for (source, target), (converted, far, count, ms) in sorted(numbers.directions.items()):
        yield (f"{source} to {target}", str(converted), f"{far / max(converted, 1):.3f}", "", "")
        yield ("  time a mesh, ms", str(count), f"{ms / max(count, 1):.1f}", "", "")


def text_table(numbers: Numbers) -> str:
    """Return the summary for a terminal."""
    lines = [("", "count", "mean", "p99", "max"), *summary_rows(numbers)]
    width = max(18, *(len(line[0]) + 1 for line in lines))
    return "\n".join(f"{a:{width}s}{b:>9s}{c:>10s}{d:>10s}{e:>10s}" for a, b, c, d, e in lines)
