import pytest
import torch

from bodymodel.sliced import slice_body, sliced_forward, sliced_jacobian
from bodymodel.sliced_blocks import blocks_jacobian, point_blocks
from tests.bodymodel.test_sliced import random_state


@pytest.fixture(params=["toy", "open"])
def body(request):
    return request.getfixturevalue(f"{request.param}_body")


NAMES = (
    "left_wrist", "nose", "right_index", "left_heel", "lip_top", "jaw", "pelvis", "head_top",
    "left_index1", "left_thumb", "right_eye_outer_corner", "left_big_toe",
)  # fmt: skip


@pytest.mark.parametrize("joints", [tuple(range(55)), (0, 12, 15, 17, 22, 25), ()])
def test_blocks_hold_what_the_whole_jacobian_holds(body, joints):
    names = [n for n in NAMES if n in slice_body(body).points]
    sliced = slice_body(body, tuple(names), dtype=torch.float64)
    full_pose, shape, transl = random_state(3, sliced.num_shape)
    state = sliced_forward(sliced, full_pose, shape, transl)
    rows = torch.randn(3, len(names), 2, 3, dtype=torch.float64)
    pose, by_shape, _ = sliced_jacobian(sliced, state, rows, root_on_manifold=True)
    components = range(1, sliced.num_shape)
    half = len(names) // 2
    blocks = point_blocks(sliced, [range(half), range(half, len(names))], joints, list(components))
    seen = set()
    for block, (got, got_shape) in zip(
        blocks.blocks, blocks_jacobian(sliced, blocks, state, rows), strict=True
    ):
        points = block.points.tolist()
        seen |= set(points)
        where = [2 * p + r for p in points for r in range(2)]
        expected = torch.zeros(3, len(where), 55, 3, dtype=torch.float64)
        expected[:, :, : pose.shape[2]] = pose[:, where]
        assert set(block.joints) <= set(joints)
        torch.testing.assert_close(
            got, expected[:, :, list(block.joints)].flatten(2), atol=1e-12, rtol=1e-10
        )
        left_out = [j for j in joints if j not in block.joints]
        assert not expected[:, :, left_out].any()
        torch.testing.assert_close(
            got_shape, by_shape[:, where][..., list(block.components)], atol=1e-12, rtol=1e-10
        )
        unmoved = [s for s in components if s not in block.components]
        assert not by_shape[:, where][..., unmoved].any()
    assert seen == set(range(len(names)))
