"""Scene files: a folder ``NAME.scene`` with ``scene.json`` and ``fields/<content hash>.safetensors``.

``scene.json`` (see `scenes.io.scene_json`) is checked record by record, then as a whole. Saving writes new fields first, then
exchanges ``scene.json`` in one step, then removes fields that nothing uses any more: whatever interrupts it, the folder holds the
old scene or the new one. Files of other names are left alone. A lock keeps two processes from saving to one folder at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from objects.field import Field
from objects.files import FieldFileError, field_hash, load_lazily, save_field, write_atomically
from objects.progress import Bar
from scenes.graph import SceneGraph
from scenes.history import Checkpoint, Edit
from scenes.io.scene_json import SceneFileError, SceneText, decoded, edits_of, encoded, field_names, nodes_of
from scenes.node import Node, same_record
from scenes.records import Records

MAX_FILE_BYTES = 512 * 2**20
_OURS = ("fields", "decomposition")  # what a folder may hold without a scene
HISTORY = 100  # edits that are kept with a scene
_LOCK, _LOCK_S = ".lock", 10.0
HISTORY_BYTES = 32 * 2**20  # and how long they may be in all; the newest is kept whatever its length


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
    scene = graph.checkpoint()._replace(undo=undo, redo=redo)
    used = _fields_of([*(node for _, node in sorted(scene.nodes.items())), *_records(undo), *_records(redo)])
    hashes: dict[Field, str] = {}
    (folder / "fields").mkdir(exist_ok=True)
    for field in Bar(used, desc="saving", unit="field"):
        hashes[field] = field_hash(field)
        target = _field_file(folder, hashes[field])
        if not _is_whole(target, hashes[field]):
            save_field(field, target)
    text = encoded(scene, lambda field: hashes[field])
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
    if folder.is_dir() and not (folder / "scene.json").exists():
        names = sorted(p.name for p in folder.iterdir() if p.name not in _OURS and not p.name.startswith("."))
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

    scene = graph.checkpoint()
    return newest(scene.undo), newest(scene.redo)


def _size(node: Node | None) -> int:
    """About how many bytes a record takes."""
    return 20 if node is None else 300 + sum(150 * len(attachment.track.times) for attachment in node.attachments)


def _records(edits: Iterable[Edit]) -> list[Node]:
    return [node for e in edits for side in (e.before, e.after) for node in side.values() if node is not None]


def _fields_of(nodes: Iterable[Node]) -> list[Field]:
    return list(dict.fromkeys(node.field for node in nodes if node.field is not None))


def _field_file(folder: Path, name: str) -> Path:
    return folder / "fields" / f"{name}.safetensors"


def _is_whole(path: Path, name: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == name


def _sweep(folder: Path, used: set[str]) -> None:
    """Removes field files that nothing uses, and what an interrupted save left."""
    left = r"([0-9a-f]{64})\.safetensors|\.[0-9a-f]{64}\.safetensors\.[0-9a-f]+\.tmp|\.scene\.json\.[0-9a-f]+\.tmp"
    for path in (*(folder / "fields").iterdir(), *folder.iterdir()):
        match = re.fullmatch(left, path.name)
        if match and match[1] not in used:
            with contextlib.suppress(OSError):  # the new scene is written: what can't go now goes the next time
                path.unlink()


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
    if len(data) > MAX_FILE_BYTES:
        raise SceneFileError(f"{file}: expected at most {MAX_FILE_BYTES} bytes, got more")
    scene = decoded(data, file)
    names, more = field_names(scene)
    fields = _loaded(folder, sorted(names))
    found = Checkpoint(nodes_of(scene, fields, file), [], [], scene.log)
    graph = SceneGraph()
    try:
        graph.go_back(found)
    except ValueError as error:
        raise SceneFileError(f"{file}: {' '.join(str(error).split())}") from None
    try:
        undo, redo = _history(found.nodes, scene, fields | _loaded(folder, sorted(more - names)), file)
        graph.go_back(found._replace(undo=undo, redo=redo))
    except ValueError as error:
        graph.log.append(f"history dropped: {' '.join(str(error).split())}")
    return graph


def _loaded(folder: Path, names: Iterable[str]) -> dict[str, Field]:
    fields: dict[str, Field] = {}
    for name in Bar(names, desc="loading", unit="field"):
        path = _field_file(folder, name)
        if not path.is_file():
            raise SceneFileError(f"{folder / 'scene.json'}: the field file {path.name} is missing in {path.parent}")
        try:
            fields[name] = load_lazily(path, name)
        except FieldFileError as error:
            raise SceneFileError(str(error)) from error
        except OSError as error:
            raise SceneFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    return fields


def _history(
    nodes: dict[int, Node], scene: SceneText, fields: dict[str, Field], file: Path
) -> tuple[list[Edit], list[Edit]]:
    """Undo and redo, each step tried on a copy.

    Raises:
        ValueError: They don't fit the scene (it was changed by hand).
    """
    undo, redo = edits_of(scene, fields, file)
    for edits, there, back in ((undo, "before", "after"), (redo, "after", "before")):
        copy = Records()
        copy.exchange(nodes)
        for edit in reversed(edits):
            target, present = getattr(edit, there), getattr(edit, back)
            if target.keys() != present.keys() or any(
                not same_record(copy.nodes.get(i), node) for i, node in present.items()
            ):
                raise ValueError(f"the edit {edit.text!r} does not fit the scene")
            copy.check(target)
            copy.exchange(target)
    return undo, redo
