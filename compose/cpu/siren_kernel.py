"""Fused evaluation of many SIREN fields: all layers of 8 or 16 points of one asset at a time, in cache, compiled by numba.

It says what `SirenField` says, up to float32 rounding, without a graph: distances, the gradient of the distance (by
back-propagation), colour and channels. Each point is computed by the same operations in the same order wherever it stands in the
input and whatever stands beside it, so equal pairs give equal bits.

The inner product of a layer is written in LLVM's vectors (`_tile`): what numba makes of the plain loops reaches a third of
the speed. It runs on any CPU that LLVM knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from torch import nn

from compose.cpu.inlined import FAST, inlined
from objects.field import Field
from objects.siren import SineMlp, SineParts, SirenField
from objects.siren_layout import SineShape, layer_at

LANES = 16  # points computed together; 8 where fewer than 9 are left
_BLOCK = 64  # most pairs of one asset that a thread takes at a time
_HEAD = 10  # numbers of an asset before its networks
_NODE, _PART = 5, 4  # numbers of a node of a tree, and of a part before its network
_layer_at = inlined(layer_at)


class Nets(NamedTuple):
    """The networks of all assets, packed.

    A row of ``weights`` holds the box (lo, hi), centre, half extent, then for each layer of the distance network and then of the
    colour network the bias and the transposed weight, a sine layer's multiplied by its frequency over ``2 pi``. Where parts share
    the colour, their tree stands before them (of each node normal, offset and the inverse of twice its blend), and before each
    its centre and half.
    """

    weights: np.ndarray  # [k] float32
    at: np.ndarray  # [a] where an asset's row starts, -1 for an asset that the kernel can't serve
    shape: (
        np.ndarray
    )  # [a, 6] width and layers of the distance network, those of the colour network, its outputs and parts


def serves(field: Field) -> bool:
    """Whether the kernel can evaluate a field: a SIREN of float32 numbers and no subclass of it."""
    return str(field.box_lo.dtype) == "torch.float32" and type(field) is SirenField


def pack(fields: Sequence[Field]) -> Nets:
    """Packs what the kernel serves; weights are taken as they are now."""
    served = [cast(SirenField, f) if serves(f) else None for f in fields]
    numbers = [0 if f is None else _HEAD + f.distance.shape.n_numbers + _look_numbers(f) for f in served]
    weights, at, shape, first = np.empty(sum(numbers), dtype=np.float32), [], [], 0
    for siren, n in zip(served, numbers, strict=True):
        if siren is None:
            at.append(-1)
            shape.append([0] * 6)
            continue
        parts = [v.detach().reshape(-1).numpy() for v in (siren.box_lo, siren.box_hi, siren.center, siren.half_extent)]
        look = siren.appearance
        n_parts = look.n_parts if isinstance(look, SineParts) else 1
        looks = _packed_parts(look) if isinstance(look, SineParts) else _packed(look)
        np.concatenate([*parts, *_packed(siren.distance), *looks], out=weights[first : first + n])
        at.append(first)
        d, c = siren.distance.shape, siren.appearance.shape
        shape.append([d.width, d.layers, c.width, c.layers, c.n_out, n_parts])
        first += n
    return Nets(weights, np.array(at, dtype=np.int64), np.array(shape, dtype=np.int64).reshape(len(at), 6))


def _look_numbers(field: SirenField) -> int:
    """Numbers of its colour network, or of all its parts and their tree."""
    look = field.appearance
    if not isinstance(look, SineParts):
        return look.shape.n_numbers
    return (look.n_parts - 1) * _NODE + look.n_parts * (_PART + look.shape.n_numbers)


def _packed(net: SineMlp) -> list[np.ndarray]:
    linears = cast(list[nn.Linear], list(net.linears))
    return _layers(net.shape, [(x.weight.detach().numpy(), x.bias.detach().numpy()) for x in linears])


def _packed_parts(look: SineParts) -> list[np.ndarray]:
    tree = look.tree
    nodes = torch.cat([tree.normal, tree.offset[:, None], 0.5 / tree.blend[:, None]], 1)
    weights, biases = ([t.detach().numpy() for t in tensors] for tensors in (look.weights, look.biases))
    found = [nodes.numpy().ravel()]
    for k in range(look.n_parts):
        layers = [(w[k], b[k]) for w, b in zip(weights, biases, strict=True)]
        found += [look.center[k].numpy(), look.half_extent[k : k + 1].numpy(), *_layers(look.shape, layers)]
    return found


def _layers(shape: SineShape, layers: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Of each layer, given as weight and bias, the bias and the transposed weight, multiplied by its frequency over ``2 pi``."""
    turns = 1 / (2 * np.pi)
    factors = [omega * turns for omega in shape.omegas] + [1.0]
    found = []
    for (weight, bias), factor in zip(layers, factors, strict=True):
        found += [factor * bias.astype(np.float64), factor * weight.astype(np.float64).T.ravel()]
    return found


