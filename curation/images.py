"""Photos from disk: upright RGB, the file's hash, the focal length that EXIF tells. Torch-free.

Whatever is wrong with a file comes out as one exception, ImageError, with a sentence that a user
can act on.
"""

import hashlib
import io
import math
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

__all__ = ["ImageError", "ImageFile", "ImageHeader", "open_image", "read_header", "read_image"]

MAX_PIXELS = 178_956_970
"""Pillow's own hard limit: twice a quarter of a gibibyte of RGB."""

MAX_FILE_BYTES = 1 << 30

_ORIENTATION_TAG = 0x0112
_EXIF_IFD = 0x8769
_FOCAL_LENGTH = 0x920A
_FOCAL_LENGTH_35MM = 0xA405
_PIXEL_X, _PIXEL_Y = 0xA002, 0xA003
_FOCAL_PLANE_X_RESOLUTION, _FOCAL_PLANE_UNIT = 0xA20E, 0xA210
_MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
_DIAGONAL_35MM = math.hypot(36.0, 24.0)
_CAMERA_RATIOS = (4 / 3, 3 / 2, 16 / 9)  # of the sides of what sensors see

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(Exception):
    """A photo that cannot be used.

    Attributes:
        reason: One plain sentence, without the path.
        sha256: Of the file's bytes, empty if they could not be read.
    """

    def __init__(self, reason: str, sha256: str = "") -> None:
        super().__init__(reason, sha256)
        self.reason = reason
        self.sha256 = sha256

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class ImageHeader:
    """What is known of a photo without decoding it.

    Attributes:
        sha256: Of the file's bytes.
        width: Pixels of the upright image.
        height: Likewise.
        focal_px: From EXIF, in pixels of the upright image; NaN if unknown.
    """

    sha256: str
    width: int
    height: int
    focal_px: float


@dataclass(frozen=True, eq=False)
class ImageFile:
    """A photo whose file has been read once, and whose pixels have not been decoded.

    Attributes:
        header: What is known of it.
    """

    header: ImageHeader
    _data: bytes

    def decode(self) -> np.ndarray:
        """Return the upright pixels, (H, W, 3) uint8 RGB.

        CMYK, grey, palette and 1-bit images become RGB; 16-bit and float images are scaled to
        8 bits; transparent pixels show white. Of several frames the first is taken. Colour
        profiles are ignored.

        Raises:
            ImageError: If the pixels cannot be decoded.
        """
        sha256 = self.header.sha256
        with _plain_errors(sha256), _open(self._data, sha256) as image:
            orientation = _orientation(image, _exif(image, self._data))
            image.load()
            rgb = _to_rgb(image)
            if orientation in _TRANSPOSE:
                rgb = rgb.transpose(_TRANSPOSE[orientation])
            return np.array(rgb)


def open_image(path: Path) -> ImageFile:
    """Read a file and the header of the photo in it.

    A JPEG or PNG file whose end is missing is refused here already, so that it makes no difference
    to the user whether a run has to look at the pixels.

    Focal length: ``FocalLengthIn35mmFilm`` is by its definition (CIPA DCG-001) the one with the
    same *diagonal* angle of view, so ``f_px = f35 / 43.27 * diagonal``. Without it,
    ``FocalLength`` times ``FocalPlaneXResolution``, scaled by the present width over the width
    when taken. A photo whose sides' ratio is not the one it was taken with, or no camera's, has
    been cropped (software that crops often writes the new size into the tags): NaN.

    Raises:
        ImageError: If the file is not a whole image that this module can read.
    """
    data, sha256 = _read_bytes(path)
    with _plain_errors(sha256), _open(data, sha256) as image:
        _require_whole(image.format, data, sha256)
        return ImageFile(_header(image, _exif(image, data), sha256), data)


def read_header(path: Path) -> ImageHeader:
    """Read size, hash and focal length of a photo without decoding its pixels.

    Raises:
        ImageError: See open_image.
    """
    return open_image(path).header


def read_image(path: Path) -> tuple[np.ndarray, str, float]:
    """Read a photo upright; see ImageFile.decode for the pixels and open_image for the rest.

    Returns:
        (H, W, 3) uint8 RGB, the sha256 of the file's bytes, and the focal length in pixels (NaN if
        EXIF does not tell).

    Raises:
        ImageError: If the file is not a whole image that this module can read.
    """
    file = open_image(path)
    return file.decode(), file.header.sha256, file.header.focal_px


def _read_bytes(path: Path) -> tuple[bytes, str]:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError("this is a directory, not an image file")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("this is not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageError(f"the file has {status.st_size >> 20} MiB, more than 1024 MiB")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError("there is no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"the file cannot be read: {reason}") from None
    sha256 = hashlib.sha256(data).hexdigest()
    if not data:
        raise ImageError("the file is empty (0 bytes)", sha256)
    return data, sha256


