"""glTF files as plans: where things stand, what moves, what is shared, and what a bad file says."""

import base64
import io
import json
import math
import re
import struct
import warnings
from dataclasses import replace

import numpy as np
import pygltflib as gl
import pytest
import torch
import trimesh
from PIL import Image

from objects.gltf_mesh import gltf_parts
from objects.mesh import read_mesh
from objects.placed import Placed
from objects.pose import SE3
from objects.primitives import Box
from objects.warped import Warped
from rendering.lights import DirectionalLight, PointLight
from scenes.io.description import read_description
from scenes.io.glb import MAX_NODES, read_glb
from scenes.io.plan import build
from scenes.io.scene_folder import load_scene, save_scene
from scenes.track import Sim3

Z_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
BOX = trimesh.creation.box((1.0, 2.0, 3.0)).apply_translation((0.3, 0.2, 0.1))
Z_UP_BOUNDS = np.sort(BOX.bounds @ Z_UP.T, 0)
CODES = {"<f4": 5126, "|i1": 5120, "<i2": 5122, "|u1": 5121, "<u2": 5123, "<u4": 5125}
KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}


class Maker:
    """A glTF put together piece by piece; each method gives the index of what it added."""

    def __init__(self):
        self.gltf = gl.GLTF2(scene=0, scenes=[gl.Scene()])
        self.blob = b""

    def view(self, data, **more):
        self.gltf.bufferViews.append(gl.BufferView(buffer=0, byteOffset=len(self.blob), byteLength=len(data), **more))
        self.blob += data + bytes(-len(data) % 4)
        return len(self.gltf.bufferViews) - 1

    def accessor(self, rows, dtype="<f4", **more):
        rows = np.asarray(rows, dtype)
        kind = KINDS[1 if rows.ndim == 1 else rows.shape[1]]
        entry = gl.Accessor(componentType=CODES[rows.dtype.str], count=len(rows), type=kind, **more)
        entry.bufferView = self.view(rows.tobytes())
        self.gltf.accessors.append(entry)
        return len(self.gltf.accessors) - 1

    def primitive(self, mesh, *, mode=4, material=None, **attributes):
        names = gl.Attributes(POSITION=self.accessor(mesh.vertices))
        for name, index in attributes.items():
            setattr(names, name, index)
        return gl.Primitive(
            attributes=names, indices=self.accessor(mesh.faces.ravel(), "<u2"), mode=mode, material=material
        )

    def mesh(self, *primitives, name=None):
        self.gltf.meshes.append(gl.Mesh(primitives=list(primitives) or [self.primitive(BOX)], name=name))
        return len(self.gltf.meshes) - 1

    def node(self, name=None, parent=None, **more):
        self.gltf.nodes.append(gl.Node(name=name, **more))
        index = len(self.gltf.nodes) - 1
        (self.gltf.scenes[0].nodes if parent is None else self.gltf.nodes[parent].children).append(index)
        return index

    def texture(self, color=(200, 100, 50), size=(4, 4)):
        file = io.BytesIO()
        Image.new("RGB", size, color).save(file, "PNG")
        self.gltf.images.append(gl.Image(bufferView=self.view(file.getvalue()), mimeType="image/png"))
        self.gltf.textures.append(gl.Texture(source=len(self.gltf.images) - 1))
        return self.material(baseColorTexture=gl.TextureInfo(index=len(self.gltf.textures) - 1))

    def material(self, **look):
        self.gltf.materials.append(gl.Material(pbrMetallicRoughness=gl.PbrMetallicRoughness(**look)))
        return len(self.gltf.materials) - 1

    def animate(self, node, path, times, values, interpolation="LINEAR", animation=0, dtype="<f4", **more):
        while len(self.gltf.animations) <= animation:
            self.gltf.animations.append(gl.Animation(name=f"clip {len(self.gltf.animations)}"))
        clip = self.gltf.animations[animation]
        sampler = gl.AnimationSampler(interpolation=interpolation)
        sampler.input, sampler.output = self.accessor(times), self.accessor(values, dtype, **more)
        clip.samplers.append(sampler)
        target = gl.AnimationChannelTarget(node=node, path=path)
        clip.channels.append(gl.AnimationChannel(sampler=len(clip.samplers) - 1, target=target))

    def light(self, **entry):
        lights = self.gltf.extensions.setdefault("KHR_lights_punctual", {"lights": []})["lights"]
        lights.append(entry)
        return {"KHR_lights_punctual": {"light": len(lights) - 1}}

    def write(self, path):
        self.gltf.buffers = [gl.Buffer(byteLength=len(self.blob))] if self.blob else []
        self.gltf.set_binary_blob(self.blob)
        path.write_bytes(b"".join(bytes(piece) for piece in self.gltf.save_to_bytes()))
        return path

    def read(self, tmp_path):
        return read_glb(self.write(tmp_path / "scene.glb"))


@pytest.fixture
def maker():
    return Maker()


def solid(parts):
    """The triangles of all parts of a mesh."""
    return trimesh.util.concatenate([trimesh.Trimesh(p.vertices, p.faces, process=False) for p in parts])


def color(shape, *points):
    """Colours (sRGB) of a mesh at points."""
    return read_mesh(shape).colors(np.array(points or [(0, 0, 0)], float))


def worlds(plans, time=0.0):
    """Path to similarity, node to world."""
    found = {"": Sim3()}
    for plan in plans:
        above, _, _ = plan.path.rpartition("/")
        found[plan.path] = found[above] @ Sim3(*plan.track.at(time), plan.scale)
    return found


def corners(plans, time=0.0):
    """Last part of the path to the triangles of its mesh in the world, ``[f, 3, 3]``."""
    sims = worlds(plans, time)
    return {
        plan.path.split("/")[-1]: np.array(
            [sims[plan.path].apply(tuple(p)) for p in solid(plan.shape).triangles.reshape(-1, 3)]
        ).reshape(-1, 3, 3)
        for plan in plans
        if plan.shape is not None
    }


def trimesh_corners(path):
    """The same as trimesh sees it."""
    scene = trimesh.load(path)
    found = {}
    for node in scene.graph.nodes_geometry:
        matrix, geometry = scene.graph[node]
        mesh = scene.geometry[geometry].copy().apply_transform(matrix)
        found[node] = mesh.triangles @ Z_UP.T
    return found


def volume(triangles):
    return np.einsum("fi,fi->f", triangles[:, 0], np.cross(triangles[:, 1], triangles[:, 2])).sum() / 6


def assert_same_triangles(got, wanted):
    """Equal but for the corner that a triangle begins with; the same side is out."""
    assert got.keys() == wanted.keys()
    for name in got:
        a, b = got[name], wanted[name]
        assert a.shape == b.shape
        size = np.abs(b).max()
        turned = [np.abs(a - np.roll(b, k, axis=1)).max((1, 2)) for k in range(3)]
        assert np.min(turned, 0).max() < 3e-6 * size, name


def quat_xyzw(rng):
    q = rng.normal(size=4)
    return (q / np.linalg.norm(q)).tolist()


def about(axis, degrees):
    """Rotation about an axis as x y z w."""
    half = math.radians(degrees) / 2
    return [*(math.sin(half) * np.asarray(axis, float)), math.cos(half)]


def by_path(plans):
    return {plan.path: plan for plan in plans}


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


# -- meshes


