"""The small objects of the package pybullet_data (extra ``demo``), a thousand meshes of one colour each: how they are learned."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import igl
import numpy as np
import torch
import trimesh
from torch import nn
from trimesh.visual import ColorVisuals

from compose import Composite, Instance, Rays
from objects import SE3, FitConfig, FitError, MeshError, SirenField, fit_meshes, save_field
from objects.cache import content_key
from objects.files import write_atomically
from objects.jobs import Job, Processes, run_jobs

# A narrow network, few samples, and next to nothing for colour.
SMALL = FitConfig(
    width=48,
    layers=3,
    omega_first=20.0,
    steps=1200,
    batch=1024,
    pool=16_384,
    surface_pool=16_384,
    falloff=0.4,
    color_width=8,
    color_layers=1,
    color_pool=1024,
    color_batch=64,
)
IOU_POINTS = 32_768


class Thing(NamedTuple):
    """An object of the package: its mesh file, metres for each unit of it, its colour (sRGB in 0..1)."""

    name: str
    file: Path
    scale: float
    color: tuple[float, float, float]


def find_things(folder: Path) -> list[Thing]:
    """All objects of a folder of ``NAME/NAME.urdf``, which say which mesh they show, how large and in which colour."""
    things = []
    for urdf in sorted(folder.glob("*/*.urdf")):
        visual = ElementTree.parse(urdf).find("link/visual")
        mesh, color = (None, None) if visual is None else (visual.find("geometry/mesh"), visual.find("material/color"))
        if mesh is None or color is None:
            raise ValueError(f"{urdf}: expected a link with a visual mesh and a colour")
        red, green, blue = map(float, color.attrib["rgba"].split()[:3])
        scale = float(mesh.attrib.get("scale", "1").split()[0])
        things.append(Thing(urdf.stem, urdf.parent / mesh.attrib["filename"], scale, (red, green, blue)))
    return things


def read_thing(thing: Thing) -> trimesh.Trimesh:
    """The mesh in metres, painted.

    Raises:
        MeshError: The file holds no triangles, or numbers that are not finite.
    """
    mesh = trimesh.load(thing.file, force="mesh", process=False)
    if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) == 0 or not np.isfinite(mesh.vertices).all():
        raise MeshError(f"{thing.file.name}: expected triangles with finite vertices")
    mesh.apply_scale(thing.scale)
    rgba = np.round(255 * np.array([*thing.color, 1.0])).astype(np.uint8)
    mesh.visual = ColorVisuals(mesh, vertex_colors=np.tile(rgba, (len(mesh.vertices), 1)))
    return mesh


def learn_each(
    meshes: Sequence[trimesh.Trimesh], config: FitConfig | None = None
) -> list[SirenField | MeshError | FitError]:
    """Learns meshes side by side; an error for each that can't be learned."""
    try:
        return list(fit_meshes(meshes, config=config, progress=False))
    except (MeshError, FitError) as error:
        if len(meshes) == 1:
            return [error]
    return [learn_each([mesh], config)[0] for mesh in meshes]  # those that were learned are in the cache


def iou(field: SirenField, mesh: trimesh.Trimesh, n: int = IOU_POINTS) -> float:
    """Volume shared over volume covered by field or mesh, on points uniform in the field's box; inside of the mesh is where its
    generalised winding number is above 1/2."""
    lo, hi = field.box_lo.double().numpy(), field.box_hi.double().numpy()
    p = np.random.default_rng(0).uniform(lo, hi, (n, 3))
    wanted = np.asarray(igl.fast_winding_number(np.asarray(mesh.vertices), np.asarray(mesh.faces, np.int64), p)) > 0.5
    with torch.no_grad():
        got = (field.sdf(torch.from_numpy(p).float()) < 0).numpy()
    return float((got & wanted).sum() / max((got | wanted).sum(), 1))


def learn_things(
    things: Sequence[Thing], folder: Path, *, batch: int, processes: int, config: FitConfig = SMALL
) -> dict[str, dict[str, Any]]:
    """What was learned of each thing: its ``file`` in ``folder``, ``iou`` and ``cpu_seconds``, or the ``reason`` why nothing was.

    Rows are kept beside the fields, so that a killed run goes on where it was.
    """
    jobs = {}
    for thing in things:
        mesh = hashlib.sha256(thing.file.read_bytes()).hexdigest()
        jobs[thing.name] = Job(("small object", 1), thing, content_key(mesh, thing.scale, list(thing.color)), config)
    folder.mkdir(parents=True, exist_ok=True)
    rows = run_jobs(
        list(jobs.values()),
        partial(_learn_batch, folder),
        recall=partial(_recalled, folder),
        runner=Processes(processes),
        group=batch,
        label="learning",
        progress=True,
    )
    return {name: rows[job.key] for name, job in jobs.items()}


def _recalled(folder: Path, job: Job) -> dict[str, Any] | None:
    try:
        row = json.loads((folder / f"{job.key}.json").read_text(encoding="utf-8"))
        return row if "reason" in row or Path(row["file"]).is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none yet, or damaged


def _learn_batch(folder: Path, jobs: list[Job]) -> list[dict[str, Any]]:
    began = time.process_time()
    rows: dict[str, dict[str, Any]] = {}
    meshes: dict[str, trimesh.Trimesh] = {}
    for job in jobs:
        try:
            meshes[job.key] = read_thing(job.inputs)
        except MeshError as error:
            rows[job.key] = {"reason": str(error)}
    for (key, mesh), field in zip(meshes.items(), learn_each(list(meshes.values()), jobs[0].config), strict=True):
        if not isinstance(field, SirenField):
            rows[key] = {"reason": str(field)}
            continue
        save_field(field, folder / f"{key}.safetensors")
        _index(field)
        rows[key] = {"file": str(folder / f"{key}.safetensors"), "iou": round(iou(field, mesh), 5)}
    seconds = round((time.process_time() - began) / len(jobs), 3)
    for job in jobs:
        rows[job.key]["cpu_seconds"] = seconds
        write_atomically(folder / f"{job.key}.json", json.dumps(rows[job.key]).encode())
    return [rows[job.key] for job in jobs]


def _index(field: SirenField) -> None:
    """Has the cache filled with what pictures of the field need, by a ray through its middle."""
    lo, hi = field.box_lo.double()[None], field.box_hi.double()[None]
    along = nn.functional.normalize(hi - lo)
    Composite([Instance("one", field, SE3.identity())]).trace(Rays(lo - 0.1 * along, along))
