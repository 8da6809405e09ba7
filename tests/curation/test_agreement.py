"""Published worked examples, laws, and the trap that kappa falls into."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.agreement import (
    agreement_report,
    gwet_ac1,
    krippendorff_alpha,
    prevalence,
    raw_agreement,
    specific_agreement,
)
from curation.votes import Votes

# Krippendorff (2011), section C: four observers, twelve units, nominal, missing data.
FOUR_OBSERVERS = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""


def counts_of(text):
    rows = [line.split() for line in text.strip().splitlines()]
    labels = sorted({cell for row in rows for cell in row} - {"."})
    return np.array(
        [[sum(row[i] == label for row in rows) for label in labels] for i in range(len(rows[0]))]
    )


def test_krippendorffs_worked_examples():
    assert krippendorff_alpha(counts_of(FOUR_OBSERVERS)) == pytest.approx(0.743, abs=5e-4)
    binary = counts_of("0 1 0 0 0 0 0 0 1 0\n1 1 1 0 0 1 0 0 0 0")
    assert krippendorff_alpha(binary) == pytest.approx(0.095, abs=5e-4)
    nominal = counts_of("a a b b d c c c e d d a\nb a b b b c c c e d d d")
    assert krippendorff_alpha(nominal) == pytest.approx(0.692, abs=5e-4)


def test_gwets_worked_examples():
    # The same four raters in Gwet's Handbook of Inter-Rater Reliability and his irrCAC.
    assert gwet_ac1(counts_of(FOUR_OBSERVERS)) == pytest.approx(0.77544, abs=5e-6)
    assert raw_agreement(counts_of(FOUR_OBSERVERS)) == pytest.approx(0.8181818, abs=5e-8)
    # Gwet (2002): 118 both yes, 5 and 2 apart, none both no: kappa is -0.02.
    apart = np.repeat([[2, 0], [1, 1], [0, 2]], [118, 7, 0], axis=0)
    assert gwet_ac1(apart) == pytest.approx(0.9408, abs=5e-5)
    assert raw_agreement(apart) == pytest.approx(0.944)


def test_the_example_of_cicchetti_and_feinstein():
    # 1990: 80 both yes, 15 apart, 5 both no: the paradox of high agreement and low kappa.
    table = np.repeat([[2, 0], [1, 1], [0, 2]], [80, 15, 5], axis=0)
    np.testing.assert_allclose(specific_agreement(table), [160 / 175, 10 / 25])
    assert raw_agreement(table) == pytest.approx(0.85)


@pytest.mark.parametrize(
    ("acceptance", "alpha", "ac1", "accept", "reject"),
    [(0.5, 0.81, 0.81, 0.91, 0.91), (0.8, 0.72, 0.85, 0.94, 0.78), (0.95, 0.45, 0.89, 0.95, 0.50)],
)
def test_alpha_falls_with_prevalence_while_the_annotators_stay_the_same(
    acceptance, alpha, ac1, accept, reject
):
    """Two people who each err on 5 % of the items, in expectation."""
    good, both, apart = acceptance, 0.95**2 + 0.05**2, 2 * 0.95 * 0.05
    both_accept = good * 0.95**2 + (1 - good) * 0.05**2
    counts = np.array([[2, 0], [1, 1], [0, 2]])
    number = 1e6 * np.array([both_accept, apart, both - both_accept])
    assert krippendorff_alpha(counts, number) == pytest.approx(alpha, abs=0.015)
    assert gwet_ac1(counts, number) == pytest.approx(ac1, abs=0.015)
    np.testing.assert_allclose(specific_agreement(counts, number), [accept, reject], atol=0.02)


def test_everybody_accepts_everything():
    counts = np.array([[2, 0]] * 10)
    assert raw_agreement(counts) == 1
    assert gwet_ac1(counts) == 1
    assert math.isnan(krippendorff_alpha(counts))  # not defined, and no exception
    assert math.isnan(specific_agreement(counts)[1])


def test_no_pairs_no_agreement_but_a_prevalence():
    counts = np.array([[1, 0], [1, 0], [0, 1], [0, 0]])
    assert math.isnan(raw_agreement(counts))
    np.testing.assert_allclose(prevalence(counts), [2 / 3, 1 / 3])


tables = st.integers(2, 4).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 4), min_size=n, max_size=n), min_size=1, max_size=12)
)


def pairwise_alpha(counts):
    """Alpha from its definition: disagreement of pairs within units over that of all pairs."""
    votes = [[k for k, n in enumerate(unit) for _ in range(n)] for unit in counts]
    votes = [unit for unit in votes if len(unit) > 1]
    every = [label for unit in votes for label in unit]
    within = sum(
        sum(a != b for i, a in enumerate(unit) for j, b in enumerate(unit) if i != j)
        / (len(unit) - 1)
        for unit in votes
    )
    between = sum(a != b for i, a in enumerate(every) for j, b in enumerate(every) if i != j)
    return 1 - within * (len(every) - 1) / between if between else math.nan


@settings(max_examples=60, deadline=None)
@given(tables)
def test_alpha_is_what_its_definition_says(table):
    counts = np.array(table)
    np.testing.assert_allclose(
        krippendorff_alpha(counts), pairwise_alpha(counts), atol=1e-12, equal_nan=True
    )


@settings(max_examples=40, deadline=None)
@given(tables, st.integers(2, 5))
def test_order_of_items_does_not_matter_and_weights_are_repetitions(table, times):
    counts = np.array(table)
    weights = np.arange(len(counts)) % times + 1
    repeated = np.repeat(counts, weights, axis=0)[::-1]
    for statistic in (raw_agreement, specific_agreement, prevalence, krippendorff_alpha, gwet_ac1):
        np.testing.assert_allclose(
            statistic(counts, weights), statistic(repeated), atol=1e-12, equal_nan=True
        )


def simulate(rng, items=300, annotators=4, acceptance=0.8, error=0.1, each=2):
    truth = rng.random(items) < acceptance
    matrix = np.full((items, annotators), -1, np.int8)
    for i in range(items):
        who = rng.choice(annotators, each, replace=False)
        matrix[i, who] = truth[i] == (rng.random(each) < error)
    return Votes(
        matrix, tuple(map(str, range(items))), tuple(map(str, range(annotators))),
        ("accept", "reject"),
    )  # fmt: skip


def test_intervals_cover_what_they_say():
    rng = np.random.default_rng(0)
    true_raw = 0.9**2 + 0.1**2
    hits = 0
    for seed in range(60):
        report = agreement_report(simulate(rng), replicates=400, seed=seed)
        hits += report.raw.low <= true_raw <= report.raw.high
    assert hits >= 52  # 57 expected; below 52 has a probability of 1 %


def test_report_counts_and_leaves_unsure_out():
    votes = Votes.from_records(
        ["a", "a", "b", "b", "c", "d"],
        ["x", "y", "x", "y", "x", "y"],
        ["accept", "accept", "accept", "unsure", "reject", "unsure"],
    )
    report = agreement_report(votes, replicates=50)
    assert (report.items, report.items_twice, report.votes, report.annotators) == (3, 1, 4, 2)
    assert report.raw.value == 1
    assert [name for name, _ in report.rows()][:2] == ["agreement on accept", "agreement on reject"]


def test_report_of_nothing():
    report = agreement_report(Votes.from_records([], [], []), replicates=10)
    assert report.items == 0
    assert math.isnan(report.raw.value)


def test_forty_thousand_items_take_no_time():
    import time

    rng = np.random.default_rng(1)
    counts = rng.integers(0, 3, (40_000, 20), dtype=np.int8) - 1
    votes = Votes(counts, tuple(map(str, range(40_000))), tuple(map(str, range(20))),
                  ("accept", "reject"))  # fmt: skip
    begin = time.process_time()
    agreement_report(votes, replicates=1000)
    assert time.process_time() - begin < 5


def test_votes_refuse_what_they_cannot_count():
    with pytest.raises(ValueError, match="voted 2 times on a"):
        Votes.from_records(["a", "a"], ["x", "x"], ["accept", "reject"])
    with pytest.raises(ValueError, match="unknown labels"):
        Votes.from_records(["a"], ["x"], ["maybe"])