def test_nodes_that_share_a_mesh_share_the_object(maker, tmp_path):
    one, other = maker.mesh(), maker.mesh()
    for k, (mesh, scale) in enumerate(((one, 1), (one, 2), (other, 1), (one, (1, 2, 1)), (one, (1, 2, 1)))):
        maker.node(f"n{k}", mesh=mesh, scale=np.broadcast_to(scale, 3).tolist(), rotation=about((0, 1, 0), 10 * k))
    shapes = [plan.shape for plan in maker.read(tmp_path)[0]]
    assert shapes[0] is shapes[1] and shapes[3] is shapes[4]
    assert len({id(shape) for shape in shapes}) == 3


def test_one_part_is_what_trimesh_reads(maker, tmp_path):
    maker.node("a", mesh=maker.mesh())
    (plan,), _ = maker.read(tmp_path)
    (alone,) = trimesh.load(tmp_path / "scene.glb").geometry.values()
    np.testing.assert_array_equal(solid(plan.shape).triangles, alone.triangles)
    assert [part.paint for part in plan.shape] == [None]


def test_a_texture_survives_scaling_too(maker, tmp_path):
    material = maker.texture((200, 100, 50))
    uv = np.random.default_rng(0).random((len(BOX.vertices), 2)).astype(np.float32)
    mesh = maker.mesh(maker.primitive(BOX, material=material, TEXCOORD_0=maker.accessor(uv)))
    maker.node("a", mesh=mesh)
    maker.node("b", mesh=mesh, scale=[1, 2, -1])
    plans, _ = maker.read(tmp_path)
    for plan, faces in zip(plans, (BOX.faces, BOX.faces[:, ::-1]), strict=True):  # mirrored
        (part,) = plan.shape
        np.testing.assert_array_equal(part.paint.uv, uv[faces])
        np.testing.assert_allclose(color(plan.shape) * 255, [[200, 100, 50]], atol=0.01)


def srgb(*linear):
    """IEC 61966-2-1, from its text."""
    return [12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055 for c in linear]


def test_factors_and_vertex_colors_are_linear_light(maker, tmp_path):
    shade = np.tile([[255, 0, 128, 255]], (len(BOX.vertices), 1))
    painted = maker.material(baseColorFactor=[0.2, 0.4, 0.6, 1])
    maker.node("bytes", mesh=maker.mesh(maker.primitive(BOX, COLOR_0=maker.accessor(shade, "|u1", normalized=True))))
    shorts = maker.accessor(shade[:, :3] * 257, "<u2", normalized=True)
    maker.node("shorts", mesh=maker.mesh(maker.primitive(BOX, COLOR_0=shorts)))
    maker.node("floats", mesh=maker.mesh(maker.primitive(BOX, COLOR_0=maker.accessor(shade[:, :3] / 255))))
    maker.node("plain", mesh=maker.mesh(maker.primitive(BOX, material=painted)))
    plans, notes = maker.read(tmp_path)
    for plan in plans:
        rgb = (0.2, 0.4, 0.6) if plan.path == "plain" else (1, 0, 128 / 255)
        np.testing.assert_allclose(color(plan.shape), [srgb(*rgb)], atol=1e-6)
    assert notes == []


def test_factor_vertex_color_and_texture_are_multiplied_in_linear_light(maker, tmp_path):
    texture = maker.texture((188, 188, 188))  # linear 0.5029
    maker.gltf.materials[texture].pbrMetallicRoughness.baseColorFactor = [0.25, 1, 1, 1]
    half = maker.accessor(np.full((8, 3), [1, 0.5, 1]))
    uv = maker.accessor(np.full((8, 2), 0.5))
    maker.node("a", mesh=maker.mesh(maker.primitive(BOX, material=texture, COLOR_0=half, TEXCOORD_0=uv)))
    (plan,), notes = maker.read(tmp_path)
    texel = ((188 / 255 + 0.055) / 1.055) ** 2.4
    np.testing.assert_allclose(color(plan.shape), [srgb(0.25 * texel, 0.5 * texel, texel)], atol=1e-6)
    assert notes == []


def test_parts_of_different_materials_keep_their_colors(maker, tmp_path):
    """A texture that repeats, a plain colour and bare triangles in one mesh."""
    red = trimesh.creation.box((1, 1, 1)).apply_translation((-2, 0, 0))
    blue = trimesh.creation.box((1, 1, 1)).apply_translation((2, 0, 0))
    bare = trimesh.creation.box((1, 1, 1)).apply_translation((0, 3, 0))
    uv = maker.accessor(7 + 5 * np.random.default_rng(0).random((len(red.vertices), 2)))
    maker.node(
        "a",
        mesh=maker.mesh(
            maker.primitive(red, material=maker.texture((255, 0, 0), (16, 16)), TEXCOORD_0=uv),
            maker.primitive(blue, material=maker.material(baseColorFactor=[0, 0, 0.5, 1])),
            maker.primitive(bare),
        ),
    )
    (plan,), notes = maker.read(tmp_path)
    assert notes == []
    assert len(solid(plan.shape).faces) == 36
    got = color(plan.shape, [-2, 0, 0.5], [2, 0, 0.5], [0, 3, 0.5])
    np.testing.assert_allclose(got, [[1, 0, 0], srgb(0, 0, 0.5), [0.7, 0.7, 0.7]], atol=1e-6)


def test_the_coordinates_that_a_texture_names(maker, tmp_path):
    """A second set of coordinates, stretched, turned counter-clockwise as seen (v points down) and moved."""
    paint = maker.texture()
    info = maker.gltf.materials[0].pbrMetallicRoughness.baseColorTexture
    info.texCoord = 1
    moved = {"scale": [0.5, 0.25], "offset": [0.1, 0.2], "rotation": math.pi / 2}
    info.extensions = {"KHR_texture_transform": moved}
    uv = np.random.default_rng(0).random((2, 8, 2)).astype(np.float32)
    coordinates = {f"TEXCOORD_{k}": maker.accessor(uv[k]) for k in range(2)}
    maker.node("a", mesh=maker.mesh(maker.primitive(BOX, material=paint, **coordinates)))
    (plan,), notes = maker.read(tmp_path)
    (part,) = plan.shape
    u, v = uv[1].T
    # The right edge of the picture (u = 1) turns up, to v = -1.
    wanted = np.stack([0.25 * v + 0.1, -0.5 * u + 0.2], -1)
    np.testing.assert_allclose(part.paint.uv, wanted[BOX.faces], atol=1e-6)
    assert notes == []


def checkers(maker, sampler, uv):
    """A texture of 2 x 1 texels, black and white, looked up at ``uv`` all over."""
    file = io.BytesIO()
    picture = Image.new("L", (2, 1))
    picture.putpixel((1, 0), 255)
    picture.save(file, "PNG")
    maker.gltf.images.append(gl.Image(bufferView=maker.view(file.getvalue()), mimeType="image/png"))
    maker.gltf.samplers.append(sampler)
    maker.gltf.textures.append(gl.Texture(source=0, sampler=0))
    material = maker.material(baseColorTexture=gl.TextureInfo(index=0))
    place = maker.accessor(np.tile([uv], (len(BOX.vertices), 1)))
    maker.node("a", mesh=maker.mesh(maker.primitive(BOX, material=material, TEXCOORD_0=place)))


