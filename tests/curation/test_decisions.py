import datetime as dt
import math
import threading

import pytest
import sqlalchemy as sa

from curation.database import Database, DatabaseError, new_id
from curation.decisions import (
    ALL_PARTS,
    Decision,
    DecisionError,
    DecisionStore,
    decision_schema,
    decisions_table,
    default_url,
)


@pytest.fixture
def store(database_url):
    store = DecisionStore(database_url)
    yield store
    store.close()


def test_a_decision_comes_back_as_it_was(store):
    decision = Decision(
        fit_id="f1",
        annotator="anna",
        verdict="accept",
        parts=ALL_PARTS - {"left_hand"},
        reasons=("hand_off", "other"),
        comment="Fingers, «so so»; 手 \U0001f590",
        seconds=3.25,
        guideline_version="2",
        overlay_version="abc",
        source="audit",
        probability=0.1,
        created_at=dt.datetime(2026, 11, 20, 12, 0, 0, 123456, dt.UTC),
    )
    assert store.append(decision)
    assert store.current() == [decision]
    [row] = store.current_table().to_pylist()
    assert row["left_hand"] is False and row["body"] is True
    assert row["reasons"] == ["hand_off", "other"]
    assert row["created_at"] == decision.created_at
    assert row["probability"] == 0.1


def test_what_is_unknown_is_nan_not_null(store):
    store.append(Decision("f1", "anna", "reject"))
    [decision] = store.current()
    assert math.isnan(decision.seconds) and math.isnan(decision.probability)
    table = store.current_table()
    assert table.schema == decision_schema()
    assert sum(column.null_count for column in table.columns) == 0


def test_a_table_can_be_made_without_a_database(store):
    names = [f"f{i}" for i in range(3)]
    decisions = [Decision(n, "anna", "accept", seconds=1.0, probability=0.1) for n in names]
    store.append_all(decisions)
    assert store.current_table().equals(decisions_table(decisions))
    assert decisions_table([]).schema == decision_schema()


def test_a_repeated_request_appends_nothing(store):
    decision = Decision("f1", "anna", "accept")
    assert [store.append(decision) for _ in range(3)] == [True, False, False]
    assert len(store.history()) == 1


def test_an_id_stands_for_one_decision(store):
    decision = Decision("f1", "anna", "accept")
    store.append(decision)
    with pytest.raises(DecisionError, match="another decision"):
        store.append(Decision("f1", "anna", "reject", decision_id=decision.decision_id))


def test_second_thoughts_supersede(store):
    first = Decision("f1", "anna", "accept")
    second = Decision("f1", "anna", "reject", reasons=("limb_off",), supersedes=first.decision_id)
    other = Decision("f1", "bert", "accept")
    store.append_all([first, other, second])
    assert store.current() == [other, second]
    assert store.history("f1", "anna") == [first, second]


def test_what_is_withdrawn_does_not_count_and_stays_in_the_history(store):
    first = Decision("f1", "anna", "accept")
    undo = Decision("f1", "anna", "withdrawn", supersedes=first.decision_id)
    store.append_all([first, undo])
    assert store.current() == []
    again = Decision("f1", "anna", "unsure", supersedes=undo.decision_id)
    store.append(again)
    assert store.current() == [again]
    assert [d.verdict for d in store.history()] == ["accept", "withdrawn", "unsure"]


@pytest.mark.parametrize("verdict", ["accept", "reject"])
def test_nobody_votes_twice(store, verdict):
    store.append(Decision("f1", "anna", "accept"))
    with pytest.raises(DecisionError, match="decided on this fit already"):
        store.append(Decision("f1", "anna", verdict))


