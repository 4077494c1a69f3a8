"""Follows a surface through a sequence of others without correspondences: nodes on it move rigidly, what is between is blended.

Source: Sumner, Schmid, Pauly, "Embedded Deformation for Shape Manipulation" (SIGGRAPH 2007): points move by the blended rigid
motions of near nodes, and nodes that are neighbours should predict each other's motion. Closest points with normals, both ways,
say where to; at first what is near along the surface (`objects.warp_surface`) counts more than what is near in space. Each step
solves the normal equations of the linearised problem (Gauss-Newton), weights are those of Geman and McClure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import solveh_banded
from scipy.sparse import csgraph, csr_array
from scipy.spatial import KDTree

from objects.node_warp import BLEND
from objects.warp_surface import Surface, spread_along

_NEAR = 24  # nodes near each that are kept
_LEAST = 0.05  # weights below this share of the largest are dropped while registering
_MOVING = 16  # nodes that may move a point while registering
_EDGES = 7  # neighbours of a node that it should agree with
_TWIST = 0.3  # what a difference of rotations between neighbours weighs beside one of predicted places
_LOOP = 0.04  # a pair counts a quarter where the way there and back leads so far away, a share of the extent
_NEARLY = 1e-4  # squares of distances of neighbours are at least this share of the squared spacing
_DAMPING = 1e-6
_UNLIKE = 0.15  # difference of what is compared by its slope at which it counts a quarter, a share of the extent
_STOP = 2e-4  # the last step of a stage moves no node by more, a share of the extent


class Stage(NamedTuple):
    """One stage of registering; lengths are shares of the extent.

    Attributes:
        stiffness: Weight of the nodes' agreement.
        normal: What normals that differ by 1 weigh where closest points are looked for.
        shape: What geodesic quantiles weigh there.
        reach: Distance at which a pair counts a quarter.
        toward: Weight of the distance along the surface beside that along the normal.
        rounds: Gauss-Newton steps, at most.
        pairs: Weight of pairs that are known (`Pairs`).
        slope: Weight of how the target's shape differs, as its slope tells (Park, Zhou, Koltun, "Colored Point Cloud Registration
            Revisited", ICCV 2017).
    """

    stiffness: float
    normal: float
    shape: float
    reach: float
    toward: float
    rounds: int
    pairs: float = 0.0
    slope: float = 0.0


class Pairs(NamedTuple):
    """Points of a template, by number, and where they are known to be."""

    rows: Int[np.ndarray, "r"]
    goal: Float[np.ndarray, "r 3"]


# To the next surface of a sequence, from where the last one was; then closer, with the canonical shape at rest.
FAR = (
    Stage(0.2, 0.03, 2, 0.2, 1, 10), Stage(0.1, 0.05, 2, 0.15, 1, 6), Stage(0.05, 0.05, 1, 0.15, 1, 6),
    Stage(0.03, 0.05, 1, 0.15, 0.5, 8), Stage(0.02, 0.03, 0.7, 0.1, 0.5, 6),
)  # fmt: skip
NEAR = (Stage(0.02, 0.03, 0.5, 0.06, 0.1, 6), Stage(0.02, 0.04, 0.2, 0.03, 0.1, 6))


class Motion(NamedTuple):
    """How nodes moved: a node at ``g`` takes a point ``p`` to ``rotation @ (p - g) + g + shift``."""

    rotation: Float[np.ndarray, "k 3 3"]
    shift: Float[np.ndarray, "k 3"]

    @staticmethod
    def none(k: int) -> Motion:
        return Motion(np.broadcast_to(np.eye(3), (k, 3, 3)).copy(), np.zeros((k, 3)))


@dataclass(frozen=True, eq=False)
class Template:
    """A surface with nodes that can move it.

    Attributes:
        points, normals, shape: As in `Surface`.
        rest: Points before any motion.
        nodes: Where they are at rest.
        home: The nearest node along the surface, for each point.
        near: Nodes near each along the surface, nearest first.
        spacing: Largest distance along the surface from a point to its home.
        index, weight: Nodes that move each point, and how much.
        edges: Pairs of nodes that should agree.
        reach: Largest difference between the numbers of nodes that agree or move a point together.
        extent: Of the surface.
        rim: As in `Surface`.
    """

    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]
    shape: Float[np.ndarray, "n q"]
    rest: Float[np.ndarray, "n 3"]
    nodes: Float[np.ndarray, "k 3"]
    home: Int[np.ndarray, "n"]
    near: Int[np.ndarray, "k m"]
    spacing: float
    index: Int[np.ndarray, "n m"]
    weight: Float[np.ndarray, "n m"]
    edges: Int[np.ndarray, "e 2"]
    reach: int
    extent: float
    rim: Bool[np.ndarray, "n"]


def template_of(surface: Surface, n_nodes: int) -> Template:
    """Puts nodes on a surface, spread along it."""
    chosen, spacing = spread_along(surface.graph, n_nodes)
    distance = csgraph.dijkstra(surface.graph, indices=chosen)  # [k, n]
    nodes, k = surface.points[chosen], len(chosen)
    home = np.argmin(distance, 0)
    between = distance[:, chosen]
    # Pieces apart: what is near in space comes after all that is near along the surface.
    between = np.where(
        np.isfinite(between), between, 10 * surface.extent + np.linalg.norm(nodes[:, None] - nodes, axis=2)
    )
    near = np.argsort(between, 1, kind="stable")[:, :_NEAR]
    index = near[home, :_MOVING]
    weight = blend_weights(surface.points, nodes[index], spacing)
    weight[weight < _LEAST * weight.max(1, keepdims=True)] = 0
    weight /= weight.sum(1, keepdims=True)
    i = np.repeat(np.arange(k), min(_EDGES, k - 1))
    j = near[:, 1 : 1 + min(_EDGES, k - 1)].ravel()
    edges = np.unique(np.sort(np.stack([i, j], 1), 1), axis=0)
    order, reach = _close_together(index, weight, edges, k)
    number = np.argsort(order)
    home, near, edges = number[home], number[near[order]], np.sort(number[edges], 1)
    return Template(
        surface.points, surface.normals, surface.shape, surface.points, nodes[order], home, near, spacing,
        number[index], np.ascontiguousarray(weight), edges, reach, surface.extent,
        surface.rim,
    )  # fmt: skip


def _close_together(index: np.ndarray, weight: np.ndarray, edges: np.ndarray, k: int) -> tuple[np.ndarray, int]:
    """An order of nodes in which those that have to do with each other are close (Cuthill and McKee, 1969), and the largest
    difference of places in it."""
    n, m = index.shape
    rows = np.repeat(np.arange(n), m)[(weight > 0).ravel()]
    moves = csr_array((np.ones(len(rows)), (rows, index[weight > 0])), shape=(n, k))
    ends = np.concatenate([edges, edges[:, ::-1]])
    graph = csr_array(moves.T @ moves + csr_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(k, k)))
    order = csgraph.reverse_cuthill_mckee(graph, symmetric_mode=True)
    i, j = np.argsort(order)[np.stack(graph.nonzero())]
    return order, int(np.abs(i - j).max())


def blend_weights(
    p: Float[np.ndarray, "n 3"], nodes: Float[np.ndarray, "n m 3"], spacing: float
) -> Float[np.ndarray, "n m"]:
    """How much each of the nodes near a point moves it: Gaussians of the distance, which sum to 1."""
    squared = ((p[:, None] - nodes) ** 2).sum(2)
    least = squared.min(1, keepdims=True)
    weight = np.exp(-(squared - least) / (2 * (BLEND * spacing) ** 2 + least))
    return weight / weight.sum(1, keepdims=True)


def moved(template: Template, motion: Motion) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Where a motion takes the points of a template, and their normals."""
    places, arms = _arms(template, motion)
    del arms
    rotation = np.einsum("nm,nmab->nab", template.weight, motion.rotation[template.index])
    normals = np.einsum("nab,nb->na", rotation, template.normals)
    return places, normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)


