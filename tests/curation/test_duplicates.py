"""Copies, crops and mirrors are found, other photos are not; splits keep them together."""

import io
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from curation.duplicates import close_pairs, hash_photo, hash_pixels, near_duplicate_groups
from curation.photo_hashes import hash_photos
from curation.splits import assign_splits


def made_photo(seed, size=(180, 240)):
    """Smooth blobs: as much structure at low frequencies as photos have."""
    rng = np.random.default_rng(seed)
    layers = [gaussian_filter(rng.normal(size=(*size, 3)), (s, s, 0)) * s for s in (4, 12, 30)]
    image = sum(layers)
    image = (image - image.min()) / (image.max() - image.min())
    return (255 * image).astype(np.uint8)


def variants(photo):
    image = Image.fromarray(photo)
    width, height = image.size
    data = io.BytesIO()
    image.save(data, "JPEG", quality=30)
    crop = image.crop((3, 2, width - 3, height - 3))
    return {
        "compressed": np.asarray(Image.open(data)),
        "small": np.asarray(image.resize((width // 2, height // 2))),
        "mirrored": photo[:, ::-1],
        "cropped": np.asarray(crop),
        "brighter": np.clip(photo.astype(int) + 25, 0, 255).astype(np.uint8),
        "cropped and mirrored": np.asarray(crop)[:, ::-1],
    }


def test_copies_are_found_and_others_are_not():
    photos = [made_photo(seed) for seed in range(30)]
    kinds = [*variants(photos[0])]
    everything = [*photos] + [v for photo in photos for v in variants(photo).values()]
    groups = near_duplicate_groups([hash_pixels(photo) for photo in everything])
    assert (groups[:30] == np.arange(30)).all()  # no two different ones together
    found = groups[30:].reshape(30, len(kinds)) == np.arange(30)[:, None]
    assert found[:, [kinds.index(k) for k in ("compressed", "small", "mirrored")]].all()
    assert found.mean() > 0.97


def test_mirroring_twice_is_nothing():
    photo = made_photo(3, (288, 288))  # all the sides of the small images divide it
    one, other = hash_pixels(photo), hash_pixels(photo[:, ::-1])
    assert (one.frequencies, one.steps) == (other.frequencies_mirrored, other.steps_mirrored)
    assert (other.frequencies, other.steps) == (one.frequencies_mirrored, one.steps_mirrored)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 9))
def test_pairs_are_those_of_brute_force(seed, distance):
    rng = np.random.default_rng(seed)
    left = rng.integers(0, 2**64, 40, np.uint64)
    right = np.concatenate([left[:20], rng.integers(0, 2**64, 30, np.uint64)])
    for k in range(20):
        for bit in rng.choice(64, rng.integers(0, 12), replace=False):
            right[k] ^= np.uint64(1) << np.uint64(bit)
    apart = np.array([[bin(int(a) ^ int(b)).count("1") for b in right] for a in left])
    expected = np.argwhere(apart <= distance)
    np.testing.assert_array_equal(close_pairs(left, right, distance), expected)


def test_forty_thousand_photos_and_ten_thousand_black_ones():
    rng = np.random.default_rng(0)
    from curation.duplicates import PhotoHash

    numbers = rng.integers(0, 2**64, (30_000, 4), np.uint64).tolist()
    black = PhotoHash(0, 0, 0, 0)
    begin = time.process_time()
    groups = near_duplicate_groups([PhotoHash(*n) for n in numbers] + [black] * 10_000)
    assert time.process_time() - begin < 30
    assert len(np.unique(groups)) == 30_001


def test_unreadable_photos_are_alone(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(made_photo(0)).save(path)
    one = hash_photo(path)
    assert near_duplicate_groups([None, one, None, one]).tolist() == [0, 1, 2, 1]
    assert near_duplicate_groups([]).tolist() == []


def test_hashes_are_kept_by_what_the_file_holds(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(made_photo(0)).save(path)
    (tmp_path / "b.png").write_bytes(b"no picture")
    cache = tmp_path / "meta" / "hashes.parquet"
    photos = [(path, "a" * 64), (tmp_path / "b.png", "b" * 64)]
    first = hash_photos(photos, cache)
    assert first[0] == hash_photo(path)
    assert first[1] is None
    path.unlink()  # the hash is known, the photo is not read again
    assert hash_photos(photos, cache) == first
    cache.write_bytes(b"damaged")
    assert hash_photos(photos, cache) == [None, None]
    assert cache.read_bytes() == b"damaged"


def test_splits_are_by_group_and_by_name_alone():
    names = [f"{k:04d}" for k in range(4000)]
    groups = np.arange(4000) // 4
    split = assign_splits(names, groups, shares={"train": 0.8, "val": 0.15, "test": 0.05})
    by_group = {}
    for side, group in zip(split, groups, strict=True):
        assert by_group.setdefault(group, side) == side
    share = [split.count(s) / 4000 for s in ("train", "val", "test")]
    np.testing.assert_allclose(share, [0.8, 0.15, 0.05], atol=0.03)
    some = assign_splits(
        names[:400], groups[:400], shares={"train": 0.8, "val": 0.15, "test": 0.05}
    )
    assert some == split[:400]
    assert assign_splits(names, groups, salt="other") != assign_splits(names, groups)


def test_what_was_trained_on_never_tests():
    names = ["a", "b", "c"]
    split = assign_splits(names, np.zeros(3), previous={"b": "val", "c": "train"})
    assert split == ("train",) * 3
    assert assign_splits(names, np.zeros(3), previous={"b": "val"}) == ("val",) * 3
    with pytest.raises(ValueError, match="sum to 1"):
        assign_splits(names, shares={"train": 0.5})
