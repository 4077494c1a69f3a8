"""Field files: one safetensors file holds the weights and, in its header, a JSON tree that says what they make.

The layout is that of https://github.com/huggingface/safetensors (8 bytes of header length, a JSON header, the numbers,
little-endian), so that other tools can read it. It is written and read here, because equal fields must give equal bytes
(the file's hash is the field's name in a scene) and because a hostile file has to be refused before anything as large as
it claims to be is allocated.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import secrets
import threading
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from objects.field import Field, structure
from objects.field_tree import KINDS, MAX_DEPTH, MAX_NUMBERS, WARPS, build, check_tree, short, tree_version
from objects.rounding import as_bytes, from_bytes
from objects.siren import SineParts
from objects.warp import Warp

# Version 2 has channels by name, version 3 warps, version 4 parts, whose weights may be bytes; a field is written as the least
# version that can say all of it.
FORMAT, VERSION = "sirenscape.field", 4

MAX_FILE_BYTES = 64 * 2**20
MAX_HEADER_BYTES = 4 * 2**20

_DTYPES = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "F16": np.dtype("<f2"), "I8": np.dtype("i1")}
_SCALE = ".scale"  # of a tensor of bytes


class FieldFileError(ValueError):
    """A field file that cannot be read or written; the message names the path, what was expected and what came."""


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


_READING = threading.RLock()


class _Unread:
    """A field that is its bytes (``_bytes``, ``_path``) until something is asked of it; then it becomes what they say, class and
    all. `_unread_class` mixes it into each kind of field."""

    def _read(self) -> None:
        with _READING:  # threads may ask at once
            if "_bytes" not in vars(self):
                return
            field = _decoded(vars(self)["_bytes"], vars(self)["_path"])
            vars(self).update(vars(field))
            self.__class__ = type(field)  # pyright: ignore[reportAttributeAccessIssue]
            del vars(self)["_bytes"], vars(self)["_path"]

    def __getattr__(self, name: str) -> Any:
        self._read()
        return getattr(self, name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        self._read()
        return self.__reduce_ex__(protocol)


@functools.cache
def _unread_class(cls: type[Field]) -> type[Field]:
    return type(cls.__name__, (_Unread, cls), {"kind": cls.kind, "__module__": cls.__module__, "__doc__": cls.__doc__})


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
    tree, _, measured = _described(data, path)
    cls = _unread_class(KINDS[tree["kind"]].cls)
    field = cls.__new__(cls)
    vars(field).update(_bytes=data, _path=path, measured=measured)
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
    kind, warp = KINDS.get(field.kind), field.own_warp()
    if warp is not None and not (warp.kind in WARPS and type(warp) is WARPS[warp.kind].cls):
        return False
    return kind is not None and type(field) is kind.cls and all(map(storable, field.children_fields()))


def field_hash(field: Field) -> str:
    """Hash of a field's content (SHA-256 in hex): that of the bytes that `save_field` writes."""
    return hashlib.sha256(_encoded(field, Path("(in memory)"))).hexdigest()


