"""Meshes of glTF files: triangles of all kinds, skins and morph targets at rest, and their colours; each read once."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pygltflib as gl
from jaxtyping import Float, Int

from objects.gltf_file import GltfFile, clean, extension, fields_of, numbers, pick
from objects.gltf_look import Look, Looks
from objects.gltf_nodes import MAX_DEPTH, MAX_NODES, Nodes
from objects.mesh_parts import MAX_FACES, MeshPart
from objects.paint import Paint

_DRACO = "KHR_draco_mesh_compression"


def gltf_parts(path: Path, notes: list[str]) -> list[MeshPart]:
    """All meshes of the default scene of a glTF file, where their nodes stand at rest, in the file's own frame (y up).

    Raises:
        ValueError: It cannot be read; the message doesn't name the file.
    """
    file = GltfFile(path, MAX_NODES)
    nodes = Nodes(file)
    meshes = Meshes(file, nodes)
    parts: list[MeshPart] = []
    todo = [(i, 0) for i in nodes.roots()][::-1]
    others: dict[str, None] = {}
    lit = {True: 0, False: 0}
    while todo:
        i, depth = todo.pop()
        if depth >= MAX_DEPTH:
            raise ValueError(f"{nodes.label(i)}: nodes are nested deeper than {MAX_DEPTH}; flatten the hierarchy")
        node = nodes.node(i)
        others |= {"cameras": None} if node.camera is not None else {}
        others |= {"lights": None} if nodes.light_entry(i) is not None else {}
        if node.mesh is not None and (shape := meshes.shape(i, None)) is not None:
            matrix = nodes.to_world(i)
            if np.linalg.svd(matrix[:3, :3], compute_uv=False)[2] > 0:
                parts += [part.transformed(matrix) for part in shape]
            else:
                file.note(nodes.own_name(i), "its scale flattens its mesh to nothing; it was left out")
            lit[meshes.lit(i)] += 1
        if sum(len(part.faces) for part in parts) > MAX_FACES:
            raise ValueError(f"expected at most {MAX_FACES:,} faces; simplify it")
        todo += [(child, depth + 1) for child in nodes.children(i)][::-1]
    if file.gltf.animations:
        others["animations"] = None
    if others:
        file.note("file", f"its {' and '.join(others)} were left out; build scene= takes them")
    if lit[False]:
        file.note("file", "its unlit look was left out; give the node lit: false")
    meshes.tell()
    notes += [note.removeprefix("file: ") for note in file.notes]
    if not parts:
        raise ValueError("expected triangles, got a scene without any")
    return parts


class BoundMesh(NamedTuple):
    """A mesh with what drives its vertices."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    joints: Int[np.ndarray, "v 4"]
    weights: Float[np.ndarray, "v 4"]  # 0 for vertices that hang on no joint
    targets: Float[np.ndarray, "m v 3"]  # offsets of its morph targets


