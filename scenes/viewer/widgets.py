"""Values of viser's widgets on their way to the session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from viser import GuiEvent

from scenes.viewer.session import Session


def listen(widget: Any, session: Session, take: Callable[[Any], None], *, delay_s: float = 0.0) -> None:
    """Has a value taken, in the session's thread, when a browser sets it (and not when we do).

    Args:
        delay_s: A value that changes again within this time isn't taken: what is typed or drawn is one edit, not one a letter.
    """
    key = f"widget {id(widget)}"

    @widget.on_update
    async def _(event: GuiEvent) -> None:
        if event.client_id is None:
            return
        value = event.target.value

        def job() -> None:
            if delay_s:
                session.worker.post_later(key, delay_s, lambda: take(value))
            else:
                take(value)

        session.post(job)
