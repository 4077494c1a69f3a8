"""Mesh files of all formats: what they hold, which colours, what is told, and what a bad one says."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
import trimesh
from PIL import Image

from objects.mesh import read_mesh
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


# -- OBJ


def test_concave_polygons_keep_their_notches(tmp_path):
    obj = write(tmp_path / "u.obj", obj_lines())
    ply = write(tmp_path / "u.ply", ply_text(PRISM, SIDES))
    off = write(tmp_path / "u.off", ["OFF", "16 10 0", *off_rows(PRISM, SIDES)])
    for path in (obj, ply, off):
        parts = read(path)
        assert volume(parts) == pytest.approx(7)
        assert sum(len(part.faces) for part in parts) == 28
        np.testing.assert_allclose(
            read_mesh(path).signed_distance(np.array([[1.5, 2, 0.5], [1.5, 2, 1.0]])), 0.5, atol=1e-9
        )


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-8-sig", "utf-16", "utf-16-le+bom", "utf-32"])
def test_text_in_any_encoding(tmp_path, encoding):
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "Tür.png")
    mtl = "newmtl Grün\r\nmap_Kd Tür.png\r\n"
    obj = "\r\n".join(["# Übung", "mtllib Würfel.mtl", *obj_lines(), "vt 0 0", "usemtl Grün", "f 1/1 2/1 3/1"])
    for name, text in (("Würfel.mtl", mtl), ("x.obj", obj)):
        data = b"\xff\xfe" + text.encode("utf-16-le") if encoding.endswith("bom") else text.encode(encoding)
        (tmp_path / name).write_bytes(data)
    parts = read(tmp_path / "x.obj")
    assert volume(parts[:1]) == pytest.approx(7)
    np.testing.assert_allclose(colors(parts[1:]), [RED])


def test_numbers_count_back_and_lines_go_on(tmp_path):
    lines = []
    for face in SIDES:
        lines += [f"v {x} {y} {z} # here" for x, y, z in PRISM[face]]
        back = [str(i) for i in range(-len(face), 0)]
        lines += ["f " + " ".join(back[:2]) + " \\", "  " + " ".join(back[2:]) + "# there"]
    assert volume(read(write(tmp_path / "x.obj", lines))) == pytest.approx(7)


def test_coordinates_are_not_rounded(tmp_path):
    far = PRISM + np.array([451234.512345, 5411987.254321, 312.0])
    double = ply_text(far, SIDES).replace("property float", "property double")
    off = ["OFF", "16 10 0", *off_rows(far, SIDES)]
    text = trimesh.Trimesh(*[BOX.vertices, BOX.faces]).export(file_type="stl_ascii")
    for path in (
        write(tmp_path / "x.obj", obj_lines(far)), write(tmp_path / "x.ply", double), write(tmp_path / "x.off", off)
    ):  # fmt: skip
        (part,) = read(path)
        assert part.vertices.dtype == np.float64
        np.testing.assert_array_equal(part.vertices, far)
    (part,) = read(write(tmp_path / "x.stl", text.replace("0.5 ", "500000.125 ")))
    assert part.vertices.max() == 500000.125


def test_materials(tmp_path):
    """Several colours, and one that isn't there."""
    mtl = ["newmtl red one", "Kd 1 0 0", "Ke 0 0 0", "newmtl glow", "Kd 0 0 0", "Ke 0 1 0", "newmtl grey", "Kd 0.25"]
    write(tmp_path / "my colours.mtl", mtl)
    faces = [
        "f 1 2 3",
        "usemtl red one",
        "f 2 3 4",
        "usemtl glow",
        "f 3 4 5",
        "usemtl grey",
        "f 4 5 6",
        "usemtl no",
        "f 1 3 6",
    ]
    path = write(tmp_path / "x.obj", ["mtllib my colours.mtl", *obj_lines()[:16], *faces])
    parts = read(path, "the materials no are in none", "glow: its emission (Ke) was taken")
    np.testing.assert_allclose(colors(parts), [(0.7,) * 3, RED, GREEN, (0.25,) * 3, (0.7,) * 3])


