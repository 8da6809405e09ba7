"""Reading what people have: AMASS, SPIN, EFT, 3DPW, plain npz and Parquet, meshes. Torch-free.

A source is a list of clips: motions or sets of fits of one body. Nothing in a file is executed.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bodymodel.pickles import load_model_pickle
from bodymodel.spec import FAMILIES, Family, Gender

__all__ = ["POSE_COLUMNS", "Clip", "ClipError", "Frames", "check_source", "read_clips"]

_MESHES = (".obj", ".ply")
_PARAMETERS = (".npz", ".npy", ".pkl", ".json", ".parquet")
# In the order of each family's joints: the column and how many joints it holds.
POSE_COLUMNS: dict[Family, tuple[tuple[str, int], ...]] = {
    "smplx": (
        ("global_orient", 1), ("body_pose", 21), ("jaw_pose", 1), ("leye_pose", 1),
        ("reye_pose", 1), ("left_hand_pose", 15), ("right_hand_pose", 15),
    ),
    "smplh": (
        ("global_orient", 1), ("body_pose", 21), ("left_hand_pose", 15), ("right_hand_pose", 15),
    ),
    "smpl": (("global_orient", 1), ("body_pose", 23)),
}  # fmt: skip
_BY_WIDTH: dict[int, Family] = {72: "smpl", 156: "smplh", 165: "smplx"}


class ClipError(ValueError):
    """A file that holds no clip that can be converted. The message says why."""


@dataclass(frozen=True, eq=False)
class Frames:
    """Some frames of a clip: parameters, or meshes.

    Attributes:
        full_pose: (F, J, 3) float32 axis-angle; None for meshes.
        betas: (F, B) float32.
        transl: (F, 3) float64 metres.
        expression: (F, E) float32, None where there is none.
        vertices: F meshes, each an array or a sentence that says why it cannot be read.
    """

    full_pose: np.ndarray | None = None
    betas: np.ndarray | None = None
    transl: np.ndarray | None = None
    expression: np.ndarray | None = None
    vertices: list[np.ndarray | str] | None = None


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of one body.

    Attributes:
        name: Unique in the source; a relative path without its ending.
        family: Of the body; empty for meshes, whose topology says it.
        gender: Of the body.
        labels: What to call each frame: an image's path, a mesh's name; empty for numbered frames.
        body_sha256: Of the body's file, where the clip says it.
        fps: Frames per second, NaN where unknown.
        is_motion: Whether the frames are one person's, one after the other.
        origin: The file, and which of its clips; None for meshes.
    """

    name: str
    family: Family | None
    gender: Gender
    arrays: Mapping[str, np.ndarray]
    meshes: tuple[Path, ...] = ()
    labels: tuple[str, ...] = ()
    body_sha256: str = ""
    fps: float = float("nan")
    is_motion: bool = False
    origin: tuple[Path, int] | None = None

    def reread(self) -> "Clip":
        """Return the clip with its arrays, which :meth:`without_arrays` dropped."""
        if self.origin is None:
            return self
        path, which = self.origin
        found = next(islice(_read_file(path, self.name), which, None))
        return replace(found, name=self.name)

    def without_arrays(self) -> "Clip":
        """Return a clip that takes no memory, for :meth:`reread`."""
        return replace(self, arrays={}, labels=())

    def __len__(self) -> int:
        return len(self.meshes) or len(self.arrays["full_pose"])

    def frames(self, first: int, last: int) -> Frames:
        """Return the frames of a range."""
        if self.meshes:
            return Frames(vertices=[_read_mesh(path) for path in self.meshes[first:last]])
        return Frames(**{name: array[first:last] for name, array in self.arrays.items()})


