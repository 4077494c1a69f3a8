"""Many fields asked at once: packed (asset, point) pairs, one batched call per network shape.

Pairs are sorted by asset and cut into blocks of equal size; fields of equal structure have their tensors stacked, and
`torch.func.vmap` runs one functional call over all blocks of such a group. So a scene of a thousand SIRENs of one shape
costs one batched matrix product per layer, whatever the fields are made of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from compose.cpu import siren_kernel
from objects.field import Field, FieldSample, structure

_BLOCK = 64  # points of one asset in one row of the batched call
_CHUNK = 1 << 17  # points in one batched call: bounds the memory


@dataclass(frozen=True, eq=False)
class _Group:
    """Fields of equal make-up. ``slot`` maps an asset to its row in the stacked tensors, -1 for assets of other groups."""

    fields: list[Field]
    slot: Tensor
    states: list[dict[str, Tensor]]

    @property
    def dtype(self) -> torch.dtype:
        return self.fields[0].box_lo.dtype

    @cached_property
    def stacked(self) -> dict[str, Tensor]:
        """The tensors of all fields along a new first axis, as they were when first asked for."""
        with torch.no_grad():
            return {name: torch.stack([s[name].detach() for s in self.states]) for name in self.states[0]}

    @property
    def wants_graph(self) -> bool:
        return torch.is_grad_enabled() and any(v.requires_grad for s in self.states for v in s.values())


class FieldBatch:
    """A table of fields ("assets"), evaluated at packed pairs.

    Without gradients, weights are taken as they were at the first call.

    Args:
        fields: The assets; a pair names one by its position here.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        empty = np.zeros((0, 3))
        self.box_lo = np.stack([f.box_lo.detach().double().numpy() for f in self.fields]) if self.fields else empty
        self.box_hi = np.stack([f.box_hi.detach().double().numpy() for f in self.fields]) if self.fields else empty
        self.feature_width = max((f.feature_width for f in self.fields), default=0)
        members: dict[str, list[int]] = {}
        for i, field in enumerate(self.fields):
            members.setdefault(_group_key(field), []).append(i)
        self._groups = []
        for assets in members.values():
            slot = torch.full((len(self.fields),), -1, dtype=torch.int64)
            slot[assets] = torch.arange(len(assets))
            chosen = [self.fields[i] for i in assets]
            states = [dict(f.named_parameters()) | dict(f.named_buffers()) for f in chosen]
            self._groups.append(_Group(chosen, slot, states))

    def sdf(
        self, asset: Int[Tensor, "n"], p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"] | None = None
    ) -> Tensor:
        """Signed distance ``[n]`` (object units, float64) of each pair; differentiable.

        Where no gradient is asked, SIRENs go through the fused kernel.
        """

        def run(field: Field, p: Tensor, t: Tensor | None) -> tuple[Tensor, ...]:
            return (field.sdf(p, t),)

        return self._evaluate(asset, p_obj, time, run, (None,), fused=True)[0]

    @cached_property
    def nets(self) -> siren_kernel.Nets:
        """The networks that the fused kernel serves."""
        return siren_kernel.pack(self.fields)

    @torch.no_grad()
    def sdf_sorted(
        self, asset: Int[np.ndarray, "n"], p_obj: Float[np.ndarray, "n 3"], time: Float[np.ndarray, "n"]
    ) -> Float[np.ndarray, "n"]:
        """As `sdf`, for pairs that are sorted by asset already; float64, no gradients."""
        fused = self.nets.at[asset] >= 0
        if fused.all():
            return siren_kernel.siren_sdf(self.nets, asset, p_obj).astype(np.float64)
        out = np.empty(len(asset))
        out[fused] = siren_kernel.siren_sdf(self.nets, asset[fused], p_obj[fused])
        others = (torch.from_numpy(values[~fused]) for values in (asset, p_obj, time))
        out[~fused] = self.sdf(*others).numpy()
        return out

    def sample(
        self, asset: Int[Tensor, "n"], p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"] | None = None
    ) -> FieldSample:
        """Full sample of each pair (float64), features padded with zeros to the widest; differentiable."""

        def run(field: Field, p: Tensor, t: Tensor | None) -> tuple[Tensor, ...]:
            return tuple(field(p, t))

        return FieldSample(*self._evaluate(asset, p_obj, time, run, (None, 3, self.feature_width)))

    @torch.no_grad()
    def surface(
        self, asset: Int[Tensor, "n"], p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"], *, geometry: bool
    ) -> tuple[FieldSample, Float[Tensor, "n 3"]]:
        """Full sample of each pair as `sample` gives it, without a graph, and the gradient of the distance in the object
        frame, float64; without ``geometry`` distance and gradient are zeros. SIRENs in their boxes go through the fused kernel."""
        number, p = asset.numpy(), p_obj.numpy()
        fused = self.nets.at[number] >= 0
        if geometry:  # beyond the box the gradient isn't the network's
            fused &= ((p >= self.box_lo[number]) & (p <= self.box_hi[number])).all(1)
        rows = np.flatnonzero(fused)
        small = np.min_scalar_type(len(self.fields))  # numbers of two bytes are sorted faster
        rows = rows[np.argsort(number[rows].astype(small), kind="stable")]
        sdf, slope, look = siren_kernel.siren_surface(
            self.nets, number[rows], p[rows], distance=geometry, gradient=geometry
        )
        n, width = len(number), self.feature_width
        out = [np.zeros(n), np.zeros((n, 3)), np.zeros((n, width)), np.zeros((n, 3))]
        rgb, feature = 1 / (1 + np.exp(-look[:, :3])), look[:, 3 : 3 + width]
        for whole, part in zip(
            out, (sdf, rgb, np.pad(feature, ((0, 0), (0, width - feature.shape[1]))), slope), strict=True
        ):
            whole[rows] = part
        rest = np.flatnonzero(~fused)
        if len(rest):
            q = p_obj[rest].requires_grad_(geometry)
            with torch.set_grad_enabled(geometry):
                sample, slope = self.sample(asset[rest], q, time[rest]), torch.zeros_like(q)
                if sample.sdf.requires_grad:
                    (slope,) = torch.autograd.grad(sample.sdf.sum(), q)
                if not geometry:
                    sample = sample._replace(sdf=torch.zeros_like(sample.sdf))
            for whole, part in zip(out, (*sample, slope), strict=True):
                whole[rest] = part.detach().numpy()
        sdf, rgb, feature, slope = map(torch.from_numpy, out)
        return FieldSample(sdf, rgb, feature), slope

    def _evaluate(
        self,
        asset: Tensor,
        p_obj: Tensor,
        time: Tensor | None,
        run: Callable[[Field, Tensor, Tensor | None], tuple[Tensor, ...]],
        widths: tuple[int | None, ...],
        *,
        fused: bool = False,
    ) -> tuple[Tensor, ...]:
        n = len(asset)
        outs = [p_obj.new_zeros((n,) if w is None else (n, w), dtype=torch.float64) for w in widths]
        for group in self._groups:
            slot = group.slot[asset]
            rows = (slot >= 0).nonzero()[:, 0]
            if len(rows) == 0:
                continue
            # Sorted by asset and, within, by the place in the input: the same pairs always meet in the same order.
            slot, order = slot[rows].sort(stable=True)
            rows = rows[order]
            graph = group.wants_graph or (torch.is_grad_enabled() and p_obj.requires_grad)
            if fused and not graph and siren_kernel.serves(group.fields[0]):
                points = p_obj[rows].detach().double().numpy()
                outs[0][rows] = torch.from_numpy(
                    siren_kernel.siren_sdf(self.nets, asset[rows].numpy(), points)
                ).double()
                continue
            for lo in range(0, len(rows), _CHUNK):
                part = rows[lo : lo + _CHUNK]
                p = p_obj[part].to(group.dtype)
                t = None if time is None else time[part].to(group.dtype)
                if len(group.fields) == 1:
                    got = run(group.fields[0], p, t)
                else:
                    got = _run_blocks(group, slot[lo : lo + _CHUNK], p, t, run)
                for k, value in enumerate(got):
                    value = value.to(torch.float64)
                    if value.dim() == 2 and value.shape[1] < outs[k].shape[1]:
                        value = torch.nn.functional.pad(value, (0, outs[k].shape[1] - value.shape[1]))
                    outs[k] = outs[k].index_put((part,), value)
        return tuple(outs)


