"""Parameters of the target that are given, not solved for."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.rotations import rotvec_to_rotmat
from conversion.correspondence import Correspondence
from conversion.knowable import hand_of, joint_map
from conversion.surface import Surface, Unknowns

__all__ = ["Known", "TakeOver", "known_betas"]


@dataclass(frozen=True, eq=False)
class Known:
    """Parameters of B bodies that are kept as they are.

    Attributes:
        joints: (K,) int64 which joints.
        rotations: (B, K, 3, 3) relative to their parents.
        components: (C,) int64 which of the shape's, betas, then expression.
        shape: (B, C).
    """

    joints: Tensor
    rotations: Tensor
    components: Tensor
    shape: Tensor

    def take(self, rows: Tensor) -> "Known":
        """Return what is known of some of the bodies."""
        return replace(self, rotations=self.rotations[rows], shape=self.shape[rows])

    def without(self, unknowns: Unknowns) -> Unknowns:
        """Return the unknowns that are left."""
        joints, shape = unknowns.joints.copy(), unknowns.shape.copy()
        joints[self.joints.cpu().numpy()] = False
        shape[self.components.cpu().numpy()] = False
        return Unknowns(joints, shape, unknowns.transl)


def known_betas(surface: Surface, count: int, betas: np.ndarray, known: Known | None) -> Known:
    """Return what is known when ``count`` bodies have one shape.

    Args:
        surface: Of the target.
        count: B.
        betas: (B',) the shape.
        known: What else is.
    """
    which = torch.arange(surface.body.num_betas, device=surface.device)
    shape = torch.as_tensor(betas).to(surface.device, surface.dtype).expand(count, -1)
    if known is None:
        none = torch.zeros(0, dtype=torch.int64, device=surface.device)
        return Known(none, shape.new_zeros(count, 0, 3, 3), which, shape)
    return replace(
        known,
        components=torch.cat((known.components, which)),
        shape=torch.cat((known.shape, shape), 1),
    )


class TakeOver:
    """What MANO or FLAME share with SMPL-X: fingers; head, jaw, eyes and expression.

    SMPL-X's hands and head were made of theirs, so joints of the same name turn alike. Expressions
    are mapped by least squares on the surface, which is the identity where both files have the same
    components.

    Args:
        source: MANO or FLAME.
        target: The body.
        match: Which vertex is which.
    """

    def __init__(self, source: BodyData, target: BodyData, match: Correspondence) -> None:
        shared = joint_map(source, target, hand_of(target, match.valid))
        self._theirs, self._mine = list(shared), list(shared.values())
        self._first, self._count = target.num_betas, 0
        if source.family == "flame" and source.num_expression and target.num_expression:
            self._map = expression_map(source, target, match)
            self._count = target.num_expression

    def __call__(
        self, surface: Surface, full_pose: np.ndarray, expression: np.ndarray | None = None
    ) -> Known:
        """Return the target's part of parameters.

        Args:
            surface: Of the target.
            full_pose: (B, J, 3) axis-angle of the source.
            expression: (B, <= E) of the source, None for the neutral face.
        """

        def real(array: np.ndarray) -> Tensor:
            return torch.as_tensor(np.asarray(array)).to(surface.device, surface.dtype)

        def whole(ids: list[int]) -> Tensor:
            return torch.tensor(ids, dtype=torch.int64, device=surface.device)

        shape = np.zeros((len(full_pose), self._count))
        if self._count and expression is not None:
            shape = expression @ self._map[: expression.shape[1]]
        return Known(
            whole(self._mine),
            rotvec_to_rotmat(real(full_pose[:, self._theirs])),
            whole(list(range(self._first, self._first + self._count))),
            real(shape),
        )


def expression_map(source: BodyData, target: BodyData, match: Correspondence) -> np.ndarray:
    """Return (E, E') by which a row of the source's expression becomes one of the target's."""
    dirs = source.exprdirs.astype(np.float64)  # differences of points: not lifted, only blended
    moved = sum(dirs[match.corners[:, k]] * match.weights[:, k, None, None] for k in range(3))
    theirs = moved[match.valid].reshape(-1, source.num_expression)
    mine = target.exprdirs[match.valid].reshape(-1, target.num_expression).astype(np.float64)
    return np.linalg.lstsq(mine, theirs, rcond=1e-6)[0].T