def siren_sdf(nets: Nets, asset: np.ndarray, p_obj: np.ndarray) -> np.ndarray:
    """Distance ``[n]`` (object units, float32) of pairs that are sorted by asset: ``asset [n]``, ``p_obj [n, 3]`` float64."""
    out = np.empty(len(asset), dtype=np.float32)
    if len(asset):
        _all_distances(nets, _runs(asset), asset, p_obj, out)
    return out


def siren_surface(
    nets: Nets, asset: np.ndarray, p_obj: np.ndarray, *, distance: bool, gradient: bool
) -> tuple[np.ndarray, ...]:
    """Distance ``[n]``, its gradient ``[n, 3]`` (object frame; each zeros unless asked for; the gradient brings the
    distance) and what the colour network says, ``[n, c]`` (colours before their sigmoid, then channels; ``c`` the widest
    asset's numbers), float32, of pairs that are sorted by asset."""
    n = len(asset)
    sdf, grad = np.zeros(n, dtype=np.float32), np.zeros((n, 3), dtype=np.float32)
    look = np.zeros((n, int(nets.shape[:, 4].max(initial=3))), dtype=np.float32)
    if n == 0:
        return sdf, grad, look
    part = _all_parts(nets, asset, p_obj)
    if 4 * np.count_nonzero(part[1:] != part[:-1]) < n:  # in order enough
        _all_surfaces(nets, _runs(asset), asset, p_obj, distance, gradient, sdf, grad, look)
        return sdf, grad, look
    most = int(part.max())
    key = asset * (most + 1) + part
    order = np.argsort(key.astype(np.min_scalar_type(key[-1] + most)), kind="stable")  # short numbers are sorted faster
    _all_surfaces(nets, _runs(asset), asset, p_obj[order], distance, gradient, sdf, grad, look)
    place = np.empty(n, dtype=np.int64)
    place[order] = np.arange(n)
    return sdf[place], grad[place], look[place]


@numba.njit(cache=True)
def _runs(asset):
    """Starts of groups of at most ``_BLOCK`` pairs of one asset, with the end of the input behind them."""
    starts = np.empty(len(asset) + 1, dtype=np.int64)
    n, first = 0, 0
    for k in range(len(asset)):
        if k == 0 or asset[k] != asset[k - 1] or k - first == _BLOCK:
            starts[n] = k
            n, first = n + 1, k
    starts[n] = len(asset)
    return starts[: n + 1]


@numba.njit(cache=True, parallel=True)
def _all_distances(nets, starts, asset, p_obj, out):
    width = widest(nets)
    for r in numba.prange(len(starts) - 1):
        room = np.empty((3, width * LANES), dtype=np.float32)
        values = np.empty(LANES, dtype=np.float32)
        for k in range(starts[r], starts[r + 1], LANES):
            n = min(LANES, starts[r + 1] - k)
            distances(nets, asset[k], p_obj, k, n, room, values)
            out[k : k + n] = values[:n]


@numba.njit(cache=True, parallel=True)
def _all_surfaces(nets, starts, asset, p_obj, distance, gradient, sdf, grad, look):
    width, deepest, parts = widest(nets), 1, 1
    for a in range(len(nets.at)):
        deepest = max(deepest, nets.shape[a, 1])
        parts = max(parts, nets.shape[a, 5])
    for r in numba.prange(len(starts) - 1):
        room = np.empty((3, width * LANES), dtype=np.float32)
        shares = np.empty((2 * parts + 2, LANES), dtype=np.float32)
        slopes = np.empty((deepest, width * LANES), dtype=np.float32)
        for k in range(starts[r], starts[r + 1], LANES):
            n = min(LANES, starts[r + 1] - k)
            if gradient:
                _distances_and_gradients(nets, asset[k], p_obj, k, n, room, slopes, sdf[k : k + n], grad[k : k + n])
            elif distance:
                distances(nets, asset[k], p_obj, k, n, room, sdf[k : k + n])
            _looks(nets, asset[k], p_obj, k, n, room, shares, look[k : k + n])


