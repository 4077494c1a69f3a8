"""Ask a scene what a robot would: `python examples/02_questions.py`."""

import torch

from objects import SE3, Aabb, Box, Sphere
from rendering import Camera
from scenes import SceneGraph

scene = SceneGraph()
scene.add("floor", Box((4, 4, 0.1)), pose=SE3.from_translation([0, 0, -0.05]))
scene.add("ball", Sphere(0.2), pose=SE3.from_translation([0, 0, 0.3]), tags=["toy"])
scene.add("crate", Box((0.4, 0.4, 0.4)), pose=SE3.from_translation([0.6, 0, 0.19]), tags=["toy"])

near = scene.closest([[0.0, 0, 0.505], [0.6, 0, 0.35]])
print("closest:", near.path, [round(d, 3) for d in near.sdf.tolist()])

seen = scene.pick(Camera.look_at((0, -2, 0.3), (0, 0, 0.3), 64, 48), 32, 24)
print("in the middle of the picture:", seen.path if seen else None)

gap = scene.clearance("ball", "crate")
print(f"between ball and crate: {gap.distance:.3f} m")

for pair in scene.overlaps():
    print(f"{pair.first} and {pair.second} overlap by {1000 * pair.depth:.0f} mm")

box = Aabb(torch.tensor([0.3, -1.0, 0.0]), torch.tensor([1.0, 1.0, 1.0]))
print("toys in the box:", scene.select(tag="toy", box=box))
