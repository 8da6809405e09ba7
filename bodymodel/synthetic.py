"""Photos of people who are known exactly: clothes by region, a backdrop, light, and what is hidden.

Plain enough to be made in a quarter of a second on the CPU, and enough like a photo that a person
detector finds body, hands and face. Works on posed vertices, so it needs no torch. Everything
random comes from the generator that is passed in.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

from bodymodel.body import BodyData
from bodymodel.raycast import Lighting, Scene, first_surface
from bodymodel.render import render_mesh
from bodymodel.spec import VERTEX_KEYPOINTS

__all__ = [
    "Outfit",
    "dress",
    "head_top_vertex",
    "is_hidden",
    "make_backdrop",
    "photograph",
    "random_lighting",
    "random_outfit",
]

Color = tuple[float, float, float]

_SKINS: tuple[Color, ...] = (
    (0.86, 0.66, 0.55), (0.80, 0.58, 0.45), (0.68, 0.46, 0.33), (0.50, 0.32, 0.22),
    (0.34, 0.21, 0.15),
)  # fmt: skip
_HAIRS: tuple[Color, ...] = (
    (0.05, 0.04, 0.04), (0.14, 0.08, 0.05), (0.28, 0.17, 0.09), (0.55, 0.42, 0.22),
    (0.42, 0.42, 0.42),
)  # fmt: skip
_CLOTHES: tuple[Color, ...] = (
    (0.10, 0.14, 0.30), (0.45, 0.08, 0.10), (0.08, 0.28, 0.18), (0.72, 0.70, 0.66),
    (0.09, 0.09, 0.10), (0.62, 0.45, 0.12), (0.20, 0.38, 0.55), (0.38, 0.20, 0.40),
    (0.30, 0.28, 0.25), (0.70, 0.36, 0.30),
)  # fmt: skip


@dataclass(frozen=True)
class Outfit:
    """Colours, linear 0-1, and the lengths of the clothes.

    Attributes:
        skin: Of face, hands, and what clothes leave bare.
        hair: Also of the brows.
        shirt: Likewise.
        trousers: Likewise.
        shoes: Likewise.
        sleeve: How far down the arm the shirt goes: 0 the shoulder, 1 the elbow, 2 the wrist.
        leg: How far down the leg the trousers go: 0 the hip, 1 the knee, 2 the ankle.
    """

    skin: Color
    hair: Color
    shirt: Color
    trousers: Color
    shoes: Color
    sleeve: float
    leg: float


def random_outfit(rng: np.random.Generator) -> Outfit:
    """Draw an outfit whose shirt and trousers differ in colour."""
    shirt, trousers, shoes = rng.choice(len(_CLOTHES), 3, replace=False)
    return Outfit(
        skin=_SKINS[rng.integers(len(_SKINS))],
        hair=_HAIRS[rng.integers(len(_HAIRS))],
        shirt=_CLOTHES[shirt],
        trousers=_CLOTHES[trousers],
        shoes=_CLOTHES[shoes],
        sleeve=float(rng.choice((0.55, 1.0, 1.85))),
        leg=float(rng.choice((0.8, 1.88, 1.88))),
    )


def head_top_vertex(body: BodyData) -> int:
    """Return the vertex that is the top of the head: the highest of the mean shape at rest."""
    return int(body.v_template[:, 1].argmax())


def dress(body: BodyData, outfit: Outfit, rng: np.random.Generator) -> np.ndarray:
    """Colour the vertices by what they are at rest: skin, hair, brows, lips, eyes, clothes, shoes.

    Args:
        body: An SMPL-X body, licensed or open.
        outfit: What the person wears.
        rng: For the unevenness of cloth and skin.

    Returns:
        (V, 3) float32 linear colours, 0-1.

    Raises:
        ValueError: If the body is of another family.
    """
    regions = garments(body, outfit)
    colors = np.empty((len(body.v_template), 3), np.float32)
    colors[:] = outfit.skin
    for name in ("shirt", "trousers", "shoes", "hair"):
        colors[regions[name]] = getattr(outfit, name)
    marks = _face_marks(body)
    colors[marks["brows"]] = outfit.hair
    colors[marks["lips"]] = np.asarray(outfit.skin) * (0.95, 0.55, 0.55)
    colors[marks["eyes"]] = (0.85, 0.85, 0.84)
    colors[marks["pupils"]] = (0.10, 0.07, 0.05)
    unevenness = 1 + 0.05 * rng.standard_normal((len(colors), 1))
    return np.clip(colors * unevenness, 0, 1).astype(np.float32)


def garments(body: BodyData, outfit: Outfit) -> dict[str, np.ndarray]:
    """Return which vertices are shirt, trousers, shoes and hair: names -> (V,) bool.

    Raises:
        ValueError: If the body is of another family.
    """
    if body.family != "smplx":
        raise ValueError(f"only SMPL-X bodies can be dressed, got {body.name} ({body.family})")
    rest, joint_at, owner = _at_rest(body)
    trunk = np.isin(owner, ("pelvis", "spine1", "spine2", "spine3", "left_collar", "right_collar"))
    legs = np.isin(
        owner, ("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle")
    )
    waist = 0.65 * joint_at["pelvis"][1] + 0.35 * joint_at["spine1"][1]
    shirt = trunk & (rest[:, 1] >= waist)
    trousers = trunk & ~shirt
    for side in ("left", "right"):
        arm = np.isin(owner, (f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist"))
        shirt |= arm & (_along(rest, joint_at, side, _ARM) < outfit.sleeve)
        leg = legs & np.char.startswith(owner, side)
        trousers |= leg & (_along(rest, joint_at, side, _LEG) < outfit.leg)
    ankle = min(joint_at["left_ankle"][1], joint_at["right_ankle"][1])
    feet = np.isin(owner, ("left_foot", "right_foot", "left_ankle", "right_ankle"))
    shoes = feet & (rest[:, 1] < ankle + 0.01)
    trousers &= ~shoes
    return {
        "shirt": shirt, "trousers": trousers, "shoes": shoes, "hair": _face_marks(body)["hair"]
    }  # fmt: skip


@lru_cache(maxsize=4)
def _at_rest(body: BodyData) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Vertices, joints by name, and each vertex's joint."""
    rest = body.v_template.astype(np.float64)
    joint_at = dict(zip(body.joints, body.joint_regressor @ rest, strict=True))
    return rest, joint_at, np.asarray(body.joints)[body.weights.argmax(1)]


