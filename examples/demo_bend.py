"""Things that bend: learned from frames of a surface, put into a scene twenty times at different phases, retimed, filmed.

A rubber duck of the package pybullet_data (extra ``demo``) twists and bows over two seconds; eight frames of it are learned without
correspondences. Beside the ducks walks an animal of a glTF file with a skin, read as `build` reads it. Results go to
``out/demo-bend/``; what was learned is cached.

    python examples/demo_bend.py [OUT_FOLDER]
"""

from __future__ import annotations

import math
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pygltflib as gl
import torch
import trimesh
from torch import Tensor
from trimesh.visual import ColorVisuals, TextureVisuals

from objects import SE3, Aabb, Bend, Box, FitConfig, SequenceConfig, Twist, Warped, fit_sequence
from rendering import AmbientLight, Camera, PointLight, RenderConfig, contact_sheet, render, save_mp4, save_png
from scenes import SceneGraph, save_scene
from scenes.io import read_scene

PERIOD, FRAMES = 2.0, 8  # seconds of one round, and frames of it that are learned
SIZE, FPS, SECONDS = (320, 240), 12, 4
STEPS = 400  # of training for the animal: it is made of boxes


def main() -> int:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/demo-bend")
    if find_spec("pybullet_data") is None:
        print("The meshes come with pybullet: pip install 'sirenscape[demo]'", file=sys.stderr)
        return 2
    import pybullet_data

    out.mkdir(parents=True, exist_ok=True)
    times = [PERIOD * i / FRAMES for i in range(FRAMES)]
    duck = read_duck(Path(pybullet_data.getDataPath()) / "duck.obj")
    config = SequenceConfig(nodes=120, points=2000, dense=6000, anchors=1000)
    learned = fit_sequence([bowing(duck, t) for t in times], times, period=PERIOD, config=config)
    write_walker(out / "walker.glb")
    walker, notes = read_scene(out / "walker.glb", config=FitConfig(steps=STEPS, spread=1))
    print("walker.glb:", *(notes or ["read whole"]))

    scene = build(learned, walker)
    save_scene(scene, out / "ducks.scene")
    count = save_mp4((picture(scene, i / FPS) for i in range(FPS * SECONDS)), out / "ducks.mp4", FPS)
    # An edit is for one duck: it goes on at half the speed and backward; the others share its field and don't notice.
    scene.set_clock("pond/duck-2", speed=-0.5)
    save_png(contact_sheet([picture(scene, t) for t in (0.5, 1.0, 1.5, 2.5)], columns=2), out / "ducks.png")
    ducks = sum(node.startswith("pond/") for node in scene)
    print(f"{ducks} ducks share a field; {len(scene.fields)} fields in all; {count} frames in {out / 'ducks.mp4'}")
    return 0


# -- what bends --------------------------------------------------------------------------------------------------------


def read_duck(file: Path) -> trimesh.Trimesh:
    """The duck, z up, 0.3 m long, on its underside, with the colours of its picture at its vertices."""
    mesh = trimesh.load(file, force="mesh")
    if not isinstance(mesh, trimesh.Trimesh):
        raise ValueError(f"{file}: expected a mesh")
    mesh.visual = ColorVisuals(mesh, vertex_colors=vertex_colors(mesh))
    mesh.apply_transform(trimesh.transformations.rotation_matrix(math.pi / 2, (1, 0, 0)))
    mesh.apply_scale(0.3 / float(mesh.extents.max()))
    mesh.apply_translation(-np.append(mesh.bounds.mean(0)[:2], mesh.bounds[0, 2]))
    return mesh


def vertex_colors(mesh: trimesh.Trimesh) -> np.ndarray:
    visual = mesh.visual
    if isinstance(visual, TextureVisuals):
        visual = visual.to_color()
    return np.asarray(getattr(visual, "vertex_colors", np.full((len(mesh.vertices), 4), 200, np.uint8)))


