"""A glTF file (``.glb``, ``.gltf``) opened: its objects (pygltflib's), bytes, numbers and curves, checks of its values."""

from __future__ import annotations

import base64
import json
import math
import re
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
import pygltflib as gl
from jaxtyping import Float

from objects.mesh_parts import decoded

LIGHTS = "KHR_lights_punctual"
OWN = "sirenscape"  # key of ``extras`` under which exported files hold what glTF has no place for
DTYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}  # by componentType
SAME = 1e-6  # numbers of a file (float32) this close are equal
MAX_KEYS = 100_000  # of a resampled animation
RATE = 30.0  # keys a second where a curve is resampled
LARGE = 1e30  # numbers beyond it count as infinite
# What pygltflib and trimesh raise on files that they cannot read (JSON and base64 errors are ValueErrors).
BROKEN = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, NotImplementedError, OverflowError,
    RecursionError, SyntaxError, EOFError, OSError, struct.error, zlib.error,
)  # fmt: skip

_T = TypeVar("_T")
_COMPRESSED = {
    "KHR_draco_mesh_compression": "Draco", "EXT_meshopt_compression": "meshopt", "KHR_meshopt_compression": "meshopt",
}  # fmt: skip
# Read, or told where they are used (`objects.gltf_look`); a file that cannot do without one of these is read all the same.
_KNOWN = {
    LIGHTS, "KHR_mesh_quantization", "KHR_texture_transform", "EXT_texture_webp", "EXT_mesh_gpu_instancing",
    "KHR_texture_basisu", "EXT_texture_avif", "MSFT_texture_dds", "KHR_materials_variants", *_COMPRESSED,
    *(f"KHR_materials_{name}" for name in (
        "unlit", "pbrSpecularGlossiness", "emissive_strength", "transmission", "volume", "diffuse_transmission", "clearcoat",
        "sheen", "ior", "specular", "iridescence", "anisotropy", "dispersion", "volume_scatter",
    )),
}  # fmt: skip
_HARMLESS = {"KHR_xmp_json_ld", "KHR_xmp"}  # say nothing of how things look
_COLUMNS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_JUMP = 1e-4  # seconds before a step at which a track of lines holds the old value once more
_MAX_NUMBERS = 100_000_000  # in an accessor that no bytes back


