"""What test_ranks.py runs in several processes: ``torchrun ... ranks_worker.py FOLDER JSON``.

Writes what each process saw to FOLDER, as the processes have nothing else to tell.
"""

import json
import os
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from bodymodel.files import load_body
from regressor.augment import AugmentConfig, Batch
from regressor.close_ups import close_ups
from regressor.conditioning import Conditioning
from regressor.crops import AffineCrop
from regressor.examples import Modality
from regressor.expose import Expose, ExposeConfig, Pictures
from regressor.losses import LossWeights
from regressor.mixture import Mixture, PartDraw
from regressor.synthetic import SyntheticPeople
from regressor.training import LoopConfig, Rank, train_loop


class Still(Expose):
    """Whose answer to an example does not depend on the others of its batch, nor on chance."""

    def train(self, mode: bool = True) -> "Still":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, torch.nn.BatchNorm2d | torch.nn.Dropout):
                module.eval()
        return self


@dataclass(frozen=True, eq=False)
class Share(Dataset):
    """Of the batches of a mixture for one process, the share of one of several."""

    whole: Mixture
    index: int
    count: int

    def __getitem__(self, step: int) -> Batch:
        batch = self.whole[step]
        parts = {kind: self._share(part) for kind, part in batch.parts.items()}
        return replace(self._share(batch), parts=parts)

    def _share(self, batch: Batch) -> Batch:
        mine = torch.arange(self.index, len(batch), self.count)
        crops = [
            AffineCrop(crop.matrix[mine], crop.size)
            for crop in (batch.pictures.source_crop, batch.pictures.body_crop)
        ]
        return replace(
            batch,
            pictures=Pictures(batch.pictures.source[mine], *crops),
            targets=batch.targets.take(mine),
            keys=tuple(batch.keys[k] for k in mine.tolist()),
            start={k: (v[mine], who[mine]) for k, (v, who) in batch.start.items()},
        )


@dataclass
class Case:
    """What is trained, and how it is disturbed."""

    people: str
    folder: str
    steps: int = 3
    save_every: int = 2
    check_every: int = 100
    patience: int = 0
    share: bool = False
    """Halves of one batch with a net without batch statistics, not batches of one's own."""
    stop_rank: int = -1
    """Which process is asked to stop ..."""
    stop_at: int = -1
    """... after so many steps."""
    figures: list[float] = field(default_factory=list)
    """What successive checks say; no checks if empty."""
    check_seconds: float = 0.0
    wait_after: int = -1
    """Announce oneself and wait to be killed once so many steps are done."""
    mixed_precision: bool = False


def run(case: Case) -> None:
    torch.set_num_threads(1)
    rank = Rank.from_environment("cpu")
    out = Path(case.folder)
    body = load_body()
    people = SyntheticPeople.open(Path(case.people))
    torch.manual_seed(0)
    small = replace(ExposeConfig.tiny(), body_size=64, hand_size=64, head_size=64)
    small = replace(small, freeze_body=False)
    model = (Still if case.share else Expose)(body, small)
    kinds = (Modality.HAND, Modality.HEAD)
    mixture: Any = Mixture(
        [people, *(close_ups(people, kind) for kind in kinds)], [1.0] * 3, 4, AugmentConfig(),
        64, 96, seed=5, rank=0 if case.share else rank.index,
        parts={
            kind: PartDraw(4, 64, AugmentConfig.of(kind), Conditioning.of_body(body))
            for kind in kinds
        },
    )  # fmt: skip
    if case.share:
        mixture = Share(mixture, rank.index, rank.count)
    config = LoopConfig(
        steps=case.steps, save_every=case.save_every, check_every=case.check_every,
        patience=case.patience, warm_up=1, average=0.5, mixed_precision=case.mixed_precision,
        gradient_norm=1e9 if case.share else 5.0,
    )  # fmt: skip
    said: dict[str, Any] = {"checks": 0, "steps": 0}
    figures = iter(case.figures)

    def check(averaged: Expose) -> dict[str, float]:
        said["checks"] += 1
        time.sleep(case.check_seconds)
        return {"error": next(figures)}

    def stop() -> bool:
        said["steps"] += 1
        if said["steps"] == case.wait_after:
            (out / f"waiting-{rank.index}").touch()
            time.sleep(600)
        return rank.index == case.stop_rank and said["steps"] >= case.stop_at

    last = train_loop(
        model, mixture, config, LossWeights(), out / "run", rank, body.sha256,
        check=check if case.figures else None, stop=stop,
    )  # fmt: skip
    said["last"] = last
    slopes = {k: v.grad for k, v in model.named_parameters() if v.grad is not None}
    torch.save(slopes, out / f"slopes-{rank.index}.pt")
    torch.save(model.state_dict(), out / f"weights-{rank.index}.pt")
    (out / f"said-{rank.index}.json").write_text(json.dumps(said))
    rank.leave()


if __name__ == "__main__":
    assert "WORLD_SIZE" in os.environ
    run(Case(**json.loads(sys.argv[1])))
