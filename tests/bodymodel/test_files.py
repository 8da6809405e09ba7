import logging
import pickle
import sys
import types

import numpy as np
import pytest
import scipy.sparse

from bodymodel import files
from bodymodel.arrays import body_from_arrays, content_sha256
from bodymodel.files import load_body
from bodymodel.pickles import UnsafePickleError
from bodymodel.spec import FAMILIES
from tests.toy_body import toy_arrays, write_toy_file


@pytest.fixture(autouse=True)
def no_models_variable(monkeypatch):
    monkeypatch.delenv(files.MODELS_VARIABLE, raising=False)


@pytest.fixture
def toy():
    """A fresh dict of arrays that a test may spoil."""
    return toy_arrays("smplx")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_loads_from_a_file(tmp_path, family):
    body = load_body(write_toy_file(tmp_path / "any_name.npz", family), family)
    assert body.parents == FAMILIES[family].parents
    assert body.joints == FAMILIES[family].joints
    assert body.name == f"toy-{family}-neutral"
    assert not body.is_open
    assert body.num_expression == (10 if family in ("smplx", "flame") else 0)
    assert body.v_template.dtype == np.float32
    assert body.faces.dtype == np.int32
    for array in (body.shapedirs, body.weights, body.posedirs, body.joint_regressor):
        assert array.dtype == np.float32


def test_hands_of_each_family(tmp_path):
    arrays = toy_arrays("smplx")
    body = load_body(write_toy_file(tmp_path / "x.npz"), "smplx")
    np.testing.assert_allclose(body.hand_components[0], arrays["hands_componentsl"], rtol=1e-6)
    np.testing.assert_allclose(body.hand_means[1], arrays["hands_meanr"], rtol=1e-6)
    (tmp_path / "lefteris").mkdir()
    right = write_toy_file(tmp_path / "lefteris" / "MANO_RIGHT.npz", "mano")
    mano = load_body(right, "mano")
    assert mano.hand_components[1].any()
    assert not mano.hand_components[0].any()
    left = load_body(write_toy_file(tmp_path / "MANO_LEFT.npz", "mano"), "mano")
    assert left.hand_components[0].any()
    assert not load_body(write_toy_file(tmp_path / "s.npz", "smpl"), "smpl").hand_components.any()


