"""Reads glTF files (``.glb``, ``.gltf``) as plans of nodes: hierarchy, rigid motion, meshes, cameras and lights.

glTF is y up, right-handed, in metres and radians. The turn to z up goes into the roots; every other node keeps its own
frame. Poses here are rigid with a uniform scale, so a scale that differs by axis, or mirrors, is multiplied into the
vertices beneath it.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pygltflib as gl
import torch
import trimesh
from jaxtyping import Float

from objects.gltf_file import (
    LARGE,
    MAX_KEYS,
    RATE,
    SAME,
    Curve,
    GltfFile,
    clean,
    numbers,
    one_line,
    own_extras,
    pick,
)
from objects.gltf_mesh import Meshes
from objects.gltf_nodes import MAX_DEPTH, MAX_NODES, Nodes, polar
from objects.pose import SE3
from rendering.camera import Camera
from rendering.lights import AmbientLight, DirectionalLight, Light, PointLight, Rgb, srgb_from_linear
from scenes.io.glb_rig import Rig
from scenes.io.plan import Plan
from scenes.node import camera_in_world, light_in_world, word_set
from scenes.presence import Span
from scenes.track import Interpolation, Quat, Sim3, Track, quat_multiply, rotate, unit_quat

_IMAGE_HEIGHT, _MAX_WIDTH = 480, 32_768

_HALF = math.sqrt(0.5)
_EYE = np.eye(3)
_STILL: Quat = (1.0, 0.0, 0.0, 0.0)
_Z_UP: Quat = (_HALF, _HALF, 0.0, 0.0)  # (x, y, z) -> (x, -z, y)


def read_glb(path: str | os.PathLike[str]) -> tuple[list[Plan], list[str]]:
    """The nodes of the default scene of a glTF file, parents before children, in a world that is z up, in metres.

    Nodes that share a mesh get the same mesh object. Animations run on one time line, in seconds, and hold at their ends.

    Args:
        path: A ``.glb`` or ``.gltf``; files that it names are read from its folder and below, nothing from elsewhere.

    Returns:
        The plans, and one line for each thing that was taken otherwise than the file says.

    Raises:
        ValueError: No such file, not glTF 2, broken or truncated, or something that rigid nodes cannot show (a node that
            turns beneath an uneven scale). One line that names the file and the node.
    """
    path = Path(path)
    try:
        return _Reader(GltfFile(path, MAX_NODES)).scene()
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from error


class _Frame(NamedTuple):
    """Where a node's children stand. ``residual`` (None: identity) is what no pose of ``path`` or above could hold."""

    path: str = ""
    residual: Float[np.ndarray, "3 3"] | None = None
    cause: str = ""  # the node whose scale made the residual
    depth: int = 0


