"""Reading and writing the open body's shipped files.

The official layouts are wasteful (an SMPL-X file holds 61 MB of mostly zero pose correctives), so
the shipped files hold the same numbers compactly: arrays that the genders share once, sparse
arrays as indices and values, blend shapes as 16-bit integers with a scale per component
(steps of at most 0.01 mm). ``load_open_arrays`` expands them.
"""

from importlib import resources
from pathlib import Path

import numpy as np

from bodymodel.spec import FAMILIES, Family, Gender

OPEN_FAMILIES: tuple[Family, ...] = ("smplx", "smplh", "smpl")
GENDERS: tuple[Gender, ...] = ("neutral", "female", "male")

_STEPS = 32767


def data_dir() -> Path:
    """Return the folder of the shipped files."""
    return Path(str(resources.files("bodymodel.openbody") / "data"))


def open_file(family: Family, gender: Gender, folder: Path | None = None) -> Path:
    """Return the path of the file of one body, e.g. ``SMPLX_NEUTRAL.npz``.

    Raises:
        ValueError: If the open body has no such family or gender.
    """
    if family not in OPEN_FAMILIES or gender not in GENDERS:
        raise ValueError(
            f"the open body comes as {OPEN_FAMILIES} x {GENDERS}, got {family!r}, {gender!r}"
        )
    return (folder or data_dir()) / f"{family.upper()}_{gender.upper()}.npz"


def load_open_arrays(
    family: Family, gender: Gender, folder: Path | None = None
) -> dict[str, np.ndarray]:
    """Read one open body, expanded to the key set and layout of the official files.

    Args:
        family: smplx, smplh or smpl.
        gender: neutral, female or male.
        folder: Where the built files are; None for those shipped with the package.

    Returns:
        Arrays by key, floats as float32: ``v_template`` (V, 3), ``f`` (F, 3), ``shapedirs``
        (V, 3, 10), for smplx (V, 3, 20): 10 of shape, then 10 of expression; ``posedirs``
        (V, 3, 9 (J - 1)), ``J_regressor`` (J, V), ``weights`` (V, J), ``kintree_table`` (2, J),
        ``hands_componentsl/r`` (45, 45), ``hands_meanl/r`` (45,), ``lmk_faces_idx`` (51,),
        ``lmk_bary_coords`` (51, 3), ``dynamic_lmk_faces_idx`` (79, 17),
        ``dynamic_lmk_bary_coords`` (79, 17, 3), and the texts ``model_name``, ``notice``,
        ``licence``, ``credits``, ``builder_version``, for smplx also ``expression_names``. Hands
        and landmarks only where the family has them.

    Raises:
        ValueError: If there is no such body.
        FileNotFoundError: If the files are missing from ``folder``.
    """
    path = open_file(family, gender, folder)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; build the open body with: "
            f"python -m bodymodel.openbody.build --out {path.parent}"
        )
    own = unpack(path)
    mesh = unpack(path.parent / _mesh_file(family))
    rig = unpack(path.parent / f"{family.upper()}_RIG.npz")
    out = {**mesh, **rig, **own}
    expression = out.pop("exprdirs", None)
    if expression is not None:
        out["shapedirs"] = np.concatenate([out["shapedirs"], expression], axis=-1)
    parents = np.array(FAMILIES[family].parents, np.int64)
    out["kintree_table"] = np.stack([parents, np.arange(len(parents))]).astype(np.uint32)
    return out


def write_open_files(
    folder: Path, family: Family, mesh: dict, rig: dict, genders: dict[Gender, dict]
) -> list[Path]:
    """Write the compact files of one family; returns their paths.

    Args:
        folder: Where to; made if missing.
        family: smplx, smplh or smpl.
        mesh: Arrays shared by all families of the mesh and all genders.
        rig: Arrays shared by the genders.
        genders: Arrays of each gender.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / _mesh_file(family), folder / f"{family.upper()}_RIG.npz"]
    pack(paths[0], mesh)
    pack(paths[1], rig)
    for gender, arrays in genders.items():
        paths.append(open_file(family, gender, folder))
        pack(paths[-1], arrays)
    return paths


def _mesh_file(family: Family) -> str:
    return "SMPLX_MESH.npz" if family == "smplx" else "SMPLH_MESH.npz"


_STEPPED = ("shapedirs", "exprdirs")
_SPARSE = ("posedirs", "J_regressor", "weights")


def pack(path: Path, arrays: dict[str, np.ndarray | str]) -> None:
    """Write arrays compactly: the same arrays give the same bytes."""
    out: dict[str, np.ndarray] = {}
    for key, value in sorted(arrays.items()):
        value = np.asarray(value)
        if key in _STEPPED:
            scale = np.maximum(np.abs(value).max((0, 1)), 1e-9) / _STEPS
            # Component by component: neighbouring numbers are alike and compress.
            out[f"{key}.steps"] = np.moveaxis(np.round(value / scale), -1, 0).astype(np.int16)
            out[f"{key}.scale"] = scale.astype(np.float32)
        elif key in _SPARSE:
            flat = value.ravel()
            index = np.flatnonzero(flat)
            out[f"{key}.gaps"] = np.diff(index, prepend=0).astype(np.uint32)
            out[f"{key}.shape"] = np.array(value.shape, np.int32)
            kept = flat[index]
            if key == "posedirs":
                scale = np.abs(kept).max(initial=1e-9) / _STEPS
                out[f"{key}.values"] = np.round(kept / scale).astype(np.int16)
                out[f"{key}.scale"] = np.float32(scale)
            else:
                out[f"{key}.values"] = kept.astype(np.float32)
        else:
            out[key] = value.astype(np.float32) if value.dtype == np.float64 else value
    np.savez_compressed(path, **out)


def unpack(path: Path) -> dict[str, np.ndarray]:
    """Read what ``pack`` wrote, as dense arrays."""
    out: dict[str, np.ndarray] = {}
    with np.load(path, allow_pickle=False) as data:
        for key in data.files:
            name, _, part = key.rpartition(".")
            if not name:
                out[key] = data[key]
            elif part == "steps":
                steps = np.moveaxis(data[key], 0, -1).astype(np.float32)
                out[name] = steps * data[f"{name}.scale"]
            elif part == "values":
                dense = np.zeros(np.prod(data[f"{name}.shape"]), np.float32)
                index = np.cumsum(data[f"{name}.gaps"], dtype=np.int64)
                values = data[key].astype(np.float32)
                if f"{name}.scale" in data.files:
                    values *= data[f"{name}.scale"]
                dense[index] = values
                out[name] = dense.reshape(data[f"{name}.shape"])
    return out


def texts(**values: str) -> dict[str, np.ndarray]:
    """Return texts as arrays that need no pickle."""
    return {key: np.array(value) for key, value in values.items()}
