"""Mixed precision: encoders in bfloat16, everything that has to be exact in float32."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch.utils.data import Dataset

from regressor.augment import AugmentConfig, Batch
from regressor.close_ups import close_ups
from regressor.examples import Modality
from regressor.experts import Expert
from regressor.expose import Expose, ExposeConfig
from regressor.losses import LossWeights
from regressor.mixture import Mixture, PartDraw
from regressor.training import Learner, LoopConfig, Rank, train_loop

SMALL = replace(ExposeConfig.tiny(), body_size=64, hand_size=64, head_size=64, freeze_body=False)


def mixture_of(rendered, batch=4):
    hands = close_ups(rendered, Modality.HAND)
    parts = {Modality.HAND: PartDraw(batch, 64, AugmentConfig.of(Modality.HAND).plain())}
    return Mixture(
        [rendered, hands], [1.0, 1.0], batch, AugmentConfig.none(), 64, 96, seed=2, parts=parts
    )


def test_only_encoders_are_in_half_precision(rendered, open_body):
    torch.manual_seed(0)
    model = Expose(open_body, SMALL).train()
    for module in model.modules():
        if isinstance(module, Expert):
            module.precision = torch.bfloat16
    seen = {}

    def note(name):
        return lambda module, given, out: seen.setdefault(name, []).append(out)

    for name in ("body", "hand", "head"):
        getattr(model, name).pool.register_forward_hook(note(f"{name}.pool"))
        getattr(model, name).head.register_forward_hook(note(f"{name}.head"))
    model.points.register_forward_hook(note("points"))
    terms = Learner(model, LossWeights())(mixture_of(rendered)[0].to("cpu"))
    torch.stack(list(terms.values())).sum().backward()
    assert {name for name, outs in seen.items() if "pool" in name} == {
        "body.pool", "hand.pool", "head.pool",
    }  # fmt: skip
    for name, outs in seen.items():
        for out in outs:
            tensors = out if isinstance(out, list) else [out]
            wanted = torch.bfloat16 if name.endswith("pool") else torch.float32
            assert all(t.dtype is wanted for t in tensors), name
    assert all(t.dtype is torch.float32 for t in terms.values())
    assert all(p.grad is None or p.grad.dtype is torch.float32 for p in model.parameters())


@dataclass(frozen=True, eq=False)
class Same(Dataset):
    """One batch again and again: a curve without the noise of what is drawn."""

    batch: Batch

    def __getitem__(self, step):
        return self.batch


@pytest.mark.slow
def test_the_loss_falls_as_in_single_precision(tmp_path, rendered, open_body):
    same = Same(mixture_of(rendered, 8)[0])
    curves = {}
    for mixed in (False, True):
        torch.manual_seed(0)
        model = Expose(open_body, SMALL)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        curve = curves[mixed] = []
        config = LoopConfig(
            steps=80, learning_rate=5e-4, warm_up=5, save_every=1000, mixed_precision=mixed
        )
        precisions = set()

        def check(averaged, precisions=precisions):
            precisions |= {averaged.hand.precision, averaged.body.precision}
            return {"error": 0.0}

        train_loop(
            model, same, config, LossWeights(part_2d=0.0), tmp_path / str(mixed),
            Rank(0, 1, torch.device("cpu")), open_body.sha256,
            check=check, tell=lambda step, figures, curve=curve: curve.append(figures["loss"]),
        )  # fmt: skip
        assert precisions == {None} == {model.head.precision}  # measured in single precision
    exact, half = (torch.tensor(curves[mixed]) for mixed in (False, True))
    assert len(exact) == 9  # and once more with the check at the end
    assert exact[-1] < 0.5 * exact[0] and half[-1] < 0.5 * half[0]
    off = (half - exact).abs() / exact
    assert off.mean() < 0.15 and off.max() < 0.3, (exact, half)
    assert not torch.equal(half, exact)