_ARM = ("shoulder", "elbow", "wrist")
_LEG = ("hip", "knee", "ankle")


def _along(rest: np.ndarray, joint_at: dict, side: str, chain: tuple[str, str, str]) -> np.ndarray:
    """(V,) how far down a limb vertices are: 0 at its root, 1 at its hinge, 2 at its end."""
    root, hinge, end = (joint_at[f"{side}_{name}"] for name in chain)
    parts = []
    for a, b in ((root, hinge), (hinge, end)):
        parts.append(((rest - a) @ (b - a)) / ((b - a) @ (b - a)))
    return np.where(parts[0] < 1, parts[0], 1 + np.clip(parts[1], 0, None))


@lru_cache(maxsize=4)
def _face_marks(body: BodyData) -> dict[str, np.ndarray]:
    """Where hair, brows, lips, eyes and pupils are: names -> (V,) bool, later ones on top."""
    rest, _, owner = _at_rest(body)
    ids = dict(zip(VERTEX_KEYPOINTS, body.vertex_ids, strict=True))
    ear = (rest[ids["left_ear"]] + rest[ids["right_ear"]]) / 2
    eye = (rest[ids["left_eye"]] + rest[ids["right_eye"]]) / 2
    top = rest[head_top_vertex(body)]
    head = (owner == "head") | (owner == "jaw")
    landmarks = (rest[body.faces[body.landmark_faces]] * body.landmark_bary[..., None]).sum(1)

    # Behind the ears down to the nape, and above a line that rises towards the forehead.
    height, depth = rest[:, 1], rest[:, 2]
    hairline = eye[1] + 0.48 * (top[1] - eye[1])
    front = np.clip((depth - ear[2]) / max(eye[2] - ear[2], 1e-3), 0, 1)
    nape = eye[1] - 0.55 * (top[1] - eye[1])
    hair = head & np.where(front > 0, height > eye[1] + front * (hairline - eye[1]), height > nape)
    hair &= (front > 0.12) | (depth < ear[2] - 0.012) | (height > eye[1] + 0.02)

    def near(points: np.ndarray, reach_m: float) -> np.ndarray:
        distance = np.linalg.norm(rest[:, None] - points[None], axis=-1).min(1)
        return head & (distance < reach_m)

    # iBUG order from 17 on: 10 points of the brows, 9 of the nose, 12 of the eyes, 20 of the lips.
    brows = np.concatenate([_between(landmarks[0:5]), _between(landmarks[5:10])])
    lips = np.concatenate([_between(landmarks[31:43]), _between(landmarks[43:51])])
    marks = {"hair": hair, "brows": near(brows, 0.0045), "lips": near(lips, 0.004)}
    marks["eyes"], marks["pupils"] = np.zeros((2, len(rest)), bool)
    for name in ("left_eye_smplhf", "right_eye_smplhf"):
        ball = owner == name
        if not ball.any():
            continue
        # The pupil is around the frontmost point, because at rest the eyes look ahead.
        center = rest[ball].mean(0)
        radius = np.linalg.norm(rest[ball] - center, axis=-1).max()
        ahead = np.full(len(rest), -1.0)
        ahead[ball] = (depth[ball] - center[2]) / radius
        marks["eyes"] |= ball
        marks["pupils"] |= ahead > 0.88
    return marks


