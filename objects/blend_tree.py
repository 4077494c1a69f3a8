"""Space split into cells that fade into each other: a binary tree of planes, whose leaves have weights that sum to 1.

Near each plane the weight moves from one side to the other along a cubic, so that what is blended by the weights (a partition of
unity: Melenk, Babuska 1996) has continuous values and gradients. Away from all planes one leaf has the weight 1.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn


class BlendTree(nn.Module):
    """A tree in heap order: node ``i`` splits into ``2 i + 1`` (before its plane) and ``2 i + 2``; nodes from ``n_leaves - 1`` on
    are leaves.

    Attributes:
        normal, offset: Plane ``normal . x = offset`` of each inner node.
        blend: Distance from its plane at which a node is wholly on one side.
    """

    normal: Tensor
    offset: Tensor
    blend: Tensor

    def __init__(self, n_leaves: int) -> None:
        super().__init__()
        n = n_leaves - 1
        self.register_buffer("normal", torch.eye(3)[torch.arange(n) % 3])
        self.register_buffer("offset", torch.zeros(n))
        self.register_buffer("blend", torch.ones(n))

    def forward(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n k"]:
        """The weight of each leaf at points."""
        t = (0.5 - (x @ self.normal.T - self.offset) / (2 * self.blend)).clamp(0, 1)
        before = t * t * (3 - 2 * t)
        n = len(self.offset)
        weight = [torch.ones_like(x[..., 0])]
        for i in range(n):
            weight += [weight[i] * before[..., i], weight[i] * (1 - before[..., i])]
        return torch.stack(weight[n:], -1)

    def split(self, x: Float[np.ndarray, "n 3"], load: Float[np.ndarray, "n"], blend: float) -> None:
        """Places the planes, across the longest axis of what each node holds, so that every leaf gets the same share of the
        ``load`` of points."""
        n = len(self.offset)
        leaves = np.ones(2 * n + 1)
        for i in reversed(range(n)):
            leaves[i] = leaves[2 * i + 1] + leaves[2 * i + 2]
        held = [np.arange(len(x))]
        with torch.no_grad():
            self.blend.fill_(blend)
            for i in range(n):
                some = held[i] if len(held[i]) else np.arange(len(x))
                axis = int(np.argmax(np.ptp(np.percentile(x[some], (2, 98), axis=0), axis=0)))
                order = some[np.argsort(x[some, axis], kind="stable")]
                share = np.cumsum(load[order])
                at = min(int(np.searchsorted(share, share[-1] * leaves[2 * i + 1] / leaves[i])), len(order) - 1)
                held += [order[:at], order[at:]]
                self.normal[i] = torch.eye(3)[axis]
                self.offset[i] = float(x[order[at], axis])
