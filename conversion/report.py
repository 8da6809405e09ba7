"""report.html: how far a conversion is from its source, and its worst ten in pictures."""

import base64
import html
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bodymodel.body import BodyData
from conversion.bodies import Bodies
from conversion.clips import POSE_COLUMNS, Clip, Frames
from conversion.nearest import nearest_on_mesh
from conversion.numbers import Numbers, Row, summary_rows

if TYPE_CHECKING:
    from conversion.surface import Surface

__all__ = ["write_report"]

_log = logging.getLogger(__name__)
_SIDE_PX = 300
_POINTS = 50_000  # of a picture at once: memory
_RED_MM = 5.0  # distance that is painted full red
_RED, _GREY = np.array([0.8, 0.06, 0.05]), np.array([0.62, 0.66, 0.7])


def write_report(
    path: Path,
    numbers: Numbers,
    clips: Mapping[str, Clip],
    bad_files: Sequence[str],
    bodies: Bodies,
    frames: Callable[[Clip, int, int, BodyData], Frames],
) -> Path:
    """Write the page.

    Args:
        path: Where to.
        numbers: Of numbers.read_numbers.
        clips: The sources by name, for the pictures.
        bad_files: Why files could not be read.
        bodies: Likewise.
        frames: Gives frames of a clip, in metres and with whole hands.
    """
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>"
        for line in summary_rows(numbers)
    )
    told = "".join(
        f"<li>{_name(row)}: {html.escape(row.status)}, {html.escape(row.reason)}</li>"
        for row in numbers.failed
    )
    bad = "".join(f"<li>{html.escape(reason)}</li>" for reason in bad_files)
    sentences = (
        "Distances are between the result and the source's mesh sampled at its vertices; p99 and "
        "max are within a mesh for the line v2v, over the meshes for the parts."
    )
    painter = _Painter(clips, bodies, frames)
    cards = "".join(_card(row, painter) for row in numbers.worst)
    text = _PAGE.format(
        sentences=sentences, rows=rows, cards=cards, red=_RED_MM,
        failed=f"<h2>Not converted, or not settled</h2><ul>{told}</ul>" if told else "",
        bad=f"<h2>Files that could not be read</h2><ul>{bad}</ul>" if bad else "",
    )  # fmt: skip
    temporary = path.with_suffix(".html.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path


def _name(row: Row) -> str:
    label = f" ({row.label})" if row.label else ""
    return html.escape(f"{row.clip}, frame {row.frame}{label}")


def _card(row: Row, painter: "_Painter") -> str:
    try:
        image = painter.draw(row)
    except Exception as error:  # a picture must not cost the report
        _log.warning("no picture of %s, frame %s: %s", row.clip, row.frame, error)
        image = ""
    return (
        f"<figure>{image}<figcaption>{_name(row)}<br>mean {row.mean_mm:.2f}, p99 "
        f"{row.p99_mm:.2f}, max {row.max_mm:.2f} mm; {html.escape(row.status)}"
        f"</figcaption></figure>"
    )


class _Painter:
    """Draws rows; keeps the last clip and the models, so that ten rows of one clip are cheap."""

    def __init__(
        self,
        clips: Mapping[str, Clip],
        bodies: Bodies,
        frames: Callable[[Clip, int, int, BodyData], Frames],
    ) -> None:
        self._clips, self._bodies, self._frames = clips, bodies, frames
        self._clip: Clip | None = None
        self._surfaces: dict[str, Surface] = {}

    def _posed(self, body: BodyData, arrays: list[np.ndarray]) -> np.ndarray:
        import torch

        from bodymodel.rotations import rotvec_to_rotmat
        from conversion.surface import State, Surface

        if body.sha256 not in self._surfaces:
            self._surfaces[body.sha256] = Surface(body)
        pose, *parts = (torch.as_tensor(x) for x in arrays)
        shape = torch.zeros(1, body.num_betas + body.num_expression)
        for first, part in zip((0, body.num_betas), parts, strict=False):
            shape[:, first : first + part.shape[1]] = part
        with torch.no_grad():
            state = State(rotvec_to_rotmat(pose), shape, torch.zeros(1, 3))
            return self._surfaces[body.sha256].pose(state).vertices[0].T.numpy()

    def draw(self, row: Row) -> str:
        """Return source, result, and the result painted by its distance from the source."""
        import pyarrow.parquet as pq

        if self._clip is None or self._clip.name != row.clip:
            self._clip = None  # two long clips need not be in memory together
            self._clip = self._clips[row.clip].reread()
        clip = self._clip
        vertices = clip.frames(row.frame, row.frame + 1).vertices
        if vertices is None:
            source = self._bodies.source(clip)
            frames = self._frames(clip, row.frame, row.frame + 1, source)
            given = [frames.full_pose, frames.betas]
            given += [] if frames.expression is None else [frames.expression]
            before = self._posed(source, given) + frames.transl[0].astype(np.float32)
        else:
            source = self._bodies.source(clip, len(vertices[0]))
            before = self._frames(clip, row.frame, row.frame + 1, source).vertices[0]
        target = self._bodies.target(source.gender)
        table = pq.ParquetFile(row.path).read().slice(row.row, 1)

        def column(name: str) -> np.ndarray:
            return np.array(table[name].to_pylist(), np.float32)

        pose = np.concatenate([column(c) for c, _ in POSE_COLUMNS[target.family]], 1)
        given = [pose.reshape(1, -1, 3), column("betas")]
        given += [column("expression")] if target.num_expression else []
        after = self._posed(target, given) + column("transl")
        near = nearest_on_mesh(before, source.faces, after, is_exact=False)[2]  # a picture
        gap_mm = 1000 * np.linalg.norm(near - after, axis=1)
        share = np.clip(gap_mm / _RED_MM, 0, 1)[:, None]
        paint = share * _RED + (1 - share) * _GREY
        views = [
            _view(before, source.faces, None),
            _view(after, target.faces, None),
            _view(after, target.faces, paint),
        ]
        return _embedded(np.concatenate(views, 1))


def _view(vertices: np.ndarray, faces: np.ndarray, paint: np.ndarray | None) -> np.ndarray:
    """Draw a mesh from its front, (side, side, 3) uint8.

    Each triangle is drawn as its points on a grid finer than the pixels, the nearest in front. No
    ray casting library is worth its memory here.
    """
    side = 2 * _SIDE_PX  # averaged in the end
    middle = (vertices.max(0) + vertices.min(0)) / 2
    radius = np.linalg.norm(vertices - middle, axis=1).max()
    corners = (0.47 * side / radius * (vertices - middle))[faces]  # pixels
    edges = corners - np.roll(corners, 1, axis=1)
    normal = np.cross(edges[:, 1], edges[:, 2])
    seen = normal[:, 2] > 0
    faces, corners, edges, normal = faces[seen], corners[seen], edges[seen], normal[seen]
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    light = 0.2 + 0.8 * np.clip(normal @ (0.3, 0.4, 0.866), 0, 1)
    color = np.full((len(vertices), 3), _GREY) if paint is None else paint
    color = color[faces] * light[:, None, None]
    longest = np.linalg.norm(edges[..., :2], axis=2).max(1)
    steps = 2 ** np.ceil(np.log2(np.clip(1.2 * longest, 1, 256))).astype(int)
    image, depth = np.full((side**2, 3), 0.96), np.full(side**2, -np.inf)
    for count in np.unique(steps):
        grid = np.array([(a, b) for a in range(count + 1) for b in range(count + 1 - a)]) / count
        weights = np.c_[1 - grid.sum(1), grid]
        mine = np.flatnonzero(steps == count)
        for ids in np.array_split(mine, -(-len(mine) * len(grid) // _POINTS)):
            points = (weights @ corners[ids]).reshape(-1, 3)
            place = np.rint(side / 2 + points[:, :2] * (1, -1)).astype(int)
            place = np.clip(place, 0, side - 1) @ (1, side)
            order = np.argsort(points[:, 2])  # the nearest comes last and stays
            order = order[points[order, 2] > depth[place[order]]]
            depth[place[order]] = points[order, 2]
            image[place[order]] = (weights @ color[ids]).reshape(-1, 3)[order]
    image = image.reshape(_SIDE_PX, 2, _SIDE_PX, 2, 3).mean((1, 3))
    return np.rint(255 * image ** (1 / 2.2)).astype(np.uint8)


def _embedded(image: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="source, result, distance" src="data:image/jpeg;base64,{data}">'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Conversion</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 76rem;
  margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
td, th {{ padding: .2rem .9rem .2rem 0; text-align: right; border-bottom: 1px solid #8884; }}
td:first-child {{ text-align: left; white-space: pre; }}
.cards {{ display: flex; flex-wrap: wrap; gap: .8rem; }} figure {{ margin: 0; max-width: 37rem; }}
figure img {{ width: 100%; border-radius: 6px; }} figcaption {{ font-size: .85rem; }}
</style></head><body>
<h1>Conversion</h1>
<p>{sentences}</p>
<table><tr><th></th><th>count</th><th>mean</th><th>p99</th><th>max</th></tr>{rows}</table>
<h2>The worst ten</h2>
<p>Source, result, and the result painted by its distance from the source's surface: grey 0, red
{red:g} mm and more.</p>
<div class="cards">{cards}</div>
{failed}{bad}
</body></html>
"""
