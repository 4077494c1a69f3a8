"""glTF files made by hand, and what tests ask of what was read."""

import io
import math

import numpy as np
import pygltflib as gl
import trimesh
from PIL import Image

from objects.mesh import read_mesh
from scenes.io.glb import read_glb
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


def perspective(maker, **lens):
    maker.gltf.cameras.append(gl.Camera(type="perspective", perspective=gl.Perspective(znear=0.1, **lens)))
    return len(maker.gltf.cameras) - 1


def textured(maker):
    uv = maker.accessor(np.zeros((len(BOX.vertices), 2)))
    maker.node("a", mesh=maker.mesh(maker.primitive(BOX, material=maker.texture((10, 200, 30)), TEXCOORD_0=uv)))
