import pytest
import torch

from bodymodel.penetration import make_surface
from bodymodel.triangles import colliding_triangles
from tests.spheres import spheres


@pytest.fixture(scope="module")
def pair(toy_body):
    body, parts, (_, small) = spheres(toy_body, (0.1, 0.06), levels=2)
    surface, template = make_surface(body, parts), torch.as_tensor(body.v_template).double()

    def at(distance):
        vertices = template.clone()
        vertices[small] += distance * torch.tensor([0.6, 0, 0.8]).double()
        return surface, vertices

    return at


@pytest.mark.parametrize("distance", [0.165, 0.02])
def test_surfaces_that_do_not_cross_have_no_pair(pair, distance):
    assert len(colliding_triangles(*pair(distance))) == 0


def test_the_pairs_are_those_of_brute_force(pair):
    surface, vertices = pair(0.12)
    pairs = colliding_triangles(surface, vertices)
    assert len(pairs) > 10
    assert (pairs[:, 0] < pairs[:, 1]).all()
    corners = vertices[surface.faces]
    one = (surface.face_part == 0).nonzero()[:, 0]
    two = (surface.face_part == 1).nonzero()[:, 0]
    expected = set()
    # an edge crosses a triangle if its ends are on both sides and it goes through between
    for first, second in ((one, two), (two, one)):
        for k in range(3):
            a, b = corners[first, k][:, None], corners[first, (k + 1) % 3][:, None]
            p, q, r = (corners[second, n][None] for n in range(3))

            def volume(w, x, y, z):
                return ((x - w) * torch.linalg.cross(y - w, z - w)).sum(-1)

            sides = volume(a, p, q, r) * volume(b, p, q, r) < 0
            signs = torch.stack([volume(a, b, p, q), volume(a, b, q, r), volume(a, b, r, p)])
            hit = sides & ((signs > 0).all(0) | (signs < 0).all(0))
            for i, j in hit.nonzero().tolist():
                expected.add(tuple(sorted((int(first[i]), int(second[j])))))
    assert {tuple(p) for p in pairs.tolist()} == expected


def test_neighbours_are_passed_over(toy_body):
    body, parts, (_, small) = spheres(toy_body, (0.1, 0.06), levels=2)
    parts.may_meet[:] = False
    vertices = torch.as_tensor(body.v_template)
    vertices[small] += torch.tensor([0.07, 0, 0.09])
    assert len(colliding_triangles(make_surface(body, parts), vertices)) == 0
