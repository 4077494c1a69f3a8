"""Edits of what is in a scene and what hangs where: each gives its text for the log and the records to exchange.

What they mean is said at the methods of `SceneGraph` that commit them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from objects.field import Field
from objects.files import content_name
from objects.pose import SE3
from rendering.camera import Camera
from rendering.lights import AmbientLight, DirectionalLight, Light, PointLight
from scenes.node import ROOT, Attachment, Node, a_, check_name, checked_scale, one_pose, quoted, shown, word_set
from scenes.records import Changes, Records
from scenes.timeline import Timeline
from scenes.track import Sim3, Track, number

Draft = tuple[str, Changes]


def check_kinds(what: str, *, field: Any = None, light: Any = None, camera: Any = None) -> None:
    """Whether these are what a node may have.

    Raises:
        ValueError: Something of another type.
    """
    if field is not None and not isinstance(field, Field):
        raise ValueError(f"{what}: field must be a Field, got {type(field).__name__}")
    if light is not None and not isinstance(light, AmbientLight | DirectionalLight | PointLight):
        raise ValueError(f"{what}: light must be a Light, got {type(light).__name__}")
    if camera is not None and not isinstance(camera, Camera):
        raise ValueError(f"{what}: camera must be a Camera, got {type(camera).__name__}")


def add(
    records: Records,
    path: str,
    field: Field | None,
    pose: SE3 | None,
    track: Track | None,
    scale: float,
    light: Light | None,
    camera: Camera | None,
    lit: bool,
    tags: Iterable[str],
) -> Draft:
    if pose is not None and track is not None:
        raise ValueError(f"add {path}: expected a pose or a track, got both")
    check_kinds(f"add {path}", field=field, light=light, camera=camera)
    if track is not None and not isinstance(track, Track):
        raise ValueError(f"add {path}: track must be a Track, got {type(track).__name__}")
    parent, name = records.new_place(path)
    track = track or Track.constant(one_pose(pose, f"add {path}") if pose is not None else Sim3())
    attachment = Attachment(-math.inf, parent, track, checked_scale(scale, f"add {path}: scale"))
    node = Node(records.next_id, name, (attachment,), field, light, camera, bool(lit), tags=word_set(tags))
    return f"add {quoted(path)} ({node.what()})", {node.id: node}


def remove(records: Records, path: str) -> Draft:
    gone = records.subtree(records.node_at(path).id)
    inside = set(gone)
    for i in gone:
        for other in records.tree.succ[i]:
            if other not in inside:
                carrier, carried = records.path_to(i), records.path_to(other)
                raise ValueError(
                    f"{path}: {carrier} carries {carried} for a while; remove that first, or reparent it for good"
                )
    return f"remove {quoted(path)}", dict.fromkeys(gone)


def put_in(records: Records, path: str, text: str, **values: Any) -> Draft:
    """Other values of a node's record."""
    node = records.node_at(path)
    return text, {node.id: replace(node, **values)}


def duplicate(timeline: Timeline, path: str, new_path: str) -> Draft:
    records = timeline.records
    top = records.node_at(path)
    parent, name = records.new_place(new_path)
    if parent in (inside := records.subtree(top.id)):
        raise ValueError(f"duplicate {path}: cannot put a copy of it inside itself ({new_path})")
    new_id = dict(zip(inside, count(records.next_id)))
    changes: Changes = {}
    for i, new in new_id.items():
        node = records.nodes[i]
        attachments = tuple(replace(h, parent=new_id.get(h.parent, h.parent)) for h in node.attachments)
        changes[new] = replace(node, id=new, attachments=attachments)
    attachments = (
        top.attachments
        if parent == top.parent
        else (*top.attachments[:-1], timeline.handed_over(top.attachments[-1], parent))
    )
    changes[new_id[top.id]] = replace(top, id=new_id[top.id], name=name, attachments=attachments)
    return f"duplicate {quoted(path)} as {quoted(new_path)}", changes


def rename(records: Records, path: str, name: str) -> Draft:
    node = records.node_at(path)
    check_name(name)
    records.check_free(node.parent, name, allowed=node.id)
    return f"rename {quoted(path)} to {quoted(name)}", {node.id: replace(node, name=name)}


