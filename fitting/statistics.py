"""The numbers of a whole run, from its stored rows, and the table of them. Torch-free."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bodymodel.spec import PARTS
from curation.store import FitStore

__all__ = ["PART_LABELS", "RunNumbers", "read_numbers", "summary_rows", "text_table"]

GOOD_PCT = 2.0
"""A body residual of at most this share of the person's height counts as good."""

DEEP_MM = 10.0
"""Parts inside each other by more than this are counted: less is skin that gives way."""

PART_LABELS = {
    "body": "body",
    "left_hand": "left hand",
    "right_hand": "right hand",
    "face": "face",
}

_NUMBERS = (
    *(f"residual_{part}_px" for part in PARTS),
    "person_height_px",
    "residual_body_pct",
    "trunk_lean_deg",
    "betas_abs_max",
    "prior_energy",
    "self_penetration_mm",
    "oks_fit",
    "oks_detection",
    "solve_ms",
    "mpjpe_mm",
    "pa_mpjpe_mm",
    "trunk_lean_error_deg",
)
_TEXTS = ("fit_id", "image_id", "status", "reason", "body_name")


@dataclass(frozen=True, eq=False)
class RunNumbers:
    """One entry a row, n rows; some 200 bytes each.

    Attributes:
        texts: fit_id, image_id, status, reason, body_name by name, each a list of n.
        numbers: (n,) float32 by name: residuals, height, lean, time, errors; NaN where missing.
        person_index: (n,) int32.
        has_fit: (n,) bool.
        has_truth: (n,) bool.
    """

    texts: dict[str, list[str]]
    numbers: dict[str, np.ndarray]
    person_index: np.ndarray
    has_fit: np.ndarray
    has_truth: np.ndarray

    @property
    def num_rows(self) -> int:
        """Rows of the run."""
        return len(self.has_fit)

    @property
    def status_counts(self) -> Counter:
        """How many rows have which status."""
        return Counter(self.texts["status"])

    def part_px(self, part: str) -> np.ndarray:
        """Return the median residual of a part for the fits in which it was seen, px."""
        values = self.numbers[f"residual_{part}_px"][self.has_fit]
        return values[np.isfinite(values)]

    def part_pct(self, part: str) -> np.ndarray:
        """Return it in percent of each person's height."""
        share = 100 * self.numbers[f"residual_{part}_px"] / self.numbers["person_height_px"]
        share = share[self.has_fit]
        return share[np.isfinite(share)]

    def order_by_residual(self) -> np.ndarray:
        """Return the indices of the fits, the smallest body residual (% of height) first."""
        pct = self.numbers["residual_body_pct"]
        known = np.flatnonzero(self.has_fit & np.isfinite(pct))
        return known[np.argsort(pct[known], kind="stable")]


def read_numbers(store: FitStore, run_id: str) -> RunNumbers:
    """Read what the table and the report need of a run's rows, no arrays."""
    flags = ("person_index", "has_fit", "has_truth")
    texts: dict[str, list[str]] = {name: [] for name in _TEXTS}
    chunks: dict[str, list[np.ndarray]] = {name: [] for name in (*_NUMBERS, *flags)}
    for table in store.iter_tables([*_TEXTS, *_NUMBERS, *flags], run_id):
        for name in _TEXTS:
            # Reasons and body names repeat: one object for each.
            column = table[name]
            is_repeated = name in ("status", "reason", "body_name")
            texts[name] += (column.dictionary_encode() if is_repeated else column).to_pylist()
        for name, chunk in chunks.items():
            chunk.append(table[name].to_numpy())
    joined = {k: np.concatenate(v) if v else np.zeros(0, np.float32) for k, v in chunks.items()}
    return RunNumbers(
        texts,
        {name: joined[name] for name in _NUMBERS},
        joined["person_index"].astype(np.int32),
        joined["has_fit"].astype(bool),
        joined["has_truth"].astype(bool),
    )


def _spread(values: np.ndarray, unit: str, digits: int = 1) -> tuple[str, str]:
    values = values[np.isfinite(values)]
    if not len(values):
        return "-", "-"
    return tuple(f"{np.percentile(values, q):.{digits}f} {unit}" for q in (50, 90))


