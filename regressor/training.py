"""The loop of training: steps, averages, checkpoints, figures. Its command is regressor.train."""

import csv
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from regressor.augment import Batch
from regressor.checkpoints import save_checkpoint
from regressor.expose import Expose
from regressor.expose_loss import expose_loss
from regressor.losses import LossWeights
from regressor.mixture import Mixture
from regressor.part_only import part_loss, regress_part

STATE = "state.pt"


@dataclass(frozen=True)
class LoopConfig:
    """How steps are made."""

    steps: int
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    milestones: tuple[float, ...] = (0.6, 0.85)
    """Shares of the steps after which the rate falls to a tenth (released: epochs 60 and 100)."""
    schedule: Literal["steps", "cosine"] = "steps"
    """``cosine`` falls all the way instead, for short trainings that end at a known step."""
    warm_up: int = 50
    gradient_norm: float = 5.0
    average: float = 0.999
    """Decay of the moving average of the weights, which is what is evaluated and saved."""
    mixed_precision: bool = False
    """Encoders compute in bfloat16 (float16 on cards without); all else stays float32."""
    workers: int = 0
    save_every: int = 200
    check_every: int = 200
    patience: int = 0
    """Checks without a better figure after which training ends; 0 never does."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Rank:
    """This process among those that train together (torchrun)."""

    index: int
    count: int
    device: torch.device

    @classmethod
    def from_environment(cls, device: str) -> "Rank":
        """Join the group that torchrun made, if it did."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls(0, 1, torch.device(device))
        cuda = device.startswith("cuda")
        local = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else "cpu")
        if cuda:
            torch.cuda.set_device(local)
        # small things go by the processors even where gradients go by the cards; others wait for
        # the first one's measurements as long as those take
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(hours=2)
        )
        return cls(torch.distributed.get_rank(), count, local)

    @property
    def first(self) -> bool:
        """Whether this one writes and measures."""
        return self.index == 0

    def any(self, flag: bool) -> bool:
        """Whether it is so on any of them; all of them ask at once."""
        if self.count == 1:
            return flag
        said = torch.tensor(int(flag))
        torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX)
        return bool(said)

    def wait(self) -> None:
        """Go on when all are here."""
        self.any(False)

    def figures_of_first(self, figures: dict[str, float]) -> dict[str, float]:
        """What the first one says; all of them ask at once."""
        if self.count == 1:
            return figures
        text = torch.tensor(list(json.dumps(figures).encode()), dtype=torch.uint8)
        length = torch.tensor(len(text))
        torch.distributed.broadcast(length, 0)
        if not self.first:
            text = torch.empty(int(length), dtype=torch.uint8)
        torch.distributed.broadcast(text, 0)
        return json.loads(bytes(text.tolist()))

    def leave(self) -> None:
        """Leave the group."""
        if self.count > 1:
            torch.distributed.destroy_process_group()


class Learner(nn.Module):
    """From a batch to the terms of its loss: what one call of DDP has to hold.

    Args:
        model: That learns.
        weights: Of the terms.
    """

    def __init__(self, model: Expose, weights: LossWeights) -> None:
        super().__init__()
        self.model = model
        self.weights = weights

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Of whole people, and of hands and heads alone; absent is what the batch has none of."""
        terms: dict[str, Tensor] = {}
        if len(batch):
            output = self.model(batch.pictures)
            terms = expose_loss(self.model, output, batch.pictures, batch.targets, self.weights)
        for modality, part in batch.parts.items():
            found = regress_part(self.model, modality, part.pictures, part.start)
            terms |= part_loss(
                self.model, modality, found, part.pictures, part.targets, self.weights
            )
        return terms


class Journal:
    """Figures as CSV, and for TensorBoard where it is installed.

    Args:
        folder: Where ``progress.csv`` goes on growing.
        step: Rows at or after this step, of a life that was cut short, are dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "progress.csv"
        rows = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.reader(file) if row and row[0].isdigit()]
        with self.path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("step", "name", "value"))
            writer.writerows(row for row in rows if int(row[0]) <= step)
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        except ImportError:
            self._board = None

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Add a step's figures."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows((step, name, f"{v:.6g}") for name, v in figures.items())
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out what is held back."""
        if self._board is not None:
            self._board.close()


def rate_at(config: LoopConfig, step: int) -> float:
    """The learning rate of a step."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(config.warm_up, 1))
    if config.schedule == "cosine":
        return rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))
    falls = sum(step >= share * config.steps for share in config.milestones)
    return rate * 0.1**falls


