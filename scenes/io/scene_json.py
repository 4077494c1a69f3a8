"""The text of ``scene.json``: one node on each line, so that people and version control can read it; strict when it is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import msgspec
import numpy as np
import torch
from msgspec import Meta, Struct

from objects.field import Field
from objects.pose import SE3
from rendering.camera import Camera
from rendering.lights import AmbientLight, DirectionalLight, Light, PointLight
from scenes.clock import SCENE_TIME, Clock
from scenes.history import Checkpoint, Edit
from scenes.node import ROOT, Attachment, Node, quoted
from scenes.presence import checked_spans
from scenes.records import MAX_DEPTH
from scenes.track import Quat, Track, Vec

# Version 2 has clocks, version 3 times at which nodes are there; a scene is written as the first version that can say it.
FORMAT, VERSION = "sirenscape.scene", 3

Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Id = Annotated[int, Meta(ge=0, lt=2**40)]


class SceneFileError(ValueError):
    """A scene that cannot be read or written; the message names the file, what was expected and what came."""


class _Record(Struct, forbid_unknown_fields=True, omit_defaults=True):
    pass


class _Key(_Record):
    time: float
    position: Vec
    rotation: Quat = (1.0, 0.0, 0.0, 0.0)


class _Hold(_Record, rename={"start": "from", "parent": "under"}):
    """Where a node hangs; ``position`` and ``rotation`` (wxyz), or ``keys`` over time."""

    parent: Id = ROOT
    start: float | None = None
    position: Vec = (0.0, 0.0, 0.0)
    rotation: Quat = (1.0, 0.0, 0.0, 0.0)
    keys: list[_Key] = []
    interpolation: Literal["linear", "step"] = "linear"
    end: Literal["hold", "loop"] = "hold"
    scale: float = 1.0


class _Ambient(_Record, tag_field="kind", tag="ambient"):
    color: Vec
    intensity: float
    ground_color: Vec | None = None


class _Directional(_Record, tag_field="kind", tag="directional"):
    direction: Vec
    color: Vec
    intensity: float


class _Point(_Record, tag_field="kind", tag="point"):
    position: Vec
    color: Vec
    intensity: float


class _Camera(_Record):
    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    position: Vec = (0.0, 0.0, 0.0)
    rotation: Quat = (1.0, 0.0, 0.0, 0.0)


class _Clock(_Record):
    offset: float = 0.0
    speed: float = 1.0
    loop: bool = False


class _Node(_Record):
    id: Id
    name: str
    held: list[_Hold]
    field: Hash | None = None
    light: _Ambient | _Directional | _Point | None = None
    camera: _Camera | None = None
    lit: bool = True
    hidden: bool = False
    tags: list[str] = []
    clock: _Clock | None = None
    spans: list[tuple[float | None, float | None]] = []


class _Edit(_Record):
    """What undo and redo exchange; ``gone`` are ids without a record."""

    text: str
    before: list[_Node] = []
    before_gone: list[Id] = []
    after: list[_Node] = []
    after_gone: list[Id] = []


class SceneText(_Record):
    """A whole file, as it is written: fields by their content hash."""

    format: str
    version: int
    nodes: list[_Node]
    log: list[str] = []
    undo: list[_Edit] = []
    redo: list[_Edit] = []


class _Head(Struct):
    format: str = ""
    version: int = 0


# -- writing -----------------------------------------------------------------------------------------------------------


def encoded(scene: Checkpoint, name_of: Callable[[Field], str]) -> bytes:
    """The text of a scene; ``name_of`` gives the content hash of each field."""

    def lines(key: str, values: Iterable[object]) -> bytes:
        rows = b",\n".join(msgspec.json.encode(v) for v in values)
        return b'"%s":[' % key.encode() + (b"\n" + rows + b"\n" if rows else b"") + b"]"

    known = [
        *scene.nodes.values(),
        *(node for e in (*scene.undo, *scene.redo) for node in (*e.before.values(), *e.after.values())),
    ]
    version = max((3 if n.spans else 2 if n.clock != SCENE_TIME else 1 for n in known if n is not None), default=1)
    parts = [
        b'"format":%s,"version":%d' % (msgspec.json.encode(FORMAT), version),
        lines("nodes", (_node_record(node, name_of) for _, node in sorted(scene.nodes.items()))),
        lines("log", scene.log),
        lines("undo", (_edit_record(edit, name_of) for edit in scene.undo)),
        lines("redo", (_edit_record(edit, name_of) for edit in scene.redo)),
    ]
    return b"{" + b",\n".join(parts) + b"}\n"


def _node_record(node: Node, name_of: Callable[[Field], str]) -> _Node:
    return _Node(
        id=node.id,
        name=node.name,
        held=[_hold_record(attachment) for attachment in node.attachments],
        field=None if node.field is None else name_of(node.field),
        light=None if node.light is None else _light_record(node.light),
        camera=None if node.camera is None else _camera_record(node.camera),
        lit=node.lit,
        hidden=node.hidden,
        tags=list(node.tags),
        clock=None if node.clock == SCENE_TIME else _Clock(node.clock.offset, node.clock.speed, node.clock.loop),
        spans=[(_finite(start), _finite(end)) for start, end in node.spans],
    )


def _finite(time: float) -> float | None:
    return time if math.isfinite(time) else None


def _hold_record(attachment: Attachment) -> _Hold:
    track = attachment.track
    record = _Hold(
        parent=attachment.parent,
        start=None if attachment.start == -math.inf else attachment.start,
        interpolation=track.interpolation,
        end=track.end,
        scale=attachment.scale,
    )
    quats, trans = track.quats.tolist(), track.translations.tolist()
    if track.moves:
        rows = zip(track.times.tolist(), trans, quats, strict=True)
        record.keys = [_Key(time, tuple(p), tuple(q)) for time, p, q in rows]
    else:
        record.position, record.rotation = tuple(trans[0]), tuple(quats[0])
    return record


def _light_record(light: Light) -> _Ambient | _Directional | _Point:
    if isinstance(light, AmbientLight):
        return _Ambient(light.color, light.intensity, light.ground_color)
    if isinstance(light, DirectionalLight):
        return _Directional(light.direction, light.color, light.intensity)
    if isinstance(light, PointLight):
        return _Point(light.position, light.color, light.intensity)
    raise SceneFileError(f"light: cannot be stored: {type(light).__name__}")


def _camera_record(camera: Camera) -> _Camera:
    quat, position = camera.T_world_cam.quat_wxyz.tolist(), camera.T_world_cam.translation.tolist()
    numbers = (camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height)
    return _Camera(*numbers, position=tuple(position), rotation=tuple(quat))


def _edit_record(edit: Edit, name_of: Callable[[Field], str]) -> _Edit:
    def some(side: dict[int, Node | None]) -> list[_Node]:
        return [_node_record(node, name_of) for node in side.values() if node is not None]

    def none(side: dict[int, Node | None]) -> list[int]:
        return [i for i, node in side.items() if node is None]

    return _Edit(edit.text, some(edit.before), none(edit.before), some(edit.after), none(edit.after))


# -- reading ----------------------------------------------------------------------------------------------------------


def decoded(data: bytes, file: Path) -> SceneText:
    """What a file says; ids are small numbers.

    Raises:
        SceneFileError: No scene, one of a newer version, keys or values that can't be.
    """
    if not data.strip():
        _fail(file, "the file is empty")
    try:
        head = msgspec.json.decode(data, type=_Head)
        if head.format != FORMAT:
            _fail(file, f"expected the format {FORMAT!r}, got {head.format!r:.80}")
        if head.version > VERSION:
            _fail(file, f"version {head.version} is newer than this program reads ({VERSION}); update sirenscape")
        if head.version < 1:
            _fail(file, f"expected a version of 1 or more, got {head.version}")
        scene = msgspec.json.decode(data, type=SceneText)
    except msgspec.MsgspecError as error:
        _fail(file, f"not a scene: {error}")
    except RecursionError:
        _fail(file, "not a scene: nested too deep")
    except UnicodeDecodeError as error:
        _fail(file, f"not a scene: {error.reason}")
    _check_depth(scene.nodes, file)
    _renumber(scene)
    return scene


def _check_depth(records: list[_Node], file: Path) -> None:
    """A quick look before a million records become nodes."""
    parent = {r.id: r.held[-1].parent if r.held else ROOT for r in records}
    depth = {ROOT: 0}
    for start in parent:
        chain, i = [], start
        while i not in depth and i in parent and len(chain) <= MAX_DEPTH:
            chain.append(i)
            i = parent[i]
        if len(chain) + depth.get(i, 0) > MAX_DEPTH:
            _fail(file, f"node {start} hangs under itself, or deeper than the at most {MAX_DEPTH} levels of a scene")
        for above, node in enumerate(reversed(chain), 1):
            depth[node] = depth.get(i, 0) + above


def nodes_of(scene: SceneText, fields: dict[str, Field], file: Path) -> dict[int, Node]:
    """The nodes by id; ``fields`` has those that they name.

    Raises:
        SceneFileError: A record that makes no sense, an id that comes twice.
    """
    nodes = {record.id: _node_of(record, fields, file) for record in scene.nodes}
    if len(nodes) != len(scene.nodes):
        _fail(file, "expected every id once, got one twice")
    return nodes


def edits_of(scene: SceneText, fields: dict[str, Field], file: Path) -> tuple[list[Edit], list[Edit]]:
    """The edits to undo and to redo; ``fields`` has those that they name.

    Raises:
        SceneFileError: A record that makes no sense.
    """

    def side(some: list[_Node], gone: list[int]) -> dict[int, Node | None]:
        return dict.fromkeys(gone) | {record.id: _node_of(record, fields, file) for record in some}

    def read(edits: list[_Edit]) -> list[Edit]:
        return [Edit(e.text, side(e.before, e.before_gone), side(e.after, e.after_gone)) for e in edits]

    return read(scene.undo), read(scene.redo)


def field_names(scene: SceneText) -> tuple[set[str], set[str]]:
    """Content hashes of the fields of all nodes, and of those of the edits."""
    edits = (*scene.undo, *scene.redo)
    records = [r for e in edits for r in (*e.before, *e.after)]
    return tuple({r.field for r in some if r.field is not None} for some in (scene.nodes, records))  # pyright: ignore[reportReturnType]


def _renumber(scene: SceneText) -> None:
    """Numbers the nodes from 1 where ids are far apart, in the same order: ids index arrays."""
    edits = (*scene.undo, *scene.redo)
    records = [*scene.nodes, *(r for e in edits for r in (*e.before, *e.after))]
    gone = [i for e in edits for i in (*e.before_gone, *e.after_gone)]
    used = sorted({r.id for r in records} | set(gone) | {h.parent for r in records for h in r.held} | {ROOT})
    if used[-1] < 4 * len(used) + 1000:
        return
    new = {old: i for i, old in enumerate(used)}
    for record in records:
        record.id = new[record.id]
        for attachment in record.held:
            attachment.parent = new[attachment.parent]
    for edit in edits:
        edit.before_gone = [new[i] for i in edit.before_gone]
        edit.after_gone = [new[i] for i in edit.after_gone]


def _node_of(record: _Node, fields: dict[str, Field], file: Path) -> Node:
    try:
        camera = record.camera
        return Node(
            id=record.id,
            name=record.name,
            attachments=tuple(_hold_of(attachment) for attachment in record.held),
            field=None if record.field is None else fields[record.field],
            light=None if record.light is None else _light_of(record.light),
            camera=None if camera is None else _camera_of(camera),
            lit=record.lit,
            hidden=record.hidden,
            tags=tuple(record.tags),
            clock=Clock()
            if record.clock is None
            else Clock(record.clock.offset, record.clock.speed, record.clock.loop),
            spans=checked_spans(
                ((-math.inf if a is None else a, math.inf if b is None else b) for a, b in record.spans), "spans"
            ),
        )
    except ValueError as error:
        _fail(file, f"node {quoted(record.name)[:80]}: {error}")


def _hold_of(record: _Hold) -> Attachment:
    keys = record.keys or [_Key(0.0, record.position, record.rotation)]
    track = Track(
        np.array([k.time for k in keys]),
        np.array([k.rotation for k in keys]),
        np.array([k.position for k in keys]),
        record.interpolation,
        record.end,
    )
    return Attachment(-math.inf if record.start is None else record.start, record.parent, track, record.scale)


def _light_of(record: _Ambient | _Directional | _Point) -> Light:
    if isinstance(record, _Ambient):
        return AmbientLight(record.color, record.intensity, record.ground_color)
    if isinstance(record, _Directional):
        return DirectionalLight(record.direction, record.color, record.intensity)
    return PointLight(record.position, record.color, record.intensity)


def _camera_of(record: _Camera) -> Camera:
    pose = SE3(torch.tensor(record.rotation, dtype=torch.float64), torch.tensor(record.position, dtype=torch.float64))
    return Camera(pose, record.fx, record.fy, record.cx, record.cy, record.width, record.height)


def _fail(file: Path, message: str) -> NoReturn:
    raise SceneFileError(f"{file}: {' '.join(message.split())}") from None
