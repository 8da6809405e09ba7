"""The fast solver beside SMPLify-X's schedule, on the same people in one run, one thread each.

    python tests/benchmarks/bench_reference.py [--subjects 12] [--focal-px 1000]

People are made: motion-capture poses on the open body, headings within +-75 degrees of the camera,
OpenPose's points with noise of 3 px (body) and 1.5 px (hands, face), confidences 0.5-1, photos of
600 x 800. Prints a table, a row a person and solver, and one JSON line of medians.

The fast solver's time is that of a batch of 64 (the people repeated), all starts counted; for one
person alone it is in the JSON line. "energy" is that of the reference's last stage, of both
solvers' answers. The fast solver minimises another energy (other units, prior and weights), so its
value there is above what it would reach. The row "same energy" goes on from the fast solver's
answer by the fast solver's own steps on the reference's energy: what minima can be compared by.
"""

import argparse
import json
import math
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bodymodel.body import BodyData
from bodymodel.files import load_body
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.metrics import pa_mpjpe_mm
from bodymodel.params import BodyParams
from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from bodymodel.sliced import slice_body, sliced_forward
from bodymodel.spec import keypoint_part
from fitting.config import StageConfig
from fitting.energy import Energy
from fitting.fit import Fitter
from fitting.priors import PosePrior
from fitting.records import FitResult, FitTarget
from fitting.reference import ReferenceFitter
from fitting.reference_config import PUBLISHED_STAGES, ReferenceConfig
from fitting.reference_energy import OPENPOSE_POINTS, point_weights
from fitting.solver import minimise

WIDTH, HEIGHT = 600, 800
NOISE_PX = {"body": 3.0, "left_hand": 1.5, "right_hand": 1.5, "face": 1.5}
PART_OF = np.array([keypoint_part(name).split("_")[-1] for name in FIT_KEYPOINTS])
SEEN = np.array([name in OPENPOSE_POINTS for name in FIT_KEYPOINTS])


@dataclass(frozen=True, eq=False)
class Subjects:
    targets: list[FitTarget]
    params: BodyParams
    clean_px: np.ndarray


def make_subjects(
    body: BodyData, count: int, focal_px: float, assumed_px: float, seed: int
) -> Subjects:
    """People who fill three quarters of the photo's height or width, whatever the lens."""
    rng = np.random.default_rng(seed)
    poses = np.load(Path("bodymodel/data/mocap_poses.npz"))
    pick = rng.permutation(len(poses["body_pose"]))[:count]

    def real(x) -> torch.Tensor:
        return torch.as_tensor(np.asarray(x, np.float64))

    yaw = np.radians(rng.uniform(-75, 75, count))
    zero = np.zeros(count)
    root = rotvec_to_rotmat(real([math.pi, 0, 0]))
    root = root @ rotvec_to_rotmat(real(np.stack([zero, yaw, zero], 1)))
    root = root @ rotvec_to_rotmat(real(poses["global_orient"][pick]))
    hands = body.hand_means[:, None] + np.einsum(
        "hnc,hcd->hnd", 0.4 * rng.normal(size=(2, count, 6)), body.hand_components[:, :6]
    )
    jaw = np.abs(rng.normal(0, 0.08, count))
    eyes = real(rng.normal(0, 0.1, (count, 3)))
    params = BodyParams(
        global_orient=rotmat_to_rotvec(root),
        body_pose=real(poses["body_pose"][pick]),
        jaw_pose=real(np.stack([jaw, zero, zero], 1)),
        leye_pose=eyes,
        reye_pose=eyes,
        left_hand_pose=real(hands[0]).view(count, 15, 3),
        right_hand_pose=real(hands[1]).view(count, 15, 3),
        betas=real(rng.normal(size=(count, body.num_betas))),
        expression=real(rng.normal(size=(count, body.num_expression))),
        transl=real(np.zeros((count, 3))),
    )
    sliced = slice_body(body, dtype=torch.float64)
    shape = torch.cat([params.betas, params.expression], 1)
    points = sliced_forward(sliced, params.full_pose, shape, params.transl).points
    low, high = points.amin(1), points.amax(1)
    size = (high - low)[:, :2] / real([0.75 * WIDTH, 0.75 * HEIGHT])
    depth = focal_px * size.amax(1) + (high - low)[:, 2] / 2
    transl = torch.cat([-(low + high)[:, :2] / 2, depth[:, None]], 1)
    transl[:, 2] -= (low + high)[:, 2] / 2
    transl[:, :2] += depth[:, None] / focal_px * real(rng.uniform(-30, 30, (count, 2)))
    params = BodyParams(**{**vars(params), "transl": transl})
    points = points + transl[:, None]

    center = np.array([WIDTH, HEIGHT]) / 2
    rows = [FIT_KEYPOINTS.index(name) for name in sliced.points]
    clean = np.full((count, len(FIT_KEYPOINTS), 2), np.nan)
    clean[:, rows] = focal_px * (points[..., :2] / points[..., 2:]).numpy() + center
    sigma = np.array([NOISE_PX[keypoint_part(name)] for name in FIT_KEYPOINTS])
    noisy = clean + sigma[:, None] * rng.normal(size=clean.shape)
    keypoints = np.zeros((count, len(FIT_KEYPOINTS), 3), np.float32)
    keypoints[:, SEEN, :2] = noisy[:, SEEN]
    keypoints[:, SEEN, 2] = rng.uniform(0.5, 1, (count, SEEN.sum()))
    targets = [FitTarget(k, assumed_px, center, HEIGHT) for k in keypoints]
    return Subjects(targets, params, clean)


