"""Scenes as glTF 2 (``.glb``): a node for each node, y up, one animation for all tracks. `scenes.io.glb` reads it back.

What doesn't stand in a node's frame as glTF wants it (a camera that looks along -z, y up; a light that shines along -z or
stands in the origin) gets a child of its own, marked in its ``extras``; the reader puts it back. Tags and ambient light go into
``extras``, too.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from objects.gltf_file import OWN
from rendering.atomic import replacing
from rendering.camera import Camera
from rendering.lights import AmbientLight, DirectionalLight, PointLight, linear_from_srgb
from scenes.io.asset_mesh import AssetMesh
from scenes.io.axes import camera_pose, toward
from scenes.io.export import Content, Part
from scenes.presence import Span, ends_of
from scenes.track import Sim3, quat_multiply, rotate, unit_quat

_HALF = math.sqrt(0.5)
_Y_UP = Sim3((_HALF, -_HALF, 0.0, 0.0))  # (x, y, z) -> (x, z, -y)
_NEAR = 0.01  # metres, of cameras
_SAME = 1e-9
_PRECISE = 1e-3  # seconds: what times may be rounded by
_FLOAT, _SHORT, _INT = 5126, 5123, 5125
_KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}


def write_glb(content: Content, target: Path) -> None:
    """Writes a file; what it can't hold is noted in ``content``.

    Raises:
        ValueError: It cannot be written.
    """
    text, blob = _Writer(content).file()
    chunks = b"".join(
        struct.pack("<I4s", len(data), kind) + data
        for kind, data in ((b"JSON", _padded(text, b" ")), (b"BIN\0", _padded(blob, b"\0")))
        if data
    )
    with replacing(target) as part:
        part.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)


def _padded(data: bytes, by: bytes) -> bytes:
    return data + by * (-len(data) % 4)


class _Writer:
    def __init__(self, content: Content) -> None:
        self.content = content
        self.blob = bytearray()
        self.gltf: dict[str, Any] = {"asset": {"version": "2.0", "generator": "sirenscape"}, "scene": 0}
        for key in ("nodes", "meshes", "materials", "accessors", "bufferViews", "cameras"):
            self.gltf[key] = []
        self.lights: list[dict[str, Any]] = []
        self.extensions: dict[str, None] = {}
        self._known: dict[tuple[Any, ...], int] = {}  # accessors, materials and meshes, by what they are
        self._ambient: list[str] = []
        self._skewed: list[str] = []

    def file(self) -> tuple[bytes, bytes]:
        gltf, parts = self.gltf, self.content.parts
        for part in parts:
            gltf["nodes"].append(self._node(part))
        children: dict[int, list[int]] = {}
        for i, part in enumerate(parts):
            children.setdefault(part.parent, []).append(i)
        for i, those in children.items():
            if i >= 0:
                gltf["nodes"][i]["children"] = those
        gltf["scenes"] = [{"nodes": children[-1]}]
        for i, part in enumerate(parts):
            self._add_light(i, part)
            self._add_camera(i, part)
        self._animate()
        if self.lights:
            self.extensions["KHR_lights_punctual"] = None
            gltf["extensions"] = {"KHR_lights_punctual": {"lights": self.lights}}
        if self.extensions:
            gltf["extensionsUsed"] = list(self.extensions)
        if self.blob:
            gltf["buffers"] = [{"byteLength": len(self.blob)}]
        if self._ambient:
            self.content.notes.append(
                f"ambient light has no place in glTF, only build reads it back: {', '.join(self._ambient)}"
            )
        if self._skewed:
            text = "glTF cameras look through the middle of square pixels; those that don't were straightened"
            self.content.notes.append(f"{text}: {', '.join(self._skewed)}")
        kept = {key: value for key, value in gltf.items() if value or value == 0}
        return json.dumps(kept, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode(), bytes(self.blob)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def _node(self, part: Part) -> dict[str, Any]:
        pose = self.content.pose(part)
        entry = _placed(part.name, _Y_UP @ pose if part.parent < 0 else pose)
        if part.mesh >= 0:
            entry["mesh"] = self._mesh(part.mesh, part.node.lit, part.name)
        if part.node.tags:
            entry["extras"] = {"tags": list(part.node.tags)}
        return entry

    def _beside(self, i: int, name: str, pose: Sim3) -> dict[str, Any]:
        """The node ``i`` where ``pose`` is none, else a new child that stands there."""
        nodes = self.gltf["nodes"]
        turned = math.hypot(*pose.quat[1:])
        if max(turned, math.hypot(*pose.trans)) < _SAME:
            return nodes[i]
        entry = _placed(f"{nodes[i]['name']}-{name}", pose)
        entry["extras"] = {OWN: {"part": name}}
        nodes[i].setdefault("children", []).append(len(nodes))
        nodes.append(entry)
        return entry

    def _add_light(self, i: int, part: Part) -> None:
        light = part.node.light
        if light is None:
            return
        if isinstance(light, AmbientLight):
            kept = {"color": light.color, "intensity": light.intensity, "ground_color": light.ground_color}
            self.gltf["nodes"][i].setdefault("extras", {})[OWN] = {"ambient": kept}
            self._ambient.append(part.path)
            return
        if not isinstance(light, DirectionalLight | PointLight):
            raise ValueError(f"{part.path}: expected a directional or point light, got {type(light).__name__}")
        kind = "point" if isinstance(light, PointLight) else "directional"
        pose = Sim3(trans=light.position) if isinstance(light, PointLight) else Sim3(toward(light.direction))
        color = linear_from_srgb(torch.tensor(light.color, dtype=torch.float64)).tolist()
        # A surface of albedo a shows a*E/pi in glTF and a*E here.
        self.lights.append({"type": kind, "color": color, "intensity": light.intensity * math.pi, "name": part.name})
        self._beside(i, "light", pose)["extensions"] = {"KHR_lights_punctual": {"light": len(self.lights) - 1}}

    def _add_camera(self, i: int, part: Part) -> None:
        camera = part.node.camera
        if camera is None:
            return
        self._beside(i, "camera", camera_pose(camera))["camera"] = len(self.gltf["cameras"])
        if max(abs(camera.cx - 0.5 * camera.width), abs(camera.cy - 0.5 * camera.height)) > _SAME:
            self._skewed.append(part.path)
        self.gltf["cameras"].append(_camera(camera, part.name))

    # -- meshes --------------------------------------------------------------------------------------------------------

    def _mesh(self, number: int, lit: bool, name: str) -> int:
        """A mesh of the file; what is lit and what isn't share all but the material."""
        key = ("mesh", number, lit)
        if key not in self._known:
            mesh, meshes = self.content.meshes[number], self.gltf["meshes"]
            attributes = {
                "POSITION": self._accessor(mesh.vertices[mesh.of], bounds=True),
                "NORMAL": self._accessor(mesh.normals),
                "COLOR_0": self._accessor(_linear_colors(mesh), normalized=True),
            }
            few = len(mesh.of) < 65535
            indices = self._accessor(mesh.corners.ravel().astype(np.uint16 if few else np.uint32), target=34963)
            primitive = {"attributes": attributes, "indices": indices, "material": self._material(lit)}
            self._known[key] = len(meshes)
            meshes.append({"name": name, "primitives": [primitive]})
            if (bending := self.content.bendings[number]) is not None:
                primitive["targets"] = [
                    {
                        "POSITION": self._accessor((p - mesh.vertices)[mesh.of], bounds=True),
                        "NORMAL": self._accessor(n - mesh.normals),
                    }
                    for p, n in zip(bending.vertices, bending.normals, strict=True)
                ]
                meshes[-1]["weights"] = [0.0] * len(bending.times)
        return self._known[key]

    def _material(self, lit: bool) -> int:
        if ("material", lit) not in self._known:
            entry: dict[str, Any] = {
                "name": "lit" if lit else "unlit",
                "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
            }
            if not lit:
                entry["extensions"] = {"KHR_materials_unlit": {}}
                self.extensions["KHR_materials_unlit"] = None
            self._known["material", lit] = len(self.gltf["materials"])
            self.gltf["materials"].append(entry)
        return self._known["material", lit]

    def _accessor(
        self, rows: np.ndarray, *, target: int | None = 34962, bounds: bool = False, normalized: bool = False
    ) -> int:
        """Numbers ``[n]`` or ``[n, c]``; equal ones are kept once."""
        data = np.ascontiguousarray(rows).tobytes()
        key = (hashlib.sha256(data).digest(), rows.shape, rows.dtype.str, target)
        if key in self._known:
            return self._known[key]
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(self.blob), "byteLength": len(data)}
        if target is not None:
            view["target"] = target
        entry: dict[str, Any] = {
            "bufferView": len(self.gltf["bufferViews"]),
            "componentType": {"f4": _FLOAT, "u2": _SHORT, "u4": _INT}[rows.dtype.str[1:]],
            "count": len(rows),
            "type": _KINDS[1 if rows.ndim == 1 else rows.shape[1]],
        }
        if normalized:
            entry["normalized"] = True
        if bounds:
            entry["min"], entry["max"] = (np.atleast_1d(f(rows, axis=0)).tolist() for f in (np.min, np.max))
        self.blob += _padded(data, b"\0")
        self.gltf["bufferViews"].append(view)
        self.gltf["accessors"].append(entry)
        self._known[key] = len(self.gltf["accessors"]) - 1
        return self._known[key]

    # -- motion --------------------------------------------------------------------------------------------------------

    def _animate(self) -> None:
        content = self.content
        moving = [(i, part, content.motion(part)) for i, part in enumerate(content.parts) if part.node.moves]
        content.note_motions([(part, motion) for _, part, motion in moving])
        moving = [one for one in moving if one[2].moves]
        bending = [(i, content.bendings[part.mesh]) for i, part in enumerate(content.parts) if part.mesh >= 0]
        limits = [time for part in content.parts for time in ends_of(part.node.spans)]
        every = [m.times for _, _, m in moving] + [b.times for _, b in bending if b is not None]
        firsts = [float(times[0]) for times in every] + limits
        if not firsts:
            return
        last = max([float(times[-1]) for times in every] + limits)
        start = min(0.0, *firsts)
        clip: dict[str, Any] = {"name": "scene", "channels": [], "samplers": []}
        if start < 0:  # no glTF begins before 0
            content.notes.append(f"times in the file are {-start:g} s later: those of glTF begin at 0")
        elif np.spacing(np.float32(last)) > _PRECISE and min(firsts) > 0:
            start = min(firsts)
            content.notes.append(f"times in the file are {start:g} s earlier: those of glTF are short numbers")
        if (step := float(np.spacing(np.float32(last - start)))) > _PRECISE:
            content.notes.append(f"times in the file are rounded to {step:.2g} s: those of glTF are short numbers")
        if start != 0:
            clip["extras"] = {OWN: {"start": start}}
        growing = []
        for i, part, motion in moving:
            times, rows = _key_times(motion.times - start)
            quats, trans = motion.quats[rows], motion.translations[rows]
            if part.parent < 0:
                quats = np.stack(quat_multiply(_Y_UP.quat, tuple(quats.T)), -1)  # pyright: ignore[reportArgumentType]
                trans = np.stack(rotate(_Y_UP.quat, tuple(trans.T)), -1)  # pyright: ignore[reportArgumentType]
            values = {"translation": trans, "rotation": quats[:, [1, 2, 3, 0]]}
            if np.ptp(motion.scales) > _SAME * motion.scales[0]:
                values["scale"] = np.repeat(motion.scales[rows, None], 3, 1)
                growing.append(part.path)
            for name in [name for name, v in values.items() if np.ptp(v, 0).max() > 0] or ["translation"]:
                self._channel(
                    clip, i, name, times, values[name], "STEP" if motion.interpolation == "step" else "LINEAR"
                )
        for i, shown in bending:
            if shown is not None:  # each key is a target, shown whole at its time
                times, rows = _key_times(shown.times - start)
                self._channel(clip, i, "weights", times, np.eye(len(shown.times))[rows].ravel(), "LINEAR")
        for i, part in enumerate(content.parts):
            if part.node.spans and part.path in growing:
                content.notes.append(f"{part.path}: it is shown at all times, as its size changes, too")
            elif part.node.spans:
                times, rows = _key_times(np.array([t for t, _ in _steps(part.node.spans)]) - start)
                sizes = content.pose(part).scale * np.array([on for _, on in _steps(part.node.spans)], float)[rows]
                self._channel(clip, i, "scale", times, np.repeat(sizes[:, None], 3, 1), "STEP")
        if growing:
            content.notes.append(f"carriers of other sizes became animated scale: {', '.join(growing)}")
        self.gltf["animations"] = [clip]

    def _channel(
        self, clip: dict[str, Any], node: int, path: str, times: np.ndarray, values: np.ndarray, interpolation: str
    ) -> None:
        clip["channels"].append({"sampler": len(clip["samplers"]), "target": {"node": node, "path": path}})
        clip["samplers"].append(
            {
                "input": self._accessor(times, target=None, bounds=True),
                "output": self._accessor(values.astype(np.float32), target=None),
                "interpolation": interpolation,
            }
        )


