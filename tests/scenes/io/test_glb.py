"""glTF files as plans: where things stand, what moves, what is shared, and what a bad file says."""

import base64
import json
import math
import struct

import numpy as np
import pygltflib as gl
import pytest
import torch
import trimesh
from PIL import Image

from rendering.lights import DirectionalLight, PointLight
from scenes.io.glb import read_glb
from scenes.track import Sim3
from tests.scenes.io.glb_files import (
    BOX,
    Z_UP,
    about,
    assert_same_triangles,
    by_path,
    color,
    corners,
    perspective,
    quat_xyzw,
    solid,
    textured,
    trimesh_corners,
    volume,
    worlds,
)

# -- where things stand


def test_a_point_is_turned_from_y_up_to_z_up(maker, tmp_path):
    maker.node("a", translation=[1.0, 2.0, 3.0])
    plans, notes = maker.read(tmp_path)
    assert notes == []
    assert [plan.path for plan in plans] == ["a"]
    np.testing.assert_allclose(worlds(plans)["a"].apply((0, 0, 0)), (1, -3, 2), atol=1e-12)
    np.testing.assert_allclose(worlds(plans)["a"].apply((10, 20, 30)), (11, -33, 22), atol=1e-12)


def test_nested_transforms_match_trimesh(maker, tmp_path):
    mesh = maker.mesh()
    a = maker.node("a", translation=[1, 2, 3], rotation=about((0, 1, 0), 30), scale=[2, 2, 2], mesh=mesh)
    b = maker.node("b", a, translation=[0, 1, 0], rotation=about((0.6, 0, 0.8), 200), scale=[0.5, 0.5, 0.5])
    maker.node("c", b, translation=[-4, 0, 1], rotation=about((0, 0, 1), -75), mesh=mesh)
    maker.node("d", a, translation=[5, 5, 5])
    plans, notes = maker.read(tmp_path)
    assert notes == []
    assert [plan.path for plan in plans] == ["a", "a/b", "a/b/c", "a/d"]
    assert [plan.scale for plan in plans] == [2.0, 0.5, 1.0, 1.0]
    assert_same_triangles(corners(plans), trimesh_corners(tmp_path / "scene.glb"))


def test_a_parents_child_keeps_its_own_frame(maker, tmp_path):
    top = maker.node("a")
    maker.node("b", top, translation=[1, 2, 3], rotation=about((0, 1, 0), 90))
    plans, _ = maker.read(tmp_path)
    quat, trans = plans[1].track.at(0)
    assert trans == (1, 2, 3)
    np.testing.assert_allclose(quat, (math.sqrt(0.5), 0, math.sqrt(0.5), 0), atol=1e-7)


@pytest.mark.parametrize("seed", range(12))
def test_any_scales_are_exact(maker, tmp_path, seed):
    """Uneven, mirrored and matrix nodes in random trees."""
    rng = np.random.default_rng(seed)
    mesh = maker.mesh()
    for i in range(12):
        parent = None if i == 0 else int(rng.integers(-1, i))
        parent = None if parent == -1 else parent
        trs = {"translation": rng.normal(size=3).tolist(), "rotation": quat_xyzw(rng)}
        trs["scale"] = (rng.uniform(0.5, 2, 3) * rng.choice([-1, 1, 1], 3)).tolist()
        if rng.random() < 0.4:
            trs["scale"] = [float(trs["scale"][0])] * 3
        if rng.random() < 0.3:
            matrix = trimesh.transformations.quaternion_matrix(np.roll(trs["rotation"], 1))
            matrix[:3, :3] *= trs["scale"]
            matrix[:3, 3] = trs["translation"]
            trs = {"matrix": matrix.T.ravel().tolist()}
        maker.node(f"n{i}", parent, mesh=mesh, **trs)
    plans, _ = maker.read(tmp_path)
    got = corners(plans)
    assert_same_triangles(got, trimesh_corners(tmp_path / "scene.glb"))
    assert len(got) == 12 and all(volume(triangles) > 0 for triangles in got.values())


def test_an_uneven_scale_is_baked_and_told(maker, tmp_path):
    mesh = maker.mesh()
    top = maker.node("top", scale=[2, 1, 1], mesh=mesh)
    maker.node("turned", top, rotation=about((0, 0, 1), 30), translation=[1, 0, 0], mesh=mesh)
    maker.node("even", scale=[3, 3, 3], mesh=mesh)
    plans, notes = maker.read(tmp_path)
    assert notes == [
        "top: scale (2, 1, 1) was baked into its mesh",
        "top/turned: the scale of a node above was baked into its mesh",
    ]
    assert [plan.scale for plan in plans] == [1.0, 1.0, 3.0]
    assert_same_triangles(corners(plans), trimesh_corners(tmp_path / "scene.glb"))
    np.testing.assert_allclose(solid(plans[0].shape).extents, BOX.extents * (2, 1, 1), rtol=1e-6)
    np.testing.assert_allclose(solid(plans[2].shape).extents, BOX.extents, rtol=1e-6)


