"""What is drawn must be where the camera model says, and nowhere else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodymodel.raycast import vertex_normals
from bodymodel.render import draw_keypoints, overlay, render_mesh, render_views

BACKGROUND = 90


def ball(radius, center, rings=40, sides=80, stretch=(1, 1, 1)):
    polar = np.linspace(0, np.pi, rings)[:, None]
    around = np.linspace(0, 2 * np.pi, sides, endpoint=False)[None]
    unit = np.stack(
        [
            np.sin(polar) * np.cos(around),
            np.cos(polar) * np.ones_like(around),
            np.sin(polar) * np.sin(around),
        ],
        -1,
    ).reshape(-1, 3)
    i, j = np.mgrid[: rings - 1, :sides]
    a, b = i * sides + j, i * sides + (j + 1) % sides
    c, d = a + sides, b + sides
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (b, d, c))])
    return (radius * unit * stretch + center).astype(np.float32), faces


def plain(width, height):
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def centroid(mask):
    rows, columns = np.nonzero(mask)
    return np.array((columns.mean() + 0.5, rows.mean() + 0.5))


@settings(max_examples=15, deadline=None)
@given(
    x=st.floats(-0.7, 0.7), y=st.floats(-0.7, 0.7), z=st.floats(3, 8),
    cx=st.floats(80, 120), cy=st.floats(60, 100),
)  # fmt: skip
def test_small_ball_lands_on_the_projection_of_its_center(x, y, z, cx, cy):
    focal = 220.0
    vertices, faces = ball(0.1, (x, y, z))
    out = render_mesh(vertices, faces, focal, (cx, cy), 200, 160)
    expected = np.array((x, y)) / z * focal + (cx, cy)
    if not ((expected > 10) & (expected < (190, 150))).all():
        return
    rows, columns = np.mgrid[:160, :200] + 0.5
    got = np.array([(columns * out.alpha).sum(), (rows * out.alpha).sum()]) / out.alpha.sum()
    np.testing.assert_allclose(got, expected, atol=0.15)
    # The nearest point of a ball on the axis is a radius before its centre.
    assert out.depth.min() == pytest.approx(z - 0.1, abs=0.02)


def test_area_is_that_of_the_cone_around_the_ball():
    focal, radius, distance = 300.0, 0.4, 3.0
    vertices, faces = ball(radius, (0, 0, distance), rings=80, sides=160)
    out = render_mesh(vertices, faces, focal, (100, 100), 200, 200)
    expected = np.pi * focal**2 * radius**2 / (distance**2 - radius**2)
    assert out.alpha.sum() == pytest.approx(expected, rel=4e-3)
    hard = render_mesh(vertices, faces, focal, (100, 100), 200, 200, antialias=False)
    assert set(np.unique(hard.alpha)) == {0, 1}
    assert ((out.alpha > 0) & (out.alpha < 1)).any()
    np.testing.assert_array_equal(out.depth, hard.depth)


def test_nearer_person_hides_the_farther_one():
    near, faces = ball(0.3, (0, 0, 3))
    far, _ = ball(0.3, (0.1, 0, 5))
    colors = np.array(((1, 0, 0), (0, 0, 1)), np.float32)
    for order in ((0, 1), (1, 0)):
        people = np.stack([near, far])[list(order)]
        out = render_mesh(people, faces, 300, (100, 100), 200, 200, colors=colors[list(order)])
        assert out.rgb[100, 100, 0] > 0.2 and out.rgb[100, 100, 2] == 0
        assert out.depth[100, 100] == pytest.approx(2.7, abs=0.01)


def test_vertex_colors_are_interpolated_within_faces():
    vertices = np.array([(-1, -1, 2), (1, -1, 2), (0, 1, 2)], np.float32)
    colors = np.eye(3, dtype=np.float32)
    out = render_mesh(vertices, np.array([[0, 1, 2]]), 50, (50, 50), 100, 100, colors=colors)
    assert out.rgb[27, 28].argmax() == 0
    assert out.rgb[27, 72].argmax() == 1
    assert out.rgb[72, 50].argmax() == 2


def test_overlay_leaves_the_rest_of_the_photo_alone():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    before = image.copy()
    vertices, faces = ball(0.3, (0.1, -0.1, 3))
    out = overlay(image, vertices, faces, 150, (80, 60))
    alpha = render_mesh(vertices, faces, 150, (80, 60), 160, 120).alpha
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(out[alpha == 0], image[alpha == 0])
    assert (out[alpha == 1] != image[alpha == 1]).any(-1).mean() > 0.99
    np.testing.assert_array_equal(overlay(image, vertices, faces, 150, (80, 60), opacity=0), image)


@pytest.mark.parametrize(
    "vertices",
    [
        ball(0.3, (0, 0, -3))[0],
        np.full_like(ball(0.3, (0, 0, 3))[0], np.nan),
        np.full_like(ball(0.3, (0, 0, 3))[0], np.inf),
        ball(0.3, (0, 0, 3))[0] * np.float32(1e30),
        ball(0.3, (50, 0, 3))[0],
    ],
    ids=["behind", "nan", "inf", "huge", "outside"],
)
def test_mesh_that_cannot_be_seen_gives_the_plain_photo(vertices):
    faces = ball(0.3, (0, 0, 3))[1]
    views = render_views(plain(64, 48), vertices, faces, 60, (32, 24), max_side=64)
    np.testing.assert_array_equal(views["front"], plain(64, 48))
    assert views["side"].shape == views["top"].shape == (64, 64, 3)


def test_camera_that_is_not_finite_gives_the_plain_photo():
    vertices, faces = ball(0.3, (0, 0, 3))
    for focal, center in ((np.nan, (32, 24)), (60, (np.nan, 24)), (0, (32, 24))):
        np.testing.assert_array_equal(
            overlay(plain(64, 48), vertices, faces, focal, center), plain(64, 48)
        )


def test_one_bad_person_does_not_hide_the_others():
    good, faces = ball(0.3, (0, 0, 3))
    people = np.stack([np.full_like(good, np.nan), good])
    alone = render_mesh(good, faces, 60, (32, 24), 64, 48)
    both = render_mesh(people, faces, 60, (32, 24), 64, 48)
    np.testing.assert_array_equal(both.alpha, alone.alpha)


def test_body_around_the_camera_plane_is_not_an_error():
    vertices, faces = ball(0.5, (0, 0, 0.45))
    out = render_mesh(vertices, faces, 60, (32, 24), 64, 48)
    assert (out.alpha == 1).all()


def test_side_and_top_views_show_the_way_a_body_leans():
    # A tall ellipsoid whose upper end is tilted towards the camera by 30 degrees.
    vertices, faces = ball(0.15, (0, 0, 0), stretch=(1, 5, 1))
    tilt = np.deg2rad(30)
    rotation = np.array(
        ((1, 0, 0), (0, np.cos(tilt), -np.sin(tilt)), (0, np.sin(tilt), np.cos(tilt)))
    )
    vertices = (vertices @ rotation.T + (0, 0, 4)).astype(np.float32)
    top = vertices[vertices[:, 1].argmin()]
    assert top[2] < 3.8, "the upper end must be nearer to the camera for this test"

    views = render_views(plain(200, 200), vertices, faces, 200, (100, 100), max_side=200)
    # The body's colour is blue, the paper's is not.
    bluish = {k: v[..., 2].astype(int) - v[..., 0] > 12 for k, v in views.items()}
    side = bluish["side"].copy()
    side[:40, :40] = False  # the arrow
    assert centroid(side[:60])[0] < 100 - 20, "towards the camera is left in the side view"
    rows, columns = np.nonzero(side)
    slope = np.polyfit(rows, columns, 1)[0]
    assert np.rad2deg(np.arctan(slope)) == pytest.approx(30, abs=4)

    ends = views["top"]
    mask = bluish["top"].copy()
    mask[-40:, :40] = False
    # Seen from above, the camera is below: the head end, highest and nearest, is lit and low.
    assert ends.shape == (200, 200, 3)
    height = np.ptp(np.nonzero(mask)[0])
    width = np.ptp(np.nonzero(mask)[1])
    assert height > 1.5 * width


def test_side_view_keeps_up_up_and_the_far_right():
    low_far, faces = ball(0.1, (0, 1.0, 5))
    high_near, _ = ball(0.1, (0, -1.0, 3))
    colors = np.array(((1, 0, 0), (0, 1, 0)), np.float32)
    people = np.stack([low_far, high_near])
    views = render_views(plain(100, 100), people, faces, 100, (50, 50), max_side=200, colors=colors)
    side, top = views["side"].astype(int), views["top"].astype(int)
    far, near = (
        centroid(side[..., 0] > side[..., 1] + 60),
        centroid(side[..., 1] > side[..., 0] + 60),
    )
    assert far[0] > near[0] and far[1] > near[1]
    far, near = centroid(top[..., 0] > top[..., 1] + 60), centroid(top[..., 1] > top[..., 0] + 60)
    assert far[1] < near[1]
    # Both views are to scale: 2 m in depth, 2 m in height.
    far, near = (
        centroid(side[..., 0] > side[..., 1] + 60),
        centroid(side[..., 1] > side[..., 0] + 60),
    )
    assert far[0] - near[0] == pytest.approx(far[1] - near[1], abs=2)


def test_front_view_of_a_large_photo_is_the_small_overlay():
    vertices, faces = ball(0.4, (0.2, 0.1, 3))
    big = render_views(plain(1600, 1200), vertices, faces, 1500, (800, 600), max_side=400)["front"]
    small = overlay(plain(400, 300), vertices, faces, 375, (200, 150))
    assert big.shape == (300, 400, 3)
    assert np.abs(big.astype(int) - small).max() <= 1
    tiny = render_views(plain(1, 1), vertices, faces, 1, (0.5, 0.5))["front"]
    assert tiny.shape == (1, 1, 3)


def test_same_input_same_bytes_whatever_the_threads():
    vertices, faces = ball(0.4, (0.2, 0.1, 3))
    pictures = [
        render_views(plain(90, 90), vertices, faces, 80, (45, 45), 90, threads=threads)
        for threads in (1, 2, 1)
    ]
    for other in pictures[1:]:
        for name, picture in pictures[0].items():
            np.testing.assert_array_equal(picture, other[name])


def test_normals_of_a_ball_point_away_from_its_center():
    vertices, faces = ball(2.0, (1, 2, 3))
    normals = vertex_normals(vertices, faces)
    inside = vertices - (1, 2, 3)
    cosine = np.abs((normals * inside).sum(-1)) / 2
    assert cosine.min() > 0.995


def test_keypoints_are_drawn_at_their_pixels():
    image = np.zeros((60, 80, 3), np.uint8)
    seen = np.array([(20.5, 30.5, 0.9), (60.0, 10.0, 0.0), (np.nan, 5, 1.0)])
    model = np.array([(40.5, 30.5), (61.0, 11.0), (np.nan, np.nan)])
    only_seen = draw_keypoints(image, seen)
    green = only_seen[..., 1].astype(int) > only_seen[..., 0]
    np.testing.assert_allclose(centroid(green), (20.5, 30.5), atol=0.51)
    both = draw_keypoints(image, seen, model)
    assert both[30, 30].any(), "a line joins the two"
    red = (both[..., 0] > 200) & (both[..., 1] < 100)
    np.testing.assert_allclose(centroid(red[:, :50]), (40.5, 30.5), atol=0.51)
    assert red[11, 61] or red[10, 60]
    half = draw_keypoints(image, seen, scale=0.5)
    np.testing.assert_allclose(centroid(half.any(-1)), (10.25, 15.25), atol=0.51)
    assert not image.any()


def test_wrong_shapes_are_refused_with_what_was_expected():
    vertices, faces = ball(0.3, (0, 0, 3))
    with pytest.raises(ValueError, match=r"\(V, 3\) or \(P, V, 3\)"):
        render_mesh(vertices[:, :2], faces, 60, (32, 24), 64, 48)
    with pytest.raises(ValueError, match=r"\(F, 3\)"):
        render_mesh(vertices, faces[:, :2], 60, (32, 24), 64, 48)
    with pytest.raises(ValueError, match="at least 1"):
        render_mesh(vertices, faces, 60, (32, 24), 0, 48)
    with pytest.raises(ValueError, match="colors"):
        render_mesh(vertices, faces, 60, (32, 24), 64, 48, colors=np.zeros((7, 3)))
    with pytest.raises(ValueError, match="uint8"):
        overlay(np.zeros((4, 4, 3)), vertices, faces, 60, (2, 2))
    with pytest.raises(ValueError, match="same points"):
        draw_keypoints(plain(8, 8), np.zeros((3, 3)), np.zeros((2, 2)))
