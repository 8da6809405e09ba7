"""What the page asks for while somebody judges: small JSON, one request a decision.

The person is always the session's; no request can name another. All text of people is data: it is
sent as JSON and shown as text.
"""

import asyncio
import re
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from annotate_ui.guard import Refusals, client_address
from annotate_ui.pictures import FILES
from annotate_ui.review import Review
from annotate_ui.tutorial import BuiltIn, lessons
from curation.accounts import Person
from curation.decisions import (
    ALL_PARTS,
    MAX_COMMENT,
    PART_FLAGS,
    REASONS,
    Decision,
    DecisionError,
)
from curation.gold import GoldItem
from curation.queue_records import Judgement, Lease, LeaseError
from curation.review_numbers import annotators_csv, review_numbers

__all__ = ["make_router"]

_AHEAD = 3  # the item that is shown, and two that are loaded
_WAIT_SECONDS = 25.0  # for a picture that is being drawn
_ID = Field(pattern=r"^[0-9a-f]{32}$")
_MARKUP = re.compile(r"<\s*/?\s*[a-zA-Z!][^>]*>|javascript\s*:", re.IGNORECASE)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NextRequest(_Body):
    """Asks for what is next."""

    mode: Literal["review", "adjudicate"] = "review"


class DecideRequest(_Body):
    """One judgement."""

    lease: str = _ID
    decision_id: str = _ID
    verdict: Literal["accept", "reject", "unsure"]
    parts: list[Literal["body", "left_hand", "right_hand", "face"]] = Field(max_length=4)
    reasons: list[str] = Field(default=[], max_length=len(REASONS))
    comment: str = Field(default="", max_length=MAX_COMMENT)
    seconds: float = Field(default=float("nan"), ge=0, le=86400)
    guideline: str = Field(default="", max_length=64)
    revises: str = Field(default="", max_length=64)
    mode: Literal["review", "adjudicate"] = "review"


class UndoRequest(_Body):
    """Takes a decision back."""

    decision_id: str = _ID
    new_id: str = _ID


class PracticeRequest(_Body):
    """An answer in the tutorial."""

    number: int = Field(ge=0, lt=100)
    verdict: Literal["accept", "reject", "unsure"]


class GoldRequest(_Body):
    """Makes an item of one's history a gold item."""

    lease: str = _ID
    note: str = Field(default="", max_length=MAX_COMMENT)
    in_tutorial: bool = False


class SettingsRequest(_Body):
    """What somebody has set on the page."""

    opacity: float = Field(default=1, ge=0, le=1)
    keypoints: bool = False
    theme: Literal["", "light", "dark"] = ""


class SeenRequest(_Body):
    """Which guideline somebody has read, or that the tutorial is over."""

    guideline: str = Field(default="", max_length=64)
    tutorial: bool = False


