"""Distances of one surface as polynomials in the cells of an octree.

Around a surface its distance is smooth but where two parts of it are equally near: there it is the least (inside of a solid, where
distances are negative, the greatest) of the smooth functions that belong to the parts. So each cell has up to three quadratic
polynomials, and is halved where these are not right at its samples. Away from the surface they are of the squared distance, which
is exactly quadratic about corners and faces. Compare Koschier, Deul, Brand, Bender, "An hp-Adaptive Discretization
Algorithm for Signed Distance Field Generation" (2017), which halves at such places without end.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np

from compose.cpu.inlined import inlined

ROOTS = 8  # cells along each axis of the coarsest level
TERMS = 10  # of a polynomial: 1, u, v, w, uu, vv, ww, uv, uw, vw
OFF, ABOUT = 10, 11  # columns after the factors
_MOST = 3  # polynomials of a cell
_SLOPES = 0.3  # weight of the squared error of a gradient against that of a value in half edges of the cell
_FEWEST = 7  # samples of each polynomial of a cell: those of fewer may be far off between them
_ROUNDS = 3  # of dividing samples among polynomials
_AWAY = 1.8  # half edges: where the centre is farther than this from a surface, the cell holds none

_FAR = 1.6  # how many times more the polynomials of a cell may be off that is far away

_CENTRE = 0  # of the samples
# Where a cell is sampled, in quarters of its edge: centre, corners, middles of edges and faces, and the centres of its halves.
_LATTICE = np.stack(np.meshgrid(*[np.arange(5)] * 3, indexing="ij"), -1).reshape(-1, 3)
_EVEN, _ODD = _LATTICE[(_LATTICE % 2 == 0).all(1)], _LATTICE[(_LATTICE % 2 == 1).all(1)]
_SAMPLES = np.concatenate([[[2, 2, 2]], _EVEN[(_EVEN != 2).any(1)], _ODD])


def octree(
    ask: Callable[[np.ndarray], np.ndarray], half: float, levels: int, tolerance: float, size: float = np.inf
) -> tuple[np.ndarray, np.ndarray]:
    """The octree of a cube about the origin.

    Args:
        ask: Signed distances and their gradients ``[n, 4]`` at points ``[n, 3]``.
        half: Half the edge of the cube.
        levels: How many sizes of cells there are; each is half of the one before.
        tolerance: How far a cell's polynomials may be off at its samples; in proportion more where its centre is farther from the
            surface than ``size``, up to `_FAR` times.

    Returns:
        ``child [c]`` int32: of the `ROOTS` cubed coarsest cells, then of eight at a time: where its own eight begin, or
        ``-1 - code`` with ``code = (first row << 4) + (number of polynomials << 1) + (whether the greatest counts)``; number 0
        for a cell whose polynomials are not right.
        ``piece [g, 12]`` float32: the terms' factors (of coordinates in -1..1 in the cell, in half edges of it), how far the
        samples were off at most, and what `distance_said` needs.
    """
    cells = np.stack(np.meshgrid(*[np.arange(ROOTS)] * 3, indexing="ij"), -1).reshape(-1, 3)
    child, slots = np.zeros(len(cells), np.int32), np.arange(len(cells))
    pieces, rows = [np.zeros((0, 12), np.float32)], 0
    known, values = np.array([-1]), np.zeros((1, 4))
    for level in range(levels):
        edge = 2 * half / ROOTS / 2**level
        side = 4 * ROOTS * 2**level + 1
        places = _keys(4 * cells[:, None] + _SAMPLES, side)
        keys, which = np.unique(places, return_inverse=True)
        where = np.stack([keys // side**2, keys // side % side, keys % side], -1)
        # The corners and the centre of a cell are samples of the one that was halved.
        before = np.searchsorted(known, _keys(where // 2, side // 2 + 1)) % len(known)
        old = (where % 2 == 0).all(1) & (known[before] == _keys(where // 2, side // 2 + 1))
        values = values[before]
        values[~old] = ask(0.25 * edge * where[~old] - half)
        known = keys
        sampled = values[which].reshape(len(cells), len(_SAMPLES), 4)
        looser = tolerance / (0.5 * edge) * np.clip(np.abs(sampled[:, _CENTRE, 0]) / size, 1.0, _FAR)
        sampled[..., 0] /= 0.5 * edge
        number, greatest, factors, middle, off = _fitted(sampled, looser, _MOST)
        done = (number > 0) | (level == levels - 1)
        stored = np.maximum(number, 1)[done]
        code = ((rows + np.cumsum(stored) - stored) << 4) + (number[done] << 1) + greatest[done]
        child[slots[done]] = -1 - code
        wanted = np.arange(_MOST) < stored[:, None]
        found = np.zeros((*wanted.shape, 12), np.float32)
        found[..., :TERMS] = factors[done]
        found[..., ABOUT] = middle[done][:, None]
        found[..., OFF] = (0.5 * edge * off[done])[:, None]
        pieces.append(found[wanted])
        rows += len(pieces[-1])
        begin = len(child) + 8 * np.arange(int((~done).sum()))
        child[slots[~done]] = begin
        child = np.concatenate([child, np.zeros(8 * len(begin), np.int32)])
        slots = (begin[:, None] + np.arange(8)).reshape(-1)
        halves = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3)
        cells = (2 * cells[~done][:, None] + halves).reshape(-1, 3)
    return child, np.concatenate(pieces)


def _keys(where: np.ndarray, side: int) -> np.ndarray:
    return (where[..., 0] * side + where[..., 1]) * side + where[..., 2]


@inlined
def _terms(u, v, w, out, squares):
    """The terms of a polynomial and their derivatives ``[4, 10]``, and the sum of their outer products ``[10, 10]``."""
    out[:] = 0.0
    out[0, 0], out[0, 1], out[0, 2], out[0, 3] = 1.0, u, v, w
    out[0, 4], out[0, 5], out[0, 6], out[0, 7], out[0, 8], out[0, 9] = u * u, v * v, w * w, u * v, u * w, v * w
    out[1, 1], out[1, 4], out[1, 7], out[1, 8] = 1.0, 2 * u, v, w
    out[2, 2], out[2, 5], out[2, 7], out[2, 9] = 1.0, 2 * v, u, w
    out[3, 3], out[3, 6], out[3, 8], out[3, 9] = 1.0, 2 * w, u, v
    for t in range(TERMS):
        for r in range(TERMS):
            squares[t, r] = out[0, t] * out[0, r]
            for c in range(1, 4):
                squares[t, r] += _SLOPES * (out[c, t] * out[c, r])


@numba.njit(cache=True, parallel=True)
def _fitted(sampled, tolerance, most):
    """Of each cell: how many polynomials are right to ``tolerance [n]`` at all samples (0: none of up to ``most``), whether the
    greatest counts, their factors ``[most, 10]`` and how far the samples are off at most (of a single one for number 0)."""
    n, m = sampled.shape[:2]
    where = 0.5 * _SAMPLES - 1.0
    terms = np.empty((m, 4, TERMS))
    squares = np.empty((m, TERMS, TERMS))
    for s in range(m):
        _terms(where[s, 0], where[s, 1], where[s, 2], terms[s], squares[s])
    number, greatest, off = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n)
    factors, middle = np.zeros((n, most, TERMS)), np.zeros(n)
    for k in numba.prange(n):
        number[k], greatest[k], off[k], middle[k] = _fitted_one(
            sampled[k], terms, squares, where, tolerance[k], factors[k]
        )
    return number, greatest, factors, middle, off


@numba.njit(cache=True)
def _fitted_one(sampled, terms, squares, where, tolerance, factors):
    """`_fitted` of one cell: number, whether the greatest counts, how far off, and what they are of the distance's square about."""
    most = len(factors)
    tried = np.zeros((most, TERMS))
    number, greatest, off, middle = 0, 0, np.inf, 0.0
    centre = sampled[_CENTRE, 0]
    away = abs(centre) > _AWAY
    for turn in range(most + 1):  # one polynomial of the distance; away from the surface one of its square; then more
        if turn == 1 and not away:
            continue
        count, about = max(turn, 1), centre if away and turn > 0 else 0.0
        error, high = _divided(sampled, terms, squares, where, count, about, tried)
        if error <= tolerance or (count == 1 and error < off):
            factors[:], off, greatest, middle = tried, error, high, about
        if error <= tolerance:
            number = count
            break
    return number, greatest, off, middle


