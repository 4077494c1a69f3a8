"""A bounding volume hierarchy over the boxes of instances.

The tree is implicit: node ``k`` has children ``2k`` and ``2k + 1``, the root is 1. Leaves hold one instance; a slot that holds
nothing has an inverted box that no query meets. Splits halve the instances along the longest axis of their centres, so the depth is
``ceil(log2 n)`` whatever the scene. When instances move, boxes are refitted and the order stays: always right, and as
tight as before for motions that are small against the scene.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from compose.cpu.lean import lean

EMPTY, INNER = -2, -1  # values of `Bvh.instance` other than an instance
STACK = 64  # at least twice the depth of the deepest tree


class Bvh(NamedTuple):
    """The tree over ``m`` instances; ``k`` nodes."""

    lo: np.ndarray  # [k, 3] lower corners of world boxes
    hi: np.ndarray  # [k, 3] upper corners
    instance: np.ndarray  # [k] the instance of a leaf, else INNER or EMPTY
    leaf_of: np.ndarray  # [m] the node that holds an instance


def build(lo: np.ndarray, hi: np.ndarray, nodes: np.ndarray | None = None) -> Bvh:
    """The tree over world boxes ``lo, hi [m, 3]``; its own boxes are written to ``nodes [2, k, 3]`` if given."""
    m = len(lo)
    n_nodes = node_count(m)
    instance = np.full(n_nodes, EMPTY, dtype=np.int64)
    leaf_of = np.zeros(m, dtype=np.int64)
    if m:
        _split(0.5 * (lo + hi), instance, leaf_of)
    nodes = np.empty((2, n_nodes, 3)) if nodes is None else nodes
    nodes[0], nodes[1] = np.inf, -np.inf
    nodes[0, leaf_of], nodes[1, leaf_of] = lo, hi
    _refit_all(nodes[0], nodes[1], instance)
    return Bvh(nodes[0], nodes[1], instance, leaf_of)


def refit(tree: Bvh, instances: np.ndarray, lo: np.ndarray, hi: np.ndarray, nodes: np.ndarray | None = None) -> Bvh:
    """The same tree after ``instances [k]`` took the boxes ``lo, hi [k, 3]``; the old one stays as it is. ``nodes [2, k, 3]`` may
    be a copy of its boxes, which is then changed and used."""
    nodes = np.stack([tree.lo, tree.hi]) if nodes is None else nodes
    leaves = tree.leaf_of[instances]
    nodes[0, leaves], nodes[1, leaves] = lo, hi
    if len(leaves) * 16 < len(tree.leaf_of):
        _refit_paths(nodes[0], nodes[1], leaves)
    else:
        _refit_all(nodes[0], nodes[1], tree.instance)
    return tree._replace(lo=nodes[0], hi=nodes[1])


def node_count(m: int) -> int:
    """Nodes of the tree of ``m`` instances, empty slots and the unused number 0 counted."""
    return 2 << max(m - 1, 0).bit_length()


def _split(centre: np.ndarray, instance: np.ndarray, leaf_of: np.ndarray) -> None:
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
        instance[node[leaf]], leaf_of[order[leaf]] = order[leaf], node[leaf]
        instance[node[~leaf]] = INNER
        order, node = order[~leaf], (2 * node + (place >= (size + 1) // 2))[~leaf]


@numba.njit(cache=True)
def _refit_all(node_lo, node_hi, instance):
    for node in range(len(instance) // 2 - 1, 0, -1):
        if instance[node] == INNER:
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