@pytest.mark.parametrize(
    ("wrap", "filter_", "u", "linear"),
    [
        (10497, 9729, 0.25, 0),  # texel centres
        (10497, 9729, 0.75, 1),
        (10497, 9729, 0.5, 0.5),
        (10497, 9729, 1.0, 0.5),  # half of either, across the edge
        (10497, 9729, 1.25, 0),
        (33071, 9729, 1.0, 1),
        (33071, 9729, 5.0, 1),
        (33071, 9729, -5.0, 0),
        (33648, 9729, 1.0, 1),
        (33648, 9729, 1.25, 1),  # mirrored: 0.75
        (33648, 9729, 1.75, 0),
        (33648, 9729, -0.25, 0),
        (10497, 9728, 0.49, 0),  # nearest
        (10497, 9728, 0.51, 1),
    ],
)
def test_samplers(maker, tmp_path, wrap, filter_, u, linear):
    checkers(maker, gl.Sampler(wrapS=wrap, magFilter=filter_), (u, 0.5))
    (plan,), notes = maker.read(tmp_path)
    np.testing.assert_allclose(color(plan.shape), [srgb(linear) * 3], atol=1e-4)
    assert notes == []


def test_glossy_materials_and_tinted_vertex_colors(maker, tmp_path):
    gloss = maker.material()
    maker.gltf.materials[0].extensions = {"KHR_materials_pbrSpecularGlossiness": {"diffuseFactor": [0.1, 0.2, 0.3, 1]}}
    tint = maker.material(baseColorFactor=[0.5, 1, 0, 1])
    half = maker.accessor(np.full((8, 3), 0.4))
    maker.node("gloss", mesh=maker.mesh(maker.primitive(BOX, material=gloss)))
    maker.node("tint", mesh=maker.mesh(maker.primitive(BOX, material=tint, COLOR_0=half)))
    plans, _ = maker.read(tmp_path)
    for plan, rgb in zip(plans, ((0.1, 0.2, 0.3), (0.2, 0.4, 0)), strict=True):
        np.testing.assert_allclose(color(plan.shape), [srgb(*rgb)], atol=1e-6)


def test_unlit_meshes_have_no_light(maker, tmp_path):
    unlit, plain = maker.material(baseColorFactor=[1, 0, 0, 1]), maker.material()
    maker.gltf.materials[unlit].extensions = {"KHR_materials_unlit": {}}
    maker.node("sign", mesh=maker.mesh(maker.primitive(BOX, material=unlit)))
    maker.node("wall", mesh=maker.mesh(maker.primitive(BOX, material=plain)))
    both = maker.mesh(maker.primitive(BOX, material=plain), maker.primitive(BOX, material=unlit), name="both")
    maker.node("both", mesh=both)
    plans, notes = maker.read(tmp_path)
    assert [plan.lit for plan in plans] == [False, True, True]
    assert notes == ["mesh both: part of it is unlit; all of it is lit here"]


def test_what_only_emits_has_its_emission_as_colour(maker, tmp_path):
    screen = maker.texture((0, 0, 0))
    lamp = maker.material(baseColorFactor=[0.5, 0.5, 0.5, 1])
    bright = maker.material(baseColorFactor=[0, 0, 0, 1])
    for index, name in enumerate(("screen", "lamp", "bright")):
        maker.gltf.materials[index].name = name
        maker.gltf.materials[index].emissiveFactor = [0.25, 0.5, 0]
    maker.gltf.materials[bright].extensions = {"KHR_materials_emissive_strength": {"emissiveStrength": 4}}
    for material in (screen, lamp, bright):
        maker.node(maker.gltf.materials[material].name, mesh=maker.mesh(maker.primitive(BOX, material=material)))
    plans, notes = maker.read(tmp_path)
    for plan, rgb in zip(plans, ((0.25, 0.5, 0), (0.5, 0.5, 0.5), (1, 1, 0)), strict=True):
        np.testing.assert_allclose(color(plan.shape), [srgb(*rgb)], atol=1e-6)
    assert [plan.lit for plan in plans] == [False, True, False]
    assert notes == [
        "material screen: its emission was taken as its colour, unlit",
        "material lamp: its emission was left out; its base colour was taken",
        "material bright: its emission was taken as its colour, unlit; what is brighter than white is white",
    ]


def test_looks_that_are_left_out_are_told(maker, tmp_path):
    texture = maker.texture()
    info = gl.TextureInfo(index=0)
    for alpha, extra in (
        ("BLEND", {}),
        ("MASK", {}),
        ("OPAQUE", {"KHR_materials_transmission": {"transmissionFactor": 1}}),
    ):
        index = maker.material(baseColorFactor=[1, 1, 1, 0.05])
        material = maker.gltf.materials[index]
        material.name, material.alphaMode, material.extensions = alpha.lower(), alpha, extra
    maker.gltf.materials[index].extensions["KHR_materials_clearcoat"] = {"clearcoatFactor": 0}
    maker.gltf.materials[texture].name = "bumpy"
    maker.gltf.materials[texture].normalTexture = gl.NormalMaterialTexture(index=0)
    maker.gltf.materials[texture].occlusionTexture = gl.OcclusionTextureInfo(index=0)
    maker.gltf.materials[texture].pbrMetallicRoughness.metallicRoughnessTexture = info
    for k in range(4):
        uv = maker.accessor(np.zeros((8, 2)))
        maker.node(f"n{k}", mesh=maker.mesh(maker.primitive(BOX, material=k, TEXCOORD_0=uv)))
    assert maker.read(tmp_path)[1] == [
        "material bumpy: its normal map was left out",
        "material bumpy: its occlusion map was left out",
        "material bumpy: its metallic-roughness map was left out",
        "material blend: its transparency (alphaMode BLEND, opacity 0.05) was left out; it is opaque here",
        "material mask: its cut-outs (alphaMode MASK) were left out; they are filled here",
        "material opaque: its transmission (it is opaque here) was left out",
    ]


def test_textures_that_cannot_be_read_leave_the_factor_and_a_note(maker, tmp_path):
    """A file that is missing, one that is damaged, and KTX2 that stands alone; KTX2 beside a PNG is fine."""
    maker.gltf.images += [
        gl.Image(uri="gone.png"),
        gl.Image(bufferView=maker.view(b"no picture"), mimeType="image/png"),
    ]
    ktx = {"KHR_texture_basisu": {"source": 0}}
    maker.gltf.textures += [gl.Texture(source=0), gl.Texture(source=1), gl.Texture(extensions=ktx)]
    maker.gltf.extensionsRequired = maker.gltf.extensionsUsed = ["KHR_texture_basisu"]
    for k in range(3):
        paint = maker.material(baseColorFactor=[0.5, 0, 0, 1], baseColorTexture=gl.TextureInfo(index=k))
        uv = maker.accessor(np.zeros((8, 2)))
        maker.node(f"n{k}", mesh=maker.mesh(maker.primitive(BOX, material=paint, TEXCOORD_0=uv)))
    fine = maker.texture((0, 255, 0))
    maker.gltf.textures[3].extensions = ktx
    maker.node("n3", mesh=maker.mesh(maker.primitive(BOX, material=fine, TEXCOORD_0=maker.accessor(np.zeros((8, 2))))))
    maker.node("n4", mesh=maker.mesh(maker.primitive(BOX, material=fine), name="bare"))
    plans, notes = maker.read(tmp_path)
    for plan in plans[:3]:
        np.testing.assert_allclose(color(plan.shape), [srgb(0.5, 0, 0)], atol=1e-6)
    np.testing.assert_allclose(color(plans[3].shape), [[0, 1, 0]], atol=1e-6)
    assert notes == [
        "mesh bare: its texture was left out: it has no coordinates TEXCOORD_0",
        "material 0: its texture 'gone.png' is missing and was left out; copy it beside the file",
        "material 1: its texture 'image-1' cannot be read and was left out: it is no picture of a known kind",
        "material 2: its texture was left out: KTX2 (Basis) is not read here; export PNG or JPEG",
    ]


