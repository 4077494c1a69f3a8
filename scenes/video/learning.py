"""From a clip to a scene, stage by stage: motion, shapes, appearance; each stage's result is kept in the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from objects.cache import cache_folder, content_key
from objects.files import FieldFileError, load_field, save_field, write_atomically
from objects.siren import SirenField
from objects.training import FitError
from objects.warped import Warped
from scenes.graph import SceneGraph
from scenes.video.backdrop import add_backdrop, backdrop_part
from scenes.video.clip import Clip
from scenes.video.decomposition import Carrying, Decomposition, FoundObject, decompose
from scenes.video.looks import learn_looks, look, mark_seen
from scenes.video.refinement import refine_motion
from scenes.video.rigid import nearest_rigid
from scenes.video.scene import graph_of
from scenes.video.shapes import BACKDROP, BACKGROUND, Shaped, learn_shapes, parts_of
from scenes.video.sunlight import Sun, find_sun, without_light

_VERSION = 9  # part of every key: raise it when the same clip would give another scene
_MOTION_VERSION = 10  # likewise of what moves
_REFINED_VERSION = 6  # likewise of its refinement


@dataclass(frozen=True)
class ClipConfig:
    """How the parts of a clip are learned.

    Attributes:
        steps: Training steps of shapes; those that are hard make more, easy ones fewer.
        color_steps: Training steps of colours.
        hold_out: One frame in so many is kept out of shapes and colours, to say how well frames are told that weren't seen; at
            least 2. Motion is found from all frames.
    """

    steps: int = 2200
    color_steps: int = 1400
    hold_out: int = 6

    def __post_init__(self) -> None:
        if min(self.steps, self.color_steps) < 1 or self.hold_out < 2:
            raise ValueError(
                "ClipConfig: steps and color_steps must be at least 1 and hold_out at least 2, "
                f"got {self.steps}, {self.color_steps}, {self.hold_out}"
            )


class LearnedClip(NamedTuple):
    """What a clip taught.

    Args:
        graph: The scene: ``background``, an object for each thing that moves, ``camera``; times are the clip's.
        found: What moves, and where it is in each frame.
        times: Seconds of the frames.
        learned: Frames that shapes and colours were learned from; the others are held out.
        notes: What was chosen, what was not learned and why.
    """

    graph: SceneGraph
    found: Decomposition
    times: tuple[float, ...]
    learned: Bool[np.ndarray, "f"]
    notes: tuple[str, ...]


def decompose_scene(clip: Clip, *, seed: int = 0, config: ClipConfig | None = None) -> SceneGraph:
    """The scene that a clip shows: a node for the background, one for each thing that moves, and the camera, with tracks over time.

    Each is a field learned from its own pixels in all frames, in a frame of its own: it can be moved, removed or replaced like any
    other. What no frame saw is closed smoothly. For the rest of what is known of a clip, see `learn_clip`.

    Args:
        clip: Frames with depth, from `load_clip`.
        seed: Of initial weights and samples.
        config: How to learn.

    Raises:
        ValueError: A cut in the middle of the clip.
        FitError: Not a single part can be learned.
    """
    return learn_clip(clip, seed=seed, config=config).graph


def learn_clip(
    clip: Clip,
    *,
    found: Decomposition | None = None,
    learned: Bool[np.ndarray, "f"] | None = None,
    alone: bool = False,
    seed: int = 0,
    config: ClipConfig | None = None,
) -> LearnedClip:
    """What `decompose_scene` does, with all that is known on the way. A killed run goes on after the last stage that was done.

    Args:
        clip: The frames.
        found: What moves, where that is known; else `find_motion` and `refined_motion` find it.
        learned: Frames that shapes and colours are learned from; else all but those that ``config`` holds out.
        alone: Whether only the objects are learned, without a background.
        seed: Of initial weights and samples.
        config: How to learn.

    Raises:
        ValueError: A cut in the middle of the clip.
        FitError: Not a single part can be learned.
    """
    config = ClipConfig() if config is None else config
    if found is None:
        found = refined_motion(clip, find_motion(clip))
    found = replace(found, cameras=nearest_rigid(found.cameras))
    taught = np.arange(len(clip)) % config.hold_out != config.hold_out // 2 if learned is None else learned
    shapes, sun, notes = _learned(clip, found, taught, alone, seed, config)
    graph, more = graph_of(clip, found, shapes, () if sun is None else sun.lights())
    if alone:
        graph.remove("background")
        graph.forget_history()
    return LearnedClip(graph, found, tuple(clip.times.tolist()), taught, (*found.notes, *notes, *more))


def find_motion(clip: Clip) -> Decomposition:
    """`decompose`, or what it found before."""
    file = cache_folder("clips") / f"{content_key('motion', _MOTION_VERSION, content_of(clip))}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError):
        return _read(file)
    found = decompose(clip)
    with contextlib.suppress(OSError):
        _write(found, file)
    return found


def refined_motion(clip: Clip, found: Decomposition) -> Decomposition:
    """`refine_motion` of what was found, or what it gave before."""
    key = content_key("refined", _REFINED_VERSION, content_of(clip), _content(found))
    file = cache_folder("clips") / f"{key}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError):
        return _read(file)
    refined = refine_motion(clip, found)
    with contextlib.suppress(OSError):
        _write(refined, file)
    return refined


def _learned(
    clip: Clip, found: Decomposition, learned: Bool[np.ndarray, "f"], alone: bool, seed: int, config: ClipConfig
) -> tuple[list[Shaped], Sun | None, list[str]]:
    """The parts with shapes and colours and the light, learned or from the cache, and notes."""
    parts, notes = parts_of(clip, found, learned)
    parts = [part for part in parts if not (alone and part.id == BACKGROUND)]
    content = [content_of(clip), _content(found), learned.tolist(), alone, seed, asdict(config)]
    folder = cache_folder("clips") / content_key("scene", _VERSION, *content)
    by_name = {part.name: part for part in [*parts, backdrop_part(clip, found, learned)]}
    with contextlib.suppress(OSError, ValueError, KeyError):
        kept = json.loads((folder / "learned.json").read_text(encoding="utf-8"))
        shapes = []
        for name in kept["parts"]:
            field = load_field(folder / f"{name}.safetensors")
            bent = field if isinstance(field, Warped) else None
            canonical = field if bent is None else bent.field
            if not isinstance(canonical, SirenField):
                raise ValueError
            part = by_name[name]
            if bent is not None:
                part = replace(part, T_world_obj=np.array(kept["poses"][name]))
            shapes.append(Shaped(part, canonical, bent))
        light = kept["light"]
        sun = None if light is None else Sun(np.array(light[0]), np.array(light[1]), np.array(light[2]), light[3])
        return shapes, sun, [*notes, *kept["notes"]]
    shapes, meshes, more = learn_shapes(clip, found, parts, steps=config.steps, seed=seed)
    if not shapes:
        raise FitError("; ".join(more) or "no part of the clip has enough depth to be learned")
    far_notes = []
    if not alone:
        far, far_meshes, far_notes = add_backdrop(clip, found, shapes, learned, steps=config.steps, seed=seed)
        shapes, meshes = [*shapes, *far], [*meshes, *far_meshes]
    seen = shown = look(clip, found, shapes, seed=seed)
    sun = find_sun(shapes, seen, seed=seed)
    if sun is not None:
        seen = without_light(shapes, seen, sun, np.array([s.part.id == BACKDROP for s in shapes]))
        more.append(
            f"light from one direction is told from light from everywhere: it explains {100 * sun.explains:.0f} % of how the "
            "colours of places change; the scene holds both as lights, and its colours are without them"
        )
    shapes, look_notes = learn_looks(shapes, meshes, seen, steps=config.color_steps, seed=seed)
    more = [*more, *far_notes, *look_notes]
    mark_seen(clip, found, shapes, shown, np.flatnonzero(learned).tolist())
    with contextlib.suppress(OSError, FieldFileError):  # a full disk loses nothing but the next run's time
        folder.mkdir(parents=True, exist_ok=True)
        for shape in shapes:
            save_field(shape.shown, folder / f"{shape.part.name}.safetensors")
        light = None if sun is None else [*(x.tolist() for x in sun[:3]), sun.explains]
        poses = {s.part.name: s.part.T_world_obj.tolist() for s in shapes if s.bent is not None}
        facts = {"parts": [s.part.name for s in shapes], "poses": poses, "light": light, "notes": more}
        write_atomically(folder / "learned.json", json.dumps(facts).encode())
    return shapes, sun, [*notes, *more]


# -- stages kept in files ----------------------------------------------------------------------------------------------


def content_of(clip: Clip) -> str:
    """A hash of all frames."""
    digest = hashlib.sha256()
    arrays = [clip.rgb, clip.depth, clip.lens, clip.times, *([] if clip.cameras is None else [clip.cameras])]
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    digest.update("\n".join(clip.notes).encode())
    return digest.hexdigest()


def _content(found: Decomposition) -> str:
    digest = hashlib.sha256()
    for array in _arrays(found).values():
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _arrays(found: Decomposition) -> dict[str, np.ndarray]:
    n = len(found.ids)
    poses = np.full((len(found.objects), n, 4, 4), np.nan)
    for k, thing in enumerate(found.objects):
        for t, pose in enumerate(thing.poses):
            if pose is not None:
                poses[k, t] = pose
    carryings = np.array([[c.child, c.parent, c.first, c.last] for c in found.carryings], np.int64).reshape(-1, 4)
    return {
        "ids": found.ids,
        "numbers": np.array([o.id for o in found.objects], np.int64),
        "rigid": np.array([o.rigid for o in found.objects], bool),
        "poses": poses,
        "confidence": np.array([o.confidence for o in found.objects], float).reshape(-1, n),
        "before_camera": np.array(
            [o.confidence if o.before_camera is None else o.before_camera for o in found.objects], float
        ).reshape(-1, n),
        "cameras": found.cameras,
        "carryings": carryings,
    }


def _write(found: Decomposition, file: Path) -> None:
    words = {"names": [o.name for o in found.objects], "notes": list(found.notes)}
    part = file.with_suffix(".part.npz")
    arrays: dict[str, Any] = {"words": np.array(json.dumps(words)), **_arrays(found)}
    np.savez_compressed(part, **arrays)
    part.replace(file)


def _read(file: Path) -> Decomposition:
    with np.load(file) as kept:
        words = json.loads(str(kept["words"]))
        objects = tuple(
            FoundObject(
                int(kept["numbers"][k]),
                name,
                bool(kept["rigid"][k]),
                tuple(None if np.isnan(pose).any() else pose for pose in kept["poses"][k]),
                kept["confidence"][k],
                kept["before_camera"][k],
            )
            for k, name in enumerate(words["names"])
        )
        carryings = tuple(Carrying(*(int(x) for x in row)) for row in kept["carryings"])
        return Decomposition(kept["ids"], objects, kept["cameras"], carryings, tuple(words["notes"]))