def make_router(review: Review, refusals: Refusals, built_in_version: str) -> APIRouter:
    """Return the routes below ``/api``.

    Args:
        review: What is served.
        refusals: Where refusals are logged.
        built_in_version: Names the guideline that comes with the page.
    """
    router = APIRouter(prefix="/api")

    def person_of(request: Request) -> Person:
        return request.state.session.person

    def version() -> str:
        current = review.guidelines.current()
        return built_in_version if current is None else str(current.version)

    def described(leases: list[Lease], person: Person) -> list[dict[str, Any]]:
        found = [review.describe(lease, person) for lease in leases]
        review.draw_ahead(leases)
        return [item for item in found if item is not None]

    def lanes(person: Person, mode: str) -> dict[str, Any]:
        may = person.may("adjudicator")
        return {"adjudicates": may, "only_disagreements": may and mode == "adjudicate"}

    @router.get("/me")
    def me(request: Request) -> dict[str, Any]:
        person = person_of(request)
        return {
            "name": person.name,
            "role": person.role,
            "reasons": list(REASONS),
            "parts": list(PART_FLAGS),
            "guideline": version(),
            "guideline_seen": person.guideline_seen,
            "tutorial_done": person.tutorial_at is not None,
            "tutorial_items": len(lessons(review.gold.tutorial())),
            "settings": review.accounts.settings(person.name),
            "done_today": review.queue.done_since(person.name, 86400),
        }

    @router.post("/next")
    def following(request: Request, body: NextRequest) -> dict[str, Any]:
        person = person_of(request)
        leases = review.queue.take(person.name, _AHEAD, **lanes(person, body.mode))
        return {"items": described(leases, person)}

    @router.post("/decide")
    def decide(request: Request, body: DecideRequest) -> Response:
        person = person_of(request)
        if _MARKUP.search(body.comment):
            refusals.log("script_refused", person.name, client_address(request),
                         comment=body.comment[:200])  # fmt: skip
            return JSONResponse({"error": "a comment is plain text, without HTML"}, 422)
        lease = review.queue.lease(body.lease, person.name)
        judgement = Judgement(
            decision_id=body.decision_id,
            verdict=body.verdict,
            parts=frozenset(body.parts) & ALL_PARTS,
            reasons=tuple(body.reasons),
            comment=body.comment,
            seconds=body.seconds,
            guideline_version=body.guideline,
            overlay_version=review.overlay_version(lease.fit_id),
        )
        decision, leases = review.queue.decide(
            body.lease,
            person.name,
            judgement,
            revises=body.revises,
            take=_AHEAD,
            **lanes(person, body.mode),
        )
        answer = {"decision_id": decision.decision_id, "items": described(leases, person)}
        return JSONResponse(answer)

    @router.post("/undo")
    def undo(request: Request, body: UndoRequest) -> dict[str, Any]:
        person = person_of(request)
        lease = review.queue.withdraw(person.name, body.decision_id, body.new_id)
        return {"item": review.describe(lease, person)}

    @router.get("/history")
    def history(request: Request, before: float = float("inf")) -> dict[str, Any]:
        person = person_of(request)
        rows = review.queue.own_history(person.name, 40, before)
        return {"rows": [_history_row(review, d, lease_id) for d, lease_id in rows]}

    @router.get("/item/{lease_id}")
    def item(request: Request, lease_id: str) -> dict[str, Any]:
        person = person_of(request)
        lease = review.queue.lease(lease_id, person.name)
        return {"item": review.describe(lease, person)}

    @router.get("/file/{lease_id}/{name}")
    async def file(request: Request, lease_id: str, name: str) -> Response:
        person = person_of(request)
        if name not in FILES:
            raise LeaseError("there is no such file")
        if lease_id.startswith("tutorial-"):
            lesson = _lesson(review, lease_id.removeprefix("tutorial-"))
            if isinstance(lesson, BuiltIn):
                return _built_in_picture(review, lesson, name)
            fit_id = lesson.fit_id
        else:
            lease = await asyncio.to_thread(review.queue.lease, lease_id, person.name)
            fit_id = lease.fit_id
        return await _picture(review, fit_id, name)

    @router.get("/tutorial")
    def tutorial(request: Request) -> dict[str, Any]:
        person = person_of(request)
        practised = review.gold.practised(person.name)
        items = []
        for number, lesson in enumerate(lessons(review.gold.tutorial())):
            lease_id = f"tutorial-{number}"
            if isinstance(lesson, BuiltIn):
                shown, fit_id = lesson.described(lease_id), lesson.gold.fit_id
            else:
                fit_id = lesson.fit_id
                lease = Lease(lease_id, fit_id, person.name, "queue",
                              float("nan"), 0.0, 0.0, "open")  # fmt: skip
                shown = review.describe(lease, person)
                review.draw_ahead([lease])
            if shown is not None:
                known = fit_id in practised
                items.append(shown | {"number": number, "answered": known, "why": "tutorial"})
        return {"items": items}

    @router.post("/tutorial")
    def practise(request: Request, body: PracticeRequest) -> dict[str, Any]:
        lesson = _lesson(review, str(body.number))
        gold = lesson.gold if isinstance(lesson, BuiltIn) else lesson
        is_right = review.gold.practise(person_of(request).name, gold, body.verdict)
        return {
            "right": is_right,
            "verdict": gold.verdict,
            "reasons": list(gold.reasons),
            "note": gold.note,
        }

    @router.post("/gold")
    def make_gold(request: Request, body: GoldRequest) -> Response:
        person = person_of(request)
        if not person.may("owner"):
            refusals.log("page_refused", person.name, client_address(request), path="gold")
            return JSONResponse({"error": "only an owner makes gold items"}, 403)
        lease = review.queue.lease(body.lease, person.name)
        own = [d for d in review.decisions.current([lease.fit_id]) if d.annotator == person.name]
        if not own:
            raise DecisionError("judge it first: a gold item has your verdict")
        gold = GoldItem(
            fit_id=lease.fit_id,
            verdict=own[0].verdict,
            reasons=own[0].reasons,
            note=body.note,
            in_tutorial=body.in_tutorial,
            created_by=person.name,
        )
        review.gold.add([gold])
        return JSONResponse({})

    @router.get("/annotators.csv")
    def annotators(request: Request) -> Response:
        person = person_of(request)
        if not person.may("owner"):
            refusals.log("page_refused", person.name, client_address(request), path="csv")
            return JSONResponse({"error": "this is the owner's"}, 403)
        text = annotators_csv(review_numbers(review.decisions).people)
        name = {"content-disposition": 'attachment; filename="annotators.csv"'}
        return Response(text, media_type="text/csv", headers=name)

    @router.post("/seen")
    def seen(request: Request, body: SeenRequest) -> dict[str, Any]:
        name = person_of(request).name
        if body.guideline and body.guideline == version():
            review.accounts.change(name, guideline_seen=body.guideline)
        if body.tutorial:
            review.accounts.finish_tutorial(name)
        return {}

    @router.post("/settings")
    def settings(request: Request, body: SettingsRequest) -> dict[str, Any]:
        review.accounts.save_settings(person_of(request).name, body.model_dump())
        return {}

    @router.get("/guideline")
    def guideline() -> dict[str, Any]:
        return {"version": version()}

    return router


