"""Pictures of a scene: layers, a film, cameras, what a sensor would see: `python examples/05_render.py [OUT_FOLDER]`."""

import sys
from pathlib import Path

import torch

from objects import SE3, Box, Cylinder, Sphere
from rendering import (
    AmbientLight,
    Camera,
    PointLight,
    contact_sheet,
    depth_picture,
    load_views,
    normal_picture,
    owner_picture,
    render,
    save_depth_png,
    save_mp4,
    save_png,
    save_transforms,
)
from scenes import SceneGraph

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/examples")
out.mkdir(parents=True, exist_ok=True)

scene = SceneGraph()
scene.add("table", Box((1.2, 0.8, 0.05), color=(0.6, 0.4, 0.3)), pose=SE3.from_translation([0, 0, 0.7]))
scene.add("table/cup", Cylinder(0.08, 0.2, color=(0.8, 0.2, 0.2)), pose=SE3.from_translation([0.3, 0, 0.125]))
scene.add("table/ball", Sphere(0.1, color=(0.2, 0.4, 0.8)), pose=SE3.from_translation([-0.3, 0, 0.125]))
scene.move("table/ball", by=(0.3, 0.2, 0), time=1.0)
scene.add("lamp", light=PointLight((0, 0, 0), intensity=3), pose=SE3.from_translation([1, -1, 2]))
scene.add("sky", light=AmbientLight())

camera = Camera.look_at((0.5, -0.9, 1.3), (0, 0, 0.75), 240, 180)
frame = render(scene, camera)
layers = [frame.rgb, depth_picture(frame.depth), normal_picture(frame.normal), owner_picture(frame.owner)]
save_png(contact_sheet(layers, 2), out / "layers.png")

paths = [instance.name for instance in scene.at(0.0).instances]
for number in sorted(set(frame.owner.flatten().tolist()) - {-1}):
    print(f"{paths[number]}: {100 * float((frame.owner == number).float().mean()):.0f} % of the picture")

around = Camera.orbit((0, 0, 0.75), 1.6, 8, 120, 90)  # a set of RGB-D pictures, as nerfstudio has them
for k, view in enumerate(around):
    seen = render(scene, view, antialias=1)
    save_png(torch.cat([seen.rgb, seen.alpha[..., None]], -1), out / f"view-{k}.png")
    save_depth_png(seen.depth, out / f"view-{k}-depth.png")
names = [f"view-{k}.png" for k in range(len(around))]
depths = [{"depth_file_path": f"view-{k}-depth.png"} for k in range(len(around))]
unit = {"depth_unit_scale_factor": 0.001}
save_transforms(out / "transforms.json", around, names, frame_entries=depths, entries=unit)
print(f"a set of {len(load_views(out))} pictures with depth")

times = [k / 8 for k in range(9)]
count = save_mp4((render(scene, camera, time=t, antialias=1).rgb for t in times), out / "ball.mp4", fps=8)
print(f"a film of {count} pictures")
