import torch

from bodymodel.files import load_body
from bodymodel.model import BodyModel
from bodymodel.rotations import rotvec_to_rotmat
from bodymodel.skeleton import mirror_pose
from bodymodel.spec import SMPLX_KEYPOINTS
from regressor.kinematics import (
    BODY_MIRROR,
    BodyPoints,
    absolute_rotations,
    all_rotations,
    mirror_rotations,
)


def some_rotations(batch=3):
    generator = torch.Generator().manual_seed(1)
    return rotvec_to_rotmat(0.4 * torch.randn(batch, 55, 3, generator=generator))


def test_points_are_those_of_the_whole_model():
    body = load_body()
    rotations = some_rotations()
    betas, expression = torch.randn(3, 10), torch.randn(3, 10)
    points = BodyPoints(body)
    whole = BodyModel(body).forward_rotmats(rotations, betas=betas, expression=expression)
    wanted = whole.keypoints[:, [SMPLX_KEYPOINTS.index(n) for n in points.names if n != "head_top"]]
    wanted = wanted - whole.joints[:, :1]
    mine = points(rotations, betas, expression)
    mine = mine[:, [k for k, n in enumerate(points.names) if n != "head_top"]]
    torch.testing.assert_close(mine, wanted, atol=2e-5, rtol=0)


def test_absolute_rotations_are_products_down_the_tree():
    rotations = some_rotations(1)
    parents = load_body().parents
    absolute = absolute_rotations(rotations, parents)
    for joint in (0, 21, 15, 39, 54):
        product, k = torch.eye(3), joint
        while k >= 0:
            product, k = rotations[0, k] @ product, parents[k]
        torch.testing.assert_close(absolute[0, joint], product, atol=1e-5, rtol=0)


def test_mirroring_agrees_with_axis_angles():
    rotvec = torch.randn(2, 21, 3)
    by_matrix = mirror_rotations(rotvec_to_rotmat(rotvec))[:, BODY_MIRROR]
    by_vector = rotvec_to_rotmat(torch.as_tensor(mirror_pose(rotvec.numpy())))
    torch.testing.assert_close(by_matrix, by_vector, atol=1e-6, rtol=0)


def test_what_is_absent_is_at_rest():
    rotations = all_rotations({"body_pose": some_rotations()[:, 1:22]})
    assert rotations.shape == (3, 55, 3, 3)
    assert torch.equal(rotations[:, 30], torch.eye(3).expand(3, 3, 3))


def test_points_move_with_their_module():
    points = BodyPoints(load_body()).double()
    out = points(some_rotations().double(), torch.zeros(3, 10).double())
    assert out.dtype == torch.float64
