"""The fast solver beside SMPLify-X's schedule, on the same people in one run, one thread each.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_reference.py [--subjects 40] [--focal-px 1000]

People are made: motion-capture poses on the open body, headings within +-75 degrees of the camera,
OpenPose's points with noise of 3 px (body) and 1.5 px (hands, face), confidences 0.5-1, photos of
600 x 800. The poses are those of the recorded people whose CMU number is a multiple of 5 (05, 10):
the shipped priors were not trained on them.

Three solvers: "reference" is SMPLify-X's schedule; "same energy" is the fast solver on the same
energy, term by term (fitting.published), all starts counted; "ours" is the fast solver as a run
has it: its own energy, headings and the lifter's starts. Prints a table, a row a person and solver,
and one JSON line of medians. CPU time of the fast ones is that of a batch of 64 (the people
repeated), measured between the reference's persons, and of one person alone. "energy" is that of
the reference's last stage, computed by the reference's own code in float64.

``--figure PATH`` draws photos an hour beside each other into an SVG; ``--from-json FILE`` draws it
from a line that was saved before.
"""

import argparse
import json
import math
import os
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from made_people import SEEN, MadePeople, RunFitter, make_people

from bodymodel.files import load_body
from bodymodel.keypoints import FIT_KEYPOINTS
from bodymodel.metrics import pa_mpjpe_mm
from bodymodel.params import BodyParams
from bodymodel.rotations import rotvec_to_rotmat
from bodymodel.sliced import slice_body, sliced_forward
from bodymodel.spec import keypoint_part
from fitting.fit import Fitter
from fitting.prior_choice import load_prior
from fitting.published import smplifyx_config
from fitting.reference import ReferenceFitter
from fitting.reference_config import ReferenceConfig

PART_OF = np.array([keypoint_part(name).split("_")[-1] for name in FIT_KEYPOINTS])


def measure(
    people: MadePeople, k: int, params: dict[str, np.ndarray], sliced, reference: ReferenceFitter
) -> dict[str, float]:
    """How far one answer is from the truth and the detections."""

    def place(fields: dict[str, np.ndarray]) -> torch.Tensor:
        p = BodyParams(
            **{n: torch.as_tensor(np.asarray(v)).double()[None] for n, v in fields.items()}
        )
        shape = torch.cat([p.betas, p.expression], 1)
        return sliced_forward(sliced, p.full_pose, shape, p.transl).points[0]

    truth = {n: v[k] for n, v in people.params.numpy().items()}
    fitted, true = place(params), place(truth)
    target = people.targets[k]
    pixels = np.full((len(FIT_KEYPOINTS), 2), np.nan)
    rows = [FIT_KEYPOINTS.index(name) for name in sliced.points]
    pixels[rows] = (target.focal_px * fitted[:, :2] / fitted[:, 2:]).numpy() + target.center_px
    away = np.linalg.norm(pixels - target.keypoints_2d[:, :2], axis=1)
    clean = people.focal_px[k] * people.points[k, :, :2] / people.points[k, :, 2:]
    noise = np.linalg.norm(clean + target.center_px - target.keypoints_2d[:, :2], axis=1)
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
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--focal-px", type=float, default=5000, help="of the true camera; try 1000")
    parser.add_argument(
        "--assumed-focal-px", type=float, help="what the solvers are told; the true one by default"
    )
    parser.add_argument("--reference-body", choices=("smplx", "own"), default="smplx")
    parser.add_argument("--batch", type=int, default=64, help="people fitted at once")
    parser.add_argument("--figure", type=Path, help="where to draw photos an hour (SVG)")
    parser.add_argument("--from-json", type=Path, help="draw from a saved line; runs nothing")
    options = parser.parse_args()
    line = json.loads(options.from_json.read_text()) if options.from_json else run(options)
    if options.figure:
        options.figure.write_text(draw_figure(line))
    print(json.dumps(line))


