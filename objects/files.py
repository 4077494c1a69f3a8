"""Field files: one safetensors file holds the weights and, in its header, a JSON tree that says what they make.

The layout is that of https://github.com/huggingface/safetensors (8 bytes of header length, a JSON header, the numbers,
little-endian), so that other tools can read it. It is written and read here, because equal fields must give equal bytes
(the file's hash is the field's name in a scene) and because a hostile file has to be refused before anything as large as
it claims to be is allocated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import reprlib
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from objects.field import FEATURE, TINT, TINT_WIDTH, Field, channel_fault, structure
from objects.primitives import Box, Capsule, Cylinder, Sphere, Torus
from objects.setops import Difference, Intersection, Placed, Union
from objects.siren import OBSERVED_CELLS, SirenField
from objects.siren_layout import NetworkConfig

# Version 2 has channels by name; a field that has none but ``feature`` is written as version 1.
FORMAT, VERSION = "sirenscape.field", 2

MAX_FILE_BYTES = 64 * 2**20
MAX_HEADER_BYTES = 4 * 2**20
MAX_NUMBERS = 10_000_000
MAX_NODES = 4096
MAX_DEPTH = 64
MAX_CHANNELS = 64

_DTYPES = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}


class FieldFileError(ValueError):
    """A field file that cannot be read or written; the message names the path, what was expected and what came."""


@dataclass(frozen=True)
class _Number:
    """A number of a node's config: an int or a float within ``least`` and ``most``."""

    type: type
    least: float
    most: float


@dataclass(frozen=True)
class _Kind:
    cls: type[Field]
    n_children: int
    config: dict[str, _Number]
    more: dict[str, _Number] = dataclasses.field(default_factory=dict)  # what a config may hold besides
    has_channels: bool = False  # whether it may hold channels by name


_CHANNEL = _Number(int, 1, 4096)
_FEATURES = {"feature_width": _Number(int, 0, 4096)}
_NETWORK = {
    **dict.fromkeys(("width", "color_width"), _Number(int, 1, 4096)),
    **dict.fromkeys(("layers", "color_layers"), _Number(int, 1, 64)),
    **dict.fromkeys(("omega_first", "omega_hidden", "color_omega_first"), _Number(float, 1e-6, 1e6)),
}
# All kinds of fields that a file may hold; nothing else is ever built from a file.
KINDS: dict[str, _Kind] = {
    **{cls.kind: _Kind(cls, 0, _FEATURES) for cls in (Sphere, Box, Cylinder, Capsule, Torus)},
    **{cls.kind: _Kind(cls, 2, {}) for cls in (Union, Intersection, Difference)},
    Placed.kind: _Kind(Placed, 1, {}),
    SirenField.kind: _Kind(SirenField, 0, _FEATURES | _NETWORK, {"observed": _Number(int, 1, 1)}, has_channels=True),
}


def save_field(field: Field, path: str | os.PathLike[str]) -> None:
    """Writes a field to one file. Equal fields give equal bytes; an existing file is replaced in one step or not at all.

    Raises:
        FieldFileError: A field that could not be read again (unknown kind, a weight that is not finite, too large, nested
            too deep), or a file that cannot be written. What stood at ``path`` is then untouched.
    """
    path = Path(path)
    data = _encoded(field, path)
    _decoded(data, path)
    write_atomically(path, data)


def load_field(path: str | os.PathLike[str]) -> Field:
    """Reads a field file: the same tensors bit for bit, none of which asks for gradients.

    The file is taken as hostile: sizes are checked before anything is allocated, nothing is executed.

    Raises:
        FieldFileError: Not a readable field file of this version or an older one.
    """
    path = Path(path)
    return _decoded(_read(path), path)


