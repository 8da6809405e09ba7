"""Networks of .tflite files in PyTorch against the runtime that they were made for."""

import copy
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from regressor.tflite_graph import TfliteGraph

MODULES = Path(find_spec("mediapipe").submodule_search_locations[0]) / "modules"
FILES = (
    "pose_landmark/pose_landmark_full.tflite",
    "hand_landmark/hand_landmark_full.tflite",
    "hand_landmark/hand_landmark_lite.tflite",
    "face_landmark/face_landmark.tflite",
)


@pytest.mark.parametrize("name", FILES)
def test_answers_are_those_of_tensorflow_lite(name):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    path = MODULES / name
    runtime = interpreter.Interpreter(str(path), num_threads=1)
    runtime.allocate_tensors()
    outputs = [entry["index"] for entry in runtime.get_output_details()]
    graph = TfliteGraph(path, outputs)
    picture = np.random.default_rng(0).random((1, *graph.input_size, 3), np.float32)
    runtime.set_tensor(runtime.get_input_details()[0]["index"], picture)
    runtime.invoke()
    found = graph(torch.from_numpy(picture).permute(0, 3, 1, 2))
    for index, shape, tensor in zip(outputs, graph.shapes, found, strict=True):
        wanted = runtime.get_tensor(index)
        assert tuple(tensor.shape[1:]) == shape
        own = tensor.flatten(2).mT.numpy() if tensor.dim() == 4 else tensor.numpy()
        off = np.abs(own.reshape(wanted.shape) - wanted).max()
        assert off < 2e-4 * max(1.0, np.abs(wanted).max()), index


@pytest.fixture(scope="module")
def hand():
    return TfliteGraph(MODULES / FILES[1], (160, 165))


def test_a_picture_does_not_depend_on_its_company(hand):
    pictures = torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    together, alone = hand(pictures)[1], hand(pictures[1:2])[1]
    torch.testing.assert_close(together[1:2], alone, atol=1e-3, rtol=1e-4)


def test_weights_are_constants(hand):
    assert not list(hand.parameters()) and not hand.state_dict()
    assert len(dict(hand.named_buffers())) > 90


def test_a_copy_is_its_own(hand):
    other = copy.deepcopy(hand)
    for buffer in other.buffers():
        buffer.zero_()
    picture = torch.rand(1, 3, 224, 224)
    assert other(picture)[1].abs().max() == 0 < hand(picture)[1].abs().max()


def test_the_slope_of_the_picture_is_right(hand):
    """In-place rectifiers must not spoil what autograd needs."""
    small = copy.deepcopy(hand).double()
    generator = torch.Generator().manual_seed(2)
    picture = torch.rand(1, 3, 224, 224, dtype=torch.float64, generator=generator)
    way = torch.randn(picture.shape, dtype=torch.float64, generator=generator)
    picture.requires_grad_()
    (slope,) = torch.autograd.grad(small(picture)[1].sum(), picture)
    step = 1e-8  # between two kinks of its hundred thousand rectifiers
    with torch.no_grad():
        ahead, behind = (small(picture + s * step * way)[1].sum() for s in (1, -1))
    expected = (slope * way).sum()
    assert torch.isclose((ahead - behind) / (2 * step), expected, rtol=1e-3)


def test_only_layers_on_the_way_are_kept():
    whole = TfliteGraph(MODULES / FILES[0], (336,))
    early = TfliteGraph(MODULES / FILES[0], (277,))
    assert len(early._layers) < len(whole._layers) or len(early.state_dict()) == 0
    assert all(layer.output != 297 for layer in whole._layers)  # the mask nobody asked for


def test_errors_say_what_is_wrong(hand, tmp_path):
    with pytest.raises(ValueError, match=r"looks at \(224, 224\) pixels, got \(100, 224\)"):
        hand(torch.zeros(1, 3, 100, 224))
    with pytest.raises(ValueError, match=r"tensors, no \[999\]"):
        TfliteGraph(MODULES / FILES[1], (999,))
    with pytest.raises(ValueError, match="no layer that makes tensor 1"):
        TfliteGraph(MODULES / FILES[1], (1,))
    (tmp_path / "x.tflite").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"is no \.tflite file"):
        TfliteGraph(tmp_path / "x.tflite", (0,))
    attention = MODULES / "face_landmark" / "face_landmark_with_attention.tflite"
    last = _outputs(attention)
    with pytest.raises(ValueError, match="that is not known"):
        TfliteGraph(attention, last)


def _outputs(path: Path) -> list[int]:
    import tflite

    graph = tflite.Model.GetRootAsModel(path.read_bytes(), 0).Subgraphs(0)
    return [int(k) for k in graph.OutputsAsNumpy()]
