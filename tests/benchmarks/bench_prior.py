"""How good the priors on the body's pose are, on people whom none of them has seen.

    OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/bench_prior.py MOCAP.npz

Held out are the CMU subjects whose number is divisible by 5: a dancer and a soccer player, who move
more than those trained on. Three tables: how often a corrupted pose has the higher energy (AUC);
what fits to keypoints of held-out poses lose against the truth; and what a call costs. With
--codes, also how well poses are rebuilt from 8, 16 and 32 numbers, by principal components and by
an autoencoder that is trained for it (minutes).
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

from bodymodel import mocap
from bodymodel.body import BodyData
from bodymodel.files import load_body
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.metrics import pa_mpjpe_mm
from bodymodel.params import BodyParams
from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from bodymodel.sliced import slice_body, sliced_forward
from bodymodel.spec import BODY_JOINTS
from fitting import corruptions
from fitting import prior_training as training
from fitting.build_prior import tilt
from fitting.fit import Fitter
from fitting.limits import LIMITS_DEG
from fitting.prepared import FINE_POINTS
from fitting.prior_choice import load_prior
from fitting.priors import BodyPrior, PosePrior
from fitting.records import FitTarget

BONES = tuple(
    (f"{side}_{a}", f"{side}_{b}")
    for side in ("left", "right")
    for a, b in (("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist"))
)
DEEP_M = 0.1


def held_out(path: Path) -> tuple[mocap.Motion, mocap.Motion]:
    """The training and the held-out frames."""
    motion = mocap.retarget(mocap.load_mocap(path))
    motion = motion.take(mocap.plausible_frames(motion))
    return motion.split()


def priors(names: list[str], train: mocap.Motion) -> dict[str, BodyPrior]:
    """By name; "plain" is a Gaussian of the training poses as recorded."""
    out = {}
    for name in names:
        if name == "plain":
            weights = training.subject_weights(train.subject)
            model = training.fit_gaussians(train.body_pose, weights)
            arrays = (model.means, model.whitening, model.costs)
            out[name] = PosePrior(*(torch.as_tensor(a) for a in arrays))
        else:
            out[name] = load_prior(name)
    return out


def auc_table(pose: np.ndarray, named: dict[str, BodyPrior]) -> dict[str, dict[str, float]]:
    """Of poses (F, 21, 3) against corrupted ones, by corruption and prior."""
    rng = np.random.default_rng(0)
    pose = pose.astype(np.float64)
    sets = {
        "joints shuffled between frames": training.shuffle_joints(pose, rng),
        "one joint turned by 60 degrees": training.turn_one_joint(pose, rng),
        "knees bent backwards": training.bend_knees_backwards(pose),
        "limbs turned over in depth": corruptions.turn_limbs_over(pose, rng),
        "joints shaken": corruptions.shake_joints(pose, rng),
        "arms and legs of different frames": corruptions.recombine_limbs(pose, rng, 1.0),
    }
    out: dict[str, dict[str, float]] = {name: {} for name in sets}
    for prior_name, prior in named.items():

        def energy(x: np.ndarray, prior=prior) -> np.ndarray:
            return prior.energy(torch.as_tensor(x.reshape(-1, 63))).numpy()

        real = energy(pose)
        for name, corrupted in sets.items():
            out[name][prior_name] = round(training.roc_auc(real, energy(corrupted)), 3)
    return out


def make_people(body: BodyData, motion: mocap.Motion, count: int, seed: int):
    """Photograph frames: all headings, cameras pitched by 9 degrees (sd), 3 px of noise."""
    rng = np.random.default_rng(seed)
    motion = motion.take(np.sort(rng.choice(len(motion.frame), count, replace=False)))
    yaw, pitch, zero = (
        rng.uniform(0, 2 * math.pi, count),
        rng.normal(0, 0.15, count),
        np.zeros(count),
    )

    def turn(*columns: np.ndarray) -> torch.Tensor:
        return rotvec_to_rotmat(torch.as_tensor(np.stack(columns, 1)))

    root = turn(math.pi + pitch, zero, zero) @ turn(zero, yaw, zero)
    root = root @ rotvec_to_rotmat(torch.as_tensor(tilt(motion.global_orient)))
    hands = body.hand_means[:, None] + np.einsum(
        "hnc,hcd->hnd", 0.5 * rng.normal(size=(2, count, 6)), body.hand_components[:, :6]
    )

    def real(x: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.asarray(x, np.float64))

    params = BodyParams(
        global_orient=rotmat_to_rotvec(root),
        body_pose=real(motion.body_pose),
        jaw_pose=real(np.zeros((count, 3))),
        leye_pose=real(np.zeros((count, 3))),
        reye_pose=real(np.zeros((count, 3))),
        left_hand_pose=real(hands[0]).view(count, 15, 3),
        right_hand_pose=real(hands[1]).view(count, 15, 3),
        betas=real(rng.normal(size=(count, body.num_betas))),
        expression=real(0.7 * rng.normal(size=(count, body.num_expression))),
        transl=real(np.tile([0.05, 0.1, 4.0], (count, 1))),
    )
    sliced = slice_body(body, dtype=torch.float64)
    points = posed(sliced, params)
    focal, center = 900.0, np.array([320.0, 400.0])
    pixels = focal * points[..., :2] / points[..., 2:] + center
    pixels = pixels + rng.normal(0, 3, pixels.shape)
    keypoints = np.zeros((count, len(FIT_KEYPOINTS), 3), np.float32)
    for k, name in enumerate(sliced.points):
        if name in FINE_POINTS:
            row = FIT_KEYPOINTS.index(name)
            keypoints[:, row, :2], keypoints[:, row, 2] = pixels[:, k], 1
    return [FitTarget(k, focal, center, 800.0) for k in keypoints], points, sliced


def posed(sliced, params: BodyParams) -> np.ndarray:
    shape = torch.cat([params.betas, params.expression], 1)
    return sliced_forward(sliced, params.full_pose, shape, params.transl).points.numpy()


def fits_row(body: BodyData, people, prior: BodyPrior) -> dict[str, float]:
    """Fit people and compare with the truth."""
    targets, truth, sliced = people
    fitter = Fitter(body, prior=prior)
    begin = time.process_time()
    results = fitter.fit(targets)
    milliseconds = 1e3 * (time.process_time() - begin) / len(targets)
    stacked = {
        k: torch.as_tensor(np.stack([r.params[k] for r in results])).double()
        for k in results[0].params
    }
    found = posed(sliced, BodyParams(**stacked))
    rows = [sliced.points.index(n) for n in BODY_JOINTS if n in sliced.points]
    pelvis = sliced.points.index("pelvis")
    both = [torch.as_tensor((x - x[:, [pelvis]])[:, rows]) for x in (found, truth)]
    pa = pa_mpjpe_mm(*both).numpy()
    mpjpe = 1e3 * (both[0] - both[1]).norm(dim=-1).mean(1).numpy()
    is_right = []
    for a, b in BONES:
        i, j = sliced.points.index(a), sliced.points.index(b)
        true_depth = truth[:, j, 2] - truth[:, i, 2]
        depth = found[:, j, 2] - found[:, i, 2]
        is_right += list((depth * true_depth > 0)[np.abs(true_depth) > DEEP_M])
    return {
        "PA-MPJPE median, mm": round(float(np.median(pa)), 1),
        "PA-MPJPE mean": round(float(pa.mean()), 1),
        "PA-MPJPE 90 %": round(float(np.percentile(pa, 90)), 1),
        "MPJPE median": round(float(np.median(mpjpe)), 1),
        "MPJPE mean": round(float(mpjpe.mean()), 1),
        "depth order right": round(float(np.mean(is_right)), 3),
        "body px": round(float(np.median([r.residual_part_px["body"] for r in results])), 2),
        "ms CPU a person": round(milliseconds, 1),
    }


def cost_table(named: dict[str, BodyPrior], batch: int = 128) -> dict[str, float]:
    """Milliseconds CPU a pose of ``quadratic``."""
    pose = 0.3 * torch.randn(batch, 63, dtype=torch.float64)
    out = {}
    for name, prior in named.items():
        times = []
        for _ in range(20):
            begin = time.process_time()
            prior.quadratic(pose)
            times.append(time.process_time() - begin)
        out[name] = round(1e3 * float(np.median(times)) / batch, 4)
    return out


def limits_table(pose: np.ndarray) -> dict[str, str]:
    """Which limits of joints held-out or training frames exceed by more than 5 degrees, in % ."""
    out = {}
    for joint, name in enumerate(BODY_JOINTS[1:]):
        low, high = LIMITS_DEG[name].T
        angle = np.degrees(pose[:, joint])
        outside = np.maximum(angle - high, 0) + np.maximum(low - angle, 0)
        share = 100 * (outside > 5).mean(0)
        if share.max() > 0.1:
            out[name] = " ".join(f"{v:.1f}" for v in share)
    return out


def is_seated(pose: np.ndarray) -> np.ndarray:
    """Both hips and both knees bent by more than 50 degrees: sitting, squatting, crouching."""
    hips, knees = -pose[:, :2, 0].max(1), pose[:, 3:5, 0].min(1)
    return (hips > np.radians(50)) & (knees > np.radians(50))


def show(title: str, table: dict[str, dict[str, object]]) -> None:
    print(f"\n{title}")
    columns = list(dict.fromkeys(k for row in table.values() for k in row))
    width = max(len(name) for name in table)
    print(" " * width + "".join(f"{c:>{max(10, len(c) + 2)}}" for c in columns))
    for name, row in table.items():
        cells = (f"{row.get(c, '')!s:>{max(10, len(c) + 2)}}" for c in columns)
        print(f"{name:<{width}}" + "".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mocap", type=Path)
    parser.add_argument("--people", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--priors", nargs="+", default=["l2", "plain", "gaussian", "open"])
    parser.add_argument("--codes", action="store_true")
    args = parser.parse_args()
    train, test = held_out(args.mocap)
    report: dict[str, object] = {}
    named = priors(args.priors, train)
    report["auc"] = auc_table(test.body_pose[::3], named)
    show(f"AUC, {len(test.frame[::3])} held-out poses", report["auc"])
    report["ms a pose"] = cost_table(named)
    show("cost", {"quadratic, ms CPU a pose": report["ms a pose"]})
    report["limits"] = limits_table(np.concatenate([train.body_pose, test.body_pose]))
    print("\n% of all frames more than 5 degrees outside the joint limits, x y z")
    for name, shares in report["limits"].items():
        print(f"  {name:16s}{shares}")
    if args.codes:
        from pose_codes import code_table

        report["codes"] = code_table(train, test)
        show("degrees a joint after rebuilding from a code, held-out poses", report["codes"])
    body = load_body("open")
    people = {"held out": make_people(body, test, args.people, args.seed)}
    # Few of the held-out frames sit: these are frames that the priors were trained on.
    sitting = train.take(is_seated(train.body_pose))
    people["seated, trained on"] = make_people(body, sitting, args.people // 2, args.seed)
    for label, made in people.items():
        rows = {name: fits_row(body, made, prior) for name, prior in named.items()}
        report[label] = rows
        show(f"fits, {label}, {len(made[0])} people", rows)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
