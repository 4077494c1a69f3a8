"""The scene at one time: instances, the index over them, and the questions asked of it.

`Composite` is immutable. What did not change between two of them is shared: fields, weights, cells, the order of the
tree. All routing happens without gradients; what is returned is then computed by the fields themselves, so it can be
differentiated with respect to weights, poses, scales, points and rays.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

import compose.cpu as cpu
from compose.arrays import InstancesView, SceneArrays, ray_arrays
from compose.columns import Columns, checked_ids, has_graph, with_rows
from compose.types import ClosestSample, Hits, Instance, Rays, SceneSample, SurfaceSample
from objects.aabb import Aabb
from objects.field import FEATURE, Field, FieldSample
from objects.pose import SE3


class Composite:
    """A scene at one time, ready to be asked.

    Fields are taken as they are now: after their weights have changed, make a new composite.

    Args:
        instances: Any mix of fields; several instances may share one. The position of an instance here is its ``owner`` number.

    Raises:
        ValueError: Something other than an `Instance`, or an instance farther than 1e9 times its own size from
            the origin, where float64 can't tell its points apart.
    """

    def __init__(self, instances: Sequence[Instance]) -> None:
        self._fill(Columns.of(tuple(instances)), None)

    @staticmethod
    def from_columns(
        names: Sequence[str],
        fields: Sequence[Field],
        T_world_obj: SE3,
        scale: Float[Tensor, "m"],
        *,
        times: Sequence[float | None] | None = None,
        lit: Sequence[bool] | None = None,
        like: Composite | None = None,
    ) -> Composite:
        """The composite of ``m`` instances given column by column, for scenes too large to make them one by one.

        Args:
            names, fields, times, lit: One for each instance; see `Instance`.
            T_world_obj: A batch of ``m`` poses.
            scale: ``[m]``, finite and above 0.
            like: A composite whose weights and cells may be taken over where the fields are the same objects.

        Raises:
            ValueError: Columns of different lengths, or values that `Instance` refuses.
        """
        times = [None] * len(names) if times is None else times
        lit = [True] * len(names) if lit is None else lit
        made = object.__new__(Composite)
        made._fill(Columns(names, fields, T_world_obj, scale, times, lit).checked(), like)
        return made

    def _fill(self, columns: Columns, like: Composite | None) -> None:
        self.arrays = SceneArrays.of(columns, like.arrays if like is not None else None)
        self._scale = columns.scale
        self._poses = columns.poses if has_graph(columns.poses) else self.arrays.poses

    @cached_property
    def instances(self) -> Sequence[Instance]:
        """All instances; ``owner`` numbers count along them. Made when looked at."""
        return InstancesView(self.arrays, self._poses, self._scale)

    def __len__(self) -> int:
        return len(self.arrays.names)

    @property
    def channels(self) -> dict[str, int]:
        """The channels of all fields: the width of the widest by name; narrower ones are padded with zeros."""
        return self.arrays.assets.batch.channels

    @property
    def feature_width(self) -> int:
        """Width of the channel ``feature``."""
        return self.channels.get(FEATURE, 0)

    @property
    def lit(self) -> Bool[Tensor, "m"]:
        """Whether lights act on each instance."""
        return torch.from_numpy(self.arrays.lit)

    @property
    def diagonals(self) -> Float[Tensor, "m"]:
        """Diagonal of each instance's box, metres."""
        return torch.from_numpy(self.arrays.diagonals)

    @property
    def surface_errors(self) -> Float[Tensor, "m"]:
        """How far the surface of each instance may be off where it is asked, metres: for formulas the rounding of float32
        coordinates in its box, for other fields the roughness of what is learned, a share of the box diagonal."""
        transforms, fields = self.arrays.transforms, self.arrays.assets.fields
        farthest = np.maximum(np.abs(transforms.box_lo), np.abs(transforms.box_hi)).max(1, initial=0)
        rough = _ROUGHNESS * np.linalg.norm(transforms.box_hi - transforms.box_lo, axis=1)
        analytic = np.array([field.analytic for field in fields], dtype=bool)
        return torch.from_numpy(transforms.scale * np.where(analytic, _ROUNDING * farthest, rough)[transforms.asset])

    @property
    def bounds(self) -> Aabb | None:
        """World box around the boxes of all instances, None for an empty scene."""
        if len(self) == 0:
            return None
        lo, hi = self.arrays.tree.lo[1].copy(), self.arrays.tree.hi[1].copy()  # of the root
        return Aabb(torch.from_numpy(lo), torch.from_numpy(hi))

    @property
    def size(self) -> float:
        """Diagonal of `bounds` in metres, 0 for an empty scene."""
        return 0.0 if self.bounds is None else self.bounds.diagonal

    def with_poses(
        self,
        ids: Sequence[int] | Int[Tensor, "k"] | Int[np.ndarray, "k"],
        T_world_obj: SE3,
        scale: Float[Tensor, "k"] | None = None,
    ) -> Composite:
        """The same scene with some instances standing elsewhere; this one stays as it is.

        Args:
            ids: Instance numbers, each at most once.
            T_world_obj: Their new poses, batch shape ``[k]``.
            scale: Their new scales, ``[k]``; None leaves them.

        Raises:
            ValueError: An unknown or repeated id, a number of poses or scales other than that of ids, or a scale that is not
                finite and above 0.
        """
        chosen = checked_ids("with_poses: ids", ids, len(self))
        if T_world_obj.translation.shape != (len(chosen), 3) or T_world_obj.quat_wxyz.shape != (len(chosen), 4):
            raise ValueError(
                f"with_poses: T_world_obj must be a batch of {len(chosen)} poses, got {list(T_world_obj.translation.shape[:-1])}"
            )
        moved = object.__new__(Composite)
        moved._scale, scales = self._scale, self.arrays.transforms.scale
        if scale is not None:
            if scale.shape != (len(chosen),) or not (torch.isfinite(scale).all() and (scale > 0).all()):
                raise ValueError(
                    f"with_poses: scale must be {len(chosen)} finite numbers above 0, got {scale.tolist()}"
                )
            moved._scale = with_rows(self._scale, chosen, scale.double())
            scales = moved._scale.detach().numpy()
        moved.arrays = self.arrays.moved(chosen, T_world_obj, scales)
        if not (has_graph(self._poses) or has_graph(T_world_obj)):
            moved._poses = moved.arrays.poses
        else:
            moved._poses = SE3.unchecked(
                with_rows(self._poses.quat_wxyz, chosen, T_world_obj.quat_wxyz.double()),
                with_rows(self._poses.translation, chosen, T_world_obj.translation.double()),
            )
        return moved

    def edited(
        self, removed: Sequence[int] | Int[np.ndarray, "r"] = (), added: Mapping[int, Instance] | None = None
    ) -> Composite:
        """The same scene without some instances and with others; this one stays as it is.

        Costs what the others need, and a copy of the arrays. An instance takes the place of another where its number is both
        removed and added. The result answers as a composite made anew; of fields that this one has, it takes the weights as
        they were then.

        Args:
            removed: Numbers of instances here, each at most once.
            added: Instances by their numbers in the new scene; the others keep their order.

        Raises:
            ValueError: Numbers that don't fit, or what `Composite` refuses.
        """
        added = {} if added is None else added
        gone = np.sort(checked_ids("edited: removed", removed, len(self)))
        numbers = np.sort(checked_ids("edited: numbers of added", list(added), len(self) - len(gone) + len(added)))
        columns = Columns.of([added[i] for i in numbers.tolist()])
        made = object.__new__(Composite)
        if len(self) == 0 or self._scale.requires_grad or has_graph(self._poses) or columns.has_graph:
            instances = [self.instances[i] for i in np.delete(np.arange(len(self)), gone).tolist()]
            for i in numbers.tolist():
                instances.insert(i, added[i])
            made._fill(Columns.of(instances), self)
            return made
        made.arrays = self.arrays.edited(gone, numbers, columns)
        made._scale, made._poses = torch.from_numpy(made.arrays.transforms.scale), made.arrays.poses
        return made

    def certified(self) -> Composite:
        """The same scene, traced with an index that is proven and not sampled, for each of its SIRENs (other fields keep
        their sampled index).

        Then no change of sign along a ray is passed over, however the networks behave between samples, but for those less
        than 1/2000 of the object's box diagonal apart, which the definition of a hit leaves open. Proving takes up to half a
        minute of processor time for each field, once (it is kept in the cache folder); traces ask the fields more often.
        """
        made = copy.copy(self)
        made.arrays = replace(self.arrays, assets=self.arrays.assets.certified)
        made.__dict__.pop("traced", None)
        return made

    # -- questions ---------------------------------------------------------------------------------------------------

    def query(self, p_world: Float[Tensor, "n 3"], *, band: float = math.inf) -> SceneSample:
        """The union of all instances at points: distance, colour and channels of the closest surface, and whose it is.

        Args:
            p_world: Points, world frame, metres.
            band: Up to which distance the answer must be exact. Beyond it the distance is a lower bound (the nearest
                box counts for what was not asked), owner is -1, colour and channels are 0.

        Returns:
            Sample in float64; with ``band=inf`` exactly the least of what all fields say, which is what is rendered. What a
            learned field says away from its surface is only about its distance, and outside of its box a bound that is too
            small (see `Field.forward`): who plans motions asks `closest`. Equal distances go to the lower instance.

        Raises:
            ValueError: Points that are not finite or not ``[n, 3]``, or a band that is not greater than 0.
        """
        _check_points("query", p_world)
        if not band > 0:
            raise ValueError(f"query: band must be greater than 0, got {band}")
        n = len(p_world)
        with torch.no_grad():
            sdf, owner = self._nearest(p_world.detach().double().numpy(), band)
            sdf, owner = torch.from_numpy(sdf), torch.from_numpy(owner)
        rgb = torch.zeros(n, 3, dtype=torch.float64)
        channels = {
            k: torch.zeros(n, width, dtype=torch.float64) for k, width in ({FEATURE: 0} | self.channels).items()
        }
        rows = (owner >= 0).nonzero()[:, 0]
        if len(rows):
            p_obj, scale = self._to_object(p_world[rows], owner[rows])
            pairs = self._pairs(owner[rows], p_obj)
            batch = self.arrays.assets.batch
            if torch.is_grad_enabled():
                got = batch.sample(*pairs)
                sdf = sdf.index_put((rows,), got.sdf * scale)
            else:  # the distance is known
                got = batch.surface(*pairs, geometry=False)[0]
            rgb = rgb.index_put((rows,), got.rgb)
            channels = {k: values.index_put((rows,), got.channel(k)) for k, values in channels.items()}
        return SceneSample(sdf, rgb, channels.pop(FEATURE), owner, more=channels)

    def closest(self, p_world: Float[Tensor, "n 3"]) -> ClosestSample:
        """The nearest surface to each point: true distance, whose it is, where, and in which direction.

        What planners and controllers ask. `query` asks the fields themselves, for their colours and features and with
        gradients to weights and poses; its distances are true only near surfaces.

        Exact solids (primitives, placed or not) are exact; of other fields distances are true to a thousandth of the diagonal
        of their box (`compose.surfaces.TOLERANCE`) but for two points in 10,000, by sharp rims, of which up to two thousandths
        are cut off, and for parts that are thinner than 1/200 of the box. The surface of a field is made when a question
        first comes near it (some seconds of one core), and kept in the cache folder; answers don't depend on what was asked before.
        Inside of solids the distance is minus that to the surface of the solid in which the point lies deepest.

        Returns:
            Sample in float64, without graph. In a scene without surfaces: inf, -1, NaN and zeros.

        Raises:
            ValueError: Points that are not finite or not ``[n, 3]``.
        """
        _check_points("closest", p_world)
        points = np.ascontiguousarray(p_world.detach().double().numpy())
        found = self.arrays.assets.surfaces.nearest(self.arrays.routed, self.arrays.transforms, points)
        return ClosestSample._make(map(torch.from_numpy, found))

    def trace(self, rays: Rays) -> Hits:
        """First hits: for each ray the first change of sign from + to - of any instance.

        A ray that starts inside a solid sees nothing of that solid until it has left it.

        Returns:
            ``t`` in float64 and ``owner``. Where gradients are on and anything asks for them, ``t`` is differentiable with respect
            to weights, poses, scales and rays, by the implicit function theorem at the hit
            (``dt = -df / (grad f . d)``; Niemeyer et al., "Differentiable Volumetric Rendering", CVPR 2020, eq. 12).
        """
        t, owner = cpu.trace(self.traced, self._ask, *ray_arrays(rays))
        t, owner = torch.from_numpy(t), torch.from_numpy(owner)
        if torch.is_grad_enabled() and self._wants_graph(rays):
            t = self._attach(rays, t, owner)
        return Hits(t, owner)

    def trace_count(self, rays: Rays) -> cpu.TraceCount:
        """What `trace` costs for these rays, counted."""
        count = cpu.TraceCount()
        cpu.trace(self.traced, self._ask, *ray_arrays(rays), count=count)
        return count

    def occluded(self, rays: Rays) -> Bool[Tensor, "n"]:
        """Whether each ray hits anything between its ``t_min`` and ``t_max``; no gradients."""
        return torch.from_numpy(cpu.occluded(self.traced, self._ask, *ray_arrays(rays)))

    def evaluate(
        self,
        p_world: Float[Tensor, "n 3"],
        owner: Int[Tensor, "n"],
        directions: Float[Tensor, "n 3"] | None = None,
        *,
        geometry: bool = True,
    ) -> SurfaceSample:
        """Given instances at given points, without any routing; differentiable like `query`.

        Args:
            p_world: Points, world frame, metres.
            owner: The instance that is asked at each.
            directions: Unit directions (world frame) of the rays that look at them: colours of fields that look different
                from different sides are then what these rays see, in 0..1; without, the mean over all directions.
            geometry: Whether distances and normals are wanted; without, they are zeros.

        Raises:
            ValueError: Points that are not finite, owners that are no instance numbers, or not a direction for each point.
        """
        self._check_asked("evaluate", p_world, owner)
        if directions is not None and directions.shape != p_world.shape:
            raise ValueError(
                f"evaluate: directions must have shape {list(p_world.shape)}, got {list(directions.shape)}"
            )
        sample, gradient = self._sample_and_gradient(p_world, owner, geometry)
        if directions is not None and self.arrays.assets.batch.directional.any():
            sample = sample._replace(rgb=self._rgb_along(sample, owner, directions.double()))
        normal = torch.nn.functional.normalize(gradient, dim=-1) if geometry else gradient
        return SurfaceSample(sample.sdf, sample.rgb, sample.feature, normal, more=sample.more)

    def grid_values(
        self, name: str, p_world: Float[Tensor, "n 3"], owner: Int[Tensor, "n"], missing: float = 0.0
    ) -> Float[Tensor, "n"]:
        """What the owners' grid of this name (`Field.grids`) holds at given places, ``missing`` for fields without such a grid.

        Arguments and errors are those of `evaluate`.
        """
        self._check_asked("grid_values", p_world, owner)
        batch, field = self.arrays.assets.batch, self.arrays.field[owner.numpy()]
        found = np.full(len(owner), missing, np.float32)
        rows = np.flatnonzero(batch.has_grid(name)[field])
        if len(rows):
            who = owner.numpy()[rows]
            p = cpu.to_object(self.arrays.transforms, p_world[rows].detach().double().numpy(), who)
            found[rows] = batch.grid_values(name, field[rows], p, np.nan_to_num(self.arrays.seconds[who]))
        return torch.from_numpy(found)

    def observed(self, p_world: Float[Tensor, "n 3"], owner: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """How well the pictures from which fields were learned saw these places of them: 0 for not at all, to 1.

        1 for fields that weren't learned from pictures: nothing of them is guessed. Arguments and errors are those of `evaluate`.
        """
        return self.grid_values("observed", p_world, owner, missing=1.0)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _check_asked(self, who: str, p_world: Tensor, owner: Tensor) -> None:
        _check_points(who, p_world)
        if owner.shape != (len(p_world),):
            raise ValueError(f"{who}: owner must have shape [{len(p_world)}], got {list(owner.shape)}")
        if len(owner) and not (0 <= int(owner.min()) and int(owner.max()) < len(self)):
            raise ValueError(
                f"{who}: owner must be from 0 to {len(self) - 1}, got {int(owner.min())}..{int(owner.max())}"
            )

    @cached_property
    def traced(self) -> cpu.TraceScene:
        """What `trace` reads; the cells of assets are made when this is first asked for."""
        arrays, assets = self.arrays, self.arrays.assets
        tables = assets.cells, assets.nets, assets.warps
        return cpu.TraceScene.of(arrays.transforms, self.arrays.routed, *tables, self.arrays.diagonals)

    def _ask(self, instance: np.ndarray, p_obj: np.ndarray) -> np.ndarray:
        """Distances (object units) of instances at points of their own frames, sorted by asset; no gradients."""
        seconds = np.nan_to_num(self.arrays.seconds[instance])
        return self.arrays.assets.batch.sdf_sorted(self.arrays.field[instance], p_obj, seconds)

    def _nearest(self, p_world: np.ndarray, band: float) -> tuple[np.ndarray, np.ndarray]:
        """Distance and owner of the closest instance by branch and bound over boxes; see `query` for ``band``.

        The instance of the nearest box gives an upper bound; only boxes within it can hold something closer.
        """
        n = len(p_world)
        if len(self) == 0:
            return np.full(n, np.inf), np.full(n, -1, dtype=np.int64)
        first, _ = cpu.nearest(self.arrays.routed, self.arrays.transforms, p_world, 0.0)
        upper = self.distances(p_world, first)
        offsets, instance = cpu.within(
            self.arrays.routed, self.arrays.transforms, p_world, np.minimum(np.maximum(upper, 0.0), band)
        )
        point = np.repeat(np.arange(n), np.diff(offsets))
        rest = instance != first[point]
        sdf, owner = upper.copy(), first.copy()
        if rest.any():
            values = self.distances(p_world[point[rest]], instance[rest])
            cpu.take_nearer(point[rest], instance[rest], values, sdf, owner)
        far = sdf > band
        if far.any():
            _, outer = cpu.nearest(self.arrays.routed, self.arrays.transforms, p_world[far], band)
            sdf[far], owner[far] = np.minimum(sdf[far], outer), -1
        return sdf, owner

    @torch.no_grad()
    def distances(self, p_world: Float[np.ndarray, "n 3"], owner: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Distances (metres) that given instances say at given world points; no gradients, nothing is checked."""
        p_obj = cpu.to_object(self.arrays.transforms, p_world, owner)
        sdf = self.arrays.assets.batch.sdf(*self._pairs(torch.from_numpy(owner), torch.from_numpy(p_obj)))
        return sdf.numpy() * self.arrays.transforms.scale[owner]

    def _pairs(self, owner: Tensor, p_obj: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Field, point and time of each pair, as `FieldBatch` takes them."""
        field, seconds = torch.from_numpy(self.arrays.field), torch.from_numpy(self.arrays.seconds)
        return field[owner], p_obj, seconds[owner].nan_to_num()

    def _to_object(self, p_world: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        """Points in the frames of their owners, and the owners' scales, with gradients to poses, scales and points."""
        p = p_world.double()
        if not torch.is_grad_enabled():
            p_obj = cpu.to_object(self.arrays.transforms, p.detach().contiguous().numpy(), owner.numpy())
            return torch.from_numpy(p_obj), torch.from_numpy(self.arrays.transforms.scale)[owner]
        poses, scale = self._graph_poses(owner)
        return (poses.inverse() @ p) / scale[:, None], scale

    def _sample_and_gradient(
        self, p_world: Tensor, owner: Tensor, wanted: bool = True
    ) -> tuple[FieldSample, Float[Tensor, "n 3"]]:
        """Samples of given instances (distance in metres) and the world gradient of their distance; both zeros if not wanted."""
        p_obj, scale = self._to_object(p_world, owner)
        pairs = self._pairs(owner, p_obj)
        if not torch.is_grad_enabled():
            got, gradient = self.arrays.assets.batch.surface(*pairs, geometry=wanted)
            if not wanted:
                return got, gradient
            rot = torch.from_numpy(self.arrays.transforms.rot)[owner]
        else:
            if not p_obj.requires_grad:
                p_obj = p_obj.detach().requires_grad_(True)
            got, gradient = self.arrays.assets.batch.sample(pairs[0], p_obj, pairs[2]), torch.zeros_like(p_obj)
            if not wanted:
                got = got._replace(sdf=torch.zeros_like(got.sdf))
            elif got.sdf.requires_grad:
                (gradient,) = torch.autograd.grad(got.sdf.sum(), p_obj, create_graph=True)
            rot = self._graph_poses(owner)[0].rotation()
        return got._replace(sdf=got.sdf * scale), (rot @ gradient[..., None])[..., 0]

    def _rgb_along(self, sample: FieldSample, owner: Tensor, d_world: Tensor) -> Float[Tensor, "n 3"]:
        """Colours as seen along directions."""
        directional = torch.from_numpy(self.arrays.assets.batch.directional[self.arrays.field])
        rows = directional[owner].nonzero()[:, 0]
        if torch.is_grad_enabled():
            rot = self._graph_poses(owner[rows])[0].rotation()
        else:
            rot = torch.from_numpy(self.arrays.transforms.rot)[owner[rows]]
        d_obj = (rot.mT @ d_world[rows, :, None])[..., 0]
        more = {name: values[rows] for name, values in sample.more.items()}
        chosen = FieldSample(sample.sdf[rows], sample.rgb[rows], sample.feature[rows], more=more)
        return sample.rgb.index_put((rows,), chosen.rgb_along(d_obj))

    def _graph_poses(self, owner: Tensor) -> tuple[SE3, Tensor]:
        """Poses and scales of ``owner [n]`` with their graphs."""
        return self._poses[owner], self._scale[owner]

    def _wants_graph(self, rays: Rays) -> bool:
        tensors = [rays.origins, rays.directions, self._poses.quat_wxyz, self._poses.translation, self._scale]
        tensors += [p for field in self.arrays.assets.batch.fields for p in field.parameters()]
        return any(v.requires_grad for v in tensors)

    def _attach(self, rays: Rays, t: Tensor, owner: Tensor) -> Tensor:
        """``t`` with the gradient of the implicit function ``sdf(o + t d) = 0``; its value stays."""
        rows = (owner >= 0).nonzero()[:, 0]
        if len(rows) == 0:
            return t
        hit_owner, t0 = owner[rows], t[rows]
        d = rays.directions[rows].double()
        p_world = rays.origins[rows].double() + t0[:, None] * d
        sample, gradient = self._sample_and_gradient(p_world, hit_owner)
        if not sample.sdf.requires_grad:
            return t
        slope = (gradient * d).sum(-1).detach()
        slope = torch.where(slope.abs() < 1e-6, torch.full_like(slope, -1e-6), slope)  # grazing: large, not infinite
        return t.index_put((rows,), t0 - (sample.sdf - sample.sdf.detach()) / slope)


_ROUNDING = 8 * 2.0**-24  # of the largest coordinate in a box
_ROUGHNESS = 2e-4  # of the box diagonal


def _check_points(who: str, p_world: Tensor) -> None:
    if p_world.dim() != 2 or p_world.shape[1] != 3:
        raise ValueError(f"{who}: p_world must have shape [n, 3], got {list(p_world.shape)}")
    if not torch.isfinite(p_world).all():
        raise ValueError(f"{who}: p_world must be finite")
