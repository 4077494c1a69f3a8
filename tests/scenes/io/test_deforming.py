"""Exported objects that bend: vertices over time lie on the field, in glTF as morph targets, in USD as time samples."""

import numpy as np
import pytest
import torch

from objects import Box, Warped
from objects.aabb import Aabb
from objects.analytic_warps import Twist
from scenes import SceneGraph, Track, export_scene
from scenes.clock import Clock
from scenes.io import deforming
from scenes.io.deforming import bending_mesh
from scenes.io.export import gather
from tests.scenes.helpers import at
from tests.scenes.io.test_glb_writer import content, rows

TOLERANCE = 0.01


def twisted(last=1.5):
    box = Aabb([-0.3, -0.3, -0.6], [0.3, 0.3, 0.6])
    return Warped(Box((0.2, 0.2, 1.0), color=(0.8, 0.1, 0.1)), Twist(box, (0, 0, 1), (0, 0, 0), (0, 1), (0, last)))


def off(field, corners, time):
    """The largest distance of points all over triangles."""
    rng = np.random.default_rng(0)
    chosen = corners[rng.integers(len(corners), size=3000)]
    p = torch.tensor(np.einsum("nc,ncd->nd", rng.dirichlet(np.ones(3), 3000), chosen)).float()
    return float(field.sdf(p, torch.full((3000,), time)).abs().max())


def test_vertices_lie_on_the_field_at_keys_and_between_them():
    field = twisted()
    mesh, bending = bending_mesh(field, TOLERANCE, 0.0, (0.0, 1.0))
    assert 3 <= len(bending.times) < 64 and not bending.cut and mesh.strays[0] <= TOLERANCE
    for time in (0.0, 0.13, 0.5, 0.77, 1.0):
        moved = np.stack(
            [np.interp(time, bending.times, v) for v in bending.vertices.reshape(len(bending.times), -1).T]
        )
        assert off(field, moved.reshape(-1, 3)[mesh.faces], time) <= TOLERANCE
    assert np.allclose(np.linalg.norm(bending.normals, axis=-1), 1, atol=1e-5)
    assert off(field, mesh.vertices[mesh.faces], 0.0) <= TOLERANCE


def test_keys_that_run_out_are_told(monkeypatch):
    monkeypatch.setattr(deforming, "MOST_KEYS", 3)
    assert bending_mesh(twisted(6.0), TOLERANCE, 0.0, (0.0, 1.0))[1].cut


def test_a_motion_that_comes_back_is_not_missed():
    """Asked only at the ends of a scene and at quarters of it, each of these seems to stand still."""
    box = Aabb([-0.3, -0.3, -0.6], [0.3, 0.3, 0.6])
    swing = Twist(box, (0, 0, 1), (0, 0, 0), (0, 0.5, 1), (0, 1.5, 0))
    field = Warped(Box((0.2, 0.2, 1.0)), swing)
    for span, clock, top in (
        ((0.0, 40.0), Clock(), 0.5),
        ((0.0, 4.0), Clock(loop=True), 2.5),
        ((-4.0, 4.0), Clock(offset=0.25, speed=-0.5, loop=True), -2.5),
        ((0.0, 4000.0), Clock(loop=True), None),
    ):
        bending = bending_mesh(field, TOLERANCE, span[0], span, clock)[1]
        assert np.ptp(bending.vertices, axis=0).max() > 0.05 and len(bending.times) <= 64
        assert bending.cut == (top is None)
        if top is not None:
            near = np.abs(bending.times - top).argmin()
            assert bending.times[near] == pytest.approx(top)


def test_objects_with_one_clock_share_a_mesh():
    graph = SceneGraph()
    for name in ("a", "b", "c"):
        graph.add(name, graph["a"].field if name != "a" else twisted())
    graph.set_clock("c", offset=0.5)
    parts = gather(graph, 0.0, TOLERANCE, bends=True)
    assert [part.mesh for part in parts.parts] == [0, 0, 1] and len(parts.meshes) == 2
    graph.set_clock("a", speed=0.0)
    content = gather(graph, 0.0, TOLERANCE, bends=True)
    assert [bending is None for bending in content.bendings] == [True, False, False]


@pytest.fixture
def graph():
    graph = SceneGraph()
    graph.add("bar", twisted(), track=Track.keyframes([0, 1], [at(0, 0, 1), at(0.5, 0, 1)]))
    return graph


def test_gltf_has_a_morph_target_for_each_key(graph, tmp_path):
    notes = export_scene(graph, tmp_path / "a.glb", tolerance=TOLERANCE)
    assert notes == []
    gltf, blob = content(tmp_path / "a.glb")
    mesh, clip = gltf["meshes"][0], gltf["animations"][0]
    primitive = mesh["primitives"][0]
    channel = next(c for c in clip["channels"] if c["target"]["path"] == "weights")
    sampler = clip["samplers"][channel["sampler"]]
    times = rows(gltf, blob, sampler["input"])[:, 0]
    weights = rows(gltf, blob, sampler["output"]).reshape(len(times), -1)
    assert len(primitive["targets"]) == len(mesh["weights"]) == len(times) and (weights == np.eye(len(times))).all()
    moves = np.stack([rows(gltf, blob, target["POSITION"]) for target in primitive["targets"]])
    corners = rows(gltf, blob, primitive["indices"]).reshape(-1, 3)
    for time in (0.0, 0.3, 1.0):
        now = np.array([np.interp(time, times, w) for w in weights.T])
        shown = rows(gltf, blob, primitive["attributes"]["POSITION"]) + np.tensordot(now, moves, 1)
        assert off(graph["bar"].field, shown[corners], time) <= TOLERANCE


def test_usd_has_points_over_time(graph, tmp_path):
    pytest.importorskip("pxr", reason="no usd-core: pip install 'sirenscape[usd]'")
    from pxr import Usd, UsdGeom

    assert export_scene(graph, tmp_path / "a.usda", tolerance=TOLERANCE) == []
    stage = Usd.Stage.Open(str(tmp_path / "a.usda"))
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/Scene/bar/geometry").GetPrototype().GetAllChildren()[0])
    faces = np.array(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
    for time in (0.0, 0.3, 1.0):
        points = np.array(mesh.GetPointsAttr().Get(Usd.TimeCode(24 * time)))
        assert off(graph["bar"].field, points[faces], time) <= TOLERANCE
