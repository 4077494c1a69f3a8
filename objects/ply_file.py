"""PLY files: the tables of their elements; and the mesh, and the coloured points, that these mean."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from objects.mesh_parts import MeshPart, cut, few, floats
from objects.paint import Paint, Texture, shares
from objects.pictures import find_picture

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "long": "i4", "ulong": "u4", "int64": "i8", "uint64": "u8",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8", "half": "f2", "float16": "f2",
}  # fmt: skip
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_COLORS = [
    ("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("ambient_red", "ambient_green", "ambient_blue"), ("diffuse_r", "diffuse_g", "diffuse_b"),
    ("color_r", "color_g", "color_b"), ("color_red", "color_green", "color_blue"), ("vertex_red", "vertex_green", "vertex_blue"),
    ("scalar_red", "scalar_green", "scalar_blue"), ("cr", "cg", "cb"),
]  # fmt: skip
_UV = [("s", "t"), ("u", "v"), ("texture_u", "texture_v"), ("tu", "tv"), ("texture_s", "texture_t")]
_CORNERS = ("vertex_indices", "vertex_index", "vertex_indexes", "indices", "vertices")
_HARMLESS = {"nx", "ny", "nz", "x", "y", "z"}  # normals of a mesh follow from its faces


@dataclass(frozen=True, eq=False)
class Lists:
    """A list property: its values of all rows, one row after another, and how many each row has."""

    values: np.ndarray
    counts: Int[np.ndarray, "n"]


Column = np.ndarray | Lists


@dataclass(eq=False)
class _Element:
    name: str
    count: int
    kinds: list[tuple[str, str, str]] = field(default_factory=list)  # name, type of the count or "", type


@dataclass(frozen=True, eq=False)
class PlyFile:
    """A PLY file: for each element the columns of its properties, names in small letters; and its comments."""

    elements: dict[str, dict[str, Column]]
    comments: list[str]

    def plain(self, element: str, names: tuple[str, ...]) -> np.ndarray | None:
        """Columns ``[n, len(names)]`` of an element; None where one of them is missing."""
        columns = [self.elements.get(element, {}).get(name) for name in names]
        found = [column for column in columns if isinstance(column, np.ndarray)]
        return np.stack(found, -1) if found and len(found) == len(names) else None

    def colors(self, element: str, notes: list[str]) -> tuple[Float[np.ndarray, "n 3"] | None, tuple[str, ...]]:
        """Colours (sRGB in 0..1) of an element under any usual name, and the names."""
        for names in _COLORS:
            if (stored := self.plain(element, names)) is not None:
                rgb, said = shares(stored)
                if said and said not in notes:
                    notes.append(said)
                return rgb, names
        return None, ()


# -- the file ----------------------------------------------------------------------------------------------------------


def read_ply(path: Path) -> PlyFile:
    """Reads a PLY file: text or binary of either order, any property types.

    Raises:
        ValueError: It cannot be read; the message doesn't name the file.
    """
    data = path.read_bytes()
    head = re.match(rb"(?:\xef\xbb\xbf)?ply[ \t]*(\r\n|\n|\r)", data)
    end = re.search(rb"(?:\r\n|\n|\r)end_header[ \t]*(\r\n|\n|\r|$)", data)
    if head is None or end is None:
        raise ValueError("expected a PLY file, got one without its header")
    order, elements, comments = _header(data[head.end() : end.start()].decode("latin-1"))
    # A header that ends its lines with \r alone may be followed by a byte 10 of data.
    start = end.end() - (end.group(1) == b"\r\n" and head.group(1) == b"\r")
    body = data[start:]
    reader = _Words(body.decode("latin-1").split()) if order == "" else _Bytes(body, order)
    tables: dict[str, dict[str, Column]] = {}
    for element in elements:
        table = reader.table(element)
        tables.setdefault(element.name, table)
    return PlyFile(tables, comments)


def _header(text: str) -> tuple[str, list[_Element], list[str]]:
    order: str | None = None
    elements: list[_Element] = []
    comments: list[str] = []
    for line in re.split(r"\r\n|\n|\r", text):
        words = line.split()
        if not words:
            continue
        key, rest = words[0], words[1:]
        if key in ("comment", "obj_info"):
            comments.append(line.split(None, 1)[1] if rest else "")
        elif key == "format" and rest and rest[0] in _ORDERS:
            order = _ORDERS[rest[0]]
        elif key == "element" and len(rest) == 2 and rest[1].isdecimal() and len(rest[1]) < 16:
            elements.append(_Element(rest[0].lower(), int(rest[1])))
        elif key == "property" and elements and len(rest) == 2 and rest[0] in _TYPES:
            elements[-1].kinds.append((rest[1].lower(), "", _TYPES[rest[0]]))
        elif (
            key == "property"
            and elements
            and len(rest) == 4
            and rest[0] == "list"
            and {rest[1], rest[2]} <= set(_TYPES)
        ):
            elements[-1].kinds.append((rest[3].lower(), _TYPES[rest[1]], _TYPES[rest[2]]))
        else:
            raise ValueError(f"a line of its PLY header is not understood: {line.strip():.60}")
    if order is None:
        raise ValueError("its PLY header names no format (ascii, binary_little_endian or binary_big_endian)")
    return order, elements, comments


def _short(element: _Element) -> ValueError:
    return ValueError(f"it ends within its {element.count:,} rows of {element.name!r}; is the file whole?")


class _Bytes:
    """The rows of a binary file, element by element."""

    def __init__(self, data: bytes, order: str) -> None:
        self._data, self._order, self._at = data, order, 0

    def table(self, element: _Element) -> dict[str, Column]:
        if not element.kinds or element.count == 0:
            return {
                name: Lists(np.zeros(0, t), np.zeros(0, np.int64)) if c else np.zeros(0, t)
                for name, c, t in element.kinds
            }
        sizes = self._first_sizes(element)
        dtype = self._dtype(element, sizes)
        if len(self._data) - self._at < element.count * dtype.itemsize and not any(sizes):
            raise _short(element)
        if len(self._data) - self._at >= element.count * dtype.itemsize:
            rows = np.frombuffer(self._data, dtype, element.count, self._at)
            lists = [k for k, (_, c, _) in enumerate(element.kinds) if c]
            if all((rows[f"c{k}"] == sizes[k]).all() for k in lists):  # all rows alike: one table
                self._at += element.count * dtype.itemsize
                return {
                    name: Lists(rows[f"v{k}"].ravel(), np.full(element.count, sizes[k])) if c else rows[f"v{k}"].copy()
                    for k, (name, c, _) in enumerate(element.kinds)
                }
        return self._row_by_row(element)

    def _dtype(self, element: _Element, sizes: list[int]) -> np.dtype:
        fields: list[tuple] = []
        for k, (_, count, kind) in enumerate(element.kinds):
            if count:
                fields += [(f"c{k}", self._order + count), (f"v{k}", self._order + kind, (sizes[k],))]
            else:
                fields.append((f"v{k}", self._order + kind))
        return np.dtype(fields)

    def _first_sizes(self, element: _Element) -> list[int]:
        """How long the lists of the first row are."""
        at, found = self._at, []
        for _, count, kind in element.kinds:
            n = 0
            if count:
                n, at = self._count(element, count, at)
            found.append(n)
            at += np.dtype(kind).itemsize * (n if count else 1)
        return found

    def _count(self, element: _Element, kind: str, at: int) -> tuple[int, int]:
        dtype = np.dtype(self._order + kind)
        if at + dtype.itemsize > len(self._data):
            raise _short(element)
        n = float(np.frombuffer(self._data, dtype, 1, at)[0])
        if not 0 <= n <= len(self._data):
            raise ValueError(f"a list of its {element.name!r} has {n:g} entries; is the file whole?")
        return int(n), at + dtype.itemsize

    def _row_by_row(self, element: _Element) -> dict[str, Column]:
        pieces: list[list[bytes]] = [[] for _ in element.kinds]
        counts: list[list[int]] = [[] for _ in element.kinds]
        at, data, end = self._at, self._data, len(self._data)
        kinds = [(c, np.dtype(t).itemsize) for _, c, t in element.kinds]
        plain = {c for c, _ in kinds if c and c[0] in "iu"}
        little = "little" if self._order == "<" else "big"
        for _ in range(element.count):
            for k, (count, size) in enumerate(kinds):
                n = 1
                if count in plain:  # quicker than numpy
                    width = int(count[1])
                    n = int.from_bytes(data[at : at + width], little, signed=count[0] == "i")
                    at += width
                elif count:
                    n, at = self._count(element, count, at)
                stop = at + n * size
                if n < 0 or stop > end:
                    raise _short(element)
                pieces[k].append(data[at:stop])
                counts[k].append(n)
                at = stop
        self._at = at
        table: dict[str, Column] = {}
        for k, (name, count, kind) in enumerate(element.kinds):
            values = np.frombuffer(b"".join(pieces[k]), self._order + kind)
            table[name] = Lists(values, np.array(counts[k], np.int64)) if count else values
        return table


class _Words:
    """The rows of a text file, element by element."""

    def __init__(self, words: list[str]) -> None:
        self._words, self._at = words, 0

    def table(self, element: _Element) -> dict[str, Column]:
        columns, counts = self._alike(element) or self._row_by_row(element)
        table: dict[str, Column] = {}
        for k, (name, count, kind) in enumerate(element.kinds):
            values = _typed(floats(columns[k], f"{element.name} {name}"), kind)
            table[name] = Lists(values, np.array(counts[k], np.int64)) if count else values
        return table

    def _length(self, element: _Element, at: int) -> int:
        word = self._words[at] if at < len(self._words) else ""
        if not word.isdecimal() or len(word) > 15:
            raise ValueError(
                f"expected the length of a list of {element.name!r}, got {word[:40] or 'the end of the file'}"
            )
        return int(word)

    def _alike(self, element: _Element) -> tuple[list[list[str]], list[list[int]]] | None:
        """Columns, and lengths of lists, where all rows are as long as the first; None where they aren't."""
        words, at, places, sizes = self._words, self._at, [], []
        if element.count == 0:
            return [[] for _ in element.kinds], [[] for _ in element.kinds]
        for _, count, _ in element.kinds:
            sizes.append(self._length(element, at) if count else 1)
            places.append(at + bool(count))
            at = places[-1] + sizes[-1]
        width, end = at - self._at, self._at + (at - self._at) * element.count
        if end > len(words):
            return None
        for place, (_, count, _) in zip(places, element.kinds, strict=True):
            if count and set(words[place - 1 : end : width]) != {words[place - 1]}:
                return None
        columns = []
        for place, size in zip(places, sizes, strict=True):
            if size == 1:
                columns.append(words[place:end:width])
            else:
                column = [""] * (size * element.count)
                for k in range(size):
                    column[k::size] = words[place + k : end : width]
                columns.append(column)
        self._at = end
        return columns, [[size] * element.count for size in sizes]

    def _row_by_row(self, element: _Element) -> tuple[list[list[str]], list[list[int]]]:
        columns: list[list[str]] = [[] for _ in element.kinds]
        counts: list[list[int]] = [[] for _ in element.kinds]
        words, at = self._words, self._at
        if element.count > len(words):
            raise _short(element)
        for _ in range(element.count):
            for k, (_, count, _) in enumerate(element.kinds):
                n = self._length(element, at) if count else 1
                at += bool(count)
                if at + n > len(words):
                    raise _short(element)
                columns[k] += words[at : at + n]
                counts[k].append(n)
                at += n
        self._at = at
        return columns, counts


