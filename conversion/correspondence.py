"""Which point of one body's surface each vertex of another is: built, saved, read. Torch-free.

After Choutas et al. 2020 (ExPose), supplement, section 3: register the source's template to the
target's, and keep for every target vertex the nearest triangle of the source, its barycentric
coordinates and whether that point is truly the same (equation 3 and the mask m).
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bodymodel.body import BodyData
from bodymodel.pickles import load_model_pickle
from conversion.lift import Lift, vertex_areas

__all__ = [
    "Correspondence",
    "build_correspondence",
    "load_correspondence",
    "load_official",
    "save_correspondence",
]

_FAR_SHARE = 0.004  # of the template's extent: 7 mm on an adult; beyond, it is another surface
_FACING = 0.5  # least cosine of the normals: within 60 degrees
_LIFT = ("rest", "faces", "goal")
_EYES = ("left_eye_smplhf", "right_eye_smplhf")


@dataclass(frozen=True, eq=False)
class Correspondence:
    """A mesh of the source's topology, sampled at the target's vertices.

    Attributes:
        corners: (Vt, 3) int64 vertices of the source.
        weights: (Vt, 3) float64 barycentric coordinates; rows sum to 1.
        valid: (Vt,) bool; False where the source has no such point (eyes, inner mouth).
        num_source: Vs, vertices of the source.
        lift: Where both are samplings of one surface, how points beside the source's triangles
            move with it; None for equation 3 as published.
        source: Whose, for messages: a body's name or a file.
        target: Likewise.
    """

    corners: np.ndarray
    weights: np.ndarray
    valid: np.ndarray
    num_source: int
    lift: Lift | None = None
    source: str = ""
    target: str = ""

    def __post_init__(self) -> None:
        count = len(self.corners)
        for name, shape in (
            ("corners", (count, 3)),
            ("weights", (count, 3)),
            ("valid", (count,)),
        ):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must be {shape}, got {getattr(self, name).shape}")
        if count and not (self.corners.min() >= 0 and self.corners.max() < self.num_source):
            raise ValueError(
                f"corners must lie in 0..{self.num_source - 1}, got "
                f"{self.corners.min()}..{self.corners.max()}"
            )
        off = np.abs(self.weights[self.valid].sum(1) - 1)
        if not np.isfinite(self.weights).all() or (off.size and off.max() > 1e-3):
            raise ValueError("barycentric weights must be finite and sum to 1 at valid vertices")

    @property
    def is_identity(self) -> bool:
        """Whether both have the same vertices, so that nothing is to be interpolated."""
        return (
            self.num_source == len(self.corners)
            and bool((self.corners[:, 0] == np.arange(self.num_source)).all())
            and bool((self.weights[:, 0] == 1).all())
        )

    def apply(self, vertices: np.ndarray) -> np.ndarray:
        """Sample meshes (equation 3): (..., Vs, 3) -> (..., Vt, 3), in any unit."""
        if vertices.shape[-2:] != (self.num_source, 3):
            raise ValueError(f"vertices must be (..., {self.num_source}, 3), got {vertices.shape}")
        if self.lift is not None:
            return self.lift.apply(vertices)
        corners = (vertices[..., self.corners[:, k], :] for k in range(3))
        return sum(x * self.weights[:, k, None] for k, x in enumerate(corners))


def build_correspondence(
    source: BodyData, target: BodyData, *, one_surface: bool | None = None
) -> Correspondence:
    """Find the point of the source for every vertex of the target.

    Bodies of one topology correspond vertex by vertex. For others the templates are laid over each
    other by a similarity (joints first, then nearest points), which is right for bodies whose
    templates stand alike; for the licensed SMPL and SMPL-X the published setup file, which was
    registered by hand, is better: see :func:`load_official`.

    Args:
        source: The body that there are parameters or meshes of.
        target: The body that parameters are wanted of.
        one_surface: Whether both templates sample one and the same surface, so that a vertex off
            the nearest triangle is the triangle's fault (it cuts across a curve), and is to stand
            off from it on posed meshes too (:mod:`conversion.lift`). By default only the open
            bodies are so. For others what separates the templates is their own, and equation 3 is
            taken as published.
    """
    same = source.faces.shape == target.faces.shape and (source.faces == target.faces).all()
    if same and len(source.v_template) == len(target.v_template):
        count = len(source.v_template)
        corners = np.repeat(np.arange(count)[:, None], 3, 1)
        weights = np.tile([1.0, 0.0, 0.0], (count, 1))
        valid = np.ones(count, bool)
        return Correspondence(corners, weights, valid, count, None, source.name, target.name)

    goal = target.v_template.astype(np.float64)
    laid = _register(source, target)
    triangle, weights, near = _nearest(laid, source.faces, goal)
    distance = np.linalg.norm(near - goal, axis=1)
    across = _face_normals(laid, source.faces)[triangle]
    facing = (across * _normals(goal, target.faces)).sum(1)
    extent = np.ptp(goal, axis=0).max()
    valid = (distance < _FAR_SHARE * extent) & (facing > _FACING)
    for joint in (target.joints.index(name) for name in _EYES if name in target.joints):
        valid &= target.weights[:, joint] < 0.5
    valid = _without_specks(valid, target.faces)
    corners = source.faces[triangle].astype(np.int64)
    lift = None
    if one_surface or (one_surface is None and source.is_open and target.is_open):
        lift = Lift(laid, source.faces.astype(np.int64), goal, corners, weights, valid)
    return Correspondence(corners, weights, valid, len(laid), lift, source.name, target.name)


def _register(source: BodyData, target: BodyData) -> np.ndarray:
    """Return the source's template, (Vs, 3) float64, laid over the target's."""
    shared = [name for name in source.joints if name in target.joints]
    if len(shared) < 4:
        raise ValueError(
            f"{source.family} and {target.family} share {len(shared)} joints; at least four are "
            "needed to lay one over the other. Give a correspondence file"
        )
    points = source.v_template.astype(np.float64)
    goal = target.v_template.astype(np.float64)
    pair = [
        body.joint_regressor[[body.joints.index(name) for name in shared]].astype(np.float64)
        @ body.v_template.astype(np.float64)
        for body in (source, target)
    ]
    points = _similar(points, *pair)
    last = np.inf
    for _ in range(20):
        triangle, _, near = _nearest(points, source.faces, goal)
        distance = np.linalg.norm(near - goal, axis=1)
        facing = _face_normals(points, source.faces)[triangle] * _normals(goal, target.faces)
        good = (facing.sum(1) > _FACING) & (distance <= np.quantile(distance, 0.8))
        if distance[good].mean() > 0.999 * last:
            break
        last = distance[good].mean()
        points = _similar(points, near[good], goal[good])
    return points


def _similar(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Move points by the similarity that takes a to b in the sense of least squares (Umeyama)."""
    mean_a, mean_b = a.mean(0), b.mean(0)
    u, s, vt = np.linalg.svd((b - mean_b).T @ (a - mean_a))
    flip = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = (s * flip).sum() / ((a - mean_a) ** 2).sum()
    return scale * (points - mean_a) @ (u * flip @ vt).T + mean_b


