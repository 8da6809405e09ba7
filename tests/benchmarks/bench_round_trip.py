"""SMPL-X to SMPL and back, one JSON line: python tests/benchmarks/bench_round_trip.py.

Motion capture poses, mirrored ones among them, random shapes and bent fingers; how far the
22 joints of the body come back, and the largest turn of any of them. The poses are those of the
subjects that no shipped prior has seen, unless ``--all`` is given.
"""

import argparse
import json
import time
from importlib import resources

import numpy as np
import torch

from bodymodel.files import load_body
from bodymodel.model import BodyModel
from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from bodymodel.spec import BODY_JOINTS, mirror_name
from conversion.transfer import Transfer


def people(count, body, held_out=True):
    """SMPL-X poses (B, 55, 3) and betas (B, 10)."""
    rng = np.random.default_rng(0)
    with (resources.files("bodymodel") / "data" / "mocap_poses.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        pose = np.concatenate([arrays["global_orient"][:, None], arrays["body_pose"]], 1)
        if held_out:
            pose = pose[[int(subject) % 5 == 0 for subject in arrays["subject"]]]
    swap = [BODY_JOINTS.index(mirror_name(name)) for name in BODY_JOINTS]
    pose = np.concatenate([pose, pose[:, swap] * (1, -1, -1)])
    out = np.zeros((count, 55, 3), np.float32)
    out[:, :22] = pose[np.arange(count) % len(pose)]
    for first, mean in ((25, body.hand_means[0]), (40, body.hand_means[1])):
        out[:, first : first + 15] = mean.reshape(15, 3) * rng.uniform(0, 1.5, (count, 1, 1))
    return out, rng.normal(size=(count, 10)).astype(np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--via", default="smpl", choices=("smpl", "smplh"))
    parser.add_argument("--all", action="store_true", help="poses of all subjects")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--batch", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)

    body, other = load_body("open", "smplx"), load_body("open", options.via)
    there, back, model = Transfer(body, other), Transfer(other, body), BodyModel(body)
    pose, betas = people(options.count, body, not options.all)
    gaps, turns, statuses, seconds = [], [], [], 0.0
    for first in range(0, options.count, options.batch):
        rows = slice(first, first + options.batch)
        begin = time.perf_counter()
        a = there.convert_params(pose[rows], betas[rows], np.zeros((len(pose[rows]), 3)))
        b = back.convert_params(a.full_pose, a.betas, a.transl)
        seconds += time.perf_counter() - begin
        statuses += a.status + b.status
        with torch.no_grad():
            before = model.forward_pose(torch.tensor(pose[rows]), torch.tensor(betas[rows]))
            after = model.forward_pose(torch.tensor(b.full_pose), torch.tensor(b.betas))
        gap = after.joints.numpy() + b.transl[:, None] - before.joints.numpy()
        gaps.append(1000 * np.linalg.norm(gap, axis=2)[:, :22])
        r, s = (rotvec_to_rotmat(torch.tensor(x[:, :22])) for x in (pose[rows], b.full_pose))
        turns.append(rotmat_to_rotvec(r.mT @ s).norm(dim=-1).numpy())
    gaps = np.concatenate(gaps)
    line = {
        "name": f"round trip by way of {options.via}",
        "meshes": options.count,
        "joints_median_mm": round(float(np.median(gaps)), 3),
        "joints_p99_mm": round(float(np.quantile(gaps, 0.99)), 3),
        "joints_max_mm": round(float(gaps.max()), 3),
        "largest_turn_deg": round(float(np.degrees(np.concatenate(turns).max())), 2),
        "ok": statuses.count("ok"),
        "ms_a_round_trip": round(1000 * seconds / options.count, 1),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
