"""What a run does when its rows are stored: missing pictures, the table, the report. Torch-free."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bodymodel.body import BodyData
from curation.store import FitStore
from fitting.loop import Tally
from fitting.overlays import OVERLAY_COLUMNS, Draw, OverlayPool

if TYPE_CHECKING:
    from curation.run_writer import RunInfo

_log = logging.getLogger(__name__)


def draw_missing(
    store: FitStore,
    run_id: str,
    load_body: Callable[[], BodyData],
    dataset_root: Path,
    how_many: int | Literal["all"],
    workers: int,
    draw: Draw,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Draw the pictures that stored rows should have and lack.

    Args:
        store: Of the rows.
        run_id: The run.
        load_body: Loads its body, in the workers.
        dataset_root: Where the photos are.
        how_many: Persons, in the order of the store; those that the report shows come on top.
        workers: Processes that draw.
        draw: As fitting.overlays.draw_fit.
        should_stop: Asked between rows.

    Returns:
        The number of persons drawn.
    """
    from fitting.report import shown_fits

    shown = shown_fits(store, run_id)
    with OverlayPool(store, load_body, dataset_root, workers, draw) as pool:
        for row in _rows_to_draw(store, run_id, how_many, shown):
            if should_stop():
                break
            if pool.wants(row):
                pool.submit(row, wait=True)
        else:
            pool.finish(should_stop)
        if pool.drawn:
            _log.info("drew %d overlays that were missing", pool.drawn)
        return pool.drawn


def _rows_to_draw(
    store: FitStore, run_id: str, how_many: int | Literal["all"], shown: set[str]
) -> Iterator[dict[str, Any]]:
    import pyarrow.compute as pc

    columns = [*OVERLAY_COLUMNS, "has_fit"]
    rows = store.iter_rows(columns, run_id, where=pc.field("has_fit"))
    for index, row in enumerate(rows):
        if how_many == "all" or index < how_many or row["fit_id"] in shown:
            yield row


def write_summary(store: FitStore, info: "RunInfo", tally: Tally) -> Path:
    """Print the table of the whole run on stdout, write report.html and return its path.

    Args:
        store: Of the rows.
        info: Of the run.
        tally: Of this invocation; what went wrong beside the rows is told from it.
    """
    from fitting.report import write_report
    from fitting.statistics import read_numbers, text_table

    numbers = read_numbers(store, info.run_id)
    warned = ()
    if tally.warnings:
        reason, _ = tally.warnings.most_common(1)[0]
        remark = f"labelled photos, now; their labels are used alone. Mostly: {reason[:70]}"
        warned = (("detector failed", str(tally.warnings.total()), "", "", remark),)
    sys.stdout.write(text_table(numbers, info.body_is_open, warned) + "\n")
    return write_report(store, info.run_id, numbers)


def write_last_line(
    store: FitStore, run_id: str, tally: Tally, outcome: str, seconds: float, report: Path | None
) -> None:
    """Print the line for machines, the last on stdout: what this invocation did.

    Args:
        store: Of the rows.
        run_id: The run.
        tally: Of this invocation.
        outcome: "complete", "interrupted" or "failed".
        seconds: That it took.
        report: The report, None if none was written.
    """
    line = tally.counts() | {
        "outcome": outcome,
        "failed_by": {k: n for k, n in sorted(tally.by_status.items()) if k != "ok"},
        "detector_failed": tally.warnings.total(),
        "seconds": round(seconds, 2),
        "run_id": run_id,
        "out": str(store.root),
        "report": str(report) if report else None,
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
