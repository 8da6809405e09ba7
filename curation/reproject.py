"""From a stored row back to points, mesh and pixels, with numpy alone. Torch-free.

The forward kinematics of the SMPL family (Loper et al. 2015, equations 2-10), in float64: the
independent check that a row holds everything that the solver saw.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bodymodel.body import BodyData
from bodymodel.fit_points import FitPoints, convention_mixes, fit_points, mix_points
from bodymodel.spec import BODY_JOINTS, LEFT_HAND_JOINTS, RIGHT_HAND_JOINTS

__all__ = ["Reprojector", "posed_joints", "posed_vertices", "rotvec_to_rotmat", "trunk_lean_deg"]

_JOINTS_OF: dict[str, tuple[str, ...]] = {
    "global_orient": BODY_JOINTS[:1],
    "body_pose": BODY_JOINTS[1:],
    "jaw_pose": ("jaw",),
    "leye_pose": ("left_eye_smplhf",),
    "reye_pose": ("right_eye_smplhf",),
    "left_hand_pose": LEFT_HAND_JOINTS,
    "right_hand_pose": RIGHT_HAND_JOINTS,
}


def rotvec_to_rotmat(rotvec: np.ndarray) -> np.ndarray:
    """Rodrigues' formula, exact to rounding at every angle.

    Args:
        rotvec: (..., 3) axis-angle, rad.

    Returns:
        (..., 3, 3) float64.
    """
    rotvec = np.asarray(rotvec, np.float64)
    angle = np.linalg.norm(rotvec, axis=-1)[..., None, None]
    # sinc keeps the limits at 0: sin(t)/t, and (1 - cos t)/t^2 = sinc(t/2)^2 / 2.
    a = np.sinc(angle / np.pi)
    b = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    x, y, z = np.moveaxis(rotvec, -1, 0)
    zero = np.zeros_like(x)
    skew = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    return np.eye(3) + a * skew + b * (skew @ skew)


def _shaped(body: BodyData, params: Mapping[str, np.ndarray], rows: slice | np.ndarray):
    """Rest vertices with shape and expression, before pose correctives."""
    vertices = body.v_template[rows].astype(np.float64)
    for directions, name in ((body.shapedirs, "betas"), (body.exprdirs, "expression")):
        values = np.asarray(params.get(name, ()), np.float64)
        if len(values) > directions.shape[-1]:
            raise ValueError(
                f"{name} has {len(values)} components, {body.name} has {directions.shape[-1]}; "
                "load the body that the row names"
            )
        vertices = vertices + directions[rows][..., : len(values)] @ values
    return vertices


def _transforms(
    body: BodyData, params: Mapping[str, np.ndarray], rest_joints: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the (J, 3, 3) local rotations and the (J, 3, 4) world transforms."""
    rotvec = np.zeros((len(body.joints), 3))
    for name, joints in _JOINTS_OF.items():
        values = np.asarray(params[name], np.float64).reshape(-1, 3)
        if len(values) != len(joints):
            raise ValueError(f"{name} must be {(len(joints), 3)}, got {np.shape(params[name])}")
        for joint, value in zip(joints, values, strict=True):
            if joint in body.joints:
                rotvec[body.joints.index(joint)] = value
    local = rotvec_to_rotmat(rotvec)
    world = np.zeros((len(local), 3, 4))
    for joint, parent in enumerate(body.parents):
        if parent < 0:
            world[joint, :, :3] = local[joint]
            world[joint, :, 3] = rest_joints[joint]
            continue
        offset = rest_joints[joint] - rest_joints[parent]
        world[joint, :, :3] = world[parent, :, :3] @ local[joint]
        world[joint, :, 3] = world[parent, :, :3] @ offset + world[parent, :, 3]
    return local, world


def _rest_joints(body: BodyData, params: Mapping[str, np.ndarray]) -> np.ndarray:
    return body.joint_regressor.astype(np.float64) @ _shaped(body, params, slice(None))


