"""The clock of a node: when in the span of its field it is, at each time of the scene."""

from __future__ import annotations

from dataclasses import dataclass, replace

from scenes.track import number


@dataclass(frozen=True, slots=True)
class Clock:
    """From the time of a scene to that of a field that bends: ``speed * time + offset`` (seconds).

    What lies outside of the field's span is clamped to it, or folded into it where the clock loops (the end is the start again).
    So one field runs at many phases.

    Args:
        offset: The field's time at time 0.
        speed: Of its time; 0 for a pause, below 0 backward.
        loop: Whether the span repeats.

    Raises:
        ValueError: Numbers that are not finite, or a ``loop`` that is not True or False.
    """

    offset: float = 0.0
    speed: float = 1.0
    loop: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "offset", number(self.offset, "clock: offset"))
        object.__setattr__(self, "speed", number(self.speed, "clock: speed"))
        if not isinstance(self.loop, bool):
            raise ValueError(f"clock: loop must be True or False, got {self.loop!r}")

    def at(self, time: float, span: tuple[float, float] | None) -> float:
        """The field's time at ``time``, for a field with this span (None: it claims none)."""
        own = self.speed * time + self.offset
        if span is None:
            return own
        start, end = span
        if self.loop and end > start:
            own = start + (own - start) % (end - start)
            return own if own < end else start  # the remainder may round up to the period
        return min(max(own, start), end)

    def retimed(self, shift: float, factor: float) -> Clock:
        """That of the same motion when what happened at ``t`` happens at ``factor * t + shift``."""
        return replace(self, offset=self.offset - self.speed * shift / factor, speed=self.speed / factor)

    def times(self, span: tuple[float, float]) -> tuple[float, float] | None:
        """From when to when in the scene the field goes through its span (in a loop: once, from time 0 on); None where the clock
        stands still."""
        if self.speed == 0 or span[0] == span[1]:
            return None
        start, end = sorted((own - self.offset) / self.speed for own in span)
        return (0.0, end - start) if self.loop else (start, end)


SCENE_TIME = Clock()  # that of a field which is as old as its scene
