"""Accepted fits of a reviewed store, as examples."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from curation.decisions import default_url
from curation.verdicts import find_verdicts, open_decisions
from regressor.from_store import accepted_parts, fits_of_store
from regressor.train import main
from tests.curation.review_store import make_review


@pytest.fixture(scope="module")
def review(tmp_path_factory, open_body):
    return make_review(tmp_path_factory.mktemp("review") / "photos", open_body)


def test_what_is_learned_is_what_an_export_holds(review):
    """Rules, adjudication and ties count here as they do in curation.export."""
    verdicts = find_verdicts(open_decisions(default_url(review.store.root)))
    accepted = accepted_parts(review.store.root)
    assert accepted == verdicts.accepted_parts()
    examples = fits_of_store(review.store, accepted)
    assert {row["fit_id"] for row in examples.rows} == set(accepted)
    assert 0 < len(examples) < len(fits_of_store(review.store))


def test_a_part_that_was_not_seen_or_not_accepted_is_no_label(review):
    accepted = accepted_parts(review.store.root)
    examples = fits_of_store(review.store, accepted)
    left_out = 0
    for k, row in enumerate(examples.rows):
        example = examples[k]
        is_label = row["has_left_hand"] and "left_hand" in accepted[row["fit_id"]]
        assert ("left_hand_pose" in example.params) == is_label
        left_out += not is_label
        np.testing.assert_array_equal(example.params["body_pose"], row["body_pose"])
        assert example.picture.path.is_file()
    assert left_out


def test_decisions_may_be_elsewhere(review, tmp_path):
    decisions = open_decisions(default_url(review.store.root))
    few = decisions.slice(0, 30)
    pq.write_table(few, tmp_path / "decisions.parquet")
    found = accepted_parts(review.store.root, str(tmp_path / "decisions.parquet"))
    assert found == find_verdicts(few).accepted_parts()
    assert found != accepted_parts(review.store.root)


def test_nobody_has_reviewed(tmp_path):
    assert accepted_parts(tmp_path) == {}


def test_decisions_that_are_not_there_are_said(review, tmp_path, capsys):
    status = main([str(review.data), "--decisions", str(tmp_path / "no.parquet")])
    assert status == 2
    assert "there are no decisions at" in capsys.readouterr().err


def test_the_command_trains_on_what_was_accepted(review, tmp_path, capsys):
    status = main(
        [str(review.data), "--out", str(tmp_path), "--size", "tiny", "--steps", "2", "--batch",
         "4", "--part-steps", "0", "--check-every", "2"]
    )  # fmt: skip
    assert status == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["train"] == "done"
    assert (tmp_path / "model.safetensors").is_file()
