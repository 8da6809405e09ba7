"""From examples to batches: drawn crops, colours and flips, the labels turned along.

Ranges are ExPose's released ones (its ``conf.yaml``). What turns a person into their mirror image
exchanges left and right in every label; expression components have no mirror and are dropped.
Hands alone are all right hands: a left one is mirrored.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from bodymodel.keypoints import flip_order
from bodymodel.rotations import rotvec_to_rotmat
from regressor.crops import AffineCrop
from regressor.examples import Example, Modality
from regressor.expose import Pictures
from regressor.kinematics import BODY_MIRROR, ROTATIONS, mirror_rotations
from regressor.targets import Targets
from regressor.upright import labelled_upwards, upright_turn

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
    """Side of the crop over the tight box."""
    scale: float = 0.25
    """Deviation of the size, relative; drawn sizes are at most this far off."""
    rotation_deg: float = 30.0
    """Deviation of the turn in the picture; at most twice this."""
    rotation_share: float = 0.4
    """How often crops are turned at all."""
    upright_share: float = 0.0
    """How often labels say how the crop is turned so that the body stands, fingers point up
    (``regressor.upright``); the drawn turn comes on top."""
    any_turn_share: float = 0.0
    """How often the crop is turned anyhow, all ways alike."""
    shift: float = 0.05
    """Deviation of the middle, of the side."""
    shift_uniform: bool = False
    """Draw the shift evenly up to ``shift`` instead."""
    flip_share: float = 0.5
    """How often crops are mirrored; hands alone never are but to become right ones."""
    colour: float = 0.4
    """Channels are scaled by 1 +- this."""
    shrink: tuple[float, ...] = ()
    """Pixels become larger by one of these, as those of a hand in a whole person's photo are."""
    contrast: float = 0.0
    """Deviation from grey is scaled by a factor of 1/(1 + this) to 1 + this (not in ExPose)."""
    low_resolution_share: float = 0.0
    """How often the picture is made coarse, by a factor of up to 3 (ExPose does so for its parts'
    own data sets, not for the body)."""

    @classmethod
    def none(cls) -> "AugmentConfig":
        """The plain crop."""
        return cls(
            scale=0, rotation_deg=0, rotation_share=0, upright_share=0, any_turn_share=0, shift=0,
            flip_share=0, colour=0, contrast=0, low_resolution_share=0,
        )  # fmt: skip

    @classmethod
    def of(cls, modality: Modality) -> "AugmentConfig":
        """What ExPose released for people, for hands alone and for heads alone.

        Parts: twice the box, as the attention's crops; middles up to a fifth of the box off;
        one of six (heads: seven) resolutions.
        """
        if modality is Modality.BODY:
            return cls()
        part = cls(body_margin=2.0, shift=0.2, shift_uniform=True, shrink=(1, 1.2, 1.5, 2, 3, 4))
        return part if modality is Modality.HAND else replace(part, shrink=(*part.shrink, 8))

    def plain(self) -> "AugmentConfig":
        """The plain crop of the same margin."""
        return replace(AugmentConfig.none(), body_margin=self.body_margin)


