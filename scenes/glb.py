"""Reads glTF files (``.glb``, ``.gltf``) as plans of nodes: hierarchy, rigid motion, meshes, cameras and lights.

glTF is y up, right-handed, in metres and radians. The turn to z up goes into the roots; every other node keeps its own
frame. Poses here are rigid with a uniform scale, so a scale that differs by axis, or mirrors, is multiplied into the
vertices beneath it.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
import pygltflib as gl
import torch
import trimesh
from jaxtyping import Float, Int
from PIL import Image
from trimesh.visual.material import SimpleMaterial
from trimesh.visual.texture import TextureVisuals

from objects.mesh import GREY, MAX_FACES
from objects.pose import SE3
from rendering.camera import Camera
from rendering.lights import DirectionalLight, Light, PointLight, Rgb, srgb_from_linear
from scenes.plan import Plan
from scenes.track import Interpolation, Quat, Track, Vec, quat_multiply, rotate, unit_quat

MAX_NODES = 100_000
MAX_DEPTH = 200

_T = TypeVar("_T")
_LIGHTS = "KHR_lights_punctual"
_GLOSS = "KHR_materials_pbrSpecularGlossiness"
_KNOWN = {_LIGHTS, "KHR_mesh_quantization", "KHR_texture_transform", "EXT_texture_webp"}
# What pygltflib, trimesh and pillow raise on files that they cannot read (JSON and base64 errors are ValueErrors).
_BROKEN = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    SyntaxError,
    EOFError,
    OSError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_DTYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_COLUMNS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_MAX_NUMBERS = 100_000_000  # in an accessor that no bytes back
_MAX_KEYS = 100_000  # of a resampled animation
_RATE = 30.0  # keys a second where a curve is resampled
_JUMP = 1e-4  # seconds before a step at which a track of lines holds the old value once more
_LARGE = 1e30
_SAME = 1e-6  # numbers of a file (float32) this close are equal
_IMAGE_HEIGHT, _MAX_WIDTH = 480, 32_768

_HALF = math.sqrt(0.5)
_EYE = np.eye(3)
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
        return _Reader(path).scene()
    except ValueError as error:
        raise ValueError(f"{path}: {_one_line(error)}") from error


class _Motion(NamedTuple):
    """A node's own transform: poses at key times, then a linear map (what is not rotation) that does not change."""

    times: Float[np.ndarray, "k"]
    quats: Float[np.ndarray, "k 4"]
    trans: Float[np.ndarray, "k 3"]
    interpolation: Interpolation
    linear: Float[np.ndarray, "3 3"]


class _Frame(NamedTuple):
    """Where a node's children stand. ``residual`` (None: identity) is what no pose of ``path`` or above could hold."""

    path: str = ""
    residual: Float[np.ndarray, "3 3"] | None = None
    cause: str = ""  # the node whose scale made the residual
    depth: int = 0