def test_instances_are_nodes(maker, tmp_path):
    """EXT_mesh_gpu_instancing: each instance is a child that shares the mesh."""
    places, turns = np.array([[1.0, 0, 0], [0, 2, 0]]), [about((0, 1, 0), 90), about((0, 0, 1), 0)]
    attributes = {"TRANSLATION": maker.accessor(places), "ROTATION": maker.accessor(turns)}
    many = {"EXT_mesh_gpu_instancing": {"attributes": attributes}}
    maker.node("trees", translation=[0, 0, 5], mesh=maker.mesh(), extensions=many)
    maker.gltf.extensionsRequired = maker.gltf.extensionsUsed = ["EXT_mesh_gpu_instancing"]
    plans, notes = maker.read(tmp_path)
    assert [plan.path for plan in plans] == ["trees", "trees/trees-1", "trees/trees-2"] and notes == []
    assert plans[0].shape is None and plans[1].shape is plans[2].shape
    for k, plan in enumerate(plans[1:]):
        matrix = trimesh.transformations.quaternion_matrix(np.roll(turns[k], 1))
        matrix[:3, 3] = places[k] + (0, 0, 5)
        wanted = BOX.copy().apply_transform(matrix).triangles @ Z_UP.T
        assert_same_triangles({"x": corners(plans)[plan.path.split("/")[-1]]}, {"x": wanted})


def test_a_scene_that_trimesh_wrote(tmp_path):
    scene = trimesh.Scene()
    rng = np.random.default_rng(0)
    for k in range(3):
        matrix = trimesh.transformations.random_rotation_matrix(rng.random(3))
        matrix[:3, 3] = rng.normal(size=3)
        parent = {"parent_node_name": "n0"} if k else {}
        scene.add_geometry(trimesh.creation.icosphere(1), node_name=f"n{k}", transform=matrix, **parent)
    scene.export(tmp_path / "scene.glb")
    plans, notes = read_glb(tmp_path / "scene.glb")
    found = [
        plan.path.removeprefix("world/") for plan in plans if plan.path != "world"
    ]  # some versions write that node
    assert found == ["n0", "n0/n1", "n0/n2"] and notes == []
    assert_same_triangles(corners(plans), trimesh_corners(tmp_path / "scene.glb"))


def test_points_and_lines_are_skipped_with_a_note(maker, tmp_path):
    maker.node("mixed", mesh=maker.mesh(maker.primitive(BOX), maker.primitive(BOX, mode=1), name="box"))
    maker.node("cloud", mesh=maker.mesh(maker.primitive(BOX, mode=0), name="dots"))
    plans, notes = maker.read(tmp_path)
    assert len(solid(plans[0].shape).faces) == 12 and plans[1].shape is None
    assert notes == [
        "mesh box: its 1 primitives of points or lines were left out",
        "mesh dots: its 1 primitives of points or lines were left out",
        "mesh dots: it has no triangles; its nodes are empty",
    ]


@pytest.mark.parametrize(
    ("mode", "order", "faces"),
    [
        (5, [0, 1, 2, 3, 4], [[0, 1, 2], [2, 1, 3], [2, 3, 4]]),
        (6, [4, 0, 1, 2], [[4, 0, 1], [4, 1, 2]]),
        (4, [0, 1, 2, 3, 4], [[0, 1, 2]]),
    ],
)
def test_strips_and_fans(maker, tmp_path, mode, order, faces):
    points = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    primitive = gl.Primitive(attributes=gl.Attributes(POSITION=maker.accessor(points)), mode=mode)
    primitive.indices = maker.accessor(order, "|u1")
    maker.node("a", mesh=maker.mesh(primitive))
    (plan,), _ = maker.read(tmp_path)
    assert_same_triangles({"a": solid(plan.shape).triangles}, {"a": points[np.array(faces)].astype(float)})


def test_quantized_sparse_and_interleaved_numbers(maker, tmp_path):
    """Positions as fractions of 127 in rows of 4 bytes, one of them replaced."""
    rows = np.round(BOX.vertices / 4 * 127).astype(np.int8)
    padded = np.pad(rows, ((0, 0), (0, 1)), constant_values=99)
    sparse = gl.Sparse(count=1)
    sparse.indices = gl.AccessorSparseIndices(bufferView=maker.view(bytes([5])), componentType=5121)
    sparse.values = gl.AccessorSparseValues(bufferView=maker.view(np.array([127, -128, 0], np.int8).tobytes()))
    maker.gltf.accessors.append(
        gl.Accessor(
            bufferView=maker.view(padded.tobytes(), byteStride=4),
            componentType=5120,
            count=8,
            type="VEC3",
            normalized=True,
            sparse=sparse,
        )
    )
    primitive = gl.Primitive(attributes=gl.Attributes(POSITION=0), indices=maker.accessor(BOX.faces.ravel(), "<u2"))
    maker.gltf.extensionsRequired = maker.gltf.extensionsUsed = ["KHR_mesh_quantization"]
    maker.node("a", mesh=maker.mesh(primitive))
    (plan,), notes = maker.read(tmp_path)
    wanted = rows / 127
    wanted[5] = 1, -1, 0
    np.testing.assert_allclose(solid(plan.shape).vertices, wanted, atol=1e-6)
    assert notes == []


def test_every_door_reads_a_quantized_file_alike(maker, tmp_path):
    """As gltfpack writes it: shares of 32767 beneath a node that scales; in the default scene of two."""
    rows = np.round(BOX.vertices / 4 * 32767)
    names = gl.Attributes(POSITION=maker.accessor(np.pad(rows, ((0, 0), (0, 1))), "<i2", normalized=True))
    maker.gltf.accessors[0].type = "VEC3"
    maker.gltf.bufferViews[0].byteStride = 8
    primitive = gl.Primitive(attributes=names, indices=maker.accessor(BOX.faces.ravel(), "<u2"))
    mesh = maker.mesh(primitive)
    maker.gltf.extensionsRequired = maker.gltf.extensionsUsed = ["KHR_mesh_quantization"]
    maker.node("a", mesh=mesh, scale=[4, 4, 4])
    other = maker.node("other scene", mesh=mesh, translation=[100, 0, 0])
    maker.gltf.scenes[0].nodes.remove(other)
    maker.gltf.scenes.append(gl.Scene(nodes=[other]))
    (plan,), notes = maker.read(tmp_path)
    assert notes == []
    np.testing.assert_allclose(plan.scale * solid(plan.shape).extents, BOX.extents, rtol=1e-4)
    file = tmp_path / "scene.glb"
    np.testing.assert_allclose(read_mesh(file).hi - read_mesh(file).lo, BOX.extents, rtol=1e-4)
    (tmp_path / "d.yaml").write_text("nodes: {a: {mesh: scene.glb, up: y}}")
    (described,) = read_description(tmp_path / "d.yaml")
    np.testing.assert_allclose(solid(described.shape).bounds, Z_UP_BOUNDS, rtol=1e-3)