def test_a_mirrored_mesh_is_not_inside_out(maker, tmp_path):
    maker.node("a", scale=[-1, 1, 1], mesh=maker.mesh())
    plans, notes = maker.read(tmp_path)
    assert notes == ["a: scale (-1, 1, 1) was baked into its mesh"]
    assert solid(plans[0].shape).volume == pytest.approx(6, rel=1e-6)
    np.testing.assert_allclose(solid(plans[0].shape).centroid, (-0.3, 0.2, 0.1), atol=1e-6)


def test_two_axes_mirrored_are_half_a_turn(maker, tmp_path):
    maker.node("a", scale=[-2, -2, 2], mesh=maker.mesh())
    plans, notes = maker.read(tmp_path)
    assert notes == [] and plans[0].scale == pytest.approx(2)
    assert_same_triangles(corners(plans), trimesh_corners(tmp_path / "scene.glb"))


def test_a_rigid_matrix_node_needs_no_baking(maker, tmp_path):
    matrix = trimesh.transformations.euler_matrix(0.3, 0.4, 0.5)
    matrix[:3, 3] = 1, 2, 3
    matrix[:3, :3] *= 1.5
    maker.node("a", matrix=matrix.astype(np.float32).T.ravel().tolist(), mesh=maker.mesh())
    plans, notes = maker.read(tmp_path)
    assert notes == [] and plans[0].scale == pytest.approx(1.5)
    assert_same_triangles(corners(plans), trimesh_corners(tmp_path / "scene.glb"))


def test_a_flattened_group_is_fine_but_not_a_flattened_mesh(maker, tmp_path):
    top = maker.node("flat", scale=[1, 0, 1])
    maker.node("empty", top, translation=[1, 1, 1])
    plans, _ = maker.read(tmp_path)
    np.testing.assert_allclose(worlds(plans)["flat/empty"].apply((0, 0, 0)), (1, -1, 0), atol=1e-9)
    maker.node("thing", top, mesh=maker.mesh())
    with pytest.raises(ValueError, match=r"scene\.glb: node 2 'thing': its scale flattens its mesh"):
        maker.read(tmp_path)


# -- names


def test_names_are_clean_and_unique(maker, tmp_path):
    mesh = maker.mesh(name="mesh")
    top = maker.node(" a/b\n ")
    for name in ("x", "x", "x-2", "..", "", None, "\x00\ud800", "x"):
        maker.node(name, top)
    maker.node(None, top, mesh=mesh)
    maker.gltf.cameras.append(gl.Camera(name="eye", type="perspective", perspective=gl.Perspective(yfov=1, znear=0.1)))
    maker.node(None, top, camera=0)
    maker.node(None, top, extensions=maker.light(type="point", name="lamp"))
    plans, notes = maker.read(tmp_path)
    found = [plan.path.removeprefix("a-b/") for plan in plans]
    assert " ".join(found) == "a-b x x-2 x-2-2 node-4 node-5 node-6 node-7 x-3 mesh eye lamp"
    assert notes == []


def test_the_default_scene_alone_is_read(maker, tmp_path):
    maker.node("first")
    other = maker.node("second")
    maker.gltf.scenes[0].nodes.remove(other)
    maker.gltf.scenes.append(gl.Scene(nodes=[other]))
    maker.gltf.scene = 1
    assert [plan.path for plan in maker.read(tmp_path)[0]] == ["second"]
    maker.gltf.scene = None
    plans, notes = maker.read(tmp_path)
    assert [plan.path for plan in plans] == ["first"]
    assert notes == ["file: it names no default scene; the first of 2 was taken"]
    maker.gltf.scenes = []
    assert [plan.path for plan in maker.read(tmp_path)[0]] == ["first", "second"]


def test_a_scene_of_nothing_is_told(maker, tmp_path):
    assert maker.read(tmp_path) == ([], ["file: its scene has no nodes"])


# -- cameras and lights


def camera_in_world(plans, path):
    """The camera of a plan, its pose in the world (a uniform scale does not change what it sees)."""
    sim, camera = worlds(plans)[path], by_path(plans)[path].camera
    assert camera.T_world_cam.translation.tolist() == [0, 0, 0]
    return type(camera)(
        sim.pose() @ camera.T_world_cam, camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height
    )


