import numpy as np
import pytest
import torch

from bodymodel.params import BodyParams
from bodymodel.spec import SMPLX_JOINTS


def random_params(*batch):
    return BodyParams.zeros(*batch).map(torch.randn_like)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_full_pose_round_trip(batch):
    params = random_params(*batch)
    assert params.full_pose.shape == (*batch, 55, 3)
    back = BodyParams.zeros(*batch).with_full_pose(params.full_pose)
    for name in ("global_orient", "body_pose", "jaw_pose", "leye_pose", "reye_pose",
                 "left_hand_pose", "right_hand_pose"):  # fmt: skip
        torch.testing.assert_close(getattr(back, name), getattr(params, name))
    assert not back.betas.any()


def test_full_pose_is_in_joint_order():
    zero = BodyParams.zeros()
    places = {
        "global_orient": ["pelvis"], "jaw_pose": ["jaw"], "leye_pose": ["left_eye_smplhf"],
        "reye_pose": ["right_eye_smplhf"],
        "body_pose": [n for n in SMPLX_JOINTS[1:22]],
        "left_hand_pose": [f"left_{f}{k}" for f in ("index", "middle", "pinky", "ring", "thumb")
                           for k in (1, 2, 3)],
    }  # fmt: skip
    for name, joints in places.items():
        marked = BodyParams(**{**vars(zero), name: torch.ones_like(getattr(zero, name))})
        moved = {SMPLX_JOINTS[j] for j in torch.nonzero(marked.full_pose.any(-1)).flatten()}
        assert moved == set(joints)


def test_sizes_types_and_numpy():
    params = BodyParams.zeros(4, num_betas=300, num_expression=0, dtype=torch.float64)
    arrays = params.map(lambda x: x + 1).numpy()
    assert arrays["betas"].shape == (4, 300)
    assert arrays["expression"].shape == (4, 0)
    assert all(a.dtype == np.float64 for a in arrays.values())
    with pytest.raises(ValueError, match=r"full_pose must be \(\.\.\., 55, 3\)"):
        params.with_full_pose(torch.zeros(52, 3))
