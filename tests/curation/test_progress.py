"""One line of progress: a bar on a terminal, log lines elsewhere, nothing when not asked."""

import io
import logging

from curation import progress
from curation.progress import Progress
from fitting.loop import FitLoop


class Terminal(io.StringIO):
    def isatty(self):
        return True


def stand_in(monkeypatch, stream):
    """In the test itself: pytest's capture replaces what a fixture sets."""
    monkeypatch.setattr("sys.stderr", stream)
    return stream


def test_a_bar_on_a_terminal(monkeypatch):
    terminal = stand_in(monkeypatch, Terminal())
    with Progress(10) as bar:
        bar.skip()
        bar.add(9, 20)
    assert "9/9" in terminal.getvalue()
    assert "persons/s" in terminal.getvalue()


def test_a_loop_alone_shows_nothing(monkeypatch):
    terminal = stand_in(monkeypatch, Terminal())
    loop = FitLoop(None, None, None, None, None, None, 1)
    loop.progress.add(1, 1)
    assert loop.progress.done == 1
    assert terminal.getvalue() == ""


def test_lines_without_a_terminal(monkeypatch, caplog):
    monkeypatch.setattr(progress, "_EVERY_S", -1.0)
    stand_in(monkeypatch, io.StringIO())
    clock = iter([0.0, 100.0, 100.0, 100.0, 100.0, 100.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, "curation.progress"), Progress(40) as line:
        line.add(10, 50)
    assert caplog.messages == ["10/40 photos, 0.5 persons/s, 5:00 left"]


def test_photos_of_nobody_tell_no_rate(monkeypatch, caplog):
    monkeypatch.setattr(progress, "_EVERY_S", -1.0)
    stand_in(monkeypatch, io.StringIO())
    with caplog.at_level(logging.INFO, "curation.progress"), Progress(40) as line:
        line.add(1, 0)
    assert caplog.messages == ["1/40 photos"]


def test_things_without_pieces_and_without_an_end(monkeypatch, caplog):
    monkeypatch.setattr(progress, "_EVERY_S", -1.0)
    stand_in(monkeypatch, io.StringIO())
    clock = iter([0.0, *[100.0] * 9])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, "curation.progress"), Progress(None, "mesh", None) as line:
        line.skip()
        line.add(10)
    assert caplog.messages == ["10 meshes, 0.1 meshes/s"]
