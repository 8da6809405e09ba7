"""The Arrow schema of a fit row: every column, its shape, unit, frame and order. Torch-free.

One row is one person of one image in one run. Arrays are ``fixed_size_list<float32>`` columns,
flattened in C order, and no column holds nulls: what is missing is NaN, and a ``has_*`` flag says
so. The shape, unit, frame and order of each column are in its field metadata, and survive in the
Parquet files. ``python -m curation.schema > docs/schema.md`` prints the table that users read.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import BODY_JOINTS, PARTS

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT_VERSION = "1.1"
"""major.minor of the rows. A reader accepts a newer minor version and refuses a newer major one."""

POSE_SHAPES: dict[str, tuple[int, ...]] = {
    "global_orient": (3,),
    "body_pose": (21, 3),
    "jaw_pose": (3,),
    "leye_pose": (3,),
    "reye_pose": (3,),
    "left_hand_pose": (15, 3),
    "right_hand_pose": (15, 3),
}
"""The rotations of bodymodel.params.BodyParams, axis-angle."""

PARAMETERS: tuple[str, ...] = (*POSE_SHAPES, "betas", "expression", "transl")
"""Columns that mean nothing without the body they were fitted with."""

FIT_STATUSES: tuple[str, ...] = ("ok", "not_converged")
"""The statuses whose rows hold parameters; every other row holds a reason and NaN."""

_K = len(FIT_KEYPOINTS)


@dataclass(frozen=True)
class Column:
    """One column of the store.

    Attributes:
        name: As in the files.
        kind: Element type: "string", "bool", "int8", "int32", "float32", "float64",
            "list<string>", "list<float32>" or "map<string,float32>".
        doc: One line for docs/schema.md.
        shape: Of the array that the row holds, () for a single value.
        unit: Of the values; empty for none.
        frame: Coordinate frame; empty for none.
        order: What the first axis enumerates; empty for none.
    """

    name: str
    kind: str
    doc: str
    shape: tuple[int, ...] = ()
    unit: str = ""
    frame: str = ""
    order: str = ""


def fit_columns(num_betas: int = 10, num_expression: int = 10) -> tuple[Column, ...]:
    """Return the columns of a fit row, in the order of the files.

    Args:
        num_betas: B, shape components that were fitted.
        num_expression: E, expression components that were fitted; with 0 there is no such column.
    """
    c = Column
    image = "image"
    camera = "camera (x right, y down, z forward)"
    pose_frames = {name: "parent joint" for name in POSE_SHAPES} | {
        "global_orient": "model to camera"
    }
    pose_orders = {"body_pose": "BODY_JOINTS[1:]", "left_hand_pose": "LEFT_HAND_JOINTS"} | {
        "right_hand_pose": "RIGHT_HAND_JOINTS"
    }
    columns = (
        # --- which person of which image, in which run
        c("fit_id", "string", "32 hex digits: hash of dataset, image_id, person_index, run_id"),
        c("run_id", "string", "the run; its resolved config is meta/runs/<run_id>.yaml"),
        c("dataset", "string", "name of the dataset"),
        c("image_id", "string", "unique in the dataset; rows of one image share a part"),
        c("image_path", "string", "the photo, relative to the dataset's root, forward slashes"),
        c("image_sha256", "string", "of the photo's bytes; empty if it could not be read"),
        c("person_index", "int32", "which person of the image; stable between runs"),
        c("attempt", "int32", "0, or how often --retry-failed has redone this image"),
        c("width", "int32", "of the upright (EXIF applied) image; 0 if unread", unit="px"),
        c("height", "int32", "likewise", unit="px"),
        c("has_bbox", "bool", "whether a box is known"),
        c("bbox_xyxy_px", "float32", "box of the person", (4,), "px", image, "x0 y0 x1 y1"),
        # --- outcome
        c("status", "string", "ok, not_converged, or why there is no fit (see below)"),
        c("reason", "string", "one plain sentence when status is not ok, else empty"),
        c("has_fit", "bool", "whether the parameters below are numbers"),
        # --- the fit
        *(
            c(
                name,
                "float32",
                "axis-angle",
                shape,
                "rad",
                pose_frames[name],
                pose_orders.get(name, ""),
            )
            for name, shape in POSE_SHAPES.items()
        ),
        c("betas", "float32", "shape", (num_betas,), "standard deviations"),
        c("expression", "float32", "facial expression", (num_expression,), "standard deviations"),
        c("transl", "float32", "added after posing", (3,), "m", camera),
        c("focal_px", "float32", "focal length, square pixels", unit="px"),
        c("center_px", "float32", "principal point", (2,), "px", image, "x y"),
        c(
            "focal_source",
            "string",
            "dataset, given, exif, fitted (unknown), default (diagonal); empty if there is no fit",
        ),
        c("body_name", "string", "the body the parameters belong to"),
        c("body_sha256", "string", "of the body's file; never mix rows whose hashes differ"),
        c("body_is_open", "bool", "true: the open body, whose parameters are not SMPL-X's"),
        # --- the evidence
        c("keypoint_convention", "string", "a key of bodymodel.keypoints.CONVENTIONS"),
        c("has_keypoints", "bool", "whether any keypoint has a confidence above 0"),
        c(
            "keypoints_2d",
            "float32",
            "x, y, confidence; 0 0 0 where absent",
            (_K, 3),
            "px, px, 1",
            image,
            "fit",
        ),
        c(
            "keypoint_source",
            "int8",
            "curation.samples.KeypointSource of each point",
            (_K,),
            order="fit",
        ),
        c(
            "keypoint_places",
            "list<string>",
            "conventions whose places were fitted: of each point, the first that has it; empty for "
            "SMPL-X's own (bodymodel.fit_points)",
        ),
        c("silhouette", "string", "mask that the fit was drawn to: file, detector; empty for none"),
        c("views", "int32", "photos of this person that the fit saw; this one and further views"),
        c("has_left_hand", "bool", "seen in the image; if not, its pose is only the prior's"),
        c("has_right_hand", "bool", "likewise"),
        c("has_face", "bool", "likewise: jaw and expression"),
        c("oks_detection", "float32", "OKS of detector against labels, NaN if either is missing"),
        # --- how well it fits
        c(
            "residual_px",
            "float32",
            "distance of model to keypoint, NaN where there is none",
            (_K,),
            "px",
            image,
            "fit",
        ),
        *(
            c(f"residual_{part}_px", "float32", "median of residual_px, NaN if unseen", unit="px")
            for part in PARTS
        ),
        c("residual_3d_mm", "float32", "median distance to 3D keypoints, NaN if none", unit="mm"),
        c("person_height_px", "float32", "height of the body standing upright there", unit="px"),
        c("residual_body_pct", "float32", "residual_body_px of person_height_px", unit="%"),
        c(
            "trunk_lean_deg",
            "float32",
            "pelvis to neck against the image plane; positive leans to the camera",
            unit="deg",
            frame=camera,
        ),
        c("oks_fit", "float32", "OKS of the fit against the labels, NaN where there are none"),
        c("betas_abs_max", "float32", "largest |beta|: above 3 no such body", unit="sd"),
        c("prior_energy", "float32", "energy of the pose prior; compare within a run"),
        c("self_penetration_mm", "float32", "deepest vertex inside another part", unit="mm"),
        c("self_penetration_cm2", "float32", "surface that is inside other parts", unit="cm^2"),
        c("self_penetration_parts", "list<string>", "such as left_hand+trunk, deepest first"),
        c("energy", "map<string,float32>", "final energy by term"),
        c("energy_total", "float32", "their sum"),
        c("starts", "list<string>", "names of the starts that were tried"),
        c("start_energies", "list<float32>", "of each start, on the body's points alone"),
        c("start_margin", "float32", "(best that faces another way - best) / best; NaN if none"),
        c("start_winner", "string", "name of the start that won"),
        c("iterations", "int32", "solver iterations of the winner"),
        # --- how sure it is
        c(
            "joint_covariance_mm2",
            "float32",
            "xx xy xz yy yz zz: of the pelvis's place, of the others relative to the pelvis",
            (len(BODY_JOINTS), 6),
            "mm^2",
            camera,
            "BODY_JOINTS",
        ),
        *(
            c(
                f"joint_std_{group}_mm",
                "float32",
                f"expected distance from the truth, {of}",
                unit="mm",
            )
            for group, of in (
                ("place", "pelvis"),
                ("trunk", "spine, neck, head and collars; relative to the pelvis"),
                ("arms", "shoulders, elbows, wrists; likewise"),
                ("legs", "hips, knees, ankles, feet; likewise"),
            )
        ),
        # --- against the truth, where the dataset has it
        c("has_truth", "bool", "whether the errors below are numbers"),
        c("mpjpe_mm", "float32", "mean error of the body joints, pelvis aligned", unit="mm"),
        c("pa_mpjpe_mm", "float32", "likewise after a similarity alignment", unit="mm"),
        c("trunk_lean_error_deg", "float32", "trunk_lean_deg minus the truth's", unit="deg"),
        # --- how it was made
        c("code_version", "string", "of this project"),
        c("torch_version", "string", "of torch"),
        c("device", "string", "the solver's"),
        c("config_hash", "string", "of the settings that change results"),
        c("solve_ms", "float32", "solver's wall time of the batch over its persons", unit="ms"),
    )
    # Parquet libraries disagree on lists of size 0; pyarrow crashes.
    return tuple(column for column in columns if 0 not in column.shape)


STATUS_NOTES: dict[str, str] = {
    "ok": "a fit",
    "not_converged": "parameters are there, but the solver stopped before it settled",
    "no_person": "nobody was found in the image",
    "too_few_keypoints": "not enough points to tell a pose",
    "image_error": "the file could not be read as an image",
    "label_error": "the dataset's labels of this image cannot be used",
    "solver_error": "the solver raised an error for this person",
}


def fit_schema(
    num_betas: int = 10, num_expression: int = 10, metadata: Mapping[str, str] | None = None
) -> "pa.Schema":
    """Return the Arrow schema of a part.

    Args:
        num_betas: B, shape components that were fitted.
        num_expression: E, expression components that were fitted.
        metadata: Further entries beside ``format_version`` in the schema's metadata.
    """
    fields = [_arrow_field(column) for column in fit_columns(num_betas, num_expression)]
    import pyarrow as pa

    return pa.schema(fields, {"format_version": FORMAT_VERSION, **(metadata or {})})


def _arrow_field(column: Column) -> "pa.Field":
    import pyarrow as pa

    types = {
        "list<string>": pa.list_(pa.field("element", pa.string(), nullable=False)),
        "list<float32>": pa.list_(pa.field("element", pa.float32(), nullable=False)),
        "map<string,float32>": pa.map_(pa.string(), pa.field("value", pa.float32(), False)),
        "bool": pa.bool_(),
    }
    kind = types[column.kind] if column.kind in types else getattr(pa, column.kind)()
    if column.shape:
        size = int(np.prod(column.shape))
        kind = pa.list_(pa.field("element", kind, nullable=False), size)
    notes = {
        "shape": ",".join(map(str, column.shape)),
        "unit": column.unit,
        "frame": column.frame,
        "order": column.order,
    }
    return pa.field(column.name, kind, False, {k: v for k, v in notes.items() if v})


def field_shape(field: "pa.Field") -> tuple[int, ...]:
    """Return the shape that a column's metadata gives to one row's array; () for one value."""
    text = (field.metadata or {}).get(b"shape", b"").decode()
    return tuple(int(n) for n in text.split(",")) if text else ()


def rows_to_table(rows: Sequence[Mapping[str, Any]], schema: "pa.Schema") -> "pa.Table":
    """Pack rows into a table.

    Args:
        rows: One mapping a row, with every column of the schema: numbers, strings, arrays of the
            column's shape, or a dict for a map.
        schema: Of fit_schema.

    Raises:
        ValueError: If a column is missing, unknown, None, or of another shape.
    """
    import pyarrow as pa

    names = set(schema.names)
    for row in rows:
        if set(row) != names:
            missing, unknown = sorted(names - set(row)), sorted(set(row) - names)
            raise ValueError(f"a row must have the schema's columns; {missing=}, {unknown=}")
    arrays = []
    for field in schema:
        values = [row[field.name] for row in rows]
        shape = field_shape(field)
        if shape:
            arrays.append(_pack(field, values, shape))
            continue
        if pa.types.is_map(field.type):
            values = [list(value.items()) for value in values]
        elif pa.types.is_string(field.type):
            values = [storable_text(value) for value in values]
        array = pa.array(values, field.type)
        if array.null_count:
            raise ValueError(f"{field.name} may not be null; use NaN, 0 or an empty string")
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema)


def _pack(field: "pa.Field", values: Iterable[Any], shape: tuple[int, ...]) -> "pa.Array":
    import pyarrow as pa

    dtype = field.type.value_type.to_pandas_dtype()
    packed = []
    for value in values:
        array = np.asarray(value, dtype)
        if array.shape != shape:
            raise ValueError(f"{field.name} must be {shape}, got {array.shape}")
        packed.append(array.reshape(-1))
    flat = np.concatenate(packed) if packed else np.zeros(0, dtype)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=field.type)


def unpack_column(array: "pa.Array | pa.ChunkedArray", field: "pa.Field") -> np.ndarray | list[Any]:
    """Return a column as an array (n, *shape), or a list for strings, lists and maps.

    Args:
        array: The column; no nulls.
        field: Its field, whose metadata says the shape.
    """
    import pyarrow as pa

    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    shape = field_shape(field)
    if shape:
        # flatten() heeds the array's offset, .values does not; neither drops rows without nulls.
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), *shape)
    if pa.types.is_map(field.type):
        return array.to_pylist(maps_as_pydicts="strict")
    if pa.types.is_list(field.type) or pa.types.is_string(field.type):
        return array.to_pylist()
    return array.to_numpy(zero_copy_only=False)


def check_format_version(version: str, what: str) -> None:
    """Refuse rows of a newer major version.

    Args:
        version: ``major.minor`` as the file gives it.
        what: The file, for the message.

    Raises:
        ValueError: If the version is unreadable or its major part is newer than this code's.
    """
    try:
        major = int(version.split(".")[0])
    except ValueError:
        raise ValueError(
            f"{what} gives its format_version as {version!r}; expected major.minor such as "
            f"{FORMAT_VERSION}. Is it a file of this project?"
        ) from None
    known = int(FORMAT_VERSION.split(".")[0])
    if major > known:
        raise ValueError(
            f"{what} has format {version}, and this version reads {known}.x; "
            "install a newer pseudogt to read it"
        )


def storable_text(text: str) -> str:
    r"""Return text that Arrow can hold: bytes of a name that are not UTF-8 become ``\\xNN``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def fit_id(dataset: str, image_id: str, person_index: int, run_id: str) -> str:
    """Return the 128-bit id of a row as 32 hex digits (BLAKE2b of the four, length-prefixed)."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (dataset, image_id, str(person_index), run_id):
        data = storable_text(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def image_key(image_id: str) -> bytes:
    """Return 16 bytes that stand for an image in sets of millions."""
    return hashlib.blake2b(storable_text(image_id).encode(), digest_size=16).digest()


_INTRODUCTION = f"""# A fit row

