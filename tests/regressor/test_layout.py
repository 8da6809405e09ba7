import pytest
import torch

from bodymodel.rotations import rotvec_to_rotmat
from regressor.layout import BODY_PARTS, HAND_PARTS, HEAD_PARTS, ParamLayout, Part


@pytest.mark.parametrize(
    ("parts", "size"), [(BODY_PARTS, 341), (HAND_PARTS, 109), (HEAD_PARTS, 165)]
)
@pytest.mark.parametrize("order", ["columns", "interleaved"])
def test_published_sizes_and_round_trip(parts, size, order):
    layout = ParamLayout(parts, order)
    assert layout.size == size
    generator = torch.Generator().manual_seed(3)
    values = {
        part.name: rotvec_to_rotmat(torch.randn(4, part.count, 3, generator=generator))
        if part.rotation
        else torch.randn(4, part.count, generator=generator)
        for part in parts
    }
    flat = layout.join(values)
    assert flat.shape == (4, size)
    for name, value in layout.split(flat).items():
        torch.testing.assert_close(value, values[name], atol=1e-5, rtol=0)


def test_interleaved_is_the_published_order():
    """HMR and those after it read six numbers as view(3, 2): rows of the first two columns."""
    layout = ParamLayout((Part("root", 1, rotation=True),), "interleaved")
    upright = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])
    flat = layout.join({"root": upright[None, None]})
    assert flat.tolist() == [[1, 0, 0, -1, 0, 0]]
    rotation = rotvec_to_rotmat(torch.randn(1, 3))
    flat = layout.join({"root": rotation[:, None]})
    torch.testing.assert_close(flat.view(3, 2), rotation[0, :, :2])


def test_replace_touches_only_what_is_named():
    layout = ParamLayout(HAND_PARTS)
    flat = torch.randn(2, layout.size)
    changed = layout.replace(flat, {"betas": torch.zeros(2, 10)})
    assert (changed[:, layout.slices["betas"]] == 0).all()
    others = torch.ones(layout.size, dtype=torch.bool)
    others[layout.slices["betas"]] = False
    assert torch.equal(changed[:, others], flat[:, others])


def test_wrong_width_is_refused():
    with pytest.raises(ValueError, match="expected"):
        ParamLayout(HAND_PARTS).split(torch.zeros(2, 108))
