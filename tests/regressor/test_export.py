import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

import regressor.export
from bodymodel.files import load_body
from regressor.checkpoints import save_checkpoint
from regressor.export import INPUTS, OUTPUTS, as_unit, example, main
from regressor.expose import Expose, ExposeConfig

SMALL = replace(ExposeConfig.tiny(), body_size=64, hand_size=64, head_size=64)


def weights(folder, **changes):
    """A model whose parts do correct something."""
    torch.manual_seed(0)
    body = load_body()
    model = Expose(body, replace(SMALL, **changes)).eval()
    with torch.no_grad():
        for name in ("body", "hand", "head"):
            expert = getattr(model, name, None)
            for step in expert.head.steps if expert is not None else ():
                step[-1].bias.normal_(std=0.03)
                step[-1].weight.normal_(std=0.01)
    save_checkpoint(folder / "w.safetensors", model, body.sha256, {})
    return folder / "w.safetensors", model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint and its model."""
    return weights(tmp_path_factory.mktemp("weights"))


def last_line(capsys):
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.mark.parametrize("parts", [True, False], ids=["whole", "body"])
def test_torchscript_says_what_the_model_says_without_this_package(tmp_path, capsys, parts):
    path, model = weights(tmp_path, parts=parts)
    out = tmp_path / "here" / "model.ts"
    assert main([str(path), str(out)]) == 0
    last = last_line(capsys)
    assert last["export"] == "done" and last["max_difference"] < 1e-5
    assert last["bytes"] == out.stat().st_size
    assert sorted(p.name for p in out.parent.iterdir()) == ["model.ts"]
    given = example(model, 5, 97, 130, torch.Generator().manual_seed(3))
    torch.save(given, tmp_path / "given.pt")
    code = (
        "import torch, json\n"
        "about = {'inputs': '', 'outputs': '', 'body_size': '', 'points': ''}\n"
        "net = torch.jit.load('here/model.ts', _extra_files=about)\n"
        "with torch.no_grad():\n"
        "    found = net(*torch.load('given.pt', weights_only=True))\n"
        "torch.save(list(found), 'found.pt')\n"
        "print(json.dumps({k: json.loads(v) for k, v in about.items()}))\n"
    )
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    about = json.loads(told.stdout)
    assert about["inputs"] == list(INPUTS) and about["outputs"] == list(OUTPUTS)
    assert about["body_size"] == 64 and about["points"] == list(model.point_names)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    with torch.no_grad():
        wanted = as_unit(model)(*given)
    for name, a, b in zip(OUTPUTS, wanted, found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3 if name == "points_px" else 1e-5, rtol=1e-5)
    # persons of one batch look different, or nothing of this would tell
    assert (wanted[0][0] - wanted[0][1]).abs().max() > 1e-4


def test_the_window_is_where_its_map_says(made):
    """The same photo through two windows gives the same person."""
    _, model = made
    source, window, crop = example(model, 2, 160, 160, torch.Generator().manual_seed(0))
    unit = as_unit(model)
    wider = torch.nn.functional.pad(source, (7, 0, 5, 0))
    moved = window.clone()
    moved[:, :, 2] += torch.tensor([7.0, 5.0])
    with torch.no_grad():
        a, b = unit(source, window, crop), unit(wider, moved, crop)
    torch.testing.assert_close(a[0], b[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(a[5], b[5], atol=1e-2, rtol=0)


@pytest.mark.slow
def test_torch_export_takes_any_batch_and_window(tmp_path, capsys, made):
    path, _ = made
    assert main([str(path), str(tmp_path / "model.pt2")]) == 0
    assert last_line(capsys)["max_difference"] < 1e-5


@pytest.mark.slow
def test_onnx_says_what_the_model_says(tmp_path, capsys, made):
    pytest.importorskip("onnxscript", reason="pip install onnx onnxscript onnxruntime")
    runtime = pytest.importorskip("onnxruntime")
    path, model = made
    assert main([str(path), str(tmp_path / "model.onnx")]) == 0
    assert last_line(capsys)["max_difference"] < 1e-4
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    assert [i.name for i in session.get_inputs()] == list(INPUTS)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["points"]) == list(model.point_names)


def test_without_onnx_it_says_what_to_install(tmp_path, capsys, monkeypatch, made):
    path, _ = made
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if "onnx" in name else find_spec(name)
    )
    assert main([str(path), str(tmp_path / "model.onnx")]) == 2
    said = capsys.readouterr().err
    assert "pip install onnx onnxscript" in said and ".ts" in said
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    ("which", "wrong"), [("rotations", 3e-4), ("camera", float("nan")), ("points_px", 0.05)]
)
def test_what_says_something_else_is_not_kept(tmp_path, capsys, monkeypatch, made, which, wrong):
    def bad(unit, given, file, about):
        file.write_bytes(b"something")

        def run(*tensors):
            found = list(unit(*tensors))
            at = OUTPUTS.index(which)
            found[at] = found[at] + wrong
            return found

        return run

    monkeypatch.setattr(regressor.export, "_torchscript", bad)
    assert main([str(made[0]), str(tmp_path / "model.ts")]) == 1
    said = capsys.readouterr().err
    assert "differs from the model" in said and f"{which} " in said
    assert not list(tmp_path.iterdir())


def test_bad_arguments_are_told(tmp_path, capsys, made):
    path, _ = made
    assert main([str(path), str(tmp_path / "model.pth")]) == 2
    assert "must end in one of .ts, .pt2, .onnx" in capsys.readouterr().err
    assert main([str(tmp_path / "none"), str(tmp_path / "model.ts")]) == 2
    assert "no weights at" in capsys.readouterr().err
    (tmp_path / "x").write_bytes(b"\x00" * 20)
    assert main([str(tmp_path / "x"), str(tmp_path / "model.ts")]) == 2
    assert "cannot be read" in capsys.readouterr().err
