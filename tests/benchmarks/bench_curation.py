"""Can the accepted set be trusted, and what does triage save? One JSON line.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_curation.py [--lspet DIR] [--people 600]

Two sets of fits whose quality is known. *Made people*: the solver's own fits of people in
motion-capture poses whose keypoints have what detectors do wrong (noise, limbs taken for each
other, hidden joints, a wrist on something else); good is MPJPE of at most 100 mm. *LSPET*: fits of
the photos in DIR, 25 variants of each, 35 % of them spoilt in one of six known ways.

Simulated annotators err at known rates on their own, and say "unsure" at times.

*Precision.* Fits are judged once, every tenth twice, some are gold: how often does the 95 %
interval of the accepted set's estimated precision hold the true one? Also where annotators err
more on fits that are nearly good, together, which the model does not know.

*Triage.* How many decisions until the accepted set holds a share of all good fits, at a true
precision of 95 %? In random order everything accepted was looked at. With triage the model is
trained again every 40 decisions and orders what is asked next; accepted is what it and the votes
together vouch for. Counted when three looks in a row are good enough. Medians over repetitions.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curation.estimate import estimate_precision
from curation.quality import Quality
from curation.triage import (
    NotEnoughDecisionsError,
    confident_set,
    order_by_usefulness,
    train_triage,
)
from curation.votes import Votes
from tests.benchmarks.curation_rows import corrupted_lspet, fit_made_people

COVERAGES = (0.4, 0.5, 0.6, 0.7, 0.8)
BATCH = 40
WANTED = 0.96  # estimated; 95 % have to be reached in truth


@dataclass(frozen=True, eq=False)
class Set:
    """Fits of known quality: features, whether good, what is held out together, nearness."""

    quality: Quality
    good: np.ndarray
    groups: list[str]
    hardness: np.ndarray  # 0..1, how near to the border between good and bad


@dataclass(frozen=True, eq=False)
class Annotators:
    """Eight people who call good fits good, and bad ones bad, at these rates."""

    sensitivity: np.ndarray
    specificity: np.ndarray
    unsure: float = 0.03

    @classmethod
    def draw(cls, rng):
        return cls(rng.uniform(0.93, 0.98, 8), rng.uniform(0.88, 0.97, 8))

    def vote(self, good, hardness, rng, who):
        right = np.where(good, self.sensitivity[who], self.specificity[who])
        right = 1 - (1 - right) * (1 + 4 * hardness)
        label = np.where(rng.random(len(good)) < right, ~good, good).astype(np.int8)
        return np.where(rng.random(len(good)) < self.unsure, 2, label)


def judge(fits, annotators, rows, rng, hard, double=0.1):
    """Votes of one annotator a row, of a second on some; (n, 8)."""
    matrix = np.full((len(rows), 8), -1, np.int8)
    good, hardness = fits.good[rows], fits.hardness[rows] * hard
    first = rng.integers(8, size=len(rows))
    matrix[np.arange(len(rows)), first] = annotators.vote(good, hardness, rng, first)
    again = np.flatnonzero(rng.random(len(rows)) < double)
    second = (first[again] + rng.integers(1, 8, len(again))) % 8
    matrix[again, second] = annotators.vote(good[again], hardness[again], rng, second)
    return matrix


def coverage_of_intervals(fits, repetitions, hard):
    """How often the interval holds the true precision; mean width and error."""
    hits, widths, errors, naive = 0, [], [], []
    for seed in range(repetitions):
        rng = np.random.default_rng((seed, 1))
        rows = rng.choice(len(fits.good), len(fits.good))  # another set of the same kind
        annotators = Annotators.draw(rng)
        matrix = judge(fits, annotators, rows, rng, hard)
        votes = Votes(matrix, tuple(map(str, range(len(rows)))), tuple("abcdefgh"))
        gold = np.where(rng.random(len(rows)) < 0.05, ~fits.good[rows], -1)
        counts = votes.counts()
        accepted = counts[:, 0] > counts[:, 1]
        found = estimate_precision(votes, accepted, truth=gold, replicates=60, seed=seed).precision
        true = fits.good[rows][accepted].mean()
        hits += found.low <= true <= found.high
        widths.append(found.high - found.low)
        errors.append(found.value - true)
        naive.append(1 - true)
    return {
        "held": f"{hits}/{repetitions}",
        "mean_width": round(float(np.mean(widths)), 4),
        "mean_error": round(float(np.mean(errors)), 4),
        "true_precision": round(1 - float(np.mean(naive)), 4),
    }


def decisions_needed(fits, seed, with_triage):
    """Decisions by coverage at which the accepted set is 95 % precise; and the precisions."""
    rng = np.random.default_rng((seed, 2))
    annotators = Annotators.draw(rng)
    count, total_good = len(fits.good), fits.good.sum()
    matrix = np.full((count, 8), -1, np.int8)
    asked = np.zeros(count, bool)
    history, decisions = [], 0
    order = rng.permutation(count)
    model = None
    while not asked.all() and not _first(history, COVERAGES[-1]):
        if with_triage and model is not None:
            open_rows = np.flatnonzero(~asked)
            scores = model.score(fits.quality.select(open_rows))
            order = open_rows[order_by_usefulness(scores, seed=seed + decisions)]
        batch = order[~asked[order]][:BATCH]
        matrix[batch] = judge(fits, annotators, batch, rng, hard=0.0)
        decisions += int((matrix[batch] >= 0).sum())
        asked[batch] = True
        votes = Votes(matrix, fits.quality.fit_id, tuple("abcdefgh"))
        counts = votes.counts()
        accepted = counts[:, 0] > counts[:, 1]
        if with_triage:
            model, accepted = _train(fits, votes, seed)
        precision = fits.good[accepted].mean() if accepted.any() else 0.0
        covered = (accepted & fits.good).sum() / total_good
        history.append((decisions, float(precision), covered))
    return {c: first for c in COVERAGES if (first := _first(history, c))}


def _first(history, coverage):
    """Decisions at the first of three good looks in a row: a lucky crossing does not count."""
    enough = [p >= 0.95 and c >= coverage for _, p, c in history]
    for k in range(len(enough) - 2):
        if all(enough[k : k + 3]):
            return history[k][:2]
    return None


def _train(fits, votes, seed):
    """Return the model (None while there is none) and the set that it and the votes vouch for."""
    counts = votes.counts()
    rows = np.flatnonzero(counts[:, 0] != counts[:, 1])
    try:
        model = train_triage(
            fits.quality.select(rows),
            counts[rows, 0] > counts[rows, 1],
            groups=[fits.groups[k] for k in rows],
            seed=seed,
            importance=False,
        )
    except NotEnoughDecisionsError:
        return None, counts[:, 0] > counts[:, 1]
    scores = model.score(fits.quality)
    scores[rows] = model.held_out
    return model, confident_set(scores, votes, precision=WANTED)[0]


def medians(fits, repetitions):
    runs = {
        name: [decisions_needed(fits, seed, triage) for seed in range(repetitions)]
        for name, triage in (("random", False), ("triage", True))
    }
    out = {}
    for coverage in COVERAGES:
        line = {}
        for name, results in runs.items():
            reached = [r[coverage][0] if coverage in r else np.inf for r in results]
            line[name] = float(np.median(reached))
            line[f"{name}_reached"] = f"{int(np.isfinite(reached).sum())}/{repetitions}"
        share = line["triage"] / line["random"] if np.isfinite(line["random"]) else None
        line["share"] = None if share is None else round(share, 3)
        out[f"{coverage:.0%} of the good fits"] = {
            k: (None if v == np.inf else v) for k, v in line.items()
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lspet", type=Path, help="photos with joints.mat in LSPET's layout")
    parser.add_argument("--people", type=int, default=600, help="made people to fit; 0 for none")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sets = {}
    if options.people:
        quality, error = fit_made_people(options.people, options.seed)
        hardness = np.exp(-np.abs(np.log(error / 100)) / 0.2)
        sets["made people"] = Set(quality, error <= 100, list(quality.fit_id), hardness)
    if options.lspet:
        with tempfile.TemporaryDirectory() as work:
            quality, good, photos = corrupted_lspet(options.lspet, Path(work), 25, options.seed)
        hardness = np.random.default_rng(options.seed).random(len(good)) ** 4
        sets["lspet"] = Set(quality, good, photos, hardness)
    summary = {}
    for name, fits in sets.items():
        summary[name] = {
            "fits": len(fits.good),
            "good": round(float(fits.good.mean()), 3),
            "intervals": coverage_of_intervals(fits, 2 * options.repetitions, 0.0),
            "intervals_if_hard_fits_are_hard_for_all": coverage_of_intervals(
                fits, 2 * options.repetitions, 1.0
            ),
            "decisions": medians(fits, options.repetitions),
        }
        sys.stderr.write(json.dumps({name: summary[name]}, indent=1) + "\n")
    sys.stdout.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    main()
