"""A whole run on keypoints, one JSON line: python tests/benchmarks/bench_run.py [--rows 2000].

Writes a dataset of OpenPose files of made people (motion-capture poses, noise 3 px, one small photo
each) to a temporary folder, runs ``python -m fitting.run`` on it as a user would, with no detection
and no overlays. Persons a second are of wall time from start to end, start-up included; the peak
memory is that of the process; both at the number of rows asked for and at a quarter of it.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bodymodel.files import load_body
from bodymodel.keypoints import CONVENTIONS, FIT_KEYPOINTS
from bodymodel.params import BodyParams
from bodymodel.rotations import rotmat_to_rotvec, rotvec_to_rotmat
from bodymodel.sliced import slice_body, sliced_forward

SIZE = (640, 800)


def made_keypoints(count: int, seed: int = 0) -> np.ndarray:
    """(count, 145, 3) keypoints of people in motion-capture poses, seen from all sides."""
    rng = np.random.default_rng(seed)
    poses = np.load(Path("bodymodel/data/mocap_poses.npz"))
    pick = rng.integers(len(poses["body_pose"]), size=count)
    body = load_body("open")
    full = torch.zeros(count, 55, 3, dtype=torch.float64)
    full[:, 1:22] = torch.as_tensor(poses["body_pose"][pick]).double()
    zero = np.zeros(count)
    heading = torch.as_tensor(np.stack([zero, rng.uniform(-math.pi, math.pi, count), zero], 1))
    upright = torch.tensor([math.pi, 0, 0], dtype=torch.float64)
    tilt = torch.as_tensor(poses["global_orient"][pick]).double()
    root = rotvec_to_rotmat(upright) @ rotvec_to_rotmat(heading) @ rotvec_to_rotmat(tilt)
    full[:, 0] = rotmat_to_rotvec(root)
    sliced = slice_body(body, dtype=torch.float64)
    params = BodyParams.zeros(count, dtype=torch.float64)
    shape = torch.as_tensor(rng.normal(size=(count, sliced.num_shape)))
    transl = params.transl + torch.tensor([0.05, 0.1, 4.0], dtype=torch.float64)
    points = sliced_forward(sliced, full, shape, transl).points.numpy()
    pixels = 900 * points[..., :2] / points[..., 2:] + np.array(SIZE) / 2
    pixels += rng.normal(0, 3, pixels.shape)
    out = np.zeros((count, len(FIT_KEYPOINTS), 3))
    rows = [FIT_KEYPOINTS.index(name) for name in sliced.points]
    out[:, rows, :2] = pixels
    out[:, rows, 2] = 0.9
    return out


def write_dataset(root: Path, count: int) -> None:
    """Write OpenPose 1.3 files with all parts, and a photo for each."""
    (root / "images").mkdir(parents=True)
    (root / "keypoints").mkdir()
    groups = {
        "pose_keypoints_2d": "openpose_body25",
        "face_keypoints_2d": "openpose_face70",
        "hand_left_keypoints_2d": "openpose_hand21_left",
        "hand_right_keypoints_2d": "openpose_hand21_right",
    }
    index = {name: k for k, name in enumerate(FIT_KEYPOINTS)}
    photo = root / "grey.jpg"
    Image.new("RGB", SIZE, (127, 127, 127)).save(photo)
    for k, points in enumerate(made_keypoints(count)):
        person = {
            key: [
                round(float(v), 2)
                for name in CONVENTIONS[convention]
                for v in (points[index[name]] if name in index else (0, 0, 0))
            ]
            for key, convention in groups.items()
        }
        (root / f"keypoints/p{k:06d}_keypoints.json").write_text(
            json.dumps({"version": 1.3, "people": [person]})
        )
        os.link(photo, root / f"images/p{k:06d}.jpg")
    photo.unlink()


def run(root: Path) -> dict:
    """Run the command and read its last line; its peak memory comes from a small parent."""
    command = [sys.executable, "-m", "fitting.run", str(root), "--overlays", "none"]
    watch = (
        "import json,resource,subprocess,sys;"
        "d=subprocess.run(sys.argv[1:],capture_output=True,text=True);"
        "sys.exit(d.stderr) if d.returncode else None;"
        "r=resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(json.dumps([d.stdout.strip().splitlines()[-1],r.ru_maxrss/1024,"
        "r.ru_utime+r.ru_stime]))"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", watch, *command], capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - start
    last, peak_mib, cpu_s = json.loads(done.stdout)
    summary = json.loads(last)
    return {
        "fitted": summary["fitted"],
        "failed": summary["failed"],
        "wall_s": round(seconds, 1),
        "cpu_s": round(cpu_s, 1),
        "persons_per_s": round(summary["fitted"] / seconds, 1),
        "peak_mib": round(peak_mib),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = {}
        for rows in (options.rows // 4, options.rows):
            root = Path(folder) / str(rows)
            write_dataset(root, rows)
            results[rows] = run(root)
    print(json.dumps({"name": "run", "device": f"cpu, {os.cpu_count()} cores", "rows": results}))


if __name__ == "__main__":
    main()