def content_name(field: Field) -> str:
    """Equal for fields of equal content: their hash. What is of the caller's own making, whose numbers don't say all of it, has a
    name of its own."""
    return field_hash(field) if storable(field) else f"{type(field).__name__} {id(field)}"


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
    if (data := vars(field).get("_bytes")) is not None:  # not read yet
        return data
    try:
        tree, tensors = structure(field), field.state_dict()
    except RecursionError:
        _fail(path, f"expected a field of at most {MAX_DEPTH} levels, got one nested far deeper")
    names = {torch.float32: "F32", torch.float64: "F64"}
    metadata = {"format": FORMAT, "version": str(tree_version(tree)), "tree": _json(tree)}
    if field.measured:
        metadata["measured"] = _json(dict(field.measured))
    header: dict[str, Any] = {"__metadata__": metadata}
    chunks, offset = [], 0
    stored: dict[str, tuple[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        if tensor.dtype not in names:
            _fail(path, f"expected weights in float32 or float64, got {tensor.dtype} in {name}")
        stored[name] = names[tensor.dtype], tensor.detach().cpu().numpy()
    for prefix, part in field.named_modules():
        if isinstance(part, SineParts) and part.half_extent.dtype == torch.float32:
            for k in range(len(part.weights)):
                _shorten(f"{prefix}.weights.{k}", f"{prefix}.biases.{k}", stored)
    for name, (dtype, array) in sorted(stored.items()):
        chunks.append(array.astype(_DTYPES[dtype]).tobytes())
        end = offset + len(chunks[-1])
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    head = _json(header).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + b"".join(chunks)


def _shorten(weight: str, bias: str, stored: dict[str, tuple[str, np.ndarray]]) -> None:
    """Has the numbers of a layer of parts stored in bytes and half precision, where these say the same."""
    if (found := as_bytes(stored[weight][1])) is not None:
        stored[weight], stored[weight + _SCALE] = ("I8", found[0]), ("F32", found[1])
    for name in (weight, bias):
        dtype, array = stored[name]
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if dtype == "F32" and half.astype(np.float32).tobytes() == array.tobytes():
            stored[name] = "F16", half


def _widened(arrays: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """All in the one precision that a field is made of."""
    found = {}
    for name, array in arrays.items():
        if array.dtype == np.int8:
            scale = arrays.get(name + _SCALE)
            if scale is None or array.ndim == 0 or scale.shape != array.shape[:1] or scale.dtype != np.float32:
                _fail(path, f"tensor {name}: expected bytes with a scale for each of {list(array.shape)[:1]} slices")
            found[name] = from_bytes(array, scale)
        elif array.dtype == np.float16:
            found[name] = array.astype(np.float32)
        elif not (name.endswith(_SCALE) and name.removesuffix(_SCALE) in arrays):
            found[name] = array
    if len({array.dtype for array in found.values()}) > 1:
        _fail(path, "expected all tensors of one dtype, got F32 and F64")
    return found


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _described(data: bytes, path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, float]]:
    """The tree, the tensors and the measured errors of a file; what it claims is checked against its size."""
    if len(data) > MAX_FILE_BYTES:
        _fail(path, f"expected at most {MAX_FILE_BYTES} bytes, got more")
    header, body = _header(data, path)
    metadata = header.pop("__metadata__", None)
    tree, version = _tree(metadata, path)
    arrays = _arrays(header, body, path)
    try:
        claimed = check_tree(tree, version)
    except ValueError as error:
        _fail(path, str(error))
    arrays = _widened(arrays, path)
    stored = sum(array.size for array in arrays.values())
    if claimed > stored:
        _fail(path, f"its tree describes at least {claimed} numbers, it holds {stored}")
    return tree, arrays, _measured(metadata, path)


def _measured(metadata: dict[str, Any], path: Path) -> dict[str, float]:
    """The errors that were measured when the field was learned; none in files without."""
    text = metadata.get("measured", "{}")
    found = _parsed(text, "measured errors", path) if isinstance(text, str) else {"": text}
    for name, value in found.items():
        if not (name.isidentifier() and len(found) <= 16 and type(value) in (int, float) and 0 <= value < math.inf):
            _fail(path, f"expected measured errors as at most 16 numbers by name, got {short(found)}")
    return {name: float(value) for name, value in found.items()}


def _decoded(data: bytes, path: Path) -> Field:
    tree, arrays, measured = _described(data, path)
    try:
        field = build(tree)
        if any(array.dtype == np.float64 for array in arrays.values()):
            field = field.double()
        _fill(field, arrays, path)
        for part in field.modules():
            if isinstance(part, Field | Warp):
                part.check_values()
    except ValueError as error:
        if isinstance(error, FieldFileError):
            raise
        _fail(path, str(error))
    if measured:
        field.measured = measured
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
        _fail(path, f"expected a JSON object in its {what}, got {short(value)}")
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
        _fail(path, f"expected a {FORMAT} file, got another safetensors file (metadata {short(metadata)})")
    version = metadata.get("version")
    if not (isinstance(version, str) and version.isascii() and version.isdigit() and len(version) < 9):
        _fail(path, f"expected a version number, got {short(version)}")
    if int(version) > VERSION:
        _fail(path, f"expected version {VERSION} or older, got {int(version)}: written by a newer program")
    if int(version) < 1:
        _fail(path, f"expected a version from 1 to {VERSION}, got {int(version)}")
    if not isinstance(metadata.get("tree"), str):
        _fail(path, f"expected a tree as JSON text, got {short(metadata.get('tree'))}")
    return _parsed(metadata["tree"], "tree", path), int(version)


def _arrays(header: dict[str, Any], body: memoryview, path: Path) -> dict[str, np.ndarray]:
    """The stored tensors as views of the file's bytes, which they must fill without gap or overlap."""
    places: list[tuple[int, int]] = []
    arrays: dict[str, np.ndarray] = {}
    for name, entry in header.items():
        expected = "dtype, shape and data_offsets"
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            _fail(path, f"tensor {short(name)}: expected {expected}, got {short(entry)}")
        shape, offsets = entry["shape"], entry["data_offsets"]
        dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
        if dtype is None:
            _fail(
                path,
                f"tensor {short(name)}: expected dtype F32 or F64 (I8 or F16 in parts), got {short(entry['dtype'])}",
            )
        if not _is_counts(shape) or len(shape) > 4 or not _is_counts(offsets) or len(offsets) != 2:
            _fail(path, f"tensor {short(name)}: expected whole numbers in {expected}, got {short(entry)}")
        start, end = offsets
        if not start <= end <= len(body) or end - start != math.prod(shape) * dtype.itemsize:
            _fail(
                path,
                f"tensor {short(name)}: expected data of shape {shape} within {len(body)} bytes, got {start}..{end}",
            )
        places.append((start, end))
        arrays[name] = np.frombuffer(body[start:end], dtype).reshape(shape)
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


def _fill(field: Field, arrays: dict[str, np.ndarray], path: Path) -> None:
    state = field.state_dict()
    if state.keys() != arrays.keys():
        missing, extra = sorted(state.keys() - arrays.keys()), sorted(arrays.keys() - state.keys())
        _fail(
            path,
            f"expected the tensors of its tree, got {len(missing)} missing {short(missing)}, extra {short(extra)}",
        )
    for name, array in arrays.items():
        if list(array.shape) != list(state[name].shape):
            _fail(path, f"tensor {name}: expected shape {list(state[name].shape)}, got {list(array.shape)}")
        if not np.isfinite(array).all():
            _fail(path, f"tensor {name}: expected finite numbers, got NaN or infinity")
        state[name].numpy()[...] = array  # the field's own memory


def _fail(path: Path, message: str) -> NoReturn:
    raise FieldFileError(f"{path}: {message}") from None