def test_one_mesh_of_a_file_says_what_only_a_scene_can_show(maker, tmp_path):
    unlit = maker.material()
    maker.gltf.materials[unlit].extensions = {"KHR_materials_unlit": {}}
    node = maker.node("a", mesh=maker.mesh(maker.primitive(BOX, material=unlit)), extensions=maker.light(type="point"))
    maker.animate(node, "translation", [0, 1], [[0, 0, 0], [1, 0, 0]])
    notes = []
    gltf_parts(maker.write(tmp_path / "scene.glb"), notes)
    assert notes == [
        "its lights and animations were left out; build scene= takes them",
        "its unlit look was left out; give the node lit: false",
    ]


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


def perspective(maker, **lens):
    maker.gltf.cameras.append(gl.Camera(type="perspective", perspective=gl.Perspective(znear=0.1, **lens)))
    return len(maker.gltf.cameras) - 1


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


# -- animation


def slerp(a, b, u):
    """Straight from the definition: turn by a part of the angle between."""
    if np.dot(a, b) < 0:
        b = -b
    angle = math.acos(min(np.dot(a, b), 1))
    return a if angle < 1e-9 else (math.sin((1 - u) * angle) * a + math.sin(u * angle) * b) / math.sin(angle)


def assert_pose(plan, time, quat_xyzw, trans):
    """A root's pose is the file's, turned to z up."""
    sim = Sim3(*plan.track.at(time))
    for p in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        matrix = trimesh.transformations.quaternion_matrix(np.roll(quat_xyzw, 1))[:3, :3]
        np.testing.assert_allclose(sim.apply(p), Z_UP @ (matrix @ p + trans), atol=2e-6)


def test_translation_and_rotation_with_keys_of_their_own(maker, tmp_path):
    rng = np.random.default_rng(3)
    turns = np.array([quat_xyzw(rng) for _ in range(4)], np.float32).astype(float)
    turns /= np.linalg.norm(turns, axis=1, keepdims=True)
    turn_times, places = np.array([0.25, 1.0, 2.5, 3.0]), rng.normal(size=(3, 3)).astype(np.float32).astype(float)
    place_times = np.array([0.0, 1.5, 2.0])
    node = maker.node("a", mesh=maker.mesh())
    maker.animate(node, "rotation", turn_times, turns)
    maker.animate(node, "translation", place_times, places)
    (plan,), notes = maker.read(tmp_path)
    assert notes == []
    assert plan.track.times.tolist() == [0, 0.25, 1, 1.5, 2, 2.5, 3]
    for time in (-1, 0, 0.1, 0.25, 0.9, 1.2, 1.5, 1.9, 2.2, 2.7, 3.0, 5.0):
        at = np.clip(time, 0.25, 3)
        i = min(int(np.searchsorted(turn_times, at, "right")) - 1, 2)
        turn = slerp(turns[i], turns[i + 1], (at - turn_times[i]) / (turn_times[i + 1] - turn_times[i]))
        place = [np.interp(time, place_times, places[:, k]) for k in range(3)]
        assert_pose(plan, time, turn, place)


def test_what_is_not_animated_stays(maker, tmp_path):
    node = maker.node("a", translation=[1, 2, 3], rotation=about((0, 0, 1), 40), scale=[2, 2, 2])
    maker.animate(node, "rotation", [0, 1], [about((1, 0, 0), 0), about((1, 0, 0), 90)])
    (plan,), _ = maker.read(tmp_path)
    assert plan.scale == 2
    assert_pose(plan, 0.5, about((1, 0, 0), 45), (1, 2, 3))


def test_normalized_shorts_as_rotations(maker, tmp_path):
    node = maker.node("a")
    quats = np.round(np.array([about((0, 1, 0), 0), about((0, 1, 0), 120)]) * 32767)
    maker.animate(node, "rotation", [0, 2], quats, dtype="<i2", normalized=True)
    (plan,), _ = maker.read(tmp_path)
    np.testing.assert_allclose(Sim3(*plan.track.at(1)).apply((1, 0, 0)), Z_UP @ [0.5, 0, -math.sqrt(0.75)], atol=1e-4)


def test_steps_alone_make_a_track_of_steps(maker, tmp_path):
    node = maker.node("a")
    maker.animate(node, "translation", [0, 1, 2], [[0, 0, 0], [1, 0, 0], [2, 0, 0]], "STEP")
    (plan,), _ = maker.read(tmp_path)
    assert plan.track.interpolation == "step"
    assert [plan.track.at(t)[1][0] for t in (-1, 0, 0.99, 1, 1.5, 2, 9)] == [0, 0, 0, 1, 1, 2, 2]


def test_steps_beside_lines(maker, tmp_path):
    node = maker.node("a")
    maker.animate(node, "translation", [0, 1, 2], [[0, 0, 0], [1, 0, 0], [1, 0, 0]], "STEP")
    maker.animate(node, "rotation", [0, 2], [about((0, 1, 0), 0), about((0, 1, 0), 90)])
    (plan,), _ = maker.read(tmp_path)
    assert plan.track.interpolation == "linear"
    np.testing.assert_allclose(plan.track.times, [0, 1 - 1e-4, 1, 2], atol=1e-12)
    for time, x in ((0.5, 0), (0.9998, 0), (1, 1), (1.7, 1)):
        assert_pose(plan, time, about((0, 1, 0), 45 * time), (x, 0, 0))


def test_cubic_curves_follow_the_formula(maker, tmp_path):
    """One segment of 0.5 s against the polynomial written out in time."""
    v0, m0, v1, m1 = (np.array(v, float) for v in ([0, 0, 0], [4, 0, 1], [1, 2, 3], [0, -2, 0]))
    node = maker.node("a")
    rows = [[9, 9, 9], v0, m0, m1, v1, [9, 9, 9]]
    maker.animate(node, "translation", [1.0, 1.5], rows, "CUBICSPLINE")
    turns = [[0, 0, 0, 0], about((1, 0, 0), 0), [0.3, 0, 0, 0], [0, 0, 0, 0], about((1, 0, 0), 90), [0, 0, 0, 0]]
    maker.animate(node, "rotation", [1.0, 1.5], turns, "CUBICSPLINE")
    (plan,), notes = maker.read(tmp_path)
    assert notes == ["a: its curves were resampled at 30 keys a second"]
    assert len(plan.track.times) == 16
    for time in plan.track.times:
        u, d = (time - 1) / 0.5, 0.5
        h = (2 * u**3 - 3 * u**2 + 1, d * (u**3 - 2 * u**2 + u), -2 * u**3 + 3 * u**2, d * (u**3 - u**2))
        place = h[0] * v0 + h[1] * m0 + h[2] * v1 + h[3] * m1
        turn = sum(w * np.array(turns[k]) for w, k in zip(h, (1, 2, 4, 3), strict=True))
        assert_pose(plan, float(time), turn / np.linalg.norm(turn), place)
    np.testing.assert_allclose(Sim3(*plan.track.at(9)).trans, Z_UP @ v1, atol=1e-6)


def test_animated_scale_is_told(maker, tmp_path):
    node = maker.node("a", mesh=maker.mesh())
    maker.animate(node, "scale", [0, 1, 2], [[0, 0, 0], [2, 2, 2], [3, 3, 3]])
    (plan,), notes = maker.read(tmp_path)
    assert plan.scale == 2 and not plan.track.moves
    assert notes == ["a: animated scale is not rigid; its value at the start was kept"]


