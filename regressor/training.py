"""The loop of training: steps, averages, checkpoints, figures. Its command is regressor.train."""

import csv
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from regressor.augment import Batch
from regressor.checkpoints import save_checkpoint
from regressor.expose import Expose
from regressor.expose_loss import expose_loss
from regressor.losses import LossWeights
from regressor.mixture import Mixture

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
        torch.distributed.init_process_group("nccl" if cuda else "gloo")
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return cls(
            torch.distributed.get_rank(), count,
            torch.device(f"cuda:{local}") if cuda else torch.device("cpu"),
        )  # fmt: skip

    @property
    def first(self) -> bool:
        """Whether this one writes."""
        return self.index == 0


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
    torch.manual_seed(config.seed + 1000 * rank.index)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    average = _Average(model, config.average)
    step, best, since = _resume(folder, model, average, optimiser, rank)
    model.use_precision(_precision(config, rank))
    wrapped = _wrap(model, rank)
    journal = Journal(folder, step) if rank.first else None
    scaler = torch.amp.GradScaler(enabled=config.mixed_precision and rank.device.type == "cuda")
    figures: dict[str, float] = {}
    model.train()
    started = time.monotonic()
    for batch in _batches(mixture, step, config.steps, config.workers):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(config, step)
        batch = batch.to(rank.device)
        output = wrapped(batch.pictures)
        terms = expose_loss(model, output, batch.pictures, batch.targets, weights)
        loss = torch.stack(list(terms.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(parameters, config.gradient_norm)
        scaler.step(optimiser)
        scaler.update()
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
        ends = step == config.steps or stop()
        if check and (step % config.check_every == 0 or ends):
            found = average.evaluate(model, check)
            figures |= {f"held_out/{k}": v for k, v in found.items()}
            if journal:
                journal.write(step, {f"held_out/{k}": v for k, v in found.items()})
            tell(step, figures)
            value = next(iter(found.values()))
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
            _save_state(folder, model, average, optimiser, step, best, since)
        if ends:
            break
    if journal:
        journal.close()
    return figures


def _batches(mixture: Mixture, first: int, last: int, workers: int) -> Iterator[Batch]:
    """The steps' batches in order, made ahead by worker processes if there are any."""
    from torch.utils.data import DataLoader, Sampler

    class Steps(Sampler):
        def __iter__(self):
            return iter(range(first, last))

        def __len__(self) -> int:
            return max(0, last - first)

    return iter(
        DataLoader(
            mixture,
            batch_size=None,
            sampler=Steps(),
            num_workers=workers,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # not the one of dropout: it must go on as it was
            multiprocessing_context="spawn" if workers else None,
        )
    )


def _precision(config: LoopConfig, rank: Rank) -> torch.dtype | None:
    if not config.mixed_precision:
        return None
    return torch.bfloat16 if rank.device.type == "cpu" else torch.float16


def _wrap(model: Expose, rank: Rank) -> nn.Module:
    if rank.count == 1:
        return model
    devices = [rank.device] if rank.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, devices, find_unused_parameters=True)


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
    step: int,
    best: float,
    since: int,
) -> None:
    state = {
        "step": step, "best": best, "since": since,
        "model": model.state_dict(), "average": average.state, "averaged": average.count,
        "optimiser": optimiser.state_dict(), "rng": torch.get_rng_state(),
    }  # fmt: skip
    part = folder / (STATE + ".part")
    torch.save(state, part)
    part.replace(folder / STATE)


def _resume(
    folder: Path, model: nn.Module, average: _Average, optimiser: torch.optim.Optimizer, rank: Rank
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
    if rank.first:
        rng: Tensor = state["rng"]
        torch.set_rng_state(rng.cpu())
    return state["step"], state["best"], state["since"]
