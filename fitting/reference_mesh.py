"""The full mesh behind the reference solver: the ``smplx`` package's, or our own.

This is the one module that imports ``smplx``, and only when someone chose the reference solver with
it: SMPLify-X poses its bodies so, and a base of comparison should not be faster or slower than what
it stands for. That package's licence allows non-commercial research only; ``own`` does without.
"""

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bodymodel.body import BodyData
from bodymodel.params import BodyParams
from bodymodel.spec import SMPLX_VERTEX_IDS

__all__ = ["Mesh", "Posed", "make_mesh"]


class Posed(NamedTuple):
    """A whole body in metres: (B, 127 or more, 3) SMPL-X keypoints and (B, V, 3) vertices."""

    keypoints: Tensor
    vertices: Tensor


Mesh = Callable[[BodyParams], Posed]
"""Poses the whole mesh of (B) parameters."""

_WIDE, _FIRST_EXPRESSION = 400, 300  # shape space of the published files since version 1.1


def make_mesh(
    body: BodyData,
    kind: Literal["smplx", "own"],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Mesh:
    """Return the function that poses a whole body.

    Args:
        body: A SMPL-X body.
        kind: Who does it.
        dtype: Of parameters and keypoints.
        device: Of both.

    Raises:
        ModuleNotFoundError: If ``smplx`` is wanted and not installed.
        ValueError: If ``smplx`` cannot pose this body.
    """
    if body.family != "smplx":
        raise ValueError(f"the reference solver fits smplx bodies, got a {body.family} body")
    if kind == "own":
        from bodymodel.model import BodyModel

        model = BodyModel(body, dtype=dtype).to(device)

        def own(params: BodyParams) -> Posed:
            output = model(params)
            return Posed(output.keypoints, output.vertices)

        return own
    return _smplx_mesh(body, dtype, device)


def _smplx_mesh(body: BodyData, dtype: torch.dtype, device: torch.device | str) -> Mesh:
    if tuple(body.vertex_ids) != SMPLX_VERTEX_IDS:
        raise ValueError(
            f"smplx insists on the published keypoint vertices, and {body.name} has others; "
            "use --reference-body own"
        )
    try:
        import smplx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--reference-body smplx needs the smplx package: pip install smplx==0.1.28 (its "
            "licence is non-commercial), or use --reference-body own"
        ) from error
    # It reads files only, so the arrays that we checked go through one.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "SMPLX_NEUTRAL.npz"
        np.savez(path, **_published_arrays(body))
        model = smplx.SMPLX(
            str(path),
            ext="npz",
            num_betas=body.num_betas,
            num_expression_coeffs=body.num_expression,
            use_pca=False,
            flat_hand_mean=True,  # our parameters hold whole hand poses
            use_face_contour=False,
            batch_size=1,
            dtype=dtype,
        ).to(device)

    def pose(params: BodyParams) -> Posed:
        output = model(
            global_orient=params.global_orient,
            body_pose=params.body_pose.flatten(-2),
            jaw_pose=params.jaw_pose,
            leye_pose=params.leye_pose,
            reye_pose=params.reye_pose,
            left_hand_pose=params.left_hand_pose.flatten(-2),
            right_hand_pose=params.right_hand_pose.flatten(-2),
            betas=params.betas,
            expression=params.expression,
            transl=params.transl,
        )
        return Posed(output.joints, output.vertices)

    return pose


def _published_arrays(body: BodyData) -> dict[str, np.ndarray]:
    """The body by the keys of the published files, as far as ``smplx`` reads them."""
    shapedirs = np.zeros((*body.v_template.shape, _WIDE), np.float32)
    shapedirs[..., : body.num_betas] = body.shapedirs
    last = _FIRST_EXPRESSION + body.num_expression
    shapedirs[..., _FIRST_EXPRESSION:last] = body.exprdirs
    joints = np.arange(len(body.parents))
    return {
        "v_template": body.v_template,
        "f": body.faces,
        "shapedirs": shapedirs,
        "posedirs": body.posedirs,
        "J_regressor": body.joint_regressor,
        "weights": body.weights,
        "kintree_table": np.stack([np.asarray(body.parents), joints]),
        "hands_componentsl": body.hand_components[0],
        "hands_componentsr": body.hand_components[1],
        "hands_meanl": body.hand_means[0],
        "hands_meanr": body.hand_means[1],
        "lmk_faces_idx": body.landmark_faces,
        "lmk_bary_coords": body.landmark_bary,
        "dynamic_lmk_faces_idx": body.contour_faces,
        "dynamic_lmk_bary_coords": body.contour_bary,
    }
