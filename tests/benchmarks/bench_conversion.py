"""SMPL to SMPL-X, ours and smplfitter, one JSON line: python tests/benchmarks/bench_conversion.py.

The same motion capture poses with random shapes, one thread, medians, on two pairs of bodies:

* ``subset``: SMPL's vertices are a subset of SMPL-X's, as on the pair that the published figures
  (0.19 to 0.22 mm; smplfitter 1.6 to 2.1 mm) were measured on. Compare with those.
* ``shipped``: the open bodies, which share 5 % of their vertices.

Both converters are given the same targets in the same run, twice: by equation 3 as published, and
carried by the surface (conversion.lift). Distances are to those targets, on valid vertices, and
(``from_truth_mm``) to the SMPL-X mesh that the SMPL mesh truly is: both bodies of a pair have one
shape space and one skeleton, so that it is known here.
Each is timed, in CPU time, from SMPL parameters to SMPL-X parameters; smplfitter reports no
distances, ours does within its time. smplfitter is left out where it is not installed:
pip install smplfitter.
"""

import argparse
import json
import os
import pickle
import statistics
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from bodymodel.files import load_body
from bodymodel.model import BodyModel
from conversion.correspondence import build_correspondence
from conversion.options import TransferOptions
from conversion.transfer import Transfer

sys.path.insert(0, str(Path(__file__).parent))
from subset_pair import subset_smpl