def _between(points: np.ndarray, steps: int = 5) -> np.ndarray:
    """Points on the polyline through points (N, 3)."""
    share = np.linspace(0, 1, steps)[:, None, None]
    return (points[:-1] * (1 - share) + points[1:] * share).reshape(-1, 3)


def make_backdrop(
    rng: np.random.Generator, width: int, height: int, horizon: float = 0.6
) -> np.ndarray:
    """Return a soft backdrop: a wall with uneven light, a floor, a few blurred panels.

    Args:
        rng: Source of everything.
        width: Pixels.
        height: Pixels.
        horizon: Where the floor begins, as a share of the height.

    Returns:
        (H, W, 3) float32, 0-1.
    """
    tint = rng.uniform(0.92, 1.08, 3)
    wall = np.clip(rng.uniform(0.35, 0.8) * tint, 0, 0.95)
    floor = np.clip(rng.uniform(0.25, 0.6) * rng.uniform(0.92, 1.08, 3), 0, 0.95)
    rows = np.linspace(0, 1, height)[:, None, None]
    out = np.where(rows < horizon, wall * (1.05 - 0.15 * rows), floor * (0.75 + 0.35 * rows))
    out = np.broadcast_to(out, (height, width, 3)).copy()
    for _ in range(rng.integers(1, 5)):  # pictures, doors, shelves
        x, w = rng.uniform(-0.1, 0.9), rng.uniform(0.08, 0.3)
        y, h = rng.uniform(0, 0.35), rng.uniform(0.1, 0.5)
        rectangle = (
            slice(int(y * height), int(min(y + h, horizon) * height)),
            slice(max(0, int(x * width)), max(0, int((x + w) * width))),
        )
        out[rectangle] *= rng.uniform(0.65, 1.2) * rng.uniform(0.88, 1.12, 3)
    out *= 1 + 0.25 * (_smooth_noise(rng, width, height, 5) - 0.5)[..., None]
    picture = Image.fromarray(_to_bytes(out)).filter(ImageFilter.GaussianBlur(width / 160))
    return np.asarray(picture, np.float32) / 255


def random_lighting(rng: np.random.Generator) -> Lighting:
    """Draw a light from above and the front, left or right."""
    return Lighting(
        direction=(float(rng.uniform(-0.9, 0.9)), float(rng.uniform(-1.1, -0.4)), -1.0),
        diffuse=float(rng.uniform(0.5, 0.7)),
        ambient=float(rng.uniform(0.35, 0.5)),
        rim=0.2,
    )


