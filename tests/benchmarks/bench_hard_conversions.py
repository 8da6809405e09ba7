"""Hard bodies from both starts, one JSON line: python tests/benchmarks/bench_hard_conversions.py.

SMPL meshes in poses and shapes that converters fail on are converted to SMPL-X, from the closed
form and by the published stages from the T-pose. Both must end at the same place (no vertex farther
apart than 1 mm), or one of them must say that it did not arrive: ``silent`` counts where neither
is so. Each case is varied: every joint is turned a little at random, and shapes are random.
"""

import argparse
import json
import sys
from dataclasses import replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from bodymodel.body import BodyData
from bodymodel.files import load_body
from bodymodel.model import BodyModel
from bodymodel.spec import mirror_name
from conversion.correspondence import build_correspondence
from conversion.options import TransferOptions
from conversion.transfer import Transfer

POSES = {
    "upright": {},
    "splits": {"left_hip": (0, 0, 1.5), "right_hip": (0, 0, -1.5)},
    "front splits": {"left_hip": (-1.6, 0, 0), "right_hip": (1.2, 0, 0)},
    "deep bend": {"spine1": (0.6, 0, 0), "left_hip": (-2.2, 0, 0), "right_hip": (-2.2, 0, 0)},
    "crouch": {"left_hip": (-2.3, 0, 0.3), "right_hip": (-2.3, 0, -0.3),
               "left_knee": (2.4, 0, 0), "right_knee": (2.4, 0, 0), "spine2": (0.4, 0, 0)},
    "crossed arms": {"left_shoulder": (0, -1.3, -0.6), "right_shoulder": (0, 1.3, 0.6),
                     "left_elbow": (0, -1.5, 0), "right_elbow": (0, 1.5, 0)},
    "lotus": {"left_hip": (-1.4, 0.9, 0.6), "right_hip": (-1.4, -0.9, -0.6),
              "left_knee": (2.3, 0, 0), "right_knee": (2.3, 0, 0)},
}  # fmt: skip


def cases(body: BodyData, count: int):
    """Yield names and (N, V, 3) meshes."""
    rng = np.random.default_rng(0)

    def posed(joints, betas, of=body, turn=None):
        pose = 0.1 * rng.normal(size=(count, 24, 3))
        for name, value in joints.items():
            pose[:, body.joints.index(name)] += value
        if turn is not None:
            pose[:, 0] = turn
        return pose, mesh(of, pose, betas)

    some = rng.normal(size=(count, 10))
    for name, joints in POSES.items():
        yield name, posed(joints, some)[1]
    yield "betas of 4", posed({}, rng.choice([-4.0, 4.0], (count, 10)))[1]
    yield "betas of 4, crouching", posed(POSES["crouch"], rng.choice([-4.0, 4.0], (count, 10)))[1]
    axis = rng.normal(size=(count, 3))
    half = np.pi * axis / np.linalg.norm(axis, axis=1, keepdims=True)
    yield "half a turn about any axis", posed({}, some, turn=half)[1]
    turn = Rotation.random(count, random_state=0).as_rotvec()
    yield "any rotation", posed({}, some, turn=turn)[1]
    yield "child of 0.6", posed({}, 0 * some, child(body, 0.6))[1]
    yield "child of 0.8", posed({}, 0 * some, child(body, 0.8))[1]
    pose, _ = posed({"left_shoulder": (0.3, -0.5, -0.8), "right_hip": (-1.0, 0, 0)}, some)
    names = list(body.joints)
    swap = [names.index(mirror_name(name)) for name in names]
    yield "before the mirror", mesh(body, pose, some)
    yield "mirrored person", mesh(body, pose[:, swap] * (1, -1, -1), some)


def mesh(body: BodyData, pose: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """Pose a body."""
    given = (torch.tensor(x.astype(np.float32)) for x in (pose, betas))
    with torch.no_grad():
        return BodyModel(body).forward_pose(*given).vertices.double().numpy()


def child(body: BodyData, size: float) -> BodyData:
    """Return a body of a child's proportions: smaller, the head half less so."""
    points = body.v_template.astype(np.float64)
    neck = body.joint_regressor[body.joints.index("neck")] @ points
    head = body.weights[:, body.joints.index("head")][:, None]
    grown = points + head * ((1 / size) ** 0.5 - 1) * (points - neck)
    return replace(body, v_template=(size * grown).astype(np.float32))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    source, target = load_body("open", "smpl"), load_body("open", "smplx")
    match = build_correspondence(source, target)
    closed, zeros = (
        Transfer(source, target, TransferOptions(start=start), match)
        for start in ("closed_form", "zeros")
    )
    line = {"name": "hard conversions", "each": options.count, "cases": []}
    for name, meshes in cases(source, options.count):
        a, b = closed.convert_vertices(meshes), zeros.convert_vertices(meshes)
        ends = [
            mesh(target, r.full_pose, r.betas)[:, match.valid] + r.transl[:, None] for r in (a, b)
        ]
        apart = 1000 * np.linalg.norm(ends[0] - ends[1], axis=2).max(1)
        both = np.array([s == t == "ok" for s, t in zip(a.status, b.status, strict=True)])
        result = {
            "case": name,
            "closed_form_ok": a.status.count("ok"),
            "zeros_ok": b.status.count("ok"),
            "silent": int((apart[both] > 1).sum()),
            "apart_max_mm": round(float(apart[both].max(initial=0)), 3),
            "v2v_mean_mm": round(float(a.v2v_mean_mm.mean()), 3),
            "v2v_mean_zeros_mm": round(float(b.v2v_mean_mm[both].mean()), 3)
            if both.any()
            else None,
        }
        sys.stderr.write(json.dumps(result) + "\n")
        line["cases"].append(result)
    for total in ("closed_form_ok", "zeros_ok", "silent"):
        line[total] = sum(case[total] for case in line["cases"])
    line["meshes"] = options.count * len(line["cases"])
    print(json.dumps(line))


if __name__ == "__main__":
    main()
