"""Variety for rendered people: patterned and loose clothes, full hair, cluttered surroundings.

A network that has only seen plain clothes on the bare skin before soft walls takes those for the
person. What is drawn here widens that: cloth with patterns, surfaces that stand off the body (truth
stays the body's), and backdrops full of edges. All from the generator that is passed in.
"""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bodymodel.raycast import vertex_normals

LOOSEST_M: Mapping[str, float] = {"hair": 0.045, "shirt": 0.035, "trousers": 0.03, "shoes": 0.012}
"""How far hair and cloth stand off the body at most, metres."""


def loosen(
    vertices: np.ndarray,
    faces: np.ndarray,
    garments: Mapping[str, np.ndarray],
    rest: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Let hair and clothes stand off the body, unevenly.

    Args:
        vertices: (V, 3) metres, posed.
        faces: (F, 3).
        garments: Names -> (V,) bool, as bodymodel.synthetic.garments says.
        rest: (V, 3) metres at rest, so that folds stay where they are on the cloth.
        rng: What draws.

    Returns:
        (V, 3), moved outwards where there is cloth or hair.
    """
    off = np.zeros(len(vertices))
    for name, most in LOOSEST_M.items():
        where = garments[name]
        amount = most * rng.random() ** 2  # mostly close, sometimes loose
        off[where] = amount * (1 + 0.6 * _waves(rest[where], rng, 8.0, 40.0))
    return vertices + np.maximum(off, 0)[:, None] * vertex_normals(vertices, faces)


def pattern(
    colors: np.ndarray,
    garments: Mapping[str, np.ndarray],
    rest: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Redraw shirt and trousers in any colour, half of them with stripes, checks or blots.

    Args:
        colors: (V, 3) linear, 0-1, of ``dress``.
        garments: As in ``loosen``.
        rest: As in ``loosen``.
        rng: What draws.

    Returns:
        (V, 3) float32.
    """
    out = colors.copy()
    for name in ("shirt", "trousers"):
        where = garments[name]
        first, second = _any_color(rng), _any_color(rng)
        kind = rng.random()
        if kind < 0.5:
            share = np.zeros(where.sum())
        elif kind < 0.75:
            share = np.sign(_waves(rest[where], rng, 30.0, 120.0, count=1))
        else:
            share = np.clip(2 * _waves(rest[where], rng, 15.0, 60.0), -1, 1)
        share = (0.5 + 0.5 * share)[:, None] if kind >= 0.5 else share[:, None]
        uneven = 1 + 0.05 * rng.standard_normal((len(share), 1))
        out[where] = np.clip((first * (1 - share) + second * share) * uneven, 0, 1)
    return out


def make_clutter(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return surroundings full of edges: coloured noise of all sizes, shapes, limbs of nobody.

    Args:
        rng: What draws.
        width: Pixels.
        height: Pixels.

    Returns:
        (H, W, 3) float32, 0-1.
    """
    out = np.empty((height, width, 3), np.float32)
    out[:] = rng.uniform(0.15, 0.85, 3)
    fall = rng.uniform(0.3, 1.1)
    strength = rng.uniform(0.1, 0.5)
    cells = 3
    while cells < max(width, height) / 2:
        tint = 1 + 0.35 * rng.standard_normal(3)
        size = (cells, max(2, cells * height // width))
        coarse = Image.fromarray(rng.integers(0, 256, size[::-1], dtype=np.uint8))
        noise = np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR), np.float32)
        out += (strength * (cells / 3) ** -fall * (noise / 255 - 0.5))[..., None] * tint.astype(
            np.float32
        )
        cells *= 2
    picture = Image.fromarray(np.clip(255 * out, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(3, 22)):
        middle = rng.uniform(0, 1, 2) * (width, height)
        half = np.exp(rng.uniform(np.log(0.02), np.log(0.3), 2)) * max(width, height)
        color = tuple(int(c) for c in 255 * np.sqrt(_any_color(rng)))
        kind = rng.random()
        if kind < 0.3:
            draw.rectangle([*(middle - half), *(middle + half)], fill=color)
        elif kind < 0.5:
            draw.ellipse([*(middle - half), *(middle + half)], fill=color)
        elif kind < 0.8:  # limbs, poles, branches
            away = rng.uniform(-0.5, 0.5, 2) * (width, height)
            thick = int(rng.uniform(1, 0.08 * width))
            draw.line([*(middle - away), *(middle + away)], fill=color, width=max(1, thick))
        else:
            corners = middle + rng.uniform(-0.3, 0.3, (rng.integers(3, 7), 2)) * max(width, height)
            draw.polygon([tuple(c) for c in corners], fill=color)
    blur = rng.uniform(0, 2.0) * width / 256
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(blur)), np.float32) / 255


def _any_color(rng: np.random.Generator) -> np.ndarray:
    """(3,) linear: grey to saturated, dark to light."""
    value, saturation = rng.uniform(0.03, 0.85), rng.uniform(0, 1) ** 2
    return value * (1 - saturation * rng.random(3))


def _waves(
    points: np.ndarray, rng: np.random.Generator, low: float, high: float, count: int = 4
) -> np.ndarray:
    """(N,) about -1 to 1: plane waves through points (N, 3), of low to high radians a metre."""
    total = np.zeros(len(points))
    for _ in range(count):
        direction = rng.standard_normal(3)
        direction *= np.exp(rng.uniform(np.log(low), np.log(high))) / np.linalg.norm(direction)
        total += np.sin(points @ direction + rng.uniform(0, 2 * np.pi))
    return total / np.sqrt(count)
