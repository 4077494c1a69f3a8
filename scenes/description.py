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
  lamp: {light: {kind: point, intensity: 4}, position: [1, -1, 2.5]}
  front: {camera: {target: [0, 0, 0.5], fov_y_deg: 40}, position: [2, -2, 1.5]}
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import yaml
from msgspec import Meta, Struct

from objects.field import Field
from objects.files import load_field
from objects.mesh_files import Meshlike, read_parts
from objects.pose import SE3
from objects.primitives import Box, Capsule, Cylinder, Sphere, Torus
from rendering.camera import Camera
from rendering.lights import AmbientLight, DirectionalLight, Light, PointLight
from scenes.paths import path_of
from scenes.plan import Handover, Plan
from scenes.store import check_name
from scenes.track import Quat, Sim3, Track, Vec, quat_multiply, unit_quat, vector

MAX_BYTES = 16 * 2**20
MAX_VALUES = 1_000_000  # in a description, aliases expanded

Positive = Annotated[float, Meta(gt=0)]
Color = tuple[
    Annotated[float, Meta(ge=0, le=1)], Annotated[float, Meta(ge=0, le=1)], Annotated[float, Meta(ge=0, le=1)]
]
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
    width: int = 640
    height: int = 480
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
        ValueError: No such file, no YAML, an unknown key (the nearest is suggested), a value that makes no sense, a name
            given twice, or a file that it names and that is not there.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"{path}: expected at most {MAX_BYTES} bytes")
        values = _values(data)
        _count(values, path)
        description = msgspec.convert(_named(values), _Description, strict=False)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}{_nearest(str(error))}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deep") from None
    plans: list[Plan] = []
    meshes: dict[tuple[Path, Any, Any, Any], Meshlike] = {}
    todo = [(name, node) for name, node in reversed(description.nodes.items())]
    while todo:
        where, node = todo.pop()
        try:
            check_name(where.rpartition("\0")[2])
            where = where.replace("\0", "/")
            plans.append(_plan(where, node, path.parent, meshes))
        except ValueError as error:
            raise ValueError(f"{path}: {where}: {error}") from None
        todo += [(f"{where}\0{name}", child) for name, child in reversed(node.children.items())]
    return plans


def _values(data: bytes) -> Any:
    try:
        return _Loader(data).get_single_data()
    except (
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        OverflowError,
    ) as error:  # of a tag and its value
        raise yaml.YAMLError(str(error)) from error


class _Loader(yaml.SafeLoader):
    """Plain values only; a key given twice is an error and not a silent loss."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            name = getattr(key, "value", None)
            if isinstance(name, str):
                if name in seen and name != "<<":
                    raise yaml.constructor.ConstructorError(None, None, f"{name!r} is given twice", key.start_mark)
                seen.add(name)
        return super().construct_mapping(node, deep=deep)


def _named(values: Any) -> Any:
    """Checks each node by itself first, so that an error names it and not ``$.nodes[...]``."""
    todo = [("", values.get("nodes"))] if isinstance(values, dict) else []
    while todo:
        where, nodes = todo.pop()
        for name, node in nodes.items() if isinstance(nodes, dict) else ():
            path = f"{where}{name}"
            if isinstance(node, dict):
                alone = {key: value for key, value in node.items() if key != "children"}
                try:
                    msgspec.convert(alone, _Node, strict=False)
                except msgspec.ValidationError as error:
                    raise msgspec.ValidationError(f"{path}: {str(error).replace(' - at `$`', '')}") from None
                todo.append((f"{path}/", node.get("children")))
    return values


def _count(values: Any, path: Path) -> None:
    """Refuses what aliases blow up."""
    todo, n = [values], 0
    while todo:
        value = todo.pop()
        n += 1
        if n > MAX_VALUES:
            raise ValueError(f"{path}: expected at most {MAX_VALUES:,} values, got more")
        if isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, list):
            todo += value


def _nearest(message: str) -> str:
    """A suggestion for a misspelt key or kind in an error of msgspec's."""
    if kind := re.search(r"Invalid value '(.*?)'.*\.(shape|light)", message):
        kinds = (
            ("sphere", "box", "cylinder", "capsule", "torus")
            if kind[2] == "shape"
            else ("ambient", "directional", "point")
        )
        return f"; there is {', '.join(kinds)}"
    match = re.search(r"unknown field `(.*?)`", message)
    if not match:
        return ""
    if message.rstrip("`").endswith(".shape"):
        return "; " + "; ".join(f"{c.__struct_config__.tag}: {', '.join(c.__struct_fields__)}" for c in _SHAPES)
    known = {
        name for cls in (_Node, _Camera, _Key, _Point, _Directional, _Ambient) for name in cls.__struct_encode_fields__
    }
    close = difflib.get_close_matches(match[1], sorted(known | {"nodes"}), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _plan(where: str, node: _Node, folder: Path, meshes: dict) -> Plan:
    sources = [key for key in ("mesh", "field", "shape", "scene") if getattr(node, key) is not None]
    if len(sources) > 1:
        raise ValueError(f"expected one of mesh, field, shape and scene, got {' and '.join(sources)}")
    if node.mesh is None and (odd := [k for k in ("up", "size", "origin") if getattr(node, k) is not None]):
        raise ValueError(f"{odd[0]} belongs to a mesh; use scale or rotation for what has none")
    if node.keys and (node.position != (0, 0, 0) or node.turn or node.rotation != (1, 0, 0, 0)):
        raise ValueError("expected a position and rotation, or keys, got both")
    for place in (node, *node.keys):
        if place.turn and place.rotation != (1, 0, 0, 0):
            raise ValueError("expected turn or rotation, got both")
    quat = _rotation(node)
    camera = None
    if node.camera is not None:
        camera, quat = _camera(node.camera, node.position, quat)
    if node.keys:
        track = Track(
            np.array([k.time for k in node.keys]),
            np.array([_rotation(k) for k in node.keys]),
            np.array([vector(k.position, "position") for k in node.keys]),
            node.interpolation,
            node.end,
        )
    else:
        track = Track.constant(Sim3(quat, vector(node.position, "position")))
    shape: Field | Meshlike | None = None
    if node.mesh is not None:
        file = _file(folder, node.mesh, "mesh")
        key = (file, node.up, node.size, node.origin)
        if key not in meshes:
            meshes[key] = _prepared(file, node.up or "z", node.size, node.origin or "file")
        shape = meshes[key]
    elif node.field is not None:
        shape = load_field(_file(folder, node.field, "field"))
    elif node.shape is not None:
        shape = _primitive(node.shape)
    return Plan(
        path=where,
        track=track,
        scale=node.scale,
        shape=shape,
        scene=None if node.scene is None else folder / path_of(node.scene),
        light=None if node.light is None else _light(node.light),
        camera=camera,
        tags=tuple(node.tags),
        lit=node.lit,
        hidden=node.hidden,
        handovers=tuple(Handover(h.start, h.by.strip("/") or "/") for h in node.carried),
    )


def _file(folder: Path, name: str, key: str) -> Path:
    path = folder / path_of(name)
    try:
        found = path.is_file()
    except OSError as error:
        raise ValueError(f"{key}: {str(path)[:80]!r} cannot be read: {error.strerror}") from None
    if not found:
        raise ValueError(f"{key}: no file {str(path)!r}")
    return path


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
