"""Skins and morph targets of glTF files, at rest and in motion."""

import base64
import json
import math
import struct
import warnings
from dataclasses import replace

import numpy as np
import pygltflib as gl
import pytest
import torch
import trimesh

from objects.gltf_mesh import gltf_parts
from objects.placed import Placed
from objects.pose import SE3
from objects.primitives import Box
from objects.warped import Warped
from scenes.io.glb import read_glb
from scenes.io.plan import build
from scenes.io.scene_folder import load_scene, save_scene
from scenes.track import Sim3
from tests.scenes.io.glb_files import (
    BOX,
    Z_UP,
    about,
    assert_same_triangles,
    corners,
    solid,
)


def test_a_skin_stands_at_rest_as_joints_times_inverse_binds_say(maker, tmp_path):
    """Linear blend skinning in the world of the file; the pose of the mesh's own node counts for nothing (glTF 3.7.3.3)."""
    arm = maker.node("arm", translation=[0, 1, 0], rotation=about((0, 0, 1), 30))
    hand = maker.node("hand", arm, translation=[2, 0, 0], scale=[1, 3, 1])
    binds = np.stack([np.eye(4), trimesh.transformations.translation_matrix((-2, 0, 0))])
    maker.gltf.accessors.append(gl.Accessor(componentType=5126, count=2, type="MAT4"))
    maker.gltf.accessors[-1].bufferView = maker.view(binds.transpose(0, 2, 1).astype("<f4").tobytes())
    maker.gltf.skins.append(gl.Skin(joints=[arm, hand], inverseBindMatrices=len(maker.gltf.accessors) - 1))
    share = np.linspace(0, 1, len(BOX.vertices)).astype(np.float32)
    weights = np.stack([1 - share, share, 0 * share, 0 * share], -1)
    joints = np.tile([[0, 1, 0, 0]], (len(BOX.vertices), 1))
    look = {"JOINTS_0": maker.accessor(joints, "|u1"), "WEIGHTS_0": maker.accessor(weights)}
    mesh = maker.mesh(maker.primitive(BOX, **look))
    maker.node("body", mesh=mesh, skin=0, translation=[7, 7, 7], rotation=about((1, 0, 0), 50))
    plans, notes = maker.read(tmp_path)
    turn = trimesh.transformations.rotation_matrix(math.radians(30), (0, 0, 1), (0, 0, 0))
    of_arm = trimesh.transformations.translation_matrix((0, 1, 0)) @ turn
    of_hand = of_arm @ trimesh.transformations.translation_matrix((2, 0, 0)) @ np.diag([1, 3, 1, 1])
    points = np.concatenate([BOX.vertices, np.ones((8, 1))], 1)
    posed = ((1 - share)[:, None] * (points @ of_arm.T) + share[:, None] * (points @ (of_hand @ binds[1]).T))[:, :3]
    assert_same_triangles({"body": corners(plans)["body"]}, {"body": posed[BOX.faces] @ Z_UP.T})
    assert notes == ["body: no animation bends its skin; the mesh stands in its rest pose"]
    parts = gltf_parts(tmp_path / "scene.glb", [])
    assert_same_triangles({"body": solid(parts).triangles}, {"body": posed[BOX.faces]})


def _skinned(maker, **more):
    """A box on two joints, of which the second turns and moves; its own node moves, too, which counts for nothing."""
    arm = maker.node("arm", translation=[0, 1, 0], rotation=about((0, 0, 1), 30))
    hand = maker.node("hand", arm, translation=[2, 0, 0], scale=[1, 3, 1])
    binds = np.stack([np.eye(4), trimesh.transformations.translation_matrix((-2, 0, 0))])
    maker.gltf.accessors.append(gl.Accessor(componentType=5126, count=2, type="MAT4"))
    maker.gltf.accessors[-1].bufferView = maker.view(binds.transpose(0, 2, 1).astype("<f4").tobytes())
    maker.gltf.skins.append(gl.Skin(joints=[arm, hand], inverseBindMatrices=len(maker.gltf.accessors) - 1))
    share = np.linspace(0, 1, len(BOX.vertices)).astype(np.float32)
    weights = np.stack([1 - share, share, 0 * share, 0 * share], -1)
    look = {"JOINTS_0": maker.accessor(np.tile([[0, 1, 0, 0]], (8, 1)), "|u1"), "WEIGHTS_0": maker.accessor(weights)}
    body = maker.node("body", mesh=maker.mesh(maker.primitive(BOX, **look)), skin=0, **more)
    maker.animate(hand, "rotation", [0.5, 1.5], [about((1, 0, 0), 0), about((1, 0, 0), 80)])
    maker.animate(hand, "translation", [0.5, 1.0, 1.5], [[2, 0, 0], [2, 1, 0], [2, 0, 1]])
    maker.animate(body, "translation", [0, 2], [[0, 0, 0], [5, 1, 0]])

    def posed(time):
        u = np.clip(time - 0.5, 0, 1)
        turned = trimesh.transformations.rotation_matrix(math.radians(80 * u), (1, 0, 0))
        place = np.array([[2, 0, 0], [2, 1, 0], [2, 0, 1]])
        at = [np.interp(time, [0.5, 1, 1.5], place[:, c]) for c in range(3)]
        of_arm = trimesh.transformations.translation_matrix((0, 1, 0)) @ trimesh.transformations.rotation_matrix(
            math.radians(30), (0, 0, 1)
        )
        of_hand = of_arm @ trimesh.transformations.translation_matrix(at) @ turned @ np.diag([1, 3, 1, 1])
        points = np.concatenate([BOX.vertices, np.ones((8, 1))], 1)
        found = (1 - share)[:, None] * (points @ of_arm.T) + share[:, None] * (points @ (of_hand @ binds[1]).T)
        return found[:, :3] @ Z_UP.T

    return posed


