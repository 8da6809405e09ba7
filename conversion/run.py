"""Convert SMPL, SMPL-H and SMPL-X into each other, and MANO and FLAME into SMPL-X.

    python -m conversion.run amass/ --to smplx

Parameters, and how far each row is from its source, go to Parquet files in ``amass_to_smplx/``,
with a report of the worst. Run it again and it goes on where it stopped.
"""

import json
import logging
import math
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from conversion.options import TransferOptions
from curation.cli import config_hash, parse_command_line, plain_config

if TYPE_CHECKING:
    from conversion.job import Job

_log = logging.getLogger("conversion.run")
_UNITS_M = {"m": 1.0, "cm": 0.01, "mm": 0.001}


@dataclass(frozen=True)
class RunConfig:
    """What a run does. Every field is a flag; ``--config`` takes them from a YAML file."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """A file or folder: AMASS npz, SPIN npy or npz, EFT json, 3DPW pkl, npz or Parquet of
    parameters, obj or ply meshes."""
    to: Literal["smplx", "smplh", "smpl"] = "smplx"
    """Whose parameters are wanted."""
    out: Path | None = None
    """Where the results go. [SRC_to_TO]"""
    config: Path | None = None
    """YAML file of settings; the command line wins over it."""
    from_models: str = "auto"
    """The source's body: open, licensed, or a directory or file of your own.
    [PSEUDOGT_MODELS, else open]"""
    to_models: str = "auto"
    """The target's body, likewise."""
    family: Literal["auto", "smplx", "smplh", "smpl", "mano", "flame"] = "auto"
    """Topology of meshes; auto tells it from the number of vertices."""
    hand: Literal["auto", "left", "right"] = "auto"
    """Which hand MANO's is, where the file and its name do not say it."""
    hand_mean: Literal["auto", "included", "add"] = "auto"
    """Whether hand poses have the mean hand in them (flat_hand_mean=True) or it is to be added.
    Auto: components come without, 45 numbers of a body with it; MANO's are not guessed."""
    gender: Literal["same", "neutral", "female", "male"] = "same"
    """Of the target's body; same as the source's."""
    num_betas: int = 10
    """Shape components of the target."""
    from_kid: Path | None = None
    """Template of a child (kid_template.npy) that belongs to the source's last beta."""
    to_kid: Path | None = None
    """Likewise of the target: children come out with one beta more."""
    unit: Literal["m", "cm", "mm"] = "m"
    """Of meshes and translations."""
    correspondence: Path | None = None
    """A correspondence of this project (npz), a published *_deftrafo_setup.pkl, or published ids
    of MANO's or FLAME's vertices (MANO_SMPLX_vertex_ids.pkl, SMPL-X__FLAME_vertex_ids.npy).
    [built]"""
    mask: Path | None = None
    """Of valid target vertices, with a published correspondence."""
    shared_betas: bool = False
    """One shape for each motion, instead of one for each frame."""
    fits: bool = True
    """Write rows of the project's store too, to be reviewed and trained on (SMPL-X only)."""
    images: Path | None = None
    """Where the sources' images are, for the store. [SRC's folder; sizes are not read]"""
    npz: bool = False
    """Write each motion in AMASS form too."""
    meshes: bool = False
    """Write meshes (ply) too."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1; auto takes cuda when it is usable."""
    batch_size: int | Literal["auto"] = "auto"
    """Meshes solved together."""
    threads: int = 1
    """Of torch on a CPU. Cores are better used by one process each: see --shard."""
    part_frames: int = 1024
    """Frames a Parquet part: what an interruption costs at most."""
    resume: bool = True
    """Skip the parts that are done. Without it, a directory that has parts is refused."""
    limit: int | None = None
    """Only the first N frames."""
    shard: str = "0/1"
    """I/N: this process does the parts of shard I, 0 <= I < N."""
    dry_run: bool = False
    """Say what would be done, and write nothing."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is told on stderr."""
    solver: TransferOptions = field(default_factory=TransferOptions)
    """The solver's settings."""


NO_EFFECT = (
    "source", "out", "config", "npz", "meshes", "fits", "images", "device", "batch_size",
    "threads", "resume", "limit", "shard", "dry_run", "log_level",
)  # fmt: skip
"""Settings that do not change a row."""


