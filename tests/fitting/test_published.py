"""The fast solver's energy against the reference's, by its own code on the whole mesh."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bodymodel.keypoints import FIT_KEYPOINTS
from fitting.fit import Fitter
from fitting.prior_choice import load_prior
from fitting.published import smplifyx_config
from fitting.reference import ReferenceFitter
from fitting.reference_config import ReferenceConfig
from tests.fitting.people import make_people


@pytest.fixture(scope="module")
def fitters(toy_body):
    prior = load_prior("l2")
    config = ReferenceConfig(body="own")
    reference = ReferenceFitter(toy_body, config, dtype="float64", prior=prior)
    return Fitter(toy_body, smplifyx_config(), prior=prior), reference


@pytest.fixture(scope="module")
def targets(toy_body):
    """People with confidences of all sizes, some points unseen, in a photo that is not square."""
    rng = np.random.default_rng(3)
    out = []
    for target in make_people(toy_body, 4, noise_px=30.0)[0]:
        points = target.keypoints_2d.copy()
        points[:, 2] *= rng.uniform(0.05, 1, len(points))
        points[rng.integers(len(points), size=9)] = 0
        out.append(replace(target, keypoints_2d=points, height_px=777.0))
    return out


def test_both_energies_are_one(fitters, targets):
    fast, reference = fitters
    layout = fast.prepared.layout
    generator = torch.Generator().manual_seed(0)
    for target in targets:
        x = 0.3 * torch.randn(1, layout.size, generator=generator, dtype=torch.float64)
        x[0, layout.slices["transl"]] = torch.tensor([0.05, 0.1, 4.0]).double()
        params = {k: v[0] for k, v in layout.params(x).numpy().items()}
        mine, theirs = fast.energy(target, params), reference.energy(target, params)
        for name, value in theirs.items():
            assert mine[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
        assert sum(mine.values()) == pytest.approx(sum(theirs.values()), rel=1e-6)


def test_a_result_says_its_energy_by_the_references_terms(fitters, toy_body):
    fast, reference = fitters
    targets = [replace(t, height_px=777.0) for t in make_people(toy_body, 3, noise_px=2.0)[0]]
    for target, fit in zip(targets, fast.fit(targets), strict=True):
        assert fit.status == "ok"
        expected = sum(reference.energy(target, fit.params).values())
        assert fit.energy_total == pytest.approx(expected, rel=1e-4)  # parameters in float32


def test_points_that_do_not_count_do_not_count(fitters, targets):
    fast, _ = fitters
    params = fast.fit(targets[:1])[0].params
    before = fast.energy(targets[0], params)
    points = targets[0].keypoints_2d.copy()
    for name in ("neck", "left_hip", "right_hip", "head_top"):
        points[FIT_KEYPOINTS.index(name)] = (3.0, 4.0, 1.0)
    after = fast.energy(replace(targets[0], keypoints_2d=points), params)
    assert after == pytest.approx(before, rel=1e-12)
