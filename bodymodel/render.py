"""Meshes to pictures on the CPU, without a display: ray casting, shading, overlays, three views.

Everything is in the camera frame (OpenCV axes: x right, y down, z forward, metres) and in pixels
with the origin at the top-left corner of the top-left pixel, so the ray of pixel (column, row) goes
through (column + 0.5, row + 0.5). The same input gives the same bytes.

A mesh that is not finite is left out, one behind the camera is not seen: the picture is then plain.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from bodymodel.raycast import (
    DEFAULT_LIGHTING,
    PALETTE,
    Lighting,
    Rendering,
    Scene,
    empty_rendering,
    pinhole_rays,
    pixel_bounds,
    trace,
)

__all__ = [
    "PALETTE",
    "Lighting",
    "Rendering",
    "draw_keypoints",
    "overlay",
    "render_mesh",
    "render_views",
]

_BACKGROUND = np.array((0.955, 0.955, 0.945), np.float32)


def render_mesh(
    vertices: np.ndarray,
    faces: np.ndarray,
    focal_px: float,
    center_px: Sequence[float],
    width: int,
    height: int,
    *,
    colors: np.ndarray | None = None,
    lighting: Lighting = DEFAULT_LIGHTING,
    antialias: bool = True,
    threads: int = 0,
) -> Rendering:
    """Render one or more meshes with a pinhole camera.

    Args:
        vertices: (V, 3) or (P, V, 3) metres, camera frame; P people with the same faces.
        faces: (F, 3).
        focal_px: Focal length in pixels, square pixels.
        center_px: (2,) principal point in pixels.
        width: Of the picture, pixels.
        height: Likewise.
        colors: (P, 3) a colour for each person or (V, 3) or (P, V, 3) one for each vertex, linear,
            0-1; by default the palette in turn.
        lighting: Where the light comes from.
        antialias: Cast more rays where an edge is; otherwise alpha is 0 or 1.
        threads: Of the ray caster; 0 for all cores. The picture does not depend on it.

    Returns:
        The rendering. Without any finite mesh, it is empty.

    Raises:
        ValueError: If a shape or the camera makes no sense.
    """
    if width < 1 or height < 1:
        raise ValueError(f"width and height must be at least 1, got {width} x {height}")
    center = np.asarray(center_px, np.float64).reshape(-1)
    if center.shape != (2,):
        raise ValueError(f"center_px must be (2,), got {np.shape(center_px)}")
    scene = Scene.build(vertices, faces, colors)
    if scene is None or not np.isfinite([focal_px, *center]).all() or focal_px <= 0:
        return empty_rendering(width, height)

    points, region = scene.points, (0, 0, width, height)
    # Points near the camera's plane project to anywhere: then every pixel is tried.
    if points[:, 2].min() > 1e-2:
        region = pixel_bounds(points[:, :2] / points[:, 2:] * focal_px + center, width, height)
    rays = pinhole_rays(focal_px, center)
    return trace(scene, rays, region, width, height, lighting, antialias, threads)


def overlay(
    image: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
    focal_px: float,
    center_px: Sequence[float],
    *,
    opacity: float = 0.85,
    colors: np.ndarray | None = None,
    lighting: Lighting = DEFAULT_LIGHTING,
    antialias: bool = True,
    threads: int = 0,
) -> np.ndarray:
    """Draw meshes over the photo they were fitted to.

    Args:
        image: (H, W, 3) uint8 RGB, upright.
        vertices: (V, 3) or (P, V, 3), see ``render_mesh``.
        faces: (F, 3).
        focal_px: In pixels of this image.
        center_px: (2,) in pixels of this image.
        opacity: Of the mesh, 0-1.
        colors: As in ``render_mesh``.
        lighting: As in ``render_mesh``.
        antialias: As in ``render_mesh``.
        threads: As in ``render_mesh``.

    Returns:
        (H, W, 3) uint8, a new array. Pixels that no mesh covers are those of the photo.

    Raises:
        ValueError: If the image is not (H, W, 3) uint8, or as in ``render_mesh``.
    """
    _check_image(image)
    height, width = image.shape[:2]
    rendering = render_mesh(
        vertices, faces, focal_px, center_px, width, height,
        colors=colors, lighting=lighting, antialias=antialias, threads=threads,
    )  # fmt: skip
    out = image.copy()
    covered = rendering.alpha > 0
    alpha = opacity * rendering.alpha[covered][:, None]
    mixed = image[covered] * (1 - alpha) + 255 * rendering.rgb[covered] * alpha
    out[covered] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return out


def render_views(
    image_rgb: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
    focal_px: float,
    center_px: Sequence[float],
    max_side: int = 512,
    *,
    colors: np.ndarray | None = None,
    threads: int = 0,
) -> dict[str, np.ndarray]:
    """Show fits from the front, the side and above.

    The side and the top view are parallel projections on a grid of half a metre. They are fixed to
    the camera, not to the person, because what they are for is the error that the photo hides: the
    one along the camera's axis. For a person who faces the camera the side view is from their
    left. An arrow shows where the camera looks; the heavier lines are the floor below the lowest
    point and the camera's vertical above where the bodies stand. The camera's pitch is unknown, so
    a camera that looks down makes all the people of the picture lean alike.

    Args:
        image_rgb: (H, W, 3) uint8, the upright photo.
        vertices: (V, 3) or (P, V, 3) metres, camera frame.
        faces: (F, 3).
        focal_px: In pixels of the photo.
        center_px: (2,) in pixels of the photo.
        max_side: The photo is made smaller to fit, never larger; the other views are squares of
            this side.
        colors: As in ``render_mesh``.
        threads: As in ``render_mesh``.

    Returns:
        uint8 RGB pictures by name: "front", "side", "top".

    Raises:
        ValueError: As in ``overlay``.
    """
    _check_image(image_rgb)
    height, width = image_rgb.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    small_width, small_height = max(1, round(width * scale)), max(1, round(height * scale))
    small = image_rgb
    if scale < 1:
        small = np.asarray(
            Image.fromarray(image_rgb).resize(
                (small_width, small_height), Image.Resampling.LANCZOS, reducing_gap=2.0
            )
        )
    # The rounded size is not exactly scale times the photo; half a pixel at the most.
    center = np.asarray(center_px, np.float64) * (small_width / width, small_height / height)
    front = overlay(
        small, vertices, faces, focal_px * scale, center, colors=colors, threads=threads
    )
    scene = Scene.build(vertices, faces, colors)
    return {
        "front": front,
        "side": _parallel_view(scene, _SIDE, max_side, threads),
        "top": _parallel_view(scene, _TOP, max_side, threads),
    }


def draw_keypoints(
    image: np.ndarray,
    keypoints_2d: np.ndarray | None = None,
    projected_2d: np.ndarray | None = None,
    *,
    scale: float = 1.0,
    radius_px: float = 2.5,
) -> np.ndarray:
    """Draw what was detected (green rings), what the model says (red dots), and the way between.

    Args:
        image: (H, W, 3) uint8.
        keypoints_2d: (..., K, 3) x px, y px, confidence; points without confidence are left out.
        projected_2d: (..., K, 2) px; points that are not finite are left out.
        scale: Pixels of ``image`` per pixel that the points are given in.
        radius_px: Of the marks, in pixels of ``image``.

    Returns:
        (H, W, 3) uint8, a new array.

    Raises:
        ValueError: If the two do not hold the same number of points.
    """
    _check_image(image)
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    seen = _marks(keypoints_2d, 3, scale)
    model = _marks(projected_2d, 2, scale)
    if seen is not None and model is not None:
        if len(seen) != len(model):
            raise ValueError(
                f"keypoints_2d and projected_2d must hold the same points, "
                f"got {len(seen)} and {len(model)}"
            )
        for a, b in zip(seen, model, strict=True):
            if np.isfinite([*a, *b]).all():
                draw.line([*a, *b], fill=(250, 210, 60), width=1)
    for points, color, filled in ((seen, (40, 210, 90), False), (model, (235, 60, 50), True)):
        radius = radius_px * (0.6 if filled else 1)
        for x, y in () if points is None else points:
            if np.isfinite([x, y]).all():
                box = (x - radius, y - radius, x + radius, y + radius)
                draw.ellipse(box, fill=color if filled else None, outline=color)
    return np.asarray(canvas)


# --- views along an axis of the camera frame ----------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Axes:
    """A view: which way the picture's right, its down, and the look go in the camera frame."""

    right: np.ndarray
    down: np.ndarray
    forward: np.ndarray
    camera_from: str  # the side of the picture where the camera is
    has_floor: bool


