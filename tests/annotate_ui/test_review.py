"""The index of a store, opening a review, its command, and the order that is learned."""

import math

import numpy as np
import pytest
import sqlalchemy as sa

from annotate_ui.__main__ import main
from annotate_ui.items import ItemIndex
from annotate_ui.pictures import PICTURE_COLUMNS
from annotate_ui.retrain import Retrainer
from annotate_ui.review import Review
from bodymodel.spec import PARTS
from curation import database as db
from curation.database import new_id
from curation.decisions import Decision, DecisionStore
from curation.gold import GoldItem, GoldItems
from curation.queue import ReviewQueue
from curation.queue_records import Judgement
from curation.review_numbers import annotators_csv, review_numbers
from curation.store import FitStore
from tests.review_store import fit_name, make_store, no_body


def test_rows_are_found_again(tmp_path):
    make_store(tmp_path, 50, pictures=False)
    index = ItemIndex(FitStore(tmp_path / "fits"))
    assert list(index.items) == [fit_name(k) for k in range(50)]
    for k in (0, 17, 49):
        row = index.row(fit_name(k), [*PICTURE_COLUMNS, "residual_body_px"])
        assert row["fit_id"] == fit_name(k)
        assert row["body_pose"].shape == (21, 3) and row["keypoints_2d"].shape == (145, 3)
        item = index.items[fit_name(k)]
        assert row["residual_body_px"] == pytest.approx(item.residual_px[PARTS.index("body")])
    with pytest.raises(KeyError):
        index.row("nothing", ["fit_id"])


def test_errors_by_part_say_what_is_not_seen(tmp_path):
    make_store(tmp_path, 1, pictures=False)
    item = ItemIndex(FitStore(tmp_path / "fits")).items[fit_name(0)]
    from dataclasses import replace

    changed = replace(
        item, residual_px=(4.0, math.nan, 2.0, 1.0), person_height_px=200.0,
        seen=frozenset({"right_hand"}),
    )  # fmt: skip
    errors = {e["part"]: e for e in changed.errors()}
    assert errors["body"] == {"part": "body", "px": 4.0, "pct": 2.0, "seen": True}
    assert errors["left_hand"]["px"] is None and not errors["left_hand"]["seen"]
    assert errors["right_hand"]["seen"] and not errors["face"]["seen"]


def test_a_store_without_fits_is_one_sentence(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "python -m fitting.run" in capsys.readouterr().err


def test_accounts_from_the_command_line(tmp_path, capsys):
    make_store(tmp_path, 3, pictures=False)
    assert main([str(tmp_path), "--add-user", "anna:owner"]) == 0
    said = capsys.readouterr().out
    password = said.split("password ")[1].split()[0]
    review = Review.open(tmp_path, load_body=no_body, workers=0)
    assert review.accounts.log_in("anna", password).person.must_change
    assert main([str(tmp_path), "--add-user", "anna"]) == 2
    assert main([str(tmp_path), "--reset-password", "nobody"]) == 2
    assert main([str(tmp_path), "--reset-password", "anna"]) == 0
    review.close()


def test_nothing_of_the_votes_but_for_those_who_settle(tmp_path):
    make_store(tmp_path, 1, pictures=False)
    review = Review.open(tmp_path, load_body=no_body, workers=0)
    queue = review.queue
    queue.set_overlap(2, 2)
    people = {}
    for name, verdict, role in (("anna", "accept", "annotator"), ("bert", "reject", "annotator"),
                                ("adele", "reject", "adjudicator")):  # fmt: skip
        people[name] = review.accounts.add(name, "password", role)
        [lease] = queue.take(name, adjudicates=role == "adjudicator")
        shown = review.describe(lease, people[name])
        assert ("votes" in shown) == (role == "adjudicator")
        # Somebody whose role was taken from them meanwhile sees nothing either.
        assert "votes" not in review.describe(lease, people["anna"])
        queue.decide(lease.lease_id, name, Judgement(new_id(), verdict))
    assert [v["annotator"] for v in shown["votes"]] == ["anna", "bert"]
    review.close()


def test_numbers_of_a_review(tmp_path):
    store = DecisionStore(tmp_path / "d.sqlite")
    queue = ReviewQueue(store)
    queue.add_items((fit_name(k), "run-1", ("a", "b")[k % 2]) for k in range(100))
    from curation.accounts import Accounts

    for name in ("anna", "bert"):
        Accounts(store).add(name, "password", "annotator")
    GoldItems(store).add([GoldItem(fit_name(90 + k), "accept") for k in range(4)])
    for k in range(40):
        verdict = "accept" if k < 30 else "reject"
        audit = k % 2 == 0
        for name in ("anna", "bert"):
            store.append(
                Decision(
                    fit_name(k), name, verdict, seconds=2.0 if k else 4000.0,
                    reasons=("limb_off",) if verdict == "reject" else (),
                    source="audit" if audit else "queue", probability=0.1 if audit else math.nan,
                )
            )  # fmt: skip
    for k in range(4):
        store.append(Decision(fit_name(90 + k), "anna", "accept" if k else "reject", source="gold"))
    numbers = review_numbers(store)
    assert numbers.decided == 84
    assert numbers.acceptance.value == pytest.approx(0.75)
    assert numbers.acceptance.low < 0.75 < numbers.acceptance.high
    # Even numbers are of set a; the audit has no item of set b.
    assert numbers.acceptance_by_dataset["a"].value == pytest.approx(0.75)
    assert math.isnan(numbers.acceptance_by_dataset["b"].value)
    assert numbers.reasons == [("limb_off", 20)]
    assert numbers.agreement.raw.value == 1.0 and numbers.agreement.items_twice == 40
    anna, bert = numbers.people
    assert (anna.decided, anna.gold, anna.gold_right.value) == (40, 4, 0.75)
    assert anna.median_seconds == 2.0, "an hour is a break, not a look"
    assert bert.gold == 0 and math.isnan(bert.gold_right.value)
    assert annotators_csv(numbers.people).splitlines()[2].startswith('"bert","annotator",40')
    store.close()


def test_an_empty_review_has_numbers_too(tmp_path):
    store = DecisionStore(tmp_path / "d.sqlite")
    numbers = review_numbers(store)
    assert numbers.items == numbers.done == 0 and numbers.agreement is None
    assert math.isnan(numbers.median_seconds)
    store.close()


@pytest.mark.slow
def test_the_queue_learns_from_decisions(tmp_path):
    make_store(tmp_path, 400, pictures=False)
    review = Review.open(tmp_path, load_body=no_body, workers=0)
    leases = review.queue.take("anna", 1)
    for _ in range(100):
        good = review.index.items[leases[0].fit_id].residual_px[0] < 4
        said = Judgement(new_id(), "accept" if good else "reject")
        _, leases = review.queue.decide(leases[0].lease_id, "anna", said, take=1)
    retrainer = Retrainer(review, 100)
    assert retrainer.look()
    assert not retrainer.look(), "nothing new was decided"
    with review.decisions.database.read() as raw:
        priorities = np.array(raw.scalars(sa.select(db.item.c.priority)).all())
    assert len(np.unique(priorities)) > 100
    review.close()