class Meshes:
    """The meshes of a file."""

    def __init__(self, file: GltfFile, nodes: Nodes) -> None:
        self._file, self._gltf, self._nodes = file, file.gltf, nodes
        self._looks = Looks(file)
        self._meshes: dict[tuple, list[MeshPart] | None] = {}
        self._lit: dict[int, bool] = {}
        self._baked: dict[tuple, list[MeshPart]] = {}

    def shape(self, node: int, residual: np.ndarray | None, *, bound: bool = False) -> list[MeshPart] | None:
        """The mesh that a node shows, in its frame (None: it has no triangles); the same object for the same mesh.

        Its vertices went through ``residual`` (``[3, 3]``; None: identity). ``bound``: as it was bound to its skin, without that.
        """
        label = self._nodes.label(node)
        key, mesh = self._mesh(node, label, bound)
        if residual is None or mesh is None:
            return mesh
        stretch = np.linalg.svd(residual, compute_uv=False)
        if stretch[2] <= 1e-9 * max(float(stretch[0]), 1e-3):
            raise ValueError(f"{label}: its scale flattens its mesh to nothing; give it a scale other than 0")
        key = (key, (np.round(residual / stretch[0], 9) + 0.0).tobytes() + struct.pack("<f", stretch[0]))
        if key not in self._baked:
            matrix = np.eye(4)
            matrix[:3, :3] = residual
            self._baked[key] = [part.transformed(matrix) for part in mesh]
        return self._baked[key]

    def lit(self, node: int) -> bool:
        """Whether light falls on the mesh of a node whose shape was read."""
        mesh = self._nodes.node(node).mesh
        return mesh is None or self._lit.get(mesh, True)

    def tell(self) -> None:
        """Notes of what materials say that was left out."""
        self._looks.tell()

    def bound(self, node: int) -> BoundMesh:
        """The mesh of a node as it was bound to its skin (none: with no joints), and what drives its vertices."""
        what = f"{self._nodes.label(node)}: mesh"
        mesh = pick(self._gltf.meshes, self._nodes.node(node).mesh, gl.Mesh, what)
        parts = []
        for k in range(len(mesh.primitives or [])):
            primitive = pick(mesh.primitives, k, gl.Primitive, f"{what}: primitive")
            mode = 4 if primitive.mode is None else primitive.mode
            attributes = vars(primitive.attributes) if isinstance(primitive.attributes, gl.Attributes) else {}
            vertices = self._file.floats(attributes.get("POSITION"), ("VEC3",), f"{what}: POSITION")
            faces = self._faces(primitive, mode, len(vertices), what) if mode in (4, 5, 6) else np.zeros((0, 3), int)
            if len(faces) == 0:
                continue
            joints, weights = self._bindings(attributes, len(vertices), f"{what}: primitive {k}")
            targets = [fields_of(t).get("POSITION") for t in primitive.targets or []]
            offsets = [
                np.zeros_like(vertices) if at is None else self._file.floats(at, ("VEC3",), f"{what}: target")
                for at in targets
            ]
            parts.append(BoundMesh(vertices, faces, joints, weights, np.array(offsets).reshape(-1, len(vertices), 3)))
        if not parts or len({len(part.targets) for part in parts}) > 1:
            raise ValueError(f"{what}: expected triangles with as many morph targets in each primitive")
        first = np.cumsum([0, *(len(part.vertices) for part in parts)])
        return BoundMesh(
            np.concatenate([part.vertices for part in parts]),
            np.concatenate([part.faces + start for part, start in zip(parts, first, strict=False)]),
            np.concatenate([part.joints for part in parts]),
            np.concatenate([part.weights for part in parts]),
            np.concatenate([part.targets for part in parts], 1),
        )

    def rest_weights(self, node: int) -> list[float]:
        """The weights of the morph targets of a node's mesh where no animation drives them."""
        mesh = pick(self._gltf.meshes, self._nodes.node(node).mesh, gl.Mesh, "mesh")
        weights = self._file.weights.get(node, mesh.weights)
        return numbers(weights, len(weights), "weights") if isinstance(weights, list) else []

    def _bindings(self, attributes: dict[str, Any], count: int, what: str) -> tuple[np.ndarray, np.ndarray]:
        """The four joints that weigh most on each vertex, and their shares, which add up to 1 (or 0)."""
        which, shares = np.zeros((count, 0), np.int64), np.zeros((count, 0))
        for k in range(8):
            at, share = attributes.get(f"JOINTS_{k}"), attributes.get(f"WEIGHTS_{k}")
            if at is None or share is None:
                break
            rows = self._file.stored(at, ("VEC4",), f"{what}: JOINTS_{k}").astype(np.int64)
            more = self._file.floats(share, ("VEC4",), f"{what}: WEIGHTS_{k}", shares=True)
            if not len(rows) == len(more) == count:
                raise ValueError(f"{what}: expected joints and weights for each of {count} vertices")
            which, shares = np.c_[which, rows], np.c_[shares, np.maximum(more, 0)]
        which, shares = np.pad(which, ((0, 0), (0, 4))), np.pad(shares, ((0, 0), (0, 4)))
        order = np.argsort(-shares, 1, kind="stable")[:, :4]
        which, shares = np.take_along_axis(which, order, 1), np.take_along_axis(shares, order, 1)
        total = shares.sum(1, keepdims=True)
        return np.where(shares > 0, which, 0), np.where(total > 1e-6, shares / np.maximum(total, 1e-6), 0.0)

    def _mesh(self, node: int, label: str, bound: bool) -> tuple[tuple, list[MeshPart] | None]:
        entry = self._nodes.node(node)
        index, weights = entry.mesh, self._file.weights.get(node)
        mesh = pick(self._gltf.meshes, index, gl.Mesh, f"{label}: mesh")
        name, what = f"mesh {clean(mesh.name) or f'mesh-{index}'}", f"{label}: mesh {index}"
        weights = mesh.weights if weights is None else weights
        weights = numbers(weights, len(weights), f"{what}: weights") if isinstance(weights, list) and weights else []
        skin = self._skin(node) if entry.skin is not None and not bound else None
        key = (index, tuple(weights), None if skin is None else node)
        if key not in self._meshes:
            parts = self._parts(mesh, np.array(weights), skin, what, name)
            if not parts:
                self._file.note(name, "it has no triangles; its nodes are empty")
            lit = [look.lit for _, look in parts]
            if any(lit) and not all(lit):
                self._file.note(name, "part of it is unlit; all of it is lit here")
            self._lit[index] = any(lit) or not lit  # pyright: ignore[reportArgumentType]
            self._meshes[key] = [part for part, _ in parts] or None
        return key, self._meshes[key]

    def _parts(
        self, mesh: gl.Mesh, weights: np.ndarray, skin: np.ndarray | None, what: str, name: str
    ) -> list[tuple[MeshPart, Look]]:
        parts, count, skipped = [], 0, 0
        for k in range(len(mesh.primitives or [])):
            primitive = pick(mesh.primitives, k, gl.Primitive, f"{what}: primitive")
            if (mode := 4 if primitive.mode is None else primitive.mode) in (0, 1, 2, 3):
                skipped += 1
            elif mode not in (4, 5, 6):
                raise ValueError(f"{what}: primitive {k}: mode must be 0 to 6, got {mode!r}")
            elif part := self._part(primitive, mode, weights, skin, f"{what}: primitive {k}", name):
                parts.append(part)
                count += len(part[0].faces)
                if count > MAX_FACES:
                    raise ValueError(f"{what}: expected at most {MAX_FACES:,} faces, got {count:,}; simplify it")
        if skipped:
            self._file.note(name, f"its {skipped} primitives of points or lines were left out")
        return parts

    def _part(
        self, primitive: gl.Primitive, mode: int, weights: np.ndarray, skin: np.ndarray | None, what: str, name: str
    ) -> tuple[MeshPart, Look] | None:
        attributes = vars(primitive.attributes) if isinstance(primitive.attributes, gl.Attributes) else {}
        place = attributes.get("POSITION")
        if extension(primitive, _DRACO) is not None:  # the file may hold the same numbers uncompressed
            accessor = pick(self._gltf.accessors, place, gl.Accessor, f"{what}: POSITION: accessor")
            if accessor.bufferView is None:
                raise ValueError(f"{what}: it is compressed with Draco; export it without compression")
        if extension(primitive, "KHR_materials_variants") is not None:
            self._file.note(name, "the variants of its material were left out; it has its default one")
        vertices = self._file.floats(place, ("VEC3",), f"{what}: POSITION")
        faces = self._faces(primitive, mode, len(vertices), what)
        if len(faces) == 0:
            return None
        if weights.any():
            vertices = self._morphed(vertices, primitive, weights, what, name)
        if skin is not None:
            vertices = self._skinned(vertices, attributes, skin, what, name)
        used, faces = np.unique(faces, return_inverse=True)
        faces = faces.reshape(-1, 3)
        look = self._looks.look(primitive.material, what)
        paint = self._paint(attributes, look, used, faces, len(vertices), what, name)
        return MeshPart(vertices[used], faces, paint), look

    def _faces(self, primitive: gl.Primitive, mode: int, count: int, what: str) -> Int[np.ndarray, "f 3"]:
        flat = np.arange(count)
        if primitive.indices is not None:
            rows = self._file.stored(primitive.indices, ("SCALAR",), f"{what}: indices")
            flat = rows[:, 0].astype(np.int64)
            if rows.dtype.kind != "u" or (len(flat) and flat.max() >= count):
                raise ValueError(f"{what}: indices must be whole numbers below {count}")
        if mode == gl.TRIANGLES:
            return flat[: len(flat) // 3 * 3].reshape(-1, 3)
        if len(flat) < 3:
            return np.zeros((0, 3), np.int64)
        if mode == gl.TRIANGLE_STRIP:
            faces = np.stack([flat[:-2], flat[1:-1], flat[2:]], -1)
            faces[1::2] = faces[1::2, [1, 0, 2]]
            return faces
        return np.stack([np.broadcast_to(flat[:1], flat[2:].shape), flat[1:-1], flat[2:]], -1)

    def _paint(
        self,
        attributes: dict[str, Any],
        look: Look,
        used: np.ndarray,
        faces: np.ndarray,
        count: int,
        what: str,
        name: str,
    ) -> Paint | None:
        """The product of factor, colours by vertex and texture, in linear light."""
        rgb = uv = None
        if (painted := attributes.get("COLOR_0")) is not None:
            rgb = self._file.floats(painted, ("VEC3", "VEC4"), f"{what}: COLOR_0", shares=True)[:, :3]
        if attributes.get("COLOR_1") is not None:
            self._file.note(name, "its second set of colours by vertex was left out")
        if look.texture is not None:
            place = attributes.get(f"TEXCOORD_{look.uv_set}")
            if place is None:
                self._file.note(name, f"its texture was left out: it has no coordinates TEXCOORD_{look.uv_set}")
            else:
                uv = self._file.floats(place, ("VEC2",), f"{what}: TEXCOORD_{look.uv_set}")
                uv = uv @ look.uv_matrix[:, :2].T + look.uv_matrix[:, 2]
        for each in (uv, rgb):
            if each is not None and len(each) != count:
                raise ValueError(f"{what}: expected a colour for each of {count} vertices, got {len(each)}")
        if rgb is None and not look.stated:
            return None
        corners = None
        if rgb is not None:
            corners = (np.clip(rgb, 0, 1) * look.rgb)[used][faces]
        elif uv is None or (look.rgb < 1).any():
            corners = Paint.flat(look.rgb, len(faces)).corner_rgb
        texture = look.texture if uv is not None else None
        return Paint(corners, None if uv is None else uv[used][faces], texture, linear=True)

    # -- what bends a mesh ---------------------------------------------------------------------------------------------

    def _morphed(
        self, vertices: np.ndarray, primitive: gl.Primitive, weights: np.ndarray, what: str, name: str
    ) -> np.ndarray:
        """Vertices plus the targets' offsets by their weights."""
        targets = primitive.targets if isinstance(primitive.targets, list) else []
        if len(targets) != len(weights):
            raise ValueError(f"{what}: expected a weight for each of {len(targets)} morph targets, got {len(weights)}")
        vertices = vertices.copy()
        for k in np.flatnonzero(weights):
            target = fields_of(targets[k])
            if target.get("POSITION") is not None:
                offsets = self._file.floats(target["POSITION"], ("VEC3",), f"{what}: target {k}: POSITION")
                if len(offsets) != len(vertices):
                    raise ValueError(f"{what}: target {k}: expected {len(vertices)} offsets, got {len(offsets)}")
                vertices += weights[k] * offsets
            if any(target.get(key) is not None for key in ("COLOR_0", "TEXCOORD_0", "TEXCOORD_1")):
                self._file.note(name, "what its morph targets do to its colours was left out")
        return vertices

    def skeleton(self, node: int) -> tuple[list[int], Float[np.ndarray, "j 4 4"]]:
        """The nodes that are joints of a node's skin, and the inverse bind matrix of each."""
        what = f"{self._nodes.label(node)}: skin"
        skin = pick(self._gltf.skins, self._nodes.node(node).skin, gl.Skin, what)
        joints = [self._joint(j, what) for j in skin.joints] if isinstance(skin.joints, list) else []
        binds = np.tile(np.eye(4), (len(joints), 1, 1))
        if skin.inverseBindMatrices is not None:
            rows = self._file.floats(skin.inverseBindMatrices, ("MAT4",), f"{what}: inverseBindMatrices")
            if len(rows) < len(joints):
                raise ValueError(f"{what}: expected a matrix for each of {len(joints)} joints, got {len(rows)}")
            binds = rows[: len(joints)].reshape(-1, 4, 4).transpose(0, 2, 1)
        return joints, binds

    def _skin(self, node: int) -> Float[np.ndarray, "j 4 4"]:
        """For each joint the map of a vertex to the frame of the mesh's node, whose own pose cancels (glTF 3.7.3.3)."""
        joints, binds = self.skeleton(node)
        matrices = np.stack([self._nodes.to_world(j) for j in joints]) @ binds if joints else np.zeros((0, 4, 4))
        own = self._nodes.to_world(node)
        if abs(np.linalg.det(own[:3, :3])) < 1e-30:
            raise ValueError(
                f"{self._nodes.label(node)}: its scale flattens its mesh to nothing; give it a scale other than 0"
            )
        return np.linalg.inv(own) @ matrices

    def _joint(self, index: Any, what: str) -> int:
        pick(self._gltf.nodes, index, gl.Node, f"{what}: joint")
        return index

    def _skinned(
        self, vertices: np.ndarray, attributes: dict[str, Any], skin: np.ndarray, what: str, name: str
    ) -> Float[np.ndarray, "v 3"]:
        """Linear blend skinning."""
        total, result = np.zeros(len(vertices)), np.zeros((len(vertices), 3))
        points = np.concatenate([vertices, np.ones((len(vertices), 1))], 1)
        for k in range(8):
            which, share = attributes.get(f"JOINTS_{k}"), attributes.get(f"WEIGHTS_{k}")
            if which is None or share is None:
                break
            joints = self._file.stored(which, ("VEC4",), f"{what}: JOINTS_{k}")
            shares = self._file.floats(share, ("VEC4",), f"{what}: WEIGHTS_{k}", shares=True)
            if not len(joints) == len(shares) == len(vertices):
                raise ValueError(f"{what}: expected joints and weights for each of {len(vertices)} vertices")
            if joints.dtype.kind != "u" or (joints[shares > 0] >= len(skin)).any():
                raise ValueError(f"{what}: JOINTS_{k}: expected whole numbers below {len(skin)}")
            for c in range(4):
                matrices = (
                    skin[np.minimum(joints[:, c], max(len(skin) - 1, 0))]
                    if len(skin)
                    else np.zeros((len(points), 4, 4))
                )
                result += shares[:, c, None] * np.einsum("vij,vj->vi", matrices, points)[:, :3]
                total += shares[:, c]
        if not (total > 1e-6).all():
            self._file.note(name, "some of its vertices hang on no joint; they stand as without its skin")
        return np.where(total[:, None] > 1e-6, result / np.maximum(total, 1e-6)[:, None], vertices)