def same_energy(
    body: BodyData, targets: list[FitTarget], results: list[FitResult], iterations: int
) -> list[dict[str, np.ndarray]]:
    """Go on from the fast solver's answers, by its steps, on the reference's last energy."""
    fitter = Fitter(body)
    last, layout = PUBLISHED_STAGES[-1], fitter._layout
    unit = 1000 / HEIGHT
    stage = StageConfig(
        iterations=iterations, w_pose=last.pose**2, w_shape=last.shape**2, w_hand_points=1,
        w_face_points=1, w_expression=last.expression**2, w_hand=last.hands**2,
        w_jaw=last.jaw[0] ** 2, w_eyes=0, w_limits=0, robust_px=ReferenceConfig().robust_px * unit,
    )  # fmt: skip
    prior = PosePrior(
        torch.zeros(1, 63).double(), torch.eye(63).double()[None], torch.zeros(1).double()
    )
    own = np.zeros(len(FIT_KEYPOINTS))
    for name, weight in zip(OPENPOSE_POINTS, point_weights(last), strict=True):
        own[FIT_KEYPOINTS.index(name)] += weight**2  # the wrists come twice
    evidence = fitter._evidence(targets, fitter._fine)
    rows = [FIT_KEYPOINTS.index(name) for name in fitter._fine.points]
    confidence = np.stack([t.keypoints_2d[rows, 2] for t in targets]).astype(np.float64)
    evidence = type(evidence)(
        evidence.points_px,
        torch.as_tensor(confidence**2 * own[rows]),
        evidence.focal_px,
        evidence.center_px,
        torch.full((len(targets),), unit, dtype=torch.float64),
    )
    energy = Energy(fitter._fine, layout, prior, fitter._limits, stage, evidence, layout.size)
    x = torch.zeros(len(targets), layout.size, dtype=torch.float64)
    for k, result in enumerate(results):
        for name, where in layout.slices.items():
            if name.endswith("_pca"):
                side = name.startswith("right")
                whole = result.params[name.replace("_pca", "_pose")].reshape(45)
                value = layout.hand_components[int(side)].numpy() @ (
                    whole - body.hand_means[int(side)]
                )
            else:
                value = result.params[name].reshape(-1)
            x[k, where] = torch.as_tensor(value, dtype=torch.float64)
    solution = minimise(energy, x, layout.step, iterations=iterations, tolerance=1e-7)
    arrays = layout.params(solution.x).numpy()
    return [{n: v[k].astype(np.float32) for n, v in arrays.items()} for k in range(len(targets))]


