"""A stick-figure body with the keys of a real SMPL-X file, built in milliseconds.

Every bone is a small closed tube, the head a ball that carries the face landmarks. It stands
1.7 m tall in the T-pose, looks to +z, and bends where a body bends, so that fits, renders and
metrics on it mean something; its numbers mean nothing to any other body.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bodymodel.spec import (
    FAMILIES,
    FLAME_JOINTS,
    MANO_JOINTS,
    VERTEX_KEYPOINTS,
    Family,
)

_BODY_XYZ = {
    "pelvis": (0, 0, 0), "left_hip": (0.07, -0.09, 0), "right_hip": (-0.07, -0.09, 0),
    "spine1": (0, 0.11, -0.01), "left_knee": (0.09, -0.47, 0), "right_knee": (-0.09, -0.47, 0),
    "spine2": (0, 0.24, 0), "left_ankle": (0.09, -0.87, -0.03),
    "right_ankle": (-0.09, -0.87, -0.03), "spine3": (0, 0.3, 0.01),
    "left_foot": (0.11, -0.93, 0.09), "right_foot": (-0.11, -0.93, 0.09),
    "neck": (0, 0.5, -0.01), "left_collar": (0.07, 0.42, 0), "right_collar": (-0.07, 0.42, 0),
    "head": (0, 0.59, 0.02), "left_shoulder": (0.17, 0.44, 0), "right_shoulder": (-0.17, 0.44, 0),
    "left_elbow": (0.43, 0.43, -0.01), "right_elbow": (-0.43, 0.43, -0.01),
    "left_wrist": (0.68, 0.43, 0), "right_wrist": (-0.68, 0.43, 0),
    "jaw": (0, 0.6, 0.03), "left_eye_smplhf": (0.03, 0.66, 0.08),
    "right_eye_smplhf": (-0.03, 0.66, 0.08),
    "left_hand": (0.76, 0.43, 0), "right_hand": (-0.76, 0.43, 0),
}  # fmt: skip
_FINGER_ROOT = {  # from the left wrist: where the finger starts, and which way it points
    "index": ((0.09, 0, 0.025), (1, 0, 0.1)), "middle": ((0.095, 0, 0.0), (1, 0, 0)),
    "ring": ((0.085, 0, -0.022), (1, 0, -0.1)), "pinky": ((0.075, 0, -0.04), (1, 0, -0.2)),
    "thumb": ((0.03, -0.01, 0.03), (0.7, 0, 0.7)),
}  # fmt: skip
_ORIGIN = np.array([0.0, -0.35, 0.01])  # like SMPL-X, the pelvis is not where the axes meet
_HEAD_CENTRE = _ORIGIN + np.array([0.0, 0.66, 0.02])
_HEAD_RADIUS = np.array([0.075, 0.11, 0.09])


def _joint_xyz(name: str) -> np.ndarray:
    if name in _BODY_XYZ:
        return _ORIGIN + np.array(_BODY_XYZ[name], float)
    side, finger, k = name[: name.index("_")], name.split("_")[1][:-1], int(name[-1])
    start, way = (np.array(x, float) for x in _FINGER_ROOT[finger])
    left = np.array(_BODY_XYZ["left_wrist"]) + start + (k - 1) * 0.028 * way / np.linalg.norm(way)
    return _ORIGIN + (left if side == "left" else left * (-1, 1, 1))


def _tube(start: np.ndarray, end: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Two rings of four between two tips: 10 vertices, 16 outward faces."""
    axis = (end - start) / np.linalg.norm(end - start)
    side = np.cross(axis, [0.3, 0.5, 0.81])
    side /= np.linalg.norm(side)
    up = np.cross(axis, side)
    ring = [np.cos(a) * side + np.sin(a) * up for a in np.arange(4) * np.pi / 2]
    low = [start + 0.15 * (end - start) + radius * r for r in ring]
    high = [start + 0.85 * (end - start) + radius * r for r in ring]
    faces = []
    for k in range(4):
        n = (k + 1) % 4
        faces += [(8, n, k), (k, n, 4 + n), (k, 4 + n, 4 + k), (9, 4 + k, 4 + n)]
    return np.array([*low, *high, start, end]), np.array(faces)


