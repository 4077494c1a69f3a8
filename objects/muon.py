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

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values towards 1
_STEPS = 5
_ROWS = 32  # of a product at a time: larger ones OpenBLAS hands to threads of its own


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _product(a, b, out):
    for at in range(0, len(a), _ROWS):
        np.dot(a[at : at + _ROWS], b, out[at : at + _ROWS])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _orthogonalize(g, out, steps, c0, c1, c2):
    """Writes to ``out [n, n]`` the matrix ``g [n, n]`` with its singular values brought near to 1."""
    x = g / (np.sqrt((g * g).sum()) + np.float32(1e-7))
    gram, square, mixed = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    for _ in range(steps):
        _product(x, x.T, gram)
        _product(gram, gram, square)
        mixed = c1 * gram + c2 * square
        _product(mixed, x, square)
        x = c0 * x + square
    out[:] = x


def orthogonalized(matrices: Tensor, n_threads: int = 1) -> Tensor:
    """Each of ``matrices [..., n, n]`` (float32, CPU) with its singular vectors kept and its singular values brought near to 1;
    less near those below a hundredth of its norm."""
    flat = matrices.detach().contiguous().reshape(-1, *matrices.shape[-2:]).numpy()
    out = np.empty_like(flat)
    a, b, c = (np.float32(v) for v in _COEFFICIENTS)
    spread(lambda k: _orthogonalize(flat[k], out[k], _STEPS, a, b, c), range(len(flat)), n_threads)
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
