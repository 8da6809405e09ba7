"""Hands and heads alone: their examples, their starts, what they teach and whom."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from bodymodel.spec import mirror_name
from regressor.augment import SOURCE_MARGIN, AugmentConfig, make_batch
from regressor.close_ups import close_ups
from regressor.conditioning import Conditioning, start_of
from regressor.examples import Modality, modality_of
from regressor.expose import Expose, ExposeConfig
from regressor.figures import held_out_figures, led_by_parts
from regressor.kinematics import mirror_rotations
from regressor.losses import LossWeights
from regressor.mixture import Mixture, PartDraw, hold_out
from regressor.part_only import part_loss, regress_part
from regressor.synthetic import SyntheticConfig, make_people
from regressor.train import main
from regressor.training import Learner, LoopConfig, Rank, train_loop
from tests.regressor.datasets import files

PARTS = (Modality.HAND, Modality.HEAD)
SIZE = 64


def make(body, **changes):
    torch.manual_seed(0)
    small = replace(ExposeConfig.tiny(), hand_size=SIZE, head_size=SIZE, **changes)
    return Expose(body, small)


def batch_of(source, kind, count=16, config=None, **more):
    examples = [source[k] for k in range(min(count, len(source)))]
    config = config or AugmentConfig.of(kind).plain()
    return make_batch(
        examples, config, SIZE, round(SIZE * SOURCE_MARGIN), np.random.default_rng(0), **more
    ).to("cpu")


def drawn(kind, body, count=3, **augment):
    return PartDraw(
        count, SIZE, replace(AugmentConfig.of(kind), **augment), Conditioning.of_body(body)
    )


# --- close-ups ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PARTS)
def test_the_labels_of_a_close_up_pose_its_points(rendered, open_body, kind):
    """Its own rotation at the root and its own joints say all of a part's 3D points."""
    source = close_ups(rendered, kind)
    assert modality_of(source) is kind and modality_of(rendered) is Modality.BODY
    batch = batch_of(source, kind)
    model = make(open_body)
    targets = batch.targets
    points = model.points(targets.rotations, targets.betas, targets.expression)
    names = [model.point_names[k] for k in regress_part(model, kind, batch.pictures).of]
    rows = [FIT_KEYPOINTS.index(n) for n in names]
    at = [model.point_names.index(n) for n in names]
    known = targets.keypoints_3d[:, rows]
    assert (known[..., 3] > 0).all()
    off = points[:, at] - known[..., :3]
    off = (off - off.mean(1, keepdim=True)).norm(dim=-1)
    # a body bent at wrist and neck has correctives that a part alone has not; mirrored bodies
    # are not quite each other's image
    assert off.mean() < 0.002 and off.max() < 0.012


def test_hands_alone_are_right_hands(rendered):
    source = close_ups(rendered, Modality.HAND)
    sides = [source[k].is_right for k in range(len(source))]
    assert set(sides) == {True, False}
    batch = batch_of(source, Modality.HAND, 100)
    left = [k for k, name in enumerate(FIT_KEYPOINTS) if name.startswith("left_")]
    assert float(batch.targets.keypoints_2d[:, left, 2].abs().max()) == 0
    assert float(batch.targets.rotation_weight[:, 25:40].max()) == 0
    assert float(batch.targets.rotation_weight[:, 40:55].min()) == 1
    example = source[sides.index(False)]
    left_hand = torch.as_tensor(example.params["left_hand_pose"])
    right_hand = rotmat_to_rotvec(batch.targets.rotations[sides.index(False), 40:55])
    torch.testing.assert_close(
        right_hand, left_hand.view(15, 3) * torch.tensor([1.0, -1, -1]), atol=1e-5, rtol=0
    )