Format {FORMAT_VERSION}. Written by `python -m curation.schema`; do not edit by hand.

One row is one person of one image in one run, in Parquet files at
`fits/data/run=<run_id>/part-<shard>-<seq>.parquet`. Arrays are fixed-size lists, flattened in C
order; the shape, unit, frame and order are also in each field's metadata. Nothing is null: what is
missing is NaN, 0 or an empty string, and a `has_*` column says so. `betas` and `expression` are as
long as the run fitted them (10 by default). Image coordinates have their origin at the top-left
corner of the top-left pixel of the upright (EXIF applied) image.

| column | type | shape | unit | frame | order | what it is |
|---|---|---|---|---|---|---|
"""

_SQL = """
## From SQL

```sql
-- DuckDB
SELECT image_id, residual_body_pct, energy['pose']
FROM 'fits/data/*/*.parquet' WHERE status = 'ok'
ORDER BY residual_body_pct DESC LIMIT 20;
```

While `--retry-failed` runs, an image may have rows of two attempts; the highest `attempt` counts,
and the run removes the others when it ends. The readers of `curation.store` heed it at any time.
"""


def schema_markdown() -> str:
    """Return docs/schema.md."""
    lines = _INTRODUCTION.splitlines()
    for c in fit_columns():
        shape = " x ".join(map(str, c.shape))
        kind = c.kind.replace("<", "&lt;").replace(">", "&gt;")
        lines.append(
            f"| `{c.name}` | {kind} | {shape} | {c.unit} | {c.frame} | {c.order} | {c.doc} |"
        )
    lines += ["", "## status", "", "| status | meaning |", "|---|---|"]
    lines += [f"| `{status}` | {note} |" for status, note in STATUS_NOTES.items()]
    lines += _SQL.splitlines()
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import argparse
    import sys

    argparse.ArgumentParser(
        "python -m curation.schema", description="Print docs/schema.md: the columns of a fit row."
    ).parse_args()
    sys.stdout.write(schema_markdown())