def bowing(mesh: trimesh.Trimesh, time: float) -> trimesh.Trimesh:
    """What frame the mesh shows at a time: it bows to the front and looks to the sides."""
    lo, hi = torch.from_numpy(mesh.bounds.copy()).float() + torch.tensor([[-0.05], [0.05]])
    box, wave = Aabb(lo, hi), 2 * math.pi * time / PERIOD
    p = torch.from_numpy(np.array(mesh.vertices)).float()
    now = torch.zeros(len(p))
    twist = Twist(box, (0, 0, 1), (0, 0, 0), (0, 1), [4.0 * math.sin(wave)] * 2)
    bend = Bend(box, (0, 0, 1), (0, 1, 0), (0, 0, 0), 0.3, (0, 1), [2.5 * math.cos(wave)] * 2)
    there = bend.deformed(twist.deformed(p, now), now)
    return trimesh.Trimesh(there.double().numpy(), mesh.faces, vertex_colors=vertex_colors(mesh), process=False)


def write_walker(file: Path) -> None:
    """A glTF file (y up) of an animal of boxes whose four legs, head and tail are bones of a skin, and walk."""
    parts = [  # size, middle, place of the joint, swing in degrees, phase
        ((0.42, 0.14, 0.14), (0, 0.30, 0), (0, 0.30, 0), 0, 0.0),
        *(
            ((0.05, 0.26, 0.05), (x, 0.14, z), (x, 0.25, z), 28, 0.5 * ((x > 0) == (z > 0)))
            for x in (-0.16, 0.16)
            for z in (-0.05, 0.05)
        ),
        ((0.16, 0.12, 0.11), (0.27, 0.40, 0), (0.20, 0.34, 0), 8, 0.25),
        ((0.24, 0.05, 0.05), (-0.31, 0.34, 0), (-0.20, 0.33, 0), 20, 0.0),
    ]
    boxes = [trimesh.creation.box(size).apply_translation(middle).subdivide() for size, middle, *_ in parts]
    vertices = np.concatenate([box.vertices for box in boxes])
    starts = np.cumsum([0, *(len(box.vertices) for box in boxes[:-1])])
    triangles = np.concatenate([box.faces + start for box, start in zip(boxes, starts, strict=True)])
    joints = np.concatenate([np.full(len(box.vertices), i) for i, box in enumerate(boxes)])
    keys = np.linspace(0, 1, 9)
    gltf, data = gl.GLTF2(scene=0, scenes=[gl.Scene(nodes=[0, len(parts)])]), bytearray()

    def accessor(values: np.ndarray, kind: str, number: int) -> int:
        raw = np.ascontiguousarray(values).tobytes()
        gltf.bufferViews.append(gl.BufferView(buffer=0, byteOffset=len(data), byteLength=len(raw)))
        data.extend(raw + bytes(-len(raw) % 4))
        flat = values.reshape(len(values), -1)
        ends = {"min": flat.min(0).tolist(), "max": flat.max(0).tolist()} if kind != "MAT4" else {}
        view = len(gltf.bufferViews) - 1
        gltf.accessors.append(gl.Accessor(bufferView=view, componentType=number, count=len(values), type=kind, **ends))
        return len(gltf.accessors) - 1

    weights = np.tile(np.array([1, 0, 0, 0], np.float32), (len(joints), 1))
    look = gl.Attributes(
        POSITION=accessor(vertices.astype("<f4"), "VEC3", gl.FLOAT),
        JOINTS_0=accessor(
            np.stack([joints, 0 * joints, 0 * joints, 0 * joints], 1).astype("<u2"), "VEC4", gl.UNSIGNED_SHORT
        ),
        WEIGHTS_0=accessor(weights, "VEC4", gl.FLOAT),
    )
    faces = accessor(triangles.astype("<u4").reshape(-1), "SCALAR", gl.UNSIGNED_INT)
    fur = gl.Material(pbrMetallicRoughness=gl.PbrMetallicRoughness(baseColorFactor=[0.55, 0.2, 0.05, 1.0]))
    gltf.materials.append(fur)
    gltf.meshes.append(gl.Mesh(primitives=[gl.Primitive(attributes=look, indices=faces, material=0)]))
    binds = np.tile(np.eye(4, dtype="<f4"), (len(parts), 1, 1))
    binds[:, :3, 3] = [-np.array(at) for _, _, at, *_ in parts]
    skin = gl.Skin(
        joints=list(range(len(parts))), inverseBindMatrices=accessor(binds.transpose(0, 2, 1), "MAT4", gl.FLOAT)
    )
    gltf.skins.append(skin)
    walk, seconds = gl.Animation(name="walk"), accessor(keys.astype("<f4"), "SCALAR", gl.FLOAT)
    for i, (_, _, at, swing, phase) in enumerate(parts):
        offset = np.array(at) - (np.array(parts[0][2]) if i else 0)
        gltf.nodes.append(gl.Node(name=f"bone-{i}", translation=offset.tolist()))
        half = 0.5 * np.radians(swing) * np.sin(2 * np.pi * (keys + phase))
        turns = np.stack([0 * half, 0 * half, np.sin(half), np.cos(half)], 1).astype("<f4")
        walk.samplers.append(gl.AnimationSampler(input=seconds, output=accessor(turns, "VEC4", gl.FLOAT)))
        walk.channels.append(gl.AnimationChannel(sampler=i, target=gl.AnimationChannelTarget(node=i, path="rotation")))
    gltf.nodes[0].children = list(range(1, len(parts)))
    gltf.nodes.append(gl.Node(name="walker", mesh=0, skin=0))
    gltf.animations.append(walk)
    gltf.buffers.append(gl.Buffer(byteLength=len(data)))
    gltf.set_binary_blob(bytes(data))
    gltf.save_binary(str(file))


