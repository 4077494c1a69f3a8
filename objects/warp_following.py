"""Follows a template through a sequence of surfaces, from its own frame outwards.

The next surface is tried from where the last one was, and from where things would be if they went on as they moved before: legs
that pass each other between two frames can be exchanged at small cost, and only their velocity tells which is which. Of all tries
the one counts that fits best with the least bending. Afterwards each surface is tried again from between its neighbours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from objects.warp_surface import Surface
from objects.warp_tracking import FAR, NEAR, Motion, Template, bending, composed, moved, rebased, register

_CLOSE = 2  # stages that are left out where the guess is good
_BETTER = 0.95  # cost of a try that takes the place of another, a share of the other's at most
_MORE = 4  # times that a surface is tried again, on average, at most


class Followed(NamedTuple):
    """Motions of a template to each surface of a sequence, and how far they are from it (`misfit`)."""

    motions: list[Motion]
    misfits: list[float]


def follow(
    template: Template,
    surfaces: list[Surface],
    first: int,
    times: Float[np.ndarray, "t"],
    *,
    period: float | None = None,
    on_frame: Callable[[int], object] = lambda frame: None,
) -> Followed:
    """Follows a template, which is that of ``surfaces[first]``, to the end of a sequence and back to its begin.

    Args:
        template: What is followed.
        surfaces: At each time.
        first: Where the template is at rest.
        times: Of the surfaces, increasing.
        period: After which the motion begins again, None where it doesn't.
        on_frame: Called when a frame was reached.
    """
    search = _Search(template, surfaces, first, times, period)
    for step in range(1, len(surfaces)):
        for frame in (first + step, first - step):
            if 0 <= frame < len(surfaces):
                search.reach(frame, 1 if frame > first else -1)
                on_frame(frame)
        if step == 1:
            search.again(first + 1, first - 1, first)  # the first one had no velocity
    search.sweep()
    motions = [search.found[frame][0] for frame in range(len(surfaces))]
    return Followed(motions, [misfit(template, m, s) for m, s in zip(motions, surfaces, strict=True)])


class _Search:
    """The best motion to each surface so far, with its cost."""

    def __init__(
        self, template: Template, surfaces: list[Surface], first: int, times: np.ndarray, period: float | None
    ) -> None:
        self.template, self.surfaces, self.first, self.times, self.period = template, surfaces, first, times, period
        self.found: dict[int, tuple[Motion, float]] = {first: (Motion.none(len(template.nodes)), 0.0)}

    def reach(self, frame: int, side: int) -> None:
        """The motion to a surface beside one that was reached."""
        last = self.found[frame - side][0]
        self._try(frame, last, FAR)
        self.again(frame, frame - 2 * side, frame - side)

    def again(self, frame: int, one: int, two: int) -> bool:
        """Tries a surface from where things are if they move evenly between, or on from, two others; whether that is better."""
        guess = self._line(one, two, frame)
        frame %= len(self.surfaces)
        return guess is not None and frame != self.first and self._try(frame, guess, FAR[_CLOSE:])

    def sweep(self) -> None:
        """Tries each surface again from between its neighbours, and those beside one that got better from what that says."""
        n = len(self.surfaces)
        waiting = deque((frame, frame - 1, frame + 1) for frame in range(n))
        for _ in range(_MORE * n):
            if not waiting:
                break
            frame, one, two = waiting.popleft()
            if self.again(frame, one, two):
                near = [(frame + s, frame, frame - s) for s in (-1, 1)] + [
                    (frame + s, frame, frame + 2 * s) for s in (-1, 1)
                ]
                far = [(frame + 2 * s, frame, frame + s) for s in (-1, 1)]
                waiting.extend(q for q in near + far if q not in waiting)

    def _try(self, frame: int, guess: Motion, stages: tuple) -> bool:
        """Solves for a surface from a guess; whether that is the best so far."""
        target = self.surfaces[frame]
        found = register(rebased(self.template, guess), Motion.none(len(self.template.nodes)), target, stages)
        motion = register(self.template, composed(found, guess), target, NEAR)
        spent = cost(self.template, motion, target)
        if frame in self.found and spent > _BETTER * self.found[frame][1]:
            return False
        self.found[frame] = motion, spent
        return True

    def _at(self, frame: int) -> tuple[Motion, float] | None:
        """What was found for a frame and its time, around the loop if it is one."""
        n = len(self.surfaces)
        round_, frame = divmod(frame, n)
        if (round_ and self.period is None) or frame not in self.found:
            return None
        return self.found[frame][0], float(self.times[frame]) + round_ * (self.period or 0.0)

    def _line(self, one: int, two: int, frame: int) -> Motion | None:
        """Where things are in a frame that lies on a line through two others."""
        n = len(self.surfaces)
        a, b = self._at(one), self._at(two)
        round_, frame = divmod(frame, n)
        time = float(self.times[frame]) + round_ * (self.period or 0.0)
        return None if a is None or b is None else evenly(a[0], b[0], (time - a[1]) / (b[1] - a[1]))


def evenly(a: Motion, b: Motion, share: float) -> Motion:
    """Where things are that move evenly from one motion to another, at a share of the way (above 1: beyond it)."""
    turned = Rotation.from_matrix(b.rotation @ a.rotation.transpose(0, 2, 1)).as_rotvec()
    return Motion(Rotation.from_rotvec(share * turned).as_matrix() @ a.rotation, a.shift + share * (b.shift - a.shift))


def misfit(template: Template, motion: Motion, target: Surface) -> float:
    """Mean distance between the moved template and a surface, both ways, in units of the extent."""
    return float(np.concatenate(distances(template, motion, target)).mean()) / template.extent


def cost(template: Template, motion: Motion, target: Surface) -> float:
    """What is minimised where a template is nearly on a surface: distances, far ones bounded, and how nodes disagree."""
    reach = NEAR[0].reach * template.extent
    squares = np.concatenate(distances(template, motion, target)) ** 2
    data = float((squares / (1 + squares / reach**2)).mean())
    return 1e4 * (data + NEAR[0].stiffness * bending(template, motion) / len(template.nodes)) / template.extent**2


def distances(template: Template, motion: Motion, target: Surface) -> list[np.ndarray]:
    """From each moved point to the surface, and from each of the surface's points to the template; along the normals where they are
    near, as they don't lie at the same places."""
    places, normals = moved(template, motion)
    there = KDTree(target.dense).query(places)[1]
    back = KDTree(places).query(target.points)[1]
    ways = [(places - target.dense[there], target.dense_normals[there]), (target.points - places[back], normals[back])]
    found = []
    for off, normal in ways:
        straight = np.linalg.norm(off, axis=1)
        found.append(np.where(straight < 0.5 * template.spacing, np.abs((off * normal).sum(1)), straight))
    return found
