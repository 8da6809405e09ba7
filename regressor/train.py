"""Train an expressive body regressor on accepted fits: ``python -m regressor.train lsp/fits``.

The model (ExPose) learns in turns: first the body network alone; hands and heads alone, where there
are such data; then hands and head of whole people, and those alone, while the body stays as it is.
Run it again and it goes on where it stopped. Several machines or cards: start it with ``torchrun``.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from bodymodel.body import BodyData
    from regressor.augment import AugmentConfig
    from regressor.checkpoints import Checkpoint
    from regressor.examples import ExampleSource
    from regressor.expose import Expose, ExposeConfig
    from regressor.losses import LossWeights
    from regressor.training import Rank

Size = Literal["mediapipe", "tiny", "small", "cpu", "resnet18", "resnet50", "hrnet"]


@dataclass(frozen=True)
class TrainConfig:
    """What training does. Every field is a flag."""

    data: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Stores of fits (DATA/fits), folders of regressor.synthetic, labels of published data sets:
    FILE, or LAYOUT:FILE@PHOTOS where it cannot be guessed (spin, expose, bedlam, agora ...). With
    hands: or heads: before it, only the hands or heads of its people, as close-ups."""
    out: Path = Path("regressor-training")
    """Folder of this training: weights, state, figures."""
    shares: tuple[float, ...] = ()
    """How often each of the data is drawn from, relative to others that show the same (people,
    hands or heads); equal turns if empty."""
    fits: Literal["accepted", "ok"] = "accepted"
    """Which fits of a store: what people accepted, or all whose status is ok."""
    decisions: str | None = None
    """Database (path or URL) or Parquet file of decisions. [decisions.sqlite in each store]"""
    size: Size = "mediapipe"
    """Encoders: mediapipe (its landmark networks, as they are: know photos, quick on a CPU), tiny
    and small for tests, cpu (96 px, from random weights), resnet18, resnet50, hrnet (the paper's)
    for a GPU."""
    body: str = "open"
    """The body that the fits belong to: open, or your own SMPL-X model."""
    steps: int = -1
    """Steps of the body network. [1000 from the bundled weights, else 20000]"""
    part_steps: int = -1
    """Steps of hands and head after it; -1: as many, 0: the body network alone."""
    alone_steps: int = -1
    """Steps of hands and heads alone between those two; -1: as many, where there are such data."""
    batch: int = 32
    """Persons a step (and process); of hands and of heads alone, four thirds as many each."""
    learning_rate: float = 3e-4
    """Of Adam."""
    schedule: Literal["steps", "cosine"] = "steps"
    """How the rate falls: to a tenth twice, as released, or smoothly to nothing."""
    memory_gb: float = 4.0
    """Decoded photos are kept until they take so much (of each process)."""
    start: Path | None = None
    """Weights to start from: a checkpoint of ours, whole or in parts; "bundled" are those that
    come along, "none" random ones. [bundled where it has --size's encoders and is of this body]"""
    backbone: Path | None = None
    """Weights of the encoders (ImageNet's or a pose network's), a local file."""
    held_out: float = 0.1
    """Share of the photos that is not trained on but measured."""
    patience: int = 0
    """End a turn after so many checks without a better figure; 0: never."""
    mixed_precision: bool = False
    """Encoders in half precision, all else in full; on CPUs that have it, nearly twice as fast."""
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
    if size == "cpu":
        # 0.1 s a step of 32 on one core. Dropout and the head without rectifiers are for long
        # trainings with large encoders: here they kept the answer at the mean pose
        return replace(
            tiny, body=BackboneConfig.small(), body_size=96, hand_size=64, head_size=64, hidden=512,
            dropout=0.0, body_activation=True, joint_features=True,
        )  # fmt: skip
    if size == "mediapipe":
        return ExposeConfig(
            body=BackboneConfig("mediapipe_pose"), hand=BackboneConfig("mediapipe_hand"),
            head=BackboneConfig("mediapipe_face"), body_size=256, hand_size=224, head_size=192,
            hidden=512, mixed_features=False, dropout=0.0, body_activation=True,
            joint_features=True, looks=2, upright_parts=True, head_box=1.5,
        )  # fmt: skip
    if size == "hrnet":
        return ExposeConfig()
    body = BackboneConfig.resnet50() if size == "resnet50" else BackboneConfig.resnet18()
    return ExposeConfig(body=body, body_size=224, mixed_features=False)


def loss_weights(size: Size, parts: bool) -> "LossWeights":
    """Return the losses' weights for a size, with parts' networks or the body's alone."""
    from regressor.losses import LossWeights

    if size not in ("cpu", "mediapipe"):
        return LossWeights()  # as released
    # the places of joints are what teaches the encoder first
    weights = LossWeights(body_3d=2.0, root=2.0, joint_maps=5.0, joint_places=3.0, joint_depths=3.0)
    if parts and size == "mediapipe":
        # what the body network, which is fixed, is off by is none of the parts' business
        return replace(weights, part_2d=0.0, part_2d_centred=1.0, part_points_in_body=0.0)
    # 93 points and 30 rotations of face and fingers, few pixels of this crop, would drown the body
    return replace(weights, fingers=0.2, part_points_in_body=0.1)