def test_a_material_file_that_is_missing_is_told(tmp_path):
    path = write(tmp_path / "x.obj", ["mtllib gone.mtl", "usemtl a", *obj_lines()])
    (part,) = read(path, "its material file 'gone.mtl' is missing")
    assert part.paint is None
    path = write(tmp_path / "x.obj", ["usemtl a", *obj_lines()])
    read(path, "it names materials (a) but no file of them (mtllib)")


def textured(tmp_path, options="", kd="Kd 1 1 1", uv=(0.25, 0.25), name="t.png", file="t.png"):
    """A file of one face whose texture is black but for its upper left texel of 2 x 2, which is ``RED``."""
    picture = Image.new("RGB", (2, 2))
    picture.putpixel((0, 0), (255, 0, 0))
    (tmp_path / file).parent.mkdir(exist_ok=True)
    picture.save(tmp_path / file)
    write(tmp_path / "m.mtl", ["newmtl a", kd, f"map_Kd {options} {name}".replace("  ", " ")])
    rows = ["mtllib m.mtl", *obj_lines()[:16], f"vt {uv[0]} {uv[1]}", "usemtl a", "f 1/1 2/1 3/1"]
    return write(tmp_path / "x.obj", rows)


@pytest.mark.parametrize(
    ("options", "uv", "rgb"),
    [
        ("", (0.25, 0.75), RED),  # v points up
        ("", (0.25, 0.25), (0, 0, 0)),
        ("", (1.25, -0.25), RED),  # repeats
        ("-clamp on", (-5, 7), RED),
        ("-clamp on", (1.25, 0.75), (0, 0, 0)),
        ("-clamp off -blendu on -bm 0.5 -s 2 2 1", (0.125, 0.375), RED),
        ("-s 0.5", (0.5, 0.75), RED),
        ("-o 0.5 0.25 0", (-0.25, 0.5), RED),
        ("-mm 0 1 -texres 256", (0.25, 0.75), RED),
        ("-clamp\ton\t-s\t1", (-5, 7), RED),
    ],
)
def test_options_of_a_texture(tmp_path, options, uv, rgb):
    np.testing.assert_allclose(colors(read(textured(tmp_path, options, uv=uv))), [rgb])


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("my texture 1.png", "my texture 1.png"),
        ("-s 1 1 1 my texture.png", "my texture.png"),
        ("T.PNG", "t.png"),
        ("tex\\t.png", "tex/t.png"),
        ("C:\\Users\\me\\t.png", "t.png"),
        ("/home/me/t.png", "t.png"),
        ('"t.png"', "t.png"),
        ("./t.png", "t.png"),
    ],
)
def test_names_of_textures(tmp_path, name, file):
    np.testing.assert_allclose(colors(read(textured(tmp_path, name=name, file=file, uv=(0.25, 0.75)))), [RED])


def test_a_tint_is_multiplied_and_an_exporters_grey_is_not(tmp_path):
    np.testing.assert_allclose(colors(read(textured(tmp_path, kd="Kd 0.5 1 1", uv=(0.25, 0.75)))), [(0.5, 0, 0)])
    for grey in ("0", "0.4", "0.8"):
        path = textured(tmp_path, kd=f"Kd {grey} {grey} {grey}", uv=(0.25, 0.75))
        np.testing.assert_allclose(colors(read(path, f"its grey (Kd {grey}) was left out beside its texture")), [RED])


