"""Which bodies a clip is converted between, loaded once. Torch-free."""

import contextlib
import hashlib
import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from bodymodel.body import BodyData
from bodymodel.files import MODELS_VARIABLE, load_body
from bodymodel.spec import FAMILIES, Family, Gender
from conversion.clips import Clip, ClipError
from conversion.correspondence import Correspondence, build_correspondence
from conversion.hands import Side

__all__ = ["Bodies", "with_kid"]

_log = logging.getLogger(__name__)
# one for each number of vertices
_MESH_FAMILIES: tuple[Family, ...] = ("smplx", "smpl", "mano", "flame")


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
        hand: Which hand MANO's parameters and meshes are, where files do not say it.
        source_kid: A template of a child, whose difference from the source's is one more beta, the
            last (AGORA's ``kid``).
        target_kid: Likewise of the target.
    """

    def __init__(
        self,
        source: str,
        target: str,
        to: Family,
        num_betas: int,
        family: Family | None = None,
        gender: Gender | None = None,
        hand: Side | None = None,
        source_kid: Path | None = None,
        target_kid: Path | None = None,
    ) -> None:
        self._source, self._target = _where(source), _where(target)
        self.to, self.num_betas, self.family, self.gender = to, num_betas, family, gender
        self.hand, self._source_kid, self._target_kid = hand, source_kid, target_kid
        self._kept: dict[tuple, BodyData] = {}

    def target(self, gender: Gender) -> BodyData:
        """Return the body whose parameters are wanted, for a source of that gender."""
        return self._load(
            self._target, self.to, self.gender or gender, self.num_betas, 10, None, self._target_kid
        )

    def correspondence(self, source: BodyData, target: BodyData) -> Correspondence:
        """Return which point of the source each vertex of the target is.

        It is a matter of topologies: for a target of another gender it is found on a body of the
        source's, whose template stands as the source's does.
        """
        like = target
        if source.gender != target.gender:
            with contextlib.suppress(ValueError, FileNotFoundError):
                like = self._load(
                    self._target, self.to, source.gender, self.num_betas, 10, None, None
                )
        return build_correspondence(source, like)

    def source(self, clip: Clip, num_vertices: int = 0) -> BodyData:
        """Return the body that a clip is of.

        Args:
            clip: The clip.
            num_vertices: Of its meshes.

        Raises:
            ClipError: If there is no such body, or it is another than the clip's.
        """
        family = clip.family or self.family or self._by_vertices(num_vertices)
        betas = expression = 10
        if clip.family is not None:
            betas = clip.arrays["betas"].shape[1]
            betas -= self._source_kid is not None and betas > 10
            if "expression" in clip.arrays:
                expression = clip.arrays["expression"].shape[1]
        hand = None
        if family == "mano":
            hand = clip.hand or self.hand
            if hand is None:
                raise ClipError(f"{clip.name} does not say which hand it is: give --hand")
        if family in ("mano", "flame") and self._source == "open":
            raise ClipError(
                f"{clip.name} is of {family.upper()}, of which there is no open model; give your "
                f"own with --from-models or {MODELS_VARIABLE}"
            )
        try:
            body = self._load(
                self._source, family, clip.gender, betas, expression, hand, self._source_kid
            )
        except FileNotFoundError as error:
            raise ClipError(f"{clip.name}: {error}") from None
        except ValueError as error:
            has = f"{betas} betas"
            if "expression" in clip.arrays:
                has += f" and {expression} components of expression"
            raise ClipError(
                f"{clip.name} has {has}: {error}. Name the model files that it belongs to with "
                f"--from-models or {MODELS_VARIABLE}"
            ) from None
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
        self,
        where: str,
        family: Family,
        gender: Gender,
        num_betas: int,
        num_expression: int,
        hand: Side | None,
        kid: Path | None,
    ) -> BodyData:
        key = (where, family, gender, num_betas, num_expression, hand, kid)
        if key not in self._kept:
            body = load_body(where, family, gender, num_betas, num_expression, hand or "right")
            self._kept[key] = body if kid is None else with_kid(body, kid)
        return self._kept[key]


def with_kid(body: BodyData, template: Path) -> BodyData:
    """Add the difference from a child's template as the last beta (``smplx``'s age="kid").

    Args:
        body: The body.
        template: npy of (V, 3), as published (``smplx_kid_template.npy``, ``kid_template.npy``).

    Raises:
        ValueError: If it is of another topology.
    """
    kid = np.load(template, allow_pickle=False)
    if kid.shape != body.v_template.shape or not np.isfinite(kid).all():
        raise ValueError(f"{template} must be {body.v_template.shape} numbers, got {kid.shape}")
    grown = body.v_template.astype(np.float64)
    more = (kid - kid.mean(0) - grown).astype(np.float32)
    digest = hashlib.sha256(body.sha256.encode() + more.tobytes()).hexdigest()
    dirs = np.concatenate([body.shapedirs, more[..., None]], 2)
    return replace(body, shapedirs=dirs, sha256=digest, name=f"{body.name}-kid")


def _where(source: str) -> str:
    if source != "auto":
        return source
    own = os.environ.get(MODELS_VARIABLE, "")
    return "licensed" if own and Path(own).is_dir() else "open"
