"""Bring others' fits into a store, to be reviewed and trained on.

    python -m curation.import_fits train.npz --images lsp/ --out lsp/fits --body models/

Reads ExPose's curated fits, HumanData, SPIN's npz with SMPL-X parameters, NeuralAnnot's JSON
(``--coco`` names its annotations), a folder of SMPLify-X's results, and what ``curation.export``
wrote, Parquet and AMASS files included. Fits without a camera are placed by their keypoints.
"""

import hashlib
import json
import logging
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from curation.cli import parse_command_line

if TYPE_CHECKING:
    from curation.formats.fits import Fits
    from curation.formats.posing import Poser

__all__ = ["ImportConfig", "import_rows", "main", "place_fits", "read_fits"]

_log = logging.getLogger("curation.import_fits")
_MIN_POINTS = 4


@dataclass(frozen=True)
class ImportConfig:
    """What is imported. Every field is a flag; ``--config`` takes them from a YAML file."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """File or folder of fits."""
    images: Path
    """Directory that the photos' names are relative to."""
    out: Path | None = None
    """The store that the fits go to. [IMAGES/fits]"""
    format: Literal[
        "auto", "expose", "humandata", "spin", "neuralannot", "smplifyx", "amass", "parquet"
    ] = "auto"
    """What SRC is; auto looks into it."""
    coco: Path | None = None
    """The annotations that NeuralAnnot's ids mean."""
    body: str = "open"
    """The body of the fits: open, or the directory or file of your own SMPL-X model."""
    gender: Literal["neutral", "female", "male"] = "neutral"
    """Of the body."""
    focal_px: float | None = None
    """Focal length of photos whose fits do not tell it. [the photo's diagonal]"""
    run_id: str | None = None
    """Name of the run that the fits become. [import-, and a hash of the source]"""
    config: Path | None = None
    """YAML file of settings; the command line wins over it."""
    dry_run: bool = False
    """Say what would be imported, and write nothing."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is told on stderr."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if done, 1 if it failed."""
    config = parse_command_line(ImportConfig, argv, "python -m curation.import_fits", __doc__)
    logging.basicConfig(format="%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("curation").setLevel(config.log_level.upper())
    from curation.store import StoreError

    try:
        return _run(config)
    except (StoreError, FileNotFoundError, ValueError, OSError) as error:
        sys.stderr.write(f"curation.import_fits: {error}\n")
        return 1


def read_fits(source: Path, kind: str, body: Any, coco: Path | None = None) -> "Fits":
    """Read fits of any known format.

    Args:
        source: File or folder.
        kind: As in ImportConfig.format.
        body: Theirs.
        coco: Annotations of NeuralAnnot's.

    Raises:
        FileNotFoundError: If there is no such file.
        FormatError: If it is of no known format, or damaged.
    """
    from curation.formats.amass import read_amass
    from curation.formats.expose import read_expose
    from curation.formats.fits import FormatError, fits_from_table, load_npz
    from curation.formats.humandata import read_humandata
    from curation.formats.neuralannot import read_neuralannot
    from curation.formats.posing import Poser
    from curation.formats.smplifyx import read_smplifyx
    from curation.formats.spin import read_spin

    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
    if kind == "auto":
        kind = {".json": "neuralannot", ".parquet": "parquet"}.get(source.suffix, "")
        if source.is_dir():
            kind = "smplifyx" if any(source.rglob("*.pkl")) else "amass"
        elif source.suffix == ".npz":
            keys = set(load_npz(source))
            kind = "expose" if "img_fns" in keys else "spin" if "imgname" in keys else "humandata"
    if kind == "neuralannot":
        if coco is None:
            raise FormatError("NeuralAnnot's ids mean annotations; name their file with --coco")
        return read_neuralannot(source, coco, body)
    if kind == "amass":
        return read_amass(source, Poser(body))
    if kind == "smplifyx":
        return read_smplifyx(source, body)
    if kind == "parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(source) as file:
            table = file.read()
        missing = {"body_pose", "global_orient", "body_sha256", "fit_id"} - set(table.column_names)
        if missing:
            raise FormatError(f"{source} holds no fits: it lacks {sorted(missing)}")
        table = table.filter(table["has_fit"])
        good = None
        if "body_good" in table.column_names:
            names = ("body_good", "left_hand_good", "right_hand_good", "face_good")
            good = np.column_stack([table[n].to_numpy(zero_copy_only=False) for n in names])
        return fits_from_table(table, good)
    readers = {"expose": read_expose, "spin": read_spin, "humandata": read_humandata}
    if kind not in readers:
        raise FormatError(f"{source} is of no known format; name it with --format")
    return readers[kind](source)


def place_fits(fits: "Fits", poser: "Poser") -> "Fits":
    """Find the translation of fits that have none, from their keypoints.

    With the pose known, ``(u - cx) (Z + tz) = f (X + tx)`` is linear in the translation: weighted
    least squares over the points seen, each equation divided by the depth of the first solution.
    Those with fewer than four points keep NaN.

    Args:
        fits: With focal length and principal point.
        poser: Of their body.
    """
    lost = np.flatnonzero(~np.isfinite(fits.params["transl"]).all(1))
    if not len(lost):
        return fits
    zero = fits.select(lost)
    params = dict(zero.params) | {"transl": np.zeros((len(lost), 3), np.float32)}
    _, points = poser.joints_and_points(replace(zero, params=params))
    transl = np.array(fits.params["transl"], np.float32)
    for k, row in enumerate(lost):
        seen = (fits.keypoints_2d[row, :, 2] > 0) & np.isfinite(points[k]).all(1)
        focal, center = float(fits.focal_px[row]), fits.center_px[row].astype(np.float64)
        if seen.sum() < _MIN_POINTS or not math.isfinite(focal):
            continue
        space = points[k, seen]
        ray = (fits.keypoints_2d[row, seen, :2] - center) / focal
        weight = np.sqrt(fits.keypoints_2d[row, seen, 2].astype(np.float64))
        found = np.zeros(3)
        depth = np.ones(len(space))
        for _ in range(3):
            one, none = np.ones(len(space)), np.zeros(len(space))
            left = np.concatenate([np.column_stack([one, none, -ray[:, 0]]),
                                   np.column_stack([none, one, -ray[:, 1]])])  # fmt: skip
            right = np.concatenate([ray[:, a] * space[:, 2] - space[:, a] for a in (0, 1)])
            scale = np.tile(weight / depth, 2)
            found = np.linalg.lstsq(left * scale[:, None], right * scale, rcond=None)[0]
            depth = np.maximum(space[:, 2] + found[2], 0.1)
        if found[2] + np.median(space[:, 2]) > 0:
            transl[row] = found
    return replace(fits, params=dict(fits.params) | {"transl": transl})


def import_rows(
    fits: "Fits", poser: "Poser", images: Path, run_id: str, source: str, focal_px: float | None
) -> list[dict[str, Any]]:
    """Return rows of the store; a photo that cannot be read, or a fit without place, says so.

    Args:
        fits: What was read.
        poser: Of their body.
        images: Directory that the photos' names are relative to.
        run_id: Of the run.
        source: What they came from, for ``code_version``.
        focal_px: Of photos whose fits do not tell it; None for the diagonal.
    """
    from bodymodel.keypoints import FIT_KEYPOINTS
    from bodymodel.spec import PARTS, keypoint_part
    from curation.images import ImageError, read_header
    from curation.reproject import trunk_lean_deg
    from curation.schema import POSE_SHAPES, fit_columns, fit_id

    size, sha = fits.size.copy(), [""] * len(fits)
    problems = [""] * len(fits)
    headers: dict[str, Any] = {}
    for row, name in enumerate(fits.image_path):
        if name not in headers:
            try:
                headers[name] = read_header(images / name)
            except ImageError as error:
                headers[name] = error
        found = headers[name]
        if isinstance(found, ImageError):
            problems[row] = f"the photo: {found.reason}"
        else:
            size[row], sha[row] = (found.width, found.height), found.sha256
    focal, center = fits.focal_px.copy(), fits.center_px.copy()
    unknown = ~np.isfinite(focal)
    focal[unknown] = focal_px or np.hypot(*size[unknown].T.astype(np.float64))
    middle = ~np.isfinite(center).all(1)
    center[middle] = size[middle] / 2
    focal[focal <= 0] = np.nan
    fits = place_fits(replace(fits, size=size, focal_px=focal, center_px=center), poser)
    joints, points = poser.joints_and_points(fits)
    pixels = poser.project(fits, points)
    seen = fits.keypoints_2d[..., 2] > 0
    distance = np.linalg.norm(pixels - fits.keypoints_2d[..., :2], axis=-1)
    residual = np.where(seen, distance, np.nan).astype(np.float32)
    part_of = np.array([keypoint_part(name) for name in FIT_KEYPOINTS])
    template = poser.body.v_template
    tall = float(np.ptp(template[:, 1]))
    defaults: dict[str, Any] = {
        "string": "", "bool": False, "int8": 0, "int32": 0, "float32": math.nan,
        "float64": math.nan, "list<string>": [], "list<float32>": [], "map<string,float32>": {},
    }  # fmt: skip
    columns = fit_columns(fits.params["betas"].shape[1], fits.params["expression"].shape[1])
    empty = {
        c.name: np.full(c.shape, 0 if c.kind == "int8" else math.nan,
                        np.int8 if c.kind == "int8" else np.float32)
        if c.shape else defaults[c.kind]
        for c in columns
    }  # fmt: skip
    rows = []
    for row, name in enumerate(fits.image_path):
        is_placed = bool(np.isfinite(fits.params["transl"][row]).all())
        is_finite = all(np.isfinite(fits.params[k][row]).all() for k in (*POSE_SHAPES, "betas"))
        has_fit = is_placed and is_finite
        medians = {
            part: float(np.median(residual[row, known])) if known.any() else math.nan
            for part in PARTS
            for known in [(part_of == part) & np.isfinite(residual[row])]
        }
        reason = problems[row]
        if not has_fit:
            reason = "the fit has numbers that are not finite" if not is_finite else (
                "the file has no translation, and too few keypoints to find one")  # fmt: skip
        status = "ok" if has_fit else "too_few_keypoints" if is_finite else "solver_error"
        values = {
            "fit_id": fit_id(fits.dataset, name, int(fits.person_index[row]), run_id),
            "run_id": run_id, "dataset": fits.dataset, "image_id": name, "image_path": name,
            "image_sha256": sha[row], "person_index": int(fits.person_index[row]),
            "width": int(size[row, 0]), "height": int(size[row, 1]),
            "has_bbox": bool(np.isfinite(fits.bbox_xyxy_px[row]).all()),
            "bbox_xyxy_px": fits.bbox_xyxy_px[row],
            "status": status, "reason": reason, "has_fit": has_fit,
            "body_name": poser.body.name, "body_sha256": poser.body.sha256,
            "body_is_open": poser.body.is_open, "keypoint_convention": "fit",
            "has_keypoints": bool(seen[row].any()), "keypoints_2d": fits.keypoints_2d[row],
            **{f"has_{part}": bool(fits.good[row, k + 1]) for k, part in enumerate(PARTS[1:])},
            "code_version": source, "device": "imported",
        }  # fmt: skip
        if has_fit:
            depth = float(joints[row, 0, 2])
            height = focal[row] * tall / max(depth, 1e-6)
            values |= {k: v[row] for k, v in fits.params.items() if k in empty}
            values |= {
                "focal_px": float(focal[row]), "center_px": center[row],
                "focal_source": "given" if not unknown[row] else "default",
                "betas_abs_max": float(np.abs(fits.params["betas"][row]).max(initial=0)),
                "residual_px": residual[row], "person_height_px": float(height),
                **{f"residual_{part}_px": medians[part] for part in PARTS},
                "residual_body_pct": 100 * medians["body"] / height,
                "trunk_lean_deg": trunk_lean_deg(joints[row], poser.body),
            }  # fmt: skip
        rows.append(empty | {k: v for k, v in values.items() if k in empty})
    return rows


def _run(config: ImportConfig) -> int:
    from bodymodel.files import load_body
    from curation.formats.fits import FormatError
    from curation.formats.posing import Poser
    from curation.run_writer import RunInfo, RunWriter, check_run_id
    from curation.store import FitStore, StoreError
    from curation.tables import text_table

    body = load_body(config.body, "smplx", config.gender)
    fits = read_fits(config.source, config.format, body, config.coco)
    sizes = fits.params["betas"].shape[1], fits.params["expression"].shape[1]
    if sizes != (body.num_betas, body.num_expression):
        body = load_body(config.body, "smplx", config.gender, *sizes)
    poser = Poser(body)
    poser.check(fits)
    if not fits.body_sha256 and body.is_open:
        raise FormatError(
            f"{config.source} does not say which body its fits are of; they are SMPL-X's if they "
            "are public. Name your SMPL-X files with --body: on the open body they mean nothing"
        )
    fits = replace(fits, dataset=fits.dataset or config.images.resolve().name)
    run_id = config.run_id or f"import-{_digest(fits)}"
    check_run_id(run_id)
    rows = import_rows(fits, poser, config.images, run_id, f"import of {config.source.name}",
                       config.focal_px)  # fmt: skip
    statuses = Counter(row["status"] for row in rows)
    unread = sum(row["reason"].startswith("the photo") for row in rows)
    store = FitStore(config.out or config.images / "fits")
    summary = {
        "imported": statuses.get("ok", 0), "failed_by": {k: n for k, n in statuses.items()
        if k != "ok"}, "photos_unread": unread, "run_id": run_id, "out": str(store.root),
    }  # fmt: skip
    if config.dry_run:
        sys.stdout.write(json.dumps({"dry_run": True, **summary}) + "\n")
        return 0
    info = RunInfo(
        run_id=run_id, config={"source": str(config.source), "format": config.format},
        config_hash=_digest(fits), dataset=fits.dataset, dataset_root=config.images,
        body_name=body.name, body_sha256=body.sha256, body_is_open=body.is_open,
        code_version="import", num_betas=sizes[0], num_expression=sizes[1],
    )  # fmt: skip
    with RunWriter(store, info) as writer:
        if store.stored_images(run_id).done:
            raise StoreError(f"run {run_id} has rows already: these fits were imported before")
        by_image: dict[str, list[dict]] = {}
        for row in rows:
            by_image.setdefault(row["image_id"], []).append(row)
        writer.write([row for image in by_image.values() for row in image])
        writer.finish("complete", {"imported": statuses.get("ok", 0)})
    if unread:
        _log.warning("%d fits have photos that cannot be read below %s", unread, config.images)
    lines = [(status.replace("_", " "), str(n)) for status, n in statuses.most_common()]
    sys.stdout.write(text_table(("", "fits"), lines) + "\n" + json.dumps(summary) + "\n")
    return 0


def _digest(fits: "Fits") -> str:
    digest = hashlib.sha256()
    arrays: Mapping[str, np.ndarray] = fits.params
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name], "<f4").tobytes())
    digest.update("\0".join(fits.image_path).encode("utf-8", "replace"))
    return digest.hexdigest()[:8]


if __name__ == "__main__":
    sys.exit(main())
