from dataclasses import replace

import numpy as np
import pytest
import torch

from fitting.config import FitConfig
from fitting.evidence import gather_points, stage_energy, unknown_focal
from fitting.fit import Fitter
from fitting.focal import FocalConfig
from fitting.focal_term import focal_start
from tests.fitting.people import FOCAL_PX, make_people


@pytest.fixture(scope="module")
def fitter(toy_body):
    return Fitter(toy_body, dtype="float64")


@pytest.fixture(scope="module")
def people(toy_body):
    return make_people(toy_body, 4)


def test_the_gradient_by_the_focal_length_is_that_of_the_energy(fitter, people):
    evidence = gather_points(fitter.prepared, people[0], fitter.prepared.fine)
    free = torch.tensor([1.0, 1, 1, 0], dtype=torch.float64)
    targets = [replace(t, focal_sd=0.6 * float(f)) for t, f in zip(people[0], free, strict=True)]
    term, start = unknown_focal(
        fitter.prepared, targets, torch.full((4,), 300.0, dtype=torch.float64)
    )
    evidence = replace(evidence, focal_free=free, focal_px=start)
    energy = stage_energy(
        fitter.prepared, fitter.prepared.fine, FitConfig().fine[-1], evidence, extra=(term,)
    )
    generator = torch.Generator().manual_seed(1)
    x = 0.1 * torch.randn(4, fitter.prepared.layout.size, generator=generator, dtype=torch.float64)
    x[:, 0] += 3.0
    x[:, fitter.prepared.layout.slices["transl"]] = torch.tensor(
        [0.1, 0.2, 3.0], dtype=torch.float64
    )
    at = energy(x)
    depth = fitter.prepared.layout.slices["transl"].stop - 1
    for column in (fitter.prepared.layout.log_focal, depth):
        delta = torch.zeros_like(x)
        delta[:, column] = 1e-6
        slope = (energy(x + delta).energy - energy(x - delta).energy) / 2e-6
        rows = slice(0, 3) if column != depth else slice(0, 4)
        torch.testing.assert_close(2 * at.gradient[rows, column], slope[rows], rtol=2e-4, atol=2e-3)
    assert at.gradient[3, fitter.prepared.layout.log_focal] == 0
    assert (torch.linalg.eigvalsh(at.matrix) > -1e-6 * at.matrix.abs().amax()).all()


def test_a_known_focal_length_stays(fitter, people):
    for fit in fitter.fit(people[0]):
        assert fit.focal_px == FOCAL_PX


def test_a_free_one_is_closer_to_the_truth_than_a_wrong_one(fitter, people):
    wrong = 3 * FOCAL_PX
    fits = fitter.fit([replace(t, focal_px=wrong, focal_sd=0.6) for t in people[0]])
    off = np.log([fit.focal_px / FOCAL_PX for fit in fits])
    assert (np.abs(off) < np.log(3)).all()
    assert np.median(np.abs(off)) < 0.8 * np.log(3)
    for fit, target in zip(fits, people[0], strict=True):
        seen = target.keypoints_2d[:, 2] > 0
        # what is reported is what projects
        away = np.linalg.norm(fit.projected_2d - target.keypoints_2d[:, :2], axis=1)[seen]
        np.testing.assert_allclose(fit.residual_px[seen], away, rtol=1e-5)
        assert np.median(away) < 3


def test_company_with_free_focal_lengths_changes_nothing(fitter, people):
    known, other = people[0][:2]
    (alone,) = fitter.fit([known])
    together = fitter.fit([known, replace(other, focal_sd=0.6)])[0]
    np.testing.assert_allclose(alone.params["betas"], together.params["betas"], atol=1e-5)


def test_a_tight_crop_is_not_taken_from_within_arms_reach():
    config = FocalConfig()

    def start(scale, sd=config.fov_sd):
        args = (torch.tensor([500.0]), torch.tensor([sd]), torch.tensor([scale]))
        return float(focal_start(*args, config))

    assert start(125.0) == pytest.approx(500)  # at 4 m with the diagonal
    assert start(1000.0) / 1000 > 1.5  # the diagonal would say half a metre
    assert start(1000.0, sd=0.0) == 500
    far = start(20.0)  # 25 m with the diagonal: people in the background
    assert 300 < far < 500
