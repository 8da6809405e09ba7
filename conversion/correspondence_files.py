"""Correspondences in files: ours, and the published ones. Torch-free."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bodymodel.body import BodyData
from bodymodel.pickles import load_model_pickle
from conversion.correspondence import Correspondence, part_vertices, side_of
from conversion.lift import Lift

__all__ = ["VertexIds", "load_correspondence", "load_official", "save_correspondence"]

_LIFT = ("rest", "faces", "goal")


@dataclass(frozen=True, eq=False)
class VertexIds:
    """Which vertex of SMPL-X each of MANO's or FLAME's is, as published.

    Attributes:
        ids: ``left_hand`` and ``right_hand`` (778,), or ``head`` (5023,), int64.
        name: Of the file.
    """

    ids: Mapping[str, np.ndarray]
    name: str = ""

    @classmethod
    def of(cls, arrays: Mapping[str, object], path: Path) -> "VertexIds":
        """Check what a file holds.

        Raises:
            ValueError: If it is no list of vertices.
        """
        ids = {}
        for key, value in arrays.items():
            array = np.asarray(value)
            array = array.ravel() if array.ndim == 2 and 1 in array.shape else array
            if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
                raise ValueError(
                    f"{path}: {key} must be a list of vertex ids, got {array.shape} of "
                    f"{array.dtype}"
                )
            if array.min() < 0 or len(np.unique(array)) != len(array):
                raise ValueError(f"{path}: {key} has negative or repeated vertex ids")
            ids[key] = array.astype(np.int64)
        return cls(ids, str(path))

    def between(self, source: BodyData, target: BodyData) -> Correspondence:
        """Return the correspondence of a hand or a head with a body.

        Vertices that the body moves by other joints than the part's (the wrist's rim, the neck) are
        not valid: the part cannot tell how they go.

        Raises:
            ValueError: If the ids are not of these two.
        """
        key = f"{side_of(source)}_hand" if source.family == "mano" else "head"
        if source.family not in ("mano", "flame") or key not in self.ids:
            raise ValueError(
                f"{self.name} has ids of {', '.join(self.ids)}; they do not lead from "
                f"{source.name} to {target.name}"
            )
        ids, count = self.ids[key], len(target.v_template)
        if len(ids) != len(source.v_template) or ids.max() >= count:
            raise ValueError(
                f"{self.name} has {len(ids)} ids up to {ids.max()}; {source.name} has "
                f"{len(source.v_template)} vertices, {target.name} has {count}"
            )
        corners, weights = np.zeros((count, 3), np.int64), np.zeros((count, 3))
        weights[:, 0] = 1
        corners[ids] = np.arange(len(ids))[:, None]
        valid = np.zeros(count, bool)
        valid[ids] = True
        valid &= part_vertices(source, target)
        return Correspondence(corners, weights, valid, len(ids), None, self.name, target.name)


def save_correspondence(path: Path, correspondence: Correspondence) -> None:
    """Write a correspondence as npz, whole or not at all."""
    c = correspondence
    lift = {name: getattr(c.lift, name) for name in _LIFT} if c.lift else {}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        corners=c.corners.astype(np.int32), weights=c.weights, valid=c.valid,
        num_source=c.num_source, source=c.source, target=c.target, **lift,
    )  # fmt: skip
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(buffer.getvalue())
    temporary.replace(path)


def load_correspondence(path: Path, mask: Path | None = None) -> "Correspondence | VertexIds":
    """Read a correspondence: our npz, a published ``*_deftrafo_setup.pkl``, or published ids.

    Args:
        path: The file. Ids are ``MANO_SMPLX_vertex_ids.pkl`` or ``SMPL-X__FLAME_vertex_ids.npy``.
        mask: For a published file, its mask of valid target vertices (npy, npz or pkl).

    Raises:
        ValueError: If it is damaged or something else.
    """
    if path.suffix == ".pkl":
        content = load_model_pickle(path)
        hands = {k: content.get(k) for k in ("left_hand", "right_hand") if k in content}
        return VertexIds.of(hands, path) if hands else load_official(path, mask)
    if path.suffix == ".npy":
        return VertexIds.of({"head": np.load(path, allow_pickle=False)}, path)
    try:
        # numpy leaves a damaged file open that it opened itself
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        corners = arrays["corners"].astype(np.int64)
        weights, valid = arrays["weights"].astype(np.float64), arrays["valid"].astype(bool)
        lift = None
        if all(name in arrays for name in _LIFT):
            lift = Lift(*(arrays[name] for name in _LIFT), corners, weights, valid)
        return Correspondence(
            corners,
            weights,
            valid,
            num_source=int(arrays["num_source"]),
            lift=lift,
            source=str(arrays["source"]),
            target=str(arrays["target"]),
        )
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} cannot be read as a correspondence: {error}") from error
    except Exception as error:  # a damaged archive can raise nearly anything
        raise ValueError(
            f"{path} cannot be read as a correspondence ({type(error).__name__}: {error}); it "
            "must be one of this project's npz files, or a published *_deftrafo_setup.pkl or list of "
            "vertex ids"
        ) from error


def load_official(path: Path, mask: Path | None = None) -> Correspondence:
    """Read a published ``smpl2smplx_deftrafo_setup.pkl`` and the like.

    Its matrix ``mtx`` is (Vt, 2 Vs): barycentric coordinates, then weights of normals, which the
    published tool leaves out as well. Nothing in the file is executed.

    Args:
        path: The file.
        mask: The mask of valid target vertices that goes with it: npy, npz or pkl; boolean, or the
            ids of the valid ones. Without it all vertices that have weights are valid.

    Raises:
        ValueError: If the file holds no such matrix.
    """
    content = load_model_pickle(path)
    matrix = content.get("mtx", content.get("matrix"))
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.shape[1] % 2:
        raise ValueError(f"{path} has no matrix 'mtx' of (target, 2 x source) vertices")
    num_source = matrix.shape[1] // 2
    matrix = np.asarray(matrix[:, :num_source], np.float64)
    corners = np.sort(np.argpartition(-np.abs(matrix), 3, axis=1)[:, :3], 1)
    weights = np.take_along_axis(matrix, corners, 1)
    rest = np.abs(matrix).sum(1) - np.abs(weights).sum(1)
    if rest.max() > 1e-3:
        raise ValueError(f"{path}: a row of 'mtx' has more than three weights; not barycentric")
    total = weights.sum(1)
    valid = np.abs(total - 1) < 1e-2
    weights[valid] /= total[valid, None]
    if mask is not None:
        valid &= _read_mask(mask, len(valid))
    return Correspondence(corners.astype(np.int64), weights, valid, num_source, None, str(path), "")


def _read_mask(path: Path, count: int) -> np.ndarray:
    if path.suffix == ".pkl":
        content = load_model_pickle(path)
    else:
        loaded = np.load(path, allow_pickle=False)
        content = {k: loaded[k] for k in loaded.files} if hasattr(loaded, "files") else {"": loaded}
    arrays = [a for a in content.values() if isinstance(a, np.ndarray) and a.ndim == 1]
    for array in arrays:
        if array.shape == (count,) and set(np.unique(array)) <= {0, 1}:
            return array.astype(bool)
    for array in arrays:
        if array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() < count:
            mask = np.zeros(count, bool)
            mask[array] = True
            return mask
    raise ValueError(f"{path} holds no mask of {count} vertices, as booleans or as ids")
