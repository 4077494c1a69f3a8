"""Networks that are seen through warps: the warp runs in torch, the canonical network in the fused kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from compose.cpu import siren_kernel
from objects.field import TINT, Field
from objects.node_warp import NodeWarp
from objects.warped import Warped

# What `Warp.reached` says of points in the box: float64, with a graph where gradients are on.
Reached = Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 4"]]


@dataclass(frozen=True)
class Bent:
    """Of a table of ``a`` assets those that are `Warped` SIRENs.

    Args:
        nets: The packed canonical networks.
        stretch: ``[a]``.
        box_lo, box_hi: ``[a, 3]``, object frame.
        inner_lo, inner_hi: ``[a, 3]``, boxes of the canonical fields.
        by_nodes: ``[a]`` bool, which are seen through a `NodeWarp` that is searched by the compiled kernel.
    """

    nets: siren_kernel.Nets
    stretch: np.ndarray
    box_lo: np.ndarray
    box_hi: np.ndarray
    inner_lo: np.ndarray
    inner_hi: np.ndarray
    by_nodes: np.ndarray

    @staticmethod
    def of(fields: Sequence[Field], box_lo: np.ndarray, box_hi: np.ndarray) -> Bent:
        """From all fields of the table and their boxes."""
        found: dict[int, tuple[Field, float]] = {}
        n = len(fields)
        by_nodes = np.zeros(n, dtype=bool)
        for k, field in enumerate(fields):
            if isinstance(field, Warped) and siren_kernel.serves(field.field) and TINT not in field.field.channels:
                found[k] = field.field, float(field.stretch)
                by_nodes[k] = isinstance(field.warp, NodeWarp) and field.warp.compiles
        packed, rows = siren_kernel.pack([field for field, _ in found.values()]), list(found)
        at, shape = np.full(n, -1, dtype=np.int64), np.zeros((n, packed.shape.shape[1]), dtype=np.int64)
        stretch, lo, hi = np.ones(n), np.zeros((n, 3)), np.zeros((n, 3))
        at[rows], shape[rows] = packed.at, packed.shape
        for k, (field, length) in found.items():
            stretch[k] = length
            lo[k], hi[k] = field.box_lo.detach().double().numpy(), field.box_hi.detach().double().numpy()
        return Bent(siren_kernel.Nets(packed.weights, at, shape), stretch, box_lo, box_hi, lo, hi, by_nodes)

    def serves(self, asset: Int[np.ndarray, "n"]) -> np.ndarray:
        """Which of these assets are such networks, ``[n]`` bool."""
        return self.nets.at[asset] >= 0

    @torch.no_grad()
    def sdf(
        self, asset: Int[np.ndarray, "n"], p_obj: Float[np.ndarray, "n 3"], reached: Reached
    ) -> Float[np.ndarray, "n"]:
        """Distances (object units, float64) of pairs that are sorted by asset."""
        q = np.clip(p_obj, self.box_lo[asset], self.box_hi[asset])
        c = reached(torch.from_numpy(q)).numpy()
        sdf = siren_kernel.siren_sdf(self.nets, asset, np.ascontiguousarray(c[:, :3])) / self.stretch[asset]
        sdf += np.where(sdf < 0, -c[:, 3], c[:, 3])
        gap2 = np.square(p_obj - q).sum(1)
        return np.where(gap2 > 0, np.sqrt(gap2 + np.square(np.maximum(sdf, 0))), sdf)

    def surface(
        self, asset: Int[np.ndarray, "n"], p_obj: Float[Tensor, "n 3"], reached: Reached, geometry: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of pairs that are sorted by asset: distance ``[n]``, its gradient ``[n, 3]`` (object frame), what the colour networks say
        ``[n, c]``, and which rows hold. Without ``geometry`` distance and gradient are zeros; where they are wanted, rows whose
        canonical points are beyond the box of their network, or not all of the way, don't hold."""
        p = p_obj.detach().clone().requires_grad_(geometry)
        with torch.set_grad_enabled(geometry):
            c, beyond = reached(p).split((3, 1), 1)
        points = np.ascontiguousarray(c.detach().numpy())
        sdf, slope, look = siren_kernel.siren_surface(self.nets, asset, points, distance=geometry, gradient=geometry)
        holds: np.ndarray = beyond.detach().numpy()[:, 0] == 0
        if geometry:
            holds &= np.all((points >= self.inner_lo[asset]) & (points <= self.inner_hi[asset]), axis=1)
            (back,) = torch.autograd.grad(c, p, torch.from_numpy(slope).to(c.dtype))
            slope = back.numpy() / self.stretch[asset, None]
        return sdf / self.stretch[asset], slope, look, holds
