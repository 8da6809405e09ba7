"""MediaPipe's landmark networks as encoders, with the weights that its wheel carries.

They have seen many photos of people, hands and faces, which a network trained here on rendered
people has not; so a regressor that is built upon them and learns only its own layers knows photos
from the start. MediaPipe runs them on a crop turned upright and reads landmarks off; here the
features on the way to those are read, too. They are used as they are: nothing in them is trained,
and checkpoints do not hold them.

BlazePose (Bazarevsky et al. 2020), MediaPipe Hands (Zhang et al. 2020), Face Mesh (Kartynnik et
al. 2019); all Apache-2.0.
"""

import hashlib
import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from regressor.tflite_graph import TfliteGraph

Part = Literal["pose", "hand", "face"]


@dataclass(frozen=True)
class _File:
    """Where a network lies in the wheel, and which of its tensors are read.

    Attributes:
        name: Below ``mediapipe/modules``.
        sha256: Of the file that the tensors' numbers belong to.
        size: Side of its picture.
        maps: Stride -> tensors, joined.
        features: A tensor of features of the whole crop.
        points: Landmarks in pixels of the crop, and how many numbers each has; only the first
            three, x y z, are lengths.
        metric: Landmarks in metres around their middle, or None.
    """

    name: str
    sha256: str
    size: int
    maps: dict[int, tuple[int, ...]]
    features: int
    points: tuple[int, int]
    metric: int | None


_FILES: dict[Part, _File] = {
    "pose": _File(
        "pose_landmark/pose_landmark_full.tflite",
        "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
        256, {8: (277,), 16: (275, 251), 32: (271,)}, 335, (336, 5), 338,
    ),
    "hand": _File(
        "hand_landmark/hand_landmark_full.tflite",
        "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",
        224, {16: (142,), 32: (157,)}, 160, (165, 3), 166,
    ),
    "face": _File(
        "face_landmark/face_landmark.tflite",
        "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
        192, {32: (141,)}, 179, (213, 3), None,
    ),
}  # fmt: skip
_LOGIT_SCALE, _METRES_SCALE = 0.1, 5.0  # to numbers of about one, as the other features are


class MediaPipeEncoder(nn.Module):
    """One of the networks.

    Args:
        part: Which.

    Attributes:
        channels: By stride, of the maps that ``forward`` returns. The last is no map: under the
            crop's side it has one cell, features of the whole crop and the landmarks found.

    Raises:
        ImportError: If MediaPipe is not installed.
        ValueError: If its file is another than the one known here.
    """

    def __init__(self, part: Part) -> None:
        super().__init__()
        self._file = file = _FILES[part]
        order = [k for tensors in file.maps.values() for k in tensors]
        order += [file.features, file.points[0]]
        self.graph = TfliteGraph(
            _path(file), [*order, *(() if file.metric is None else (file.metric,))]
        )
        of = dict(zip(self.graph.outputs, self.graph.shapes, strict=True))
        self.channels = {s: sum(of[k][0] for k in ks) for s, ks in file.maps.items()}
        # each tensor has its own range, up to some hundreds
        self.scale = nn.ModuleDict(
            {str(s): nn.BatchNorm2d(n, affine=False) for s, n in self.channels.items()}
        )
        features = math.prod(of[file.features])
        self.scale_features = nn.BatchNorm1d(features, affine=False)
        landmarks = of[file.points[0]][0] + (0 if file.metric is None else of[file.metric][0])
        self.channels[file.size] = features + landmarks

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """(B, 3, size, size) in 0..1 -> (B, C, size / stride, size / stride) by stride."""
        file = self._file
        found = dict(zip(self.graph.outputs, self.graph(image), strict=True))
        maps = {
            stride: self.scale[str(stride)](torch.cat([found[k] for k in tensors], 1))
            for stride, tensors in file.maps.items()
        }
        tensor, each = file.points
        points = found[tensor].float().flatten(1).unflatten(1, (-1, each))
        # around the crop's middle, so that a shift of the person is a shift of the numbers
        places = points[..., :2] / file.size - 0.5
        depths, logits = points[..., 2:3] / file.size, points[..., 3:] * _LOGIT_SCALE
        whole = [
            self.scale_features(found[file.features].float().flatten(1)),
            torch.cat([places, depths, logits], -1).flatten(1),
        ]
        if file.metric is not None:
            whole.append(found[file.metric].float().flatten(1) * _METRES_SCALE)
        maps[file.size] = torch.cat(whole, 1)[:, :, None, None]
        return maps


def _path(file: _File) -> Path:
    """Where the file lies; its numbers of tensors hold for one version only."""
    spec = find_spec("mediapipe")  # without importing it: that takes a second
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "weights that stand on MediaPipe's networks need its wheel; pip install "
            "'mediapipe==0.10.21' (a dependency of pseudogt)"
        )
    path = Path(spec.submodule_search_locations[0]) / "modules" / file.name
    have = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no such file"
    if have != file.sha256:
        raise ValueError(
            f"{path} is not the network that is known here (sha256 {file.sha256[:12]}, got "
            f"{have[:12]}); pip install 'mediapipe==0.10.21'"
        )
    return path
