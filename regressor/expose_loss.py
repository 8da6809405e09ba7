"""ExPose's losses on whole-body labels (paper, equation 6-10; weights as released)."""

import torch
from torch import Tensor

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import keypoint_part
from regressor.expose import PART_NAMES, Expose, ExposeOutput, Pictures
from regressor.losses import (
    LossWeights,
    centred_keypoint_loss,
    keypoint_loss,
    place_loss,
    rotation_loss,
    shape_margin_loss,
    squared_loss,
)
from regressor.targets import Targets

# keypoints below these confidences are not used, the others count fully (released configuration)
THRESHOLDS = {"body": 0.1, "left_hand": 0.2, "right_hand": 0.2, "face": 0.4}
_JAW, _LEFT, _RIGHT = slice(22, 23), slice(25, 40), slice(40, 55)


def thresholds(names: tuple[str, ...], device: torch.device | str = "cpu") -> Tensor:
    """(P,) the confidence from which each point counts."""
    return torch.tensor([THRESHOLDS[keypoint_part(name)] for name in names], device=device)


def expose_loss(
    model: Expose, output: ExposeOutput, pictures: Pictures, targets: Targets, weights: LossWeights
) -> dict[str, Tensor]:
    """Return the weighted terms by name; their sum is the loss.

    Args:
        model: Whose output it is.
        output: For B persons.
        pictures: What was looked at.
        targets: In pixels of the whole pictures.
        weights: Of the terms.
    """
    rows = [FIT_KEYPOINTS.index(name) for name in model.point_names]
    device = output.final.points.device
    least = thresholds(model.point_names, device)
    known_2d = targets.keypoints_2d[:, rows]
    seen = (known_2d[..., 2] >= least).float()
    reduction, final = weights.reduction, output.final
    crop = pictures.body_crop

    is_body = torch.tensor(
        [keypoint_part(name) == "body" for name in model.point_names], device=device
    )
    terms = {
        "body_2d": weights.body_2d
        * keypoint_loss(
            crop.to_unit(final.points_px),
            crop.to_unit(known_2d[..., :2]),
            seen * torch.where(is_body, 1.0, weights.part_points_in_body),
            reduction,
        )
    }
    known_3d = targets.keypoints_3d[:, rows]
    weight_3d = known_3d[..., 3] * torch.where(is_body, weights.body_3d, weights.part_3d)
    terms["points_3d"] = keypoint_loss(final.points, known_3d[..., :3], weight_3d, reduction)

    if output.joints is not None and not output.crops:  # with parts, the body is settled
        of_body = model.joint_points
        place = crop.to_unit(known_2d[:, of_body, :2])
        inside = seen[:, of_body] * (place.abs() < 1).all(-1)
        terms["joint_places"] = weights.joint_places * keypoint_loss(
            output.joints.xy, place, inside, reduction
        )
        terms["joint_maps"] = weights.joint_maps * place_loss(
            output.joints.log_share, place, inside, reduction
        )
        terms["joint_depths"] = weights.joint_depths * keypoint_loss(
            output.joints.z[..., None],
            known_3d[:, of_body, 2:3],
            known_3d[:, of_body, 3] * inside,
            reduction,
        )

    for name in PART_NAMES if output.crops else ():
        part, of_part = output.crops[name], model.part_points(name)
        # a crop that shows little of its part teaches nothing
        enough = (seen[:, of_part].sum(1, keepdim=True) >= 8).float()
        of_it = (
            part.to_unit(final.points_px[:, of_part]),
            part.to_unit(known_2d[:, of_part, :2]),
            seen[:, of_part] * enough,
            reduction,
        )
        terms[f"{name}_2d"] = weights.part_2d * keypoint_loss(*of_it)
        if weights.part_2d_centred:
            terms[f"{name}_2d_centred"] = weights.part_2d_centred * centred_keypoint_loss(*of_it)

    rotation_weight = targets.rotation_weight.clone()
    rotation_weight[:, 0] *= weights.root
    rotation_weight[:, 25:] *= weights.fingers
    for joints, part in ((_JAW, "face"), (_LEFT, "left_hand"), (_RIGHT, "right_hand")):
        rotation_weight[:, joints] *= _mean_confidence(known_2d, model, part)[:, None]
    terms["rotations"] = weights.rotations * rotation_loss(
        final.rotations, targets.rotations, rotation_weight, reduction
    )
    terms["expression"] = weights.expression * squared_loss(
        final.expression,
        targets.expression,
        targets.expression_weight * _mean_confidence(known_2d, model, "face"),
        reduction,
    )
    terms["betas"] = weights.betas * squared_loss(
        final.betas, targets.betas, targets.betas_weight, reduction
    )
    terms["betas_margin"] = weights.betas_margin * shape_margin_loss(final.betas)
    return terms


def _mean_confidence(known_2d: Tensor, model: Expose, part: str) -> Tensor:
    """(B,) of a part's points."""
    of_part = [k for k, name in enumerate(model.point_names) if keypoint_part(name) == part]
    return known_2d[:, of_part, 2].clamp(0, 1).mean(1)
