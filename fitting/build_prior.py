"""Build the pose priors and the demo poses: ``python -m fitting.build_prior MOCAP``."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

import bodymodel

__all__ = ["BuildPrior", "build", "main", "trunk_lean"]

CREDIT = (
    "The data used in this project was obtained from mocap.cs.cmu.edu. "
    "The database was created with funding from NSF EIA-0196217."
)
PERCENTS = (1, 5, 10, 25, 50, 75, 90, 95, 99)
DIVERSE = 240
DIVERSE_PER_SUBJECT_MAX = 40
TYPICAL_PER_SUBJECT = 12


@dataclass(frozen=True)
class BuildPrior:
    """Retarget motion capture to SMPL-X and estimate the pose priors from it.

    Both priors, the Gaussian and the learnt one, see the training subjects alone; those whose
    number is divisible by 5 are kept for judging (tests/benchmarks/bench_prior.py).

    Attributes:
        mocap: The motion capture file, npz (format: bodymodel.mocap.load_mocap).
        out: Where pose_prior.npz and open_prior.npz are written.
        poses: The file of chosen poses that is written (bodymodel.mocap.packaged_motion).
        pairs: Mirror pairs of mixture components; 0 is a single Gaussian.
        every: Take every n-th frame; the learnt prior takes them all.
        check: Also cross-validate by subject (a minute for a mixture).
        dry_run: Measure and print, write nothing.
    """

    mocap: tyro.conf.Positional[Path]
    out: Path = Path(__file__).parent / "data"
    poses: Path = Path(bodymodel.__file__).parent / "data" / "mocap_poses.npz"
    pairs: int = 0
    every: int = 3
    check: bool = False
    dry_run: bool = False


def tilt(global_orient: np.ndarray) -> np.ndarray:
    """Return (F, 3) orientations without their turn about the vertical (y up)."""
    from scipy.spatial.transform import Rotation

    whole = Rotation.from_rotvec(global_orient)
    quat = whole.as_quat()
    yaw = 2 * np.arctan2(quat[:, 1], quat[:, 3])
    return (Rotation.from_rotvec(yaw[:, None] * [0.0, 1.0, 0.0]).inv() * whole).as_rotvec()


def trunk_lean(global_orient: np.ndarray, body_pose: np.ndarray) -> np.ndarray:
    """Return (F, 3) degrees: how far pelvis to neck leans forward, to the left, and in all.

    Zero is the T-pose, whatever the direction from pelvis to neck in it. The vertical is +y, and
    forward and left are the pelvis's, turned into the horizontal.

    Args:
        global_orient: (F, 3) axis-angle, model to world (y up).
        body_pose: (F, 21, 3) axis-angle.
    """
    from scipy.spatial.transform import Rotation

    from bodymodel.skeleton import REST_JOINTS, forward_kinematics
    from bodymodel.spec import BODY_JOINTS

    neck = BODY_JOINTS.index("neck")
    rest = REST_JOINTS[neck] - REST_JOINTS[0]
    upright = Rotation.from_rotvec([np.arctan2(-rest[2], rest[1]), 0, 0])
    up = upright.apply(forward_kinematics(tilt(global_orient), body_pose)[:, neck])
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    forward, left = np.arctan2(up[:, 2], up[:, 1]), np.arctan2(up[:, 0], up[:, 1])
    return np.degrees(np.stack([forward, left, np.arccos(np.clip(up[:, 1], -1, 1))], axis=1))


def _percentiles(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (len(PERCENTS), K) weighted percentiles of the columns of x (F, K)."""
    out = []
    for column in x.T:
        order = np.argsort(column)
        cumulative = np.cumsum(weights[order]) / weights.sum() * 100
        out.append(np.interp(PERCENTS, cumulative, column[order]))
    return np.stack(out, axis=1)


