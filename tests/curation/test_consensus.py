"""Consensus: laws, a second implementation, recovery of known errors."""

import math

import numpy as np
import pytest

from curation.consensus import dawid_skene, majority
from curation.votes import Votes


def simulate(seed, items, sensitivity, specificity, acceptance=0.7, each=3, unsure=0.0):
    """Return votes and truth (0 good, 1 bad)."""
    rng = np.random.default_rng(seed)
    annotators = len(sensitivity)
    truth = (rng.random(items) > acceptance).astype(np.int64)
    right = np.stack([sensitivity, specificity])[truth]  # (items, annotators)
    label = np.where(rng.random(right.shape) < right, truth[:, None], 1 - truth[:, None])
    label = np.where(rng.random(right.shape) < unsure, 2, label)
    asked = np.argsort(rng.random((items, annotators)), axis=1)[:, :each]
    matrix = np.full((items, annotators), -1, np.int8)
    np.put_along_axis(matrix, asked, np.take_along_axis(label, asked, 1), 1)
    names = tuple(f"i{k}" for k in range(items)), tuple(f"a{k}" for k in range(annotators))
    return Votes(matrix.astype(np.int8), *names), truth


def slow_dawid_skene(votes, iterations, pooling, weak):
    """The same model, written a second time: loops over items, annotators, votes."""
    matrix, labels = votes.matrix, len(votes.labels)
    posterior = []
    for row in matrix:
        n = [0.5 + sum(v == c for v in row) for c in (0, 1)]
        posterior.append([x / sum(n) for x in n])
    for _ in range(iterations):
        share = [0.5 + sum(p[c] for p, row in zip(posterior, matrix) if max(row) >= 0)
                 for c in (0, 1)]  # fmt: skip
        share = [s / sum(share) for s in share]
        counts = [
            [[sum(p[c] for p, row in zip(posterior, matrix) if row[a] == k) for k in range(labels)]
             for c in (0, 1)]
            for a in range(matrix.shape[1])
        ]  # fmt: skip
        common = [[sum(n[c][k] for n in counts) + weak * (1 + (c == k)) for k in range(labels)]
                  for c in (0, 1)]  # fmt: skip
        common = [[x / sum(line) for x in line] for line in common]
        confusion = [
            [[n[c][k] + pooling * common[c][k] for k in range(labels)] for c in (0, 1)]
            for n in counts
        ]
        confusion = [[[x / sum(line) for x in line] for line in table] for table in confusion]
        posterior = []
        for row in matrix:
            joint = [
                share[c] * math.prod(confusion[a][c][v] for a, v in enumerate(row) if v >= 0)
                for c in (0, 1)
            ]
            posterior.append([x / sum(joint) for x in joint])
    return np.array(posterior), np.array(confusion), np.array(share)


def test_it_is_the_same_as_a_second_implementation():
    votes, _ = simulate(0, 60, [0.9, 0.7, 0.8, 0.95], [0.8, 0.9, 0.6, 0.9], unsure=0.1)
    votes.matrix[5] = -1
    fast = dawid_skene(votes, max_iterations=7, tolerance=0, pooling=3, weak=0.4)
    posterior, confusion, share = slow_dawid_skene(votes, 7, 3, 0.4)
    np.testing.assert_allclose(fast.posterior, posterior, atol=1e-10)
    np.testing.assert_allclose(fast.confusion, confusion, atol=1e-10)
    np.testing.assert_allclose(fast.class_share[0], share, atol=1e-10)


def test_known_errors_are_recovered_and_beat_the_majority():
    good = np.array([0.97, 0.95, 0.9, 0.96, 0.92, 0.94, 0.93, 0.95, 0.96, 0.7, 0.65, 0.6])
    bad = np.array([0.95, 0.9, 0.92, 0.94, 0.9, 0.93, 0.95, 0.9, 0.92, 0.6, 0.7, 0.65])
    votes, truth = simulate(1, 20_000, good, bad)
    model = dawid_skene(votes)
    assert model.converged
    np.testing.assert_allclose(model.confusion[:, 0, 0], good, atol=0.02)
    np.testing.assert_allclose(model.confusion[:, 1, 1], bad, atol=0.03)
    right = (model.posterior.argmax(1) == truth).mean()
    most = majority(votes).label
    assert right > (most == truth).mean() + 0.01
    assert model.accuracy(votes)["a0"]["accept"] == model.confusion[0, 0, 0]
    # Its probabilities mean what they say.
    claimed = model.posterior.max(1)
    assert claimed.mean() == pytest.approx(right, abs=0.01)


def test_likelihood_rises_without_priors():
    votes, _ = simulate(2, 300, [0.9, 0.8, 0.7], [0.8, 0.9, 0.7])
    likelihoods = [
        dawid_skene(votes, max_iterations=k, tolerance=0, pooling=0, weak=1e-9).log_likelihood
        for k in range(1, 12)
    ]
    # Half a vote to each class share is a prior as well, hence not exactly.
    assert (np.diff(likelihoods) > -1e-3).all()
    assert likelihoods[-1] > likelihoods[0] + 1


def test_gold_teaches_who_is_wrong_where_nobody_is_judged_twice():
    votes, truth = simulate(3, 4000, [0.95, 0.6], [0.9, 0.55], each=1)
    gold = np.where(np.arange(4000) % 10 == 0, truth, -1)
    model = dawid_skene(votes, truth=gold)
    assert model.confusion[0, 0, 0] == pytest.approx(0.95, abs=0.04)
    assert model.confusion[1, 0, 0] == pytest.approx(0.6, abs=0.08)
    assert (model.posterior[gold >= 0].argmax(1) == truth[gold >= 0]).all()


def test_strata_have_shares_of_their_own():
    votes, truth = simulate(4, 3000, [0.9] * 4, [0.9] * 4, acceptance=0.9)
    other, more = simulate(5, 3000, [0.9] * 4, [0.9] * 4, acceptance=0.3)
    both = Votes(
        np.concatenate([votes.matrix, other.matrix]),
        votes.items + tuple(f"o{k}" for k in range(3000)),
        votes.annotators,
    )
    model = dawid_skene(both, stratum=np.repeat([0, 1], 3000))
    shares = [(truth == 0).mean(), (more == 0).mean()]
    np.testing.assert_allclose(model.class_share[:, 0], shares, atol=0.02)


def test_nothing_in_nothing_out():
    model = dawid_skene(Votes.from_records([], [], []))
    assert model.posterior.shape == (0, 2)
    votes = Votes(np.full((2, 1), -1, np.int8), ("a", "b"), ("x",))
    np.testing.assert_allclose(dawid_skene(votes).posterior, 0.5)


def test_majority_ties_and_unsure():
    votes = Votes.from_records(
        list("aabbbcd"), list("xyxyzxx"),
        ["accept", "reject", "accept", "accept", "reject", "unsure", "reject"],
    )  # fmt: skip
    found = majority(votes)
    assert found.label.tolist() == [-1, 0, -1, 1]
    np.testing.assert_allclose(found.share, [0.5, 2 / 3, math.nan, 1])


def test_bad_strata_are_told():
    votes, _ = simulate(0, 10, [0.9] * 3, [0.9] * 3)
    with pytest.raises(ValueError, match="stratum must be"):
        dawid_skene(votes, stratum=np.full(10, -1))
