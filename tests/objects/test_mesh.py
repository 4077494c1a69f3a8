"""Meshes as teachers: distances, colours and bad input, against analytic solids."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from PIL import Image

from objects.mesh import read_mesh
from objects.mesh_files import MeshError

RNG = np.random.default_rng(0)


def _box_distance(p: np.ndarray, half: np.ndarray) -> np.ndarray:
    q = np.abs(p) - half
    return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0)


def _points(n: int = 3000, size: float = 2.0) -> np.ndarray:
    return RNG.uniform(-size, size, (n, 3))


def test_distance_of_a_box_is_exact():
    source = read_mesh(trimesh.creation.box((1, 2, 3)))
    p = _points()
    np.testing.assert_allclose(source.signed_distance(p), _box_distance(p, np.array([0.5, 1, 1.5])), atol=1e-9)


def test_inverted_mesh_means_the_same_solid():
    box = trimesh.creation.box((1, 2, 3))
    box.invert()
    p = _points()
    with pytest.warns(UserWarning, match="look inwards and were turned.*facing=inwards"):
        source = read_mesh(box)
    np.testing.assert_allclose(source.signed_distance(p), _box_distance(p, np.array([0.5, 1, 1.5])), atol=1e-9)


def test_overlapping_bodies_are_the_union_without_inner_walls():
    left, right = trimesh.creation.box((2, 1, 1)), trimesh.creation.box((2, 1, 1))
    left.apply_translation((-0.5, 0, 0))
    right.apply_translation((0.5, 0, 0))
    p = _points()
    for merged in (trimesh.util.concatenate([left, right]), trimesh.Scene([left, right])):
        source = read_mesh(merged)
        np.testing.assert_allclose(source.signed_distance(p), _box_distance(p, np.array([1.5, 0.5, 0.5])), atol=1e-6)
        assert np.abs(_box_distance(source.sample(2000, RNG)[0], np.array([1.5, 0.5, 0.5]))).max() < 1e-6


def test_open_overlapping_bodies_have_no_inner_walls():
    tubes = [trimesh.creation.icosphere(subdivisions=3) for _ in range(2)]
    for tube, x in zip(tubes, (-0.5, 0.5), strict=True):
        tube.apply_translation((x, 0, 0))
    both = trimesh.util.concatenate(tubes)
    both.update_faces(np.arange(len(both.faces)) != 0)  # a hole: no union by booleans
    source = read_mesh(both)
    buried = np.minimum(*(np.linalg.norm(source.sample(3000, RNG)[0] - [x, 0, 0], axis=1) for x in (-0.5, 0.5)))
    assert (buried > 0.95).mean() > 0.999
    assert source.signed_distance(np.array([[0.0, 0, 0], [0.4, 0, 0], [3, 0, 0]])).tolist() == pytest.approx(
        [-0.86, -0.9, 1.5], abs=0.08
    )


def test_cavity_stays_empty():
    outer, inner = trimesh.creation.icosphere(3, 1.0), trimesh.creation.icosphere(3, 0.5)
    inner.invert()
    source = read_mesh(trimesh.util.concatenate([outer, inner]))
    d = source.signed_distance(np.array([[0.0, 0, 0], [0.75, 0, 0], [1.5, 0, 0]]))
    np.testing.assert_allclose(d, [0.5, -0.25, 0.5], atol=0.02)


def test_mesh_with_a_hole_has_an_inside():
    sphere = trimesh.creation.icosphere(subdivisions=4)
    sphere.update_faces(sphere.triangles_center[:, 2] < 0.95)
    source = read_mesh(sphere)
    p = RNG.normal(size=(2000, 3))
    p *= (RNG.choice([0.8, 1.2], len(p)) / np.linalg.norm(p, axis=1))[:, None]
    far_from_hole = p[:, 2] < 0.6
    assert ((source.signed_distance(p) < 0) == (np.linalg.norm(p, axis=1) < 1))[far_from_hole].all()


def test_samples_are_even_and_normals_point_outwards():
    source = read_mesh(trimesh.creation.box((1, 1, 4)))
    p, normal = source.sample(20_000, RNG)
    ends = np.abs(p[:, 2]) > 2 - 1e-9
    assert ends.mean() == pytest.approx(2 / 18, abs=0.003)
    assert (source.signed_distance(p + 1e-3 * normal) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-9)


def test_vertex_colors_are_interpolated():
    box = trimesh.creation.box((2, 2, 2)).subdivide()
    box.visual.vertex_colors = np.round((box.vertices + 1) / 2 * 255).astype(np.uint8)
    source = read_mesh(box)
    p, _ = source.sample(500, RNG)
    np.testing.assert_allclose(source.colors(p), (p + 1) / 2, atol=0.01)


def test_texture_is_looked_up(tmp_path):
    ramp = np.zeros((64, 64, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, 64)[None]
    ramp[..., 1] = np.linspace(255, 0, 64)[:, None]  # v points up, rows down
    box = trimesh.creation.box((2, 2, 2))
    uv = (0.5 + 63 * (box.vertices[:, :2] + 1) / 2) / 64  # from centre to centre of the outer texels
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(ramp))
    box.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    for name in ("box.obj", "box.glb"):
        box.export(tmp_path / name)
        (tmp_path / "material.mtl").write_text("newmtl material_0\nmap_Kd material_0.png\n")
        source = read_mesh(tmp_path / name)
        p, _ = source.sample(500, RNG)
        expected = np.concatenate([(p[:, :2] + 1) / 2, np.zeros((500, 1))], 1)
        np.testing.assert_allclose(source.colors(p), expected, atol=0.01)


def test_parts_of_a_scene_keep_their_colors_and_places(tmp_path):
    scene = trimesh.Scene()
    for x, color in ((-2, [255, 0, 0, 255]), (2, [0, 0, 255, 255])):
        ball = trimesh.creation.icosphere(2)
        ball.visual.face_colors = color
        scene.add_geometry(ball, transform=trimesh.transformations.translation_matrix((x, 0, 0)))
    source = read_mesh(scene)
    np.testing.assert_allclose(source.colors(np.array([[-3.0, 0, 0], [3.0, 0, 0]])), [[1, 0, 0], [0, 0, 1]], atol=1e-6)


def test_mesh_without_color_is_grey():
    source = read_mesh(trimesh.creation.box((1, 1, 1)))
    assert not source.has_color
    assert (source.colors(np.zeros((2, 3))) == 0.7).all()


def test_hash_sees_geometry_and_color():
    def box(size: float, color: int) -> str:
        mesh = trimesh.creation.box((1, 1, size))
        mesh.visual.face_colors = [color, 0, 0, 255]
        return read_mesh(mesh).content_hash()

    assert box(1, 9) == box(1, 9)
    assert len({box(1, 9), box(1.001, 9), box(1, 10)}) == 3


def test_bad_files_are_named(tmp_path):
    with pytest.raises(MeshError, match=r"none\.obj.*no such file"):
        read_mesh(tmp_path / "none.obj")
    with pytest.raises(MeshError, match="folder"):
        read_mesh(tmp_path)
    for name, content in (
        ("empty.obj", ""),
        ("words.ply", "not a mesh"),
        ("points.obj", "v 0 0 0\nv 1 0 0\n"),
        ("x.qqq", "a"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(MeshError, match=name):
            read_mesh(tmp_path / name)


def _with_nan() -> trimesh.Trimesh:
    box = trimesh.creation.box((1, 1, 1))
    vertices = box.vertices.copy()
    vertices[0, 0] = np.nan
    return trimesh.Trimesh(vertices, box.faces, process=False)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (_with_nan(), "NaN"),
        (trimesh.Trimesh(np.zeros((3, 3)), np.zeros((0, 3), int), process=False), "none"),
        (trimesh.Trimesh(np.ones((3, 3)), [[0, 1, 2]], process=False), "one point"),
        (trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], process=False), "area"),
        (trimesh.Trimesh(np.eye(3), [[0, 1, 7]], process=False, validate=False), "index"),
        (3, "int"),
    ],
)
def test_bad_meshes_are_refused(mesh, message):
    with pytest.raises(MeshError, match=f"mesh.*{message}"):
        read_mesh(mesh)


def test_degenerate_faces_change_nothing():
    box = trimesh.creation.box((1, 2, 3))
    faces = np.concatenate([box.faces, [[0, 0, 1], [2, 2, 2]]])
    source = read_mesh(trimesh.Trimesh(box.vertices, faces, process=False))
    p = _points()
    np.testing.assert_allclose(source.signed_distance(p), _box_distance(p, np.array([0.5, 1, 1.5])), atol=1e-9)
