from dataclasses import replace

import pytest
import torch

from fitting.config import FitConfig
from fitting.evidence import gather_points, stage_energy
from fitting.extra import depth_terms
from fitting.fit import Fitter
from tests.fitting.people import make_people


@pytest.fixture(scope="module")
def fitter(toy_body):
    return Fitter(toy_body, dtype="float64")


@pytest.fixture(scope="module")
def problem(fitter, toy_body):
    """The last stage's energy of three people, and states near their truth."""
    targets, _, _ = make_people(toy_body, 3)
    evidence = gather_points(fitter.prepared, targets, fitter.prepared.fine)
    generator = torch.Generator().manual_seed(2)
    guess = torch.randn(3, 145, 3, generator=generator).numpy()
    targets = [replace(t, world_points=w) for t, w in zip(targets, guess, strict=True)]
    terms = depth_terms(
        targets,
        fitter.prepared.depth,
        fitter.prepared.trunk,
        fitter.prepared.coarse,
        gather_points(fitter.prepared, targets, fitter.prepared.coarse),
    )
    energy = stage_energy(
        fitter.prepared, fitter.prepared.fine, FitConfig().fine[-1], evidence, terms
    )
    generator = torch.Generator().manual_seed(1)
    x = 0.2 * torch.randn(3, fitter.prepared.layout.size, generator=generator, dtype=torch.float64)
    x[:, fitter.prepared.layout.slices["transl"]] = torch.tensor(
        [0.1, 0.2, 3.9], dtype=torch.float64
    )
    x[:, 0] += 3.0
    return energy, x


def test_the_energy_is_the_sum_of_its_terms(problem):
    energy, x = problem
    terms = energy.terms(x)
    torch.testing.assert_close(terms.sum(1), energy(x).energy)
    assert (terms >= 0).all()


def test_the_gradient_is_that_of_the_energy(problem, fitter):
    energy, x = problem
    at = energy(x)
    for column in range(0, x.shape[1], 5):
        delta = torch.zeros_like(x)
        delta[:, column] = 1e-6
        step = fitter.prepared.layout.step
        slope = (energy(step(x, delta)).energy - energy(step(x, -delta)).energy) / 2e-6
        torch.testing.assert_close(2 * at.gradient[:, column], slope, rtol=2e-4, atol=2e-3)


def test_the_matrix_is_symmetric_and_not_negative(problem):
    energy, x = problem
    matrix = energy(x).matrix
    torch.testing.assert_close(matrix, matrix.mT)
    assert (torch.linalg.eigvalsh(matrix) > -1e-6 * matrix.abs().amax()).all()


def test_persons_do_not_know_of_each_other(problem):
    energy, x = problem
    index = torch.tensor([2, 0])
    alone = energy.take(index)(x[index])
    torch.testing.assert_close(alone.energy, energy(x).energy[index])
    torch.testing.assert_close(alone.matrix, energy(x).matrix[index])


def test_only_the_free_unknowns_are_looked_at(problem, fitter):
    energy, x = problem
    free = fitter.prepared.layout.columns("transl", "betas")
    at, some = energy(x), replace(energy, free=free)(x)
    torch.testing.assert_close(some.gradient, at.gradient[:, free])
    torch.testing.assert_close(some.matrix, at.matrix[:, free[:, None], free])
    widened = replace(energy, free=free).widen(some.gradient)
    assert (widened != 0).sum(1).eq(len(free)).all()


def test_an_absent_point_has_no_weight(fitter, toy_body):
    (target,), _, _ = make_people(toy_body, 1)
    moved = target.keypoints_2d.copy()
    moved[7, :2], moved[7, 2] = 1e4, 0
    blind = target.keypoints_2d.copy()
    blind[7] = 0
    energies = []
    for points in (moved, blind):
        evidence = gather_points(
            fitter.prepared, [replace(target, keypoints_2d=points)], fitter.prepared.fine
        )
        energy = stage_energy(fitter.prepared, fitter.prepared.fine, FitConfig().fine[-1], evidence)
        x = torch.full((1, fitter.prepared.layout.size), 0.1, dtype=torch.float64)
        x[:, fitter.prepared.layout.slices["transl"].stop - 1] = 4
        energies.append(energy(x).energy)
    assert energies[0] == energies[1]
