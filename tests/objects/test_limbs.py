"""Limbs that were lost between two frames."""

import numpy as np
import trimesh

from objects.limbs import in_air, lost_nodes, swung
from objects.partial_sequences import Seen
from objects.warp_surface import part_of
from objects.warp_tracking import Motion, moved, template_of

HINGE = np.array([0.1, 0.0, 0.3])


def _turned(p, angle):
    c, s = np.cos(angle), np.sin(angle)
    return (p - HINGE) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T + HINGE


def _body(angle, n=3000):
    """A box with an arm that hangs at its side and is turned about there."""
    trunk = trimesh.creation.box((0.2, 0.1, 0.8))
    arm = trimesh.creation.box((0.5, 0.06, 0.06)).apply_translation((0.35, 0, 0.3))
    p, face = trimesh.sample.sample_surface(trunk, 2 * n // 3, seed=0)
    q, other = trimesh.sample.sample_surface(arm, n // 3, seed=1)
    zero = np.zeros(3)
    points = np.concatenate([p, _turned(q, angle)])
    normals = np.concatenate([trunk.face_normals[face], _turned(arm.face_normals[other] + HINGE, angle) - HINGE + zero])
    return Seen(points, normals, np.full_like(points, 0.5)), np.arange(len(points)) >= len(p)


def test_a_limb_that_was_left_in_the_air_is_found_where_it_is_shown():
    (rest, _), (there, _) = _body(0.0), _body(1.2)
    template = template_of(part_of(rest, n_points=600, n_dense=1500, seed=0), 40)
    none = Motion.none(len(template.nodes))

    def before(p):
        return np.where((p[:, 0] > 0.15) & (p[:, 2] > 0.2), 1.0, 0.0)  # where the arm was nothing is now

    air = in_air(template, template.points, before)
    lost = lost_nodes(template.home, len(template.nodes), air)
    assert (template.nodes[lost, 0] > 0.12).all() and lost.sum() >= 3
    found = swung(template, none, part_of(there, n_points=600, n_dense=1500, seed=0), before)
    assert found is not None
    tip = template.points[:, 0] > 0.4
    goal = _turned(template.points, 1.2)
    off, apart = (np.linalg.norm(p - goal, axis=1)[tip] for p in (moved(template, found)[0], template.points))
    assert np.median(off) < 0.1 and apart.min() > 0.3
    still = template.points[:, 0] < 0.0
    assert np.linalg.norm(moved(template, found)[0] - template.points, axis=1)[still].max() < 0.02


def test_nothing_is_sought_where_nothing_was_lost():
    rest, _ = _body(0.0)
    shown = part_of(rest, n_points=300, n_dense=900, seed=0)
    template = template_of(shown, 20)
    assert swung(template, Motion.none(20), shown, lambda p: np.zeros(len(p))) is None
