"""How long a run takes whose stages cost different amounts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from objects.progress import Bar

_Item = TypeVar("_Item")


class Work:
    """One bar for a run whose stages cost different amounts: the time left is that of the whole run.

    Args:
        costs: What each stage costs, in any unit, the same for all; only their shares count.
        label: What the bar says.
        progress: Whether there is one.
    """

    def __init__(self, costs: Mapping[str, float], label: str, progress: bool = True) -> None:
        self._costs, total = dict(costs), max(sum(costs.values()), 1e-9)
        self._share = {name: cost / total for name, cost in costs.items()}
        self._done = dict.fromkeys(costs, 0.0)
        self._bar = Bar(total=100, desc=label, unit="%", disable=not progress)

    def advance(self, name: str, share: float) -> None:
        """A stage has done so much more of its work, 0 to 1; never more than all of it."""
        self._done[name] = min(self._done[name] + share, 1.0)
        done = int(100 * sum(self._share[k] * v for k, v in self._done.items()) + 1e-6)
        if done > self._bar.n:
            self._bar.update(done - self._bar.n)

    def finish(self, name: str) -> None:
        """A stage has ended, perhaps sooner than expected."""
        self.advance(name, 1.0)

    def over(self, name: str, items: Sequence[_Item]) -> Iterable[_Item]:
        """The items, each an equal share of a stage."""
        for item in items:
            yield item
            self.advance(name, 1 / len(items))
        self.finish(name)

    def close(self) -> None:
        self._bar.close()