# -- the scene ---------------------------------------------------------------------------------------------------------


def build(duck: Warped, walker: SceneGraph) -> SceneGraph:
    """Twenty ducks at phases of their own, one that pauses and one at a third of the speed before them, and the animal."""
    scene = SceneGraph()
    scene.add("floor", Box((6, 6, 0.1), color=(0.55, 0.65, 0.7)), pose=SE3.from_translation((0, 0, -0.05)))
    scene.add("pond")
    for k in range(20):
        place = SE3.from_translation((0.42 * (k % 5 - 2), 0.42 * (k // 5), 0.0))
        scene.add(f"pond/duck-{k}", duck, pose=place @ SE3.from_axis_angle((0, 0, 1), 0.3 * math.sin(3.0 * k)))
        scene.set_clock(f"pond/duck-{k}", offset=PERIOD * k / 20, loop=True)
    scene.add("paused", duck, pose=SE3.from_translation((-0.84, -0.5, 0)))
    scene.set_clock("paused", offset=0.6, speed=0.0)
    scene.add("slow", duck, pose=SE3.from_translation((-0.42, -0.5, 0)))
    scene.set_clock("slow", speed=1 / 3, loop=True)
    scene.include(walker, "walker")
    scene.move("walker", to=(0.5, -0.75, 0.0))
    for path in list(scene):
        node = scene[path]
        if path.startswith("walker") and node.field is not None and node.field.deforms:
            scene.set_clock(path, loop=True)
    scene.add("sky", light=AmbientLight((1.0, 0.98, 0.95), 0.5))
    scene.add("lamp", light=PointLight((1.5, -2.0, 3.0), intensity=9))
    scene.add("camera", camera=Camera.look_at((0.7, -2.7, 2.0), (0.0, 0.3, 0.05), *SIZE, fov_y_deg=42))
    return scene


def picture(scene: SceneGraph, time: float) -> Tensor:
    config = RenderConfig(antialias=1)
    camera, lights = scene.camera_at("camera"), scene.lights_at(time)
    return render(scene.at(time), camera, lights=lights, config=config, progress=False).rgb


if __name__ == "__main__":
    sys.exit(main())
