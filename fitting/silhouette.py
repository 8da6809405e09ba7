"""People's masks as a term on shape and place: joints say little about girth, outlines do.

Two one-sided pulls. No part of the body may stick out of the mask: that is nearly certain, since
clothes only add. Where the mask goes beyond the body, the nearest vertex is drawn to its outline:
weakly, and with a tail that lets go after some centimetres, since that is what clothes, hair and
bags look like. The edge of the photo is no outline. Poses are held while shape and depth move.

Of the shape, masks move only what outlines know and joints do not: girth (``HeldSurface.girth``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bodymodel import lbs
from bodymodel.body import BodyData
from bodymodel.rotations import rotvec_to_rotmat
from bodymodel.sliced import SlicedState
from bodymodel.spec import keypoint_part
from fitting.energy import Energy
from fitting.masks import MaskField
from fitting.state import Layout

__all__ = ["HeldPerson", "HeldSurface", "SilhouetteTerm", "girth_direction", "looked_at"]

_EVERY = 6  # of the vertices of hands and head one in so many is looked at: they are many and small

_STAY = 1e4  # weight of what masks may not move: so much that it stays


def looked_at(body: BodyData) -> np.ndarray:
    """Return the vertices that are held against masks: all of trunk and limbs, some of the rest."""
    small = [
        k
        for k, name in enumerate(body.joints)
        if name in ("head", "jaw") or keypoint_part(name) != "body" or "wrist" in name
    ]
    is_small = np.asarray(body.weights)[:, small].sum(1) > 0.5
    ids = np.flatnonzero(is_small)[::_EVERY]
    return np.sort(np.concatenate([np.flatnonzero(~is_small), ids]))


def girth_direction(body: BodyData) -> np.ndarray:
    """Return the unit vector (B,) of betas that adds volume and leaves stature."""
    template = np.asarray(body.v_template, np.float64)
    shapes = template + np.moveaxis(np.asarray(body.shapedirs, np.float64), 2, 0)

    def measure(vertices: np.ndarray) -> np.ndarray:
        a, b, c = (vertices[body.faces[:, k]] for k in range(3))
        return np.array([(a * np.cross(b, c)).sum() / 6, np.ptp(vertices[:, 1])])

    volume, tall = (np.stack([measure(v) for v in shapes]) - measure(template)).T
    way = volume - tall * (volume @ tall) / max(float(tall @ tall), 1e-12)
    return way / max(float(np.linalg.norm(way)), 1e-12)


class HeldSurface:
    """The vertices of a body that are held against masks, ready to be posed.

    Attributes:
        girth: (B, B) projection of betas on what masks may move.
    """

    def __init__(self, body: BodyData, device: torch.device | str = "cpu") -> None:
        ids = looked_at(body)

        def real(x: np.ndarray) -> Tensor:  # a pixel is a millimetre at best
            return torch.as_tensor(np.ascontiguousarray(x), dtype=torch.float32, device=device)

        template = np.asarray(body.v_template, np.float64)
        dirs = np.concatenate([body.shapedirs, body.exprdirs], 2).astype(np.float64)
        regressor = np.asarray(body.joint_regressor, np.float64)
        self._template, self._dirs = real(template[ids]), real(dirs[ids])
        self._joint_template = real(regressor @ template)
        self._joint_dirs = real(np.einsum("jv,vcs->jcs", regressor, dirs))
        self._pose_dirs = real(np.asarray(body.posedirs)[ids].reshape(3 * len(ids), -1).T)
        self._weights = real(np.asarray(body.weights)[ids])
        levels = lbs.tree_levels(body.parents)
        by_level = [0] + [joint for joints, _ in levels for joint in joints]
        self._levels = [tuple(torch.tensor(i, device=device) for i in pair) for pair in levels]
        order = sorted(range(len(body.parents)), key=by_level.__getitem__)
        self._order = torch.tensor(order, device=device)
        self._parents = torch.tensor([max(p, 0) for p in body.parents], device=device)
        way = girth_direction(body)
        self.girth = real(np.outer(way, way))

    def pose(self, full_pose: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """Pose the surface; while the pose is held, vertices are affine in the betas.

        Args:
            full_pose: (55, 3) axis-angle.
            expression: (E,).

        Returns:
            (V, 3) metres with all betas zero, without translation; and (V, 3, B) what each adds.
        """
        like = self._template
        rotmats = rotvec_to_rotmat(full_pose.to(like))
        count = self._dirs.shape[2] - len(expression)
        face = expression.to(like)
        joints = self._joint_template + self._joint_dirs[..., count:] @ face
        rest_joints = torch.cat(
            [joints[None], joints + self._joint_dirs[..., :count].movedim(2, 0)]
        )
        rotations, places = lbs.joint_transforms(
            rotmats, rest_joints, self._parents, self._levels, self._order
        )
        turn = rotations.reshape(-1, len(joints), 3, 3)[0]
        moves = places - (turn @ rest_joints[..., None])[..., 0]  # (1 + B, J, 3)
        blended = (self._weights @ turn.flatten(1)).view(-1, 3, 3)
        moves = (self._weights @ moves.movedim(1, 0).flatten(1)).view(-1, 1 + count, 3)
        corrections = (lbs.pose_feature(rotmats) @ self._pose_dirs).view(-1, 3)
        bare = self._template + self._dirs[..., count:] @ face + corrections
        rest = (blended @ bare[..., None])[..., 0] + moves[:, 0]
        dirs = blended @ self._dirs[..., :count] + (moves[:, 1:] - moves[:, :1]).mT
        return rest, dirs


@dataclass(frozen=True, eq=False)
class HeldPerson:
    """One person's posed surface and mask.

    Attributes:
        rest: (V, 3) metres, dirs: (V, 3, B): vertices are ``rest + dirs @ betas + transl``.
        outside_px: (H, W), corner_px: (2,), step_px, outline_px: (N, 2), normal: (N, 2):
            as in MaskField.
        other: (B, B) projection of betas on what the mask may not move from ``betas`` (B,).
    """

    rest: Tensor
    dirs: Tensor
    outside_px: Tensor
    corner_px: Tensor
    step_px: float
    outline_px: Tensor
    normal: Tensor
    other: Tensor
    betas: Tensor

    def distance(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
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


@dataclass(frozen=True, eq=False)
class SilhouetteTerm:
    """The masks' pull on shape and place: a ``fitting.energy.Term``.

    Attributes:
        people: One a person of the batch.
        w_inside: Weight of a squared unit by which a vertex sticks out, over all vertices.
        w_outside: Of a squared unit by which an outline point is beyond the body, over all points.
        slack: Scale of the Geman-McClure function of both, metres: a limb in another place and a
            skirt tell nothing of girth.
    """

    people: tuple[HeldPerson, ...]
    w_inside: float
    w_outside: float
    slack: float

    name = "silhouette"

    @classmethod
    def of(
        cls,
        surface: HeldSurface,
        layout: Layout,
        x: Tensor,
        fields: Sequence[MaskField],
        *,
        w_inside: float,
        w_outside: float,
        slack: float,
    ) -> "SilhouetteTerm":
        """Hold the poses of states (B, size), and let the masks (B of them) move the girth only."""

        def real(values: np.ndarray) -> Tensor:
            return torch.as_tensor(values, dtype=x.dtype, device=x.device)

        poses, girth = layout.full_pose(x), surface.girth.to(x)
        other = torch.eye(len(girth)).to(x) - girth
        people = []
        for k, field in enumerate(fields):
            rest, dirs = surface.pose(poses[k], x[k, layout.slices["expression"]])
            rest, dirs = rest.to(x), dirs.to(x)
            by_girth = dirs @ girth
            betas = x[k, layout.slices["betas"]]
            held = rest + (dirs - by_girth) @ betas
            people.append(
                HeldPerson(
                    held, by_girth, real(field.outside_px), real(field.corner_px), field.step_px,
                    real(field.outline_px), real(field.normal), other, betas,
                )
            )  # fmt: skip
        return cls(tuple(people), w_inside, w_outside, slack)

    def take(self, index: Tensor) -> "SilhouetteTerm":
        """Return it for some of the persons."""
        people = tuple(self.people[k] for k in index.tolist())
        return SilhouetteTerm(people, self.w_inside, self.w_outside, self.slack)

    def add(
        self, energy: Energy, x: Tensor, state: SlicedState, gradient: Tensor, matrix: Tensor
    ) -> Tensor:
        """Add to half the gradient and to J^T J by betas and transl; return the energies (B,)."""
        if len(x) != len(self.people):
            raise ValueError(f"there are {len(self.people)} masks for a batch of {len(x)} people")
        columns = energy.layout.columns("betas", "transl")
        totals = []
        for k in range(len(x)):
            total, pull, stiff = self._one(energy, x, k)
            gradient[k, columns] += pull
            matrix[k, columns[:, None], columns] += stiff
            totals.append(total)
        return torch.stack(totals)

    def _one(self, energy: Energy, x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Energy (), half the gradient (B + 3,) and J^T J of one person."""
        layout, evidence, held = energy.layout, energy.evidence, self.people[k]
        betas, transl = x[k, layout.slices["betas"]], x[k, layout.slices["transl"]]
        points = held.rest + held.dirs @ betas + transl
        depth = points[:, 2:].clamp_min(0.1)
        focal, unit = evidence.focal_px[k] * layout.zoom(x)[k], evidence.unit[k]
        ray = points[:, :2] / depth
        pixels = focal * ray + evidence.center_px[k]

        def by(which: Tensor) -> Tensor:
            """(n, 2, B + 3), units a beta and a metre, of some vertices."""
            rows = torch.eye(2).to(x).expand(len(which), 2, 2)
            rows = torch.cat([rows, -ray[which][..., None]], 2)
            rows = rows * (focal * unit / depth[which])[..., None]
            return torch.cat([rows @ held.dirs[which], rows], 2)

        scale = (self.slack * focal * unit / depth[:, 0]).square()
        distance, slope = held.distance(pixels)
        out = torch.nonzero(distance > 0)[:, 0]
        out_r = unit * distance[out]
        out_j = (slope[out][:, None] @ by(out))[:, 0]
        out_in = scale[out] / (scale[out] + out_r.square())

        # by the normal: the nearest vertex lies beside the outline's point more than behind it
        nearest = torch.cdist(held.outline_px.float(), pixels.float()).argmin(1)
        gap = unit * ((held.outline_px - pixels[nearest]) * held.normal).sum(1)
        beyond = gap.clamp_min(0)
        pull_j = -(held.normal[:, None] @ by(nearest))[:, 0] * (gap > 0)[:, None]
        beyond_in = scale[nearest] / (scale[nearest] + beyond.square())

        w_in = self.w_inside / len(points)
        w_out = self.w_outside / max(len(gap), 1)
        by_in, by_out = (
            (w_in * out_in**2)[:, None] * out_j,
            (w_out * beyond_in**2)[:, None] * pull_j,
        )
        total = w_in * (out_in * out_r.square()).sum()
        total = total + w_out * (beyond_in * beyond.square()).sum()
        pull = by_in.mT @ out_r + by_out.mT @ beyond
        stiff = by_in.mT @ out_j + by_out.mT @ pull_j
        away, count = held.other @ (betas - held.betas), len(betas)
        pull[:count] += _STAY * away
        stiff[:count, :count] += _STAY * held.other
        return total + _STAY * away @ away, pull, stiff
