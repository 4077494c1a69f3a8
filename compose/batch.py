"""Many fields asked at once: packed (asset, point) pairs, one batched call per network shape.

Pairs are sorted by asset and cut into blocks of equal size; fields of equal structure have their tensors stacked, and
`torch.func.vmap` runs one functional call over all blocks of such a group. So a scene of a thousand SIRENs of one shape
costs one batched matrix product per layer, whatever the fields are made of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from compose.bent import Bent
from compose.cpu import siren_kernel
from compose.field_cache import versions
from compose.growing import Growing
from objects.field import FEATURE, TINT, Field, FieldSample, channel_widths, structure
from objects.warp import Warp
from objects.warped import Warped

_BLOCK = 64  # points of one asset in one row of the batched call
_FEW = 8  # warps that are run one after another and not as one batch
_CHUNK = 1 << 17  # points in one batched call: bounds the memory


@dataclass(frozen=True, eq=False)
class _Group:
    """Fields of equal make-up and their tensors."""

    fields: list[Field]
    states: list[dict[str, Tensor]]

    @property
    def dtype(self) -> torch.dtype:
        return self.fields[0].box_lo.dtype

    @cached_property
    def stacked(self) -> dict[str, Tensor]:
        """The tensors of all fields along a new first axis, as they were when first asked for."""
        with torch.no_grad():
            return {name: torch.stack([s[name].detach() for s in self.states]) for name in self.states[0]}

    def wants_graph(self, slot: Tensor) -> bool:
        """Whether any of the fields ``slot [n]`` has weights that ask for gradients."""
        if not torch.is_grad_enabled():
            return False
        return any(v.requires_grad for k in slot.unique().tolist() for v in self.states[k].values())


class FieldBatch:
    """A table of fields ("assets"), evaluated at packed pairs.

    Without gradients, weights are taken as they were at the first call.

    Args:
        fields: The assets; a pair names one by its position here.
        like: A batch whose assets come first; what is known of them is shared.
    """

    def __init__(self, fields: Sequence[Field], like: FieldBatch | None = None) -> None:
        empty = np.zeros((0, 3))
        before, lo, hi = ((), empty, empty) if like is None else (like.fields, like.box_lo, like.box_hi)
        self.fields = (*before, *fields)
        self.box_lo = np.concatenate([lo, *(f.box_lo.detach().double().numpy()[None] for f in fields)])
        self.box_hi = np.concatenate([hi, *(f.box_hi.detach().double().numpy()[None] for f in fields)])
        self.channels = channel_widths(self.fields)
        self._grids: dict[str, np.ndarray] = {}  # by name, which assets have it
        self._groups: dict[str, _Group] = {} if like is None else like._groups.copy()
        number = {key: k for k, key in enumerate(self._groups)}
        group, slot = [], []
        self._versions = [] if like is None else like._versions.copy()
        for field in fields:
            key = _group_key(field)
            group.append(number.setdefault(key, len(number)))
            known = self._groups.get(key, _Group([], []))
            slot.append(len(known.fields))
            states = dict(field.named_parameters()) | dict(field.named_buffers())
            self._groups[key] = _Group([*known.fields, field], [*known.states, states])
            self._versions.append(versions(states.values()))
        places = torch.tensor([group, slot], dtype=torch.int64)  # of each asset: its group, and its place in that
        self._places = places if like is None else torch.cat([like._places, places], 1)
        self._packed = None if like is None else like._packed

    @property
    def groups(self) -> list[_Group]:
        """Fields that are evaluated in one call."""
        return list(self._groups.values())

    def unchanged(self, asset: int) -> bool:
        """Whether the tensors of an asset are as they were when it came in."""
        number, slot = self._places[:, asset].tolist()
        then, field = self.groups[number].states[slot], self.fields[asset]
        now = dict(field.named_parameters()) | dict(field.named_buffers())
        same = now.keys() == then.keys() and all(now[name] is then[name] for name in now)
        return same and versions(now.values()) == self._versions[asset]

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
        if self._packed is None:
            nets = siren_kernel.pack(self.fields)
            self._packed = nets, Growing(nets.weights)
            return nets
        nets, weights = self._packed
        more = siren_kernel.pack(self.fields[len(nets.at) :])
        first = weights.append(more.weights)
        at = np.where(more.at < 0, -1, more.at + first)
        nets = siren_kernel.Nets(weights.array, np.r_[nets.at, at], np.concatenate([nets.shape, more.shape]))
        self._packed = nets, weights
        return nets

    @cached_property
    def bent(self) -> Bent:
        """The networks that are seen through warps."""
        return Bent.of(self.fields, self.box_lo, self.box_hi)

    def reached(self, asset: Int[Tensor, "n"], p_obj: Float[Tensor, "n 3"], time: Float[Tensor, "n"] | None) -> Tensor:
        """What `Warp.reached` says of points in the frames of warped fields, ``[n, 4]`` (float64); points of others stay."""

        def run(field: Field, p: Tensor, t: Tensor | None) -> dict[str, Tensor]:
            if not isinstance(field, Warped):
                return {"reached": torch.nn.functional.pad(p, (0, 1))}
            return {"reached": torch.cat([c if c.dim() == 2 else c[:, None] for c in field.reached(p, t)], 1)}

        return self._evaluate(asset, p_obj, time, run, {"reached": 4})["reached"]

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
        bent = self.bent.serves(asset)
        if bent.any():
            ask = partial(self._reached_sorted, asset[bent], time=torch.from_numpy(time[bent]))
            out[bent] = self.bent.sdf(asset[bent], p_obj[bent], ask)
        rest = ~(fused | bent)
        if rest.any():
            out[rest] = self.sdf(*(torch.from_numpy(values[rest]) for values in (asset, p_obj, time))).numpy()
        return out

    def _reached_sorted(self, asset: np.ndarray, p_obj: Tensor, time: Tensor) -> Tensor:
        """As `reached`, for warped fields alone, sorted by asset: a few of them one after another, for fewer steps."""
        ends = [*(np.flatnonzero(np.diff(asset)) + 1).tolist(), len(asset)]
        if len(ends) > _FEW:
            return self.reached(torch.from_numpy(asset), p_obj, time)
        found, start = p_obj.new_empty(len(p_obj), 4), 0
        for end in ends:
            field = cast(Warped, self.fields[asset[start]])
            dtype = field.box_lo.dtype
            points, beyond = field.reached(p_obj[start:end].to(dtype), time[start:end].to(dtype))
            found[start:end, :3], found[start:end, 3] = points, beyond
            start = end
        return found

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
        n = len(number)
        out = {name: np.zeros((n, width)) for name, width in ({FEATURE: 0} | self.channels).items()}
        out |= {"sdf": np.zeros(n), "rgb": np.zeros((n, 3)), "slope": np.zeros((n, 3))}

        def take(rows: np.ndarray, sdf: np.ndarray, slope: np.ndarray, look: np.ndarray) -> None:
            out["sdf"][rows], out["slope"][rows], out["rgb"][rows] = sdf, slope, 1 / (1 + np.exp(-look[:, :3]))
            self._take_channels(number[rows], rows, look, out)

        rows = self._by_asset(number, fused)
        take(
            rows,
            *siren_kernel.siren_surface(self.nets, number[rows], p[rows], distance=geometry, gradient=geometry),
        )
        bent = self._by_asset(
            number, self.bent.serves(number) & ((p >= self.box_lo[number]) & (p <= self.box_hi[number])).all(1)
        )
        if len(bent):
            ask = partial(self.reached, asset[bent], time=time[bent])
            *found, holds = self.bent.surface(number[bent], p_obj[bent], ask, geometry)
            take(bent[holds], *(values[holds] for values in found))
            fused[bent[holds]] = True
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

    def _by_asset(self, number: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """The chosen rows, sorted by asset."""
        rows = np.flatnonzero(chosen)
        small = np.min_scalar_type(len(self.fields))  # numbers of two bytes are sorted faster
        return rows[np.argsort(number[rows].astype(small), kind="stable")]

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
        self, name: str, asset: Int[np.ndarray, "n"], p_obj: Float[np.ndarray, "n 3"], time: Float[np.ndarray, "n"]
    ) -> Float[np.ndarray, "n"]:
        """What the grid of this name, which each asset has, holds in the cell of each point (of what bends: canonical point)."""
        if any(isinstance(self.fields[a], Warped) for a in np.unique(asset)):
            p_obj = self.reached(*map(torch.from_numpy, (asset, p_obj, time)))[:, :3].detach().numpy()
        found = np.empty(len(asset), np.float32)
        for a in np.unique(asset):
            field = self.fields[a]
            rows, grid = np.flatnonzero(asset == a), field.grids[name].detach().numpy()
            base = field.field if isinstance(field, Warped) else field
            lo, hi = base.box_lo.detach().double().numpy(), base.box_hi.detach().double().numpy()
            cell = (p_obj[rows] - lo) / (hi - lo) * grid.shape
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
        which, slots = self._places[:, asset]
        for number, group in enumerate(self.groups):
            rows = (which == number).nonzero()[:, 0]
            if len(rows) == 0:
                continue
            # Sorted by asset and, within, by the place in the input: the same pairs always meet in the same order.
            slot, order = slots[rows].sort(stable=True)
            rows = rows[order]
            graph = group.wants_graph(slot) or (torch.is_grad_enabled() and p_obj.requires_grad)
            if fused and not graph:
                points, first = p_obj[rows].detach().double().numpy(), asset[rows].numpy()
                if siren_kernel.serves(group.fields[0]):
                    outs["sdf"][rows] = torch.from_numpy(siren_kernel.siren_sdf(self.nets, first, points)).double()
                    continue
                if self.bent.serves(first[:1]).all():
                    ask = partial(self.reached, asset[rows], time=None if time is None else time[rows])
                    outs["sdf"][rows] = torch.from_numpy(self.bent.sdf(first, points, ask))
                    continue
            for lo in range(0, len(rows), _CHUNK):
                part = rows[lo : lo + _CHUNK]
                t = None if time is None else time[part]
                for name, value in _run(group, slot[lo : lo + _CHUNK], p_obj[part], t, run).items():
                    value = value.to(torch.float64)
                    if value.dim() == 2 and value.shape[1] < outs[name].shape[1]:
                        value = torch.nn.functional.pad(value, (0, outs[name].shape[1] - value.shape[1]))
                    outs[name] = outs[name].index_put((part,), value)
        return outs


def _run(group: _Group, slot: Tensor, p: Tensor, time: Tensor | None, run: Callable) -> dict[str, Tensor]:
    """One call for pairs of one group, whose ``slot`` is sorted."""
    p, t = p.to(group.dtype), None if time is None else time.to(group.dtype)
    if slot[0] == slot[-1]:
        return run(group.fields[int(slot[0])], p, t)
    return _run_blocks(group, slot, p, t, run)


def _sample_of(values: dict[str, Tensor]) -> FieldSample:
    """A sample of its parts by name."""
    return FieldSample(values.pop("sdf"), values.pop("rgb"), values.pop(FEATURE), more=values)


def _run_blocks(group: _Group, slot: Tensor, p: Tensor, t: Tensor | None, run: Callable) -> dict[str, Tensor]:
    """One vmapped call over blocks of ``_BLOCK`` points of one asset each; ``slot`` is sorted."""
    stacked = group.stacked
    if group.wants_graph(slot):
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
    # A class that names no make-up of its own stays alone, and what torch can't run for many at once.
    alone = any(isinstance(part, Warp) and not (part.kind and part.batched) for part in field.modules())
    identity = None if "kind" in vars(type(field)) and not alone else id(field)
    return json.dumps([type(field).__qualname__, structure(field), tensors, identity], sort_keys=True)