class GltfFile:
    """One file while it is read, its bytes as they are asked for. Errors do not name the file.

    Attributes:
        gltf: Its objects, whose values nobody has checked.
        weights: Weights of morph targets by node, which pygltflib drops.
        notes: One line for each thing that was taken otherwise than the file says; in order, without repeats.

    Raises:
        ValueError: No such file, not glTF 2, truncated, more than ``max_nodes`` nodes, or an extension that it cannot
            do without and that is not read.
    """

    def __init__(self, path: Path, max_nodes: int) -> None:
        self.gltf, self.weights, used = _parse(path, max_nodes)
        self.notes: dict[str, None] = {}
        self._folder = path.parent
        self._buffers: dict[int, bytes] = {}
        needed = self._names("extensionsRequired")
        for name in [*needed, *self._names("extensionsUsed"), *used]:
            if name in needed and name in _COMPRESSED:
                raise ValueError(f"it is compressed with {_COMPRESSED[name]}; export it without compression")
            if name in _KNOWN or name in _HARMLESS:
                continue
            if name in needed:
                raise ValueError(
                    f"needs the extension {clean(name)}, which is not read here; export the file without it"
                )
            self.note("file", f"the extension {clean(name)} was left out")

    def _names(self, key: str) -> list[str]:
        for name in (names := _list(getattr(self.gltf, key) or [], key)):
            if not isinstance(name, str):
                raise ValueError(f"{key}: expected names, got {name!r:.40}")
        return names

    def note(self, where: str, text: str) -> None:
        """Tells of something that was taken otherwise than the file says."""
        self.notes[f"{where}: {text}"] = None

    def _buffer(self, index: int) -> bytes:
        buffer = pick(self.gltf.buffers, index, gl.Buffer, "buffer")
        if index not in self._buffers:
            try:
                data = (
                    self.gltf.binary_blob()
                    if buffer.uri is None and index == 0
                    else self.from_uri(buffer.uri, "buffer")
                )
            except FileNotFoundError as error:
                raise ValueError(str(error)) from error
            if data is None:
                raise ValueError("buffer 0: expected bytes, got none; is the file whole?")
            size = whole(buffer.byteLength, f"buffer {index}: byteLength")
            if len(data) < size:
                raise ValueError(f"buffer {index}: expected {size} bytes, got {len(data)}; is the file whole?")
            self._buffers[index] = data
        return self._buffers[index]

    def from_uri(self, uri: Any, what: str) -> bytes:
        """The bytes that a URI stands for: in the text itself, or in a file in the folder of this one or below.

        Raises:
            ValueError: It stands for none that may be read.
            FileNotFoundError: There is no such file.
        """
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
            raise FileNotFoundError(f"{what}: no file {uri[:80]!r} beside it; copy it there")
        try:
            return file.read_bytes()
        except OSError as error:
            raise ValueError(f"{what}: {uri[:80]!r} cannot be read: {error.strerror}") from error

    def view(self, index: int, what: str) -> tuple[memoryview, int]:
        """The bytes of a buffer view, and how many lie from row to row (0: not said)."""
        view = pick(self.gltf.bufferViews, index, gl.BufferView, f"{what}: bufferView")
        if any(extension(view, name) for name, kind in _COMPRESSED.items() if kind == "meshopt"):
            raise ValueError(f"{what}: it is compressed with meshopt; export it without compression")
        what = f"{what}: bufferView {index}"
        data = self._buffer(view.buffer)  # pyright: ignore[reportArgumentType]  (checked there)
        start = whole(view.byteOffset or 0, f"{what}: byteOffset")
        end = start + whole(view.byteLength, f"{what}: byteLength")
        if end > len(data):
            raise ValueError(f"{what}: expected at most {len(data)} bytes, got bytes {start} to {end}")
        return memoryview(data)[start:end], whole(view.byteStride or 0, f"{what}: byteStride")

    def _rows(self, view: int, offset: Any, dtype: np.dtype, count: int, columns: int, what: str) -> np.ndarray:
        """``[count, columns]`` numbers of a buffer view."""
        data, stride = self.view(view, what)
        offset, row = whole(offset or 0, f"{what}: byteOffset"), dtype.itemsize * columns
        stride = stride or row
        if count == 0:
            return np.zeros((0, columns), dtype)
        if stride < row or offset + (count - 1) * stride + row > len(data):
            text = f"{count} rows of {row} bytes every {stride} from byte {offset}"
            raise ValueError(f"{what}: {text} do not fit into {len(data)} bytes")
        return np.ndarray((count, columns), dtype, data, offset, (stride, dtype.itemsize))

    def stored(self, index: Any, types: Sequence[str], what: str) -> np.ndarray:
        """Numbers ``[count, columns]`` of an accessor as they are stored, after a check that it is one of ``types``."""
        accessor = pick(self.gltf.accessors, index, gl.Accessor, f"{what}: accessor")
        what = f"{what}: accessor {index}"
        if accessor.type not in types or accessor.componentType not in list(DTYPES):
            text = f"expected {' or '.join(types)} of a glTF component type"
            raise ValueError(f"{what}: {text}, got {accessor.type!r} of {accessor.componentType!r}")
        dtype, columns = np.dtype(DTYPES[accessor.componentType]), _COLUMNS[accessor.type]
        count = whole(accessor.count, f"{what}: count")
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
            n = whole(sparse.count, f"{what}: count")
            kind = np.dtype(DTYPES[where.componentType])
            places = self._rows(where.bufferView, where.byteOffset, kind, n, 1, what)[:, 0].astype(np.int64)
            if n and places.max() >= count:
                raise ValueError(f"{what}: indices must be below {count}, got {places.max()}")
            rows = rows.copy()
            rows[places] = self._rows(new.bufferView, new.byteOffset, dtype, n, columns, what)
        return rows

    def floats(self, index: Any, types: Sequence[str], what: str, shares: bool = False) -> Float[np.ndarray, "n c"]:
        """Finite numbers ``[count, columns]`` of an accessor; normalized ones, and all integers where they can only be
        ``shares``, as the fractions that they stand for.
        """
        rows = self.stored(index, types, what)
        result = rows.astype(np.float64)
        if rows.dtype.kind in "iu" and (shares or self.gltf.accessors[index].normalized):
            result = np.maximum(result / np.iinfo(rows.dtype).max, -1.0)
        if not np.isfinite(result).all():
            raise ValueError(f"{what}: expected finite numbers, got NaN or infinity")
        return result


