"""Bodies from photos and boxes, in the frame of the whole photo's camera."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.params import BodyParams
from bodymodel.rotations import rotmat_to_rotvec
from regressor.augment import AugmentConfig, Batch, make_batch
from regressor.examples import Example
from regressor.expose import Expose, Regressed


@dataclass(frozen=True, eq=False)
class PersonBox:
    """A person to look at.

    Attributes:
        picture: (H, W, 3) uint8, the whole photo, upright RGB.
        bbox_xyxy_px: (4,) the person's tight box.
        focal_px: Of the photo; its diagonal if 0.
        center_px: (2,) principal point; the photo's middle if None.
    """

    picture: np.ndarray
    bbox_xyxy_px: np.ndarray
    focal_px: float = 0.0
    center_px: np.ndarray | None = None

    def load(self) -> np.ndarray:
        """Return the photo."""
        return self.picture


@dataclass(frozen=True, eq=False)
class Predicted:
    """Bodies of B persons.

    Attributes:
        params: With batch dimension B; the camera's frame (x right, y down, z forward).
        keypoints_2d: (B, 145, 2) projected, pixels of the whole photo; NaN for the jaw line.
        focal_px: (B,) that ``transl`` belongs to.
        center_px: (B, 2) likewise.
    """

    params: BodyParams
    keypoints_2d: Tensor
    focal_px: Tensor
    center_px: Tensor


class Predictor:
    """A model that is ready to look at photos.

    Args:
        model: In eval mode, where it shall run.
        body: The model's.
        source_over_crop: Pixels that parts are cut from, over the body's crop.
    """

    def __init__(self, model: Expose, body: BodyData, source_over_crop: int = 3) -> None:
        self.model = model.eval()
        self.body = body
        self._source_size = source_over_crop * model.config.body_size
        self._rows = [FIT_KEYPOINTS.index(name) for name in model.point_names]

    def __call__(self, people: Sequence[PersonBox]) -> Predicted:
        """Look at people, all in one batch.

        Raises:
            ValueError: If a box is not four numbers, or empty.
        """
        focal = torch.tensor([_focal(p) for p in people], dtype=torch.float32)
        center = torch.as_tensor(np.stack([_center(p) for p in people])).float()
        return self.look(self.cut(people), focal, center)

    def cut(self, people: Sequence[PersonBox]) -> Batch:
        """Cut people out of their photos, on the CPU: what ``look`` is given.

        Raises:
            ValueError: If a box is not four numbers, or empty.
        """
        return make_batch(
            [_example(person) for person in people],
            AugmentConfig.none(),
            self.model.config.body_size,
            self._source_size,
            np.random.default_rng(0),
        )

    @torch.inference_mode()
    def look(self, batch: Batch, focal_px: Tensor, center_px: Tensor) -> Predicted:
        """Look at people who are cut out.

        Args:
            batch: Of ``cut``.
            focal_px: (B,) of their photos.
            center_px: (B, 2) likewise.
        """
        device = next(self.model.parameters()).device
        batch, focal, center = batch.to(device), focal_px.to(device), center_px.to(device)
        found = self.model(batch.pictures).final
        pelvis = place_by_points(found.points, found.points_px, focal, center)
        params = self._params(found, pelvis)
        placed = found.points + pelvis[:, None]
        pixels = focal[:, None, None] * placed[..., :2] / placed[..., 2:].clamp_min(0.05)
        keypoints = pixels.new_full((len(pixels), len(FIT_KEYPOINTS), 2), torch.nan)
        keypoints[:, self._rows] = pixels + center[:, None]
        return Predicted(params, keypoints, focal, center)

    def _params(self, found: Regressed, pelvis: Tensor) -> BodyParams:
        rotvec = rotmat_to_rotvec(found.rotations)
        batch = len(pelvis)
        betas = pelvis.new_zeros(batch, self.body.num_betas)
        betas[:, : found.betas.shape[1]] = found.betas
        expression = pelvis.new_zeros(batch, self.body.num_expression)
        expression[:, : found.expression.shape[1]] = found.expression
        template = torch.as_tensor(self.body.v_template).to(pelvis)
        row = torch.as_tensor(self.body.joint_regressor[0]).to(pelvis)
        dirs = torch.as_tensor(self.body.shapedirs).to(pelvis)
        rest = row @ template + torch.einsum("v,vcb,nb->nc", row, dirs, betas)
        return BodyParams(
            global_orient=rotvec[:, 0],
            body_pose=rotvec[:, 1:22],
            jaw_pose=rotvec[:, 22],
            leye_pose=rotvec[:, 23],
            reye_pose=rotvec[:, 24],
            left_hand_pose=rotvec[:, 25:40],
            right_hand_pose=rotvec[:, 40:55],
            betas=betas,
            expression=expression,
            transl=pelvis - rest,
        )


def place_by_points(
    points: Tensor, points_px: Tensor, focal_px: Tensor, center_px: Tensor
) -> Tensor:
    """Return where bodies stand so that a perspective camera sees their points where they are seen.

    The weak-perspective camera of the crop says where each point is in the photo; the translation
    that reproduces that best, in the sense of ``f (X + t) = (u - c) (Z + t_z)``, is linear least
    squares in three unknowns.

    Args:
        points: (B, P, 3) metres around the origin, camera axes.
        points_px: (B, P, 2) in the photo.
        focal_px: (B,).
        center_px: (B, 2).

    Returns:
        (B, 3) metres.
    """
    ray = (points_px - center_px[:, None]) / focal_px[:, None, None]
    ones, zeros = torch.ones_like(ray[..., 0]), torch.zeros_like(ray[..., 0])
    rows = torch.cat(
        [
            torch.stack([ones, zeros, -ray[..., 0]], -1),
            torch.stack([zeros, ones, -ray[..., 1]], -1),
        ],
        1,
    )
    wanted = ray * points[..., 2:] - points[..., :2]
    wanted = torch.cat([wanted[..., 0], wanted[..., 1]], 1)
    normal = rows.mT @ rows
    return torch.linalg.solve(normal, rows.mT @ wanted[..., None])[..., 0]


def _example(person: PersonBox) -> Example:
    box = np.asarray(person.bbox_xyxy_px, np.float32)
    if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        raise ValueError(
            f"a box must be x0 y0 x1 y1 in pixels with x0 < x1 and y0 < y1, got {box.tolist()}"
        )
    return Example(
        picture=person,
        center_px=(box[:2] + box[2:]) / 2,
        side_px=float((box[2:] - box[:2]).max()),
        source="",
        key="",
    )


def _focal(person: PersonBox) -> float:
    return person.focal_px or float(np.hypot(*person.picture.shape[:2]))


def _center(person: PersonBox) -> np.ndarray:
    if person.center_px is not None:
        return np.asarray(person.center_px, np.float32)
    height, width = person.picture.shape[:2]
    return np.array([width / 2, height / 2], np.float32)
