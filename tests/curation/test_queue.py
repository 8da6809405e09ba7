"""Who is shown what: order, overlap, leases, gold, audit, undo; on both databases."""

import collections
import math
import random
import threading

import pytest
import sqlalchemy as sa

from curation import database as db
from curation.decisions import Decision, DecisionError, DecisionStore
from curation.gold import GoldItem, GoldItems
from curation.queue import ReviewQueue
from curation.queue_records import Judgement, LeaseError, QueueSettings, gold_due


def items(count):
    return [(f"{k:032x}", "run-1", "made") for k in range(count)]


def judgement(verdict="accept", **changes):
    return Judgement(db.new_id(), verdict, **changes)


@pytest.fixture
def make_queue(database_url):
    stores = []

    def make(count=40, **settings):
        store = DecisionStore(database_url)
        stores.append(store)
        queue = ReviewQueue(store, QueueSettings(**settings))
        queue.add_items(items(count))
        return queue

    yield make
    for store in stores:
        store.close()


def work(queue, name, count, verdict="accept", **how):
    """Judge so many items; return what was judged."""
    done = []
    for _ in range(count):
        leases = queue.take(name, 1, **how)
        if not leases:
            break
        decision, _ = queue.decide(leases[0].lease_id, name, judgement(verdict))
        done.append(decision)
    return done


def test_a_reload_shows_the_same_items(make_queue):
    queue = make_queue()
    first = [lease.lease_id for lease in queue.take("anna")]
    assert len(first) == 3
    assert [lease.lease_id for lease in queue.take("anna")] == first


def test_one_vote_is_enough_where_one_is_needed(make_queue):
    queue = make_queue(30, overlap=1, audit_overlap=1)
    done = work(queue, "anna", 99)
    assert len({d.fit_id for d in done}) == len(done) == 30
    assert queue.counts() == {"done": 30}
    assert queue.take("bert") == []


def test_nobody_gets_an_item_that_others_hold_already(make_queue):
    queue = make_queue(12, overlap=1, audit_overlap=1)
    held = [lease.fit_id for name in "abcd" for lease in queue.take(name, 3)]
    assert len(set(held)) == 12
    assert queue.take("late", 3) == []


def test_overlap_asks_so_many_different_people(make_queue):
    queue = make_queue(20, overlap=3, audit_overlap=3)
    for name in ("anna", "bert", "carl", "dora"):
        work(queue, name, 99)
    votes = collections.Counter(d.fit_id for d in queue.store.current())
    assert set(votes.values()) == {3}
    assert len(votes) == 20


def test_what_others_began_comes_first(make_queue):
    queue = make_queue(200, overlap=2, audit_overlap=2)
    begun = {d.fit_id for d in work(queue, "anna", 5)}
    queue.set_priorities({f"{k:032x}": 1.0 for k in range(200)})
    lanes = [queue.take("bert", 8)[k] for k in range(8)]
    assert begun <= {lease.fit_id for lease in lanes}


def test_the_most_useful_comes_next(make_queue):
    queue = make_queue(300)
    order = random.Random(1).sample(range(300), 300)
    queue.set_priorities({f"{k:032x}": order[k] / 300 for k in range(300)})
    served = [lease for lease in queue.take("anna", 60) if lease.lane == "queue"]
    ranks = [order[int(lease.fit_id, 16)] for lease in served]
    assert ranks == sorted(ranks, reverse=True)
    with pytest.raises(ValueError, match="finite"):
        queue.set_priorities({items(1)[0][0]: math.nan})


