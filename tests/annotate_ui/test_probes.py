"""What nobody may do: each is refused, and the log says who tried."""

import json
import re

import httpx
import pytest

from curation.database import new_id


def kinds(site):
    return {event["kind"] for event in site.decisions.events(limit=5000)}


@pytest.fixture(scope="module")
def anna(site):
    with site.server.client("anna") as client:
        yield client


@pytest.fixture(scope="module")
def bert(site):
    with site.server.client("bert") as client:
        yield client


def lease_of(client):
    return client.post("/api/next", json={}).json()["items"][0]["lease"]


def decision(lease, **changes):
    return {
        "lease": lease,
        "decision_id": new_id(),
        "verdict": "accept",
        "parts": ["body"],
    } | changes


PAGES = [
    ("GET", "/api/me"), ("POST", "/api/next"), ("POST", "/api/decide"), ("GET", "/api/history"),
    ("GET", f"/api/file/{'0' * 32}/front.jpg"), ("GET", "/judge/"), ("GET", "/judge/config"),
    ("GET", "/judge/gradio_api/info"), ("GET", "/judge/gradio_api/file=/etc/passwd"),
    ("POST", "/judge/gradio_api/queue/join"), ("GET", "/owner/"), ("GET", "/owner/config"),
    ("POST", "/judge/gradio_api/upload"), ("GET", "/docs"), ("GET", "/openapi.json"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), PAGES)
def test_without_a_session_there_is_nothing(site, method, path):
    answer = httpx.request(method, f"{site.url}{path}", json={} if method == "POST" else None)
    assert answer.status_code in (401, 404), answer.text
    html = httpx.get(f"{site.url}/judge/", headers={"accept": "text/html"})
    assert html.status_code == 303 and html.headers["location"] == "/login"


TRAVERSALS = [
    "/judge/gradio_api/file=/etc/passwd",
    "/judge/gradio_api/file={db}",
    "/judge/gradio_api/file=../../../../etc/passwd",
    "/judge/gradio_api/file=..%2f..%2f..%2fetc%2fpasswd",
    "/judge/gradio_api/file=%2e%2e/%2e%2e/etc/passwd",
    "/judge/gradio_api/file/etc/passwd",
    "/judge/file=/etc/passwd",
    "/judge/gradio_api/file={overlay}",
    "/judge/gradio_api/file=http://127.0.0.1:1/x",
    "/judge/gradio_api/file=/tmp/{other}.glb",
    "/judge/gradio_api/proxy=http://127.0.0.1:1/x",
    "/judge/gradio_api/upload",
    "/api/file/{own}/..%2f..%2f..%2fdecisions.sqlite",
    "/api/file/{own}/%2e%2e%2f%2e%2e%2fdecisions.sqlite",
    "/api/file/{own}/../../decisions.sqlite",
    "/api/file/{own}/front.jpg%00.png",
    "/api/file/{own}/..\\..\\decisions.sqlite",
    "/api/file/{own}/originals",
    "/api/file/tutorial-99/front.jpg",
    "/api/file/tutorial--1/front.jpg",
    "/static/../__main__.py",
    "/static/..%2f__main__.py",
    "/static/guidelines.md",
    "/static/%2fetc%2fpasswd",
]


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leads_to_another_file(site, anna, bert, path):
    from tests.review_store import RUN, fit_name

    names = {
        "db": f"{site.root}/decisions.sqlite",
        "overlay": f"{site.root}/fits/overlays/{RUN}/{fit_name(0)}.front.jpg",
        "own": lease_of(anna),
        "other": lease_of(bert),
    }
    # As bytes on the wire: a client would tidy the dots away.
    raw = path.format(**names).encode()
    request = anna.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=raw)
    answer = anna.send(request)
    assert answer.status_code in (400, 403, 404, 405), (answer.status_code, answer.text[:200])
    assert b"root:" not in answer.content and b"SQLite format" not in answer.content
    if "gradio_api/file" in path or "..%2f" in path:
        assert kinds(site) & {"file_refused", "path_refused"}


def test_anothers_item_is_refused_and_logged(site, anna, bert):
    other = lease_of(bert)
    for answer in (
        anna.get(f"/api/item/{other}"),
        anna.get(f"/api/file/{other}/front.jpg"),
        anna.get(f"/api/file/{other}/mesh.glb"),
        anna.post("/api/decide", json=decision(other)),
    ):
        assert answer.status_code == 403, answer.text
    assert bert.get(f"/api/file/{other}/front.jpg").status_code == 200
    assert any(e["who"] == "anna" for e in site.decisions.events("lease_refused"))
    assert not site.decisions.history(annotator="anna")


