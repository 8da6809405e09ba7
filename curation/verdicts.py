"""From decisions to one verdict a fit: what is accepted, which parts, how surely. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from curation.consensus import DawidSkene, dawid_skene, majority
from curation.votes import LABELS, Votes

if TYPE_CHECKING:
    import pyarrow as pa

    from curation.quality import Quality
    from curation.triage import TriageModel

__all__ = [
    "RULE_PREFIX",
    "Verdicts",
    "find_verdicts",
    "human_votes",
    "open_decisions",
    "train_on_verdicts",
]

RULE_PREFIX = "rule:"
_PARTS = ("body", "left_hand", "right_hand", "face")


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What is decided on each of N fits that anybody or any rule decided on.

    Attributes:
        fit_id: The fits.
        verdict: (N,) "accept", "reject", "unsure" (everybody is), or "disputed" (as many for as
            against, and nobody has adjudicated).
        decided_by: (N,) "adjudication", "majority" or "rule:<name>"; humans go before rules.
        probability: (N,) of being good by Dawid and Skene; NaN where only rules decided.
        votes: (N,) humans who accepted or rejected.
        parts: (N, 4) bool: body, left hand, right hand, face are good; all False unless accepted.
        human: Votes of all humans, rows as here.
        model: Fitted to them.
        by_rule: (N,) the rule that decided on it too, or alone; empty for none.
    """

    fit_id: tuple[str, ...]
    verdict: tuple[str, ...]
    decided_by: tuple[str, ...]
    probability: np.ndarray
    votes: np.ndarray
    parts: np.ndarray
    human: Votes
    model: DawidSkene
    by_rule: tuple[str, ...]

    @property
    def is_accepted(self) -> np.ndarray:
        """(N,) bool."""
        return np.array([verdict == "accept" for verdict in self.verdict], bool)

    def accepted_parts(self) -> dict[str, frozenset[str]]:
        """Return by accepted fit which parts are good; training wants nothing else."""
        return {
            fit_id: frozenset(p for p, good in zip(_PARTS, self.parts[k], strict=True) if good)
            for k, fit_id in enumerate(self.fit_id)
            if self.verdict[k] == "accept"
        }

    @property
    def stratum(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """How fits came in, for estimate_precision: (N,) codes and their names.

        What a rule decided and humans confirmed in the audit belongs to the rule.
        """
        return _strata(self.decided_by, self.by_rule)


def human_votes(decisions: "pa.Table", fit_ids: Sequence[str] = ()) -> Votes:
    """Return the votes of humans, one row a fit.

    Args:
        decisions: Current ones, as DecisionStore.current_table gives them.
        fit_ids: Of the rows; those with a decision by default.
    """
    rows = decisions.select(["fit_id", "annotator", "verdict"]).to_pylist()
    human = [
        r for r in rows if not r["annotator"].startswith(RULE_PREFIX) and r["verdict"] in LABELS
    ]
    votes = Votes.from_records(*([r[k] for r in human] for k in ("fit_id", "annotator", "verdict")))
    if not len(fit_ids):
        return votes
    where = {fit_id: k for k, fit_id in enumerate(votes.items)}
    matrix = np.full((len(fit_ids), len(votes.annotators)), -1, np.int8)
    for row, fit_id in enumerate(fit_ids):
        if fit_id in where:
            matrix[row] = votes.matrix[where[fit_id]]
    return Votes(matrix, tuple(fit_ids), votes.annotators)


def find_verdicts(decisions: "pa.Table", gold: Mapping[str, str] | None = None) -> Verdicts:
    """Return one verdict a fit: the adjudicator's, else the majority's, else a rule's.

    A part of an accepted fit is good if most of those who accepted it say so, and not on a tie:
    a wrong hand in the training data costs more than a missing one.

    Args:
        decisions: Current ones, as DecisionStore.current_table gives them.
        gold: By fit: "accept" or "reject", where the right answer is known.
    """
    rows = decisions.to_pylist()
    fit_ids = tuple(dict.fromkeys(row["fit_id"] for row in rows))
    human = human_votes(decisions, fit_ids)
    where = {fit_id: k for k, fit_id in enumerate(fit_ids)}
    last: dict[str, dict[str, dict]] = {"adjudication": {}, "rule": {}}
    flags = np.zeros((len(fit_ids), len(_PARTS), 2), np.int64)
    for row in rows:
        is_rule = row["annotator"].startswith(RULE_PREFIX)
        kind = "rule" if is_rule else row["source"]
        if kind in last and row["verdict"] in LABELS:
            last[kind][row["fit_id"]] = row
        if row["verdict"] == "accept" and not is_rule:
            for k, part in enumerate(_PARTS):
                flags[where[row["fit_id"]], k, int(row[part])] += 1
    codes = {"accept": 0, "reject": 1}
    truth = np.array([codes.get((gold or {}).get(f, ""), -1) for f in fit_ids], np.int64)
    model = dawid_skene(human, truth=truth)
    most = majority(human)
    counts = human.counts()
    verdict, decided_by = [], []
    parts = flags[..., 1] > flags[..., 0]
    for k, fit_id in enumerate(fit_ids):
        if fit_id in last["adjudication"]:
            row = last["adjudication"][fit_id]
            found, by = row["verdict"], "adjudication"
            parts[k] = [row[part] for part in _PARTS]
        elif counts[k, :2].sum():
            found, by = ("disputed", "accept", "reject")[most.label[k] + 1], "majority"
        elif fit_id in last["rule"]:
            row = last["rule"][fit_id]
            found, by = row["verdict"], row["annotator"]
            parts[k] = [row[part] for part in _PARTS]
        else:
            found, by = "unsure", "majority"
        verdict.append(found)
        decided_by.append(by)
        if found != "accept":
            parts[k] = False
    seen = counts.sum(1) > 0
    return Verdicts(
        fit_id=fit_ids,
        verdict=tuple(verdict),
        decided_by=tuple(decided_by),
        probability=np.where(seen, model.posterior[:, 0], np.nan),
        votes=counts[:, :2].sum(1),
        parts=parts,
        human=human,
        model=model,
        by_rule=tuple(last["rule"].get(f, {}).get("annotator", "") for f in fit_ids),
    )


def _strata(
    decided_by: Sequence[str], by_rule: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    names = [rule or "asked" for rule in by_rule]
    order = tuple(dict.fromkeys(["asked", *names]))
    return np.array([order.index(name) for name in names], np.int64), order


def train_on_verdicts(
    quality: "Quality",
    verdicts: Verdicts,
    groups: Mapping[str, str] | None = None,
    seed: int = 0,
) -> "TriageModel":
    """Train the triage model on what humans decided; each fit counts as much as it is sure.

    Args:
        quality: Of all fits.
        verdicts: Of find_verdicts.
        groups: By fit: what must be held out together, such as its photo.
        seed: Of the training.

    Raises:
        triage.NotEnoughDecisionsError: If there is too little to learn from.
    """
    from curation.triage import train_triage

    where = {fit_id: k for k, fit_id in enumerate(quality.fit_id)}
    rows, good, weights, names = [], [], [], []
    for fit_id, p, votes in zip(verdicts.fit_id, verdicts.probability, verdicts.votes, strict=True):
        if votes and np.isfinite(p) and fit_id in where:
            rows.append(where[fit_id])
            good.append(p > 0.5)
            weights.append(abs(2 * p - 1))
            names.append((groups or {}).get(fit_id, fit_id))
    return train_triage(
        quality.select(np.array(rows, np.int64)),
        np.array(good, bool),
        weights=np.array(weights),
        groups=names,
        seed=seed,
    )


def open_decisions(source: str) -> "pa.Table":
    """Return the current decisions of a database, or of a Parquet file that was exported.

    Args:
        source: URL of a database (``sqlite:///...``, ``postgresql://...``), path of an SQLite
            file, or of a Parquet file with the columns of decisions.decision_schema.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the Parquet file has other columns.
    """
    from pathlib import Path

    from curation.decisions import DecisionStore, decision_schema

    path = Path(source.removeprefix("sqlite:///"))
    if "://" not in source or source.startswith("sqlite:///"):
        if not path.is_file():
            raise FileNotFoundError(
                f"there are no decisions at {path}; review some fits first, or name another place "
                "with --decisions"
            )
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            table: Any = pq.read_table(path)
            missing = sorted(set(decision_schema().names) - set(table.column_names))
            if missing:
                raise ValueError(f"{path} holds no decisions: it lacks {', '.join(missing)}")
            return table
    store = DecisionStore(source if "://" in source else path)
    try:
        return store.current_table()
    finally:
        store.close()