@pytest.mark.parametrize("scale", [[1, 1, 1], [2, 2, 2], [1, 2, 0.5], [-1, 1, 1]])
def test_an_animated_skin_is_a_warp_of_the_mesh_as_it_was_bound(maker, tmp_path, scale):
    posed = _skinned(maker, rotation=about((1, 0, 0), 50), scale=scale)
    plans, notes = maker.read(tmp_path)
    assert notes == []
    body = next(plan for plan in plans if plan.path == "body")
    np.testing.assert_allclose(solid(body.shape).vertices, BOX.vertices, atol=1e-6)
    for time in (0.0, 0.5, 0.8, 1.0, 1.37, 1.5, 7.0):
        world = Sim3(*body.track.at(time))._replace(scale=body.scale)
        at = np.array([world.apply(tuple(p)) for p in body.warp.mesh_at(time)])
        assert np.abs(at - posed(time)).max() < 0.02


def test_a_scene_with_a_skinned_thing_bends_and_says_where_space_folds(maker, tmp_path):
    posed = _skinned(maker)
    plans, _ = maker.read(tmp_path)
    solid_box = Placed(Box([1.0, 2.0, 3.0]), SE3(torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.3, 0.2, 0.1])))
    plans = [replace(plan, shape=solid_box) if plan.path == "body" else plan for plan in plans]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = build(plans)
    field = graph["body"].field
    assert isinstance(field, Warped) and field.field is solid_box
    p = graph.follow("body", posed(0.5), 0.5, 1.4)
    assert np.abs(p.numpy() - posed(1.4)).max() < 0.02
    save_scene(graph, tmp_path / "a.scene")
    assert load_scene(tmp_path / "a.scene") == graph


def test_morph_targets_have_their_weights(maker, tmp_path):
    """Those of the node before those of the mesh."""
    primitive = maker.primitive(BOX)
    offsets = np.random.default_rng(0).normal(size=(2, 8, 3)).astype(np.float32)
    primitive.targets = [gl.Attributes(POSITION=maker.accessor(rows)) for rows in offsets]
    mesh = maker.mesh(primitive)
    maker.gltf.meshes[mesh].weights = [0.5, 0]
    maker.node("mesh's", mesh=mesh)
    maker.animate(maker.node("node's", mesh=mesh), "weights", [0, 1], [0, 0, 1, 1])
    file = maker.write(tmp_path / "scene.glb")
    data = file.read_bytes()
    size = struct.unpack_from("<I", data, 12)[0]
    content = json.loads(data[20 : 20 + size])
    content["nodes"][1]["weights"] = [0, -1]
    content["buffers"][0]["uri"] = "data:application/octet-stream;base64," + base64.b64encode(maker.blob).decode()
    (tmp_path / "scene.gltf").write_text(json.dumps(content))
    plans, notes = read_glb(tmp_path / "scene.gltf")
    np.testing.assert_allclose(solid(plans[0].shape).vertices, BOX.vertices + 0.5 * offsets[0], atol=1e-6)
    np.testing.assert_allclose(solid(plans[1].shape).vertices, BOX.vertices - offsets[1], atol=1e-6)
    assert plans[0].warp is None and notes == []
    for time, (first, second) in ((0.0, (0, 0)), (0.25, (0.25, 0.25)), (1.0, (1, 1)), (9.0, (1, 1))):
        wanted = BOX.vertices + first * offsets[0] + second * offsets[1]
        np.testing.assert_allclose(plans[1].warp.mesh_at(time), wanted, atol=1e-5)
