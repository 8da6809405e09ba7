"""Joints and keypoints of many fits at once, with numpy alone. Torch-free.

The same equations as curation.reproject, which poses one row and is what this is tested against;
here the shape's part of joints and points is prepared once, so that 37,000 fits take a minute.
"""

from collections.abc import Mapping

import numpy as np

from bodymodel.body import BodyData
from bodymodel.fit_points import fit_points
from bodymodel.keypoints import FIT_KEYPOINTS
from curation.formats.fits import Fits, FormatError
from curation.reproject import rotvec_to_rotmat
from curation.schema import POSE_SHAPES

__all__ = ["Poser"]

_CHUNK = 256


class Poser:
    """Gives the posed joints and keypoints of fits of one body.

    Args:
        body: A SMPL-X body.
        conventions: Where keypoints lie on it, as in bodymodel.fit_points; SMPL-X's own by default.
    """

    def __init__(self, body: BodyData, conventions: tuple[str, ...] = ()) -> None:
        self.body = body
        places = fit_points(body, conventions)
        rows = places.vertex_ids
        directions = np.concatenate([body.shapedirs, body.exprdirs], 2).astype(np.float64)
        regressor = body.joint_regressor.astype(np.float64)
        self._joints = regressor @ body.v_template.astype(np.float64)
        self._joint_dirs = np.einsum("jv,vcb->jcb", regressor, directions)
        self._points = body.v_template[rows].astype(np.float64)
        self._point_dirs = directions[rows]
        self._posedirs = body.posedirs[rows].astype(np.float64)
        self._weights = body.weights[rows].astype(np.float64)
        self._places = places
        self._undefined = ~(places.joint_weights.any(1) | places.vertex_weights.any(1))

    def check(self, fits: Fits) -> None:
        """Refuse fits of another body.

        Raises:
            FormatError: If they are.
        """
        if fits.body_sha256 and fits.body_sha256 != self.body.sha256:
            raise FormatError(
                f"the fits are of {fits.body_name or 'a body'} ({fits.body_sha256[:12]}), the body "
                f"at hand is {self.body.name} ({self.body.sha256[:12]}); name theirs with --body"
            )

    def joints_and_points(self, fits: Fits) -> tuple[np.ndarray, np.ndarray]:
        """Return (N, 55, 3) joints and (N, 145, 3) keypoints, metres, the camera's frame.

        Points of the jaw line, whose place depends on the view, are NaN.
        """
        self.check(fits)
        parts = [
            self._chunk({k: v[i : i + _CHUNK] for k, v in fits.params.items()}, full)
            for i in range(0, len(fits), _CHUNK)
            for full in [fits.full_pose[i : i + _CHUNK]]
        ]
        if not parts:
            return np.zeros((0, 55, 3)), np.zeros((0, len(FIT_KEYPOINTS), 3))
        joints, points = zip(*parts, strict=True)
        return np.concatenate(joints), np.concatenate(points)

    def project(self, fits: Fits, points: np.ndarray) -> np.ndarray:
        """Return (N, K, 2) pixels of (N, K, 3) points; NaN behind the camera."""
        depth = np.where(points[..., 2:] > 1e-6, points[..., 2:], np.nan)
        focal = fits.focal_px.astype(np.float64)[:, None, None]
        return focal * points[..., :2] / depth + fits.center_px.astype(np.float64)[:, None]

    def root_joints(self, params: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return (N, 3) the pelvis at rest, about which ``global_orient`` turns."""
        return self._joints[0] + self._shape(params) @ self._joint_dirs[0].T

    def _shape(self, params: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return (N, B + E), filled with zeros or refused where the file has more."""
        widths = (self.body.num_betas, self.body.num_expression)
        out = []
        for name, width in zip(("betas", "expression"), widths, strict=True):
            values = np.asarray(params[name], np.float64)
            if values.shape[1] > width and values[:, width:].any():
                raise FormatError(
                    f"{name} has {values.shape[1]} components, {self.body.name} was loaded with "
                    f"{width}"
                )
            values = values[:, :width]
            out.append(np.pad(values, ((0, 0), (0, width - values.shape[1]))))
        return np.concatenate(out, 1)

    def _chunk(self, params: Mapping[str, np.ndarray], full: np.ndarray):
        shape = self._shape(params)
        local = rotvec_to_rotmat(full)
        rest = self._joints + np.einsum("nb,jcb->njc", shape, self._joint_dirs)
        turn, place = np.empty_like(local), np.empty_like(rest)
        for joint, parent in enumerate(self.body.parents):
            if parent < 0:
                turn[:, joint], place[:, joint] = local[:, joint], rest[:, joint]
                continue
            offset = (rest[:, joint] - rest[:, parent])[..., None]
            turn[:, joint] = turn[:, parent] @ local[:, joint]
            place[:, joint] = (turn[:, parent] @ offset)[..., 0] + place[:, parent]
        bend = (local[:, 1:] - np.eye(3)).reshape(len(full), -1)
        vertices = self._points + np.einsum("nb,vcb->nvc", shape, self._point_dirs)
        vertices = vertices + np.einsum("np,vcp->nvc", bend, self._posedirs, optimize=True)
        shift = place - np.einsum("njab,njb->nja", turn, rest)
        blend = np.einsum("vj,njab->nvab", self._weights, turn, optimize=True)
        moved = np.einsum("nvab,nvb->nva", blend, vertices)
        moved += np.einsum("vj,nja->nva", self._weights, shift)
        transl = np.asarray(params["transl"], np.float64)[:, None]
        joints = place + transl
        points = np.einsum("kj,njc->nkc", self._places.joint_weights, joints)
        points += np.einsum("kv,nvc->nkc", self._places.vertex_weights, moved + transl)
        points[:, self._undefined] = np.nan
        return joints, points


assert sum(int(np.prod(s)) // 3 for s in POSE_SHAPES.values()) == 55
