"""Surfaces are followed through sequences: what passes each other is not exchanged."""

import igl
import numpy as np
import pytest
import trimesh

from objects.mesh import read_mesh
from objects.warp_following import cost, follow
from objects.warp_learning import together
from objects.warp_surface import surface_of
from objects.warp_tracking import moved, template_of

LEGS = trimesh.boolean.union(
    [
        trimesh.creation.box((0.5, 0.16, 0.12)),
        *(trimesh.creation.box((0.06, 0.06, 0.5)).apply_translation((0, y, -0.25)) for y in (-0.05, 0.05)),
    ],
    engine="manifold",
).subdivide_to_size(0.03)
SWING = (
    0.66,
    0.22,
    -0.22,
    -0.66,
)  # of the legs, radians, the one against the other: they pass each other in the middle


def _walker(angle):
    p = np.array(LEGS.vertices)
    down = np.clip((-p[:, 2] - 0.06) / 0.08, 0, 1)
    turn = angle * np.sign(p[:, 1]) * down**2 * (3 - 2 * down)
    x, z = p[:, 0], p[:, 2] + 0.06
    moved_ = np.stack([np.cos(turn) * x + np.sin(turn) * z, p[:, 1], np.cos(turn) * z - np.sin(turn) * x - 0.06], 1)
    return trimesh.Trimesh(moved_, LEGS.faces, process=False)


def _surface(mesh, seed, n=700):
    return surface_of(read_mesh(mesh), n_points=n, n_dense=2500, seed=seed)


@pytest.fixture(scope="module")
def walk():
    surfaces = [_surface(_walker(angle), k) for k, angle in enumerate(SWING)]
    template = template_of(surfaces[1], 60)
    return template, surfaces, follow(template, surfaces, 1, np.arange(4.0))


def _where(template):
    """The triangles that points of the template lie in, at rest, and where in them."""
    mesh = _walker(SWING[1])
    _, triangle, at = igl.point_mesh_squared_distance(template.points, mesh.vertices, np.asarray(LEGS.faces, np.int64))
    return triangle, trimesh.triangles.points_to_barycentric(mesh.triangles[triangle], at)


def test_legs_that_pass_each_other_between_two_frames_are_not_exchanged(walk):
    template, _, followed = walk
    triangle, share = _where(template)
    for angle, motion in zip(SWING, followed.motions, strict=True):
        true = (_walker(angle).triangles[triangle] * share[..., None]).sum(1)
        off = np.linalg.norm(moved(template, motion)[0] - true, axis=1)
        assert np.quantile(off, 0.95) < 0.05 * template.extent


def test_without_velocity_the_legs_are_exchanged(walk):
    template, surfaces, followed = walk
    alone = follow(template, [surfaces[1], surfaces[2]], 0, np.arange(2.0)).motions[1]
    apart = np.linalg.norm(moved(template, alone)[0] - moved(template, followed.motions[2])[0], axis=1)
    assert apart.max() > 0.2 * template.extent
    assert cost(template, alone, surfaces[2]) > cost(template, followed.motions[2], surfaces[2])


def test_both_faces_of_a_sheet_move_together_and_parts_that_pass_each_other_do_not(walk):
    template, _, followed = walk
    near = together(template, template.nodes + np.stack([motion.shift for motion in followed.motions]))
    leg = np.where(template.nodes[:, 2] < -0.2, np.sign(template.nodes[:, 1]), 0)
    assert (leg[near[leg > 0][:, :8]] >= 0).all() and (leg[near[leg < 0][:, :8]] <= 0).all()

    sheet = template_of(_surface(trimesh.creation.box((1, 1, 0.02)).subdivide_to_size(0.1), 0), 60)
    near = together(sheet, sheet.nodes[None])
    middle = np.abs(sheet.nodes[:, :2]).max(1) < 0.3
    other = sheet.nodes[near[middle], 2] * sheet.nodes[middle, None, 2] < 0
    assert (other.sum(1) >= 6).all()
    along = sheet.nodes[sheet.near[middle, :8], 2] * sheet.nodes[middle, None, 2] < 0
    assert along.mean() < 0.1
