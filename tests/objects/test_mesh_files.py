"""Mesh files of all formats: what they hold, which colours, what is told, and what a bad one says."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from PIL import Image

from objects.mesh_files import MeshError, read_parts
from tests.objects.mesh_texts import (
    BOX,
    PRISM,
    SIDES,
    colors,
    fails,
    obj_lines,
    off_rows,
    ply_text,
    read,
    stl,
    write,
)


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
