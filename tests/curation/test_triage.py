"""The triage model: calibrated, blind to the truth, honest about what it has not seen."""

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.quality import Quality, quality_of_table, read_quality
from curation.run_writer import RunWriter
from curation.schema import fit_columns, fit_schema, rows_to_table
from curation.store import FitStore
from curation.triage import (
    NotEnoughDecisionsError,
    confident_set,
    order_by_usefulness,
    train_triage,
)
from curation.votes import Votes
from tests.fit_rows import example_row, run_info


def made_fits(count, seed=0, missing=0.1):
    """Quality of made fits, and whether each is good: one number tells, others are noise."""
    rng = np.random.default_rng(seed)
    residual = rng.lognormal(0, 0.8, count)
    lean = rng.normal(0, 10, count)
    chance = 1 / (1 + np.exp(3 * (np.log(residual) - 0.5) + 0.1 * np.abs(lean) - 1))
    values = np.column_stack([residual, np.abs(lean), rng.normal(size=(count, 4))])
    values[rng.random(values.shape) < missing] = np.nan
    names = ("residual", "lean", "a", "b", "c", "d")
    quality = Quality(tuple(f"f{k}" for k in range(count)), names, values)
    return quality, rng.random(count) < chance, chance


@pytest.mark.parametrize("count", [120, 1500])
def test_probabilities_mean_what_they_say(count):
    quality, good, _ = made_fits(count)
    model = train_triage(quality, good)
    other, outcome, _ = made_fits(20_000, seed=1)
    score = model.score(other)
    assert ((score > 0) & (score < 1)).all()
    # Among fits given about p, about p are good, in every tenth of them.
    gaps = [
        abs(score[tenth].mean() - outcome[tenth].mean())
        for tenth in np.array_split(np.argsort(score), 10)
    ]
    assert np.mean(gaps) < (0.1 if count == 120 else 0.04)
    # It learnt what there is to learn: as good as half way to the true chances, at least.
    assert np.corrcoef(score, outcome)[0, 1] > (0.45 if count == 120 else 0.55)
    assert next(iter(model.importance)) == "residual"


def test_held_out_figures_are_those_of_new_fits():
    quality, good, _ = made_fits(800)
    model = train_triage(quality, good)
    other, outcome, _ = made_fits(20_000, seed=1)
    score = model.score(other)
    fresh = -np.log(np.where(outcome, score, 1 - score)).mean()
    assert model.log_loss == pytest.approx(fresh, abs=0.06)
    threshold = model.threshold_for(0.9)
    assert outcome[score >= threshold].mean() > 0.88
    _, precision, recall = model.precision_recall()
    assert recall[-1] == pytest.approx(1)
    assert precision[-1] == pytest.approx(good.mean())


def test_noise_teaches_nothing():
    rng = np.random.default_rng(0)
    quality = Quality(tuple(map(str, range(400))), ("a", "b"), rng.normal(size=(400, 2)))
    model = train_triage(quality, rng.random(400) < 0.7)
    assert model.score(quality).std() < 0.08
    assert model.threshold_for(0.95) == math.inf


def test_groups_are_held_out_together():
    """Copies of one fit in several folds would make any model look perfect."""
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=(60, 3)), 8, axis=0)
    good = np.repeat(rng.random(60) < 0.5, 8)
    quality = Quality(tuple(map(str, range(480))), ("a", "b", "c"), values)
    leaky = train_triage(quality, good)
    fair = train_triage(quality, good, groups=np.repeat(np.arange(60), 8).astype(str))
    assert leaky.log_loss < 0.35
    assert fair.log_loss > 0.6


def test_too_few_decisions():
    quality, _, _ = made_fits(30)
    with pytest.raises(NotEnoughDecisionsError, match="30 fits are accepted and 0 rejected"):
        train_triage(quality, np.ones(30, bool))


def test_it_scores_fits_that_lack_columns():
    quality, good, _ = made_fits(300)
    model = train_triage(quality, good)
    fewer = Quality(quality.fit_id, ("lean", "new"), quality.values[:, 1:3])
    assert np.isfinite(model.score(fewer)).all()
    assert len(model.score(quality.select(np.zeros(0, int)))) == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=60), st.floats(0, 1))
def test_order_holds_everybody_once(probability, explore):
    order = order_by_usefulness(np.array(probability), explore=explore)
    assert sorted(order) == list(range(len(probability)))