@numba.njit(cache=True, parallel=True)
def _all_parts(nets, asset, p_obj):
    """The part of each pair's colour network that says most there: neighbours in one part share the work."""
    out = np.zeros(len(asset), dtype=np.int16)
    w = nets.weights
    for i in numba.prange(len(asset)):
        a = asset[i]
        parts, row = nets.shape[a, 5], nets.at[a]
        if parts > 1:
            at = row + _HEAD + _layer_at(3, nets.shape[a, 0], nets.shape[a, 1]) + nets.shape[a, 0] + 1
            node = 0
            while node < parts - 1:
                side = -w[at + _NODE * node + 3]
                for k in range(3):
                    side += w[at + _NODE * node + k] * (np.float32(p_obj[i, k]) - w[row + 6 + k]) / w[row + 9]
                node = 2 * node + (2 if side > 0 else 1)
            out[i] = node - (parts - 1)
    return out


@inlined
def widest(nets):
    """Most units of any layer; the rows of ``room`` hold ``LANES`` times as many numbers."""
    width = 4
    for a in range(len(nets.at)):
        width = max(width, nets.shape[a, 0], nets.shape[a, 2], nets.shape[a, 4])
    return width


# -- a few points of one asset -------------------------------------------------------------------------------------------


@inlined(fastmath=FAST)
def distances(nets, a, p_obj, first, n, room, out):
    """Distance of the ``n <= LANES`` points of ``p_obj`` from row ``first`` on to asset ``a``, into ``out``; ``room [3,
    widest(nets) * LANES]`` is overwritten."""
    w, row = nets.weights, nets.at[a]
    lanes = 8 if n <= 8 else 16
    _enter(w, row, p_obj, first, n, room[0], lanes)
    _forward(w, row + _HEAD, nets.shape[a, 0], nets.shape[a, 1], 1, room, lanes)
    _leave(w, row, p_obj, first, n, room[0], out)


@inlined(fastmath=FAST)
def _forward(w, at, width, layers, channels, room, lanes):
    """A network that starts at ``at``: its input in the first row of ``room`` becomes its output."""
    x, h, g = room[0], room[1], room[2]
    at = _linear(w, at, x, 3, h, width, lanes)
    _sine(h, width * lanes, np.float32(0.0))
    for _ in range(layers - 1):
        at = _linear(w, at, h, width, g, width, lanes)
        _sine(g, width * lanes, np.float32(0.0))
        h, g = g, h
    _linear(w, at, h, width, x, channels, lanes)


@inlined(fastmath=FAST)
def _distances_and_gradients(nets, a, p_obj, first, n, room, slopes, out, grad):
    """As `distances`, with gradients in the object frame, of points in the box (beyond it: of the nearest point of the box)."""
    w, row, width, layers = nets.weights, nets.at[a], nets.shape[a, 0], nets.shape[a, 1]
    lanes = 8 if n <= 8 else 16
    x, h, g = room[0], room[1], room[2]
    _enter(w, row, p_obj, first, n, x, lanes)
    at, n_in, source = row + _HEAD, 3, x
    for layer in range(layers):
        at = _linear(w, at, source, n_in, h, width, lanes)
        for i in range(width * lanes):
            slopes[layer, i] = h[i]
        _sine(slopes[layer], width * lanes, np.float32(0.25))
        _sine(h, width * lanes, np.float32(0.0))
        h, g = g, h
        source, n_in = g, width
    _linear(w, at, source, width, x, 1, lanes)
    _leave(w, row, p_obj, first, n, x, out)
    two_pi = np.float32(2 * np.pi)
    for j in range(width):  # back through the last layer
        for i in range(lanes):
            h[j * lanes + i] = w[at + 1 + j]
    for layer in range(layers - 1, -1, -1):
        for i in range(width * lanes):
            h[i] *= two_pi * slopes[layer, i]
        n_in = width if layer > 0 else 3
        at -= (n_in + 1) * width
        _transposed(w, at + width, h, n_in, g, width, lanes)
        h, g = g, h
    for i in range(n):
        for axis in range(3):
            grad[i, axis] = h[axis * lanes + i]


