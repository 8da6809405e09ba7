import torch
from hypothesis import given
from hypothesis import strategies as st

from regressor.lifter.view import look_at


def rays(seed=0, count=20):
    generator = torch.Generator().manual_seed(seed)
    return 0.2 * torch.randn(2, count, 2, generator=generator), torch.ones(2, count)


def turned_camera(points, rotation):
    directions = torch.nn.functional.pad(points, (0, 1), value=1.0) @ rotation.mT
    return directions[..., :2] / directions[..., 2:]


@given(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4))
def test_where_the_person_stands_hardly_matters(x, y):
    """Turned to the person, every camera sees the same but for a small roll."""
    from bodymodel.rotations import rotvec_to_rotmat

    points, seen = rays()
    there = turned_camera(points, rotvec_to_rotmat(torch.tensor([y, x, 0.0])))
    a, b = look_at(points, seen), look_at(there, seen)
    radius_a = a.features[:, :40].view(2, 20, 2).norm(dim=-1)
    radius_b = b.features[:, :40].view(2, 20, 2).norm(dim=-1)
    # the middle is a mean of rays, which turning moves a little
    assert (radius_a - radius_b).abs().max() < 0.3
    assert abs(float(a.spread[0] / b.spread[0]) - 1) < 0.2


def test_the_rotation_takes_the_middle_to_the_axis():
    points, seen = rays()
    points = points + torch.tensor([0.3, -0.2])
    view = look_at(points, seen)
    middle = torch.nn.functional.pad(points.mean(1), (0, 1), value=1.0)
    on_axis = (view.rotation @ middle[..., None])[..., 0]
    torch.testing.assert_close(on_axis[:, :2], torch.zeros(2, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        view.rotation @ view.rotation.mT, torch.eye(3).expand(2, 3, 3), atol=1e-5, rtol=0
    )


def test_size_is_taken_out_but_told():
    points, seen = rays()
    small, large = look_at(0.01 * points, seen), look_at(0.02 * points, seen)
    torch.testing.assert_close(small.features[:, :-1], large.features[:, :-1], atol=5e-3, rtol=1e-2)
    told = large.features[:, -1] - small.features[:, -1]
    torch.testing.assert_close(told, torch.full((2,), 2.0).log(), atol=1e-3, rtol=0)


def test_unseen_points_count_nothing_whatever_they_hold():
    points, seen = rays()
    seen[:, :5] = 0
    spoiled = points.clone()
    spoiled[:, :5] = torch.tensor([torch.nan, 1e9])
    torch.testing.assert_close(look_at(spoiled, seen).features, look_at(points, seen).features)


def test_nobody_at_all_gives_numbers():
    points, _ = rays()
    assert torch.isfinite(look_at(points, torch.zeros(2, 20)).features).all()
