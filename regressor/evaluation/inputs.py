"""What a protocol is given: predictions, the user's licensed regressors, parts of the mesh."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bodymodel.body import BodyData
from bodymodel.spec import SMPLX_VERTEX_IDS, VERTEX_KEYPOINTS
from regressor.protocols import VertexPart

if TYPE_CHECKING:
    from bodymodel.model import BodyModel

__all__ = [
    "EvaluationError",
    "Files",
    "Person",
    "Predictions",
    "Report",
    "hand_points",
    "mesh_parts",
    "read_predictions",
]


class EvaluationError(ValueError):
    """What was asked for cannot be measured; says what is missing and how to go on."""


@dataclass(frozen=True, eq=False)
class Person:
    """Somebody to predict: what a checkpoint is shown.

    Attributes:
        key: By which the prediction is found again.
        photo: The file.
        bbox_xyxy_px: (4,).
        focal_px: Of the photo; 0 if unknown.
        center_px: (2,); only with the focal length.
    """

    key: str
    photo: Path
    bbox_xyxy_px: np.ndarray
    focal_px: float = 0.0
    center_px: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Predictions:
    """Arrays of N rows and what each row is of.

    Attributes:
        keys: N, such as ``01`` (EHF).
        arrays: By name, N rows each: ``vertices`` (N, V, 3), ``joints`` (N, K, 3) ..., metres,
            camera axes (x right, y down, z forward).
        source: What to call them in errors.
    """

    keys: tuple[str, ...]
    arrays: dict[str, np.ndarray] = field(repr=False)
    source: str = "the predictions"

    def rows(self, wanted: Sequence[str]) -> tuple[list[int], list[int]]:
        """Return where keys are wanted and where they are predicted, those that are both.

        Raises:
            EvaluationError: If there is none.
        """
        where = {key: k for k, key in enumerate(self.keys)}
        pairs = [(k, where[key]) for k, key in enumerate(wanted) if key in where]
        if not pairs:
            raise EvaluationError(
                f"{self.source}: none of its keys ({', '.join(self.keys[:3])} ...) is one of the "
                f"protocol's ({', '.join(list(wanted)[:3])} ...)"
            )
        return [k for k, _ in pairs], [k for _, k in pairs]

    def need(self, *names: str) -> np.ndarray:
        """Return the first array that is there.

        Raises:
            EvaluationError: If none is.
        """
        for name in names:
            if name in self.arrays:
                return self.arrays[name]
        raise EvaluationError(
            f"{self.source} must hold {' or '.join(names)}, it holds {', '.join(self.arrays)}"
        )


def read_predictions(path: Path) -> Predictions:
    """Read an npz with ``key`` (N,) and arrays of N rows.

    Raises:
        EvaluationError: If it is none.
    """
    from curation.formats.fits import FormatError, load_npz, text_list

    try:
        arrays = load_npz(path)
    except FormatError as error:
        raise EvaluationError(str(error)) from None
    if "key" not in arrays:
        raise EvaluationError(
            f"{path} must hold 'key', the names of what was predicted, and arrays of as many rows; "
            f"it holds {', '.join(arrays)}. See docs/regressor.md, Labels and protocols"
        )
    keys = tuple(text_list(arrays.pop("key")))
    faces = arrays.pop("faces", None)
    odd = [name for name, a in arrays.items() if a.shape[:1] != (len(keys),)]
    if odd:
        raise EvaluationError(
            f"{path}: {odd[0]} has {len(arrays[odd[0]])} rows, but there are {len(keys)} keys"
        )
    if faces is not None:
        arrays["faces"] = np.broadcast_to(faces, (len(keys), *faces.shape))
    return Predictions(keys, arrays, str(path))


@dataclass(frozen=True, eq=False)
class Files:
    """The user's own licensed files, by their published names.

    Attributes:
        folder: Where they are; None if nowhere.
        body: SMPL-X, for roots and parts; the open body if the user has none.
        models: Folder of the user's SMPL models, for truth that is stored as parameters.
    """

    folder: Path | None
    body: BodyData
    models: Path | None = None
    _loaded: dict[str, "BodyModel"] = field(default_factory=dict, repr=False)

    def smpl(self, gender: str) -> "BodyModel":
        """Return the user's SMPL of a gender.

        Raises:
            EvaluationError: If nobody said where it is.
            FileNotFoundError: If it is not there.
        """
        from bodymodel.files import load_body
        from bodymodel.model import BodyModel

        if self.models is None:
            raise EvaluationError(
                "the truth is parameters of SMPL, which is licensed and your own to get; name its "
                "folder with --models"
            )
        if gender not in self._loaded:
            self._loaded[gender] = BodyModel(load_body(self.models, "smpl", gender))
        return self._loaded[gender]

    def regressor(self, name: str, shape: tuple[int, int], why: str) -> np.ndarray:
        """Return a joint regressor, ``.npy``, ``.npz`` or ``.pkl``, read as data only.

        Args:
            name: Such as ``SMPLX_to_J14.pkl``; other endings are looked for too.
            shape: Expected.
            why: What it is needed for, in a few words.

        Raises:
            EvaluationError: If it is not there, or another thing.
        """
        path = self._find(name)
        if path is None:
            raise EvaluationError(
                f"{why} needs {name}, which is licensed and your own to get; put it into a folder "
                "and name that with --files"
            )
        array = _matrix(path)
        if array.shape != shape:
            raise EvaluationError(f"{path} must be {shape}, it is {array.shape}")
        return array

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return self._find(name) is not None

    def find(self, name: str) -> Path | None:
        """Return where a file is, or None."""
        return self._find(name)

    def _find(self, name: str) -> Path | None:
        if self.folder is None:
            return None
        stem = Path(name).stem
        for other in (name, f"{stem}.npy", f"{stem}.npz", f"{stem}.pkl"):
            if (self.folder / other).is_file():
                return self.folder / other
        return None


def _matrix(path: Path) -> np.ndarray:
    """Read the one array of a file; nothing in it is run."""
    from bodymodel.pickles import load_plain_pickle

    try:
        if path.suffix == ".pkl":
            with path.open("rb") as file:
                content = load_plain_pickle(file, str(path))
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                content = file[file.files[0]]
        else:
            content = np.load(path, allow_pickle=False)
        return np.asarray(content, np.float64)
    except Exception as error:  # a damaged file can raise nearly anything
        raise EvaluationError(f"{path} cannot be read as a matrix: {error}") from None


def mesh_parts(files: Files, num_vertices: int) -> tuple[list[VertexPart], str]:
    """Return all, body, hands, face of SMPL-X's mesh, and a note on where they come from.

    The published lists (``MANO_SMPLX_vertex_ids.pkl``, ``SMPL-X__FLAME_vertex_ids.npy``) if they
    are there; else by skinning, which is near but not comparable. Another topology than the
    body's has no parts.
    """
    whole = [VertexPart("all", None, 0)]
    hands = files.find("MANO_SMPLX_vertex_ids.pkl")
    face = files.find("SMPL-X__FLAME_vertex_ids.npy")
    if hands is not None and face is not None:
        from bodymodel.pickles import load_model_pickle

        content = load_model_pickle(hands)
        lists = {
            name: np.asarray(content[name]).reshape(-1) for name in ("left_hand", "right_hand")
        }
        lists["face"] = np.load(face, allow_pickle=False).reshape(-1)
        note = ""
    elif len(files.body.v_template) == num_vertices:
        lists = _skinned(files.body)
        note = (
            "parts by skinning: near to, but not the published ones; give "
            "MANO_SMPLX_vertex_ids.pkl and SMPL-X__FLAME_vertex_ids.npy with --files"
        )
    else:
        return whole, (
            f"no parts: the body at hand ({files.body.name}) has {len(files.body.v_template)} "
            f"vertices, the meshes {num_vertices}; name your SMPL-X with --body"
        )
    part = np.concatenate(list(lists.values()))
    if part.size and (part.min() < 0 or part.max() >= num_vertices):
        raise EvaluationError(
            f"the lists of vertices go up to {part.max()}, the meshes have {num_vertices}; they "
            "are of another body"
        )
    lists["body"] = np.setdiff1d(np.arange(num_vertices), part)
    roots = {"body": 0, "left_hand": 20, "right_hand": 21, "face": 12}
    return [*whole, *(VertexPart(n, lists[n], root) for n, root in roots.items())], note


def _skinned(body: BodyData) -> dict[str, np.ndarray]:
    from bodymodel.parts import body_parts, region_of

    regions = np.array([region_of(name) for name in body.joints])
    of_vertex = regions[body_parts(body).vertex_part]
    names = {"left_hand": "left_hand", "right_hand": "right_hand", "face": "head"}
    return {ours: np.flatnonzero(of_vertex == theirs) for ours, theirs in names.items()}


def hand_points(body: BodyData, vertices: np.ndarray, side: str) -> np.ndarray:
    """Return (..., 21, 3) of a hand: 16 regressed joints, then the five tips' vertices."""
    wrist, first = (20, 25) if side == "left" else (21, 40)
    rows = body.joint_regressor[[wrist, *range(first, first + 15)]].astype(np.float64)
    ids = body.vertex_ids or SMPLX_VERTEX_IDS
    fingers = ("thumb", "index", "middle", "ring", "pinky")
    tips = [ids[VERTEX_KEYPOINTS.index(f"{side}_{finger}")] for finger in fingers]
    return np.concatenate([rows @ vertices, vertices[..., tips, :]], -2)


@dataclass(frozen=True, eq=False)
class Report:
    """What a protocol found.

    Attributes:
        title: Over the table.
        head: Names of the columns; the first names the rows.
        rows: Cells.
        figures: Every figure by name, for machines.
        count: Items measured.
        missing: Items of the protocol that were not predicted.
        notes: What one must know to compare.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    figures: dict[str, float]
    count: int
    missing: int
    notes: tuple[str, ...] = ()


def cell(figures: dict[str, float], name: str, decimals: int = 1) -> str:
    """Return a figure for a table, a dash if there is none."""
    value = figures.get(name, float("nan"))
    return f"{value:.{decimals}f}" if np.isfinite(value) else "-"


def means(errors: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the mean of each figure over the items that have one."""
    out = {}
    for name, values in errors.items():
        values = np.asarray(values, float)
        known = values[np.isfinite(values)]
        if known.size:
            out[name] = float(known.mean())
    return out
