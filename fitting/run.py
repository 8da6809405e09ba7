"""Fit SMPL-X to everybody in a folder of photos.

    python -m fitting.run lsp/

Parameters, cameras and residuals go to Parquet files in ``lsp/fits``, pictures beside them, and a
report to ``lsp/fits/report.html``. Run it again and it goes on where it stopped.
"""

import contextlib
import functools
import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from curation.cli import config_hash, parse_command_line, plain_config
from fitting.config import FitConfig
from fitting.reference_config import LICENCE_LINE, ReferenceConfig, resolve_body

if TYPE_CHECKING:
    from bodymodel.body import BodyData
    from curation.run_writer import RunInfo, RunWriter
    from curation.store import FitStore, StoredImages
    from fitting.loop import FitLoop
    from fitting.rooms import Rooms

_log = logging.getLogger("fitting.run")


@dataclass(frozen=True)
class RunConfig:
    """What a run does. Every field is a flag; ``--config`` takes them from a YAML file."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Directory of photos, with labels if there are any."""
    out: Path | None = None
    """Where the results go. [DATA/fits]"""
    config: Path | None = None
    """YAML file of settings; the command line wins over it."""
    dataset: str = "auto"
    """What DATA is: folder, lsp, lspet, openpose, wholebody, mpii, coco; auto looks into it."""
    keypoints: Literal["auto", "annotations", "openpose", "wholebody", "mediapipe"] = "auto"
    """Where keypoints come from; auto trusts labels and detects what they lack."""
    body: str = "open"
    """The built-in open body, or the directory or file of your own SMPL-X model."""
    gender: Literal["neutral", "female", "male"] = "neutral"
    """Of the body."""
    focal_px: float | None = None
    """Focal length of all photos in pixels. [EXIF, else the photo's diagonal]"""
    init: str = "keypoints"
    """Where fits start: keypoints. (mean, regressor:CKPT and fits:RUN are not there yet.)"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1; auto takes cuda when it is usable."""
    solver: Literal["fast", "lbfgs"] = "fast"
    """fast, or lbfgs: SMPLify-X's schedule as published, minutes instead of seconds, to compare."""
    interpenetration: Literal["auto", "on", "off"] = "auto"
    """Whether parts of a body that are inside each other are pushed apart; auto: as the solver's
    settings say, which is on for fast and off for lbfgs."""
    dtype: Literal["auto", "float32", "float64"] = "auto"
    """Of the solver; auto is float64 for fast and, as published, float32 for lbfgs. The fast one is
    faster in float32; rounding may then end one person in 20 up to 0.05 rad off."""
    batch_size: int | Literal["auto"] = "auto"
    """Persons solved together."""
    workers: int | Literal["auto"] = "auto"
    """Processes that detect keypoints beside the solver. [cores less one]"""
    resume: bool = True
    """Skip the photos that are done. Without it, a run that has rows is refused."""
    retry_failed: bool = False
    """Also do the photos again whose rows have a status other than ok."""
    overwrite: bool = False
    """Make a new run beside the old one; never deletes rows."""
    run_id: str | None = None
    """Name of the run. [body and a hash of the settings: the same command goes on]"""
    limit: int | None = None
    """Only the first N photos."""
    shard: str = "0/1"
    """I/N: this process does the photos of shard I, 0 <= I < N."""
    overlays: int | Literal["all", "none"] = "all"
    """Persons to draw pictures of: all, none, or the first N and those that the report shows."""
    dry_run: bool = False
    """Say what would be done, and write nothing."""
    seed: int = 0
    """Of random numbers."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is told on stderr."""
    fit: FitConfig = field(default_factory=FitConfig)
    """The fast solver's settings."""
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    """The settings of the solver lbfgs."""


NO_EFFECT = (
    "data", "out", "config", "device", "batch_size", "workers", "resume", "retry_failed",
    "overwrite", "run_id", "limit", "shard", "overlays", "dry_run", "log_level",
)  # fmt: skip
"""Settings that do not change what is fitted to a person; the hash of a run leaves them out. So are
those of the solver that is not used."""


