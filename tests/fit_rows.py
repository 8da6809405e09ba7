"""Rows of the store with plausible noise, for tests."""

import numpy as np

from curation.run_writer import RunInfo
from curation.schema import fit_columns


def example_row(seed=0, num_betas=10, num_expression=10, **changes):
    """A row of plausible noise, every column filled."""
    rng = np.random.default_rng(seed)
    row: dict = {}
    for column in fit_columns(num_betas, num_expression):
        if column.shape:
            dtype = np.int8 if column.kind == "int8" else np.float32
            row[column.name] = (rng.normal(size=column.shape) * 10).astype(dtype)
        else:
            row[column.name] = {
                "string": f"{column.name}-{seed}",
                "bool": True,
                "int32": seed,
                "float32": np.float32(rng.normal()),
                "list<string>": ["front", "back"],
                "list<float32>": [1.0, 2.0],
                "map<string,float32>": {"data": 1.5, "pose_prior": 0.25},
            }[column.kind]
    row["keypoint_places"] = []  # noise is where SMPL-X's points are
    return row | changes


def run_info(tmp_path, run_id="run-1", body="open", **changes):
    values = {
        "run_id": run_id,
        "config": {"seed": 0},
        "config_hash": "c0ffee",
        "dataset": "photos",
        "dataset_root": tmp_path,
        "body_name": f"{body}-neutral",
        "body_sha256": body * 8,
        "body_is_open": True,
        "code_version": "0",
    }
    return RunInfo(**values | changes)
