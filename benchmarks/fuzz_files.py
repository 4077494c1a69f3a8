"""Small valid files of every format that is read, and ways to damage them: by bytes and by structure."""

from __future__ import annotations

import copy
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import trimesh
import yaml
from PIL import Image
from trimesh.exchange.gltf import export_gltf
from trimesh.visual import TextureVisuals
from trimesh.visual.material import SimpleMaterial

from objects import SE3, Aabb, Box, SirenField, Sphere, load_field, save_field
from objects.mesh import read_mesh
from rendering import Camera, PointLight, load_views, save_transforms
from scenes import SceneGraph, Track, load_scene, save_scene
from scenes.io.description import read_description
from scenes.io.glb import read_glb
from scenes.io.point_files import read_points
from scenes.script import run_script


class Format(NamedTuple):
    """``make`` writes a valid file (or folder) into an empty folder and returns its path; ``read`` is what is tried."""

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]


# -- valid files -------------------------------------------------------------------------------------------------------


def _box() -> trimesh.Trimesh:
    plain = trimesh.creation.box((0.2, 0.3, 0.4))
    colors = (255 * np.random.default_rng(0).random((len(plain.vertices), 4))).astype(np.uint8)
    return trimesh.Trimesh(plain.vertices, plain.faces, vertex_colors=colors, process=False)


def _textured() -> trimesh.Trimesh:
    picture = Image.fromarray((255 * np.random.default_rng(0).random((8, 8, 3))).astype(np.uint8))
    plain = trimesh.creation.box((0.2, 0.3, 0.4))
    visual = TextureVisuals(uv=plain.vertices[:, :2] + 0.5, material=SimpleMaterial(image=picture))
    return trimesh.Trimesh(plain.vertices, plain.faces, visual=visual, process=False)


