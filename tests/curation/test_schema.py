"""The columns of a fit row: no nulls, arrays of the right shape, a current docs/schema.md."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.schema import (
    FORMAT_VERSION,
    PARAMETERS,
    check_format_version,
    field_shape,
    fit_id,
    fit_schema,
    image_key,
    rows_to_table,
    unpack_column,
)
from tests.fit_rows import example_row

ROOT = Path(__file__).parents[2]


def test_docs_schema_is_current():
    printed = subprocess.run(
        [sys.executable, "-m", "curation.schema"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (ROOT / "docs/schema.md").read_text() == printed, (
        "run: python -m curation.schema > docs/schema.md"
    )


def test_rows_survive_parquet_with_shapes_and_metadata(tmp_path):
    rows = [example_row(seed) for seed in range(5)]
    schema = fit_schema(metadata={"run_id": "r"})
    pq.write_table(rows_to_table(rows, schema), tmp_path / "p.parquet")
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.schema.metadata[b"format_version"] == FORMAT_VERSION.encode()
    assert table.schema.metadata[b"run_id"] == b"r"
    assert table.schema.field("body_pose").metadata[b"unit"] == b"rad"
    for field in table.schema:
        assert not field.nullable
        assert table[field.name].null_count == 0
        column = unpack_column(table[field.name], field)
        for value, row in zip(column, rows, strict=True):
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, row[field.name])
                assert value.shape == field_shape(field)
            elif field.name == "energy":
                assert value == row["energy"]
            else:
                assert value == row[field.name]


def test_unpack_heeds_a_slice():
    table = rows_to_table([example_row(seed) for seed in range(6)], fit_schema()).slice(2, 3)
    poses = unpack_column(table["body_pose"], table.schema.field("body_pose"))
    np.testing.assert_array_equal(poses[0], example_row(2)["body_pose"])
    assert poses.shape == (3, 21, 3)


def test_missing_values_stay_nan_rows_are_not_dropped():
    rows = [example_row(0), example_row(1, betas=np.full(10, np.nan)), example_row(2)]
    table = rows_to_table(rows, fit_schema())
    betas = unpack_column(table["betas"], table.schema.field("betas"))
    assert betas.shape == (3, 10)
    assert np.isnan(betas[1]).all()
    assert np.isfinite(betas[[0, 2]]).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"betas": np.zeros(9)}, r"betas must be \(10,\), got \(9,\)"),
        ({"status": None}, "null|encode|None"),
        ({"another": 1}, "another"),
    ],
)
def test_bad_rows_are_refused(change, match):
    with pytest.raises((ValueError, AttributeError), match=match):
        rows_to_table([example_row(0) | change], fit_schema())


def test_other_sizes_of_betas():
    schema = fit_schema(num_betas=16, num_expression=0)
    table = rows_to_table([example_row(0, 16, 0)], schema)
    assert unpack_column(table["betas"], schema.field("betas")).shape == (1, 16)
    assert "expression" not in table.column_names


def test_format_versions():
    major, minor = map(int, FORMAT_VERSION.split("."))
    check_format_version(f"{major}.{minor + 7}", "part")
    with pytest.raises(ValueError, match="install a newer"):
        check_format_version(f"{major + 1}.0", "part")
    with pytest.raises(ValueError, match=r"expected major\.minor"):
        check_format_version("new", "part")


def test_ids_do_not_run_into_each_other():
    ids = {
        fit_id("d", "a/b.jpg", 1, "r"),
        fit_id("d", "a/b.jpg", 11, "r"),
        fit_id("da", "/b.jpg", 1, "r"),
        fit_id("d", "a/b.jpg1", 1, "r"),
        fit_id("d", "a/b.jpg", 1, "r2"),
    }
    assert len(ids) == 5
    assert all(len(bytes.fromhex(i)) == 16 for i in ids)


def test_file_names_that_are_not_unicode():
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    table = rows_to_table([example_row(0, image_id=name)], fit_schema())
    stored = table["image_id"][0].as_py()
    assert stored == "caf\\xe9.jpg"
    assert image_key(stored) == image_key(name)


def test_parameters_are_columns():
    assert set(PARAMETERS) <= set(fit_schema().names)
    assert isinstance(fit_schema(), pa.Schema)
