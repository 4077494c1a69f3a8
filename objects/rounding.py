"""Weights rounded so that files hold them in one byte each: whole multiples, -127 to 127, of a number of their slice's own."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_MOST = 127
_KEPT = 0xFFFFFF00  # bits of a float32 that leave room for seven more: products with a byte are exact


def rounded(weights: Float[Tensor, "k *n"]) -> Float[Tensor, "k *n"]:
    """The nearest float32 tensor that `as_bytes` takes."""
    w = weights.detach().numpy()
    scale = (_largest(w) / np.float32(_MOST)).view(np.uint32) & np.uint32(_KEPT)
    scale = np.maximum(scale.view(np.float32), np.finfo(np.float32).tiny)
    return torch.from_numpy(np.clip(np.rint(w / scale), -_MOST, _MOST) * scale + np.float32(0))  # no -0


def as_bytes(weights: np.ndarray) -> tuple[Int[np.ndarray, "k *n"], Float[np.ndarray, "k"]] | None:
    """Whole numbers and one factor for each slice along the first axis, whose products are ``weights`` (float32) bit for bit; None
    where there are none."""
    largest = _largest(weights)
    scale = np.where(largest > 0, largest / np.float32(_MOST), np.float32(1))
    whole, scale = np.rint(weights / scale).astype(np.int8), scale.reshape(-1)
    same = np.array_equal(from_bytes(whole, scale).view(np.uint32), weights.view(np.uint32))
    return (whole, scale) if same else None


def from_bytes(whole: Int[np.ndarray, "k *n"], scale: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k *n"]:
    """The float32 weights of which `as_bytes` gave the parts."""
    with np.errstate(over="ignore", invalid="ignore"):  # of damaged files
        return whole.astype(np.float32) * scale.reshape(-1, *[1] * (whole.ndim - 1))


def _largest(weights: np.ndarray) -> np.ndarray:
    return np.abs(weights).max(axis=tuple(range(1, weights.ndim)), keepdims=True)
