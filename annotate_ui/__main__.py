"""``python -m annotate_ui lsp/``: the page where people accept or reject fits."""

import contextlib
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from curation.cli import parse_command_line


@dataclass(frozen=True)
class Settings:
    """Serve the review of a data set's fits."""

    data: Annotated[Path, tyro.conf.Positional]
    """Directory of the photos, as for fitting.run."""
    out: Path | None = None
    """Directory of the fits; DATA/fits by default."""
    config: Path | None = None
    """YAML file with settings; the command line wins."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""
    port: int = 7860
    """Port to listen on."""
    root_path: str = ""
    """Public path, such as /annotate, if a reverse proxy strips it."""
    forwarded_allow_ips: str = "127.0.0.1"
    """Addresses of proxies whose X-Forwarded-For and -Proto are believed."""
    database: str = ""
    """URL of the decisions, postgresql://user@host/name; by default an SQLite file in the store."""
    runs: tuple[str, ...] = ()
    """Runs to review; by default the newest."""
    body: str = ""
    """Body model of the fits (as for fitting.run); by default what the run's record says."""
    overlap: int = 1
    """People who judge each item."""
    audit_overlap: int = 2
    """People who judge each item of the uniform audit sample."""
    audit_rate: float = 0.1
    """Part of the items that is the audit sample."""
    lease_minutes: float = 20.0
    """After which an item that was left lying goes to others."""
    retrain_every: int = 250
    """Decisions after which the triage model orders the queue anew; 0 for never."""
    workers: int = 1
    """Processes that draw missing pictures; 0 to draw none."""
    add_user: str = ""
    """Make an account NAME:ROLE, print its first password, and end."""
    reset_password: str = ""
    """Give the account NAME a new first password, print it, and end."""
    draw: bool = False
    """Draw all missing pictures, and end."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is said on the standard error."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    settings = parse_command_line(
        Settings, argv, prog="python -m annotate_ui", description=Settings.__doc__ or ""
    )
    import logging

    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(message)s")
    from annotate_ui.review import Review
    from curation.accounts import AccountError
    from curation.database import DatabaseError
    from curation.queue_records import QueueSettings
    from curation.store import StoreError

    try:
        review = Review.open(
            settings.data,
            store_root=settings.out,
            database=settings.database,
            run_ids=settings.runs or None,
            settings=QueueSettings(
                overlap=settings.overlap,
                audit_overlap=settings.audit_overlap,
                audit_rate=settings.audit_rate,
                lease_seconds=60 * settings.lease_minutes,
            ),
            body=settings.body,
            workers=settings.workers,
        )
    except (StoreError, DatabaseError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    with contextlib.closing(review):
        try:
            if settings.add_user:
                name, _, role = settings.add_user.partition(":")
                _first_password(review, name, role or "annotator", new=True)
                return 0
            if settings.reset_password:
                _first_password(review, settings.reset_password, "", new=False)
                return 0
        except AccountError as error:
            sys.stderr.write(f"{error}\n")
            return 2
        if settings.draw:
            return _draw_all(review)
        if not any(person.role == "owner" for person in review.accounts.people()):
            _first_password(review, "owner", "owner", new=True)
        _serve(review, settings)
    return 0


def _first_password(review, name: str, role: str, new: bool) -> None:
    password = secrets.token_urlsafe(9)
    if new:
        review.accounts.add(name, password, role, must_change=True, by="command line")
    else:
        review.accounts.change(name, "command line", password=password, must_change=True)
    # The one place where it is ever shown.
    sys.stdout.write(f"log in as {name} with the password {password} (to be changed at once)\n")
    sys.stdout.flush()


def _draw_all(review) -> int:
    from concurrent.futures import wait

    from tqdm import tqdm

    failed = 0
    pending = set()
    for item in tqdm(review.index.items.values(), desc="pictures", file=sys.stderr):
        work = review.pictures.want(item.run_id, item.fit_id)
        if work is not None:
            pending.add(work)
        if len(pending) >= 16:
            done, pending = wait(pending, return_when="FIRST_COMPLETED")
            failed += sum(bool(work.exception() or work.result()) for work in done)
    failed += sum(bool(work.exception() or work.result()) for work in wait(pending).done)
    sys.stdout.write(f'{{"items": {len(review.index.items)}, "failed": {failed}}}\n')
    return 0


def _serve(review, settings: Settings) -> None:
    import uvicorn

    from annotate_ui.app import make_app
    from annotate_ui.retrain import Retrainer, StoreWatch

    app = make_app(review, settings.root_path)
    sys.stdout.write(
        f"review of {len(review.index.items)} fits: http://{settings.host}:{settings.port}"
        f"{settings.root_path}/\n"
    )
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        stack.enter_context(StoreWatch(review))
        if settings.retrain_every:
            stack.enter_context(Retrainer(review, settings.retrain_every))
        uvicorn.run(
            app,
            host=settings.host,
            port=settings.port,
            log_level="warning",
            proxy_headers=True,
            forwarded_allow_ips=settings.forwarded_allow_ips,
            server_header=False,
        )


if __name__ == "__main__":
    raise SystemExit(main())