def photograph(
    vertices: np.ndarray,
    faces: np.ndarray,
    colors: np.ndarray,
    backdrop: np.ndarray,
    focal_px: float,
    center_px: tuple[float, float],
    lighting: Lighting,
    rng: np.random.Generator,
) -> np.ndarray:
    """Render people in front of a backdrop, with a lens's softness and a sensor's noise.

    Args:
        vertices: (V, 3) or (P, V, 3) metres, camera frame.
        faces: (F, 3).
        colors: (V, 3) or (P, V, 3) from ``dress``.
        backdrop: (H, W, 3) float32, 0-1; its size is the picture's.
        focal_px: In pixels.
        center_px: In pixels.
        lighting: Where the light comes from.
        rng: For the noise.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: As in ``render_mesh``.
    """
    height, width = backdrop.shape[:2]
    picture = render_mesh(
        vertices, faces, focal_px, center_px, width, height, colors=colors, lighting=lighting
    )
    alpha = picture.alpha[..., None]
    out = backdrop * (1 - alpha) + picture.rgb * alpha
    soft = Image.fromarray(_to_bytes(out)).filter(ImageFilter.GaussianBlur(0.5))
    noise = rng.normal(0, 2.0, (height, width, 1))
    return np.clip(np.rint(np.asarray(soft) + noise), 0, 255).astype(np.uint8)


def is_hidden(
    vertices: np.ndarray, faces: np.ndarray, points: np.ndarray, reach_m: np.ndarray
) -> np.ndarray:
    """Tell which points, joints inside the body say, are hidden behind another part of the body.

    A joint lies under the skin, so something is always in front of it. It counts as hidden where
    the surface that its ray meets first is further from it than the limb is thick.

    Args:
        vertices: (V, 3) or (P, V, 3) metres, camera frame.
        faces: (F, 3).
        points: (N, 3) metres, camera frame.
        reach_m: (N,) how far the limb's own surface may be in front of the point.

    Returns:
        (N,) bool.
    """
    scene = Scene.build(vertices, faces, None)
    if scene is None:
        return np.zeros(len(points), bool)
    surface = first_surface(scene, points)
    in_front = np.linalg.norm(points, axis=-1) - np.linalg.norm(surface, axis=-1)
    return in_front > reach_m  # minus infinity where nothing is met


_MARGIN = 0.05  # of the picture's side, kept free around the person


def frame_person(
    vertices: np.ndarray,
    focal: float,
    width: int,
    height: int,
    fill: float,
    offset: np.ndarray,
) -> np.ndarray:
    """Return the translation (3,) that makes a person fill the picture, all of them in it.

    Args:
        vertices: (V, 3) posed around the origin of the camera's frame.
        focal: Pixels.
        width: Pixels.
        height: Pixels.
        fill: Share of the picture's height, or width if that is tighter, that the person takes.
        offset: (2,) from -1 to 1: where in the room left over.
    """
    size = np.array((width, height), np.float64)
    transl = np.array((0, 0, focal * 2 / height))
    for _ in range(12):  # a fixed point: the extent depends on the depth of each vertex
        moved = vertices + transl
        pixels = moved[:, :2] / moved[:, 2:] * focal + size / 2
        low, high = pixels.min(0), pixels.max(0)
        grow = ((high - low) / (fill * size)).max()
        room = np.maximum(size * (1 - 2 * _MARGIN) - (high - low), 0) / 2
        target = size / 2 + offset * np.minimum(room, 0.08 * size)
        depth = transl[2] + 0.7 * (grow - 1) * transl[2]
        transl[:2] += (target - (low + high) / 2) * transl[2] / focal
        transl[:2] *= depth / transl[2]
        transl[2] = depth
    return transl


def _smooth_noise(rng: np.random.Generator, width: int, height: int, cells: int) -> np.ndarray:
    """(H, W) float32 in 0-1 without detail finer than the cells."""
    coarse = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255


def _to_bytes(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(255 * picture), 0, 255).astype(np.uint8)
