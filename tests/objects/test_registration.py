"""Two configurations of one thing are aligned: rigid motion, warp, and a score that tells things apart."""

import numpy as np
import pytest
import torch
import trimesh

from objects.aabb import Aabb
from objects.analytic_warps import Bend, Twist
from objects.placed import Placed
from objects.pose import SE3
from objects.primitives import Box
from objects.registration import RegistrationConfig, register, register_shapes, rigid_part, shape_of
from objects.warped import Warped

SMALL = RegistrationConfig(nodes=40, points=500, dense=2000, tried=2)
TURN = trimesh.transformations.rotation_matrix(1.9, (1, -2, 3), (0.3, 0.1, 0))
SIZE = Aabb(torch.tensor([-0.2, -0.2, -0.5]), torch.tensor([0.2, 0.2, 0.5]))
BEND = Bend(SIZE, (0, 0, 1), (1, 0, 0), (0, 0, 0), 0.5, (0, 1), (0, 2.0))


def _hammer():
    parts = [
        trimesh.creation.box((0.12, 0.06, 0.8)),
        trimesh.creation.box((0.1, 0.3, 0.1)).apply_translation((0.04, 0.06, 0.4)),
    ]
    return trimesh.boolean.union(parts, engine="manifold").subdivide_to_size(0.04)


def _bent(mesh):
    p = torch.from_numpy(np.array(mesh.vertices)).float()
    return trimesh.Trimesh(BEND.deformed(p, torch.ones(len(p))).double().numpy(), mesh.faces, process=False)


def _angle(turn):
    return np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))


@pytest.fixture(scope="module")
def hammer():
    return shape_of(_hammer(), 0, SMALL)


def test_a_bent_and_turned_thing_is_matched_with_itself_and_not_with_another(hammer):
    found = register_shapes(hammer, shape_of(_bent(_hammer()).apply_transform(TURN), 1, SMALL), SMALL)
    bent = BEND.deformed(found.points_a, torch.ones(len(found.points_a))).double().numpy()
    off = np.linalg.norm(found.points_b.numpy() - trimesh.transform_points(bent, TURN), axis=1)
    assert np.median(off) < 0.04 * hammer.surface.extent
    assert found.score > 0.5
    assert float((found.carried(found.points_a) - found.points_b).norm(dim=1).mean()) < 0.01 * hammer.surface.extent
    assert torch.allclose(
        found.warp.deformed(found.points_a, torch.zeros(len(found.points_a))), found.points_a, atol=1e-5
    )
    other = trimesh.creation.torus(0.3, 0.1)
    assert register_shapes(hammer, shape_of(other, 1, SMALL), SMALL).score < 0.3


def test_a_field_that_was_only_turned_is_found_to_a_degree():
    thing = Box((0.12, 0.1, 0.8)) | Placed(Box((0.1, 0.3, 0.1)), SE3.from_translation([0.04, 0.1, 0.4]))
    pose = SE3.from_matrix(torch.from_numpy(TURN).float())
    found = register(thing, Placed(thing, pose), config=SMALL)
    turn = found.T_b_a.as_matrix()[:3, :3].numpy()
    assert _angle(TURN[:3, :3].T @ turn) < 1.5
    assert found.score > 0.8
    assert float((found.carried(found.points_a) - pose @ found.points_a).norm(dim=1).median()) < 0.02


def test_colours_decide_where_the_shape_is_symmetric():
    ways = []
    for turn in (0.0, np.pi):
        box = trimesh.creation.box((0.2, 0.4, 0.8)).subdivide_to_size(0.05)
        red = np.where(box.vertices[:, 2:] > 0, [[255, 0, 0, 255]], [[20, 20, 200, 255]]).astype(np.uint8)
        box = trimesh.Trimesh(box.vertices, box.faces, vertex_colors=red, process=False)
        ways.append(shape_of(box.apply_transform(trimesh.transformations.rotation_matrix(turn, (1, 0, 0))), 0, SMALL))
    assert _angle(register_shapes(ways[0], ways[1], SMALL).T_b_a.as_matrix()[:3, :3].numpy()) > 170


def test_the_rigid_part_is_that_of_most_points():
    rng = np.random.default_rng(0)
    p = rng.normal(size=(200, 3))
    q = trimesh.transform_points(p, TURN)
    q[:80] += rng.normal(size=(80, 3))
    turn, shift = rigid_part(p, q, 0.02)
    assert np.allclose(turn, TURN[:3, :3], atol=1e-3)
    assert np.allclose(shift, TURN[:3, 3], atol=3e-3)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (None, "field_b must be a Field, got NoneType"),
        (
            Warped(Box((0.1, 0.1, 0.5)), Twist(SIZE, (0, 0, 1), (0, 0, 0), (0, 1), (0, 1)), stretch=1.5),
            "doesn't depend on time",
        ),
    ],
)
def test_what_cannot_be_aligned_is_refused(field, words):
    with pytest.raises(ValueError, match=words):
        register(Box((0.1, 0.2, 0.5)), field, config=SMALL)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="nodes <= points"):
        RegistrationConfig(nodes=10, points=5)
