"""Time: a slider, play and pause, keys of what is selected."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import viser

from scenes.track import Track
from scenes.viewer.channel import bar, button, escaped
from scenes.viewer.icons import icon
from scenes.viewer.session import News, Session
from scenes.viewer.widgets import listen

_TICK_S = 1 / 30
_SAME_S = 1e-6  # keys nearer than this are one


class TimePanel:
    """The folder of time. All browsers see the same time."""

    def __init__(self, gui: viser.GuiApi, session: Session) -> None:
        self._session = session
        self._playing: tuple[float, float] | None = None  # clock and scene time at the start
        first, last = session.graph.span
        with gui.add_folder("Time", expand_by_default=last > first):
            self._slider = gui.add_slider("Seconds", first, max(last, first + 1.0), 0.001, session.time)
            self._bar = gui.add_html(self._buttons())
            self._length = gui.add_number("Until", max(last, first + 1.0), step=0.1, hint="End of the slider, seconds")
        listen(self._slider, session, self._jump)
        listen(self._length, session, self._stretch)
        session.follow(self._update)

    def actions(self) -> dict[str, Callable[[int | None], None]]:
        """What its buttons do, by name."""
        steps = {"play": self.play, "key": self._toggle_keying, "key-here": self._set_key, "key-off": self._remove_key}
        jumps = {"key-back": lambda: self._step(-1), "key-next": lambda: self._step(1)}
        return {name: (lambda client, do=do: do()) for name, do in (steps | jumps).items()}

    # -- playing -------------------------------------------------------------------------------------------------------

    def play(self) -> None:
        """Plays from now on, over and over; or pauses."""
        self._playing = (time.monotonic(), self._session.time) if self._playing is None else None
        self._session.playing = self._playing is not None
        self._draw()
        if self._playing is not None:
            self._tick()

    def _tick(self) -> None:
        if self._playing is None:
            return
        began, start = self._playing
        first, last = self._slider.min, self._slider.max
        self._session.show_time(first + (start - first + time.monotonic() - began) % max(last - first, 1e-3))
        self._session.worker.post_later("play", _TICK_S, self._tick)

    def _jump(self, seconds: float) -> None:
        if self._playing is not None:
            self.play()
        self._session.show_time(float(seconds))

    def _stretch(self, until: float) -> None:
        self._slider.max = max(float(until), self._slider.min + 0.1, self._session.graph.span[1])

    # -- keys ----------------------------------------------------------------------------------------------------------

    def _track(self) -> Track:
        node = self._session.selected
        if node is None:
            raise ValueError("select something first: keys belong to a node")
        return node.track

    def _toggle_keying(self) -> None:
        self._session.keying = not self._session.keying
        self._draw()

    def _set_key(self) -> None:
        """A key where the selected node is now."""
        self._track()
        session = self._session
        if session.selected is not None:
            session.graph.move(session.selected.path, by=(0.0, 0.0, 0.0), time=session.time)

    def _remove_key(self) -> None:
        """Takes the key at this time away."""
        track, session = self._track(), self._session
        kept = np.abs(track.times - session.time) > _SAME_S
        if kept.all() or not track.moves or session.selected is None:
            raise ValueError(f"there is no key at {session.time:g} s")
        end = track.end if kept.sum() > 1 else "hold"
        left = Track(track.times[kept], track.quats[kept], track.translations[kept], track.interpolation, end)
        session.graph.animate(session.selected.path, left)

    def _step(self, direction: int) -> None:
        """To the next key of the selected node, or of the scene's span."""
        session = self._session
        times = session.selected.track.times if session.selected is not None and session.selected.moves else None
        found = np.array(session.graph.span) if times is None else times
        ahead = found[(found - session.time) * direction > _SAME_S]
        if len(ahead):
            session.show_time(float(ahead.min() if direction > 0 else ahead.max()))

    # -- showing -------------------------------------------------------------------------------------------------------

    def _update(self, news: News) -> None:
        if news.nodes:
            last = self._session.graph.span[1]
            if last > self._slider.max:
                self._slider.max = self._length.value = last
        if news.time:
            self._session.worker.post_once("slider", 0.2 if self._session.playing else 0.0, self._show_time)
        if news.nodes or news.selection or (news.time and self._playing is None):
            self._draw()

    def _show_time(self) -> None:
        self._slider.value = self._session.time

    def _draw(self) -> None:
        content = self._buttons()
        if content != self._bar.content:
            self._bar.content = content

    def _buttons(self) -> str:
        session = self._session
        playing = self._playing is not None
        buttons = [
            button("key-back", "To the key before", icon("back")),
            button(
                "play", "Pause (Space)" if playing else "Play (Space)", icon("pause" if playing else "play"), on=playing
            ),
            button("key-next", "To the next key", icon("forward")),
            "",
            button("key-here", "Set a key here (K)", icon("key"), disabled=session.selected is None),
            button("key-off", "Take the key at this time away", icon("key-off"), disabled=session.selected is None),
            button("key", "Edits of pose set keys at this time", "<small>auto key</small>", on=session.keying),
        ]
        text = ""
        if session.selected is not None and session.selected.moves:
            times = session.selected.track.times
            shown = ", ".join(f"{t:g}" for t in times[:8]) + (" ..." if len(times) > 8 else "")
            text = f'<div class="ss ss-note">{len(times)} keys at {escaped(shown)} s</div>'
        return bar(buttons) + text
