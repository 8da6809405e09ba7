"""Train an expressive body regressor on accepted fits: ``python -m regressor.train lsp/fits``.

The model (ExPose) learns in two turns: first the body network alone, then hands and head while the
body stays as it is. Run it again and it goes on where it stopped. Several machines or cards: start
it with ``torchrun``.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from bodymodel.body import BodyData
    from regressor.examples import ExampleSource
    from regressor.expose import Expose, ExposeConfig

Size = Literal["tiny", "small", "resnet18", "resnet50", "hrnet"]


@dataclass(frozen=True)
class TrainConfig:
    """What training does. Every field is a flag."""

    data: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Stores of fits (DATA/fits), folders of regressor.synthetic, labels of published data sets:
    FILE, or LAYOUT:FILE@PHOTOS where it cannot be guessed (spin, expose, bedlam, agora ...)."""
    out: Path = Path("regressor-training")
    """Folder of this training: weights, state, figures."""
    fits: Literal["accepted", "ok"] = "accepted"
    """Which fits of a store: what people accepted, or all whose status is ok."""
    decisions: str | None = None
    """Database (path or URL) or Parquet file of decisions. [decisions.sqlite in each store]"""
    size: Size = "small"
    """Encoders: tiny and small for a CPU, resnet18, resnet50, hrnet (the paper's) for a GPU."""
    body: str = "open"
    """The body that the fits belong to: open, or your own SMPL-X model."""
    steps: int = 20000
    """Steps of the body network."""
    part_steps: int = -1
    """Steps of hands and head after it; -1: as many, 0: the body network alone."""
    batch: int = 32
    """Persons a step (and process)."""
    learning_rate: float = 3e-4
    """Of Adam."""
    start: Path | None = None
    """Weights to start from: a checkpoint of ours, whole or in parts."""
    backbone: Path | None = None
    """Weights of the encoders (ImageNet's or a pose network's), a local file."""
    held_out: float = 0.1
    """Share of the photos that is not trained on but measured."""
    patience: int = 0
    """End a turn after so many checks without a better figure; 0: never."""
    mixed_precision: bool = False
    """Half precision where it is safe."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    workers: int = 0
    """Processes that cut crops ahead."""
    seed: int = 0
    """Of everything drawn."""
    check_every: int = 500
    """Steps between two measurements."""
    smoke: bool = False
    """End to end in two minutes on a CPU, on people rendered for it: to see that all works."""


class UsageError(ValueError):
    """What was asked for cannot be done; the message says why and how to go on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    from curation.cli import ConfigError

    config = tyro.cli(TrainConfig, args=argv, description=__doc__)
    try:
        return train(config)
    except (UsageError, ConfigError) as error:
        print(f"regressor.train: {error}", file=sys.stderr)  # noqa: T201
        return 2


def model_config(size: Size) -> "ExposeConfig":
    """Return the sizes that a name stands for."""
    from regressor.backbones import BackboneConfig
    from regressor.expose import ExposeConfig

    tiny = ExposeConfig.tiny()
    if size == "tiny":
        return tiny
    if size == "small":
        small = BackboneConfig.small()
        return replace(tiny, body=small, hand=small, head=small, body_size=160, hidden=512)
    if size == "hrnet":
        return ExposeConfig()
    body = BackboneConfig.resnet50() if size == "resnet50" else BackboneConfig.resnet18()
    return ExposeConfig(body=body, body_size=224, mixed_features=False)


def train(config: TrainConfig) -> int:
    """Train as configured; return the exit status."""
    import torch

    from bodymodel.files import load_body
    from curation.stopping import StopSignals
    from regressor.checkpoints import read_checkpoint
    from regressor.expose import Expose
    from regressor.training import Rank

    if config.smoke:
        config = _smoke(config)
    body = load_body(config.body)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    rank = Rank.from_environment(device)
    sources = [_open_source(path, config, body) for path in config.data]
    if not sources:
        raise UsageError(
            "no data: give stores of fits (DATA/fits) or folders of regressor.synthetic, or "
            "--smoke to see it work on rendered people"
        )
    full = model_config(config.size)
    figures: dict[str, float] = {}
    with StopSignals() as signals:
        turns = [("body", replace(full, parts=False), config.steps)]
        part_steps = config.steps if config.part_steps < 0 else config.part_steps
        if part_steps:
            turns.append(("parts", full, part_steps))
        for name, settings, steps in turns:
            torch.manual_seed(config.seed)
            model = Expose(body, settings).to(rank.device)
            if config.backbone is not None:
                _load_backbones(model, config.backbone)
            if config.start is not None:
                _load_some(model, read_checkpoint(config.start).state)
            if name == "parts":
                _load_some(model, read_checkpoint(config.out / "body" / "model.safetensors").state)
                model.body.requires_grad_(not settings.freeze_body)
            figures = _turn(
                config, name, model, sources, steps, rank, body, lambda: signals.signal is not None
            )
            if signals.signal is not None:
                break
    last = "body" if not part_steps else "parts"
    done = signals.signal is None
    if rank.first and done:
        final = config.out / last / "model.safetensors"
        (config.out / "model.safetensors").write_bytes(final.read_bytes())
    if rank.first:
        _print_table(figures)
        status = "done" if done else "stopped; run the same command again to go on"
        summary = {k: round(v, 4) for k, v in figures.items() if k.startswith("held_out/")}
        print(json.dumps({"train": status, "out": str(config.out), **summary}))  # noqa: T201
    return 0 if done else 130


