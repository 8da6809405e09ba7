"""Which point of one body's surface each vertex of another is. Torch-free.

After Choutas et al. 2020 (ExPose), supplement, section 3: register the source's template to the
target's, and keep for every target vertex the nearest triangle of the source, its barycentric
coordinates and whether that point is truly the same (equation 3 and the mask m).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bodymodel.body import BodyData
from bodymodel.spec import FACE_JOINTS, LEFT_HAND_JOINTS, RIGHT_HAND_JOINTS
from conversion.lift import Lift, vertex_areas
from conversion.nearest import nearest_on_mesh

__all__ = ["Correspondence", "build_correspondence", "part_vertices", "side_of"]

_FAR_SHARE = 0.004  # of the template's extent: 7 mm on an adult; beyond, it is another surface
_FACING = 0.5  # least cosine of the normals: within 60 degrees
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
    registered by hand, is better: see
    :mod:`conversion.correspondence_files`. It is a matter of topologies alone: where the target is
    of another gender than the source, build it of two bodies of one gender.

    Args:
        source: The body that there are parameters or meshes of.
        target: The body that parameters are wanted of.
        one_surface: Whether both templates sample one and the same surface, in one place, so that a
            vertex off the nearest triangle is the triangle's fault (it cuts across a curve), and is
            to stand off from it on posed meshes too (:mod:`conversion.lift`). Nothing is registered
            then: triangles lie inside of what is round, and nearest points would make the source
            larger by that. By default only the open bodies of one gender are so. For others what
            separates the templates is their own, and equation 3 is taken as published.
    """
    same = source.faces.shape == target.faces.shape and (source.faces == target.faces).all()
    if same and len(source.v_template) == len(target.v_template):
        count = len(source.v_template)
        corners = np.repeat(np.arange(count)[:, None], 3, 1)
        weights = np.tile([1.0, 0.0, 0.0], (count, 1))
        valid = np.ones(count, bool)
        return Correspondence(corners, weights, valid, count, None, source.name, target.name)

    goal = target.v_template.astype(np.float64)
    mine = part_vertices(source, target)
    if one_surface is None:
        one_surface = source.is_open and target.is_open and source.gender == target.gender
    laid = source.v_template.astype(np.float64)
    if not one_surface:
        laid = _register(source, target, mine)
    triangle, weights, near = nearest_on_mesh(laid, source.faces, goal)
    distance = np.linalg.norm(near - goal, axis=1)
    across = _face_normals(laid, source.faces)[triangle]
    facing = (across * _normals(goal, target.faces)).sum(1)
    extent = np.ptp(goal, axis=0).max()
    valid = mine & (distance < _FAR_SHARE * extent) & (facing > _FACING)
    for joint in (target.joints.index(name) for name in _EYES if name in target.joints):
        if source.family == "flame":  # it has the same eyes
            break
        valid &= target.weights[:, joint] < 0.5
    valid = _without_specks(valid, target.faces)
    corners = source.faces[triangle].astype(np.int64)
    lift = None
    if one_surface:
        lift = Lift(laid, source.faces.astype(np.int64), goal, corners, weights, valid)
    return Correspondence(corners, weights, valid, len(laid), lift, source.name, target.name)


def part_vertices(source: BodyData, target: BodyData) -> np.ndarray:
    """Return (V,) bool: the target's vertices that the source's part of the body has."""
    names: tuple[str, ...] = target.joints
    if source.family == "mano":
        hand = side_of(source)
        fingers = LEFT_HAND_JOINTS if hand == "left" else RIGHT_HAND_JOINTS
        names = (f"{hand}_wrist", *fingers)
    elif source.family == "flame":
        names = ("head", *FACE_JOINTS)
    ids = [target.joints.index(name) for name in names if name in target.joints]
    return target.weights[:, ids].sum(1) > 0.5


def side_of(mano: BodyData) -> Literal["left", "right"]:
    """Return which hand a MANO body is."""
    return "left" if np.any(mano.hand_components[0]) or np.any(mano.hand_means[0]) else "right"


def _joint_names(source: BodyData) -> list[str]:
    """The source's joints by the names that they have in a body."""
    if source.family == "mano":
        return [f"{side_of(source)}_{name}" for name in source.joints]
    if source.family == "flame":
        return ["neck", "head", *source.joints[2:]]
    return list(source.joints)


def _register(source: BodyData, target: BodyData, mine: np.ndarray) -> np.ndarray:
    """Return the source's template, (Vs, 3) float64, laid over the target's."""
    names = _joint_names(source)
    shared = [name for name in names if name in target.joints]
    if len(shared) < 4:
        raise ValueError(
            f"{source.family} and {target.family} share {len(shared)} joints; at least four are "
            "needed to lay one over the other. Give a correspondence file"
        )
    points = source.v_template.astype(np.float64)
    goal = target.v_template[mine].astype(np.float64)
    facing_of = _normals(target.v_template.astype(np.float64), target.faces)[mine]
    pair = [
        body.joint_regressor[[known.index(name) for name in shared]].astype(np.float64)
        @ body.v_template.astype(np.float64)
        for body, known in ((source, names), (target, list(target.joints)))
    ]
    points = _similar(points, *pair)
    last = np.inf
    for _ in range(20):
        triangle, _, near = nearest_on_mesh(points, source.faces, goal, is_exact=False)
        distance = np.linalg.norm(near - goal, axis=1)
        facing = _face_normals(points, source.faces)[triangle] * facing_of
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