@inlined(fastmath=FAST)
def _looks(nets, a, p_obj, first, n, room, shares, look):
    w, row, channels = nets.weights, nets.at[a], nets.shape[a, 4]
    lanes = 8 if n <= 8 else 16
    _enter(w, row, p_obj, first, n, room[0], lanes)
    width, layers = nets.shape[a, 0], nets.shape[a, 1]
    behind = row + _HEAD + _layer_at(3, width, layers) + width + 1
    width, layers, parts = nets.shape[a, 2], nets.shape[a, 3], nets.shape[a, 5]
    if parts > 1:
        _blend(w, behind, parts, room[0], shares, lanes)
        behind += (parts - 1) * _NODE
        size = _layer_at(3, width, layers) + (width + 1) * channels
        for part in range(parts):
            leaf, largest = parts - 1 + part, np.float32(0.0)
            for i in range(n):
                largest = max(largest, shares[leaf, i])
            if largest > 0:
                for k in range(3):
                    for i in range(lanes):
                        room[0, k * lanes + i] = (shares[2 * parts - 1 + k, i] - w[behind + k]) / w[behind + 3]
                _forward(w, behind + _PART, width, layers, channels, room, lanes)
                for i in range(n):
                    for c in range(channels):
                        look[i, c] += shares[leaf, i] * room[0, c * lanes + i]
            behind += _PART + size
        return
    _forward(w, behind, width, layers, channels, room, lanes)
    for i in range(n):
        for c in range(channels):
            look[i, c] = room[0, c * lanes + i]


@inlined(fastmath=FAST)
def _blend(w, at, parts, x, shares, lanes):
    """The weight of each node of a tree (`objects.blend_tree`) that starts at ``at`` in row ``node`` of ``shares``, and the points
    ``x`` in the last three."""
    for i in range(lanes):
        shares[0, i] = np.float32(1.0)
        for k in range(3):
            shares[2 * parts - 1 + k, i] = x[k * lanes + i]
    for node in range(parts - 1):
        for i in range(lanes):
            side = w[at] * x[i] + w[at + 1] * x[lanes + i] + w[at + 2] * x[2 * lanes + i] - w[at + 3]
            t = min(max(np.float32(0.5) - side * w[at + 4], np.float32(0.0)), np.float32(1.0))
            before = t * t * (np.float32(3.0) - np.float32(2.0) * t)
            shares[2 * node + 1, i] = shares[node, i] * before
            shares[2 * node + 2, i] = shares[node, i] * (np.float32(1.0) - before)
        at += _NODE


@inlined
def _enter(w, at, p_obj, first, n, x, lanes):
    """The networks' input: points moved into the box, centred and divided; what is too much repeats the last point."""
    half = w[at + 9]
    for i in range(lanes):
        k = first + min(i, n - 1)
        for a in range(3):
            q = min(max(np.float32(p_obj[k, a]), w[at + a]), w[at + 3 + a])
            x[a * lanes + i] = (q - w[at + 6 + a]) / half


@inlined
def _leave(w, at, p_obj, first, n, x, out):
    """From the network's output to distances, by the rule of `Field.forward` outside the box."""
    half = w[at + 9]
    for i in range(n):
        gap2 = np.float32(0.0)
        for a in range(3):
            p = np.float32(p_obj[first + i, a])
            q = min(max(p, w[at + a]), w[at + 3 + a])
            gap2 += (p - q) * (p - q)
        sdf = x[i] * half
        if gap2 > 0:
            sdf = np.sqrt(gap2 + max(sdf, np.float32(0)) ** 2)
        out[i] = sdf


# -- a layer -------------------------------------------------------------------------------------------------------------


@inlined
def _linear(w, at, x, n_in, out, n_out, lanes):
    """``out = bias + weight x`` for ``lanes`` points side by side; returns where the next layer starts in ``w``."""
    for j in range(n_out):
        for i in range(lanes):
            out[j * lanes + i] = w[at + j]
    _multiply(w, at + n_out, 1, n_out, x, n_in, out, n_out, lanes)
    return at + n_out + n_in * n_out


@inlined
def _transposed(w, at, x, n_in, out, n_out, lanes):
    """``out = weight^T x``, the way back through a layer whose weight (not bias) starts at ``at``."""
    for i in range(n_in * lanes):
        out[i] = np.float32(0.0)
    _multiply(w, at, n_out, 1, x, n_out, out, n_in, lanes)


