"""Write a trained regressor for use without this package: ``python -m regressor.export``.

What is written takes a window of the photo and two maps, and gives the whole answer: ExPose cuts
the crops of hands and head itself, out of the window, so there is no network for crops alone to
write. The end of the name says what it becomes: .ts (TorchScript: C++, old and new PyTorch), .pt2
(torch.export, which PyTorch recommends now) or .onnx. It is checked against the model before it
gets its name. OUT.safetensors becomes weights for this package in half precision, half as large.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from regressor.weights import weights_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from regressor.checkpoints import Checkpoint
    from regressor.expose import Expose

INPUTS = ("source", "source_crop", "body_crop")
OUTPUTS = ("rotations", "betas", "expression", "camera", "points", "points_px")
TOLERANCE = 1e-4
"""Radians, coefficients, metres; of pixels, in units of half the body's crop."""


@dataclass(frozen=True)
class ExportConfig:
    """What is exported. Every field is a flag."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Weights of regressor.train, or bundled."""
    out: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.ts|.pt2|.onnx|.safetensors")
    ]
    """The file to write: .ts, .pt2, .onnx or .safetensors."""
    body: str = "open"
    """The body of the weights: open, or your own SMPL-X model."""
    seed: int = 0
    """Of the pictures that it is checked on."""


class UsageError(ValueError):
    """What was asked for cannot be done; the message says why and how to go on."""


