"""In another application, and behind a proxy that strips a path."""

import threading
import time
from types import SimpleNamespace

import httpx
import pytest

from annotate_ui.app import mount
from annotate_ui.review import Review
from tests.review_server import free_port
from tests.review_store import make_store, no_body

pytestmark = pytest.mark.slow


def serve(app):
    import uvicorn

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    begin = time.monotonic()
    while not server.started and time.monotonic() - begin < 30:
        time.sleep(0.02)

    def stop():
        server.should_exit = True
        thread.join(20)

    return f"http://127.0.0.1:{port}", stop


class StrippingProxy:
    """Shows an application below a public path, and tells it only the shortened one."""

    def __init__(self, app, prefix):
        self._app, self._prefix = app, prefix
        self.left = set()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            if not scope["path"].startswith(f"{self._prefix}/"):
                self.left.add(scope["path"])
            path = scope["path"][len(self._prefix) :]
            scope = scope | {"path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)


@pytest.fixture(params=["mounted", "proxied"])
def site(request, tmp_path):
    from fastapi import FastAPI

    make_store(tmp_path, 30)
    review = Review.open(tmp_path, load_body=no_body, workers=0)
    review.accounts.add("anna", "password-anna", "owner")
    review.accounts.finish_tutorial("anna")
    app = FastAPI()

    @app.get("/other")
    def other():
        return {"mine": True}

    if request.param == "mounted":
        mount(app, review, path="/annotate")
        server = app
    else:
        mount(app, review, root_path="/annotate")
        server = StrippingProxy(app, "/annotate")
    url, stop = serve(server)
    left = getattr(server, "left", set())
    yield SimpleNamespace(
        url=f"{url}/annotate", review=review, kind=request.param, root=url, left=left
    )
    stop()
    review.close()


@pytest.mark.filterwarnings("ignore")  # uvicorn's and websockets' own, in their thread
def test_the_page_works_below_a_path(site, open_page):
    page = open_page(site, "anna")
    page.keyboard.press("a")
    page.wait_for_function("FitReview.outbox.length === 0 && FitReview.me.done_today === 1")
    assert len(site.review.decisions.current()) == 1
    page.keyboard.press("g")
    page.wait_for_selector("#guide-panel h1")
    page.wait_for_function(
        "[...document.querySelectorAll('#guide-panel img')].every((i) => i.naturalWidth > 0)"
    )
    page.goto(f"{site.url}/owner/")
    page.wait_for_selector(".ow-cards b")
    [cookie] = page.context.cookies()
    assert cookie["path"] == "/annotate" and cookie["httpOnly"]
    assert site.left <= {"/favicon.ico"}, "an address outside of the proxy's path was asked for"
    if site.kind == "mounted":
        assert httpx.get(f"{site.root}/other").json() == {"mine": True}
        assert httpx.get(f"{site.root}/annotate/api/me").status_code == 401
