"""Sequences are learned without correspondences: surfaces, points that are followed, bad input."""

import warnings

import igl
import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import KDTree

from objects.analytic_warps import Bend
from objects.mesh import read_mesh
from objects.mesh_samples import FitConfig
from objects.points import PointsConfig
from objects.primitives import Capsule
from objects.warp_learning import PointFrame, SequenceConfig, canonical_frame, fit_sequence
from objects.warp_surface import surface_of
from objects.warp_tracking import Motion, Stage, moved, register, template_of, turn

ROD = Capsule(0.1, 0.6)
TIMES = (0.0, 0.5, 1.0, 1.5)
BEND = Bend(ROD.bounds, (0, 0, 1), (1, 0, 0), (0, 0, 0), 0.6, (0, 1.5), (-1, 2.5))
EXTENT = 0.8
SMALL = SequenceConfig(
    nodes=30,
    points=500,
    dense=2000,
    anchors=300,
    mesh=FitConfig(
        width=24,
        color_width=8,
        steps=300,
        spread=1,
        mend_rounds=0,
        pool=16_384,
        batch=512,
        color_pool=1024,
        color_batch=64,
    ),
    cloud=PointsConfig(width=24, color_width=8, steps=200, pool=8192),
)


def _rod(turn):
    """A flat rod with a knob, whose triangles lie otherwise for each turn."""
    rod = trimesh.creation.capsule(height=0.6, radius=0.1, count=(24, 24))
    rod.apply_translation((0, 0, -0.3))
    knob = trimesh.creation.icosphere(subdivisions=2, radius=0.07)
    knob.apply_translation((0.1, 0, 0.2))
    rod.apply_transform(trimesh.transformations.rotation_matrix(turn, (0, 0, 1)))
    rod.apply_scale((1.5, 0.7, 1))
    return trimesh.boolean.union([rod, knob], engine="manifold").subdivide_to_size(0.06)


def _frame(time, turn=0.0):
    mesh = _rod(turn)
    p = torch.from_numpy(np.array(mesh.vertices)).float()
    bent = BEND.deformed(p, torch.full((len(p),), time)).double().numpy()
    return trimesh.Trimesh(bent, mesh.faces, process=False)


def _off(learned, time):
    """Distances of learned points from the true surface and errors of followed points, means in shares of the extent."""
    canonical = learned.field.to_mesh()
    p = torch.from_numpy(np.array(canonical.vertices)).float()
    there = learned.deformed(p, torch.full((len(p),), time)).double().numpy()
    true = _frame(time)
    surface = np.sqrt(igl.point_mesh_squared_distance(there, true.vertices, np.asarray(true.faces, np.int64))[0])
    start = torch.from_numpy(np.array(_frame(0.0).vertices)).float()
    carried = learned.warp.carried(start, torch.zeros(len(start)), torch.full((len(start),), time))
    followed = np.linalg.norm(carried.double().numpy() - true.vertices, axis=1)
    return surface.mean() / EXTENT, np.median(followed) / EXTENT


@pytest.fixture(scope="module")
def learned():
    return fit_sequence([_frame(t, k) for k, t in enumerate(TIMES)], TIMES, config=SMALL, progress=False)


def test_a_bending_rod_is_learned_and_followed_at_times_seen_and_between(learned):
    for time in (0.0, 0.25, 0.75, 1.25, 1.5):
        surface, followed = _off(learned, time)
        assert surface < 0.01
        assert followed < 0.02


def test_points_near_the_surface_come_back_to_a_thousandth(learned):
    for time in TIMES:
        p = torch.from_numpy(np.array(_frame(time).vertices)).float()
        there_and_back = learned.warp.residual(p, torch.full((len(p),), time))
        assert float(there_and_back.mean()) < 1e-3 * EXTENT


def test_the_zero_set_of_the_bent_field_is_the_surface(learned):
    p = torch.from_numpy(np.array(_frame(0.75).vertices)).float()
    time = torch.full((len(p),), 0.75)
    normal = torch.from_numpy(np.array(_frame(0.75).vertex_normals)).float()
    assert (learned.sdf(p + 0.03 * normal, time) > 0).float().mean() > 0.98
    assert (learned.sdf(p - 0.03 * normal, time) < 0).float().mean() > 0.98