def _skin(
    body: BodyData,
    params: Mapping[str, np.ndarray],
    rows: slice | np.ndarray,
    rest_joints: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the posed joints (J, 3) and the posed vertices of ``rows``, with ``transl``."""
    local, world = _transforms(body, params, rest_joints)
    transl = np.asarray(params["transl"], np.float64)
    correctives = (local[1:] - np.eye(3)).reshape(-1)
    # float32 here costs 1e-9 m and spares a float64 copy of 120 MB.
    bend = body.posedirs[rows] @ correctives.astype(body.posedirs.dtype)
    vertices = _shaped(body, params, rows) + bend
    # Relative to the rest pose: x -> R (x - j) + t.
    relative = world.copy()
    relative[..., 3] -= np.einsum("jab,jb->ja", world[..., :3], rest_joints)
    blend = np.tensordot(body.weights[rows].astype(np.float64), relative, 1)
    posed = np.einsum("vab,vb->va", blend[..., :3], vertices) + blend[..., 3]
    return world[..., 3] + transl, posed + transl


def posed_joints(body: BodyData, params: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the posed joints.

    Args:
        body: The body that the parameters belong to.
        params: The fields of BodyParams for one person, as the store's rows hold them.

    Returns:
        (J, 3) float64, metres, in the frame of ``global_orient`` and ``transl`` (the camera's).

    Raises:
        ValueError: If a parameter has a shape that the body does not take.
    """
    _, world = _transforms(body, params, _rest_joints(body, params))
    return world[..., 3] + np.asarray(params["transl"], np.float64)


def posed_vertices(body: BodyData, params: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the posed mesh, (V, 3) float64, metres; see posed_joints."""
    return _skin(body, params, slice(None), _rest_joints(body, params))[1]


def trunk_lean_deg(joints: np.ndarray, body: BodyData) -> float:
    """Return the angle of pelvis to neck against the image plane, degrees.

    Positive leans toward the camera. It is the error that a photo hides best.

    Args:
        joints: (J, 3) of posed_joints, camera frame.
        body: Whose joints they are.
    """
    trunk = joints[body.joints.index("neck")] - joints[body.joints.index("pelvis")]
    return float(np.degrees(np.arctan2(-trunk[2], np.hypot(trunk[0], trunk[1]))))


@dataclass(frozen=True, eq=False)
class Reprojector:
    """Gives the keypoints of rows that were fitted with one body.

    Attributes:
        body: The body.
        definition: Where the 145 points lie on it, for rows that do not name conventions.
    """

    body: BodyData
    definition: FitPoints

    def places(self, row: Mapping[str, np.ndarray]) -> FitPoints:
        """Return where the points lie that a row was fitted to (its ``keypoint_places``)."""
        mixes = convention_mixes(tuple(row.get("keypoint_places", ())))
        return mix_points(self.definition, mixes) if mixes else self.definition

    @classmethod
    def for_body(cls, body: BodyData) -> "Reprojector":
        """Return the reprojector of a body, with the project's definition of the keypoints."""
        return cls(body, fit_points(body))

    def points(self, row: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the keypoints of a row.

        Args:
            row: Of FitStore.iter_rows, with the columns of schema.PARAMETERS.

        Returns:
            (145, 3) float64, metres, camera frame, ``fit`` convention; NaN for the points of the
            face contour, whose place on the body depends on the view.

        Raises:
            ValueError: If the row was fitted with another body, or holds no fit.
        """
        found = row.get("body_sha256", self.body.sha256)
        if found != self.body.sha256:
            raise ValueError(
                f"the row was fitted with body {row.get('body_name', '?')} ({found[:12]}), this is "
                f"{self.body.name} ({self.body.sha256[:12]}); load the row's own body"
            )
        if not np.isfinite(row["transl"]).all():
            raise ValueError("the row holds no fit; choose rows where has_fit")
        rest = _rest_joints(self.body, row)
        places = self.places(row)
        joints, vertices = _skin(self.body, row, places.vertex_ids, rest)
        points = places.joint_weights @ joints + places.vertex_weights @ vertices
        undefined = ~(places.joint_weights.any(1) | places.vertex_weights.any(1))
        points[undefined] = np.nan
        return points

    def project(self, row: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the keypoints of a row in pixels of the upright image, (145, 2) float64.

        u = f x / z + cx, with the row's own camera. NaN for points behind the camera and those
        that ``points`` does not give.

        Args:
            row: As in ``points``, with ``focal_px`` and ``center_px``.

        Raises:
            ValueError: As in ``points``.
        """
        points = self.points(row)
        depth = np.where(points[:, 2:] > 0, points[:, 2:], np.nan)
        center = np.asarray(row["center_px"], np.float64)
        return float(row["focal_px"]) * points[:, :2] / depth + center

    def residuals(self, row: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the distance from the row's keypoints to the model's, (145,) px.

        NaN where there is no keypoint: what ``residual_px`` holds, but for the points that the
        solver found too unsure to use.

        Args:
            row: As in ``project``, with ``keypoints_2d``.
        """
        seen = np.asarray(row["keypoints_2d"], np.float64)
        distance = np.linalg.norm(self.project(row) - seen[:, :2], axis=-1)
        return np.where(seen[:, 2] > 0, distance, np.nan)