_X, _Y, _Z = np.eye(3, dtype=np.float32)
_SIDE = _Axes(right=_Z, down=_Y, forward=-_X, camera_from="left", has_floor=True)
_TOP = _Axes(right=_X, down=-_Z, forward=_Y, camera_from="bottom", has_floor=False)


def _parallel_view(scene: Scene | None, axes: _Axes, side_px: int, threads: int) -> np.ndarray:
    """(side, side, 3) uint8."""
    plain = np.broadcast_to(_BACKGROUND, (side_px, side_px, 3))
    if scene is None:
        return np.rint(255 * plain).astype(np.uint8)
    to_picture = np.stack([axes.right, axes.down])  # (2, 3)
    flat = scene.points @ to_picture.T
    low, high = flat.min(0), flat.max(0)
    pixels_per_m = 0.84 * side_px / max((high - low).max(), 0.5)
    middle = (low + high) / 2
    ahead = scene.points @ axes.forward
    start = ahead.min() - 1

    def rays(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u = ((x - side_px / 2) / pixels_per_m + middle[0]).astype(np.float32)[:, None]
        v = ((y - side_px / 2) / pixels_per_m + middle[1]).astype(np.float32)[:, None]
        origin = u * axes.right + v * axes.down + start * axes.forward
        return np.concatenate([origin, np.broadcast_to(axes.forward, origin.shape)], -1)

    region = pixel_bounds((flat - middle) * pixels_per_m + side_px / 2, side_px, side_px)
    # The light goes with the view, so that every view is lit from its own upper left.
    basis = np.stack([axes.right, axes.down, axes.forward])
    lighting = Lighting(direction=tuple(np.asarray(DEFAULT_LIGHTING.direction) @ basis))
    rendering = trace(scene, rays, region, side_px, side_px, lighting, True, threads)

    def pixel(u: float, v: float) -> tuple[float, float]:
        x, y = (np.array((u, v)) - middle) * pixels_per_m + side_px / 2
        return float(x), float(y)

    # Where the bodies stand: the middle of what is near the lowest point.
    height = scene.points[:, 1]
    soles = flat[height > height.max() - 0.08]
    stand = (soles.min(0) + soles.max(0)) / 2
    anchor = (float(stand[0]), float(high[1] if axes.has_floor else stand[1]))
    paper = _paper(side_px, pixels_per_m, pixel(*anchor), axes)
    alpha = rendering.alpha[..., None]
    return np.rint(255 * (paper * (1 - alpha) + rendering.rgb * alpha)).astype(np.uint8)


def _paper(
    side_px: int, pixels_per_m: float, anchor: tuple[float, float], axes: _Axes
) -> np.ndarray:
    """(side, side, 3) float32 background: grid of half a metre, reference lines, the camera."""
    canvas = Image.new("RGB", (side_px, side_px), tuple(np.rint(255 * _BACKGROUND).astype(int)))
    draw = ImageDraw.Draw(canvas)
    step = pixels_per_m / 2
    thin, heavy = (228, 228, 224), (168, 172, 178)
    for axis in (0, 1):
        first = anchor[axis] % step
        for at in np.arange(first, side_px, step):
            draw.line([(at, 0), (at, side_px)] if axis == 0 else [(0, at), (side_px, at)], thin)
    draw.line([(anchor[0], 0), (anchor[0], side_px)], heavy, 2)
    if axes.has_floor:
        draw.line([(0, anchor[1]), (side_px, anchor[1])], heavy, 2)

    # The camera: an arrow that comes in from its side of the picture.
    long, wide, inset = 0.075 * side_px, 0.018 * side_px, 0.02 * side_px
    along = np.array((1.0, 0.0) if axes.camera_from == "left" else (0.0, -1.0))
    across = np.array((along[1], -along[0]))
    tail = np.array(
        (inset, 0.06 * side_px) if axes.camera_from == "left" else (0.06 * side_px, side_px - inset)
    )
    tip = tail + along * long
    neck = tip - along * 2 * wide
    blue = (70, 105, 160)
    draw.line([*tail, *neck], blue, max(1, round(0.006 * side_px)))
    draw.polygon([tuple(tip), tuple(neck + across * wide), tuple(neck - across * wide)], blue)
    text = (
        tail + np.array((0.0, wide))
        if axes.camera_from == "left"
        else tail + np.array((wide, -2 * wide))
    )
    draw.text(tuple(text), "camera", fill=blue)
    return np.asarray(canvas, np.float32) / 255


# --- small checks -------------------------------------------------------------------------------


def _check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"image must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")


def _marks(points: np.ndarray | None, channels: int, scale: float) -> np.ndarray | None:
    """(K, 2) in the drawing's coordinates, whose integers are pixel centres; NaN if absent."""
    if points is None:
        return None
    points = np.asarray(points, np.float64).reshape(-1, channels)
    marks = points[:, :2] * scale - 0.5
    if channels == 3:
        marks[~(points[:, 2] > 0)] = np.nan
    marks[~(np.abs(marks) < 1e6).all(-1)] = np.nan
    return marks
