"""Intervals against SciPy and against what they promise; precision of accepted sets."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from curation.estimate import acceptance_rate, estimate_precision
from curation.intervals import clopper_pearson, weighted_share, wilson
from curation.votes import Votes
from tests.curation.test_consensus import simulate


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (95, 100), (999, 1000)])
def test_intervals_are_those_of_scipy(k, n):
    test = binomtest(k, n)
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        theirs = test.proportion_ci(method=method)
        found = ours(k, n)
        np.testing.assert_allclose((found.low, found.high), theirs, atol=1e-12)


def test_equal_probabilities_give_clopper_and_pearson():
    values = np.arange(50) < 41
    ours = weighted_share(values, np.full(50, 0.1))
    exact = clopper_pearson(41, 50)
    np.testing.assert_allclose([ours.low, ours.high, ours.value],
                               [exact.low, exact.high, exact.value])  # fmt: skip


def test_unequal_probabilities_are_undone():
    """Bad items are asked about three times as often; the rate must not see it."""
    rng = np.random.default_rng(0)
    hits, plain = 0, 0
    for _ in range(200):
        good = rng.random(4000) < 0.8
        probability = np.where(good, 0.05, 0.15)
        asked = rng.random(4000) < probability
        found = weighted_share(good[asked], probability[asked])
        hits += found.low <= good.mean() <= found.high
        naive = wilson(good[asked].sum(), asked.sum())
        plain += naive.low <= good.mean() <= naive.high
    assert hits >= 184  # 190 expected
    assert plain == 0


def test_nothing_sampled_nothing_known():
    found = acceptance_rate(np.zeros(0, bool), np.zeros(0))
    assert (found.low, found.high) == (0, 1)
    with pytest.raises(ValueError, match="probabilities"):
        acceptance_rate(np.ones(2, bool), np.array([0.5, 0.0]))


def accepted_by_majority(votes):
    counts = votes.counts()
    return counts[:, 0] > counts[:, 1]


@pytest.mark.slow
def test_annotators_errors_are_taken_into_account():
    """One vote an item, doubles on a fifth: the accepted set is worse than it looks."""
    sensitivity, specificity = [0.95, 0.92, 0.9, 0.94], [0.8, 0.75, 0.85, 0.7]
    hits, errors = 0, []
    for seed in range(20):
        votes, truth = simulate(seed, 3000, sensitivity, specificity, each=2)
        single = np.arange(3000) % 5 != 0
        for row in np.flatnonzero(single):
            votes.matrix[row, np.flatnonzero(votes.matrix[row] >= 0)[1]] = -1
        gold = np.where(np.arange(3000) % 30 == 0, truth, -1)
        chosen = accepted_by_majority(votes) & (gold < 0)
        found = estimate_precision(votes, chosen, truth=gold, replicates=60, seed=seed)
        real = (truth[chosen] == 0).mean()
        hits += found.precision.low <= real <= found.precision.high
        errors.append(found.precision.value - real)
        assert not found.caution
    assert hits >= 16  # 19 expected; fewer than 16 has a probability of 0.3 %
    assert abs(np.mean(errors)) < 0.015


@pytest.mark.slow
def test_a_rules_items_are_judged_by_the_audit():
    """A rule accepts 3000 items, 10 % are audited by people who err: its precision is found."""
    hits, gaps = 0, []
    for seed in range(15):
        rng = np.random.default_rng(seed)
        asked, _ = simulate(seed, 1500, [0.93] * 4, [0.85] * 4, acceptance=0.5)
        ruled, truth = simulate(seed + 99, 3000, [0.93] * 4, [0.85] * 4, acceptance=0.97, each=1)
        ruled.matrix[rng.random(3000) > 0.1] = -1
        votes = Votes(
            np.concatenate([asked.matrix, ruled.matrix]),
            asked.items + tuple(f"r{k}" for k in range(3000)),
            asked.annotators,
        )
        stratum = np.repeat([0, 1], [1500, 3000])
        chosen = stratum == 1
        found = estimate_precision(
            votes, chosen, stratum=stratum, stratum_names=("asked", "rule"), replicates=60
        )
        real = (truth == 0).mean()
        hits += found.precision.low <= real <= found.precision.high
        assert found.by_stratum["rule"][0] == 3000
        # Counting the auditors' rejects as bad would be far off.
        audited = ruled.matrix.max(1) >= 0
        naive = (ruled.matrix[audited].max(1) == 0).mean()
        gaps.append(real - naive)
    assert hits >= 12
    assert np.mean(gaps) > 0.04


def test_it_says_when_it_rests_on_assumptions():
    votes, _ = simulate(0, 300, [0.9] * 3, [0.9] * 3, each=1)
    found = estimate_precision(votes, accepted_by_majority(votes), replicates=4)
    assert "nobody knows" in found.caution and math.isnan(found.precision.value)
    truth = np.full(300, -1)
    truth[:3] = 0
    found = estimate_precision(votes, accepted_by_majority(votes), truth=truth, replicates=4)
    assert "assumed, not measured" in found.caution and 0 < found.precision.value < 1
    empty = Votes(np.full((40, 2), -1, np.int8), tuple(map(str, range(40))), ("x", "y"))
    found = estimate_precision(empty, np.ones(40, bool), replicates=5)
    assert "judged by nobody" in found.caution


def test_forty_thousand_items():
    import time

    votes, bad = simulate(7, 40_000, [0.9] * 20, [0.9] * 20, each=1)
    truth = np.where(np.arange(40_000) < 200, bad, -1)
    begin = time.process_time()
    found = estimate_precision(votes, accepted_by_majority(votes), truth=truth, replicates=20)
    assert time.process_time() - begin < 20
    assert found.accepted > 20_000
