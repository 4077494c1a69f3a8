"""Intervals of time over which one index of a field holds.

A field that bends claims a span of seconds (`Field.span`). The span is cut into equal intervals, so short that the surface moves
by about a cell in each; an index holds for one of them. So a new time costs no index but the first time in its interval, all
instances whose times lie in one interval share one, and memory is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from compose.field_cache import FieldCache
from objects.field import Field

_MOST = 64  # intervals of a span
_PIECES = 64  # of the span, over which the motion is measured
_POINTS = 2048
_CLOSE = 0.1  # up to this distance a point counts as close to the surface, a share of the diagonal of the box
_MOTION = 1 / 48  # how much distances may change over an interval, a share of the longest edge of the box


class Interval(NamedTuple):
    """From one time to another, seconds."""

    start: float
    end: float

    def phase(self, time: float) -> float:
        """Where in it a time is, from -1 at its start to 1 at its end; times outside are clamped."""
        if self.end <= self.start:
            return 0.0
        return min(max(2 * (time - self.start) / (self.end - self.start) - 1, -1.0), 1.0)


When = float | Interval | None  # what an index holds for: a time, an interval, or all times

_CACHE: FieldCache[int] = FieldCache()


def intervals_at(field: Field, times: Sequence[float | None]) -> list[When]:
    """What the index to be used at each time holds for: an interval of the field's span, or the time itself of a field that claims
    none."""
    timed = [time is not None for time in times]
    span = field.span if any(timed) else None
    if span is None:
        return list(times)
    start, end = span
    n = _CACHE.of(field, None, lambda: _count(field, start, end)) if end > start else 1

    def at(time: float) -> Interval:
        k = int(np.clip(np.floor((time - start) / (end - start) * n), 0, n - 1)) if end > start else 0
        return Interval(start + (end - start) * k / n, start + (end - start) * (k + 1) / n)

    return [None if time is None else at(time) for time in times]


@torch.no_grad()
def _count(field: Field, start: float, end: float) -> int:
    """How many intervals a span is cut into: by the largest change of the distance, close to the surface."""
    draws = torch.quasirandom.SobolEngine(3, scramble=True, seed=0).draw(_POINTS).to(field.box_lo.dtype)
    p = field.box_lo + draws * field.bounds.size
    times = torch.linspace(start, end, _PIECES + 1)
    known = [field.sdf(p, torch.full((_POINTS,), float(t))) for t in times]
    steps = [
        (b - a).abs()[torch.minimum(a.abs(), b.abs()) < _CLOSE * field.bounds.diagonal] for a, b in pairwise(known)
    ]
    most = max((float(step.quantile(0.98)) for step in steps if len(step)), default=0.0)
    return int(np.clip(np.ceil(_PIECES * most / (_MOTION * float(field.bounds.size.max()))), 1, _MOST))
