"""The 51 face landmarks and the jaw line by yaw, as points on faces of the SMPL-X mesh.

Lids and inner lips are taken from the rims of the mesh, the others from frontal picks relative to
the middle of the eyes. The picks were set where an independent detector (MediaPipe's face mesh)
sees the points on renders of the three genders, averaged over both sides.
"""

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import ConvexHull

from bodymodel.openbody.recipe.source import Source
from bodymodel.openbody.recipe.topology import Topology, rims
from bodymodel.spec import FACE_LANDMARKS, mirror_name

# (x, y) in mm on the left half of the face, seen from the front; the eyes' middle is the origin.
_PICKS = {
    "left_eye_brow5": (12.6, 13.4), "left_eye_brow4": (25.2, 14.8), "left_eye_brow3": (37.0, 16.0),
    "left_eye_brow2": (46.8, 13.8), "left_eye_brow1": (57.2, 14.8),
    "nose1": (0, -0.5), "nose2": (0, -14.0), "nose3": (0, -27.8), "nose4": (0, -36.2),
    "nose_middle": (0, -48.2), "left_nose_1": (6.9, -47.9), "left_nose_2": (12.0, -44.0),
    "left_mouth_2": (13.6, -62.8), "left_mouth_3": (6.8, -61.4), "mouth_top": (0, -62.6),
    "left_mouth_5": (12.8, -75.7), "left_mouth_4": (6.8, -77.9), "mouth_bottom": (0, -78.4),
}  # fmt: skip

# Where along the eye, from inner to outer corner, the lid points lie.
_LIDS = {"left_eye3": 0.28, "left_eye2": 0.69, "left_eye5": 0.24, "left_eye6": 0.64}

_YAWS = (*range(40), *range(-1, -40, -1))  # degrees, the order of the files' rows
_YAW_SMOOTHING = 3.0  # degrees


def landmark_points(source: Source, mean: np.ndarray) -> dict[str, np.ndarray]:
    """Return the 51 landmarks on the mean body, (3,) each, before they are put on faces."""
    eye = mean[source.region_vertices("eye_front.L", "eye_back.L")].mean(0)
    points: dict[str, np.ndarray] = {}
    for name, (x, y) in _PICKS.items():
        points[name] = np.array([x / 1000, eye[1] + y / 1000, np.nan])
    rim = rims(source)
    left = mean[:, 0] > 1e-6
    lid = np.flatnonzero(rim & source.region_vertices("eye_cavity.L"))
    points.update(_lids(mean[lid]))
    lip = mean[rim & source.region_vertices("mouth_cavity") & (left | (mean[:, 0] > -1e-6))]
    points.update(_lips(lip))
    for name in list(points):
        if name.startswith("left_"):
            points[mirror_name(name)] = points[name] * [-1, 1, 1]
    return {name: points[name] for name in FACE_LANDMARKS}


def _lids(rim: np.ndarray) -> dict[str, np.ndarray]:
    outer, inner = rim[rim[:, 0].argmax()], rim[rim[:, 0].argmin()]
    level = np.interp(rim[:, 0], [inner[0], outer[0]], [inner[1], outer[1]])
    upper, lower = rim[rim[:, 1] >= level], rim[rim[:, 1] <= level]
    out = {"left_eye1": outer, "left_eye4": inner}
    for name, share in _LIDS.items():
        lid = upper if name in ("left_eye2", "left_eye3") else lower
        out[name] = _at_x(lid, inner[0] + share * (outer[0] - inner[0]))
    return out


def _lips(rim: np.ndarray) -> dict[str, np.ndarray]:
    corner = rim[rim[:, 0].argmax()]
    middle = rim[np.abs(rim[:, 0]) < 1e-6]
    split = (middle[:, 1].max() + middle[:, 1].min()) / 2
    upper = rim[rim[:, 1] >= np.interp(rim[:, 0], [0, corner[0]], [split, corner[1]])]
    lower = rim[rim[:, 1] <= np.interp(rim[:, 0], [0, corner[0]], [split, corner[1]])]
    out = {"left_mouth_1": corner, "left_lip_1": _at_x(upper, 0.86 * corner[0])}
    for name, lip, x in (
        ("lip_top", upper, 0), ("left_lip_2", upper, 0.25), ("lip_bottom", lower, 0),
        ("left_lip_3", lower, 0.25),
    ):  # fmt: skip
        out[name] = _at_x(lip, x * corner[0])
    return out


