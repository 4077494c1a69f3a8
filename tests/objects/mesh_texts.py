"""Mesh files as text, and what tests ask of what was read."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
import trimesh

from objects.mesh_files import MeshError, read_parts

BOX = trimesh.creation.box((1, 2, 3))


RED, GREEN, BLUE = (1, 0, 0), (0, 1, 0), (0, 0, 1)


# A prism over a U, whose caps are polygons of 8 corners: volume 7, and nothing in its notch.
U = np.array([[0, 0], [3, 0], [3, 3], [2, 3], [2, 1], [1, 1], [1, 3], [0, 3]], float)


PRISM = np.concatenate([np.column_stack([U, np.full(8, z)]) for z in (0.0, 1.0)])


SIDES = [[*range(8)][::-1], [*range(8, 16)], *([i, (i + 1) % 8, (i + 1) % 8 + 8, i + 8] for i in range(8))]


def read(path, *told):
    """The parts of a file, whose one warning says all of ``told`` (no warning: nothing)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parts = read_parts(path, f"mesh {str(path)!r}")
    texts = [str(each.message) for each in caught]
    if not told:
        assert texts == []
        return parts
    (text,) = texts
    assert text.startswith(f"{path}: ") and "\n" not in text
    for part in told:
        assert part in text, text
    assert text.count("; ") + 1 >= len(told)
    return parts


def volume(parts):
    corners = np.concatenate([part.vertices[part.faces] for part in parts])
    return np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6


def colors(parts):
    """Colours of the middles of all faces."""
    rows = [part.paint.at(np.arange(len(part.faces)), np.full((len(part.faces), 3), 1 / 3)) for part in parts]
    return np.concatenate(rows)


def fails(path):
    with pytest.raises(MeshError, match=r"^[^\n]+\Z") as error:
        read_parts(path, f"mesh {str(path)!r}")
    text = str(error.value)
    assert text.startswith(f"mesh {str(path)!r}: ")
    for name in ("Error", "Traceback", "charset", "numpy", "None"):
        assert name not in text, text
    return text


def obj_lines(vertices=PRISM, faces=SIDES):
    return [f"v {x!r} {y!r} {z!r}" for x, y, z in vertices.tolist()] + [
        "f " + " ".join(str(i + 1) for i in f) for f in faces
    ]


def write(path, text, encoding="utf-8"):
    path.write_bytes(("\n".join(text) if isinstance(text, list) else text).encode(encoding))
    return path


def ply_text(vertices, faces, kind="ascii", more="", rows=None, face_more="", face_rows=None, comment=""):
    head = [f"ply\nformat {kind} 1.0{comment}\nelement vertex {len(vertices)}"]
    head += [*(f"property float {c}" for c in "xyz")] + [more] * bool(more) + [f"element face {len(faces)}"]
    head += ["property list uchar int vertex_indices"] + [face_more] * bool(face_more) + ["end_header"]
    body = [
        " ".join(map(repr, row)) + (f" {rows[k]}" if rows else "")
        for k, row in enumerate(np.asarray(vertices).tolist())
    ]
    body += [
        f"{len(f)} {' '.join(map(str, f))}" + (f" {face_rows[k]}" if face_rows else "") for k, f in enumerate(faces)
    ]
    return "\n".join([*head, *body]) + "\n"


def off_rows(vertices, faces):
    return [" ".join(map(repr, row)) for row in np.asarray(vertices).tolist()] + [
        f"{len(f)} {' '.join(map(str, f))}" for f in faces
    ]


def stl(header=b"", extra=None):
    rows = np.zeros(12, np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("extra", "<u2")]))
    rows["corners"] = BOX.triangles
    rows["extra"] = 0 if extra is None else extra
    return header.ljust(80, b" ") + struct.pack("<I", 12) + rows.tobytes()
