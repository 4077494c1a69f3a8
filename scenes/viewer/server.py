"""The web server: viser's own, bound to one address, for pages that it served itself, and messages that the viewer takes."""

from __future__ import annotations

import contextlib
import functools
import io
import socket
import threading
from collections.abc import Iterator
from typing import Any

import viser
import websockets.asyncio.server

from scenes.viewer.messages import MOST_BYTES, is_taken

_NOTHING = ("0.0.0.0", "::", "")  # hosts that stand for all addresses of the machine
_STARTING = threading.Lock()


class Server(viser.ViserServer):
    """A viser server without its way to the outside world."""

    def request_share_url(self, verbose: bool = True) -> str | None:
        """viser would ask a server of others for a public address of this one; nothing here does."""
        return None


def start_server(host: str, port: int, origins: list[str]) -> Server:
    """Starts serving.

    Args:
        host: The address to bind to.
        port: 0 for any that is free.
        origins: Pages (``http://name:port``) that may connect beside those that this server serves.

    Raises:
        ValueError: The port is taken, or the address is none of this machine.
    """
    if not isinstance(port, int) or not 0 <= port <= 65535:
        raise ValueError(f"port: expected a whole number from 0 to 65535, got {port!r}")
    port = _free_port(host, port)
    allowed = {f"http://{name}:{port}" for name in _names_of(host)} | set(origins)
    with _STARTING, _guarded(allowed), contextlib.redirect_stdout(io.StringIO()):  # it prints a banner
        server = Server(host=host, port=port, label="Sirenscape", verbose=False)
    if server.get_port() != port:
        server.stop()
        raise ValueError(f"port: {port} was taken by another program meanwhile; give another one")
    return server


def stop_server(server: Server) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        server.stop()


def address(host: str, port: int) -> str:
    """What to type into a browser."""
    name = "localhost" if host in _NOTHING else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"


def _names_of(host: str) -> list[str]:
    """Under which names a browser finds the server."""
    names = ["localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host]
    if host in _NOTHING:
        names.append(socket.gethostname())
        with contextlib.suppress(OSError):
            names += [str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    return names


def _free_port(host: str, port: int) -> int:
    """viser would take the next one that is free, without a word."""
    try:
        family = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise ValueError(
            f"port: cannot listen at {host}:{port} ({error.strerror or error}); port=0 takes any free one"
        ) from None


@contextlib.contextmanager
def _guarded(origins: set[str]) -> Iterator[None]:
    """While it runs, websocket servers are made with checks of who connects and what comes. viser has no setting for it."""
    serve = websockets.asyncio.server.serve

    @functools.wraps(serve)
    def guarded_serve(handler: Any, *arguments: Any, **keys: Any) -> Any:
        async def guarded(connection: Any) -> None:
            await handler(_Guarded(connection))

        # A program that is no browser says no origin.
        return serve(guarded, *arguments, **keys | {"origins": [*sorted(origins), None], "max_size": MOST_BYTES})

    websockets.asyncio.server.serve = guarded_serve  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        websockets.asyncio.server.serve = serve


class _Guarded:
    """A connection through which only messages come that the viewer takes."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def recv(self) -> bytes:
        while True:
            raw = await self._connection.recv()
            if is_taken(raw):
                return raw