@contextmanager
def _plain_errors(sha256: str) -> Iterator[None]:
    """Turn whatever Pillow raises on broken files (a dozen types) into ImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF, odd palettes, big but legal images
            yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("the file is not an image in a known format", sha256) from None
    except Image.DecompressionBombError:
        raise ImageError(_too_large(), sha256) from None
    except MemoryError:
        raise ImageError("the image does not fit into memory", sha256) from None
    except Exception as error:
        text = str(error) or type(error).__name__
        if "truncated" in text.lower() or isinstance(error, EOFError):
            raise ImageError("the file is truncated", sha256) from None
        raise ImageError(f"the image cannot be decoded: {text}", sha256) from None


def _too_large(pixels: int | None = None) -> str:
    size = f"{pixels / 1e6:.0f} megapixels, " if pixels else ""
    return f"the image is too large ({size}limit {MAX_PIXELS / 1e6:.0f} megapixels)"


@contextmanager
def _open(data: bytes, sha256: str) -> Iterator[Image.Image]:
    with Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(_too_large(image.width * image.height), sha256)
        if image.width < 1 or image.height < 1:
            raise ImageError("the image has no pixels", sha256)
        yield image


def _require_whole(image_format: str | None, data: bytes, sha256: str) -> None:
    if image_format in ("JPEG", "MPO"):
        # Inside compressed data 0xFF is always followed by 0x00, so these two are real markers.
        whole = data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    elif image_format == "PNG":
        whole = b"IEND" in data
    else:
        return
    if not whole:
        raise ImageError("the file is truncated", sha256)


def _exif(image: Image.Image, data: bytes) -> Image.Exif:
    if image.format == "PNG" and b"eXIf" not in data and b"Raw profile type" not in data:
        return Image.Exif()  # Pillow would decode the whole image to look for it
    try:
        return image.getexif()
    except Exception:
        return Image.Exif()  # broken EXIF says nothing about the pixels


def _orientation(image: Image.Image, exif: Image.Exif) -> int:
    """Return the EXIF orientation still to be applied; Pillow turns TIFF files by itself."""
    value = exif.get(_ORIENTATION_TAG, 1)
    return value if value in _TRANSPOSE and image.format != "TIFF" else 1


def _header(image: Image.Image, exif: Image.Exif, sha256: str) -> ImageHeader:
    width, height = image.size
    focal_px = _exif_focal_px(exif, width, height)
    if _orientation(image, exif) >= 5:
        width, height = height, width
    return ImageHeader(sha256, width, height, focal_px)


def _exif_focal_px(exif: Image.Exif, width: int, height: int) -> float:
    """Return the focal length in pixels of an image of this size, whichever way up."""
    try:
        tags = exif.get_ifd(_EXIF_IFD)
    except Exception:
        return math.nan

    def number(tag: int) -> float:
        try:
            value = float(tags[tag])
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return math.nan
        return value if math.isfinite(value) and value > 0 else math.nan

    ratio = max(width, height) / min(width, height)
    if min(abs(math.log(ratio / camera)) for camera in _CAMERA_RATIOS) > 0.03:
        return math.nan
    taken_width, taken_height = number(_PIXEL_X), number(_PIXEL_Y)
    if math.isfinite(taken_width) and math.isfinite(taken_height):
        # Software that rotates the pixels often leaves the tags of the unrotated photo.
        ratio = width / height * taken_height / taken_width
        ratio_rotated = width / height * taken_width / taken_height
        if min(abs(math.log(ratio)), abs(math.log(ratio_rotated))) > 0.03:
            return math.nan

    focal_px = number(_FOCAL_LENGTH_35MM) / _DIAGONAL_35MM * math.hypot(width, height)
    if math.isnan(focal_px):
        unit = number(_FOCAL_PLANE_UNIT)
        mm_per_unit = _MM_PER_UNIT.get(2 if math.isnan(unit) else int(unit), math.nan)
        pixels_per_mm = number(_FOCAL_PLANE_X_RESOLUTION) / mm_per_unit
        scale = max(width, height) / max(taken_width, taken_height)
        focal_px = number(_FOCAL_LENGTH) * pixels_per_mm * scale
    # Outside these bounds (150 to 2 degrees of view) the tags are wrong.
    long_side = max(width, height)
    return focal_px if 0.13 * long_side <= focal_px <= 30 * long_side else math.nan


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if "transparency" in image.info or mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image if mode == "RGB" else image.convert("RGB")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Scale grey values to 0..255.

    Whole numbers by the depth of the sensor that fits them (8, 10, 12, 14 or 16 bits, often stored
    in 16), floats in 0..1 by 255, anything else from its least to its greatest value.
    """
    is_float = values.dtype.kind == "f"
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, high = values.min(), values.max()
    if is_float and low >= 0 and high <= 1:
        values = values * 255
    elif low >= 0 and high < 1 << 16:
        depth = next(bits for bits in (8, 10, 12, 14, 16) if high < 1 << bits)
        values = values * (255 / ((1 << depth) - 1))
    else:
        values = (values - low) / max(high - low, 1e-12) * 255
    return np.rint(values).astype(np.uint8)
