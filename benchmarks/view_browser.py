"""What dragging costs in a real browser with 1,000 objects: `python -m benchmarks.view_browser`.

Chromium (Playwright, drawn by software) shows the scene of `benchmarks.view`. Objects are dragged by the gizmo's arrow and let go,
20 times. The page itself looks at the pixels where the object lands, in each frame that it draws: time from the release of the
button to the first of them that shows a picture drawn after it, and to the full picture. Prints a table and writes JSON, with the
time that the threads of this program stood in the machine's queue meanwhile: on a busy machine that is most of it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.scale import assets, view
from benchmarks.view import DRAGS, scene
from objects import Sphere
from scenes import SceneGraph, load_scene
from scenes import view as open_viewer
from scenes.viewer.viewer import Viewer

WIDTH, HEIGHT = 1280, 720
PATCH = 48  # pixels along the edge of what is watched
_PANEL = 350  # columns at the right that the panel covers
_ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]

# In each frame the page sums up the watched pixels, right after they are drawn, and notes when the sum changes.
_WATCH = """
const get = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function(kind, options) {
  const made = get.call(this, kind, kind.startsWith('webgl') ? { ...options, preserveDrawingBuffer: true } : options);
  if (kind.startsWith('webgl') && made) window.gl = made;
  return made;
};
window.watch = { changes: [], released: 0, at: null, last: -1 };
window.addEventListener('pointerup', () => { watch.released = performance.timeOrigin + performance.now(); }, true);
const look = () => {
  requestAnimationFrame(look);
  if (!window.gl || !watch.at) return;
  const n = PATCH, bytes = new Uint8Array(4 * n * n), scale = gl.drawingBufferHeight / window.innerHeight;
  const x = Math.round(scale * watch.at[0] - n / 2), y = Math.round(gl.drawingBufferHeight - scale * watch.at[1] - n / 2);
  gl.readPixels(x, y, n, n, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
  let sum = 0;
  for (let i = 0; i < bytes.length; i++) sum = (sum * 31 + bytes[i]) | 0;
  if (sum !== watch.last) watch.changes.push(performance.timeOrigin + performance.now());
  watch.last = sum;
};
requestAnimationFrame(look);
""".replace("PATCH", str(PATCH))


def queued_s() -> float:
    """How long threads of this program were ready to run and had no processor, all in all."""
    total = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[1])
        except OSError:  # it has ended
            continue
    return total / 1e9


def until(question: Any, what: str, page: Any, seconds: float = 300.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := question()):
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds:g} s for {what}")
        page.wait_for_timeout(20)
    return found


class Drawn:
    """When the pictures of a viewer were sent, in Unix time: looked at every 2 ms."""

    def __init__(self, viewer: Viewer) -> None:
        self.at: list[float] = []
        threading.Thread(target=self._look, args=[viewer], daemon=True).start()

    def _look(self, viewer: Viewer) -> None:
        before = viewer.figures.pictures
        while True:
            time.sleep(0.002)
            now = viewer.figures.pictures
            self.at += [time.time()] * (now - before)
            before = now


def one_drag(viewer: Viewer, page: Any, drawn: Drawn) -> dict[str, float]:
    """Drags what is selected 60 pixels along its arrow and lets go."""
    graph, path = viewer.scene, viewer.selection[0]
    camera = viewer.cameras[0]

    def pixel(point: torch.Tensor) -> list[float]:
        return camera.project(point.double()[None])[0][0].tolist()

    box = graph.at().arrays
    row = box.names.index(path)
    lo, hi = torch.from_numpy(box.box_lo[row]), torch.from_numpy(box.box_hi[row])
    middle, size = 0.5 * (lo + hi), float((hi - lo).max())
    until(lambda: viewer.at_rest, "the picture of the selection", page)
    start, tip = pixel(middle), pixel(middle + torch.tensor([0.0, 0.8 * size, 0.0]))
    way = np.subtract(tip, start)
    way = 60 * way / np.linalg.norm(way)
    page.mouse.move(*tip)
    page.wait_for_timeout(200)
    page.mouse.down()
    page.mouse.move(*np.add(tip, 0.3 * way), steps=3)
    page.mouse.move(*np.add(tip, way), steps=6)
    until(lambda: viewer.at_rest, "the picture without it", page)
    page.evaluate("at => { watch.at = at; watch.changes = []; }", np.add(start, way).tolist())
    page.wait_for_timeout(300)
    edits, queued, cpu = len(graph.log), queued_s(), time.process_time()
    drawn.at.clear()
    page.mouse.up()
    until(lambda: viewer.at_rest and len(graph.log) > edits, "the edit", page)
    page.wait_for_timeout(500)
    changes, released = page.evaluate("[watch.changes, watch.released]")
    shown = {
        name: min(t for t in changes if t >= 1e3 * sent) / 1e3 - released / 1e3
        for name, sent in zip(("first_s", "full_s"), drawn.at, strict=False)
    }
    return shown | {"cpu_s": time.process_time() - cpu, "queued_s": queued_s() - queued}


def drags(graph: SceneGraph, n: int, browser: Any) -> dict[str, Any]:
    camera = view(len(graph.at()))
    graph.add("camera", camera=camera)
    rng = np.random.default_rng(0)
    rows: list[dict[str, float]] = []
    with open_viewer(graph, port=0) as viewer:
        drawn = Drawn(viewer)
        page = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}).new_page()
        page.set_default_timeout(300_000)
        page.add_init_script(_WATCH)
        page.goto(viewer.url)
        until(lambda: viewer.cameras and viewer.at_rest, "the first picture", page)
        while len(rows) < n:
            u, v = rng.uniform(0.2 * WIDTH, WIDTH - _PANEL - 150), rng.uniform(0.25 * HEIGHT, 0.75 * HEIGHT)
            page.keyboard.press("Escape")
            page.keyboard.down("Shift")
            page.mouse.click(u, v)
            page.keyboard.up("Shift")
            page.wait_for_timeout(300)
            until(lambda: viewer.at_rest, "the click", page)
            if viewer.selected is not None and graph[viewer.selected].field is not None:
                rows.append(one_drag(viewer, page, drawn))
                print("  ".join(f"{name} {value:.2f}" for name, value in rows[-1].items()), flush=True)
        page.context.close()
    ways = (("median", statistics.median), ("worst", max))
    return {f"{name}_{way}": f([row[name] for row in rows]) for name in rows[0] for way, f in ways} | {
        "drags": len(rows)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/bench/view_browser.json"))
    parser.add_argument("--fields", type=Path, help="a scene whose learned fields are taken; by default 10 are learned")
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--drags", type=int, default=DRAGS)
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    found = next((place for name in ("chromium", "chromium-browser") if (place := shutil.which(name))), None)
    learned = assets(10) if given.fields is None else [f for f in load_scene(given.fields).fields if f.kind == "siren"]
    graph = scene([*learned, Sphere(0.35, color=(0.8, 0.3, 0.2))], given.objects)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=_ARGUMENTS)
        row = drags(graph, given.drags, browser) | {"objects": given.objects, "load": os.getloadavg()[0]}
        browser.close()
    for name, value in row.items():
        print(f"{name:24s}{value:12,.3f}" if isinstance(value, float) else f"{name:24s}{value:12,}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
