"""What a browser shows until its first picture, where that takes long: on a machine that is new to them, kernels are compiled
first, for about a minute.
"""

from __future__ import annotations

import threading
import warnings

import viser

from objects.pose import SE3
from scenes.viewer.proxies import Proxies, plain_mesh
from scenes.viewer.session import Session

_PATIENCE_S = 1.5  # a first picture that comes sooner is just waited for


class Waiting:
    """Tells each browser that it has to wait, and shows meshes until there is a picture."""

    def __init__(self, server: viser.ViserServer, session: Session) -> None:
        self._server, self._session = server, session
        self._proxies = Proxies(server, "/waiting", session.unit, plain_mesh)
        self._threads: dict[int, threading.Timer] = {}  # by browser
        self._told: dict[int, viser.NotificationHandle] = {}
        self._over, self._lock = False, threading.Lock()
        session.when_drawn.append(self._drawn)

    def begin(self, client: viser.ClientHandle) -> None:
        """A browser came."""
        if not self._over:
            thread = threading.Timer(_PATIENCE_S, self._tell, [client])
            thread.daemon = True
            self._threads[client.client_id] = thread
            thread.start()

    def close(self) -> None:
        """Waits for what is being made."""
        self._over = True
        for thread in list(self._threads.values()):
            thread.cancel()
            thread.join(timeout=10.0)

    def _tell(self, client: viser.ClientHandle) -> None:
        session = self._session
        with self._lock, warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Queued a .* on a closed connection"
            )  # the browser may have gone meanwhile
            if self._over:
                return
            self._told[client.client_id] = client.add_notification(
                "The first picture is on its way",
                "A machine that is new to it compiles first, for about a minute, once. Until then there are coarse meshes.",
                loading=True,
                with_close_button=False,
            )
            client.flush()
            self._proxies.make("all", session.graph.at(session.time).instances, SE3.identity())
            self._proxies.show(True)

    def _drawn(self, client_id: int, level: int) -> None:
        if self._over and not self._told:
            return
        self._over = True
        with self._lock:  # what is being made is finished first
            for note in self._told.values():
                note.remove()
            self._told.clear()
            if self._proxies.shown:
                self._proxies.show(False)
                self._proxies.clear()