@pytest.mark.parametrize(
    ("family", "gender", "name"),
    [
        ("smplx", "neutral", "smplx/SMPLX_NEUTRAL.npz"),
        ("smplx", "female", "SMPLX_FEMALE.npz"),
        ("smplx", "male", "models/smplx/SMPLX_MALE.npz"),
        ("smplx", "male", "SMPLX_MALE.pkl"),
        ("smplx", "male", "smplx/SMPLX_MALE_2020.npz"),
        ("smplh", "male", "SMPLH_MALE.pkl"),
        ("smplh", "male", "smplh/male/model.npz"),
        ("smpl", "male", "SMPL_MALE.pkl"),
        ("smpl", "male", "basicmodel_m_lbs_10_207_0_v1.1.0.pkl"),
        ("smpl", "neutral", "smpl/basicModel_neutral_lbs_10_207_0_v1.0.0.pkl"),
        ("mano", "neutral", "mano/MANO_RIGHT.pkl"),
        ("flame", "neutral", "FLAME_NEUTRAL.pkl"),
        ("flame", "neutral", "flame/generic_model.pkl"),
        ("flame", "neutral", "flame/flame2023.pkl"),
        ("smpl", "male", "smpl/models/basicmodel_m_lbs_10_207_0_v1.1.0.pkl"),
    ],
)
def test_the_published_layouts_are_found(tmp_path, family, gender, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        write_toy_file(path, family)
    else:
        arrays = toy_arrays(family)
        arrays["J_regressor"] = scipy.sparse.csc_matrix(arrays["J_regressor"])
        path.write_bytes(pickle.dumps(arrays, 2))
    body = load_body(tmp_path, family, gender)
    assert body.gender == gender
    np.testing.assert_allclose(body.joint_regressor.sum(1), 1, atol=1e-6)


def test_search_order_prefers_the_family_folder_and_npz(tmp_path):
    (tmp_path / "smplx").mkdir()
    for name in ("smplx/SMPLX_NEUTRAL.npz", "smplx/SMPLX_NEUTRAL.pkl", "SMPLX_NEUTRAL.npz"):
        (tmp_path / name).touch()
    found = files.find_model_file(tmp_path, "smplx", "neutral")
    assert found == tmp_path / "smplx" / "SMPLX_NEUTRAL.npz"


def test_the_environment_variable(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="PSEUDOGT_MODELS"):
        load_body("licensed")
    monkeypatch.setenv("PSEUDOGT_MODELS", str(tmp_path))
    path = write_toy_file(tmp_path / "SMPLX_NEUTRAL.npz")
    assert files.find_model_file("licensed", "smplx", "neutral") == path
    assert files.find_model_file("SMPLX_NEUTRAL.npz", "smplx", "neutral") == path


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load_body(tmp_path)
    text = str(error.value)
    assert str(tmp_path / "smplx" / "SMPLX_NEUTRAL.npz") in text
    assert "smpl-x.is.tue.mpg.de" in text
    assert "'open'" in text
    assert "there is a" not in text
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_body(tmp_path / "nowhere")
    (tmp_path / "SMPLX_NEUTRAL.npz").touch()
    with pytest.raises(FileNotFoundError, match="there is a neutral one"):
        load_body(tmp_path, gender="male")


def test_npz_with_pickled_dicts_loads_and_does_not_unpickle_them(tmp_path, toy):
    class Touch:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    toy["part2num"] = np.array(Touch(), dtype=object)
    np.savez(tmp_path / "m.npz", **toy)
    load_body(tmp_path / "m.npz")
    assert not (tmp_path / "owned").exists()


def test_a_required_array_that_is_a_pickle_is_missing(tmp_path, toy):
    toy["J_regressor"] = np.array({"a": 1}, dtype=object)
    np.savez(tmp_path / "m.npz", **toy)
    with pytest.raises(ValueError, match="lacks J_regressor"):
        load_body(tmp_path / "m.npz")


def test_a_malicious_pickle_is_refused(tmp_path, toy):
    class Call:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'owned')!r}, 'w')",))

    toy["shapedirs"] = Call()
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(toy))
    with pytest.raises(UnsafePickleError, match="exec"):
        load_body(tmp_path / "m.pkl")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["m.npz", "m.pkl", "m.bin"])
def test_damaged_files(tmp_path, name):
    (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(ValueError, match=name):
        load_body(tmp_path / name)


def spoil(key, change):
    def apply(arrays):
        arrays[key] = change(arrays[key].copy())

    return apply


def put(array, index, value):
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("weights"), "lacks weights"),
        (spoil("v_template", lambda x: put(x, (0, 0), np.nan)), "v_template .* not finite"),
        (spoil("v_template", lambda x: x[:, :2]), r"v_template must be \(any, 3\)"),
        (spoil("weights", lambda x: x * 1.1), "rows of weights must sum to 1"),
        (spoil("weights", lambda x: x[:, :24]), "weights must be"),
        (spoil("J_regressor", lambda x: x * 0), "rows of J_regressor"),
        (spoil("J_regressor", lambda x: x.T), "J_regressor must be"),
        (spoil("posedirs", lambda x: x[..., :207]), r"posedirs must be \(\d+, 3, 486\)"),
        (spoil("f", lambda x: put(x, (0, 0), 10**6)), "f must lie in"),
        (spoil("f", lambda x: x.astype(str)), "f must be .* numbers"),
        (spoil("kintree_table", lambda x: x[:, :24]), "kintree_table must be"),
        (spoil("kintree_table", lambda x: put(x, (0, 5), 0)), "kintree_table must start"),
        (spoil("kintree_table", lambda x: put(x, (0, 0), 0)), "kintree_table must start"),
        (spoil("lmk_faces_idx", lambda x: x + 10**6), "lmk_faces_idx must lie in"),
        (spoil("lmk_faces_idx", lambda x: x[:50]), "lmk_faces_idx must be"),
        (spoil("hands_meanl", lambda x: x[:12]), "hands_meanl must be"),
        (lambda a: a.pop("vertex_ids"), "smplx has 10475 vertices, v_template has"),
        (lambda a: a.pop("lmk_bary_coords"), "lmk_bary_coords is missing"),
    ],
)
def test_unsound_arrays_are_told_by_name(toy, change, message):
    change(toy)
    with pytest.raises(ValueError, match=message):
        body_from_arrays(toy, "smplx", "neutral", source="file.npz")


