"""Files that belong to photos: short names, and never one for two photos."""

from hypothesis import given
from hypothesis import strategies as st

from curation.file_stems import FolderStems, unique_stems

NAMES = st.lists(
    st.builds(
        lambda folder, stem, ending: f"{folder}{stem}{ending}",
        st.sampled_from(["", "x/", "x/y/"]),
        st.sampled_from(["a", "A", "b", "a.b", "ü"]),
        st.sampled_from([".jpg", ".JPG", ".png", ".jpeg", ""]),
    )
)


def test_only_photos_that_share_a_name_keep_their_endings():
    found = unique_stems(["a.jpg", "a.png", "x/a.jpg", "b.c.jpg", "D.jpg", "d.webp", "x/a.jpg"])
    assert found == {
        "a.jpg": "a.jpg", "a.png": "a.png", "x/a.jpg": "x/a", "b.c.jpg": "b.c",
        "D.jpg": "D.jpg", "d.webp": "d.webp",
    }  # fmt: skip


def test_an_ending_that_is_kept_is_nobody_elses_stem():
    found = unique_stems(["a.jpg.png", "a.jpg", "a.png"])
    assert found == {"a.jpg.png": "a.jpg.png", "a.jpg": "a.jpg", "a.png": "a.png"}


@given(NAMES)
def test_no_two_photos_share_a_name(paths):
    found = unique_stems(paths)
    assert set(found) == set(paths)
    for path, stem in found.items():
        assert path.startswith(stem)
        assert sum(stem == other for other in found.values()) == 1


def test_one_by_one_is_as_the_whole_folder(tmp_path):
    (tmp_path / "x").mkdir()
    for name in ("a.jpg", "a.png", "b.jpg", "b.txt", "x/a.jpg"):
        (tmp_path / name).write_bytes(b"")
    stems = FolderStems(tmp_path)
    assert [stems(n) for n in ("a.png", "a.jpg", "b.jpg", "x/a.jpg")] == [
        "a.png", "a.jpg", "b", "x/a",
    ]  # fmt: skip


def test_photos_that_are_gone_lose_their_endings(tmp_path):
    assert FolderStems(tmp_path / "gone")("y/a.jpg") == "y/a"
