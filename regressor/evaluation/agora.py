"""AGORA from exported truth: the official data frames are pickles of pandas, which run code.

``docs/regressor.md`` has the lines that turn them into an npz where pandas is trusted: ``image``,
``joints_2d`` (P, 24+, 2) at 3840 x 2160, ``joints_3d`` (P, 127, 3), ``vertices`` (P, 10475, 3),
``occlusion``, ``is_valid``. Predictions are an npz of the same (without the last two), or a folder
of the challenge's ``<image>_personId_<k>.pkl``.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np

from regressor.agora_protocol import AgoraParts, Person, agora_figures, match_people, person_mm
from regressor.evaluation.inputs import EvaluationError, Files, Report, cell, mesh_parts

__all__ = ["evaluate_agora", "read_people"]

_WORDS = ("image", "joints_2d", "joints_3d", "vertices")


def read_people(path: Path, is_truth: bool = False) -> dict[str, list[Person]]:
    """Return people by picture, of an npz or a folder of submission pickles.

    Raises:
        EvaluationError: If it is neither.
    """
    if path.is_dir():
        return _submission(path)
    from curation.formats.fits import FormatError, load_npz, text_list

    try:
        arrays = load_npz(path)
    except FormatError as error:
        raise EvaluationError(str(error)) from None
    needed = (*_WORDS, "occlusion", "is_valid") if is_truth else _WORDS
    lacking = [name for name in needed if name not in arrays]
    if lacking:
        raise EvaluationError(
            f"{path} lacks {', '.join(lacking)}; docs/regressor.md says how it is made"
        )
    people: dict[str, list[Person]] = defaultdict(list)
    for row, image in enumerate(text_list(arrays["image"])):
        valid = True
        if is_truth:
            hidden = float(arrays["occlusion"][row])
            valid = bool(arrays["is_valid"][row]) and 0 <= hidden <= 90
        points = (arrays[name][row] for name in _WORDS[1:])
        people[_stem(image)].append(Person(*points, is_valid=valid))
    return dict(people)


def _stem(name: str) -> str:
    return Path(name).name.rsplit(".", 1)[0]


def _submission(folder: Path) -> dict[str, list[Person]]:
    """Read ``<image>_personId_<k>.pkl`` as data only."""
    from bodymodel.pickles import load_model_pickle

    people: dict[str, list[Person]] = defaultdict(list)
    files = sorted(folder.rglob("*_personId_*.pkl"))
    for path in files:
        try:
            content = load_model_pickle(path)
            joints = np.asarray(content["joints"], float).reshape(-1, 2)
            space = np.asarray(content["allSmplJoints3d"], float).reshape(-1, 3)
            vertices = np.asarray(content["verts"], float).reshape(-1, 3)
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f"{path}: expected joints (24, 2), allSmplJoints3d (127, 3) and verts (10475, 3) "
                f"({type(error).__name__}: {error})"
            ) from None
        people[path.stem.rpartition("_personId_")[0]].append(Person(joints, space, vertices))
    if not files:
        raise EvaluationError(f"{folder} holds no <image>_personId_<k>.pkl")
    return dict(people)


def evaluate_agora(data: Path, predictions: Path, files: Files) -> Report:
    """Match, measure, round as AGORA's evaluator does.

    Args:
        data: The truth, an npz.
        predictions: An npz or a folder.
        files: With the lists of vertices.

    Raises:
        EvaluationError: If something is missing.
    """
    truth = read_people(data, is_truth=True)
    found = read_people(predictions)
    size = len(next(iter(truth.values()))[0].vertices)
    rows, note = mesh_parts(files, size)
    parts = {part.name: part.vertices for part in rows}
    if "face" not in parts:
        raise EvaluationError(note)
    own = files.find("body_verts_smplx.npy")
    if own is not None:
        parts["body"] = np.load(own, allow_pickle=False)
    lists = AgoraParts(**{n: parts[n] for n in ("body", "left_hand", "right_hand", "face")})
    persons, missed, false, empty = [], 0, 0, 0
    for image, people in truth.items():
        predicted = found.get(image, [])
        matching = match_people(predicted, people)
        missed += len(matching.missed)
        empty += 0 if predicted else len(matching.missed)
        false += matching.false_positives
        persons += [person_mm(predicted[i], people[j], lists) for i, j in matching.pairs]
    figures = agora_figures(persons, missed, false, empty)
    strange = len(set(found) - set(truth))
    notes = [note] if note else []
    if own is None:
        notes.append(
            "body: all vertices but hands and face; the evaluator has body_verts_smplx.npy"
        )
    if strange:
        notes.append(f"{strange} pictures of the predictions are not in the truth: left out")
    names = ("body", "left_hand", "right_hand", "face")
    rows_of = [
        (kind.upper(), cell(figures, f"{normal}_full"), cell(figures, f"{normal}_body"),
         cell(figures, f"{kind}_full"), *(cell(figures, f"{kind}_{n}") for n in names))
        for kind, normal in (("mpjpe", "nmje"), ("mve", "nmve"))
    ]  # fmt: skip
    return Report(
        title=f"AGORA, mm. F1 {cell(figures, 'f1', 2)}, precision "
        f"{cell(figures, 'precision', 2)}, recall {cell(figures, 'recall', 2)}",
        head=("", "over F1: full", "body", "full", "body", "left hand", "right hand", "face"),
        rows=tuple(rows_of),
        figures=figures,
        count=len(persons),
        missing=missed,
        notes=(*notes, f"false positives: {false}"),
    )