class DifferenceError(RuntimeError):
    """What was written does not say what the model says."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    config = tyro.cli(ExportConfig, args=argv, description=__doc__)
    try:
        return export(config)
    except UsageError as error:
        print(f"regressor.export: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except DifferenceError as error:
        print(f"regressor.export: {error}", file=sys.stderr)  # noqa: T201
        return 1


def export(config: ExportConfig) -> int:
    """Export as configured; return the exit status."""
    writers = {".ts": _torchscript, ".pt2": _torch_export, ".onnx": _onnx}
    kind = config.out.suffix
    if kind not in (*writers, ".safetensors"):
        raise UsageError(f"{config.out} must end in one of {', '.join(writers)}, .safetensors")
    if kind == ".onnx":
        _require_onnx()
    weights = weights_file(config.checkpoint)
    if not weights.is_file():
        raise UsageError(f"there are no weights at {config.checkpoint}; regressor.train makes some")

    import torch

    from bodymodel.files import load_body
    from regressor.checkpoints import load_model, save_checkpoint

    body = load_body(config.body)
    try:
        model, checkpoint = load_model(body, weights)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if kind == ".safetensors":
        save_checkpoint(config.out, model, body.sha256, checkpoint.notes, half=True)
        print(json.dumps({"export": "done", "out": str(config.out)}))  # noqa: T201
        return 0
    unit = as_unit(model)
    about = _about(model, checkpoint)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    part = config.out.with_name(f"{config.out.stem}.part{kind}")
    generator = torch.Generator().manual_seed(config.seed)
    try:
        with torch.no_grad():
            written = writers[kind](unit, example(model, 2, 192, 160, generator), part, about)
            off = None if written is None else difference(model, unit, written, generator)
        if off is not None and max(off.values()) > TOLERANCE:
            raise DifferenceError(
                f"what was written differs from the model by {max(off.values()):.2g} "
                f"({', '.join(f'{k} {v:.2g}' for k, v in off.items())}), more than {TOLERANCE:g}; "
                "nothing is kept. Another version of PyTorch, or another format, may do better"
            )
        part.replace(config.out)
    finally:
        part.unlink(missing_ok=True)
    for name, value in (off or {}).items():
        print(f"{name:12s} differs by at most {value:.2g}")  # noqa: T201
    if off is None:
        print("not compared with the model: onnxruntime is not installed")  # noqa: T201
    if not body.is_open:
        print("the file holds a part of your body model; its licence is the file's, too")  # noqa: T201
    last = {
        "export": "done", "out": str(config.out), "bytes": config.out.stat().st_size,
        "max_difference": None if off is None else max(off.values()),
    }  # fmt: skip
    print(json.dumps(last))  # noqa: T201
    return 0


def as_unit(model: "Expose") -> "torch.nn.Module":
    """Return the model as a function of three tensors, and of as many as there are ``OUTPUTS``.

    In: ``source`` (B, 3, H, W), RGB in 0..1, a window of each photo of any size; ``source_crop``
    (B, 2, 3), from pixels of the photo to pixels of the window; ``body_crop`` (B, 2, 3), from
    pixels of the photo to those of the body network's square crop.

    Out: ``rotations`` (B, 55, 3, 3), ``betas`` (B, 10), ``expression`` (B, 10), ``camera`` (B, 3)
    raw weak-perspective, ``points`` (B, P, 3) metres around the pelvis, ``points_px`` (B, P, 2).
    """
    import torch

    from regressor.crops import AffineCrop
    from regressor.expose import Pictures

    class Unit(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.requires_grad_(False).eval()

        def forward(self, source: "Tensor", source_crop: "Tensor", body_crop: "Tensor"):
            pictures = Pictures(
                source,
                AffineCrop(source_crop, 0),  # the window's size is nowhere asked for
                AffineCrop(body_crop, self.model.config.body_size),
            )
            final = self.model(pictures).final
            return tuple(getattr(final, name) for name in OUTPUTS)

    return Unit().eval()


def example(
    model: "Expose", batch: int, height: int, width: int, generator: "torch.Generator"
) -> "tuple[Tensor, Tensor, Tensor]":
    """Return random pictures, smooth enough to be told apart, with drawn crops."""
    import torch

    from regressor.crops import AffineCrop

    def drawn(low: float, high: float, *shape: int) -> "Tensor":
        return low + (high - low) * torch.rand(*shape, generator=generator)

    small = drawn(0, 1, batch, 3, 12, 12)
    source = torch.nn.functional.interpolate(small, size=(height, width), mode="bilinear")
    middle = torch.tensor([width / 2, height / 2]) + drawn(-20, 20, batch, 2)
    window = torch.eye(3)[:2].expand(batch, 2, 3).clone()
    window[:, :, 2] = drawn(-30, 30, batch, 2)
    center = middle - window[:, :, 2]
    side, angle = drawn(0.6, 1.0, batch) * height, drawn(-0.4, 0.4, batch)
    crop = AffineCrop.from_boxes(center, side, model.config.body_size, rotation=angle)
    return source, window, crop.matrix


def difference(
    model: "Expose",
    unit: "torch.nn.Module",
    written: "Callable[..., Sequence[Tensor]]",
    generator: "torch.Generator",
) -> dict[str, float]:
    """Return by output how far a written model is off, on other sizes than it was traced with."""
    off = dict.fromkeys(OUTPUTS, 0.0)
    for batch, height, width in ((1, 240, 320), (3, 320, 224)):
        given = example(model, batch, height, width, generator)
        half = 0.6 * height / 2
        for name, a, b in zip(OUTPUTS, unit(*given), written(*given), strict=True):
            if a.shape != b.shape:
                raise DifferenceError(f"{name} is {tuple(b.shape)}, expected {tuple(a.shape)}")
            apart = float((a - b).abs().max()) / (half if name == "points_px" else 1)
            # NaN compares with nothing: it must not pass for small
            off[name] = max(off[name], math.inf if math.isnan(apart) else apart)
    return off


def _about(model: "Expose", checkpoint: "Checkpoint") -> dict[str, str]:
    """What has to be known beside the arrays, as text."""
    return {
        "inputs": json.dumps(INPUTS),
        "outputs": json.dumps(OUTPUTS),
        "body_size": str(model.config.body_size),
        "points": json.dumps(model.point_names),
        "body_sha256": checkpoint.body_sha256,
    }


def _torchscript(unit: "torch.nn.Module", given: tuple, path: Path, about: dict[str, str]) -> Any:
    import warnings

    import torch

    with warnings.catch_warnings():
        # deprecated since 2.9, and warns of every size it sees; what it made of them is checked
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(unit, given, check_trace=False)
        torch.jit.save(traced, str(path), _extra_files=about)
        return torch.jit.load(str(path))


def _captured(unit: "torch.nn.Module", given: tuple) -> "torch.export.ExportedProgram":
    import warnings

    import torch

    batch = torch.export.Dim("batch", min=1, max=4096)
    sides = {
        k: torch.export.Dim(n, min=32, max=16384) for k, n in ((2, "window_h"), (3, "window_w"))
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(
            unit, given, dynamic_shapes=({0: batch, **sides}, {0: batch}, {0: batch})
        )


def _torch_export(unit: "torch.nn.Module", given: tuple, path: Path, about: dict[str, str]) -> Any:
    import warnings

    import torch

    program = _captured(unit, given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, str(path), extra_files=about)
        return torch.export.load(str(path)).module()


def _require_onnx() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"writing .onnx needs {' and '.join(missing)}, which PyTorch's exporter is built on: "
            "pip install onnx onnxscript (and onnxruntime, to have the file checked). "
            ".ts and .pt2 need nothing"
        )


def _onnx(unit: "torch.nn.Module", given: tuple, path: Path, about: dict[str, str]) -> Any:
    import logging
    import warnings
    from importlib.util import find_spec

    import onnx
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # of packages that it does not need
    program = _captured(unit, given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            program, (), str(path), input_names=INPUTS, output_names=OUTPUTS,
            external_data=False, verbose=False,
        )  # fmt: skip
    graph = onnx.load(str(path))
    onnx.helper.set_model_props(graph, about)
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(*tensors: "Tensor") -> "list[Tensor]":
        arrays = {name: t.numpy() for name, t in zip(INPUTS, tensors, strict=True)}
        return [torch.from_numpy(a) for a in session.run(list(OUTPUTS), arrays)]

    return run


if __name__ == "__main__":
    sys.exit(main())
