"""What ``curation.stats`` and the exports tell of a review: gold, reasons, people. Torch-free."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from curation.verdicts import RULE_PREFIX

if TYPE_CHECKING:
    import pyarrow as pa

    from curation.verdicts import Verdicts

__all__ = ["annotator_rows", "gold_answers", "gold_classes", "reason_counts"]


def gold_answers(source: str) -> dict[str, str]:
    """Return the right verdict by fit of a database's gold items; a Parquet file knows none.

    Args:
        source: As for verdicts.open_decisions.
    """
    if source.endswith(".parquet"):
        return {}
    from curation.decisions import DecisionStore
    from curation.gold import GoldItems

    store = DecisionStore(source)
    try:
        return {item.fit_id: item.verdict for item in GoldItems(store).all()}
    finally:
        store.close()


def gold_classes(fit_ids: Sequence[str], gold: Mapping[str, str]) -> np.ndarray:
    """Return (n,) 0 for good, 1 for bad, -1 for fits that are not gold."""
    codes = {"accept": 0, "reject": 1}
    return np.array([codes.get(gold.get(fit_id, ""), -1) for fit_id in fit_ids], np.int64)


def reason_counts(decisions: "pa.Table") -> dict[str, int]:
    """Return how many current rejections gave each reason, the most frequent first."""
    rows = decisions.select(["verdict", "reasons"]).to_pylist()
    found = Counter(r for row in rows if row["verdict"] == "reject" for r in row["reasons"] or ())
    return dict(found.most_common())


def annotator_rows(
    decisions: "pa.Table", verdicts: "Verdicts", truth: np.ndarray
) -> list[tuple[str, ...]]:
    """Return a line a person: decisions, accepted, median seconds, right on good and bad fits.

    The last two are Dawid and Skene's estimates; of few decisions they lean on everybody's. Where
    no fit was judged twice and none that was judged is gold, nothing is known of them.

    Args:
        decisions: That count.
        verdicts: Of them.
        truth: (N,) of the gold items among the verdicts' fits, -1 where unknown.
    """
    votes = (verdicts.human.matrix >= 0).sum(1)
    is_measured = bool((votes > 1).any() or ((truth >= 0) & (votes > 0)).any())
    rows = decisions.select(["annotator", "verdict", "seconds"]).to_pylist()
    accuracy = verdicts.model.accuracy(verdicts.human)
    lines = []
    for name in sorted({row["annotator"] for row in rows}):
        own = [row for row in rows if row["annotator"] == name]
        accepted = sum(row["verdict"] == "accept" for row in own)
        clear = sum(row["verdict"] in ("accept", "reject") for row in own)
        seconds = np.array([row["seconds"] for row in own], np.float64)
        seconds = seconds[np.isfinite(seconds)]
        is_human = is_measured and not name.startswith(RULE_PREFIX) and name in accuracy
        lines.append(
            (
                name,
                str(len(own)),
                f"{100 * accepted / clear:.0f} %" if clear else "-",
                f"{np.median(seconds):.1f} s" if len(seconds) else "-",
                f"{100 * accuracy[name]['accept']:.0f} %" if is_human else "-",
                f"{100 * accuracy[name]['reject']:.0f} %" if is_human else "-",
            )
        )
    return lines