class UsageError(ValueError):
    """The command cannot be obeyed as given. The message says why, and what to give instead."""


def main(argv: Sequence[str] | None = None, rooms: "Rooms | None" = None) -> int:
    """Run the command.

    Args:
        argv: Arguments; those of the process by default.
        rooms: Stand-ins for the data sets, the solver and so on, in tests.

    Returns:
        The exit status: 0 done (persons that could not be fitted are rows), 1 the run failed, 2
        bad usage, 130 after Ctrl-C, 143 after SIGTERM.
    """
    config = parse_command_line(RunConfig, argv, "python -m fitting.run", __doc__)
    from curation.store import StoreError
    from fitting.loop import RunError
    from fitting.progress import set_up_logging

    set_up_logging(config.log_level)
    try:
        return _run(config, rooms)
    except UsageError as error:
        sys.stderr.write(f"fitting.run: {error}\n")
        return 2
    except (StoreError, RunError, ModuleNotFoundError) as error:
        sys.stderr.write(f"fitting.run: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception:
        _log.exception("the run failed; what is stored stays, the same command goes on from there")
        return 1


@dataclass(frozen=True, eq=False)
class _Job:
    """A command that was understood: what is fitted, with what, to where."""

    config: RunConfig
    rooms: "Rooms"
    dataset: Any
    load_body: "Callable[[], BodyData]"
    body: "BodyData"
    store: "FitStore"
    info: "RunInfo"
    shard: tuple[int, int]


def _run(config: RunConfig, rooms: "Rooms | None") -> int:
    job = _understand(config, rooms)
    return _dry_run(job) if config.dry_run else _fit(job)


def _understand(config: RunConfig, rooms: "Rooms | None") -> _Job:
    shard = _parse_shard(config.shard)
    _check(config)
    config = _resolve(config)
    from curation.run_writer import RunInfo
    from curation.store import FitStore

    if rooms is None:
        from fitting.rooms import real_rooms

        rooms = real_rooms()
    kind = None if config.dataset == "auto" else config.dataset
    load_body = functools.partial(rooms.load_body, config.body, "smplx", config.gender)
    try:
        dataset = rooms.open_dataset(config.data, kind)
        body = load_body()
    except (ValueError, FileNotFoundError) as error:  # DatasetError is a ValueError
        raise UsageError(str(error)) from None

    store = FitStore(config.out or config.data / "fits")
    settings = plain_config(config) | {"dataset": dataset.kind}
    unused = "reference" if config.solver == "fast" else "fit"
    run_hash = config_hash(settings | {"body_sha256": body.sha256}, (*NO_EFFECT, unused))
    info = RunInfo(
        run_id=_choose_run_id(config, body, run_hash, store),
        config=settings,
        config_hash=run_hash,
        dataset=config.data.resolve().name,
        dataset_root=config.data,
        body_name=body.name,
        body_sha256=body.sha256,
        body_is_open=body.is_open,
        code_version=code_version(),
        num_betas=body.num_betas,
        num_expression=body.num_expression,
    )
    return _Job(config, rooms, dataset, load_body, body, store, info, shard)


def _fit(job: _Job) -> int:
    from curation.run_writer import RunWriter
    from curation.stopping import StopSignals
    from curation.store import StoreError
    from fitting.finish import draw_missing, write_last_line, write_summary

    config, rooms, store, run_id = job.config, job.rooms, job.store, job.info.run_id
    begin = time.monotonic()
    device, torch_version = _start_torch(job)
    workers = max(1, (os.cpu_count() or 2) - 1) if config.workers == "auto" else config.workers
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopSignals())
        writer = stack.enter_context(RunWriter(store, job.info, job.shard))
        stored = store.stored_images(run_id)
        if stored.done and not config.resume:
            raise UsageError(
                f"run {run_id} has rows of {len(stored.done)} photos already; --resume goes on "
                "with it, --overwrite makes a new run beside it"
            )
        _log.info(
            "run %s: %s (%s), body %s, on %s; %d photos are done",
            run_id, config.data, job.dataset.kind, job.body.name, device, len(stored.done),
        )  # fmt: skip
        loop = _make_loop(job, writer, stored, device, torch_version, workers)
        loop.should_stop = lambda: stop.signal is not None
        outcome, report = "failed", None
        try:
            _go(job, loop)
            outcome = "complete" if stop.signal is None else "interrupted"
            writer.finish(outcome, loop.tally.counts())
            if stop.signal is None and config.overlays != "none":
                draw_missing(
                    store, run_id, job.load_body, config.data, config.overlays, workers,
                    rooms.draw, loop.should_stop,
                )  # fmt: skip
            if stop.signal is None:
                report = write_summary(store, job.info)
            else:
                outcome = "interrupted"
        finally:
            if outcome == "failed":
                with contextlib.suppress(StoreError):  # it must not hide what went wrong
                    writer.finish(outcome, loop.tally.counts())
            seconds = time.monotonic() - begin
            write_last_line(store, run_id, loop.tally, outcome, seconds, report)
        return 0 if stop.signal is None else 128 + stop.signal


