"""One node of a scene graph, as it is between two edits: never changed, only replaced."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from objects.field import Field
from objects.pose import SE3
from rendering.camera import Camera
from rendering.lights import AmbientLight, DirectionalLight, Light, PointLight
from scenes.clock import SCENE_TIME, Clock
from scenes.presence import Span, within
from scenes.track import Sim3, Track, number, quat_of, rotate, vec_of

ROOT = 0  # id of the nameless node above all
MAX_NAME = 200  # characters of a name


@dataclass(frozen=True, slots=True)
class Attachment:
    """From ``start`` (seconds) on, a node hangs under ``parent`` (an id): ``track`` in its frame, scaled by ``scale``."""

    start: float
    parent: int
    track: Track
    scale: float = 1.0


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """A thing in the scene: a group, an object, a light or a camera, or several of these at once.

    Attributes:
        id: Number in order of making; never given twice in a scene.
        name: Its own name; the path holds the names of those above it, too.
        attachments: What carries it, oldest first; the last says where in the tree it is found. The first starts at -inf.
        field: The shape, in the node's frame; None for what has none.
        light: A light in the node's frame.
        camera: A camera; its ``T_world_cam`` is read as camera to node (OpenCV axes).
        lit: Whether lights act on the field.
        hidden: Whether it and all beneath it are left out of pictures and questions.
        tags: Sorted words to select it by.
        clock: When in its span the field is, if it bends.
        spans: Stretches of time in which it and all that it carries then are there; none: always.
    """

    id: int
    name: str
    attachments: tuple[Attachment, ...]
    field: Field | None = None
    light: Light | None = None
    camera: Camera | None = None
    lit: bool = True
    hidden: bool = False
    tags: tuple[str, ...] = ()
    clock: Clock = SCENE_TIME
    spans: tuple[Span, ...] = ()

    @property
    def parent(self) -> int:
        """Id of the node it is found under."""
        return self.attachments[-1].parent

    @property
    def track(self) -> Track:
        """Pose under the parent it is found under."""
        return self.attachments[-1].track

    @property
    def scale(self) -> float:
        return self.attachments[-1].scale

    @property
    def moves(self) -> bool:
        """Whether its place in its parent depends on time."""
        return len(self.attachments) > 1 or self.track.moves

    def attachment_number(self, time: float | None) -> int:
        """Which attachment is in force at ``time``; None stands for the last."""
        if time is None or len(self.attachments) == 1:
            return len(self.attachments) - 1
        return max(bisect_right(self.attachments, time, key=lambda h: h.start) - 1, 0)

    def with_attachment(self, number: int, attachment: Attachment) -> Node:
        return replace(self, attachments=(*self.attachments[:number], attachment, *self.attachments[number + 1 :]))

    def what(self) -> str:
        """In a word: object, light, camera or group."""
        parts = [
            w for w, v in (("object", self.field), ("light", self.light), ("camera", self.camera)) if v is not None
        ]
        return " and ".join(parts) or "group"

    def same_as(self, other: Node, same_field) -> bool:
        """Equal in all but the ids; ``same_field(a, b)`` compares two fields."""
        return (
            (self.name, self.lit, self.hidden, self.tags, self.light, self.clock, self.spans)
            == (other.name, other.lit, other.hidden, other.tags, other.light, other.clock, other.spans)
            and [(h.start, h.track, h.scale) for h in self.attachments]
            == [(h.start, h.track, h.scale) for h in other.attachments]
            and same_camera(self.camera, other.camera)
            and same_field(self.field, other.field)
        )


def is_there(nodes: Mapping[int, Node], node: Node, time: float) -> bool:
    """Whether a node and all that carries it at ``time`` (seconds) are there then, by their spans."""
    while node.id != ROOT:
        if not within(node.spans, time):
            return False
        above = node.attachments[node.attachment_number(time)].parent
        if above == ROOT:
            break
        node = nodes[above]
    return True


def same_record(a: Node | None, b: Node | None) -> bool:
    """Whether two records of one node say the same, with the same field and carriers."""
    if a is None or b is None:
        return a is b
    parents = [attachment.parent for attachment in a.attachments] == [attachment.parent for attachment in b.attachments]
    return parents and a.same_as(b, lambda x, y: x is y)


def same_camera(a: Camera | None, b: Camera | None) -> bool:
    if a is None or b is None:
        return a is b
    return (
        (a.fx, a.fy, a.cx, a.cy, a.width, a.height) == (b.fx, b.fy, b.cx, b.cy, b.width, b.height)
        and torch.equal(a.T_world_cam.quat_wxyz, b.T_world_cam.quat_wxyz)
        and torch.equal(a.T_world_cam.translation, b.T_world_cam.translation)
    )


def light_in_world(light: Light, world: Sim3) -> Light:
    """A light of a node that stands at ``world``. Intensity is left as it is, also under a scale."""
    if isinstance(light, PointLight):
        return replace(light, position=world.apply(light.position))
    if isinstance(light, DirectionalLight):
        return replace(light, direction=rotate(world.quat, light.direction))
    if isinstance(light, AmbientLight):
        return light
    raise ValueError(f"light: expected an AmbientLight, DirectionalLight or PointLight, got {type(light).__name__}")


def camera_in_world(camera: Camera, world: Sim3) -> Camera:
    """A camera of a node that stands at ``world``."""
    local = camera.T_world_cam
    place = world.apply(tuple(local.translation.tolist()))
    turned = world.pose() @ SE3(local.quat_wxyz, torch.zeros(3, dtype=torch.float64))
    return replace(camera, T_world_cam=SE3(turned.quat_wxyz, torch.tensor(place, dtype=torch.float64)))


def checked_scale(value: float, what: str) -> float:
    """A scale as a float.

    Raises:
        ValueError: Not finite, not above 0, or so large or small that nothing could be told from it.
    """
    found = number(value, what)
    if not 1e-12 <= found <= 1e12:
        raise ValueError(f"{what}: expected a number above 0 (from 1e-12 to 1e12), got {found}")
    return found


def one_pose(pose: SE3, what: str) -> Sim3:
    """A single pose in plain numbers.

    Raises:
        ValueError: No pose, or a batch of them.
    """
    if not isinstance(pose, SE3) or pose.quat_wxyz.dim() != 1:
        raise ValueError(f"{what}: expected a single SE3 as pose, got {type(pose).__name__}")
    return Sim3(quat_of(pose), vec_of(pose))


def check_name(name: str) -> None:
    """Whether a node may be called so.

    Raises:
        ValueError: No text, or text that can't be a part of a path.
    """
    if not isinstance(name, str) or not name or name in (".", "..") or name != name.strip() or "/" in name:
        raise ValueError(f"name: expected text without '/' or blanks at its ends, got {name!r}")
    if len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(f"name: expected at most {MAX_NAME} printable characters, got {name[:40]!r}...")


def word_set(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags, sorted, each once.

    Raises:
        ValueError: Something that isn't a word.
    """
    found = [tags] if isinstance(tags, str) else list(tags) if isinstance(tags, Iterable) else [tags]
    for tag in found:
        if not isinstance(tag, str) or not tag or not tag.isprintable() or tag != tag.strip():
            raise ValueError(f"tags: expected words, got {tag!r}")
    return tuple(sorted(set(found)))


def a_(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def shown(value: float) -> str:
    return f"{value:.10g}"


def quoted(path: str) -> str:
    """A path as ``sirenscape edit`` reads it."""
    return path if all(c.isalnum() or c in "_-./+:" for c in path) else "'" + path.replace("'", "'\"'\"'") + "'"
