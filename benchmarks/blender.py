"""An exported scene in Blender against our own picture: `python -m benchmarks.blender --scene NAME.scene --python PATH`.

PATH is a Python in which `bpy` is installed (``pip install bpy`` into an environment of its own: Blender is no dependency of ours).
The scene is written unlit as glTF, Blender reads it and draws it with Cycles, one ray through the middle of each pixel, by the
file's own camera. Prints the overlap of the silhouettes and how far colours differ, and writes both pictures side by side.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.timing import say
from rendering import Camera, Frame, RenderConfig, render
from scenes import SceneGraph, export_scene, load_scene

WIDTH = 480
CLOSE = 4  # of 255

_IN_BLENDER = """
import sys, bpy
glb, out, width, height = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=glb)
scene = bpy.context.scene
scene.camera = next(thing for thing in bpy.data.objects if thing.type == 'CAMERA')
scene.frame_set(0)
scene.render.engine, scene.cycles.device = 'CYCLES', 'CPU'
scene.cycles.samples, scene.cycles.max_bounces, scene.cycles.use_denoising = 1, 0, False
scene.cycles.pixel_filter_type, scene.cycles.filter_width = 'BOX', 0.01
scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = width, height, 100
scene.render.film_transparent, scene.view_settings.view_transform = True, 'Standard'
scene.render.image_settings.file_format, scene.render.image_settings.color_mode = 'PNG', 'RGBA'
scene.render.filepath = out
bpy.ops.render.render(write_still=True)
"""


def unlit_through(scene: SceneGraph, camera: Camera, hidden: list[str]) -> SceneGraph:
    """The scene without lights and with one camera, whose pixels are square and in the middle, as glTF has them."""
    for path, node in scene.records().items():
        if node.field is not None:
            scene.set_lit(path, False)
        if node.camera is not None:
            scene.set_camera(path, None)
    for path in hidden:
        scene.hide(path)
    height = round(WIDTH * camera.height / camera.width)
    focal = camera.fy * height / camera.height
    scene.add("blender", camera=Camera(camera.T_world_cam, focal, focal, 0.5 * WIDTH, 0.5 * height, WIDTH, height))
    return scene


def compared(frame: Frame, picture: np.ndarray) -> dict[str, float]:
    """Silhouettes, and colours where both see something: the mean, and the share of pixels with all channels close."""
    ours, theirs = (frame.owner >= 0).numpy(), picture[..., 3] > 127
    both = ours & theirs
    off = np.abs(255 * frame.rgb.numpy() - picture[..., :3])[both]
    close = float((off.max(1) <= CLOSE).mean())
    return {
        "silhouette_iou": float(both.sum() / (ours | theirs).sum()),
        "colour_mean": float(off.mean()),
        "close": close,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scene", type=Path, required=True, help="a scene with a camera")
    parser.add_argument("--python", type=Path, required=True, help="a Python with bpy")
    parser.add_argument("--hide", nargs="*", default=[], help="paths of nodes to leave out, such as walls")
    parser.add_argument("--out", type=Path, default=Path("out/bench/blender.json"))
    given = parser.parse_args()
    scene = load_scene(given.scene)
    if not scene.cameras:
        raise SystemExit(f"{given.scene} has no camera")
    time = scene.span[0]
    scene = unlit_through(scene, scene.camera_at(scene.cameras[0], time), given.hide)
    camera = scene.camera_at("blender", time)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    glb, png = (given.out.with_suffix(suffix).resolve() for suffix in (".glb", ".blender.png"))
    export_scene(scene, glb, time=time)
    size = [str(camera.width), str(camera.height)]
    subprocess.run([given.python, "-c", _IN_BLENDER, str(glb), str(png), *size], check=True, stdout=subprocess.DEVNULL)
    frame = render(scene.at(time), camera, lights=(), config=RenderConfig(antialias=1))
    picture = np.asarray(Image.open(png)).astype(float)
    row = compared(frame, picture)
    say("  ".join(f"{name} {value:.4f}" for name, value in row.items()))
    given.out.write_text(json.dumps(row, indent=1) + "\n")
    ours = (255 * frame.rgb).round().to(torch.uint8).numpy()
    shown = np.where(picture[..., 3:] > 127, picture[..., :3], 255).astype(np.uint8)
    Image.fromarray(np.concatenate([ours, shown], 1)).save(given.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
