"""Any prior in either solver, and on the command line."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from fitting.config import FitConfig
from fitting.fit import Fitter
from fitting.prior_choice import load_prior
from fitting.reference import ReferenceFitter
from fitting.reference_config import PUBLISHED_STAGES, ReferenceConfig
from fitting.vposer import vposer_of
from tests.fitting.people import make_people
from tests.fitting.test_prior_files import ReleaseTwo, trained

SHORT = ReferenceConfig(body="own", max_calls=2, stages=PUBLISHED_STAGES[2:])


@pytest.fixture(scope="module")
def people(toy_body):
    targets, params, _ = make_people(toy_body, 2)
    return [replace(t, height_px=800.0) for t in targets], params


@pytest.fixture(scope="module")
def vposer():
    # Random weights make any code a wild pose; small last layers keep it near one pose.
    state = trained(ReleaseTwo()).state_dict()
    state["decoder_net.5.weight"] = 0.1 * state["decoder_net.5.weight"]
    state["decoder_net.5.bias"] = torch.tensor([1.0, 0, 0, 1, 0, 0]).repeat(21)
    return vposer_of(state)


@pytest.mark.parametrize("name", ["open", "gaussian", "l2", "none", "vposer"])
def test_every_prior_fits_in_the_fast_solver(name, toy_body, people, vposer):
    prior = vposer if name == "vposer" else load_prior(name)
    fitter = Fitter(toy_body, FitConfig(limb_flips=False, keep=1), prior=prior)
    for result in fitter.fit(people[0]):
        assert result.status in ("ok", "not_converged")
        assert result.residual_part_px["body"] < 8
        pose = torch.as_tensor(result.params["body_pose"], dtype=torch.float64).flatten()
        expected = FitConfig().fine[-1].w_pose * 2 * float(prior.energy(pose))
        assert result.energy["pose"] == pytest.approx(expected, rel=1e-3, abs=1e-2)
        assert (result.energy["pose"] == 0) == (name == "none")


def test_the_default_is_the_gaussian(toy_body, people):
    results = [
        Fitter(toy_body, FitConfig(limb_flips=False, keep=1), prior=prior).fit(people[0])[0]
        for prior in (None, load_prior("gaussian"), load_prior("l2"))
    ]
    np.testing.assert_array_equal(results[0].params["body_pose"], results[1].params["body_pose"])
    assert not np.array_equal(results[0].params["body_pose"], results[2].params["body_pose"])


def test_the_reference_solver_solves_for_vposer_s_code(toy_body, people, vposer):
    fitter = ReferenceFitter(toy_body, SHORT, dtype="float64", prior=vposer)
    result = fitter.fit(people[0][:1])[0]
    pose = torch.as_tensor(result.params["body_pose"]).double().flatten()
    assert fitter._variables()["pose"].shape == (1, 32)
    # The pose is one that the code can say: its code is found again, to what float32 stores.
    code = fitter._variables()["pose"].requires_grad_()
    optimiser = torch.optim.LBFGS([code], max_iter=300, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        value = (vposer.decode(code[0]) - pose).square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    assert float(loss().detach()) < 1e-8
    code = code.detach()
    weight = SHORT.stages[-1].pose ** 2
    assert result.energy["pose"] == pytest.approx(weight * float(code.square().sum()), rel=1e-2)
    assert float(code.abs().max()) > 1e-3


def test_the_reference_solver_starts_from_the_pose_of_code_zero(toy_body, vposer):
    fitter = ReferenceFitter(toy_body, SHORT, dtype="float64", prior=vposer)
    pose = fitter._params(fitter._variables()).body_pose
    torch.testing.assert_close(pose.flatten(), vposer.start)


def test_the_reference_solver_takes_a_mixture(toy_body, people):
    prior = load_prior("gaussian")
    fitter = ReferenceFitter(toy_body, SHORT, dtype="float64", prior=prior)
    result = fitter.fit(people[0][:1])[0]
    pose = torch.as_tensor(result.params["body_pose"]).double().flatten()
    expected = SHORT.stages[-1].pose ** 2 * 2 * float(prior.energy(pose))
    assert result.energy["pose"] == pytest.approx(expected, rel=1e-3)


def test_without_a_prior_it_is_the_published_squared_norm(toy_body, people):
    alone, named = (
        ReferenceFitter(toy_body, SHORT, prior=prior).energy(
            people[0][0], {k: v[0].numpy() for k, v in vars(people[1]).items()}
        )
        for prior in (None, load_prior("l2"))
    )
    assert alone == pytest.approx(named, rel=1e-5)


def test_both_solvers_are_told_their_prior(tmp_path, capsys, monkeypatch):
    from tests.fitting.fakes import fake_rooms, main

    (tmp_path / "photos").mkdir()
    seen = []

    def choose(body, config, device, dtype, prior):
        seen.append(prior)
        raise RuntimeError("enough")

    rooms = replace(fake_rooms(), make_fitter=choose)
    command = [str(tmp_path / "photos"), "--overlays", "none", "--log-level", "error"]
    for k, flags in enumerate(
        (
            (),
            ("--prior", "open"),
            ("--solver", "lbfgs", "--reference-body", "own"),
            ("--solver", "lbfgs", "--reference-body", "own", "--prior", "none"),
        )
    ):
        main([*command, "--out", str(tmp_path / str(k)), *flags], rooms)
    assert seen == ["gaussian", "open", "l2", "none"]
    capsys.readouterr()
    assert main([*command, "--prior", "vposer_v1_0"], rooms) == 2
    assert "--prior" in capsys.readouterr().err


def test_another_file_is_another_run(tmp_path, capsys):
    from tests.fitting.fakes import fake_rooms, main

    (tmp_path / "photos").mkdir()
    ids = set()
    for content in (b"one", b"two", b"one"):
        (tmp_path / "gmm_08.pkl").write_bytes(content)
        command = [str(tmp_path / "photos"), "--dry-run", "--prior", str(tmp_path / "gmm_08.pkl")]
        assert main(command, fake_rooms()) == 0
        ids.add(json.loads(capsys.readouterr().out.splitlines()[-1])["run_id"])
    assert len(ids) == 2