def test_a_left_hand_and_its_mirror_image_are_the_same_example(rendered):
    source = close_ups(rendered, Modality.HAND)
    example = next(source[k] for k in range(len(source)) if not source[k].is_right)
    image = example.picture.load()

    class Mirrored:
        def load(self):
            return np.ascontiguousarray(image[:, ::-1])

    flipped = [FIT_KEYPOINTS.index(mirror_name(n)) for n in FIT_KEYPOINTS]
    points, points_3d = np.zeros((145, 3), np.float32), np.zeros((145, 4), np.float32)
    points[flipped] = example.keypoints_2d * [-1, 1, 1] + [image.shape[1], 0, 0]
    points[points[:, 2] == 0] = 0
    points_3d[flipped] = example.keypoints_3d * [-1, 1, 1, 1]
    sign = np.array([1, -1, -1], np.float32)
    params = {
        "global_orient": example.params["global_orient"] * sign,
        "right_hand_pose": example.params["left_hand_pose"].reshape(15, 3) * sign,
        "betas": example.params["betas"],
    }
    right = replace(
        example, picture=Mirrored(), keypoints_2d=points, keypoints_3d=points_3d, params=params,
        center_px=np.array([image.shape[1] - example.center_px[0], example.center_px[1]]),
        is_right=True,
    )  # fmt: skip
    a, b = (batch_of([e], Modality.HAND) for e in (example, right))
    torch.testing.assert_close(a.pictures.source, b.pictures.source, atol=0.02, rtol=0)
    crop = a.pictures.body_crop
    torch.testing.assert_close(crop.matrix, b.pictures.body_crop.matrix, atol=1e-3, rtol=1e-5)
    for name in ("keypoints_2d", "keypoints_3d", "rotations", "rotation_weight"):
        torch.testing.assert_close(
            getattr(a.targets, name), getattr(b.targets, name), atol=1e-3, rtol=1e-5
        )


# --- starts -----------------------------------------------------------------------------------


def test_starts_stay_in_their_ranges_and_are_drawn_as_often_as_released(rendered, open_body):
    conditioning = Conditioning.of_body(open_body)
    assert conditioning.hand_components.shape == (3, 45)
    for kind, limit in ((Modality.HAND, 90), (Modality.HEAD, 45)):
        targets = batch_of(close_ups(rendered, kind), kind, 8).targets
        turn = "wrist" if kind is Modality.HAND else "neck"
        truth = torch.nn.functional.normalize(rotmat_to_rotvec(targets.rotations[:, 0]), dim=-1)
        rng = np.random.default_rng(0)
        shares, angles = [], []
        for _ in range(60):
            start = conditioning.draw(targets, kind, rng)
            rotvec = rotmat_to_rotvec(start[turn][0])[:, 0]
            angle = rotvec.norm(dim=-1)
            along = (torch.nn.functional.normalize(rotvec, dim=-1) * truth).sum(-1).abs()
            assert (along[angle > 0.1] > 0.999).all()
            angles.append(angle)
            shares.append(torch.stack([who.float().mean() for _, who in start.values()]))
            if kind is Modality.HEAD:
                jaw = rotmat_to_rotvec(start["jaw_pose"][0])[:, 0]
                assert (jaw[:, 1:].abs() < 1e-5).all()
                assert (jaw[:, 0] >= -1e-6).all() and (jaw[:, 0] <= math.radians(45) + 1e-5).all()
        angle = torch.cat(angles)
        assert math.radians(0.95 * limit) < float(angle.max()) <= math.radians(limit) + 1e-4
        assert (torch.stack(shares).mean(0) - 0.3).abs().max() < 0.08
        expected = {"wrist", "hand_pose", "betas"} if kind is Modality.HAND else {
            "neck", "jaw_pose", "betas", "expression",
        }  # fmt: skip
        assert set(start) == expected


def test_a_start_changes_those_it_was_drawn_for_only(rendered, open_body):
    model = make(open_body).eval()
    batch = batch_of(close_ups(rendered, Modality.HAND), Modality.HAND, 6)
    start = Conditioning.of_body(open_body).draw(
        batch.targets, Modality.HAND, np.random.default_rng(3)
    )
    start = {name: (value, torch.arange(6) < 3) for name, (value, _) in start.items()}
    plain = regress_part(model, Modality.HAND, batch.pictures)
    moved = regress_part(model, Modality.HAND, batch.pictures, start)
    # nothing is corrected yet, so what comes out is the start
    torch.testing.assert_close(moved.rotations[3:], plain.rotations[3:], atol=1e-4, rtol=0)
    assert (moved.rotations[:3] - plain.rotations[:3]).abs().amax((1, 2, 3)).min() > 0.05
    mean = {"betas": torch.zeros(6, 10)}
    drawn_betas = {"betas": start["betas"]}
    assert torch.equal(start_of(mean, drawn_betas)["betas"][:3], start["betas"][0][:3])


