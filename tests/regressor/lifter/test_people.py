import numpy as np
import pytest
import torch

from bodymodel.files import load_body
from bodymodel.mocap import packaged_motion
from regressor.lifter.network import LifterConfig, LifterNet
from regressor.lifter.people import SHOWN_AS, draw_people, show
from regressor.lifter.predict import POINTS
from regressor.lifter.skeleton import Skeleton
from regressor.lifter.training import lifter_loss, total_loss
from regressor.lifter.view import look_at


@pytest.fixture(scope="module")
def people():
    return draw_people(load_body(), packaged_motion(), POINTS, 64, np.random.default_rng(0))


def test_points_and_rotations_are_one_body(people):
    skeleton = Skeleton(load_body(), 10)
    unturned = people.rotations.clone()
    unturned[:, 0] = torch.eye(3)
    joints = skeleton(unturned, people.betas)
    for name, joint in (("left_knee", 4), ("right_wrist", 21), ("left_shoulder", 16)):
        torch.testing.assert_close(
            people.points[:, POINTS.index(name)], joints[:, joint], atol=2e-3, rtol=0
        )


def test_cameras_see_what_they_say(people):
    shown = show(people, POINTS, torch.Generator().manual_seed(0))
    placed = people.points @ shown.root.mT + shown.pelvis[:, None]
    assert placed[..., 2].min() > 0.35
    off = (shown.rays - placed[..., :2] / placed[..., 2:]).norm(dim=-1)
    size = shown.rays.std(1).norm(dim=-1)
    assert float((off / size[:, None]).median()) < 0.1
    assert ((shown.confidence > 0).sum(1) >= 5).all()
    share = (shown.confidence > 0).float().mean()
    assert 0.1 < float(share) < 0.9


def test_everything_that_is_shown_can_be_seen():
    from bodymodel.keypoints import CONVENTIONS

    assert all(name in POINTS for name in CONVENTIONS["lsp14"])
    assert all(
        name in POINTS for c in SHOWN_AS for name in CONVENTIONS[c] if name in ("nose", "head_top")
    )


def test_the_truth_has_no_loss(people):
    shown = show(people, POINTS, torch.Generator().manual_seed(0))
    view = look_at(shown.rays, shown.confidence)
    root = view.rotation @ shown.root
    pelvis = (view.rotation @ shown.pelvis[..., None])[..., 0]
    from regressor.lifter.network import Lifted

    truth = torch.cat([root[:, None], people.rotations[:, 1:]], 1)
    place = torch.cat(
        [
            pelvis[:, :2] / (pelvis[:, 2] * view.spread)[:, None],
            (pelvis[:, 2] * view.spread).log()[:, None],
        ],
        1,
    )
    lifted = Lifted(
        truth[:, None], place[:, None], torch.zeros(64, 1), people.hands, people.jaw,
        people.betas, people.expression,
    )  # fmt: skip
    losses = lifter_loss(lifted, view, shown, Skeleton(load_body(), 10))
    assert float(losses.answers.max()) < 1e-3
    assert float(losses.shared.max()) < 1e-6
    assert float(losses.joints_m.max()) < 1e-5


def test_held_out_subjects_are_those_divisible_by_five():
    learn, held_out = packaged_motion().split()
    assert {int(s) % 5 for s in held_out.subject} == {0}
    assert not {int(s) % 5 for s in learn.subject} & {0}


@pytest.mark.slow
def test_it_learns(people):
    torch.manual_seed(0)
    net = LifterNet(LifterConfig(num_points=len(POINTS), width=128, blocks=2))
    skeleton = Skeleton(load_body(), 10)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3)
    shown = show(people, POINTS, torch.Generator().manual_seed(0))
    view = look_at(shown.rays, shown.confidence)
    first = None
    for _ in range(200):
        lifted = net(view.features)
        losses = lifter_loss(lifted, view, shown, skeleton)
        loss = total_loss(losses, lifted.scores)
        first = first or float(losses.joints_m.detach().amin(1).mean())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(losses.joints_m.detach().amin(1).mean()) < 0.35 * first
