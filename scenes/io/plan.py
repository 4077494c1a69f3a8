"""What a reader of files found: nodes that may still have to be learned; and how a scene is made of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from objects.field import Field
from objects.files import field_hash
from objects.fitting import fit_meshes
from objects.mesh_files import MeshError, Meshlike
from objects.mesh_samples import FitConfig
from objects.training import FitError
from objects.warp import Warp
from objects.warped import Warped, measure_warp
from rendering.camera import Camera
from rendering.lights import Light
from scenes.clock import Clock
from scenes.graph import SceneGraph
from scenes.io.scene_folder import load_scene
from scenes.presence import Span
from scenes.track import Sim3, Track

_FOLDED = 0.1  # share of places near a surface at which space may be folded before it is told


class Handover(NamedTuple):
    """From ``start`` (seconds) on, the node is carried by the node at ``by``."""

    start: float
    by: str


@dataclass(frozen=True, eq=False)
class Plan:
    """One node of a scene to be.

    Attributes:
        path: Names from the top, joined by ``/``; a parent's plan comes before its children's.
        track: Pose in the parent's frame.
        scale: Uniform scale, of its own shape and of all its children.
        shape: A field, a mesh that is to be learned (equal objects are learned once), or None for a group.
        warp: What bends the shape, which is then canonical.
        clock: When in its span what bends is; None for the scene's time.
        scene: A scene folder whose nodes go beneath this one.
        light, camera: In the node's own frame (the camera's ``T_world_cam`` is then camera to node, OpenCV axes).
        tags, lit, hidden, spans: As the scene graph takes them.
        handovers: Who carries it later, in the order of time.
    """

    path: str
    track: Track = field(default_factory=lambda: Track.constant(Sim3()))
    scale: float = 1.0
    shape: Field | Meshlike | None = None
    warp: Warp | None = None
    clock: Clock | None = None
    scene: Path | None = None
    light: Light | None = None
    camera: Camera | None = None
    tags: tuple[str, ...] = ()
    lit: bool = True
    hidden: bool = False
    spans: tuple[Span, ...] = ()
    handovers: tuple[Handover, ...] = ()


def build(plans: Sequence[Plan], *, seed: int = 0, config: FitConfig | None = None) -> SceneGraph:
    """Makes the scene; meshes learn on the way, in one batch, each distinct one once, as ``config`` says. It has no history yet.

    Raises:
        ValueError: Nodes that don't fit together, or a mesh that can't be learned, named by its node.
    """
    first_user: dict[int, Plan] = {}
    for plan in plans:
        if plan.shape is not None and not isinstance(plan.shape, Field):
            first_user.setdefault(id(plan.shape), plan)
    meshes = [
        plan.shape for plan in first_user.values() if plan.shape is not None and not isinstance(plan.shape, Field)
    ]
    learned: dict[int, Field] = {}
    if meshes:
        try:
            with warnings.catch_warnings(record=True) as notes:
                warnings.simplefilter("always")
                learned = dict(zip(first_user, fit_meshes(meshes, seed=seed, config=config), strict=True))
        except (MeshError, FitError) as error:
            raise ValueError(_with_nodes(str(error), list(first_user.values()))) from error
        for note in notes:
            warnings.warn(_with_nodes(str(note.message), list(first_user.values())), note.category, stacklevel=2)
    graph = SceneGraph()
    known: dict[str, Field] = {}  # equal fields become one
    for plan in plans:
        shape = plan.shape if plan.shape is None or isinstance(plan.shape, Field) else learned[id(plan.shape)]
        if shape is not None and plan.warp is not None:
            shape = _bent(shape, plan)
        if shape is not None:
            shape = known.setdefault(field_hash(shape), shape)
        try:
            _add(graph, plan, shape)
        except ValueError as error:
            raise ValueError(f"{plan.path}: {error}") from error
    where = {plan.path: plan.path for plan in plans}
    for start, by, path in sorted((h.start, h.by, plan.path) for plan in plans for h in plan.handovers):
        try:
            moved = graph.reparent(where[path], where.get(by, by), start=start)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        old = where[path]
        where = {
            key: moved + at[len(old) :] if at == old or at.startswith(old + "/") else at for key, at in where.items()
        }
    graph.forget_history()
    return graph


def _bent(field: Field, plan: Plan) -> Field:
    """The field seen through the warp of its node, after a look at what that does to space."""
    if plan.warp is None:
        return field
    try:
        found = measure_warp(field, plan.warp)
    except ValueError as error:
        raise ValueError(f"{plan.path}: {error}") from error
    if found.folded > _FOLDED:
        text = f"{plan.path}: what bends it folds space at {found.folded:.0%} of the places near its surface"
        warnings.warn(f"{text}, where it looks wrong at times", stacklevel=3)
    return Warped(field, plan.warp, stretch=found.stretch)


def _add(graph: SceneGraph, plan: Plan, shape: Field | None) -> None:
    if plan.scene is not None:
        graph.include(load_scene(plan.scene), plan.path)
        graph.animate(plan.path, plan.track)
        graph.scale(plan.path, plan.scale)
        graph.set_light(plan.path, plan.light)
        graph.set_camera(plan.path, plan.camera)
        graph.tag(plan.path, *plan.tags)
    else:
        node = {"scale": plan.scale, "light": plan.light, "camera": plan.camera, "lit": plan.lit, "tags": plan.tags}
        graph.add(plan.path, shape, track=plan.track, **node)
    if plan.clock is not None:
        graph.set_clock(plan.path, offset=plan.clock.offset, speed=plan.clock.speed, loop=plan.clock.loop)
    if plan.spans:
        graph.limit(plan.path, plan.spans)
    if plan.hidden:
        graph.hide(plan.path)


def _with_nodes(message: str, users: Sequence[Plan]) -> str:
    """Errors of a batch call a mesh ``meshes[3]``, and a single one ``mesh``; people know the node."""
    if len(users) == 1:
        return f"{users[0].path}: {message}"
    for k, plan in enumerate(users):
        message = message.replace(f"meshes[{k}]", plan.path)
    return message
