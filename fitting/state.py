"""The unknowns of one person as a flat vector, and back."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.params import BodyParams
from bodymodel.rotations import compose_rotvecs


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each parameter lies in the vector, and how hands are decoded.

    Attributes:
        slices: By name: global_orient, body_pose, transl, betas, jaw_pose, leye_pose, reye_pose,
            left_hand_pca, right_hand_pca, expression. What the body's own points can tell comes
            first.
        coarse_size: Length of that first part, up to and with betas.
        size: Length of the vector. Its last entry, ``log_focal``, is no parameter of the body: the
            logarithm of the focal length over the one that the solver started from.
        hand_components: (2, C, 45), left and right, rows.
        hand_means: (2, 45).
    """

    slices: dict[str, slice]
    coarse_size: int
    size: int
    hand_components: Tensor
    hand_means: Tensor

    @classmethod
    def of(
        cls, body: BodyData, components: int, dtype: torch.dtype, device: torch.device | str
    ) -> "Layout":
        """Return the layout for a body, with that many components of each hand."""
        sizes = {
            "global_orient": 3,
            "body_pose": 63,
            "transl": 3,
            "betas": body.num_betas,
            "jaw_pose": 3,
            "leye_pose": 3,
            "reye_pose": 3,
            "left_hand_pca": components,
            "right_hand_pca": components,
            "expression": body.num_expression,
        }
        ends = np.cumsum(list(sizes.values()))
        slices = {
            name: slice(int(end) - size, int(end))
            for (name, size), end in zip(sizes.items(), ends, strict=True)
        }

        def real(x: np.ndarray) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(x), dtype=dtype, device=device)

        return cls(
            slices=slices,
            coarse_size=slices["betas"].stop,
            size=int(ends[-1]) + 1,
            hand_components=real(body.hand_components[:, :components]),
            hand_means=real(body.hand_means),
        )

    @property
    def log_focal(self) -> int:
        """Where the logarithm of the focal length stands: last."""
        return self.size - 1

    def zoom(self, x: Tensor) -> Tensor:
        """(B, size) -> (B,) the focal length over the one that the solver started from."""
        # e^4 is from a fisheye to a telescope; further out only a step that is refused would go
        return x[:, self.log_focal].clamp(-4, 4).exp()

    def columns(self, *names: str) -> Tensor:
        """Return the positions of the named parameters in the vector."""
        ids = [torch.arange(self.slices[n].start, self.slices[n].stop) for n in names]
        return torch.cat(ids).to(self.hand_means.device)

    def body_columns(self, joints: tuple[int, ...]) -> Tensor:
        """Return the positions of the rotations of some body joints, by SMPL-X joint id."""
        start = self.slices["body_pose"].start
        ids = [start + 3 * (joint - 1) + axis for joint in joints for axis in range(3)]
        return torch.tensor(ids, device=self.hand_means.device)

    def full_pose(self, x: Tensor) -> Tensor:
        """(B, size) -> (B, 55, 3) axis-angle, SMPL-X order."""
        hands = [
            self.hand_means[i] + x[:, self.slices[name]] @ self.hand_components[i]
            for i, name in enumerate(("left_hand_pca", "right_hand_pca"))
        ]
        body = slice(0, self.slices["body_pose"].stop)
        face = slice(self.slices["jaw_pose"].start, self.slices["reye_pose"].stop)
        return torch.cat([x[:, body], x[:, face], *hands], 1).view(x.shape[0], 55, 3)

    def shape(self, x: Tensor) -> Tensor:
        """(B, size) -> (B, betas + expression)."""
        return torch.cat([x[:, self.slices["betas"]], x[:, self.slices["expression"]]], 1)

    def transl(self, x: Tensor) -> Tensor:
        """(B, size) -> (B, 3) metres."""
        return x[:, self.slices["transl"]]

    def vector(self, fields: Mapping[str, np.ndarray], default: Tensor) -> Tensor:
        """Return (size,) the state nearest to parameters; the default's where they say nothing.

        Args:
            fields: Of BodyParams, without batch dimension. Hands lose what their PCA components
                cannot hold. Fields that are missing, or hold a number that is not finite, are the
                default's.
            default: (size,).

        Raises:
            ValueError: If a field has the wrong size.
        """
        out = default.clone()
        for name, where in self.slices.items():
            side = {"left_hand_pca": 0, "right_hand_pca": 1}.get(name)
            key = name if side is None else name.replace("_pca", "_pose")
            if key not in fields:
                continue
            value = torch.as_tensor(np.asarray(fields[key], np.float64).reshape(-1)).to(out)
            expected = where.stop - where.start if side is None else 45
            if len(value) != expected:
                raise ValueError(f"a start's {key} must hold {expected} numbers, got {len(value)}")
            if not torch.isfinite(value).all():
                continue
            if side is not None:
                # least squares: the components need not be orthonormal
                inverse = torch.linalg.pinv(self.hand_components[side])
                value = (value - self.hand_means[side]) @ inverse
            out[where] = value
        return out

    def step(self, x: Tensor, delta: Tensor) -> Tensor:
        """Add an increment; the root's is a small rotation applied on the left."""
        out = x + delta
        root = self.slices["global_orient"]
        out[:, root] = compose_rotvecs(delta[:, root], x[:, root])
        return out

    def params(self, x: Tensor) -> BodyParams:
        """(B, size) -> parameters with one batch dimension."""
        params = BodyParams.zeros(x.shape[0], dtype=x.dtype, device=x.device)
        return replace(
            params.with_full_pose(self.full_pose(x)),
            betas=x[:, self.slices["betas"]],
            expression=x[:, self.slices["expression"]],
            transl=self.transl(x),
        )
