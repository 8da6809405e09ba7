import numpy as np
import pytest

from bodymodel.raycast import vertex_normals
from bodymodel.synthetic import dress, garments, random_outfit
from regressor.wardrobe import LOOSEST_M, loosen, make_clutter, pattern


@pytest.fixture(scope="module")
def worn(open_body):
    outfit = random_outfit(np.random.default_rng(0))
    return outfit, garments(open_body, outfit)


def test_garments_do_not_overlap_and_leave_the_face_bare(open_body, worn):
    _, regions = worn
    shares = np.stack(list(regions.values())).sum(0)
    assert shares.max() == 1
    assert all(region.any() for region in regions.values())
    nose = open_body.landmark_faces[10]
    assert not shares[open_body.faces[nose]].any()


def test_loose_clothes_stand_off_the_body_and_nothing_else_moves(open_body, worn):
    _, regions = worn
    rest = open_body.v_template
    normals = vertex_normals(rest, open_body.faces)
    moved_at_all = False
    for seed in range(8):
        moved = loosen(rest, open_body.faces, regions, rest, np.random.default_rng(seed)) - rest
        out = (moved * normals).sum(-1)
        assert out.min() >= -1e-6  # never into the body
        assert out.max() < 3 * max(LOOSEST_M.values())
        bare = ~np.stack(list(regions.values())).any(0)
        assert np.abs(moved[bare]).max() == 0
        moved_at_all |= out.max() > 0.01
    assert moved_at_all


def test_patterns_change_shirt_and_trousers_only(open_body, worn):
    outfit, regions = worn
    rng = np.random.default_rng(1)
    colors = dress(open_body, outfit, rng)
    kinds = set()
    for seed in range(12):
        drawn = pattern(colors, regions, open_body.v_template, np.random.default_rng(seed))
        assert drawn.min() >= 0
        assert drawn.max() <= 1
        other = ~(regions["shirt"] | regions["trousers"])
        np.testing.assert_array_equal(drawn[other], colors[other])
        kinds.add(bool(drawn[regions["shirt"]].std(0).max() > 0.08))
    assert kinds == {True, False}  # plain ones and patterned ones


def test_clutter_is_a_picture_full_of_edges_and_comes_again():
    one = make_clutter(np.random.default_rng(3), 96, 128)
    assert one.shape == (128, 96, 3)
    assert one.min() >= 0
    assert one.max() <= 1
    np.testing.assert_array_equal(one, make_clutter(np.random.default_rng(3), 96, 128))
    edges = [
        np.abs(np.diff(make_clutter(np.random.default_rng(k), 96, 128), axis=1)).max()
        for k in range(6)
    ]
    assert np.median(edges) > 0.1