def _at_x(line: np.ndarray, x: float) -> np.ndarray:
    """Return the point of a line of points at a given x."""
    line = line[np.argsort(line[:, 0], kind="stable")]
    return np.array([np.interp(x, line[:, 0], line[:, k]) for k in range(3)])


def embed_landmarks(
    source: Source, topology: Topology, mean: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Put the 51 landmarks on faces: (51,) face ids and (51, 3) barycentric coordinates."""
    vertices = topology.sampling @ mean
    face_mask = _skin_faces(source, topology)
    faces, bary = [], []
    for point in landmark_points(source, mean).values():
        if np.isnan(point[2]):
            f, b = _from_front(vertices, topology.faces, face_mask, point[:2])
        else:
            f, b = _closest(vertices, topology.faces, face_mask, point)
        faces.append(f)
        bary.append(b)
    return np.array(faces), np.array(bary)


def embed_contour(
    source: Source, topology: Topology, mean: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Put the jaw line, as seen at each yaw, on faces: (79, 17) ids and (79, 17, 3) coordinates.

    A head that is turned by +k degrees (to the person's left) shows the camera its right side.
    """
    vertices = topology.sampling @ mean
    eye = mean[source.region_vertices("eye_front.L", "eye_back.L")].mean(0)
    skin = _skin_faces(source, topology)
    mask = _face_mask(vertices, eye)
    candidates = np.flatnonzero(skin & mask[topology.faces].all(1))
    used = np.unique(topology.faces[candidates])
    ok = np.zeros(len(topology.faces), bool)
    ok[candidates] = True
    yaws = np.deg2rad(np.arange(-39, 40))
    lines = []
    for yaw in yaws:
        axis = np.array([np.cos(yaw), 0, np.sin(yaw)])
        flat = np.stack([vertices[used] @ axis, vertices[used, 1]], 1)
        lines.append(_jaw_line(vertices[used], flat, eye[1] + 0.010))
    lines = np.stack(lines)
    mirrored = lines[::-1, ::-1] * [-1, 1, 1]
    # On a flat cheek the outline runs through centimetres of depth within a degree or two: smooth
    # it, so that a fit sees no jump from row to row. In the picture that is a millimetre.
    smooth = gaussian_filter1d((lines + mirrored) / 2, _YAW_SMOOTHING, axis=0, mode="nearest")
    embedded = [
        [_closest(vertices, topology.faces, ok, point) for point in smooth[39 + yaw]]
        for yaw in _YAWS
    ]
    faces = np.array([[f for f, _ in row] for row in embedded])
    return faces, np.array([[b for _, b in row] for row in embedded])


def _face_mask(vertices: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """Return which vertices lie in front of the ears and above the jaw line."""
    y, z = vertices[:, 1] - eye[1], vertices[:, 2] - eye[2]
    line = np.interp(z, [-0.055, 0.010], [-0.072, -0.117])
    return (z > -0.058) & (y > line) & (y < 0.03)


def _jaw_line(points: np.ndarray, flat: np.ndarray, top: float) -> np.ndarray:
    """Return 17 points (17, 3) along the outline from eye level to eye level, right to left."""
    hull = ConvexHull(flat).vertices  # counter-clockwise
    loop = np.concatenate([hull, hull])
    # The lower part of the outline, from the right (small flat x) over the chin to the left.
    start = hull[np.argmin(flat[hull, 0])]
    k = list(hull).index(start)
    order = loop[k : k + len(hull)]
    dense = []
    for a, b in zip(order, np.roll(order, -1), strict=True):
        for t in np.linspace(0, 1, 40, endpoint=False):
            dense.append(np.r_[(1 - t) * points[a] + t * points[b],
                               (1 - t) * flat[a] + t * flat[b]])  # fmt: skip
    dense = np.array(dense)
    low = dense[:, 4] <= top
    centre = (flat[:, 0].max() + flat[:, 0].min()) / 2
    line = dense[low]
    right = line[:, 3] < centre
    # Begin at the highest point of the right side.
    first = np.flatnonzero(right)[np.argmax(line[right, 4])]
    line = np.roll(line, -first, axis=0)
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(line[:, 3:], axis=0), axis=1))]
    # The closing jump across the top is no part of the line.
    want = np.linspace(0, length[-1], 17)
    return np.stack([np.interp(want, length, line[:, k]) for k in range(3)], 1)


