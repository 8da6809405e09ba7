"""Our body model against the published one on the same file.

The ``smplx`` package is licensed for research only: it may judge here, and is used nowhere else.
"""

import dataclasses

import numpy as np
import pytest
import torch

from bodymodel.arrays import body_from_arrays
from bodymodel.files import find_model_file, load_body
from bodymodel.model import BodyModel
from bodymodel.params import BodyParams
from bodymodel.rotations import rotvec_to_rotmat
from bodymodel.spec import SMPLH_VERTEX_IDS, SMPLX_VERTEX_IDS
from tests.toy_body import toy_arrays

smplx = pytest.importorskip("smplx")

IDS = (
    "nose", "reye", "leye", "rear", "lear",
    "LBigToe", "LSmallToe", "LHeel", "RBigToe", "RSmallToe", "RHeel",
    "lthumb", "lindex", "lmiddle", "lring", "lpinky",
    "rthumb", "rindex", "rmiddle", "rring", "rpinky",
)  # fmt: skip


def load_theirs(path):
    return smplx.SMPLXLayer(
        str(path), ext=path.suffix[1:], num_betas=10, num_expression_coeffs=10, use_pca=False,
        flat_hand_mean=True, use_face_contour=True, dtype=torch.float64,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same toy file in both."""
    arrays = toy_arrays("smplx")
    path = tmp_path_factory.mktemp("toy") / "SMPLX_NEUTRAL.npz"
    np.savez(path, **{k: v for k, v in arrays.items() if k not in ("vertex_ids", "model_name")})
    body = body_from_arrays(arrays, "smplx", "neutral")
    # It insists on the published vertex ids, which a toy does not reach.
    with pytest.MonkeyPatch.context() as patch:
        ids = dict(zip(IDS, body.vertex_ids, strict=True))
        patch.setitem(smplx.body_models.VERTEX_IDS, "smplx", ids)
        theirs = load_theirs(path)
    return BodyModel(body, dtype=torch.float64), theirs


def run_theirs(theirs, params: BodyParams):
    return theirs(
        **{
            name: rotvec_to_rotmat(getattr(params, name))
            for name in (
                "global_orient", "body_pose", "jaw_pose", "leye_pose", "reye_pose",
                "left_hand_pose", "right_hand_pose",
            )
        },
        betas=params.betas, expression=params.expression, transl=params.transl,
    )  # fmt: skip


def test_vertex_keypoint_order_is_the_published_one():
    published = smplx.vertex_ids.vertex_ids
    assert tuple(published["smplx"][k] for k in IDS) == SMPLX_VERTEX_IDS
    assert tuple(published["smplh"][k] for k in IDS) == SMPLH_VERTEX_IDS


def compare(ours, theirs, scale, facing, count):
    generator = torch.Generator().manual_seed(3)
    params = BodyParams.zeros(count, dtype=torch.float64).map(
        lambda x: scale * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    )
    turned = params.global_orient.clone()
    turned[:, 0] += facing
    params = dataclasses.replace(params, global_orient=turned)
    mine, reference = ours(params), run_theirs(theirs, params)
    torch.testing.assert_close(mine.vertices, reference.vertices, rtol=0, atol=1e-6)
    torch.testing.assert_close(mine.joints, reference.joints[:, :55], rtol=0, atol=1e-6)
    torch.testing.assert_close(mine.keypoints, reference.joints, rtol=0, atol=1e-6)
    single = BodyModel(ours.body)(params.map(lambda x: x.float()))
    assert (single.vertices - reference.vertices).abs().max() < 1e-5


@pytest.mark.parametrize("scale", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("facing", [0.0, np.pi])
def test_smplx(pair, scale, facing):
    compare(*pair, scale, facing, count=64)


def test_smplx_on_the_open_body_with_the_published_vertex_ids(open_body, tmp_path):
    from bodymodel.openbody import load_open_arrays

    np.savez(tmp_path / "SMPLX_NEUTRAL.npz", **load_open_arrays("smplx", "neutral"))
    theirs = load_theirs(tmp_path / "SMPLX_NEUTRAL.npz")
    compare(BodyModel(open_body, dtype=torch.float64), theirs, 0.5, np.pi, count=4)


@pytest.mark.licensed
@pytest.mark.parametrize("gender", ["neutral", "female", "male"])
def test_smplx_on_the_users_own_files(gender):
    try:
        path = find_model_file("licensed", "smplx", gender)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    ours = BodyModel(load_body(path, gender=gender), dtype=torch.float64)
    compare(ours, load_theirs(path), 0.5, np.pi, count=4)


@pytest.mark.parametrize("family", ["smpl", "smplh", "mano", "flame"])
def test_other_families(family, tmp_path):
    """Mesh and joints agree for every family that poses without a face or hand of its own."""
    arrays = toy_arrays(family)
    body = body_from_arrays(arrays, family, "neutral")
    num = len(body.joints)
    pose = 0.4 * torch.randn(5, num, 3, generator=torch.Generator().manual_seed(0)).double()
    betas = torch.randn(5, 10, generator=torch.Generator().manual_seed(1)).double()
    expression = torch.randn(5, body.num_expression).double()
    mine = BodyModel(body, dtype=torch.float64).forward_pose(pose, betas, expression)

    def tensor(x):
        return torch.as_tensor(np.asarray(x)).double()

    dirs = tensor(arrays["shapedirs"])
    parents = torch.tensor(body.parents)
    vertices, joints = smplx.lbs.lbs(
        torch.cat([betas, expression], -1), pose.flatten(1), tensor(arrays["v_template"]), dirs,
        tensor(arrays["posedirs"]).flatten(0, 1).T, tensor(arrays["J_regressor"]), parents,
        tensor(arrays["weights"]),
    )  # fmt: skip
    torch.testing.assert_close(mine.vertices, vertices, rtol=0, atol=1e-6)
    torch.testing.assert_close(mine.joints, joints, rtol=0, atol=1e-6)
