"""Show a scene in the browser while a program edits it: `python examples/06_view.py [SECONDS [PORT]]`."""

import sys
import time

from objects import SE3, Box, Sphere, Torus
from rendering import AmbientLight, Camera, DirectionalLight
from scenes import SceneGraph, view

seconds = float(sys.argv[1]) if len(sys.argv) > 1 else float("inf")
port = int(sys.argv[2]) if len(sys.argv) > 2 else 8080

scene = SceneGraph()
scene.add("table", Box((1.2, 0.8, 0.05), color=(0.6, 0.4, 0.3)))
scene.add("table/ring", Torus(0.12, 0.03, color=(0.9, 0.7, 0.2)), pose=SE3.from_translation([-0.3, 0, 0.055]))
scene.add("table/ball", Sphere(0.1, color=(0.8, 0.2, 0.2)), pose=SE3.from_translation([0.3, 0, 0.125]))
scene.add("sky", light=AmbientLight(intensity=0.5))
scene.add("sun", light=DirectionalLight((-0.4, 0.5, -1)))
scene.add("view", camera=Camera.look_at((0.9, -1.5, 1.1), (0, 0, 0), 640, 480))


def tell(change) -> None:
    if "ring" not in change.text:
        print(change.action, change.text)


scene.subscribe(tell)
with view(scene, port=port) as viewer:
    print("open", viewer.url)
    began = time.monotonic()
    while time.monotonic() - began < seconds:  # in the browser: click, drag, undo; here: the ring turns
        time.sleep(0.2)
        if "table/ring" in scene:
            scene.rotate("table/ring", "z", 5)
