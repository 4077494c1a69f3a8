"""Muon: steepest descent for matrices, measured by the spectral norm. Many stacked matrices at once, equal bits for each alone.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). The momentum of a matrix's gradient is
brought near to the closest semi-orthogonal matrix by five Newton-Schulz steps, so that all its directions move alike: fine
detail that Adam learns late is learned early. `torch.optim.Muon` takes one matrix after the other; `tests/objects/test_muon.py`
holds this one against it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from objects.fused import spread
from objects.products import padded, product

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values towards 1
_STEPS = 5


@numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")
def _combine(a, x, b, y, out):
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = a * x[i, j] + b * y[i, j]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _orthogonalize(g, out, size, steps, c0, c1, c2):
    """Writes to ``out [n, n]`` the matrix ``g [n, n]`` with its singular values brought near to 1; products are ``size`` wide."""
    n = len(g)
    x = np.zeros((size, size), np.float32)
    x[:n, :n] = g / (np.sqrt((g * g).sum()) + np.float32(1e-7))
    flipped, gram, square = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    for _ in range(steps):
        flipped[:] = x.T
        product(x, flipped, gram, False)
        product(gram, gram, square, False)
        _combine(c1, gram, c2, square, gram)
        product(gram, x, square, False)
        _combine(c0, x, np.float32(1), square, x)
    out[:] = x[:n, :n]


def orthogonalized(matrices: Tensor, n_threads: int = 1) -> Tensor:
    """Each of ``matrices [..., n, n]`` (float32, CPU) with its singular vectors kept and its singular values brought near to 1;
    less near those below a hundredth of its norm."""
    flat = matrices.detach().contiguous().reshape(-1, *matrices.shape[-2:]).numpy()
    out = np.empty_like(flat)
    a, b, c = (np.float32(v) for v in _COEFFICIENTS)
    size = padded(flat.shape[-1])
    spread(lambda k: _orthogonalize(flat[k], out[k], size, _STEPS, a, b, c), range(len(flat)), n_threads)
    return torch.from_numpy(out).reshape(matrices.shape)


class Muon(torch.optim.Optimizer):
    """For parameters that are stacks of square matrices, ``[..., n, n]``.

    Args:
        params: Tensors or groups of them, as for any optimiser of torch.
        lr: Step of each matrix in its spectral norm.
        momentum: Decay of the averaged gradient (Nesterov's way of using it).
        n_threads: Threads that share the matrices.
    """

    def __init__(self, params: Iterable[Any], lr: float = 3e-3, momentum: float = 0.95, n_threads: int = 1) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.n_threads = n_threads

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                mean = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                mean.lerp_(p.grad, 1 - group["momentum"])
                p.sub_(group["lr"] * orthogonalized(p.grad.lerp(mean, group["momentum"]), self.n_threads))
