from dataclasses import replace

import numpy as np
import torch

from bodymodel.files import load_body
from bodymodel.rotations import rotvec_to_rotmat
from regressor.expose import Expose, ExposeConfig
from regressor.layout import BODY_PARTS, ParamLayout
from regressor.mean_pose import mean_parameters

LAYOUT = ParamLayout(BODY_PARTS, "interleaved")


def with_pose(example, pose):
    return replace(example, params={"body_pose": pose.astype(np.float32)})


def test_the_mean_of_one_pose_is_that_pose(rendered):
    body = load_body()
    pose = 0.5 * np.random.default_rng(0).standard_normal((21, 3))
    mean = mean_parameters(body, [with_pose(rendered[0], pose)] * 3)
    values = LAYOUT.split(mean[None])
    wanted = rotvec_to_rotmat(torch.as_tensor(pose).float())
    torch.testing.assert_close(values["body_pose"][0], wanted, atol=1e-5, rtol=0)
    hands = rotvec_to_rotmat(torch.as_tensor(body.hand_means).view(2, 15, 3).float())
    torch.testing.assert_close(values["left_hand_pose"][0], hands[0], atol=1e-5, rtol=0)
    assert values["betas"].abs().max() == 0


def test_opposite_turns_cancel(rendered):
    turn = np.zeros((21, 3))
    turn[3, 0] = 1.0
    examples = [with_pose(rendered[0], turn), with_pose(rendered[0], -turn)]
    values = LAYOUT.split(mean_parameters(load_body(), examples)[None])
    eye = torch.eye(3).expand(21, 3, 3)
    torch.testing.assert_close(values["body_pose"][0], eye, atol=1e-5, rtol=0)


def test_a_network_starts_there(rendered):
    body = load_body()
    mean = mean_parameters(body, rendered)
    model = Expose(body, replace(ExposeConfig.tiny(), parts=False), mean)
    torch.testing.assert_close(model.body.head.mean, mean)
    rest = model.rest(body)
    assert (mean - rest).abs().max() > 0.1  # recorded people do not stand like a T
