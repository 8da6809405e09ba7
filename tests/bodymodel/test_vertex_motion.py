"""Single vertices against the whole model, their derivatives against autograd."""

from dataclasses import replace

import pytest
import torch

from bodymodel.model import BodyModel
from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from bodymodel.vertex_motion import make_skin, place_vertices, vertex_jacobian
from tests.random_body import random_body

BATCH, COUNT = 2, 6


@pytest.fixture(scope="module")
def case():
    body = replace(random_body(0), vertex_ids=tuple(range(21)))
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    state = 0.4 * normal(BATCH, 55, 3), normal(BATCH, 20), normal(BATCH, 3)
    vertex = torch.randint(0, len(body.v_template), (BATCH, COUNT), generator=generator)
    model = BodyModel(body, dtype=torch.float64)

    def points(pose, shape, transl):
        vertices = model.forward_pose(pose, shape[:, :10], shape[:, 10:], transl).vertices
        return vertices[torch.arange(BATCH)[:, None], vertex]

    return make_skin(body, torch.float64), state, vertex, normal(BATCH, COUNT, 3), points


def test_vertices_are_where_the_model_puts_them(case):
    skin, state, vertex, _, points = case
    torch.testing.assert_close(place_vertices(skin, *state, vertex).points, points(*state))


def test_the_derivatives_are_those_of_the_model(case):
    skin, state, vertex, rows, points = case
    found = vertex_jacobian(skin, place_vertices(skin, *state, vertex), rows)
    # bodies do not know of each other, so the sum over them has the derivatives of each
    expected = torch.autograd.functional.jacobian(
        lambda *s: (rows * points(*s)).sum(-1).sum(0), state
    )
    for mine, true in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, true.transpose(0, 1))


def test_the_root_turns_on_the_left(case):
    skin, (pose, shape, transl), vertex, rows, points = case
    placed = place_vertices(skin, pose, shape, transl, vertex)
    found, _, _ = vertex_jacobian(skin, placed, rows, root_on_manifold=True)

    def turned(delta):
        root = rotmat_to_rotvec(rotvec_to_rotmat(delta) @ rotvec_to_rotmat(pose[:, 0]))
        return (rows * points(torch.cat([root[:, None], pose[:, 1:]], 1), shape, transl)).sum(-1)

    for axis in range(3):
        delta = torch.zeros(BATCH, 3, dtype=torch.float64)
        delta[:, axis] = 1e-6
        slope = (turned(delta) - turned(-delta)) / 2e-6
        torch.testing.assert_close(found[:, :, 0, axis], slope, rtol=1e-6, atol=1e-7)