class _Unread:
    """A field that is its bytes (``_bytes``, ``_path``) until something is asked of it; then it becomes what they say, class and
    all. `_unread_class` mixes it into each kind of field."""

    __slots__ = ()

    def _read(self) -> None:
        field = _decoded(vars(self)["_bytes"], vars(self)["_path"])
        vars(self).update(vars(field))
        del vars(self)["_bytes"], vars(self)["_path"]
        self.__class__ = type(field)  # pyright: ignore[reportAttributeAccessIssue]

    def __getattr__(self, name: str) -> Any:
        self._read()
        return getattr(self, name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        self._read()
        return self.__reduce_ex__(protocol)


@functools.cache
def _unread_class(cls: type[Field]) -> type[Field]:
    return type(cls.__name__, (_Unread, cls), {"kind": cls.kind, "__doc__": cls.__doc__})


def is_unread(field: Field) -> bool:
    """Whether a field that was loaded lazily is still its bytes."""
    return isinstance(field, _Unread)


def load_lazily(path: str | os.PathLike[str], sha256: str) -> Field:
    """As `load_field`, but networks are made only when something is asked of the field; until then it is its bytes.

    Args:
        path: The file, read whole now.
        sha256: Hash of its bytes, in hex: only what was once written by `save_field` can be trusted unseen.

    Raises:
        FieldFileError: The file can't be read, its hash is another one, or its description isn't that of a field. That its
            numbers don't fit its description is found when the field is used first.
    """
    path = Path(path)
    data = _read(path)
    if hashlib.sha256(data).hexdigest() != sha256:
        _decoded(data, path)  # what is wrong with it, if it is no field
        _fail(path, "holds another field than its name says (changed or swapped)")
    tree, _ = _described(data, path)
    cls = _unread_class(KINDS[tree["kind"]].cls)
    field = cls.__new__(cls)
    vars(field).update(_bytes=data, _path=path)
    return field


def _read(path: Path) -> bytes:
    try:
        if not path.exists():
            _fail(path, "expected a field file, found nothing there")
        if not path.is_file():
            _fail(path, "expected a field file, found something that is not a file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, FieldFileError):
            raise
        _fail(path, f"cannot be read: {error}")
    return data


def storable(field: Field) -> bool:
    """Whether a field and all it is made of are of the kinds that a file holds, so that its hash says all of it."""
    if is_unread(field):  # what `save_field` wrote
        return True
    kind = KINDS.get(field.kind)
    return kind is not None and type(field) is kind.cls and all(map(storable, field.children_fields()))


def field_hash(field: Field) -> str:
    """Hash of a field's content (SHA-256 in hex): that of the bytes that `save_field` writes."""
    return hashlib.sha256(_encoded(field, Path("(in memory)"))).hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Writes ``data`` beside ``path`` and renames it into place, so that a crash leaves the old file or the new one.

    Raises:
        FieldFileError: The file cannot be written (no such folder, no space, no permission).
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise FieldFileError(f"{path}: cannot be written: {error.strerror or error}") from error
        raise


# -- bytes of a field ------------------------------------------------------------------------------------------------


def _encoded(field: Field, path: Path) -> bytes:
    if is_unread(field):
        return vars(field)["_bytes"]
    try:
        tree, tensors = structure(field), field.state_dict()
    except RecursionError:
        _fail(path, f"expected a field of at most {MAX_DEPTH} levels, got one nested far deeper")
    names = {torch.float32: "F32", torch.float64: "F64"}
    metadata = {"format": FORMAT, "version": str(_version(tree)), "tree": _json(tree)}
    header: dict[str, Any] = {"__metadata__": metadata}
    chunks, offset = [], 0
    for name, tensor in sorted(tensors.items()):
        if tensor.dtype not in names:
            _fail(path, f"expected weights in float32 or float64, got {tensor.dtype} in {name}")
        dtype = names[tensor.dtype]
        chunks.append(tensor.detach().cpu().numpy().astype(_DTYPES[dtype]).tobytes())
        end = offset + len(chunks[-1])
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    head = _json(header).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + b"".join(chunks)


def _version(tree: dict[str, Any]) -> int:
    """The least version that can say all of it."""
    return max([2 if "channels" in tree["config"] else 1, *(_version(child) for child in tree.get("children", []))])


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _described(data: bytes, path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The tree and the tensors of a file; what it claims is checked against its size."""
    if len(data) > MAX_FILE_BYTES:
        _fail(path, f"expected at most {MAX_FILE_BYTES} bytes, got more")
    header, body = _header(data, path)
    tree, version = _tree(header.pop("__metadata__", None), path)
    arrays = _arrays(header, body, path)
    claimed = _check_tree(tree, version, path)
    stored = sum(array.size for array in arrays.values())
    if claimed > stored:
        _fail(path, f"its tree describes at least {claimed} numbers, it holds {stored}")
    return tree, arrays


def _decoded(data: bytes, path: Path) -> Field:
    tree, arrays = _described(data, path)
    try:
        field = _built(tree)
        if any(array.dtype == np.float64 for array in arrays.values()):
            field = field.double()
        _fill(field, arrays, path)
        for part in field.modules():
            if isinstance(part, Field):
                part.check_values()
    except ValueError as error:
        if isinstance(error, FieldFileError):
            raise
        _fail(path, str(error))
    return field.requires_grad_(False)


def _header(data: bytes, path: Path) -> tuple[dict[str, Any], memoryview]:
    if len(data) < 8:
        _fail(path, f"expected a safetensors file, got {len(data)} bytes")
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        _fail(
            path,
            f"expected a header within its {len(data)} bytes and {MAX_HEADER_BYTES}, got one of {length} (cut off?)",
        )
    return _parsed(data[8 : 8 + length], "header", path), memoryview(data)[8 + length :]


def _parsed(text: bytes | str, what: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        _fail(path, f"expected JSON in its {what}, got something else ({error})")
    if not isinstance(value, dict):
        _fail(path, f"expected a JSON object in its {what}, got {_short(value)}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name comes twice")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _tree(metadata: Any, path: Path) -> tuple[dict[str, Any], int]:
    """The tree of a file and its version."""
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        _fail(path, f"expected a {FORMAT} file, got another safetensors file (metadata {_short(metadata)})")
    version = metadata.get("version")
    if not (isinstance(version, str) and version.isascii() and version.isdigit() and len(version) < 9):
        _fail(path, f"expected a version number, got {_short(version)}")
    if int(version) > VERSION:
        _fail(path, f"expected version {VERSION} or older, got {int(version)}: written by a newer program")
    if int(version) < 1:
        _fail(path, f"expected a version from 1 to {VERSION}, got {int(version)}")
    if not isinstance(metadata.get("tree"), str):
        _fail(path, f"expected a tree as JSON text, got {_short(metadata.get('tree'))}")
    return _parsed(metadata["tree"], "tree", path), int(version)


def _arrays(header: dict[str, Any], body: memoryview, path: Path) -> dict[str, np.ndarray]:
    """The stored tensors as views of the file's bytes, which they must fill without gap or overlap."""
    places: list[tuple[int, int]] = []
    arrays: dict[str, np.ndarray] = {}
    for name, entry in header.items():
        expected = "dtype, shape and data_offsets"
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            _fail(path, f"tensor {_short(name)}: expected {expected}, got {_short(entry)}")
        shape, offsets = entry["shape"], entry["data_offsets"]
        dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
        if dtype is None:
            _fail(path, f"tensor {_short(name)}: expected dtype F32 or F64, got {_short(entry['dtype'])}")
        if not _is_counts(shape) or len(shape) > 4 or not _is_counts(offsets) or len(offsets) != 2:
            _fail(path, f"tensor {_short(name)}: expected whole numbers in {expected}, got {_short(entry)}")
        start, end = offsets
        if not start <= end <= len(body) or end - start != math.prod(shape) * dtype.itemsize:
            _fail(
                path,
                f"tensor {_short(name)}: expected data of shape {shape} within {len(body)} bytes, got {start}..{end}",
            )
        places.append((start, end))
        arrays[name] = np.frombuffer(body[start:end], dtype).reshape(shape)
    if len({array.dtype for array in arrays.values()}) > 1:
        _fail(path, "expected all tensors of one dtype, got F32 and F64")
    reached = 0
    for start, end in sorted(places):
        if start != reached:
            _fail(path, f"expected tensors one after the other, got a gap or an overlap at byte {start}")
        reached = end
    if reached != len(body):
        _fail(path, f"expected {reached} bytes of tensors, got {len(body)}")
    if sum(array.size for array in arrays.values()) > MAX_NUMBERS:
        _fail(path, f"expected at most {MAX_NUMBERS} numbers, got more")
    return arrays


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(x) is int and 0 <= x <= MAX_FILE_BYTES for x in value)


# -- fields from their tree ------------------------------------------------------------------------------------------


def _check_tree(tree: dict[str, Any], version: int, path: Path) -> int:
    """Checks a tree node by node, brings it to the newest version, and gives the least count of numbers of such a field."""
    total, n_nodes, todo = 0, 0, [(tree, 1)]
    while todo:
        node, depth = todo.pop()
        n_nodes += 1
        if depth > MAX_DEPTH or n_nodes > MAX_NODES:
            _fail(path, f"expected a tree of at most {MAX_DEPTH} levels and {MAX_NODES} nodes, got more")
        if not isinstance(node, dict) or not {"kind", "config"} <= node.keys() <= {"kind", "config", "children"}:
            _fail(path, f"expected a node with kind, config and children, got {_short(node)}")
        kind = KINDS.get(node["kind"]) if isinstance(node["kind"], str) else None
        if kind is None:
            _fail(path, f"expected a kind of field out of {', '.join(KINDS)}, got {_short(node['kind'])}")
        config, children = node["config"], node.get("children", [])
        _check_config(node["kind"], config, version, path)
        if not isinstance(children, list) or len(children) != kind.n_children:
            _fail(path, f"{node['kind']}: expected {kind.n_children} children, got {_short(children)}")
        total += _least_numbers(config)
        if total > MAX_NUMBERS:
            _fail(path, f"expected at most {MAX_NUMBERS} numbers, its tree describes more")
        todo += [(child, depth + 1) for child in children]
    return total


def _check_config(name: str, config: Any, version: int, path: Path) -> None:
    """Checks what fixes the make-up of a node, and brings it to the newest version."""
    kind, named = KINDS[name], {}
    known = kind.config | kind.more
    if isinstance(config, dict) and kind.has_channels:
        if version == 1:
            known = known | {"tinted": _Number(int, 1, 1)}
        else:
            named = config.pop("channels", {})
    if not isinstance(config, dict) or not kind.config.keys() <= config.keys() <= known.keys():
        _fail(path, f"{name}: expected a config of {list(kind.config)}, got {_short(config)}")
    if not isinstance(named, dict) or len(named) > MAX_CHANNELS or FEATURE in named:
        _fail(path, f"{name}: expected at most {MAX_CHANNELS} channels by name, got {_short(named)}")
    for key, value in config.items():
        _check_number(f"{name}: expected {key}", known[key], value, path)
    for key, value in named.items():
        _check_number(f"{name}: expected the channel {_short(key)}", _CHANNEL, value, path)
    if config.pop("tinted", 0):  # version 1: the tint is the last nine features
        if config["feature_width"] < TINT_WIDTH:
            _fail(path, f"{name}: expected a feature_width of at least {TINT_WIDTH} beside tinted")
        config["feature_width"] -= TINT_WIDTH
        named = {TINT: TINT_WIDTH}
    if fault := channel_fault(named):
        _fail(path, f"{name}: {fault}")
    if named:
        config["channels"] = named


def _check_number(expected: str, number: _Number, value: Any, path: Path) -> None:
    types = (int,) if number.type is int else (int, float)
    if type(value) not in types or not number.least <= value <= number.most:
        wanted = f"{number.type.__name__} within {number.least:g}..{number.most:g}"
        _fail(path, f"{expected} to be {wanted}, got {_short(value)}")


def _least_numbers(config: dict[str, Any]) -> int:
    n_features = config.get("feature_width", 0) + sum(config.get("channels", {}).values())
    if "width" not in config:
        return n_features
    network = NetworkConfig(**{name: config[name] for name in _NETWORK})
    n_networks = network.distance_shape.n_numbers + network.color_shape(n_features).n_numbers
    return n_networks + OBSERVED_CELLS**3 * config.get("observed", 0)


def _built(node: dict[str, Any]) -> Field:
    return KINDS[node["kind"]].cls.empty(node["config"], [_built(child) for child in node.get("children", [])])


def _fill(field: Field, arrays: dict[str, np.ndarray], path: Path) -> None:
    state = field.state_dict()
    if state.keys() != arrays.keys():
        missing, extra = sorted(state.keys() - arrays.keys()), sorted(arrays.keys() - state.keys())
        _fail(
            path,
            f"expected the tensors of its tree, got {len(missing)} missing {_short(missing)}, extra {_short(extra)}",
        )
    for name, array in arrays.items():
        if list(array.shape) != list(state[name].shape):
            _fail(path, f"tensor {name}: expected shape {list(state[name].shape)}, got {list(array.shape)}")
        if not np.isfinite(array).all():
            _fail(path, f"tensor {name}: expected finite numbers, got NaN or infinity")
        state[name].numpy()[...] = array  # the field's own memory


def _short(value: Any) -> str:
    text = reprlib.repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _fail(path: Path, message: str) -> NoReturn:
    raise FieldFileError(f"{path}: {message}") from None
