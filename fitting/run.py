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
    from fitting.inits import Starter
    from fitting.loop import FitLoop
    from fitting.mask_source import MaskSource
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
    """What DATA is: folder, lsp, lspet, openpose, wholebody, mpii, coco, targets; auto
    looks into it."""
    keypoints: Literal["auto", "annotations", "openpose", "wholebody", "mediapipe"] = "auto"
    """Where keypoints come from; auto trusts labels and detects what they lack."""
    body: str = "open"
    """The built-in open body, or the directory or file of your own SMPL-X model."""
    gender: Literal["neutral", "female", "male"] = "neutral"
    """Of the body."""
    focal_px: float | None = None
    """Focal length of all photos in pixels. [the data set's, else EXIF's, else fitted]"""
    fov_deg: float | None = None
    """The same as an angle of view across the longer side, degrees."""
    focal: Literal["free", "fixed"] = "free"
    """Where nobody knows the focal length: free fits it beside the body (the fast solver only),
    fixed takes the photo's diagonal."""
    clip: bool = False
    """The photos of each folder, by name, are frames of a video: people are followed, and each is
    fitted as a whole, with one shape, one focal length and smooth motion (the fast solver only)."""
    init: str = "auto"
    """Where fits start. keypoints: from four headings. lifter: from those and from what a small
    network sees in the keypoints; the best energy wins. regressor:FILE (of regressor.train, or
    regressor:bundled): likewise from what a network sees in the photo. mean: facing the camera
    only. fits:STORE: from the fits in that output folder (or STORE/data/run=ID), by keypoints where
    it has none of a person. auto: lifter; keypoints with --solver lbfgs."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1; auto takes cuda when it is usable."""
    solver: Literal["fast", "lbfgs"] = "fast"
    """fast, or lbfgs: SMPLify-X's schedule as published, minutes instead of seconds, to compare."""
    interpenetration: Literal["on", "measure", "off"] = "measure"
    """on: parts of a body that are inside each other are pushed apart; measure: rows tell how deep
    they are; off: neither, a third faster. lbfgs always measures."""
    silhouette: str = "off"
    """Masks that girth is fitted to (the fast solver only). detector: MediaPipe's segmentation of
    each person. A directory: NAME.png of NAME.jpg, white on the person, or NAME.K.png of person K.
    Who has no mask that can be used is fitted without, and the log says why."""
    prior: str = "auto"
    """On the body's pose: gaussian, open, l2 (squared angles), none, a VPoser folder, or SMPLify's
    gmm_08.pkl. auto is gaussian for fast and, as published, l2 for lbfgs."""
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
    from curation.progress import set_up_logging
    from curation.store import StoreError
    from fitting.loop import RunError

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
    starts_of_run: "Starter | None" = None


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
    settings = plain_config(config) | {"dataset": dataset.kind, **_prior_hash(config)}
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
    starts_of_run = _load_starts(config, body)
    return _Job(config, rooms, dataset, load_body, body, store, info, shard, starts_of_run)


def _load_starts(config: RunConfig, body: "BodyData") -> "Starter | None":
    """Return the starts of ``fits:``, read before anything is written."""
    from fitting.inits import fits_source, starts_of_fits

    source = fits_source(config.init)
    if source is None:
        return None
    try:
        return starts_of_fits(*source, body.sha256)
    except ValueError as error:
        raise UsageError(f"--init {config.init}: {error}") from None


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
                report = write_summary(store, job.info, loop.tally)
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
            config.prior,
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
            fov_deg=config.fov_deg,
            focal_sd=config.fit.focal.fov_sd if config.focal == "free" else 0.0,
            calibrated=config.solver == "fast",
        ),
        writer=writer,
        stored=stored,
        dataset_root=config.data,
        batch_size=_batch_size(config, device),
        shard=job.shard,
        clips=config.clip,
        retry_failed=config.retry_failed,
        before_batch=functools.partial(rooms.seed, config.seed),
        part_s=rooms.part_s,
        starter=_make_starter(job, device),
        masks=_make_masks(config, workers),
    )


def _make_masks(config: RunConfig, workers: int) -> "MaskSource | None":
    from fitting.mask_source import MaskSource, parse_silhouette

    if config.silhouette == "off":
        return None
    return MaskSource(parse_silhouette(config.silhouette), workers)


def _make_starter(job: _Job, device: str) -> "Starter | None":
    from fitting.inits import lifter_starts, regressor_starts
    from regressor.weights import weights_file

    init = job.config.init
    if init == "lifter":
        return lifter_starts(job.body, device)
    if init.startswith("regressor:"):
        name = init.removeprefix("regressor:")
        try:
            return regressor_starts(job.body, weights_file(name), device)
        except (ValueError, OSError) as error:
            raise UsageError(f"--init {init}: {error}") from None
    return job.starts_of_run


