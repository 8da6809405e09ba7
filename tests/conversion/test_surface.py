"""The closed forms against automatic differentiation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import conversion.surface as surface_module
from bodymodel.model import BodyModel
from bodymodel.rotations import rotvec_to_rotmat
from conversion.solver import Hold
from conversion.surface import State, Surface, Unknowns
from tests.random_body import random_body


def random_state(body, batch=2):
    torch.manual_seed(1)
    joints, shape = len(body.parents), body.num_betas + body.num_expression
    pose = torch.randn(batch, joints, 3, dtype=torch.float64)
    return State(
        rotvec_to_rotmat(pose),
        torch.randn(batch, shape, dtype=torch.float64),
        torch.randn(batch, 3, dtype=torch.float64),
    )


def numeric_jacobian(surface, state, posed, unknowns):
    """(B, 3, N, P), through the steps that the solver takes."""

    def vertices(change):
        return surface.pose(surface.step(state, posed, change, unknowns)).vertices

    start = torch.zeros(len(state.shape), unknowns.count, dtype=torch.float64)
    whole = torch.autograd.functional.jacobian(vertices, start)
    return torch.stack([whole[b, :, :, b] for b in range(len(start))])


def everything(body):
    joints = np.ones(len(body.parents), bool)
    return Unknowns(joints, np.ones(body.num_betas + body.num_expression, bool))


def some(body):
    joints = np.arange(len(body.parents)) % 3 != 1
    shape = np.arange(body.num_betas + body.num_expression) % 2 == 0
    return Unknowns(joints, shape, transl=False)


@pytest.mark.parametrize("family", ["smplx", "smplh", "smpl"])
def test_vertices_are_the_body_models(family):
    body = random_body(family=family, num_expression=10 if family == "smplx" else 0)
    body = replace(body, vertex_ids=tuple(range(21)))
    ids = np.arange(0, 80, 3)
    state = random_state(body)
    found = Surface(body, ids, torch.float64).pose(state).vertices.mT
    betas, expression = state.shape.split([10, body.num_expression], 1)
    out = BodyModel(body).double().forward_rotmats(state.rotations, betas, expression, state.transl)
    torch.testing.assert_close(found, out.vertices[:, ids], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("which", [everything, some])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_derivatives(which, scale, monkeypatch):
    monkeypatch.setattr(surface_module, "_SKIN_BELOW", 0.0)
    body = random_body(num_vertices=60)
    body = replace(body, posedirs=scale * body.posedirs)
    surface, unknowns = Surface(body, None, torch.float64), which(body)
    state = random_state(body)
    posed = surface.pose(state)
    jacobian = numeric_jacobian(surface, state, posed, unknowns)

    force = torch.randn(2, 3, 60, dtype=torch.float64)
    wanted = (force[..., None] * jacobian).sum((1, 2))
    found = surface.gradient(state, posed, force, unknowns)
    torch.testing.assert_close(found, wanted, atol=1e-8, rtol=1e-6)

    seen = np.zeros(60, int)
    for group in surface.groups(unknowns):
        mine = surface.jacobian(state, posed, group, unknowns)
        exact = jacobian[:, :, group.vertices][..., group.columns]
        torch.testing.assert_close(mine, exact, atol=1e-6, rtol=1e-5)
        seen[group.vertices] += 1
    assert (seen == 1).all()


def test_curvature_is_the_square_of_the_jacobian(monkeypatch):
    monkeypatch.setattr(surface_module, "_SKIN_BELOW", 0.0)
    body = random_body(num_vertices=60)
    # correctives reach over the whole body; each group knows its own joints only
    body = replace(body, posedirs=0 * body.posedirs)
    surface, unknowns = Surface(body, None, torch.float64), everything(body)
    state = random_state(body)
    posed = surface.pose(state)
    found = surface.curvature(state, posed, surface.groups(unknowns), unknowns, lambda _, j: j)
    rows = numeric_jacobian(surface, state, posed, unknowns).flatten(1, 2)
    torch.testing.assert_close(found, rows.mT @ rows, atol=1e-5, rtol=1e-5)


def test_gradient_of_the_ties():
    body = random_body()
    surface, unknowns = Surface(body, None, torch.float64), everything(body)
    state = random_state(body)
    posed = surface.pose(state)
    references = rotvec_to_rotmat(torch.randn(55, 3, dtype=torch.float64))
    joints = torch.linspace(0, 2, 55, dtype=torch.float64)
    hold = Hold(joints, references, torch.linspace(1, 3, 20, dtype=torch.float64))

    def energy(change):
        return hold.energy(surface.step(state, posed, change, unknowns)).sum()

    start = torch.zeros(2, unknowns.count, dtype=torch.float64)
    wanted = torch.autograd.functional.jacobian(energy, start)
    found = hold.gradient(state, posed, unknowns)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
