"""The owner's rules: accept or reject fits by number, and say what that costs before doing it.

    python -m curation.rules lsp/ --rules rules.yaml            # what each rule would do
    python -m curation.rules lsp/ --rules rules.yaml --apply    # do it

A rule decides as the annotator ``rule:<name>``; humans' verdicts go before it, and the uniform
audit goes on, so that its precision stays measured.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from curation.cli import parse_command_line
from curation.intervals import Interval, clopper_pearson

__all__ = ["Rule", "RuleEffect", "RuleError", "load_rules", "main", "rule_effects"]

TRIAGE = "triage"
"""Name of the triage model's probability among the columns that a rule may ask for."""


class RuleError(ValueError):
    """A rule that cannot be understood. The message says which and why."""


@dataclass(frozen=True)
class Rule:
    """Accept or reject what lies within all its bounds.

    Attributes:
        name: Letters, digits, ``_`` and ``-``.
        verdict: "accept" or "reject".
        above: By column: the number must be at least this.
        below: By column: the number must be at most this.
    """

    name: str
    verdict: str
    above: tuple[tuple[str, float], ...] = ()
    below: tuple[tuple[str, float], ...] = ()

    @property
    def columns(self) -> set[str]:
        """The columns that it asks for."""
        return {name for name, _ in (*self.above, *self.below)}

    def matches(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return (n,) bool; a fit without the number does not match."""
        found = np.ones(len(next(iter(columns.values()))), bool)
        for name, bound in self.above:
            found &= columns[name] >= bound
        for name, bound in self.below:
            found &= columns[name] <= bound
        return found


def load_rules(path: Path) -> list[Rule]:
    """Read rules from a YAML file.

    It is a list of mappings with ``name``, ``verdict`` and at least one of ``above`` and ``below``,
    which map columns to numbers.

    Raises:
        RuleError: If it is something else.
    """
    import re

    import yaml

    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RuleError(f"{path} cannot be read: {error}") from None
    if not isinstance(entries, list):
        raise RuleError(f"{path}: expected a list of rules, got {type(entries).__name__}")
    rules = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}: rule {number}"
        if not isinstance(entry, dict) or set(entry) - {"name", "verdict", "above", "below"}:
            raise RuleError(f"{where}: expected name, verdict, above, below, got {entry!r}")
        name, verdict = str(entry.get("name", "")), entry.get("verdict")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name) or name in {r.name for r in rules}:
            raise RuleError(f"{where}: a name of its own is needed, of letters and digits")
        if verdict not in ("accept", "reject"):
            raise RuleError(f"{where} ({name}): verdict must be accept or reject, got {verdict!r}")
        bounds = {}
        for side in ("above", "below"):
            values = entry.get(side) or {}
            if not isinstance(values, dict) or not all(
                isinstance(v, int | float) and math.isfinite(v) for v in values.values()
            ):
                raise RuleError(f"{where} ({name}): {side} must map columns to numbers")
            bounds[side] = tuple((str(k), float(v)) for k, v in values.items())
        if not any(bounds.values()):
            raise RuleError(f"{where} ({name}): it would match everything; give above or below")
        rules.append(Rule(name, verdict, **bounds))
    return rules


@dataclass(frozen=True, eq=False)
class RuleEffect:
    """What a rule would do.

    Attributes:
        rule: The rule.
        fit_ids: Fits it would decide: matched, no human's verdict, no earlier rule's.
        judged: Fits it matches that humans judged.
        error: Share of those on which humans decided the opposite, with its interval: what to
            expect of the others.
    """

    rule: Rule
    fit_ids: tuple[str, ...]
    judged: int
    error: Interval


def rule_effects(
    rules: Sequence[Rule],
    fit_ids: Sequence[str],
    columns: Mapping[str, np.ndarray],
    probability: Mapping[str, float],
    level: float = 0.95,
) -> list[RuleEffect]:
    """Say what each rule would do; the first rule that matches a fit decides it.

    Args:
        rules: In their order.
        fit_ids: Of the n fits.
        columns: (n,) by name. Of the triage model take *held-out* scores for fits that it was
            trained on: with others every rule looks better than it is.
        probability: By fit that humans judged: of being good, in 0..1.
        level: Of the intervals (Clopper-Pearson).

    Raises:
        RuleError: If a rule asks for a column that is not there.
    """
    human = np.array([fit_id in probability for fit_id in fit_ids], bool)
    good = np.array([probability.get(fit_id, np.nan) for fit_id in fit_ids], np.float64)
    free = ~human
    effects = []
    for rule in rules:
        unknown = sorted(rule.columns - set(columns))
        if unknown:
            raise RuleError(
                f"rule {rule.name} asks for {', '.join(unknown)}; there are "
                f"{', '.join(sorted(columns))}"
            )
        found = rule.matches(columns)
        judged = found & human
        wrong = 1 - good[judged] if rule.verdict == "accept" else good[judged]
        taken = found & free
        free &= ~taken
        effects.append(
            RuleEffect(
                rule,
                tuple(np.array(fit_ids, object)[taken]),
                int(judged.sum()),
                clopper_pearson(float(wrong.sum()), int(judged.sum()), level),
            )
        )
    return effects


@dataclass(frozen=True)
class RulesConfig:
    """What to do. Every field is a flag."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Directory of a data set with fits."""
    rules: Path
    """YAML file: a list of name, verdict (accept or reject), above and below (columns to numbers).
    The column triage is the model's probability of acceptance."""
    out: Path | None = None
    """The store of fits. [DATA/fits]"""
    decisions: str | None = None
    """Database or Parquet file of decisions. [decisions.sqlite in the store]"""
    config: Path | None = None
    """YAML file of settings; the command line wins over it."""
    run_id: str | None = None
    """Only fits of this run."""
    apply: bool = False
    """Decide. Without it, only say what would be decided."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    config = parse_command_line(RulesConfig, argv, "python -m curation.rules", __doc__)
    from curation.store import StoreError

    try:
        return _run(config)
    except (RuleError, StoreError, FileNotFoundError, ValueError) as error:
        sys.stderr.write(f"curation.rules: {error}\n")
        return 2 if isinstance(error, RuleError) else 1


def _run(config: RulesConfig) -> int:
    from curation.decisions import Decision, DecisionStore, default_url
    from curation.quality import read_quality
    from curation.queue import ReviewQueue
    from curation.store import FitStore
    from curation.tables import text_table
    from curation.triage import NotEnoughDecisionsError
    from curation.verdicts import find_verdicts, open_decisions, train_on_verdicts

    rules = load_rules(config.rules)
    store = FitStore(config.out or config.data / "fits")
    source = config.decisions or default_url(store.root)
    verdicts = find_verdicts(open_decisions(source))
    quality = read_quality(store, config.run_id)
    columns = {name: quality.column(name) for name in quality.names}
    if any(TRIAGE in rule.columns for rule in rules):
        try:
            columns[TRIAGE] = _held_out_scores(quality, verdicts, train_on_verdicts)
        except NotEnoughDecisionsError as error:
            raise RuleError(f"a rule asks for {TRIAGE}: {error}") from None
    judged = {
        fit_id: p
        for fit_id, p, votes in zip(
            verdicts.fit_id, verdicts.probability, verdicts.votes, strict=True
        )
        if votes and np.isfinite(p)
    }
    effects = rule_effects(rules, quality.fit_id, columns, judged)
    lines = [
        (e.rule.name, e.rule.verdict, str(len(e.fit_ids)), str(e.judged), _percent(e.error))
        for e in effects
    ]
    head = ("rule", "verdict", "would decide", "judged by humans", "expected error")
    sys.stdout.write(text_table(head, lines, left=(0, 1)) + "\n")
    decided = 0
    if config.apply:
        if source.endswith(".parquet"):
            raise RuleError("rules are applied to a database, not to an exported file")
        decisions = DecisionStore(source)
        taken = {f for f, by in zip(verdicts.fit_id, verdicts.by_rule, strict=True) if by}
        decided = decisions.append_all(
            [
                Decision(fit_id, f"rule:{e.rule.name}", e.rule.verdict, source="rule")
                for e in effects
                for fit_id in e.fit_ids
                if fit_id not in taken
            ]
        )
        ReviewQueue(decisions).heed()
        decisions.close()
    summary: dict[str, Any] = {
        "rules": {
            e.rule.name: {
                "verdict": e.rule.verdict, "would_decide": len(e.fit_ids), "judged": e.judged,
                "error": None if math.isnan(e.error.value) else round(e.error.value, 4),
                "error_high": round(e.error.high, 4),
            }
            for e in effects
        },
        "applied": config.apply,
        "decided": decided,
    }  # fmt: skip
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


def _held_out_scores(quality: Any, verdicts: Any, train: Any) -> np.ndarray:
    model = train(quality, verdicts)
    scores = model.score(quality)
    where = {fit_id: k for k, fit_id in enumerate(quality.fit_id)}
    trained_on = [
        fit_id
        for fit_id, p, votes in zip(
            verdicts.fit_id, verdicts.probability, verdicts.votes, strict=True
        )
        if votes and np.isfinite(p) and fit_id in where
    ]
    for fit_id, score in zip(trained_on, model.held_out, strict=True):
        scores[where[fit_id]] = score
    return scores


def _percent(interval: Interval) -> str:
    if math.isnan(interval.value):
        return f"unknown, 0 to {100 * interval.high:.0f} %"
    return f"{100 * interval.value:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


if __name__ == "__main__":
    sys.exit(main())
