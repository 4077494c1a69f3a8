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
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from compose.cpu import siren_kernel
from objects.field import FEATURE, TINT, Field, FieldSample, channel_widths, structure

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
        self.channels = channel_widths(self.fields)
        self._grids: dict[str, np.ndarray] = {}  # by name, which assets have it
        members: dict[str, list[int]] = {}
        for i, field in enumerate(self.fields):
            members.setdefault(_group_key(field), []).append(i)
        self.groups = []
        for assets in members.values():
            slot = torch.full((len(self.fields),), -1, dtype=torch.int64)
            slot[assets] = torch.arange(len(assets))
            chosen = [self.fields[i] for i in assets]
            states = [dict(f.named_parameters()) | dict(f.named_buffers()) for f in chosen]
            self.groups.append(_Group(chosen, slot, states))

    def sdf(
        self,
        asset: Int[Tensor, "n"],
        p_obj: Float[Tensor, "n 3"],
        time: Float[Tensor, "n"] | None = None,
        *,
        fused: bool = True,
    ) -> Tensor:
        """Signed distance ``[n]`` (object units, float64) of each pair; differentiable.

        Where no gradient is asked, SIRENs go through the fused kernel unless ``fused`` is false.
        """

        def run(field: Field, p: Tensor, t: Tensor | None) -> dict[str, Tensor]:
            return {"sdf": field.sdf(p, t)}

        return self._evaluate(asset, p_obj, time, run, {}, fused=fused)["sdf"]

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
        """Full sample of each pair (float64), channels padded with zeros to the widest of their name; differentiable."""

        def run(field: Field, p: Tensor, t: Tensor | None) -> dict[str, Tensor]:
            sample = field(p, t)
            return {"sdf": sample.sdf, "rgb": sample.rgb, FEATURE: sample.feature, **sample.more}

        return _sample_of(self._evaluate(asset, p_obj, time, run, {"rgb": 3, FEATURE: 0} | self.channels))

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
        n = len(number)
        out = {name: np.zeros((n, width)) for name, width in ({FEATURE: 0} | self.channels).items()}
        out |= {"sdf": np.zeros(n), "rgb": np.zeros((n, 3)), "slope": np.zeros((n, 3))}
        out["sdf"][rows], out["slope"][rows], out["rgb"][rows] = sdf, slope, 1 / (1 + np.exp(-look[:, :3]))
        self._take_channels(number[rows], rows, look, out)
        rest = np.flatnonzero(~fused)
        if len(rest):
            q = p_obj[rest].requires_grad_(geometry)
            with torch.set_grad_enabled(geometry):
                sample, slope = self.sample(asset[rest], q, time[rest]), torch.zeros_like(q)
                if sample.sdf.requires_grad:
                    (slope,) = torch.autograd.grad(sample.sdf.sum(), q)
                if not geometry:
                    sample = sample._replace(sdf=torch.zeros_like(sample.sdf))
            parts = {"sdf": sample.sdf, "rgb": sample.rgb, "slope": slope, FEATURE: sample.feature, **sample.more}
            for name, part in parts.items():
                out[name][rest] = part.detach().numpy()
        found = {name: torch.from_numpy(values) for name, values in out.items()}
        slope = found.pop("slope")
        return _sample_of(found), slope

    @cached_property
    def directional(self) -> Bool[np.ndarray, "a"]:
        """Whether the colours of each asset depend on the direction of view (`FieldSample.rgb_along`)."""
        return np.array([TINT in field.channels for field in self.fields], dtype=bool)

    def has_grid(self, name: str) -> Bool[np.ndarray, "a"]:
        """Whether each asset has a grid of this name (`Field.grids`)."""
        if name not in self._grids:
            self._grids[name] = np.array([name in field.grids for field in self.fields], dtype=bool)
        return self._grids[name]

    def grid_values(
        self, name: str, asset: Int[np.ndarray, "n"], p_obj: Float[np.ndarray, "n 3"]
    ) -> Float[np.ndarray, "n"]:
        """What the grid of this name, which each asset has, holds in the cell of each point."""
        found = np.empty(len(asset), np.float32)
        for a in np.unique(asset):
            rows, grid = np.flatnonzero(asset == a), self.fields[a].grids[name].detach().numpy()
            cell = (p_obj[rows] - self.box_lo[a]) / (self.box_hi[a] - self.box_lo[a]) * grid.shape
            x, y, z = np.clip(cell.astype(np.int64), 0, np.array(grid.shape) - 1).T
            found[rows] = grid[x, y, z]
        return found

    @cached_property
    def _layouts(self) -> tuple[list[dict[str, int]], Int[np.ndarray, "a"]]:
        """The different sets of channels, and which one each asset has."""
        known: dict[tuple, int] = {}
        number = [known.setdefault(tuple(field.channels.items()), len(known)) for field in self.fields]
        return [dict(key) for key in known], np.array(number, dtype=np.int64)

    def _take_channels(
        self, number: np.ndarray, rows: np.ndarray, look: np.ndarray, out: dict[str, np.ndarray]
    ) -> None:
        """Writes what the colour network of assets ``number [k]`` says beyond colour to ``rows [k]`` of the channels."""
        layouts, which = self._layouts
        for k, channels in enumerate(layouts):
            mine, at = np.flatnonzero(which[number] == k) if channels else rows[:0], 3
            if len(mine) == 0:
                continue
            for name, width in channels.items():
                out[name][rows[mine], :width] = look[mine, at : at + width]
                at += width

    def _evaluate(
        self,
        asset: Tensor,
        p_obj: Tensor,
        time: Tensor | None,
        run: Callable[[Field, Tensor, Tensor | None], dict[str, Tensor]],
        widths: dict[str, int],
        *,
        fused: bool = False,
    ) -> dict[str, Tensor]:
        n = len(asset)
        outs = {name: p_obj.new_zeros((n, width), dtype=torch.float64) for name, width in widths.items()}
        outs["sdf"] = p_obj.new_zeros(n, dtype=torch.float64)
        for group in self.groups:
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
                outs["sdf"][rows] = torch.from_numpy(
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
                for name, value in got.items():
                    value = value.to(torch.float64)
                    if value.dim() == 2 and value.shape[1] < outs[name].shape[1]:
                        value = torch.nn.functional.pad(value, (0, outs[name].shape[1] - value.shape[1]))
                    outs[name] = outs[name].index_put((part,), value)
        return outs


def _sample_of(values: dict[str, Tensor]) -> FieldSample:
    """A sample of its parts by name."""
    return FieldSample(values.pop("sdf"), values.pop("rgb"), values.pop(FEATURE), values)


def _run_blocks(group: _Group, slot: Tensor, p: Tensor, t: Tensor | None, run: Callable) -> dict[str, Tensor]:
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

    def one_block(state: dict[str, Tensor], points: Tensor, times: Tensor | None) -> dict[str, Tensor]:
        return torch.func.functional_call(module, {f"field.{k}": v for k, v in state.items()}, (points, times))

    if t is None:
        got = torch.func.vmap(one_block, in_dims=(0, 0, None))(block_state, padded, None)
    else:
        times = t.new_zeros(total).index_put((place,), t).view(-1, _BLOCK)
        got = torch.func.vmap(one_block)(block_state, padded, times)
    return {name: value.flatten(0, 1)[place] for name, value in got.items()}


class _Call(nn.Module):
    """Lets `functional_call` reach any function of a field."""

    def __init__(self, field: Field, run: Callable) -> None:
        super().__init__()
        self.field, self.run = field, run

    def forward(self, p: Tensor, t: Tensor | None) -> dict[str, Tensor]:
        return self.run(self.field, p, t)


def _group_key(field: Field) -> str:
    """Equal for fields that one batched call can evaluate together."""
    tensors = {k: [list(v.shape), str(v.dtype)] for k, v in field.state_dict().items()}
    # A class that names no make-up of its own stays alone.
    identity = None if "kind" in vars(type(field)) else id(field)
    return json.dumps([type(field).__qualname__, structure(field), tensors, identity], sort_keys=True)