@dataclass(frozen=True, eq=False)
class Batch:
    """What a step of training takes.

    Attributes:
        pictures: Pixels and crops; pixel coordinates are those of the photo, mirrored where the
            crop is. Of hands or heads alone, ``body_crop`` is the part's crop.
        targets: Labels in the same frames. Of hands or heads alone, ``global_orient`` is the
            part's own rotation to the camera, and hands are right ones.
        sources: Of each example.
        keys: Of each example.
        start: Hands or heads alone: where their network starts instead of at the mean, by the
            names of its layout: values, and (B,) for whom (see ``regressor.conditioning``).
        parts: Hands and heads alone that are learned from in the same step.
    """

    pictures: Pictures
    targets: Targets
    sources: tuple[str, ...]
    keys: tuple[str, ...]
    start: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    parts: Mapping[Modality, "Batch"] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many whole persons."""
        return len(self.keys)

    def to(self, device: torch.device | str) -> "Batch":
        """Return it on a device."""

        def moved(crop: AffineCrop) -> AffineCrop:
            return AffineCrop(crop.matrix.to(device), crop.size)

        pictures = Pictures(
            self.pictures.source.to(device).float() / 255,
            moved(self.pictures.source_crop),
            moved(self.pictures.body_crop),
        )
        return replace(
            self,
            pictures=pictures,
            targets=self.targets.to(device),
            start={k: (v.to(device), who.to(device)) for k, (v, who) in self.start.items()},
            parts={kind: part.to(device) for kind, part in self.parts.items()},
        )


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
        examples: Of whole persons, or all of hands or of heads alone; may be none.
        config: What is drawn.
        body_size: Side of the network's crop.
        source_size: Side of the pixels at hand, from which parts are cut; larger is sharper.
        rng: What draws.

    Returns:
        The batch; ``pictures.source`` is uint8 until ``Batch.to``.
    """
    cuts = [_cut(example, config, body_size, source_size, rng) for example in examples]

    def stacked(tensors: list[Tensor], *shape: int) -> Tensor:
        return torch.stack(tensors) if tensors else torch.zeros(0, *shape)

    none = Targets.unknown(0)
    targets = Targets(
        **{
            f.name: stacked([cut.targets[f.name] for cut in cuts], *getattr(none, f.name).shape[1:])
            for f in fields(Targets)
        }
    )
    pictures = Pictures(
        stacked([cut.source for cut in cuts], 3, source_size, source_size),
        AffineCrop(stacked([cut.source_crop for cut in cuts], 2, 3), source_size),
        AffineCrop(stacked([cut.body_crop for cut in cuts], 2, 3), body_size),
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
    if example.modality is Modality.HAND:
        flip = not example.is_right
    angle = 0.0
    if rng.random() < config.rotation_share:
        limit = 2 * config.rotation_deg
        angle = math.radians(np.clip(config.rotation_deg * rng.standard_normal(), -limit, limit))
    if config.upright_share and rng.random() < config.upright_share:
        angle += _upright(example, flip)
    if config.any_turn_share and rng.random() < config.any_turn_share:
        angle = rng.uniform(-math.pi, math.pi)
    scale = 1 + np.clip(config.scale * rng.standard_normal(), -config.scale, config.scale)
    center = np.asarray(example.center_px, np.float64).copy()
    off = rng.uniform(-1, 1, 2) if config.shift_uniform else rng.standard_normal(2)
    center += config.shift * example.side_px * off
    at_x = center[0]
    if flip:  # the photo itself is mirrored, so every frame below is that of a common photo
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
    unmirrored = source_crop.numpy().copy()
    unmirrored[0, 2] += unmirrored[0, 0] * (center[0] - at_x)
    pixels = _warp(image, unmirrored, source_size)
    if flip:  # a mirrored crop is a crop of the mirrored photo, and costs less
        pixels = pixels[:, ::-1]
    gain = 1 + config.colour * rng.uniform(-1, 1, 3)
    if config.low_resolution_share and rng.random() < config.low_resolution_share:
        pixels = _coarsen(np.ascontiguousarray(pixels), rng.uniform(1.2, 3.0))
    if config.contrast:
        stretch = math.log1p(config.contrast)
        pixels = _recolour(pixels, gain, math.exp(rng.uniform(-stretch, stretch)))
    elif config.colour:
        pixels = _recolour(pixels, gain, 1.0)
    if config.shrink:
        pixels = _coarse(np.ascontiguousarray(pixels), float(rng.choice(config.shrink)))
    targets = _turn(_labels(example), angle, flip, width)
    return _Cut(
        torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
        source_crop,
        crop(body_size, side, angle),
        targets,
    )


def _upright(example: Example, flip: bool) -> float:
    """The turn of the crop that lets the person, the hand or the head stand."""
    part = {Modality.BODY: "body", Modality.HEAD: "head"}.get(
        example.modality, "right_hand" if example.is_right else "left_hand"
    )
    upwards = labelled_upwards(example.keypoints_2d, part)
    if upwards is None:
        return 0.0
    return float(upright_turn(torch.from_numpy(upwards), mirrored=flip))


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


def _coarse(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Return a picture (S, S, 3) with less detail: the nearest pixels, then bilinearly enlarged."""
    from PIL import Image

    size = len(pixels)
    small = max(2, round(size / factor))
    if small >= size:
        return pixels
    shrunk = Image.fromarray(pixels).resize((small, small), Image.Resampling.NEAREST)
    return np.asarray(shrunk.resize((size, size), Image.Resampling.BILINEAR))


def _recolour(pixels: np.ndarray, gain: np.ndarray, contrast: float) -> np.ndarray:
    """Scale channels by gains and distances from grey by the contrast, by way of a table."""
    levels = 128 + contrast * (np.arange(256)[:, None] * gain - 128)
    table = np.clip(levels, 0, 255).astype(np.uint8)
    return np.stack([table[:, c][pixels[..., c]] for c in range(3)], -1)


def _coarsen(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Lose detail finer than so many pixels."""
    from PIL import Image

    size = pixels.shape[0]
    small = Image.fromarray(pixels).resize((max(8, int(size / factor)),) * 2, Image.Resampling.BOX)
    return np.asarray(small.resize((size, size), Image.Resampling.BILINEAR))


_UNKNOWN = {f.name: getattr(Targets.unknown(1), f.name)[0] for f in fields(Targets)}


def _labels(example: Example) -> dict[str, Tensor]:
    rotvecs, weight = np.zeros((55, 3), np.float32), np.zeros(55, np.float32)
    for name in ROTATIONS:
        if name in example.params:
            joints = list(_JOINTS[name])
            rotvecs[joints] = np.asarray(example.params[name], np.float32).reshape(-1, 3)
            weight[joints] = example.weights.get(name, 1.0)
    out = dict(_UNKNOWN)
    # all in one go, and not by torch: small operations cost it more than the crop takes to cut
    out["rotations"] = torch.from_numpy(Rotation.from_rotvec(rotvecs).as_matrix()).float()
    out["rotation_weight"] = torch.from_numpy(weight)
    out["keypoints_2d"] = torch.as_tensor(np.nan_to_num(example.keypoints_2d).astype(np.float32))
    out["keypoints_3d"] = torch.as_tensor(np.nan_to_num(example.keypoints_3d).astype(np.float32))
    for name in ("betas", "expression"):
        if name in example.params:
            value = torch.as_tensor(np.array(example.params[name], np.float32))[:10]
            out[name] = torch.nn.functional.pad(value, (0, 10 - len(value)))
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