@inlined
def _multiply(w, at, step_out, step_in, x, n_in, out, n_out, lanes):
    """Adds ``sum_k w[at + j step_out + k step_in] x[k]`` to ``out[j]``, ``k`` ascending."""
    j = 0
    if lanes == 8:
        while j + 8 <= n_out:
            _tile_8x8(w, at + j * step_out, step_out, step_in, x, n_in, out, j * 8)
            j += 8
        while j < n_out:
            _tile_1x8(w, at + j * step_out, step_out, step_in, x, n_in, out, j * 8)
            j += 1
    else:
        while j + 4 <= n_out:
            _tile_4x16(w, at + j * step_out, step_out, step_in, x, n_in, out, j * 16)
            j += 4
        while j < n_out:
            _tile_1x16(w, at + j * step_out, step_out, step_in, x, n_in, out, j * 16)
            j += 1


@inlined(fastmath=FAST)
def _sine(x, n, shift):
    """``sin(2 pi (x + shift))`` in place for the first ``n`` numbers: the argument is folded into a quarter turn, then a polynomial
    of degree 9 with minimax coefficients (error below 1e-7)."""
    for i in range(n):
        t = x[i] + shift
        t = t - np.floor(t + np.float32(0.5))
        t = max(min(t, np.float32(0.5) - t), np.float32(-0.5) - t)
        y = np.float32(6.283185307179586) * t
        z = y * y
        s = np.float32(2.6057805e-06)
        s = s * z + np.float32(-1.9809573e-04)
        s = s * z + np.float32(8.3330255e-03)
        s = s * z + np.float32(-1.6666657e-01)
        x[i] = y + y * z * s


def _tile(n_out: int, lanes: int) -> Any:
    """A function ``(w, w_at, step_out, step_in, x, n_in, out, out_at)`` that adds to ``n_out`` rows of ``lanes`` numbers at
    ``out[out_at]`` their sums of products, held in vector registers meanwhile."""
    vector, whole = ir.VectorType(ir.FloatType(), 8), ir.IntType(64)
    parts = lanes // 8

    @intrinsic
    def tile(typingctx, w, w_at, step_out, step_in, x, n_in, out, out_at):
        i64 = types.int64
        signature = types.void(w, i64, i64, i64, x, i64, out, i64)

        def codegen(context, builder, sig, args):
            def data(k):
                return context.make_array(sig.args[k])(context, builder, args[k]).data

            def vector_at(pointer, place):
                return builder.bitcast(builder.gep(pointer, [place]), vector.as_pointer())

            def load(pointer, place):
                loaded = builder.load(vector_at(pointer, place))
                loaded.align = 4
                return loaded

            def number(k):
                return ir.Constant(whole, k)

            w_data, x_data, out_data = data(0), data(4), data(6)
            _, w_at, step_out, step_in, _, n_in, _, out_at = args
            fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector] * 3), "llvm.fmuladd.v8f32"
            )
            places = [builder.add(out_at, number(q * lanes + 8 * p)) for q in range(n_out) for p in range(parts)]
            before = [load(out_data, place) for place in places]
            entry = builder.block
            head, body, done = (builder.append_basic_block(name) for name in ("head", "body", "done"))
            builder.branch(head)
            builder.position_at_end(head)
            k = builder.phi(whole)
            k.add_incoming(number(0), entry)
            sums = [builder.phi(vector) for _ in before]
            for total, value in zip(sums, before, strict=True):
                total.add_incoming(value, entry)
            builder.cbranch(builder.icmp_signed("<", k, n_in), body, done)
            builder.position_at_end(body)
            row = builder.mul(k, number(lanes))
            xs = [load(x_data, builder.add(row, number(8 * p))) for p in range(parts)]
            w_row = builder.add(w_at, builder.mul(k, step_in))
            after = []
            for q in range(n_out):
                weight = builder.load(builder.gep(w_data, [builder.add(w_row, builder.mul(step_out, number(q)))]))
                undefined, first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)
                spread = builder.shuffle_vector(
                    builder.insert_element(undefined, weight, first),
                    undefined,
                    ir.Constant(ir.VectorType(ir.IntType(32), 8), [0] * 8),
                )
                after += [builder.call(fma, [spread, xs[p], sums[q * parts + p]]) for p in range(parts)]
            following, end = builder.add(k, number(1)), builder.block
            builder.branch(head)
            k.add_incoming(following, end)
            for total, value in zip(sums, after, strict=True):
                total.add_incoming(value, end)
            builder.position_at_end(done)
            for place, total in zip(places, sums, strict=True):
                stored = builder.store(total, vector_at(out_data, place))
                stored.align = 4
            return context.get_dummy_value()

        return signature, codegen

    return tile


_tile_4x16, _tile_1x16, _tile_8x8, _tile_1x8 = _tile(4, 16), _tile(1, 16), _tile(8, 8), _tile(1, 8)