def test_a_texture_that_is_missing_or_damaged_leaves_its_colour_and_a_note(tmp_path):
    path = textured(tmp_path, kd="Kd 0 1 0", name="gone.png")
    np.testing.assert_allclose(
        colors(read(path, "the texture 'gone.png' is missing; copy it beside the file")), [GREEN]
    )
    path = textured(tmp_path, kd="Kd 0 1 0", name="bad.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    np.testing.assert_allclose(colors(read(path, "the texture 'bad.png' cannot be read")), [GREEN])
    path = textured(tmp_path, kd="Kd 0 1 0")
    write(path, path.read_text().replace("1/1 2/1 3/1", "1 2 3"))
    np.testing.assert_allclose(
        colors(read(path, "faces without texture coordinates; these have its colour alone")), [GREEN]
    )


def test_faces_beside_a_texture_that_have_no_coordinates(tmp_path):
    path = textured(tmp_path, kd="Kd 0 1 0", uv=(0.25, 0.75))
    write(path, path.read_text().replace("f 1/1", "f 2/1 3/1 4/1\nf 3 4 5\nF 1/1"))
    parts = read(path, "material a: faces without texture coordinates")
    assert [len(part.faces) for part in parts] == [2, 1]
    np.testing.assert_allclose(colors(parts), [(0, 0, 0), (0, 0, 0), GREEN])  # the texture is red, its tint green


def test_colours_by_vertex_in_obj(tmp_path):
    for scale, told in ((1, ()), (255, ("taken as 0..255",))):
        rows = [f"v {x} {y} {z} {scale} 0 {0.5 * scale}" for x, y, z in PRISM]
        path = write(tmp_path / "x.obj", rows + obj_lines()[16:])
        np.testing.assert_allclose(colors(read(path, *told)), np.tile([1, 0, 0.5], (28, 1)))


def test_what_an_obj_says_and_is_not_taken_is_told(tmp_path):
    write(tmp_path / "m.mtl", ["newmtl a", "Kd 1 0 0", "d 0.5", "norm n.png", "map_d d.png", "illum 2", "Ns 5", "Pr 1"])
    rows = [
        "mtllib m.mtl",
        "usemtl a",
        *obj_lines(),
        "l 1 2",
        "p 3",
        "curv 0 1 1 2",
        "strange 1",
        "s 1",
        "g a",
        "vn 0 0 1",
    ]
    path = write(tmp_path / "x.obj", rows)
    read(path, "its lines and points", "its curves and surfaces", "lines that begin with strange", "a: the normal map",
         "a: the cut-outs", "a: its opacity")  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v 0 0 0\nv 1 0 0\n", "expected faces, got none"),
        ("v 0 0 0\nv 1 0 0\nl 1 2\n", "expected faces, got lines or points"),
        ("v 0 0 0\nf 1 2 3\n", "a face names vertex"),
        ("v 0 0 0\nf 0 1 1\n", "vertices are counted from 1"),
        ("v 0 0 0\nf -5 1 1\n", "before the first one"),
        ("v 0 0 0\nf 1/9 1/9 1/9\n", "texture coordinate that isn't among the 0"),
        ("v 0 0\n", "three numbers"),
        ("v 0,5 0 0\nf 1 1 1\n", "expected a number, got 0,5; write decimal points"),
        ("v 0 0 0\nf 1 a 1\n", "expected a number, got a"),
        ("v 0 0 0\nf 1 1.5 1\n", "no whole number"),
        ("<html>\n", "expected an OBJ file, got lines that begin with <html>"),
        ("\0\0\0\0", "got zero bytes"),
        ("# nothing\n", "expected faces"),
    ],
)
def test_bad_obj_files(tmp_path, text, message):
    path = tmp_path / "x.obj"
    path.write_text(text)
    assert message in fails(path)


# -- PLY


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


# -- OFF


def off_rows(vertices, faces):
    return [" ".join(map(repr, row)) for row in np.asarray(vertices).tolist()] + [
        f"{len(f)} {' '.join(map(str, f))}" for f in faces
    ]


@pytest.mark.parametrize("head", [["OFF", "16 10 0"], ["OFF 16 10 0"], ["16 10 0"], ["# a", "off", "", "16 10 # b"]])
def test_heads_of_off(tmp_path, head):
    assert volume(read(write(tmp_path / "x.off", [*head, "# here", *off_rows(PRISM, SIDES)]))) == pytest.approx(7)