class _Part(NamedTuple):
    """Triangles of one material. Colours are as the file has them, 0..1; ``image`` numbers one of the file's images."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    rgba: Float[np.ndarray, "v 4"] | None
    uv: Float[np.ndarray, "v 2"] | None
    image: int | None
    factor: Float[np.ndarray, "4"]


class _Reader:
    """One file while it is read. Errors do not name the file yet."""

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        self._gltf = gltf = _parse(path)
        self._notes: dict[str, None] = {}  # in order, without repeats
        self._names: dict[int, str] = {}
        self._buffers: dict[int, bytes] = {}
        self._images: dict[int, bytes] = {}
        self._meshes: dict[int, trimesh.Trimesh | None] = {}
        self._baked: dict[tuple[int, bytes], trimesh.Trimesh] = {}
        for name in _texts(gltf.extensionsRequired, "extensionsRequired"):
            if name not in _KNOWN and not name.startswith("KHR_materials_"):
                raise ValueError(f"needs the extension {name}, which is not read here; export the file without it")
        for name in _texts(gltf.extensionsUsed, "extensionsUsed"):
            if name not in _KNOWN and not name.startswith("KHR_materials_"):
                self._note("file", f"the extension {_clean(name)} was left out")
        self._contested: dict[int, str] = {}  # nodes that several animations drive: the one taken
        self._drives = self._driven()

    def scene(self) -> tuple[list[Plan], list[str]]:
        plans: list[Plan] = []
        roots = self._roots()
        todo = [(i, name, _Frame()) for i, name in self._named(roots)][::-1]
        while todo:
            i, name, above = todo.pop()
            if above.depth >= MAX_DEPTH:
                raise ValueError(f"{self._label(i)}: nodes are nested deeper than {MAX_DEPTH}; flatten the hierarchy")
            plan, frame = self._plan(i, f"{above.path}/{name}" if above.path else name, above)
            plans.append(plan)
            todo += [(child, name, frame) for child, name in self._named(self._children(i))][::-1]
        if not plans:
            self._note("file", "its scene has no nodes")
        return plans, list(self._notes)

    def _note(self, where: str, text: str) -> None:
        self._notes[f"{where}: {text}"] = None

    # -- hierarchy and names -------------------------------------------------------------------------------------------

    def _node(self, i: int) -> gl.Node:
        return _at(self._gltf.nodes, i, gl.Node, "node")

    def _children(self, i: int) -> list[int]:
        return _indices(self._node(i).children, f"{self._label(i)}: children")

    def _label(self, i: int) -> str:
        """How errors call a node."""
        return f"node {i} {self._own_name(i)!r}"

    def _own_name(self, i: int) -> str:
        if i in self._names:
            return self._names[i]
        node, gltf = self._node(i), self._gltf
        names: list[Any] = [node.name]
        if node.mesh is not None:
            names.append(_at(gltf.meshes, node.mesh, gl.Mesh, f"node {i}: mesh").name)
        if node.camera is not None:
            names.append(_at(gltf.cameras, node.camera, gl.Camera, f"node {i}: camera").name)
        names.append((self._light_entry(i) or {}).get("name"))
        self._names[i] = next((clean for name in names if (clean := _clean(name))), f"node-{i}")
        return self._names[i]

    def _named(self, siblings: Sequence[int]) -> list[tuple[int, str]]:
        taken: set[str] = set()
        counts: dict[str, int] = {}
        result = []
        for i in siblings:
            base = name = self._own_name(i)
            while name in taken:
                counts[base] = counts.get(base, 1) + 1
                name = f"{base}-{counts[base]}"
            taken.add(name)
            result.append((i, name))
        return result

    def _roots(self) -> list[int]:
        """Root nodes of the default scene, after a check that nodes form trees."""
        gltf, count = self._gltf, len(self._gltf.nodes)
        parent: dict[int, int] = {}
        for i in range(count):
            for child in self._children(i):
                _at(gltf.nodes, child, gl.Node, f"{self._label(i)}: child")
                if child in parent:
                    raise ValueError(
                        f"{self._label(child)}: expected one parent, got {self._label(parent[child])} and "
                        f"{self._label(i)}; copy the node"
                    )
                parent[child] = i
        tops = [i for i in range(count) if i not in parent]
        reached, todo = set(tops), list(tops)
        while todo:
            below = self._children(todo.pop())
            reached.update(below)
            todo += below
        if len(reached) < count:
            lost = next(i for i in range(count) if i not in reached)
            raise ValueError(f"{self._label(lost)}: nodes are parents of one another in a cycle; break it")
        if not gltf.scenes:
            if gltf.scene is not None:
                raise ValueError(f"scene: expected an index below 0, got {gltf.scene!r}: the file has no scenes")
            return tops
        if gltf.scene is None and len(gltf.scenes) > 1:
            self._note("file", f"it names no default scene; the first of {len(gltf.scenes)} was taken")
        scene = _at(gltf.scenes, 0 if gltf.scene is None else gltf.scene, gl.Scene, "scene")
        roots = _indices(scene.nodes, "scene: nodes")
        for i in roots:
            _at(gltf.nodes, i, gl.Node, "scene: node")
            if i in parent:
                raise ValueError(f"{self._label(i)}: expected a root, got a child of {self._label(parent[i])}")
        if len(set(roots)) < len(roots):
            raise ValueError("scene: it lists a node twice")
        return roots

    # -- one node ------------------------------------------------------------------------------------------------------

    def _plan(self, i: int, path: str, above: _Frame) -> tuple[Plan, _Frame]:
        node, label, outer = self._node(i), self._label(i), above.residual
        motion = self._motion(i, path)
        quats, trans, linear = motion.quats, motion.trans, motion.linear
        scale, residual = 1.0, None
        if outer is not None:
            trans = trans @ outer.T
        turns = _turns(quats)
        if turns and outer is not None:
            # Beneath a mirror R moves on as (mirror R mirror^-1), a rotation; beneath an uneven scale that is none.
            size = _conformal(outer)
            if size is None:
                raise ValueError(
                    f"{label}: it turns beneath the uneven scale of {above.cause!r}, which no rigid pose can show; "
                    "apply that scale in the modelling tool"
                )
            v = _quat(outer / math.copysign(size, np.linalg.det(outer)))
            back = (v[0], -v[1], -v[2], -v[3])
            quats = np.array([quat_multiply(quat_multiply(v, _as_quat(q)), back) for q in quats])
            residual = outer @ linear
        elif outer is not None:
            full = outer @ _matrix(_as_quat(quats[0])) @ linear
            turn = _polar(full)
            quats, residual = np.repeat([_quat(turn)], len(quats), axis=0), turn.T @ full
        else:
            residual = linear
            mixed = not turns and _uniform(linear) is None
            if mixed and (size := _conformal(linear)) and np.linalg.det(linear) > 0:
                # Two axes turned round are half a turn.
                half = _quat(linear / size)
                quats, residual = np.array([quat_multiply(_as_quat(q), half) for q in quats]), size * _EYE
        cause = above.cause
        if (size := _uniform(residual)) is not None:
            scale, residual, cause = (1.0 if abs(size - 1) <= _SAME else size), None, ""
        elif outer is None:
            cause = path
        if not above.path:
            quats = np.array([quat_multiply(_Z_UP, _as_quat(q)) for q in quats])
            trans = np.array([rotate(_Z_UP, _as_vec(p)) for p in trans])
        if max(np.abs(trans).max(), 0 if residual is None else np.abs(residual).max()) > _LARGE:
            raise ValueError(f"{label}: its pose is too large for a number; reset its scale and translation")
        shape = None
        if node.mesh is not None:
            shape = self._shape(node.mesh, residual, label)
            if residual is not None and shape is not None:
                text = "the scale of a node above" if cause != path else f"scale {_size_text(linear)}"
                self._note(path, f"{text} was baked into its mesh")
        if node.skin is not None:
            self._note(path, "its skin was left out; the mesh stands in its rest pose")
        plan = Plan(
            path=path,
            track=Track(motion.times, quats, trans, motion.interpolation),
            scale=scale,
            shape=shape,
            light=self._light(i, path, residual),
            camera=None if node.camera is None else self._camera(node.camera, path, label, residual),
        )
        return plan, _Frame(path, residual, cause, above.depth + 1)

    def _rest(self, i: int) -> tuple[Vec, Quat, Float[np.ndarray, "3 3"]]:
        """Translation, rotation and the linear map before them of a node that no animation drives."""
        node, label = self._node(i), self._label(i)
        if node.matrix is not None:
            matrix = np.array(_numbers(node.matrix, 16, f"{label}: matrix")).reshape(4, 4).T
            if np.abs(matrix[3] - [0, 0, 0, 1]).max() > _SAME:
                raise ValueError(f"{label}: matrix: expected a last row of 0 0 0 1, got {matrix[3].tolist()}")
            turn = _polar(matrix[:3, :3])
            return _as_vec(matrix[:3, 3]), _quat(turn), turn.T @ matrix[:3, :3]
        trans = (0.0, 0.0, 0.0)
        quat, linear = (1.0, 0.0, 0.0, 0.0), _EYE
        if node.translation is not None:
            trans = _as_vec(_numbers(node.translation, 3, f"{label}: translation"))
        if node.rotation is not None:
            x, y, z, w = _numbers(node.rotation, 4, f"{label}: rotation")
            quat = unit_quat((w, x, y, z), f"{label}: rotation")
        if node.scale is not None:
            linear = np.diag(_numbers(node.scale, 3, f"{label}: scale"))
        return trans, quat, linear

    def _camera(self, index: int, path: str, label: str, residual: np.ndarray | None) -> Camera | None:
        entry = _at(self._gltf.cameras, index, gl.Camera, f"{label}: camera")
        if entry.type == "orthographic":
            self._note(path, "its orthographic camera was left out")
            return None
        lens = entry.perspective
        if not isinstance(lens, gl.Perspective):
            raise ValueError(f"{label}: camera {index} must be perspective or orthographic, got {entry.type!r}")
        (fov,) = _numbers([lens.yfov], 1, f"{label}: camera {index}: yfov")
        if not 0 < fov < math.pi:
            raise ValueError(f"{label}: camera {index}: yfov must lie between 0 and pi (radians), got {fov}")
        width = 640.0
        if lens.aspectRatio is not None:
            (aspect,) = _numbers([lens.aspectRatio], 1, f"{label}: camera {index}: aspectRatio")
            width = _IMAGE_HEIGHT * aspect
            if not 1 <= width <= _MAX_WIDTH:
                raise ValueError(
                    f"{label}: camera {index}: aspectRatio must lie between {1 / _IMAGE_HEIGHT:.4f} and "
                    f"{_MAX_WIDTH / _IMAGE_HEIGHT:.0f}, got {aspect}"
                )
        width = round(width)
        focal = 0.5 * _IMAGE_HEIGHT / math.tan(fov / 2)
        quat = quat_multiply(_straightened(residual), (0.0, 1.0, 0.0, 0.0))  # from y up, looking along -z
        pose = SE3(torch.tensor(quat, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
        return Camera(pose, focal, focal, 0.5 * width, 0.5 * _IMAGE_HEIGHT, width, _IMAGE_HEIGHT)

    def _light_entry(self, i: int) -> dict[str, Any] | None:
        own = _extension(self._node(i), _LIGHTS)
        if own is None:
            return None
        lights = (_extension(self._gltf, _LIGHTS) or {}).get("lights")
        return _at(lights, own.get("light"), dict, f"node {i}: light")

    def _light(self, i: int, path: str, residual: np.ndarray | None) -> Light | None:
        """The light in the node's frame. A surface of albedo a shows a*E/pi in glTF and a*E here."""
        entry = self._light_entry(i)
        if entry is None:
            return None
        label = f"{self._label(i)}: light"
        linear = _numbers(entry.get("color", [1, 1, 1]), 3, f"{label}: color")
        red, green, blue = srgb_from_linear(torch.tensor(linear, dtype=torch.float64).clamp(0, 1)).clamp(0, 1).tolist()
        color: Rgb = (red, green, blue)
        (intensity,) = _numbers([entry.get("intensity", 1)], 1, f"{label}: intensity")
        if intensity < 0:
            raise ValueError(f"{label}: intensity must be at least 0, got {intensity}")
        kind = entry.get("type")
        if kind == "directional":
            return DirectionalLight(rotate(_straightened(residual), (0.0, 0.0, -1.0)), color, intensity / math.pi)
        if kind not in ("point", "spot"):
            self._note(path, f"its light of the unknown type {_clean(kind) or 'none'!r} was left out")
            return None
        if kind == "spot":
            self._note(path, "its spot light was taken as a point light, which shines all around")
        return PointLight((0.0, 0.0, 0.0), color, intensity / math.pi)

    # -- motion --------------------------------------------------------------------------------------------------------

    def _driven(self) -> dict[int, tuple[str, dict[str, tuple[gl.Animation, int]]]]:
        """For each animated node the name of its animation and, for each property, animation and sampler."""
        drives: dict[int, tuple[str, dict[str, tuple[gl.Animation, int]]]] = {}
        owner: dict[int, int] = {}
        for a in range(len(self._gltf.animations)):
            animation = _at(self._gltf.animations, a, gl.Animation, "animation")
            name = _clean(animation.name) or f"animation-{a}"
            for c in range(len(animation.channels or [])):
                channel = _at(animation.channels, c, gl.AnimationChannel, f"animation {name!r}: channel")
                target = channel.target
                if not isinstance(target, gl.AnimationChannelTarget):
                    raise ValueError(f"animation {name!r}: channel {c} has no target")
                if target.path == "pointer":
                    self._note("file", f"what animation {name!r} drives other than nodes was left out")
                    continue
                if target.node is None:
                    continue
                _at(self._gltf.nodes, target.node, gl.Node, f"animation {name!r}: channel {c}: node")
                if target.path not in ("translation", "rotation", "scale", "weights"):
                    raise ValueError(f"animation {name!r}: channel {c}: unknown path {target.path!r}")
                first, paths = drives.setdefault(target.node, (name, {}))
                if owner.setdefault(target.node, a) != a:
                    self._contested[target.node] = first
                elif target.path in paths:
                    raise ValueError(f"animation {name!r}: two channels drive the {target.path} of one node")
                else:
                    paths[target.path] = (animation, channel.sampler)
        return drives

    def _motion(self, i: int, path: str) -> _Motion:
        """A node's pose over time, in its parent's frame."""
        trans, quat, linear = self._rest(i)
        _, paths = self._drives.get(i, ("", {}))
        if i in self._contested:
            self._note(path, f"more than one animation drives it; the first, {self._contested[i]!r}, was taken")
        if "weights" in paths:
            self._note(path, "its morph animation was left out")
        if "scale" in paths:
            curve = self._curve(*paths["scale"], 3, f"{self._label(i)}: animated scale")
            rows = np.flatnonzero((curve.values != 0).all(1))
            linear = np.diag(curve.values[rows[0] if len(rows) else 0])
            if np.ptp(curve.values, 0).max() > _SAME * np.abs(curve.values).max():
                self._note(path, "animated scale is not rigid; its value at the start was kept")
        curves = {
            key: self._curve(*paths[key], columns, f"{self._label(i)}: animated {key}")
            for key, columns in (("translation", 3), ("rotation", 4))
            if key in paths
        }
        if not curves:
            return _Motion(np.zeros(1), np.array([quat]), np.array([trans]), "linear", linear)
        if any(curve.kind == "CUBICSPLINE" for curve in curves.values()):
            self._note(path, f"its curves were resampled at {_RATE:g} keys a second")
        stepped = all(curve.kind == "STEP" for curve in curves.values())
        times = np.unique(np.concatenate([c.times if stepped else c.line_times() for c in curves.values()]))
        if len(times) > _MAX_KEYS:
            raise ValueError(f"{self._label(i)}: expected at most {_MAX_KEYS:,} animation keys, got {len(times):,}")
        quats, places = np.repeat([quat], len(times), axis=0), np.repeat([trans], len(times), axis=0)
        if "rotation" in curves:
            quats = curves["rotation"].at(times)[:, [3, 0, 1, 2]]
        if "translation" in curves:
            places = curves["translation"].at(times)
        if not _turns(quats) and (np.abs(places - places[0]) <= _SAME * np.abs(places[0]).max()).all():
            times, quats, places = times[:1], quats[:1], places[:1]  # exporters write keys for what stands still, too
        return _Motion(times, quats, places, "step" if stepped else "linear", linear)

    def _curve(self, animation: gl.Animation, index: int, columns: int, what: str) -> _Curve:
        sampler = _at(animation.samplers, index, gl.AnimationSampler, f"{what}: sampler")
        kind = sampler.interpolation or "LINEAR"
        if kind not in ("LINEAR", "STEP", "CUBICSPLINE"):
            raise ValueError(f"{what}: expected LINEAR, STEP or CUBICSPLINE, got {kind!r}")
        times = self._floats(sampler.input, ("SCALAR",), f"{what}: times")[:, 0]
        values = self._floats(sampler.output, (f"VEC{columns}",), f"{what}: values")
        if (np.diff(times) <= 0).any():
            at = int(np.flatnonzero(np.diff(times) <= 0)[0])
            raise ValueError(f"{what}: times must increase, got {times[at]:g} followed by {times[at + 1]:g}")
        each = 3 if kind == "CUBICSPLINE" else 1
        if len(times) == 0 or len(values) != each * len(times):
            raise ValueError(
                f"{what}: expected {each} value(s) for each of at least 1 key, got {len(values)} for {len(times)}"
            )
        before, values, after = (values[k::each] for k in (0, each // 2, each - 1))
        if columns == 4:
            lengths = np.linalg.norm(values, axis=1, keepdims=True)
            if (lengths < 1e-12).any():
                raise ValueError(f"{what}: a quaternion has length 0; bake the animation anew")
            values = values / lengths if each == 1 else values
        return _Curve(what, kind, times, values, before, after)

    # -- numbers -------------------------------------------------------------------------------------------------------

    def _buffer(self, index: int) -> bytes:
        buffer = _at(self._gltf.buffers, index, gl.Buffer, "buffer")
        if index not in self._buffers:
            data = self._gltf.binary_blob() if buffer.uri is None and index == 0 else self._uri(buffer.uri, "buffer")
            if data is None:
                raise ValueError("buffer 0: expected bytes, got none; is the file whole?")
            size = _whole(buffer.byteLength, f"buffer {index}: byteLength")
            if len(data) < size:
                raise ValueError(f"buffer {index}: expected {size} bytes, got {len(data)}; is the file whole?")
            self._buffers[index] = data
        return self._buffers[index]

    def _uri(self, uri: Any, what: str) -> bytes:
        """The bytes that a URI stands for: in the text itself, or in a file in the folder of this one or below."""
        if not isinstance(uri, str) or not uri:
            raise ValueError(f"{what}: expected a URI, got {uri!r}")
        if uri.startswith("data:"):
            head, comma, payload = uri.partition(",")
            if not comma:
                raise ValueError(f"{what}: expected a data URI with a comma, got {uri[:40]!r}")
            return base64.b64decode(payload) if head.endswith(";base64") else unquote_to_bytes(payload)
        name = unquote(uri)
        depth = 0
        for part in re.split(r"[\\/]+", name):
            depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
            if depth < 0:
                raise ValueError(f"{what}: {uri[:80]!r} lies outside the file's folder; put it beside the file")
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|[\\/]", name):
            raise ValueError(f"{what}: expected a file beside this one, got {uri[:80]!r}; put it beside the file")
        file = self._folder / name
        if not file.is_file():
            raise ValueError(f"{what}: no file {uri[:80]!r} beside it; copy it there")
        try:
            return file.read_bytes()
        except OSError as error:
            raise ValueError(f"{what}: {uri[:80]!r} cannot be read: {error.strerror}") from error

    def _view(self, index: int, what: str) -> tuple[bytes, int, int, int | None]:
        """Buffer, first byte, byte count and stride of a buffer view."""
        view = _at(self._gltf.bufferViews, index, gl.BufferView, f"{what}: bufferView")
        what = f"{what}: bufferView {index}"
        data = self._buffer(view.buffer)  # pyright: ignore[reportArgumentType]  (checked there)
        start, size = (
            _whole(view.byteOffset or 0, f"{what}: byteOffset"),
            _whole(view.byteLength, f"{what}: byteLength"),
        )
        if start + size > len(data):
            raise ValueError(f"{what}: expected at most {len(data)} bytes, got bytes {start} to {start + size}")
        return data, start, size, None if view.byteStride is None else _whole(view.byteStride, f"{what}: byteStride")

    def _rows(self, view: int, offset: Any, dtype: np.dtype, count: int, columns: int, what: str) -> np.ndarray:
        """``[count, columns]`` numbers of a buffer view."""
        data, start, size, stride = self._view(view, what)
        offset, row = _whole(offset or 0, f"{what}: byteOffset"), dtype.itemsize * columns
        stride = stride or row
        if count == 0:
            return np.zeros((0, columns), dtype)
        if stride < row or offset + (count - 1) * stride + row > size:
            raise ValueError(
                f"{what}: {count} rows of {row} bytes every {stride} from byte {offset} do not fit into {size} bytes"
            )
        return np.ndarray((count, columns), dtype, data, start + offset, (stride, dtype.itemsize))

    def _accessor(self, index: Any, types: Sequence[str], what: str) -> tuple[np.ndarray, bool]:
        """Numbers ``[count, columns]`` as they are stored, and whether whole ones stand for fractions."""
        accessor = _at(self._gltf.accessors, index, gl.Accessor, f"{what}: accessor")
        what = f"{what}: accessor {index}"
        if accessor.type not in types or accessor.componentType not in list(_DTYPES):
            raise ValueError(
                f"{what}: expected {' or '.join(types)} of a glTF component type, got {accessor.type!r} of "
                f"{accessor.componentType!r}"
            )
        dtype, columns = np.dtype(_DTYPES[accessor.componentType]), _COLUMNS[accessor.type]
        count = _whole(accessor.count, f"{what}: count")
        if accessor.bufferView is not None:
            rows = self._rows(accessor.bufferView, accessor.byteOffset, dtype, count, columns, what)
        elif count * columns > _MAX_NUMBERS:
            raise ValueError(f"{what}: expected a bufferView, got {count} rows without one")
        else:
            rows = np.zeros((count, columns), dtype)
        if (sparse := accessor.sparse) is not None:
            what = f"{what}: sparse"
            where, new = getattr(sparse, "indices", None), getattr(sparse, "values", None)
            if not (isinstance(where, gl.AccessorSparseIndices) and isinstance(new, gl.AccessorSparseValues)):
                raise ValueError(f"{what}: expected indices and values, got {sparse!r:.80}")
            if where.componentType not in (5121, 5123, 5125):
                raise ValueError(f"{what}: expected whole numbers for indices, got {where.componentType!r:.40}")
            n = _whole(sparse.count, f"{what}: count")
            kind = np.dtype(_DTYPES[where.componentType])
            at = self._rows(where.bufferView, where.byteOffset, kind, n, 1, what)[:, 0].astype(np.int64)
            if n and at.max() >= count:
                raise ValueError(f"{what}: indices must be below {count}, got {at.max()}")
            rows = rows.copy()
            rows[at] = self._rows(new.bufferView, new.byteOffset, dtype, n, columns, what)
        return rows, bool(accessor.normalized)

    def _floats(self, index: Any, types: Sequence[str], what: str) -> Float[np.ndarray, "n c"]:
        """Finite numbers ``[count, columns]``, float64."""
        rows, normalized = self._accessor(index, types, what)
        result = rows.astype(np.float64)
        if rows.dtype.kind in "iu" and normalized:
            result = np.maximum(result / np.iinfo(rows.dtype).max, -1.0)
        if not np.isfinite(result).all():
            raise ValueError(f"{what}: expected finite numbers, got NaN or infinity")
        return result

    # -- meshes --------------------------------------------------------------------------------------------------------

    def _shape(self, index: int, residual: np.ndarray | None, label: str) -> trimesh.Trimesh | None:
        """A mesh of the file, with ``residual`` in its vertices; the same object each time."""
        mesh = self._mesh(index, label)
        if residual is None or mesh is None:
            return mesh
        stretch = np.linalg.svd(residual, compute_uv=False)
        if stretch[2] <= 1e-9 * max(float(stretch[0]), 1e-3):
            raise ValueError(f"{label}: its scale flattens its mesh to nothing; give it a scale other than 0")
        key = (index, (np.round(residual / stretch[0], 9) + 0.0).tobytes() + struct.pack("<f", stretch[0]))
        if key not in self._baked:
            matrix = np.eye(4)
            matrix[:3, :3] = residual
            self._baked[key] = mesh.copy()
            self._baked[key].apply_transform(matrix)  # turns faces round where this mirrors
        return self._baked[key]

    def _mesh(self, index: int, label: str) -> trimesh.Trimesh | None:
        entry = _at(self._gltf.meshes, index, gl.Mesh, f"{label}: mesh")
        if index in self._meshes:
            return self._meshes[index]
        name = _clean(entry.name) or f"mesh-{index}"
        what = f"{label}: mesh {index}"
        parts, skipped, morphs = [], 0, False
        for k in range(len(entry.primitives or [])):
            primitive = _at(entry.primitives, k, gl.Primitive, f"{what}: primitive")
            morphs = morphs or bool(primitive.targets)
            if (mode := 4 if primitive.mode is None else primitive.mode) in (0, 1, 2, 3):
                skipped += 1
            elif mode not in (4, 5, 6):
                raise ValueError(f"{what}: primitive {k}: mode must be 0 to 6, got {mode!r}")
            elif part := self._part(primitive, mode, f"{what}: primitive {k}", name):
                parts.append(part)
                if (faces := sum(len(p.faces) for p in parts)) > MAX_FACES:
                    raise ValueError(f"{what}: expected at most {MAX_FACES:,} faces, got {faces:,}; simplify it")
        if skipped:
            self._note(f"mesh {name}", f"its {skipped} primitives of points or lines were left out")
        if morphs:
            self._note(f"mesh {name}", "its morph targets were left out; it keeps its base shape")
        if not parts:
            self._note(f"mesh {name}", "it has no triangles; its nodes are empty")
        self._meshes[index] = self._trimesh(parts, name, what) if parts else None
        return self._meshes[index]

    def _part(self, primitive: gl.Primitive, mode: int, what: str, name: str) -> _Part | None:
        attributes = vars(primitive.attributes) if isinstance(primitive.attributes, gl.Attributes) else {}
        if _extension(primitive, "KHR_draco_mesh_compression") is not None:
            raise ValueError(f"{what}: it is compressed with Draco; export it without compression")
        vertices = self._floats(attributes.get("POSITION"), ("VEC3",), f"{what}: POSITION")
        flat = np.arange(len(vertices))
        if primitive.indices is not None:
            rows, _ = self._accessor(primitive.indices, ("SCALAR",), f"{what}: indices")
            flat = rows[:, 0].astype(np.int64)
            if rows.dtype.kind != "u" or (len(flat) and flat.max() >= len(vertices)):
                raise ValueError(f"{what}: indices must be whole numbers below {len(vertices)}")
        if mode == gl.TRIANGLES:
            faces = flat[: len(flat) // 3 * 3].reshape(-1, 3)
        elif mode == gl.TRIANGLE_STRIP:
            faces = np.stack([flat[:-2], flat[1:-1], flat[2:]], -1)
            faces[1::2] = faces[1::2, [1, 0, 2]]
        else:
            faces = np.stack([np.broadcast_to(flat[:1], flat[2:].shape), flat[1:-1], flat[2:]], -1)
        if len(faces) == 0:
            return None
        used, faces = np.unique(faces, return_inverse=True)
        faces = faces.reshape(-1, 3)
        factor, image, uv_set, turn = self._material(primitive.material, what, name)
        uv = rgba = None
        if image is not None and (at := attributes.get(f"TEXCOORD_{uv_set}")) is not None:
            uv = self._floats(at, ("VEC2",), f"{what}: TEXCOORD_{uv_set}")
            uv = uv * turn[0] + turn[1]
        elif (at := attributes.get("COLOR_0")) is not None:
            colors = self._floats(at, ("VEC3", "VEC4"), f"{what}: COLOR_0")
            rgba = np.ones((len(colors), 4))
            rgba[:, : colors.shape[1]] = colors
            rgba *= 1.0 if factor is None else factor
        elif factor is not None:
            rgba = np.broadcast_to(factor, (len(vertices), 4))
        for each in (uv, rgba):
            if each is not None and len(each) != len(vertices):
                raise ValueError(f"{what}: expected a colour for each of {len(vertices)} vertices, got {len(each)}")
        if uv is not None and attributes.get("COLOR_0") is not None:
            self._note(f"mesh {name}", "its vertex colours were left out where it has a texture")
        return _Part(
            vertices[used],
            faces,
            None if rgba is None else rgba[used],
            None if uv is None else uv[used],
            None if uv is None else image,
            np.ones(4) if factor is None else factor,
        )

    def _material(
        self, index: int | None, what: str, name: str
    ) -> tuple[np.ndarray | None, int | None, int, tuple[np.ndarray, np.ndarray]]:
        """Base colour (RGBA), image, number of the texture coordinates, their scale and offset."""
        still = (np.ones(2), np.zeros(2))
        if index is None:
            return None, None, 0, still
        material = _at(self._gltf.materials, index, gl.Material, f"{what}: material")
        what = f"{what}: material {index}"
        gloss, metal = _extension(material, _GLOSS), material.pbrMetallicRoughness
        if gloss is not None:
            factor, texture = gloss.get("diffuseFactor"), gloss.get("diffuseTexture")
        else:
            factor, texture = (metal.baseColorFactor, metal.baseColorTexture) if metal else (None, None)
        rgba = np.clip(_numbers([1, 1, 1, 1] if factor is None else factor, 4, f"{what}: base colour"), 0, 1)
        if texture is None:
            return rgba, None, 0, still
        info = texture if isinstance(texture, dict) else getattr(texture, "__dict__", {})
        entry = _at(self._gltf.textures, info.get("index"), gl.Texture, f"{what}: texture")
        source = (_extension(entry, "EXT_texture_webp") or {}).get("source", entry.source)
        if source is None:
            self._note(f"mesh {name}", "a texture of a kind that is not read here was left out")
            return rgba, None, 0, still
        self._image(source, what)
        moved = info.get("extensions") or {}
        moved = moved.get("KHR_texture_transform") if isinstance(moved, dict) else None
        uv_set = info.get("texCoord")
        if isinstance(moved, dict):
            uv_set = moved.get("texCoord", uv_set)
            if moved.get("rotation"):
                self._note(f"mesh {name}", "the rotation of its texture was left out")
            still = (
                np.array(_numbers(moved.get("scale", [1, 1]), 2, f"{what}: texture scale")),
                np.array(_numbers(moved.get("offset", [0, 0]), 2, f"{what}: texture offset")),
            )
        return rgba, source, _whole(uv_set or 0, f"{what}: texCoord"), still

    def _image(self, index: int, what: str) -> bytes:
        """An image file, known to be readable."""
        image, what = _at(self._gltf.images, index, gl.Image, f"{what}: image"), f"{what}: image {index}"
        if index not in self._images:
            if image.bufferView is not None:
                data, start, size, _ = self._view(image.bufferView, what)
                data = data[start : start + size]
            else:
                data = self._uri(image.uri, what)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")).load()
            except _BROKEN as error:
                raise ValueError(f"{what}: cannot be read: {error or type(error).__name__}") from error
            self._images[index] = data
        return self._images[index]

    def _trimesh(self, parts: list[_Part], name: str, what: str) -> trimesh.Trimesh:
        """One mesh of all parts, made by trimesh from a glTF that holds nothing else."""
        small = _Small()
        painted = any(p.rgba is not None or p.image is not None for p in parts)
        looks = {None if p.image is None else (p.image, p.factor.tobytes()) for p in parts}
        joined = len(looks) > 1
        for part in parts:
            rgba = part.rgba
            if painted and rgba is None and part.image is None:
                rgba = np.full((len(part.vertices), 4), GREY)
            if joined and part.uv is not None:
                # The images are joined to one, in which a texture cannot repeat.
                shifted = part.uv - np.floor(part.uv.min(0) + _SAME)
                part = part._replace(uv=shifted)
                if shifted.max() > 1 + 1e-3:
                    self._note(
                        f"mesh {name}", "a texture that repeats beside other materials: its colours are not exact"
                    )
            image = None if part.image is None else self._image(part.image, what)
            small.add(part._replace(rgba=rgba), image)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loaded = trimesh.load(io.BytesIO(small.glb()), file_type="glb", process=False)
                pieces = [g for g in loaded.geometry.values() if isinstance(g, trimesh.Trimesh)]  # pyright: ignore[reportAttributeAccessIssue]
                for piece in pieces if joined else ():
                    _simplify(piece)
                mesh = pieces[0] if len(pieces) == 1 else trimesh.util.concatenate(pieces)
        except _BROKEN as error:
            raise ValueError(f"{what}: cannot be read: {type(error).__name__}: {error}") from error
        if not isinstance(mesh, trimesh.Trimesh) or len(mesh.faces) != sum(len(p.faces) for p in parts):
            raise ValueError(f"{what}: cannot be read: its triangles were lost")
        if painted and getattr(mesh.visual, "kind", None) is None:
            self._note(f"mesh {name}", "its colours could not be joined and were left out")
        return mesh


# -- curves ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Curve:
    """A property over time. Values are as in the file (rotations xyzw); tangents matter to CUBICSPLINE alone."""

    what: str
    kind: str
    times: Float[np.ndarray, "k"]
    values: Float[np.ndarray, "k c"]
    tangents_in: Float[np.ndarray, "k c"]
    tangents_out: Float[np.ndarray, "k c"]

    def line_times(self) -> Float[np.ndarray, "n"]:
        """Key times for a track that goes in lines from key to key."""
        start, gap = self.times[:-1], np.diff(self.times)
        if self.kind == "STEP":
            jump = (self.values[1:] != self.values[:-1]).any(1)
            return np.concatenate([self.times, (self.times[1:] - np.minimum(_JUMP, 0.5 * gap))[jump]])
        if self.kind == "CUBICSPLINE":
            if gap.sum() * _RATE > _MAX_KEYS:
                raise ValueError(
                    f"{self.what}: a curve of {gap.sum():g} s is too long to be resampled; bake it to LINEAR keys"
                )
            steps = [t + g * np.arange(n) / n for t, g in zip(start, gap, strict=True) if (n := math.ceil(g * _RATE))]
            return np.concatenate([*steps, self.times])
        return self.times

    def at(self, times: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n c"]:
        """The values at ``times`` (seconds); rotations have length 1."""
        i = np.clip(np.searchsorted(self.times, times, "right") - 1, 0, max(len(self.times) - 2, 0))
        j = np.minimum(i + 1, len(self.times) - 1)
        gap = np.where(j > i, self.times[j] - self.times[i], 1.0)
        u = np.clip((times - self.times[i]) / gap, 0, 1)[:, None]
        a, b = self.values[i], self.values[j]
        turning = self.values.shape[1] == 4
        if self.kind == "STEP":
            return np.where(times[:, None] >= self.times[j][:, None], b, a)
        if self.kind == "LINEAR":
            return _slerp(a, b, u) if turning else a + u * (b - a)
        gap = gap[:, None]
        result = (
            (2 * u**3 - 3 * u**2 + 1) * a
            + gap * (u**3 - 2 * u**2 + u) * self.tangents_out[i]
            + (3 * u**2 - 2 * u**3) * b
            + gap * (u**3 - u**2) * self.tangents_in[j]
        )
        if not turning:
            return result
        length = np.linalg.norm(result, axis=1, keepdims=True)
        if (length < 1e-12).any():
            raise ValueError(f"{self.what}: it passes through a quaternion of length 0; bake it to LINEAR keys")
        return result / length


def _slerp(a: np.ndarray, b: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Unit quaternions from ``a`` to ``b`` by the shorter arc, row by row."""
    dot = np.einsum("ni,ni->n", a, b)[:, None]
    angle = np.arccos(np.clip(np.abs(dot), 0, 1))
    flat = angle < 1e-6
    sine = np.where(flat, 1.0, np.sin(angle))
    result = np.where(flat, 1 - u, np.sin((1 - u) * angle) / sine) * a
    result = result + np.where(flat, u, np.sin(u * angle) / sine) * np.where(dot < 0, -b, b)
    return result / np.linalg.norm(result, axis=1, keepdims=True)


# -- a glTF with a single mesh -----------------------------------------------------------------------------------------


def _simplify(mesh: trimesh.Trimesh) -> None:
    """Make the look of a textured mesh a plain image: trimesh cannot join other materials with vertex colours."""
    visual = mesh.visual
    if isinstance(visual, TextureVisuals):
        texture, factor = (getattr(visual.material, name) for name in ("baseColorTexture", "baseColorFactor"))
        pixels = np.asarray(texture.convert("RGB"), np.float32) * (factor[:3] / 255)
        image = Image.fromarray(np.round(pixels).astype(np.uint8))
        mesh.visual = TextureVisuals(uv=visual.uv, material=SimpleMaterial(image=image))


class _Small:
    """A glTF of one mesh, to be read by trimesh."""

    def __init__(self) -> None:
        self._blob = bytearray()
        self._images: dict[int, int] = {}
        self._paints: dict[tuple[int, bytes], int] = {}
        self._gltf = gl.GLTF2(scene=0, scenes=[gl.Scene(nodes=[0])], nodes=[gl.Node(mesh=0)], meshes=[gl.Mesh()])

    def _view(self, data: bytes) -> int:
        self._gltf.bufferViews.append(gl.BufferView(buffer=0, byteOffset=len(self._blob), byteLength=len(data)))
        self._blob += data + bytes(-len(data) % 4)
        return len(self._gltf.bufferViews) - 1

    def _accessor(self, rows: np.ndarray, kind: str) -> int:
        code = {np.dtype(v): k for k, v in _DTYPES.items()}[rows.dtype]
        entry = gl.Accessor(
            bufferView=self._view(rows.tobytes()),
            componentType=code,
            count=len(rows),
            type=kind,
            normalized=rows.dtype == np.uint8,
        )
        self._gltf.accessors.append(entry)
        return len(self._gltf.accessors) - 1

    def add(self, part: _Part, image: bytes | None) -> None:
        gltf = self._gltf
        attributes = gl.Attributes(POSITION=self._accessor(part.vertices.astype("<f4"), "VEC3"))  # pyright: ignore[reportArgumentType]
        material = None
        if image is not None and part.uv is not None and part.image is not None:
            attributes.TEXCOORD_0 = self._accessor(part.uv.astype("<f4"), "VEC2")
            if part.image not in self._images:
                self._images[part.image] = len(gltf.images)
                gltf.images.append(gl.Image(bufferView=self._view(image)))  # pyright: ignore[reportArgumentType]
                gltf.textures.append(gl.Texture(source=self._images[part.image]))
            paint = (part.image, part.factor.tobytes())
            if paint not in self._paints:
                self._paints[paint] = len(gltf.materials)
                texture = gl.TextureInfo(index=self._images[part.image])
                look = gl.PbrMetallicRoughness(baseColorFactor=part.factor.tolist(), baseColorTexture=texture)
                gltf.materials.append(gl.Material(pbrMetallicRoughness=look))
            material = self._paints[paint]
        elif part.rgba is not None:
            rgba = np.round(np.clip(part.rgba, 0, 1) * 255).astype(np.uint8)
            attributes.COLOR_0 = self._accessor(rgba, "VEC4")  # pyright: ignore[reportAttributeAccessIssue]
        indices = self._accessor(part.faces.reshape(-1, 1).astype("<u4"), "SCALAR")
        gltf.meshes[0].primitives.append(gl.Primitive(attributes=attributes, indices=indices, material=material))

    def glb(self) -> bytes:
        self._gltf.buffers = [gl.Buffer(byteLength=len(self._blob))]
        self._gltf.set_binary_blob(bytes(self._blob))
        return b"".join(bytes(piece) for piece in self._gltf.save_to_bytes())


# -- the file --------------------------------------------------------------------------------------------------------


def _parse(path: Path) -> gl.GLTF2:
    if not path.is_file():
        raise ValueError(f"expected a .glb or .gltf, got {'a folder' if path.is_dir() else 'no such file'}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    if not data:
        raise ValueError("expected a .glb or .gltf, got an empty file")
    try:
        text, blob = _chunks(data) if data[:4] == b"glTF" else (data, None)
        content = json.loads(text.decode("utf-8-sig"))
        version = str(content["asset"]["version"])
        if not version.startswith("2."):
            raise ValueError(f"version {version:.20} of the format")
        # pygltflib takes half a millisecond for each of these; there may be a hundred thousand.
        nodes, accessors, views = (_list(content.pop(k, []), k) for k in ("nodes", "accessors", "bufferViews"))
        if len(nodes) > MAX_NODES:
            raise ValueError(f"at most {MAX_NODES:,} nodes are read, the file has {len(nodes):,}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gltf = gl.GLTF2.gltf_from_json(json.dumps(content))
            gltf.nodes = [_flat(gl.Node, entry) for entry in nodes]
            gltf.bufferViews = [_flat(gl.BufferView, entry) for entry in views]
            gltf.accessors = [
                gl.Accessor.from_dict(entry, infer_missing=True)  # pyright: ignore[reportAttributeAccessIssue]
                if "sparse" in entry
                else _flat(gl.Accessor, entry)
                for entry in accessors
            ]
    except _BROKEN as error:
        text = _one_line(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {_one_line(error)}"
        raise ValueError(f"expected glTF 2 (.glb or .gltf), reading it failed: {text}") from error
    gltf.set_binary_blob(blob)
    for name in ("animations", "buffers", "cameras", "images", "materials", "meshes", "scenes", "textures"):
        _list(getattr(gltf, name), name)
    return gltf


def _chunks(data: bytes) -> tuple[bytes, bytes | None]:
    """JSON and binary part of a ``.glb``."""
    _, version, size = struct.unpack_from("<4sII", data)
    if version != 2:
        raise ValueError(f"version {version} of the format")
    found: dict[bytes, bytes] = {}
    at = 12
    while at < size:
        length, kind = struct.unpack_from("<I4s", data, at)
        at += 8 + length
        if at > len(data):
            raise ValueError(f"it has {len(data)} of at least {at} bytes; the file is not whole")
        found.setdefault(kind, data[at - length : at])
    return found[b"JSON"], found.get(b"BIN\0")


def _flat(kind: type[_T], entry: dict[str, Any]) -> _T:
    """An object of pygltflib from its JSON, whose values are lists and plain ones."""
    known = kind.__dataclass_fields__  # pyright: ignore[reportAttributeAccessIssue]
    return kind(**{key: value for key, value in entry.items() if key in known})


def _one_line(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else text[:400] + "..."


# -- values of the wrong kind ------------------------------------------------------------------------------------------


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what}: expected a list, got {value!r:.40}")
    return value


def _at(items: Any, index: Any, kind: type[_T], what: str) -> _T:
    """Item number ``index``, which must be there and of the type ``kind``."""
    count = len(items) if isinstance(items, list) else 0
    if not _is_index(index) or index >= count:
        raise ValueError(f"{what}: expected an index below {count}, got {index!r:.40}")
    if not isinstance(items[index], kind):
        raise ValueError(f"{what} {index}: expected an object, got {items[index]!r:.40}")
    return items[index]


def _indices(value: Any, what: str) -> list[int]:
    for item in _list([] if value is None else value, what):
        if not _is_index(item):
            raise ValueError(f"{what}: expected indices, got {item!r:.40}")
    return value or []


def _texts(value: Any, what: str) -> list[str]:
    for item in _list([] if value is None else value, what):
        if not isinstance(item, str):
            raise ValueError(f"{what}: expected names, got {item!r:.40}")
    return value or []


def _whole(value: Any, what: str) -> int:
    if not _is_index(value):
        raise ValueError(f"{what}: expected a whole number of at least 0, got {value!r:.40}")
    return value


def _numbers(value: Any, count: int, what: str) -> list[float]:
    """``count`` finite numbers."""
    good = isinstance(value, list) and len(value) == count
    if not good or not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= _LARGE for v in value):
        raise ValueError(f"{what}: expected {count} finite number(s), got {value!r:.80}")
    return [float(v) for v in value]


def _extension(item: Any, name: str) -> dict[str, Any] | None:
    found = item.extensions.get(name) if isinstance(item.extensions, dict) else None
    return found if isinstance(found, dict) else None


def _clean(name: Any) -> str:
    """A name fit for a path of names, or nothing."""
    if not isinstance(name, str):
        return ""
    kept = "".join(c for c in name if unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp"))
    kept = kept.replace("/", "-").strip()
    return "" if kept in (".", "..") else kept


# -- rotations -------------------------------------------------------------------------------------------------------


def _as_vec(p: Any) -> Vec:
    x, y, z = (float(v) for v in p)
    return (x, y, z)


def _as_quat(q: Any) -> Quat:
    w, x, y, z = (float(v) for v in q)
    return (w, x, y, z)


def _matrix(q: Quat) -> Float[np.ndarray, "3 3"]:
    return np.array([rotate(q, e) for e in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))]).T


def _quat(rotation: Float[np.ndarray, "3 3"]) -> Quat:
    return unit_quat(trimesh.transformations.quaternion_from_matrix(rotation).tolist())


def _turns(quats: Float[np.ndarray, "k 4"]) -> bool:
    """Whether unit quaternions differ by more than the rounding of a file."""
    return len(quats) > 1 and bool((np.abs(quats @ quats[0]) < 1 - 1e-12).any())


def _polar(linear: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The rotation in a linear map: of its polar decomposition, or minus that where the map mirrors."""
    u, _, v = np.linalg.svd(linear)
    turn = u @ v
    return -turn if np.linalg.det(turn) < 0 else turn


def _uniform(linear: Float[np.ndarray, "3 3"]) -> float | None:
    """The factor above 0 that a map is; None where it is more than that."""
    size = float(linear[0, 0] + linear[1, 1] + linear[2, 2]) / 3
    return size if size > 1e-12 and np.abs(linear - size * _EYE).max() <= _SAME * size else None


def _conformal(linear: Float[np.ndarray, "3 3"]) -> float | None:
    """The factor by which a map scales all lengths alike; None where it doesn't."""
    squares = linear.T @ linear
    square = float(np.trace(squares)) / 3
    return math.sqrt(square) if square > 1e-24 and np.abs(squares - square * _EYE).max() <= _SAME * square else None


def _straightened(residual: np.ndarray | None) -> Quat:
    """The rotation that keeps where -z points under ``residual``, and up (y) as nearly as it can."""
    if residual is None:
        return (1.0, 0.0, 0.0, 0.0)
    back = residual[:, 2]
    right = np.cross(residual[:, 1], back)
    if min(np.linalg.norm(back), np.linalg.norm(right)) < 1e-12:
        return (1.0, 0.0, 0.0, 0.0)
    back, right = back / np.linalg.norm(back), right / np.linalg.norm(right)
    return _quat(np.stack([right, np.cross(back, right), back], -1))


def _size_text(linear: Float[np.ndarray, "3 3"]) -> str:
    size = np.linalg.norm(linear, axis=0)
    if np.count_nonzero(linear - np.diag(np.diag(linear))) == 0:
        size = np.diag(linear)
    elif np.linalg.det(linear) < 0:
        size = -size
    return "(" + ", ".join(f"{s:.4g}" for s in size) + ")"
