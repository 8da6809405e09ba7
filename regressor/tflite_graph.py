"""Networks of ``.tflite`` files as PyTorch modules, so that what they see can be built upon.

MediaPipe's wheel carries networks that were trained on many photos of people. Its own runtime gives
only their last answers, one picture at a time; here the layers of such a file run in PyTorch, in
batches, on any device, and any tensor on the way can be asked for. Layers that those files have are
known, no others. Weights are constants: they are not trained, and not part of ``state_dict``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

_TYPES = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 9: np.int8}


@dataclass(frozen=True, eq=False)
class _Layer:
    """One operation: what is done, to which tensors and with which weights, what comes out."""

    run: Callable[..., Tensor]
    inputs: tuple[int, ...]
    weights: tuple[str, ...]
    output: int


class TfliteGraph(nn.Module):
    """The layers of a file that lead to some of its tensors.

    Args:
        path: A ``.tflite`` file with one picture as input.
        outputs: Indices of the tensors wanted, as viewers of such files (Netron) show them.

    Attributes:
        input_size: (height, width) of the picture.
        shapes: Of each output, (C, h, w) or (C,), as ``forward`` returns them.

    Raises:
        ValueError: If the file cannot be read, or has a layer or tensor that is not known.
    """

    def __init__(self, path: Path, outputs: Sequence[int]) -> None:
        import tflite

        super().__init__()
        data = path.read_bytes()
        if data[4:8] != b"TFL3":
            raise ValueError(f"{path} is no .tflite file")
        model = tflite.Model.GetRootAsModel(data, 0)
        graph = model.Subgraphs(0)
        reader = _Reader(model, graph, path)
        self.outputs = tuple(outputs)
        unknown = [k for k in outputs if not 0 <= k < graph.TensorsLength()]
        if unknown:
            raise ValueError(f"{path} has {graph.TensorsLength()} tensors, no {unknown}")
        self.shapes = tuple(_channels_first(reader.shape(k)) for k in outputs)
        (self._input,) = (int(k) for k in graph.InputsAsNumpy())
        _, height, width, _ = reader.shape(self._input)
        self.input_size = (height, width)
        self._layers = self._needed(reader)

    def _needed(self, reader: "_Reader") -> list[_Layer]:
        """The layers on the way to the outputs, in order; their weights become buffers."""
        made_by = {op.Outputs(0): op for op in reader.operators() if not reader.is_weight(op)}
        wanted, seen = list(self.outputs), set()
        while wanted:
            tensor = wanted.pop()
            if tensor == self._input or tensor in seen:
                continue
            seen.add(tensor)
            if tensor not in made_by:
                raise ValueError(f"{reader.path} has no layer that makes tensor {tensor}")
            wanted += reader.variable_inputs(made_by[tensor])
        layers = []
        for op in (op for output, op in made_by.items() if output in seen):  # in the file's order
            run, weights = reader.layer(op)
            names = []
            for weight in weights:
                names.append(f"w{len(self._buffers)}")
                self.register_buffer(names[-1], torch.from_numpy(weight), persistent=False)
            inputs = tuple(reader.variable_inputs(op))
            layers.append(_Layer(run, inputs, tuple(names), op.Outputs(0)))
        return layers

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Run it.

        Args:
            image: (B, 3, H, W) of ``input_size``, scaled as the file expects.

        Returns:
            The wanted tensors, (B, C, h, w) each, or (B, C).

        Raises:
            ValueError: If the picture has another size.
        """
        if tuple(image.shape[-2:]) != self.input_size:
            raise ValueError(
                f"this network looks at {self.input_size} pixels, got {tuple(image.shape[-2:])}"
            )
        known = {self._input: image}
        for layer in self._layers:
            weights = (self._buffers[name] for name in layer.weights)
            known[layer.output] = layer.run(*(known[k] for k in layer.inputs), *weights)
        return tuple(known[k] for k in self.outputs)


