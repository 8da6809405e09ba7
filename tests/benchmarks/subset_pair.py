"""A pair of bodies like the one that the published figures were measured on.

There SMPL's 6890 vertices were a subset of SMPL-X's 10475: one body, thinned out. So equation 3 is
exact at two vertices of three, and a converter's distance is nearly all its own error. The shipped
pair is harder: its meshes share 5 % of their vertices, and their weights and correctives were made
each for itself.
"""

from dataclasses import replace

import numpy as np

from bodymodel.body import BodyData
from bodymodel.openbody.recipe.decimate import collapse_half
from bodymodel.spec import FAMILIES, LEFT_HAND_JOINTS, RIGHT_HAND_JOINTS


def subset_smpl(body: BodyData) -> BodyData:
    """Thin an SMPL-X body out to 6890 of its vertices, with SMPL's joints."""
    spec = FAMILIES["smpl"]
    template = body.v_template.astype(np.float64)
    mirrored = template * (-1, 1, 1)
    from scipy.spatial import cKDTree

    _, mirror = cKDTree(template).query(mirrored)
    mid = mirror == np.arange(len(mirror))
    half = (template[:, 0] > 0) | mid
    faces = body.faces[half[body.faces].all(1)].astype(np.int64)
    cost = np.ones(len(template))
    locked = np.zeros(len(template), bool)
    locked[list(body.vertex_ids)] = True
    locked[mirror[locked]] = True
    kept, left = collapse_half(
        template, faces, mid, cost, locked, remove=len(template) - spec.num_vertices
    )
    right = mirror[left][:, ::-1]
    kept |= kept[mirror]
    ids = np.flatnonzero(kept)
    assert len(ids) == spec.num_vertices, len(ids)
    place = np.full(len(template), -1)
    place[ids] = np.arange(len(ids))

    # SMPL's joints: fingers are one piece, the face hangs on the head
    source_of = []
    for name in body.joints:
        if name in LEFT_HAND_JOINTS:
            name = "left_hand"
        elif name in RIGHT_HAND_JOINTS:
            name = "right_hand"
        source_of.append(spec.joints.index(name if name in spec.joints else "head"))
    weights = np.zeros((len(ids), len(spec.joints)), np.float32)
    for k, joint in enumerate(source_of):
        weights[:, joint] += body.weights[ids, k]
    first = [body.joints.index(name) for name in spec.joints[:22]]
    columns = np.concatenate([np.arange(9 * (j - 1), 9 * j) for j in first[1:]])
    posedirs = np.zeros((len(ids), 3, 9 * (len(spec.joints) - 1)), np.float32)
    posedirs[..., : len(columns)] = body.posedirs[ids][..., columns]

    # joints where SMPL-X has them, on the mean and on every shape: least norm
    regressor = body.joint_regressor.astype(np.float64)
    palms = [
        regressor[[k for k, s in enumerate(source_of) if s == j]].mean(0)[None] for j in (22, 23)
    ]
    wanted = np.concatenate([regressor[first], *palms])
    all_shapes = np.concatenate([template[..., None], body.shapedirs], 2).astype(np.float64)
    known = np.concatenate([all_shapes.reshape(len(template), -1), np.ones((len(template), 1))], 1)
    own = np.stack([_local_blend(known, wanted[j], ids) for j in range(len(wanted))])
    return replace(
        body,
        family="smpl", name="subset-smpl", sha256="subset", v_template=body.v_template[ids],
        faces=place[np.concatenate([left, right])].astype(np.int32),
        shapedirs=body.shapedirs[ids], exprdirs=body.exprdirs[ids][..., :0],
        posedirs=posedirs, joint_regressor=own.astype(np.float32), weights=weights,
        parents=spec.parents, joints=spec.joints,
        landmark_faces=np.zeros(0, np.int64), landmark_bary=np.zeros((0, 3), np.float32),
        contour_faces=np.zeros((0, 17), np.int64),
        contour_bary=np.zeros((0, 17, 3), np.float32), vertex_ids=(),
    )  # fmt: skip


def _local_blend(known: np.ndarray, wanted: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The shortest row over ``ids`` that gives what ``wanted`` gives over all."""
    return np.linalg.pinv(known[ids].T) @ (known.T @ wanted)
