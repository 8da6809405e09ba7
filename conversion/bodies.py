"""Which bodies a clip is converted between, loaded once. Torch-free."""

import logging
import os
from pathlib import Path

from bodymodel.body import BodyData
from bodymodel.files import MODELS_VARIABLE, load_body
from bodymodel.spec import FAMILIES, Family, Gender
from conversion.clips import Clip, ClipError

__all__ = ["Bodies"]

_log = logging.getLogger(__name__)
_MESH_FAMILIES: tuple[Family, ...] = ("smplx", "smpl")  # one for each number of vertices


class Bodies:
    """Loads and keeps bodies.

    Args:
        source: Where the sources' models are: ``auto``, ``open``, ``licensed`` or a path. Auto is
            the user's own files where PSEUDOGT_MODELS names them, else the open body.
        target: Likewise.
        to: Family of the targets.
        num_betas: Shape components of the targets.
        family: Of meshes; None tells it from the number of vertices.
        gender: Of the targets, None for the source's.
    """

    def __init__(
        self,
        source: str,
        target: str,
        to: Family,
        num_betas: int,
        family: Family | None = None,
        gender: Gender | None = None,
    ) -> None:
        self._source, self._target = _where(source), _where(target)
        self.to, self.num_betas, self.family, self.gender = to, num_betas, family, gender
        self._kept: dict[tuple, BodyData] = {}

    def target(self, gender: Gender) -> BodyData:
        """Return the body whose parameters are wanted, for a source of that gender."""
        return self._load(self._target, self.to, self.gender or gender, self.num_betas, 10)

    def source(self, clip: Clip, num_vertices: int = 0) -> BodyData:
        """Return the body that a clip is of.

        Args:
            clip: The clip.
            num_vertices: Of its meshes.

        Raises:
            ClipError: If there is no such body, or it is another than the clip's.
        """
        family = clip.family or self.family or self._by_vertices(num_vertices)
        wanted = 0 if clip.family is None else clip.arrays["betas"].shape[1]
        faces = (
            0
            if clip.family is None or "expression" not in clip.arrays
            else (clip.arrays["expression"].shape[1])
        )
        try:
            body = self._load(self._source, family, clip.gender, wanted or 10, faces or 10)
        except FileNotFoundError as error:
            raise ClipError(str(error)) from None
        except ValueError as error:
            raise ClipError(f"{clip.name} has {wanted} betas: {error}") from None
        if clip.body_sha256 and clip.body_sha256 != body.sha256:
            raise ClipError(
                f"{clip.name} has parameters of the body with hash {clip.body_sha256[:12]}, and "
                f"{body.name} has {body.sha256[:12]}; name the right one with --from-models"
            )
        return body

    def _by_vertices(self, count: int) -> Family:
        for family in _MESH_FAMILIES:
            if FAMILIES[family].num_vertices == count:
                return family
        known = ", ".join(f"{FAMILIES[f].num_vertices} ({f})" for f in _MESH_FAMILIES)
        raise ClipError(
            f"meshes of {count} vertices are of no known body; known: {known}. Say --family for "
            "files whose first mesh is wrong"
        )

    def _load(
        self, where: str, family: Family, gender: Gender, num_betas: int, num_expression: int
    ) -> BodyData:
        key = (where, family, gender, num_betas, num_expression)
        if key not in self._kept:
            self._kept[key] = load_body(where, family, gender, num_betas, num_expression)
        return self._kept[key]


def _where(source: str) -> str:
    if source != "auto":
        return source
    own = os.environ.get(MODELS_VARIABLE, "")
    return "licensed" if own and Path(own).is_dir() else "open"
