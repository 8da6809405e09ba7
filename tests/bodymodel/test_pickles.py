import builtins
import functools
import operator
import os
import pickle
import subprocess
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from bodymodel.pickles import UnsafePickleError, load_model_pickle

PROTOCOLS = [0, 1, 2, 3, 4, 5]


def write(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_come_back(tmp_path, protocol):
    content = OrderedDict(
        ints=np.arange(12, dtype=np.uint32).reshape(3, 4),
        floats=np.random.default_rng(0).normal(size=(2, 3, 4)),
        fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        strided=np.arange(20.0)[::2],
        big_endian=np.arange(3, dtype=">f4"),
        flags=np.array([True, False]),
        scalar=np.float32(2.5),
        empty=np.zeros((0, 3)),
        style="lbs",
        number=3,
    )
    got = load_model_pickle(write(tmp_path / "m.pkl", content, protocol))
    assert list(got) == list(content)
    for key, value in content.items():
        np.testing.assert_array_equal(got[key], value)
        if isinstance(value, np.ndarray):
            assert got[key].dtype == value.dtype


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["csc_matrix", "csr_matrix", "coo_matrix", "csc_array"])
def test_sparse_matrices_come_back_dense(tmp_path, protocol, kind):
    dense = np.random.default_rng(1).normal(size=(5, 9)) * (np.arange(9) % 3 == 0)
    content = {"J_regressor": getattr(scipy.sparse, kind)(dense)}
    got = load_model_pickle(write(tmp_path / "m.pkl", content, protocol))
    np.testing.assert_array_equal(got["J_regressor"], dense)


@pytest.fixture
def fake_chumpy(monkeypatch):
    """Classes named like chumpy's, of which no trace is left when the file is read."""
    package, ch = types.ModuleType("chumpy"), types.ModuleType("chumpy.ch")
    reordering = types.ModuleType("chumpy.reordering")
    ch.Ch = type("Ch", (), {"__module__": "chumpy.ch"})
    reordering.Select = type("Select", (), {"__module__": "chumpy.reordering"})
    monkeypatch.setitem(sys.modules, "chumpy", package)
    monkeypatch.setitem(sys.modules, "chumpy.ch", ch)
    monkeypatch.setitem(sys.modules, "chumpy.reordering", reordering)
    return ch.Ch, reordering.Select


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_chumpy_objects_are_read_without_chumpy(tmp_path, fake_chumpy, protocol, monkeypatch):
    make_ch, make_select = fake_chumpy
    plain, source, select = make_ch(), make_ch(), make_select()
    plain.x, plain._dirty_vars = np.arange(6.0).reshape(2, 3), set()
    source.x = np.arange(10.0)
    select.a, select.idxs, select.preferred_shape = source, np.array([1, 3, 5, 7]), (2, 2)
    path = write(tmp_path / "m.pkl", {"shapedirs": plain, "v_template": select}, protocol)
    for name in ("chumpy", "chumpy.ch", "chumpy.reordering"):
        monkeypatch.delitem(sys.modules, name)
    got = load_model_pickle(path)
    np.testing.assert_array_equal(got["shapedirs"], plain.x)
    np.testing.assert_array_equal(got["v_template"], [[1, 3], [5, 7]])


def test_python_2_strings_are_bytes(tmp_path):
    """A protocol-2 pickle as Python 2 wrote it: byte strings for keys and for the data."""
    raw = np.array([1.5, -2.0]).tobytes()
    path = tmp_path / "py2.pkl"
    path.write_bytes(
        b"\x80\x02}U\x01vcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
        + bytes([len(raw)]) + raw + b"tbs."
    )  # fmt: skip
    np.testing.assert_array_equal(load_model_pickle(path)["v"], [1.5, -2.0])


