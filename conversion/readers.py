"""Reading what people have: npz, pickles, Parquet, meshes. Torch-free but for torch's own files.

The names that files use are in :mod:`conversion.columns`, EFT's and 3DPW's files in
:mod:`conversion.datasets`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bodymodel.joblib_pickles import load_nested_pickle
from bodymodel.pickles import load_plain_pickle
from bodymodel.spec import Family, Gender
from conversion.clips import POSE_COLUMNS, Clip, ClipError, as_text, gender_of, make_clip
from conversion.columns import Columns, find_people, plain_columns, take_rows
from conversion.datasets import from_3dpw, from_eft, is_3dpw
from conversion.hands import Side
from conversion.rows import Rows, read_header, read_npz, table_rows

__all__ = ["check_source", "read_clips", "read_file", "read_mesh"]

_MESHES = (".obj", ".ply", ".glb", ".off")
_PARAMETERS = (".npz", ".npy", ".pkl", ".json", ".parquet", ".pt", ".pth")
# dicts of parameters within an npz: HumanData's, ROMP's, GRAB's
_OBJECTS = ("smpl", "smplx", "smplh", "results", "body")
_MOTION_X = 322
_BY_WIDTH: dict[int, Family] = {72: "smpl", 156: "smplh", 165: "smplx", 48: "mano", 15: "flame"}
_Arrays = Mapping[str, "np.ndarray | Rows"]


def check_source(source: Path, out: Path | None = None) -> list[Path]:
    """Return the files of a known kind that a source is.

    Args:
        source: A file or a folder.
        out: Where results go, which may be below the source: they are none of it.

    Raises:
        FileNotFoundError: If there is nothing to read.
    """
    kinds = (*_MESHES, *_PARAMETERS)
    if source.is_file():
        files = [source] if source.suffix in kinds else []
    elif source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix in kinds)
        if out is not None:
            root, out = source.resolve(), out.resolve()
            if out.is_relative_to(root):
                files = [p for p in files if not (root / p.relative_to(source)).is_relative_to(out)]
    else:
        raise FileNotFoundError(f"{source} does not exist")
    if not files:
        raise FileNotFoundError(f"{source} holds no file of a known kind ({', '.join(kinds)})")
    return files


def read_clips(source: Path, out: Path | None = None) -> Iterator[Clip | ClipError]:
    """Yield the clips of a file or of all files below a folder, or why a file holds none.

    Meshes in one folder are one clip, in the order of their names.

    Args:
        source: A file or a folder.
        out: As in :func:`check_source`.

    Raises:
        FileNotFoundError: If there is nothing to read.
    """
    files, root = check_source(source, out), source if source.is_dir() else source.parent
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
        if path.suffix in _MESHES or path.stem == "shape" or path.stem.endswith("stagei"):
            continue  # AMASS: no motion
        name = path.relative_to(root).with_suffix("").as_posix()
        try:
            for which, clip in enumerate(read_file(path, name)):
                yield replace(clip, origin=(path, which))
        except ClipError as error:
            yield error
        except Exception as error:  # a damaged file can raise nearly anything
            yield ClipError(
                f"{path} cannot be read ({type(error).__name__}: {error}); is it complete?"
            )


def read_file(path: Path, name: str) -> Iterator[Clip]:
    """Yield the clips of one file of parameters.

    Args:
        path: The file.
        name: Of its clips.

    Raises:
        ClipError: If it holds none; other errors if it is damaged.
    """
    if path.suffix == ".npz":
        arrays = read_npz(path, _OBJECTS)
        yield from _from_nested(arrays, name, path)
    elif path.suffix == ".npy":
        yield from _from_npy(path, name)
    elif path.suffix == ".json":
        yield from_eft(path, name)
    elif path.suffix == ".pkl":
        content = load_nested_pickle(path)
        if is_3dpw(content):
            yield from from_3dpw(content, path, name)
        else:
            yield from _from_nested(content, name, path)
    elif path.suffix in (".pt", ".pth"):
        from bodymodel.checkpoints import load_arrays

        yield from _from_nested(load_arrays(path), name, path)
    else:
        yield _from_parquet(path, name)


def _from_nested(content: Any, name: str, path: Path) -> Iterator[Clip]:
    """The people in dicts of arrays, however deep."""
    people = list(find_people(content, name))
    if not people:
        holds = ", ".join(content) if isinstance(content, Mapping) else type(content).__name__
        raise ClipError(
            f"{path} holds no poses: expected 'poses' (AMASS), 'pose' (SPIN) or 'global_orient' "
            "with 'body_pose', 'hand_pose' (MANO) or 'jaw_pose' (FLAME), or dicts of these a "
            f"person (3DPW, WHAM, 4D-Humans, EMDB); got {holds or 'nothing'}"
        )
    for label, columns in people:
        plain = plain_columns(columns)
        for gender, one in _by_gender(plain):
            clip = _from_arrays(one, f"{label}_{gender}" if gender else label, path)
            yield replace(clip, gender=gender) if gender else clip


def _by_gender(columns: Columns) -> Iterator[tuple[Gender | None, Columns]]:
    """A set for each gender, where a file has one a row; else what there is, without a gender."""
    given = columns.get("gender")
    if given is None or np.size(given) < 2 or isinstance(given, Rows):
        yield None, columns
        return
    each = np.array([gender_of(x) for x in np.ravel(np.asarray(given))])
    rest = {name: array for name, array in columns.items() if name != "gender"}
    if len(set(each)) == 1:
        yield None, rest | {"gender": each[0]}
        return
    for gender in ("neutral", "female", "male"):
        if (each == gender).any():
            yield gender, take_rows(rest, np.flatnonzero(each == gender))


def _from_npy(path: Path, name: str) -> Iterator[Clip]:
    """SPIN's static fits, Motion-X's motions, and dicts saved by numpy (TRAM)."""
    with path.open("rb") as file:
        shape, _, dtype = read_header(file)
        if dtype.hasobject:
            yield from _from_nested(load_plain_pickle(file, str(path)), name, path)
            return
    fits = np.load(path, allow_pickle=False)
    if fits.ndim == 2 and shape[1] == _MOTION_X:
        parts = np.split(fits, (66, 156, 159, 209, 309, 312), 1)
        body, hands, jaw, expression, _, transl, betas = parts
        eyes = np.zeros((len(fits), 6))
        clip = make_clip(name, "smplx", {
            "full_pose": np.concatenate([body, jaw, eyes, hands], 1), "transl": transl,
            "betas": betas, "expression": expression,
        })  # fmt: skip
        yield replace(clip, fps=30.0, is_motion=True)
        return
    if fits.ndim != 2 or fits.shape[1] != 82:
        raise ClipError(
            f"{path}: SPIN's static fits are (N, 82), Motion-X's motions (N, 322), this is "
            f"{fits.shape}"
            + ("; HumanML3D's features hold no parameters" if fits.shape[-1:] == (263,) else "")
            + ("; save meshes as .ply" if fits.shape[-1:] == (3,) else "")
        )
    yield make_clip(name, "smpl", {"full_pose": fits[:, :72], "betas": fits[:, 72:]})


def _first(arrays: _Arrays, *names: str) -> "np.ndarray | Rows | None":
    return next((arrays[name] for name in names if name in arrays), None)


def _from_arrays(arrays: _Arrays, name: str, path: Path) -> Clip:
    """A clip of arrays by the names of :func:`conversion.columns.plain_columns`."""
    fps = _first(arrays, "mocap_framerate", "mocap_frame_rate")
    fps = float("nan") if fps is None else float(fps)
    labels = arrays.get("imgname")
    labels = () if labels is None or labels.dtype.kind not in "SU" else tuple(map(as_text, labels))
    family, columns = _poses(arrays, path)
    for key, names in (
        ("betas", ("betas", "shape", "beta")),
        ("transl", ("trans", "transl", "translation")),
        ("expression", ("expression", "exp", "expr")),
    ):
        found = _first(arrays, *names)
        if found is not None:
            columns[key] = found
    columns |= {k: arrays[k] for k in ("focal_px", "center_px", "to_camera") if k in arrays}
    flat = arrays.get("flat_hand_mean")
    clip = make_clip(name, family, columns, labels)
    return replace(
        clip,
        gender=gender_of(arrays.get("gender", "neutral")),
        body_sha256=as_text(arrays.get("body_sha256", "")),
        fps=fps,
        is_motion=not np.isnan(fps) or "is_motion" in arrays,
        hand=_hand(arrays, path) if family == "mano" else None,
        is_flat_hand=None if flat is None else bool(flat),
        has_images=bool(labels),
    )


def _poses(arrays: _Arrays, path: Path) -> tuple[Family, dict[str, Any]]:
    """Return the family and the columns full_pose, left_hand, right_hand."""
    pose = _first(arrays, "poses", "pose", "full_pose")
    if pose is None:
        if "global_orient" not in arrays:
            raise ClipError(
                f"{path} has {', '.join(k for k in arrays if 'pose' in k)}, but no global_orient"
            )
        family = _family_of_columns(arrays, path)
        return family, _join_columns(arrays, family, path)
    given = pose.shape
    pose = Rows.of(pose[None] if isinstance(pose, np.ndarray) and pose.ndim == 1 else pose)
    width = pose.shape[1]
    if width == 6 and _first(arrays, "expression", "exp", "expr") is not None:  # root and jaw
        still = Rows.repeated(np.zeros(3), len(pose))
        parts = [pose.columns(0, 3), still, pose.columns(3, 6), still, still]
        return "flame", {"full_pose": Rows.beside(parts)}
    family = _BY_WIDTH.get(width)
    if family is None and 3 < width < 48 and _says_hand(arrays):
        family = "mano"
    if family is None:
        raise ClipError(
            f"{path}: poses must be (N, 72) SMPL, (N, 156) SMPL-H, (N, 165) SMPL-X, (N, 48) MANO "
            f"or (N, 15) FLAME, got {given}"
        )
    if family == "mano":
        still = Rows.repeated(np.zeros(45), len(pose))
        whole = Rows.beside([pose.columns(0, 3), still])
        side = _hand(arrays, path) or "right"
        return family, {"full_pose": whole, f"{side}_hand": pose.columns(3, width)}
    columns = {"full_pose": pose}
    if family == "smpl":  # with MANO's hands beside it
        columns |= {
            f"{side}_hand": arrays[f"{side}_hand_pose"]
            for side in ("left", "right")
            if f"{side}_hand_pose" in arrays
        }
    return family, columns


def _says_hand(arrays: _Arrays) -> bool:
    return _first(arrays, "side", "hand", "is_rhand", "is_right") is not None


def _hand(arrays: _Arrays, path: Path) -> Side | None:
    """Which hand: the file's word, else its name's."""
    right = _first(arrays, "is_rhand", "is_right")
    if right is not None:
        return "right" if bool(np.asarray(right).ravel()[0]) else "left"
    text = _first(arrays, "side", "hand")
    letter = "" if text is None else as_text(text).lower()[:1]
    if letter in ("l", "r"):
        return "left" if letter == "l" else "right"
    stem = path.stem.lower()
    told = [side for side in ("left", "right") if side in stem]
    return told[0] if len(told) == 1 else None


def _family_of_columns(arrays: _Arrays, path: Path) -> Family:
    if "body_pose" not in arrays:
        if "hand_pose" in arrays:
            return "mano"
        if "jaw_pose" in arrays:
            return "flame"
        raise ClipError(f"{path} has global_orient, but no body_pose, hand_pose or jaw_pose")
    width = Rows.of(arrays["body_pose"]).shape[1]
    if width == 69:
        return "smpl"
    if width == 63:
        return "smplx" if "jaw_pose" in arrays or "left_hand_pose" not in arrays else "smplh"
    raise ClipError(f"{path}: body_pose must be (N, 63) or (N, 69) axis-angle, got (N, {width})")


def _join_columns(arrays: _Arrays, family: Family, path: Path) -> dict[str, Any]:
    count = len(arrays["global_orient"])
    parts, columns = [], {}
    for column, joints in POSE_COLUMNS[family]:
        part = arrays.get(column)
        still = Rows.repeated(np.zeros(3 * joints), count)
        if part is None:
            parts.append(still)
            continue
        part = Rows.of(part)
        is_hand = column.endswith("hand_pose")
        fits = 1 <= part.shape[1] <= 45 if is_hand else part.shape[1] == 3 * joints
        if len(part) != count or not fits:
            wanted = "1 to 45" if is_hand else 3 * joints
            raise ClipError(f"{path}: {column} must be ({count}, {wanted}), got {part.shape}")
        if family == "mano" and is_hand:
            side = _hand(arrays, path) or "right"
            columns[f"{side}_hand"], part = part, still
        elif is_hand and part.shape[1] < 45:
            columns[column.removesuffix("_pose")], part = part, still
        parts.append(part)
    if family == "smpl":
        for side in ("left", "right"):
            if f"{side}_hand_pose" in arrays:
                columns[f"{side}_hand"] = arrays[f"{side}_hand_pose"]
    return columns | {"full_pose": Rows.beside(parts)}


def _from_parquet(path: Path, name: str) -> Clip:
    """Rows of this project's store or of a conversion, or any table with the same columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = {c for columns in POSE_COLUMNS.values() for c, _ in columns}
    parts |= {"betas", "expression", "transl"}
    texts = {"image_id", "image_path", "label", "body_name", "body_sha256"}
    schema = pq.read_schema(path)
    there = set(schema.names)
    if "global_orient" not in there:
        raise ClipError(f"{path} has no column global_orient")
    small = pq.ParquetFile(path).read(sorted(there & (texts | {"has_fit", "status"})))
    keep, count = None, len(small)
    if "has_fit" in there:
        keep = np.flatnonzero(small["has_fit"].to_numpy())
    elif "status" in there:
        keep = np.flatnonzero(
            np.isin(np.array(small["status"].to_pylist(), "U"), ("ok", "not_converged"))
        )
    if keep is not None:
        small, count = small.take(pa.array(keep)), len(keep)
    if not count:
        raise ClipError(f"{path} has no row with parameters")

    def text(column: str) -> list[str]:
        return small[column].to_pylist() if column in small.column_names else []

    hashes, names = set(text("body_sha256")), set(text("body_name"))
    if len(hashes) > 1:
        raise ClipError(f"{path} mixes bodies ({', '.join(sorted(names))}); split it first")
    lists = [
        f.name
        for f in schema
        if f.name in parts and (pa.types.is_list(f.type) or pa.types.is_fixed_size_list(f.type))
    ]
    arrays = table_rows(path, lists, keep, count)
    family = _family_of_columns(arrays, path)
    columns = _join_columns(arrays, family, path)
    columns |= {k: arrays[k] for k in ("betas", "transl", "expression") if k in arrays}
    gender = next((g for g in ("female", "male") if any(n.endswith(g) for n in names)), "neutral")
    labels = text("label") or text("image_path") or text("image_id")
    return replace(
        make_clip(name, family, columns, tuple(labels)),
        gender=gender,
        body_sha256=next(iter(hashes), ""),
        has_images=bool(text("image_path")),
    )


def read_mesh(path: Path) -> np.ndarray | str:
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
