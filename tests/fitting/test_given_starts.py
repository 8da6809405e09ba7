"""Fits that start from given parameters, and --init."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bodymodel.metrics import mpjpe_mm
from bodymodel.model import BodyModel
from bodymodel.params import BodyParams
from fitting.config import FitConfig
from fitting.fit import Fitter
from fitting.prior_choice import load_prior
from tests.fitting.people import make_people


@pytest.fixture(scope="module")
def people(toy_body):
    return make_people(toy_body, 6)


@pytest.fixture(scope="module")
def fitter(toy_body):
    return Fitter(toy_body, prior=load_prior("gaussian"))


@pytest.fixture(scope="module")
def own(fitter, people):
    return fitter.fit(people[0])


def truth_of(people, k):
    return {name: value[k] for name, value in people[1].numpy().items()}


def joints(body, params):
    fields = {k: torch.as_tensor(v)[None].double() for k, v in params.items()}
    return BodyModel(body, dtype=torch.float64)(BodyParams(**fields)).joints[0, :22]


def test_a_given_start_is_the_only_one(fitter, people, toy_body):
    targets = [replace(t, starts=(truth_of(people, k),)) for k, t in enumerate(people[0])]
    for k, fit in enumerate(fitter.fit(targets)):
        assert fit.status == "ok"
        assert (fit.starts, fit.winner, len(fit.start_energies)) == (("given",), "given", 1)
        error = mpjpe_mm(joints(toy_body, fit.params), joints(toy_body, truth_of(people, k)))
        assert float(error) < 150  # depth is what it is; pose and place are kept


def test_a_fit_goes_on_from_itself(fitter, people, own):
    targets = [replace(t, starts=(f.params,)) for t, f in zip(people[0], own, strict=True)]
    for before, after in zip(own, fitter.fit(targets), strict=True):
        assert after.energy_total == pytest.approx(before.energy_total, rel=2e-3)
        assert after.energy_total <= before.energy_total * (1 + 1e-4)


def test_a_given_start_competes(toy_body, people):
    config = FitConfig(given_starts="compete")
    fitter = Fitter(toy_body, config, prior=load_prior("gaussian"))
    wrong = truth_of(people, 0)
    wrong["body_pose"] = np.full((21, 3), 1.5)
    given, none = fitter.fit([replace(people[0][0], starts=(wrong,)), people[0][1]])
    assert given.starts == ("front", "back", "left", "right", "given")
    assert given.winner != "given"
    assert none.starts == ("front", "back", "left", "right")


def test_a_start_may_say_little(fitter, people, own):
    start = {"body_pose": truth_of(people, 2)["body_pose"], "transl": np.full(3, np.nan)}
    start["global_orient"] = truth_of(people, 2)["global_orient"]
    (fit,) = fitter.fit([replace(people[0][2], starts=(start,))])
    assert fit.status == "ok"
    assert fit.energy_total < 1.05 * own[2].energy_total
    assert 3 < fit.params["transl"][2] < 5


def test_the_company_may_come_with_starts(fitter, people, own):
    targets = [replace(people[0][0], starts=(truth_of(people, 0),)), *people[0][1:]]
    for alone, together in zip(own[1:], fitter.fit(targets)[1:], strict=True):
        np.testing.assert_allclose(
            alone.params["body_pose"], together.params["body_pose"], atol=1e-4
        )


def test_a_start_of_the_wrong_size_is_said(fitter, people):
    with pytest.raises(ValueError, match="body_pose must hold 63"):
        fitter.fit([replace(people[0][0], starts=({"body_pose": np.zeros(23 * 3)},))])


def test_several_starts_compete_and_the_best_wins(fitter, people, own):
    """Wrong ones beside the right one change nothing; who won is told."""
    wrong = truth_of(people, 1) | {"body_pose": np.full((21, 3), 1.0)}
    (fit,) = fitter.fit([replace(people[0][1], starts=(wrong, truth_of(people, 1)))])
    assert fit.starts == ("given", "given 2")
    assert fit.winner == "given 2"
    assert fit.start_energies[1] < fit.start_energies[0]
    assert fit.energy_total < 1.05 * own[1].energy_total


def test_too_many_starts_are_refused(fitter, people):
    with pytest.raises(ValueError, match="at most 4 starts"):
        fitter.fit([replace(people[0][0], starts=(truth_of(people, 0),) * 5)])


def test_headings_can_be_chosen(toy_body, people):
    config = FitConfig(headings=("front",))
    (fit,) = Fitter(toy_body, config, prior=load_prior("gaussian")).fit(people[0][:1])
    assert (fit.starts, fit.winner) == (("front",), "front")