def _go(job: _Job, loop: "FitLoop") -> None:
    """Run the loop, with progress shown and pictures drawn beside it."""
    from curation.progress import Progress
    from fitting.overlays import OverlayPool

    config = job.config
    count = job.dataset.count()
    count = count if config.limit is None else min(count, config.limit)
    with contextlib.ExitStack() as stack:
        loop.progress = stack.enter_context(Progress(count))
        if loop.masks is not None:
            stack.callback(loop.masks.close)
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

    _check_init(config)
    for name in ("batch_size", "workers", "limit", "overlays"):
        value = getattr(config, name)
        least = 0 if name == "overlays" else 1
        if isinstance(value, int) and value < least:
            raise UsageError(f"--{name.replace('_', '-')} must be {least} or more, got {value}")
    if config.focal_px is not None and not (math.isfinite(config.focal_px) and config.focal_px > 0):
        raise UsageError(f"--focal-px must be positive, got {config.focal_px}")
    if config.clip and config.solver == "lbfgs":
        raise UsageError("--clip needs the fast solver; leave --solver lbfgs or --clip out")
    if config.silhouette != "off":
        _check_silhouette(config)
    if config.fov_deg is not None and not 0 < config.fov_deg < 170:
        raise UsageError(f"--fov-deg must be above 0 and below 170, got {config.fov_deg}")
    if config.focal_px is not None and config.fov_deg is not None:
        raise UsageError("--focal-px and --fov-deg say the same thing; leave one out")
    if config.run_id is not None:
        try:
            check_run_id(config.run_id)
        except ValueError as error:
            raise UsageError(f"--run-id: {error}") from None
        if config.overwrite:
            raise UsageError("--overwrite finds a new name itself; leave it or --run-id out")
    if config.overwrite and config.shard != "0/1":
        raise UsageError("shards must agree on a name: give a new --run-id instead of --overwrite")


def _check_silhouette(config: RunConfig) -> None:
    from fitting.mask_source import parse_silhouette

    if config.solver == "lbfgs":
        raise UsageError("--silhouette is for the fast solver; leave --solver lbfgs or it out")
    if config.clip:
        raise UsageError("--silhouette is for single photos; leave --clip or it out")
    try:
        parse_silhouette(config.silhouette)
    except ValueError as error:
        raise UsageError(f"--silhouette: {error}") from None


def _check_init(config: RunConfig) -> None:
    from fitting.inits import INITS, fits_source
    from regressor.weights import weights_file

    try:
        source = fits_source(config.init)
    except ValueError as error:
        raise UsageError(str(error)) from None
    name = config.init.removeprefix("regressor:")
    if name != config.init and not weights_file(name).is_file():
        raise UsageError(
            f"--init {config.init}: there is no file {name}; train weights with python -m "
            "regressor.train, or take those that come along (regressor:bundled)"
        )
    plain = config.init in ("auto", "keypoints", "lifter", "mean") or config.init.startswith(
        "regressor:"
    )
    if source is None and not plain:
        raise UsageError(f"--init must be {INITS}, got {config.init!r}")
    if config.init not in ("auto", "keypoints") and config.solver == "lbfgs":
        raise UsageError("--solver lbfgs starts as published; --init is for the fast solver")


def _resolve(config: RunConfig) -> RunConfig:
    """Settle what "auto" leaves open about the solver, so that a run records what it used."""
    if config.dtype == "auto":
        config = replace(config, dtype="float64" if config.solver == "fast" else "float32")
    if config.init == "auto":
        config = replace(config, init="lifter" if config.solver == "fast" else "keypoints")
    if config.init == "mean":
        config = replace(config, fit=replace(config.fit, headings=("front",)))
    if config.fit.given_starts == "auto":
        # a network can only help: what it says competes with the headings
        is_network = config.init == "lifter" or config.init.startswith("regressor:")
        way = "compete" if is_network else "alone"
        config = replace(config, fit=replace(config.fit, given_starts=way))
    way = config.interpenetration
    config = replace(
        config,
        fit=replace(config.fit, interpenetration=way),
        reference=replace(config.reference, interpenetration=way == "on"),
    )
    if config.prior == "auto":
        config = replace(config, prior="gaussian" if config.solver == "fast" else "l2")
    if config.solver == "lbfgs":
        config = replace(config, focal="fixed")  # as published
        body = resolve_body(config.reference.body)
        config = replace(config, reference=replace(config.reference, body=body))
        if body == "smplx":
            _log.warning(LICENCE_LINE)
    return config


def _prior_hash(config: RunConfig) -> dict[str, str]:
    """What the file of the user's prior holds, so that another file makes another run."""
    from fitting.prior_names import prior_sha256

    try:
        digest = prior_sha256(config.prior)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(f"--prior: {error}") from None
    return {"prior_sha256": digest} if digest else {}


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
    if config.clip:
        return 128  # frames that share a shape; longer clips are fitted piece by piece
    # On a CPU each core takes 64 at a time; on a GPU a batch that is too large is halved by itself.
    return 64 * (os.cpu_count() or 1) if device == "cpu" else 512


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
