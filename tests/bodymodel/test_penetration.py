"""What is inside what, and how deep: laws on spheres, facts on the open body."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bodymodel.model import BodyModel
from bodymodel.params import BodyParams
from bodymodel.penetration import closest_on_triangle, find_contacts, make_surface
from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from tests.spheres import spheres


@pytest.fixture(scope="module")
def pair(toy_body):
    """Two spheres of 10 and 6 cm."""
    body, parts, ids = spheres(toy_body, (0.1, 0.06), levels=3)
    return make_surface(body, parts), torch.as_tensor(body.v_template).double(), ids


def apart(pair, distance):
    surface, template, (_, small) = pair
    way = torch.nn.functional.normalize(torch.tensor([0.6, -0.3, 0.74]).double(), dim=0)
    vertices = template.clone()
    vertices[small] += distance * way
    return surface, vertices[None]


def test_spheres_that_do_not_touch_have_no_contact(pair):
    assert len(find_contacts(*apart(pair, 0.165))) == 0


@pytest.mark.parametrize("distance", [0.15, 0.12, 0.08])
def test_two_spheres_are_as_deep_in_each_other_as_geometry_says(pair, distance):
    contacts = find_contacts(*apart(pair, distance))
    for part, r, other in ((0, 0.1, 0.06), (1, 0.06, 0.1)):
        deepest = contacts.depth[contacts.part == part].max()
        # the point of one sphere that is nearest to the other's middle
        assert float(deepest) == pytest.approx(other - abs(distance - r), rel=0.05, abs=1e-3)
    # the cap of a sphere of radius r inside another of radius R at distance d
    for part, r, other in ((0, 0.1, 0.06), (1, 0.06, 0.1)):
        height = r - (distance**2 + r**2 - other**2) / (2 * distance)
        area = float(contacts.area[contacts.part == part].sum())
        assert area == pytest.approx(2 * np.pi * r * height, rel=0.12)


def test_a_sphere_wholly_inside_is_found(pair):
    contacts = find_contacts(*apart(pair, 0.02))
    _, _, (_, small) = pair
    assert len(contacts) == len(small)
    assert (contacts.part == 1).all() and (contacts.other == 0).all()
    assert float(contacts.depth.min()) == pytest.approx(0.1 - 0.06 - 0.02, abs=2e-3)


def test_the_direction_leads_out(pair):
    surface, vertices = apart(pair, 0.12)
    contacts = find_contacts(surface, vertices)
    points = vertices[0, contacts.vertex]
    out = points + 1.01 * contacts.depth[:, None] * contacts.direction
    centre = vertices[0][surface.vertex_part == 0].mean(0)
    mine = contacts.other == 0
    assert ((out[mine] - centre).norm(dim=1) > 0.0985).all()
    faces = vertices[0, contacts.corners]
    on_face = (contacts.bary[..., None] * faces).sum(1)
    torch.testing.assert_close(on_face - points, contacts.depth[:, None] * contacts.direction)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_where_the_body_stands_does_not_matter(pair, motion):
    surface, vertices = apart(pair, 0.12)
    motion = torch.tensor(motion).double()
    moved = vertices @ rotvec_to_rotmat(motion[:3]).mT + motion[3:]
    one, other = find_contacts(surface, vertices), find_contacts(surface, moved)
    # a vertex that just touches may fall on either side
    assert abs(len(one) - len(other)) <= 0.03 * len(one)
    assert float(one.depth.max()) == pytest.approx(float(other.depth.max()), abs=1e-5)


def test_parts_that_may_not_meet_are_passed_over(toy_body):
    body, parts, _ = spheres(toy_body, (0.1, 0.06))
    parts.may_meet[:] = False
    vertices = torch.as_tensor(body.v_template)[None]
    assert len(find_contacts(make_surface(body, parts), vertices)) == 0


def test_persons_do_not_know_of_each_other(pair):
    surface, deep = apart(pair, 0.12)
    _, free = apart(pair, 0.3)
    alone, both = find_contacts(surface, deep), find_contacts(surface, torch.cat([free, deep]))
    assert (both.person == 1).all()
    torch.testing.assert_close(both.vertex, alone.vertex)
    torch.testing.assert_close(both.depth, alone.depth)


def test_a_body_of_no_numbers_meets_nothing(pair):
    surface, vertices = apart(pair, 0.12)
    contacts = find_contacts(surface, torch.cat([vertices, vertices * torch.nan]))
    assert len(contacts) and (contacts.person == 0).all()


def test_the_nearest_point_of_a_triangle_is_the_nearest_of_many():
    generator = torch.Generator().manual_seed(0)
    point = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    triangle = torch.randn(200, 3, 3, generator=generator, dtype=torch.float64)
    bary = closest_on_triangle(point, triangle)
    assert (bary >= 0).all()
    torch.testing.assert_close(bary.sum(1), torch.ones(200).double())
    best = ((bary[..., None] * triangle).sum(1) - point).norm(dim=1)
    grid = torch.rand(2000, 3, generator=generator, dtype=torch.float64)
    grid = torch.cat([grid / grid.sum(1, keepdim=True), torch.eye(3).double()])
    tried = (grid @ triangle - point[:, None]).norm(dim=2).amin(1)
    assert (best <= tried + 1e-12).all()
    assert (best > tried - 0.2).all()


# --- the open body -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def posed(open_body):
    model, surface = BodyModel(open_body), make_surface(open_body)

    def contacts(**values):
        params = BodyParams.zeros(1)
        for name, value in values.items():
            getattr(params, name)[:] = torch.as_tensor(np.asarray(value), dtype=torch.float32)
        return find_contacts(surface, model(params).vertices)

    return contacts


def arms(open_body, down, elbow=0.0, spread=0.0):
    pose = np.zeros((21, 3))
    pose[open_body.joints.index("left_shoulder") - 1] = (0, 0, -down)
    pose[open_body.joints.index("right_shoulder") - 1] = (0, 0, down)
    pose[open_body.joints.index("left_elbow") - 1] = (0, -elbow, 0)
    pose[open_body.joints.index("right_elbow") - 1] = (0, elbow, 0)
    pose[open_body.joints.index("left_hip") - 1] = (0, 0, spread)
    pose[open_body.joints.index("right_hip") - 1] = (0, 0, -spread)
    return pose


def test_a_body_at_rest_is_not_inside_itself(posed, open_body):
    assert len(posed()) == 0
    hands = open_body.hand_means.reshape(2, 15, 3)
    assert len(posed(left_hand_pose=hands[0], right_hand_pose=hands[1])) == 0
    for k in range(4):
        for size in (-2.5, 2.5):
            assert len(posed(betas=np.eye(10)[k] * size)) == 0


@pytest.mark.parametrize("down", [0.3, 0.7, 1.0])
def test_natural_poses_are_not_inside_themselves(posed, open_body, down):
    assert len(posed(body_pose=arms(open_body, down, elbow=0.4))) == 0
    assert len(posed(body_pose=arms(open_body, down, spread=0.15))) == 0
    knees = arms(open_body, down)
    knees[[0, 1], 0], knees[[3, 4], 0] = -1.5, 1.6  # sitting
    assert len(posed(body_pose=knees)) == 0


def test_a_hand_in_the_belly_is_seen_and_named(posed, open_body):
    contacts = posed(body_pose=hand_in_belly(open_body))
    names = np.array(open_body.joints)
    hand = [name.startswith("left") and "shoulder" not in name for name in names[contacts.part]]
    assert np.mean(hand) > 0.4
    assert 0.05 < float(contacts.depth.max()) < 0.12


def hand_in_belly(open_body):
    pose = arms(open_body, 1.1, elbow=1.6)
    pose[open_body.joints.index("right_elbow") - 1] = 0
    turn = rotvec_to_rotmat(torch.tensor([0, 0, -1.1])) @ rotvec_to_rotmat(
        torch.tensor([1.2, 0, 0])
    )
    pose[open_body.joints.index("left_shoulder") - 1] = rotmat_to_rotvec(turn).numpy()
    return pose


def test_open3d_finds_the_same_depths(open_body):
    """Oracle: signed distances of a hand's vertices to the closed rest of the body."""
    o3d = pytest.importorskip("open3d")
    surface = make_surface(open_body)
    params = BodyParams.zeros(1)
    params.body_pose[0] = torch.as_tensor(hand_in_belly(open_body), dtype=torch.float32)
    vertices = BodyModel(open_body)(params).vertices
    contacts = find_contacts(surface, vertices)
    arm = [
        k for k, n in enumerate(open_body.joints) if n.startswith("left_") and k > 15 and k != 23
    ]
    is_arm = np.isin(surface.face_part.numpy(), arm)
    rest = surface.faces.numpy()[~is_arm].astype(np.uint32)
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(vertices[0].numpy(), rest)
    hand = [k for k in arm if open_body.joints[k] not in ("left_shoulder", "left_elbow")]
    ids = np.flatnonzero(np.isin(surface.vertex_part.numpy(), hand))
    signed = -scene.compute_signed_distance(vertices[0].numpy()[ids], nsamples=5).numpy()
    mine = np.zeros(len(vertices[0]))
    mine[contacts.vertex.numpy()] = contacts.depth.numpy()
    assert (signed > 0.002).sum() > 300
    # but for vertices that are inside a finger of their own hand, too
    both = np.isin(contacts.other.numpy(), arm)
    is_alone = ~np.isin(ids, contacts.vertex.numpy()[both])
    assert is_alone.mean() > 0.98
    np.testing.assert_allclose(mine[ids[is_alone]], np.maximum(signed, 0)[is_alone], atol=2e-4)