def _ball(rows: int = 9, columns: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid round the head, poles up and down; faces outward."""
    polar = np.linspace(0, np.pi, rows + 2)[1:-1]
    around = np.arange(columns) * 2 * np.pi / columns
    unit = [(0.0, 1.0, 0.0)]
    unit += [
        (np.sin(p) * np.sin(a), np.cos(p), np.sin(p) * np.cos(a)) for p in polar for a in around
    ]
    unit.append((0.0, -1.0, 0.0))
    last, faces = len(unit) - 1, []
    for c in range(columns):
        n = (c + 1) % columns
        faces.append((0, 1 + c, 1 + n))
        for r in range(rows - 1):
            a, b = 1 + r * columns, 1 + (r + 1) * columns
            faces += [(a + c, b + c, b + n), (a + c, b + n, a + n)]
        bottom = 1 + (rows - 1) * columns
        faces.append((last, bottom + n, bottom + c))
    return _HEAD_CENTRE + np.array(unit) * _HEAD_RADIUS, np.array(faces)


def _hit(vertices: np.ndarray, faces: np.ndarray, direction: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the face of the ball that a ray from its centre meets, and where in it."""
    corners = vertices[faces].transpose(0, 2, 1)  # columns are the corners
    solution = np.linalg.solve(
        corners - _HEAD_CENTRE[None, :, None],
        np.broadcast_to(direction[:, None], (len(faces), 3, 1)),
    )[..., 0]
    face = int(np.argmax(solution.min(-1)))
    bary = np.maximum(solution[face], 0)
    return face, bary / bary.sum()


def toy_arrays(family: Family = "smplx", seed: int = 0) -> dict[str, np.ndarray]:
    """Return the arrays of a toy body under the official files' keys (and ``vertex_ids``)."""
    rng = np.random.default_rng(seed)
    spec = FAMILIES[family]
    names = spec.joints
    lookup = {"wrist": "right_wrist", "root": "spine3"}
    if family == "mano":
        names = tuple(lookup.get(n, f"right_{n}") for n in MANO_JOINTS)
    if family == "flame":
        names = tuple(lookup.get(n, n) for n in FLAME_JOINTS)
    joints = np.array([_joint_xyz(n) for n in names])
    num = len(joints)

    vertices, faces, owner, along = [], [], [], []
    tip_of: dict[str, int] = {}
    count = 0

    def add(points: np.ndarray, triangles: np.ndarray, joint: int, blend: np.ndarray) -> None:
        nonlocal count
        vertices.append(points)
        faces.append(triangles + count)
        owner.append(np.full(len(points), joint))
        along.append(blend)
        count += len(points)

    for child, parent in enumerate(spec.parents):
        if parent < 0:
            continue
        thin = names[child][-1].isdigit() and not names[child].startswith("spine")
        points, triangles = _tube(joints[parent], joints[child], 0.008 if thin else 0.04)
        blend = np.zeros((len(points), 2))
        blend[:, 0] = parent
        blend[:, 1] = -1
        blend[4:8, 1] = blend[9, 1] = child  # the far end is half the child's
        add(points, triangles, parent, blend)
    for joint in range(num):
        if joint in spec.parents:
            continue
        name = names[joint]
        if name.startswith(("left", "right")) and name[-1] == "3":
            way = joints[joint] - joints[spec.parents[joint]]
        elif "foot" in name:
            way = np.array([0, -0.01, 0.09])
        elif "hand" in name:
            way = np.array([np.sign(joints[joint, 0]) * 0.08, 0, 0])
        else:
            way = np.array([0, 0, 0.02])
        points, triangles = _tube(joints[joint], joints[joint] + way, 0.008)
        tip_of[name] = count + 9
        add(points, triangles, joint, np.stack([np.full(10, joint), np.full(10, -1)], 1))
    ball_at, ball_face = count, sum(map(len, faces))
    has_head = "jaw" in names or "head" in names
    if has_head:
        points, triangles = _ball()
        head = names.index("head") if "head" in names else names.index("neck")
        blend = np.stack([np.full(len(points), head), np.full(len(points), -1)], 1).astype(float)
        if "jaw" in names:  # the chin moves with the jaw
            chin = (points[:, 1] < _HEAD_CENTRE[1] - 0.04) & (points[:, 2] > _HEAD_CENTRE[2] + 0.02)
            blend[chin, 0] = names.index("jaw")
        add(points, triangles, head, blend)

    v = np.concatenate(vertices)
    f = np.concatenate(faces).astype(np.int64)
    blends = np.concatenate(along).astype(int)
    weights = np.zeros((len(v), num))
    for column in range(2):
        used = blends[:, column] >= 0
        weights[np.flatnonzero(used), blends[used, column]] += 1
    weights /= weights.sum(1, keepdims=True)

    # A joint is the mean of the tips that were put on it, the root that of its bones' starts.
    regressor = np.zeros((num, len(v)))
    bones = [c for c, p in enumerate(spec.parents) if p >= 0]
    for k, child in enumerate(bones):
        regressor[child, 10 * k + 9] = 1
        if spec.parents[child] == 0:
            regressor[0, 10 * k + 8] = 1
    regressor /= regressor.sum(1, keepdims=True)

    num_expression = 10 if family in ("smplx", "flame") else 0
    smooth = np.stack([v[:, 0], v[:, 1], v[:, 2], np.abs(v[:, 0]), v[:, 1] ** 2], 1)
    mix = rng.normal(size=(3, 5, 10)) * 0.02
    shapedirs = np.einsum("vk,ikb->vib", smooth, mix)
    shapedirs[:, :, 0] = 0.04 * v  # the first component is size
    in_ball = np.zeros(len(v), bool)
    in_ball[ball_at:] = has_head
    expression = rng.normal(size=(len(v), 3, num_expression)) * 0.003 * in_ball[:, None, None]
    pose_dirs = rng.normal(size=(len(v), 3, 9 * (num - 1))) * 1e-4
    kintree = np.stack([np.array(spec.parents), np.arange(num)]).astype(np.int64)
    kintree[0, 0] = 4294967295
    arrays = {
        "v_template": v, "f": f.astype(np.uint32), "weights": weights,
        "shapedirs": np.concatenate([shapedirs, expression], -1), "posedirs": pose_dirs,
        "J_regressor": regressor, "kintree_table": kintree.astype(np.uint32),
        "model_name": np.array(f"toy-{family}-neutral"),
    }  # fmt: skip

    if family in ("smplx", "smplh"):
        for side in "lr":
            basis, _ = np.linalg.qr(rng.normal(size=(45, 45)))
            arrays[f"hands_components{side}"] = basis
            arrays[f"hands_mean{side}"] = rng.normal(size=45) * 0.1
    if family == "mano":
        basis, _ = np.linalg.qr(rng.normal(size=(45, 45)))
        arrays["hands_components"] = basis
        arrays["hands_mean"] = rng.normal(size=45) * 0.1
    if family == "smplx":
        ball_faces = f[ball_face:]
        grid_x, grid_y = np.meshgrid(np.linspace(-0.7, 0.7, 9), np.linspace(0.5, -0.7, 6))
        directions = np.stack([grid_x, grid_y, np.ones_like(grid_x)], -1).reshape(-1, 3)[:51]
        hits = [_hit(v, ball_faces, d) for d in directions]
        arrays["lmk_faces_idx"] = np.array([ball_face + face for face, _ in hits])
        arrays["lmk_bary_coords"] = np.array([bary for _, bary in hits])
        contour_faces, contour_bary = np.zeros((79, 17), int), np.zeros((79, 17, 3))
        for row in range(79):
            # Row k is for a head turned k degrees to its left: the middle of what is seen then
            # lies as far to its right.
            turn = np.deg2rad(row if row < 40 else 39 - row)
            for k, side in enumerate(np.linspace(-1.35, 1.35, 17)):
                direction = np.array(
                    [np.sin(side - turn), -0.8 * np.cos(side), np.cos(side - turn)]
                )
                face, contour_bary[row, k] = _hit(v, ball_faces, direction)
                contour_faces[row, k] = ball_face + face
        arrays["dynamic_lmk_faces_idx"] = contour_faces
        arrays["dynamic_lmk_bary_coords"] = contour_bary
    if family in ("smplx", "smplh", "smpl"):
        arrays["vertex_ids"] = np.array(_keypoint_vertices(names, v, tip_of, in_ball))
    else:
        arrays["vertex_ids"] = np.zeros(0, int)  # allows a template of another size
    return arrays


def _keypoint_vertices(
    names: tuple[str, ...], v: np.ndarray, tip_of: dict[str, int], in_ball: np.ndarray
) -> list[int]:
    head = {
        "nose": (0, 0, 1), "left_eye": (0.4, 0.3, 1), "right_eye": (-0.4, 0.3, 1),
        "left_ear": (1, 0, 0), "right_ear": (-1, 0, 0),
    }  # fmt: skip
    feet = {"big_toe": (-0.01, 0, 0.09), "small_toe": (0.03, 0, 0.07), "heel": (0, 0, -0.1)}
    chosen = []
    for name in VERTEX_KEYPOINTS:
        side, _, rest = name.partition("_")
        if name in head:
            target = _HEAD_CENTRE + np.array(head[name]) * _HEAD_RADIUS
            allowed = in_ball
        elif rest in feet:
            mirror = 1 if side == "left" else -1
            target = _joint_xyz(f"{side}_foot") + np.array(feet[rest]) * (mirror, 1, 1)
            allowed = ~in_ball
        elif f"{name}3" in tip_of:
            chosen.append(tip_of[f"{name}3"])
            continue
        else:  # SMPL's hand has no fingers
            chosen.append(tip_of[f"{side}_hand"])
            continue
        distance = np.where(allowed, np.linalg.norm(v - target, axis=1), np.inf)
        chosen.append(int(np.argmin(distance)))
    return chosen


def write_toy_file(path: Path, family: Family = "smplx", seed: int = 0) -> Path:
    """Write the toy body as a model file and return its path."""
    np.savez(path, **toy_arrays(family, seed))
    return path
