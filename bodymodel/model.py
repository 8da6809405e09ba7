"""The body model as a torch module: parameters in, mesh, joints and keypoints out."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bodymodel import lbs
from bodymodel.body import BodyData
from bodymodel.params import BodyParams
from bodymodel.rotations import rotvec_to_rotmat


@dataclass(frozen=True, eq=False)
class BodyOutput:
    """A posed body, in the frame that ``global_orient`` and ``transl`` lead to; metres.

    Attributes:
        vertices: (..., V, 3).
        joints: (..., J, 3).
        keypoints: (..., K, 3): the joints, then the single vertices (spec.VERTEX_KEYPOINTS), the
            face landmarks and the face contour as far as the body has them. For SMPL-X these are
            spec.SMPLX_KEYPOINTS.
    """

    vertices: Tensor
    joints: Tensor
    keypoints: Tensor


class BodyModel(nn.Module):
    """A body of the SMPL family: blend shapes, kinematic tree, linear blend skinning.

    Everything is differentiable in all parameters, with any leading batch dimensions that
    broadcast, and nothing waits for the device. The arrays are buffers, so ``to(device)`` and
    ``double()`` work, but never part of a ``state_dict``: no checkpoint holds a licensed file.
    """

    def __init__(self, body: BodyData, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.body = body
        self.family = body.family
        self.num_joints = len(body.parents)
        self.num_betas = body.num_betas
        self.num_expression = body.num_expression
        self._neck = body.joints.index("neck") if "neck" in body.joints else None
        if body.vertex_ids and max(body.vertex_ids) >= len(body.v_template):
            raise ValueError(
                f"the keypoint vertices of {body.family} go up to {max(body.vertex_ids)}, but "
                f"{body.name} has {len(body.v_template)} vertices; a body of another topology "
                "must bring its own vertex_ids"
            )

        def real(name: str, array) -> None:
            tensor = torch.as_tensor(array).to(
                dtype, copy=True, memory_format=torch.contiguous_format
            )
            self.register_buffer(name, tensor, persistent=False)

        def index(name: str, array) -> None:
            tensor = torch.as_tensor(array, dtype=torch.int64)
            self.register_buffer(name, tensor, persistent=False)

        template = torch.as_tensor(body.v_template).double()
        regressor = torch.as_tensor(body.joint_regressor).double()
        dirs = torch.cat(
            [torch.as_tensor(body.shapedirs), torch.as_tensor(body.exprdirs)], dim=-1
        ).movedim(-1, 0)  # (B + E, V, 3)
        # Everything a vertex goes through is kept coordinate by coordinate, see lbs.skin.
        real("_template", template.T)
        real("_shape_dirs", dirs.mT.flatten(1))
        # The regressor is linear, so joints need no mesh: J (v + S b) = J v + (J S) b.
        real("_joint_template", regressor @ template)
        real("_joint_dirs", (regressor @ dirs.double()).flatten(1))
        real("_pose_dirs", torch.as_tensor(body.posedirs).permute(2, 1, 0).flatten(1))
        real("_weights", torch.as_tensor(body.weights).T)
        index("faces", body.faces)

        index("_parents", [max(p, 0) for p in body.parents])
        levels = lbs.tree_levels(body.parents)
        by_level = [0] + [joint for joints, _ in levels for joint in joints]
        index("_order", sorted(range(self.num_joints), key=by_level.__getitem__))
        self._num_levels = len(levels)
        for k, (joints, above) in enumerate(levels):
            index(f"_level{k}_joints", joints)
            index(f"_level{k}_above", above)

        index("_vertex_ids", body.vertex_ids)
        index("_landmark_corners", body.faces[body.landmark_faces])
        real("_landmark_bary", body.landmark_bary)
        index("_contour_corners", body.faces[body.contour_faces])
        real("_contour_bary", body.contour_bary)

    @property
    def dtype(self) -> torch.dtype:
        """Of the arrays, and so of the parameters expected and the output."""
        return self._template.dtype

    @property
    def device(self) -> torch.device:
        """Where the arrays are."""
        return self._template.device

    def forward(self, params: BodyParams) -> BodyOutput:
        """Pose an SMPL-X body.

        Args:
            params: Parameters whose batch dimensions broadcast. Fewer betas or expression
                components than the body has leave the others zero.

        Returns:
            The posed body.

        Raises:
            ValueError: If the body is not SMPL-X, or a shape is wrong.
        """
        if self.family != "smplx":
            raise ValueError(
                f"these are SMPL-X parameters and {self.body.name} is {self.family}; "
                "use forward_pose with its own joints"
            )
        return self.forward_pose(params.full_pose, params.betas, params.expression, params.transl)

    def forward_pose(
        self,
        full_pose: Tensor,
        betas: Tensor | None = None,
        expression: Tensor | None = None,
        transl: Tensor | None = None,
    ) -> BodyOutput:
        """Pose a body of any family from axis-angle rotations.

        Args:
            full_pose: (..., J, 3) radians, in the order of ``body.joints``; hand poses whole.
            betas: (..., <= B), none for the mean shape.
            expression: (..., <= E), none for the neutral face.
            transl: (..., 3) metres.

        Returns:
            The posed body.

        Raises:
            ValueError: If a shape is wrong.
        """
        if tuple(full_pose.shape[-2:]) != (self.num_joints, 3):
            raise ValueError(
                f"full_pose of {self.family} must be (..., {self.num_joints}, 3), "
                f"got {tuple(full_pose.shape)}"
            )
        return self.forward_rotmats(rotvec_to_rotmat(full_pose), betas, expression, transl)

    def forward_rotmats(
        self,
        rotmats: Tensor,
        betas: Tensor | None = None,
        expression: Tensor | None = None,
        transl: Tensor | None = None,
    ) -> BodyOutput:
        """Pose a body of any family from rotation matrices.

        Args:
            rotmats: (..., J, 3, 3), each relative to the parent joint.
            betas: As in ``forward_pose``.
            expression: Likewise.
            transl: Likewise.

        Returns:
            The posed body.

        Raises:
            ValueError: If a shape is wrong.
        """
        if tuple(rotmats.shape[-3:]) != (self.num_joints, 3, 3):
            raise ValueError(
                f"rotmats of {self.family} must be (..., {self.num_joints}, 3, 3), "
                f"got {tuple(rotmats.shape)}"
            )
        v_shaped, rest_joints = self._shape(betas, expression)
        levels = [
            (getattr(self, f"_level{k}_joints"), getattr(self, f"_level{k}_above"))
            for k in range(self._num_levels)
        ]
        rotations, joints = lbs.joint_transforms(
            rotmats, rest_joints, self._parents, levels, self._order
        )
        corrections = (lbs.pose_feature(rotmats) @ self._pose_dirs).unflatten(-1, (3, -1))
        planar = lbs.skin(v_shaped + corrections, self._weights, rotations, joints, rest_joints)
        vertices = planar.mT.contiguous()
        if transl is not None:
            if transl.shape[-1] != 3:
                raise ValueError(f"transl must be (..., 3), got {tuple(transl.shape)}")
            vertices = vertices + transl[..., None, :]
            joints = joints + transl[..., None, :]
        return BodyOutput(vertices, joints, self._keypoints(vertices, joints, rotations))

    def _shape(self, betas: Tensor | None, expression: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the rest-pose vertices (..., 3, V) and joints (..., J, 3) of a shape.

        In the coefficients' own batch dimensions, so that one shape in many poses is one shape.
        """
        vertices, joints = self._template, self._joint_template
        for name, coefficients, first, size in (
            ("betas", betas, 0, self.num_betas),
            ("expression", expression, self.num_betas, self.num_expression),
        ):
            if coefficients is None:
                continue
            n = coefficients.shape[-1]
            if n > size:
                raise ValueError(
                    f"{name} must be (..., {size}) or shorter, got {tuple(coefficients.shape)}; "
                    "load the body with more components, or cut them"
                )
            rows = slice(first, first + n)
            moved = coefficients @ self._shape_dirs[rows]
            vertices = vertices + moved.unflatten(-1, (3, -1))
            joints = joints + (coefficients @ self._joint_dirs[rows]).unflatten(-1, (-1, 3))
        return vertices, joints

    def _keypoints(self, vertices: Tensor, joints: Tensor, rotations: Tensor) -> Tensor:
        batch = vertices.shape[:-2]
        points = [joints.expand(*batch, -1, 3)]
        if len(self._vertex_ids):
            points.append(vertices.index_select(-2, self._vertex_ids))
        if len(self._landmark_bary):
            points.append(lbs.surface_points(vertices, self._landmark_corners, self._landmark_bary))
        if len(self._contour_bary) and self._neck is not None:
            row = lbs.contour_row(rotations[..., self._neck, :, :]).expand(batch)
            corners, bary = self._contour_corners[row], self._contour_bary[row]
            triangles = torch.take_along_dim(vertices, corners.flatten(-2)[..., None], dim=-2)
            contour = (triangles.unflatten(-2, (-1, 3)) * bary[..., None]).sum(-2)
            points.append(contour.expand(*batch, -1, 3))
        return torch.cat(points, dim=-2)