class UsageError(ValueError):
    """The command cannot be obeyed as given. The message says why, and what to give instead."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        The exit status: 0 done (frames that could not be converted are rows), 1 the run failed or
        no file could be read, 2 bad usage, 130 after Ctrl-C, 143 after SIGTERM.
    """
    config = parse_command_line(RunConfig, argv, "python -m conversion.run", __doc__)
    logging.basicConfig(format="%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S")
    for name in ("conversion", "bodymodel"):
        logging.getLogger(name).setLevel(config.log_level.upper())
    try:
        return _run(config)
    except UsageError as error:
        sys.stderr.write(f"conversion.run: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if isinstance(error, OSError | ValueError):
            sys.stderr.write(f"conversion.run: {error}\n")
        else:
            _log.exception("the run failed; what is written stays, the same command goes on")
        return 1


def _run(config: RunConfig) -> int:
    _check(config)
    shard = _parse_shard(config.shard)
    from conversion.readers import check_source, read_clips

    settings = plain_config(config)
    named = config.source if config.source.name not in ("", "..") else config.source.resolve()
    out = config.out or named.with_name(f"{named.stem}_to_{config.to}")
    if out.resolve() == config.source.resolve():
        raise UsageError(f"--out must be another directory than SRC, {out}")
    try:
        check_source(config.source, out)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from None
    if config.dry_run:
        return _dry_run(settings, config.source, out)
    _check_writable(out)

    from conversion.bodies import Bodies
    from curation.progress import Progress
    from curation.stopping import StopSignals

    bodies = Bodies(
        config.from_models, config.to_models, config.to, config.num_betas,
        None if config.family == "auto" else config.family,
        None if config.gender == "same" else config.gender,
        None if config.hand == "auto" else config.hand, config.from_kid, config.to_kid,
    )  # fmt: skip
    try:
        hashes = {g: bodies.target(g).sha256 for g in ("neutral",)}
    except (ValueError, FileNotFoundError):
        hashes = {}  # a target of another gender may be all that is needed
    run_hash = config_hash(settings | {"target": hashes}, NO_EFFECT)
    begin = time.monotonic()
    with StopSignals() as stop, Progress(config.limit, "mesh", None) as progress:
        job = _make_job(config, bodies, out, run_hash, shard)
        job.should_stop, job.progress = (lambda: stop.signal is not None), progress.add
        outcome = "failed"
        try:
            # One file at a time: a data set does not fit into memory.
            job.run(_named_once(read_clips(config.source, out)), config.limit)
            outcome = "complete" if stop.signal is None else "interrupted"
        finally:
            if job.fits is not None:
                job.fits.close(outcome)
    return _finish(job, bodies, out, time.monotonic() - begin, stop.signal)


def _make_job(config: RunConfig, bodies: Any, out: Path, run_hash: str, shard: tuple) -> "Job":
    from conversion.correspondence_files import load_correspondence
    from conversion.fits import FitRows
    from conversion.job import Job
    from conversion.output import PartStore

    match = None
    if config.correspondence is not None:
        try:
            match = load_correspondence(config.correspondence, config.mask)
        except (ValueError, FileNotFoundError) as error:
            raise UsageError(str(error)) from None
    device = _device(config.device, config.threads)
    batch = config.batch_size
    if not config.resume and any((out / "data").rglob("*.parquet")):
        raise UsageError(f"{out} has parts already; leave --no-resume out, or give another --out")
    fits = None
    if config.fits and config.to == "smplx":
        root = config.source if config.source.is_dir() else config.source.parent
        fits = FitRows(
            out / "fits", config.source.resolve().stem, config.images or root,
            plain_config(config), run_hash, shard, device, config.images is not None,
        )  # fmt: skip
    return Job(
        bodies=bodies,
        store=PartStore(out, run_hash),
        options=config.solver,
        batch_size=(16 if device == "cpu" else 512) if batch == "auto" else batch,
        part_frames=config.part_frames,
        shard=shard,
        device=device,
        shared_betas=config.shared_betas,
        unit_m=_UNITS_M[config.unit],
        correspondence=match,
        hand_mean=config.hand_mean,
        fits=fits,
        npz=config.npz,
        meshes=config.meshes,
    )


def _finish(
    job: "Job",
    bodies: Any,
    out: Path,
    seconds: float,
    signal: int | None,
) -> int:
    from conversion.numbers import read_numbers, text_table
    from conversion.report import write_report

    tally = job.tally
    job.forget()  # the report's ray casting wants the memory
    report, numbers = None, read_numbers(job.store)
    if numbers.count:
        sys.stdout.write(text_table(numbers) + "\n")
        if signal is None:
            report = write_report(
                out / "report.html", numbers, tally.clips, tally.bad_files, bodies, job.frames
            )
    line = {
        "frames": tally.frames,
        "ok": tally.by_status.get("ok", 0),
        "skipped": tally.skipped,
        "failed_by": {k: n for k, n in sorted(tally.by_status.items()) if k != "ok"},
        "bad_files": len(tally.bad_files),
        "ms_a_mesh": round(1000 * tally.solve_s / tally.frames, 2) if tally.frames else None,
        "outcome": "complete" if signal is None else "interrupted",
        "seconds": round(seconds, 2),
        "fits": job.fits.written if job.fits else 0,
        "out": str(out),
        "report": str(report) if report else None,
    }
    sys.stdout.write(json.dumps(line) + "\n")
    if signal is not None:
        return 128 + signal
    return 0 if (tally.frames or tally.skipped or not tally.bad_files) else 1


def _named_once(clips) -> Any:
    """Give a number to a clip whose name an earlier one has: a.npz and a.pkl in one folder."""
    import dataclasses

    from conversion.clips import ClipError

    taken: set[str] = set()
    for clip in clips:
        if not isinstance(clip, ClipError):
            name, k = clip.name, 2
            while clip.name.lower() in taken:
                clip, k = dataclasses.replace(clip, name=f"{name}-{k}"), k + 1
            taken.add(clip.name.lower())
        yield clip


def _check(config: RunConfig) -> None:
    for name in ("batch_size", "threads", "part_frames", "limit", "num_betas"):
        value = getattr(config, name)
        if isinstance(value, int) and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be 1 or more, got {value}")
    if config.mask is not None and config.correspondence is None:
        raise UsageError("--mask belongs to a --correspondence")
    if config.images is not None and not config.images.is_dir():
        raise UsageError(f"--images {config.images} is no directory")
    for name in ("betas_weight", "expression_weight", "fingers_weight"):
        value = getattr(config.solver, name)
        if not (math.isfinite(value) and value >= 0):
            raise UsageError(f"--solver.{name.replace('_', '-')} must be 0 or more, got {value}")


def _check_writable(out: Path) -> None:
    """Find out before the work, not after it."""
    import tempfile

    missing = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        if missing:  # it may yet come to nothing
            out.rmdir()
    except OSError as error:
        raise UsageError(
            f"{out} cannot be written ({error.strerror}); choose another place with --out"
        ) from None


def _parse_shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match and int(match[1]) < int(match[2]):
        return int(match[1]), int(match[2])
    raise UsageError(f"--shard must be I/N with 0 <= I < N, such as 0/4; got {text!r}")


def _device(wanted: str, threads: int) -> str:
    import torch

    torch.set_num_threads(threads)
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {wanted}: torch finds no usable GPU; take cpu")
    return wanted


def _dry_run(settings: dict[str, Any], source: Path, out: Path) -> int:
    import yaml

    from conversion.clips import ClipError
    from conversion.readers import read_clips

    sys.stdout.write(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    clips = frames = 0
    for clip in _named_once(read_clips(source, out)):
        clips += 1
        if isinstance(clip, ClipError):
            sys.stdout.write(f"# bad      {clip}\n")
            continue
        frames += len(clip)
        what = clip.family or "meshes"
        sys.stdout.write(f"# clip     {clip.name}: {len(clip)} frames, {what}, {clip.gender}\n")
    sys.stdout.write(f"# out      {out}\n")
    summary = {"dry_run": True, "clips": clips, "frames": frames, "out": str(out)}
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
