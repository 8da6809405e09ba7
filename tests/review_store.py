"""A store of many fits with pictures, made in seconds: one row, a few sets of pictures."""

import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from annotate_ui.pictures import PICTURE_FILES
from curation.schema import fit_schema, rows_to_table
from curation.store import new_info
from tests.fit_rows import example_row

RUN = "run-1"


def fit_name(number):
    return f"{number:032x}"


def make_store(root, count, pictures=True, sets=8):
    """Write ``count`` rows and, as hard links, their pictures; return the store's folder."""
    store = root / "fits"
    (store / "meta" / "runs").mkdir(parents=True)
    (store / "meta" / "info.json").write_text(json.dumps(new_info()))
    (store / "meta" / "runs" / f"{RUN}.yaml").write_text(
        f"run_id: {RUN}\ncreated: '2026-01-01'\nconfig: {{body: open, gender: neutral}}\n"
    )
    rng = np.random.default_rng(0)
    row = example_row(1, run_id=RUN, dataset="made", status="ok", has_fit=True, attempt=0)
    notes = {"run_id": RUN, "body_name": "toy", "body_sha256": "toy"}
    one = rows_to_table([row], fit_schema(metadata=notes))
    table = one.take(pa.array(np.zeros(count, np.int64)))
    changes = {
        "fit_id": [fit_name(k) for k in range(count)],
        "image_id": [f"images/im{k:05d}.jpg" for k in range(count)],
        "image_path": [f"images/im{k:05d}.jpg" for k in range(count)],
        "dataset": [("made", "other")[k % 2] for k in range(count)],
        "person_height_px": rng.uniform(150, 500, count).astype(np.float32),
        "residual_body_px": rng.gamma(2, 2, count).astype(np.float32),
    }
    for name, values in changes.items():
        field = table.schema.field(name)
        position = table.schema.get_field_index(name)
        table = table.set_column(position, field, pa.array(values, field.type))
    folder = store / "data" / f"run={RUN}"
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-00of01-000001.parquet", row_group_size=16_384)
    if pictures:
        _link_pictures(store, count, sets)
    return store


def _link_pictures(store, count, sets):
    originals = store / "originals"
    folder = store / "overlays" / RUN
    originals.mkdir()
    folder.mkdir(parents=True)
    nose = {"name": "nose", "part": "body", "seen": [0.5, 0.2], "conf": 1.0, "px": 4.0}
    points = {"points": [nose | {"model": [0.51, 0.2]}], "window": [0, 0, 400, 512]}
    for k in range(sets):
        for name in PICTURE_FILES:
            (originals / f"{k}.{name}").write_bytes(_picture(name, k))
        (originals / f"{k}.points.json").write_text(json.dumps(points))
    for number in range(count):
        for name in (*PICTURE_FILES, "points.json"):
            os.link(originals / f"{number % sets}.{name}", folder / f"{fit_name(number)}.{name}")


def _picture(name, k):
    """A JPEG of the usual size and weight."""
    size = (288, 288) if "face" in name or "hand" in name else (400, 512)
    rng = np.random.default_rng(k)
    noise = rng.integers(0, 60, (size[1] // 4, size[0] // 4, 3), np.uint8)
    image = Image.fromarray(noise + 90).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    draw.text((10, 10), f"{name} {k}", fill="white")
    if "photo" not in name:
        draw.ellipse((120, 100, 260, 420), fill=(150, 180, 215))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=88)
    return data.getvalue()


def no_body():
    """A body for the drawing process of a store whose pictures are all there."""
    raise FileNotFoundError("no body: nothing should have to be drawn")
