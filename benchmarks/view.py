"""What the viewer costs with 1,000 objects, as a browser meets it: `python -m benchmarks.view`.

A program stands for the browser and speaks its protocol. It selects objects, drags them and lets go, 20 times: time from the
release to the first picture and to the full one (wall clock, and processor time of the whole process, which another load
doesn't change). Then 1,000 edits, with the memory before and after; then 10,000 malformed messages, after which the server must
still draw. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import viser
import zstandard
from websockets.sync.client import connect

from benchmarks.scale import assets, scene_of, view
from objects import Field, Sphere
from scenes import SceneGraph, load_scene
from scenes import view as open_viewer
from scenes.viewer.viewer import Viewer

DRAGS, EDITS, MESSAGES = 20, 1000, 10_000
WIDTH, HEIGHT = 1280, 720


class Browser:
    """A connection that speaks as viser's page does."""

    def __init__(self, url: str) -> None:
        protocol: Any = f"viser-v{viser.__version__}"
        self.socket = connect(url.replace("http", "ws"), subprotocols=[protocol], max_size=None)

    def send(self, kind: str, **values: Any) -> None:
        self.socket.send(msgspec.msgpack.encode({"type": kind, **values}))

    def look(self, position: np.ndarray, wxyz: np.ndarray, fov: float) -> None:
        self.send(
            "ViewerCameraMessage", wxyz=wxyz.tolist(), position=position.tolist(), fov=fov, near=0.01, far=1000.0,
            image_height=HEIGHT, image_width=WIDTH, look_at=[0.0, 0.0, 0.0], up_direction=[0.0, 0.0, 1.0],
        )  # fmt: skip

    def wait(self, kind: str, name: str = "") -> dict[str, Any]:
        """The next message of a kind (of a node's name)."""
        while True:
            raw = self.socket.recv(timeout=120)
            if not isinstance(raw, bytes):
                continue
            packed = int.from_bytes(raw[8:16], "little")
            plain = zstandard.decompress(raw[16 : 16 + packed], max_output_size=int.from_bytes(raw[:8], "little"))
            for message in msgspec.msgpack.decode(plain)["messages"]:
                if message["type"] == kind and name in message.get("name", ""):
                    return message

    def drain(self) -> None:
        """Takes what has come, as a page does: what it leaves is kept in this process."""
        with contextlib.suppress(TimeoutError):
            while True:
                self.socket.recv(timeout=0)


def memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def scene(fields: list[Field], m: int) -> SceneGraph:
    graph = SceneGraph()
    for number in range(10):
        graph.add(f"group {number}")
    for k, instance in enumerate(scene_of(fields, m)):
        graph.add(
            f"group {k % 10}/{instance.name}", instance.field, pose=instance.T_world_obj, scale=float(instance.scale)
        )
    graph.forget_history()
    return graph


