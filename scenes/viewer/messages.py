"""What browsers may send: everything else is dropped before it reaches viser.

viser takes more than a viewer needs (uploads, requests for a public address, any attribute of a widget). Here the few messages
that its client sends for our scene are described field by field; what doesn't fit, or holds a number that isn't finite, is no
message.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec

MOST_BYTES = 64 * 1024  # the longest real one is a few hundred

_Number = int | float
_Vec3 = tuple[_Number, _Number, _Number]
_Quat = tuple[_Number, _Number, _Number, _Number]
_Pair = tuple[_Number, _Number]
_Pixels = Annotated[int, msgspec.Meta(ge=1, le=16384)]
_Text = Annotated[str, msgspec.Meta(max_length=2000)]
_Phase = Literal["start", "update", "end"]
_Value = bool | _Number | _Text | Annotated[list[_Number], msgspec.Meta(max_length=8)]


class _Message(msgspec.Struct, tag_field="type", tag=True, forbid_unknown_fields=True):
    """Named as viser names it."""


class ViewerCameraMessage(_Message):
    wxyz: _Quat
    position: _Vec3
    fov: Annotated[float, msgspec.Meta(gt=0.0, lt=math.pi)]
    near: _Number
    far: _Number
    image_height: _Pixels
    image_width: _Pixels
    look_at: _Vec3
    up_direction: _Vec3


class ScenePointerMessage(_Message):
    event_type: Literal["click", "rect-select"]
    ray_origin: _Vec3 | None
    ray_direction: _Vec3 | None
    screen_pos: Annotated[list[_Pair], msgspec.Meta(min_length=1, max_length=2)]
    modifier: _Text | None


class TransformControlsUpdateMessage(_Message):
    name: _Text
    wxyz: _Quat
    position: _Vec3
    owner: _Text = ""


class TransformControlsDragStartMessage(_Message):
    name: _Text
    owner: _Text = ""


class TransformControlsDragEndMessage(_Message):
    name: _Text
    owner: _Text = ""


class SceneNodeClickMessage(_Message):
    name: _Text
    instance_index: int | None
    ray_origin: _Vec3
    ray_direction: _Vec3
    screen_pos: _Pair
    modifier: _Text | None
    owner: _Text = ""


class SceneNodeDragMessage(_Message):
    phase: _Phase
    name: _Text
    instance_index: int | None
    start_position: _Vec3
    start_screen_pos: _Pair
    end_position: _Vec3
    end_screen_pos: _Pair
    button: Literal["left", "middle", "right"]
    modifier: _Text | None
    owner: _Text = ""


class GuiUpdateMessage(_Message):
    uuid: _Text
    updates: dict[Literal["value"], _Value]


class CommandTriggerMessage(_Message):
    uuid: _Text


_DECODER = msgspec.msgpack.Decoder(
    ViewerCameraMessage
    | ScenePointerMessage
    | TransformControlsUpdateMessage
    | TransformControlsDragStartMessage
    | TransformControlsDragEndMessage
    | SceneNodeClickMessage
    | SceneNodeDragMessage
    | GuiUpdateMessage
    | CommandTriggerMessage
)


def is_taken(raw: object) -> bool:
    """Whether what came through the socket is a message that the viewer takes."""
    if not isinstance(raw, bytes) or len(raw) > MOST_BYTES:
        return False
    try:
        message = _DECODER.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError):  # text that isn't UTF-8 is a ValueError
        return False
    if isinstance(message, ViewerCameraMessage) and not math.hypot(*message.wxyz) > 1e-6:
        return False  # no direction
    return _finite(msgspec.to_builtins(message))


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, int | float) or abs(value) < 1e12