def test_anothers_decision_cannot_be_taken_back_or_read(site, anna, bert):
    said = decision(lease_of(bert), comment="between us")
    assert bert.post("/api/decide", json=said).status_code == 200
    answer = anna.post("/api/undo", json={"decision_id": said["decision_id"], "new_id": new_id()})
    assert answer.status_code == 409
    history = anna.get("/api/history").text
    assert "between us" not in history and "bert" not in history
    assert [d.verdict for d in site.decisions.history(annotator="bert")] == ["accept"]


@pytest.mark.parametrize("name", ["annotator", "name", "user"])
def test_a_forged_name_is_refused_and_logged(site, anna, name):
    answer = anna.post("/api/decide", json=decision(lease_of(anna)) | {name: "bert"})
    assert answer.status_code == 422
    assert "bert" not in [d.annotator for d in site.decisions.history(annotator="anna")]
    assert any(e["who"] == "anna" for e in site.decisions.events("forged_name"))


def test_headers_name_nobody(site, anna):
    forged = {"x-forwarded-user": "olga", "remote-user": "olga", "x-user": "olga",
              "authorization": "Basic b2xnYTpwYXNzd29yZC1vbGdh"}  # fmt: skip
    assert anna.get("/api/me", headers=forged).json()["name"] == "anna"
    bare = httpx.get(f"{site.url}/api/me", headers=forged)
    assert bare.status_code == 401
    wrong = {"cookie": "pseudogt_session=" + "A" * 43}
    assert httpx.get(f"{site.url}/api/me", headers=wrong).status_code == 401


def test_an_expired_session_is_refused_and_logged(site):
    import sqlalchemy as sa

    from curation import database as db

    with site.server.client("carl") as client:
        assert client.get("/api/me").status_code == 200
        with site.decisions.database.write() as raw:
            where = db.session.c.name == "carl"
            raw.execute(sa.update(db.session).where(where).values(expires_at=1.0))
        assert client.get("/api/me").status_code == 401
        assert client.post("/api/next", json={}).status_code == 401
    assert any(e["who"] == "carl" for e in site.decisions.events("session_expired"))


@pytest.mark.parametrize("path", ["/owner/", "/owner/config", "/owner/gradio_api/info",
                                  "/owner/gradio_api/queue/join"])  # fmt: skip
@pytest.mark.parametrize("name", ["anna", "adele"])
def test_the_owners_page_is_the_owners(site, path, name):
    with site.server.client(name) as client:
        method = "POST" if "join" in path else "GET"
        answer = client.request(method, path, json={"fn_index": 0, "data": [], "session_hash": "x"})
        assert answer.status_code == 403
    assert any(e["who"] == name for e in site.decisions.events("page_refused"))


def test_the_peoples_numbers_are_the_owners(site, anna):
    assert anna.get("/api/annotators.csv").status_code == 403
    with site.server.client("olga") as client:
        lines = client.get("/api/annotators.csv").text.splitlines()
    assert lines[0].startswith('"name","role","decided"')
    assert any(line.startswith('"anna","annotator"') for line in lines)


def test_only_adjudicators_see_votes_and_disagreements(site, anna):
    answer = anna.post("/api/next", json={"mode": "adjudicate"}).json()
    assert all("votes" not in item and not item["settles"] for item in answer["items"])
    assert anna.post("/api/gold", json={"lease": lease_of(anna)}).status_code == 403


def test_nothing_tells_a_gold_item_from_another(site):
    from curation.gold import GoldItem, GoldItems
    from tests.review_store import fit_name

    GoldItems(site.decisions).add(
        GoldItem(fit_name(300 + k), "accept", created_by="olga") for k in range(30)
    )
    with site.server.client("dora") as client:
        shown = []
        for _ in range(40):
            items = client.post("/api/next", json={}).json()["items"]
            shown += items
            client.post("/api/decide", json=decision(items[0]["lease"]))
    golds = {d.fit_id for d in site.decisions.current() if d.source == "gold"}
    assert golds, "none was served, so nothing is shown"
    text = json.dumps(shown)
    assert "gold" not in text
    keys = {tuple(sorted(item)) for item in shown}
    assert len(keys) == 1
    assert not any(fit in text for fit in golds), "the fit's id would give it away"


@pytest.mark.parametrize(
    "comment",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "</textarea><svg onload=x>",
        "javascript:alert(1)",
    ],
)
def test_a_script_in_a_comment_is_refused_and_logged(site, anna, comment):
    answer = anna.post("/api/decide", json=decision(lease_of(anna), comment=comment))
    assert answer.status_code == 422
    assert any(e["who"] == "anna" for e in site.decisions.events("script_refused"))