def _lesson(review: Review, number: str) -> GoldItem | BuiltIn:
    found = lessons(review.gold.tutorial())
    if not (number.isascii() and number.isdigit()) or int(number) >= len(found):
        raise LeaseError("there is no such item in the tutorial")
    return found[int(number)]


def _built_in_picture(review: Review, lesson: BuiltIn, name: str) -> Response:
    data = lesson.file(name)
    if data is None:
        return Response(status_code=404)
    cache = {"cache-control": "private, max-age=3600"}
    return Response(data, media_type=review.pictures.media_type(name), headers=cache)


async def _picture(review: Review, fit_id: str, name: str) -> Response:
    """Return a file of an item; wait for it while it is being drawn."""
    item = review.index.items.get(fit_id)
    if item is None:
        raise LeaseError("this fit is not in the store any more")
    path = await review.pictures.wait(item.run_id, fit_id, name, _WAIT_SECONDS)
    if path is None:
        why = review.pictures.problem(fit_id)
        if why:
            return JSONResponse({"error": why}, 410)
        return JSONResponse({"error": "the picture is being drawn"}, 503, {"retry-after": "2"})
    if not path.stat().st_size:  # a part that the photo does not show
        return Response(status_code=404)
    # What lies at a name may be drawn anew, so the browser asks again after a while.
    return FileResponse(
        path,
        media_type=review.pictures.media_type(name),
        headers={"cache-control": "private, max-age=3600"},
    )


def _history_row(review: Review, decision: Decision, lease_id: str) -> dict[str, Any]:
    item = review.index.items.get(decision.fit_id)
    return {
        "lease": lease_id,
        "decision_id": decision.decision_id,
        "verdict": decision.verdict,
        "parts": sorted(decision.parts),
        "reasons": list(decision.reasons),
        "comment": decision.comment,
        "at": decision.created_at.timestamp(),
        "image": item.image_id if item else "",
        "settles": decision.source == "adjudication",
    }


def error_answer(request: Request, error: DecisionError, refusals: Refusals) -> Response:
    """Return the answer to a request that cannot be granted, and log what looks like a probe."""
    if isinstance(error, LeaseError):
        person = request.state.session.person
        address = client_address(request)
        refusals.log("lease_refused", person.name, address, path=request.url.path[:300])
        return JSONResponse({"error": str(error)}, 403)
    return JSONResponse({"error": str(error)}, 409)
