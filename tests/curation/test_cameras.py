import json

import pytest
from PIL import Image

from curation.datasets import DatasetError, open_dataset
from curation.observe import observe
from curation.samples import KnownCamera


@pytest.fixture
def photos(tmp_path):
    for name in ("a.jpg", "left/b.jpg", "right/deep/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    return tmp_path


def cameras_of(root):
    return {s.image_id: s.camera for s in open_dataset(root).iter_samples()}


def test_the_closest_name_counts(photos):
    (photos / "cameras.json").write_text(
        json.dumps(
            {
                "*": {"focal_px": 50},
                "right": {"K": [[80, 0, 30], [0, 80, 20], [0, 0, 1]]},
                "left/b.jpg": {"focal_px": 70, "center_px": [31, 22]},
            }
        )
    )
    assert cameras_of(photos) == {
        "a.jpg": KnownCamera(50),
        "left/b.jpg": KnownCamera(70, (31, 22)),
        "right/deep/c.jpg": KnownCamera(80, (30, 20)),
    }
    seen = observe(open_dataset(photos).iter_samples(), source="annotations")
    assert [o.camera.focal_px for o in seen] == [50, 70, 80]


def test_without_the_file_nobody_knows(photos):
    assert set(cameras_of(photos).values()) == {None}


@pytest.mark.parametrize(
    "entry",
    [
        "[]",
        '{"*": {}}',
        '{"*": {"focal_px": -3}}',
        '{"*": {"K": [[9, 0, 1], [0, 7, 1], [0, 0, 1]]}}',
    ],
)
def test_a_bad_file_is_said(photos, entry):
    (photos / "cameras.json").write_text(entry)
    with pytest.raises(DatasetError, match=r"cameras\.json"):
        open_dataset(photos)