def test_a_decision_is_superseded_once_and_by_its_own_author(store):
    first = Decision("f1", "anna", "accept")
    store.append(first)
    with pytest.raises(DecisionError, match="same person"):
        store.append(Decision("f1", "bert", "reject", supersedes=first.decision_id))
    with pytest.raises(DecisionError, match="same person"):
        store.append(Decision("f2", "anna", "reject", supersedes=first.decision_id))
    store.append(Decision("f1", "anna", "reject", supersedes=first.decision_id))
    with pytest.raises(DecisionError, match="superseded already"):
        store.append(Decision("f1", "anna", "accept", supersedes=first.decision_id))


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "maybe"},
        {"verdict": "withdrawn"},
        {"parts": frozenset({"tail"})},
        {"reasons": ("nonsense",)},
        {"reasons": ("other", "other")},
        {"source": "somewhere"},
        {"comment": "x" * 2001},
        {"comment": "a\0b"},
        {"decision_id": "short"},
        {"annotator": ""},
        {"created_at": dt.datetime(2026, 1, 1)},
    ],
    ids=str,
)
def test_nonsense_is_refused(store, change):
    values = {"fit_id": "f1", "annotator": "anna", "verdict": "accept"} | change
    with pytest.raises(DecisionError):
        store.append(Decision(**values))
    assert store.history() == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE decision SET verdict = 'reject'",
        "DELETE FROM decision",
        "UPDATE event SET who = 'bert'",
        "DELETE FROM event",
    ],
)
def test_the_database_itself_refuses_changes(store, statement):
    decision = Decision("f1", "anna", "accept")
    store.append(decision)
    store.log("something", "anna")
    with pytest.raises(sa.exc.DBAPIError, match="kept for ever"), store.database.write() as raw:
        raw.execute(sa.text(statement))
    assert store.current() == [decision]
    assert [event["who"] for event in store.events()] == ["anna"]


def test_each_databases_own_way_round_is_closed(store):
    decision = Decision("f1", "anna", "accept")
    store.append(decision)
    statement = (
        "REPLACE INTO decision SELECT * FROM decision"
        if store.database.is_sqlite
        else "TRUNCATE decision"
    )
    with pytest.raises(sa.exc.DBAPIError, match="kept for ever"), store.database.write() as raw:
        raw.execute(sa.text(statement))
    assert store.current() == [decision]


def test_all_or_nothing(store):
    with pytest.raises(DecisionError):
        store.append_all([Decision("f1", "anna", "accept"), Decision("f2", "anna", "maybe")])
    assert store.history() == []


def test_two_stores_on_one_database_see_each_other(store, database_url):
    other = DecisionStore(database_url)
    store.append(Decision("f1", "anna", "accept"))
    assert len(other.current()) == 1
    assert other.database.seed() == store.database.seed()
    other.close()


def test_of_many_at_once_one_counts(store):
    """Twenty threads insist on the same fit for the same person: one wins, nobody hangs."""
    taken, refused = [], []

    def insist():
        try:
            taken.append(store.append(Decision("f1", "anna", "accept")))
        except DecisionError:
            refused.append(1)

    threads = [threading.Thread(target=insist) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (1, 19)
    assert len(store.history()) == 1


def test_the_log_takes_any_text(store):
    store.log("login_failed", "<script>\0" + "x" * 200, "10.0.0.1", why="wrong \udc80 password")
    [event] = store.events("login_failed")
    assert event["who"].startswith("<script>?xxx") and len(event["who"]) == 64
    assert event["address"] == "10.0.0.1"
    assert store.events("other") == []


def test_a_newer_database_is_refused(tmp_path):
    database = Database(tmp_path / "d.sqlite")
    with database.write() as connection:
        connection.execute(sa.text("UPDATE meta SET value = '99' WHERE key = 'version'"))
    database.close()
    with pytest.raises(DatabaseError, match="newer version"):
        Database(tmp_path / "d.sqlite")


@pytest.mark.parametrize("url", ["mysql://host/name", "sqlite://", "sqlite:///:memory:"])
def test_urls_that_cannot_work(url):
    with pytest.raises(DatabaseError):
        Database(url)


def test_a_server_that_is_not_there_is_one_sentence(tmp_path):
    pytest.importorskip("psycopg")
    with pytest.raises(DatabaseError, match="cannot be opened") as caught:
        Database(f"postgresql://me:secret@/x?host={tmp_path}")
    assert "secret" not in str(caught.value)


def test_sqlite_survives_a_power_cut(tmp_path):
    store = DecisionStore(default_url(tmp_path))
    assert (tmp_path / "decisions.sqlite").exists()
    with store.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    store.close()


def test_ids_do_not_repeat():
    assert len({new_id() for _ in range(1000)}) == 1000