def test_keys_of_what_stands_still_are_no_motion(maker, tmp_path):
    """Exporters write them for all properties, below uneven scales as well."""
    top = maker.node("top", scale=[1, 2, 1])
    node = maker.node("a", top, mesh=maker.mesh())
    turn = about((0.6, 0, 0.8), 77)
    maker.animate(node, "rotation", [0, 1, 3], [turn, turn, [-v for v in turn]])
    maker.animate(node, "translation", [0, 2], [[1, 2, 3], [1, 2, 3]])
    maker.animate(node, "scale", [0, 2], [[2, 2, 2], [2, 2, 2]])
    plans, notes = maker.read(tmp_path)
    assert notes == ["top/a: the scale of a node above was baked into its mesh"]
    assert not plans[1].track.moves
    matrix = trimesh.transformations.quaternion_matrix(np.roll(turn, 1))
    matrix[:3, :3] *= 2
    matrix[:3, 3] = 1, 2, 3
    wanted = BOX.copy().apply_transform(np.diag([1.0, 2, 1, 1]) @ matrix).triangles @ Z_UP.T
    assert_same_triangles(corners(plans), {"a": wanted})


def test_the_first_of_two_animations_of_a_node_wins(maker, tmp_path):
    top = maker.node("top")
    a, b = maker.node("a", top), maker.node("b", top)
    maker.animate(a, "translation", [0, 1], [[0, 0, 0], [1, 0, 0]])
    maker.animate(b, "translation", [0, 2], [[0, 0, 0], [0, 1, 0]], animation=1)
    maker.animate(a, "translation", [0, 1], [[5, 0, 0], [9, 0, 0]], animation=1)
    plans, notes = maker.read(tmp_path)
    assert plans[1].track.at(1)[1] == (1, 0, 0) and plans[2].track.at(1)[1] == (0, 0.5, 0)
    assert notes == ["top/a: more than one animation drives it; the first, 'clip 0', was taken"]


def reference(gltf, time):
    """World matrices by name, straight from the definition; LINEAR keys 0 and 1 at the times 0 and 1."""
    moved = {}
    for node, path, first, last in gltf["drives"]:
        moved[node, path] = slerp(first, last, time) if path == "rotation" else first + time * (last - first)

    def local(i, node):
        def value(path, default):
            return np.array(moved.get((i, path), getattr(node, path) or default), float)

        matrix = trimesh.transformations.quaternion_matrix(np.roll(value("rotation", [0, 0, 0, 1]), 1))
        matrix[:3, :3] *= value("scale", [1, 1, 1])
        matrix[:3, 3] = value("translation", [0, 0, 0])
        return matrix

    found, todo = {}, [(i, np.eye(4)) for i in gltf["roots"]]
    while todo:
        i, above = todo.pop()
        node = gltf["nodes"][i]
        found[node.name] = above @ local(i, node)
        todo += [(child, found[node.name]) for child in node.children]
    return found


@pytest.mark.parametrize("time", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("above", [(2, 2, 2), (-1, 1, 1), (-3, -3, -3)])
def test_wheels_turn_beneath_even_and_mirrored_scales(maker, tmp_path, above, time):
    """A wheel with an uneven scale of its own, and a hub that slides in it."""
    mesh = maker.mesh()
    car = maker.node("car", scale=list(above), rotation=about((0, 0, 1), 20), translation=[1, 0, 0], mesh=mesh)
    wheel = maker.node("wheel", car, translation=[1, 1, 0], scale=[1, 2, 1], mesh=mesh)
    hub = maker.node("hub", wheel, rotation=about((1, 0, 0), 30), mesh=mesh)
    turn = [np.float32(about((0, 0, 1), 10)), np.float32(about((0.6, 0.8, 0), 130))]
    slide = [np.float32([0, 0, 1]), np.float32([0, 2, 1])]
    maker.animate(wheel, "rotation", [0, 1], turn)
    maker.animate(hub, "translation", [0, 1], slide)
    plans, _ = maker.read(tmp_path)
    drives = [(wheel, "rotation", *turn), (hub, "translation", *slide)]
    matrices = reference({"drives": drives, "roots": [car], "nodes": maker.gltf.nodes}, time)
    wanted = {}
    for name, matrix in matrices.items():
        moved = BOX.copy().apply_transform(matrix)
        wanted[name] = moved.triangles @ Z_UP.T
    assert_same_triangles(corners(plans, time), wanted)


@pytest.mark.parametrize("scale", [(-1, -1, 1), (-1, 1, 1), (-2, -2, -2), (2, 2, 2)])
def test_what_turns_within_what_turns(maker, tmp_path, scale):
    mesh = maker.mesh()
    outer = maker.node("outer", scale=list(scale), mesh=mesh)
    inner = maker.node("inner", outer, translation=[1, 2, 3], scale=[1, 2, 1], mesh=mesh)
    turns = [[np.float32(about(axis, angle)) for angle in (10, 130)] for axis in ((0.6, 0.8, 0), (0, 0.6, 0.8))]
    drives = [(node, "rotation", *turn) for node, turn in zip((outer, inner), turns, strict=True)]
    for node, path, *turn in drives:
        maker.animate(node, path, [0, 1], turn)
    plans, _ = maker.read(tmp_path)
    matrices = reference({"drives": drives, "roots": [outer], "nodes": maker.gltf.nodes}, 0.3)
    wanted = {name: BOX.copy().apply_transform(matrix).triangles @ Z_UP.T for name, matrix in matrices.items()}
    assert_same_triangles(corners(plans, 0.3), wanted)


def test_turning_beneath_an_uneven_scale_is_an_error(maker, tmp_path):
    top = maker.node("rack", scale=[1, 1, 2])
    maker.animate(maker.node("gear", top), "rotation", [0, 1], [about((1, 0, 0), 0), about((1, 0, 0), 90)])
    with pytest.raises(ValueError, match=r"node 1 'gear': it turns beneath the uneven scale of 'rack'.*modelling tool"):
        maker.read(tmp_path)


# -- .gltf and other files


def textured(maker):
    uv = maker.accessor(np.zeros((len(BOX.vertices), 2)))
    maker.node("a", mesh=maker.mesh(maker.primitive(BOX, material=maker.texture((10, 200, 30)), TEXCOORD_0=uv)))


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


# -- bad files


def fails(path):
    """The one line that names the file."""
    with pytest.raises(ValueError, match=r"^[^\n]+\Z") as error:
        read_glb(path)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)[len(f"{path}: ") :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "no such file"),
        (b"", "an empty file"),
        (b"ply\nformat ascii", "expected glTF 2"),
        (b"\xff\xfe\x00", "expected glTF 2"),
        (b"glTF", "expected glTF 2"),
        (b"glTF" + struct.pack("<II", 1, 12), "version 1"),
        (b"glTF" + struct.pack("<II", 2, 12), "it has no b'JSON'"),
        (b"glTF" + struct.pack("<IIII", 2, 20, 100, 0x4E4F534A), "expected glTF 2"),
        (b"{}", "it has no 'asset'"),
        (b"[]", "expected glTF 2"),
        (b"[" * 100_000, "expected glTF 2"),
        (b'{"asset": {"version": "1.0"}}', "version 1.0 of the format"),
        (b'{"asset": {"version": "2.0"}, "nodes": 5}', "glTF 2|expected a list"),
        (b'{"asset": {"version": "2.0"}, "nodes": [null], "scenes": [{"nodes": [0]}]}', "expected"),
    ],
)
def test_what_is_no_gltf(tmp_path, data, message):
    file = tmp_path / "bad.glb"
    if data is not None:
        file.write_bytes(data)
    assert re.search(message, fails(file))


def test_a_folder_is_no_file(tmp_path):
    assert "a folder" in fails(tmp_path)


