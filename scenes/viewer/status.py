"""The last lines of the panel: how fast pictures come, what is in the scene, what the networks were asked."""

from __future__ import annotations

import viser

from scenes.viewer.session import Session

_COUNTED_PIXELS = 5_000  # rays of the trace that counts evaluations


class Status:
    """Figures, twice a second at most."""

    def __init__(self, gui: viser.GuiApi, session: Session) -> None:
        self._session = session
        self._evaluations = 0.0  # a pixel
        self._html = gui.add_html(self._text())
        session.when_drawn.append(self._drawn)

    def _drawn(self, client_id: int, level: int) -> None:
        if level == 1:
            self._session.worker.post_idle("count", lambda: self._count(client_id))
        self._session.worker.post_once("status", 0.5, self._draw)

    def _count(self, client_id: int) -> None:
        """What a picture asks of the networks, counted with few rays."""
        session = self._session
        camera = session.stream.camera_of(client_id)
        if camera is None:
            return
        shrink = min(1.0, (_COUNTED_PIXELS / (camera.width * camera.height)) ** 0.5)
        small = camera.resized(max(int(shrink * camera.width), 1), max(int(shrink * camera.height), 1))
        count = session.subject().composite.trace_count(small.rays())
        self._evaluations = count.evaluations / max(count.rays, 1)
        self._draw()

    def _draw(self) -> None:
        text = self._text()
        if text != self._html.content:
            self._html.content = text

    def _text(self) -> str:
        session, figures = self._session, self._session.stream.figures
        objects = len(session.graph.at(session.time))
        rate = f"{1 / figures.draft_s:.0f} pictures/s while it moves" if figures.draft_s else ""
        full = f"{figures.full_s:.2f} s for a full one" if figures.full_s else ""
        parts = [
            f"{objects:,} objects",
            f"{len(session.graph.fields):,} fields",
            f"{self._evaluations:.1f} evaluations a pixel",
        ]
        lines = [" &middot; ".join(parts), " &middot; ".join(filter(None, (rate, full)))]
        return f'<div class="ss ss-note">{"<br>".join(lines)}</div>'
