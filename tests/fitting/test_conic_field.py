import pytest
import torch

from bodymodel.penetration import make_surface
from bodymodel.rotations import rotvec_to_rotmat
from fitting.conic_field import conic_field, penetration_energy
from tests.spheres import spheres

# circumcentre at the origin, radius 1, looking to +z
RECEIVER = torch.tensor([[1.0, 0, 0], [-0.5, 0.75**0.5, 0], [-0.5, -(0.75**0.5), 0]]).double()


def field(point, sigma):
    intruder = torch.tensor(point).double().expand(1, 3, 3)
    return float(conic_field(intruder, RECEIVER[None], sigma)[0, 0])


@pytest.mark.parametrize("sigma", [1e-4, 0.5])
def test_the_field_on_the_axis_is_that_of_the_paper(sigma):
    assert field([0, 0, 1.01 * sigma], sigma) == 0  # before the tip
    assert field([0, 0, 0], sigma) == pytest.approx(((3 - 2 * sigma) / 4) ** 2)
    assert field([0, 0, -sigma], sigma) == pytest.approx(1)
    assert field([0, 0, -3 * sigma], sigma) == pytest.approx((1 + 2 * sigma) ** 2)


def test_the_cone_widens_behind_the_triangle():
    assert field([1.01, 0, 0], 0.5) == 0
    assert field([1.01, 0, -0.5], 0.5) == pytest.approx((1 - 1.01 / 2) ** 2)
    assert field([2.01, 0, -0.5], 0.5) == 0


def test_the_field_is_continuous_where_its_pieces_meet():
    for sigma in (1e-4, 0.5):
        for at in (-sigma, sigma):
            near = [field([0.1, 0, at + step * sigma], sigma) for step in (-1e-7, 1e-7)]
            assert near[0] == pytest.approx(near[1], abs=1e-5)


def test_the_derivatives_are_right():
    generator = torch.Generator().manual_seed(3)
    near = RECEIVER + torch.tensor([0, 0, -0.4]).double()
    intruder = near + 0.2 * torch.randn(4, 3, 3, generator=generator, dtype=torch.float64)
    receiver = RECEIVER + 0.1 * torch.randn(4, 3, 3, generator=generator, dtype=torch.float64)
    intruder.requires_grad_(), receiver.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: conic_field(a, b, 0.5), (intruder, receiver))


@pytest.fixture(scope="module")
def pair(toy_body):
    body, parts, (_, small) = spheres(toy_body, (0.1, 0.06), levels=2)
    return make_surface(body, parts), torch.as_tensor(body.v_template).double(), small


def test_the_energy_is_none_apart_and_does_not_know_where_the_body_stands(pair):
    surface, template, small = pair
    way = torch.tensor([0.6, 0, 0.8]).double()
    touching, free = template.clone(), template.clone()
    touching[small] += 0.13 * way
    free[small] += 0.17 * way
    turn = rotvec_to_rotmat(torch.tensor([0.3, -1.2, 0.7]).double())
    moved = touching @ turn.mT + torch.tensor([0.1, 2, 3]).double()
    at, none, there = penetration_energy(surface, torch.stack([touching, free, moved]), 0.01)
    assert float(none) == 0
    assert float(at) > 0.1
    torch.testing.assert_close(at, there, rtol=1e-6, atol=0)


def test_the_energy_pushes_apart(pair):
    surface, template, small = pair
    way = torch.tensor([0.6, 0, 0.8]).double()
    distance = torch.tensor(0.135, dtype=torch.float64, requires_grad=True)
    is_small = torch.zeros(len(template), 1).double()
    is_small[small] = 1
    vertices = template + is_small * distance * way
    (slope,) = torch.autograd.grad(
        penetration_energy(surface, vertices[None], 0.01).sum(), distance
    )
    assert float(slope) < 0