class Call:
    """Pickles as a call of ``function(*args)``."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def attacks(marker):
    touch = f"open({str(marker)!r}, 'w').close()"
    shell = f"touch {marker}"
    return {
        "os.system": Call(os.system, shell),
        "posix_spawn": Call(subprocess.Popen, ["touch", str(marker)]),
        "eval": Call(builtins.eval, touch),
        "exec": Call(builtins.exec, touch),
        "open": Call(builtins.open, str(marker), "w"),
        "getattr": Call(builtins.getattr, "text", "upper"),
        "import": Call(builtins.__import__, "os"),
        "numpy.load": Call(np.load, str(marker)),
        "numpy.fromfile": Call(np.fromfile, str(marker)),
        "numpy.save": Call(np.save, str(marker), np.zeros(1)),
        "numpy.memmap": Call(np.memmap, str(marker), "u1", "w+", 0, (1,)),
        "numpy.testing": Call(np.testing.measure, touch),
        "numpy.f2py": Call(functools.partial(np.apply_along_axis, print, 0), [1]),
        "numpy.vectorize": Call(np.vectorize, os.system),
        "scipy.io": Call(scipy.sparse.load_npz, str(marker)),
        "partial": Call(functools.partial(os.system, shell)),
        "reduce": Call(functools.reduce, operator.add, [[1], [2]]),
        "attrgetter": Call(operator.attrgetter("upper"), "text"),
        "methodcaller": Call(operator.methodcaller("upper"), "text"),
        "pickle.loads": Call(pickle.loads, pickle.dumps(Call(os.system, shell))),
        "codecs": Call(__import__("codecs").open, str(marker), "w"),
        "dotted": Call(os.path.join, "a", "b"),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", sorted(attacks("x")))
def test_malicious_pickles_are_refused_and_not_run(tmp_path, name, protocol):
    marker = tmp_path / "owned"
    attack = attacks(marker)[name]
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"v_template": attack}, protocol))
    with pytest.raises(UnsafePickleError, match="refused"):
        load_model_pickle(path)
    assert not marker.exists()


def test_the_attacks_would_work_on_pickle_itself(tmp_path):
    """Otherwise the test above could not fail."""
    marker = tmp_path / "owned"
    pickle.loads(pickle.dumps(Call(os.system, f"touch {marker}")))
    assert marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch owned'\ntR.",  # GLOBAL
        b"(S'touch owned'\nios\nsystem\n.",  # INST
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0btouch owned\x85R.",  # STACK_GLOBAL
        b"\x80\x04\x8c\x05numpy\x8c\x0flib.npyio.loads\x93.",  # a dotted way out of an allowed one
        b"\x80\x04\x8c\x05numpy\x8c\x14ndarray.__subclasses\x93.",
        b"cbuiltins\nobject.__subclasses__\n)R.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"cbodymodel.pickles\nload_model_pickle\n.",
        b"Pidentity\n.",  # persistent id
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
        b"ccopy_reg\n_reconstructor\n(c__builtin__\nset\nc__builtin__\nobject\nNtR.",
    ],
)
def test_handwritten_programs_are_refused(tmp_path, monkeypatch, program):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pkl"
    path.write_bytes(program)
    with pytest.raises(UnsafePickleError):
        load_model_pickle(path)
    assert not (tmp_path / "owned").exists()


def test_a_pickle_cannot_alter_the_classes_that_read_it(tmp_path):
    """BUILD on a class would set attributes of it for every later file."""
    path = tmp_path / "evil.pkl"
    path.write_bytes(b"\x80\x02cchumpy.ch\nCh\nN}U\x05arrayK\x01s\x86b.")
    with pytest.raises(ValueError, match="cannot be read"):
        load_model_pickle(path)
    path.write_bytes(b"\x80\x02cnumpy\ndtype\nN}U\x05dtypeK\x01s\x86b.")
    with pytest.raises(ValueError, match="cannot be read"):
        load_model_pickle(path)


def test_object_arrays_and_odd_entries_stay_inert(tmp_path):
    content = {"part2num": np.array({"a": 1}, dtype=object), "info": {"a": [1, 2]}, "v": np.ones(2)}
    got = load_model_pickle(write(tmp_path / "m.pkl", content))
    assert np.asarray(got["part2num"]).dtype == object
    np.testing.assert_array_equal(got["v"], [1, 1])


def test_sparse_matrices_that_lie_are_not_believed(tmp_path):
    bad = scipy.sparse.csc_matrix(np.eye(3))
    bad.indices[0] = 100
    huge = scipy.sparse.csc_matrix(np.eye(3))
    huge._shape = (10**9, 10**9)
    got = load_model_pickle(write(tmp_path / "m.pkl", {"bad": bad, "huge": huge}))
    assert np.asarray(got["bad"]).dtype == object
    assert np.asarray(got["huge"]).dtype == object


def test_not_a_dict(tmp_path):
    with pytest.raises(ValueError, match="dict of arrays"):
        load_model_pickle(write(tmp_path / "m.pkl", [1, 2]))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_files_are_plain_errors(tmp_path_factory, data):
    whole = pickle.dumps({"v": np.arange(4.0), "m": scipy.sparse.csc_matrix(np.eye(3))}, 2)
    cut = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[cut] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("p") / "m.pkl"
    for content in (whole[:cut], bytes(changed)):
        path.write_bytes(content)
        try:
            got = load_model_pickle(path)
        except ValueError:
            continue
        assert isinstance(got, dict)