def _mesh(suffix: str, textured: bool = False, **how: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"mesh.{suffix}"
        (_textured() if textured else _box()).export(path, **how)
        return path

    return make


def _gltf(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        scene = trimesh.Scene()
        scene.add_geometry(_box(), node_name="a")
        scene.add_geometry(
            _textured(),
            node_name="b",
            parent_node_name="a",
            transform=trimesh.transformations.translation_matrix((1, 0, 0)),
        )
        scene.set_camera()
        if suffix == "glb":
            scene.export(folder / "scene.glb")
            return folder / "scene.glb"
        for name, data in export_gltf(scene).items():
            (folder / ("scene.gltf" if name.endswith(".gltf") else name)).write_bytes(data)
        return folder / "scene.gltf"

    return make


def _points(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(50, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    names = ["property float " + name for name in ("x", "y", "z", "nx", "ny", "nz")]
    names += ["property uchar " + name for name in ("red", "green", "blue")]
    head = "\n".join(["ply", "format binary_little_endian 1.0", "element vertex 50", *names, "end_header\n"])
    rows = [struct.pack("<6f3B", *n, *n, *rng.integers(0, 255, 3).tolist()) for n in normals.tolist()]
    path = folder / "points.ply"
    path.write_bytes(head.encode() + b"".join(rows))
    return path


def _cameras() -> list[Camera]:
    return [
        Camera.look_at((2 * np.cos(a), 2 * np.sin(a), 1), (0, 0, 0), 16, 12)
        for a in np.linspace(0, 6, 6, endpoint=False)
    ]


def _picture(path: Path, kind: str, seed: int, unit: float = 0.001) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels: np.ndarray
    if kind == "depth":
        pixels = (rng.uniform(1.0, 3.0, (12, 16)) / unit).astype(np.uint16)
    elif kind == "mask":
        pixels = np.where(np.indices((12, 16)).sum(0) > 8, 255, 0).astype(np.uint8)
    else:
        pixels = rng.integers(0, 255, (12, 16, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def _transforms(folder: Path) -> Path:
    cameras = _cameras()
    names = [f"images/{k}.png" for k in range(len(cameras))]
    save_transforms(folder / "transforms.json", cameras, names)
    tree = json.loads((folder / "transforms.json").read_text())
    for k, frame in enumerate(tree["frames"]):
        _picture(folder / f"images/{k}.png", "rgb", k)
        _picture(folder / f"depth/{k}.png", "depth", k)
        _picture(folder / f"mask/{k}.png", "mask", k)
        frame |= {"depth_file_path": f"depth/{k}.png", "mask_path": f"mask/{k}.png", "time": 0.1 * k}
    (folder / "transforms.json").write_text(json.dumps(tree))
    return folder


def _tum(folder: Path) -> Path:
    poses = []
    for k, camera in enumerate(_cameras()):
        _picture(folder / f"rgb/{k}.png", "rgb", k)
        _picture(folder / f"depth/{k}.png", "depth", k, 0.0002)
        w, x, y, z = camera.T_world_cam.quat_wxyz.tolist()
        poses.append(
            f"{0.1 * k:.4f} " + " ".join(f"{v:.6f}" for v in (*camera.T_world_cam.translation.tolist(), x, y, z, w))
        )
    (folder / "groundtruth.txt").write_text("# time tx ty tz qx qy qz qw\n" + "\n".join(poses) + "\n")
    for name in ("rgb", "depth"):
        (folder / f"{name}.txt").write_text("".join(f"{0.1 * k:.4f} {name}/{k}.png\n" for k in range(6)))
    (folder / "calibration.txt").write_text("20 20 7.5 5.5\n")
    return folder


def _yaml(folder: Path) -> Path:
    _box().export(folder / "mesh.obj")
    save_field(Sphere(0.1), folder / "ball.safetensors")
    path = folder / "scene.yaml"
    path.write_text(
        """nodes:
  table:
    shape: {kind: box, size: [1, 0.6, 0.1], rounding: 0.01, color: [0.5, 0.3, 0.2]}
    position: [0, 0, 0.5]
    turn: 90
    tags: [wood]
    children:
      tray: {shape: {kind: torus, major: 0.2, minor: 0.05}, rotation: {axis: [1, 0, 0], degrees: 90}, scale: 2}
      mug: {mesh: mesh.obj, size: 0.1, up: y, origin: bottom, carried: [{from: 1, by: table/tray}]}
  ball: {field: ball.safetensors, keys: [{time: 0}, {time: 2, position: [1, 1, 0], turn: 90}], end: loop, lit: false}
  lamp: {light: {kind: point, color: orange, intensity: 2}, position: [0, 0, 2]}
  eye: {camera: {target: [0, 0, 0.5], width: 320, height: 200, fov_y_deg: 40}, position: [2, -1, 1]}
"""
    )
    return path


def _graph() -> SceneGraph:
    graph = SceneGraph()
    graph.add("table", Box((1, 0.6, 0.1)), tags=["wood"])
    graph.add("table/ball", Sphere(0.1) | Box((0.1, 0.1, 0.1)), pose=SE3.from_translation([0.0, 0.0, 0.2]))
    graph.add("lamp", light=PointLight((0, 0, 2)))
    graph.add("eye", camera=_cameras()[0])
    graph.animate("lamp", Track.keyframes([0, 1], SE3.from_translation(torch.eye(3, dtype=torch.float64)[:2])))
    return graph


def _scene(folder: Path) -> Path:
    graph = _graph()
    graph.move("table", by=(0, 0, 1))
    save_scene(graph, folder / "a.scene")
    return folder / "a.scene"


def _field(folder: Path) -> Path:
    half = torch.tensor([0.5, 0.5, 0.5])
    field = SirenField(Aabb(-half, half), width=8, layers=1, color_width=4, color_layers=1, seed=0)
    save_field(field.requires_grad_(False), folder / "field.safetensors")
    return folder / "field.safetensors"


def _script(folder: Path) -> Path:
    path = folder / "edits.txt"
    path.write_text(
        "move table by 0.2 0 0; rotate table by 30 about z\nplace table/ball at 1 2 3 1 0 0 0 time 2; duplicate table as desk\n"
        "light lamp point intensity 2 color 1 0.5 0; camera eye on fov 40 size 320 200; tag desk with big 'very old'\n"
        "reparent table/ball to lamp from 3; retime desk shift 1 factor 2; group table eye as both; undo 2; redo\n"
    )
    return path


# -- readers -----------------------------------------------------------------------------------------------------------


def _read_scene(path: Path) -> None:
    graph = load_scene(path)
    for field in graph.fields:
        _ask(field)


def _ask(field: Any) -> None:
    with torch.no_grad():
        field(torch.zeros(1, 3))


def _run_script(path: Path) -> None:
    run_script(_graph(), path.read_bytes().decode("utf-8", errors="replace"))


FORMATS: dict[str, Format] = {
    "obj": Format(_mesh("obj", textured=True), read_mesh),
    "ply": Format(_mesh("ply"), read_mesh),
    "ply-ascii": Format(_mesh("ply", encoding="ascii"), read_mesh),
    "stl": Format(_mesh("stl"), read_mesh),
    "off": Format(_mesh("off"), read_mesh),
    "glb-mesh": Format(_gltf("glb"), read_mesh),
    "glb": Format(_gltf("glb"), read_glb),
    "gltf": Format(_gltf("gltf"), read_glb),
    "points": Format(_points, read_points),
    "transforms": Format(_transforms, load_views),
    "tum": Format(_tum, load_views),
    "yaml": Format(_yaml, read_description),
    "scene": Format(_scene, _read_scene),
    "field": Format(_field, lambda path: _ask(load_field(path))),
    "script": Format(_script, _run_script),
}


# -- damage ------------------------------------------------------------------------------------------------------------

_VALUES: tuple[Any, ...] = (
    None, [], {}, "", "x", -1, 0, 1, 2, 1e308, -1e308, 1e-320, 2**31, 2**63, 2**70, float("nan"), float("inf"), True, False, [[]],
    [1, 2], {"a": {}}, "../../x", "\0", "ü" * 300, [None] * 5, "1", 0.5,
)  # fmt: skip
_WORDS = (
    "nan",
    "inf",
    "-1",
    "0",
    "1e308",
    "99999999999",
    "4294967295",
    "",
    "x",
    "1/2/3",
    "//",
    "-1/-1",
    "#",
    "\t",
    "ü",
    "'",
    '"',
)


def damage(folder: Path, main: Path, rng: np.random.Generator) -> str:
    """Damages one file of a folder, most often ``main`` or what says how the rest is to be read; says how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[rng.integers(len(files))]
    telling = [p for p in files if p == main or (main.is_dir() and p.suffix in (".json", ".txt"))]
    if rng.random() < 0.6:
        path = telling[rng.integers(len(telling))]
    data = path.read_bytes()
    structural = rng.random() < 0.5
    changed = _by_structure(path.suffix, data, rng) if structural else None
    how = "bytes" if changed is None else "structure"
    path.write_bytes(_by_bytes(data, rng) if changed is None else changed)
    return f"{path.relative_to(folder)} by {how}"


def _by_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(data)
    for _ in range(min(8, int(rng.geometric(0.5)))):
        at, n = int(rng.integers(len(out) + 1)), int(rng.integers(1, 33))
        match int(rng.integers(6)):
            case 0 if at < len(out):
                out[at] ^= 1 << int(rng.integers(8))
            case 1 if at < len(out):
                out[at] = int(rng.integers(256))
            case 2:
                del out[at : at + n]
            case 3:
                out[at:at] = rng.bytes(n)
            case 4:
                out[at:at] = out[at : at + n]
            case 5 if rng.random() < 0.3:
                del out[at:]
    return bytes(out)


def _by_structure(suffix: str, data: bytes, rng: np.random.Generator) -> bytes | None:
    if suffix in (".json", ".gltf"):
        return _dumped(_changed(json.loads(data), rng))
    if suffix == ".yaml":
        tree = _changed(yaml.safe_load(data), rng)
        return _dumped(tree) if rng.random() < 0.5 else yaml.safe_dump(tree).encode()
    if suffix == ".glb":
        size = struct.unpack_from("<I", data, 12)[0]
        text = _dumped(_changed(json.loads(data[20 : 20 + size]), rng))
        text += b" " * (-len(text) % 4)
        rest = data[20 + size :]
        return (
            struct.pack("<4sII", b"glTF", 2, 20 + len(text) + len(rest))
            + struct.pack("<I4s", len(text), b"JSON")
            + text
            + rest
        )
    if suffix == ".safetensors":
        size = struct.unpack_from("<Q", data)[0]
        head = json.loads(data[8 : 8 + size])
        if rng.random() < 0.5:  # the description of the field, JSON in JSON
            key = next(key for key, text in head["__metadata__"].items() if text.startswith("{"))
            head["__metadata__"][key] = _dumped(_changed(json.loads(head["__metadata__"][key]), rng)).decode()
        else:
            head = _changed(head, rng)
        text = _dumped(head)
        return struct.pack("<Q", len(text)) + text + data[8 + size :]
    if suffix == ".stl":
        return data[:80] + struct.pack("<I", int(rng.choice([0, 1, 11, 13, 2**31, 2**32 - 1]))) + data[84:]
    if suffix == ".ply":
        head, end, rest = data.partition(b"end_header\n")
        if b"ascii" in head and rng.random() < 0.5:
            return head + end + _by_words(rest, rng)
        return _by_words(head, rng) + end + rest
    if suffix in (".obj", ".mtl", ".off", ".txt"):
        return _by_words(data, rng)
    return None


def _dumped(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def _by_words(data: bytes, rng: np.random.Generator) -> bytes:
    """Words and lines of a text replaced, left out, doubled or exchanged."""
    lines = data.decode("utf-8", errors="replace").split("\n")
    for _ in range(int(rng.integers(1, 4))):
        k = int(rng.integers(len(lines)))
        match int(rng.integers(5)):
            case 0 | 1:
                words = re.split(r"(\s+)", lines[k])
                words[int(rng.integers(len(words)))] = str(rng.choice(_WORDS))
                lines[k] = "".join(words)
            case 2:
                lines[k] = ""
            case 3:
                lines.insert(k, lines[int(rng.integers(len(lines)))])
            case 4:
                other = int(rng.integers(len(lines)))
                lines[k], lines[other] = lines[other], lines[k]
    return "\n".join(lines).encode()


def _changed(tree: Any, rng: np.random.Generator) -> Any:
    """A tree with one to three of its values replaced, left out, renamed or doubled."""
    tree = copy.deepcopy(tree)
    for _ in range(int(rng.integers(1, 4))):
        places: list[tuple[Any, Any]] = []
        todo = [tree]
        while todo:
            value = todo.pop()
            keys = list(value) if isinstance(value, dict) else list(range(len(value)))
            places += [(value, key) for key in keys]
            todo += [value[key] for key in keys if isinstance(value[key], dict | list)]
        if not places:
            break
        holder, key = places[int(rng.integers(len(places)))]
        choice = int(rng.integers(6))
        if choice == 0:
            del holder[key]
        elif choice == 1 and isinstance(holder, dict):
            holder[str(key) + "s"] = holder.pop(key)
        elif choice == 2 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            holder[key] = copy.deepcopy(_VALUES[int(rng.integers(len(_VALUES)))])
    return tree


def copied(data: dict[str, bytes], folder: Path) -> None:
    """Writes files by their names."""
    for name, content in data.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
