"""Where the fits of a run start, as ``--init`` names it. Torch-free."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from curation.samples import PersonObservation
from curation.schema import FIT_STATUSES, PARAMETERS, image_key
from curation.store import FitStore

__all__ = ["INITS", "StartOf", "fits_source", "starts_of_fits"]

INITS = "keypoints, mean, or fits:STORE"

StartOf = Callable[[PersonObservation], Mapping[str, np.ndarray] | None]
"""The start of a person: FitTarget.start."""


def fits_source(init: str) -> tuple[Path, str | None] | None:
    """Return the store and the run that ``fits:...`` names; None for any other ``--init``.

    The path is a store's, such as ``lsp/fits``, or of one of its runs, ``lsp/fits/data/run=X``.

    Raises:
        ValueError: If no store or run is there.
    """
    if not init.startswith("fits:"):
        return None
    path = Path(init.removeprefix("fits:"))
    run_id = None
    if path.name.startswith("run=") and path.parent.name == "data":
        path, run_id = path.parents[1], path.name.removeprefix("run=")
    store = FitStore(path)
    found = store.run_ids()
    if not found:
        raise ValueError(f"--init {init}: there are no fits in {path}; give a run's output folder")
    if run_id is None and len(found) > 1:
        runs = ", ".join(str(store.run_dir(r)) for r in found)
        raise ValueError(f"--init {init}: {path} has several runs; name one: fits: with {runs}")
    if run_id is not None and run_id not in found:
        raise ValueError(f"--init {init}: no run {run_id} in {path}; it has {', '.join(found)}")
    return path, run_id or found[0]


def starts_of_fits(path: Path, run_id: str, body_sha256: str) -> StartOf:
    """Return the starts that a run's fits are, for the same persons of the same photos.

    The parameters of all persons are held: about 1 kB each.

    Args:
        path: Of the store.
        run_id: The run.
        body_sha256: Of the body that is fitted now.

    Raises:
        ValueError: If the fits are of another body.
        StoreError: If the store cannot be read.
    """
    store = FitStore(path)
    bodies = {part.body_sha256: part.body_name for part in store.parts(run_id)}
    if set(bodies) - {body_sha256}:
        raise ValueError(
            f"the fits of run {run_id} in {path} are of the body {' and '.join(bodies.values())}, "
            "not of the one that is fitted now; parameters of one body mean nothing with another"
        )
    starts: dict[tuple[bytes, int], dict[str, np.ndarray]] = {}
    known = [name for name in PARAMETERS if _has_column(store, run_id, name)]
    for row in store.iter_rows([*known, "image_id", "person_index", "status"], run_id):
        if row["status"] in FIT_STATUSES:
            key = image_key(row["image_id"]), int(row["person_index"])
            starts[key] = {name: np.asarray(row[name], np.float32).copy() for name in known}
    return lambda o: starts.get((image_key(o.image_id), o.person_index))


def _has_column(store: FitStore, run_id: str, name: str) -> bool:
    import pyarrow.parquet as pq

    parts = store.parts(run_id)
    return bool(parts) and name in pq.read_schema(parts[0].path).names
