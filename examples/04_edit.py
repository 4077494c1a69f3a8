"""Edit a scene: touch, find room, group, undo, change hands, and the same in words: `python examples/04_edit.py [OUT_FOLDER]`."""

import sys
from pathlib import Path

from objects import SE3, Box, Cylinder
from scenes import SceneGraph, load_scene, save_scene
from scenes.script import run_script

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/examples")
out.mkdir(parents=True, exist_ok=True)

scene = SceneGraph()
scene.add("table", Box((1.2, 0.8, 0.05), color=(0.6, 0.4, 0.3)), pose=SE3.from_translation([0, 0, 0.7]))
scene.add("cup", Cylinder(0.04, 0.1, color=(0.8, 0.2, 0.2)), pose=SE3.from_translation([0.3, 0, 1.0]), tags=["dish"])

fell = scene.drop("cup", onto="table")
print(f"the cup fell {100 * fell:.1f} cm")

for number in (2, 3):  # beside the first one, the nearest free place each
    scene.duplicate("cup", f"cup-{number}")
    scene.place_free(f"cup-{number}", on="table", gap=0.01)
print("overlaps among cups:", len(scene.overlaps()))

scene.group("table/dishes", ["cup", "cup-2", "cup-3"])
print("dishes:", scene.children("table/dishes"))
scene.remove("table/dishes/cup-3")
scene.undo()  # as if nothing had been
print("after undo:", len(scene.select(tag="dish")), "dishes")

run_script(scene, "move table by 0 0 0.1; rotate table/dishes by 90 about z; rename table/dishes/cup to mug")
save_scene(scene, out / "table.scene")

again = load_scene(out / "table.scene")
again.undo(3)  # undo reaches back beyond saving
print("undone after loading:", "table/dishes/cup" in again)