class _Reader:
    """The nodes of one file."""

    def __init__(self, file: GltfFile) -> None:
        self._file, self._gltf, self._note = file, file.gltf, file.note
        self._nodes = Nodes(file)
        self._meshes = Meshes(file, self._nodes)
        self._contested: dict[int, str] = {}  # nodes that several animations drive: the one taken
        self._drives = self._driven()
        self._rig = Rig(file, self._nodes, self._meshes, self._drives)

    def scene(self) -> tuple[list[Plan], list[str]]:
        plans: list[Plan] = []
        places: dict[str, int] = {}
        todo = [(i, name, _Frame()) for i, name in self._nodes.named(self._nodes.roots())][::-1]
        while todo:
            i, name, above = todo.pop()
            if above.depth >= MAX_DEPTH:
                raise ValueError(
                    f"{self._nodes.label(i)}: nodes are nested deeper than {MAX_DEPTH}; flatten the hierarchy"
                )
            plan, frame = self._plan(i, f"{above.path}/{name}" if above.path else name, above)
            children = self._nodes.children(i)
            if above.path and not children and own_extras(self._nodes.node(i)).get("part") in ("light", "camera"):
                place = places[above.path]
                plans[place] = _with_part(plans[place], plan)
                continue
            places[plan.path] = len(plans)
            plans.append(plan)
            todo += [(child, name, frame) for child, name in self._nodes.named(children)][::-1]
        if not plans:
            self._note("file", "its scene has no nodes")
        self._meshes.tell()
        return plans, list(self._file.notes)

    # -- one node ------------------------------------------------------------------------------------------------------

    def _plan(self, i: int, path: str, above: _Frame) -> tuple[Plan, _Frame]:
        node, label, outer = self._nodes.node(i), self._nodes.label(i), above.residual
        times, quats, trans, interpolation, linear = self._motion(i, path)
        turns = _turns(quats)
        residual = linear if outer is None else outer @ linear
        if outer is not None:
            trans = trans @ outer.T
        if outer is not None and turns:
            # Beneath a mirror R moves on as (mirror R mirror^-1), a rotation; beneath an uneven scale that is none.
            size = _conformal(outer)
            if size is None:
                raise ValueError(
                    f"{label}: it turns beneath the uneven scale of {above.cause!r}, which no rigid pose can show; "
                    "apply that scale in the modelling tool"
                )
            v = _quat(outer / math.copysign(size, np.linalg.det(outer)))
            quats = _multiply(_multiply(v, quats), (v[0], -v[1], -v[2], -v[3]))
        elif outer is not None:
            full = outer @ _rotate(quats[0], _EYE).T @ linear
            turn = polar(full)
            quats, residual = np.repeat([_quat(turn)], len(quats), axis=0), turn.T @ full
        elif not turns and _uniform(linear) is None and (size := _conformal(linear)) and np.linalg.det(linear) > 0:
            # Two axes turned round are half a turn.
            quats, residual = _multiply(quats, _quat(linear / size)), size * _EYE
        scale, cause = 1.0, above.cause
        if (size := _uniform(residual)) is not None:
            scale, residual, cause = (1.0 if abs(size - 1) <= SAME else size), None, ""
        elif outer is None:
            cause = path
        if not above.path:
            quats, trans = _multiply(_Z_UP, quats), _rotate(_Z_UP, trans)
        if max(np.abs(trans).max(), 0 if residual is None else np.abs(residual).max()) > LARGE:
            raise ValueError(f"{label}: its pose is too large for a number; reset its scale and translation")
        warp = None if node.mesh is None else self._rig.warp(i, residual)
        baked = None if warp is not None else residual
        shape = None if node.mesh is None else self._meshes.shape(i, baked, bound=warp is not None)
        if baked is not None and shape is not None:
            text = "the scale of a node above" if cause != path else f"scale {_size_text(linear)}"
            self._note(path, f"{text} was baked into its mesh")
        if node.skin is not None and warp is None:
            self._note(path, "no animation bends its skin; the mesh stands in its rest pose")
        plan = Plan(
            path=path,
            track=Track(times, quats, trans, interpolation),
            scale=scale,
            shape=shape,
            warp=None if shape is None else warp,
            light=self._light(i, path, residual),
            lit=shape is None or self._meshes.lit(i),
            camera=None if node.camera is None else self._camera(node.camera, path, label, residual),
            tags=self._tags(node, path),
            spans=self._spans(i),
        )
        return plan, _Frame(path, residual, cause, above.depth + 1)

    def _camera(self, index: int, path: str, label: str, residual: np.ndarray | None) -> Camera | None:
        entry, what = pick(self._gltf.cameras, index, gl.Camera, f"{label}: camera"), f"{label}: camera {index}"
        if entry.type == "orthographic":
            self._note(path, "its orthographic camera was left out")
            return None
        lens = entry.perspective
        if not isinstance(lens, gl.Perspective):
            raise ValueError(f"{what} must be perspective or orthographic, got {entry.type!r}")
        (fov,) = numbers([lens.yfov], 1, f"{what}: yfov")
        if not 0 < fov < math.pi:
            raise ValueError(f"{what}: yfov must lie between 0 and pi (radians), got {fov}")
        (aspect,) = numbers([4 / 3 if lens.aspectRatio is None else lens.aspectRatio], 1, f"{what}: aspectRatio")
        width = _IMAGE_HEIGHT * aspect
        if not 1 <= width <= _MAX_WIDTH:
            raise ValueError(
                f"{what}: aspectRatio must lie between {1 / _IMAGE_HEIGHT:.4f} and {_MAX_WIDTH / _IMAGE_HEIGHT:.0f}, "
                f"got {aspect}"
            )
        width = round(width)
        focal = 0.5 * _IMAGE_HEIGHT / math.tan(fov / 2)
        quat = quat_multiply(_straightened(residual), (0.0, 1.0, 0.0, 0.0))  # from y up, looking along -z
        pose = SE3(torch.tensor(quat, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
        plain = Camera(pose, focal, focal, 0.5 * width, 0.5 * _IMAGE_HEIGHT, width, _IMAGE_HEIGHT)
        return _as_exported(plain, own_extras(entry), fov, aspect)

    def _tags(self, node: gl.Node, path: str) -> tuple[str, ...]:
        tags = node.extras.get("tags") if isinstance(node.extras, dict) else None
        try:
            return word_set(tags) if isinstance(tags, list) else ()
        except ValueError:
            self._note(path, "its tags were left out: not all are words")
            return ()

    def _light(self, i: int, path: str, residual: np.ndarray | None) -> Light | None:
        """The light in the node's frame. A surface of albedo a shows a*E/pi in glTF and a*E here."""
        entry = self._nodes.light_entry(i)
        if entry is None:
            return self._ambient(i, path)
        label = f"{self._nodes.label(i)}: light"
        linear = numbers(entry.get("color", [1, 1, 1]), 3, f"{label}: color")
        red, green, blue = srgb_from_linear(torch.tensor(linear, dtype=torch.float64).clamp(0, 1)).clamp(0, 1).tolist()
        color: Rgb = (red, green, blue)
        (intensity,) = numbers([entry.get("intensity", 1)], 1, f"{label}: intensity")
        if intensity < 0:
            raise ValueError(f"{label}: intensity must be at least 0, got {intensity}")
        kind = entry.get("type")
        if kind == "directional":
            return DirectionalLight(rotate(_straightened(residual), (0.0, 0.0, -1.0)), color, intensity / math.pi)
        if kind not in ("point", "spot"):
            self._note(path, f"its light of the unknown type {clean(kind) or 'none'!r} was left out")
            return None
        if kind == "spot":
            self._note(path, "its spot light was taken as a point light, which shines all around")
        return PointLight((0.0, 0.0, 0.0), color, intensity / math.pi)

    def _ambient(self, i: int, path: str) -> AmbientLight | None:
        """The light from everywhere that an export wrote into a node's extras."""
        found = own_extras(self._nodes.node(i)).get("ambient")
        if found is None:
            return None
        try:
            colors = {key: tuple(found[key]) for key in ("color", "ground_color") if found.get(key) is not None}
            return AmbientLight(**colors, intensity=found["intensity"])  # pyright: ignore[reportArgumentType]
        except (AttributeError, KeyError, TypeError, ValueError):
            self._note(path, "its ambient light was left out: it isn't as an export writes it")
            return None

    # -- motion --------------------------------------------------------------------------------------------------------

    def _driven(self) -> dict[int, dict[str, tuple[gl.Animation, int]]]:
        """For each animated node animation and sampler of each property, all of the first animation that drives it."""
        drives: dict[int, dict[str, tuple[gl.Animation, int]]] = {}
        owners: dict[int, tuple[int, str]] = {}
        for a in range(len(self._gltf.animations)):
            animation = pick(self._gltf.animations, a, gl.Animation, "animation")
            name = clean(animation.name) or f"animation-{a}"
            what = f"animation {name!r}"
            for c in range(len(animation.channels or [])):
                channel = pick(animation.channels, c, gl.AnimationChannel, f"{what}: channel")
                target = channel.target
                if not isinstance(target, gl.AnimationChannelTarget):
                    raise ValueError(f"{what}: channel {c} has no target")
                if target.path == "pointer":
                    self._note("file", f"what {what} drives other than nodes was left out")
                if target.path == "pointer" or target.node is None:
                    continue
                pick(self._gltf.nodes, target.node, gl.Node, f"{what}: channel {c}: node")
                if target.path not in ("translation", "rotation", "scale", "weights"):
                    raise ValueError(f"{what}: channel {c}: unknown path {target.path!r}")
                first, its_name = owners.setdefault(target.node, (a, name))
                paths = drives.setdefault(target.node, {})
                if first != a:
                    self._contested[target.node] = its_name
                elif target.path in paths:
                    raise ValueError(f"{what}: two channels drive the {target.path} of one node")
                else:
                    paths[target.path] = (animation, channel.sampler)
        return drives

    def _spans(self, i: int) -> tuple[Span, ...]:
        """When a node is there, where steps of its scale between 0 and one value say so."""
        if "scale" not in (paths := self._drives.get(i, {})):
            return ()
        sizes = Curve.read(self._file, *paths["scale"], 3, f"{self._nodes.label(i)}: animated scale")
        if not _comes_and_goes(sizes):
            return ()
        there, spans = (sizes.values != 0).all(1), []
        for k in np.flatnonzero(there):
            end = float(sizes.times[k + 1]) if k + 1 < len(there) else math.inf
            if k and there[k - 1]:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((float(sizes.times[k]) if k else -math.inf, end))
        return tuple(spans)

    def _motion(self, i: int, path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, Interpolation, np.ndarray]:
        """A node in its parent's frame: times, rotations and translations of its keys, what is between them, and the
        linear map before them (what is not rotation), which does not change.
        """
        trans, quat, linear = self._nodes.rest(i)
        paths = self._drives.get(i, {})
        if i in self._contested:
            self._note(path, f"more than one animation drives it; the first, {self._contested[i]!r}, was taken")
        curves = {
            key: Curve.read(self._file, *paths[key], columns, f"{self._nodes.label(i)}: animated {key}")
            for key, columns in (("scale", 3), ("translation", 3), ("rotation", 4))
            if key in paths
        }
        if (sizes := curves.pop("scale", None)) is not None:
            rows = np.flatnonzero((sizes.values != 0).all(1))
            linear = np.diag(sizes.values[rows[0] if len(rows) else 0])
            if not _comes_and_goes(sizes) and np.ptp(sizes.values, 0).max() > SAME * np.abs(sizes.values).max():
                self._note(path, "animated scale is not rigid; its value at the start was kept")
        if not curves:
            return np.zeros(1), np.array([quat]), np.array([trans]), "linear", linear
        if any(curve.kind == "CUBICSPLINE" for curve in curves.values()):
            self._note(path, f"its curves were resampled at {RATE:g} keys a second")
        stepped = all(curve.kind == "STEP" for curve in curves.values())
        times = np.unique(np.concatenate([c.times if stepped else c.line_times() for c in curves.values()]))
        if len(times) > MAX_KEYS:
            raise ValueError(
                f"{self._nodes.label(i)}: expected at most {MAX_KEYS:,} animation keys, got {len(times):,}"
            )
        quats, places = np.repeat([quat], len(times), axis=0), np.repeat([trans], len(times), axis=0)
        if "rotation" in curves:
            quats = curves["rotation"].at(times)[:, [3, 0, 1, 2]]
        if "translation" in curves:
            places = curves["translation"].at(times)
        if not _turns(quats) and (np.abs(places - places[0]) <= SAME * np.abs(places[0]).max()).all():
            times, quats, places = times[:1], quats[:1], places[:1]  # exporters write keys for what stands still, too
        return times, quats, places, "step" if stepped else "linear", linear


def _comes_and_goes(sizes: Curve) -> bool:
    """Whether a scale goes in steps between 0 and one value."""
    there = (sizes.values != 0).all(1)
    some = sizes.values[there]
    steps = sizes.kind == "STEP" and there.any() and not there.all() and not sizes.values[~there].any()
    return bool(steps and np.ptp(some, 0).max() <= SAME * np.abs(some).max())


def _with_part(plan: Plan, part: Plan) -> Plan:
    """A node with the light or camera that an export put beneath it."""
    pose = Sim3(*part.track.at(0.0))
    if part.light is not None:
        plan = replace(plan, light=light_in_world(part.light, pose))
    return plan if part.camera is None else replace(plan, camera=camera_in_world(part.camera, pose))


def _as_exported(camera: Camera, lens: dict[str, Any], fov: float, aspect: float) -> Camera:
    """The camera with the lens that an export wrote beside it, unless another program changed its view since."""
    try:
        found = replace(camera, **{key: lens[key] for key in ("fx", "fy", "cx", "cy", "width", "height")})
    except (KeyError, TypeError, ValueError):
        return camera
    near = max(found.width, found.height) <= _MAX_WIDTH
    near = near and abs(2 * math.atan(0.5 * found.height / found.fy) - fov) < 1e-4 * fov
    return (
        found if near and abs(found.width * found.fy / (found.height * found.fx) - aspect) < 1e-4 * aspect else camera
    )


# -- rotations ---------------------------------------------------------------------------------------------------------


def _multiply(a: Any, b: Any) -> Float[np.ndarray, "k 4"]:
    """Products of quaternions, one or ``[k, 4]`` each."""
    return np.stack(quat_multiply(np.asarray(a).T, np.asarray(b).T), -1)  # pyright: ignore[reportArgumentType]


def _rotate(quat: Any, p: Float[np.ndarray, "k 3"]) -> Float[np.ndarray, "k 3"]:
    """Points turned by one quaternion."""
    return np.stack(rotate(quat, p.T), -1)  # pyright: ignore[reportArgumentType]


def _quat(rotation: Float[np.ndarray, "3 3"]) -> Quat:
    return unit_quat(trimesh.transformations.quaternion_from_matrix(rotation).tolist())


def _turns(quats: Float[np.ndarray, "k 4"]) -> bool:
    """Whether unit quaternions differ by more than the rounding of a file."""
    return len(quats) > 1 and bool((np.abs(quats @ quats[0]) < 1 - 1e-12).any())


def _uniform(linear: Float[np.ndarray, "3 3"], least: float = 1e-12) -> float | None:
    """The factor above ``least`` that a map is; None where it is more than that."""
    size = float(np.trace(linear)) / 3
    return size if size > least and np.abs(linear - size * _EYE).max() <= SAME * size else None


def _conformal(linear: Float[np.ndarray, "3 3"]) -> float | None:
    """The factor by which a map scales all lengths alike; None where it doesn't."""
    square = _uniform(linear.T @ linear, 1e-24)
    return None if square is None else math.sqrt(square)


def _straightened(residual: np.ndarray | None) -> Quat:
    """The rotation that keeps where -z points under ``residual``, and up (y) as nearly as it can."""
    if residual is None:
        return _STILL
    back = residual[:, 2]
    right = np.cross(residual[:, 1], back)
    if min(np.linalg.norm(back), np.linalg.norm(right)) < 1e-12:
        return _STILL
    back, right = back / np.linalg.norm(back), right / np.linalg.norm(right)
    return _quat(np.stack([right, np.cross(back, right), back], -1))


def _size_text(linear: Float[np.ndarray, "3 3"]) -> str:
    size = np.linalg.norm(linear, axis=0)
    if np.count_nonzero(linear - np.diag(np.diag(linear))) == 0:
        size = np.diag(linear)
    elif np.linalg.det(linear) < 0:
        size = -size
    return "(" + ", ".join(f"{s:.4g}" for s in size) + ")"
