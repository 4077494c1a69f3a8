"""A scene described in YAML by hand: what things are, where they stand, what carries what.

nodes:
  table:
    mesh: table.obj        # or field: FILE, shape: {kind: box, ...}, scene: OTHER.scene
    up: y                  # axis of the file that points up here (z)
    size: 1.5              # longest edge in metres, instead of the file's units
    origin: bottom         # puts the middle of the underside at the origin
    position: [0, 0, 0]
    children:
      mug: {mesh: mug.obj, size: 0.1, origin: bottom, position: [0.2, 0, 0.6], turn: 30}
  flag: {field: flag.safetensors, clock: {offset: 0.5, speed: 2, loop: true}}  # of what bends
  lamp: {light: {kind: point, intensity: 4}, position: [1, -1, 2.5]}
  front: {camera: {target: [0, 0, 0.5], fov_y_deg: 40}, position: [2, -2, 1.5]}
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from msgspec import Meta, Struct

from objects.field import Field
from objects.files import load_field
from objects.mesh_files import Meshlike, read_parts
from objects.pose import SE3
from objects.primitives import Box, Capsule, Cylinder, Sphere, Torus
from rendering.camera import Camera
from rendering.lights import AmbientLight, DirectionalLight, Light, PointLight
from scenes.clock import Clock
from scenes.io.plan import Handover, Plan
from scenes.io.strict_yaml import COLOR, Mistakes, decoded, nearest, read_strictly
from scenes.node import check_name
from scenes.paths import lookalikes, user_path
from scenes.track import Quat, Sim3, Track, Vec, quat_multiply, unit_quat, vector

MAX_BYTES = 16 * 2**20
Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Pixels = Annotated[int, Meta(ge=1, le=16384)]
Color = Annotated[tuple[Share, Share, Share], Meta(extra=COLOR)]
_GREY = (0.7, 0.7, 0.7)
_WHITE = (1.0, 1.0, 1.0)


class _Yaml(Struct, forbid_unknown_fields=True):
    pass


class _Sphere(_Yaml, tag_field="kind", tag="sphere"):
    radius: Positive
    color: Color = _GREY


class _Box(_Yaml, tag_field="kind", tag="box"):
    size: Vec
    rounding: float = 0.0
    color: Color = _GREY


class _Cylinder(_Yaml, tag_field="kind", tag="cylinder"):
    radius: Positive
    height: Positive
    color: Color = _GREY


class _Capsule(_Yaml, tag_field="kind", tag="capsule"):
    radius: Positive
    height: Positive
    color: Color = _GREY


class _Torus(_Yaml, tag_field="kind", tag="torus"):
    major: Positive
    minor: Positive
    color: Color = _GREY


_SHAPES = (_Sphere, _Box, _Cylinder, _Capsule, _Torus)


class _Ambient(_Yaml, tag_field="kind", tag="ambient"):
    color: Color = _WHITE
    intensity: float = 0.3
    ground_color: Color | None = None


class _Directional(_Yaml, tag_field="kind", tag="directional"):
    direction: Vec = (0.0, 0.0, -1.0)
    color: Color = _WHITE
    intensity: float = 1.0


class _Point(_Yaml, tag_field="kind", tag="point"):
    color: Color = _WHITE
    intensity: float = 1.0


class _Camera(_Yaml):
    """``target`` in the frame in which ``position`` is given; without, the node's own axes (OpenCV: z forward, y down)."""

    target: Vec | None = None
    width: Pixels = 640
    height: Pixels = 480
    fov_y_deg: float = 50.0


class _AxisAngle(_Yaml):
    axis: Vec
    degrees: float


class _Key(_Yaml):
    time: float
    position: Vec = (0.0, 0.0, 0.0)
    rotation: Quat | _AxisAngle = (1.0, 0.0, 0.0, 0.0)
    turn: float = 0.0


class _Handover(_Yaml, rename={"start": "from"}):
    start: float
    by: str


class _Clock(_Yaml):
    offset: float = 0.0
    speed: float = 1.0
    loop: bool = False


class _Node(_Yaml):
    mesh: str | None = None
    field: str | None = None
    shape: _Sphere | _Box | _Cylinder | _Capsule | _Torus | None = None
    scene: str | None = None
    up: Literal["x", "y", "z"] | None = None
    size: Positive | None = None
    origin: Literal["file", "center", "bottom"] | None = None
    position: Vec = (0.0, 0.0, 0.0)
    rotation: Quat | _AxisAngle = (1.0, 0.0, 0.0, 0.0)
    turn: float = 0.0
    scale: Positive = 1.0
    keys: list[_Key] = []
    interpolation: Literal["linear", "step"] = "linear"
    end: Literal["hold", "loop"] = "hold"
    carried: list[_Handover] = []
    clock: _Clock | None = None
    light: _Ambient | _Directional | _Point | None = None
    camera: _Camera | None = None
    lit: bool = True
    hidden: bool = False
    tags: list[str] = []
    children: dict[str, _Node] = {}


class _Description(_Yaml):
    nodes: dict[str, _Node]