def test_order_asks_where_the_model_is_unsure():
    probability = np.linspace(0, 1, 1001)
    order = order_by_usefulness(probability, explore=0, border=0.5)
    assert np.abs(probability[order[:100]] - 0.5).max() < 0.06
    mixed = order_by_usefulness(probability, explore=0.2, border=0.5)
    sure = (np.abs(probability[mixed[:200]] - 0.5) > 0.2).sum()
    assert 10 < sure < 60


def test_no_feature_knows_the_truth():
    """Every column that compares with a truth, or says how a row was made, is left out."""
    columns = fit_columns()
    table = rows_to_table([example_row(k) for k in range(3)], fit_schema())
    names = quality_of_table(table).names
    first = [c.name for c in columns].index("has_truth")
    hidden = {c.name for c in columns[first:]}
    assert {"mpjpe_mm", "pa_mpjpe_mm", "trunk_lean_error_deg", "solve_ms"} <= hidden
    assert not hidden & set(names)
    for name in names:
        assert not any(word in name for word in ("truth", "mpjpe", "error", "width", "person_idx"))
    assert {"residual_body_pct", "residual_left_hand_pct", "energy_pose_prior", "start_margin",
            "betas_abs_max", "trunk_lean_deg", "seen_face", "is_settled"} <= set(names)  # fmt: skip


def test_a_new_column_is_used_as_soon_as_rows_have_it():
    table = rows_to_table([example_row(k) for k in range(3)], fit_schema())
    more = table.append_column("new_measure_mm", pa.array([1.0, 2.0, 3.0], pa.float32()))
    assert "new_measure_mm" in quality_of_table(more).names
    assert "new_measure_mm" not in quality_of_table(table).names


def test_quality_is_read_from_runs_of_different_bodies(tmp_path):
    store = FitStore(tmp_path / "fits")
    for run, body in (("run-1", "open"), ("run-2", "smplx")):
        rows = [
            example_row(k, run_id=run, fit_id=f"{run}-{k}", image_id=f"{k}", attempt=0,
                        has_fit=k != 2, person_height_px=100.0)
            for k in range(4)
        ]  # fmt: skip
        with RunWriter(store, run_info(tmp_path, run, body)) as writer:
            writer.write(rows)
    quality = read_quality(store)
    assert quality.fit_id == ("run-1-0", "run-1-1", "run-1-3", "run-2-0", "run-2-1", "run-2-3")
    row = example_row(1)
    assert quality.column("residual_face_pct")[1] == pytest.approx(row["residual_face_px"])
    assert quality.column("betas_abs_max")[1] == pytest.approx(row["betas_abs_max"])
    assert quality.column("energy_data")[0] == pytest.approx(np.log1p(1.5))
    assert len(read_quality(store, fit_ids=["run-2-1"]).fit_id) == 1
    with pytest.raises(KeyError, match="no quality column"):
        quality.column("beauty")


def test_models_hold_no_state_of_ours():
    quality, good, _ = made_fits(200)
    first, second = (train_triage(quality, good, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.score(quality), second.score(quality))
    assert dataclasses.is_dataclass(first)


def test_the_set_that_model_and_votes_vouch_for():
    """One in twenty of the good fits is rejected by mistake, and 95 % is reached all the same."""
    quality, good, chance = made_fits(6000, seed=4, missing=0)
    rng = np.random.default_rng(0)
    matrix = np.full((6000, 5), -1, np.int8)
    asked = np.flatnonzero(rng.random(6000) < 0.15)
    who = rng.integers(5, size=len(asked))
    wrong = rng.random(len(asked)) < np.where(good[asked], 0.05, 0.1)
    matrix[asked, who] = good[asked] == wrong
    again = asked[:200]
    matrix[again, (who[:200] + 1) % 5] = good[again] == (rng.random(200) < 0.07)
    votes = Votes(matrix, quality.fit_id, tuple("abcde"))
    # The scores are the true chances here: what is measured is the putting together.
    chosen, probability = confident_set(chance, votes, precision=0.95)
    assert good[chosen].mean() > 0.93
    assert probability[chosen].mean() == pytest.approx(good[chosen].mean(), abs=0.02)
    looked_at = (matrix == 0).any(1)
    assert chosen.sum() > 2 * looked_at.sum()
    # One accept is not enough where the model is sure of the opposite.
    unlikely = looked_at & (chance < np.quantile(chance, 0.05))
    assert unlikely.any()
    assert not chosen[unlikely].any()


def test_no_votes_no_set():
    votes = Votes(np.full((4, 1), -1, np.int8), tuple("abcd"), ("x",))
    assert not confident_set(np.ones(4), votes)[0].any()
