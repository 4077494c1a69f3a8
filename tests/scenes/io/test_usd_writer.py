"""Exported USD: it passes the library's own checks, stands and moves as the scene does, and has rigid bodies where asked."""

import math
import sys

import numpy as np
import pytest
import torch

from compose import Composite
from objects import Box, Cylinder, Sphere
from rendering import AmbientLight, Camera, DirectionalLight, PointLight
from rendering.lights import linear_from_srgb
from scenes import SceneGraph, Track, export_scene
from tests.scenes.helpers import at, turned

pxr = pytest.importorskip("pxr", reason="no usd-core: pip install 'sirenscape[usd]'")
from pxr import Gf, Usd, UsdGeom, UsdLux, UsdPhysics, UsdShade, UsdValidation  # noqa: E402


def room():
    graph = SceneGraph()
    graph.add("floor", Box((4.0, 4.0, 0.1), color=(0.5, 0.4, 0.3)), pose=at(0, 0, -0.5), tags=("static", "wood"))
    graph.add("my table", Box((1.0, 0.6, 0.1), color=(0.2, 0.4, 0.3)), pose=turned(20), scale=1.5)
    graph.add("my table/tray", Box((0.3, 0.2, 0.02)))
    graph.animate("my table/tray", Track.keyframes([0, 1, 2], [at(0, 0, 0.1), at(0.2, 0, 0.1), turned(80)]))
    graph.add("my table/tray/cup", Cylinder(0.05, 0.1), pose=at(0.05, 0, 0.07), lit=False)
    graph.add("step", graph["my table/tray/cup"].field)
    graph.animate("step", Track.keyframes([0.5, 1.5], [at(0.4, 0, 0.3), at(0.4, 0.2, 0.3)], interpolation="step"))
    graph.add("ball", Sphere(0.1), pose=at(1, 0, 0.3))
    graph.reparent("ball", "my table/tray", start=1.5)
    graph.add("spin", pose=at(0.5, 0.5, 0.2))
    graph.animate("spin", Track.keyframes([0.0, 0.5], [turned(0), turned(90)], end="loop"))
    graph.add("spin/arm", Box((0.2, 0.02, 0.02)), pose=at(0.1))
    graph.add("sun", light=DirectionalLight((0.3, -0.5, -1.0), (1.0, 0.9, 0.8), 0.7))
    graph.add("lamp", light=PointLight((0.5, 0.1, 1.0), intensity=2.5))
    graph.add("sky", light=AmbientLight(intensity=0.2))
    view = Camera.look_at((1.2, -1.4, 1.1), (0, 0, 0.1), 160, 120, 40)
    graph.add("view", camera=Camera(view.T_world_cam, view.fx, 1.1 * view.fx, 70.0, 64.0, 160, 120), pose=at(0.1))
    return graph


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    graph, file = room(), tmp_path_factory.mktemp("usd") / "room.usda"
    notes = export_scene(graph, file)
    return graph, Usd.Stage.Open(str(file)), notes


def prims(stage):
    """Prims of nodes by scene path."""
    found = {}
    for prim in stage.GetDefaultPrim().GetAllChildren():
        todo = [(prim, "")]
        while todo:
            prim, above = todo.pop()
            path = f"{above}/{prim.GetDisplayName() or prim.GetName()}".strip("/")
            found[path] = prim
            todo += [(child, path) for child in prim.GetAllChildren()]
    return found


def findings(stage):
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 20
    return [error.GetMessage() for error in UsdValidation.ValidationContext(validators).Validate(stage)]


def matrix(prim, time):
    """World matrix (points are columns) at a time in seconds."""
    rate = prim.GetStage().GetTimeCodesPerSecond()
    return np.array(UsdGeom.Xformable(prim).ComputeLocalToWorldTransform(Usd.TimeCode(time * rate))).T


def test_usd_checks_find_nothing(exported):
    assert findings(exported[1]) == []


def test_everything_stands_where_it_does_at_all_times(exported):
    graph, stage, notes = exported
    found = prims(stage)
    for time in np.linspace(0, 2, 101)[:-1] + 0.003:
        for path in graph:
            pose, scale = graph.pose(path, time)
            wanted = pose.as_matrix().numpy().copy()
            wanted[:3, :3] *= scale
            assert np.abs(matrix(found[path], time) - wanted).max() < 1e-5, (path, time)
    assert any("loops are written out" in note for note in notes)
    assert (stage.GetStartTimeCode(), stage.GetEndTimeCode()) == (0, 48)
    assert list(found["floor"].GetCustomDataByKey("tags")) == ["static", "wood"]


def test_meshes_are_shared_and_lie_on_the_fields(exported):
    graph, stage, _ = exported
    found = prims(stage)
    cup, step = (found[f"{path}/geometry"] for path in ("my table/tray/cup", "step"))
    assert cup.IsInstance() and cup.GetPrototype() == step.GetPrototype()
    meshes = stage.GetPrimAtPath("/_meshes")
    assert len(meshes.GetAllChildren()) == len(graph.fields)
    for time in (0.0, 0.9, 1.7):
        for instance in graph.at(time).instances:
            prim = found[f"{instance.name}/geometry"]
            mesh = UsdGeom.Mesh(prim.GetPrototype().GetAllChildren()[0])
            points = np.array(mesh.GetPointsAttr().Get())[:100]
            p_world = np.c_[points, np.ones(len(points))] @ matrix(prim, time).T
            sdf = Composite([instance]).query(torch.tensor(p_world[:, :3])).sdf
            assert float(sdf.abs().max()) < 1e-3 * float(instance.field.bounds.size.max()) * instance.scale + 1e-5