# --- losses and gradients -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", PARTS)
def test_a_parts_loss_reaches_its_own_network_only(rendered, open_body, kind):
    model = make(open_body, freeze_body=False).train()
    batch = batch_of(close_ups(rendered, kind), kind, 4)
    found = regress_part(model, kind, batch.pictures)
    terms = part_loss(model, kind, found, batch.pictures, batch.targets, LossWeights())
    assert all(name.startswith(f"{kind.value}_only_") for name in terms)
    torch.stack(list(terms.values())).sum().backward()
    for name in ("body", "hand", "head"):
        grads = [p.grad for p in getattr(model, name).parameters()]
        if name == kind.value:
            assert all(g is not None for g in grads)
            assert sum(float(g.abs().sum()) > 0 for g in grads) > len(grads) / 2
        else:
            assert all(g is None for g in grads)


@pytest.mark.parametrize("kind", PARTS)
def test_unknown_labels_of_a_part_do_not_pull(rendered, open_body, kind):
    model = make(open_body).eval()
    source = close_ups(rendered, kind)
    bare = [
        replace(
            source[k], params={}, keypoints_2d=np.zeros((145, 3), np.float32),
            keypoints_3d=np.zeros((145, 4), np.float32),
        )
        for k in range(3)
    ]  # fmt: skip
    for examples, pulls in ((source, True), (bare, False)):
        batch = batch_of(examples, kind, 3)
        found = regress_part(model, kind, batch.pictures)
        weights = LossWeights(alone_3d=1.0)
        terms = part_loss(model, kind, found, batch.pictures, batch.targets, weights)
        for name, value in terms.items():
            if "margin" not in name:
                assert (float(value.detach()) > 0) == pulls, name