def train_loop(
    model: Expose,
    mixture: Mixture,
    config: LoopConfig,
    weights: LossWeights,
    folder: Path,
    rank: Rank,
    body_sha256: str,
    check: Callable[[Expose], dict[str, float]] | None = None,
    tell: Callable[[int, dict[str, float]], None] = lambda step, figures: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Train from where ``folder`` says, or from the start; leave weights and figures there.

    Args:
        model: On the rank's device.
        mixture: Batches by step.
        config: Of the loop.
        weights: Of the losses.
        folder: Of this training: ``model.safetensors`` (the average), ``best.safetensors``,
            ``state.pt`` (to go on from), ``progress.csv``.
        rank: This process.
        body_sha256: Of the model's body.
        check: Figures of the averaged model; the first decides which is best, less is better.
        tell: Called with each step's figures.
        stop: Asked after each step; true saves and ends.

    Returns:
        The last figures.
    """
    dtype = _precision(config, rank.device)
    model.use_precision(dtype)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    average = _Average(model, config.average)
    scaler = torch.amp.GradScaler(enabled=dtype is torch.float16)
    step, best, since = _resume(folder, model, average, optimiser, scaler, rank)
    if config.patience and since >= config.patience:
        return {}
    learner = _wrap(Learner(model, weights), rank)
    journal = Journal(folder, step) if rank.first else None
    figures: dict[str, float] = {}
    model.train()
    started = time.monotonic()
    for batch in _batches(mixture, step, config.steps, config.workers):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(config, step)
        # dropout, too, is a function of seed, rank and step: there is no random state to keep
        torch.manual_seed(_seed_of(config.seed, rank.index, step))
        batch = batch.to(rank.device)
        terms = learner(batch)
        loss = torch.stack(list(terms.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(parameters, config.gradient_norm)
        scaler.step(optimiser)
        scaler.update()
        if rank.first:
            average.update(model)
        step += 1
        if step % 10 == 0 or step == config.steps:
            figures = {"loss": float(loss.detach())}
            figures |= {f"loss/{k}": float(v.detach()) for k, v in terms.items()}
            figures["seconds"] = time.monotonic() - started
            if not math.isfinite(figures["loss"]):
                raise FloatingPointError(
                    f"the loss became {figures['loss']} at step {step}; the last good weights are "
                    f"in {folder}. Lower the learning rate, or look at the labels of "
                    f"{', '.join(batch.keys[:4])}"
                )
            tell(step, figures)
            if journal:
                journal.write(step, figures)
        # the first one measures and writes; what follows from it, all do alike
        ends = rank.any(stop() or step == config.steps)
        if check and (step % config.check_every == 0 or ends):
            model.use_precision(None)  # measured as it will be used
            found = rank.figures_of_first(average.evaluate(model, check) if rank.first else {})
            model.use_precision(dtype)
            figures |= {f"held_out/{k}": v for k, v in found.items()}
            if journal:
                journal.write(step, {f"held_out/{k}": v for k, v in found.items()})
            tell(step, figures)
            value = next(iter(found.values()), math.inf)
            since = 0 if value < best else since + 1
            if value < best:
                best = value
                if rank.first:
                    notes = {"step": str(step), "figures": json.dumps(found)}
                    average.save(folder / "best.safetensors", model, body_sha256, notes)
            ends = ends or (config.patience > 0 and since >= config.patience)
        if rank.first and (step % config.save_every == 0 or ends):
            notes = {"step": str(step), "loop": json.dumps(asdict(config))}
            average.save(folder / "model.safetensors", model, body_sha256, notes)
            _save_state(folder, model, average, optimiser, scaler, step, best, since)
        if ends:
            break
    if journal:
        journal.close()
    model.use_precision(None)
    rank.wait()  # nobody reads weights that are still being written
    return figures


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _batches(mixture: Mixture, first: int, last: int, workers: int) -> Iterator[Batch]:
    """The steps' batches in order, made ahead by worker processes if there are any."""
    from torch.utils.data import DataLoader

    return iter(
        DataLoader(
            mixture,
            batch_size=None,
            sampler=range(first, last),
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,
        )
    )


def _precision(config: LoopConfig, device: torch.device) -> torch.dtype | None:
    if not config.mixed_precision:
        return None
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def _wrap(learner: Learner, rank: Rank) -> nn.Module:
    if rank.count == 1:
        return learner
    devices = [rank.device] if rank.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(learner, devices, find_unused_parameters=True)


class _Average:
    """An exponential moving average of the weights; statistics of layers are taken as they are."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.count = 0
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.count += 1
        # early on the average follows, or it would be mostly what the weights were drawn as
        decay = min(self.decay, self.count / (self.count + 9))
        values = model.state_dict()
        floating = [k for k, v in values.items() if v.is_floating_point()]
        torch._foreach_lerp_(
            [self.state[k] for k in floating], [values[k] for k in floating], 1 - decay
        )
        for key in values.keys() - set(floating):
            self.state[key].copy_(values[key])

    def evaluate(self, model: Expose, check: Callable[[Expose], dict[str, float]]):
        own = {k: v.detach().clone() for k, v in model.state_dict().items()}
        model.load_state_dict(self.state)
        model.eval()
        try:
            with torch.no_grad():
                return check(model)
        finally:
            model.load_state_dict(own)
            model.train()

    def save(self, path: Path, model: Expose, body_sha256: str, notes: dict[str, str]) -> None:
        own = {k: v.detach().clone() for k, v in model.state_dict().items()}
        model.load_state_dict(self.state)
        try:
            save_checkpoint(path, model, body_sha256, notes)
        finally:
            model.load_state_dict(own)


def _save_state(
    folder: Path,
    model: nn.Module,
    average: _Average,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    step: int,
    best: float,
    since: int,
) -> None:
    state = {
        "step": step, "best": best, "since": since,
        "model": model.state_dict(), "average": average.state, "averaged": average.count,
        "optimiser": optimiser.state_dict(), "scaler": scaler.state_dict(),
    }  # fmt: skip
    part = folder / (STATE + ".part")
    torch.save(state, part)
    part.replace(folder / STATE)


def _resume(
    folder: Path,
    model: nn.Module,
    average: _Average,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    rank: Rank,
) -> tuple[int, float, int]:
    path = folder / STATE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        return 0, math.inf, 0
    state = torch.load(path, map_location=rank.device, weights_only=True)
    model.load_state_dict(state["model"])
    average.state = {k: v.to(rank.device) for k, v in state["average"].items()}
    average.count = state["averaged"]
    optimiser.load_state_dict(state["optimiser"])
    if state.get("scaler"):
        scaler.load_state_dict(state["scaler"])
    return state["step"], state["best"], state["since"]
