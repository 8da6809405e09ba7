"""Where conventions put their points on a body."""

import numpy as np
import pytest

from bodymodel.fit_points import (
    PLACE_SETS,
    convention_mixes,
    fit_points,
    known_places,
    mix_points,
)
from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS
from bodymodel.spec import mirror_name

INDEX = FIT_KEYPOINTS.index


def test_shipped_places_are_of_known_points_and_sum_to_one():
    assert set(known_places()) == set(PLACE_SETS.values())
    for points in known_places().values():
        for name, mix in points.items():
            assert {name, *mix} <= set(FIT_KEYPOINTS)
            assert sum(mix.values()) == pytest.approx(1, abs=1e-3)


def test_shipped_places_are_mirror_images():
    for points in known_places().values():
        for name, mix in points.items():
            mirrored = points[mirror_name(name)]
            for source, weight in mix.items():
                assert mirrored[mirror_name(source)] == pytest.approx(weight, abs=2e-4)


def test_places_are_centimetres_from_the_joints(open_body):
    plain = fit_points(open_body)
    joints = open_body.joint_regressor @ open_body.v_template

    def at_rest(places):
        return places.joint_weights @ joints + (
            places.vertex_weights @ open_body.v_template[places.vertex_ids]
        )

    for convention in PLACE_SETS:
        gap = np.linalg.norm(at_rest(fit_points(open_body, (convention,))) - at_rest(plain), axis=1)
        assert 0.005 < gap.max() < 0.12


@pytest.mark.parametrize("convention", PLACE_SETS)
def test_points_that_a_convention_does_not_name_stay_where_they_are(open_body, convention):
    """Weight by weight: sums of them are rounded in another order where the vertices are others."""

    def weights(places):
        of_vertices = np.zeros((len(FIT_KEYPOINTS), len(open_body.v_template)))
        of_vertices[:, places.vertex_ids] = places.vertex_weights
        unnamed = [n not in CONVENTIONS[convention] for n in FIT_KEYPOINTS]
        return np.concatenate([places.joint_weights, of_vertices], 1)[unnamed]

    np.testing.assert_array_equal(
        weights(fit_points(open_body, (convention,))), weights(fit_points(open_body))
    )


def test_the_first_convention_that_has_a_point_says_where_it_is():
    both = convention_mixes(("lsp14", "mediapipe_pose33"))
    lsp, mediapipe = convention_mixes(("lsp14",)), convention_mixes(("mediapipe_pose33",))
    assert both["left_hip"] == lsp["left_hip"] != mediapipe["left_hip"]
    assert both["left_ear"] == mediapipe["left_ear"]
    exact = convention_mixes(("smplx_lsp14", "mediapipe_pose33"))
    assert "left_hip" not in exact and "left_ear" in exact
    assert convention_mixes(()) == {}


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="unknown keypoint convention"):
        convention_mixes(("lsp15",))


def test_a_mix_is_the_weighted_sum(open_body):
    plain = fit_points(open_body)
    mixed = mix_points(plain, {"left_hip": {"left_hip": 0.25, "nose": 0.75}})
    expected = 0.25 * plain.joint_weights[INDEX("left_hip")]
    np.testing.assert_allclose(mixed.joint_weights[INDEX("left_hip")], expected)
    expected = 0.75 * plain.vertex_weights[INDEX("nose")]
    np.testing.assert_allclose(mixed.vertex_weights[INDEX("left_hip")], expected)
