import time

import pytest
import sqlalchemy as sa

from curation import accounts as module
from curation import database as db
from curation.accounts import AccountError, Accounts, LoginRefused, hash_password, verify_password
from curation.decisions import DecisionStore


@pytest.fixture
def accounts(tmp_path, monkeypatch):
    monkeypatch.setitem(module._SCRYPT, "n", 2**8)  # quick; the stored cost is what verifies
    store = DecisionStore(tmp_path / "d.sqlite")
    yield Accounts(store)
    store.close()


def test_passwords_are_hashed_with_salt():
    stored = hash_password("correct horse")
    assert "correct" not in stored and stored != hash_password("correct horse")
    assert verify_password("correct horse", stored)
    assert not verify_password("correct Horse", stored)
    kind, n, r, _, _, _ = stored.split("$")
    assert kind == "scrypt" and int(n) * int(r) * 128 >= 16 * 2**20  # bytes of memory a guess


def test_logging_in_and_out(accounts):
    accounts.add("anna", "password-anna", "annotator")
    session = accounts.log_in("anna", "password-anna", "10.0.0.1")
    assert accounts.session(session.token).person.name == "anna"
    accounts.log_out(session.token)
    assert accounts.session(session.token) is None
    for token in ("", "x" * 500, "nonsense", "\udc80"):
        assert accounts.session(token) is None


def test_the_database_knows_no_token_and_no_password(accounts, tmp_path):
    accounts.add("anna", "password-anna", "annotator")
    session = accounts.log_in("anna", "password-anna")
    data = b"".join(path.read_bytes() for path in tmp_path.glob("d.sqlite*"))
    assert b"password-anna" not in data and session.token.encode() not in data


@pytest.mark.parametrize(
    ("name", "password", "role", "problem"),
    [
        ("<script>alert(1)</script>", "password", "annotator", "letters, digits"),
        ("", "password", "annotator", "letters, digits"),
        ("a" * 41, "password", "annotator", "letters, digits"),
        ("rule:x", "password", "annotator", "letters, digits"),
        ("../x", "password", "annotator", "letters, digits"),
        ("ann", "short", "annotator", "8 to 200"),
        ("ann", "x" * 201, "annotator", "8 to 200"),
        ("ann", "password", "root", "a role is"),
        ("ANNA", "password", "annotator", "already"),
    ],
)
def test_accounts_that_cannot_be(accounts, name, password, role, problem):
    accounts.add("anna", "password-anna", "annotator")
    with pytest.raises(AccountError, match=problem):
        accounts.add(name, password, role)
    assert [p.name for p in accounts.people()] == ["anna"]


def test_guessing_is_slowed_down_and_logged(accounts):
    accounts.add("anna", "password-anna", "annotator")
    answers = []
    for k in range(1000):
        try:
            accounts.log_in("anna", f"guess-{k}", "10.0.0.9")
        except LoginRefused as refusal:
            answers.append(refusal.wait_seconds)
    assert sum(wait == 0 for wait in answers) == 5  # looked at; the others not even that
    assert max(answers) <= 600
    with pytest.raises(LoginRefused, match="Too many"):
        accounts.log_in("anna", "password-anna", "10.0.0.9")
    assert len(accounts._store.events("login_failed")) == 5
    assert len(accounts._store.events("login_blocked")) > 900
    # She herself, from elsewhere, is not locked out.
    assert accounts.log_in("anna", "password-anna", "10.0.0.1").person.name == "anna"


def test_one_address_cannot_try_many_names(accounts):
    with pytest.raises(LoginRefused, match="Too many"):
        for k in range(100):
            try:
                accounts.log_in(f"name{k}", "password", "10.0.0.9")
            except LoginRefused as refusal:
                if refusal.wait_seconds:
                    assert k == 30
                    raise


def test_the_brake_lets_go(accounts, monkeypatch):
    accounts.add("anna", "password-anna", "annotator")
    for _ in range(6):
        with pytest.raises(LoginRefused):
            accounts.log_in("anna", "wrong-password", "10.0.0.9")
    later = time.time() + 601
    monkeypatch.setattr(db, "now", lambda: later)
    assert accounts.log_in("anna", "password-anna", "10.0.0.9")


def test_odd_log_ins_are_refused_not_errors(accounts):
    for name, password in (("\0", "x"), ("\udc80", "\udc80"), ("x" * 10000, "y" * 10000)):
        with pytest.raises(LoginRefused):
            accounts.log_in(name, password, "somewhere")


