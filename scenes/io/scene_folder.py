"""Scene files: a folder ``NAME.scene`` with ``scene.json`` and ``fields/<content hash>.safetensors``.

``scene.json`` has one node on each line, so that people and version control can read it; it is checked against the records
below by msgspec, then as a whole. Saving writes new fields first, then exchanges ``scene.json`` in one step, then removes
fields that nothing uses any more: whatever interrupts it, the folder holds the old scene or the new one. Files of other
names are left alone. A lock keeps two processes from saving to one folder at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import msgspec
import numpy as np
import torch
from filelock import FileLock, Timeout
from msgspec import Meta, Struct

from objects.field import Field
from objects.files import FieldFileError, field_hash, load_lazily, save_field, write_atomically
from objects.pose import SE3
from objects.progress import Bar
from rendering.camera import Camera
from rendering.lights import AmbientLight, DirectionalLight, Light, PointLight
from scenes.graph import SceneGraph
from scenes.node import ROOT, Hold, Node
from scenes.store import MAX_DEPTH, Edit, quoted
from scenes.track import Quat, Track, Vec

FORMAT, VERSION = "sirenscape.scene", 1
MAX_FILE_BYTES = 512 * 2**20
HISTORY = 100  # edits that are kept with a scene
_LOCK, _LOCK_S = ".lock", 10.0
HISTORY_BYTES = 32 * 2**20  # and how long they may be in all; the newest is kept whatever its length

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


class _Edit(_Record):
    """What undo and redo exchange; ``gone`` are ids without a record."""

    text: str
    before: list[_Node] = []
    before_gone: list[Id] = []
    after: list[_Node] = []
    after_gone: list[Id] = []


class _Scene(_Record):
    format: str
    version: int
    nodes: list[_Node]
    log: list[str] = []
    undo: list[_Edit] = []
    redo: list[_Edit] = []


class _Head(Struct):
    format: str = ""
    version: int = 0


# -- saving ------------------------------------------------------------------------------------------------------------


def save_scene(graph: SceneGraph, path: str | os.PathLike[str]) -> None:
    """Writes a scene, with its edit log and the last edits to undo. What stood there is replaced whole, or not at all.

    Raises:
        SceneFileError: A name that doesn't end in ``.scene``, a folder of something else, a field that can't be stored, or
            no room, no permission, no such parent folder, another process that is saving to it. The old scene is then
            untouched.
    """
    folder = Path(path)
    check_target(folder)
    is_new = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        with locked(folder):
            _write(graph, folder)
    except BaseException as error:
        if is_new:  # a refusal leaves nothing behind
            with contextlib.suppress(OSError):
                (folder / "fields").rmdir()
            with contextlib.suppress(OSError):
                if [entry.name for entry in folder.iterdir()] == [_LOCK]:
                    (folder / _LOCK).unlink()
                folder.rmdir()
        if isinstance(error, FieldFileError):
            raise SceneFileError(str(error)) from error
        if isinstance(error, OSError):
            raise SceneFileError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from error
        raise


@contextlib.contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """While the block runs, no other process saves to this scene folder; for what loads, changes and saves a scene.

    Saving locks for itself; blocks may stand in one another. The lock is a file in the folder, ``.lock``, which stays: the
    system lets go of it when the process ends, however it ends.

    Raises:
        SceneFileError: Another process holds it for longer than 10 s, or the folder can't be written to.
    """
    folder = Path(path)
    lock = FileLock(folder.resolve() / _LOCK, timeout=_LOCK_S, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise SceneFileError(
            f"{folder}: another process is saving to this scene (waited {_LOCK_S:g} s); try again when it has ended"
        ) from None
    except OSError as error:
        raise SceneFileError(f"{folder}: cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def _write(graph: SceneGraph, folder: Path) -> None:
    undo, redo = kept_history(graph)
    nodes = [node for _, node in sorted(graph._nodes.items()) if node.id != ROOT]
    used = _fields_of([*nodes, *_records(undo), *_records(redo)])
    hashes: dict[Field, str] = {}
    (folder / "fields").mkdir(exist_ok=True)
    for field in Bar(used, desc="saving", unit="field"):
        hashes[field] = field_hash(field)
        target = _field_file(folder, hashes[field])
        if not _is_whole(target, hashes[field]):
            save_field(field, target)
    text = _encoded(graph.log, nodes, undo, redo, lambda field: hashes[field])
    if len(text) > MAX_FILE_BYTES:
        raise SceneFileError(f"{folder}: expected a scene.json of at most {MAX_FILE_BYTES:,} bytes, got {len(text):,}")
    write_atomically(folder / "scene.json", text)
    _sweep(folder, set(hashes.values()))


def check_target(folder: Path) -> None:
    """Whether a scene can be saved there.

    Raises:
        SceneFileError: A name of another kind, no folder to put it in, or something else in the way.
    """
    if folder.suffix != ".scene":
        raise SceneFileError(f"{folder}: expected a name that ends in .scene, got {folder.name!r}")
    if not folder.parent.is_dir():
        raise SceneFileError(f"{folder}: there is no folder {folder.parent}")
    if not os.access(folder if folder.is_dir() else folder.parent, os.W_OK):
        raise SceneFileError(f"{folder}: cannot be written: no permission")
    if folder.exists() and not folder.is_dir():
        raise SceneFileError(f"{folder}: a file is in the way")
    if folder.is_dir() and not (folder / "scene.json").exists() and any(p.name != "fields" for p in folder.iterdir()):
        names = sorted(p.name for p in folder.iterdir() if p.name != "fields" and not p.name.startswith("."))
        if names:
            raise SceneFileError(f"{folder}: expected a scene or an empty folder, got one with {names[0]!r}")


def kept_history(graph: SceneGraph) -> tuple[list[Edit], list[Edit]]:
    """The newest edits to undo and to redo, as far back as a file keeps them."""

    def newest(edits: list[Edit]) -> list[Edit]:
        n, total = 0, 0
        for edit in reversed(edits[-HISTORY:]):
            total += sum(_size(node) for side in (edit.before, edit.after) for node in side.values())
            if n and total > HISTORY_BYTES:
                break
            n += 1
        return edits[len(edits) - n :]

    return newest(graph._undo), newest(graph._redo)


def _size(node: Node | None) -> int:
    """About how many bytes a record takes."""
    return 20 if node is None else 300 + sum(150 * len(hold.track.times) for hold in node.holds)


def _records(edits: Iterable[Edit]) -> list[Node]:
    return [node for e in edits for side in (e.before, e.after) for node in side.values() if node is not None]


def _fields_of(nodes: Iterable[Node]) -> list[Field]:
    return list(dict.fromkeys(node.field for node in nodes if node.field is not None))


def _field_file(folder: Path, name: str) -> Path:
    return folder / "fields" / f"{name}.safetensors"


def _is_whole(path: Path, name: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == name


def _encoded(
    log: list[str], nodes: list[Node], undo: list[Edit], redo: list[Edit], name_of: Callable[[Field], str]
) -> bytes:
    def lines(key: str, values: Iterable[object]) -> bytes:
        rows = b",\n".join(msgspec.json.encode(v) for v in values)
        return b'"%s":[' % key.encode() + (b"\n" + rows + b"\n" if rows else b"") + b"]"

    parts = [
        b'"format":%s,"version":%d' % (msgspec.json.encode(FORMAT), VERSION),
        lines("nodes", (_node_record(node, name_of) for node in nodes)),
        lines("log", log),
        lines("undo", (_edit_record(edit, name_of) for edit in undo)),
        lines("redo", (_edit_record(edit, name_of) for edit in redo)),
    ]
    return b"{" + b",\n".join(parts) + b"}\n"


def _sweep(folder: Path, used: set[str]) -> None:
    """Removes field files that nothing uses, and what an interrupted save left."""
    left = r"([0-9a-f]{64})\.safetensors|\.[0-9a-f]{64}\.safetensors\.[0-9a-f]+\.tmp|\.scene\.json\.[0-9a-f]+\.tmp"
    for path in (*(folder / "fields").iterdir(), *folder.iterdir()):
        match = re.fullmatch(left, path.name)
        if match and match[1] not in used:
            with contextlib.suppress(OSError):  # the new scene is written: what can't go now goes the next time
                path.unlink()


def _node_record(node: Node, name_of: Callable[[Field], str]) -> _Node:
    return _Node(
        id=node.id,
        name=node.name,
        held=[_hold_record(hold) for hold in node.holds],
        field=None if node.field is None else name_of(node.field),
        light=None if node.light is None else _light_record(node.light),
        camera=None if node.camera is None else _camera_record(node.camera),
        lit=node.lit,
        hidden=node.hidden,
        tags=list(node.tags),
    )


def _hold_record(hold: Hold) -> _Hold:
    track = hold.track
    record = _Hold(
        parent=hold.parent,
        start=None if hold.start == -math.inf else hold.start,
        interpolation=track.interpolation,
        end=track.end,
        scale=hold.scale,
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


# -- loading -----------------------------------------------------------------------------------------------------------


def load_scene(path: str | os.PathLike[str]) -> SceneGraph:
    """Reads a scene with its log and history. The files are taken as hostile: nothing in them is trusted or executed.

    Raises:
        SceneFileError: No scene there, one of a newer version, a record that makes no sense (unknown keys, NaN, a cycle,
            a name used twice, unsorted times), or a field file that is missing, damaged, or not the one it claims to be.
    """
    folder = Path(path)
    file = folder / "scene.json"
    try:
        if not folder.exists():
            raise SceneFileError(f"{folder}: expected a scene folder, found nothing there")
        if not file.is_file():
            raise SceneFileError(f"{folder}: expected a folder with a scene.json, found none")
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SceneFileError(f"{file}: cannot be read: {error.strerror or error}") from error
    scene = _decoded(data, file)
    _check_depth(scene.nodes, file)
    _renumber(scene)
    names = {record.field for record in scene.nodes if record.field is not None}
    fields = _loaded(folder, sorted(names))
    graph = SceneGraph()
    nodes = [_node_of(record, fields, file) for record in scene.nodes]
    by_id: dict[int, Node | None] = {node.id: node for node in nodes}
    if len(by_id) != len(nodes):
        _fail(file, "expected every id once, got one twice")
    try:
        graph._check(by_id)
    except ValueError as error:
        _fail(file, str(error))
    graph._apply(by_id)
    graph.log = list(scene.log)
    try:
        graph._undo, graph._redo = _history(graph, scene, folder, fields, file)
    except ValueError as error:
        graph.log.append(f"history dropped: {' '.join(str(error).split())}")
    return graph


def _decoded(data: bytes, file: Path) -> _Scene:
    if len(data) > MAX_FILE_BYTES:
        _fail(file, f"expected at most {MAX_FILE_BYTES} bytes, got more")
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
        return msgspec.json.decode(data, type=_Scene)
    except msgspec.MsgspecError as error:
        _fail(file, f"not a scene: {error}")
    except RecursionError:
        _fail(file, "not a scene: nested too deep")
    except UnicodeDecodeError as error:
        _fail(file, f"not a scene: {error.reason}")


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


def _loaded(folder: Path, names: Iterable[str]) -> dict[str, Field]:
    fields: dict[str, Field] = {}
    for name in Bar(names, desc="loading", unit="field"):
        path = _field_file(folder, name)
        if not path.is_file():
            _fail(folder / "scene.json", f"the field file {path.name} is missing in {path.parent}")
        try:
            fields[name] = load_lazily(path, name)
        except FieldFileError as error:
            raise SceneFileError(str(error)) from error
        except OSError as error:
            _fail(path, f"cannot be read: {error.strerror or error}")
    return fields


def _history(
    graph: SceneGraph, scene: _Scene, folder: Path, fields: dict[str, Field], file: Path
) -> tuple[list[Edit], list[Edit]]:
    """Undo and redo, each step tried on a copy.

    Raises:
        ValueError: They don't fit the scene (it was changed by hand), or a field that only they use is gone or damaged.
    """
    records = [r for e in (*scene.undo, *scene.redo) for r in (*e.before, *e.after)]
    more = sorted({r.field for r in records if r.field is not None} - fields.keys())
    fields = fields | _loaded(folder, more)

    def side(some: list[_Node], gone: list[int]) -> dict[int, Node | None]:
        return dict.fromkeys(gone) | {record.id: _node_of(record, fields, file) for record in some}

    undo, redo = (
        [Edit(e.text, side(e.before, e.before_gone), side(e.after, e.after_gone)) for e in edits]
        for edits in (scene.undo, scene.redo)
    )
    for edits, there, back in ((undo, "before", "after"), (redo, "after", "before")):
        copy = SceneGraph()
        copy._apply({i: node for i, node in graph._nodes.items() if i != ROOT})
        for edit in reversed(edits):
            target, present = getattr(edit, there), getattr(edit, back)
            if target.keys() != present.keys() or any(
                not _same_record(copy._nodes.get(i), node) for i, node in present.items()
            ):
                raise ValueError(f"the edit {edit.text!r} does not fit the scene")
            copy._check(target)
            copy._apply(target)
    return undo, redo


def _same_record(a: Node | None, b: Node | None) -> bool:
    if a is None or b is None:
        return a is b
    parents = [hold.parent for hold in a.holds] == [hold.parent for hold in b.holds]
    return parents and a.same_as(b, lambda x, y: x is y)


def _renumber(scene: _Scene) -> None:
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
        for hold in record.held:
            hold.parent = new[hold.parent]
    for edit in edits:
        edit.before_gone = [new[i] for i in edit.before_gone]
        edit.after_gone = [new[i] for i in edit.after_gone]


def _node_of(record: _Node, fields: dict[str, Field], file: Path) -> Node:
    try:
        camera = record.camera
        return Node(
            id=record.id,
            name=record.name,
            holds=tuple(_hold_of(hold) for hold in record.held),
            field=None if record.field is None else fields[record.field],
            light=None if record.light is None else _light_of(record.light),
            camera=None if camera is None else _camera_of(camera),
            lit=record.lit,
            hidden=record.hidden,
            tags=tuple(record.tags),
        )
    except ValueError as error:
        _fail(file, f"node {quoted(record.name)[:80]}: {error}")


def _hold_of(record: _Hold) -> Hold:
    keys = record.keys or [_Key(0.0, record.position, record.rotation)]
    track = Track(
        np.array([k.time for k in keys]),
        np.array([k.rotation for k in keys]),
        np.array([k.position for k in keys]),
        record.interpolation,
        record.end,
    )
    return Hold(-math.inf if record.start is None else record.start, record.parent, track, record.scale)


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