def measure(
    subjects: Subjects, k: int, params: dict[str, np.ndarray], sliced, reference: ReferenceFitter
) -> dict[str, float]:
    """How far one answer is from the truth and the detections."""

    def place(fields: dict[str, np.ndarray]) -> torch.Tensor:
        p = BodyParams(
            **{n: torch.as_tensor(np.asarray(v)).double()[None] for n, v in fields.items()}
        )
        shape = torch.cat([p.betas, p.expression], 1)
        return sliced_forward(sliced, p.full_pose, shape, p.transl).points[0]

    truth = {n: v[k] for n, v in subjects.params.numpy().items()}
    fitted, true = place(params), place(truth)
    target = subjects.targets[k]
    pixels = np.full((len(FIT_KEYPOINTS), 2), np.nan)
    rows = [FIT_KEYPOINTS.index(name) for name in sliced.points]
    pixels[rows] = (target.focal_px * fitted[:, :2] / fitted[:, 2:]).numpy() + target.center_px
    away = np.linalg.norm(pixels - target.keypoints_2d[:, :2], axis=1)
    noise = np.linalg.norm(subjects.clean_px[k] - target.keypoints_2d[:, :2], axis=1)
    joints = [sliced.points.index(name) for name in FIT_KEYPOINTS[:22]]
    ahead = [
        rotvec_to_rotmat(torch.as_tensor(p["global_orient"]).double())[:, 2]
        for p in (params, truth)
    ]
    cosine = float((ahead[0] @ ahead[1]).clamp(-1, 1))
    out = {}
    for part in ("body", "hand", "face"):
        chosen = SEEN & np.equal(PART_OF, part)
        out[f"{part}_px"] = float(away[chosen].mean())
        out[f"{part}_noise"] = float(away[chosen].mean() / noise[chosen].mean())
    return out | {
        "pa_mm": float(pa_mpjpe_mm(fitted[joints], true[joints])),
        "depth": float(fitted[joints[0], 2] / true[joints[0], 2]),
        "beta0": float(params["betas"][0] - truth["betas"][0]),
        "facing_deg": math.degrees(math.acos(cosine)),
        "energy": sum(reference.energy(target, params).values()),
    }


def cpu_seconds(work) -> tuple[float, object]:
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


COLUMNS = {
    "cpu_s": "{:9.3f}", "evaluations": "{:6.0f}", "body_px": "{:6.2f}", "hand_px": "{:6.2f}",
    "face_px": "{:6.2f}", "pa_mm": "{:7.1f}", "depth": "{:6.3f}", "beta0": "{:6.2f}",
    "facing_deg": "{:6.1f}", "energy": "{:9.1f}",
}  # fmt: skip