@numba.njit(cache=True)
def _divided(distances, terms, squares, where, count, about, factors):
    """Fits ``count`` polynomials, each to its part of the samples; how far they are off at most (inf where one has too few
    samples), and whether the greatest counts. Not the distances are fitted but their squares where ``about`` (the centre's
    distance) is not 0, see `distance_said`."""
    m = len(distances)
    sampled = distances.copy()
    if about != 0.0:
        for s in range(m):
            for a in range(1, 4):
                sampled[s, a] *= sampled[s, 0] / about
            sampled[s, 0] = (sampled[s, 0] ** 2 - about * about) / (2.0 * about)
    member = np.zeros(m, np.int64)
    if count > 1:  # first by which of the surface points farthest from each other is next to the sample's own
        foot, away, away_least = np.empty((m, 3)), np.empty(m), np.full(m, np.inf)
        for s in range(m):
            for a in range(3):
                foot[s, a] = where[s, a] - distances[s, 0] * distances[s, a + 1]
            away[s] = _apart(foot, s, 0)
        for c in range(count):
            seed = (away if c == 0 else away_least).argmax()
            for s in range(m):
                apart = _apart(foot, s, seed)
                if apart < away_least[s]:
                    away_least[s], member[s] = apart, c
    value, left, right = np.empty((count, m)), np.empty((TERMS, TERMS)), np.empty(TERMS)
    for _ in range(_ROUNDS if count > 1 else 1):
        for c in range(count):
            left[:], right[:] = 0.0, 0.0
            for s in range(m):
                if member[s] == c:
                    for t in range(TERMS):
                        right[t] += sampled[s, 0] * terms[s, 0, t] + _SLOPES * (
                            sampled[s, 1] * terms[s, 1, t]
                            + sampled[s, 2] * terms[s, 2, t]
                            + sampled[s, 3] * terms[s, 3, t]
                        )
                        for r in range(t + 1):
                            left[t, r] += squares[s, t, r]
            _solve(left, right, factors[c])
        changed = False
        for s in range(m):
            least, found = np.inf, 0
            for c in range(count):
                wrong = 0.0
                for a in range(4):
                    said = 0.0
                    for t in range(TERMS):
                        said += factors[c, t] * terms[s, a, t]
                    if a == 0:
                        value[c, s] = said
                    wrong += (1.0 if a == 0 else _SLOPES) * (said - sampled[s, a]) ** 2
                if wrong < least:
                    least, found = wrong, c
            changed = changed or found != member[s]
            member[s] = found
        if not changed:
            break
    for c in range(count):
        members = 0
        for s in range(m):
            members += member[s] == c
        if members < _FEWEST:
            return np.inf, 0
    low, high = 0.0, 0.0
    for s in range(m):
        least, most = np.inf, -np.inf
        for c in range(count):
            least, most = min(least, value[c, s]), max(most, value[c, s])
        low = max(low, abs(distance_said(least, about) - distances[s, 0]))
        high = max(high, abs(distance_said(most, about) - distances[s, 0]))
    return min(low, high), 1 if high < low else 0


