"""A bounding volume hierarchy over the boxes of instances.

The tree is implicit: node ``k`` has children ``2k`` and ``2k + 1``, the root is 1. Leaves hold one instance; a slot that holds
nothing has an inverted box that no query meets. Splits halve the instances along the longest axis of their centres, so the depth is
``ceil(log2 n)`` whatever the scene. When instances move, boxes are refitted and the order stays: always right, and as
tight as before for motions that are small against the scene.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from compose.cpu.lean import lean

EMPTY, INNER = -2, -1  # values of `node_instance` other than an instance
STACK = 64  # at least twice the depth of the deepest tree


@dataclass(frozen=True, eq=False)
class Bvh:
    """``nodes [2, k, 3]`` the lower and upper corners of world boxes; ``node_instance [k]`` the instance of a leaf, else INNER
    or EMPTY; ``leaf_of [m]`` the node that holds an instance."""

    nodes: np.ndarray
    node_instance: np.ndarray
    leaf_of: np.ndarray

    @property
    def node_lo(self) -> np.ndarray:
        return self.nodes[0]

    @property
    def node_hi(self) -> np.ndarray:
        return self.nodes[1]

    @staticmethod
    def build(lo: np.ndarray, hi: np.ndarray, nodes: np.ndarray | None = None) -> Bvh:
        """From world boxes ``[m, 3]``; the tree's are written to ``nodes`` if given."""
        m = len(lo)
        n_nodes = node_count(m)
        node_instance = np.full(n_nodes, EMPTY, dtype=np.int64)
        leaf_of = np.zeros(m, dtype=np.int64)
        if m:
            _split(0.5 * (lo + hi), node_instance, leaf_of)
        nodes = np.empty((2, n_nodes, 3)) if nodes is None else nodes
        nodes[0], nodes[1] = np.inf, -np.inf
        nodes[0, leaf_of], nodes[1, leaf_of] = lo, hi
        _refit_all(nodes[0], nodes[1], node_instance)
        return Bvh(nodes, node_instance, leaf_of)

    def refitted(self, instances: np.ndarray, lo: np.ndarray, hi: np.ndarray, nodes: np.ndarray | None = None) -> Bvh:
        """The same tree after ``instances [k]`` took the boxes ``lo, hi [k, 3]``; this one stays as it is. ``nodes`` may be a
        copy of its nodes, which is then changed and used."""
        nodes = self.nodes.copy() if nodes is None else nodes
        leaves = self.leaf_of[instances]
        nodes[0, leaves], nodes[1, leaves] = lo, hi
        if len(leaves) * 16 < len(self.leaf_of):
            _refit_paths(nodes[0], nodes[1], leaves)
        else:
            _refit_all(nodes[0], nodes[1], self.node_instance)
        return Bvh(nodes, self.node_instance, self.leaf_of)


def node_count(m: int) -> int:
    """Nodes of the tree of ``m`` instances, empty slots and the unused number 0 counted."""
    return 2 << max(m - 1, 0).bit_length()


def _split(centre: np.ndarray, node_instance: np.ndarray, leaf_of: np.ndarray) -> None:
    """Halves all nodes of one level at once along the longest axis of their centres, ties by instance number."""
    order, node = np.arange(len(centre)), np.ones(len(centre), dtype=np.int64)
    while len(order):
        starts = np.flatnonzero(np.r_[True, node[1:] != node[:-1]])
        counts = np.diff(np.r_[starts, len(order)])
        widths = np.maximum.reduceat(centre[order], starts) - np.minimum.reduceat(centre[order], starts)
        axis = np.repeat(widths.argmax(1), counts)
        order = order[np.lexsort((order, centre[order, axis], node))]
        place = np.arange(len(order)) - np.repeat(starts, counts)
        size = np.repeat(counts, counts)
        leaf = size == 1
        node_instance[node[leaf]], leaf_of[order[leaf]] = order[leaf], node[leaf]
        node_instance[node[~leaf]] = INNER
        order, node = order[~leaf], (2 * node + (place >= (size + 1) // 2))[~leaf]


@numba.njit(cache=True)
def _refit_all(node_lo, node_hi, node_instance):
    for node in range(len(node_instance) // 2 - 1, 0, -1):
        if node_instance[node] == INNER:
            for a in range(3):
                node_lo[node, a] = min(node_lo[2 * node, a], node_lo[2 * node + 1, a])
                node_hi[node, a] = max(node_hi[2 * node, a], node_hi[2 * node + 1, a])


@numba.njit(cache=True)
def _refit_paths(node_lo, node_hi, leaves):
    for leaf in leaves:
        node = leaf >> 1
        while node >= 1:
            for a in range(3):
                node_lo[node, a] = min(node_lo[2 * node, a], node_lo[2 * node + 1, a])
                node_hi[node, a] = max(node_hi[2 * node, a], node_hi[2 * node + 1, a])
            node >>= 1


@lean
def box_distance2(lo, hi, k, x, y, z):
    """Squared distance of a point to box ``k`` of ``lo, hi [n, 3]``; 0 inside, inf for an inverted (empty) box."""
    dx = max(lo[k, 0] - x, 0.0, x - hi[k, 0])
    dy = max(lo[k, 1] - y, 0.0, y - hi[k, 1])
    dz = max(lo[k, 2] - z, 0.0, z - hi[k, 2])
    return dx * dx + dy * dy + dz * dz


@lean
def inverse(d):
    """``1 / d``; huge instead of infinite, so that no product with it is NaN."""
    return 1.0 / d if abs(d) > 1e-300 else 1e300


@lean
def box_span(lo, hi, k, ox, oy, oz, ix, iy, iz, t_min, t_max):
    """Where a ray with inverse directions ``ix, iy, iz`` is inside box ``k`` of ``lo, hi [n, 3]``: ``(enter, leave)``,
    ``enter > leave`` for a miss."""
    x0, x1 = (lo[k, 0] - ox) * ix, (hi[k, 0] - ox) * ix
    y0, y1 = (lo[k, 1] - oy) * iy, (hi[k, 1] - oy) * iy
    z0, z1 = (lo[k, 2] - oz) * iz, (hi[k, 2] - oz) * iz
    enter = max(t_min, min(x0, x1), min(y0, y1), min(z0, z1))
    leave = min(t_max, max(x0, x1), max(y0, y1), max(z0, z1))
    return enter, leave