@pytest.mark.parametrize("seconds", [12 * 3600 + 1, 4 * 3600 + 1])
def test_sessions_end(accounts, monkeypatch, seconds):
    accounts.add("anna", "password-anna", "annotator")
    session = accounts.log_in("anna", "password-anna")
    later = time.time() + seconds
    monkeypatch.setattr(db, "now", lambda: later)
    assert accounts.session(session.token) is None
    assert accounts._store.events("session_expired")


def test_use_keeps_a_session_alive(accounts, monkeypatch):
    accounts.add("anna", "password-anna", "annotator")
    session = accounts.log_in("anna", "password-anna")
    begin = time.time()
    for hour in range(1, 12):
        monkeypatch.setattr(db, "now", lambda hour=hour: begin + 3600 * hour)
        assert accounts.session(session.token), hour


def test_who_is_disabled_is_out_at_once(accounts):
    accounts.add("olga", "password-olga", "owner")
    accounts.add("anna", "password-anna", "annotator")
    session = accounts.log_in("anna", "password-anna")
    accounts.change("anna", "olga", disabled=True)
    assert accounts.session(session.token) is None
    with pytest.raises(LoginRefused, match="wrong"):
        accounts.log_in("anna", "password-anna")


@pytest.mark.parametrize("change", [{"disabled": True}, {"role": "annotator"}])
def test_one_owner_remains(accounts, change):
    accounts.add("olga", "password-olga", "owner")
    with pytest.raises(AccountError, match="one owner"):
        accounts.change("olga", **change)
    assert accounts.person("olga").may("owner") and not accounts.person("olga").disabled


def test_a_new_password_ends_old_sessions(accounts):
    accounts.add("anna", "password-anna", "annotator")
    session = accounts.log_in("anna", "password-anna")
    accounts.change("anna", password="another-password")
    assert accounts.session(session.token) is None
    assert accounts.log_in("anna", "another-password")
    with pytest.raises(AccountError):
        accounts.change("nobody", password="another-password")


def test_roles_include_those_before():
    person = module.Person("anna", "adjudicator")
    assert person.may("annotator") and person.may("adjudicator") and not person.may("owner")


def test_settings_are_small(accounts):
    accounts.add("anna", "password-anna", "annotator")
    assert accounts.settings("anna") == {}
    accounts.save_settings("anna", {"opacity": 0.5})
    assert accounts.settings("anna") == {"opacity": 0.5}
    with pytest.raises(AccountError):
        accounts.save_settings("anna", {"x": "y" * 5000})


def test_time_does_not_tell_who_has_an_account(tmp_path):
    """With the real cost, a wrong name takes as long as a wrong password."""
    accounts = Accounts(DecisionStore(tmp_path / "d.sqlite"), tries_per_name=99)
    accounts.add("anna", "password-anna", "annotator")
    used = {}
    for name in ("anna", "nobody"):
        begin = time.process_time()
        for _ in range(5):
            with pytest.raises(LoginRefused):
                accounts.log_in(name, "wrong-password", name)
        used[name] = time.process_time() - begin
    assert 0.5 < used["anna"] / used["nobody"] < 2


def test_names_are_parameters_not_sql(accounts):
    accounts.add("anna", "password-anna", "annotator")
    with pytest.raises(LoginRefused):
        accounts.log_in("anna' OR '1'='1", "x", "a'); DROP TABLE annotator; --")
    with accounts._database.read() as raw:
        assert raw.scalar(sa.select(sa.func.count()).select_from(db.annotator)) == 1


def test_names_of_any_script(accounts):
    """The same letter written in two ways is one name; letters that look alike do not mix."""
    accounts.add("Jürgen", "password-1234", "annotator")
    assert accounts.log_in("Ju\u0308rgen", "password-1234").person.name == "Jürgen"
    accounts.add("анна", "password-1234", "annotator")
    accounts.add("田中", "password-1234", "annotator")
    for name in (
        "анна".upper(),
        "JÜRGEN",
        "Ju\u0308rgen",
        "\u0430nna",
        "a b",
        "-a",
        "",
        "a" * 41,
        "<b>",
    ):
        with pytest.raises(AccountError):
            accounts.add(name, "password-1234", "annotator")
