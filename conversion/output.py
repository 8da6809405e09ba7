"""Writing conversions: Parquet parts, npz in AMASS form, meshes. Torch-free.

These tables say for every frame how far the result is from its source, and are in the source's
frame. Rows of the project's store of fits are made of them by :mod:`conversion.fits`.
"""

import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bodymodel.body import BodyData
from bodymodel.spec import PARTS
from conversion.clips import POSE_COLUMNS
from conversion.result import TransferResult

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PartStore", "part_columns", "result_columns", "write_amass", "write_meshes"]

FORMAT_VERSION = "1.0"


@dataclass(frozen=True)
class PartStore:
    """The parts of a conversion below one directory: ``data/<clip>/part-<n>.parquet``.

    Attributes:
        root: The directory.
        config_hash: Of the settings that change results.
    """

    root: Path
    config_hash: str

    def path(self, clip: str, part: int) -> Path:
        """Return where a part is or will be."""
        steps = [re.sub(r"[^\w.,+@ -]", "_", step) or "_" for step in clip.split("/")]
        steps = ["_" if step in (".", "..") else step for step in steps]
        return self.root.joinpath("data", *steps, f"part-{part:06d}.parquet")

    def rows_done(self, clip: str, part: int) -> int:
        """Return how many rows a part has, 0 if it is not there.

        Raises:
            ValueError: If it was made with other settings.
        """
        import pyarrow.parquet as pq

        path = self.path(clip, part)
        if not path.exists():
            return 0
        try:
            metadata = pq.read_metadata(path)
        except Exception:  # cut off: it is made again
            return 0
        found = (metadata.metadata or {}).get(b"config_hash", b"").decode()
        if found != self.config_hash:
            raise ValueError(
                f"{path} was made with other settings or bodies ({found}; now "
                f"{self.config_hash}); give another --out"
            )
        return metadata.num_rows

    def write(
        self,
        clip: str,
        part: int,
        result: TransferResult,
        labels: Sequence[str],
        first_frame: int,
        source: BodyData | None,
        target: BodyData,
        ms: float,
    ) -> Path:
        """Write a part, whole or not at all."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = result_columns(result, target)
        count = len(result)
        constants = {
            "body_name": target.name,
            "body_sha256": target.sha256,
            "source_body_name": source.name if source else "",
            "source_body_sha256": source.sha256 if source else "",
        }
        fields: dict[str, Any] = {
            "clip": [clip] * count,
            "frame": pa.array(np.arange(first_frame, first_frame + count), pa.int64()),
            "label": list(labels),
            "status": result.status,
            "reason": result.reason,
        }
        fields |= {name: _packed(array) for name, array in columns.items()}
        fields |= {name: [text] * count for name, text in constants.items()}
        fields["body_is_open"] = [target.is_open] * count
        fields["solve_ms"] = pa.array(np.full(count, ms, np.float32))
        table = pa.table(fields)
        table = table.replace_schema_metadata(
            {"format_version": FORMAT_VERSION, "config_hash": self.config_hash}
        )
        path = self.path(clip, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            pq.write_table(table, temporary, compression="zstd")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path


def result_columns(result: TransferResult, target: BodyData) -> dict[str, np.ndarray]:
    """Return a result's arrays by the names of the store's columns."""
    out, first = {}, 0
    for column, joints in POSE_COLUMNS[target.family]:
        part = result.full_pose[:, first : first + joints]
        out[column] = part.reshape(len(part), 3 * joints)
        first += joints
    out["betas"] = result.betas
    if target.num_expression:
        out["expression"] = result.expression
    out["transl"] = result.transl
    for name in ("v2v_mean_mm", "v2v_p99_mm", "v2v_max_mm"):
        out[name] = getattr(result, name)
    for part in PARTS:
        out[f"v2v_{part}_mm"] = result.v2v_part_mm[part]
    out["iterations"] = result.iterations.astype(np.int32)
    return out


def _packed(array: np.ndarray) -> "pa.Array":
    import pyarrow as pa

    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def part_columns(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return numeric columns of a part, (F, ...); those that it does not have are left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    there = [name for name in names if name in file.schema_arrow.names]
    table = file.read(there)
    out = {}
    for name in there:
        column = table[name].combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            flat = column.flatten().to_numpy(zero_copy_only=False)
            out[name] = flat.reshape(len(column), -1)
        else:
            out[name] = column.to_numpy(zero_copy_only=False)
    return out


def write_amass(path: Path, parts: Sequence[Path], target: BodyData, fps: float) -> None:
    """Write a motion as AMASS has it: poses, betas, trans, gender, frame rate.

    The parts go through one by one, so that a long motion need not fit in memory.

    Args:
        path: Where to.
        parts: Of the motion, in order.
        target: The body.
        fps: Frames per second, NaN where unknown.
    """
    import pyarrow.parquet as pq

    columns = [name for name, _ in POSE_COLUMNS[target.family]]
    counts = [pq.read_metadata(part).num_rows for part in parts]

    def gather(names: Sequence[str], dtype: type) -> Iterator[np.ndarray]:
        for part in parts:
            got = part_columns(part, names)
            yield np.concatenate([got[name].astype(dtype) for name in names], 1)

    first = next(gather(["betas"], np.float32))[:1]
    shared = all((b == first).all() for b in gather(["betas"], np.float32))

    def states() -> Iterator[np.ndarray]:
        for part in parts:
            texts = pq.ParquetFile(part).read(["status"])["status"].to_pylist()
            yield np.array(texts, "U13")

    small = {
        "gender": np.array(target.gender),
        "surface_model_type": np.array(target.family),
        "body_name": np.array(target.name),
        "body_sha256": np.array(target.sha256),
    }
    if np.isfinite(fps):
        small["mocap_frame_rate"] = np.array(fps)
    if shared:
        small["betas"] = first[0]
    large = {"poses": gather(columns, np.float32), "trans": gather(["transl"], np.float64)}
    large |= {} if shared else {"betas": gather(["betas"], np.float32)}
    large |= {"expression": gather(["expression"], np.float32)} if target.num_expression else {}
    large["status"] = states()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as archive:
        for name, array in small.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        for name, pieces in large.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                for k, piece in enumerate(pieces):
                    if not k:
                        shape = (sum(counts), *piece.shape[1:])
                        head = {"descr": piece.dtype.str, "fortran_order": False}
                        np.lib.format.write_array_header_1_0(file, head | {"shape": shape})
                    file.write(np.ascontiguousarray(piece).tobytes())
    temporary.replace(path)


def write_meshes(
    folder: Path, names: Sequence[str], vertices: np.ndarray, faces: np.ndarray
) -> None:
    """Write meshes as binary PLY, vertices in the body's order.

    Args:
        folder: Where to.
        names: Of the files, without ending.
        vertices: (B, V, 3) metres; meshes that are not finite are left out.
        faces: (F, 3).
    """
    folder.mkdir(parents=True, exist_ok=True)
    head = (
        "ply\nformat binary_little_endian 1.0\nelement vertex {}\nproperty float x\n"
        "property float y\nproperty float z\nelement face {}\n"
        "property list uchar int vertex_indices\nend_header\n"
    )
    rows = np.empty(len(faces), np.dtype([("n", "u1"), ("ids", "<i4", 3)]))
    rows["n"], rows["ids"] = 3, faces
    for name, mesh in zip(names, vertices, strict=True):
        if np.isfinite(mesh).all():
            text = head.format(len(mesh), len(faces)).encode()
            data = text + mesh.astype("<f4").tobytes() + rows.tobytes()
            (folder / f"{name}.ply").write_bytes(data)