def _skin_faces(source: Source, topology: Topology) -> np.ndarray:
    """Return the (F,) mask of the faces of the head's outer skin."""
    skin = source.region_vertices("head")
    inner = source.region_vertices("eye_cavity.L", "eye_cavity.R", "mouth_cavity") & ~rims(source)
    balls = source.region_vertices(*(f"eye_{p}.{s}" for p in ("front", "back") for s in "LR"))
    good = (topology.sampling @ (skin & ~inner & ~balls).astype(float)) > 0.999
    on_rim = (topology.sampling @ rims(source).astype(float)) > 0.999
    return good[topology.faces].all(1) & ~on_rim[topology.faces].all(1)


def _from_front(vertices, faces, mask, xy) -> tuple[int, np.ndarray]:
    """Return the foremost face at (x, y) and the barycentric coordinates there."""
    corners = vertices[faces]
    a, b, c = corners[:, 0, :2], corners[:, 1, :2], corners[:, 2, :2]
    area = _cross(b - a, c - a)
    bary = np.stack(
        [_cross(b - xy, c - xy), _cross(c - xy, a - xy), _cross(a - xy, b - xy)], 1
    ) / np.where(np.abs(area) < 1e-12, np.nan, area)[:, None]  # fmt: skip
    inside = mask & (np.nan_to_num(bary, nan=-1) > -1e-9).all(1) & (area > 0)
    depth = np.where(inside, (bary * corners[:, :, 2]).sum(1), -np.inf)
    face = int(np.argmax(depth))
    if not inside[face]:
        raise RuntimeError(f"no face of the head lies behind the landmark at {xy}")
    return face, np.clip(bary[face], 0, 1) / np.clip(bary[face], 0, 1).sum()


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _closest(vertices, faces, mask, point) -> tuple[int, np.ndarray]:
    """Return the face nearest to a point and the barycentric coordinates of the foot."""
    ids = np.flatnonzero(mask)
    centres = vertices[faces[ids]].mean(1)
    near = ids[np.argsort(np.linalg.norm(centres - point, axis=1), kind="stable")[:60]]
    best = None
    for f in near:
        bary = _closest_bary(vertices[faces[f]], point)
        distance = np.linalg.norm(bary @ vertices[faces[f]] - point)
        if best is None or distance < best[0] - 1e-9:
            best = (distance, int(f), bary)
    return best[1], best[2]


def _closest_bary(corners: np.ndarray, point: np.ndarray) -> np.ndarray:
    a, b, c = corners
    edges = np.stack([b - a, c - a], 1)
    st = np.linalg.lstsq(edges, point - a, rcond=None)[0]
    if st.min() >= 0 and st.sum() <= 1:
        return np.array([1 - st.sum(), *st])
    best = None
    for i, j in ((0, 1), (1, 2), (2, 0)):
        d = corners[j] - corners[i]
        t = np.clip((point - corners[i]) @ d / max(d @ d, 1e-18), 0, 1)
        distance = np.linalg.norm(corners[i] + t * d - point)
        if best is None or distance < best[0]:
            bary = np.zeros(3)
            bary[i], bary[j] = 1 - t, t
            best = (distance, bary)
    return best[1]
