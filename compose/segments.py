"""Reductions over packed segments: the one seam between torch and torch-scatter.

Packed samples lie one after another in rows; ``offsets [s + 1]`` says where each segment starts and ends. By default
torch's own `segment_reduce` does the work. Where the extra ``scatter`` is installed, ``backend="torch_scatter"`` uses
its `segment_csr`; a parity test and a benchmark hold both against each other.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Backend = Literal["torch", "torch_scatter"]
Reduction = Literal["sum", "mean", "min", "max"]

_IDENTITY = {"sum": 0.0, "mean": 0.0, "min": float("inf"), "max": float("-inf")}


def torch_scatter_available() -> bool:
    """Whether the extra ``scatter`` is installed."""
    return importlib.util.find_spec("torch_scatter") is not None


def segment_reduce(
    values: Float[Tensor, "n *c"],
    offsets: Int[Tensor, "s_plus_1"],
    reduction: Reduction,
    *,
    backend: Backend = "torch",
) -> Float[Tensor, "s *c"]:
    """Reduces each segment of rows to one row.

    Args:
        values: Rows, sorted by segment.
        offsets: Ascending, from 0 to ``n``; segment ``i`` is ``values[offsets[i]:offsets[i + 1]]``.
        reduction: Name of the reduction.
        backend: Which library computes.

    Returns:
        One row a segment; an empty one gives 0 for sum and mean, inf for min, -inf for max. Differentiable; where a
        minimum or maximum is reached more than once, torch shares the gradient out and torch-scatter gives it to one.

    Raises:
        ValueError: Offsets that don't fit the rows, or a name that isn't known.
        ModuleNotFoundError: ``backend="torch_scatter"`` without the extra ``scatter``.
    """
    if reduction not in _IDENTITY:
        raise ValueError(f"segment_reduce: reduction must be one of {sorted(_IDENTITY)}, got {reduction!r}")
    if offsets.dim() != 1 or len(offsets) == 0 or int(offsets[0]) != 0 or int(offsets[-1]) != len(values):
        raise ValueError(f"segment_reduce: offsets must run from 0 to the number of rows ({len(values)})")
    if (offsets[1:] < offsets[:-1]).any():
        raise ValueError("segment_reduce: offsets must not decrease")
    identity = _IDENTITY[reduction]
    if backend == "torch_scatter":
        if not torch_scatter_available():
            raise ModuleNotFoundError("torch_scatter is not installed; `make test-scatter` shows how to build it")
        import torch_scatter  # pyright: ignore[reportMissingImports]

        out = torch_scatter.segment_csr(values, offsets, reduce=reduction)
        empty = (offsets[1:] == offsets[:-1]).view(-1, *[1] * (values.dim() - 1))
        return out.masked_fill(empty, identity)
    if backend != "torch":
        raise ValueError(f"segment_reduce: backend must be 'torch' or 'torch_scatter', got {backend!r}")
    if len(values) == 0:
        return values.new_full((len(offsets) - 1, *values.shape[1:]), identity)
    out = torch.segment_reduce(values, reduction, offsets=offsets, axis=0, initial=None, unsafe=True)
    empty = (offsets[1:] == offsets[:-1]).view(-1, *[1] * (values.dim() - 1))
    return out.masked_fill(empty, identity)