def read_description(path: str | os.PathLike[str]) -> list[Plan]:
    """The nodes that a YAML file describes, parents before children. Files it names are looked for beside it.

    Raises:
        DescriptionError: All that is wrong with it, in one line, each mistake with its line: an unknown key, kind or node (the
            nearest is suggested), a value that makes no sense, a name given twice, a file that isn't there.
        ValueError: No such file, or no YAML at all.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path}: expected at most {MAX_BYTES} bytes")
    mistakes = Mistakes()
    description, lines = read_strictly(decoded(data, str(path)), _Description, str(path), mistakes)
    found: list[tuple[_Spot, Plan]] = []
    meshes: dict[tuple[Path, Any, Any, Any], Meshlike] = {}
    nodes = description.nodes if description is not None else {}
    todo = [(_Spot(mistakes, lines, ("nodes", name), name), node) for name, node in reversed(nodes.items())]
    while todo:
        spot, node = todo.pop()
        found.append((spot, _plan(spot, node, path.parent, meshes)))
        todo += [(spot.child(name), child) for name, child in reversed(node.children.items())]
    _check_handovers(found)
    if mistakes:
        raise mistakes.error(str(path))
    return [plan for _, plan in found]


class _Spot(NamedTuple):
    """A node in the file: the keys that lead to it, and its path in the scene."""

    mistakes: Mistakes
    lines: dict[tuple[str, ...], int]
    keys: tuple[str, ...]
    path: str

    def child(self, name: str) -> _Spot:
        return self._replace(keys=(*self.keys, "children", name), path=f"{self.path}/{name}")

    def line(self, key: str) -> int:
        return self.lines.get((*self.keys, key), self.lines[self.keys])

    def noting(self, key: str = "") -> AbstractContextManager[None]:
        """What goes wrong inside is a mistake of this node, or of one of its keys."""
        return self.mistakes.noting(self.line(key), self.path)


def _plan(spot: _Spot, node: _Node, folder: Path, meshes: dict) -> Plan:
    with spot.noting():
        check_name(spot.keys[-1])
    for key, mistake in _contradictions(node):
        spot.mistakes.add(spot.line(key), f"{spot.path}: {mistake}")
    quat, camera, light, shape, scene = (1.0, 0.0, 0.0, 0.0), None, None, None, None
    track = Track.constant(Sim3())
    with spot.noting("rotation"):
        quat = _rotation(node)
    if node.camera is not None:
        with spot.noting("camera"):
            camera, quat = _camera(node.camera, node.position, quat)
    with spot.noting("keys" if node.keys else "position"):
        track = _track(node, quat)
    if node.light is not None:
        with spot.noting("light"):
            light = _light(node.light)
    if node.mesh is not None:
        with spot.noting("mesh"):
            file = _file(folder, node.mesh, "mesh")
            key = (file, node.up, node.size, node.origin)
            if key not in meshes:
                meshes[key] = _prepared(file, node.up or "z", node.size, node.origin or "file")
            shape = meshes[key]
    if node.field is not None:
        with spot.noting("field"):
            shape = load_field(_file(folder, node.field, "field"))
    if node.shape is not None:
        with spot.noting("shape"):
            shape = _primitive(node.shape)
    if node.scene is not None:
        with spot.noting("scene"):
            scene = _file(folder, f"{node.scene.rstrip('/')}/scene.json", "scene").parent
    clock = None
    if node.clock is not None and shape is not None:
        with spot.noting("clock"):
            clock = _clock(node.clock, shape)
    return Plan(
        path=spot.path,
        track=track,
        clock=clock,
        scale=node.scale,
        shape=shape,
        scene=scene,
        light=light,
        camera=camera,
        tags=tuple(node.tags),
        lit=node.lit,
        hidden=node.hidden,
        handovers=tuple(Handover(h.start, h.by.strip("/") or "/") for h in node.carried),
    )


def _contradictions(node: _Node) -> Iterator[tuple[str, str]]:
    """Keys that don't go together: one of them, and what is wrong."""
    sources = [key for key in ("mesh", "field", "shape", "scene") if getattr(node, key) is not None]
    if len(sources) > 1:
        yield sources[1], f"expected one of mesh, field, shape and scene, got {' and '.join(sources)}"
    if node.mesh is None and (odd := [k for k in ("up", "size", "origin") if getattr(node, k) is not None]):
        yield odd[0], f"{odd[0]} belongs to a mesh; use scale or rotation for what has none"
    if node.clock is not None and node.field is None:
        yield "clock", "clock belongs to a field that bends; there is none"
    if node.keys and (node.position != (0, 0, 0) or node.turn or node.rotation != (1, 0, 0, 0)):
        yield "keys", "expected a position and rotation, or keys, got both"
    if any(place.turn and place.rotation != (1, 0, 0, 0) for place in (node, *node.keys)):
        yield "turn", "expected turn or rotation, got both"


