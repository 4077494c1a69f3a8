"""Meshes of glTF files: shapes, colours, textures, instances."""

import io
import math

import numpy as np
import pygltflib as gl
import pytest
import trimesh
from PIL import Image

from objects.gltf_mesh import gltf_parts
from objects.mesh import read_mesh
from scenes.io.description import read_description
from scenes.io.glb import read_glb
from tests.scenes.io.glb_files import (
    BOX,
    Z_UP,
    Z_UP_BOUNDS,
    about,
    assert_same_triangles,
    color,
    corners,
    solid,
    trimesh_corners,
)


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
