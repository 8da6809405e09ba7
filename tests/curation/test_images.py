import hashlib
import io
import math
import os

import numpy as np
import pytest
from PIL import Image

from curation import images
from curation.images import ImageError, open_image, read_header, read_image

HEIGHT, WIDTH = 40, 60
FOCAL_LENGTH, FOCAL_LENGTH_35MM, PIXEL_X, PIXEL_Y = 0x920A, 0xA405, 0xA002, 0xA003


@pytest.fixture
def picture():
    """Smooth in x and y, different in every corner and channel."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 4, y * 6, 255 - x * 2 - y * 3], -1).astype(np.uint8)


def save(path, image, **options):
    image.save(path, **options)
    return path


def close(a, b, tolerance):
    return np.abs(a.astype(int) - b.astype(int)).max() <= tolerance


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm"])
def test_lossless_formats_come_back_exactly(tmp_path, picture, name):
    path = save(tmp_path / name, Image.fromarray(picture))
    rgb, sha256, focal_px = read_image(path)
    assert rgb.dtype == np.uint8 and np.array_equal(rgb, picture)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert math.isnan(focal_px)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.webp"])
def test_every_exif_orientation_comes_out_upright(tmp_path, picture, name, orientation):
    # What a camera held that way stores: the inverse of what the tag asks for.
    stored = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture),
        7: picture.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(picture, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"a.jpg": {"quality": 98, "subsampling": 0}, "a.webp": {"lossless": True}}
    path = save(tmp_path / name, Image.fromarray(stored), exif=exif, **options.get(name, {}))
    rgb, _, _ = read_image(path)
    assert close(rgb, picture, 6 if name == "a.jpg" else 0)
    header = read_header(path)
    assert (header.height, header.width) == (HEIGHT, WIDTH)


def test_modes_that_are_not_rgb(tmp_path, picture):
    grey = Image.fromarray(picture).convert("L")
    grey_rgb = np.repeat(np.asarray(grey)[..., None], 3, -1)
    cases = {
        "grey.jpg": (grey, grey_rgb, 3),
        "grey_alpha.png": (grey.convert("LA"), grey_rgb, 0),
        "cmyk.jpg": (Image.fromarray(picture).convert("CMYK"), picture, 12),
        "cmyk.tif": (Image.fromarray(picture).convert("CMYK"), picture, 1),
        "palette.png": (Image.fromarray(picture).quantize(256), None, 0),
        "bits.png": (grey.convert("1"), None, 0),
    }
    for name, (image, expected, tolerance) in cases.items():
        rgb, _, _ = read_image(save(tmp_path / name, image))
        assert rgb.shape == (HEIGHT, WIDTH, 3) and rgb.dtype == np.uint8, name
        if expected is None:
            expected = np.asarray(image.convert("RGB"))
        assert close(rgb, expected, tolerance), name


def test_16_bits_are_scaled_and_not_clipped(tmp_path):
    values = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    expected = np.rint(values / 257).astype(np.uint8)
    for name in ("a.png", "a.tif"):
        rgb, _, _ = read_image(save(tmp_path / name, Image.fromarray(values)))
        assert np.array_equal(rgb, np.repeat(expected[..., None], 3, -1)), name


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_a_sensor_of_fewer_bits_in_16_is_not_dark(tmp_path, bits):
    values = np.linspace(0, 2**bits - 1, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    rgb, _, _ = read_image(save(tmp_path / "a.png", Image.fromarray(values)))
    assert np.array_equal(rgb[..., 0], np.rint(values / (2**bits - 1) * 255).astype(np.uint8))


def test_colours_of_16_bits(tmp_path):
    import struct
    import zlib

    values = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name, data):
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert close(read_image(tmp_path / "a.png")[0], values // 257, 1)


def test_float_images_are_scaled(tmp_path):
    values = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    rgb, _, _ = read_image(save(tmp_path / "a.tif", Image.fromarray(values)))
    assert np.array_equal(rgb[..., 0], np.rint(values.astype(np.float64) * 255).astype(np.uint8))
    rgb, _, _ = read_image(save(tmp_path / "b.tif", Image.fromarray(values * 1e6 - 5e5)))
    assert rgb.min() == 0 and rgb.max() == 255


def test_transparent_pixels_are_white(tmp_path, picture):
    alpha = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    alpha[:, : WIDTH // 2] = 255
    path = save(tmp_path / "a.png", Image.fromarray(np.concatenate([picture, alpha], -1)))
    rgb, _, _ = read_image(path)
    assert np.array_equal(rgb[:, : WIDTH // 2], picture[:, : WIDTH // 2])
    assert (rgb[:, WIDTH // 2 :] == 255).all()
    # A palette with a transparent colour
    palette = Image.fromarray(picture).quantize(16)
    path = save(tmp_path / "b.png", palette, transparency=0)
    rgb, _, _ = read_image(path)
    assert (rgb[np.asarray(palette) == 0] == 255).all()


def test_one_pixel(tmp_path):
    rgb, _, _ = read_image(save(tmp_path / "a.jpg", Image.new("RGB", (1, 1), (9, 9, 9))))
    assert rgb.shape == (1, 1, 3)


def test_24_megapixels(tmp_path):
    path = save(tmp_path / "a.jpg", Image.new("L", (6000, 4000), 77))
    rgb, _, _ = read_image(path)
    assert rgb.shape == (4000, 6000, 3)


def jpeg_bytes(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG")
    return buffer.getvalue()


def png_bytes(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("read", [read_image, read_header])
@pytest.mark.parametrize("encode", [jpeg_bytes, png_bytes])
@pytest.mark.parametrize("share", [0.4, 0.7, 0.95, 0.995])
def test_a_truncated_file_is_refused_with_and_without_decoding(
    tmp_path, picture, encode, share, read
):
    rng = np.random.default_rng(0)
    noisy = rng.integers(0, 255, (200, 300, 3), dtype=np.uint8)
    data = encode(noisy)
    path = tmp_path / "a.jpg"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ImageError) as caught:
        read(path)
    assert caught.value.reason == "the file is truncated"
    assert caught.value.sha256


def test_a_truncated_jpeg_with_a_whole_thumbnail_is_refused(tmp_path, picture):
    exif = Image.Exif()
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", exif=exif)
    thumbnail = jpeg_bytes(picture)
    data = buffer.getvalue()
    # An APP2 segment that holds a JPEG with both of its markers, before the photo's own
    segment = b"\xff\xe2" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = data[:2] + segment + data[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(whole)
    assert read_header(path).width == WIDTH
    path.write_bytes(whole[:-20])
    with pytest.raises(ImageError, match="truncated"):
        read_header(path)


def test_a_jpeg_with_something_behind_its_end_is_read(tmp_path, picture):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_bytes(picture) + b"appended by a phone")
    assert read_image(path)[0].shape == picture.shape


@pytest.mark.parametrize("read", [read_image, read_header])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, I am a text file\n" * 50, "not an image"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 300, ""),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 300, ""),
        (b"GIF89a", ""),
        (b"II*\0" + b"\xff" * 200, ""),
        (b"BM" + b"\xff" * 100, ""),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(tmp_path, content, reason, read):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read(path)
    assert reason in caught.value.reason
    assert "\n" not in caught.value.reason and str(tmp_path) not in caught.value.reason


@pytest.mark.parametrize("share", np.linspace(0.02, 0.98, 25))
def test_broken_bytes_never_give_another_exception(tmp_path, picture, share):
    for encode in (jpeg_bytes, png_bytes):
        data = bytearray(encode(picture))
        at = int(share * len(data))
        data[at : at + 6] = b"\xff\x00\xde\xad\xbe\xef"
        path = tmp_path / "a.jpg"
        path.write_bytes(bytes(data))
        try:
            rgb, _, _ = read_image(path)
        except ImageError:
            continue
        assert rgb.ndim == 3 and rgb.dtype == np.uint8


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "missing.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(ImageError, match="directory"):
        read_image(tmp_path / "folder.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(tmp_path / "pipe.jpg")
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "nothing")
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "nowhere.jpg")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", Image.new("RGB", (4, 4)))

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", refuse)  # root may read everything
    with pytest.raises(ImageError, match="cannot be read: Permission denied"):
        read_image(path)


def test_decompression_bombs(tmp_path, monkeypatch):
    import struct
    import zlib

    def chunk(name, data):
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    for side in (15_000, 100_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"\0") + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(ImageError, match="too large"):
            read_header(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 10)
    save(tmp_path / "b.png", Image.new("RGB", (4, 4)))
    with pytest.raises(ImageError, match="MiB"):
        open_image(tmp_path / "b.png")


def focal_of(tmp_path, size, tags, orientation=1):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8769).update(tags)
    path = save(tmp_path / "a.jpg", Image.new("RGB", size), exif=exif)
    header = read_header(path)
    assert read_image(path)[2] == pytest.approx(header.focal_px, nan_ok=True)
    return header.focal_px


def test_focal_length_from_35mm_equivalent(tmp_path):
    # 43.27 mm is the diagonal of the film: that focal length is the image's diagonal.
    diagonal = math.hypot(300, 200)
    assert focal_of(tmp_path, (300, 200), {FOCAL_LENGTH_35MM: 43}) == pytest.approx(
        diagonal * 43 / math.hypot(36, 24)
    )
    # A sensor of 3:2, seen upright or rotated, has the same focal length.
    assert focal_of(tmp_path, (300, 200), {FOCAL_LENGTH_35MM: 28}, 6) == pytest.approx(
        28 / 36 * 300, rel=1e-3
    )


def test_focal_length_from_the_sensor(tmp_path):
    # 10 mm, 100 pixels a mm when taken 3000 wide; now 300 wide.
    tags = {FOCAL_LENGTH: 10.0, PIXEL_X: 3000, PIXEL_Y: 2000, 0xA20E: 1000.0, 0xA210: 3}
    assert focal_of(tmp_path, (300, 200), tags) == pytest.approx(100.0)


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {FOCAL_LENGTH: 10.0},
        {FOCAL_LENGTH_35MM: 0},
        {FOCAL_LENGTH_35MM: 60000},
        {FOCAL_LENGTH_35MM: 35, PIXEL_X: 4000, PIXEL_Y: 1000},  # cropped since
    ],
)
def test_no_focal_length_where_exif_does_not_tell(tmp_path, tags):
    assert math.isnan(focal_of(tmp_path, (300, 200), tags))


@pytest.mark.parametrize("size", [(313, 600), (455, 568), (300, 300), (485, 1102)])
def test_a_crop_whose_tags_were_rewritten_has_no_focal_length(tmp_path, size):
    """Photoshop writes the size of the crop, and leaves the resolution of the sensor."""
    sensor = {FOCAL_LENGTH: 200.0, 0xA20E: 3849.2, 0xA210: 2, PIXEL_X: size[0], PIXEL_Y: size[1]}
    assert math.isnan(focal_of(tmp_path, size, sensor))
    assert math.isnan(focal_of(tmp_path, size, {FOCAL_LENGTH_35MM: 50}))


@pytest.mark.parametrize("size", [(300, 200), (300, 225), (320, 180), (180, 320), (301, 199)])
def test_the_sides_of_sensors_are_believed(tmp_path, size):
    wanted = 50 / math.hypot(36, 24) * math.hypot(*size)
    assert focal_of(tmp_path, size, {FOCAL_LENGTH_35MM: 50}) == pytest.approx(wanted)


def test_broken_exif_does_not_matter(tmp_path, picture):
    data = jpeg_bytes(picture)
    junk = b"Exif\0\0" + b"MM\0*\0\0\0\x08" + b"\xff" * 40
    segment = b"\xff\xe1" + (len(junk) + 2).to_bytes(2, "big") + junk
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:2] + segment + data[2:])
    rgb, _, focal_px = read_image(path)
    assert rgb.shape == picture.shape and math.isnan(focal_px)


def test_a_header_is_read_without_decoding(tmp_path, picture, monkeypatch):
    path = save(tmp_path / "a.png", Image.fromarray(picture))

    def fail(self):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    assert read_header(path).width == WIDTH