def test_the_audit_is_a_tenth_and_uniform_whatever_the_priorities(make_queue, monkeypatch):
    """What was judged of the audit is in the order of a hash that priorities do not enter."""
    # the same draws every time: one in some thousand databases is beyond four deviations
    monkeypatch.setattr(db.Database, "seed", lambda self: "drawn once")
    queue = make_queue(2000)
    queue.set_priorities({f"{k:032x}": k / 2000 for k in range(2000)})
    leases = queue.take("anna", 400)
    audit = [lease for lease in leases if lease.lane == "audit"]
    assert 20 <= len(audit) <= 64  # 40 expected, six standard deviations are 36... four are 24
    assert all(lease.probability == 0.1 for lease in audit)
    assert all(math.isnan(lease.probability) for lease in leases if lease.lane != "audit")
    with queue.store.database.read() as raw:
        query = sa.select(db.item.c.fit_id).where(db.item.c.audit).order_by(db.item.c.chance)
        order = raw.scalars(query).all()
    assert [lease.fit_id for lease in audit] == order[: len(audit)]
    # Uniform: the middle of 0..1999 is the mean rank, whereas priorities would give the top.
    ranks = [int(lease.fit_id, 16) for lease in audit]
    deviation = 2000 / math.sqrt(12 * len(ranks))
    assert abs(sum(ranks) / len(ranks) - 1000) < 4 * deviation
    assert 150 < len(order) < 250


def test_decisions_of_the_audit_say_so(make_queue):
    queue = make_queue(300)
    done = work(queue, "anna", 120)
    sources = collections.Counter(d.source for d in done)
    assert set(sources) == {"queue", "audit"}
    assert all((d.probability == 0.1) == (d.source == "audit") for d in queue.store.current())


def test_a_repeated_request_counts_once(make_queue):
    queue = make_queue()
    [lease] = queue.take("anna", 1)
    said = judgement()
    first, _ = queue.decide(lease.lease_id, "anna", said)
    again, following = queue.decide(lease.lease_id, "anna", said, take=3)
    assert again.decision_id == first.decision_id
    assert len(queue.store.history()) == 1
    assert len(following) == 3


def test_two_clicks_are_one_decision(make_queue):
    queue = make_queue()
    [lease] = queue.take("anna", 1)
    queue.decide(lease.lease_id, "anna", judgement("accept"))
    with pytest.raises(DecisionError, match="already"):
        queue.decide(lease.lease_id, "anna", judgement("reject"))
    assert [d.verdict for d in queue.store.current()] == ["accept"]


@pytest.mark.parametrize("name", ["bert", "", "Anna"])
def test_anothers_lease_is_refused(make_queue, name):
    queue = make_queue()
    [lease] = queue.take("anna", 1)
    for act in (
        lambda: queue.lease(lease.lease_id, name),
        lambda: queue.decide(lease.lease_id, name, judgement()),
    ):
        with pytest.raises(LeaseError, match="not yours"):
            act()
    with pytest.raises(LeaseError):
        queue.lease("0" * 32, "anna")
    assert queue.store.history() == []


def test_what_is_left_lying_goes_to_others_and_still_counts(make_queue):
    queue = make_queue(3, overlap=1, audit_overlap=1, lease_seconds=-1)
    lost = queue.take("anna", 3)
    taken = queue.take("bert", 3)
    assert {lease.fit_id for lease in taken} == {lease.fit_id for lease in lost}
    queue.decide(taken[0].lease_id, "bert", judgement())
    late = next(lease for lease in lost if lease.fit_id == taken[0].fit_id)
    queue.decide(late.lease_id, "anna", judgement("reject"))
    assert len(queue.store.current()) == 2


def test_own_leases_do_not_expire_while_nobody_needs_them(make_queue):
    queue = make_queue(3, lease_seconds=-1)
    first = queue.take("anna")
    assert [lease.lease_id for lease in queue.take("anna")] == [lease.lease_id for lease in first]


def test_undo_brings_the_item_back_first(make_queue):
    queue = make_queue()
    [one] = queue.take("anna", 1)
    decision, following = queue.decide(one.lease_id, "anna", judgement("accept"), take=3)
    lease = queue.withdraw("anna", decision.decision_id)
    assert lease.fit_id == one.fit_id and lease.state == "open"
    assert queue.store.current() == []
    assert queue.take("anna")[0].fit_id == one.fit_id
    again, _ = queue.decide(lease.lease_id, "anna", judgement("reject", reasons=("limb_off",)))
    assert [d.verdict for d in queue.store.history()] == ["accept", "withdrawn", "reject"]
    assert queue.store.current() == [again] or queue.store.current()[0].reasons == ("limb_off",)
    assert {lease.fit_id for lease in following} <= {f for f, _, _ in items(40)}