class _Reader:
    """What a file says, in NumPy's and PyTorch's terms."""

    def __init__(self, model: Any, graph: Any, path: Path) -> None:
        import tflite

        self.model, self.graph, self.path, self._schema = model, graph, path, tflite
        names = {v: k for k, v in vars(tflite.BuiltinOperator).items() if isinstance(v, int)}
        codes = [model.OperatorCodes(k) for k in range(model.OperatorCodesLength())]
        # the field grew out of a byte: readers take the larger of the old and the new one
        self._kinds = [names[max(c.BuiltinCode(), c.DeprecatedBuiltinCode())] for c in codes]
        self._unpacked = {  # weights are stored as half precision and unpacked by a layer
            op.Outputs(0): op.Inputs(0) for op in self.operators() if self.is_weight(op)
        }

    def operators(self) -> list[Any]:
        return [self.graph.Operators(k) for k in range(self.graph.OperatorsLength())]

    def kind(self, op: Any) -> str:
        return self._kinds[op.OpcodeIndex()]

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(int(n) for n in self.graph.Tensors(tensor).ShapeAsNumpy())

    def is_weight(self, op: Any) -> bool:
        return self.kind(op) == "DEQUANTIZE"

    def _buffer(self, tensor: int) -> Any:
        """Where the numbers of a tensor lie; empty if a layer makes it."""
        return self.model.Buffers(self.graph.Tensors(self._unpacked.get(tensor, tensor)).Buffer())

    def _constant(self, tensor: int) -> np.ndarray:
        """The numbers of a tensor that no layer makes."""
        entry = self.graph.Tensors(self._unpacked.get(tensor, tensor))
        raw = self._buffer(tensor).DataAsNumpy().tobytes()
        values = np.frombuffer(raw, _TYPES[entry.Type()])
        values = values.reshape(self.shape(tensor)) if entry.ShapeLength() else values
        return values.astype(np.float32) if values.dtype == np.float16 else values

    def _inputs(self, op: Any, constant: bool) -> list[int]:
        inputs = [int(k) for k in op.InputsAsNumpy() if k >= 0]
        return [k for k in inputs if bool(self._buffer(k).DataLength()) == constant]

    def variable_inputs(self, op: Any) -> list[int]:
        return self._inputs(op, constant=False)

    def weights(self, op: Any) -> list[np.ndarray]:
        return [self._constant(k) for k in self._inputs(op, constant=True)]

    def options(self, op: Any, kind: type) -> Any:
        table, options = op.BuiltinOptions(), kind()
        options.Init(table.Bytes, table.Pos)
        return options

    def activation(self, code: int) -> Callable[[Tensor], Tensor]:
        kinds = self._schema.ActivationFunctionType
        known = {
            kinds.NONE: lambda x: x,
            kinds.RELU: partial(functional.relu, inplace=True),
            kinds.RELU6: partial(functional.relu6, inplace=True),
        }
        if code not in known:
            raise ValueError(f"{self.path} has an activation ({code}) that is not known")
        return known[code]

    def layer(self, op: Any) -> tuple[Callable[..., Tensor], list[np.ndarray]]:
        """What a layer does, as a function of its variable inputs and of weights."""
        kind, weights = self.kind(op), self.weights(op)
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            return self._convolution(op, weights, kind == "DEPTHWISE_CONV_2D")
        if kind == "FULLY_CONNECTED":
            options = self.options(op, self._schema.FullyConnectedOptions)
            act = self.activation(options.FusedActivationFunction())
            return (lambda x, w, b: act(functional.linear(x.flatten(1), w, b))), weights
        if kind == "ADD":
            options = self.options(op, self._schema.AddOptions)
            act = self.activation(options.FusedActivationFunction())
            return (lambda a, b: act(a + b)), weights
        if kind == "PAD":
            (amounts,) = weights  # (4, 2): batch, rows, columns, channels
            (top, bottom), (left, right), last = amounts[1], amounts[2], amounts[3]
            pads = tuple(int(n) for n in (left, right, top, bottom, *last))
            return partial(functional.pad, pad=pads), []
        if kind == "MAX_POOL_2D":
            options = self.options(op, self._schema.Pool2DOptions)
            size = (options.FilterHeight(), options.FilterWidth())
            stride = (options.StrideH(), options.StrideW())
            pads = self._pads(op, options, size, (1, 1))
            return partial(_max_pool, size=size, stride=stride, pads=pads), []
        if kind == "RESIZE_BILINEAR":
            options = self.options(op, self._schema.ResizeBilinearOptions)
            if not options.HalfPixelCenters() or options.AlignCorners():
                raise ValueError(f"{self.path} resizes by pixels' corners, which is not known here")
            size = self.shape(op.Outputs(0))[1:3]
            resize = partial(functional.interpolate, mode="bilinear", align_corners=False)
            return partial(resize, size=size), []
        if kind == "PRELU":
            return functional.prelu, [weights[0].reshape(-1)]
        if kind == "MEAN":
            return (lambda x: x.mean((-2, -1))), []
        if kind == "LOGISTIC":
            return torch.sigmoid, []
        if kind == "RESHAPE":
            if any(n != 1 for n in self.shape(op.Inputs(0))[1:3]):
                raise ValueError(f"{self.path} reshapes a map, which is not known here")
            return (lambda x: x.flatten(1)), []
        raise ValueError(f"{self.path} has a layer {kind} that is not known")

    def _convolution(
        self, op: Any, weights: list[np.ndarray], depthwise: bool
    ) -> tuple[Callable[..., Tensor], list[np.ndarray]]:
        schema = self._schema
        kind = schema.DepthwiseConv2DOptions if depthwise else schema.Conv2DOptions
        options = self.options(op, kind)
        kernel, bias = weights
        # to (out, in / groups, height, width)
        kernel = kernel.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
        dilation = (options.DilationHFactor(), options.DilationWFactor())
        run = partial(
            _convolve,
            stride=(options.StrideH(), options.StrideW()),
            dilation=dilation,
            pads=self._pads(op, options, kernel.shape[2:], dilation),
            groups=kernel.shape[0] if depthwise else 1,
            activation=self.activation(options.FusedActivationFunction()),
        )
        return run, [np.ascontiguousarray(kernel), np.ascontiguousarray(bias)]

    def _pads(
        self, op: Any, options: Any, size: Sequence[int], dilation: Sequence[int]
    ) -> tuple[int, int, int, int]:
        """Left, right, top, bottom; "same" puts the odd pixel after, unlike PyTorch."""
        if options.Padding() != self._schema.Padding.SAME:
            return (0, 0, 0, 0)
        pads: list[int] = []
        strides = (options.StrideH(), options.StrideW())
        for axis in (1, 0):
            have = self.shape(op.Inputs(0))[1 + axis]
            makes = self.shape(op.Outputs(0))[1 + axis]
            reach = (size[axis] - 1) * dilation[axis] + 1
            total = max(0, (makes - 1) * strides[axis] + reach - have)
            pads += [total // 2, total - total // 2]
        left, right, top, bottom = pads
        return (left, right, top, bottom)


def _channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(1, h, w, C) or (1, C) -> (C, h, w) or (C,)."""
    return (shape[-1], *shape[1:-1])


def _convolve(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: tuple[int, int, int, int],
    groups: int,
    activation: Callable[[Tensor], Tensor],
) -> Tensor:
    left, right, top, bottom = pads
    if left == right and top == bottom:
        padding = (top, left)
    else:
        x, padding = functional.pad(x, pads), (0, 0)
    return activation(functional.conv2d(x, kernel, bias, stride, padding, dilation, groups))


def _max_pool(
    x: Tensor, size: tuple[int, int], stride: tuple[int, int], pads: tuple[int, int, int, int]
) -> Tensor:
    if any(pads):
        x = functional.pad(x, pads, value=-torch.inf)
    return functional.max_pool2d(x, size, stride)
