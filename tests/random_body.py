"""A small random body: no anatomy, but every array of a BodyData, so that sums can be checked."""

import numpy as np

from bodymodel.body import BodyData
from bodymodel.fit_points import FitPoints
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import FACE_CONTOUR, FAMILIES, SMPLX_VERTEX_IDS


def random_body(seed=0, num_vertices=80, num_betas=10, num_expression=10, family="smplx"):
    rng = np.random.default_rng(seed)
    spec = FAMILIES[family]
    joints, v = len(spec.joints), num_vertices

    def noise(*shape, scale=1.0):
        return (rng.normal(size=shape) * scale).astype(np.float32)

    weights = rng.dirichlet(np.full(joints, 0.05), v).astype(np.float32)
    regressor = rng.dirichlet(np.full(v, 0.05), joints).astype(np.float32)
    return BodyData(
        family=family, gender="neutral", name=f"random-{seed}", sha256=f"{seed:064x}",
        is_open=True,
        v_template=noise(v, 3, scale=0.5),
        faces=rng.integers(0, v, (2 * v, 3)).astype(np.int32),
        shapedirs=noise(v, 3, num_betas, scale=0.02),
        exprdirs=noise(v, 3, num_expression, scale=0.01),
        posedirs=noise(v, 3, 9 * (joints - 1), scale=0.002),
        joint_regressor=regressor, weights=weights,
        parents=spec.parents, joints=spec.joints,
        hand_components=noise(2, 45, 45), hand_means=noise(2, 45, scale=0.1),
        landmark_faces=rng.integers(0, 2 * v, 51), landmark_bary=noise(51, 3),
        contour_faces=rng.integers(0, 2 * v, (79, 17)), contour_bary=noise(79, 17, 3),
    )  # fmt: skip


def random_params(body, seed=0, depth_m=4.0):
    """Parameters of one person in front of the camera, as the store's columns hold them."""
    rng = np.random.default_rng(seed)
    shapes = {
        "global_orient": (3,), "body_pose": (21, 3), "jaw_pose": (3,), "leye_pose": (3,),
        "reye_pose": (3,), "left_hand_pose": (15, 3), "right_hand_pose": (15, 3),
    }  # fmt: skip
    params = {k: rng.normal(size=s).astype(np.float32) * 0.4 for k, s in shapes.items()}
    params["betas"] = rng.normal(size=body.num_betas).astype(np.float32)
    params["expression"] = rng.normal(size=body.num_expression).astype(np.float32)
    params["transl"] = np.array([0.2, -0.1, depth_m], np.float32)
    return params


def random_points(body, seed=0):
    """Weights as bodymodel.fit_points gives them: 55 joints, vertices, triangles, no contour."""
    rng = np.random.default_rng(seed)
    k, j, v = len(FIT_KEYPOINTS), len(body.joints), len(body.v_template)
    ids = np.sort(rng.choice(v, 40, replace=False))
    joint_weights, vertex_weights = np.zeros((k, j)), np.zeros((k, len(ids)))
    joint_weights[np.arange(j), np.arange(j)] = 1
    for row in range(j, k):
        many = 1 if row < j + len(SMPLX_VERTEX_IDS) else 3
        vertex_weights[row, rng.choice(len(ids), many, replace=False)] = rng.dirichlet([1] * many)
    first = FIT_KEYPOINTS.index(FACE_CONTOUR[0])
    vertex_weights[first : first + len(FACE_CONTOUR)] = 0
    return FitPoints(joint_weights, ids, vertex_weights)