def _nearest(
    vertices: np.ndarray, faces: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the nearest triangle (N,), barycentric coordinates (N, 3) and point (N, 3)."""
    import open3d as o3d

    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor(np.ascontiguousarray(vertices, np.float32)),
        o3d.core.Tensor(np.ascontiguousarray(faces, np.uint32)),
    )
    found = scene.compute_closest_points(o3d.core.Tensor(points.astype(np.float32)))
    triangle = found["primitive_ids"].numpy().astype(np.int64)
    # open3d computes in float32: once more on that triangle.
    weights = _closest_on_triangles(vertices[faces[triangle]], points)
    return triangle, weights, (vertices[faces[triangle]] * weights[..., None]).sum(1)


def _closest_on_triangles(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the barycentric coordinates (N, 3) of the nearest point of each triangle (N, 3, 3)."""
    best, distance = np.zeros((len(points), 3)), np.full(len(points), np.inf)

    def offer(weights: np.ndarray) -> None:
        gap = ((weights[..., None] * corners).sum(1) - points) ** 2
        better = gap.sum(1) < distance
        best[better], distance[better] = weights[better], gap.sum(1)[better]

    for k in range(3):  # the edges
        a, b = corners[:, k], corners[:, (k + 1) % 3]
        along = ((points - a) * (b - a)).sum(1) / np.maximum(((b - a) ** 2).sum(1), 1e-30)
        t = np.clip(along, 0, 1)
        weights = np.zeros((len(points), 3))
        weights[:, k], weights[:, (k + 1) % 3] = 1 - t, t
        offer(weights)
    e, f = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    d = points - corners[:, 0]
    ee, ef, ff = (e * e).sum(1), (e * f).sum(1), (f * f).sum(1)
    de, df = (d * e).sum(1), (d * f).sum(1)
    area = np.maximum(ee * ff - ef * ef, 1e-30)
    v, w = (ff * de - ef * df) / area, (ee * df - ef * de) / area
    inside = (v >= 0) & (w >= 0) & (v + w <= 1)
    offer(np.where(inside[:, None], np.stack([1 - v - w, v, w], 1), best))
    return best


def _face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    total = vertex_areas(vertices, faces)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-30)


