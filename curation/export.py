"""Write the accepted fits in the formats that others load.

    python -m curation.export lsp/                               # Parquet with a card
    python -m curation.export lsp/ --formats expose humandata coco

Into ``lsp/exports/<name>/``. Near-duplicate photos (mirrored ones too) are kept on one side of the
split. Without a review, ``--all`` exports every fit.
"""

import json
import logging
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from curation.cli import parse_command_line

__all__ = ["FORMATS", "ExportConfig", "main"]

_log = logging.getLogger("curation.export")

Format = Literal[
    "parquet",
    "expose",
    "humandata",
    "smplifyx",
    "spin",
    "neuralannot",
    "amass",
    "coco",
    "glb",
    "obj",
]
FORMATS: tuple[str, ...] = Format.__args__
_NEED_BODY = {"smplifyx", "neuralannot", "amass", "coco", "glb", "obj", "humandata"}


@dataclass(frozen=True)
class ExportConfig:
    """What is exported. Every field is a flag; ``--config`` takes them from a YAML file."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Directory of a data set with fits."""
    formats: tuple[Format, ...] = ("parquet",)
    """Parquet with a card for Hugging Face's datasets, and what else is wanted."""
    out: Path | None = None
    """The store of fits. [DATA/fits]"""
    to: Path | None = None
    """Where the export goes. [DATA/exports/NAME]"""
    name: str | None = None
    """Of the export. [the run]"""
    decisions: str | None = None
    """Database (path or URL) or Parquet file of decisions. [decisions.sqlite in the store]"""
    all: bool = False
    """Every fit whose status is ok, reviewed or not."""
    run_id: str | None = None
    """Fits of this run. [the only one]"""
    min_probability: float = 0.0
    """Leave out accepted fits that are good with less than this probability (Dawid and Skene)."""
    val: float = 0.1
    """Share of the photos in val."""
    test: float = 0.0
    """Share of the photos in test."""
    salt: str = ""
    """Another one, another split."""
    duplicates: bool = True
    """Look for near-duplicate photos; reads every photo once."""
    body: str = "open"
    """The body of the fits, for formats that need it: open, or directory or file of your own."""
    num_pca: int = 12
    """Hand coefficients of smplifyx; 45 lose nothing."""
    fits: tuple[str, ...] = ()
    """Only these fits (fit_id), such as for glb."""
    config: Path | None = None
    """YAML file of settings; the command line wins over it."""
    dry_run: bool = False
    """Say what would be written, and write nothing."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is told on stderr."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if done, 1 if it failed, 2 on bad usage."""
    config = parse_command_line(ExportConfig, argv, "python -m curation.export", __doc__)
    logging.basicConfig(format="%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("curation").setLevel(config.log_level.upper())
    from curation.store import StoreError

    if not (config.val >= 0 and config.test >= 0 and config.val + config.test < 1):
        sys.stderr.write("curation.export: --val and --test must be shares, together below 1\n")
        return 2
    if not 1 <= config.num_pca <= 45:
        sys.stderr.write("curation.export: --num-pca must lie in 1..45\n")
        return 2
    try:
        return _run(config)
    except (StoreError, FileNotFoundError, ValueError, OSError) as error:
        sys.stderr.write(f"curation.export: {error}\n")
        return 1


def _run(config: ExportConfig) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    from curation.curated import curate, write_card, write_parquet
    from curation.formats.fits import fits_from_table
    from curation.store import FitStore, StoreError

    begin = time.monotonic()
    store = FitStore(config.out or config.data / "fits")
    runs = sorted({part.run_id for part in store.parts()})
    if config.run_id is not None and config.run_id not in runs:
        raise StoreError(f"{store.root} has no run {config.run_id}; it has {', '.join(runs)}")
    if config.run_id is None and len(runs) > 1:
        raise StoreError(f"{store.root} has {len(runs)} runs; choose one with --run-id: "
                         f"{', '.join(runs)}")  # fmt: skip
    run_id = config.run_id or (runs[0] if runs else None)
    verdicts, statistics = (None, {}) if config.all else _review(config, store, run_id)
    groups, splits, unread = _sides(config, store, run_id)
    curated = curate(
        store, run_id, verdicts, min_probability=config.min_probability, groups=groups,
        splits=splits,
    )  # fmt: skip
    table = curated.table
    if config.fits:
        table = table.filter(pc.is_in(table["fit_id"], pa.array(config.fits)))
        missing = sorted(set(config.fits) - set(table["fit_id"].to_pylist()))
        if missing:
            raise StoreError(f"not among the accepted fits: {', '.join(missing)}")
    name = config.name or run_id or "export"
    target = config.to or config.data / "exports" / name
    summary: dict[str, Any] = {
        "fits": len(table), "splits": curated.card["splits"], "formats": list(config.formats),
        "photos_unread": unread, "out": str(target),
    }  # fmt: skip
    if config.dry_run:
        sys.stdout.write(json.dumps({"dry_run": True, **summary}) + "\n")
        return 0
    # Beside the old export, which is replaced when all is written: a val.parquet of last time next
    # to a train.parquet of today would share photos with it.
    made = target.with_name(target.name + ".tmp")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    body = _body(config, table) if _NEED_BODY & set(config.formats) else None
    for kind in config.formats:
        if kind == "parquet":
            write_parquet(table, made)
            write_card(made / "README.md", name, curated.card, **statistics)
            continue
        for split in sorted(set(table["split"].to_pylist())):
            rows = table.filter(pc.field("split") == split)
            good = _good(rows)
            _write(kind, fits_from_table(rows, good), made, split, body, config)
        _log.info("%s: written", kind)
    _replace(target, made, summary)
    from curation.tables import text_table

    lines = [(split, str(n)) for split, n in curated.card["splits"].items()]
    lines += [(f"{part} good", str(n)) for part, n in curated.card["parts"].items()]
    sys.stdout.write(text_table(("", "fits"), lines) + "\n")
    summary["seconds"] = round(time.monotonic() - begin, 2)
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


_MANIFEST = "export.json"


def _replace(target: Path, made: Path, summary: dict[str, Any]) -> None:
    """Put a new export in the place of the last one; files that were not exported stay."""
    files = sorted(p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file())
    (made / _MANIFEST).write_text(json.dumps({**summary, "files": files}, indent=1) + "\n")
    target.mkdir(parents=True, exist_ok=True)
    try:
        before = json.loads((target / _MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        before = []
    for name in before:
        path = (target / name).resolve()
        if path.is_relative_to(target.resolve()):
            path.unlink(missing_ok=True)
    for name in [*files, _MANIFEST]:  # the manifest last: it says that all is there
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).replace(target / name)
    shutil.rmtree(made)


def _review(config: ExportConfig, store: Any, run_id: str | None) -> tuple[Any, dict[str, Any]]:
    """Return the verdicts and the statistics of the card."""
    from curation.agreement import agreement_report
    from curation.decisions import default_url
    from curation.estimate import estimate_precision
    from curation.summary import gold_answers, gold_classes, reason_counts
    from curation.verdicts import find_verdicts, open_decisions

    source = config.decisions or default_url(store.root)
    decisions = open_decisions(source)
    gold = gold_answers(source)
    verdicts = find_verdicts(decisions, gold)
    truth = gold_classes(verdicts.fit_id, gold)
    codes, names = verdicts.stratum
    statistics: dict[str, Any] = {"rejected_for": reason_counts(decisions)}
    if verdicts.votes.any():
        statistics["agreement"] = agreement_report(verdicts.human).rows()
        statistics["precision"] = estimate_precision(
            verdicts.human, verdicts.is_accepted, truth=truth, stratum=codes, stratum_names=names
        )
    return verdicts, statistics


def _sides(config: ExportConfig, store: Any, run_id: str | None) -> tuple[dict, dict, int]:
    """Return group and side by image_id, and how many photos could not be read."""
    from curation.duplicates import near_duplicate_groups
    from curation.photo_hashes import hash_photos
    from curation.splits import assign_splits

    table = store.read_table(["image_id", "image_path", "image_sha256"], run_id)
    photos = {
        image: (path, sha or image)
        for image, path, sha in zip(
            *(table[n].to_pylist() for n in table.column_names), strict=True
        )
    }
    images, unread = sorted(photos), 0
    hashes: list[Any] = [None] * len(images)
    if config.duplicates:
        cache = None if config.dry_run else store.root / "meta" / "photo_hashes.parquet"
        wanted = [(config.data / photos[i][0], photos[i][1]) for i in images]
        hashes = hash_photos(wanted, cache)
        unread = hashes.count(None)
        if unread:
            _log.warning("%d of %d photos could not be read: looked for copies without them",
                         unread, len(images))  # fmt: skip
    groups = near_duplicate_groups(hashes)
    # Copies of one file are one photo, readable or not.
    first: dict[str, int] = {}
    for k, image in enumerate(images):
        groups[k] = first.setdefault(photos[image][1], int(groups[k]))
    shares = {"train": 1 - config.val - config.test, "val": config.val, "test": config.test}
    sides = assign_splits(
        [photos[image][1] for image in images], groups, shares=shares, salt=config.salt
    )
    names = {image: images[int(group)] for image, group in zip(images, groups, strict=True)}
    return names, dict(zip(images, sides, strict=True)), unread


def _good(rows: Any) -> Any:
    import numpy as np

    from bodymodel.spec import PARTS

    return np.column_stack([rows[f"{part}_good"].to_numpy() for part in PARTS])


def _body(config: ExportConfig, table: Any) -> Any:
    from bodymodel.files import load_body
    from curation.schema import field_shape

    names = table["body_name"].to_pylist()
    gender = next((g for g in ("female", "male") if names[0].endswith(f"-{g}")), "neutral")
    sizes = [field_shape(table.schema.field(n))[0] if n in table.column_names else 0
             for n in ("betas", "expression")]  # fmt: skip
    return load_body(config.body, "smplx", gender, *sizes)


def _write(kind: str, fits: Any, target: Path, split: str, body: Any, config: ExportConfig) -> None:
    """Write one split in one format."""
    folder = target / kind
    folder.mkdir(parents=True, exist_ok=True)
    from curation.formats.posing import Poser

    poser = Poser(body) if body is not None else None
    if poser is not None:
        poser.check(fits)
    if kind == "expose":
        from curation.formats.expose import write_expose

        write_expose(fits, folder / f"{split}.npz")
    elif kind == "spin":
        from curation.formats.spin import write_spin

        write_spin(fits, folder / f"{split}.npz")
    elif kind == "humandata":
        from curation.formats.humandata import write_humandata

        assert poser is not None
        write_humandata(fits, folder / f"{split}.npz", poser.joints_and_points(fits)[1])
    elif kind == "smplifyx":
        from curation.formats.smplifyx import write_smplifyx

        lost = write_smplifyx(fits, folder / split, body, config.num_pca)
        if lost > 1e-3:
            _log.warning("%d hand coefficients move a finger by up to %.2f rad; --num-pca 45 "
                         "loses nothing", config.num_pca, lost)  # fmt: skip
    elif kind == "neuralannot":
        from curation.formats.coco import write_coco
        from curation.formats.neuralannot import write_neuralannot

        assert poser is not None
        write_neuralannot(fits, folder / f"{split}_SMPLX_NeuralAnnot.json", body)
        write_coco(fits, folder / f"{split}_coco.json", poser)
    elif kind == "amass":
        from curation.formats.amass import write_amass

        assert poser is not None
        write_amass(fits, folder / split, poser)
    elif kind == "coco":
        from curation.formats.coco import write_coco

        assert poser is not None
        write_coco(fits, folder / f"{split}.json", poser)
    else:
        from curation.formats.meshes import write_meshes

        write_meshes(fits, folder / split, body, kind)


if __name__ == "__main__":
    sys.exit(main())
