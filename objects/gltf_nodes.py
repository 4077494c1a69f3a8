"""The nodes of a glTF file: roots, names, poses at rest; the nodes of instances are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pygltflib as gl
import trimesh
from jaxtyping import Float

from objects.gltf_file import LIGHTS, SAME, GltfFile, clean, extension, indices, numbers, pick

MAX_NODES = 100_000
MAX_DEPTH = 200

_INSTANCES = "EXT_mesh_gpu_instancing"
_EYE = np.eye(3)


class Nodes:
    """The nodes of a file, after a check that they form trees.

    Raises:
        ValueError: A node with two parents, or that is its own ancestor; instances without matching numbers.
    """

    def __init__(self, file: GltfFile) -> None:
        self._file, self._gltf = file, file.gltf
        self._names: dict[int, str] = {}
        self._parent: dict[int, int] = {}
        self._globals: dict[int, np.ndarray] = {}
        for i in range(len(self._gltf.nodes)):
            self._expand(i)
        self._check()

    def node(self, i: int) -> gl.Node:
        return pick(self._gltf.nodes, i, gl.Node, "node")

    def children(self, i: int) -> list[int]:
        return indices(self.node(i).children, f"{self.label(i)}: children")

    def chain(self, i: int) -> list[int]:
        """A node and all above it, the root first."""
        path = [i]
        while path[-1] in self._parent:
            path.append(self._parent[path[-1]])
        return path[::-1]

    def label(self, i: int) -> str:
        """How errors call a node."""
        return f"node {i} {self.own_name(i)!r}"

    def own_name(self, i: int) -> str:
        """A node's name, or that of what it shows."""
        if i not in self._names:
            node, gltf = self.node(i), self._gltf
            names: list[Any] = [node.name]
            if node.mesh is not None:
                names.append(pick(gltf.meshes, node.mesh, gl.Mesh, f"node {i}: mesh").name)
            if node.camera is not None:
                names.append(pick(gltf.cameras, node.camera, gl.Camera, f"node {i}: camera").name)
            names.append((self.light_entry(i) or {}).get("name"))
            self._names[i] = next((kept for name in names if (kept := clean(name))), f"node-{i}")
        return self._names[i]

    def named(self, siblings: Sequence[int]) -> list[tuple[int, str]]:
        """Nodes with names that are unique among them."""
        taken: dict[str, int] = {}  # name to node
        counts: dict[str, int] = {}
        for i in siblings:
            base = name = self.own_name(i)
            while name in taken:
                counts[base] = counts.get(base, 1) + 1
                name = f"{base}-{counts[base]}"
            taken[name] = i
        return [(i, name) for name, i in taken.items()]

    def light_entry(self, i: int) -> dict[str, Any] | None:
        own = extension(self.node(i), LIGHTS)
        if own is None:
            return None
        lights = (extension(self._gltf, LIGHTS) or {}).get("lights")
        return pick(lights, own.get("light"), dict, f"node {i}: light")

    def _check(self) -> None:
        gltf, count, parent = self._gltf, len(self._gltf.nodes), self._parent
        for i in range(count):
            for child in self.children(i):
                pick(gltf.nodes, child, gl.Node, f"{self.label(i)}: child")
                if child in parent:
                    raise ValueError(
                        f"{self.label(child)}: expected one parent, got {self.label(parent[child])} and "
                        f"{self.label(i)}; copy the node"
                    )
                parent[child] = i
        tops = [i for i in range(count) if i not in parent]
        reached, todo = set(tops), list(tops)
        while todo:
            below = self.children(todo.pop())
            reached.update(below)
            todo += below
        if len(reached) < count:
            lost = next(i for i in range(count) if i not in reached)
            raise ValueError(f"{self.label(lost)}: nodes are parents of one another in a cycle; break it")

    def roots(self) -> list[int]:
        """Root nodes of the default scene."""
        gltf = self._gltf
        if not gltf.scenes:
            if gltf.scene is not None:
                raise ValueError(f"scene: expected an index below 0, got {gltf.scene!r}: the file has no scenes")
            return [i for i in range(len(gltf.nodes)) if i not in self._parent]
        if gltf.scene is None and len(gltf.scenes) > 1:
            self._file.note("file", f"it names no default scene; the first of {len(gltf.scenes)} was taken")
        scene = pick(gltf.scenes, 0 if gltf.scene is None else gltf.scene, gl.Scene, "scene")
        roots = indices(scene.nodes, "scene: nodes")
        for i in roots:
            pick(gltf.nodes, i, gl.Node, "scene: node")
            if i in self._parent:
                raise ValueError(f"{self.label(i)}: expected a root, got a child of {self.label(self._parent[i])}")
        if len(set(roots)) < len(roots):
            raise ValueError("scene: it lists a node twice")
        return roots

    # -- poses ---------------------------------------------------------------------------------------------------------

    def rest(self, i: int) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "4"], Float[np.ndarray, "3 3"]]:
        """Translation, rotation (unit wxyz) and the linear map before them of a node that no animation drives."""
        node, label = self.node(i), self.label(i)
        if node.matrix is not None:
            matrix = np.array(numbers(node.matrix, 16, f"{label}: matrix")).reshape(4, 4).T
            if np.abs(matrix[3] - [0, 0, 0, 1]).max() > SAME:
                raise ValueError(f"{label}: matrix: expected a last row of 0 0 0 1, got {matrix[3].tolist()}")
            turn = polar(matrix[:3, :3])
            return matrix[:3, 3], trimesh.transformations.quaternion_from_matrix(turn), turn.T @ matrix[:3, :3]
        trans, quat, linear = np.zeros(3), np.array([1.0, 0, 0, 0]), _EYE
        if node.translation is not None:
            trans = np.array(numbers(node.translation, 3, f"{label}: translation"))
        if node.rotation is not None:
            quat = np.array(numbers(node.rotation, 4, f"{label}: rotation"))[[3, 0, 1, 2]]
            if not np.linalg.norm(quat) > 1e-12:
                raise ValueError(f"{label}: rotation: expected a quaternion of length 1, got {quat.tolist()}")
            quat = quat / np.linalg.norm(quat)
        if node.scale is not None:
            linear = np.diag(numbers(node.scale, 3, f"{label}: scale"))
        return trans, quat, linear

    def to_world(self, i: int) -> Float[np.ndarray, "4 4"]:
        """A node's frame to the file's world (y up), at rest."""
        path = [i]
        while path[-1] not in self._globals and path[-1] in self._parent:
            path.append(self._parent[path[-1]])
        matrix = self._globals.get(path[-1], np.eye(4))
        for each in path[::-1]:
            if each in self._globals:
                continue
            trans, quat, linear = self.rest(each)
            local = np.eye(4)
            local[:3, :3] = trimesh.transformations.quaternion_matrix(quat)[:3, :3] @ linear
            local[:3, 3] = trans
            matrix = self._globals[each] = matrix @ local
        return matrix

    # -- instances -----------------------------------------------------------------------------------------------------

    def _expand(self, i: int) -> None:
        """Makes a child for each instance of a node's mesh (EXT_mesh_gpu_instancing), which shows it then."""
        node = self.node(i)
        entry = extension(node, _INSTANCES)
        if entry is None or node.mesh is None:
            return
        what = f"node {i}: {_INSTANCES}"
        attributes = entry.get("attributes")
        if not isinstance(attributes, dict):
            raise ValueError(f"{what}: expected attributes, got {attributes!r:.40}")
        found = {
            key.lower(): self._file.floats(attributes[key], (kind,), f"{what}: {key}")
            for key, kind in (("TRANSLATION", "VEC3"), ("ROTATION", "VEC4"), ("SCALE", "VEC3"))
            if key in attributes
        }
        sizes = {len(rows) for rows in found.values()}
        if len(sizes) > 1:
            raise ValueError(f"{what}: expected as many numbers for each attribute, got {sorted(sizes)}")
        if not sizes:
            return
        count = sizes.pop()
        if len(self._gltf.nodes) + count > MAX_NODES:
            raise ValueError(f"{what}: at most {MAX_NODES:,} nodes are read, these are {count:,} instances more")
        first = len(self._gltf.nodes)
        for k in range(count):
            pose = {key: rows[k].tolist() for key, rows in found.items()}
            if i in self._file.weights:
                self._file.weights[first + k] = self._file.weights[i]
            self._gltf.nodes.append(gl.Node(mesh=node.mesh, name=f"{clean(node.name) or 'instance'}-{k + 1}", **pose))
        node.children = [*indices(node.children, f"node {i}: children"), *range(first, first + count)]
        node.mesh = None


def polar(linear: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The rotation in a linear map: of its polar decomposition, or minus that where the map mirrors."""
    u, _, v = np.linalg.svd(linear)
    turn = u @ v
    return -turn if np.linalg.det(turn) < 0 else turn
