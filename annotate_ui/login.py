"""The log-in page, log-out, and a new password. Plain HTML: it works before anything else."""

import html
from importlib import resources
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from annotate_ui.guard import COOKIE, client_address
from annotate_ui.review import Review
from curation.accounts import AccountError, LoginRefused, Session

__all__ = ["make_login_router"]

_STATIC = {
    "login.css": "text/css",
    "judge.css": "text/css",
    "owner.css": "text/css",
    "judge.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


def make_login_router(review: Review, base: str) -> APIRouter:
    """Return the routes that answer without a session, and ``/password``.

    Args:
        review: Whose accounts.
        base: Public path of the review, without a slash at the end.
    """
    router = APIRouter()

    def page(title: str, body: str, status: int = 200) -> HTMLResponse:
        text = _PAGE.format(title=html.escape(title), body=body, base=html.escape(base, quote=True))
        response = HTMLResponse(text, status)
        # Nothing on this page is a script, so none may run.
        response.headers["content-security-policy"] = (
            "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
            "frame-ancestors 'none'; base-uri 'none'"
        )
        return response

    def form(error: str = "", name: str = "", status: int = 200) -> HTMLResponse:
        shown = f'<p class="error" role="alert">{html.escape(error)}</p>' if error else ""
        return page(
            "Log in", _LOGIN.format(error=shown, name=html.escape(name, quote=True)), status
        )

    def with_cookie(request: Request, session: Session) -> Response:
        response = RedirectResponse(f"{base}/judge/", 303)
        is_https = request.url.scheme == "https" or (
            request.headers.get("x-forwarded-proto") == "https"
        )
        response.set_cookie(
            COOKIE,
            session.token,
            max_age=int(max(0, session.expires_at - _now())),
            path=base or "/",
            secure=is_https,
            httponly=True,
            samesite="lax",
        )
        return response

    @router.get("/")
    def start() -> Response:
        return RedirectResponse(f"{base}/judge/", 303)

    @router.get("/healthz")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/login")
    def show() -> Response:
        return form()

    @router.post("/login")
    async def log_in(request: Request) -> Response:
        fields = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=10)
        name, password = (fields.get(key, [""])[0] for key in ("name", "password"))
        try:
            session = await run_in_threadpool(
                review.accounts.log_in, name.strip(), password, client_address(request)
            )
        except LoginRefused as refusal:
            status = 429 if refusal.wait_seconds else 401
            response = form(str(refusal), name[:40], status)
            if refusal.wait_seconds:
                response.headers["retry-after"] = str(int(refusal.wait_seconds) + 1)
            return response
        return with_cookie(request, session)

    @router.post("/logout")
    def log_out(request: Request) -> Response:
        review.accounts.log_out(request.cookies.get(COOKIE, ""))
        response = RedirectResponse(f"{base}/login", 303)
        response.delete_cookie(COOKIE, path=base or "/")
        return response

    @router.get("/password")
    def password_form(request: Request) -> Response:
        name = request.state.session.person.name
        return page("New password", _PASSWORD.format(error="", name=html.escape(name)))

    @router.post("/password")
    async def change_password(request: Request) -> Response:
        person = request.state.session.person
        fields = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=10)
        old, new, again = (fields.get(key, [""])[0] for key in ("old", "new", "again"))
        try:
            await run_in_threadpool(
                review.accounts.check, person.name, old, client_address(request)
            )
            if new != again:
                raise AccountError("The two new passwords differ.")
            if new == old:
                raise AccountError("Choose a password that is not the old one.")
            await run_in_threadpool(
                review.accounts.change, person.name, person.name, password=new, must_change=False
            )
        except (AccountError, LoginRefused) as error:
            shown = f'<p class="error" role="alert">{html.escape(str(error))}</p>'
            body = _PASSWORD.format(error=shown, name=html.escape(person.name))
            return page("New password", body, 400)
        session = await run_in_threadpool(
            review.accounts.open_session, person.name, client_address(request)
        )
        return with_cookie(request, session)

    @router.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in _STATIC:
            return JSONResponse({"error": "no such file"}, 404)
        data = resources.files("annotate_ui").joinpath("data", name).read_bytes()
        return Response(data, media_type=_STATIC[name], headers={"cache-control": "no-cache"})

    @router.get("/favicon.ico")
    def icon() -> Response:
        return static("icon.svg")

    return router


def _now() -> float:
    import time

    return time.time()


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title} · Fit review</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="{base}/static/icon.svg">
<link rel="stylesheet" href="{base}/static/login.css">
</head><body><main><img src="{base}/static/icon.svg" alt="" width="56" height="56">{body}</main>
</body></html>"""
_LOGIN = """<h1>Fit review</h1>{error}
<form method="post" action="login">
<label>Name<input name="name" value="{name}" autocomplete="username" required autofocus
 maxlength="40" autocapitalize="none" spellcheck="false"></label>
<label>Password<input name="password" type="password" autocomplete="current-password" required
 maxlength="200"></label>
<button>Log in</button></form>
<p class="soft">No account, or no password any more? Ask the owner of the data set.</p>"""
_PASSWORD = """<h1>New password</h1><p class="soft">for {name}</p>{error}
<form method="post" action="password">
<label>Old password<input name="old" type="password" autocomplete="current-password" required
 autofocus maxlength="200"></label>
<label>New password<input name="new" type="password" autocomplete="new-password" required
 minlength="8" maxlength="200"></label>
<label>The same again<input name="again" type="password" autocomplete="new-password" required
 minlength="8" maxlength="200"></label>
<button>Change</button></form>"""
