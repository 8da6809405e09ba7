"""Who may ask for what, before anything answers: sessions, roles, sizes, paths, headers.

A layer round the whole server. Gradio's own file route serves whatever its cache holds to whoever
is logged in; here it serves a person the meshes of their own items, and nothing else.
"""

import re
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from annotate_ui.review import Review
from curation.accounts import Person, Session
from curation.decisions import DecisionError

__all__ = ["COOKIE", "Guard", "Refusals", "client_address"]

COOKIE = "pseudogt_session"
MAX_BODY = 64 * 1024
MAX_GUIDELINE_BODY = 512 * 1024
_LOGGED_PER_MINUTE = 30

_PUBLIC = re.compile(r"/(login|logout|static/[\w.-]+|healthz|favicon\.ico)/?")
_OWNER = re.compile(r"/owner(/.*)?")
_GRADIO_FILE = re.compile(r"/(judge|owner)/(gradio_api/)?file[=/](?P<file>.*)")
_GRADIO_CLOSED = re.compile(
    r"/(judge|owner)/(gradio_api/)?(upload|proxy|stream|deep_link|vibe|process_recording|runs|"
    r"monitoring|upload_progress|component_server|app_id|login|logout|token|custom_component)\b.*"
)
_MESH = re.compile(r"(?P<lease>[0-9a-f]{32})\.glb")

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "x-frame-options": "SAMEORIGIN",
    "content-security-policy": "object-src 'none'; base-uri 'self'; frame-ancestors 'self'; "
    "form-action 'self'",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
}


def client_address(request: Request) -> str:
    """Return the client's address; a proxy that is trusted tells it in X-Forwarded-For."""
    return request.client.host if request.client else ""


@dataclass(eq=False)
class Refusals:
    """Logs what was refused, a bounded number of lines a minute and address.

    Attributes:
        review: Into whose log.
    """

    review: Review

    def __post_init__(self) -> None:
        self._counts: dict[tuple[int, str, str], int] = defaultdict(int)

    def log(self, kind: str, who: str, address: str, **detail: Any) -> None:
        """Log one refusal."""
        minute = int(time.time() // 60)
        key = (minute, kind, address)
        self._counts[key] += 1
        if len(self._counts) > 1000:
            for old in [k for k in self._counts if k[0] < minute]:
                del self._counts[old]
        if self._counts[key] <= _LOGGED_PER_MINUTE:
            self.review.decisions.log(kind, who, address, **detail)


class Guard:
    """ASGI middleware; see the module.

    Args:
        app: What is guarded.
        review: Whose sessions.
        refusals: Where refusals are logged.
        prefix: Path below which the review is mounted; everything else passes untouched.
        root_path: Public path that a reverse proxy strips.
    """

    def __init__(
        self,
        app: ASGIApp,
        review: Review,
        refusals: Refusals,
        prefix: str = "",
        root_path: str = "",
    ) -> None:
        self._app, self._review, self._refusals = app, review, refusals
        self._prefix, self._root_path = prefix, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if not (path == self._prefix or path.startswith(self._prefix + "/")):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":  # nothing here speaks it
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope)
        path = path[len(self._prefix) :] or "/"
        refusal = await self._refuse(request, path)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if not path.startswith(("/static/", "/api/file/", "/judge/", "/owner/")):
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        limit = MAX_GUIDELINE_BODY if path.startswith("/owner/") else MAX_BODY
        try:
            await self._app(scope, self._limited(receive, limit, request), send_with_headers)
        except _TooLarge:
            await Response("too large", 413)(scope, receive, send_with_headers)

    async def _refuse(self, request: Request, path: str) -> ASGIApp | None:
        """Return the answer to a request that is refused or redirected, None to pass it on."""
        address = client_address(request)
        raw = unquote(unquote(request.scope.get("raw_path", b"").decode("latin-1")))
        if ".." in re.split(r"[/\\=]", raw) or "\0" in raw or "\\" in raw:
            await self._log("path_refused", "", address, path=path[:300])
            return JSONResponse({"error": "no such path"}, 400)
        limit = MAX_GUIDELINE_BODY if path.startswith("/owner/") else MAX_BODY
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > limit:
            await self._log("huge_body", "", address, path=path[:300], length=length[:40])
            return JSONResponse({"error": f"at most {limit} bytes"}, 413)
        if _PUBLIC.fullmatch(path):
            return None
        session = await run_in_threadpool(self._session, request)
        request.state.session = session
        if session is None:
            return self._not_logged_in(request, path)
        person = session.person
        if person.must_change and path != "/password":
            if path.startswith("/api/"):
                return JSONResponse({"error": "choose a password of your own first"}, 403)
            return self._redirect("/password")
        if _OWNER.fullmatch(path) and not person.may("owner"):
            await self._log("page_refused", person.name, address, path=path[:300])
            return JSONResponse({"error": "this page is the owner's"}, 403)
        if request.method != "GET" and not self._same_origin(request):
            await self._log("cross_site", person.name, address, path=path[:300])
            return JSONResponse({"error": "requests from other sites are refused"}, 403)
        return await self._refuse_gradio(path, person, address)

    async def _refuse_gradio(self, path: str, person: Person, address: str) -> ASGIApp | None:
        if _GRADIO_CLOSED.fullmatch(path):
            await self._log("path_refused", person.name, address, path=path[:300])
            return JSONResponse({"error": "no such path"}, 404)
        match = _GRADIO_FILE.fullmatch(path)
        if match and not await run_in_threadpool(self._owns, match["file"], person):
            await self._log("file_refused", person.name, address, path=path[:300])
            return JSONResponse({"error": "this file is not yours"}, 403)
        return None

    def _owns(self, file: str, person: Person) -> bool:
        mesh = _MESH.fullmatch(file.rsplit("/", 1)[-1])
        if mesh is None:
            return False
        try:
            self._review.queue.lease(mesh["lease"], person.name)
        except DecisionError:
            return False
        return True

    def _session(self, request: Request) -> Session | None:
        token = request.cookies.get(COOKIE, "")
        return self._review.accounts.session(token, client_address(request))

    def _not_logged_in(self, request: Request, path: str) -> Response:
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return self._redirect("/login")
        return JSONResponse({"error": "log in first"}, 401)

    def _redirect(self, path: str) -> Response:
        return RedirectResponse(f"{self._root_path}{self._prefix}{path}", 303)

    @staticmethod
    def _same_origin(request: Request) -> bool:
        """Tell whether a browser says that the request comes from this site, or says nothing."""
        site = request.headers.get("sec-fetch-site")
        if site is not None:
            return site in ("same-origin", "none")
        origin = request.headers.get("origin")
        if origin is None:
            return True
        hosts = {request.headers.get("host"), request.headers.get("x-forwarded-host")}
        return origin.split("://", 1)[-1] in hosts

    async def _log(self, kind: str, who: str, address: str, **detail: Any) -> None:
        await run_in_threadpool(self._refusals.log, kind, who, address, **detail)

    def _limited(self, receive: Receive, limit: int, request: Request) -> Receive:
        """Count what arrives: a body without a length may not be longer either."""
        total = 0

        async def limited() -> Message:
            nonlocal total
            message = await receive()
            if message["type"] == "http.request":
                total += len(message.get("body", b""))
                if total > limit:
                    await self._log("huge_body", "", client_address(request), length=total)
                    raise _TooLarge
            return message

        return limited


class _TooLarge(Exception):
    pass