def test_a_point_projects_where_the_gltf_camera_sees_it(maker, tmp_path):
    """At the height y = 5, looking along -z (+y of our world), turned left by 10 degrees in its parent."""
    top = maker.node("top", translation=[0, 5, 0], scale=[3, 3, 3])
    maker.node("eye", top, rotation=about((0, 1, 0), 10), camera=perspective(maker, yfov=0.8, aspectRatio=1.5))
    plans, _ = maker.read(tmp_path)
    camera = camera_in_world(plans, "top/eye")
    assert (camera.width, camera.height, camera.cx, camera.cy) == (720, 480, 360, 240)
    np.testing.assert_allclose(camera.position_world, (0, 0, 5), atol=1e-9)
    left = math.radians(10)
    ahead = np.array([-math.sin(left), math.cos(left), 0])
    right, up = np.array([math.cos(left), math.sin(left), 0]), np.array([0, 0, 1.0])
    points = np.array([0, 0, 5]) + np.array([4 * ahead, 4 * ahead + right, 4 * ahead + 4 * math.tan(0.4) * up])
    uv, depth = camera.project(torch.tensor(points))
    np.testing.assert_allclose(depth, 4, atol=1e-6)
    focal = 240 / math.tan(0.4)
    np.testing.assert_allclose(uv, [[360, 240], [360 + focal / 4, 240], [360, 0]], atol=1e-4)


def test_a_camera_without_aspect_and_an_orthographic_one(maker, tmp_path):
    maker.node("eye", camera=perspective(maker, yfov=1.0))
    lens = gl.Orthographic(xmag=1, ymag=1, zfar=10, znear=1)
    maker.gltf.cameras.append(gl.Camera(type="orthographic", orthographic=lens))
    maker.node("plan view", camera=1)
    plans, notes = maker.read(tmp_path)
    assert (plans[0].camera.width, plans[0].camera.height) == (640, 480)
    assert plans[1].camera is None
    assert notes == ["plan view: its orthographic camera was left out"]


def test_cameras_and_lights_below_an_uneven_scale_look_the_right_way(maker, tmp_path):
    matrix = np.diag([2.0, 1, 1])
    turn = trimesh.transformations.quaternion_matrix(np.roll(about((0, 1, 0), 45), 1))[:3, :3]
    top = maker.node("top", scale=[2, 1, 1])
    where = {"translation": [1, 2, 3], "rotation": about((0, 1, 0), 45)}
    maker.node("eye", top, camera=perspective(maker, yfov=1.0), **where)
    maker.node("sun", top, extensions=maker.light(type="directional"), **where)
    plans, notes = maker.read(tmp_path)
    assert notes == []
    ahead = Z_UP @ matrix @ turn @ [0, 0, -1]
    ahead /= np.linalg.norm(ahead)
    camera = camera_in_world(plans, "top/eye")
    np.testing.assert_allclose(camera.position_world, Z_UP @ [2, 2, 3], atol=1e-6)
    np.testing.assert_allclose(camera.T_world_cam.rotation()[:, 2], ahead, atol=1e-6)
    np.testing.assert_allclose(camera.T_world_cam.rotation()[:, 1], [0, 0, -1], atol=1e-6)
    sun = by_path(plans)["top/sun"].light.direction
    turned = Sim3(worlds(plans)["top/sun"].quat).apply(sun)
    np.testing.assert_allclose(turned, ahead, atol=1e-6)


def test_lights(maker, tmp_path):
    point = maker.light(type="point", color=[1.0, 0.5, 2.0], intensity=30.0)
    maker.node("bulb", translation=[0, 3, 0], extensions=point)
    maker.node("sun", extensions=maker.light(type="directional"))
    maker.node("spot", extensions=maker.light(type="spot", intensity=1, spot={}))
    maker.node("area", extensions=maker.light(type="area"))
    plans, notes = maker.read(tmp_path)
    bulb, sun, spot, area = (plan.light for plan in plans)
    assert isinstance(bulb, PointLight) and isinstance(sun, DirectionalLight) and isinstance(spot, PointLight)
    assert bulb.position == (0, 0, 0) and sun.direction == pytest.approx((0, 0, -1)) and area is None
    assert bulb.color == pytest.approx((1, 0.7353569, 1), abs=1e-6)
    assert bulb.intensity == pytest.approx(30 / math.pi) and sun.intensity == pytest.approx(1 / math.pi)
    assert sun.color == pytest.approx((1, 1, 1))
    # Lambert: a matt white surface right below shows 30 cd / (3 m)^2 / pi.
    lit = PointLight(worlds(plans)["bulb"].trans, bulb.color, bulb.intensity)
    shown = lit.irradiance(torch.zeros(1, 3, dtype=torch.float64), torch.tensor([[0.0, 0, 1]], dtype=torch.float64))
    assert shown[0, 0].item() == pytest.approx(30 / 9 / math.pi)
    assert notes == [
        "spot: its spot light was taken as a point light, which shines all around",
        "area: its light of the unknown type 'area' was left out",
    ]


