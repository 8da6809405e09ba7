"""Pickles by joblib: arrays between the instructions, nothing run."""

import os
import pickle
from collections import OrderedDict, defaultdict

import joblib
import numpy as np
import pytest
from joblib.numpy_pickle import NumpyArrayWrapper

from bodymodel.joblib_pickles import load_nested_pickle
from bodymodel.pickles import UnsafePickleError


def assert_same(found, wanted):
    if isinstance(wanted, dict):
        assert sorted(found) == sorted(map(str, wanted))
        for key, value in wanted.items():
            assert_same(found[str(key)], value)
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            assert_same(a, b)
    elif isinstance(wanted, np.ndarray) and wanted.dtype != object:
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        np.testing.assert_array_equal(found, wanted)
    else:
        assert found == (wanted.tolist() if isinstance(wanted, np.ndarray) else wanted)


@pytest.mark.parametrize(
    "options",
    [{}, {"compress": 3}, {"compress": ("gzip", 9)}, *({"protocol": p} for p in range(6))],
)
def test_what_joblib_wrote_comes_back(tmp_path, options):
    rng = np.random.default_rng(0)
    people = defaultdict(dict)
    people[1] = {
        "pose": rng.normal(size=(5, 72)).astype("f4"), "ids": np.arange(5),
        "fortran": np.asfortranarray(rng.normal(size=(3, 4))), "none": np.zeros((0, 3)),
        "flags": np.array([True, False]), "big": np.arange(3, dtype=">f8"), "text": "é",
        "mixed": np.array([{"a": 1}, None], object), "tuple": (1, [np.ones(2)]),
        "order": OrderedDict(b=np.ones(1)),
    }  # fmt: skip
    joblib.dump(people, tmp_path / "x.pkl", **options)
    assert_same(load_nested_pickle(tmp_path / "x.pkl"), people)


def test_plain_pickles_come_back(tmp_path):
    content = {"a": [np.arange(3), {"b": np.eye(2)}]}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    assert_same(load_nested_pickle(tmp_path / "x.pkl"), content)


class Call:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("compress", [0, 3])
def test_nothing_is_run(tmp_path, compress):
    marker = tmp_path / "ran"
    attack = Call(os.system, f"touch {marker}")
    for content in ({"a": attack}, {"a": np.ones(3), "b": [attack]}, {"a": np.array([attack])}):
        joblib.dump(content, tmp_path / "x.pkl", compress=compress)
        with pytest.raises(UnsafePickleError, match="refused"):
            load_nested_pickle(tmp_path / "x.pkl")
    assert not marker.exists()


@pytest.mark.parametrize("shape", [(10**9, 10**9, 10**9), (-4, 8), (1000, 1000)])
def test_wrappers_that_lie_are_not_believed(tmp_path, shape):
    wrapper = NumpyArrayWrapper(np.ndarray, shape, "C", np.dtype("f8"))
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": wrapper}))
    with pytest.raises(ValueError, match="cannot be read"):
        load_nested_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize("compress", [0, 3])
def test_damaged_files_are_plain_errors(tmp_path, compress):
    joblib.dump({"a": np.arange(1000.0)}, tmp_path / "x.pkl", compress=compress)
    whole = (tmp_path / "x.pkl").read_bytes()
    for length in (0, 1, 20, len(whole) // 2, len(whole) - 1):
        (tmp_path / "x.pkl").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="complete"):
            load_nested_pickle(tmp_path / "x.pkl")
