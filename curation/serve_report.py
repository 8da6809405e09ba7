"""Look at a store in a browser: its reports and pictures, on this machine only.

    python -m curation.serve_report lsp/

Serves report.html, triage.html, the runs' settings and the overlays below the store, and nothing
else: no Parquet, no decisions, no names of annotators.
"""

import html
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, unquote, urlsplit

import tyro

from curation.cli import parse_command_line

__all__ = ["ServeConfig", "main", "make_server"]


@dataclass(frozen=True)
class ServeConfig:
    """What is served where. Every field is a flag."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Directory of a data set with fits."""
    out: Path | None = None
    """The store of fits. [DATA/fits]"""
    host: str = "127.0.0.1"
    """Address to listen on. Others than this machine's can look if it is theirs to reach."""
    port: int = 8000
    """Port; 0 takes any that is free."""
    config: Path | None = None
    """YAML file of settings; the command line wins over it."""


class _Handler(SimpleHTTPRequestHandler):
    """Serves what is meant to be seen, by GET and HEAD."""

    server_version = "pseudogt"
    sys_version = ""

    def __init__(self, *arguments, root: Path, **options) -> None:
        self.root = root.resolve()
        super().__init__(*arguments, directory=str(self.root), **options)

    def send_head(self):
        """Answer the index, a page, a picture or 404."""
        path = unquote(urlsplit(self.path).path)
        if path == "/":
            return self._index()
        target = (self.root / path.lstrip("/")).resolve()
        if not _is_public(target, self.root) or not target.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def _index(self):
        import io

        links = [
            f'<li><a href="/{quote(p.relative_to(self.root).as_posix())}">'
            f"{html.escape(p.relative_to(self.root).as_posix())}</a></li>"
            for p in (
                *sorted(self.root.glob("*.html")),
                *sorted(self.root.glob("meta/runs/*.yaml")),
            )
        ]
        body = (
            "<!doctype html><html lang=en><meta charset=utf-8><title>fits</title>"
            "<body style='font:16px/1.6 system-ui;margin:2rem'><h1>"
            f"{html.escape(self.root.parent.name)}</h1><ul>{''.join(links)}</ul>"
        ).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return io.BytesIO(body)

    def end_headers(self) -> None:
        """Say that what is served runs nothing and belongs to nobody else's page."""
        policy = "default-src 'self' data:; style-src 'unsafe-inline'; script-src 'none'"
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def guess_type(self, path: str) -> str:
        """Show settings as text instead of downloading them."""
        return "text/plain; charset=utf-8" if path.endswith(".yaml") else super().guess_type(path)

    def log_message(self, *_: object) -> None:
        """Say nothing of each picture."""


def _is_public(target: Path, root: Path) -> bool:
    """Tell whether a resolved path is one of the things that are served."""
    if not target.is_relative_to(root):
        return False
    parts = target.relative_to(root).parts
    return (
        (len(parts) == 1 and target.suffix == ".html")
        or (parts[:1] == ("overlays",) and target.suffix == ".jpg")
        or (parts[:2] == ("meta", "runs") and target.suffix == ".yaml")
    )


def make_server(root: Path, host: str = "127.0.0.1", port: int = 0) -> ThreadingHTTPServer:
    """Return a server of a store that is bound and not running yet.

    Args:
        root: Of the store.
        host: Address.
        port: 0 for any.

    Raises:
        OSError: If the port is taken.
    """
    return ThreadingHTTPServer((host, port), partial(_Handler, root=root))


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C; returns 0, or 1 if there is nothing to serve or the port is taken."""
    config = parse_command_line(ServeConfig, argv, "python -m curation.serve_report", __doc__)
    root = config.out or config.data / "fits"
    if not root.is_dir():
        sys.stderr.write(f"curation.serve_report: there is no store at {root}; fit some photos\n")
        return 1
    try:
        server = make_server(root, config.host, config.port)
    except OSError as error:
        sys.stderr.write(f"curation.serve_report: port {config.port}: {error}; try --port 0\n")
        return 1
    with server:
        url = f"http://{config.host}:{server.server_address[1]}/"
        sys.stderr.write(f"{root} at {url}; Ctrl-C ends\n")
        sys.stdout.write(json.dumps({"url": url}) + "\n")
        sys.stdout.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
