"""Posed bodies as GLB (glTF 2.0) and OBJ, written byte by byte. Torch-free.

glTF's axes are x right, y up, z towards the viewer; the camera's are x right, y down, z forward.
Meshes are turned by 180 degrees about x, so that an upright person is upright in a viewer, and keep
their place before the camera, which is at the origin and looks along -z there.
"""

import json
import struct
from pathlib import Path

import numpy as np

from bodymodel.body import BodyData
from curation.file_stems import unique_stems
from curation.formats.fits import Fits
from curation.formats.posing import Poser
from curation.reproject import posed_vertices

__all__ = ["glb_bytes", "obj_text", "write_meshes"]

_TO_VIEWER = np.array([1.0, -1.0, -1.0])
_FLOAT, _UINT = 5126, 5125
_VERTICES, _INDICES = 34962, 34963


def glb_bytes(vertices: np.ndarray, faces: np.ndarray, name: str = "person") -> bytes:
    """Return a binary glTF of one mesh with smooth normals.

    Args:
        vertices: (V, 3) metres, glTF's axes.
        faces: (F, 3) counter-clockwise from outside.
        name: Of the node.
    """
    positions = np.ascontiguousarray(vertices, "<f4")
    normals = _normals(positions.astype(np.float64), faces).astype("<f4")
    indices = np.ascontiguousarray(faces, "<u4").reshape(-1)
    blobs = [positions.tobytes(), normals.tobytes(), indices.tobytes()]
    views, offset = [], 0
    for blob, target in zip(blobs, (_VERTICES, _VERTICES, _INDICES), strict=True):
        view = {"buffer": 0, "byteOffset": offset, "byteLength": len(blob), "target": target}
        views.append(view)
        offset += len(blob)  # all are multiples of four
    scene = {
        "asset": {"version": "2.0", "generator": "pseudogt"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [
            {"primitives": [{"attributes": {"POSITION": 0, "NORMAL": 1}, "indices": 2,
                             "material": 0}]}
        ],
        "materials": [
            {"pbrMetallicRoughness": {"baseColorFactor": [0.65, 0.74, 0.86, 1.0],
                                      "metallicFactor": 0.0, "roughnessFactor": 0.7}}
        ],
        "accessors": [
            {"bufferView": 0, "componentType": _FLOAT, "count": len(positions), "type": "VEC3",
             "min": positions.min(0).tolist(), "max": positions.max(0).tolist()},
            {"bufferView": 1, "componentType": _FLOAT, "count": len(normals), "type": "VEC3"},
            {"bufferView": 2, "componentType": _UINT, "count": len(indices), "type": "SCALAR"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": offset}],
    }  # fmt: skip
    text = json.dumps(scene, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    data = b"".join(blobs)
    total = 12 + 8 + len(text) + 8 + len(data)
    return b"".join(
        [
            struct.pack("<4sII", b"glTF", 2, total),
            struct.pack("<I4s", len(text), b"JSON"), text,
            struct.pack("<I4s", len(data), b"BIN\0"), data,
        ]
    )  # fmt: skip


def obj_text(vertices: np.ndarray, faces: np.ndarray) -> str:
    """Return a Wavefront OBJ of one mesh."""
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()]
    return "\n".join(lines) + "\n"


def write_meshes(fits: Fits, folder: Path, body: BodyData, kind: str) -> None:
    """Write ``<photo>_<person>.glb`` or ``.obj`` a fit.

    Args:
        fits: Whose bodies.
        folder: Where to.
        body: Theirs.
        kind: "glb" or "obj".

    Raises:
        FormatError: If the fits are of another body.
    """
    Poser(body).check(fits)
    stems = unique_stems(fits.image_path)
    for row, (path, person) in enumerate(zip(fits.image_path, fits.person_index, strict=True)):
        target = folder / f"{stems[path]}_{int(person)}.{kind}"
        target.parent.mkdir(parents=True, exist_ok=True)
        params = {name: values[row] for name, values in fits.params.items()}
        vertices = posed_vertices(body, params) * _TO_VIEWER
        if kind == "glb":
            target.write_bytes(glb_bytes(vertices, body.faces, target.stem))
        else:
            target.write_text(obj_text(vertices, body.faces), encoding="ascii")


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    of_face = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(normals, faces[:, k], of_face)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    # A vertex of no face, or of faces without area, has no direction; glTF wants one all the same.
    return np.where(length > 0, normals / np.maximum(length, 1e-20), [0.0, 0.0, 1.0])