def check_source(source: Path) -> list[Path]:
    """Return the files of a known kind that a source is.

    Args:
        source: A file or a folder.

    Raises:
        FileNotFoundError: If there is nothing to read.
    """
    kinds = (*_MESHES, *_PARAMETERS)
    if source.is_file():
        files = [source] if source.suffix in kinds else []
    elif source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix in kinds)
    else:
        raise FileNotFoundError(f"{source} does not exist")
    if not files:
        raise FileNotFoundError(f"{source} holds no file of a known kind ({', '.join(kinds)})")
    return files


def read_clips(source: Path) -> Iterator[Clip | ClipError]:
    """Yield the clips of a file or of all files below a folder, or why a file holds none.

    Meshes in one folder are one clip, in the order of their names.

    Args:
        source: A file or a folder.

    Raises:
        FileNotFoundError: If there is nothing to read.
    """
    files, root = check_source(source), source if source.is_dir() else source.parent
    folders: dict[Path, list[Path]] = {}
    for path in files:
        if path.suffix in _MESHES:
            folders.setdefault(path.parent, []).append(path)
    for folder, meshes in folders.items():
        name = folder.relative_to(root).as_posix() if len(files) > 1 else meshes[0].stem
        labels = tuple(path.name for path in meshes)
        name = source.stem if name == "." else name
        yield Clip(name, None, "neutral", {}, tuple(meshes), labels, is_motion=len(meshes) > 1)
    for path in files:
        if path.suffix in _MESHES or path.stem in ("shape", "stagei"):  # AMASS: no motion
            continue
        name = path.relative_to(root).with_suffix("").as_posix()
        try:
            for which, clip in enumerate(_read_file(path, name)):
                yield replace(clip, origin=(path, which))
        except ClipError as error:
            yield error
        except Exception as error:  # a damaged file can raise nearly anything
            yield ClipError(
                f"{path} cannot be read ({type(error).__name__}: {error}); is it complete?"
            )


def _read_file(path: Path, name: str) -> Iterator[Clip]:
    if path.suffix == ".npz":
        # numpy leaves a damaged file open that it opened itself
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            yield _from_arrays(_plain(file), name, path)
    elif path.suffix == ".npy":
        fits = np.load(path, allow_pickle=False)
        if fits.ndim != 2 or fits.shape[1] != 82:
            raise ClipError(f"{path}: SPIN's static fits are (N, 82), this is {fits.shape}")
        yield _clip(name, "smpl", fits[:, :72], fits[:, 72:])
    elif path.suffix == ".json":
        yield _from_eft(path, name)
    elif path.suffix == ".pkl":
        yield from _from_3dpw(path, name)
    else:
        yield from _from_parquet(path, name)


def _plain(file: Any) -> dict[str, np.ndarray]:
    """The arrays of an npz but those that are pickled objects, which nobody needs."""
    out = {}
    for key in file.files:
        try:
            out[key] = file[key]
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
    return out


def _from_arrays(arrays: dict[str, np.ndarray], name: str, path: Path) -> Clip:
    """AMASS, SPIN's and BEDLAM's npz, and npz with a column a part."""
    shape = next((arrays[k] for k in ("betas", "shape") if k in arrays), np.zeros(10))
    transl = next((arrays[k] for k in ("trans", "transl") if k in arrays), None)
    expression = arrays.get("expression")
    gender = _gender(arrays.get("gender", "neutral"))
    fps = next((float(arrays[k]) for k in ("mocap_framerate", "mocap_frame_rate") if k in arrays),
               float("nan"))  # fmt: skip
    labels = arrays.get("imgname")
    labels = () if labels is None or labels.dtype.kind not in "SU" else tuple(map(_text, labels))
    pose = next((arrays[k] for k in ("poses", "pose", "full_pose") if k in arrays), None)
    if pose is not None:
        pose = pose.reshape(len(pose), -1)
        family = _BY_WIDTH.get(pose.shape[1])
        if family is None:
            raise ClipError(
                f"{path}: poses must be (N, 72) SMPL, (N, 156) SMPL-H or (N, 165) SMPL-X, got "
                f"{pose.shape}"
            )
    elif "global_orient" in arrays and "body_pose" in arrays:
        family = _family_of_columns(arrays, path)
        pose = _join_columns(arrays, family, path)
    else:
        raise ClipError(
            f"{path} holds no poses: expected 'poses' (AMASS), 'pose' (SPIN) or 'global_orient' "
            f"and 'body_pose', got {', '.join(arrays) or 'nothing'}"
        )
    sha = _text(arrays.get("body_sha256", ""))
    motion = not np.isnan(fps)
    return _clip(name, family, pose, shape, transl, expression, gender, labels, sha, fps, motion)


