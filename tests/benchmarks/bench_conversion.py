"""SMPL to SMPL-X, ours and smplfitter, one JSON line: python tests/benchmarks/bench_conversion.py.

The same motion capture poses with random shapes, the same correspondence (equation 3 as published,
so that both aim at the same points), one thread, medians. Each is timed from SMPL parameters to
SMPL-X parameters; smplfitter reports no distances, ours does within its time. smplfitter is left
out where it is not installed: pip install smplfitter.
"""

import argparse
import json
import os
import pickle
import statistics
import tempfile
import time
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

from bodymodel.files import load_body
from bodymodel.model import BodyModel
from bodymodel.openbody.export import export_open_body
from conversion.correspondence import build_correspondence
from conversion.transfer import Transfer, TransferOptions


def people(count):
    """SMPL parameters: poses (B, 24, 3), betas (B, 10), translations (B, 3)."""
    rng = np.random.default_rng(0)
    with (resources.files("fitting") / "data" / "mocap_poses.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        body, root = arrays["body_pose"], arrays["global_orient"]
    chosen = rng.choice(len(body), count, replace=count > len(body))
    pose = np.zeros((count, 24, 3), np.float32)
    pose[:, 0], pose[:, 1:22] = root[chosen], body[chosen]
    return pose, rng.normal(size=(count, 10)).astype(np.float32), rng.normal(size=(count, 3))


def median_ms(function, size, repeats):
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start) / size)
    return round(statistics.median(times), 1)


def distances(vertices, goal, valid):
    """Mean, p99 and max over meshes and valid vertices, mm; p99 is the mean of the meshes'."""
    gap = 1000 * np.linalg.norm(vertices - goal, axis=2)[:, valid]
    return {
        "v2v_mean_mm": round(float(gap.mean()), 3),
        "v2v_p99_mm": round(float(np.quantile(gap, 0.99, axis=1).mean()), 3),
        "v2v_max_mm": round(float(gap.max()), 2),
    }


def smplfitter_converter(folder, match, bodies):
    """Build smplfitter's converter on exported open bodies; None where it is not installed."""
    try:
        import smplfitter.pt as peer
    except ImportError:
        return None
    export_open_body(folder)
    (folder / "smpl" / "SMPL_NEUTRAL.pkl").rename(
        folder / "smpl" / "basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl"
    )
    for body in bodies:  # it wants one, and ties its coefficient to zero
        np.save(folder / body.family / "kid_template.npy", 0.6 * body.v_template)
    rows = np.repeat(np.arange(len(match.corners)), 3)
    shape = (len(match.corners), 2 * match.num_source)
    matrix = sparse.csr_matrix((match.weights.ravel(), (rows, match.corners.ravel())), shape)
    with (folder / "smpl2smplx_deftrafo_setup.pkl").open("wb") as file:
        pickle.dump({"mtx": matrix}, file)
    os.environ["SMPLFITTER_BODY_MODELS"] = str(folder)
    models = [peer.BodyModel(name, "neutral", num_betas=10).eval() for name in ("smpl", "smplx")]
    return peer.BodyConverter(*models).eval(), models[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)

    source, target = load_body("open", "smpl"), load_body("open", "smplx")
    match = build_correspondence(source, target, one_surface=False)
    pose, betas, transl = people(max(options.batches))
    goal = BodyModel(source).forward_pose(torch.tensor(pose), torch.tensor(betas)).vertices
    goal = match.apply(goal.numpy()) + transl[:, None]
    line = {"name": "conversion", "device": f"{options.device}, 1 thread", "results": []}

    for label, device, kwargs in (
        ("ours", options.device, {}),
        ("ours, one surface", options.device, {"offsets": True}),
        ("ours, published stages", options.device, {"start": "zeros"}),
    ):
        aim = build_correspondence(source, target) if kwargs.pop("offsets", False) else match
        ours = Transfer(source, target, TransferOptions(**kwargs), aim, device=device)
        for size in options.batches:
            given = (pose[:size], betas[:size], transl[:size])
            ms = median_ms(lambda g=given, t=ours: t.convert_params(*g), size, options.repeats)
            out = ours.convert_params(*given)
            line["results"].append(
                {
                    "what": label, "batch": size, "ms_a_mesh": ms,
                    "v2v_mean_mm": round(float(out.v2v_mean_mm.mean()), 3),
                    "v2v_p99_mm": round(float(out.v2v_p99_mm.mean()), 3),
                    "v2v_max_mm": round(float(out.v2v_max_mm.max()), 2),
                    "ok": out.status.count("ok"),
                }
            )  # fmt: skip

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        built = smplfitter_converter(Path(folder), match, (source, target))
        for size in options.batches if built else []:
            converter, model = built
            given = [torch.tensor(x[:size].astype(np.float32)) for x in (pose, betas, transl)]
            given[0] = given[0].flatten(1)
            for rounds in (1, 3):

                def convert(g=given, n=rounds, c=converter):
                    return c.convert(*g, num_iter=n)

                ms, out = median_ms(convert, size, options.repeats), convert()
                placed = model(out["pose_rotvecs"], out["shape_betas"], out["trans"])["vertices"]
                line["results"].append(
                    {"what": f"smplfitter, {rounds} iterations", "batch": size, "ms_a_mesh": ms}
                    | distances(placed.numpy(), goal[:size], match.valid)
                )
    print(json.dumps(line))


if __name__ == "__main__":
    main()