def table_row(name: str, solver: str, row: dict[str, float]) -> str:
    return f"{name:6} {solver:12} " + " ".join(f.format(row[c]) for c, f in COLUMNS.items())


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Medians; for betas[0] the mean error too, since its bias is what matters."""
    out = {c: float(np.median([row[c] for row in rows])) for c in rows[0]}
    out["beta0_abs"] = float(np.median([abs(row["beta0"]) for row in rows]))
    out["beta0_mean"] = float(np.mean([row["beta0"] for row in rows]))
    out["depth_off"] = float(np.median([abs(row["depth"] - 1) for row in rows]))
    out["facing_away"] = sum(row["facing_deg"] > 90 for row in rows)
    return {key: round(value, 4) for key, value in out.items() if not math.isnan(value)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subjects", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--focal-px", type=float, default=5000, help="of the true camera; try 1000")
    parser.add_argument(
        "--assumed-focal-px", type=float, help="what the solvers are told; the true one by default"
    )
    parser.add_argument("--reference-body", choices=("smplx", "own"), default="smplx")
    parser.add_argument(
        "--batch", type=int, default=64, help="people that the fast one times at once"
    )
    parser.add_argument("--polish", type=int, default=40, help="iterations on the same energy")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(1)
    body = load_body("open")
    assumed = options.assumed_focal_px or options.focal_px
    subjects = make_subjects(body, options.subjects, options.focal_px, assumed, options.seed)
    targets = subjects.targets
    reference = ReferenceFitter(body, ReferenceConfig(body=options.reference_body))
    judge = ReferenceFitter(body, ReferenceConfig(body="own"), dtype="float64")
    fast = Fitter(body)
    sliced = slice_body(body, dtype=torch.float64)
    fast.fit(targets[:2])  # first calls allocate
    reference.energy(targets[0], {n: v[0] for n, v in subjects.params.numpy().items()})

    fast_results = fast.fit(targets)
    many = (targets * math.ceil(options.batch / len(targets)))[: options.batch]
    batch_s, _ = cpu_seconds(lambda: fast.fit(many))
    batch_s *= len(targets) / len(many)
    polish_s, polished = cpu_seconds(
        lambda: same_energy(body, targets, fast_results, options.polish)
    )
    solvers = ("reference", "fast", "same energy")
    if assumed == options.focal_px:  # else the truth does not even project to the points
        solvers += ("truth",)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in solvers}
    single_s = []
    head = " ".join(f"{c:>{int(f[2:].split('.')[0])}.9}" for c, f in COLUMNS.items())
    print(f"{'person':6} {'solver':12} {head}", flush=True)
    for k, target in enumerate(targets):
        seconds, (result,) = cpu_seconds(lambda target=target: reference.fit([target]))
        alone_s, _ = cpu_seconds(lambda target=target: fast.fit([target]))
        single_s.append(alone_s)
        each = len(targets)
        truth = {n: v[k] for n, v in subjects.params.numpy().items()}
        for name, params, cpu, evaluations in (
            ("reference", result.params, seconds, result.iterations),
            ("fast", fast_results[k].params, batch_s / each, fast_results[k].iterations),
            ("same energy", polished[k], (batch_s + polish_s) / each, math.nan),
            ("truth", truth, math.nan, math.nan),
        ):
            if name not in solvers:
                continue
            row = {"cpu_s": cpu, "evaluations": evaluations}
            row |= measure(subjects, k, params, sliced, judge)
            rows[name].append(row)
            print(table_row(f"{k:03d}", name, row), flush=True)
        if len(result.starts) > 1 or result.status != "ok":
            energies = dict(zip(result.starts, result.start_energies.tolist(), strict=True))
            print(f"{k:03d}    {result.status} {result.reason} {energies}")
    medians = {name: summary(values) for name, values in rows.items()}
    for name in solvers:
        print(table_row("median", name, dict.fromkeys(COLUMNS, math.nan) | medians[name]))
    ratios = {
        name: [
            a["energy"] / b["energy"] for a, b in zip(rows[name], rows["reference"], strict=True)
        ]
        for name in ("fast", "same energy")
    }
    single = float(np.median(single_s))
    line = {
        "name": "reference",
        "device": f"cpu, 1 thread of {os.cpu_count()}",
        "subjects": len(targets),
        "seed": options.seed,
        "focal_px": options.focal_px,
        "assumed_focal_px": assumed,
        "reference_body": options.reference_body,
        "fast_batch": options.batch,
        "fast_batch1_cpu_s": round(single, 4),
        "speedup_batch": round(medians["reference"]["cpu_s"] / medians["fast"]["cpu_s"], 1),
        "speedup_batch1": round(medians["reference"]["cpu_s"] / single, 1),
        **{
            f"energy_ratio_{name.replace(' ', '_')}": {
                "median": round(float(np.median(values)), 3),
                "at_most_1": sum(v <= 1 for v in values),
            }
            for name, values in ratios.items()
        },
        "medians": medians,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
