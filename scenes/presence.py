"""When a node is there: stretches of time, outside of which it is left out of pictures, light and questions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

Span = tuple[float, float]  # seconds, from and to, both included; the first may begin at -inf, the last end at inf


def checked_spans(spans: Iterable[Sequence[float]], what: str) -> tuple[Span, ...]:
    """Stretches of time as pairs of floats; none stands for always.

    Raises:
        ValueError: Something else than pairs of numbers that rise from the first to the last.
    """
    try:
        found = tuple((float(start), float(end)) for start, end in spans)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{what}: expected pairs of seconds, from and to, got {spans!r}") from None
    for start, end in found:
        if not start <= end or start == math.inf or end == -math.inf:  # NaN, too
            raise ValueError(
                f"{what}: expected seconds from and to, the first not after the second, got {start:g} {end:g}"
            )
    for (_, end), (start, _) in pairwise(found):
        if start <= end:
            raise ValueError(
                f"{what}: expected stretches one after the other, got one to {end:g} s and the next from {start:g} s"
            )
    return () if found == ((-math.inf, math.inf),) else found


def within(spans: Sequence[Span], time: float) -> bool:
    """Whether what is there in these stretches is there at ``time``."""
    return not spans or any(start <= time <= end for start, end in spans)


def ends_of(spans: Sequence[Span]) -> list[float]:
    """Times (seconds) at which it comes or goes, in order."""
    return [time for span in spans for time in span if math.isfinite(time)]


def told(spans: Sequence[Span]) -> str:
    """In words: ``there to 0.2 s, 0.5 to 0.8 s``; empty for always."""
    words = []
    for start, end in spans:
        first = f"{start:g}" if math.isfinite(start) else ""
        last = f"to {end:g} s" if math.isfinite(end) else "s on"
        words.append(" ".join(filter(None, (first, last))) if first or math.isfinite(end) else "")
    return f"there {', '.join(words)}" if words else ""
