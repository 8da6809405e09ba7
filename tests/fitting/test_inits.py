"""--init, through the command, with a stand-in for the solver."""

import numpy as np
import pytest

from curation.samples import PersonObservation
from curation.store import FitStore
from fitting.inits import ToStart, fits_source, starts_of_fits
from fitting.run import main
from tests.fitting.fakes import fake_body, fake_rooms

QUIET = ("--overlays", "none", "--log-level", "error", "--workers", "1")


@pytest.fixture
def data(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.fixture
def fitted(data):
    assert main([str(data), *QUIET], fake_rooms()) == 0
    return data / "fits"


def test_starts_are_the_fits_of_the_same_persons(fitted):
    (run_id,) = FitStore(fitted).run_ids()
    assert fits_source(f"fits:{fitted}") == (fitted, run_id)
    assert fits_source(f"fits:{fitted}/data/run={run_id}") == (fitted, run_id)
    sha = fake_body("", "smplx", "neutral").sha256
    starter = starts_of_fits(fitted, run_id, sha)

    def starts_of(observation):
        return starter([ToStart(observation, None, None)])[0]

    found = 0
    for row in FitStore(fitted).iter_rows():
        starts = starts_of(PersonObservation(row["image_id"], row["person_index"]))
        assert len(starts) == row["has_fit"]
        for start in starts:
            found += 1
            np.testing.assert_array_equal(start["body_pose"], row["body_pose"])
            np.testing.assert_array_equal(start["betas"], row["betas"])
    assert found > 10
    assert starts_of(PersonObservation("elsewhere.jpg", 0)) == ()
    with pytest.raises(ValueError, match="not of the one"):
        starts_of_fits(fitted, run_id, "0" * 64)


def test_a_run_goes_on_from_another(data, fitted):
    assert main([str(data), *QUIET, "--init", f"fits:{fitted}"], fake_rooms()) == 0
    assert len(FitStore(fitted).run_ids()) == 2


def test_several_runs_must_be_told_apart(data, fitted, capsys):
    assert main([str(data), *QUIET, "--seed", "1"], fake_rooms()) == 0
    assert main([str(data), *QUIET, "--init", f"fits:{fitted}"], fake_rooms()) == 2
    assert "name one" in capsys.readouterr().err


def test_mean_is_one_heading(data, fitted):
    assert main([str(data), *QUIET, "--init", "mean"], fake_rooms()) == 0
    store = FitStore(fitted)
    headings = [store.run_record(r)["config"]["fit"]["headings"] for r in store.run_ids()]
    assert sorted(map(len, headings)) == [1, 4]