def _start_torch(job: _Job) -> tuple[str, str]:
    wanted = job.config.device
    try:
        return job.rooms.start_torch(wanted)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {wanted} cannot be used: {reason}") from None


def _make_loop(
    job: _Job,
    writer: "RunWriter",
    stored: "StoredImages",
    device: str,
    torch_version: str,
    workers: int,
) -> "FitLoop":
    from fitting.loop import FitLoop
    from fitting.rows import RowMaker

    config, rooms, info = job.config, job.rooms, job.info
    return FitLoop(
        observe=functools.partial(
            rooms.observe,
            source=config.keypoints,
            workers=workers,
            cache_dir=job.store.root / "cache" / "keypoints",
        ),
        solver=rooms.make_fitter(
            job.body,
            config.fit if config.solver == "fast" else config.reference,
            device,
            config.dtype,
        ),
        rows=RowMaker(
            run_id=info.run_id,
            dataset=info.dataset,
            body=job.body,
            config_hash=info.config_hash,
            code_version=info.code_version,
            torch_version=torch_version,
            device=device,
            focal_px=config.focal_px,
            calibrated=config.solver == "fast",
        ),
        writer=writer,
        stored=stored,
        dataset_root=config.data,
        batch_size=_batch_size(config, device),
        shard=job.shard,
        retry_failed=config.retry_failed,
        before_batch=functools.partial(rooms.seed, config.seed),
        part_s=rooms.part_s,
    )


def _go(job: _Job, loop: "FitLoop") -> None:
    """Run the loop, with progress shown and pictures drawn beside it."""
    from fitting.overlays import OverlayPool
    from fitting.progress import Progress

    config = job.config
    count = job.dataset.count()
    count = count if config.limit is None else min(count, config.limit)
    with contextlib.ExitStack() as stack:
        loop.progress = stack.enter_context(Progress(count))
        if config.overlays != "none":
            loop.overlays = stack.enter_context(
                OverlayPool(job.store, job.load_body, config.data, 1, job.rooms.draw)
            )
            loop.max_overlays = None if config.overlays == "all" else config.overlays
        loop.run(islice(job.dataset.iter_samples(), config.limit))


# --- settings -----------------------------------------------------------------------------------


def _parse_shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match and int(match[1]) < int(match[2]):
        return int(match[1]), int(match[2])
    raise UsageError(f"--shard must be I/N with 0 <= I < N, such as 0/4; got {text!r}")