def augmentation(size: Size) -> "AugmentConfig":
    """Return how crops are drawn for a size: as released, but for ``cpu``."""
    from regressor.augment import AugmentConfig

    if size == "mediapipe":
        # it is used at crops that it turned upright itself, once it has looked at them as they are
        return AugmentConfig(
            contrast=0.4, low_resolution_share=0.2, upright_share=0.6, any_turn_share=0.2
        )
    if size != "cpu":
        return AugmentConfig()
    # rendered pictures need more of what photos have; turned ones are rendered already
    return AugmentConfig(contrast=0.4, low_resolution_share=0.2, rotation_share=0.2)


def train(config: TrainConfig) -> int:
    """Train as configured; return the exit status."""
    import torch

    from bodymodel.files import load_body
    from curation.stopping import StopSignals
    from regressor.checkpoints import read_checkpoint
    from regressor.examples import Modality, modality_of
    from regressor.expose import Expose
    from regressor.kept import KeptSource, PictureMemory
    from regressor.mean_pose import mean_parameters
    from regressor.training import Rank

    body = load_body(config.body)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    rank = Rank.from_environment(device)
    if config.smoke:
        config = _smoke(config, rank)
    memory = PictureMemory(int(config.memory_gb * 2**30))
    sources = [KeptSource(_open_source(path, config, body), memory) for path in config.data]
    if not sources:
        raise UsageError(
            "no data: give stores of fits (DATA/fits) or folders of regressor.synthetic, or "
            "--smoke to see it work on rendered people"
        )
    if config.shares and (len(config.shares) != len(sources) or min(config.shares) <= 0):
        raise UsageError(
            f"--shares takes one positive number for each of the {len(sources)} data given, got "
            f"{' '.join(map(str, config.shares))}"
        )
    kinds = {modality_of(source) for source in sources}
    if Modality.BODY not in kinds:
        raise UsageError(
            "hands and heads alone do not make a body: give whole people, too (rendered ones of "
            "python -m regressor.synthetic will do)"
        )
    full = model_config(config.size)
    people = next(source for source in sources if modality_of(source) is Modality.BODY)
    mean = mean_parameters(body, people, full.order_6d)
    start = _start(config, full, body)
    if config.steps < 0:
        config = replace(config, steps=20000 if start is None else 1000)
    figures: dict[str, float] = {}
    with StopSignals() as signals:
        turns = [("body", replace(full, parts=False), config.steps)]
        part_steps = config.steps if config.part_steps < 0 else config.part_steps
        alone_steps = part_steps if config.alone_steps < 0 else config.alone_steps
        if part_steps and alone_steps and kinds != {Modality.BODY}:
            turns.append(("alone", full, alone_steps))
        if part_steps:
            turns.append(("parts", full, part_steps))
        before: list[Path] = []
        for name, settings, steps in turns:
            torch.manual_seed(config.seed)
            model = Expose(body, settings, mean).to(rank.device)
            if config.backbone is not None:
                _load_backbones(model, config.backbone)
            if start is not None:
                _load_some(model, start.state)
            for earlier in before:
                state = read_checkpoint(earlier / "model.safetensors").state
                # of hands and heads alone, whose body never learned, only their networks
                keep = ("hand.", "head.") if earlier.name == "alone" else ("",)
                _load_some(model, {k: v for k, v in state.items() if k.startswith(keep)})
            if name == "parts":
                model.body.requires_grad_(not settings.freeze_body)
            elif name == "alone":
                model.body.requires_grad_(False)
            _check_begun_from(config.out / name, before, rank)
            before.append(config.out / name)
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
    rank.leave()
    return 0 if done else 130


def _start(config: TrainConfig, full: "ExposeConfig", body: "BodyData") -> "Checkpoint | None":
    """Return the weights that training starts from, or None for random ones."""
    from regressor.checkpoints import read_checkpoint
    from regressor.weights import BUNDLED, weights_file

    if config.start is not None:
        if str(config.start) == "none":
            return None
        try:
            return read_checkpoint(weights_file(config.start))
        except ValueError as error:
            raise UsageError(f"--start: {error}") from None
    if config.size != "mediapipe" or config.backbone is not None:
        return None
    bundled = read_checkpoint(weights_file(BUNDLED))
    # another body's betas mean other shapes, and its mean person looks otherwise
    fits = bundled.config == full and bundled.body_sha256 == body.sha256
    return bundled if fits else None


def _check_begun_from(folder: Path, before: Sequence[Path], rank: "Rank") -> None:
    """Refuse to go on with a turn that began from other weights than those that are there now."""
    from regressor.training import STATE

    if not before:
        return
    digest = hashlib.sha256()
    for earlier in before:
        digest.update((earlier / "model.safetensors").read_bytes())
    note = folder / "begun_from.txt"
    if (folder / STATE).exists() and note.exists() and note.read_text() != digest.hexdigest():
        names = " and ".join(earlier.name for earlier in before)
        raise UsageError(
            f"{folder} began from other weights than {names} has now, which was trained further "
            f"since; move {folder} away to train it anew"
        )
    rank.wait()
    if rank.first:
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(digest.hexdigest())