def drags(graph: SceneGraph, browser: Browser, unit: float, n: int) -> dict[str, float]:
    """Selects, drags along x and lets go."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[float]] = {name: [] for name in ("first_s", "first_cpu_s", "full_s", "full_cpu_s")}
    camera = view(len(graph.at()))
    eye = camera.position_world.numpy()
    for _ in range(n):
        name = f"object {rng.integers(len(graph.at()))}"
        path = next(path for path in graph if path.endswith(f"/{name}"))
        toward = graph.pose(path)[0].translation.numpy() - eye
        ray = {"ray_origin": (unit * eye).tolist(), "ray_direction": (toward / np.linalg.norm(toward)).tolist()}
        browser.send("ScenePointerMessage", event_type="click", screen_pos=[[0.5, 0.5]], modifier="shift", **ray)
        at = browser.wait("SetPositionMessage", "gizmo")["position"]
        browser.wait("BackgroundImageMessage")
        browser.send("TransformControlsDragStartMessage", name="/gizmo", owner="")
        browser.wait("BackgroundImageMessage")
        place = [at[0] + 0.3, at[1], at[2]]
        browser.send("TransformControlsUpdateMessage", name="/gizmo", wxyz=[1.0, 0, 0, 0], position=place, owner="")
        before, wall, cpu = len(graph.log), time.perf_counter(), time.process_time()
        browser.send("TransformControlsDragEndMessage", name="/gizmo", owner="")
        for step in ("first", "full"):
            browser.wait("BackgroundImageMessage")
            rows[f"{step}_s"].append(time.perf_counter() - wall)
            rows[f"{step}_cpu_s"].append(time.process_time() - cpu)
        if len(graph.log) != before + 1:
            raise RuntimeError(f"a drag made {len(graph.log) - before} edits")
    return {
        f"{name}_{how}": f(values)
        for name, values in rows.items()
        for how, f in (("median", statistics.median), ("worst", max))
    }


def at_rest(viewer: Viewer, browser: Browser) -> None:
    """Waits until nothing is drawn any more, and all of it has come."""
    quiet = 0
    while quiet < 10:
        time.sleep(0.05)
        browser.drain()
        quiet = quiet + 1 if viewer.at_rest else 0


def growth(viewer: Viewer, browser: Browser, n: int) -> dict[str, float]:
    """Memory over edits by code, every tenth of which is waited for; before and after at rest, with no picture half drawn."""
    graph = viewer.scene
    rng = np.random.default_rng(1)
    paths = [path for path in graph if "/" in path]

    def edit(k: int) -> None:
        graph.move(paths[rng.integers(len(paths))], by=(0.01 * rng.normal(size=3)).tolist())
        if k % 10 == 0:
            browser.wait("BackgroundImageMessage")
        browser.drain()

    for k in range(n // 2):
        edit(k)
    at_rest(viewer, browser)
    before = memory_mb()
    for k in range(n):
        edit(k)
    at_rest(viewer, browser)
    after = memory_mb()
    return {"memory_before_mb": before, "memory_after_mb": after, "growth_pct": 100 * (after / before - 1)}


def fuzz(browser: Browser, n: int) -> None:
    """Noise, and messages with a byte or a value exchanged; the server must draw afterwards."""
    rng = random.Random(0)
    kinds = ["ViewerCameraMessage", "ScenePointerMessage", "GuiUpdateMessage", "TransformControlsUpdateMessage", "ShareUrlRequest",
             "SceneNodeDragMessage", "CommandTriggerMessage", "FileTransferStartUpload", "SetPositionMessage", None]  # fmt: skip
    values = [
        None,
        -1,
        0,
        1e308,
        float("nan"),
        "x" * 1000,
        [],
        [[0.0, 0.0]],
        {"value": "sirenscape:1 undo"},
        b"\xff",
        True,
        [0, 0, 1],
    ]
    keys = [
        "wxyz",
        "position",
        "fov",
        "image_width",
        "uuid",
        "updates",
        "name",
        "event_type",
        "ray_origin",
        "ray_direction",
        "screen_pos",
    ]
    for _ in range(n):
        if rng.random() < 0.2:
            browser.socket.send(rng.randbytes(rng.randrange(80)))
            continue
        message = {rng.choice(keys): rng.choice(values) for _ in range(rng.randrange(6))} | {"type": rng.choice(kinds)}
        raw = bytearray(msgspec.msgpack.encode(message))
        if rng.random() < 0.5:
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        browser.socket.send(bytes(raw))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/bench/view.json"))
    parser.add_argument("--fields", type=Path, help="a scene whose learned fields are taken; by default 10 are learned")
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--drags", type=int, default=DRAGS)
    parser.add_argument("--edits", type=int, default=EDITS)
    given = parser.parse_args()
    learned = assets(10) if given.fields is None else [f for f in load_scene(given.fields).fields if f.kind == "siren"]
    fields: list[Field] = [*learned, Sphere(0.35, color=(0.8, 0.3, 0.2))]
    graph = scene(fields, given.objects)
    camera = view(given.objects)
    with open_viewer(graph, port=0) as viewer:
        browser = Browser(viewer.url)
        unit = viewer.unit
        place, quat = unit * camera.position_world.numpy(), camera.T_world_cam.quat_wxyz.numpy()
        browser.look(place, quat, 0.45)
        browser.wait("BackgroundImageMessage")
        browser.wait("BackgroundImageMessage")
        row: dict[str, Any] = {"objects": given.objects} | drags(graph, browser, unit, given.drags)
        row |= growth(viewer, browser, given.edits)
        began = time.process_time()
        fuzz(browser, MESSAGES)
        at_rest(viewer, browser)  # so that the next picture is the one that is asked for now
        browser.look(place + 0.01, quat, 0.45)
        browser.wait("BackgroundImageMessage")
        row |= {"malformed_messages": MESSAGES, "fuzz_cpu_s": time.process_time() - began, "load": os.getloadavg()[0]}
    for name, value in row.items():
        print(f"{name:24s}{value:12,.3f}" if isinstance(value, float) else f"{name:24s}{value:12,}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
