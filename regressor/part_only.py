"""Hands and heads alone: what their networks make of a crop without a body, and its losses.

The hand's network says how the wrist is turned to the camera, the head's how the head is. With that
rotation at the root and all else at rest, the body model poses the part exactly as it is posed at
the end of an arm or neck: a part knows nothing of what it hangs on. Shape is in the body's own
coefficients (MANO's and FLAME's, of which ExPose learns it, are other spaces). Everything is
measured in the part's own crop (paper, section 3.2).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bodymodel.keypoints import FIT_KEYPOINTS
from regressor.conditioning import start_of
from regressor.examples import Modality
from regressor.expose import Expose, PartName, Pictures
from regressor.expose_loss import thresholds
from regressor.losses import (
    LossWeights,
    keypoint_loss,
    rotation_loss,
    shape_margin_loss,
    squared_loss,
)
from regressor.targets import Targets
from regressor.weak_camera import project_weak


@dataclass(frozen=True)
class _Kind:
    network: Literal["hand", "head"]
    part: PartName
    root: str
    rotation: str
    joints: slice
    pose: str


_KINDS = {
    Modality.HAND: _Kind(
        "hand", "right_hand", "right_wrist", "wrist", slice(40, 55), "hand_pose"
    ),
    Modality.HEAD: _Kind("head", "head", "head", "neck", slice(22, 23), "jaw_pose"),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class PartRegressed:
    """A batch of hands or heads.

    Attributes:
        rotations: (B, 55, 3, 3), the part's rotation to the camera as the root's, its own joints'
            relative to their parents, all others at rest.
        betas: (B, 10 or 100). expression: (B, 50), zero for hands.
        camera: (B, 3) raw weak-perspective camera of the part's crop.
        points: (B, P, 3) metres, camera axes, the wrist (the head's joint) at the origin.
        points_unit: (B, P, 2) in [-1, 1] over the crop.
        of: P positions in the model's ``point_names``.
    """

    rotations: Tensor
    betas: Tensor
    expression: Tensor
    camera: Tensor
    points: Tensor
    points_unit: Tensor
    of: list[int]


def regress_part(
    model: Expose,
    modality: Modality,
    pictures: Pictures,
    start: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> PartRegressed:
    """Look at hands (as right ones) or heads alone.

    Args:
        model: With parts.
        modality: Which.
        pictures: ``body_crop`` is the part's crop.
        start: Of ``Conditioning.draw``; the mean if None.
    """
    kind = _KINDS[modality]
    network, layout = getattr(model, kind.network), model.layouts[kind.network]
    look = pictures.look(pictures.body_crop)
    flat = network.head.mean.expand(len(look), -1)
    if start:
        flat = layout.join(start_of(layout.split(flat), start))
    values = layout.split(network(look, flat)[-1])
    eye = torch.eye(3, device=look.device).expand(len(look), 55, 3, 3)
    rotations = torch.cat(
        [
            values[kind.rotation],
            eye[:, 1 : kind.joints.start],
            values[kind.pose],
            eye[:, kind.joints.stop :],
        ],
        1,
    )
    expression = values.get("expression", look.new_zeros(len(look), 50))
    points = model.points(rotations, values["betas"], expression)
    points = points - points[:, model.point_names.index(kind.root), None]
    of = model.part_points(kind.part)
    points = points[:, of]
    return PartRegressed(
        rotations, values["betas"], expression, values["camera"], points,
        project_weak(points, values["camera"]), of,
    )  # fmt: skip


def part_loss(
    model: Expose,
    modality: Modality,
    found: PartRegressed,
    pictures: Pictures,
    targets: Targets,
    weights: LossWeights,
) -> dict[str, Tensor]:
    """Return the weighted terms by name.

    Args:
        model: Whose answer it is.
        modality: What was looked at.
        found: Of B parts.
        pictures: What was looked at.
        targets: Labels; 3D points are compared around the middle of those that are known.
        weights: Of the terms.
    """
    kind, reduction = _KINDS[modality], weights.reduction
    names = tuple(model.point_names[k] for k in found.of)
    rows = [FIT_KEYPOINTS.index(name) for name in names]
    known_2d, known_3d = targets.keypoints_2d[:, rows], targets.keypoints_3d[:, rows]
    seen = (known_2d[..., 2] >= thresholds(names, known_2d.device)).float()
    truth = pictures.body_crop.to_unit(known_2d[..., :2])
    weight_3d = known_3d[..., 3]
    terms = {
        "2d": weights.alone_2d * keypoint_loss(found.points_unit, truth, seen, reduction),
        "3d": weights.alone_3d
        * keypoint_loss(
            _centred(found.points, weight_3d),
            _centred(known_3d[..., :3], weight_3d),
            weight_3d,
            reduction,
        ),
        "betas": weights.alone_betas
        * squared_loss(found.betas[:, :10], targets.betas, targets.betas_weight, reduction),
        "betas_margin": weights.betas_margin * shape_margin_loss(found.betas),
    }
    for name, joints in (("turn", slice(0, 1)), ("pose", kind.joints)):
        terms[name] = weights.alone_rotations * rotation_loss(
            found.rotations[:, joints],
            targets.rotations[:, joints],
            targets.rotation_weight[:, joints],
            reduction,
        )
    if modality is Modality.HEAD:
        terms["expression"] = weights.alone_expression * squared_loss(
            found.expression[:, :10], targets.expression, targets.expression_weight, reduction
        )
    return {f"{modality.value}_only_{name}": term for name, term in terms.items()}


def _centred(points: Tensor, weight: Tensor) -> Tensor:
    """(B, P, 3) around their weighted middle."""
    total = weight.sum(1, keepdim=True).clamp_min(1e-6)
    return points - (points * weight[..., None]).sum(1, keepdim=True) / total[..., None]
