"""From examples to batches: drawn crops, colours and flips, the labels turned along.

Ranges are ExPose's released ones (its ``conf.yaml``). What turns a person into their mirror image
exchanges left and right in every label; expression components have no mirror and are dropped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from bodymodel.keypoints import flip_order
from bodymodel.rotations import rotvec_to_rotmat
from regressor.crops import AffineCrop
from regressor.examples import Example
from regressor.expose import Pictures
from regressor.kinematics import BODY_MIRROR, ROTATIONS, mirror_rotations
from regressor.targets import Targets

_JOINTS = {
    "global_orient": (0,), "body_pose": range(1, 22), "jaw_pose": (22,), "leye_pose": (23,),
    "reye_pose": (24,), "left_hand_pose": range(25, 40), "right_hand_pose": range(40, 55),
}  # fmt: skip
_MIRRORED_JOINTS = [0, *(1 + k for k in BODY_MIRROR), 22, 24, 23, *range(40, 55), *range(25, 40)]
_FLIPPED_POINTS = flip_order("fit").tolist()
SOURCE_MARGIN = 1.4
"""Side of the pixels at hand over the side of the body's crop, so that hands that stick out and
turned crops still find pixels."""


@dataclass(frozen=True)
class AugmentConfig:
    """How far crops are drawn from the plain one."""

    body_margin: float = 1.2
    """Side of the body's crop over the tight box."""
    scale: float = 0.25
    """Deviation of the size, relative; drawn sizes are at most this far off."""
    rotation_deg: float = 30.0
    """Deviation of the turn in the picture; at most twice this."""
    rotation_share: float = 0.4
    """How often crops are turned at all."""
    shift: float = 0.05
    """Deviation of the middle, of the side."""
    flip_share: float = 0.5
    """How often crops are mirrored."""
    colour: float = 0.4
    """Channels are scaled by 1 +- this."""

    @classmethod
    def none(cls) -> "AugmentConfig":
        """The plain crop."""
        return cls(scale=0, rotation_deg=0, rotation_share=0, shift=0, flip_share=0, colour=0)


@dataclass(frozen=True, eq=False)
class Batch:
    """What a step of training takes.

    Attributes:
        pictures: Pixels and crops; pixel coordinates are those of the photo, mirrored where the
            crop is.
        targets: Labels in the same frames.
        sources: Of each example.
        keys: Of each example.
    """

    pictures: Pictures
    targets: Targets
    sources: tuple[str, ...]
    keys: tuple[str, ...]

    def to(self, device: torch.device | str) -> "Batch":
        """Return it on a device."""

        def moved(crop: AffineCrop) -> AffineCrop:
            return AffineCrop(crop.matrix.to(device), crop.size)

        pictures = Pictures(
            self.pictures.source.to(device).float() / 255,
            moved(self.pictures.source_crop),
            moved(self.pictures.body_crop),
        )
        return Batch(pictures, self.targets.to(device), self.sources, self.keys)


@dataclass(frozen=True, eq=False)
class _Cut:
    source: Tensor
    source_crop: Tensor
    body_crop: Tensor
    targets: dict[str, Tensor]


def make_batch(
    examples: Sequence[Example],
    config: AugmentConfig,
    body_size: int,
    source_size: int,
    rng: np.random.Generator,
) -> Batch:
    """Cut the pictures and turn the labels along.

    Args:
        examples: Of whole persons.
        config: What is drawn.
        body_size: Side of the body network's crop.
        source_size: Side of the pixels at hand, from which parts are cut; larger is sharper.
        rng: What draws.

    Returns:
        The batch; ``pictures.source`` is uint8 until ``Batch.to``.
    """
    cuts = [_cut(example, config, body_size, source_size, rng) for example in examples]
    targets = Targets(
        **{f.name: torch.stack([cut.targets[f.name] for cut in cuts]) for f in fields(Targets)}
    )
    pictures = Pictures(
        torch.stack([cut.source for cut in cuts]),
        AffineCrop(torch.stack([cut.source_crop for cut in cuts]), source_size),
        AffineCrop(torch.stack([cut.body_crop for cut in cuts]), body_size),
    )
    return Batch(
        pictures, targets, tuple(e.source for e in examples), tuple(e.key for e in examples)
    )


