"""Peak memory of converting a long motion, one JSON line.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_conversion_memory.py --limit 4096

A motion of 100,000 frames (SMPL-H, 125 MB unpacked) is written in AMASS's form and converted to
SMPL-X with ``conversion.run``, its first ``--limit`` frames or all. Above: the resident memory of
a process that has imported torch and loaded both bodies. Memory is flat if the figure does not
grow with the limit.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np


def kib(field):
    """VmRSS or VmHWM of this process."""
    with Path("/proc/self/status").open() as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))


def loaded_kib():
    """Resident memory of a process with torch and both bodies."""
    code = (
        "import torch; from bodymodel.files import load_body\n"
        "bodies = [load_body('open', family) for family in ('smplh', 'smplx')]\n"
        "print(next(x.split()[1] for x in open('/proc/self/status') if x.startswith('VmRSS')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(run.stdout)


def write_motion(path, frames):
    with (resources.files("bodymodel") / "data" / "mocap_poses.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        body, root = arrays["body_pose"], arrays["global_orient"]
    poses = np.zeros((frames, 52, 3), np.float32)
    order = np.arange(frames) % len(body)
    poses[:, 0], poses[:, 1:22] = root[order], body[order]
    noise = np.random.default_rng(0)
    poses[:, 22:] = 0.1 * noise.normal(size=(frames, 30, 3))
    np.savez_compressed(
        path, poses=poses.reshape(frames, -1), trans=np.zeros((frames, 3)),
        betas=noise.normal(size=10), gender="neutral", mocap_framerate=120.0,
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--limit", type=int, default=4096)
    parser.add_argument("--flags", nargs="*", default=["--npz"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        child = os.fork()  # its memory must not count
        if not child:
            write_motion(Path(folder) / "long.npz", options.frames)
            os._exit(0)
        os.waitpid(child, 0)

        loaded = loaded_kib()
        import torch

        torch.set_num_threads(1)
        from conversion.run import main as convert

        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            status = convert(
                [
                    str(Path(folder) / "long.npz"), "--out", str(Path(folder) / "out"),
                    "--from-models", "open", "--to-models", "open", "--shared-betas",
                    "--limit", str(options.limit), *(f"--{f.strip('-')}" for f in options.flags),
                ]
            )  # fmt: skip
        line = json.loads(told.getvalue().splitlines()[-1])
    result = {
        "name": "memory of a conversion", "frames_of_the_motion": options.frames,
        "converted": line["frames"], "ok": line["ok"], "status": status,
        "loaded_mib": round(loaded / 1024), "peak_mib": round(kib("VmHWM") / 1024),
    }  # fmt: skip
    result["above_mib"] = result["peak_mib"] - result["loaded_mib"]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