def test_a_sequence_comes_from_the_cache_with_the_same_bits(learned):
    again = fit_sequence([_frame(t, k) for k, t in enumerate(TIMES)], TIMES, config=SMALL, progress=False)
    for a, b in zip(learned.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_what_a_sequence_misses_is_measured(learned):
    measured = learned.measured
    assert 0 < measured["distance_pct"] <= measured["worst_distance_pct"] < 1
    assert measured["worst_at_s"] in TIMES
    assert measured["folded_pct"] < 1


def test_clouds_are_followed_too():
    frames = []
    for seed, time in enumerate(TIMES[:3]):
        p, face = trimesh.sample.sample_surface(_frame(time), 3000, seed=seed)
        frames.append(PointFrame(np.asarray(p), _frame(time).face_normals[face]))
    learned = fit_sequence(frames, TIMES[:3], config=SMALL, progress=False)
    surface, followed = _off(learned, 1.0)
    assert surface < 0.015
    assert followed < 0.03


def test_what_appears_is_told_of_and_does_no_harm():
    other = trimesh.util.concatenate(
        [_frame(0.5), trimesh.creation.icosphere(subdivisions=2, radius=0.2).apply_translation((1, 0, 0))]
    )
    with pytest.warns(UserWarning, match=r"in 1 of 2 frames the surface is off"):
        learned = fit_sequence([_frame(0.0), other], (0.0, 0.5), config=SMALL, progress=False)
    assert learned.measured["worst_distance_pct"] > 1


@pytest.mark.parametrize(
    ("count", "times", "keys", "words"),
    [
        (1, (0.0,), {}, "at least 2 frames"),
        (2, (0.0,), {}, "a time for each"),
        (2, (1.0, 1.0), {}, "increase"),
        (2, (0.0, float("nan")), {}, "finite"),
        (2, (0.0, 1.0), {"period": 0.5}, "period must be more"),
    ],
)
def test_bad_sequences_are_refused(count, times, keys, words):
    with pytest.raises(ValueError, match=words):
        fit_sequence([_frame(0.0)] * count, times, config=SMALL, progress=False, **keys)


# -- surfaces and steps ------------------------------------------------------------------------------------------------


def _surface(mesh, n=400):
    return surface_of(read_mesh(mesh), n_points=n, n_dense=2000, seed=0)


def test_geodesic_quantiles_stay_when_a_thing_bends():
    straight, bent = _surface(_frame(0.2)), _surface(_frame(1.5))
    assert np.allclose(straight.shape[:, -1].max(), bent.shape[:, -1].max(), rtol=0.06)
    assert np.allclose(straight.shape[:, 2].mean(), bent.shape[:, 2].mean(), rtol=0.06)


def test_parts_that_only_come_close_are_no_neighbours():
    plates = [trimesh.creation.box((1, 1, 0.1)).apply_translation((0, 0, z)) for z in (0, 0.12)]
    bridge = trimesh.creation.box((0.1, 1, 0.22)).apply_translation((0.5, 0, 0.06))
    surface = _surface(trimesh.boolean.union([*plates, bridge], engine="manifold"), 1500)
    i, j = surface.graph.nonzero()
    gap = (surface.points[:, 2] > 0.045) & (surface.points[:, 2] < 0.075) & (surface.points[:, 0] < 0.4)
    facing = (surface.normals[i] * surface.normals[j]).sum(1) < -0.9
    assert gap.sum() > 100
    assert not (gap[i] & gap[j] & facing).any()


def test_the_canonical_frame_is_the_most_unfolded():
    assert canonical_frame([_surface(_frame(time)) for time in (1.5, 0.375, 1.5)]) == 1


def test_a_step_of_registering_equals_least_squares_by_finite_differences():
    template, goal = template_of(_surface(_frame(0.0), 60), 8), _surface(_frame(0.3), 60)
    k, n = 8, len(template.points)
    begin = Motion(
        turn(0.1 * np.random.default_rng(0).normal(size=(k, 3))), 0.01 * np.random.default_rng(1).normal(size=(k, 3))
    )
    stage = Stage(0.5, 0.0, 0.0, 1e4, 0.3, 1)  # pairs by place alone, all within reach
    places, normals = moved(template, begin)
    there, here = KDTree(goal.dense).query(places)[1], KDTree(places).query(goal.points)[1]
    rows = np.concatenate([np.arange(n), here])
    to, facing = (
        np.concatenate([goal.dense[there], goal.points]),
        np.concatenate([goal.dense_normals[there], goal.normals]),
    )
    pull = np.clip((facing * normals[rows]).sum(1), 0, 1)
    again = KDTree(places).query(goal.dense[there])[1]
    loop = (0.04 * template.extent) ** 2
    pull[:n] *= (loop / (loop + ((template.points[again] - template.points) ** 2).sum(1))) ** 2
    ways = np.concatenate([template.edges, template.edges[:, ::-1]])
    apart = template.nodes[ways[:, 1]] - template.nodes[ways[:, 0]]
    stiff = np.sqrt(stage.stiffness * len(rows) / k) * template.spacing

    def residuals(step):
        step = step.reshape(k, 6)
        motion = Motion(turn(step[:, :3]) @ begin.rotation, begin.shift + step[:, 3:])
        off = moved(template, motion)[0][rows] - to
        at = template.nodes + motion.shift
        bent = np.einsum("eab,eb->ea", motion.rotation[ways[:, 0]], apart) + at[ways[:, 0]] - at[ways[:, 1]]
        a, b = template.edges.T
        relative = motion.rotation[a] @ np.swapaxes(motion.rotation[b], 1, 2)
        twist = np.stack([relative[:, 2, 1] - relative[:, 1, 2], relative[:, 0, 2] - relative[:, 2, 0],
                          relative[:, 1, 0] - relative[:, 0, 1]], 1) / 2  # fmt: skip
        return np.sqrt(pull) * (off * facing).sum(1), np.sqrt(0.3 * pull)[:, None] * off, (
            stiff * bent / np.linalg.norm(apart, axis=1, keepdims=True)), np.sqrt(0.3) * stiff * twist  # fmt: skip

    def flat(step):
        return np.concatenate([part.ravel() for part in residuals(step)])

    slope = np.stack([(flat(h) - flat(-h)) / 2e-5 for h in 1e-5 * np.eye(6 * k)], 1)
    twist = slope[
        -3 * len(template.edges) :
    ]  # of small angles: the derivative of the twist is the difference of the turns
    twist[:] = 0
    for e, (a, b) in enumerate(template.edges):
        twist[3 * e : 3 * e + 3, 6 * a : 6 * a + 3] = np.sqrt(0.3) * stiff * np.eye(3)
        twist[3 * e : 3 * e + 3, 6 * b : 6 * b + 3] = -np.sqrt(0.3) * stiff * np.eye(3)
    best = np.linalg.lstsq(slope, -flat(np.zeros(6 * k)), rcond=None)[0].reshape(k, 6)
    found = register(template, begin, goal, (stage,))
    assert np.allclose(found.shift - begin.shift, best[:, 3:], atol=2e-4)
    assert np.abs(best[:, 3:]).max() > 0.01


def test_rigid_motion_is_recovered_exactly():
    turn = trimesh.transformations.rotation_matrix(0.3, (1, 2, 3), (0.1, 0, 0.2))
    mesh = _frame(0.0)
    template, goal = template_of(_surface(mesh), 20), _surface(mesh.copy().apply_transform(turn))
    stages = (Stage(1, 0.05, 1, 0.3, 1, 15), Stage(1, 0.05, 0, 0.05, 0.1, 15))
    there = moved(template, register(template, Motion.none(20), goal, stages))[0]
    true = trimesh.transform_points(template.points, turn)
    assert np.linalg.norm(there - true, axis=1).mean() < 0.01 * EXTENT


def test_warnings_are_none_for_a_plain_sequence(learned):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_sequence([_frame(t, k) for k, t in enumerate(TIMES)], TIMES, config=SMALL, progress=False)
