"""The panel beside the picture: buttons, the tree, and what is in the status line; keys for the same."""

from __future__ import annotations

from collections.abc import Callable

import viser
from viser import CommandEvent

from scenes.viewer.actions import Actions
from scenes.viewer.channel import Channel, bar, button
from scenes.viewer.icons import icon
from scenes.viewer.session import News, Session
from scenes.viewer.tree import Tree

# name: label, icon, key, modifier, whether it needs a selection
_BUTTONS = {
    "undo": ("Undo", "undo", "Z", "cmd/ctrl", False),
    "redo": ("Redo", "redo", "Y", "cmd/ctrl", False),
    "duplicate": ("Duplicate", "copy", "D", "shift", True),
    "delete": ("Delete", "delete", "delete", None, True),
    "hide": ("Hide or show", "eye", "H", None, True),
    "group": ("Put into a new group", "group", "G", None, True),
    "ungroup": ("Dissolve the group", "ungroup", "G", "shift", True),
    "add_light": ("Add a light", "light", "L", None, False),
    "frame": ("Look at it", "frame", "F", None, False),
    "save": ("Save", "save", "S", "cmd/ctrl", False),
}
_KEYS = (
    ("deselect", "Select nothing", "escape"),
    ("parent", "Select what it hangs under", "U"),
    ("delete", "Delete what is selected", "backspace"),
    ("play", "Play or pause", "space"),
    ("key-here", "Set a key", "K"),
)
_GAPS_AFTER = ("redo", "hide", "ungroup")


class Panel:
    """The toolbar with its keys, and the tree."""

    def __init__(
        self, server: viser.ViserServer, session: Session, more: dict[str, Callable[[int | None], None]]
    ) -> None:
        """``more``: actions beside those of `Actions`; they are told which browser asked."""
        self._session, self._more = session, more
        self._actions = Actions(session)
        gui = server.gui
        Channel(gui, lambda client, words: session.post(lambda: self._do(client, words)))
        self._bar = gui.add_html(self._buttons())
        self._tree = Tree(gui, session)
        session.follow(self._update)
        for name, (label, _, key, modifier, _) in _BUTTONS.items():
            self._key(server, name, label, key, modifier)
        for name, label, key in _KEYS:
            self._key(server, name, label, key, None)

    def _key(self, server: viser.ViserServer, name: str, label: str, key: str, modifier: str | None) -> None:
        command = server.gui.add_command(label, hotkey=key, modifier=modifier)  # pyright: ignore[reportArgumentType]

        @command.on_trigger
        async def _(event: CommandEvent) -> None:
            self._session.post(lambda: self._do(event.client_id, [name]))

    def _do(self, client: int | None, words: list[str]) -> None:
        """One action. Words come from a browser: those that mean nothing are refused.

        Raises:
            ValueError: No such action, or one that can't be done now.
        """
        name, *arguments = [word for word in words if word not in ("shift", "more")]
        if name in self._more and not arguments:
            self._more[name](client)
        elif name in (*_BUTTONS, "deselect", "parent") and not arguments:
            getattr(self._actions, name)()
        elif name == "select" and len(arguments) == 1:
            self._session.select(self._tree.node(arguments[0]), more="more" in words)
        elif name == "fold" and len(arguments) == 1:
            self._tree.fold(arguments[0])
        elif name == "eye" and len(arguments) == 1 and (node := self._tree.node(arguments[0])) is not None:
            self._actions.toggle(node)
        elif name == "drop" and len(arguments) == 2 and (node := self._tree.node(arguments[0])) is not None:
            self._actions.drop(node, self._tree.node(arguments[1]))
        else:
            raise ValueError(f"unknown action {' '.join(words)[:60]!r}")

    def _update(self, news: News) -> None:
        if news.nodes or news.selection:
            content = self._buttons()
            if content != self._bar.content:
                self._bar.content = content

    def _buttons(self) -> str:
        undo, redo = self._session.graph.history
        nothing = not self._session.selection
        buttons = []
        for name, (label, picture, key, modifier, needs) in _BUTTONS.items():
            last = {"undo": undo, "redo": redo}.get(name)
            off = not last if last is not None else needs and nothing
            keys = f"{modifier.replace('cmd/', '').capitalize()}+{key}" if modifier else key.capitalize()
            what = f" {last[-1][:80]}" if last else ""
            buttons.append(button(name, f"{label}{what} ({keys})", icon(picture), disabled=off))
            buttons += [""] * (name in _GAPS_AFTER)
        return bar(buttons)
