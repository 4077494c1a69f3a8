"""What is shown while one waits: a bar on a terminal, lines in a log; both only after two seconds."""

from __future__ import annotations

import io
import sys
import time
from typing import Any

from numba.core import event
from tqdm import tqdm

FIRST_S = 2.0  # until a wait is told of
LINE_S = 30.0  # between lines in a log


class Bar(tqdm):
    """A tqdm bar on stderr after 2 s; where stderr is no terminal (a log), a line after 2 s and then every half minute."""

    def __init__(self, *args: Any, **keys: Any) -> None:
        self._in_log, self._told = not sys.stderr.isatty(), -LINE_S
        more = {"mininterval": FIRST_S, "file": io.StringIO()} if self._in_log else {}  # lines are printed by `display`
        keys["disable"] = bool(keys.get("disable"))
        super().__init__(*args, **{"delay": FIRST_S, "leave": False, **more, **keys})

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        if not self._in_log:
            return super().display(msg, pos)
        done = bool(self.total) and self.n >= self.total
        if msg != "" and not done and time.monotonic() - self._told >= LINE_S:  # the empty one would clear the bar
            self._told = time.monotonic()
            scaled = tqdm.format_sizeof if self.unit_scale else str
            words = f"{scaled(self.n)} of {scaled(self.total)}" if self.total else f"{scaled(self.n)} {self.unit}"
            if self.total and self.n:
                words += f", {(self.total - self.n) * self.format_dict['elapsed'] / self.n / 60:.1f} min left"
            print(f"{self.desc.removesuffix(': ')}: {words}", file=sys.stderr)
        return True


class Compiling(event.Listener):
    """Says on stderr that kernels are being compiled, when that takes longer than 2 s, and then every half minute: for numba's
    "numba:compile" events, which come often, as kernels compile one after the other and what they call within them."""

    def __init__(self) -> None:
        self.spent, self.depth, self.since, self.next_at = 0.0, 0, 0.0, FIRST_S

    def on_start(self, event: event.Event) -> None:
        if self.depth == 0:
            self.since = time.monotonic()
        self.depth += 1
        self._tell()

    def on_end(self, event: event.Event) -> None:
        self._tell()
        self.depth -= 1
        if self.depth == 0:
            self.spent += time.monotonic() - self.since

    def _tell(self) -> None:
        spent = self.spent + time.monotonic() - self.since
        if spent > self.next_at:
            self.next_at = spent + LINE_S
            so_far = f" ({spent:.0f} s so far)" if spent > LINE_S else ""
            print(
                f"compiling kernels, once after an installation or an update: about a minute{so_far}", file=sys.stderr
            )