def _typed(values: Float[np.ndarray, "n"], kind: str) -> np.ndarray:
    """Numbers of a text as their type; floats stay as precise as they were written, what doesn't fit its type, too."""
    dtype = np.dtype(kind)
    if dtype.kind == "f" or not np.isfinite(values).all():
        return values
    limits = np.iinfo(dtype)
    fits = (
        (values == np.round(values)).all()
        and values.min(initial=0) >= limits.min
        and values.max(initial=0) <= limits.max
    )
    return values.astype(dtype) if fits else values


# -- what it means -----------------------------------------------------------------------------------------------------


def ply_mesh(path: Path, notes: list[str]) -> list[MeshPart]:
    """The mesh of a PLY file, coordinates in float64; notes are added to ``notes``.

    Raises:
        ValueError: It cannot be read, or has no faces.
    """
    file = read_ply(path)
    vertices = file.plain("vertex", ("x", "y", "z"))
    if vertices is None:
        raise ValueError("expected vertices with x, y and z, got none")
    vertices = vertices.astype(np.float64)
    table = file.elements.get("face", {})
    corners = next((table[n] for n in _CORNERS if isinstance(table.get(n), Lists)), None)
    if corners is None and (strips := file.elements.get("tristrips", {}).get("vertex_indices")) is not None:
        corners = _strips(strips)
    if not isinstance(corners, Lists) or len(corners.counts) == 0:
        raise ValueError("expected faces, got points alone; learn them by points= (they need normals)")
    flat = _whole(corners.values)
    triangles = cut(vertices, flat, corners.counts)
    faces = flat[triangles.corners]
    rgb, names = file.colors("vertex", notes)
    of_faces, face_names = file.colors("face", notes)
    paint: Paint | None = None
    taken = {*_HARMLESS, *_CORNERS, *names, *face_names}
    if rgb is not None:
        paint = Paint(rgb[faces])
        if of_faces is not None:
            notes.append("its colours by face were left out, those by vertex taken")
    elif of_faces is not None:
        paint = Paint(np.repeat(of_faces[triangles.polygon][:, None], 3, 1))
    uv, uv_names = _coordinates(file, table, corners, flat)
    pictures = [c.split(None, 1)[1].strip() for c in file.comments if c.lower().startswith("texturefile ")]
    taken |= uv_names
    if pictures and uv is not None:
        if len(pictures) > 1:
            notes.append(f"of its {len(pictures)} textures the first was taken")
        image = find_picture(path.parent, pictures[0], notes)
        if image is not None:
            if paint is not None:
                notes.append("its colours by vertex or face were left out, its texture taken")
            paint = Paint(uv=(uv * (1, -1) + (0, 1))[triangles.corners], texture=Texture(image))
    elif uv is not None or pictures:
        missing = "names no picture for them (comment TextureFile)" if uv is not None else "has no texture coordinates"
        notes.append(f"its texture was left out: it {missing}")
    notes += _left_out(file, taken)
    return [MeshPart(vertices, faces, paint)]