def _family_of_columns(arrays: Mapping[str, np.ndarray], path: Path) -> Family:
    width = arrays["body_pose"].reshape(len(arrays["body_pose"]), -1).shape[1]
    if width == 69:
        return "smpl"
    if width == 63:
        return "smplx" if "jaw_pose" in arrays or "left_hand_pose" not in arrays else "smplh"
    raise ClipError(f"{path}: body_pose must be (N, 63) or (N, 69) axis-angle, got (N, {width})")


def _join_columns(arrays: Mapping[str, np.ndarray], family: Family, path: Path) -> np.ndarray:
    count = len(arrays["global_orient"])
    parts = []
    for column, joints in POSE_COLUMNS[family]:
        part = arrays.get(column)
        part = np.zeros((count, 3 * joints)) if part is None else part.reshape(len(part), -1)
        if part.shape != (count, 3 * joints):
            raise ClipError(
                f"{path}: {column} must be ({count}, {3 * joints}) axis-angle, got {part.shape}; "
                "hand poses are wanted whole, not as PCA"
            )
        parts.append(part)
    return np.concatenate(parts, 1)


def _clip(
    name: str,
    family: Family,
    pose: np.ndarray,
    betas: np.ndarray,
    transl: np.ndarray | None = None,
    expression: np.ndarray | None = None,
    gender: Gender = "neutral",
    labels: tuple[str, ...] = (),
    sha256: str = "",
    fps: float = float("nan"),
    is_motion: bool = False,
) -> Clip:
    count, joints = len(pose), len(FAMILIES[family].joints)
    if betas.ndim and betas.shape[-1] > 10:  # AMASS has 16, most of them zero in some sets
        used = np.flatnonzero(np.any(betas, axis=tuple(range(betas.ndim - 1))))
        betas = betas[..., : max(10, 1 + used.max(initial=0))]
    arrays = {
        "full_pose": pose.reshape(count, joints, 3).astype(np.float32),
        "betas": _per_frame(betas, count, "betas").astype(np.float32),
        "transl": np.zeros((count, 3)) if transl is None else _per_frame(transl, count, "transl"),
    }
    if expression is not None and expression.size:
        arrays["expression"] = _per_frame(expression, count, "expression").astype(np.float32)
    if labels and len(labels) != count:
        raise ClipError(f"{name}: {count} poses and {len(labels)} names")
    return Clip(name, family, gender, arrays, (), labels, sha256, fps, is_motion)


def _per_frame(array: np.ndarray, count: int, what: str) -> np.ndarray:
    array = np.asarray(array, np.float64) if what == "transl" else np.asarray(array)
    if array.dtype.kind not in "fiu":
        raise ClipError(f"{what} must be numbers, got {array.dtype}")
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or len(array) not in (1, count):
        raise ClipError(f"{what} must have one row or {count}, got {array.shape}")
    return np.broadcast_to(array, (count, array.shape[1]))


def _from_eft(path: Path, name: str) -> Clip:
    from scipy.spatial.transform import Rotation

    content = json.loads(path.read_text(encoding="utf-8"))
    rows = content.get("data", []) if isinstance(content, dict) else content
    if not rows or "parm_pose" not in rows[0]:
        raise ClipError(f"{path} holds no EFT fits ('data' with 'parm_pose')")
    matrices = np.array([row["parm_pose"] for row in rows], np.float64).reshape(-1, 3, 3)
    # Their matrices have six digits; the nearest rotation is meant.
    pose = Rotation.from_matrix(matrices).as_rotvec().reshape(len(rows), 72)
    betas = np.array([row["parm_shape"] for row in rows], np.float64).reshape(len(rows), -1)
    labels = tuple(str(row.get("imageName", "")) for row in rows)
    return _clip(name, "smpl", pose, betas, labels=labels)