def group(timeline: Timeline, path: str, members: Sequence[str]) -> Draft:
    records = timeline.records
    parent, name = records.new_place(path)
    members = [members] if isinstance(members, str) else list(members)
    ids = [records.node_at(member).id for member in members]
    if len(set(ids)) != len(ids):
        raise ValueError(f"group {path}: a member was named twice")
    new = Node(records.next_id, name, (Attachment(-math.inf, parent, Track.constant(Sim3())),))
    changes: Changes = {new.id: new}
    taken: dict[str, str] = {}
    for i, member in zip(ids, members, strict=True):
        node = records.nodes[i]
        if i in records.carriers(parent):
            raise ValueError(f"group {path}: {member} would have to hang under itself")
        if node.name in taken:
            raise ValueError(f"group {path}: {member} and {taken[node.name]} have the same name; rename one first")
        taken[node.name] = member
        last = timeline.handed_over(node.attachments[-1], parent)  # the new group stands where its parent does
        changes[i] = replace(node, attachments=(*node.attachments[:-1], replace(last, parent=new.id)))
    return f"group {' '.join(map(quoted, members))} as {quoted(path)}", changes


def ungroup(timeline: Timeline, path: str) -> Draft:
    records = timeline.records
    node = records.node_at(path)
    if node.what() != "group":
        raise ValueError(
            f"ungroup {path}: expected a plain group, got {a_(node.what())}; move its children by reparent"
        )
    changes: Changes = {node.id: None}
    siblings = records.children[node.parent]
    for i in records.tree.succ[node.id]:
        child = records.nodes[i]
        if any(attachment.parent == node.id for attachment in child.attachments[:-1]):
            raise ValueError(
                f"ungroup {path}: it carries {records.path_to(i)} for a part of the time; reparent that without a time first"
            )
        if siblings.get(child.name, node.id) != node.id:
            raise ValueError(f"ungroup {path}: {child.name!r} is already there in its parent; rename one first")
        last = timeline.handed_over(child.attachments[-1], node.parent)
        changes[i] = replace(child, attachments=(*child.attachments[:-1], last))
    return f"ungroup {quoted(path)}", changes


def reparent(timeline: Timeline, path: str, parent: str, start: float | None, time: float) -> Draft:
    records = timeline.records
    node, target = records.node_at(path), records.id_at(parent)
    if node.id in records.carriers(target):
        raise ValueError(f"reparent {path}: {parent} hangs under it at some time; a node can't carry what carries it")
    records.check_free(target, node.name, allowed=node.id)
    if start is not None:
        start = number(start, f"reparent {path}: start")
        last = node.attachments[-1].start
        if start <= last:
            raise ValueError(
                f"reparent {path}: start must come after {last:g} s, when it last changed hands, got {start:g}"
            )
    at = number(time, "time") if start is None else start
    attachment = timeline.handed_over(node.attachments[node.attachment_number(at)], target, at)
    kept = () if start is None else node.attachments
    changed = replace(node, attachments=(*kept, replace(attachment, start=-math.inf if start is None else start)))
    text = f"reparent {quoted(path)} to {quoted(parent.strip('/') or '/')}"
    return text + ("" if start is None else f" from {shown(start)}"), {node.id: changed}


def include(records: Records, other: Records, at: str) -> Draft:
    parent, name = records.new_place(at)
    known = {content_name(field): field for field in records.fields}
    ours = {id(field): known.setdefault(content_name(field), field) for field in other.fields}
    top = Node(records.next_id, name, (Attachment(-math.inf, parent, Track.constant(Sim3())),))
    nodes = other.in_order()
    new_id = {ROOT: top.id} | {node.id: top.id + 1 + k for k, node in enumerate(nodes)}
    changes: Changes = {top.id: top}
    for node in nodes:
        attachments = tuple(replace(h, parent=new_id[h.parent]) for h in node.attachments)
        field = None if node.field is None else ours[id(node.field)]
        changes[new_id[node.id]] = replace(node, id=new_id[node.id], attachments=attachments, field=field)
    return f"include {len(nodes)} nodes at {quoted(at)}", changes