def _coordinates(file: PlyFile, table: dict[str, Column], corners: Lists, flat: np.ndarray):
    """Texture coordinates of each corner, v up, and the names of what holds them."""
    stored = table.get("texcoord")
    if isinstance(stored, Lists) and (stored.counts == 2 * corners.counts).all():
        return _uv(stored.values).reshape(-1, 2), {"texcoord", "texnumber"}
    for names in _UV:
        if (found := file.plain("vertex", names)) is not None:
            return _uv(found)[flat], set(names)
    return None, set()


def _uv(stored: np.ndarray) -> np.ndarray:
    return np.clip(np.nan_to_num(stored.astype(np.float64)), -1e9, 1e9)


def _left_out(file: PlyFile, taken: set[str]) -> list[str]:
    """What of a file is not read."""
    extra = [
        name
        for element in ("vertex", "face")
        for name, column in file.elements.get(element, {}).items()
        if name not in taken and not (name.endswith("alpha") or name == "a") and name != "flags"
    ]
    notes = [f"its properties {few(extra)} were left out"] * bool(extra)
    for name in ("alpha", "a", "diffuse_alpha"):
        column = file.elements.get("vertex", {}).get(name, file.elements.get("face", {}).get(name))
        if isinstance(column, np.ndarray) and len(column) and (shares(column)[0] < 0.99).any():
            notes.append("its opacity (alpha) was left out; it is opaque here")
    others = [
        n
        for n, table in file.elements.items()
        if n not in ("vertex", "face", "tristrips") and any(map(_rows, table.values()))
    ]
    return notes + [f"its elements {few(others)} were left out"] * bool(others)


def _whole(values: np.ndarray) -> Int[np.ndarray, "n"]:
    if values.dtype.kind == "f" and not ((np.abs(values) < 2**53) & (values == np.round(values))).all():
        raise ValueError("a face names a vertex by what is no whole number; is the file whole?")
    return values.astype(np.int64)


def _rows(column: Column) -> int:
    return len(column.counts) if isinstance(column, Lists) else len(column)


def _strips(strips: Column) -> Lists | None:
    """Triangle strips, each ended by -1, as triangles (Stanford's files)."""
    if not isinstance(strips, Lists):
        return None
    faces: list[np.ndarray] = []
    values = _whole(strips.values)
    start = 0
    for stop in [*np.flatnonzero(values < 0), len(values)]:
        strip = values[start:stop]
        start = stop + 1
        if len(strip) >= 3:
            rows = np.stack([strip[:-2], strip[1:-1], strip[2:]], -1)
            rows[1::2] = rows[1::2, [1, 0, 2]]
            faces.append(rows)
    flat = np.concatenate(faces).ravel() if faces else np.zeros(0, np.int64)
    return Lists(flat, np.full(len(flat) // 3, 3))