def _without_specks(valid: np.ndarray, faces: np.ndarray, least: int = 30) -> np.ndarray:
    """Drop valid islands of a few vertices: a tooth or a bit of throat that happens to be near."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = edges[valid[edges].all(1)]
    graph = sparse.coo_matrix((np.ones(len(edges)), edges.T), (len(valid),) * 2)
    _, label = connected_components(graph, directed=False)
    return valid & (np.bincount(label)[label] >= min(least, len(valid) // 10))


# --- files --------------------------------------------------------------------------------------


def save_correspondence(path: Path, correspondence: Correspondence) -> None:
    """Write a correspondence as npz, whole or not at all."""
    c = correspondence
    lift = {name: getattr(c.lift, name) for name in _LIFT} if c.lift else {}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        corners=c.corners.astype(np.int32), weights=c.weights, valid=c.valid,
        num_source=c.num_source, source=c.source, target=c.target, **lift,
    )  # fmt: skip
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(buffer.getvalue())
    temporary.replace(path)


def load_correspondence(path: Path, mask: Path | None = None) -> Correspondence:
    """Read a correspondence: our npz, or a published ``*_deftrafo_setup.pkl``.

    Args:
        path: The file.
        mask: For a published file, its mask of valid target vertices (npy, npz or pkl).

    Raises:
        ValueError: If it is damaged or something else.
    """
    if path.suffix == ".pkl":
        return load_official(path, mask)
    try:
        # numpy leaves a damaged file open that it opened itself
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        corners = arrays["corners"].astype(np.int64)
        weights, valid = arrays["weights"].astype(np.float64), arrays["valid"].astype(bool)
        lift = None
        if all(name in arrays for name in _LIFT):
            lift = Lift(*(arrays[name] for name in _LIFT), corners, weights, valid)
        return Correspondence(
            corners,
            weights,
            valid,
            num_source=int(arrays["num_source"]),
            lift=lift,
            source=str(arrays["source"]),
            target=str(arrays["target"]),
        )
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} cannot be read as a correspondence: {error}") from error
    except Exception as error:  # a damaged archive can raise nearly anything
        raise ValueError(
            f"{path} cannot be read as a correspondence ({type(error).__name__}: {error}); it "
            "must be one of this project's npz files or a published *_deftrafo_setup.pkl"
        ) from error


def load_official(path: Path, mask: Path | None = None) -> Correspondence:
    """Read a published ``smpl2smplx_deftrafo_setup.pkl`` and the like.

    Its matrix ``mtx`` is (Vt, 2 Vs): barycentric coordinates, then weights of normals, which the
    published tool leaves out as well. Nothing in the file is executed.

    Args:
        path: The file.
        mask: The mask of valid target vertices that goes with it: npy, npz or pkl; boolean, or the
            ids of the valid ones. Without it all vertices that have weights are valid.

    Raises:
        ValueError: If the file holds no such matrix.
    """
    content = load_model_pickle(path)
    matrix = content.get("mtx", content.get("matrix"))
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.shape[1] % 2:
        raise ValueError(f"{path} has no matrix 'mtx' of (target, 2 x source) vertices")
    num_source = matrix.shape[1] // 2
    matrix = np.asarray(matrix[:, :num_source], np.float64)
    corners = np.sort(np.argpartition(-np.abs(matrix), 3, axis=1)[:, :3], 1)
    weights = np.take_along_axis(matrix, corners, 1)
    rest = np.abs(matrix).sum(1) - np.abs(weights).sum(1)
    if rest.max() > 1e-3:
        raise ValueError(f"{path}: a row of 'mtx' has more than three weights; not barycentric")
    total = weights.sum(1)
    valid = np.abs(total - 1) < 1e-2
    weights[valid] /= total[valid, None]
    if mask is not None:
        valid &= _read_mask(mask, len(valid))
    return Correspondence(
        corners.astype(np.int64), weights, valid, num_source, None, str(path), ""
    )


def _read_mask(path: Path, count: int) -> np.ndarray:
    if path.suffix == ".pkl":
        content = load_model_pickle(path)
    else:
        loaded = np.load(path, allow_pickle=False)
        content = {k: loaded[k] for k in loaded.files} if hasattr(loaded, "files") else {"": loaded}
    arrays = [a for a in content.values() if isinstance(a, np.ndarray) and a.ndim == 1]
    for array in arrays:
        if array.shape == (count,) and set(np.unique(array)) <= {0, 1}:
            return array.astype(bool)
    for array in arrays:
        if array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() < count:
            mask = np.zeros(count, bool)
            mask[array] = True
            return mask
    raise ValueError(f"{path} holds no mask of {count} vertices, as booleans or as ids")
