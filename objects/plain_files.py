"""STL and OFF files: faces with plain colours, no materials."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from objects.mesh_parts import MAX_FACES, MeshPart, cut, decoded, floats
from objects.paint import Paint

_STL_ROW = np.dtype([("normal", "<f4", (3,)), ("corners", "<f4", (3, 3)), ("extra", "<u2")])
_STL_LOOP = re.compile(r"\bloop" + 3 * r"\s+vertex\s+(\S+)\s+(\S+)\s+(\S+)" + r"\s+endloop\b", re.IGNORECASE)
_OFF_HEAD = re.compile(r"(ST)?(C)?(N)?(4)?(n)?OFF$", re.IGNORECASE)


# -- STL ---------------------------------------------------------------------------------------------------------------


def stl_mesh(path: Path, notes: list[str]) -> list[MeshPart]:
    """The mesh of an STL file, text or binary (whatever its header begins with); notes are added to ``notes``.

    Raises:
        ValueError: It cannot be read, or has no faces.
    """
    data = path.read_bytes()
    count = int.from_bytes(data[80:84], "little") if len(data) >= 84 else -1
    text = re.match(rb"(?:\xef\xbb\xbf)?\s*solid\b", data, re.IGNORECASE) or data[:2] in (b"\xff\xfe", b"\xfe\xff")
    if not text and count in (0, 0xFFFFFFFF) and len(data) > 84 and (len(data) - 84) % 50 == 0:
        count = (len(data) - 84) // 50  # writers that don't know it beforehand
        notes.append(f"its header doesn't say how many triangles it has; all {count:,} were read")
    whole = count >= 0 and len(data) >= 84 + 50 * count
    if whole and (len(data) == 84 + 50 * count or not text):
        if len(data) > 84 + 50 * count:
            notes.append("what follows its last triangle was left out")
        return _stl_binary(data, count, notes)
    if text:
        return _stl_text(decoded(data))
    if count < 0:
        raise ValueError("expected an STL file, got one without a header")
    raise ValueError(
        f"expected {84 + 50 * count:,} bytes for its {count:,} triangles, got {len(data):,}; is the file whole?"
    )


def _stl_binary(data: bytes, count: int, notes: list[str]) -> list[MeshPart]:
    if not 0 < count <= MAX_FACES:
        raise ValueError(f"expected 1 to {MAX_FACES:,} triangles, got {count:,}")
    rows = np.frombuffer(data, _STL_ROW, count, 84)
    faces = np.arange(3 * count).reshape(-1, 3)
    return [
        MeshPart(rows["corners"].astype(np.float64).reshape(-1, 3), faces, _stl_paint(data[:80], rows["extra"], notes))
    ]


def _stl_paint(header: bytes, extra: Int[np.ndarray, "f"], notes: list[str]) -> Paint | None:
    """Colours in the attribute bytes, 5 bits each. Materialise Magics: ``COLOR=`` in the header is the colour of all, bit 15
    unset a face's own, red lowest. VisCAM and SolidView: bit 15 set is a face's own, blue lowest.
    """
    low, middle, high = (((extra >> shift) & 31) / 31 for shift in (0, 5, 10))
    own = (extra & 0x8000) != 0
    at = header.find(b"COLOR=")
    if at >= 0 and len(header) >= at + 10:
        whole = np.frombuffer(header, np.uint8, 3, at + 6) / 255
        rgb = np.where(own[:, None], whole, np.stack([low, middle, high], -1))
        if header.find(b"MATERIAL=") >= 0:
            notes.append("the shine of its material was left out")
    elif own.any():
        notes.append("its colours were read as those of VisCAM")
        rgb = np.where(own[:, None], np.stack([high, middle, low], -1), 0.7)
    else:
        if extra.any():
            notes.append("its attribute bytes were left out: they are no colours that are known")
        return None
    return Paint(np.repeat(rgb[:, None], 3, 1))


def _stl_text(text: str) -> list[MeshPart]:
    found = _STL_LOOP.findall(text)
    loops = len(re.findall(r"\bouter\s+loop\b", text, re.IGNORECASE))
    if not found or len(found) != loops:
        raise ValueError(f"expected facets of three vertices, got {len(found)} of {loops} that are; is the file whole?")
    vertices = floats([word for row in found for word in row], "vertex").reshape(-1, 3)
    return [MeshPart(vertices, np.arange(len(vertices)).reshape(-1, 3))]


# -- OFF ---------------------------------------------------------------------------------------------------------------


def off_mesh(path: Path, notes: list[str]) -> list[MeshPart]:
    """The mesh of an OFF file (Geomview): polygons, comments, colours by vertex (COFF) or face; notes go to ``notes``.

    Raises:
        ValueError: It cannot be read, or has no faces.
    """
    data = path.read_bytes()
    if re.match(rb"\s*\w*OFF\s+BINARY", data):
        raise ValueError("expected an OFF file of text, got a binary one; export it as text, or as PLY")
    lines = [words for line in decoded(data).splitlines() if (words := line.partition("#")[0].split())]
    head = _OFF_HEAD.match(lines[0][0]) if lines else None
    if head is not None:
        lines[0] = lines[0][1:]
        lines = lines if lines[0] else lines[1:]
    if head is not None and (head.group(4) or head.group(5)):
        raise ValueError("expected points of three dimensions, got four or more (4OFF, nOFF)")
    if not lines or len(lines[0]) < 2 or not all(word.isdecimal() and len(word) < 12 for word in lines[0][:2]):
        raise ValueError("expected an OFF file: OFF, then how many vertices, faces and edges")
    n_vertices, n_faces = int(lines[0][0]), int(lines[0][1])
    if len(lines) < 1 + n_vertices + n_faces:
        raise ValueError(
            f"expected {n_vertices:,} vertices and {n_faces:,} faces, got {len(lines) - 1:,} lines; is the file whole?"
        )
    rows = lines[1 : 1 + n_vertices]
    if any(len(row) < 3 for row in rows):
        raise ValueError("expected three numbers for each vertex")
    vertices = floats([word for row in rows for word in row[:3]], "vertex").reshape(-1, 3)
    counts, flat, face_rgb = _off_faces(lines[1 + n_vertices : 1 + n_vertices + n_faces], notes)
    triangles = cut(vertices, flat, counts)
    faces = flat[triangles.corners]
    skip = 3 + (3 if head is not None and head.group(3) else 0)
    if head is not None and head.group(2) and (rgb := _off_colors([row[skip : skip + 4] for row in rows])) is not None:
        if face_rgb is not None:
            notes.append("its colours by face were left out, those by vertex taken")
        return [MeshPart(vertices, faces, Paint(rgb[faces]))]
    return [
        MeshPart(
            vertices, faces, None if face_rgb is None else Paint(np.repeat(face_rgb[triangles.polygon][:, None], 3, 1))
        )
    ]


def _off_faces(rows: list[list[str]], notes: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Corners of each polygon, the vertices of all, and colours by polygon."""
    counts, flat, colors = [], [], []
    for row in rows:
        n = int(row[0]) if row[0].isdecimal() and len(row[0]) < 12 else -1
        if n < 0 or len(row) < 1 + n or not all(word.isdecimal() for word in row[1 : 1 + n]):
            raise ValueError(f"expected a face (how many vertices, then these), got {' '.join(row)[:60]}")
        counts.append(n)
        flat += row[1 : 1 + n]
        colors.append(row[1 + n :])
    if not counts:
        raise ValueError("expected faces, got points alone")
    if any(len(color) in (1, 2) for color in colors):
        notes.append("its colours by number of a colour map were left out")
    found = None
    if any(len(color) >= 3 for color in colors):
        found = _off_colors([color if len(color) >= 3 else ["0.7", "0.7", "0.7"] for color in colors])
    return np.array(counts, np.int64), floats(flat, "face").astype(np.int64), found


def _off_colors(rows: list[list[str]]) -> Float[np.ndarray, "n 3"] | None:
    """Integers are 0..255, numbers with a point 0..1."""
    if any(len(row) < 3 for row in rows):
        return None
    rgb = floats([word for row in rows for word in row[:3]], "colour").reshape(-1, 3)
    whole = np.array([all(word.lstrip("+-").isdecimal() for word in row[:3]) for row in rows])
    return np.clip(np.nan_to_num(np.where(whole[:, None], rgb / 255, rgb)), 0, 1)
