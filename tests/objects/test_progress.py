"""Bars on a terminal, lines in a log, and the line that says that kernels are compiled."""

import numba
import pytest
from numba.core import event

from objects import progress
from objects.progress import Bar, Compiling


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(progress, "FIRST_S", 0.0)


def test_a_log_gets_a_line_at_first_and_then_every_half_minute(monkeypatch, capsys):
    monkeypatch.setattr(progress, "FIRST_S", 2.0)
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    for _ in Bar(range(100), desc="sheet", unit="object"):
        now[0] += 1.0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"sheet: {n} of 100" for n in (2, 32, 62, 92)]
    assert lines[1].endswith(", 1.1 min left")


def test_what_ends_within_two_seconds_says_nothing(monkeypatch, capsys):
    monkeypatch.setattr(progress, "FIRST_S", 2.0)
    assert list(Bar(range(1000), desc="loading", unit="field")) == list(range(1000))
    with Bar(total=10, desc="render", unit="ray") as bar:
        bar.update(10)
    assert capsys.readouterr().err == ""


def test_a_bar_that_is_turned_off_says_nothing(impatient, capsys):
    assert sum(Bar(range(5), disable=True)) == 10
    assert capsys.readouterr().err == ""


def test_compiling_is_told_after_two_seconds_and_every_half_minute(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "FIRST_S", 2.0)
    listener = Compiling()
    start, end = (event.Event("numba:compile", status) for status in (event.EventStatus.START, event.EventStatus.END))
    for _ in range(20):  # kernels of two seconds; what is done between them doesn't count
        listener.on_start(start)
        now[0] += 2.0
        listener.on_end(end)
        now[0] += 100.0
    lines = capsys.readouterr().err.splitlines()
    assert [line.rsplit("minute", 1)[1] for line in lines] == ["", " (36 s so far)"]


def test_numba_says_when_it_compiles():
    heard = []

    class Heard(event.Listener):
        def on_start(self, event):
            heard.append("start")

        def on_end(self, event):
            heard.append("end")

    with event.install_listener("numba:compile", Heard()):

        @numba.njit
        def add(x):
            return x + 1

        assert add(1) == 2
        assert add(1) == 2
    assert heard == ["start", "end"]