def _select(motion, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of diverse frames (farthest points, capped by subject) and of typical ones."""
    from bodymodel.skeleton import forward_kinematics

    joints = forward_kinematics(tilt(motion.global_orient), motion.body_pose)
    joints = joints.reshape(len(joints), -1)
    diverse = [int(np.argmin(((joints - joints.mean(0)) ** 2).sum(1)))]
    distance = np.full(len(joints), np.inf)
    while len(diverse) < DIVERSE:
        distance = np.minimum(distance, ((joints - joints[diverse[-1]]) ** 2).sum(1))
        same = motion.subject == motion.subject[diverse[-1]]
        if np.isin(diverse, np.flatnonzero(same)).sum() >= DIVERSE_PER_SUBJECT_MAX:
            distance[same] = -1
        diverse.append(int(np.argmax(distance)))
    typical = [
        rng.choice(
            np.setdiff1d(np.flatnonzero(motion.subject == subject), diverse),
            TYPICAL_PER_SUBJECT,
            replace=False,
        )
        for subject in np.unique(motion.subject)
    ]
    return np.array(diverse), np.concatenate(typical)


def _limit_energy(pose: np.ndarray) -> np.ndarray:
    """Return (F,) energies of fitting.limits at its suggested weight."""
    from bodymodel.spec import BODY_JOINTS
    from fitting.limits import LIMITS_DEG, SUGGESTED_WEIGHT

    low, high = np.radians(np.stack([LIMITS_DEG[n] for n in BODY_JOINTS[1:]])).transpose(2, 0, 1)
    outside = np.maximum(pose - high, 0) + np.maximum(low - pose, 0)
    return 0.5 * SUGGESTED_WEIGHT**2 * (outside**2).sum((1, 2))


def _cross_validate(motion, pairs: int) -> dict[str, np.ndarray]:
    """Return AUC by kind of corruption, (folds, 2): prior alone, with the joint limits.

    Folds keep subjects apart.
    """
    from fitting import prior_training as training

    folds = (("01", "12"), ("02",), ("05",), ("06", "10"), ("07", "08", "09"), ("13",))
    rng = np.random.default_rng(0)
    scores: dict[str, list[tuple[float, float]]] = {}
    for fold in folds:
        test = np.isin(motion.subject, fold)
        train = motion.take(~test)
        model = training.fit_gaussians(
            train.body_pose, training.subject_weights(train.subject), pairs=pairs
        )
        real = motion.body_pose[test].astype(np.float64)
        energy, limits = training.energy(model, real), _limit_energy(real)
        for name, corrupted in {
            "joints shuffled between frames": training.shuffle_joints(real, rng),
            "one joint turned by 60 degrees": training.turn_one_joint(real, rng),
            "knees bent backwards": training.bend_knees_backwards(real),
        }.items():
            other = training.energy(model, corrupted)
            alone = training.roc_auc(energy, other)
            both = training.roc_auc(energy + limits, other + _limit_energy(corrupted))
            scores.setdefault(name, []).append((alone, both))
    return {name: np.array(values) for name, values in scores.items()}


def _say(text: str = "") -> None:
    sys.stdout.write(text + "\n")


def build(config: BuildPrior) -> None:
    """Build both files and print what was measured.

    Args:
        config: See BuildPrior.

    Raises:
        ValueError: If the mocap file is not one.
    """
    from bodymodel import mocap as mc
    from fitting import prior_training as training
    from fitting.prior_network import train_prior

    mocap = mc.load_mocap(config.mocap)
    motion = mc.retarget(mocap)
    faithful = mc.bone_angles(mocap, mc.retarget(mocap, straighten_legs=False))
    stretched = mc.bone_angles(mocap, motion)
    _say("degrees between bones and the source's: median, 95 % (as recorded | legs straightened)")
    for k, (start, end, _, _) in enumerate(mc.BONE_PAIRS):
        a, b = (np.percentile(x[:, k], [50, 95]) for x in (faithful, stretched))
        _say(f"  {start + ' - ' + end:32s}{a[0]:6.2f}{a[1]:6.2f}  |{b[0]:6.2f}{b[1]:6.2f}")

    good = mc.plausible_frames(motion)
    _say(f"{good.sum()} of {len(good)} frames plausible")
    motion = motion.take(good)
    whole = motion.split()[0]
    motion = motion.take(np.arange(0, len(motion.frame), config.every))
    weights = training.subject_weights(motion.subject)
    train = motion.split()[0]
    _say("trained on subjects " + ", ".join(np.unique(train.subject)))
    lean = _percentiles(trunk_lean(motion.global_orient, motion.body_pose), weights)
    _say("trunk lean, degrees, percentiles " + ", ".join(map(str, PERCENTS)))
    for name, column in zip(("forward", "left", "all"), lean.T, strict=True):
        _say(f"  {name:8s}" + "".join(f"{v:7.1f}" for v in column))
    if config.check:
        _say("AUC, subjects kept apart: mean (worst fold), prior alone | with joint limits")
        for name, values in _cross_validate(motion, config.pairs).items():
            (alone, both), (worst_alone, worst_both) = values.mean(0), values.min(0)
            _say(f"  {name:32s}{alone:.3f} ({worst_alone:.3f}) | {both:.3f} ({worst_both:.3f})")
    learned = train_prior(
        whole.body_pose, training.subject_weights(whole.subject), say=lambda text: _say("  " + text)
    )
    # The plain Gaussian is of the same recombined poses: it fits better so (docs/LOG.md).
    gaussian = learned.coarse
    model = training.Gaussians(
        *(getattr(gaussian, name).numpy() for name in ("means", "whitening", "costs"))
    )
    if config.pairs:
        model = training.fit_gaussians(
            train.body_pose, training.subject_weights(train.subject), pairs=config.pairs
        )
    if config.dry_run:
        return

    source = hashlib.sha256(config.mocap.read_bytes()).hexdigest()
    provenance = {
        "credit": CREDIT,
        "source_sha256": source,
        "built_by": f"python -m fitting.build_prior --pairs {config.pairs} --every {config.every}",
    }
    config.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        config.out / "pose_prior.npz",
        means=model.means.astype(np.float32),
        whitening=model.whitening.astype(np.float32),
        costs=model.costs.astype(np.float32),
        trunk_lean_percents=np.array(PERCENTS, np.float32),
        trunk_lean_deg=lean.astype(np.float32),
        **provenance,
    )
    layers = enumerate(zip(learned.weights, learned.biases, strict=True))
    np.savez_compressed(
        config.out / "open_prior.npz",
        mean=learned.mean.numpy().astype(np.float32),
        precision=learned.precision.numpy().astype(np.float32),
        **{
            f"{kind}{k}": array.numpy().astype(np.float32)
            for k, pair in layers
            for kind, array in zip(("weight", "bias"), pair, strict=True)
        },
        **provenance,
    )
    diverse, typical = _select(motion, np.random.default_rng(0))
    chosen = motion.take(np.concatenate([diverse, typical]))
    np.savez_compressed(
        config.poses,
        body_pose=chosen.body_pose,
        global_orient=tilt(chosen.global_orient).astype(np.float32),
        subject=chosen.subject,
        clip=chosen.clip,
        diverse=np.arange(len(chosen.frame)) < len(diverse),
        **provenance,
    )
    for path in (config.out / "pose_prior.npz", config.out / "open_prior.npz", config.poses):
        _say(f"wrote {path} ({path.stat().st_size / 1e3:.0f} kB)")


def main() -> None:
    """Run the command."""
    build(tyro.cli(BuildPrior, prog="python -m fitting.build_prior"))


if __name__ == "__main__":
    main()