def test_colours_are_linear_and_unlit_ones_are_their_own_light(exported):
    graph, stage, _ = exported
    found = prims(stage)
    prim = found["floor/geometry"]
    mesh = prim.GetPrototype().GetAllChildren()[0]
    colors = np.array(UsdGeom.PrimvarsAPI(mesh).GetPrimvar("displayColor").ComputeFlattened())
    assert np.allclose(colors, linear_from_srgb(graph["floor"].field.color), atol=1e-6)
    for path, shown in (("floor", "diffuseColor"), ("my table/tray/cup", "emissiveColor")):
        material, _ = UsdShade.MaterialBindingAPI(found[f"{path}/geometry"]).ComputeBoundMaterial()
        surface = material.ComputeSurfaceSource()[0]
        assert surface.GetInput(shown).HasConnectedSource()


def test_cameras_and_lights_look_where_they_do(exported):
    graph, stage, _ = exported
    found = prims(stage)
    ours, camera = graph.camera_at("view"), UsdGeom.Camera(found["view/camera"])
    frustum = camera.GetCamera(Usd.TimeCode(0)).frustum
    to_clip = np.array(frustum.ComputeViewMatrix() * frustum.ComputeProjectionMatrix())
    p_cam = torch.tensor([[0.1, 0.2, 1.0], [-0.3, 0.1, 2.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
    clip = np.c_[(ours.T_world_cam @ p_cam).numpy(), np.ones(3)] @ to_clip
    u, v = 80 * (1 + clip[:, 0] / clip[:, 3]), 60 * (1 - clip[:, 1] / clip[:, 3])
    assert u == pytest.approx((ours.fx * p_cam[:, 0] / p_cam[:, 2] + ours.cx).numpy(), abs=1e-3)
    assert v == pytest.approx((ours.fy * p_cam[:, 1] / p_cam[:, 2] + ours.cy).numpy(), abs=1e-3)
    sun = found["sun/light"]
    direction = matrix(sun, 0.0)[:3, :3] @ [0, 0, -1]
    assert direction == pytest.approx(np.array([0.3, -0.5, -1.0]) / math.sqrt(1.34), abs=1e-6)
    assert UsdLux.DistantLight(sun).GetIntensityAttr().Get() == pytest.approx(0.7 * math.pi)
    assert matrix(found["lamp/light"], 0.0)[:3, 3] == pytest.approx([0.5, 0.1, 1.0])
    assert found["sky/light"].GetTypeName() == "DomeLight"


def test_with_physics_each_object_is_a_rigid_body_of_its_own(tmp_path):
    pytest.importorskip("coacd", reason="no coacd: pip install 'sirenscape[usd]'")
    graph = room()
    graph.add("tube", Cylinder(0.3, 0.1) - Cylinder(0.25, 0.3), pose=at(0, 0, 2))
    notes = export_scene(graph, tmp_path / "a.usdc", physics=True, density=500.0)
    stage = Usd.Stage.Open(str(tmp_path / "a.usdc"))
    assert findings(stage) == [] and not any("static" in note for note in notes)
    found = prims(stage)
    bodies = {path for path, prim in found.items() if prim.HasAPI(UsdPhysics.RigidBodyAPI)}
    assert bodies == {path for path in graph if graph[path].field is not None} - {"floor"}
    moving = {p for p in bodies if UsdPhysics.RigidBodyAPI(found[p]).GetKinematicEnabledAttr().Get()}
    assert moving == {"my table/tray", "my table/tray/cup", "my table/tray/ball", "step", "spin/arm"}
    mass = UsdPhysics.MassAPI(found["my table"]).GetMassAttr().Get()
    assert mass == pytest.approx(500 * 1.0 * 0.6 * 0.1 * 1.5**3, rel=1e-3)
    for time in (0.0, 0.8, 1.9):  # what isn't carried by its parent any more stands where it did
        pose, scale = graph.pose("my table/tray/cup", time)
        wanted = pose.as_matrix().numpy().copy()
        wanted[:3, :3] *= scale
        assert np.abs(matrix(found["my table/tray/cup"], time) - wanted).max() < 4e-5
    hulls = [p for p in found["tube/geometry"].GetPrototype().GetAllChildren() if p.HasAPI(UsdPhysics.CollisionAPI)]
    assert len(hulls) > 3  # a hole stays a hole
    hole = Gf.Range3d()
    for hull in hulls:
        points = np.array(UsdGeom.Mesh(hull).GetPointsAttr().Get())
        assert not (np.abs(points).max(0) < 0.2).all()
        hole.UnionWith(Gf.Range3d(Gf.Vec3d(*points.min(0).tolist()), Gf.Vec3d(*points.max(0).tolist())))
    assert hole.GetSize()[0] == pytest.approx(0.6, abs=0.02)


def test_without_the_libraries_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "scenes.io.usd_writer", raising=False)
    monkeypatch.setitem(sys.modules, "pxr", None)
    with pytest.raises(ValueError, match=r"pip install 'sirenscape\[usd\]'"):
        export_scene(room(), tmp_path / "a.usda")
    with pytest.raises(ValueError, match="physics: expected a USD file"):
        export_scene(room(), tmp_path / "a.glb", physics=True)
    with pytest.raises(ValueError, match="density: expected kg"):
        export_scene(room(), tmp_path / "a.usda", density=0)


def test_the_same_scene_gives_the_same_text(exported, tmp_path):
    export_scene(room(), tmp_path / "again.usda")
    assert (tmp_path / "again.usda").read_text() == exported[1].GetRootLayer().ExportToString()
