"""The annotators' page under load, and how long its next photo takes.

    python -m tests.benchmarks.bench_review latency                 # a browser, 37,000 items
    python -m tests.benchmarks.bench_review load                    # 50 annotators, SQLite
    python -m tests.benchmarks.bench_review load --postgres         # likewise, PostgreSQL
    python -m tests.benchmarks.bench_review load --kills 20         # the server killed meanwhile

``load``: scripted annotators, each in a session of its own over HTTP, think for a while
(exponential, ``--think`` seconds on average) between decisions; overlap 2. A decision's time is
that of its request, which also hands out the next items, as the page does it. At the end the
database is compared with what the clients had acknowledged. Each prints one JSON line.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

from curation.accounts import Accounts
from curation.database import new_id
from curation.decisions import DecisionStore
from tests.postgres import postgres_server
from tests.review_server import Server
from tests.review_store import make_store


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@contextlib.contextmanager
def review(count, annotators, *, postgres=False, overlap=2, pictures=False, folder=None):
    """A store, a database with accounts, and a server that is not started yet."""
    root = Path(tempfile.mkdtemp(prefix="review-", dir=folder))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        make_store(root, count, pictures=pictures)
        url = f"sqlite:///{root}/decisions.sqlite"
        if postgres:
            url = stack.enter_context(postgres_server(durable=True)).new_database()
        decisions = DecisionStore(url)
        stack.callback(decisions.close)
        accounts = Accounts(decisions)
        for name in annotators:
            accounts.add(name, f"password-{name}", "annotator")
            accounts.finish_tutorial(name)
        tokens = {name: accounts.open_session(name).token for name in annotators}
        server = Server(root, url, overlap=overlap)
        stack.callback(lambda: server._process and server.stop())
        yield server, decisions, tokens


class Annotator:
    """A scripted client. It keeps a decision until it is acknowledged, as the page does."""

    def __init__(self, name, token, url, think, budget):
        self.name, self.think, self.budget = name, think, budget
        self.rng = random.Random(name)
        self.acknowledged: dict[str, str] = {}  # decision id -> lease
        self.served: list[str] = []
        self.times: list[float] = []
        self.client = httpx.AsyncClient(
            base_url=url, cookies={"pseudogt_session": token}, timeout=30
        )

    async def post(self, path, body):
        """Return the answer's JSON, and how long the try that succeeded took."""
        while True:
            begin = time.perf_counter()
            try:
                answer = await self.client.post(path, json=body)
            except httpx.HTTPError:  # the server is dead: once more, the same request
                await asyncio.sleep(0.1)
                continue
            if answer.status_code != 200:
                raise RuntimeError(f"{self.name}: {answer.status_code} {answer.text[:300]}")
            return answer.json(), time.perf_counter() - begin

    async def work(self):
        await asyncio.sleep(self.rng.random() * self.think)
        answer, _ = await self.post("/api/next", {})
        items = answer["items"]
        while items and self.budget() > 0:
            lease = items[0]["lease"]
            self.served.append(lease)
            await asyncio.sleep(self.rng.expovariate(1 / self.think) if self.think else 0)
            said = {
                "lease": lease, "decision_id": new_id(), "parts": ["body"],
                "verdict": self.rng.choices(["accept", "reject", "unsure"], [80, 18, 2])[0],
                "seconds": 1.0,
            }  # fmt: skip
            answer, seconds = await self.post("/api/decide", said)
            self.acknowledged[said["decision_id"]] = lease
            self.times.append(seconds)
            items = answer["items"]
        await self.client.aclose()


async def annotate(server, tokens, decisions, think, kills):
    made = 0

    def budget():
        return decisions - made

    people = [Annotator(name, token, server.url, think, budget) for name, token in tokens.items()]

    async def count():
        nonlocal made
        while made < decisions:
            made = sum(len(person.acknowledged) for person in people)
            await asyncio.sleep(0.05)

    async def kill():
        rng = random.Random(0)
        for number in range(kills):
            while made < decisions * (number + rng.random()) / (kills + 1):
                await asyncio.sleep(0.02)
            server.kill()
            await asyncio.to_thread(server.start)

    begin = time.perf_counter()
    counting = asyncio.create_task(count())
    await asyncio.gather(kill(), *(person.work() for person in people))
    made = decisions
    await counting
    return people, time.perf_counter() - begin


