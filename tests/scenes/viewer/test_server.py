"""Who may connect, what is taken, and what is said when it can't serve."""

import random
import socket
import urllib.error
import urllib.request

import msgspec
import pytest
import viser
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from objects import Sphere
from scenes import SceneGraph, view
from scenes.viewer.messages import is_taken

PROTOCOL = [f"viser-v{viser.__version__}"]
CAMERA = {
    "type": "ViewerCameraMessage", "wxyz": [1.0, 0.0, 0.0, 0.0], "position": [0.0, 0.0, -3.0], "fov": 0.8, "near": 0.01,
    "far": 1000, "image_height": 24, "image_width": 32, "look_at": [0, 0, 0], "up_direction": [0.0, -1.0, 0.0],
}  # fmt: skip


@pytest.fixture
def viewer():
    scene = SceneGraph()
    scene.add("ball", Sphere(0.5))
    with view(scene, port=0) as viewer:
        yield viewer


def packed(**changes) -> bytes:
    return msgspec.msgpack.encode(CAMERA | changes)


def garbled(rng: random.Random) -> bytes:
    """A message that is nearly one, or none at all."""
    kinds = [
        "ViewerCameraMessage",
        "ScenePointerMessage",
        "GuiUpdateMessage",
        "ShareUrlRequest",
        "FileTransferStartUpload",
        7,
    ]
    values = [None, -1, 1e308, float("nan"), "x" * 50, [], [[]], {"value": {}}, b"\xff", True, [1, 2, 3]]
    if rng.random() < 0.3:
        return rng.randbytes(rng.randrange(60))
    message = dict(CAMERA, type=rng.choice(kinds))
    for _ in range(rng.randrange(1, 4)):
        message[rng.choice([*CAMERA, "uuid", "updates", "name"])] = rng.choice(values)
    raw = bytearray(msgspec.msgpack.encode(message))
    if rng.random() < 0.5:
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(raw)


def test_messages_are_taken_as_viser_sends_them_and_refused_with_anything_else():
    assert is_taken(packed())
    assert not is_taken(packed(fov=float("nan")))
    assert not is_taken(packed(position=[0, 0, float("inf")]))
    assert not is_taken(packed(wxyz=[0, 0, 0, 0]))
    assert not is_taken(packed(image_width=10**6))
    assert not is_taken(packed(more=1))
    assert not is_taken(packed(type="ShareUrlRequest"))
    assert not is_taken(msgspec.msgpack.encode({"type": "ShareUrlRequest"}))
    assert not is_taken(msgspec.msgpack.encode({"type": "GuiUpdateMessage", "uuid": "a", "updates": {"update_cb": []}}))
    assert is_taken(msgspec.msgpack.encode({"type": "GuiUpdateMessage", "uuid": "a", "updates": {"value": "x"}}))
    assert not is_taken("text")
    assert not is_taken(b"\x91" * 100_000)


def test_malformed_messages_leave_the_server_and_the_connection_as_they_were(viewer):
    rng = random.Random(0)
    with connect(viewer.url.replace("http", "ws"), subprotocols=PROTOCOL, max_size=None) as socket_:
        for _ in range(500):
            socket_.send(garbled(rng))
        socket_.send(packed())
        seen = b""
        while b"BackgroundImageMessage" not in seen and b"\xff\xd8\xff" not in seen:  # a JPEG
            seen = socket_.recv(timeout=240)
    with urllib.request.urlopen(viewer.url, timeout=20) as answer:
        assert answer.status == 200


def test_other_pages_may_not_connect(viewer):
    url = viewer.url.replace("http", "ws")
    for origin in ("https://evil.example", "null", viewer.url + "0"):
        with pytest.raises(InvalidStatus, match="403"):
            connect(url, subprotocols=PROTOCOL, origin=origin)
    with connect(url, subprotocols=PROTOCOL, origin=viewer.url, max_size=None) as socket_:
        assert socket_.recv(timeout=20)


def test_nothing_but_the_page_is_served(viewer):
    port = int(viewer.url.rpartition(":")[2])
    for path in (
        "/../../../etc/passwd",
        "/%2e%2e/%2e%2e/_viser.py",
        "/scene.json",
        "//etc/passwd",
        "/..%5c..%5c_viser.py",
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            assert raw.recv(100).startswith(b"HTTP/1.1 404")


def test_a_port_that_is_taken_is_told(viewer):
    port = int(viewer.url.rpartition(":")[2])
    with pytest.raises(ValueError, match=f"port: cannot listen at 127.0.0.1:{port}"):
        view(SceneGraph(), port=port)
    with pytest.raises(ValueError, match="port: expected a whole number"):
        view(SceneGraph(), port=70000)
    with pytest.raises(ValueError, match="view: expected a SceneGraph, got str"):
        view("room.scene", port=0)
    viewer.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(viewer.url, timeout=20)
