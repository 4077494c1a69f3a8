"""Point clouds from PLY files: the reader of meshes, so that number types and names of colours mean the same."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from scenes.io.point_files import read_points


def write(path, kind="float", names=("red", "green", "blue"), color="uchar", value="255 128 0", x="0.25"):
    head = ["ply", "format ascii 1.0", "element vertex 2"]
    head += [f"property {kind} {c}" for c in ("x", "y", "z", "nx", "ny", "nz")]
    head += [f"property {color} {name}" for name in names] + ["end_header"]
    path.write_text("\n".join([*head, *[f"{x} 0 0 0 0 1 {value}"] * 2]) + "\n")
    return path


@pytest.mark.parametrize(
    ("names", "kind", "value", "told"),
    [
        (("red", "green", "blue"), "uchar", "255 128 0", None),
        (("diffuse_red", "diffuse_green", "diffuse_blue"), "uchar", "255 128 0", None),
        (("r", "g", "b"), "float", "1 0.50196 0", None),
        (("red", "green", "blue"), "ushort", "65535 32896 0", None),
        (("red", "green", "blue"), "int", "255 128 0", "int32"),
        (("red", "green", "blue"), "float", "255 128 0", "float"),
    ],
)
def test_colours_under_any_usual_name_and_type(tmp_path, names, kind, value, told):
    path = write(tmp_path / "p.ply", names=names, color=kind, value=value)
    if told is None:
        colors = read_points(path).colors
    else:
        with pytest.warns(UserWarning, match=rf"p\.ply: its colours \({told}.*were taken as 0\.\.255"):
            colors = read_points(path).colors
    assert colors is not None
    np.testing.assert_allclose(colors, [[1, 128 / 255, 0]] * 2, atol=1e-5)


def test_points_far_from_the_origin_are_not_rounded(tmp_path):
    points = read_points(write(tmp_path / "p.ply", kind="double", x="5411987.254321")).points
    assert points[0, 0].item() == 5411987.254321


def test_big_endian_points(tmp_path):
    head = "ply\nformat binary_big_endian 1.0\nelement vertex 1\n"
    head += "".join(f"property double {c}\n" for c in ("nx", "ny", "nz", "x", "y", "z")) + "end_header\n"
    (tmp_path / "p.ply").write_bytes(head.encode() + struct.pack(">6d", 0, 0, 1, 4, 5, 6))
    points, normals, colors = read_points(tmp_path / "p.ply")
    assert points.tolist() == [[4, 5, 6]] and normals.tolist() == [[0, 0, 1]] and colors is None
