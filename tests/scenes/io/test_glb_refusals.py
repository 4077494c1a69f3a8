"""Broken and hostile glTF files say what is wrong with them."""

import json
import re
import struct

import numpy as np
import pygltflib as gl
import pytest

from scenes.io.glb import MAX_NODES, read_glb
from tests.scenes.io.glb_files import (
    BOX,
    perspective,
    solid,
    textured,
)


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