def test_every_truncation_is_noticed(maker, tmp_path):
    textured(maker)
    data = maker.write(tmp_path / "scene.glb").read_bytes()
    for size in np.linspace(1, len(data) - 1, 40).astype(int):
        (tmp_path / "cut.glb").write_bytes(data[:size])
        fails(tmp_path / "cut.glb")


def broken(change, message):
    return pytest.param(change, message, id=change.__name__)


def cycle(m):
    m.gltf.nodes[2].children = [1]
    m.gltf.nodes[0].children = []


def itself(m):
    m.gltf.nodes[2].children = [2]


def back_to_the_root(m):
    m.gltf.nodes[2].children = [0]


def two_parents(m):
    m.gltf.nodes[0].children = [1, 2]


def twice_a_child(m):
    m.gltf.nodes[0].children = [1, 1]


def twice_in_the_scene(m):
    m.gltf.scenes[0].nodes = [0, 0]


def root_with_a_parent(m):
    m.gltf.scenes[0].nodes = [0, 2]


def child_out_of_range(m):
    m.gltf.nodes[2].children = [7]


def negative_root(m):
    m.gltf.scenes[0].nodes = [-1]


def scene_out_of_range(m):
    m.gltf.scene = 4


def mesh_out_of_range(m):
    m.gltf.nodes[2].mesh = 3


def negative_mesh(m):
    m.gltf.nodes[2].mesh = -1


def material_out_of_range(m):
    m.gltf.meshes[0].primitives[0].material = 9


def camera_out_of_range(m):
    m.gltf.nodes[2].camera = 0


def light_out_of_range(m):
    m.gltf.nodes[2].extensions = {"KHR_lights_punctual": {"light": 0}}


def accessor_out_of_range(m):
    m.gltf.meshes[0].primitives[0].attributes.POSITION = 50


def no_positions(m):
    m.gltf.meshes[0].primitives[0].attributes.POSITION = None


def positions_of_two(m):
    m.gltf.accessors[0].type = "VEC2"


def component_type_of_no_kind(m):
    m.gltf.accessors[0].componentType = [5126]


def sparse_out_of_range(m):
    view = m.view(bytes([8]))
    sparse = m.gltf.accessors[0].sparse = gl.Sparse(count=1)
    sparse.indices = gl.AccessorSparseIndices(bufferView=view, componentType=5121)
    sparse.values = gl.AccessorSparseValues(bufferView=0)


def accessor_too_long(m):
    m.gltf.accessors[0].count = 10**9


def accessor_of_nothing_too_long(m):
    m.gltf.accessors[0].bufferView, m.gltf.accessors[0].count = None, 10**15


def negative_count(m):
    m.gltf.accessors[0].count = -1


def negative_offset(m):
    m.gltf.accessors[0].byteOffset = -4


def view_out_of_the_buffer(m):
    m.gltf.bufferViews[0].byteLength = 10**9


def stride_too_small(m):
    m.gltf.bufferViews[0].byteStride = 4


def face_out_of_range(m):
    m.gltf.accessors[0].count = 4


def nan_vertices(m):
    m.blob = np.full(3, np.nan, "<f4").tobytes() + m.blob[12:]


def zero_rotation(m):
    m.gltf.nodes[2].rotation = [0, 0, 0, 0]


def rotation_of_three(m):
    m.gltf.nodes[2].rotation = [0, 0, 1]


def text_for_a_number(m):
    m.gltf.nodes[2].translation = ["a", 0, 0]


def huge_translation(m):
    m.gltf.nodes[2].translation = [1e200, 0, 0]


def projective_matrix(m):
    m.gltf.nodes[2].matrix = [1, 0, 0, 0.5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]


def singular_matrix(m):
    m.gltf.nodes[2].matrix = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]


def unsorted_times(m):
    m.animate(2, "translation", [0, 2, 1], np.zeros((3, 3)))


def equal_times(m):
    m.animate(2, "translation", [0, 1, 1], np.zeros((3, 3)))


def nan_times(m):
    m.animate(2, "translation", [0, np.nan], np.zeros((2, 3)))


def too_few_values(m):
    m.animate(2, "translation", [0, 1], np.zeros((1, 3)))


def no_keys(m):
    m.animate(2, "translation", [], np.zeros((0, 3)))


def zero_rotation_key(m):
    m.animate(2, "rotation", [0, 1], [[0, 0, 0, 1], [0, 0, 0, 0]])


def rotation_keys_of_three(m):
    m.animate(2, "rotation", [0, 1], np.zeros((2, 3)))


def unknown_interpolation(m):
    m.animate(2, "translation", [0, 1], np.zeros((2, 3)), "BEZIER")


def endless_curve(m):
    m.animate(2, "translation", [0, 1e9], np.zeros((6, 3)), "CUBICSPLINE")


def animated_node_out_of_range(m):
    m.animate(99, "translation", [0, 1], np.zeros((2, 3)))


def sampler_out_of_range(m):
    m.animate(2, "translation", [0, 1], np.zeros((2, 3)))
    m.gltf.animations[0].channels[0].sampler = 8


def yfov_of_nothing(m):
    m.gltf.nodes[2].camera = perspective(m, yfov=0.0)


def endless_aspect(m):
    m.gltf.nodes[2].camera = perspective(m, yfov=1.0, aspectRatio=1e9)


def negative_light(m):
    m.gltf.nodes[2].extensions = m.light(type="point", intensity=-1)


def colors_too_few(m):
    m.gltf.meshes[0].primitives[0].attributes.COLOR_0 = m.accessor(np.zeros((2, 3)))


def needs_draco(m):
    m.gltf.extensionsRequired = ["KHR_draco_mesh_compression"]


def needs_meshopt(m):
    m.gltf.extensionsRequired = ["EXT_meshopt_compression"]


def needs_what_nobody_knows(m):
    m.gltf.extensionsRequired = ["ACME_magic"]


def joint_out_of_range(m):
    m.gltf.skins.append(gl.Skin(joints=[9]))
    m.gltf.nodes[2].skin = 0


def instances_of_two_lengths(m):
    attributes = {"TRANSLATION": m.accessor(np.zeros((2, 3))), "SCALE": m.accessor(np.ones((3, 3)))}
    m.gltf.nodes[2].extensions = {"EXT_mesh_gpu_instancing": {"attributes": attributes}}


