"""Real files, the real detector, real processes: what a user's folder gives."""

import math

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS
from curation.datasets import open_dataset
from curation.observe import observe
from curation.samples import KeypointSource
from tests.curation.drawing import HEIGHT, JOINTS, WIDTH, draw_person

pytest.importorskip("mediapipe")
pytestmark = pytest.mark.slow


def rows_of(root, **options):
    rows = list(observe(open_dataset(root).iter_samples(), workers=1, **options))
    assert len({(row.image_id, row.person_index) for row in rows}) == len(rows)
    return rows


def error_px(row, corner=(0, 0), scale=1.0, source=None):
    """The largest distance of a sure point to where the person was drawn, in its pixels."""
    worst = 0.0
    for name, (x, y) in JOINTS.items():
        index = FIT_KEYPOINTS.index(name)
        is_sure = row.keypoints_2d[index, 2] > 0.7
        if is_sure and source in (None, row.keypoint_source[index]):
            point = (row.keypoints_2d[index, :2] - corner) / scale
            worst = max(worst, math.hypot(point[0] - x, point[1] - y))
    return worst


def test_one_drawn_person_is_found_where_they_were_drawn(tmp_path):
    draw_person().save(tmp_path / "a.png")
    (row,) = rows_of(tmp_path)
    assert row.status == "ok" and (row.width, row.height) == (WIDTH, HEIGHT)
    assert (row.keypoints_2d[:, 2] > 0).sum() > 80  # body, feet and face; the hands are blobs
    assert error_px(row) < 20  # 3 % of the picture
    assert set(np.unique(row.keypoint_source)) == {0, KeypointSource.MEDIAPIPE}


def test_every_kind_of_file_gives_the_same_person_or_a_plain_reason(tmp_path):
    picture = draw_person()
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    picture.convert("L").save(tmp_path / "grey.png")
    picture.convert("RGBA").save(tmp_path / "alpha.png")
    picture.quantize(128).save(tmp_path / "palette.png")
    grey = np.asarray(picture.convert("L")).astype(np.uint16)
    Image.fromarray(grey * 257).save(tmp_path / "16 bits.png")
    Image.fromarray(grey * 16).save(tmp_path / "12 of 16 bits.tif")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.rotate(90, expand=True).save(tmp_path / "rotated.jpg", exif=exif, quality=95)
    picture.save(tmp_path / "zoë.many.dots 人.webp")
    picture.resize((4000, 6000)).save(tmp_path / "24 megapixels.jpg", quality=80)
    (tmp_path / "zero.jpg").write_bytes(b"")
    data = (tmp_path / "rotated.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("RGB", (1, 1)).save(tmp_path / "one pixel.png")
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "nothing")

    rows = {row.image_id: row for row in rows_of(tmp_path)}
    assert len(rows) == 14
    reasons = {
        "zero.jpg": "empty",
        "truncated.jpg": "truncated",
        "text.jpg": "not an image",
        "nowhere.jpg": "no such file",
        "one pixel.png": "nobody",
    }
    for name, row in rows.items():
        if name in reasons:
            assert row.status != "ok" and reasons[name] in row.reason, name
        else:
            scale = 6000 / HEIGHT if name.startswith("24") else 1.0
            stretch = np.array([4000 / WIDTH, scale]) if scale > 1 else 1.0
            assert row.status == "ok" and error_px(row, scale=stretch) < 25, name


def test_ten_people_are_ten_rows(tmp_path):
    picture = draw_person().resize((240, 320))
    crowd = Image.new("RGB", (5 * 240, 2 * 320))
    corners = [(240 * (i % 5), 320 * (i // 5)) for i in range(10)]
    for corner in corners:
        crowd.paste(picture, corner)
    crowd.save(tmp_path / "crowd.jpg", quality=95)
    rows = rows_of(tmp_path)
    assert [row.person_index for row in rows] == list(range(10))
    found = {min(corners, key=lambda c: error_px(row, c, 0.5)) for row in rows}
    assert len(found) == 10
    assert all(min(error_px(row, c, 0.5) for c in corners) < 30 for row in rows)


def lsp_with(root, corner, scale):
    """One LSP image of two people, of whom the one at the corner is labelled."""
    picture = draw_person()
    small = picture.resize((WIDTH // 2, HEIGHT // 2))
    scene = Image.new("RGB", (WIDTH + WIDTH // 2, HEIGHT), (176, 190, 200))
    scene.paste(picture, (0, 0))
    scene.paste(small, (WIDTH, HEIGHT // 2))
    (root / "images").mkdir()
    scene.save(root / "images" / "im0001.jpg", quality=95)
    joints = np.zeros((3, 14, 1))
    for j, name in enumerate(CONVENTIONS["lsp14"]):
        joints[:2, j, 0] = np.array(corner) + scale * np.array(JOINTS[name]) + 0.5  # MATLAB's
    savemat(root / "joints.mat", {"joints": joints})


@pytest.mark.parametrize(("corner", "scale"), [((0, 0), 1.0), ((WIDTH, HEIGHT // 2), 0.5)])
def test_the_detector_adds_to_the_labelled_person_and_to_nobody_else(tmp_path, corner, scale):
    lsp_with(tmp_path, corner, scale)
    (row,) = rows_of(tmp_path)
    assert error_px(row, corner, scale, KeypointSource.ANNOTATION) < 0.01
    added = row.keypoint_source == KeypointSource.MEDIAPIPE
    assert added[FIT_KEYPOINTS.index("nose")] and added[FIT_KEYPOINTS.index("mouth_top")]
    assert error_px(row, corner, scale, KeypointSource.MEDIAPIPE) < 20


def test_a_second_run_says_the_same_without_detecting(tmp_path):
    draw_person().save(tmp_path / "a.png")
    cache = tmp_path / "fits" / "cache"
    first = rows_of(tmp_path, cache_dir=cache)
    (entry,) = cache.rglob("*.npz")
    written = entry.stat().st_mtime_ns
    second = rows_of(tmp_path, cache_dir=cache)
    fresh = rows_of(tmp_path)
    assert entry.stat().st_mtime_ns == written
    for rows in (second, fresh):
        for a, b in zip(first, rows, strict=True):
            assert np.array_equal(a.keypoints_2d, b.keypoints_2d)
            assert np.array_equal(a.keypoint_source, b.keypoint_source)
