import shutil
from types import SimpleNamespace

import pytest

from curation.accounts import Accounts
from curation.decisions import DecisionStore
from tests.review_server import Server
from tests.review_store import make_store


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A server in a process of its own over 400 made fits, and its decisions."""
    root = tmp_path_factory.mktemp("review")
    make_store(root, 400)
    url = f"sqlite:///{root}/decisions.sqlite"
    decisions = DecisionStore(url)
    accounts = Accounts(decisions)
    for name, role in (
        ("anna", "annotator"), ("bert", "annotator"), ("carl", "annotator"), ("dora", "annotator"),
        ("adele", "adjudicator"), ("olga", "owner"),
    ):  # fmt: skip
        accounts.add(name, f"password-{name}", role)
        accounts.finish_tutorial(name)
    with Server(root, url) as server:
        yield SimpleNamespace(
            server=server, url=server.url, decisions=decisions, accounts=accounts, root=root
        )
    decisions.close()


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as tool:
        chromium = tool.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Open a page as somebody: ``open_page(site, "anna", width=390)``; errors of scripts fail."""
    contexts, problems = [], []

    def log_in(site, name, *, width=1360, height=850, scheme="light", shown=True, **options):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{site.url}/login")
        page.fill("input[name=name]", name)
        page.fill("input[name=password]", f"password-{name}")
        page.click("button")
        if shown:
            page.wait_for_function("window.FitReview && FitReview.shownAt", timeout=30000)
        return page

    yield log_in
    for context in contexts:
        context.close()
    assert not problems