@pytest.mark.parametrize(("text", "rgb"), [("255 128 0", (1, 128 / 255, 0)), ("1.0 0.5 0.0 1.0", (1, 0.5, 0))])
def test_colours_of_off(tmp_path, text, rgb):
    rows = off_rows(PRISM, SIDES)
    by_vertex = ["COFF", "16 10 0", *(f"{row} {text}" for row in rows[:16]), *rows[16:]]
    np.testing.assert_allclose(colors(read(write(tmp_path / "x.off", by_vertex))), np.tile(rgb, (28, 1)))
    by_face = ["OFF", "16 10 0", *rows[:16], *(f"{row} {text}" for row in rows[16:])]
    np.testing.assert_allclose(colors(read(write(tmp_path / "x.off", by_face))), np.tile(rgb, (28, 1)))
    some = ["OFF", "16 10 0", *rows[:17], *(f"{row} {text}" for row in rows[17:])]
    assert colors(read(write(tmp_path / "x.off", some)))[0].tolist() == [0.7] * 3
    both = ["CNOFF", "16 10 0", *(f"{row} 0 0 1 {text}" for row in rows[:16]), *(f"{row} 1 1 1" for row in rows[16:])]
    parts = read(write(tmp_path / "x.off", both), "its colours by face were left out")
    np.testing.assert_allclose(colors(parts), np.tile(rgb, (28, 1)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n", "is the file whole?"),
        ("OFF BINARY\n", "export it as text"),
        ("4OFF\n1 1 0\n", "four or more"),
        ("hello\n", "expected an OFF file"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n1 1 0\n3 0 1 9\n", "a face names vertex 9"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n1 1 0\n3 0 1\n", "expected a face"),
        ("OFF\n3 0 0\n0 0 0\n1 0 0\n1 1 0\n", "got points alone"),
    ],
)
def test_bad_off_files(tmp_path, text, message):
    assert message in fails(write(tmp_path / "x.off", text))


# -- STL


def stl(header=b"", extra=None):
    rows = np.zeros(12, np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("extra", "<u2")]))
    rows["corners"] = BOX.triangles
    rows["extra"] = 0 if extra is None else extra
    return header.ljust(80, b" ") + struct.pack("<I", 12) + rows.tobytes()


@pytest.mark.parametrize("header", [b"", b"solid box", b"SOLID facet normal vertex"])
def test_binary_stl_whatever_its_header_begins_with(tmp_path, header):
    (tmp_path / "x.stl").write_bytes(stl(header))
    parts = read(tmp_path / "x.stl")
    assert volume(parts) == pytest.approx(6) and parts[0].paint is None


@pytest.mark.parametrize(
    "change", [str, str.upper, lambda t: "\ufeff" + t, lambda t: t.replace("\n", "\r\n"), lambda t: t * 2]
)
def test_text_stl(tmp_path, change):
    text = change(BOX.export(file_type="stl_ascii").replace("solid", "solid my vertex", 1))
    assert volume(read(write(tmp_path / "x.stl", text))) == pytest.approx(
        12 if text.count("ENDSOLID") + text.count("endsolid") == 2 else 6
    )


def test_colours_of_stl(tmp_path):
    """5 bits each. VisCAM: bit 15 says that it counts, blue lowest. Materialise: bit 15 says that it doesn't, red lowest."""
    red_high, red_low = 31 << 10, 31
    (tmp_path / "x.stl").write_bytes(stl(extra=0x8000 | red_high))
    np.testing.assert_allclose(
        colors(read(tmp_path / "x.stl", "its colours were read as those of VisCAM")), np.tile(RED, (12, 1))
    )
    extra = np.where(np.arange(12) < 6, red_low, 0x8000)
    (tmp_path / "x.stl").write_bytes(stl(b"COLOR=" + bytes([0, 0, 255, 255]), extra))
    np.testing.assert_allclose(colors(read(tmp_path / "x.stl")), [RED] * 6 + [BLUE] * 6)
    (tmp_path / "x.stl").write_bytes(stl()[:80] + bytes(4) + stl()[84:])
    assert volume(read(tmp_path / "x.stl", "all 12 were read")) == pytest.approx(6)
    (tmp_path / "x.stl").write_bytes(stl(extra=7))
    assert read(tmp_path / "x.stl", "attribute bytes")[0].paint is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (stl()[:-10], "is the file whole?"),
        (b"solid x\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nendloop\n", "facets of three vertices"),
        (
            b"solid x\nfacet\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 1 a 0\nendloop\n",
            "expected a number, got a",
        ),
        (b"solid x\nendsolid x\n", "facets of three vertices"),
        (b"hello", "without a header"),
        (stl()[:80] + bytes(4), "expected 1 to"),
    ],
)
def test_bad_stl_files(tmp_path, data, message):
    (tmp_path / "x.stl").write_bytes(data)
    assert message in fails(tmp_path / "x.stl")