def _from_3dpw(path: Path, name: str) -> Iterator[Clip]:
    content = load_model_pickle(path)
    people = [content.get(key) for key in ("poses", "betas", "trans")]
    if not all(isinstance(x, list) and x for x in people):
        raise ClipError(f"{path} is not a 3DPW sequence: lists poses, betas and trans are wanted")
    genders = content.get("genders") or ["n"] * len(people[0])
    for k, (pose, betas, transl) in enumerate(zip(*people, strict=True)):
        frames = np.asarray(content.get("img_frame_ids", ()))
        labels = tuple(f"image_{int(i):05d}.jpg" for i in frames) if frames.ndim == 1 else ()
        labels = labels if len(labels) == len(pose) else ()
        yield _clip(
            f"{name}_{k}", "smpl", np.asarray(pose), np.asarray(betas)[..., :10],
            np.asarray(transl), gender=_gender(genders[k]), labels=labels, fps=30, is_motion=True,
        )  # fmt: skip


def _from_parquet(path: Path, name: str) -> Iterator[Clip]:
    """Rows of this project's store or of a conversion, or any table with the same columns."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted = {c for columns in POSE_COLUMNS.values() for c, _ in columns}
    wanted |= {"betas", "expression", "transl", "has_fit", "status", "image_id", "label"}
    wanted |= {"body_name", "body_sha256", "gender"}
    table = pq.ParquetFile(path).read([c for c in pq.read_schema(path).names if c in wanted])
    if "global_orient" not in table.column_names or "body_pose" not in table.column_names:
        raise ClipError(f"{path} has no columns global_orient and body_pose")
    if "has_fit" in table.column_names:
        table = table.filter(table["has_fit"])
    elif "status" in table.column_names:
        table = table.filter(pc.is_in(table["status"], pa.array(["ok", "not_converged"])))
    if not len(table):
        raise ClipError(f"{path} has no row with parameters")

    def text(column: str) -> list[str]:
        return table[column].to_pylist() if column in table.column_names else []

    hashes, names = set(text("body_sha256")), set(text("body_name"))
    if len(hashes) > 1:
        raise ClipError(f"{path} mixes bodies ({', '.join(sorted(names))}); split it first")
    arrays = {}
    for column in table.column_names:
        if pa.types.is_list(table[column].type) or pa.types.is_fixed_size_list(table[column].type):
            arrays[column] = np.array(table[column].to_pylist(), np.float64)
    family = _family_of_columns(arrays, path)
    gender = next((g for g in ("female", "male") if any(n.endswith(g) for n in names)), "neutral")
    yield _clip(
        name, family, _join_columns(arrays, family, path),
        arrays.get("betas", np.zeros(10)), arrays.get("transl"), arrays.get("expression"), gender,
        tuple(text("label") or text("image_id")), next(iter(hashes), ""),
    )  # fmt: skip


def _gender(value: Any) -> Gender:
    letter = _text(value).strip().lower()[:1]
    return {"f": "female", "m": "male"}.get(letter, "neutral")


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _read_mesh(path: Path) -> np.ndarray | str:
    """Return the vertices in the file's order, or why not."""
    import trimesh

    try:
        # process=False and maintain_order: trimesh would merge and reorder vertices.
        mesh = trimesh.load(
            path, process=False, maintain_order=True, force="mesh", skip_materials=True
        )
        return np.asarray(mesh.vertices, np.float64)
    except Exception as error:  # a damaged mesh can raise nearly anything
        return f"{path.name} cannot be read as a mesh ({type(error).__name__}: {error})"
