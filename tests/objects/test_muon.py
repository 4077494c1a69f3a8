"""Muon of stacked matrices against torch's, which takes one after the other."""

import torch

from objects.muon import Muon, orthogonalized


def test_stacked_matrices_take_the_steps_of_torch():
    start, gradients = 0.1 * torch.randn(4, 24, 24), torch.randn(6, 4, 24, 24)
    stacked = start.clone().requires_grad_()
    alone = [matrix.clone().requires_grad_() for matrix in start]
    ours = Muon([stacked], lr=0.01, momentum=0.9)
    theirs = torch.optim.Muon(alone, lr=0.01, momentum=0.9, weight_decay=0.0, nesterov=True)
    for gradient in gradients:
        stacked.grad = gradient.clone()
        for matrix, g in zip(alone, gradient, strict=True):
            matrix.grad = g.clone()
        ours.step()
        theirs.step()
    moved = torch.stack([m.detach() for m in alone]) - start
    # torch multiplies in bfloat16, eight bits
    assert (stacked.detach() - start - moved).norm() < 0.02 * moved.norm()


def test_singular_values_come_near_to_1_and_singular_vectors_stay():
    u, _, vt = torch.linalg.svd(torch.randn(40, 40))
    found = orthogonalized(u @ torch.diag(torch.linspace(0.2, 3.0, 40)) @ vt)
    rest = u.T @ found @ vt.T
    assert (rest - torch.diag(rest.diagonal())).abs().max() < 1e-4
    assert rest.diagonal().min() > 0.6
    assert rest.diagonal().max() < 1.3


def test_a_matrix_gets_the_same_bits_alone_and_among_others():
    matrices = torch.randn(5, 72, 72)
    among = orthogonalized(matrices, n_threads=2)
    assert all(torch.equal(orthogonalized(m), a) for m, a in zip(matrices, among, strict=True))