def compare(store, people, overlap):
    """Return what went wrong, in numbers: all should be 0."""
    current = store.current()
    known = {d.decision_id for d in store.history()}
    acknowledged = {d for person in people for d in person.acknowledged}
    votes = collections.Counter(d.fit_id for d in current)
    pairs = collections.Counter((d.fit_id, d.annotator) for d in current)
    audit = {d.fit_id for d in current if d.source == "audit"}
    return {
        "lost": len(acknowledged - known),
        # A decision may have been taken whose answer the kill swallowed; then it was sent again.
        "unknown": len(known - acknowledged),
        "twice": sum(n > 1 for n in pairs.values()),
        "too_many_votes": sum(n > max(overlap, 2 if f in audit else 0) for f, n in votes.items()),
        "served_twice": sum(len(p.served) - len(set(p.served)) for p in people),
        "wrong_person": sum(
            d.annotator != person.name
            for person in people
            for d in store.history(annotator=person.name)
        ),
    }


def load(options):
    names = [f"annotator{k:02d}" for k in range(options.annotators)]
    with review(options.items, names, postgres=options.postgres) as (server, store, tokens):
        server.start()
        before = server.cpu_seconds()
        people, seconds = asyncio.run(
            annotate(server, tokens, options.decisions, options.think, options.kills)
        )
        times = [t for person in people for t in person.times]
        result = {
            "name": "load",
            "database": "postgresql" if options.postgres else "sqlite",
            "annotators": options.annotators,
            "items": options.items,
            "decisions": len(times),
            "kills": options.kills,
            "think_s": options.think,
            "seconds": round(seconds, 1),
            "per_second": round(len(times) / seconds, 1),
            "p50_ms": round(1e3 * statistics.median(times), 1),
            "p99_ms": round(1e3 * percentile(times, 0.99), 1),
            "server_cpu_ms": None
            if options.kills
            else round(1e3 * (server.cpu_seconds() - before) / len(times), 2),
            "wrong": compare(store, people, 2),
        }
    return result


def latency(options):
    """Judge by keyboard in Chromium; milliseconds from the key to the next photo on the screen."""
    from playwright.sync_api import sync_playwright

    with review(options.items, ["anna"], pictures=True, overlap=1) as (server, _store, _tokens):
        begin = time.perf_counter()
        server.start()
        start_s = time.perf_counter() - begin
        with sync_playwright() as tool:
            browser = tool.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(viewport={"width": 1360, "height": 850})
            page.goto(f"{server.url}/login")
            page.fill("input[name=name]", "anna")
            page.fill("input[name=password]", "password-anna")
            page.click("button")
            page.wait_for_function("window.FitReview && FitReview.shownAt", timeout=60000)
            opened = []
            for _ in range(5):
                page.reload(wait_until="commit")
                page.wait_for_function("window.FitReview && FitReview.shownAt", timeout=60000)
                opened.append(page.evaluate("FitReview.shownAt"))
            paces = {}
            for pace in options.pace:
                page.evaluate("FitReview.timings.length = 0")
                rng = random.Random(0)
                for _ in range(options.decisions):
                    page.wait_for_timeout(1000 * pace * rng.uniform(0.5, 1.5))
                    page.wait_for_function(
                        "!FitReview.decidedAt && FitReview.shownLease === FitReview.items[0].lease"
                    )
                    page.keyboard.press(rng.choice("aaas"))
                page.wait_for_function("!FitReview.decidedAt")
                times = page.evaluate("FitReview.timings")
                paces[f"every {pace} s"] = {
                    "n": len(times),
                    "p50_ms": round(statistics.median(times), 1),
                    "p95_ms": round(percentile(times, 0.95), 1),
                    "max_ms": round(max(times), 1),
                }
            browser.close()
    return {
        "name": "latency",
        "items": options.items,
        "server_start_s": round(start_s, 1),
        "open_ms": [round(t) for t in sorted(opened)],
        "decision_to_photo": paces,
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("latency")
    one.add_argument("--items", type=int, default=37_000)
    one.add_argument("--decisions", type=int, default=100)
    one.add_argument("--pace", type=float, nargs="+", default=[1.0, 0.3])
    two = commands.add_parser("load")
    two.add_argument("--annotators", type=int, default=50)
    two.add_argument("--decisions", type=int, default=10_000)
    two.add_argument("--items", type=int, default=37_000)
    two.add_argument("--think", type=float, default=1.0)
    two.add_argument("--kills", type=int, default=0)
    two.add_argument("--postgres", action="store_true")
    options = parser.parse_args(argv)
    result = latency(options) if options.command == "latency" else load(options)
    sys.stdout.write(json.dumps(result) + "\n")
    return result


if __name__ == "__main__":
    main()