def people(count):
    """SMPL parameters: poses (B, 24, 3), betas (B, 10), translations (B, 3)."""
    rng = np.random.default_rng(0)
    with (resources.files("bodymodel") / "data" / "mocap_poses.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        body, root = arrays["body_pose"], arrays["global_orient"]
    chosen = rng.choice(len(body), count, replace=count > len(body))
    pose = np.zeros((count, 24, 3), np.float32)
    pose[:, 0], pose[:, 1:22] = root[chosen], body[chosen]
    return pose, rng.normal(size=(count, 10)).astype(np.float32), rng.normal(size=(count, 3))


def median_ms(function, size, repeats):
    """CPU time on a CPU, of one thread: the machine may be shared."""
    function()
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    times = []
    for _ in range(repeats):
        start = clock()
        function()
        times.append(1000 * (clock() - start) / size)
    return round(statistics.median(times), 1)


def distances(vertices, goal, valid):
    """Mean, p99 and max over meshes and valid vertices, mm; p99 is the mean of the meshes'."""
    gap = 1000 * np.linalg.norm(vertices - goal, axis=2)[:, valid]
    return {
        "v2v_mean_mm": round(float(gap.mean()), 3),
        "v2v_p99_mm": round(float(np.quantile(gap, 0.99, axis=1).mean()), 3),
        "v2v_max_mm": round(float(gap.max()), 2),
    }


def mean_mm(vertices, goal, valid):
    return round(float(1000 * np.linalg.norm(vertices - goal, axis=2)[:, valid].mean()), 3)


def smplfitter_models(folder, source, target):
    """Write the bodies as smplfitter reads them, and load them; None where it is not installed."""
    try:
        import smplfitter.pt as peer
    except ImportError:
        return None
    for body, name in (
        (source, "basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl"),
        (target, "SMPLX_NEUTRAL.npz"),
    ):
        (folder / body.family).mkdir(parents=True)
        wide = np.zeros((len(body.v_template), 3, 400), np.float32)
        wide[..., :10] = body.shapedirs
        wide[..., 300 : 300 + body.num_expression] = body.exprdirs
        arrays = {
            "v_template": body.v_template, "f": body.faces.astype(np.uint32),
            "shapedirs": body.shapedirs if body.family == "smpl" else wide,
            "posedirs": body.posedirs, "weights": body.weights, "J_regressor": body.joint_regressor,
            "kintree_table": np.array([body.parents, range(len(body.parents))]),
        }  # fmt: skip
        path = folder / body.family / name
        if path.suffix == ".pkl":
            with path.open("wb") as file:
                pickle.dump(arrays, file)
        else:
            np.savez(path, **arrays)
        # it wants one, and ties its coefficient to zero
        np.save(folder / body.family / "kid_template.npy", 0.6 * body.v_template)
    os.environ["SMPLFITTER_BODY_MODELS"] = str(folder)
    models = [
        peer.BodyModel(body.family, "neutral", model_root=str(folder / body.family), num_betas=10)
        for body in (source, target)
    ]
    return [model.eval() for model in models] + [peer.BodyFitter(models[1]).eval()]


def measure(pair, source, target, options):
    """Yield results of one pair."""
    pose, betas, transl = people(max(options.batches))
    given = [torch.tensor(x.astype(np.float32)) for x in (pose, betas, transl)]
    model = BodyModel(target)

    def place(pose, betas):
        with torch.no_grad():
            return model.forward_pose(torch.as_tensor(pose), torch.as_tensor(betas)).vertices

    whole = np.zeros((len(pose), 55, 3), np.float32)
    whole[:, :22] = pose[:, :22]
    truth = place(whole, betas).double().numpy() + transl[:, None]
    with torch.no_grad():
        posed = BodyModel(source).forward_pose(given[0], given[1]).vertices.double().numpy()
    with tempfile.TemporaryDirectory() as folder:
        peer = smplfitter_models(Path(folder), source, target)
    for aim, one_surface in (("equation 3", False), ("one surface", True)):
        match = build_correspondence(source, target, one_surface=one_surface)
        goal = match.apply(posed) + transl[:, None]
        about = {"pair": pair, "target": aim}
        for start in ("closed_form", "zeros"):
            if start == "zeros" and one_surface:
                continue
            ours = Transfer(
                source, target, TransferOptions(start=start), match, device=options.device
            )
            for size in options.batches:
                rows = (pose[:size], betas[:size], transl[:size])
                ms = median_ms(lambda g=rows, t=ours: t.convert_params(*g), size, options.repeats)
                out = ours.convert_params(*rows)
                mesh = place(out.full_pose, out.betas).double().numpy() + out.transl[:, None]
                yield about | {
                    "what": "ours" if start == "closed_form" else "ours, published stages",
                    "batch": size, "ms_a_mesh": ms,
                    "v2v_mean_mm": round(float(out.v2v_mean_mm.mean()), 3),
                    "v2v_p99_mm": round(float(out.v2v_p99_mm.mean()), 3),
                    "v2v_max_mm": round(float(out.v2v_max_mm.max()), 2),
                    "from_truth_mm": mean_mm(mesh, truth[:size], match.valid),
                    "ok": out.status.count("ok"),
                }  # fmt: skip
        if peer is None:
            continue
        their_model = peer[1]
        ours = Transfer(source, target, None, match)
        for size in options.batches:
            for rounds in (1, 3):

                def convert(n=rounds, size=size, sampler=ours._sampler, peer=peer):
                    before, _, fitter = peer
                    with torch.inference_mode():
                        rows = [x[:size] for x in given]
                        mesh = before(rows[0].flatten(1), *rows[1:])["vertices"]
                        # what its own converter does after its matrix
                        return fitter.fit(
                            sampler(mesh).mT.contiguous(), num_iter=n, beta_regularizer=0.0,
                            final_adjust_rots=False,
                            requested_keys=["pose_rotvecs", "shape_betas"],
                        )  # fmt: skip

                ms, out = median_ms(convert, size, options.repeats), convert()
                with torch.inference_mode():
                    placed = their_model(out["pose_rotvecs"], out["shape_betas"], out["trans"])
                mesh = placed["vertices"].double().numpy()
                yield about | {
                    "what": f"smplfitter, {rounds} iterations", "batch": size, "ms_a_mesh": ms,
                    "from_truth_mm": mean_mm(mesh, truth[:size], match.valid),
                } | distances(mesh, goal[:size], match.valid)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pairs", nargs="+", default=["subset", "shipped"])
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)

    target = load_body("open", "smplx")
    line = {"name": "conversion", "device": f"{options.device}, 1 thread", "results": []}
    for pair in options.pairs:
        source = subset_smpl(target) if pair == "subset" else load_body("open", "smpl")
        for result in measure(pair, source, target, options):
            sys.stderr.write(json.dumps(result) + "\n")
            line["results"].append(result)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