def _check(config: RunConfig) -> None:
    from curation.run_writer import check_run_id

    if config.init != "keypoints":
        raise UsageError(
            f"--init {config.init} is not there yet; leave it out, fits then start at keypoints"
        )
    for name in ("batch_size", "workers", "limit", "overlays"):
        value = getattr(config, name)
        least = 0 if name == "overlays" else 1
        if isinstance(value, int) and value < least:
            raise UsageError(f"--{name.replace('_', '-')} must be {least} or more, got {value}")
    if config.focal_px is not None and not (math.isfinite(config.focal_px) and config.focal_px > 0):
        raise UsageError(f"--focal-px must be positive, got {config.focal_px}")
    if config.run_id is not None:
        try:
            check_run_id(config.run_id)
        except ValueError as error:
            raise UsageError(f"--run-id: {error}") from None
        if config.overwrite:
            raise UsageError("--overwrite finds a new name itself; leave it or --run-id out")
    if config.overwrite and config.shard != "0/1":
        raise UsageError("shards must agree on a name: give a new --run-id instead of --overwrite")


def _resolve(config: RunConfig) -> RunConfig:
    """Settle what "auto" leaves open about the solver, so that a run records what it used."""
    if config.dtype == "auto":
        config = replace(config, dtype="float64" if config.solver == "fast" else "float32")
    if config.interpenetration != "auto":
        is_on = config.interpenetration == "on"
        config = replace(
            config,
            interpenetration="auto",  # the run's hash knows it by the solver's settings
            fit=replace(config.fit, interpenetration="on" if is_on else "measure"),
            reference=replace(config.reference, interpenetration=is_on),
        )
    if config.solver == "lbfgs":
        body = resolve_body(config.reference.body)
        config = replace(config, reference=replace(config.reference, body=body))
        if body == "smplx":
            _log.warning(LICENCE_LINE)
    return config


def _choose_run_id(config: RunConfig, body: "BodyData", run_hash: str, store: "FitStore") -> str:
    if config.run_id is not None:
        return config.run_id
    name = re.sub(r"[^A-Za-z0-9]+", "-", body.name).strip("-")[:60]
    run_id = f"{name}-{run_hash[:8]}"
    if not config.overwrite:
        return run_id
    taken = set(store.run_ids())
    candidates = (run_id, *(f"{run_id}-{n}" for n in range(2, len(taken) + 3)))
    return next(candidate for candidate in candidates if candidate not in taken)


def _batch_size(config: RunConfig, device: str) -> int:
    if config.batch_size != "auto":
        return config.batch_size
    if config.solver == "lbfgs":
        return 1  # it takes one at a time anyway, and each is worth storing at once
    # On a CPU each core takes 32 at a time; on a GPU a batch that is too large is halved by itself.
    return 32 * (os.cpu_count() or 1) if device == "cpu" else 512


def code_version() -> str:
    """Return the version of this project; with ``+source`` where it runs from a checkout."""
    import tomllib
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pseudogt")
    except PackageNotFoundError:
        pass
    try:
        with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
            return tomllib.load(file)["project"]["version"] + "+source"
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return "unknown"


def _dry_run(job: _Job) -> int:
    import yaml

    from curation.schema import image_key
    from fitting.loop import in_shard

    config, store, run_id = job.config, job.store, job.info.run_id
    stored = store.stored_images(run_id)
    images = to_do = 0
    for sample in islice(job.dataset.iter_samples(), config.limit):
        if in_shard(sample.image_id, job.shard):
            key = image_key(sample.image_id)
            images += 1
            to_do += key not in stored.done or (config.retry_failed and key in stored.failed)
    sys.stdout.write(yaml.safe_dump(dict(job.info.config), sort_keys=False, allow_unicode=True))
    sys.stdout.write(
        f"# dataset  {config.data} ({job.dataset.kind})\n"
        f"# body     {job.body.name} ({job.body.sha256[:12]})\n"
        f"# photos   {images}, of which {images - to_do} are done and {to_do} are to do\n"
        f"# rows     {store.run_dir(run_id)}\n"
        f"# record   {store.run_path(run_id)}\n"
        f"# overlays {store.overlay_path(run_id, 'FIT_ID', 'VIEW')}\n"
        f"# report   {store.root / 'report.html'}\n"
    )
    summary = {"dry_run": True, "run_id": run_id, "images": images, "to_do": to_do}
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