# -- all doors, other formats


def test_gltf_is_read_in_its_own_frame_with_a_note_for_what_is_no_mesh(tmp_path):
    scene = trimesh.Scene()
    scene.add_geometry(BOX, transform=trimesh.transformations.translation_matrix((0, 5, 0)))
    scene.export(tmp_path / "x.glb")
    parts = read(tmp_path / "x.glb")
    corners = np.concatenate([part.vertices for part in parts])
    np.testing.assert_allclose([corners.min(0), corners.max(0)], [[-0.5, 4, -1.5], [0.5, 6, 1.5]])


def test_errors_of_other_formats_say_what_to_do(tmp_path):
    for name, message in (
        ("x.dae", "install the package pycollada"),
        ("x.fbx", "ends in .glb, .gltf, .obj"),
        ("x", "no ending"),
    ):
        assert message in fails(write(tmp_path / name, "something"))
    assert "cannot be read as .zip" in fails(write(tmp_path / "x.zip", "something"))


def test_meshes_of_trimesh_go_the_same_way():
    box = trimesh.creation.box()
    box.visual = trimesh.visual.TextureVisuals(
        uv=np.full((8, 2), 0.5),
        material=trimesh.visual.material.PBRMaterial(
            baseColorTexture=Image.new("RGB", (2, 2), (188, 188, 188)), baseColorFactor=[64, 255, 255, 255]
        ),
    )
    texel = ((188 / 255 + 0.055) / 1.055) ** 2.4
    tinted = 1.055 * (64 / 255 * texel) ** (1 / 2.4) - 0.055
    np.testing.assert_allclose(
        colors(read_parts(box, "mesh")), np.tile([tinted, 188 / 255, 188 / 255], (12, 1)), atol=1e-6
    )
    plain = trimesh.creation.box()
    plain.visual = trimesh.visual.TextureVisuals(
        material=trimesh.visual.material.PBRMaterial(baseColorFactor=[128, 0, 0, 255])
    )
    linear = 1.055 * (128 / 255) ** (1 / 2.4) - 0.055
    np.testing.assert_allclose(colors(read_parts(trimesh.Scene(plain), "mesh"))[0], (linear, 0, 0), atol=1e-6)
    without = trimesh.creation.box()
    without.visual = trimesh.visual.TextureVisuals(
        material=trimesh.visual.material.SimpleMaterial(image=Image.new("RGB", (2, 2)))
    )
    with pytest.warns(UserWarning, match="mesh: its texture was left out"):
        read_parts(without, "mesh")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["x.obj", "text.ply", "binary.ply", "x.off", "text.stl", "binary.stl"])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, name):
    """A few bytes of a good file changed, removed or doubled at random."""
    rows = ["v 0 0 0 # a", "vt 0 1", *obj_lines(), "f -1/1 -2/1 -3/1 \\", "-4/1"]
    good = {
        "x.obj": "\n".join(rows).encode(),
        "text.ply": ply_text(PRISM, SIDES).encode(),
        "binary.ply": BOX.export(file_type="ply"),
        "x.off": "\n".join(["COFF", "16 10 0", *(f"{row} 1 2 3" for row in off_rows(PRISM, SIDES))]).encode(),
        "text.stl": BOX.export(file_type="stl_ascii").encode(),
        "binary.stl": stl(),
    }[name]
    rng, refused = np.random.default_rng(0), []
    for _ in range(150):
        data = bytearray(good)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            kind = rng.integers(4)
            if kind == 0:
                data[at] = rng.integers(256)
            elif kind == 1:
                del data[at : at + int(rng.integers(1, 9))]
            elif kind == 2:
                data[at:at] = data[at : at + int(rng.integers(1, 30))]
            else:
                data[at : at + 1] = rng.choice([b"-1", b"nan", b"1e999", b"99999999999", b"\n", b"/", b"\0", b"#"])
        (tmp_path / name).write_bytes(data)
        try:
            read_parts(tmp_path / name, "mesh")
        except MeshError as error:
            refused.append(str(error))
    assert 10 < len(refused) < 150
    assert not any("\n" in text for text in refused)
