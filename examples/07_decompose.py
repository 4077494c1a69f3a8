"""Take an RGB-D clip apart and take a thing out of it: `python examples/07_decompose.py CLIP_FOLDER [OUT_FOLDER]`."""

import sys
from pathlib import Path

from rendering import render, save_png
from scenes import save_scene
from scenes.video import learn_clip, load_clip

out = Path(sys.argv[2] if len(sys.argv) > 2 else "out/examples")
out.mkdir(parents=True, exist_ok=True)

clip = load_clip(
    sys.argv[1]
)  # a folder in the nerfstudio convention with depth; cameras are found where they aren't given
learned = learn_clip(clip)
scene = learned.graph
save_scene(scene, out / "clip.scene")
print("nodes:", *scene)
for thing in learned.found.objects:
    print(f"{thing.name}: a pose in {sum(pose is not None for pose in thing.poses)} of {len(clip)} frames")

time = float(clip.times[0])
save_png(render(scene, scene.camera_at("camera", time), time=time).rgb, out / "clip.png")
if learned.found.objects:
    scene.remove(learned.found.objects[0].name)
    save_png(render(scene, scene.camera_at("camera", time), time=time).rgb, out / "without.png")
    scene.undo()
