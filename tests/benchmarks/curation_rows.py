"""Fits of known quality for bench_curation: made people, fitted, and LSPET's fits, corrupted."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np

from bodymodel.body import BodyData
from bodymodel.files import load_body
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.spec import BODY_JOINTS, PARTS, keypoint_part
from curation.quality import quality_of_table, read_quality
from curation.reproject import Reprojector, posed_joints, rotvec_to_rotmat, trunk_lean_deg
from curation.samples import PersonObservation
from curation.schema import fit_schema, rows_to_table
from curation.store import FitStore

_PART = np.array([keypoint_part(name) for name in FIT_KEYPOINTS])
_LIMBS = ("left_knee", "right_knee", "left_elbow", "right_elbow", "left_hip", "right_hip",
          "left_shoulder", "right_shoulder")  # fmt: skip


def fit_made_people(count: int, seed: int):
    """Fit people of motion-capture poses whose keypoints are as bad as detectors' sometimes are.

    Returns:
        Their quality, and the joints' error against the truth (MPJPE), mm.
    """
    import torch

    from fitting.config import FitConfig
    from fitting.fit import Fitter
    from fitting.rows import RowMaker, fit_target

    body = load_body("open")
    rng = np.random.default_rng(seed)
    observations = [_observation(body, rng, k) for k in range(count)]
    torch.set_num_threads(1)
    fitter = Fitter(body, FitConfig(), "cpu", "float64")
    maker = RowMaker("bench", "made", body, "", "", "", "cpu", focal_px=900.0)
    rows = []
    for begin in range(0, count, 64):
        batch = observations[begin : begin + 64]
        results = fitter.fit([fit_target(o, 900.0) for o in batch])
        rows += [maker.row(o, r, o.image_id) for o, r in zip(batch, results, strict=True)]
        sys.stderr.write(f"\rfitted {len(rows)} of {count} made people")
    sys.stderr.write("\n")
    rows = [row for row in rows if row["has_fit"] and row["has_truth"]]
    table = rows_to_table(rows, fit_schema())
    return quality_of_table(table), table["mpjpe_mm"].to_numpy().astype(np.float64)


def _observation(body: BodyData, rng: np.random.Generator, number: int) -> PersonObservation:
    poses = np.load(Path("bodymodel/data/mocap_poses.npz"))
    pick = rng.integers(len(poses["body_pose"]))
    heading = rng.uniform(-math.pi, math.pi)
    root = (
        rotvec_to_rotmat(np.array([math.pi, 0, 0]))
        @ rotvec_to_rotmat(np.array([0, heading, 0]))
        @ rotvec_to_rotmat(poses["global_orient"][pick])
    )
    params = {
        "global_orient": _rotvec(root),
        "body_pose": poses["body_pose"][pick].reshape(21, 3),
        "jaw_pose": np.zeros(3), "leye_pose": np.zeros(3), "reye_pose": np.zeros(3),
        "left_hand_pose": body.hand_means[0].reshape(15, 3),
        "right_hand_pose": body.hand_means[1].reshape(15, 3),
        "betas": rng.normal(size=10), "expression": np.zeros(10),
        "transl": np.array([0.05, 0.1, 4.0]),
    }  # fmt: skip
    row = params | {"focal_px": 900.0, "center_px": np.array([320.0, 400.0])}
    pixels = Reprojector.for_body(body).project(row)
    keypoints = np.zeros((len(FIT_KEYPOINTS), 3), np.float32)
    seen = np.isfinite(pixels).all(1) & (_PART == "body")
    keypoints[seen, :2], keypoints[seen, 2] = pixels[seen], 1
    index = {name: k for k, name in enumerate(FIT_KEYPOINTS)}
    if rng.random() < 0.25:  # a limb taken for the other
        for pair in (("elbow", "wrist"), ("knee", "ankle"))[rng.integers(2)], ():
            for joint in pair:
                left, right = index[f"left_{joint}"], index[f"right_{joint}"]
                keypoints[[left, right]] = keypoints[[right, left]]
    for name in rng.choice(_LIMBS, rng.integers(0, 3) if rng.random() < 0.3 else 0, replace=False):
        keypoints[index[name]] = 0  # hidden
    noise = 3 * rng.lognormal(0, 0.7)
    keypoints[:, :2] += (keypoints[:, 2:] > 0) * rng.normal(0, noise, (len(keypoints), 2))
    if rng.random() < 0.15:  # a wrist or an ankle on something else
        point = index[rng.choice(["left_wrist", "right_wrist", "left_ankle", "right_ankle"])]
        keypoints[point, :2] += rng.normal(0, 80, 2) * (keypoints[point, 2] > 0)
    return PersonObservation(
        f"{number:06d}.jpg", 0, "", 640, 800, keypoints_2d=keypoints,
        truth=params | {"body_sha256": body.sha256},
    )  # fmt: skip


def corrupted_lspet(data: Path, work: Path, variants: int, seed: int):
    """Fit LSPET's photos by the command, and make variants of the fits, some spoilt in known ways.

    Returns:
        Quality, bool: untouched but for a degree of noise, and the photo of each.
    """
    out = work / "fits"
    command = [sys.executable, "-m", "fitting.run", str(data), "--out", str(out)]
    subprocess.run([*command, "--overlays", "none"], check=True, stdout=subprocess.DEVNULL)
    store = FitStore(out)
    body = load_body("open")
    points = Reprojector.for_body(body)
    rng = np.random.default_rng(seed)
    rows, is_good = [], []
    for row in store.iter_rows():
        if not row["has_fit"]:
            continue
        row = {k: v for k, v in row.items() if k in fit_schema().names}
        for number in range(variants):
            spoil = rng.random() < 0.35
            rows.append(_variant(row, body, points, rng, spoil, f"{row['fit_id']}-{number}"))
            is_good.append(not spoil)
    table = rows_to_table(rows, fit_schema())
    quality = quality_of_table(table)
    assert len(read_quality(store).fit_id) * variants == len(rows)
    return quality, np.array(is_good), table["image_id"].to_pylist()


def _variant(row, body, points, rng, spoil, name):
    row = dict(row)
    shape_before = max(float((row["betas"] ** 2).sum()), 1e-3)
    before = _pose_energies(row["body_pose"].reshape(1, 63))[0]
    row["body_pose"] = row["body_pose"] + rng.normal(0, np.radians(1), (21, 3)).astype(np.float32)
    row["betas"] = row["betas"] + rng.normal(0, 0.1, len(row["betas"])).astype(np.float32)
    if spoil:
        _CORRUPTIONS[rng.integers(len(_CORRUPTIONS))](row, body, rng)
    residual = points.residuals(row)
    residual[np.isnan(row["residual_px"])] = np.nan
    row["residual_px"] = residual.astype(np.float32)
    for part in PARTS:
        known = residual[(part == _PART) & np.isfinite(residual)]
        row[f"residual_{part}_px"] = float(np.median(known)) if len(known) else math.nan
    row["residual_body_pct"] = 100 * row["residual_body_px"] / row["person_height_px"]
    row["trunk_lean_deg"] = trunk_lean_deg(posed_joints(body, row), body)
    energy = dict(row["energy"])
    after = _pose_energies(row["body_pose"].reshape(1, 63))[0]
    energy["pose"] *= after / before
    energy["shape"] *= float((row["betas"] ** 2).sum() / shape_before)
    row["energy"] = energy
    row["prior_energy"], row["betas_abs_max"] = after, float(np.abs(row["betas"]).max())
    # Not measured again, so not known: of spoilt and of other fits.
    row |= dict.fromkeys(("oks_fit", "oks_detection", "self_penetration_mm"), math.nan)
    row |= dict.fromkeys(("self_penetration_cm2",), math.nan)
    return row | {"fit_id": name}


def _bend(row, body, rng):
    """Turn one or two joints of the limbs by 35 to 110 degrees."""
    pose = row["body_pose"].copy()
    for joint in rng.choice(_LIMBS, rng.integers(1, 3), replace=False):
        axis = rng.normal(size=3)
        turn = rotvec_to_rotmat(axis / np.linalg.norm(axis) * np.radians(rng.uniform(35, 110)))
        k = BODY_JOINTS.index(joint) - 1
        pose[k] = _rotvec(turn @ rotvec_to_rotmat(pose[k]))
    row["body_pose"] = pose


def _turn(row, body, rng):
    """Let the body face the other way, in place."""
    _rotate(row, body, np.array([0, math.pi, 0]), about_own_axis=True)


def _lean(row, body, rng):
    """Lean the body by 25 to 45 degrees along the camera's axis: the photo hides it best."""
    angle = np.radians(rng.uniform(25, 45)) * rng.choice([-1, 1])
    _rotate(row, body, np.array([angle, 0, 0]), about_own_axis=False)