def test_undo_is_for_ones_own_and_can_be_repeated(make_queue):
    queue = make_queue()
    [decision] = work(queue, "anna", 1)
    with pytest.raises(DecisionError, match="no such decision of yours"):
        queue.withdraw("bert", decision.decision_id)
    new_id = db.new_id()
    queue.withdraw("anna", decision.decision_id, new_id)
    queue.withdraw("anna", decision.decision_id, new_id)
    assert len(queue.store.history()) == 2
    with pytest.raises(DecisionError, match="superseded already"):
        queue.withdraw("anna", decision.decision_id)


def test_second_thoughts_from_the_history(make_queue):
    queue = make_queue()
    [decision] = work(queue, "anna", 1, "accept")
    [(row, lease_id)] = queue.own_history("anna")
    assert row.decision_id == decision.decision_id
    queue.decide(lease_id, "anna", judgement("unsure"), revises=row.decision_id)
    assert [d.verdict for d in queue.store.current()] == ["unsure"]
    assert queue.own_history("bert") == []


def test_disagreement_goes_to_adjudicators_who_have_not_voted(make_queue):
    queue = make_queue(1, overlap=2, audit_overlap=2)
    work(queue, "anna", 1, "accept")
    work(queue, "bert", 1, "reject")
    assert queue.counts() == {"disagree": 1}
    assert queue.take("carl") == []
    assert queue.take("anna", adjudicates=True) == []
    [lease] = queue.take("olga", adjudicates=True, only_disagreements=True)
    assert lease.lane == "adjudication"
    assert queue.take("otto", adjudicates=True) == []
    decision, _ = queue.decide(lease.lease_id, "olga", judgement("reject"))
    assert decision.source == "adjudication"
    assert queue.counts() == {"done": 1}
    queue.withdraw("olga", decision.decision_id)
    assert queue.counts() == {"disagree": 1}


@pytest.mark.parametrize(
    ("votes", "stage"),
    [
        (("accept", "accept"), "done"),
        (("reject", "reject"), "done"),
        (("accept", "reject"), "disagree"),
        (("accept", "unsure"), "disagree"),
        (("unsure", "unsure"), "disagree"),
        (("accept",), "half"),
    ],
)
def test_stages(make_queue, votes, stage):
    queue = make_queue(1, overlap=2, audit_overlap=2)
    for name, verdict in zip(("anna", "bert"), votes, strict=False):
        work(queue, name, 1, verdict)
    assert queue.counts() == {stage: 1}


def test_more_votes_can_be_asked_for_later(make_queue):
    queue = make_queue(5, overlap=1, audit_overlap=1)
    work(queue, "anna", 9)
    assert queue.counts() == {"done": 5}
    queue.set_overlap(2, 2)
    assert queue.counts() == {"half": 5}
    assert len(work(queue, "bert", 9)) == 5
    assert queue.counts() == {"done": 5}


def test_gold_is_mixed_in_and_never_counts_as_a_vote(make_queue):
    queue = make_queue(300, overlap=1, audit_overlap=1)
    golds = [GoldItem(f"{k:032x}", "accept", created_by="olga") for k in range(12)]
    GoldItems(queue.store).add(golds)
    done = work(queue, "anna", 100)
    judged = [d for d in done if d.source == "gold"]
    assert 6 <= len(judged) <= gold_due(100)
    assert {d.fit_id for d in judged} <= {g.fit_id for g in golds}
    assert len({d.fit_id for d in done}) == len(done)
    assert not {d.fit_id for d in done if d.source != "gold"} & {g.fit_id for g in golds}
    assert queue.counts()["off"] == 12
    # Who made them knows the answers.
    assert not [d for d in work(queue, "olga", 60) if d.source == "gold"]


def test_a_gold_item_can_become_an_ordinary_one_again(make_queue):
    queue = make_queue(10, overlap=1, audit_overlap=1)
    gold = GoldItems(queue.store)
    gold.add([GoldItem(items(1)[0][0], "reject", ("limb_off",), created_by="olga")])
    assert gold.all()[0].reasons == ("limb_off",)
    gold.remove(items(1)[0][0])
    assert queue.counts() == {"fresh": 10}
    with pytest.raises(DecisionError):
        gold.add([GoldItem("x", "unsure")])


