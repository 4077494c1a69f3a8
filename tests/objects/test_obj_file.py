"""OBJ files: what is read, what is told, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from PIL import Image

from objects.mesh import read_mesh
from tests.objects.mesh_texts import (
    BOX,
    GREEN,
    PRISM,
    RED,
    SIDES,
    colors,
    fails,
    obj_lines,
    off_rows,
    ply_text,
    read,
    volume,
    write,
)


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
