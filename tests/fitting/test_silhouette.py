"""A mask gives a person their girth, and its derivative is right."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bodymodel.model import BodyModel
from bodymodel.render import render_mesh
from fitting.evidence import gather_points, stage_energy
from fitting.fit import Fitter
from fitting.masks import mask_field
from fitting.silhouette import HeldSurface, SilhouetteTerm, girth_direction, looked_at
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
        HeldSurface(toy_body), layout, x, [mask_field(near)],
        w_inside=3.0, w_outside=2.0, slack=100.0,
    )  # fmt: skip

    def value(state):
        gradient = torch.zeros(1, layout.size, dtype=torch.float64)
        matrix = torch.zeros(1, layout.size, layout.size, dtype=torch.float64)
        return term.add(energy, state, None, gradient, matrix), gradient

    energy_here, gradient = value(x)
    assert energy_here > 0
    girth = torch.as_tensor(girth_direction(toy_body))
    steps = [(column, None) for column in (66, 67, 68)] + [(layout.slices["betas"], girth)]
    for column, way in steps:
        delta = torch.zeros_like(x)
        delta[0, column] = 1e-6 * (1 if way is None else way)
        slope = (value(x + delta)[0] - value(x - delta)[0]) / 2e-6
        # with a scale this wide; a narrow one moves with depth, which the gradient leaves out
        mine = gradient[0, column] if way is None else way @ gradient[0, column]
        torch.testing.assert_close(2 * mine, slope[0], rtol=1e-2, atol=0.1)


def test_people_without_a_mask_do_not_notice(fitter, toy_body):
    targets, _, _ = make_people(toy_body, 2)
    alone = fitter.fit(targets[1:])[0]
    masked = replace(targets[0], silhouette=mask_field(DISK, (640, 512)))
    beside = fitter.fit([masked, targets[1]])[1]
    np.testing.assert_array_equal(alone.params["betas"], beside.params["betas"])


def test_the_held_surface_is_the_mesh(open_body):
    pose = 0.4 * torch.randn(55, 3, generator=torch.Generator().manual_seed(1))
    face = torch.linspace(-1, 1, open_body.num_expression)
    betas = torch.linspace(-2, 2, open_body.num_betas)
    rest, dirs = HeldSurface(open_body).pose(pose, face)
    mesh = BodyModel(open_body).forward_pose(pose, betas, face).vertices
    torch.testing.assert_close(
        rest + dirs @ betas, mesh[torch.as_tensor(looked_at(open_body))], atol=1e-5, rtol=0
    )


def test_girth_adds_volume_and_leaves_stature(open_body):
    way = girth_direction(open_body)
    model = BodyModel(open_body, dtype=torch.float64)
    mesh = model.forward_pose(
        torch.zeros(2, 55, 3, dtype=torch.float64),
        torch.as_tensor(np.stack([0 * way, 2 * way])),
    ).vertices.numpy()
    a, b, c = (mesh[:, open_body.faces[:, k]] for k in range(3))
    volume = (a * np.cross(b, c)).sum((1, 2)) / 6
    assert volume[1] > 1.1 * volume[0]
    stature = np.ptp(mesh[..., 1], axis=1)
    assert stature[1] == pytest.approx(stature[0], rel=0.005)


def test_masks_give_girth_and_leave_the_rest_of_the_shape(open_body):
    """A heavy and a thin person, by their rendered masks."""
    fitter = Fitter(open_body)
    way = girth_direction(open_body)
    betas = np.stack([2.0 * way, -2.0 * way])
    targets, truth, _ = make_people(open_body, 2, betas=torch.as_tensor(betas))
    mesh = BodyModel(open_body)(truth.map(lambda v: v.float())).vertices.numpy()
    masked = []
    for target, vertices in zip(targets, mesh, strict=True):
        width, height = (int(2 * c) for c in target.center_px)
        picture = render_mesh(
            vertices, open_body.faces, target.focal_px, target.center_px, width, height,
            antialias=False, threads=1,
        )  # fmt: skip
        masked.append(replace(target, silhouette=mask_field(picture.alpha > 0.5)))
    plain, filled = fitter.fit(targets), fitter.fit(masked)
    for k in range(2):
        before, after = (f[k].params["betas"] - betas[k] for f in (plain, filled))
        assert abs(after @ way) < 0.5 * abs(before @ way)
        assert np.linalg.norm(after) < np.linalg.norm(before)
