"""A mask gives a person their girth, and its derivative is right."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bodymodel.model import BodyModel
from fitting.evidence import gather_points, stage_energy
from fitting.fit import Fitter
from fitting.masks import mask_field
from fitting.silhouette import SilhouetteTerm
from tests.fitting.people import CENTER_PX, make_people

DISK = np.hypot(*(np.mgrid[:80, :100] - np.array([40, 50])[:, None, None])) < 20


def test_distances_count_from_the_mask():
    field = mask_field(DISK)
    assert (field.outside_px >= 0).all()
    column = round((50 - field.corner_px[0]) / field.step_px)
    row = round((40 - 30 - field.corner_px[1]) / field.step_px)
    assert field.outside_px[row, column] == pytest.approx(10, abs=1.5)
    middle = np.array([50.5, 40.5])
    np.testing.assert_allclose(
        field.normal, (field.outline_px - middle) / 20, atol=0.25
    )  # they point away from the middle


def test_an_empty_mask_is_none():
    assert mask_field(np.zeros((50, 40), bool)) is None


def test_the_edge_of_the_photo_is_no_outline():
    cut = mask_field(DISK[:, 45:])  # the disk runs out of the photo on the left
    assert cut.outline_px[:, 0].min() > 1
    left = cut.outside_px[:, : int(-cut.corner_px[0] / cut.step_px) - 1]
    assert (left == 0).all()  # nothing is known there


def test_a_mask_of_another_resolution_is_the_same():
    small, large = mask_field(DISK), mask_field(DISK.repeat(2, 0).repeat(2, 1), (100, 80))
    np.testing.assert_allclose(small.corner_px, large.corner_px, atol=1)
    assert small.step_px == pytest.approx(large.step_px, rel=0.05)


@pytest.fixture(scope="module")
def fitter(toy_body):
    return Fitter(toy_body, dtype="float64")


def test_the_gradient_is_that_of_the_term(fitter, toy_body):
    (target,), _, _ = make_people(toy_body, 1)
    evidence = gather_points(fitter.prepared, [target], fitter.prepared.fine)
    energy = stage_energy(fitter.prepared, fitter.prepared.fine, fitter.config.fine[-1], evidence)
    layout = fitter.prepared.layout
    x = torch.zeros(1, layout.size, dtype=torch.float64)
    x[0, layout.slices["transl"]] = torch.tensor([0.05, 0.1, 4.0], dtype=torch.float64)
    x[0, 0] = torch.pi
    rows, columns = np.mgrid[:800, :640]
    near = np.hypot((columns - CENTER_PX[0]) / 0.6, rows - CENTER_PX[1]) < 160
    term = SilhouetteTerm.of(
        BodyModel(toy_body, dtype=torch.float64), layout, x, mask_field(near),
        w_inside=3.0, w_outside=2.0, slack=100.0,
    )  # fmt: skip

    def value(state):
        gradient = torch.zeros(1, layout.size, dtype=torch.float64)
        matrix = torch.zeros(1, layout.size, layout.size, dtype=torch.float64)
        return term.add(energy, state, None, gradient, matrix), gradient

    energy_here, gradient = value(x)
    assert energy_here > 0
    for column in (66, 67, 68, layout.slices["betas"].start):
        delta = torch.zeros_like(x)
        delta[0, column] = 1e-6
        slope = (value(x + delta)[0] - value(x - delta)[0]) / 2e-6
        # with a scale this wide; a narrow one moves with depth, which the gradient leaves out
        torch.testing.assert_close(2 * gradient[0, column], slope[0], rtol=1e-2, atol=0.1)


def test_people_without_a_mask_do_not_notice(fitter, toy_body):
    targets, _, _ = make_people(toy_body, 2)
    alone = fitter.fit(targets[1:])[0]
    masked = replace(targets[0], silhouette=mask_field(DISK, (640, 512)))
    beside = fitter.fit([masked, targets[1]])[1]
    np.testing.assert_array_equal(alone.params["betas"], beside.params["betas"])
