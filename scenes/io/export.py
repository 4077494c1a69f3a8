"""Scenes written for other programs: what all formats share, and the choice of one by the suffix of a name."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from objects.field import TINT, Field
from objects.files import content_name
from objects.progress import Bar
from objects.warped import Warped
from scenes.checks import BACKGROUND
from scenes.clock import Clock
from scenes.graph import SceneGraph
from scenes.io.asset_mesh import TOLERANCE, AssetMesh, asset_mesh
from scenes.io.deforming import MOST_KEYS, Bending, bending_mesh
from scenes.io.motion import Motion, local_pose, motion_of
from scenes.motion import field_time
from scenes.node import ROOT, Node, is_there
from scenes.paths import one_of
from scenes.timeline import world_pose
from scenes.track import Sim3, number

SUFFIXES = (".glb", ".usda", ".usdc", ".ply", ".obj")
DENSITY = 1000.0  # kg/m^3, of what has no other
_COARSER = 2.0  # times the default tolerance, of the parts of a background
_WRITERS = {".glb": "glb_writer", **dict.fromkeys((".usda", ".usdc"), "usd_writer")}  # all others: plain_writers


@dataclass(frozen=True, eq=False)
class Part:
    """A visible node. ``parent`` is the place of the node above it among the parts, -1 at the top; ``mesh`` that of its shape
    among the meshes, -1 without one."""

    path: str
    node: Node
    parent: int
    mesh: int

    @property
    def name(self) -> str:
        return self.node.name


@dataclass(frozen=True, eq=False)
class Content:
    """What is written: visible nodes, parents before children, and the mesh of each distinct shape.

    Attributes:
        parts: The nodes.
        shapes, meshes: Fields (of those that deform, at which of their times) and their meshes; parts name them by their places.
        time: Seconds: where things stand in files that show one time, and at rest.
        span: First and last time (seconds).
        bendings: Of each mesh, how its vertices move, where the file shows that.
        density: kg/m^3 of objects that are wanted as rigid bodies; None where they aren't.
        nodes: All nodes by id.
        notes: One line for each thing that the file shows otherwise than the scene; writers add theirs.
    """

    parts: list[Part]
    shapes: list[tuple[Field, float | None]]
    meshes: list[AssetMesh]
    bendings: list[Bending | None]
    time: float
    span: tuple[float, float]
    density: float | None
    nodes: dict[int, Node]
    notes: list[str] = field(default_factory=list)

    def pose(self, part: Part) -> Sim3:
        """Under its parent, at `time`."""
        return local_pose(self.nodes, part.node, self.time)

    def world(self, part: Part) -> Sim3:
        """In the world (z up), at `time`."""
        return world_pose(self.nodes, part.node.id, self.time)

    def is_there(self, part: Part) -> bool:
        """Whether it is there at `time`."""
        return is_there(self.nodes, part.node, self.time)

    def motion(self, part: Part, *, in_world: bool = False) -> Motion:
        """Under its parent (or in the world), over time."""
        return motion_of(self.nodes, part.node, self.span, ROOT if in_world else None)

    def note_motions(self, motions: list[tuple[Part, Motion]]) -> None:
        """Tells which motions a file shows by keys that are not their own."""
        if baked := [(part, m) for part, m in motions if m.baked and m.off > 1e-9]:
            off = max(m.off for _, m in baked)
            text = f"motion beneath others that move was baked, to {off:.1g} m (and radians) between keys: "
            self.notes.append(text + _listed([part.path for part, _ in baked]))
        if loops := [part.path for part, m in motions if m.moves and part.node.track.end == "loop"]:
            text = f"loops are written out from {self.span[0]:g} to {self.span[1]:g} s: "
            self.notes.append(text + _listed(loops))
        if cut := [part.path for part, m in motions if m.cut]:
            self.notes.append(f"keys ran out before the end of the motion of {_listed(cut)}")


def export_scene(
    scene: SceneGraph,
    path: str | os.PathLike[str],
    *,
    time: float | None = None,
    tolerance: float | None = None,
    physics: bool = False,
    density: float = DENSITY,
) -> list[str]:
    """Writes a scene for other programs, in the format that the name asks for.

    * ``.glb`` (glTF 2, y up): a node for each visible node, with names, hierarchy, meshes, tracks, lights, cameras, tags;
      what bends (`Warped`) has morph targets.
    * ``.usda``, ``.usdc`` (USD, z up): the same with time samples, also of vertices; needs the extra ``usd``. With ``physics``
      each object is a rigid body with convex hulls (by coacd); one that moves is kinematic, one with the tag ``static`` is only in
      the way.
    * ``.ply``, ``.obj`` (z up): all objects at one time, with vertex colours; in an OBJ as named objects.
    * a folder: ``meshes/*.ply`` for each distinct shape, object frame, and ``objects.json``: which object has which, and its pose
      in the world over time.

    Each distinct shape becomes one mesh, shared by all that have it and kept in the cache folder.

    Args:
        scene: The scene; hidden nodes are left out.
        path: ``NAME.glb``, ``NAME.ply``, ``NAME.obj``, or a name without suffix for a folder. What is there is replaced.
        time: Seconds: the time of formats that show one, and of deforming fields; the scene's first by default.
        tolerance: Largest wanted distance of meshes from their fields, metres in the world. By default a thousandth of the
            longest edge of each object's box, a five-hundredth of what is tagged as background and its parts; finer than 256
            cells along it is not possible, which is noted.
        physics: Whether objects are rigid bodies, with mass and convex hulls; in USD alone.
        density: kg/m^3, from which and the volume the masses come.

    Returns:
        Notes: a line for each thing that the file shows otherwise than the scene.

    Raises:
        ValueError: An unknown suffix, a place that can't be written, nothing to write, an object without an inside, a library
            that isn't installed.
    """
    if not isinstance(scene, SceneGraph):
        raise ValueError(f"scene: expected a SceneGraph, got {type(scene).__name__}")
    target = Path(path)
    suffix = suffix_of(target)
    if not os.access(target.parent, os.W_OK):
        why = "no permission in" if target.parent.is_dir() else "there is no folder"
        raise ValueError(f"path: {str(target)!r} cannot be written: {why} {str(target.parent)!r}")
    if physics and _WRITERS.get(suffix) != "usd_writer":
        raise ValueError(f"physics: expected a USD file for it (.usda, .usdc), got {target.name!r}")
    if not 0 < (density := number(density, "density")):
        raise ValueError(f"density: expected kg/m^3 above 0, got {density}")
    if tolerance is not None and not 0 < (tolerance := number(tolerance, "tolerance")):
        raise ValueError(f"tolerance: expected metres above 0, got {tolerance}")
    time = scene.span[0] if time is None else number(time, "time")
    try:
        writer = import_module(f"scenes.io.{_WRITERS.get(suffix, 'plain_writers')}")
    except ImportError as error:
        raise ValueError(f"path: {suffix} needs a library: pip install 'sirenscape[usd]' ({error})") from error
    moving = suffix in _WRITERS  # plain files hold one time
    content = gather(scene, time, tolerance, density=density if physics else None, bends=moving)
    getattr(writer, f"write_{suffix[1:] or 'folder'}")(content, target)
    return content.notes


def suffix_of(target: Path, key: str = "path") -> str:
    """The suffix by which a format is chosen, in small letters; empty for a folder.

    Raises:
        ValueError: None that is known (the nearest one is suggested), or a place that can't be of that kind.
    """
    suffix, known = target.suffix.lower(), ", ".join(SUFFIXES)
    if suffix == ".scene":
        raise ValueError(
            f"{key}: expected a name that ends in {known}, or a folder, got {target.name!r}; edit writes that"
        )
    if suffix:
        one_of(key, suffix, SUFFIXES)
    if suffix and target.is_dir():
        raise ValueError(f"{key}: expected a file, got the folder {str(target)!r}")
    if not suffix and target.is_file():
        raise ValueError(f"{key}: expected a name that ends in {known}, or a folder, got the file {str(target)!r}")
    return suffix


def gather(
    scene: SceneGraph, time: float, tolerance: float | None, *, density: float | None = None, bends: bool = False
) -> Content:
    """What of a scene is written, with meshes made to a tolerance (metres); with ``bends`` how their vertices move, too.

    Raises:
        ValueError: No visible node, or an object without an inside.
    """
    records = scene.records()
    nodes = {node.id: node for node in records.values()}
    place = {ROOT: -1}
    # By content; of what bends by the clock, too, where the file shows that, and else by the field's time.
    shapes: dict[tuple[str, float | None, Clock | None], tuple[Field, int]] = {}
    hashes: dict[int, str] = {}  # by field
    number_of: dict[int, int] = {}  # place of a node's shape
    visible: list[tuple[str, Node]] = []
    behind: set[int] = set()  # nodes
    for path, node in records.items():
        if not node.hidden and node.parent in place:
            place[node.id] = len(visible)
            if BACKGROUND in node.tags or node.parent in behind:
                behind.add(node.id)
            visible.append((path, node))
            if node.field is not None:
                shape = node.field
                if id(shape) not in hashes:
                    hashes[id(shape)] = content_name(shape)
                clock = node.clock if bends and isinstance(shape, Warped) else None
                key = (hashes[id(shape)], field_time(node, time), clock)
                number_of[node.id] = shapes.setdefault(key, (shape, len(shapes)))[1]
    if not visible:
        raise ValueError("scene: expected something to write, it has no visible nodes")
    parts = [Part(path, node, place[node.parent], number_of.get(node.id, -1)) for path, node in visible]
    content = Content(
        parts, [(shape, key[1]) for key, (shape, _) in shapes.items()], [], [], time, scene.span, density, nodes
    )
    _make_meshes(content, tolerance, behind, bends)
    _tell(content, len(records) - len(visible))
    return content


def _make_meshes(content: Content, tolerance: float | None, behind: set[int], bends: bool) -> None:
    users: list[list[Part]] = [[] for _ in content.shapes]
    for part in content.parts:
        if part.mesh >= 0:
            users[part.mesh].append(part)
    coarse = []
    for (shape, at), those in zip(Bar(content.shapes, desc="meshes", unit="object"), users, strict=True):
        longest, largest = float(shape.bounds.size.max()), max(content.world(part).scale for part in those)
        usual = TOLERANCE * (_COARSER if all(part.node.id in behind for part in those) else 1.0)
        wanted = usual * longest if tolerance is None else tolerance / largest
        try:
            if isinstance(shape, Warped):
                span = content.span if bends else (content.time, content.time)
                mesh, bending = bending_mesh(shape, wanted, content.time, span, those[0].node.clock)
            else:
                mesh, bending = asset_mesh(shape, wanted, at), None
        except ValueError as error:
            raise ValueError(f"{those[0].path}: {error}; hide or remove it to write the rest") from error
        content.meshes.append(mesh)
        content.bendings.append(bending if bending is not None and len(bending.times) > 1 else None)
        if bending is not None and bending.cut:
            content.notes.append(f"{those[0].path}: {MOST_KEYS} keys are too few to bend within the tolerance")
        if (off := float(mesh.strays[0])) > wanted:
            coarse.append(f"{those[0].path} ({off * largest:.2g} m instead of {wanted * largest:.2g} m)")
    if coarse:
        content.notes.append(f"meshes stray further from their fields than the tolerance: {_listed(coarse)}")


def _tell(content: Content, hidden: int) -> None:
    if hidden:
        content.notes.append(f"{hidden} hidden nodes were left out")
    pairs = zip(content.shapes, content.bendings, strict=True)
    if any(shape.deforms and bending is None for (shape, _), bending in pairs):
        content.notes.append(f"deforming objects are shown as they are at {content.time:g} s")
    if any(shape.channels.get(TINT) for shape, _ in content.shapes):
        content.notes.append("colours that change with the direction of view are their mean over all directions")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
