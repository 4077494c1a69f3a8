"""What the command line makes pictures of: layers and their files, cameras, films, the sheet of all objects."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compose.composite import Composite
from compose.types import Instance
from objects.pose import SE3
from objects.progress import Bar
from rendering import (
    AmbientLight,
    Camera,
    DirectionalLight,
    Frame,
    RenderConfig,
    contact_sheet,
    depth_picture,
    labelled,
    normal_picture,
    owner_picture,
    render,
    save_depth_png,
    save_mp4,
    save_png,
    save_transforms,
)
from rendering.atomic import replacing
from rendering.images import save_depth_npy, save_ids_png
from scenes.graph import SceneGraph
from scenes.paths import NUMBERS, Settings, numbers
from scenes.questions import path_at_level

_SECONDS = 4.0  # of a film that nothing else limits


def camera_for(graph: SceneGraph, settings: Settings, time: float) -> Camera:
    """What the settings say; the scene's first camera by default, else a view of all of it."""
    name, eye, target = (settings[f"camera.{key}"] for key in ("name", "eye", "target"))
    size = [_pixels(key, settings[key]) for key in ("camera.width", "camera.height")]
    if name is not None and (eye is not None or target is not None):
        raise ValueError("camera: expected camera.name or camera.eye, got both")
    if name is None and eye is None and target is None and graph.cameras:
        name = graph.cameras[0]
    if name is not None:
        camera = graph.camera_at(name, time)
        if size != [None, None]:
            width, height = size
            width = width or round(camera.width * (height or camera.height) / camera.height)
            camera = camera.resized(width, height or round(camera.height * width / camera.width))
        return camera
    width, height = size[0] or 640, size[1] or 480
    fov = settings["camera.fov"]
    if not 0 < fov < 180:
        raise ValueError(f"camera.fov: expected degrees between 0 and 180, got {fov}")
    middle, radius = _extent(graph, time)
    look = numbers("camera.target", target, 3) if target is not None else middle
    if eye is not None:
        return Camera.look_at(numbers("camera.eye", eye, 3), look, width, height, fov)
    narrow = math.radians(fov) / 2 * min(1.0, width / height)
    return Camera.orbit(look, 1.1 * radius / math.sin(narrow), 1, width, height, start_deg=-60, fov_y_deg=fov)[0]


def _pixels(key: str, text: str | None) -> int | None:
    if text is None:
        return None
    value = numbers(key, text, 1)[0]
    if value != int(value) or not 1 <= value <= 16384:
        raise ValueError(f"{key}: expected a whole number from 1 to 16384, got {text!r}")
    return int(value)


def _extent(graph: SceneGraph, time: float) -> tuple[list[float], float]:
    """Middle and radius of the scene, metres."""
    bounds = graph.at(time).bounds
    if bounds is None:
        return [0.0, 0.0, 0.0], 1.0
    return bounds.center.tolist(), 0.5 * bounds.diagonal


def film(graph: SceneGraph, settings: Settings, start: float, seconds: float | None) -> list[tuple[float, Camera]]:
    """Time and camera of each picture, from ``start`` on."""
    (first, last), clip = graph.span, settings["clip"]
    if clip == "auto":
        clip = "time" if last > start or (last > first and _loops(graph)) else "orbit"
    if seconds is None:
        seconds = _SECONDS
        if clip != "orbit" and last > first and _loops(graph):
            seconds = math.ceil(_SECONDS / (last - first)) * (last - first)  # whole rounds of the longest loop
        elif clip != "orbit" and last > start:
            seconds = max(last - start, 1.0)
        if seconds > 3600:
            raise ValueError(f"seconds: the scene moves until {last:g} s; say which part to film by time= and seconds=")
    n = max(round(seconds * settings["fps"]), 1)
    times = [start + (i / settings["fps"] if clip != "orbit" else 0.0) for i in range(n)]
    if clip == "time":
        return [(t, camera_for(graph, settings, t)) for t in times]
    camera = camera_for(graph, settings, start)
    eye = camera.position_world
    target = settings["camera.target"]
    middle = numbers("camera.target", target, 3) if target is not None else _extent(graph, start)[0]
    offset = eye - eye.new_tensor(middle)
    radius = float(offset.norm())
    turn, rise = (
        math.degrees(math.atan2(offset[1], offset[0])),
        math.degrees(math.asin(float(offset[2]) / max(radius, 1e-9))),
    )
    fov = 2 * math.degrees(math.atan(0.5 * camera.height / camera.fy))
    cameras = Camera.orbit(
        middle, radius, n, camera.width, camera.height, elevation_deg=rise, start_deg=turn, fov_y_deg=fov
    )
    return list(zip(times, cameras, strict=True))


def _loops(graph: SceneGraph) -> bool:
    """Whether something goes on for ever."""
    nodes = graph.records().values()
    return any(h.track.end == "loop" and h.track.moves for node in nodes for h in node.attachments) or any(
        node.clock.loop and node.clock.speed != 0 for node in nodes if node.field is not None
    )