def _turn(config, name, model, sources, steps, rank, body, stop) -> dict[str, float]:
    """Train one of the two turns."""
    from tqdm import tqdm

    from regressor.augment import AugmentConfig
    from regressor.figures import held_out_figures
    from regressor.losses import LossWeights
    from regressor.mixture import Mixture, hold_out
    from regressor.training import LoopConfig, train_loop

    source_size = 2 * model.config.body_size
    held = hold_out(sources, config.held_out, config.seed)
    mixture = Mixture(
        sources=sources,
        shares=[1.0] * len(sources),
        batch=config.batch,
        augment=AugmentConfig(),
        body_size=model.config.body_size,
        source_size=source_size,
        seed=config.seed,
        rank=rank.index,
        skip=tuple(held),
    )
    loop = LoopConfig(
        steps=steps,
        learning_rate=config.learning_rate,
        mixed_precision=config.mixed_precision,
        workers=config.workers,
        patience=config.patience,
        # of the last tenth: a longer memory would still know how the weights were drawn
        average=min(0.999, 1 - 10 / max(steps, 20)),
        check_every=config.check_every,
        save_every=min(200, max(1, steps // 4)),
        seed=config.seed,
    )
    bar = tqdm(total=steps, desc=name, unit="step", disable=not (rank.first and _is_terminal()))

    def tell(step: int, figures: dict[str, float]) -> None:
        bar.update(step - bar.n)
        wanted = {k: v for k, v in figures.items() if k == "loss" or k.startswith("held_out")}
        bar.set_postfix({k.removeprefix("held_out/"): f"{v:.3g}" for k, v in wanted.items()})

    def check(averaged: "Expose") -> dict[str, float]:
        indices = [sorted(h) for h in held]
        return held_out_figures(averaged, sources, indices, config.batch, source_size)

    try:
        return train_loop(
            model, mixture, loop, LossWeights(), config.out / name, rank, body.sha256,
            check=check if any(held) else None, tell=tell, stop=stop,
        )  # fmt: skip
    finally:
        bar.close()


def _is_terminal() -> bool:
    return sys.stderr.isatty()


def _open_source(path: Path, config: TrainConfig, body: "BodyData") -> "ExampleSource":
    """Open a store of fits or a folder of rendered people."""
    from regressor.synthetic import SyntheticPeople

    if any(path.glob("labels-*.npz")):
        return SyntheticPeople.open(path)
    if (path / "meta").is_dir():
        return _open_store(path, config, body)
    if (path / "fits" / "meta").is_dir():
        return _open_store(path / "fits", config, body)
    return _open_labels(path, body)


def _open_labels(path: Path, body: "BodyData") -> "ExampleSource":
    """Open a data set in one of the published layouts, PATH, LAYOUT:PATH, each with @PHOTOS."""
    from regressor.datasets import LabelError, open_labels
    from regressor.examples import Modality

    try:
        labels = open_labels(str(path), body)
    except LabelError as error:
        raise UsageError(
            f"{error}\nNor is it a store of fits (meta/, data/) or a folder of rendered people "
            "(labels-*.npz); make one with python -m fitting.run DATA or python -m "
            "regressor.synthetic"
        ) from None
    if labels.modality is not Modality.BODY:
        raise UsageError(
            f"{path} shows {labels.modality.value}s only; this training learns from whole people. "
            "Leave it out"
        )
    return labels


def _open_store(path: Path, config: TrainConfig, body: "BodyData") -> "ExampleSource":
    from curation.store import FitStore
    from regressor.from_store import accepted_parts, fits_of_store

    store = FitStore(path)
    accepted = None
    if config.fits == "accepted":
        try:
            accepted = accepted_parts(path, config.decisions)
        except (FileNotFoundError, ValueError) as error:
            raise UsageError(str(error)) from None
    source = fits_of_store(store, accepted)
    if not len(source):
        what = "accepted fits" if config.fits == "accepted" else "fits whose status is ok"
        raise UsageError(
            f"{path} has no {what}; review it with python -m annotate_ui {path.parent}, or train "
            "on every fit that converged with --fits ok"
        )
    bodies = {row["body_sha256"] for row in source.rows}
    if bodies != {body.sha256}:
        raise UsageError(
            f"{path} holds fits of another body than {body.name}; say which with --body"
        )
    return source


def _load_backbones(model: "Expose", path: Path) -> None:
    from regressor.backbones import load_backbone_weights

    loaded = 0
    for name in ("body", "hand", "head"):
        expert = getattr(model, name, None)
        if expert is None:
            continue
        try:
            load_backbone_weights(expert.backbone, path)
            loaded += 1
        except ValueError as error:
            last = error
    if not loaded:
        raise UsageError(str(last))


def _load_some(model: "Expose", state: dict) -> None:
    """Load what fits by name and size; the rest stays as drawn."""
    own = model.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise UsageError("the checkpoint to start from has nothing in common with this model")
    model.load_state_dict(fitting, strict=False)


def _smoke(config: TrainConfig) -> TrainConfig:
    """Two minutes on a CPU: forty rendered people, a few dozen steps."""
    from regressor.synthetic import SyntheticConfig, make_people

    folder = config.out / "people"
    make_people(SyntheticConfig(folder, count=40, size=192, seed=config.seed))
    return replace(
        config, data=(*config.data, folder), size="tiny", steps=60, part_steps=30, batch=8,
        check_every=30,
    )  # fmt: skip


def _print_table(figures: dict[str, float]) -> None:
    rows = [(k.removeprefix("held_out/"), v) for k, v in figures.items() if k.startswith("held_")]
    print("held-out figure      value")  # noqa: T201
    for name, value in rows:
        print(f"{name:18s} {value:8.2f}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