def draco_primitive(m):
    m.gltf.accessors[0].bufferView = None
    m.gltf.meshes[0].primitives[0].extensions = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        broken(cycle, "node 1 'b': .*cycle"),
        broken(itself, "node 2 'c': expected one parent"),
        broken(back_to_the_root, "node 0 'a': nodes are parents of one another in a cycle"),
        broken(two_parents, "node 2 'c': expected one parent, got node 0 'a' and node 1 'b'"),
        broken(twice_a_child, "node 1 'b': expected one parent"),
        broken(twice_in_the_scene, "lists a node twice"),
        broken(root_with_a_parent, "node 2 'c': expected a root, got a child of node 1 'b'"),
        broken(child_out_of_range, "node 2 'c': child: expected an index below 3, got 7"),
        broken(negative_root, "scene: nodes: expected indices, got -1"),
        broken(scene_out_of_range, "scene: expected an index below 1, got 4"),
        broken(mesh_out_of_range, "node 2: mesh: expected an index below 1, got 3"),
        broken(negative_mesh, "node 2: mesh: expected an index below 1, got -1"),
        broken(material_out_of_range, "node 2 'c': mesh 0: primitive 0: material: expected an index below 0, got 9"),
        broken(camera_out_of_range, "node 2: camera: expected an index below 0"),
        broken(light_out_of_range, "node 2: light: expected an index below 0"),
        broken(accessor_out_of_range, "node 2 'c': mesh 0: primitive 0: POSITION: accessor: .* got 50"),
        broken(no_positions, "POSITION: accessor: .* got None"),
        broken(positions_of_two, "expected VEC3"),
        broken(component_type_of_no_kind, "expected VEC3 of a glTF component type"),
        broken(sparse_out_of_range, "sparse: indices must be below 8, got 8"),
        broken(accessor_too_long, "do not fit into 96 bytes"),
        broken(accessor_of_nothing_too_long, "expected a bufferView"),
        broken(negative_count, "count: expected a whole number"),
        broken(negative_offset, "byteOffset: expected a whole number"),
        broken(view_out_of_the_buffer, "bufferView 0: expected at most"),
        broken(stride_too_small, "every 4 .* do not fit"),
        broken(face_out_of_range, "indices must be whole numbers below 4"),
        broken(nan_vertices, "POSITION: expected finite numbers"),
        broken(zero_rotation, "node 2 'c': rotation: expected a quaternion"),
        broken(rotation_of_three, "node 2 'c': rotation: expected 4 finite"),
        broken(text_for_a_number, "node 2 'c': translation: expected 3 finite|reading it failed"),
        broken(huge_translation, "node 2 'c': translation: expected 3 finite"),
        broken(projective_matrix, "node 2 'c': matrix: expected a last row of 0 0 0 1"),
        broken(singular_matrix, "node 2 'c': its scale flattens its mesh"),
        broken(unsorted_times, "node 2 'c': animated translation: times must increase, got 2 followed by 1"),
        broken(equal_times, "node 2 'c': animated translation: times must increase, got 1 followed by 1"),
        broken(nan_times, "node 2 'c': animated translation: times: expected finite"),
        broken(too_few_values, "node 2 'c': animated translation: expected 1 value"),
        broken(no_keys, "node 2 'c': animated translation: .*at least 1 key"),
        broken(zero_rotation_key, "node 2 'c': animated rotation: a quaternion has length 0"),
        broken(rotation_keys_of_three, "node 2 'c': animated rotation: values: .*expected VEC4"),
        broken(unknown_interpolation, "expected LINEAR, STEP or CUBICSPLINE, got 'BEZIER'"),
        broken(endless_curve, "node 2 'c': animated translation: a curve of 1e.09 s is too long"),
        broken(animated_node_out_of_range, "animation 'clip 0': channel 0: node: expected an index below 3, got 99"),
        broken(sampler_out_of_range, "node 2 'c': animated translation: sampler: expected an index below 1, got 8"),
        broken(yfov_of_nothing, "node 2 'c': camera 0: yfov must lie between"),
        broken(endless_aspect, "node 2 'c': camera 0: aspectRatio must lie between"),
        broken(negative_light, "node 2 'c': light: intensity must be at least 0"),
        broken(colors_too_few, "expected a colour for each of 8 vertices, got 2"),
        broken(needs_draco, "it is compressed with Draco; export it without compression"),
        broken(needs_meshopt, "it is compressed with meshopt; export it without compression"),
        broken(needs_what_nobody_knows, "needs the extension ACME_magic, which is not read here"),
        broken(joint_out_of_range, "skin: joint: expected an index below 3, got 9"),
        broken(instances_of_two_lengths, "expected as many numbers for each attribute"),
        broken(draco_primitive, "compressed with Draco"),
    ],
)
def test_broken_files_say_what_is_wrong(maker, tmp_path, change, message):
    a = maker.node("a")
    b = maker.node("b", a)
    maker.node("c", b, mesh=maker.mesh())
    maker.read(tmp_path)  # in order so far
    change(maker)
    got = fails(maker.write(tmp_path / "bad.glb"))
    assert re.search(message, got), got


def test_nan_in_a_matrix(tmp_path):
    matrix = "[1, 0, 0, 0, 0, NaN, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]"
    nodes = f'[{{"name": "a", "matrix": {matrix}}}]'
    (tmp_path / "bad.gltf").write_text(
        f'{{"asset": {{"version": "2.0"}}, "nodes": {nodes}, "scenes": [{{"nodes": [0]}}]}}'
    )
    assert "node 0 'a': matrix: expected 16 finite number(s)" in fails(tmp_path / "bad.gltf")


def test_too_many_nodes(tmp_path):
    data = {"asset": {"version": "2.0"}, "nodes": [{}] * (MAX_NODES + 1), "scenes": [{"nodes": [0]}]}
    (tmp_path / "bad.gltf").write_text(json.dumps(data))
    assert "at most 100,000 nodes are read, the file has 100,001" in fails(tmp_path / "bad.gltf")


@pytest.mark.parametrize("depth", [200, 201])
def test_a_deep_hierarchy(maker, tmp_path, depth):
    above = None
    for k in range(depth):
        above = maker.node(f"n{k}", above)
    file = maker.write(tmp_path / "deep.glb")
    if depth == 200:
        assert len(read_glb(file)[0]) == 200
    else:
        assert "node 200 'n200': nodes are nested deeper than 200" in fails(file)


def refusal(path):
    """What a file is refused for; None where it is read."""
    try:
        read_glb(path)
    except ValueError as error:
        return str(error)
    return None


def test_flipped_bytes_never_raise_anything_else(maker, tmp_path):
    """Hostile files: a few bytes of a good one changed at random."""
    textured(maker)
    node = maker.node("b", 0, scale=[1, 2, 1], camera=perspective(maker, yfov=1.0), extensions=maker.light(type="spot"))
    maker.animate(node, "translation", [0, 1], np.zeros((2, 3)))
    data = maker.write(tmp_path / "scene.glb").read_bytes()
    rng, bad, refused = np.random.default_rng(0), tmp_path / "bad.glb", 0
    for _ in range(150):
        changed = bytearray(data)
        for at in rng.integers(12, len(data), rng.integers(1, 4)):
            changed[at] = rng.choice(np.frombuffer(b'0919-,.:[]{}"ae \x00\xff', np.uint8))
        bad.write_bytes(changed)
        if (message := refusal(bad)) is not None:
            assert message.startswith(f"{bad}: ") and "\n" not in message
            refused += 1
    assert 50 < refused


def test_unknown_extensions_are_told_wherever_they_stand(maker, tmp_path):
    paint = maker.material()
    maker.gltf.materials[paint].extensions = {"KHR_materials_from_tomorrow": {}, "KHR_materials_clearcoat": {}}
    maker.gltf.materials[paint].extras = {"extensions": {"IN_extras": {}}}
    maker.node("a", mesh=maker.mesh(maker.primitive(BOX, material=paint)), extensions={"ACME_physics": {"mass": 3}})
    maker.gltf.extensionsUsed = ["KHR_materials_clearcoat", "ACME_other"]
    assert maker.read(tmp_path)[1] == [
        "file: the extension ACME_other was left out",
        "file: the extension ACME_physics was left out",
        "file: the extension KHR_materials_from_tomorrow was left out",
    ]


def test_a_primitive_that_draco_may_compress_is_read_uncompressed(maker, tmp_path):
    primitive = maker.primitive(BOX)
    primitive.extensions = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {}}}
    maker.node("a", mesh=maker.mesh(primitive))
    (plan,), notes = maker.read(tmp_path)
    assert len(solid(plan.shape).faces) == 12 and notes == []
