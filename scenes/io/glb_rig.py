"""Skins and morph targets of glTF files in motion: what bends a mesh, as a warp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pygltflib as gl
import trimesh
from jaxtyping import Float

from objects.gltf_file import Curve, GltfFile, key_times, pick
from objects.gltf_mesh import Meshes
from objects.gltf_nodes import Nodes
from objects.skin import Skin

_MOST_KEYS = 512  # of a warp; longer animations are thinned
_PRECISE = 1e-3  # what linear interpolation of joints may be off between two keys, a share of the mesh's diagonal
_STILL = 1e-5  # what moves less doesn't move, a share of the same

Drives = Mapping[int, Mapping[str, tuple[gl.Animation, int]]]  # for each node, animation and sampler of each property


class Rig:
    """The nodes of a file over time."""

    def __init__(self, file: GltfFile, nodes: Nodes, meshes: Meshes, drives: Drives) -> None:
        self._file, self._nodes, self._meshes, self._drives = file, nodes, meshes, drives
        self._curves: dict[tuple[int, str], Curve] = {}

    def warp(self, node: int, residual: Float[np.ndarray, "3 3"] | None) -> Skin | None:
        """What bends the mesh of a node, from its mesh as bound (with its morph targets at rest) to the node's frame after
        ``residual`` (None: identity); None where nothing does."""
        entry = self._nodes.node(node)
        joints = [] if entry.skin is None else self._meshes.skeleton(node)[0]
        driven = [i for j in (*joints, node) for i in self._nodes.chain(j) if i in self._drives] if joints else []
        weights = self._weights(node)
        times = self._times(dict.fromkeys(driven), weights)
        if times is None:
            return None
        mesh = self._meshes.bound(node)
        if joints and (mesh.joints >= len(joints)).any():
            raise ValueError(f"{self._nodes.label(node)}: skin: expected joints below {len(joints)}")
        if weights and len(weights) != len(mesh.targets):
            text = f"expected {len(mesh.targets)} animated weights, got {len(weights)}"
            raise ValueError(f"{self._nodes.label(node)}: {text}")
        diagonal = float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))
        far = np.c_[trimesh.bounds.corners([mesh.vertices.min(0), mesh.vertices.max(0)]), np.ones(8)]
        for _ in range(4):  # keys are put where lines between them are off
            matrices = self._matrices(node, times, residual)
            middle = 0.5 * (times[1:] + times[:-1])
            if len(times) < 2 or len(times) + len(middle) > _MOST_KEYS:
                break
            off = self._matrices(node, middle, residual) - 0.5 * (matrices[1:] + matrices[:-1])
            size = np.linalg.norm(off @ far.T, axis=2).max((1, 2)) / np.linalg.norm(matrices[0, 0, :, :3], 2)
            if not (size > _PRECISE * diagonal).any():
                break
            times = np.sort(np.r_[times, middle[size > _PRECISE * diagonal]])
        matrices = self._matrices(node, times, residual)
        rest = np.array(self._meshes.rest_weights(node) or [0.0] * len(mesh.targets))
        amounts = np.tile(rest, (len(times), 1))
        if weights:
            amounts = np.concatenate([curve.at(times) for curve in weights], 1)
        moved = np.ptp(matrices, axis=0).max() > _STILL * max(1.0, float(np.abs(matrices).max()))
        if not moved and not np.ptp(amounts, axis=0).any():
            return None
        # Vertices that hang on no joint stay in the node's frame: an own joint, the last.
        free = mesh.weights.sum(1) == 0
        held, shares = mesh.joints.copy(), mesh.weights.copy()
        held[free, 0], shares[free, 0] = matrices.shape[1] - 1, 1
        vertices = mesh.vertices + np.tensordot(rest, mesh.targets, 1)
        used = np.ptp(amounts, axis=0) > 0  # the others stand as at rest
        more = (mesh.targets[used], amounts[:, used] - rest[used]) if used.any() else ()
        return Skin(vertices, mesh.faces, held, shares, times, matrices, *more)

    def _matrices(self, node: int, times: np.ndarray, residual: np.ndarray | None) -> Float[np.ndarray, "k j 3 4"]:
        """The maps of all joints at times, from the bound mesh to the node's frame; the last joint is the node itself."""
        turn = np.eye(4)
        turn[:3, :3] = np.eye(3) if residual is None else residual
        found = [np.broadcast_to(turn, (len(times), 4, 4))]
        if self._nodes.node(node).skin is not None:
            joints, binds = self._meshes.skeleton(node)
            own = self._world(node, times)
            if (np.abs(np.linalg.det(own[:, :3, :3])) < 1e-30).any():
                text = "its scale flattens its mesh to nothing; give it a scale other than 0"
                raise ValueError(f"{self._nodes.label(node)}: {text}")
            back = turn @ np.linalg.inv(own)
            found = [back @ self._world(j, times) @ bind for j, bind in zip(joints, binds, strict=True)] + found
        return np.stack(found, 1)[:, :, :3]

    def _world(self, i: int, times: np.ndarray) -> Float[np.ndarray, "k 4 4"]:
        """A node's frame to the file's world at times."""
        matrix = np.tile(np.eye(4), (len(times), 1, 1))
        for each in self._nodes.chain(i):
            matrix = matrix @ self._local(each, times)
        return matrix

    def _local(self, i: int, times: np.ndarray) -> Float[np.ndarray, "k 4 4"]:
        trans, quat, linear = self._nodes.rest(i)
        found = np.tile(np.eye(4), (len(times), 1, 1))
        turns = np.tile(trimesh.transformations.quaternion_matrix(quat)[:3, :3], (len(times), 1, 1))
        found[:, :3, 3] = trans
        for key in self._drives.get(i, {}):
            if key == "weights":
                continue
            values = self._curve(i, key).at(times)
            if key == "translation":
                found[:, :3, 3] = values
            elif key == "rotation":
                turns = np.stack([trimesh.transformations.quaternion_matrix(q[[3, 0, 1, 2]])[:3, :3] for q in values])
            else:
                linear = values[:, :, None] * np.eye(3)
        found[:, :3, :3] = turns @ linear
        return found

    def _curve(self, i: int, key: str) -> Curve:
        if (i, key) not in self._curves:
            columns = 4 if key == "rotation" else 3
            what = f"{self._nodes.label(i)}: animated {key}"
            self._curves[i, key] = Curve.read(self._file, *self._drives[i][key], columns, what)
        return self._curves[i, key]

    def _weights(self, node: int) -> list[Curve]:
        """A curve for the weight of each morph target of a node, if an animation drives them."""
        if "weights" not in self._drives.get(node, {}):
            return []
        animation, sampler = self._drives[node]["weights"]
        what = f"{self._nodes.label(node)}: animated weights"
        entry = pick(animation.samplers, sampler, gl.AnimationSampler, f"{what}: sampler")
        times = key_times(self._file, animation, entry, what)
        rows = len(times)
        values = self._file.floats(entry.output, ("SCALAR",), f"{what}: values")
        each = 3 if entry.interpolation == "CUBICSPLINE" else 1
        count = len(values) // max(rows * each, 1)
        if rows == 0 or count == 0 or len(values) != rows * each * count:
            raise ValueError(f"{what}: expected {each} value(s) for each key and target, got {len(values)} for {rows}")
        if (np.diff(times) <= 0).any():
            raise ValueError(f"{what}: times must increase")
        table = values.reshape(rows, each, count)
        before, middle, after = (table[:, k] for k in (0, each // 2, each - 1))
        plain = Curve(what, entry.interpolation or "LINEAR", times, middle, before, after)
        return [_column(plain, k) for k in range(count)]

    def _times(self, driven: Mapping[int, Any], weights: list[Curve]) -> Float[np.ndarray, "k"] | None:
        """All times at which something has a key; None where nothing has."""
        curves = [self._curve(i, key) for i in driven for key in self._drives[i] if key != "weights"] + weights
        if not curves:
            return None
        times = np.unique(np.concatenate([curve.line_times() for curve in curves]).astype(np.float32))
        if len(times) > _MOST_KEYS:
            times = np.linspace(times[0], times[-1], _MOST_KEYS)
        return times.astype(np.float64)


def _column(curve: Curve, k: int) -> Curve:
    parts = {name: getattr(curve, name)[:, k : k + 1] for name in ("values", "tangents_in", "tangents_out")}
    return replace(curve, **parts)
