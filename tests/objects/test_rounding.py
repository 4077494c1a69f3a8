"""Weights that files hold in one byte each."""

import numpy as np
import pytest
import torch

from objects.rounding import as_bytes, from_bytes, rounded


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e20])
def test_rounded_weights_come_back_bit_for_bit_and_are_near(scale):
    w = scale * torch.randn(5, 7, 9, generator=torch.Generator().manual_seed(0))
    near = rounded(w)
    parts = as_bytes(near.numpy())
    assert parts is not None
    assert from_bytes(*parts).tobytes() == near.numpy().tobytes()
    assert torch.equal(rounded(near), near)
    assert bool(((near - w).abs().amax((1, 2)) <= w.abs().amax((1, 2)) / 253).all())


def test_zeros_are_taken_and_other_weights_are_not():
    zeros = as_bytes(rounded(torch.tensor([[0.0, -0.0], [1.0, -1e-9]])).numpy())
    assert zeros is not None and zeros[0].tolist() == [[0, 0], [127, 0]]
    assert as_bytes(np.array([[1.0, 0.3]], np.float32)) is None
    assert as_bytes(np.array([[1.0, -0.0]], np.float32)) is None
