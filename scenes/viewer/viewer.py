"""One scene in browsers: the server, the session and the panels put together."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import viser
from viser import SceneClickEvent

from rendering import Camera
from scenes.graph import SceneGraph
from scenes.paths import Settings
from scenes.pictures import camera_for
from scenes.viewer.gizmo import Gizmo
from scenes.viewer.inspector import Inspector
from scenes.viewer.look_panel import LookPanel, seen_from
from scenes.viewer.marks import Marks
from scenes.viewer.panel import Panel
from scenes.viewer.save_panel import SavePanel
from scenes.viewer.saving import Saving
from scenes.viewer.server import address, start_server, stop_server
from scenes.viewer.session import Session
from scenes.viewer.status import Status
from scenes.viewer.stream import Figures
from scenes.viewer.time_panel import TimePanel
from scenes.viewer.waiting import Waiting

_CAMERA: Settings = {f"camera.{key}": None for key in ("name", "eye", "target", "width", "height")} | {
    "camera.fov": 45.0
}


class Viewer:
    """A scene that is shown to browsers. What `view` returns.

    Edits made in code appear in the browsers; edits made there are in the scene (see `SceneGraph.subscribe`).
    """

    def __init__(self, graph: SceneGraph, host: str, port: int, origins: Sequence[str], saving: Saving) -> None:
        self.scene = graph
        self._server = start_server(host, port, list(origins))
        try:
            self._session = Session(graph, self._failed)
            self._build(saving)
        except BaseException:
            stop_server(self._server)
            raise
        self.url = address(host, self._server.get_port())
        self._session.start()

    def _build(self, saving: Saving) -> None:
        server, session = self._server, self._session
        server.gui.configure_theme(
            show_logo=False, show_share_button=False, control_width="medium", brand_color=(55, 90, 160)
        )
        server.scene.world_axes.visible = False
        place, ahead, fov = seen_from(session, camera_for(session.graph, _CAMERA, session.time))
        initial = server.initial_camera
        initial.position, initial.look_at, initial.fov = place, ahead, fov
        Gizmo(server, session)
        self._saves = SavePanel(server, session, saving)
        more = {"save": self._saves.save}
        Panel(server, session, more)
        Inspector(server.gui, session)
        more |= LookPanel(server, session, Marks(server, session)).actions() | TimePanel(server.gui, session).actions()
        self._saves.add_folder()
        Status(server.gui, session)

        self._waiting = waiting = Waiting(server, session)

        @server.on_client_connect
        async def _(client: viser.ClientHandle) -> None:
            waiting.begin(client)
            session.post(lambda: session.stream.add(client))

            @client.camera.on_update
            async def _(_: viser.CameraHandle) -> None:
                session.post(lambda: session.stream.look(client))

        @server.on_client_disconnect
        async def _(client: viser.ClientHandle) -> None:
            session.post(lambda: session.stream.drop(client))

        async def click(event: SceneClickEvent) -> None:
            origin, direction = np.array(event.ray_origin), np.array(event.ray_direction)
            keys = event.modifier or ""
            session.post(lambda: session.click(origin, direction, alone=keys == "shift", more="ctrl" in keys))

        for modifier in (None, "shift", "cmd/ctrl"):
            server.scene.on_click(modifier=modifier)(click)  # pyright: ignore[reportArgumentType] (it takes coroutines)

    def _failed(self, error: Exception) -> None:
        text = " ".join(str(error).split()) or type(error).__name__
        for client in self._server.get_clients().values():
            client.add_notification("That did not work", text[:400], color="red", auto_close_seconds=8.0)

    # -- the handle ----------------------------------------------------------------------------------------------------

    @property
    def selected(self) -> str | None:
        """The path of what was selected last."""
        return self.selection[-1] if self.selection else None

    @property
    def selection(self) -> list[str]:
        """The paths of all that is selected."""
        return [node.path for node in self._session.selection]

    @property
    def unsaved(self) -> int:
        """Edits, undone and redone steps since the scene was read or last saved."""
        return max(len(self.scene.log) - self._saves.saved_log, 0)

    @property
    def cameras(self) -> list[Camera]:
        """Where each browser looks from."""
        stream = self._session.stream
        found = [stream.camera_of(client_id) for client_id in self._server.get_clients()]
        return [camera for camera in found if camera is not None]

    @property
    def time(self) -> float:
        """The time that is shown, seconds."""
        return self._session.time

    @property
    def unit(self) -> float:
        """Lengths in the browser for a metre of the scene."""
        return self._session.unit

    @property
    def at_rest(self) -> bool:
        """Whether every browser has its finest picture of what there is now."""
        return self._session.at_rest

    @property
    def figures(self) -> Figures:
        """What the last pictures took."""
        return self._session.stream.figures

    def wait(self) -> None:
        """Waits until the program is stopped (Ctrl-C)."""
        threading.Event().wait()

    def close(self) -> None:
        """Stops serving. Edits that a browser has made stay in the scene; nothing is saved."""
        self._waiting.close()
        self._session.stop()
        stop_server(self._server)

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
