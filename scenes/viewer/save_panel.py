"""Saving from the browser: a button, a name for copies, and a question before anything is overwritten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import viser
from viser import GuiEvent

from scenes.viewer.saving import AskFirst, Saving
from scenes.viewer.session import Session


class SavePanel:
    """Saves when it is asked to.

    Attributes:
        saved_log: How long the scene's log was when it was read or last saved.
    """

    def __init__(self, server: viser.ViserServer, session: Session, saving: Saving) -> None:
        self._server, self._session, self._saving = server, session, saving
        self.saved_log = len(session.graph.log)

    def add_folder(self) -> None:
        """The name for copies and its button, where there is a folder for them."""
        gui, session, saving = self._server.gui, self._session, self._saving
        if saving.places is None:
            return
        with gui.add_folder("Save as", expand_by_default=False):
            name = gui.add_text("Name", initial_value="" if saving.scene is None else f"{saving.scene.stem}-2")
            button = gui.add_button("Save a copy", hint=f"as NAME.scene in {saving.places}")

        @button.on_click
        async def _(event: GuiEvent) -> None:
            session.post(lambda: self.save_as(event.client_id, name.value))

    def save(self, client_id: int | None) -> None:
        """To the scene's own folder."""
        graph = self._session.graph

        def write(overwrite: bool) -> Path:
            length = len(graph.log)
            path = self._saving.save(graph, overwrite=overwrite)
            self.saved_log = length
            return path

        self._try(client_id, write)

    def save_as(self, client_id: int | None, name: str) -> None:
        """To another name in the folder for copies."""
        self._try(client_id, lambda overwrite: self._saving.save_as(self._session.graph, name, overwrite=overwrite))

    def _try(self, client_id: int | None, write: Callable[[bool], Path], overwrite: bool = False) -> None:
        client = self._server.get_clients().get(-1 if client_id is None else client_id)
        try:
            path = write(overwrite)
        except AskFirst as question:
            if client is not None:
                self._ask(client, str(question), lambda: self._try(client_id, write, True))
            return
        if client is not None:
            client.add_notification("Saved", path.name, color="green", auto_close_seconds=4.0)

    def _ask(self, client: viser.ClientHandle, question: str, go_on: Callable[[], None]) -> None:
        modal = client.gui.add_modal("Overwrite?")
        with modal:
            client.gui.add_markdown(f"{question[:1].upper()}{question[1:]}. Overwrite it?")
            yes, no = client.gui.add_button("Overwrite", color="red"), client.gui.add_button("Leave it")

        @yes.on_click
        async def _(_: GuiEvent) -> None:
            modal.close()
            self._session.post(go_on)

        @no.on_click
        async def _(_: GuiEvent) -> None:
            modal.close()