def _steps(spans: Sequence[Span]) -> list[tuple[float, bool]]:
    """Times at which what is there in ``spans`` comes and goes, after what was before; two keys at the first."""
    ends = [(time, here) for span in spans for time, here in zip(span, (True, False), strict=True)]
    finite = [one for one in ends if math.isfinite(one[0])]
    return [(finite[0][0], not finite[0][1]), *finite]


def _key_times(times: Float[np.ndarray, "k"]) -> tuple[np.ndarray, np.ndarray]:
    """Key times as float32 that increase, and which keys are kept: before a jump the next smaller number."""
    found = times.astype(np.float32)
    jumps = np.flatnonzero(np.diff(times) == 0)
    found[jumps] = np.nextafter(found[jumps], np.float32(-np.inf))
    found = np.maximum(found, 0)
    rows = [len(found) - 1]
    for k in range(len(found) - 2, -1, -1):
        if found[k] < found[rows[-1]]:
            rows.append(k)
    kept = np.array(rows[::-1])
    return found[kept], kept


def _placed(name: str, pose: Sim3) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name}
    if pose.trans != (0.0, 0.0, 0.0):
        entry["translation"] = list(pose.trans)
    if pose.quat != (1.0, 0.0, 0.0, 0.0):
        w, x, y, z = unit_quat(pose.quat)
        entry["rotation"] = [x, y, z, w]
    if pose.scale != 1.0:
        entry["scale"] = [pose.scale] * 3
    return entry


def _camera(camera: Camera, name: str) -> dict[str, Any]:
    fov = 2 * math.atan(0.5 * camera.height / camera.fy)
    aspect = camera.width * camera.fy / (camera.height * camera.fx)
    lens = {key: getattr(camera, key) for key in ("fx", "fy", "cx", "cy", "width", "height")}
    perspective = {"yfov": fov, "aspectRatio": aspect, "znear": _NEAR}
    return {"name": name, "type": "perspective", "perspective": perspective, "extras": {OWN: lens}}


def _linear_colors(mesh: AssetMesh) -> np.ndarray:
    linear = linear_from_srgb(torch.from_numpy(mesh.rgb.astype(np.float64))).clamp(0, 1).numpy()
    colors = np.full((len(linear), 4), 65535, np.uint16)
    colors[:, :3] = np.rint(65535 * linear)
    return colors