def layer_picture(frame: Frame, layer: str, graph: SceneGraph, time: float, level: int) -> Tensor:
    if layer == "owner":
        owner = frame.owner
        if level > 0 and len(place := graph.owners(level, time)[1]):
            owner = place[owner.clamp(min=0)].where(owner >= 0, owner)
        return owner_picture(owner)
    if layer == "depth_view":
        return depth_picture(frame.depth)
    if layer == "normal":
        return normal_picture(frame.normal)
    if layer in ("alpha", "seen"):
        return getattr(frame, layer)[..., None].expand(-1, -1, 3)
    return frame.canonical if layer == "canonical" else frame.rgb


def instance_ids(frame: Frame, graph: SceneGraph, time: float, level: int = 0) -> tuple[Tensor, dict[int, str]]:
    """Whose each pixel is as numbers of nodes, ``[h, w]``, 0 for none; and the path of each number that may occur.

    A node keeps its number whatever else is edited. With a level (1: the top) the numbers are those of whole things.

    Raises:
        ValueError: Numbers that don't fit 16 bits.
    """
    paths = [instance.name for instance in graph.at(time).instances]
    if level > 0:
        paths = [path_at_level(path, level) for path in paths]
    numbers = torch.tensor([graph[path].record.id for path in paths] or [0])
    if int(numbers.max()) > 65535:
        raise ValueError(
            f"ids: node numbers must fit 16 bits (65535), got {int(numbers.max())}; render parts of the scene"
        )
    ids = torch.where(frame.owner >= 0, numbers[frame.owner.clamp(min=0)], 0)
    return ids, dict(zip(numbers.tolist(), paths, strict=False))


def save_names(graph: SceneGraph, names: dict[int, str], file: Path) -> None:
    """What ids stand for: ``{"3": {"path": "table/cup", "tags": ["cup"]}}``."""
    found = {str(number): {"path": path, "tags": list(graph[path].tags)} for number, path in sorted(names.items())}
    with replacing(file) as part:
        part.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def save_picture(
    frame: Frame, camera: Camera, files: dict[str, Path], graph: SceneGraph, time: float, level: int, in_folder: bool
) -> None:
    """Writes the layers of one picture; beside ids their names, and in a folder of its own the camera as a transforms.json."""
    for layer, file in files.items():
        if layer == "depth":
            save_depth_png(frame.depth, file)
        elif layer == "depth_npy":
            save_depth_npy(frame.depth, file)
        elif layer == "ids":
            ids, names = instance_ids(frame, graph, time, level)
            save_ids_png(ids, file)
            save_names(graph, names, file.with_suffix(".json"))
        else:
            save_png(layer_picture(frame, layer, graph, time, level), file)
    seen = [layer for layer in files if layer not in NUMBERS]
    if in_folder and seen:
        shown = files["rgb" if "rgb" in files else seen[0]]
        entries: dict[str, Any] = {"time": time}
        for layer, unit in (("depth", 0.001), ("depth_npy", 1.0)):
            if layer in files:
                entries |= {"depth_file_path": files[layer].name, "depth_unit_scale_factor": unit}
        if "ids" in files:
            entries["instance_path"] = files["ids"].name
        save_transforms(shown.with_name("transforms.json"), [camera], [shown.name], frame_entries=[entries])


def save_film(
    graph: SceneGraph,
    views: Sequence[tuple[float, Camera]],
    layer: str,
    file: Path,
    fps: float,
    *,
    config: RenderConfig,
    level: int,
) -> None:
    """Renders and writes a film of one layer."""

    def pictures():
        for time, camera in Bar(views, desc="film", unit="frame"):
            frame = render(graph.at(time), camera, lights=graph.lights_at(time), config=config, progress=False)
            yield layer_picture(frame, layer, graph, time, level)

    save_mp4(pictures(), file, fps)


def save_sheet(graph: SceneGraph, users: dict[Any, list[str]], file: Path, time: float) -> None:
    """The scene, then each distinct object alone with the path of its first user; at most 59 of them."""
    size, lights = (320, 240), (AmbientLight(intensity=0.45), DirectionalLight((-0.5, 0.7, -1.0), intensity=0.7))
    keys = {"name", "eye", "target", "width", "height"}
    camera = camera_for(graph, {f"camera.{key}": None for key in keys} | {"camera.fov": 45.0}, time).resized(*size)
    scene_lights = graph.lights_at(time) or lights
    pictures = [labelled(render(graph.at(time), camera, lights=scene_lights).rgb, "scene")]
    chosen = list(users.items())[:59]
    for field, paths in Bar(chosen, desc="sheet", unit="object"):
        box = field.bounds
        # Turned as it stands in the scene.
        turned = SE3(graph.pose(paths[0], time)[0].quat_wxyz, torch.zeros(3, dtype=torch.float64))
        middle = turned @ box.center.double()
        near = Camera.orbit(middle, 1.35 * box.diagonal, 1, *size, start_deg=-60, fov_y_deg=45)[0]
        alone = Composite([Instance(paths[0], field, turned)])
        label = paths[0] + (f"  x {len(paths)}" if len(paths) > 1 else "")
        pictures.append(labelled(render(alone, near, lights=lights, progress=False).rgb, label))
    save_png(contact_sheet(pictures, columns=min(4, math.ceil(math.sqrt(len(pictures))))), file)