# -- .gltf and other files


def as_gltf(maker, tmp_path, buffer_uri, image_uri=None):
    """A .gltf with the buffer (and the image) elsewhere."""
    maker.gltf.buffers = [gl.Buffer(byteLength=len(maker.blob), uri=buffer_uri)]
    if image_uri is not None:
        maker.gltf.images[0].bufferView, maker.gltf.images[0].uri = None, image_uri
    file = tmp_path / "in" / "scene.gltf"
    file.parent.mkdir(exist_ok=True)
    file.write_text(maker.gltf.gltf_to_json())
    return file


@pytest.mark.parametrize("folder", ["", "my parts/"])
def test_a_gltf_with_files_beside_it(maker, tmp_path, folder):
    textured(maker)
    uri = folder.replace(" ", "%20")
    file = as_gltf(maker, tmp_path, f"{uri}scene.bin", f"{uri}paint.png")
    (file.parent / folder).mkdir(exist_ok=True)
    (file.parent / folder / "scene.bin").write_bytes(maker.blob)
    Image.new("RGB", (2, 2), (10, 200, 30)).save(file.parent / folder / "paint.png")
    (plan,), _ = read_glb(file)
    np.testing.assert_allclose(color(plan.shape) * 255, [[10, 200, 30]], atol=0.01)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1", "utf-16"])
def test_json_of_any_encoding(maker, tmp_path, encoding):
    textured(maker)
    maker.gltf.nodes[0].name = "Würfel"
    file = as_gltf(maker, tmp_path, "data:;base64," + base64.b64encode(maker.blob).decode())
    file.write_text(json.dumps(json.loads(file.read_text()), ensure_ascii=False), encoding=encoding)
    assert read_glb(file)[0][0].path == "Würfel"


def test_a_glb_padded_with_zero_bytes(maker, tmp_path):
    maker.node("a" * 7)
    data = maker.write(tmp_path / "scene.glb").read_bytes()
    size = struct.unpack_from("<I", data, 12)[0]
    text = data[20 : 20 + size] + bytes(4)
    (tmp_path / "scene.glb").write_bytes(
        b"glTF" + struct.pack("<IIII", 2, 20 + len(text), len(text), 0x4E4F534A) + text
    )
    assert read_glb(tmp_path / "scene.glb")[0][0].path == "a" * 7


def test_a_gltf_with_everything_inside(maker, tmp_path):
    textured(maker)
    data = base64.b64encode(maker.blob).decode()
    (plan,), _ = read_glb(as_gltf(maker, tmp_path, f"data:application/gltf-buffer;base64,{data}"))
    assert plan.shape[0].paint.texture is not None and len(solid(plan.shape).faces) == 12


@pytest.mark.parametrize(
    "uri",
    [
        "../scene.bin",
        "%2e%2e/scene.bin",
        "sub/../../scene.bin",
        "..\\scene.bin",
        "/etc/passwd",
        "\\\\host\\scene.bin",
        "file:///etc/passwd",
        "http://127.0.0.1:9/scene.bin",
        "C:/scene.bin",
    ],
)
@pytest.mark.parametrize("image", [False, True])
def test_files_elsewhere_are_not_read(maker, tmp_path, uri, image):
    textured(maker)
    (tmp_path / "scene.bin").write_bytes(maker.blob)
    file = as_gltf(maker, tmp_path, *(("ok.bin", uri) if image else (uri,)))
    (file.parent / "ok.bin").write_bytes(maker.blob)
    (file.parent / "sub").mkdir()
    with pytest.raises(ValueError, match=r"scene\.gltf: .*(beside|expected a URI)"):
        read_glb(file)


def test_a_buffer_that_is_missing(maker, tmp_path):
    textured(maker)
    with pytest.raises(ValueError, match=r"scene\.gltf: .*no file 'missing.bin' beside it; copy it there"):
        read_glb(as_gltf(maker, tmp_path, "missing.bin"))
