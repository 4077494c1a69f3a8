"""One bar for stages of different costs."""

from __future__ import annotations

from rendering.learning.work import Work


def test_a_run_is_as_far_as_its_costs_say(monkeypatch):
    told: list[int] = []
    monkeypatch.setattr(
        "rendering.learning.work.Bar.update", lambda bar, n: told.append(n) or setattr(bar, "n", bar.n + n)
    )
    work = Work({"long": 30.0, "short": 10.0, "none": 0.0}, "test", progress=False)
    assert list(work.over("long", range(3))) == [0, 1, 2]
    assert sum(told) == 75
    work.advance("short", 0.5)
    assert sum(told) == 87
    work.advance("short", 5.0)  # it took longer than expected
    work.finish("short")
    work.finish("none")
    assert sum(told) == 100
    work.close()