def _cut(
    example: Example,
    config: AugmentConfig,
    body_size: int,
    source_size: int,
    rng: np.random.Generator,
) -> _Cut:
    image = example.picture.load()
    width = image.shape[1]
    flip = rng.random() < config.flip_share
    angle = 0.0
    if rng.random() < config.rotation_share:
        limit = 2 * config.rotation_deg
        angle = math.radians(np.clip(config.rotation_deg * rng.standard_normal(), -limit, limit))
    scale = 1 + np.clip(config.scale * rng.standard_normal(), -config.scale, config.scale)
    center = np.asarray(example.center_px, np.float64).copy()
    center += config.shift * example.side_px * rng.standard_normal(2)
    if flip:  # the photo itself is mirrored, so every frame below is that of a common photo
        image = image[:, ::-1]
        center[0] = width - center[0]
    side = config.body_margin * example.side_px * scale

    def crop(size: int, side: float, angle: float) -> Tensor:
        return AffineCrop.from_boxes(
            torch.tensor(center[None], dtype=torch.float32),
            torch.tensor([side], dtype=torch.float32),
            size,
            rotation=torch.tensor([angle], dtype=torch.float32),
        ).matrix[0]

    source_crop = crop(source_size, SOURCE_MARGIN * side, 0.0)
    pixels = _warp(image, source_crop.numpy(), source_size)
    gain = 1 + config.colour * rng.uniform(-1, 1, 3)
    if config.colour:
        pixels = np.clip(pixels * gain, 0, 255).astype(np.uint8)
    targets = _turn(_labels(example), angle, flip, width)
    return _Cut(
        torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
        source_crop,
        crop(body_size, side, angle),
        targets,
    )


def _warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Cut by an unrotated map, averaging where pixels get larger (bilinear alone would flicker)."""
    from PIL import Image

    scale = matrix[0, 0]
    left, top = -matrix[:, 2] / scale
    right, bottom = left + size / scale, top + size / scale
    height, width = image.shape[:2]
    inside = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    out = np.zeros((size, size, 3), np.uint8)
    if inside[0] >= inside[2] - 1 or inside[1] >= inside[3] - 1:
        return out
    # whole pixels of the crop whose area lies in the photo
    x0, y0 = (math.ceil((inside[k] - (left, top)[k]) * scale - 1e-6) for k in (0, 1))
    x1, y1 = (math.floor((inside[k + 2] - (left, top)[k]) * scale + 1e-6) for k in (0, 1))
    if x1 <= x0 or y1 <= y0:
        return out
    box = (left + x0 / scale, top + y0 / scale, left + x1 / scale, top + y1 / scale)
    box = (max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height))
    cut = Image.fromarray(image).resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box)
    out[y0:y1, x0:x1] = np.asarray(cut)
    return out


def _labels(example: Example) -> dict[str, Tensor]:
    labels = Targets.unknown(1)
    rotations, weight = labels.rotations[0], labels.rotation_weight[0]
    for name in ROTATIONS:
        if name in example.params:
            joints = list(_JOINTS[name])
            # copied: rows of a store cannot be written
            value = torch.as_tensor(np.array(example.params[name], np.float32)).view(-1, 3)
            rotations[joints] = rotvec_to_rotmat(value)
            weight[joints] = torch.as_tensor(example.weights.get(name, 1.0), dtype=torch.float32)
    out = {f.name: getattr(labels, f.name)[0] for f in fields(Targets)}
    out["keypoints_2d"] = torch.as_tensor(np.nan_to_num(example.keypoints_2d).astype(np.float32))
    out["keypoints_3d"] = torch.as_tensor(np.nan_to_num(example.keypoints_3d).astype(np.float32))
    for name in ("betas", "expression"):
        if name in example.params:
            value = torch.as_tensor(np.array(example.params[name], np.float32))[:10]
            out[name][: len(value)] = value
            out[f"{name}_weight"] = torch.tensor(float(example.weights.get(name, 1.0)))
    return out


def _turn(labels: dict[str, Tensor], angle: float, flip: bool, width: int) -> dict[str, Tensor]:
    """Mirror the labels, then turn their 3D frame about the view by the angle of the crop.

    2D points stay in pixels of the photo: the crop's map turns those.
    """
    out = dict(labels)
    if flip:
        points = out["keypoints_2d"][_FLIPPED_POINTS].clone()
        points[:, 0] = torch.where(points[:, 2] > 0, width - points[:, 0], 0)
        out["keypoints_2d"] = points
        out["keypoints_3d"] = out["keypoints_3d"][_FLIPPED_POINTS] * torch.tensor([-1.0, 1, 1, 1])
        out["rotations"] = mirror_rotations(out["rotations"][_MIRRORED_JOINTS])
        out["rotation_weight"] = out["rotation_weight"][_MIRRORED_JOINTS]
        out["expression_weight"] = torch.zeros_like(out["expression_weight"])
    if angle:
        turn = rotvec_to_rotmat(torch.tensor([0.0, 0.0, angle]))
        points = out["keypoints_3d"].clone()
        points[:, :3] = points[:, :3] @ turn.T
        out["keypoints_3d"] = points
        rotations = out["rotations"].clone()
        rotations[0] = turn @ rotations[0]
        out["rotations"] = rotations
    return out
