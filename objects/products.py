"""Products of small matrices inside compiled kernels, several times faster than a call of BLAS at the sizes of our networks.

A tile of the result stays in vector registers while rows of the factors pass by: the inner kernel of Goto, van de Geijn,
"Anatomy of High-Performance Matrix Multiplication" (2008), without packing, as small matrices sit in the caches as they are.
Numba can't say "keep this in registers", so the tile is written in LLVM's own language, which runs on any processor. Each number
of the result is summed in the order of the inner axis whatever the sizes are, so it doesn't depend on its neighbours. No threads.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_untracked
from numba.extending import intrinsic

LANES = 16  # columns come in multiples of it
ROWS = 4  # and rows of the result in multiples of this
# Vectors side by side in a tile: as many as leave room for the factors in 32 registers of 16 numbers, or of less.
_WIDE = 5 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 1


def padded(n: int) -> int:
    """The next multiple of `LANES`."""
    return -(-n // LANES) * LANES


def _tile(vectors: int) -> Any:
    """A function ``tile(a, b, c, row, column, add)``: `ROWS` rows and ``vectors * LANES`` columns of ``c = a @ b``, or ``c +=``."""

    @intrinsic
    def tile(_typing, a, b, c, row, column, add):
        def generate(context, builder, _signature, arguments):
            arrays = [context.make_array(t)(context, builder, v) for t, v in zip((a, b, c), arguments[:3], strict=True)]
            row_, column_, add_ = arguments[3:]
            index, vector = ir.IntType(64), ir.VectorType(ir.FloatType(), LANES)
            fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{LANES}f32"
            )

            def number(k: int) -> ir.Constant:
                return ir.Constant(index, k)

            def strides(array: Any) -> list[Any]:
                return [builder.sdiv(s, number(4)) for s in cgutils.unpack_tuple(builder, array.strides)]

            def at(array: Any, *terms: Any) -> Any:
                place = array.data
                for term in terms:
                    place = builder.gep(place, [term])
                return place

            def vector_at(place: Any, k: int) -> Any:
                return builder.bitcast(builder.gep(place, [number(LANES * k)]), vector.as_pointer())

            (a_, b_, c_), ((a_row, a_k), (b_k, _), (c_row, _)) = arrays, map(strides, arrays)
            rows = [builder.mul(builder.add(row_, number(r)), a_row) for r in range(ROWS)]
            before = builder.block
            loop, end = (builder.append_basic_block(name) for name in ("tile.sum", "tile.end"))
            builder.branch(loop)
            builder.position_at_end(loop)
            k = builder.phi(index)
            sums = [[builder.phi(vector) for _ in range(vectors)] for _ in range(ROWS)]
            from_b = at(b_, builder.mul(k, b_k), column_)
            right = [builder.load(vector_at(from_b, v), align=4) for v in range(vectors)]
            more = []
            for r in range(ROWS):
                one = builder.load(at(a_, rows[r], builder.mul(k, a_k)))
                left = builder.insert_element(ir.Constant(vector, ir.Undefined), one, ir.Constant(ir.IntType(32), 0))
                first = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
                left = builder.shuffle_vector(left, ir.Constant(vector, ir.Undefined), first)
                more.append([builder.call(fma, [left, right[v], sums[r][v]]) for v in range(vectors)])
            after = builder.add(k, number(1))
            k.add_incoming(number(0), before)
            k.add_incoming(after, loop)
            for old, new in zip(chain(*sums), chain(*more), strict=True):
                old.add_incoming(ir.Constant(vector, [0.0] * LANES), before)
                old.add_incoming(new, loop)
            n_inner = cgutils.unpack_tuple(builder, a_.shape)[1]
            builder.cbranch(builder.icmp_signed("<", after, n_inner), loop, end)
            builder.position_at_end(end)
            for r in range(ROWS):
                to = at(c_, builder.mul(builder.add(row_, number(r)), c_row), column_)
                for v in range(vectors):
                    place = vector_at(to, v)
                    whole = builder.fadd(more[r][v], builder.load(place, align=4))
                    builder.store(builder.select(add_, whole, more[r][v]), place, align=4)
            return impl_ret_untracked(context, builder, types.none, context.get_dummy_value())

        return types.none(a, b, c, types.intp, types.intp, types.boolean), generate

    return tile


_tile_1, _tile_2, _tile_3, _tile_4, _tile_5 = map(_tile, (1, 2, 3, 4, 5))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def product(a, b, c, add):
    """Writes ``a @ b`` to ``c``, or adds it to ``c``.

    Args:
        a: float32 ``[m, k]`` of any strides (``x.T`` costs nothing), with m a multiple of `ROWS` and k at least 1.
        b, c: float32 ``[k, n]`` and ``[m, n]``, each row in one piece, with n a multiple of `LANES`.
        add: Whether to add.
    """
    vectors = b.shape[1] // LANES
    pieces = -(-vectors // _WIDE)
    column = 0
    for piece in range(pieces):
        width = (vectors - column // LANES + pieces - piece - 1) // (pieces - piece)
        for row in range(0, a.shape[0], ROWS):
            if width == 1:
                _tile_1(a, b, c, row, column, add)
            elif width == 2:
                _tile_2(a, b, c, row, column, add)
            elif width == 3:
                _tile_3(a, b, c, row, column, add)
            elif width == 4:
                _tile_4(a, b, c, row, column, add)
            else:
                _tile_5(a, b, c, row, column, add)
        column += LANES * width