def _run_blocks(group: _Group, slot: Tensor, p: Tensor, t: Tensor | None, run: Callable) -> tuple[Tensor, ...]:
    """One vmapped call over blocks of ``_BLOCK`` points of one asset each; ``slot`` is sorted."""
    stacked = group.stacked
    if group.wants_graph:
        stacked = {name: torch.stack([s[name] for s in group.states]) for name in stacked}
    present, counts = slot.unique_consecutive(return_counts=True)
    n_blocks = (counts + _BLOCK - 1) // _BLOCK
    block_slot = present.repeat_interleave(n_blocks)
    first_block = n_blocks.cumsum(0) - n_blocks
    within = torch.arange(len(slot)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    place = first_block.repeat_interleave(counts) * _BLOCK + within  # where each pair goes in the padded blocks
    total = int(n_blocks.sum()) * _BLOCK
    # Padding repeats the block's box centre, a point at which every field is defined.
    centre = 0.5 * (stacked["box_lo"] + stacked["box_hi"])
    padded = centre[block_slot].detach().repeat_interleave(_BLOCK, 0).index_put((place,), p).view(-1, _BLOCK, 3)
    block_state = {name: value[block_slot] for name, value in stacked.items()}
    module = _Call(group.fields[0], run)

    def one_block(state: dict[str, Tensor], points: Tensor, times: Tensor | None) -> tuple[Tensor, ...]:
        return torch.func.functional_call(module, {f"field.{k}": v for k, v in state.items()}, (points, times))

    if t is None:
        got = torch.func.vmap(one_block, in_dims=(0, 0, None))(block_state, padded, None)
    else:
        times = t.new_zeros(total).index_put((place,), t).view(-1, _BLOCK)
        got = torch.func.vmap(one_block)(block_state, padded, times)
    return tuple(value.flatten(0, 1)[place] for value in got)


class _Call(nn.Module):
    """Lets `functional_call` reach any function of a field."""

    def __init__(self, field: Field, run: Callable) -> None:
        super().__init__()
        self.field, self.run = field, run

    def forward(self, p: Tensor, t: Tensor | None) -> tuple[Tensor, ...]:
        return self.run(self.field, p, t)


def _group_key(field: Field) -> str:
    """Equal for fields that one batched call can evaluate together."""
    tensors = {k: [list(v.shape), str(v.dtype)] for k, v in field.state_dict().items()}
    # A class that names no make-up of its own stays alone.
    identity = None if "kind" in vars(type(field)) else id(field)
    return json.dumps([type(field).__qualname__, structure(field), tensors, identity], sort_keys=True)