@pytest.mark.slow
@pytest.mark.parametrize("kind", PARTS)
def test_sixteen_are_learned_by_rote(tmp_path_factory, open_body, kind):
    folder = tmp_path_factory.getbasetemp() / "large-people"
    people = make_people(SyntheticConfig(folder, count=16, size=640, occluders=0.0))
    source = close_ups(people, kind)
    count = 16
    batch = batch_of(source, kind, count)
    model = make(open_body).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    at_first = held_out_figures(model.eval(), [source], [range(count)], count, 0)
    model.train()
    steps, rate = 250, 3e-3
    optimiser = torch.optim.Adam(getattr(model, kind.value).parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for _ in range(steps):
        found = regress_part(model, kind, batch.pictures)
        terms = part_loss(model, kind, found, batch.pictures, batch.targets, LossWeights())
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        figures = held_out_figures(model.eval(), [source], [range(count)], count, 0)
    name = f"{kind.value}_only"
    assert figures[f"{name}_pa_mm"] < 0.8 < 3 < at_first[f"{name}_pa_mm"]
    assert figures[f"{name}_2d_pct"] < 2 < 10 < at_first[f"{name}_2d_pct"]


# --- in the loop --------------------------------------------------------------------------------


def mixture_of(rendered, body, batch=2, seed=3):
    sources = [rendered, *(close_ups(rendered, kind) for kind in PARTS)]
    return Mixture(
        sources, [1.0] * 3, batch, AugmentConfig(), 128, 160, seed,
        parts={kind: drawn(kind, body) for kind in PARTS},
    )  # fmt: skip


def test_a_step_draws_people_and_parts(rendered, open_body):
    mixture = mixture_of(rendered, open_body)
    a, b, other = mixture[5], mixture[5], mixture[6]
    assert len(a) == 2
    for kind in PARTS:
        assert len(a.parts[kind]) == 3
        assert torch.equal(a.parts[kind].pictures.source, b.parts[kind].pictures.source)
        assert not torch.equal(a.parts[kind].pictures.source, other.parts[kind].pictures.source)
        for name, (value, who) in a.parts[kind].start.items():
            assert torch.equal(value, b.parts[kind].start[name][0])
            assert torch.equal(who, b.parts[kind].start[name][1])
    # who comes along takes nothing from the people
    alone = replace(mixture, sources=[rendered], shares=[1.0], parts={})[5]
    assert torch.equal(alone.pictures.source, a.pictures.source)
    assert len(replace(mixture, batch=0)[5]) == 0
    with pytest.raises(ValueError, match="no hand is left"):
        replace(mixture, sources=[rendered], shares=[1.0])[5]


def test_parts_of_held_out_photos_are_held_out(rendered, open_body):
    mixture = mixture_of(rendered, open_body)
    held = hold_out(mixture.sources, 0.5, seed=0)
    out = {rendered[k].key for k in held[0]}
    assert out
    for source, indices in zip(mixture.sources, held, strict=True):
        assert {source[k].key for k in indices} <= out
        assert all((source[k].key in out) == (k in indices) for k in range(len(source)))
    mixture = replace(mixture, skip=tuple(held))
    for step in range(3):
        batch = mixture[step]
        assert not out & {*batch.keys, *(k for p in batch.parts.values() for k in p.keys)}


def trained(folder, rendered, body, batch=2, stop_at=None):
    model = make(body)
    model.body.requires_grad_(False)
    config = LoopConfig(steps=4, save_every=2, check_every=100, warm_up=1)
    seen = []

    def stop():
        seen.append(1)
        return stop_at is not None and len(seen) >= stop_at

    train_loop(
        model, mixture_of(rendered, body, batch), config, LossWeights(), folder,
        Rank(0, 1, torch.device("cpu")), body.sha256, stop=stop,
    )  # fmt: skip
    return model.state_dict()


@pytest.mark.parametrize("batch", [0, 2])
def test_training_of_mixed_kinds_goes_on_bit_by_bit(tmp_path, rendered, open_body, batch):
    straight = trained(tmp_path / "a", rendered, open_body, batch)
    trained(tmp_path / "b", rendered, open_body, batch, stop_at=3)
    torch.manual_seed(12345)  # whatever the process did before
    resumed = trained(tmp_path / "b", rendered, open_body, batch)
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name


def test_all_kinds_have_their_terms(rendered, open_body):
    model = make(open_body).train()
    terms = Learner(model, LossWeights())(mixture_of(rendered, open_body)[0].to("cpu"))
    assert {"body_2d", "left_hand_2d", "hand_only_2d", "head_only_expression"} <= terms.keys()
    assert all(torch.isfinite(v) for v in terms.values())


def test_figures_of_parts_lead_while_parts_learn(rendered, open_body):
    model = make(open_body).eval()
    sources = [rendered, *(close_ups(rendered, kind) for kind in PARTS)]
    with torch.no_grad():
        figures = held_out_figures(model, sources, [[0, 1]] * 3, 2, 160)
    assert {"pa_mpjpe_mm", "hand_only_pa_mm", "head_only_pa_mm", "part_2d_pct"} <= figures.keys()
    led = led_by_parts(figures)
    assert next(iter(led)) == "parts_pa_mm"
    names = ("hand_pa_mm", "face_pa_mm", "hand_only_pa_mm", "head_only_pa_mm")
    assert led["parts_pa_mm"] == pytest.approx(np.mean([figures[n] for n in names]))
    assert next(iter(led_by_parts({"error_2d_pct": 1.0, "part_2d_pct": 2.0}))) == "parts_2d_pct"
    body_only = Expose(open_body, replace(ExposeConfig.tiny(), parts=False)).eval()
    with torch.no_grad():
        assert not any("only" in k for k in held_out_figures(body_only, sources, [[0]] * 3, 2, 160))


def test_published_hands_and_heads_are_trained_on(tmp_path, rendered, capsys):
    """FreiHAND's and FFHQ's layouts go through the command beside whole people."""
    files.freihand(tmp_path / "freihand")
    path = files.ffhq(tmp_path / "ffhq")
    out = tmp_path / "out"
    flags = [
        "--size", "tiny", "--steps", "1", "--batch", "2", "--held-out", "0", "--out", str(out),
    ]  # fmt: skip
    data = [str(rendered.root), str(tmp_path / "freihand"), str(path), f"heads:{rendered.root}"]
    assert main([*data, *flags]) == 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["train"] == "done"
    rows = (out / "parts" / "progress.csv").read_text()
    assert "loss/hand_only_2d" in rows and "loss/head_only_2d" in rows
    assert (out / "alone" / "model.safetensors").is_file()
    assert main([str(tmp_path / "freihand"), *flags]) == 2
    assert "do not make a body" in capsys.readouterr().err


def test_mirroring_is_what_the_network_of_hands_expects(open_body):
    """The mean right hand is the mean left one's mirror image, or one network could not do both."""
    left, right = (torch.as_tensor(m).view(15, 3).float() for m in np.asarray(open_body.hand_means))
    torch.testing.assert_close(
        mirror_rotations(rotvec_to_rotmat(left)), rotvec_to_rotmat(right), atol=0.05, rtol=0
    )
