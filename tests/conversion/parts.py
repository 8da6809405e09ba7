"""Hands and heads in MANO's and FLAME's formats, cut out of a body."""

import numpy as np

from bodymodel.body import BodyData
from bodymodel.spec import FAMILIES, LEFT_HAND_JOINTS, RIGHT_HAND_JOINTS


def part_ids(body: BodyData, family, hand="right"):
    """The body's vertices of a hand or a head; a rim of arm or neck among them."""
    if family == "mano":
        fingers = RIGHT_HAND_JOINTS if hand == "right" else LEFT_HAND_JOINTS
        names = [f"{hand}_wrist", *fingers]
    else:
        names = ["neck", "head", "jaw", "left_eye_smplhf", "right_eye_smplhf"]
    share = body.weights[:, [body.joints.index(n) for n in names]].sum(1)
    return np.flatnonzero(share > 0.3)


def part_arrays(body: BodyData, family, hand="right", scale=1.0, seed=0):
    """A model file's arrays; its vertices are in an order of their own.

    Returns:
        The arrays, and the body's vertex that each of the part's is.
    """
    ids = part_ids(body, family, hand)
    ids = np.random.default_rng(seed).permutation(ids)
    spec = FAMILIES[family]
    if family == "mano":
        fingers = RIGHT_HAND_JOINTS if hand == "right" else LEFT_HAND_JOINTS
        joints = [body.joints.index(n) for n in (f"{hand}_wrist", *fingers)]
    else:
        names = ("neck", "head", *spec.joints[2:])
        joints = [body.joints.index(n) for n in names]
    place = np.full(len(body.v_template), -1)
    place[ids] = np.arange(len(ids))
    faces = place[body.faces]
    faces = faces[(faces >= 0).all(1)]
    weights = body.weights[ids][:, joints].copy()
    weights[:, 0] += 1 - weights.sum(1)  # arm and chest are the root's
    dirs = np.concatenate([body.shapedirs, body.exprdirs], 2)[ids]
    # joints where the body has them, on the mean and on every shape: least norm
    all_dirs = np.concatenate([body.shapedirs, body.exprdirs], 2)
    known = np.concatenate([body.v_template[..., None], all_dirs], 2).reshape(len(place), -1)
    known = np.c_[known, np.ones(len(known))].astype(np.float64)
    wanted = body.joint_regressor[joints].astype(np.float64) @ known
    regressor = (np.linalg.pinv(known[ids].T) @ wanted.T).T
    columns = np.concatenate([np.arange(9 * (j - 1), 9 * j) for j in joints[1:]])
    parents = np.array(spec.parents)
    arrays = {
        "v_template": scale * body.v_template[ids], "f": faces.astype(np.uint32),
        "shapedirs": scale * (dirs[..., : body.num_betas] if family == "mano" else dirs),
        "posedirs": scale * body.posedirs[ids][..., columns], "weights": weights,
        "J_regressor": regressor, "kintree_table": np.stack([parents, np.arange(len(parents))]),
    }  # fmt: skip
    if family == "mano":
        side = int(hand == "right")
        arrays |= {
            "hands_components": body.hand_components[side], "hands_mean": body.hand_means[side],
        }  # fmt: skip
    if len(ids) != spec.num_vertices:
        arrays["vertex_ids"] = np.zeros(0, np.int64)
    return arrays, ids
