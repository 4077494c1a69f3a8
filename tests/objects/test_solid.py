"""What triangles mean: which way they look, sheets, rooms; against analytic solids."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from objects.mesh import MeshSource, read_mesh
from objects.mesh_files import MeshError

QUAD = trimesh.Trimesh([[-2, -2, 0], [2, -2, 0], [2, 2, 0], [-2, 2, 0]], [[0, 1, 2], [0, 2, 3]], process=False)


def _ball(hole: bool = False) -> trimesh.Trimesh:
    ball = trimesh.creation.icosphere(subdivisions=3)
    if hole:
        ball.update_faces(ball.triangles_center[:, 2] < 0.9)
    return ball


def _mesh(triangles: np.ndarray) -> trimesh.Trimesh:
    """Triangles that share no vertices."""
    return trimesh.Trimesh(triangles.reshape(-1, 3), np.arange(3 * len(triangles)).reshape(-1, 3), process=False)


def _mixed(mesh: trimesh.Trimesh, share: float) -> trimesh.Trimesh:
    faces = mesh.faces.copy()
    turned = np.random.default_rng(0).random(len(faces)) < share
    faces[turned] = faces[turned][:, ::-1]
    return trimesh.Trimesh(mesh.vertices, faces, process=False)


def _box(size: float, z: float = 0.0, inwards: bool = False) -> trimesh.Trimesh:
    box = trimesh.creation.box((size, size, size))
    box.apply_translation((0, 0, z))
    if inwards:
        box.invert()
    return box


def _wrong_signs(source: MeshSource) -> float:
    """Share of points within 1.5 of the middle, away from the unit sphere, whose side of it is wrong."""
    p = np.random.default_rng(1).uniform(-1.5, 1.5, (4000, 3))
    radius = np.linalg.norm(p, axis=1)
    clear = (np.abs(radius - 1) > 0.05) & (np.abs(p[:, 2] - 0.95) > 0.15)
    return float(((source.signed_distance(p) < 0) != (radius < 1))[clear].mean())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("hole", [False, True])
def test_faces_that_look_both_ways_are_made_consistent(hole, share):
    with pytest.warns(UserWarning, match="looked the other way"):
        source = read_mesh(_mixed(_ball(hole), share), facing="outwards")
    assert _wrong_signs(source) == 0


@pytest.mark.parametrize("gap", [0.0, 1e-4])
def test_loose_triangles_that_look_both_ways_are_turned_by_what_is_seen_from_outside(gap):
    triangles = _mixed(_mesh(_ball().triangles), 0.5).triangles
    triangles = triangles + np.random.default_rng(2).normal(0, gap, (len(triangles), 1, 3))
    with pytest.warns(UserWarning, match="its faces looked"):
        source = read_mesh(_mesh(triangles))
    assert _wrong_signs(source) == 0


@pytest.mark.parametrize("hole", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_doubled_faces_change_nothing(hole, turned):
    ball = _ball(hole)
    again = ball.faces[:, ::-1] if turned else ball.faces
    source = read_mesh(trimesh.Trimesh(ball.vertices, np.concatenate([ball.faces, again]), process=False))
    assert _wrong_signs(source) == 0


def test_one_of_two_bodies_inside_out_is_turned():
    pair = trimesh.util.concatenate([_box(1, 3), _box(1, -3, inwards=True)])
    with pytest.warns(UserWarning, match="1 of 2 surfaces look inwards and were turned"):
        source = read_mesh(pair)
    np.testing.assert_allclose(
        source.signed_distance(np.array([[0.0, 0, 3], [0, 0, -3], [0, 0, 0]])), [-0.5, -0.5, 2.5]
    )


ROOM_POINTS = np.array([[0.0, 0, 1], [0, 0, -1.5], [0, 0, 2.02], [0, 0, 3]])  # air, table, ceiling, above


def test_room_that_holds_a_table_is_air_within_walls():
    with pytest.warns(UserWarning, match="walls of a room.*facing=outwards"):
        source = read_mesh(trimesh.util.concatenate([_box(4, inwards=True), _box(1, -1.5)]))
    np.testing.assert_allclose(source.signed_distance(ROOM_POINTS), [1, -0.5, -0.02, 0.92], atol=1e-9)
    p, normal = source.sample(4000, np.random.default_rng(0))
    assert np.abs(source.signed_distance(p)).max() < 1e-6
    assert (source.signed_distance(p + 1e-3 * normal) > 0).mean() > 0.98  # but where table and floor touch
    faces = np.array([[2.08, 0, 0], [0, -2.08, 0], [0, 0, 2.08]])
    np.testing.assert_allclose(source.signed_distance(faces), 0, atol=1e-9)
    assert (source.hi >= 2.08 - 1e-9).all()


def test_facing_decides_where_a_room_is_doubtful():
    both = trimesh.util.concatenate([_box(4, inwards=True), _box(1, -1.5)])
    with pytest.warns(UserWarning, match="1 of 2 surfaces look inwards and were turned"):
        assert read_mesh(both, facing="outwards").signed_distance(ROOM_POINTS)[0] == pytest.approx(-1)
    for empty in (_box(4, inwards=True), _box(4)):
        with pytest.warns(UserWarning, match="walls of a room"):
            distance = read_mesh(empty, facing="inwards").signed_distance(ROOM_POINTS)
        np.testing.assert_allclose(distance, [1, 0.5, -0.02, 0.92], atol=1e-9)


def test_scan_of_a_room_with_welded_furniture_is_air_when_said_so():
    solid = trimesh.boolean.difference([_box(4), _box(1, -1.5)], engine="manifold")
    solid.invert()
    with pytest.warns(UserWarning, match="walls of a room"):
        source = read_mesh(solid, facing="inwards")
    assert source.signed_distance(ROOM_POINTS)[0] == pytest.approx(1)


def test_room_without_a_ceiling_is_air():
    room = _box(4, inwards=True)
    room.update_faces(room.triangles_center[:, 2] < 1.9)
    with pytest.warns(UserWarning, match="look into a room that is open"):
        source = read_mesh(trimesh.util.concatenate([room, _box(1, -1.5)]))
    distance = source.signed_distance(np.array([[0.0, 0, 1], [0, 0, -1.5], [2, 0, 0], [0, 0, 3]]))
    np.testing.assert_allclose(distance, [1.96, -0.5, -0.04, np.hypot(2, 1) - 0.04], atol=1e-9)


def test_room_modelled_with_an_outer_hull_needs_no_note():
    source = read_mesh(trimesh.util.concatenate([_box(5), _box(4, inwards=True), _box(1, -1.5)]))
    np.testing.assert_allclose(source.signed_distance(ROOM_POINTS[:3]), [1, -0.5, -0.02], atol=1e-6)


def test_flat_part_becomes_a_slab():
    with pytest.warns(UserWarning, match="flat.*0.08 thick.*thickness="):
        source = read_mesh(QUAD)
    points = np.array([[0.0, 0, 0], [0, 0, 0.1], [0, 0, -0.1], [2.2, 0, 0], [2.3, 2.4, 0]])
    np.testing.assert_allclose(source.signed_distance(points), [-0.04, 0.06, 0.06, 0.16, 0.46], atol=1e-9)
    p, normal = source.sample(4000, np.random.default_rng(0))
    assert np.abs(source.signed_distance(p)).max() < 1e-3
    assert (source.signed_distance(p + 1e-2 * normal) > 0).all()
    assert (np.abs(p[:, :2]).max(1) > 2).mean() == pytest.approx(16 * np.pi * 0.04 / (32 + 16 * np.pi * 0.04), abs=0.02)
    np.testing.assert_allclose(source.hi, [2.04, 2.04, 0.04])
    with pytest.warns(UserWarning, match="0.2 thick"):
        assert read_mesh(QUAD, thickness=0.05).signed_distance(points)[0] == pytest.approx(-0.1)


def test_flat_part_beside_a_body_is_a_slab_and_the_body_stays_exact():
    with pytest.warns(UserWarning, match="parts of it are flat"):
        source = read_mesh(trimesh.util.concatenate([QUAD, _box(1, 0.5)]))
    points = np.array([[0.0, 0, 0.5], [0, 0, 1.2], [1.5, 0, 0], [1.5, 0, -0.3]])
    np.testing.assert_allclose(source.signed_distance(points), [-0.5, 0.2, -0.04, 0.26], atol=1e-9)


@pytest.mark.parametrize("turned", [False, True])
def test_half_a_pipe_is_a_sheet_whichever_way_it_looks(turned):
    angle = np.linspace(0, np.pi, 65)
    arc = np.stack([np.cos(angle), np.sin(angle)], 1)
    vertices = np.concatenate([np.insert(arc, 2, z, axis=1) for z in (-2, 2)])
    i = np.arange(64)
    faces = np.concatenate([np.stack([i, i + 1, i + 65], 1), np.stack([i + 1, i + 66, i + 65], 1)])
    with pytest.warns(UserWarning, match="without volume"):
        source = read_mesh(trimesh.Trimesh(vertices, faces[:, ::-1] if turned else faces, process=False))
    distance = source.signed_distance(np.array([[0, 0.5, 0], [0, 1.0, 0], [0, 1.5, 0], [0, -0.5, 0]]))
    expected = [0.46, -0.04, 0.46, np.hypot(1, 0.5) - 0.04]
    np.testing.assert_allclose(distance, expected, atol=2e-3)


def test_coordinates_far_from_the_origin_are_refused_with_the_way_out():
    far = _ball()
    far.apply_translation((451234.5, 5411987.25, 312))
    with pytest.raises(MeshError, match=r"5.41199e\+06 from the origin.*origin=451234"):
        read_mesh(far)
    source = read_mesh(far, origin=(451234.5, 5411987.25, 312.0))
    assert _wrong_signs(source) == 0
    np.testing.assert_allclose(source.hi, 1, atol=1e-8)
    near = _ball()
    near.apply_translation((300, 0, 0))
    assert read_mesh(near).signed_distance(np.array([[300.0, 0, 0]])) == pytest.approx(-0.99, abs=0.02)


def test_pieces_of_a_solid_and_its_spaces_are_counted():
    hollow = trimesh.util.concatenate([_box(2), _box(1, inwards=True)])
    touching = trimesh.util.concatenate([_box(1, -0.5005), _box(1, 0.5005)])
    apart = trimesh.util.concatenate([_box(1, -0.6), _box(1, 0.6)])
    assert [read_mesh(m).parts for m in (_box(1), hollow, touching, apart)] == [(1, 1), (1, 2), (1, 1), (2, 1)]
    assert read_mesh(_ball(hole=True)).parts is None


@pytest.mark.parametrize("size", [1e31, 1e39, 1e300])
def test_coordinates_that_float32_cannot_hold_are_refused(size):
    box = trimesh.creation.box((1, 1, 1))
    box.vertices = box.vertices * size
    with pytest.raises(ValueError, match="numbers of 32 bits can't hold"):
        read_mesh(box)