# -- parsing -----------------------------------------------------------------------------------------------------------


def _parse(path: Path, max_nodes: int) -> tuple[gl.GLTF2, dict[int, Any], list[str]]:
    """The objects of a file, the weights of its nodes, and the names of the extensions that objects of any kind use."""
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
        content = json.loads(decoded(text))
        version = str(content["asset"]["version"])
        if not version.startswith("2."):
            raise ValueError(f"version {version:.20} of the format")
        used = _extensions(content)
        # pygltflib takes half a millisecond for each of these; there may be a hundred thousand.
        nodes, accessors, views = (_list(content.pop(k, []), k) for k in ("nodes", "accessors", "bufferViews"))
        if len(nodes) > max_nodes:
            raise ValueError(f"at most {max_nodes:,} nodes are read, the file has {len(nodes):,}")
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
    except BROKEN as error:
        text = "its structure is another one"
        if isinstance(error, ValueError | KeyError):
            text = f"it has no {error.args[0]!r:.40}" if isinstance(error, KeyError) else one_line(error)
        raise ValueError(f"expected glTF 2 (.glb or .gltf), reading it failed: {text}") from error
    gltf.set_binary_blob(blob)
    for name in ("animations", "buffers", "cameras", "images", "materials", "meshes", "scenes", "textures"):
        _list(getattr(gltf, name), name)
    return gltf, {i: node["weights"] for i, node in enumerate(nodes) if "weights" in node}, used


def _extensions(content: Any) -> list[str]:
    """The names of all extensions in a file, at any level."""
    found: dict[str, None] = {}
    todo = [content]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            if isinstance(item.get("extensions"), dict):
                found |= dict.fromkeys(item["extensions"])
            todo += [value for key, value in item.items() if key != "extras"]
        elif isinstance(item, list) and item and isinstance(item[0], dict | list):
            todo += item
    return sorted(found)


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
    return found[b"JSON"].rstrip(b"\0"), found.get(b"BIN\0")  # some pad with zero bytes


def _flat(kind: type[_T], entry: dict[str, Any]) -> _T:
    """An object of pygltflib from its JSON, whose values are lists and plain ones."""
    known = kind.__dataclass_fields__  # pyright: ignore[reportAttributeAccessIssue]
    return kind(**{key: value for key, value in entry.items() if key in known})


def one_line(error: object) -> str:
    """The text of an error in one line that is not too long."""
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else text[:400] + "..."


# -- values of the wrong kind ------------------------------------------------------------------------------------------


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what}: expected a list, got {value!r:.40}")
    return value


def pick(items: Any, index: Any, kind: type[_T], what: str) -> _T:
    """Item number ``index``, after a check that it is there and of the type ``kind``."""
    count = len(items) if isinstance(items, list) else 0
    if not _is_index(index) or index >= count:
        raise ValueError(f"{what}: expected an index below {count}, got {index!r:.40}")
    if not isinstance(items[index], kind):
        raise ValueError(f"{what} {index}: expected an object, got {items[index]!r:.40}")
    return items[index]


def indices(value: Any, what: str) -> list[int]:
    """A list of indices; None is an empty one."""
    for item in _list([] if value is None else value, what):
        if not _is_index(item):
            raise ValueError(f"{what}: expected indices, got {item!r:.40}")
    return value or []


def whole(value: Any, what: str) -> int:
    """A count, or an offset in bytes."""
    if not _is_index(value):
        raise ValueError(f"{what}: expected a whole number of at least 0, got {value!r:.40}")
    return value


def numbers(value: Any, count: int, what: str) -> list[float]:
    """``count`` finite numbers."""
    good = isinstance(value, list) and len(value) == count
    if not good or not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= LARGE for v in value):
        raise ValueError(f"{what}: expected {count} finite number(s), got {value!r:.80}")
    return [float(v) for v in value]


def extension(item: Any, name: str) -> dict[str, Any] | None:
    """What an extension says of an object of the file, if it says anything."""
    found = item.extensions.get(name) if isinstance(item.extensions, dict) else None
    return found if isinstance(found, dict) else None


def own_extras(item: Any) -> dict[str, Any]:
    """What an exported file says of an object in ``extras``."""
    extras = getattr(item, "extras", None)
    found = extras.get(OWN) if isinstance(extras, dict) else None
    return found if isinstance(found, dict) else {}


