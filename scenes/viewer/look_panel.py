"""How the scene is shown and from where: layers, lights, axis views, cameras."""

from __future__ import annotations

import numpy as np
import viser

from rendering import Camera
from scenes.viewer.actions import free_path
from scenes.viewer.channel import bar, button
from scenes.viewer.icons import icon
from scenes.viewer.marks import Marks
from scenes.viewer.session import LAYERS, LIGHTINGS, News, Session
from scenes.viewer.widgets import listen

_LAYER_NAMES = dict(zip(("colour", "depth", "normals", "ids", "seen", "canonical"), LAYERS, strict=True))
_AXES = {
    "front": (0.0, -1.0, 0.0),
    "back": (0.0, 1.0, 0.0),
    "right": (1.0, 0.0, 0.0),
    "left": (-1.0, 0.0, 0.0),
    "top": (0.0, -1e-3, 1.0),
    "bottom": (0.0, -1e-3, -1.0),
}
_CHOOSE = "choose ..."


class LookPanel:
    """The folder of views. Axis views and cameras move the browser that asked."""

    def __init__(self, server: viser.ViserServer, session: Session, marks: Marks) -> None:
        self._server, self._session = server, session
        gui = server.gui
        with gui.add_folder("View"):
            layer = gui.add_dropdown("Layer", tuple(_LAYER_NAMES))
            self._lighting = gui.add_dropdown("Light", LIGHTINGS, initial_value=session.lighting)
            gui.add_html(
                bar(
                    [button("keep-camera", "Keep this view as a camera of the scene", icon("add-camera")), ""]
                    + [button(f"look-{name}", f"Look from {name}", f"<small>{name}</small>") for name in _AXES]
                )
            )
            self._cameras = gui.add_dropdown("Camera", (_CHOOSE, *session.graph.cameras))
            axes = gui.add_dropdown(
                "Arrows along", ("world", "own"), hint="the world's axes, or those of what is selected"
            )
            marked = gui.add_checkbox("Marks", True, hint="of cameras and lights")
        listen(marked, session, marks.show)
        listen(axes, session, session.show_axes)
        listen(layer, session, lambda name: session.show_layer(_LAYER_NAMES[name]))
        listen(self._lighting, session, session.show_lighting)

        @self._cameras.on_update
        async def _(event: viser.GuiEvent) -> None:
            if event.client is not None and event.target.value != _CHOOSE:
                client, path = event.client, event.target.value
                session.post(lambda: self._look_through(client, path))

        session.follow(self._update)

    def actions(self) -> dict:
        """What its buttons do, by name: told the browser that asked."""
        looks = {f"look-{name}": (lambda client, way=way: self._look_along(client, way)) for name, way in _AXES.items()}
        return {**looks, "keep-camera": self._keep, "frame": self._frame}

    def _update(self, news: News) -> None:
        if news.look:
            self._lighting.value = self._session.lighting
        if news.nodes:
            names = (_CHOOSE, *self._session.graph.cameras)
            if tuple(self._cameras.options) != names:
                self._cameras.options = names

    def _client(self, client_id: int | None) -> viser.ClientHandle | None:
        return self._server.get_clients().get(-1 if client_id is None else client_id)

    def _look_through(self, client: viser.ClientHandle, path: str) -> None:
        session = self._session
        self._cameras.value = _CHOOSE  # so that it can be chosen again
        camera = session.graph.camera_at(path, session.time)
        place, ahead, fov = seen_from(session, camera)
        self._send(client, place, ahead, fov)

    def _look_along(self, client_id: int | None, way: tuple[float, float, float]) -> None:
        """From one side at what is selected, or at all."""
        self._fit(client_id, np.array(way))

    def _frame(self, client_id: int | None) -> None:
        """At what is selected, or at all, from where the browser looks."""
        client = self._client(client_id)
        if client is not None:
            self._fit(client_id, np.asarray(client.camera.position) - np.asarray(client.camera.look_at))

    def _fit(self, client_id: int | None, way: np.ndarray) -> None:
        session, client = self._session, self._client(client_id)
        nodes = session.selection
        box = session.bounds_of(nodes) if nodes else session.graph.at(session.time).bounds
        if client is None or box is None:
            return
        camera = client.camera
        middle = session.unit * box.center.double().numpy()
        narrow = 0.5 * camera.fov * min(1.0, camera.aspect)
        distance = 0.55 * session.unit * float(box.diagonal) / np.sin(narrow)
        self._send(client, middle + distance * way / max(float(np.linalg.norm(way)), 1e-9), middle, camera.fov)

    def _send(self, client: viser.ClientHandle, place: np.ndarray, ahead: np.ndarray, fov: float) -> None:
        camera = client.camera
        with client.atomic():
            camera.fov = fov
            camera.position = place
            camera.look_at = ahead

    def _keep(self, client_id: int | None) -> None:
        """Adds a camera to the scene where a browser looks from."""
        session = self._session
        camera = None if client_id is None else session.stream.camera_of(client_id)
        if camera is not None:
            path = free_path(session.graph, "view-1")
            session.graph.add(path, camera=camera)


def seen_from(session: Session, camera: Camera) -> tuple[np.ndarray, np.ndarray, float]:
    """A camera of the scene as a browser has it: place, a point ahead (browser's lengths), vertical field of view."""
    matrix = camera.T_world_cam.as_matrix().numpy()
    place, forward = matrix[:3, 3], matrix[:3, 2]
    bounds = session.graph.at(session.time).bounds
    middle = place + forward if bounds is None else bounds.center.double().numpy()
    ahead = float((middle - place) @ forward)
    ahead = ahead if ahead > 0 else 1.0 / session.unit
    fov = 2 * float(np.arctan(0.5 * camera.height / camera.fy))
    return session.unit * place, session.unit * (place + ahead * forward), fov
