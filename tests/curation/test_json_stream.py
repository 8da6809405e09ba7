import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import json_stream
from curation.json_stream import iter_items, read_item

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("json") / "a.json"


@settings(deadline=None, max_examples=150)
@given(
    items=st.lists(values, max_size=8),
    others=st.dictionaries(st.text().filter(lambda k: k != "wanted"), values, max_size=3),
    chunk=st.integers(1, 40),
    escaped=st.booleans(),
    indent=st.sampled_from([None, 2]),
)
def test_items_are_those_of_the_json_module_whatever_the_window(
    file, items, others, chunk, escaped, indent
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        keys = list(others)
        data = {k: others[k] for k in keys[:1]} | {"wanted": items} | others
        file.write_text(json.dumps(data, ensure_ascii=escaped, indent=indent), "utf-8")
        found = list(iter_items(file, "wanted"))
        assert [item.value for _, item in found] == items
        assert {name for name, _ in found} <= {"wanted"}
        assert [read_item(file, item.offset, item.length) for _, item in found] == items

        file.write_text(json.dumps(items, ensure_ascii=escaped, indent=indent), "utf-8")
        found = list(iter_items(file))
        assert [item.value for _, item in found] == items
        assert [read_item(file, item.offset, item.length) for _, item in found] == items


@pytest.mark.parametrize(
    "text",
    ["", "  ", "{", "[1, 2", '{"wanted": [1, 2}', '{"wanted": [{"a": 1]', "no", "{'a': 1}", "[1"],
)
def test_what_is_no_json_is_a_value_error_with_the_files_name(file, text):
    file.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json"):
        list(iter_items(file, "wanted"))
    with pytest.raises(ValueError, match=r"a\.json"):
        list(iter_items(file))


def test_only_the_arrays_asked_for_are_given(file):
    file.write_text('\ufeff{"images": [1], "categories": [2], "annotations": [3, 4]}', "utf-8")
    found = [(name, item.value) for name, item in iter_items(file, "images", "annotations")]
    assert found == [("images", 1), ("annotations", 3), ("annotations", 4)]