def fields_of(item: Any) -> dict[str, Any]:
    """An object of pygltflib, or what it left as JSON, as a dict."""
    return item if isinstance(item, dict) else getattr(item, "__dict__", {})


def clean(name: Any) -> str:
    """A name fit for a path of names, or nothing."""
    if not isinstance(name, str):
        return ""
    kept = "".join(c for c in name if unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp")).replace("/", "-").strip()
    return "" if kept in (".", "..") else kept


# -- animation samplers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Curve:
    """A property over time. Values are as in the file (rotations xyzw); tangents matter to CUBICSPLINE alone."""

    what: str
    kind: str
    times: Float[np.ndarray, "k"]
    values: Float[np.ndarray, "k c"]
    tangents_in: Float[np.ndarray, "k c"]
    tangents_out: Float[np.ndarray, "k c"]

    @staticmethod
    def read(file: GltfFile, animation: gl.Animation, index: int, columns: int, what: str) -> Curve:
        """Sampler ``index`` of an animation, of values of 3 or 4 (rotations) columns."""
        sampler = pick(animation.samplers, index, gl.AnimationSampler, f"{what}: sampler")
        kind = sampler.interpolation or "LINEAR"
        if kind not in ("LINEAR", "STEP", "CUBICSPLINE"):
            raise ValueError(f"{what}: expected LINEAR, STEP or CUBICSPLINE, got {kind!r}")
        times = key_times(file, animation, sampler, what)
        values = file.floats(sampler.output, (f"VEC{columns}",), f"{what}: values")
        if len(early := np.flatnonzero(np.diff(times) <= 0)):
            before, after = times[early[0] : early[0] + 2]
            raise ValueError(f"{what}: times must increase, got {before:g} followed by {after:g}")
        each = 3 if kind == "CUBICSPLINE" else 1
        if len(times) == 0 or len(values) != each * len(times):
            text = f"expected {each} value(s) for each of at least 1 key"
            raise ValueError(f"{what}: {text}, got {len(values)} for {len(times)}")
        before, values, after = (values[k::each] for k in (0, each // 2, each - 1))
        if columns == 4:
            lengths = np.linalg.norm(values, axis=1, keepdims=True)
            if (lengths < 1e-12).any():
                raise ValueError(f"{what}: a quaternion has length 0; bake the animation anew")
            values = values / lengths if each == 1 else values
        return Curve(what, kind, times, values, before, after)

    def line_times(self) -> Float[np.ndarray, "n"]:
        """Key times for a track that goes in lines from key to key."""
        start, gap = self.times[:-1], np.diff(self.times)
        if self.kind == "STEP":
            jump = (self.values[1:] != self.values[:-1]).any(1)
            return np.concatenate([self.times, (self.times[1:] - np.minimum(_JUMP, 0.5 * gap))[jump]])
        if self.kind == "CUBICSPLINE":
            if (span := gap.sum()) * RATE > MAX_KEYS:
                raise ValueError(
                    f"{self.what}: a curve of {span:g} s is too long to be resampled; bake it to LINEAR keys"
                )
            steps = [t + g * np.arange(n) / n for t, g in zip(start, gap, strict=True) if (n := math.ceil(g * RATE))]
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


def key_times(file: GltfFile, animation: gl.Animation, sampler: gl.AnimationSampler, what: str) -> np.ndarray:
    """Seconds of the keys of a sampler ``[k]``; no glTF begins before 0, so an export says when that is."""
    (start,) = numbers([own_extras(animation).get("start", 0.0)], 1, "animation: extras: start")
    return file.floats(sampler.input, ("SCALAR",), f"{what}: times")[:, 0] + start


def _slerp(a: np.ndarray, b: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Unit quaternions from ``a`` to ``b`` by the shorter arc, row by row."""
    dot = np.einsum("ni,ni->n", a, b)[:, None]
    angle = np.arccos(np.clip(np.abs(dot), 0, 1))
    flat = angle < 1e-6
    sine = np.where(flat, 1.0, np.sin(angle))
    result = np.where(flat, 1 - u, np.sin((1 - u) * angle) / sine) * a
    result = result + np.where(flat, u, np.sin(u * angle) / sine) * np.where(dot < 0, -b, b)
    return result / np.linalg.norm(result, axis=1, keepdims=True)
