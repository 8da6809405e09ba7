"""``fitting.run --init lifter``, whole: made photos, the packaged weights, the real solver."""

import json

import numpy as np
import pytest

from curation.store import FitStore
from fitting.demo import DemoConfig, make_demo
from fitting.run import main

QUIET = ("--overlays", "none", "--log-level", "error", "--keypoints", "annotations")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "photos"
    make_demo(DemoConfig(folder, count=4))
    return folder


def test_a_run_starts_from_the_lifter_too_and_is_never_worse(demo, tmp_path, capsys):
    rows = {}
    for init in ("keypoints", "lifter"):
        out = tmp_path / init
        assert main([str(demo), *QUIET, "--init", init, "--out", str(out)]) == 0
        assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["fitted"] == 4
        rows[init] = {row["image_id"]: row for row in FitStore(out).iter_rows()}
    for name, lifted in rows["lifter"].items():
        plain = rows["keypoints"][name]
        given = set(lifted["starts"]) - set(plain["starts"])
        assert given and all(start.startswith("given") for start in given)
        energies = dict(zip(lifted["starts"], lifted["start_energies"], strict=True))
        assert all(np.isfinite(energies[start]) for start in given)
        assert lifted["energy_total"] <= plain["energy_total"] * 1.02 + 1e-6