def run(options: argparse.Namespace) -> dict:
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(1)
    body = load_body("open")
    assumed = options.assumed_focal_px or options.focal_px
    people = make_people(
        body, options.subjects, seed=options.seed, focal_px=options.focal_px, assumed_px=assumed
    )
    targets = people.targets
    l2 = load_prior("l2")
    reference = ReferenceFitter(body, ReferenceConfig(body=options.reference_body), prior=l2)
    judge = ReferenceFitter(body, ReferenceConfig(body="own"), dtype="float64", prior=l2)
    fast = {"same energy": Fitter(body, smplifyx_config(), prior=l2), "ours": RunFitter(body)}
    sliced = slice_body(body, dtype=torch.float64)
    reference.energy(targets[0], {n: v[0] for n, v in people.params.numpy().items()})
    many = (targets * math.ceil(options.batch / len(targets)))[: options.batch]
    results = {}
    for name, fitter in fast.items():
        fitter.fit(many[:2])  # first calls allocate
        results[name] = fitter.fit(targets)
    solvers = ["reference", *fast]
    if assumed == options.focal_px:  # else the truth does not even project to the points
        solvers.append("truth")
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in solvers}
    batch_s: dict[str, list[float]] = {name: [] for name in fast}
    single_s: dict[str, list[float]] = {name: [] for name in fast}
    head = " ".join(f"{c:>{int(f[2:].split('.')[0])}.9}" for c, f in COLUMNS.items())
    print(f"{'person':6} {'solver':12} {head}", flush=True)
    for k, target in enumerate(targets):
        seconds, (result,) = cpu_seconds(lambda target=target: reference.fit([target]))
        for name, fitter in fast.items():
            single_s[name].append(cpu_seconds(lambda f=fitter, t=target: f.fit([t]))[0])
            if k % 4 == 0:
                together, _ = cpu_seconds(lambda f=fitter: f.fit(many))
                batch_s[name].append(together / len(many))
        answers = {"reference": (result.params, seconds, result.iterations)}
        for name, found in results.items():
            answers[name] = found[k].params, batch_s[name][-1], found[k].iterations
        truth = {n: v[k] for n, v in people.params.numpy().items()}
        answers["truth"] = truth, math.nan, math.nan
        for name in solvers:
            params, cpu, evaluations = answers[name]
            row = {"cpu_s": cpu, "evaluations": evaluations}
            row |= measure(people, k, params, sliced, judge)
            rows[name].append(row)
            print(table_row(f"{k:03d}", name, row), flush=True)
        if len(result.starts) > 1 or result.status != "ok":
            energies = dict(zip(result.starts, result.start_energies.tolist(), strict=True))
            print(f"{k:03d}    {result.status} {result.reason} {energies}")
    medians = {name: summary(values) for name, values in rows.items()}
    for name in solvers:
        print(table_row("median", name, dict.fromkeys(COLUMNS, math.nan) | medians[name]))
    reference_s = medians["reference"]["cpu_s"]
    ratios = np.array(
        [
            a["energy"] / b["energy"]
            for a, b in zip(rows["same energy"], rows["reference"], strict=True)
        ]
    )
    return {
        "name": "reference",
        "device": f"cpu, 1 thread of {os.cpu_count()}",
        "subjects": len(targets),
        "seed": options.seed,
        "focal_px": options.focal_px,
        "assumed_focal_px": assumed,
        "reference_body": options.reference_body,
        "batch": options.batch,
        "cpu_s": {
            "reference": round(reference_s, 2),
            **{
                name: {
                    "batch": round(float(np.median(batch_s[name])), 4),
                    "alone": round(float(np.median(single_s[name])), 4),
                }
                for name in fast
            },
        },
        "speedup": {
            name: {
                "batch": round(reference_s / float(np.median(batch_s[name])), 1),
                "alone": round(reference_s / float(np.median(single_s[name])), 1),
            }
            for name in fast
        },
        "energy_ratio": {
            "median": round(float(np.median(ratios)), 3),
            "at_most_1": int((ratios <= 1).sum()),
            "largest": round(float(ratios.max()), 3),
        },
        "pa_ratio": round(medians["ours"]["pa_mm"] / medians["reference"]["pa_mm"], 3),
        "medians": medians,
    }


FIGURE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" role="img">
<title>Photos an hour on one core: {said}</title>
<style>
text {{ font: 15px sans-serif; fill: #444 }} .n {{ font-weight: bold }} .s {{ font-size: 12px }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #ccc }} }}
</style>
{bars}
<text class="s" x="10" y="{foot}">{note}</text>
</svg>
"""


def draw_figure(line: dict) -> str:
    """Draw photos an hour and core, to scale."""
    seconds = {
        "SMPLify-X's schedule": line["cpu_s"]["reference"],
        "ours, its energy, one at a time": line["cpu_s"]["same energy"]["alone"],
        f"ours, its energy, batch of {line['batch']}": line["cpu_s"]["same energy"]["batch"],
        f"ours as shipped, batch of {line['batch']}": line["cpu_s"]["ours"]["batch"],
    }
    hourly = {name: 3600 / s for name, s in seconds.items()}
    longest = max(hourly.values())
    bars = []
    for k, (name, count) in enumerate(hourly.items()):
        y = 14 + 34 * k
        width = max(1.0, 380 * count / longest)
        colour = "#c0504d" if k == 0 else "#2f7ed8"
        bars.append(
            f'<text x="10" y="{y + 16}">{name.replace("&", "&amp;")}</text>'
            f'<rect x="270" y="{y}" width="{width:.1f}" height="22" rx="2" fill="{colour}"/>'
            f'<text class="n" x="{270 + width + 8:.1f}" y="{y + 16}">{count:,.0f}</text>'
        )
    note = (
        f"photos an hour on one core, keypoints given; medians of {line['subjects']} made people, "
        "one run, same machine"
    )
    said = ", ".join(f"{name} {count:,.0f}" for name, count in hourly.items())
    height = 14 + 34 * len(hourly) + 24
    return FIGURE.format(height=height, bars="\n".join(bars), foot=height - 8, note=note, said=said)


if __name__ == "__main__":
    main()