def test_the_tutorial_keeps_first_answers(make_queue):
    queue = make_queue()
    gold = GoldItems(queue.store)
    gold.add(GoldItem(f, "reject", in_tutorial=True) for f, _, _ in items(12))
    assert len(gold.tutorial()) == 10
    first = gold.tutorial()[0]
    assert gold.practise("anna", first, "accept") is False
    assert gold.practise("anna", first, "reject") is True
    assert gold.practised("anna") == {first.fit_id: False}
    for item, verdict in ((GoldItem("nothing", "accept"), "accept"), (first, "perhaps")):
        with pytest.raises(DecisionError):
            gold.practise("anna", item, verdict)
    assert queue.store.history() == []


def test_a_tutorial_can_be_made_of_what_people_agreed_on(make_queue):
    queue = make_queue(1)
    verdicts = {0: "aa", 1: "rr", 2: "ar", 3: "a", 4: "uu", 5: "rr", 6: "aa", 7: "aa"}
    names = {"a": "accept", "r": "reject", "u": "unsure"}
    for k, letters in verdicts.items():
        for name, letter in zip(("anna", "bert"), letters, strict=False):
            why = ("limb_off",) if k == 5 else ()
            queue.store.append(Decision(f"{k:032x}", name, names[letter], reasons=why))
    gold = GoldItems(queue.store)
    found = gold.propose_tutorial("olga")
    assert [(int(g.fit_id, 16), g.verdict) for g in found] == [
        (5, "reject"), (0, "accept"), (1, "reject"), (6, "accept"), (7, "accept"),
    ]  # fmt: skip
    assert found[0].reasons == ("limb_off",)
    gold.add(found)
    assert len(gold.tutorial()) == 5 and gold.propose_tutorial("olga") == []


def test_gold_falls_off(make_queue):
    due = [gold_due(n) for n in (1, 10, 100, 1000)]
    assert due == [1, 3, 10, 31]


def test_what_a_rule_decided_leaves_the_queue_but_not_the_audit(make_queue):
    queue = make_queue(200)
    with queue.store.database.read() as raw:
        audit = set(raw.scalars(sa.select(db.item.c.fit_id).where(db.item.c.audit)))
    queue.store.append_all(
        [Decision(f, "rule:good", "accept", source="rule") for f, _, _ in items(200)]
    )
    assert queue.heed() == 200 - len(audit)
    assert queue.counts() == {"off": 200 - len(audit), "fresh": len(audit)}
    assert {lease.fit_id for lease in queue.take("anna", 300)} == audit


def test_new_fits_join_and_old_ones_stay(make_queue):
    queue = make_queue(10)
    work(queue, "anna", 4)
    assert queue.add_items(items(15)) == 5
    assert sum(queue.counts().values()) == 15
    assert queue.add_items(items(15)) == 0


def test_settings_that_make_no_sense():
    for wrong in ({"overlap": 0}, {"audit_rate": 0.0}, {"audit_rate": 1.0}):
        with pytest.raises(ValueError):
            QueueSettings(**wrong)


def test_sixteen_at_once_lose_nothing_and_double_nothing(make_queue):
    queue = make_queue(60, overlap=2, audit_overlap=2)
    served: dict[str, list[str]] = collections.defaultdict(list)
    problems = []

    def judge(name):
        rng = random.Random(name)
        try:
            leases = queue.take(name)
            while leases:
                served[name].append(leases[0].fit_id)
                said = judgement(rng.choice(("accept", "reject")))
                _, leases = queue.decide(leases[0].lease_id, name, said, take=2)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=judge, args=(f"p{k}",)) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    # With prefetched leases a few may wait in other hands at the end; take them up once more.
    for k in range(16):
        work(queue, f"p{k}", 99)
    votes = collections.Counter(d.fit_id for d in queue.store.current())
    assert len(votes) == 60 and set(votes.values()) == {2}
    assert all(len(set(fits)) == len(fits) for fits in served.values())
