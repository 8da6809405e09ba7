"""Rays against people's meshes, and the shading of what they hit. CPU, no display.

Built on open3d's ray caster (Embree). Pixels have their origin at the top-left corner of the
top-left pixel, so the ray of pixel (column, row) goes through (column + 0.5, row + 0.5).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

__all__ = [
    "PALETTE",
    "Lighting",
    "Rendering",
    "Scene",
    "empty_rendering",
    "first_surface",
    "pinhole_rays",
    "pixel_bounds",
    "trace",
    "vertex_normals",
]

PALETTE: np.ndarray = np.array(
    [
        (0.68, 0.77, 0.90), (0.93, 0.76, 0.58), (0.66, 0.84, 0.66), (0.87, 0.66, 0.72),
        (0.76, 0.70, 0.88), (0.86, 0.84, 0.58), (0.60, 0.82, 0.83), (0.80, 0.80, 0.80),
    ],
    np.float32,
)  # fmt: skip
"""(8, 3) linear colours that tell the people of one picture apart; the ninth has the first's."""

_FAR_M = 1e4  # a vertex further away than this is a failed fit, not a body
_SUBSAMPLES = 4  # per pixel and axis, at edges only


class Rendering(NamedTuple):
    """What the camera sees of the meshes alone.

    Attributes:
        rgb: (H, W, 3) float32 in 0-1, black where alpha is 0, not premultiplied.
        alpha: (H, W) float32 in 0-1, the share of the pixel that is covered.
        depth: (H, W) float32 metres along z at the pixel's centre, inf where nothing is.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    depth: np.ndarray


@dataclass(frozen=True)
class Lighting:
    """One distant light, light from all around, and a rim that sets limbs off from the trunk.

    Attributes:
        direction: Towards the light, camera frame; any length. Seen from above, the left and the
            front by default.
        diffuse: Share of the distant light.
        ambient: Share of the light from all around; a tenth less from below.
        rim: Darkening at grazing angles, 0 for none.
    """

    direction: tuple[float, float, float] = (-0.45, -0.75, -0.85)
    diffuse: float = 0.60
    ambient: float = 0.42
    rim: float = 0.25


DEFAULT_LIGHTING = Lighting()


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the normals of the vertices, each the mean of its faces' weighted by their area.

    Args:
        vertices: (V, 3).
        faces: (F, 3) indices.

    Returns:
        (V, 3) float32 unit vectors; zero where a vertex has no face with an area.
    """
    corners = vertices[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    index = faces.reshape(-1)
    normals = np.stack(
        [
            np.bincount(index, np.repeat(cross[:, axis], 3), minlength=len(vertices))
            for axis in range(3)
        ],
        axis=-1,
    )
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return (normals / np.where(length > 0, length, 1)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Scene:
    """All the people of a picture as one mesh, so that they hide each other.

    Attributes:
        points: (N, 3) float32 metres.
        triangles: (T, 3) int64.
        normals: (N, 3) float32.
        colors: (N, 3) float32.
    """

    points: np.ndarray
    triangles: np.ndarray
    normals: np.ndarray
    colors: np.ndarray

    @classmethod
    def build(
        cls, vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray | None
    ) -> "Scene | None":
        """Return the scene of the finite ones of ``render_mesh``'s people, None without any.

        Raises:
            ValueError: If a shape is wrong.
        """
        vertices = np.asarray(vertices, np.float32)
        faces = np.asarray(faces, np.int64)
        if vertices.ndim not in (2, 3) or vertices.shape[-1] != 3:
            raise ValueError(f"vertices must be (V, 3) or (P, V, 3), got {vertices.shape}")
        if faces.ndim != 2 or faces.shape[1] != 3:
            raise ValueError(f"faces must be (F, 3), got {faces.shape}")
        people = vertices.reshape(-1, *vertices.shape[-2:])
        count, size = people.shape[:2]
        painted = _vertex_colors(colors, count, size)
        # A comparison with NaN is false, so this keeps the finite ones.
        keep = [p for p in range(count) if size and (np.abs(people[p]) < _FAR_M).all()]
        if not keep or not len(faces):
            return None
        return cls(
            points=people[keep].reshape(-1, 3),
            triangles=np.concatenate([faces + size * k for k in range(len(keep))]),
            normals=np.concatenate([vertex_normals(people[p], faces) for p in keep]),
            colors=painted[keep].reshape(-1, 3),
        )


def _vertex_colors(colors: np.ndarray | None, people: int, size: int) -> np.ndarray:
    """Colours in any of the allowed forms as (P, V, 3)."""
    if colors is None:
        colors = PALETTE[np.arange(people) % len(PALETTE)]
    colors = np.asarray(colors, np.float32)
    if colors.shape == (people, 3):
        colors = colors[:, None]
    elif colors.shape == (size, 3):
        colors = colors[None]
    elif colors.shape != (people, size, 3):
        raise ValueError(
            f"colors must be ({people}, 3), ({size}, 3) or ({people}, {size}, 3), "
            f"got {colors.shape}"
        )
    return np.broadcast_to(colors, (people, size, 3))


def _caster(scene: Scene, threads: int):
    """The scene's ray caster. Imported late: open3d takes a second."""
    import open3d as o3d

    caster = o3d.t.geometry.RaycastingScene(nthreads=threads)
    caster.add_triangles(
        o3d.core.Tensor(np.ascontiguousarray(scene.points, np.float32)),
        o3d.core.Tensor(scene.triangles.astype(np.uint32)),
    )
    return caster


def _shade(scene: Scene, hits: dict, rays: np.ndarray, lighting: Lighting) -> np.ndarray:
    """(R, 3) colours of rays that hit something."""
    corners = scene.triangles[hits["primitive_ids"].numpy()]
    u, v = hits["primitive_uvs"].numpy().T
    weights = np.stack([1 - u - v, u, v], -1)[..., None]
    normals = (scene.normals[corners] * weights).sum(1)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    towards = -rays[:, 3:] / np.linalg.norm(rays[:, 3:], axis=-1, keepdims=True)
    facing = (normals * towards).sum(-1)
    normals = np.where((facing < 0)[:, None], -normals, normals)  # the inside of an open mesh
    light = np.asarray(lighting.direction, np.float32)
    light = light / np.linalg.norm(light)
    diffuse = np.clip(normals @ light, 0, None)
    ambient = 0.95 - 0.05 * normals[:, 1]  # y points down
    shine = lighting.diffuse * diffuse + lighting.ambient * ambient
    shine *= 1 - lighting.rim * (1 - np.abs(facing)) ** 2
    linear = (scene.colors[corners] * weights).sum(1) * shine[:, None]
    return np.clip(linear, 0, 1) ** (1 / 1.6)  # softer than sRGB's 2.2: plain, not washed out


def trace(
    scene: Scene,
    make_rays: Callable[[np.ndarray, np.ndarray], np.ndarray],
    region: tuple[int, int, int, int],
    width: int,
    height: int,
    lighting: Lighting,
    antialias: bool,
    threads: int,
) -> Rendering:
    """Cast a ray a pixel of a region, and more where there is an edge.

    Args:
        scene: What may be hit.
        make_rays: From pixel coordinates (R,) x and (R,) y to rays (R, 6), origin and direction.
        region: x0, y0, x1, y1 in pixels, ends exclusive; outside it nothing is expected.
        width: Of the picture, pixels.
        height: Likewise.
        lighting: Where the light comes from.
        antialias: Whether to cast the additional rays.
        threads: Of the ray caster, 0 for all cores.

    Returns:
        The rendering of width x height.
    """
    import open3d as o3d

    out = empty_rendering(width, height)
    x0, y0, x1, y1 = region
    if x1 <= x0 or y1 <= y0:
        return out
    caster = _caster(scene, threads)

    def cast(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rays = make_rays(x, y)
        hits = caster.cast_rays(o3d.core.Tensor(rays), nthreads=threads)
        depth = hits["t_hit"].numpy()
        hit = np.flatnonzero(np.isfinite(depth))
        rgb = np.zeros((len(x), 3), np.float32)
        if len(hit):
            found = {k: hits[k][o3d.core.Tensor(hit)] for k in ("primitive_ids", "primitive_uvs")}
            rgb[hit] = _shade(scene, found, rays[hit], lighting)
        return rgb, depth

    rows, columns = np.mgrid[y0:y1, x0:x1]
    rgb, depth = cast(columns.ravel() + 0.5, rows.ravel() + 0.5)
    shape = rows.shape
    rgb, depth = rgb.reshape(*shape, 3), depth.reshape(shape)
    alpha = np.isfinite(depth).astype(np.float32)

    if antialias:
        edge_rows, edge_columns = np.nonzero(_edges(depth))
        if len(edge_rows):
            offsets = (np.arange(_SUBSAMPLES) + 0.5) / _SUBSAMPLES
            dy, dx = (a.ravel() for a in np.meshgrid(offsets, offsets, indexing="ij"))
            fine_rgb, fine_depth = cast(
                (x0 + edge_columns[:, None] + dx).ravel(), (y0 + edge_rows[:, None] + dy).ravel()
            )
            covered = np.isfinite(fine_depth).reshape(-1, len(dx))
            share = covered.mean(-1)
            total = fine_rgb.reshape(-1, len(dx), 3).sum(1)
            rgb[edge_rows, edge_columns] = total / np.maximum(covered.sum(-1), 1)[:, None]
            alpha[edge_rows, edge_columns] = share

    out.rgb[y0:y1, x0:x1] = rgb
    out.alpha[y0:y1, x0:x1] = alpha
    out.depth[y0:y1, x0:x1] = depth
    return out


def _edges(depth: np.ndarray) -> np.ndarray:
    """Pixels beside a change of more than 2 cm + 1 % in depth, or of hit and miss."""
    # Beyond any body, and finite: inf - inf would warn.
    filled = np.where(np.isfinite(depth), depth, np.float32(10 * _FAR_M))
    edge = np.zeros(depth.shape, bool)
    for low, high in (
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        nearer = np.minimum(filled[low], filled[high])
        jump = np.abs(filled[high] - filled[low]) > 0.02 + 0.01 * nearer
        edge[low] |= jump
        edge[high] |= jump
    return edge


def pinhole_rays(
    focal_px: float, center_px: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function from pixels (R,), (R,) to rays (R, 6) of a camera at the origin.

    The rays' directions have z = 1, so that the length at which one hits is the depth.
    """

    def rays(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        out = np.zeros((len(x), 6), np.float32)
        out[:, 3] = (x - center_px[0]) / focal_px
        out[:, 4] = (y - center_px[1]) / focal_px
        out[:, 5] = 1
        return out

    return rays


def first_surface(scene: Scene, points: np.ndarray) -> np.ndarray:
    """Return where the rays from the camera through points first meet a mesh.

    Args:
        scene: The meshes.
        points: (N, 3) metres, camera frame.

    Returns:
        (N, 3) float32 metres, inf where a ray meets nothing.
    """
    import open3d as o3d

    rays = np.zeros((len(points), 6), np.float32)
    rays[:, 3:] = points
    length = _caster(scene, 0).cast_rays(o3d.core.Tensor(rays))["t_hit"].numpy()[:, None]
    hit = np.isfinite(length)
    return np.where(hit, rays[:, 3:] * np.where(hit, length, 0), np.float32(np.inf))


def pixel_bounds(projected: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the pixels (x0, y0, x1, y1), ends exclusive, that (N, 2) points span."""
    low = np.clip(np.floor(projected.min(0)) - 1, 0, (width, height)).astype(int)
    high = np.clip(np.ceil(projected.max(0)) + 1, 0, (width, height)).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def empty_rendering(width: int, height: int) -> Rendering:
    """Return the picture of nothing."""
    return Rendering(
        rgb=np.zeros((height, width, 3), np.float32),
        alpha=np.zeros((height, width), np.float32),
        depth=np.full((height, width), np.inf, np.float32),
    )
