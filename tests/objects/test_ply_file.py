"""PLY files: what is read, what is told, what is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from tests.objects.mesh_texts import (
    BLUE,
    BOX,
    GREEN,
    PRISM,
    RED,
    SIDES,
    colors,
    fails,
    ply_text,
    read,
    volume,
    write,
)


@pytest.mark.parametrize(
    ("names", "kind", "value", "rgb", "told"),
    [
        ("red green blue", "uchar", "255 128 0", (1, 128 / 255, 0), ()),
        ("r g b", "uint8", "255 128 0", (1, 128 / 255, 0), ()),
        ("Red Green Blue", "uchar", "255 128 0", (1, 128 / 255, 0), ()),
        ("diffuse_red diffuse_green diffuse_blue", "uchar", "255 128 0", (1, 128 / 255, 0), ()),
        ("ambient_red ambient_green ambient_blue", "uchar", "255 128 0", (1, 128 / 255, 0), ()),
        ("red green blue", "ushort", "65535 32768 0", (1, 32768 / 65535, 0), ()),
        ("red green blue", "ushort", "255 128 0", (1, 128 / 255, 0), ("(uint16) were taken as 0..255",)),
        ("red green blue", "int", "255 128 0", (1, 128 / 255, 0), ("(int32) were taken as 0..255",)),
        ("red green blue", "float", "1 0.5 0", (1, 0.5, 0), ()),
        ("red green blue", "double", "255 127.5 0", (1, 0.5, 0), ("(float64) were taken as 0..255",)),
    ],
)
def test_colours_of_ply(tmp_path, names, kind, value, rgb, told):
    more = "\n".join(f"property {kind} {name}" for name in names.split())
    path = write(tmp_path / "v.ply", ply_text(PRISM, SIDES, more=more, rows=[value] * 16))
    np.testing.assert_allclose(colors(read(path, *told)), np.tile(rgb, (28, 1)), atol=1e-6)
    path = write(tmp_path / "f.ply", ply_text(PRISM, SIDES, face_more=more, face_rows=[value] * 10))
    np.testing.assert_allclose(colors(read(path, *told)), np.tile(rgb, (28, 1)), atol=1e-6)


def test_colours_by_face_follow_their_polygons(tmp_path):
    more = "\n".join(f"property uchar {name}" for name in ("red", "green", "blue"))
    rows = ["255 0 0", "0 255 0", *["0 0 255"] * 8]
    (part,) = read(write(tmp_path / "x.ply", ply_text(PRISM, SIDES, face_more=more, face_rows=rows)))
    middle = part.vertices[part.faces].mean(1)
    wanted = np.where((middle[:, 2] == 0)[:, None], RED, np.where((middle[:, 2] == 1)[:, None], GREEN, BLUE))
    np.testing.assert_allclose(colors([part]), wanted)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(
    ("count", "index"), [("uchar", "int"), ("ushort", "uint"), ("int", "short"), ("float", "double")]
)
def test_binary_ply_of_either_order_and_any_list_type(tmp_path, order, mixed, count, index):
    """Properties in an unusual order, elements that nobody knows, lines that end with CR LF."""
    codes = {"uchar": "B", "ushort": "H", "int": "i", "uint": "I", "short": "h", "float": "f", "double": "d"}
    vertices, faces = (PRISM, SIDES) if mixed else (BOX.vertices, BOX.faces.tolist())
    kind = "binary_little_endian" if order == "<" else "binary_big_endian"
    head = f"ply\nformat {kind} 1.0\nelement camera 1\nproperty list uchar float pose\nproperty int id\n"
    head += f"element vertex {len(vertices)}\n"
    head += "property uchar blue\nproperty double z\nproperty uchar red\nproperty float x\nproperty float y\nproperty uchar green\n"
    head += f"element face {len(faces)}\nproperty short flags\nproperty list {count} {index} vertex_index\nend_header\n"
    data = struct.pack(order + "B3fi", 3, 1, 2, 3, 7)
    data += b"".join(struct.pack(order + "BdBffB", 0, z, 255, x, y, 128) for x, y, z in vertices)
    for f in faces:
        data += struct.pack(order + f"h{codes[count]}{len(f)}{codes[index]}", 5, len(f), *f)
    (tmp_path / "x.ply").write_bytes(head.replace("\n", "\r\n").encode() + data)
    parts = read(tmp_path / "x.ply", "its elements camera were left out")
    assert volume(parts) == pytest.approx(7 if mixed else 6)
    np.testing.assert_allclose(colors(parts)[0], (1, 128 / 255, 0), atol=1e-6)


def test_strips_of_ply(tmp_path):
    head = "ply\nformat ascii 1.0\nelement vertex 5\nproperty float x\nproperty float y\nproperty float z\n"
    head += "element tristrips 1\nproperty list int int vertex_indices\nend_header\n"
    path = write(tmp_path / "x.ply", head + "0 0 0\n1 0 0\n0 1 0\n1 1 0\n0 0 1\n8 0 1 2 3 -1 0 2 4\n")
    assert read(path)[0].faces.tolist() == [[0, 1, 2], [2, 1, 3], [0, 2, 4]]


def test_the_texture_of_a_ply(tmp_path):
    """As MeshLab writes it: coordinates by corner or vertex, v up, and the name of the picture in a comment."""
    picture = Image.new("RGB", (2, 2))
    picture.putpixel((0, 0), (255, 0, 0))
    picture.save(tmp_path / "t.png")
    triangle = np.eye(3)
    by_corner = {"face_more": "property list uchar float texcoord", "face_rows": ["6 0.25 0.75 0.25 0.75 0.25 0.75"]}
    by_vertex = {"more": "property float s\nproperty float t", "rows": ["0.25 0.75"] * 3}
    for more in (by_corner, by_vertex):
        path = write(tmp_path / "x.ply", ply_text(triangle, [[0, 1, 2]], comment="\ncomment TextureFile t.png", **more))
        np.testing.assert_allclose(colors(read(path)), [RED])
        path = write(tmp_path / "x.ply", ply_text(triangle, [[0, 1, 2]], comment="\ncomment TextureFile u.png", **more))
        assert read(path, "the texture 'u.png' is missing")[0].paint is None
        path = write(tmp_path / "x.ply", ply_text(triangle, [[0, 1, 2]], **more))
        assert read(path, "its texture was left out: it names no picture")[0].paint is None


def test_what_a_ply_says_and_is_not_taken_is_told(tmp_path):
    more = "property float quality\nproperty uchar red\nproperty uchar green\nproperty uchar blue\nproperty uchar alpha"
    text = ply_text(
        PRISM, SIDES, more=more, rows=["0.5 255 0 0 100"] * 16, face_more="property uchar label", face_rows=["3"] * 10
    )
    read(write(tmp_path / "x.ply", text), "its properties quality, label", "its opacity (alpha)")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:300], "is the file whole?"),
        (lambda t: "ply\nnothing", "without its header"),
        (lambda t: t.replace("end_header", "end"), "without its header"),
        (lambda t: t.replace("format ascii", "format strange"), "a line of its PLY header is not understood"),
        (lambda t: t.replace("float x", "quad x"), "a line of its PLY header is not understood: property quad x"),
        (lambda t: t.replace("property float x", "property float w"), "expected vertices with x, y and z"),
        (lambda t: t.replace("element vertex 16", "element vertex 99999999999"), "is the file whole?"),
        (lambda t: t.replace("element face 10", "element face 0"), "expected faces, got points alone"),
        (lambda t: t.replace("8 7 6", "8 700 6"), "a face names vertex 700"),
        (lambda t: t.replace("3.0", "3,0"), "write decimal points"),
        (lambda t: t.replace("8 7 6", "-1 7 6"), "expected the length of a list"),
    ],
)
def test_bad_ply_files(tmp_path, change, message):
    assert message in fails(write(tmp_path / "x.ply", change(ply_text(PRISM, SIDES))))


def test_binary_ply_that_ends_early(tmp_path):
    data = BOX.export(file_type="ply")
    for size in (len(data) - 1, len(data) - 20, len(data) - 160):
        (tmp_path / "x.ply").write_bytes(data[:size])
        assert "is the file whole?" in fails(tmp_path / "x.ply")
