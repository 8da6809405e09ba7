"""Write the open body in the official layout: ``python -m bodymodel.openbody.export DIR``.

``DIR/smplx/SMPLX_NEUTRAL.npz``, ``DIR/smplh/SMPLH_NEUTRAL.npz``, ``DIR/smpl/SMPL_NEUTRAL.pkl``
and so on: what the ``smplx`` package and other tools read. Pickles hold a plain dict of numpy
arrays; our own loader does not need them.
"""

import argparse
import pickle
import sys
from pathlib import Path

import numpy as np

from bodymodel.openbody.files import GENDERS, OPEN_FAMILIES, load_open_arrays

_FULL_WIDTH, _FIRST_EXPRESSION = 400, 300


def export_open_body(out: Path, folder: Path | None = None) -> list[Path]:
    """Write every family and gender in the official layout.

    Args:
        out: Folder for ``smplx/``, ``smplh/`` and ``smpl/``.
        folder: Where the built files are; None for those shipped with the package.

    Returns:
        The files written.
    """
    paths = []
    for family in OPEN_FAMILIES:
        (out / family).mkdir(parents=True, exist_ok=True)
        for gender in GENDERS:
            arrays = load_open_arrays(family, gender, folder)
            stem = out / family / f"{family.upper()}_{gender.upper()}"
            if family == "smpl":
                path = stem.with_suffix(".pkl")
                with path.open("wb") as file:
                    pickle.dump(arrays, file, protocol=4)
            else:
                if family == "smplx":
                    arrays["shapedirs"] = _widen(arrays["shapedirs"])
                path = stem.with_suffix(".npz")
                np.savez_compressed(path, **arrays)
            paths.append(path)
    return paths


def _widen(shapedirs: np.ndarray) -> np.ndarray:
    """Return the 400-wide layout of SMPL-X 1.1: expression begins at 300, zeros between."""
    wide = np.zeros((*shapedirs.shape[:2], _FULL_WIDTH), np.float32)
    wide[..., :10] = shapedirs[..., :10]
    wide[..., _FIRST_EXPRESSION : _FIRST_EXPRESSION + 10] = shapedirs[..., 10:20]
    return wide


def main(argv: list[str] | None = None) -> int:
    """Write the files, print their paths."""
    parser = argparse.ArgumentParser(
        prog="python -m bodymodel.openbody.export", description=__doc__
    )
    parser.add_argument("out", type=Path, metavar="DIR", help="folder to write to")
    args = parser.parse_args(argv)
    for path in export_open_body(args.out):
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