def _turn(
    config: TrainConfig,
    name: Literal["body", "alone", "parts"],
    model: "Expose",
    sources: "Sequence[ExampleSource]",
    steps: int,
    rank: "Rank",
    body: "BodyData",
    stop: Callable[[], bool],
) -> dict[str, float]:
    """Train one of the turns."""
    from tqdm import tqdm

    from regressor.augment import AugmentConfig
    from regressor.conditioning import Conditioning
    from regressor.examples import Modality, modality_of
    from regressor.figures import held_out_figures, led_by_parts
    from regressor.mixture import PARTS_PER_PERSON, Mixture, PartDraw, hold_out
    from regressor.training import LoopConfig, train_loop

    settings = model.config
    # the body's crop needs no more pixels than it has; parts are cut from finer ones
    finer = {"cpu": 3.0 if settings.parts else 1.4, "mediapipe": 2.0 if settings.parts else 1.4}
    source_size = int(finer.get(config.size, 2.0) * settings.body_size)
    # the body's turn has nothing to learn from parts, theirs nothing from whole people
    shown = {"body": {Modality.BODY}, "alone": {Modality.HAND, Modality.HEAD}}
    taken = [
        (source, share)
        for source, share in zip(sources, config.shares or [1.0] * len(sources), strict=True)
        if modality_of(source) in shown.get(name, set(Modality))
    ]
    sources, shares = [source for source, _ in taken], [share for _, share in taken]
    held = hold_out(sources, config.held_out, config.seed)
    sizes = {Modality.HAND: model.config.hand_size, Modality.HEAD: model.config.head_size}
    parts = {
        kind: PartDraw(
            max(1, round(PARTS_PER_PERSON * config.batch)), size,
            replace(AugmentConfig.of(kind), upright_share=float(settings.upright_parts)),
            Conditioning.of_body(body),
        )
        for kind, size in sizes.items()
        if any(modality_of(s) is kind for s in sources)
    }  # fmt: skip
    mixture = Mixture(
        sources=sources,
        shares=shares,
        batch=0 if name == "alone" else config.batch,
        augment=augmentation(config.size),
        body_size=model.config.body_size,
        source_size=source_size,
        seed=config.seed,
        rank=rank.index,
        skip=tuple(held),
        parts=parts,
    )
    loop = LoopConfig(
        steps=steps,
        learning_rate=config.learning_rate,
        schedule=config.schedule,
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
        figures = held_out_figures(averaged, sources, indices, config.batch, source_size)
        return figures if name == "body" else led_by_parts(figures)

    try:
        return train_loop(
            model, mixture, loop, loss_weights(config.size, settings.parts), config.out / name,
            rank, body.sha256,
            check=check if any(held) else None, tell=tell, stop=stop,
        )  # fmt: skip
    finally:
        bar.close()


def _is_terminal() -> bool:
    return sys.stderr.isatty()


def _open_source(path: Path, config: TrainConfig, body: "BodyData") -> "ExampleSource":
    """Open a store of fits, a folder of rendered people, or labels; or close-ups of any of them."""
    from regressor.close_ups import close_ups
    from regressor.examples import Modality, modality_of
    from regressor.synthetic import SyntheticPeople

    for prefix, modality in (("hands:", Modality.HAND), ("heads:", Modality.HEAD)):
        if str(path).startswith(prefix):
            people = _open_source(Path(str(path).removeprefix(prefix)), config, body)
            if modality_of(people) is not Modality.BODY:
                raise UsageError(f"{path}: these are no whole people; leave {prefix} away")
            parts = close_ups(people, modality)
            if not len(parts):
                raise UsageError(f"{path}: nobody there shows {prefix.strip(':')} with labels")
            return parts
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

    try:
        return open_labels(str(path), body)
    except LabelError as error:
        raise UsageError(
            f"{error}\nNor is it a store of fits (meta/, data/) or a folder of rendered people "
            "(labels-*.npz); make one with python -m fitting.run DATA or python -m "
            "regressor.synthetic"
        ) from None


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


def _smoke(config: TrainConfig, rank: "Rank") -> TrainConfig:
    """Two minutes on a CPU: forty rendered people, their hands and heads, a few dozen steps."""
    from regressor.synthetic import SyntheticConfig, make_people

    folder = config.out / "people"
    if rank.first:
        make_people(SyntheticConfig(folder, count=40, size=192, seed=config.seed))
    rank.wait()
    people = (folder, Path(f"hands:{folder}"), Path(f"heads:{folder}"))
    return replace(
        config, data=(*config.data, *people), size="tiny", steps=60, part_steps=30,
        alone_steps=30, batch=8, check_every=30,
    )  # fmt: skip


def _print_table(figures: dict[str, float]) -> None:
    rows = [(k.removeprefix("held_out/"), v) for k, v in figures.items() if k.startswith("held_")]
    print("held-out figure      value")  # noqa: T201
    for name, value in rows:
        print(f"{name:18s} {value:8.2f}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