def _shift(row, body, rng):
    """Move the body by 7 to 20 cm across the image."""
    angle = rng.uniform(0, 2 * math.pi)
    step = rng.uniform(0.07, 0.2) * np.array([math.cos(angle), math.sin(angle), 0])
    row["transl"] = (row["transl"] + step).astype(np.float32)


def _shape(row, body, rng):
    """Make the body very fat, thin, tall or small."""
    betas = row["betas"].copy()
    betas[rng.integers(2)] += rng.choice([-1, 1]) * rng.uniform(2.5, 5)
    row["betas"] = betas


def _swap(row, body, rng):
    """Exchange the poses of left and right."""
    pose = row["body_pose"].copy()
    for joint in ("hip", "knee", "shoulder", "elbow"):
        i, j = (BODY_JOINTS.index(f"{side}_{joint}") - 1 for side in ("left", "right"))
        pose[[i, j]] = pose[[j, i]] * np.array([1, -1, -1], np.float32)
    row["body_pose"] = pose


_CORRUPTIONS = (_bend, _turn, _lean, _shift, _shape, _swap)


def _rotate(row, body, rotvec, about_own_axis):
    """Turn about the pelvis, which stays where it is."""
    pelvis = posed_joints(body, row)[0]
    root = rotvec_to_rotmat(row["global_orient"])
    turn = rotvec_to_rotmat(rotvec)
    row["global_orient"] = _rotvec(root @ turn if about_own_axis else turn @ root)
    row["transl"] = (row["transl"] + pelvis - posed_joints(body, row)[0]).astype(np.float32)


def _rotvec(matrix: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(matrix).as_rotvec().astype(np.float32)


def _pose_energies(body_pose: np.ndarray) -> np.ndarray:
    import torch

    from fitting.priors import load_pose_prior

    prior = load_pose_prior()
    return prior.energy(torch.tensor(body_pose, dtype=prior.means.dtype)).numpy()
