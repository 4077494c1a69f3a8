"""OFF and STL files: what is read, what is told, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tests.objects.mesh_texts import (
    BLUE,
    BOX,
    PRISM,
    RED,
    SIDES,
    colors,
    fails,
    off_rows,
    read,
    stl,
    volume,
    write,
)

# -- OFF


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