def summary_rows(numbers: RunNumbers) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the lines of the table: what, count, median, 90th percentile, remark."""
    counts = numbers.status_counts
    total, photos = numbers.num_rows, len(set(numbers.texts["image_id"]))
    good = counts["ok"]
    share = f"{100 * good / total:.1f} %" if total else ""
    yield "rows", str(total), "", "", f"in {photos} photos"
    yield "fitted", str(good), "", "", share
    for status, count in counts.most_common():
        if status != "ok":
            yield status.replace("_", " "), str(count), "", "", _common_reason(numbers, status)
    for part, label in PART_LABELS.items():
        px, pct = numbers.part_px(part), numbers.part_pct(part)
        remark = " / ".join(_spread(pct, "%", 2)) + " of the height" if len(pct) else ""
        yield f"{label} residual", str(len(px)), *_spread(px, "px"), remark
    body = numbers.numbers["residual_body_pct"][numbers.has_fit]
    body = body[np.isfinite(body)]
    if len(body):
        within = 100 * float((body <= GOOD_PCT).mean())
        yield (
            f"body within {GOOD_PCT:.0f} % of height",
            str(int((body <= GOOD_PCT).sum())),
            "",
            "",
            f"{within:.1f} % of the fits",
        )
    for name, label, unit in (
        ("mpjpe_mm", "error MPJPE", "mm"),
        ("pa_mpjpe_mm", "error PA-MPJPE", "mm"),
        ("trunk_lean_error_deg", "error of trunk lean", "deg"),
    ):
        values = numbers.numbers[name][numbers.has_truth]
        if not len(values):
            continue
        remark = "against the truth"
        if name == "trunk_lean_error_deg":
            remark = f"size; mean {np.nanmean(values):+.1f} deg, + is toward the camera"
            values = np.abs(values)
        yield label, str(len(values)), *_spread(values, unit), remark
    lean = numbers.numbers["trunk_lean_deg"][numbers.has_fit]
    if len(lean):
        yield "trunk lean to the camera", str(len(lean)), *_spread(lean, "deg"), ""
    depth = numbers.numbers["self_penetration_mm"][numbers.has_fit]
    depth = depth[np.isfinite(depth)]
    if len(depth):
        deep = int((depth > DEEP_MM).sum())
        remark = f"{deep} deeper than {DEEP_MM:.0f} mm"
        yield "self-penetration", str(len(depth)), *_spread(depth, "mm"), remark
    betas = numbers.numbers["betas_abs_max"][numbers.has_fit]
    if len(betas):
        yield "largest |beta|", str(len(betas)), *_spread(betas, "sd"), ""
    for name, label in (("oks_fit", "OKS of fits"), ("oks_detection", "OKS of detector")):
        values = numbers.numbers[name]
        values = values[np.isfinite(values)]
        if len(values):
            low = f"10 %: {np.percentile(values, 10):.2f}"
            yield label, str(len(values)), f"{np.median(values):.2f}", "-", f"{low}; to the labels"
    solve = numbers.numbers["solve_ms"][numbers.has_fit]
    if len(solve):
        yield "solver time a person", str(len(solve)), *_spread(solve, "ms"), ""


def _common_reason(numbers: RunNumbers, status: str) -> str:
    texts = numbers.texts
    reasons = Counter(
        reason
        for s, reason in zip(texts["status"], texts["reason"], strict=True)
        if s == status and reason
    )
    return f"mostly: {reasons.most_common(1)[0][0][:70]}" if reasons else ""


def text_table(
    numbers: RunNumbers, body_is_open: bool, further: Sequence[tuple[str, ...]] = ()
) -> str:
    """Return the table for a terminal; ``further`` are lines as of summary_rows to end it with."""
    rows = [("", "count", "median", "90 %", ""), *summary_rows(numbers), *further]
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    lines = []
    for what, count, median, high, remark in rows:
        line = f"{what:<{widths[0]}}  {count:>{widths[1]}}  {median:>{widths[2]}}"
        lines.append(f"{line}  {high:>{widths[3]}}  {remark}".rstrip())
    if body_is_open:
        lines.append(OPEN_BODY_NOTE)
    return "\n".join(lines)


OPEN_BODY_NOTE = (
    "Fitted with the open body: compatible with SMPL-X in format, not in parameters. "
    "Do not mix these with fits of licensed SMPL-X files."
)
