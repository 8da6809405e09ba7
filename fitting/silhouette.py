"""A person's mask as a term on shape and place: joints say little about girth, outlines do.

Two one-sided pulls. No part of the body may stick out of the mask: that is nearly certain, since
clothes only add. Where the mask goes beyond the body, the nearest vertex is drawn to its outline:
weakly, and with a tail that lets go after some centimetres, since that is what clothes, hair and
bags look like. The edge of the photo is no outline. Poses are held while shape and depth move.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bodymodel.model import BodyModel
from bodymodel.sliced import SlicedState
from bodymodel.spec import keypoint_part
from fitting.energy import Energy
from fitting.masks import MaskField
from fitting.state import Layout

__all__ = ["SilhouetteTerm"]

_EVERY = 6  # of the vertices of hands and head one in so many is looked at: they are many and small


def looked_at(model: BodyModel) -> np.ndarray:
    """Return the vertices that are held against masks: all of trunk and limbs, some of the rest."""
    weights = model.body.weights
    small = [
        k
        for k, name in enumerate(model.body.joints)
        if name in ("head", "jaw") or keypoint_part(name) != "body" or "wrist" in name
    ]
    is_small = weights[:, small].sum(1) > 0.5
    ids = np.flatnonzero(is_small)[::_EVERY]
    return np.sort(np.concatenate([np.flatnonzero(~is_small), ids]))


@dataclass(frozen=True, eq=False)
class SilhouetteTerm:
    """A mask's pull on shape and place of one person: a ``fitting.energy.Term`` for a batch of one.

    While the pose is held, vertices are affine in the betas: ``rest + dirs @ betas + transl``.

    Attributes:
        rest: (V, 3) metres, dirs: (V, 3, S).
        outside_px: (H, W), corner_px: (2,), step_px, outline_px: (N, 2), normal: (N, 2):
            as in MaskField.
        w_inside: Weight of a squared unit by which a vertex sticks out, over all vertices.
        w_outside: Of a squared unit by which an outline point is beyond the body, over all points.
        slack: Scale of the Geman-McClure function of both, metres: a limb in another place and a
            skirt tell nothing of girth.
    """

    rest: Tensor
    dirs: Tensor
    outside_px: Tensor
    corner_px: Tensor
    step_px: float
    outline_px: Tensor
    normal: Tensor
    w_inside: float
    w_outside: float
    slack: float

    name = "silhouette"

    @classmethod
    def of(
        cls,
        model: BodyModel,
        layout: Layout,
        x: Tensor,
        field: MaskField,
        *,
        w_inside: float,
        w_outside: float,
        slack: float,
    ) -> "SilhouetteTerm":
        """Hold the pose of a state (1, size) and prepare its mesh."""
        shape = layout.shape(x)
        betas = slice(0, layout.slices["betas"].stop - layout.slices["betas"].start)
        count = betas.stop
        units = torch.zeros(count + 1, shape.shape[1], dtype=x.dtype, device=x.device)
        units[:, count:] = shape[:, count:]
        units[1:, betas] += torch.eye(count, dtype=x.dtype, device=x.device)
        pose = layout.full_pose(x).expand(count + 1, -1, -1)
        with torch.no_grad():
            out = model.forward_pose(
                pose.to(model.dtype),
                units[:, betas].to(model.dtype),
                units[:, count:].to(model.dtype),
            )
        vertices = out.vertices[:, looked_at(model)].to(x)
        rest = vertices[0]

        def real(values: np.ndarray) -> Tensor:
            return torch.as_tensor(values, dtype=x.dtype, device=x.device)

        return cls(
            rest, (vertices[1:] - rest).permute(1, 2, 0), real(field.outside_px),
            real(field.corner_px), field.step_px, real(field.outline_px), real(field.normal),
            w_inside, w_outside, slack,
        )  # fmt: skip

    def take(self, index: Tensor) -> "SilhouetteTerm":
        """Return it: there is one person only."""
        return self

    def add(
        self, energy: Energy, x: Tensor, state: SlicedState, gradient: Tensor, matrix: Tensor
    ) -> Tensor:
        """Add to half the gradient and to J^T J by betas and transl; return the energy (1,)."""
        if len(x) != 1:
            raise ValueError(f"a mask is one person's, got a batch of {len(x)}")
        layout, evidence = energy.layout, energy.evidence
        betas, transl = x[0, layout.slices["betas"]], x[0, layout.slices["transl"]]
        points = self.rest + self.dirs @ betas + transl
        depth = points[:, 2:].clamp_min(0.1)
        focal, unit = evidence.focal_px[0], evidence.unit[0]
        ray = points[:, :2] / depth
        pixels = focal * ray + evidence.center_px[0]
        rows = torch.cat([torch.eye(2).to(x).expand(len(points), 2, 2), -ray[..., None]], 2)
        rows = rows * (focal * unit / depth)[..., None]  # (V, 2, 3), units a metre
        by = torch.cat([rows @ self.dirs, rows], 2)  # (V, 2, S + 3)

        scale = (self.slack * focal * unit / depth[:, 0]).square()
        distance, slope = self._distance(pixels)
        out_r = unit * distance
        out_j = (slope[:, None] @ by)[:, 0]
        out_in = scale / (scale + out_r.square())

        # by the normal: the nearest vertex lies beside the outline's point more than behind it
        nearest = torch.cdist(self.outline_px, pixels).argmin(1)
        gap = unit * ((self.outline_px - pixels[nearest]) * self.normal).sum(1)
        beyond = gap.clamp_min(0)
        pull_j = -(self.normal[:, None] @ by[nearest])[:, 0] * (gap > 0)[:, None]
        beyond_in = scale[nearest] / (scale[nearest] + beyond.square())

        w_in = self.w_inside / len(points) * out_in.square()
        w_out = self.w_outside / max(len(gap), 1) * beyond_in.square()
        weighted_in, weighted_out = w_in[:, None] * out_j, w_out[:, None] * pull_j
        columns = layout.columns("betas", "transl")
        gradient[0, columns] += weighted_in.mT @ out_r + weighted_out.mT @ beyond
        matrix[0, columns[:, None], columns] += weighted_in.mT @ out_j + weighted_out.mT @ pull_j
        total = self.w_inside / len(points) * (out_in * out_r.square()).sum()
        total = total + self.w_outside / max(len(gap), 1) * (beyond_in * beyond.square()).sum()
        return total[None]

    def _distance(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(V,) distance to the mask and (V, 2) its slope, bilinear; 0 beyond the grid."""
        place = (pixels - self.corner_px) / self.step_px
        height, width = self.outside_px.shape
        inside = ((place >= 0) & (place < place.new_tensor([width - 1, height - 1]))).all(1)
        place = torch.where(inside[:, None], place, torch.zeros_like(place))
        cell = place.floor().long()
        part = place - cell
        a, b = part[:, 0], part[:, 1]
        column, row = cell[:, 0], cell[:, 1]
        field = self.outside_px
        f00, f01 = field[row, column], field[row, column + 1]
        f10, f11 = field[row + 1, column], field[row + 1, column + 1]
        value = (1 - b) * ((1 - a) * f00 + a * f01) + b * ((1 - a) * f10 + a * f11)
        slope_x = ((1 - b) * (f01 - f00) + b * (f11 - f10)) / self.step_px
        slope_y = ((1 - a) * (f10 - f00) + a * (f11 - f01)) / self.step_px
        slope = torch.stack([slope_x, slope_y], 1) * inside[:, None]
        return value * inside, slope
