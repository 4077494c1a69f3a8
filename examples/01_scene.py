"""Build a scene, edit it, undo, let a cup ride on a tray, render, save: `python examples/01_scene.py [OUT_FOLDER]`."""

import sys
from pathlib import Path

from objects import SE3, Box, Cylinder
from rendering import AmbientLight, Camera, PointLight, render, save_png
from scenes import SceneGraph, load_scene, save_scene

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/examples")
out.mkdir(parents=True, exist_ok=True)

scene = SceneGraph()
scene.add("table", Box((1.2, 0.8, 0.05), color=(0.6, 0.4, 0.3)), pose=SE3.from_translation([0, 0, 0.7]))
scene.add("table/tray", Box((0.4, 0.3, 0.02), color=(0.8, 0.8, 0.85)), pose=SE3.from_translation([-0.3, 0, 0.035]))
scene.add("table/cup", Cylinder(0.04, 0.1, color=(0.8, 0.2, 0.2)), pose=SE3.from_translation([0.3, 0, 0.075]))
scene.add("lamp", light=PointLight((0, 0, 0), intensity=3), pose=SE3.from_translation([1, -1, 2]))
scene.add("sky", light=AmbientLight())
scene.add("view", camera=Camera.look_at((1.0, -1.4, 1.6), (0, 0, 0.7), 320, 240))

scene.duplicate("table/cup", "table/cup-2")
scene.move("table/cup-2", by=(0, 0.2, 0))
scene.remove("table")  # and all that stands on it
scene.undo()

scene.move("table/cup", to=(-0.3, 0, 0.795), time=1.0)  # onto the tray
scene.reparent("table/cup", "table/tray", start=1.0)  # from now on it rides along
scene.move("table/tray", by=(0, 0, 0), time=1.0)
scene.move("table/tray", by=(0.5, 0, 0), time=2.0)

for time in (0.0, 1.0, 2.0):
    frame = render(scene.at(time), scene.camera_at("view", time), lights=scene.lights_at(time))
    save_png(frame.rgb, out / f"cup-{time:.0f}s.png")
save_scene(scene, out / "cup.scene")
print(*scene.log, sep="\n")
print("the same after loading:", load_scene(out / "cup.scene") == scene)
