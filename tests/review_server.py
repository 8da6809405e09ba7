"""The page's server in a process of its own, as people run it, and clients for it."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """A running server; ``kill`` it and ``start`` it again as often as you like."""

    def __init__(self, data, database, *, port=0, overlap=1, root_path="", gold=False):
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.database = database
        self._arguments = [
            sys.executable, "-m", "tests.review_server", str(data), database, str(self.port),
            "--overlap", str(overlap), "--root-path", root_path,
        ]  # fmt: skip
        self._process = None

    def start(self, timeout=90):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(self._arguments, cwd=ROOT, env=environment)
        begin = time.monotonic()
        while True:
            try:
                if httpx.get(f"{self.url}/healthz", timeout=2).status_code == 200:
                    return self
            except httpx.HTTPError:
                pass
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended with {self._process.returncode}")
            if time.monotonic() - begin > timeout:
                raise TimeoutError("the server does not answer")
            time.sleep(0.05)

    def cpu_seconds(self):
        """What the process has used so far, user and system."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self):
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def client(self, name, password=None):
        """Log in and return a client with the session's cookie."""
        form = {"name": name, "password": password or f"password-{name}"}
        answer = httpx.post(f"{self.url}/login", data=form, timeout=30)
        assert answer.status_code == 303, answer.text
        return httpx.Client(base_url=self.url, timeout=30, cookies=dict(answer.cookies))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("database")
    parser.add_argument("port", type=int)
    parser.add_argument("--overlap", type=int)
    parser.add_argument("--root-path", default="")
    options = parser.parse_args()

    import uvicorn

    from annotate_ui.app import make_app
    from annotate_ui.review import Review
    from curation.queue_records import QueueSettings
    from tests.review_store import no_body

    settings = QueueSettings(overlap=options.overlap, audit_overlap=max(2, options.overlap))
    review = Review.open(
        options.data, database=options.database, settings=settings, load_body=no_body, workers=0
    )
    app = make_app(review, options.root_path)
    uvicorn.run(app, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
