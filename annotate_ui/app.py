"""The server: log-in, the judging page and the owner's page, mounted into a FastAPI application.

from annotate_ui.app import mount
mount(my_fastapi_app, Review.open("lsp/"), path="/annotate")
"""

import hashlib
from importlib import resources
from typing import TYPE_CHECKING

from annotate_ui.guard import Guard, Refusals, client_address
from annotate_ui.review import Review

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from fastapi.responses import Response

__all__ = ["make_app", "mount"]


def make_app(review: Review, root_path: str = "") -> "FastAPI":
    """Return a server of one review.

    Args:
        review: What is served; close it after the server.
        root_path: Public path below which a reverse proxy shows the server, such as ``/annotate``,
            if the proxy strips it from what it passes on.
    """
    from fastapi import FastAPI

    app = FastAPI(title="Fit review", docs_url=None, redoc_url=None, openapi_url=None)
    return mount(app, review, root_path=root_path)


def mount(app: "FastAPI", review: Review, path: str = "", root_path: str = "") -> "FastAPI":
    """Add a review to an application, below a path; the rest of the application is not touched.

    Args:
        app: To be added to, before it starts.
        review: What is served.
        path: Such as ``/annotate``; empty for the whole application.
        root_path: As in ``make_app``.

    Returns:
        The application.
    """
    import gradio as gr
    from fastapi import APIRouter

    from annotate_ui.api import make_router
    from annotate_ui.guide import built_in_version
    from annotate_ui.judge import judge_page
    from annotate_ui.login import make_login_router
    from annotate_ui.owner import owner_page

    path, root_path = path.rstrip("/"), root_path.rstrip("/")
    base = f"{root_path}{path}"
    refusals = Refusals(review)
    router = APIRouter(prefix=path)
    router.include_router(make_login_router(review, base))
    router.include_router(make_router(review, refusals, built_in_version()))
    app.include_router(router)
    _answer_errors(app, refusals, path)

    def name_of(request: "Request") -> str | None:
        session = getattr(request.state, "session", None)
        return session.person.name if session else None

    for name, page, style in (
        ("judge", judge_page(review, base), "judge.css"),
        ("owner", owner_page(review, base), "owner.css"),
    ):
        head = (
            f'<link rel="stylesheet" href="{base}/static/{style}?v={_version(style)}">'
            f'<link rel="icon" href="{base}/static/icon.svg">'
        )
        if name == "judge":
            head += f'<script src="{base}/static/judge.js?v={_version("judge.js")}"></script>'
        gr.mount_gradio_app(
            app,
            page,
            path=f"{path}/{name}",
            root_path=f"{base}/{name}" if root_path else None,
            auth_dependency=name_of,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            show_error=False,
            max_file_size="1kb",
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            favicon_path=None,
            theme=gr.themes.Soft(primary_hue="blue", neutral_hue="slate"),
            head=head,
        )
    app.add_middleware(Guard, review=review, refusals=refusals, prefix=path, root_path=root_path)
    return app


def _version(name: str) -> str:
    data = resources.files("annotate_ui").joinpath("data", name).read_bytes()
    return hashlib.blake2b(data, digest_size=6).hexdigest()


def _answer_errors(app: "FastAPI", refusals: Refusals, path: str) -> None:
    """Turn errors into short answers; what looks like a probe is logged."""
    from fastapi.exception_handlers import request_validation_exception_handler
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse

    from annotate_ui.api import error_answer
    from curation.decisions import DecisionError

    def on_decision_error(request: "Request", error: Exception) -> "Response":
        assert isinstance(error, DecisionError)
        return error_answer(request, error, refusals)

    async def on_bad_request(request: "Request", error: Exception) -> "Response":
        assert isinstance(error, RequestValidationError)
        if not request.url.path.startswith(f"{path}/api/"):
            return await request_validation_exception_handler(request, error)
        problems = [f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors()]
        session = getattr(request.state, "session", None)
        who = session.person.name if session else ""
        names = {str(e["loc"][-1]) for e in error.errors() if e["type"] == "extra_forbidden"}
        kind = "forged_name" if names & {"annotator", "name", "user", "role"} else "bad_request"
        refusals.log(kind, who, client_address(request), problems=problems[:5])
        return JSONResponse({"error": "; ".join(problems)[:500]}, 422)

    app.add_exception_handler(DecisionError, on_decision_error)
    app.add_exception_handler(RequestValidationError, on_bad_request)