def test_another_familys_file_is_told(toy):
    with pytest.raises(ValueError, match="kintree_table must be"):
        body_from_arrays(toy, "smpl", "neutral")


@pytest.mark.parametrize("root", [-1, 4294967295])
def test_the_roots_parent_in_both_spellings(toy, root):
    table = toy["kintree_table"].astype(np.int64)
    table[0, 0] = root
    toy["kintree_table"] = table
    assert body_from_arrays(toy, "smplx", "neutral").parents[0] == -1


@pytest.mark.parametrize(
    ("family", "width", "betas", "expression_start"),
    [
        ("smplx", 400, 300, 300), ("smplx", 20, 10, 10), ("smplx", 10, 10, None),
        ("smplx", 16, 16, None), ("smpl", 10, 10, None), ("smpl", 300, 300, None),
        ("smplh", 16, 16, None), ("flame", 400, 300, 300),
    ],
)  # fmt: skip
def test_where_expression_starts(family, width, betas, expression_start):
    arrays = toy_arrays(family)
    size = len(arrays["v_template"])
    arrays["shapedirs"] = np.arange(width) * np.ones((size, 3, 1))
    wanted = 0 if expression_start is None else 10
    body = body_from_arrays(arrays, family, "neutral", betas, wanted)
    assert body.shapedirs[0, 0].tolist() == list(range(betas))
    if expression_start is not None:
        expected = list(range(expression_start, expression_start + 10))
        assert body.exprdirs[0, 0].tolist() == expected
    with pytest.raises(ValueError, match=f"has {betas} components, num_betas={betas + 1}"):
        body_from_arrays(arrays, family, "neutral", betas + 1, wanted)


def test_expression_is_ignored_where_there_is_none():
    assert body_from_arrays(toy_arrays("smpl"), "smpl", "neutral").num_expression == 0


def test_the_hash_is_the_files(tmp_path):
    import hashlib

    path = write_toy_file(tmp_path / "m.npz")
    assert load_body(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_content_hash_sees_values_and_not_packaging(toy):
    reference = content_sha256(toy)
    packed = dict(toy, J_regressor=scipy.sparse.csc_matrix(toy["J_regressor"]), extra=np.ones(1))
    packed["f"] = toy["f"].astype(np.int64)
    assert content_sha256(packed) == reference
    toy["shapedirs"][3, 0, 0] += 1e-3
    assert content_sha256(toy) != reference


@pytest.fixture
def fake_open_body(monkeypatch, toy):
    """An embedded open body made of toy arrays."""
    toy["model_name"] = np.array("open body: neutral")
    module = types.ModuleType("bodymodel.openbody")
    module.load_open_arrays = lambda family, gender: toy
    monkeypatch.setitem(sys.modules, "bodymodel.openbody", module)
    monkeypatch.setattr(sys.modules["bodymodel"], "openbody", module, raising=False)
    files._tell_that_it_is_open.cache_clear()
    return toy


def test_the_open_body_says_once_that_it_is_not_smplx(fake_open_body, caplog):
    caplog.set_level(logging.INFO)
    body = load_body()
    assert body.is_open
    assert body.name == "open-smplx-neutral"
    load_body("open")
    assert [r.message for r in caplog.records if "not SMPL-X" in r.message] != []
    assert len([r for r in caplog.records if "not SMPL-X" in r.message]) == 1


def test_an_exported_open_body_is_recognised(fake_open_body, tmp_path):
    np.savez_compressed(tmp_path / "SMPLX_NEUTRAL.npz", **fake_open_body)
    exported, built_in = load_body(tmp_path), load_body("open")
    assert exported.is_open
    assert exported.sha256 == built_in.sha256


def test_bad_words_are_told():
    with pytest.raises(ValueError, match="smplxx"):
        load_body("open", "smplxx")
    with pytest.raises(ValueError, match="gender must be"):
        load_body("open", "smplx", "Neutral")


def test_loading_needs_no_torch(tmp_path):
    import subprocess

    path = write_toy_file(tmp_path / "m.npz")
    code = (
        "import sys; from bodymodel.files import load_body;"
        f"load_body({str(path)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
