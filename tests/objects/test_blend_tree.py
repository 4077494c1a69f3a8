"""Weights of cells that fade into each other."""

import numpy as np
import pytest
import torch

from objects.blend_tree import BlendTree

RNG = np.random.default_rng(0)
POINTS = RNG.uniform(-1, 1, (4000, 3))


def _tree(n_leaves, load=None, blend=0.05):
    tree = BlendTree(n_leaves).double()
    tree.split(POINTS, np.ones(len(POINTS)) if load is None else load, blend)
    return tree


@pytest.mark.parametrize("n_leaves", [1, 2, 5, 8, 14])
def test_weights_are_a_partition_of_unity_and_mostly_of_one_leaf(n_leaves):
    weight = _tree(n_leaves)(torch.from_numpy(POINTS))
    assert weight.shape == (len(POINTS), n_leaves) and bool((weight >= 0).all())
    torch.testing.assert_close(weight.sum(1), torch.ones(len(POINTS)).double(), rtol=0, atol=1e-12)
    assert float((weight > 0).double().sum(1).mean()) < 1 + 0.15 * np.log2(max(n_leaves, 2))


@pytest.mark.parametrize("n_leaves", [3, 8, 14])
def test_leaves_share_the_load_equally(n_leaves):
    load = np.where(POINTS[:, 0] > 0.5, 10.0, 1.0)
    share = (torch.from_numpy(load)[:, None] * _tree(n_leaves, load)(torch.from_numpy(POINTS))).sum(0) / load.sum()
    assert float((share * n_leaves - 1).abs().max()) < 0.1


def test_weights_and_their_gradients_are_continuous():
    tree = _tree(8)
    line = torch.linspace(-1, 1, 20_001, dtype=torch.float64)[:, None] * torch.tensor([[0.9, 0.5, -0.7]]).double()
    line.requires_grad_()
    weight = tree(line)
    step = float((line[1] - line[0]).detach().norm())
    assert float(weight.detach().diff(dim=0).abs().max()) < 40 * step  # at most 3/4 over each blend
    for k in range(8):
        (slope,) = torch.autograd.grad(weight[:, k].sum(), line, retain_graph=True)
        assert float(slope.diff(dim=0).norm(dim=1).max()) < 4000 * step  # a jump would be about 15


def test_nodes_without_points_are_no_trouble():
    tree = BlendTree(6)
    tree.split(np.zeros((1, 3)), np.ones(1), 0.1)
    assert torch.isfinite(tree(torch.zeros(1, 3))).all()
