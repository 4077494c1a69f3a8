"""Rendered pictures as a data set: colour, depth, instance ids, cameras and poses, in the form of nerfstudio, BOP or COCO.

Pictures are taken along the film that the same settings would give. Masks and ids are those of pixel centres, as the depth is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from compose.composite import Composite
from objects.progress import Bar
from rendering import Camera, Frame, RenderConfig, render, save_depth_png, save_png, save_transforms
from rendering.atomic import replacing
from rendering.images import save_depth_npy, save_ids_png, save_mask_png
from scenes.graph import SceneGraph
from scenes.pictures import instance_ids, save_names
from scenes.questions import path_at_level

_MM = 1000.0


class _Shot(NamedTuple):
    number: int
    time: float
    camera: Camera
    scene: Composite
    frame: Frame
    ids: Tensor


def save_dataset(
    graph: SceneGraph,
    views: Sequence[tuple[float, Camera]],
    form: str,
    folder: Path,
    *,
    config: RenderConfig,
    level: int = 0,
) -> None:
    """Renders pictures and writes them as a data set; ``ids.json`` says which path and tags each instance id stands for.

    * ``nerfstudio``: ``transforms.json`` (OpenGL camera axes, metres), ``images/``, ``depth/`` (.npy, float32 metres, 0 for none),
      ``depth_png/`` (16-bit, millimetres), ``ids/`` (16-bit, 0 for none). `load_views` reads it.
    * ``bop``: ``scene_camera.json``, ``scene_gt.json``, ``scene_gt_info.json``, ``rgb/``, ``depth/`` (16-bit, millimetres),
      ``mask/``, ``mask_visib/``; poses ``p_cam = R p_obj + t`` in millimetres with OpenCV axes, image coordinates counted from the
      centre of the first pixel. ``objects.json`` says what each ``obj_id`` is: one for each distinct field and size.
    * ``coco``: ``annotations.json`` with run-length masks and ``images/``. The category of a thing is its first tag, else the
      name of the first thing that has its field.

    Args:
        graph: The scene.
        views: Time (seconds) and camera of each picture.
        form: One of ``nerfstudio``, ``bop``, ``coco``.
        folder: Where to; it exists. Files of the same names are replaced, others stay.
        config: How to render.
        level: Instances are whole things at this level of the hierarchy (1: the top); 0 for single objects.

    Raises:
        ValueError: ``level`` above 0 with ``bop``, whose poses are those of single objects; a scene whose ids don't fit 16 bits.
    """
    if form == "bop" and level:
        raise ValueError(
            f"level: the poses of a BOP data set are those of single objects; expected level=0, got {level}"
        )
    writer = {"nerfstudio": _Nerfstudio, "bop": _Bop, "coco": _Coco}[form](graph, folder, level)
    names: dict[int, str] = {}
    for number, (time, camera) in enumerate(Bar(views, desc="data set", unit="picture")):
        scene = graph.at(time)
        frame = render(scene, camera, lights=graph.lights_at(time), config=config, progress=False)
        ids, found = instance_ids(frame, graph, time, level)
        names |= found
        writer.add(_Shot(number, time, camera, scene, frame, ids))
    save_names(graph, names, folder / "ids.json")
    writer.finish()


class _Nerfstudio:
    def __init__(self, graph: SceneGraph, folder: Path, level: int) -> None:
        self.folder, self.cameras, self.frames = folder, [], []

    def add(self, shot: _Shot) -> None:
        name = f"{shot.number:06d}"
        _folders(self.folder, "images", "depth", "depth_png", "ids")
        save_png(shot.frame.rgb, self.folder / f"images/{name}.png")
        save_depth_npy(shot.frame.depth, self.folder / f"depth/{name}.npy")
        save_depth_png(shot.frame.depth, self.folder / f"depth_png/{name}.png")
        save_ids_png(shot.ids, self.folder / f"ids/{name}.png")
        self.cameras.append(shot.camera)
        beside = {"depth_file_path": f"depth/{name}.npy", "instance_path": f"ids/{name}.png"}
        self.frames.append({**beside, "time": shot.time})

    def finish(self) -> None:
        paths = [f"images/{number:06d}.png" for number in range(len(self.frames))]
        file = self.folder / "transforms.json"
        save_transforms(file, self.cameras, paths, frame_entries=self.frames, entries={"depth_unit_scale_factor": 1.0})


class _Bop:
    def __init__(self, graph: SceneGraph, folder: Path, level: int) -> None:
        self.folder = folder
        self.camera, self.gt, self.info = {}, {}, {}
        self.models: dict[tuple[int, float], dict[str, Any]] = {}  # by field and size, numbered as they come

    def add(self, shot: _Shot) -> None:
        key, name, camera = str(shot.number), f"{shot.number:06d}", shot.camera
        _folders(self.folder, "rgb", "depth", "mask", "mask_visib")
        save_png(shot.frame.rgb, self.folder / f"rgb/{name}.png")
        save_depth_png(shot.frame.depth, self.folder / f"depth/{name}.png")
        T_cam_world = camera.T_world_cam.inverse()
        self.camera[key] = {
            "cam_K": [camera.fx, 0.0, camera.cx - 0.5, 0.0, camera.fy, camera.cy - 0.5, 0.0, 0.0, 1.0],
            "depth_scale": 1.0,
            "cam_R_w2c": T_cam_world.rotation().flatten().tolist(),
            "cam_t_w2c": (_MM * T_cam_world.translation).tolist(),
        }
        measured = torch.isfinite(shot.frame.depth)
        self.gt[key], self.info[key] = [], []
        plain = RenderConfig(antialias=1, shadows=False, normals=False)
        for i, instance in enumerate(shot.scene.instances):
            visible = shot.frame.owner == i
            whole = render(Composite([instance]), camera, config=plain, progress=False).owner >= 0
            if not bool(whole.any()):
                continue
            model = self.models.setdefault(
                (id(instance.field), float(instance.scale)),
                {"obj_id": len(self.models) + 1, "scale": float(instance.scale), "paths": []},
            )
            if instance.name not in model["paths"]:
                model["paths"].append(instance.name)
            pose, place = T_cam_world @ instance.T_world_obj, f"{name}_{len(self.gt[key]):06d}.png"
            save_mask_png(whole, self.folder / f"mask/{place}")
            save_mask_png(visible, self.folder / f"mask_visib/{place}")
            self.gt[key].append(
                {
                    "cam_R_m2c": pose.rotation().flatten().tolist(),
                    "cam_t_m2c": (_MM * pose.translation).tolist(),
                    "obj_id": model["obj_id"],
                }
            )
            n_all, n_visible = int(whole.sum()), int(visible.sum())
            self.info[key].append(
                {
                    "bbox_obj": bounding_box(whole),
                    "bbox_visib": bounding_box(visible) if n_visible else [-1, -1, -1, -1],
                    "px_count_all": n_all,
                    "px_count_valid": int((whole & measured).sum()),
                    "px_count_visib": n_visible,
                    "visib_fract": n_visible / n_all,
                }
            )

    def finish(self) -> None:
        objects = {str(model.pop("obj_id")): model for model in self.models.values()}
        for name, value in (("objects", objects), ("scene_gt_info", self.info), ("scene_gt", self.gt)):
            _save_json(value, self.folder / f"{name}.json")
        _save_json(self.camera, self.folder / "scene_camera.json")


class _Coco:
    def __init__(self, graph: SceneGraph, folder: Path, level: int) -> None:
        self.graph, self.folder = graph, folder
        self.images, self.annotations = [], []
        self.categories: dict[str, int] = {}
        first: dict[int, str] = {}
        for path in graph:
            if graph[path].field is not None:
                first.setdefault(id(graph[path].field), graph[path_at_level(path, level) if level else path].name)
        self.first = first

    def add(self, shot: _Shot) -> None:
        file = f"images/{shot.number:06d}.png"
        _folders(self.folder, "images")
        save_png(shot.frame.rgb, self.folder / file)
        image = {"id": shot.number + 1, "file_name": file, "width": shot.camera.width, "height": shot.camera.height}
        self.images.append(image)
        names = {self.graph[path].record.id: path for path in self.graph}
        for number in shot.ids.unique().tolist():
            if number == 0:
                continue
            mask, node = shot.ids == number, self.graph[names[number]]
            category = node.tags[0] if node.tags else self.first.get(id(node.field), node.name)
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image["id"],
                    "category_id": self.categories.setdefault(category, len(self.categories) + 1),
                    "segmentation": run_lengths(mask),
                    "area": int(mask.sum()),
                    "bbox": bounding_box(mask),
                    "iscrowd": 0,
                    "instance_id": number,
                }
            )

    def finish(self) -> None:
        categories = [{"id": number, "name": name, "supercategory": ""} for name, number in self.categories.items()]
        value = {"images": self.images, "annotations": self.annotations, "categories": categories}
        _save_json(value, self.folder / "annotations.json")


def bounding_box(mask: Bool[Tensor, "h w"]) -> list[int]:
    """``[x, y, width, height]`` of what is set, pixels; something must be."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def run_lengths(mask: Bool[Tensor, "h w"]) -> dict[str, list[int]]:
    """COCO's uncompressed run-length code: lengths of runs of 0 and 1 in turn, column by column, the first of 0."""
    flat = mask.t().flatten().numpy().astype(np.int8)
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [len(flat)]])
    return {"size": list(mask.shape), "counts": [0] * int(flat[0]) + np.diff(bounds).tolist()}


def _folders(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).mkdir(exist_ok=True)


def _save_json(value: Any, path: Path) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
