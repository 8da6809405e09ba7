"""Finding and reading body model files. Torch-free.

Licensed files (SMPL, SMPL-H, SMPL-X, MANO, FLAME) are the user's own; the open body is built in.
"""

import functools
import hashlib
import logging
import os
from pathlib import Path
from typing import Literal

import numpy as np

from bodymodel.arrays import body_from_arrays
from bodymodel.body import BodyData
from bodymodel.pickles import load_model_pickle
from bodymodel.spec import FAMILIES, Family, Gender

_LOG = logging.getLogger(__name__)

MODELS_VARIABLE = "PSEUDOGT_MODELS"
"""Environment variable: the directory of the user's own model files."""

_SITES: dict[Family, str] = {
    "smplx": "https://smpl-x.is.tue.mpg.de",
    "smplh": "https://mano.is.tue.mpg.de",
    "smpl": "https://smpl.is.tue.mpg.de",
    "mano": "https://mano.is.tue.mpg.de",
    "flame": "https://flame.is.tue.mpg.de",
}


def load_body(
    source: str | Path = "open",
    family: Family = "smplx",
    gender: Gender = "neutral",
    num_betas: int = 10,
    num_expression: int = 10,
    hand: Literal["left", "right"] = "right",
) -> BodyData:
    """Load a body model.

    Args:
        source: ``"open"`` for the built-in open body; ``"licensed"`` for the directory that the
            environment variable PSEUDOGT_MODELS names; a directory in the published layout (see
            ``candidate_files``); or one file. A relative path that does not exist here is looked
            for below PSEUDOGT_MODELS.
        family: Which family.
        gender: Which gender.
        num_betas: Shape components to keep.
        num_expression: Expression components to keep; families without a face have none.
        hand: Which of MANO's two files.

    Returns:
        The body.

    Raises:
        FileNotFoundError: If there is no such file; says what was searched, where one gets it and
            how to go on without it.
        ValueError: If the file is not a sound model of that family, or would run code.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown body model family {family!r}; known: {', '.join(FAMILIES)}")
    if gender not in ("neutral", "female", "male"):
        raise ValueError(f"gender must be neutral, female or male, got {gender!r}")
    if str(source) == "open":
        arrays, sha256, name = _open_arrays(family, gender), "", f"the open {family} body"
    else:
        path = find_model_file(source, family, gender, hand)
        arrays, sha256, name = _read(path), _file_sha256(path), str(path)
    body = body_from_arrays(
        arrays, family, gender, num_betas, num_expression, sha256=sha256, source=name
    )
    if body.is_open:
        _tell_that_it_is_open()
    return body


def candidate_files(
    family: Family, gender: Gender, hand: Literal["left", "right"] = "right"
) -> tuple[str, ...]:
    """Return the published file names of a model, in the order in which they are looked for."""
    upper, letter = gender.upper(), {"neutral": "neutral", "female": "f", "male": "m"}[gender]
    plain = (f"{family.upper()}_{upper}.npz", f"{family.upper()}_{upper}.pkl")
    if family == "smplh":
        return (*plain, f"{gender}/model.npz")
    if family == "smpl":
        return (
            *plain,
            f"basicmodel_{letter}_lbs_10_207_0_v1.1.0.pkl",
            f"basicModel_{letter}_lbs_10_207_0_v1.0.0.pkl",
        )
    if family == "mano":
        return (f"MANO_{hand.upper()}.npz", f"MANO_{hand.upper()}.pkl")
    if family == "flame":
        other = {"neutral": "generic_model", "female": "female_model", "male": "male_model"}
        return (
            *plain,
            f"{other[gender]}.pkl",
            *(("flame2023.pkl",) if gender == "neutral" else ()),
        )
    return (*plain, f"SMPLX_{upper}_2020.npz")


def find_model_file(
    source: str | Path,
    family: Family,
    gender: Gender,
    hand: Literal["left", "right"] = "right",
) -> Path:
    """Return the model file that ``source`` leads to; see ``load_body``.

    A directory DIR is searched as DIR/<family>, DIR, DIR/<family>/models, DIR/models/<family>,
    DIR/models.

    Args:
        source: A file, a directory or ``"licensed"``.
        family: Which family.
        gender: Which gender.
        hand: Which of MANO's two files.

    Returns:
        An existing file.

    Raises:
        FileNotFoundError: If there is none.
    """
    own = os.environ.get(MODELS_VARIABLE, "")
    if str(source) == "licensed":
        if not own:
            raise FileNotFoundError(
                f"source 'licensed' needs the environment variable {MODELS_VARIABLE} to name the "
                f"directory of your model files. {_how_to_go_on(family)}"
            )
        roots = [Path(own)]
    else:
        roots = [Path(source).expanduser()]
        if own and not roots[0].is_absolute():
            roots.append(Path(own) / source)
    searched: list[Path] = []
    for root in roots:
        if root.is_file():
            return root
        searched += [root] if not root.is_dir() else _folders(root, family)
    found = _first_there(searched, candidate_files(family, gender, hand))
    if found is not None:
        return found
    names = ", ".join(candidate_files(family, gender, hand))
    others = [
        (other, _first_there(searched, candidate_files(family, other, hand)))
        for other in ("neutral", "female", "male")
        if other != gender and family != "mano"
    ]
    there = "; ".join(f"there is a {other} one, {path}" for other, path in others if path)
    raise FileNotFoundError(
        f"no {gender} {family} model found{' (' + there + ')' if there else ''}; searched "
        f"{', '.join(map(str, searched))} for {names}; "
        f"{searched[0] / candidate_files(family, gender, hand)[0]} would be the usual place. "
        f"{_how_to_go_on(family)}"
    )


def _folders(root: Path, family: Family) -> list[Path]:
    return [
        root / family,
        root,
        root / family / "models",
        root / "models" / family,
        root / "models",
    ]


def _first_there(folders: list[Path], names: tuple[str, ...]) -> Path | None:
    paths = (folder / name for folder in folders for name in names)
    return next((path for path in paths if path.is_file()), None)


def _how_to_go_on(family: Family) -> str:
    return (
        f"{family} models are licensed: register at {_SITES[family]}, download, and give the "
        f"directory here or in {MODELS_VARIABLE}. To go on without, use the built-in open body "
        "(source 'open')."
    )


def _read(path: Path) -> dict[str, object]:
    if path.suffix == ".pkl":
        return load_model_pickle(path)
    if path.suffix != ".npz":
        raise ValueError(f"a model file must be .npz or .pkl, got {path}")
    arrays: dict[str, object] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                try:
                    arrays[key] = file[key]
                except ValueError as error:
                    # The published files carry dicts (part2num, ...) as pickled object arrays.
                    # No array that counts is one, so they are left unread.
                    _LOG.debug("%s: %s is left out (%s)", path, key, error)
    except Exception as error:  # a damaged archive can raise nearly anything
        raise ValueError(
            f"{path} cannot be read as .npz ({type(error).__name__}: {error}); "
            "is the download complete?"
        ) from error
    return arrays


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_arrays(family: Family, gender: Gender) -> dict[str, object]:
    from bodymodel.openbody import load_open_arrays

    return load_open_arrays(family, gender)


@functools.cache
def _tell_that_it_is_open() -> None:
    _LOG.info(
        "using the open body: SMPL-X's format and joints, but not SMPL-X. Its betas, expression "
        "and hand components mean nothing to SMPL-X, nor SMPL-X's to it."
    )