def _check_handovers(found: Sequence[tuple[_Spot, Plan]]) -> None:
    """Whether what shall carry something is there at that time; a node's path changes when it is handed over."""
    where = {plan.path: plan.path for _, plan in found}
    scenes = [f"{plan.path}/" for _, plan in found if plan.scene is not None]
    moves = sorted((h.start, h.by, plan.path, spot.line("carried")) for spot, plan in found for h in plan.handovers)
    for _, by, path, line in moves:
        target = where.get(by, by)
        known = target == "/" or target in where.values() or any(by.startswith(scene) for scene in scenes)
        if not known:
            found[0][0].mistakes.add(line, f"{path}: carried by no node {by[:60]!r}{nearest(by, where)}")
            continue
        old, new = where[path], f"{target}/{path.rpartition('/')[2]}".lstrip("/")
        where = {
            key: new + at[len(old) :] if at == old or at.startswith(old + "/") else at for key, at in where.items()
        }


def _track(node: _Node, quat: Quat) -> Track:
    if not node.keys:
        return Track.constant(Sim3(quat, vector(node.position, "position")))
    return Track(
        np.array([k.time for k in node.keys]),
        np.array([_rotation(k) for k in node.keys]),
        np.array([vector(k.position, "position") for k in node.keys]),
        node.interpolation,
        node.end,
    )


def _clock(clock: _Clock, shape: Field | Meshlike) -> Clock:
    if not isinstance(shape, Field) or not shape.deforms:
        raise ValueError("clock belongs to a field that bends; this one doesn't")
    if clock.loop and shape.span is None:
        raise ValueError("the field claims no span of time, so it can't loop")
    return Clock(clock.offset, clock.speed, clock.loop)


def _file(folder: Path, name: str, key: str) -> Path:
    path = folder / user_path(name)
    try:
        if path.is_file():
            return path
    except (OSError, ValueError) as error:  # a name too long, or with a zero byte
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"{key}: {str(path)[:80]!r} cannot be read: {why}") from None
    if key == "scene":
        path = path.parent
        raise ValueError(f"scene: no scene folder {str(path)!r}" + lookalikes(path))
    raise ValueError(f"{key}: no file {str(path)!r}" + lookalikes(path))


def _rotation(node: _Node | _Key) -> Quat:
    given = node.rotation
    if isinstance(given, _AxisAngle):
        quat = _about(given.axis, given.degrees)
    else:
        quat = unit_quat(given)
    return quat_multiply(_about((0.0, 0.0, 1.0), node.turn), quat) if node.turn else quat


def _about(axis: Sequence[float], degrees: float) -> Quat:
    pose = SE3.from_axis_angle(list(axis), float(np.radians(degrees)))
    return unit_quat(pose.quat_wxyz.tolist())


def _camera(camera: _Camera, position: Vec, quat: Quat) -> tuple[Camera, Quat]:
    """The camera at the node's origin, and the node's rotation if it looks at a target."""
    if camera.target is not None:
        looking = Camera.look_at(position, camera.target, camera.width, camera.height, camera.fov_y_deg)
        quat = unit_quat(looking.T_world_cam.quat_wxyz.tolist())
    plain = Camera.look_at((0, 0, 0), (0, 0, 1), camera.width, camera.height, camera.fov_y_deg)
    intrinsics = (plain.fx, plain.fy, plain.cx, plain.cy, plain.width, plain.height)
    return Camera(SE3.identity(), *intrinsics), quat


def _light(light: _Ambient | _Directional | _Point) -> Light:
    if isinstance(light, _Ambient):
        return AmbientLight(light.color, light.intensity, light.ground_color)
    if isinstance(light, _Directional):
        return DirectionalLight(light.direction, light.color, light.intensity)
    return PointLight((0.0, 0.0, 0.0), light.color, light.intensity)


def _primitive(shape: _Sphere | _Box | _Cylinder | _Capsule | _Torus) -> Field:
    if isinstance(shape, _Sphere):
        return Sphere(shape.radius, color=shape.color)
    if isinstance(shape, _Box):
        return Box(shape.size, shape.rounding, color=shape.color)
    if isinstance(shape, _Cylinder):
        return Cylinder(shape.radius, shape.height, color=shape.color)
    if isinstance(shape, _Capsule):
        return Capsule(shape.radius, shape.height, color=shape.color)
    return Torus(shape.major, shape.minor, color=shape.color)


def _prepared(file: Path, up: str, size: float | None, origin: str) -> Meshlike:
    """A mesh turned, sized and shifted before it is learned; the file itself where nothing is asked."""
    if up == "z" and size is None and origin == "file":
        return file
    turn = np.eye(4)
    turn[:3, :3] = {"x": [[0, 1, 0], [0, 0, 1], [1, 0, 0]], "y": [[1, 0, 0], [0, 0, -1], [0, 1, 0]], "z": np.eye(3)}[up]
    parts = [part.transformed(turn) for part in read_parts(file, f"mesh {str(file)!r}")]
    lo = np.min([part.vertices.min(0) for part in parts], axis=0)
    hi = np.max([part.vertices.max(0) for part in parts], axis=0)
    place = np.eye(4)
    if size is not None:
        place[:3, :3] *= size / float((hi - lo).max())
    if origin != "file":
        middle = 0.5 * (lo + hi)
        middle[2] = middle[2] if origin == "center" else lo[2]
        place[:3, 3] = -place[:3, :3] @ middle
    return [part.transformed(place) for part in parts]