def _arms(template: Template, motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    """Places of the points, and the turned vectors from each of their nodes to them ``[n m 3]``."""
    off = template.points[:, None] - template.nodes[template.index]
    arms = np.einsum("nmab,nmb->nma", motion.rotation[template.index], off)
    places = (template.weight[..., None] * (arms + (template.nodes + motion.shift)[template.index])).sum(1)
    return places, arms


def rebased(template: Template, motion: Motion) -> Template:
    """The template as a motion leaves it, at rest."""
    points, normals = moved(template, motion)
    return replace(template, points=points, normals=normals, nodes=template.nodes + motion.shift)


def composed(later: Motion, first: Motion) -> Motion:
    """The motion ``first`` and then ``later``, which is one of the rebased template."""
    return Motion(later.rotation @ first.rotation, first.shift + later.shift)


# -- registering -----------------------------------------------------------------------------------------------------


def register(
    template: Template, motion: Motion, target: Surface, stages: tuple[Stage, ...], pairs: Pairs | None = None
) -> Motion:
    """Moves a template onto a surface, from a motion that is a first guess, and onto known places."""
    for stage in stages:
        scale = np.array([1.0, stage.normal * template.extent, stage.shape])
        tree = KDTree(_described(target.dense, target.dense_normals, target.dense_shape, scale))
        back = _described(target.points, target.normals, target.shape, scale)
        for round_ in range(stage.rounds):
            motion, step = _round(template, motion, target, stage, scale, tree, back, pairs)
            if step < _STOP * template.extent and round_ > 1:
                break
    return motion


def bending(template: Template, motion: Motion) -> float:
    """How nodes disagree: squares of how far each is from where its neighbours take it, and of how their rotations differ."""
    i, j = template.edges.T
    nodes, places, total = template.nodes, template.nodes + motion.shift, 0.0
    for a, b in ((i, j), (j, i)):
        apart = nodes[b] - nodes[a]
        off = (motion.rotation[a] @ apart[..., None])[..., 0] + places[a] - places[b]
        near = np.maximum((apart**2).sum(1), _NEARLY * template.spacing**2)
        total += float(((off**2).sum(1) * template.spacing**2 / near).sum())
    trace = np.einsum("eab,eab->e", motion.rotation[i], motion.rotation[j])
    return total + _TWIST * template.spacing**2 * float((3 - trace).sum())


def _described(places: np.ndarray, normals: np.ndarray, shape: np.ndarray, scale: np.ndarray) -> np.ndarray:
    parts = [places, scale[1] * normals] + ([scale[2] * shape] if scale[2] else [])
    return np.concatenate(parts, 1)


def _round(
    template: Template,
    motion: Motion,
    target: Surface,
    stage: Stage,
    scale: np.ndarray,
    tree: KDTree,
    back: np.ndarray,
    pairs: Pairs | None,
) -> tuple[Motion, float]:
    """One Gauss-Newton step; and how far the farthest node moved."""
    places, arms = _arms(template, motion)
    _, normals = moved(template, motion)
    mine = _described(places, normals, template.shape, scale)
    there = np.asarray(tree.query(mine)[1])
    mine_tree = KDTree(mine)
    here = np.asarray(mine_tree.query(back)[1])
    # What another part of the template is nearer to belongs to that part: legs that pass each other stay apart.
    again = np.asarray(mine_tree.query(tree.data[there])[1])
    returned = ((template.rest[again] - template.rest) ** 2).sum(1)
    rows = np.concatenate([np.arange(len(places)), here])
    goal = np.concatenate([target.dense[there], target.points])
    facing = np.concatenate([target.dense_normals[there], target.normals])
    shape = np.concatenate([target.dense_shape[there], target.shape])
    off = goal - places[rows]
    cosine = (facing * normals[rows]).sum(1)
    squared = (off**2).sum(1) + scale[2] ** 2 * ((shape - template.shape[rows]) ** 2).sum(1)
    reach = (stage.reach * template.extent) ** 2
    loop = (_LOOP * template.extent) ** 2
    slack = 0.5 if stage.shape > 1 else 0.0  # normals turn where things move far
    pull = (reach / (reach + squared)) ** 2 * np.clip(cosine + slack, 0, 1)
    pull[: len(there)] *= (loop / (loop + returned)) ** 2
    pull *= ~np.concatenate(
        [target.dense_rim[there], template.rim[here]]
    )  # what is not seen matches the edge of what is
    k = len(template.nodes)
    band, gradient = np.zeros((6 * k, 6 * template.reach + 6)), np.zeros(6 * k)
    _add_pairs(template.index, template.weight, arms, rows, off, facing, pull, stage.toward, band, gradient)
    if target.dense_slope is not None and stage.slope > 0:
        slope = target.dense_slope[there]
        left = template.shape - target.dense_shape[there] + np.einsum("nqa,na->nq", slope, goal[: len(there)] - places)
        firm = stage.slope * pull[: len(there), None] * (_UNLIKE**2 / (_UNLIKE**2 + (left / template.extent) ** 2)) ** 2
        length = np.maximum((slope**2).sum(2), 1e-9)
        for q in range(slope.shape[1]):
            off = slope[:, q] * (left[:, q] / length[:, q])[:, None]
            _add_pairs(
                template.index,
                template.weight,
                arms,
                np.arange(len(there)),
                off,
                slope[:, q],
                firm[:, q],
                0.0,
                band,
                gradient,
            )
    if pairs is not None and stage.pairs > 0:
        off = pairs.goal - places[pairs.rows]
        pull = stage.pairs * (reach / (reach + (off**2).sum(1))) ** 2
        flat = np.zeros_like(off)  # no direction counts more than another
        _add_pairs(template.index, template.weight, arms, pairs.rows, off, flat, pull, 1.0, band, gradient)
    stiffness = stage.stiffness * len(rows) / k
    _add_agreement(
        template.edges, template.nodes, motion.rotation, motion.shift, stiffness, template.spacing, band, gradient
    )
    band[:, 0] += _DAMPING * len(rows) / k
    step = solveh_banded(band.T, gradient, lower=True, check_finite=False).reshape(k, 6)
    shift = motion.shift + step[:, 3:]
    return Motion(turn(step[:, :3]) @ motion.rotation, shift), float(np.abs(step[:, 3:]).max())


def turn(vector: Float[np.ndarray, "k 3"]) -> Float[np.ndarray, "k 3 3"]:
    """Rotations by vectors along their axes, as long as the angle in radians (Rodrigues)."""
    angle = np.linalg.norm(vector, axis=1)[:, None, None]
    x, y, z = vector.T
    zero = np.zeros_like(x)
    cross = np.stack([np.stack([zero, -z, y], 1), np.stack([z, zero, -x], 1), np.stack([-y, x, zero], 1)], 1)
    safe = np.maximum(angle, 1e-8)
    sine = np.where(angle > 1e-8, np.sin(angle) / safe, 1.0)
    cosine = np.where(angle > 1e-8, (1 - np.cos(angle)) / safe**2, 0.5)
    return np.eye(3) + sine * cross + cosine * cross @ cross


@numba.njit(cache=True)
def _add_pairs(index, weight, arms, rows, off, facing, pull, toward, band, gradient):
    """Adds the squares of ``pull (n n^T + toward) (place - goal)`` over pairs, linearised, to the diagonals of the lower triangle
    (``band[j, i - j]`` is the entry of row i, column j)."""
    m = index.shape[1]
    pulled = np.zeros((6, 3))  # how each number of a node moves the place, times the metric
    metric = np.zeros((3, 3))
    for r in range(len(rows)):
        s = rows[r]
        for c in range(3):
            for d in range(3):
                metric[c, d] = pull[r] * facing[r, c] * facing[r, d]
            metric[c, c] += pull[r] * toward
        for a in range(m):
            w = weight[s, a]
            if w == 0:
                continue
            x, y, z = w * arms[s, a, 0], w * arms[s, a, 1], w * arms[s, a, 2]
            for c in range(3):
                pulled[0, c] = y * metric[2, c] - z * metric[1, c]
                pulled[1, c] = z * metric[0, c] - x * metric[2, c]
                pulled[2, c] = x * metric[1, c] - y * metric[0, c]
                for d in range(3):
                    pulled[3 + d, c] = w * metric[d, c]
            i = 6 * index[s, a]
            for p in range(6):
                gradient[i + p] += pulled[p, 0] * off[r, 0] + pulled[p, 1] * off[r, 1] + pulled[p, 2] * off[r, 2]
            for b in range(m):
                v = weight[s, b]
                if v == 0 or index[s, b] > index[s, a]:
                    continue
                j = 6 * index[s, b]
                x, y, z = v * arms[s, b, 0], v * arms[s, b, 1], v * arms[s, b, 2]
                for p in range(6):
                    e, f, g = pulled[p, 0], pulled[p, 1], pulled[p, 2]
                    block = (y * g - z * f, z * e - x * g, x * f - y * e, v * e, v * f, v * g)
                    for q in range(6):
                        if i + p >= j + q:
                            band[j + q, i + p - j - q] += block[q]


@numba.njit(cache=True)
def _add_agreement(edges, nodes, rotation, shift, stiffness, spacing, band, gradient):
    """Adds the squares of how far each node is from where its neighbours, moved rigidly, take it, and of how their rotations
    differ, to the diagonals of the lower triangle."""
    j = np.zeros((2, 6, 3))
    residual = np.zeros(3)
    for e in range(2 * len(edges)):
        a, b = edges[e // 2, e % 2], edges[e // 2, 1 - e % 2]
        square = 0.0
        for c in range(3):
            square += (nodes[b, c] - nodes[a, c]) ** 2
        w = stiffness * spacing**2 / max(square, _NEARLY * spacing**2)
        u = rotation[a] @ (nodes[b] - nodes[a])
        for c in range(3):
            residual[c] = u[c] + nodes[a, c] + shift[a, c] - nodes[b, c] - shift[b, c]
        j[0, 0, 1], j[0, 0, 2], j[0, 1, 0] = -u[2], u[1], u[2]
        j[0, 1, 2], j[0, 2, 0], j[0, 2, 1] = -u[0], -u[1], u[0]
        for c in range(3):
            j[0, 3 + c, c], j[1, 3 + c, c] = 1, -1
        ends = (a, b)
        for x in range(2):
            for p in range(6):
                for c in range(3):
                    gradient[6 * ends[x] + p] -= w * j[x, p, c] * residual[c]
                for y in range(2):
                    if ends[y] > ends[x]:
                        continue
                    for q in range(6):
                        row, column = 6 * ends[x] + p, 6 * ends[y] + q
                        if row >= column:
                            for c in range(3):
                                band[column, row - column] += w * j[x, p, c] * j[y, q, c]
    for e in range(len(edges)):
        a, b = edges[e, 0], edges[e, 1]
        relative = rotation[a] @ rotation[b].T
        w = stiffness * _TWIST * spacing**2
        for c in range(3):
            c1, c2 = (c + 1) % 3, (c + 2) % 3
            difference = 0.5 * (relative[c2, c1] - relative[c1, c2])
            gradient[6 * a + c] -= w * difference
            gradient[6 * b + c] += w * difference
            band[6 * a + c, 0] += w
            band[6 * b + c, 0] += w
            band[6 * min(a, b) + c, 6 * abs(a - b)] -= w
