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

from compose.cpu.inlined import inlined

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


def edit(
    tree: Bvh,
    source: np.ndarray,
    changed: np.ndarray,
    lo: np.ndarray,
    hi: np.ndarray,
    nodes: np.ndarray | None = None,
) -> Bvh | None:
    """The tree of an edited scene; the old one stays as it is.

    Args:
        source: ``[m]``, which instance of the old scene each one was, -1 for new ones.
        changed: ``[k]``, those with other boxes, new ones among them; ascending.
        lo, hi: ``[k, 3]``, these boxes.
        nodes: A copy of the tree's boxes ``[2, k, 3]``, which is then changed and used.

    Returns:
        None where it has no room: build another.
    """
    old = np.flatnonzero(source >= 0)
    number = np.full(len(tree.leaf_of), EMPTY)
    number[source[old]] = old
    nodes = np.stack([tree.lo, tree.hi]) if nodes is None else nodes
    made = Bvh(nodes[0], nodes[1], tree.instance.copy(), np.zeros(len(source), dtype=np.int64))
    leaf = made.instance >= 0
    made.instance[leaf] = number[made.instance[leaf]]
    made.leaf_of[old] = tree.leaf_of[source[old]]
    free = tree.leaf_of[number == EMPTY]
    made.lo[free], made.hi[free] = np.inf, -np.inf
    _refit_paths(made.lo, made.hi, free)
    stay = source[changed] >= 0
    leaves = made.leaf_of[changed[stay]]
    made.lo[leaves], made.hi[leaves] = lo[stay], hi[stay]
    _refit_paths(made.lo, made.hi, leaves)
    fits = _insert_all(made, changed[~stay], lo[~stay], hi[~stay])
    return made if fits else None


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


@numba.njit(cache=True)
def _insert_all(tree, instances, lo, hi):
    """Gives each of ``instances [k]`` a leaf; whether there was room for all."""
    for k in range(len(instances)):
        node = _best_place(tree, lo[k], hi[k])
        if node < 0:
            return False
        there = tree.instance[node]
        if there >= 0:  # a leaf becomes the parent of what it held and of the new one
            for a in range(3):
                tree.lo[2 * node, a], tree.hi[2 * node, a] = tree.lo[node, a], tree.hi[node, a]
            tree.instance[2 * node], tree.leaf_of[there], tree.instance[node] = there, 2 * node, INNER
            node = 2 * node + 1
        tree.lo[node], tree.hi[node] = lo[k], hi[k]
        tree.instance[node], tree.leaf_of[instances[k]] = instances[k], node
        while node > 1:
            node >>= 1
            for a in range(3):
                tree.lo[node, a], tree.hi[node, a] = min(tree.lo[node, a], lo[k, a]), max(tree.hi[node, a], hi[k, a])
    return True


@numba.njit(cache=True)
def _best_place(tree, lo, hi):
    """The empty slot, or the leaf that can be split, where a box makes the nodes above grow least (sums of edges, by branch and
    bound); -1 for none."""
    stack, grown = np.empty(STACK, dtype=np.int64), np.empty(STACK)
    stack[0], grown[0], top = 1, 0.0, 1
    best, place = np.inf, -1
    while top > 0:
        top -= 1
        node, above = stack[top], grown[top]
        if above >= best:
            continue
        there = tree.instance[node]
        if there == EMPTY:
            best, place = above, node
            continue
        own, joined = 0.0, 0.0
        for a in range(3):
            own += max(tree.hi[node, a] - tree.lo[node, a], 0.0)
            joined += max(tree.hi[node, a], hi[a]) - min(tree.lo[node, a], lo[a])
        if there != INNER:  # a node more, around both
            if 2 * node + 1 < len(tree.instance) and above + joined < best:
                best, place = above + joined, node
            continue
        near, far = 2 * node, 2 * node + 1
        if _gap(tree, far, lo, hi) < _gap(tree, near, lo, hi):
            near, far = far, near
        for child in (far, near):
            stack[top], grown[top] = child, above + joined - own
            top += 1
    return place


@inlined
def _gap(tree, node, lo, hi):
    """How far apart the middles of a node and of a box are, in sums of edges; inf for an empty node."""
    total = 0.0
    for a in range(3):
        total += abs(tree.lo[node, a] + tree.hi[node, a] - lo[a] - hi[a])
    return total if total == total else np.inf


@inlined
def box_distance2(lo, hi, k, x, y, z):
    """Squared distance of a point to box ``k`` of ``lo, hi [n, 3]``; 0 inside, inf for an inverted (empty) box."""
    dx = max(lo[k, 0] - x, 0.0, x - hi[k, 0])
    dy = max(lo[k, 1] - y, 0.0, y - hi[k, 1])
    dz = max(lo[k, 2] - z, 0.0, z - hi[k, 2])
    return dx * dx + dy * dy + dz * dz


@inlined
def inverse(d):
    """``1 / d``; huge instead of infinite, so that no product with it is NaN."""
    return 1.0 / d if abs(d) > 1e-300 else 1e300


@inlined
def box_span(lo, hi, k, ox, oy, oz, ix, iy, iz, t_min, t_max):
    """Where a ray with inverse directions ``ix, iy, iz`` is inside box ``k`` of ``lo, hi [n, 3]``: ``(enter, leave)``,
    ``enter > leave`` for a miss."""
    x0, x1 = (lo[k, 0] - ox) * ix, (hi[k, 0] - ox) * ix
    y0, y1 = (lo[k, 1] - oy) * iy, (hi[k, 1] - oy) * iy
    z0, z1 = (lo[k, 2] - oz) * iz, (hi[k, 2] - oz) * iz
    enter = max(t_min, min(x0, x1), min(y0, y1), min(z0, z1))
    leave = min(t_max, max(x0, x1), max(y0, y1), max(z0, z1))
    return enter, leave