def test_a_script_in_a_name_is_shown_as_text(site):
    name = '"><script>alert(1)</script>'
    answer = httpx.post(f"{site.url}/login", data={"name": name, "password": "x" * 9})
    assert answer.status_code == 401
    assert "<script>" not in answer.text and "&lt;script&gt;" in answer.text
    assert "script-src" in answer.headers["content-security-policy"] or (
        "default-src 'none'" in answer.headers["content-security-policy"]
    )
    assert any("script" in e["who"] for e in site.decisions.events("login_failed"))


def test_a_huge_body_is_refused_and_logged(site, anna):
    big = "x" * (1 << 20)
    assert anna.post("/api/decide", json=decision(lease_of(anna), comment=big)).status_code == 413

    def chunks():  # without a length
        for _ in range(64):
            yield b"x" * 65536

    answer = anna.post("/api/decide", content=chunks())
    assert answer.status_code == 413
    assert httpx.post(f"{site.url}/login", data={"name": big, "password": big}).status_code == 413
    assert site.decisions.events("huge_body")
    assert anna.get("/api/me").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"verdict": "maybe"},
        {"decision_id": "x"},
        {"decision_id": "' OR 1=1 --" * 3},
        {"reasons": ["nonsense"]},
        {"parts": ["tail"]},
        {"parts": "body"},
        {"seconds": -1},
        {"seconds": 1e99},
        {"comment": "x" * 3000},
        {"comment": "a\0b"},
        {"lease": "../../x"},
        {"verdict": {"$ne": ""}},
    ],
    ids=str,
)
def test_nonsense_is_an_answer_not_an_error(site, anna, body):
    before = len(site.decisions.history())
    said = decision(lease_of(anna)) | body if body else {}
    answer = anna.post("/api/decide", json=said)
    assert answer.status_code in (403, 409, 422), answer.text
    assert "error" in answer.json()
    assert len(site.decisions.history()) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe"])
def test_what_is_not_json(anna, content):
    assert anna.post("/api/decide", content=content).status_code == 422


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}],
    ids=str,
)
def test_requests_from_other_sites_are_refused(site, anna, headers):
    said = decision(lease_of(anna))
    assert anna.post("/api/decide", json=said, headers=headers).status_code == 403
    assert anna.post("/password", data={"new": "x"}, headers=headers).status_code == 403
    assert site.decisions.events("cross_site")


def test_the_cookie_is_for_the_server_only(site):
    answer = httpx.post(f"{site.url}/login", data={"name": "anna", "password": "password-anna"})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and "path=/" in cookie
    secure = httpx.post(f"{site.url}/login", data={"name": "anna", "password": "password-anna"},
                        headers={"x-forwarded-proto": "https"})  # fmt: skip
    assert "secure" in secure.headers["set-cookie"].lower()


def test_pages_cannot_be_framed_or_sniffed(anna):
    for path in ("/judge/", "/login", "/api/me"):
        headers = anna.get(path).headers
        assert headers["x-frame-options"] in ("SAMEORIGIN", "DENY")
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors" in headers["content-security-policy"]


def test_the_page_names_no_path_of_the_server(site, anna):
    config = anna.get("/judge/config").text
    assert str(site.root) not in config
    assert not re.search(r'"(password|token)"', config)


def test_a_first_password_has_to_be_changed(site):
    site.accounts.add("newbie", "first-password", "annotator", must_change=True)
    with site.server.client("newbie", "first-password") as client:
        assert client.get("/api/me").status_code == 403
        page = client.get("/judge/", headers={"accept": "text/html"})
        assert page.status_code == 303 and page.headers["location"] == "/password"
        form = {"old": "first-password", "new": "second-password", "again": "second-password"}
        assert client.post("/password", data=form | {"old": "wrong-one"}).status_code == 400
        assert client.post("/password", data=form | {"again": "other"}).status_code == 400
        assert client.post("/password", data=form).status_code == 303
        assert client.get("/api/me").json()["name"] == "newbie"


def test_a_thousand_wrong_passwords(site):
    """The last of the module: afterwards this address has to wait."""
    counts = {}
    with httpx.Client() as client:
        for k in range(1000):
            form = {"name": "olga", "password": f"password-{k}"}
            status = client.post(f"{site.url}/login", data=form).status_code
            counts[status] = counts.get(status, 0) + 1
    assert set(counts) == {401, 429}
    assert counts[401] <= 5
    assert len(site.decisions.events("login_failed", 2000)) >= 5
    assert len(site.decisions.events("login_blocked", 2000)) >= 990
    right = {"name": "olga", "password": "password-olga"}
    assert httpx.post(f"{site.url}/login", data=right).status_code == 429