@inlined
def _apart(points, i, j):
    """The squared distance of two points."""
    return (points[i, 0] - points[j, 0]) ** 2 + (points[i, 1] - points[j, 1]) ** 2 + (points[i, 2] - points[j, 2]) ** 2


@inlined
def _solve(left, right, out):
    """Cholesky; ``left`` is changed. A little is added to its diagonal, so that few samples do."""
    for t in range(TERMS):
        left[t, t] += 1e-6 if t > 3 else 1e-9
    for i in range(TERMS):
        for j in range(i + 1):
            rest = left[i, j]
            for k in range(j):
                rest -= left[i, k] * left[j, k]
            left[i, j] = np.sqrt(max(rest, 1e-12)) if i == j else rest / left[j, j]
    for i in range(TERMS):
        rest = right[i]
        for k in range(i):
            rest -= left[i, k] * out[k]
        out[i] = rest / left[i, i]
    for i in range(TERMS - 1, -1, -1):
        rest = out[i]
        for k in range(i + 1, TERMS):
            rest -= left[k, i] * out[k]
        out[i] = rest / left[i, i]


@inlined
def distance_said(value, about):
    """What a polynomial's value says: the distance itself, or its square about that of the cell's centre."""
    if about == 0.0:
        return value
    distance = np.sqrt(max(about * about + 2.0 * about * value, 0.0))
    return distance if about > 0.0 else -distance
