"""Posed pictures: the data from which fields are learned. `rendering.views.files` reads them from folders.

World: right-handed, z up, metres. Cameras have OpenCV axes and no distortion, and image coordinates as in `Camera`. Pictures
are sRGB; colour and alpha stay apart (straight, not composited), so the background is the user's choice. Pictures are kept as
bytes and depth in the steps of its file; floats are made when asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from objects.aabb import Aabb
from rendering.camera import Camera


class ViewError(ValueError):
    """Pictures that cannot be used as they are; the message names the file or frame, and what to do."""


class ViewPoints(NamedTuple):
    """Measured points of a set of views."""

    p_world: Float[Tensor, "n 3"]
    """World frame, metres, float32."""
    rgb: Float[Tensor, "n 3"]
    """sRGB in 0..1."""
    view: Int[Tensor, "n"]
    """Index of the view that measured the point."""
    ids: Int[Tensor, "n"]
    """Instance id, 0 for none and where the view has no ids."""


class View:
    """One picture with its camera. Immutable: the tensors are shared, don't write to them.

    Args:
        camera: Where it was taken; its width and height are those of the picture.
        rgb: sRGB, uint8, or float in 0..1 (kept in 8 bits).
        name: Path of the picture, relative to its folder.
        time: Seconds, or None.
        alpha: Opacity, uint8 or float in 0..1, or None for an opaque picture.
        depth: Along the optical axis, in steps of ``depth_unit``; 0, NaN and inf mean missing. Kept in its own number type.
        depth_unit: Metres for each step.
        ids: Instance ids, 0 for none (background).
        valid: False where the picture holds nothing to learn from (ignored, or beyond the lens); None for valid all over.
        posed: False where nobody knows from where it was taken; the camera then stands at the origin.

    Raises:
        ViewError: Shapes that differ from the camera's image, colours beyond 0..1 or NaN, negative depth or ids, a unit that
            is not finite and positive, or a time that is not finite.
    """

    __slots__ = ("camera", "depth_unit", "name", "posed", "stored", "time")

    def __init__(
        self,
        camera: Camera,
        rgb: Tensor,
        *,
        name: str = "",
        time: float | None = None,
        alpha: Tensor | None = None,
        depth: Tensor | None = None,
        depth_unit: float = 1.0,
        ids: Tensor | None = None,
        valid: Tensor | None = None,
        posed: bool = True,
    ) -> None:
        size = (camera.height, camera.width)
        for key, value, shape in (
            ("rgb", rgb, (*size, 3)),
            ("alpha", alpha, size),
            ("depth", depth, size),
            ("ids", ids, size),
            ("valid", valid, size),
        ):
            if value is not None and tuple(value.shape) != shape:
                raise ViewError(f"View {name!r}: {key} must have shape {list(shape)}, got {list(value.shape)}")
        if time is not None and not math.isfinite(time):
            raise ViewError(f"View {name!r}: time must be finite or None, got {time}")
        if not (math.isfinite(depth_unit) and depth_unit > 0):
            raise ViewError(f"View {name!r}: depth_unit must be finite and greater than 0, got {depth_unit}")
        if depth is not None and depth.dtype != torch.uint16 and bool((depth < 0).any()):
            raise ViewError(f"View {name!r}: depth must not be negative, got {float(depth.min())}")
        if ids is not None and (ids.dtype.is_floating_point or bool((ids.to(torch.int64) < 0).any())):
            raise ViewError(f"View {name!r}: ids must be whole numbers of at least 0, got {ids.dtype}")
        if valid is not None and valid.dtype != torch.bool:
            raise ViewError(f"View {name!r}: valid must be bool, got {valid.dtype}")
        self.camera, self.name, self.time, self.depth_unit, self.posed = camera, name, time, float(depth_unit), posed
        self.stored = {"rgb": _as_bytes(rgb, f"View {name!r}: rgb")}
        """The layers that the picture has, by name, in the number types in which they are kept."""
        if alpha is not None:
            self.stored["alpha"] = _as_bytes(alpha, f"View {name!r}: alpha")
        more = {"depth": depth, "ids": ids, "valid": valid}
        self.stored |= {key: layer for key, layer in more.items() if layer is not None}

    @property
    def rgb(self) -> Float[Tensor, "h w 3"]:
        """sRGB in 0..1, float32, straight (not multiplied by alpha)."""
        return self.stored["rgb"].float() / 255

    @property
    def alpha(self) -> Float[Tensor, "h w"] | None:
        """Opacity in 0..1, float32, or None for an opaque picture."""
        return self.stored["alpha"].float() / 255 if "alpha" in self.stored else None

    @property
    def depth(self) -> Float[Tensor, "h w"] | None:
        """Metres along the optical axis at pixel centres, float32, NaN where it is missing; None without depth."""
        if "depth" not in self.stored:
            return None
        depth = self.stored["depth"].to(torch.float32) * self.depth_unit
        return torch.where(torch.isfinite(depth) & (depth > 0), depth, torch.nan)

    @property
    def ids(self) -> Int[Tensor, "h w"] | None:
        """Instance ids, int32, 0 for none; None where nobody gave any."""
        return self.stored["ids"].to(torch.int32) if "ids" in self.stored else None

    @property
    def valid(self) -> Bool[Tensor, "h w"]:
        """Where the picture holds something to learn from."""
        if "valid" in self.stored:
            return self.stored["valid"]
        return torch.ones(self.camera.height, self.camera.width, dtype=torch.bool)

    def with_camera(self, camera: Camera) -> View:
        """The same picture, taken from elsewhere."""
        return View(camera, name=self.name, time=self.time, depth_unit=self.depth_unit, posed=True, **self.stored)

    @property
    def n_bytes(self) -> int:
        """Memory that the pictures take."""
        return sum(layer.numel() * layer.element_size() for layer in self.stored.values())

    def composited(self, background: Float[Tensor, "3"] | Sequence[float]) -> Float[Tensor, "h w 3"]:
        """The picture over a background of one sRGB colour (mixed in sRGB, as the makers of such sets do)."""
        rgb, alpha = self.rgb, self.alpha
        return rgb if alpha is None else torch.lerp(torch.as_tensor(background).to(rgb), rgb, alpha[..., None])

    def __repr__(self) -> str:
        return f"View({self.name!r}, {self.camera.width}x{self.camera.height}, {', '.join(self.stored)})"


class Views(Sequence[View]):
    """Pictures of one scene, in order. Immutable; an index gives a `View`, a slice gives `Views`.

    Args:
        views: At least one.
        landmarks: World points seen by several pictures (from finding the cameras), metres, or None.
        applied_transform: The 3x4 matrix ``[A | b]`` that whoever wrote the files had applied to the original world
            (``p_world = A p_original + b``), or None. The cameras hold it already.

    Raises:
        ViewError: No views.
    """

    def __init__(
        self,
        views: Sequence[View],
        *,
        landmarks: Float[Tensor, "m 3"] | None = None,
        applied_transform: Float[Tensor, "3 4"] | None = None,
    ) -> None:
        if not views:
            raise ViewError("Views: expected at least one view")
        self._views = tuple(views)
        self.landmarks = landmarks
        self.applied_transform = applied_transform

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[View]:
        return iter(self._views)

    @overload
    def __getitem__(self, index: int) -> View: ...
    @overload
    def __getitem__(self, index: slice) -> Views: ...
    def __getitem__(self, index: int | slice) -> View | Views:
        if isinstance(index, slice):
            return self.picked(range(len(self))[index])
        return self._views[index]

    def picked(self, indices: Sequence[int]) -> Views:
        """The views of these numbers, in this order."""
        chosen = [self._views[i] for i in indices]
        return Views(chosen, landmarks=self.landmarks, applied_transform=self.applied_transform)

    @property
    def cameras(self) -> list[Camera]:
        return [view.camera for view in self]

    @property
    def n_bytes(self) -> int:
        """Memory that the pictures take."""
        return sum(view.n_bytes for view in self)

    def points(self, max_points: int = 200_000, *, min_alpha: float = 0.5) -> ViewPoints:
        """Depth as a cloud of points, the same for the same views: an equal share of random pixels from each.

        Args:
            max_points: At most so many in all.
            min_alpha: Pixels less opaque than this are left out.

        Raises:
            ViewError: No view has depth, or ``max_points`` below 1.
        """
        measured = [i for i, view in enumerate(self) if "depth" in view.stored]
        if not measured:
            raise ViewError("Views.points: no view has depth; give depth pictures (depth_file_path)")
        if max_points < 1:
            raise ViewError(f"Views.points: max_points must be at least 1, got {max_points}")
        generator = torch.Generator().manual_seed(0)
        parts = []
        for rank, i in enumerate(measured):
            view = self[i]
            share = max_points * (rank + 1) // len(measured) - max_points * rank // len(measured)
            known = known_depth(view, min_alpha).flatten().nonzero()[:, 0]
            pick = known[torch.randperm(len(known), generator=generator)[:share]].sort().values
            ids = torch.zeros(len(pick), dtype=torch.int32) if view.ids is None else view.ids.flatten()[pick]
            rgb = view.rgb.reshape(-1, 3)[pick]
            parts.append((back_projected(view, pick).float(), rgb, torch.full_like(pick, i), ids))
        return ViewPoints(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def scene_box(self) -> Aabb:
        """A box around what the pictures show, world frame, metres, float64.

        From depth where there is some, else from landmarks: all but the outermost 0.5 % on each side, 5 % larger. Without
        both, a cube about the point where the optical axes meet: as large as the wider side of the pictures sees there, or,
        where all pictures have alpha, the narrower, cut down to what is opaque in all of them (the visual hull, on 48^3 cells).

        Raises:
            ViewError: No depth, and optical axes that don't meet in front of the cameras.
        """
        cloud = self.landmarks
        if any("depth" in view.stored for view in self):
            cloud = self.points().p_world
        if cloud is not None and len(cloud):
            p_world = cloud.double().numpy()
            lo, hi = np.quantile(p_world, 0.005, axis=0), np.quantile(p_world, 0.995, axis=0)
            margin = 0.05 * max(float(np.linalg.norm(hi - lo)), 1e-6)
            return Aabb(torch.from_numpy(lo - margin), torch.from_numpy(hi + margin))
        meeting = axes_meeting(self.cameras)
        if meeting is None or np.mean(meeting.ahead > 0) < 0.9:
            raise ViewError(
                "without depth, pictures must surround what they show, and the optical axes of these don't meet in front of "
                "the cameras: are their axes right (x right, y up, z back in a transforms.json)? Else give depth"
            )
        cut_out = all("alpha" in view.stored for view in self)
        side = min if cut_out else max
        half = float(
            np.median(
                [
                    ahead * side(0.5 * c.width / c.fx, 0.5 * c.height / c.fy)
                    for c, ahead in zip(self.cameras, meeting.ahead, strict=True)
                ]
            )
        )
        center = torch.from_numpy(meeting.p_world)
        box = Aabb(center - half, center + half)
        return self._hull(box) if cut_out else box

    def _hull(self, box: Aabb, cells: int = 48) -> Aabb:
        """The box of those cells that a third of the pictures see, and all that see them show something opaque there."""
        steps = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
        grid = torch.cartesian_prod(steps, steps, steps) * box.size + box.lo
        cell = float(box.size.max()) / cells
        solid, seen_by = torch.ones(len(grid), dtype=torch.bool), torch.zeros(len(grid))
        for view in self:
            camera = view.camera
            uv, depth = camera.project(grid)
            seen = (uv >= 0).all(-1) & (uv[:, 0] < camera.width) & (uv[:, 1] < camera.height)
            alpha = view.alpha
            if alpha is None or not seen.any():
                continue
            column, row = uv[seen].long().unbind(-1)
            seen_by[seen.nonzero()[:, 0]] += view.valid[row, column]
            # A cell is wider than a pixel: look at the most opaque pixel that it covers; what isn't valid may be opaque.
            alpha = torch.where(view.valid, alpha, 1.0)
            reach = int(0.5 * cell * max(camera.fx, camera.fy) / float(depth[seen].median())) + 1
            widest = torch.nn.functional.max_pool2d(alpha[None], 2 * reach + 1, 1, reach)[0]
            solid[seen.nonzero()[:, 0]] &= widest[row, column] >= 0.5
        solid &= seen_by >= len(self) / 3
        if not solid.any():
            return box
        return Aabb(grid[solid].amin(0) - cell, grid[solid].amax(0) + cell)

    def __repr__(self) -> str:
        return f"Views({len(self)} views, first {self[0]!r})"


def split(views: Views, hold_out_every: int) -> tuple[Views, Views]:
    """Views to learn from, and views held out: the middle one of each ``hold_out_every`` in their order.

    Raises:
        ViewError: ``hold_out_every`` below 2, or too few views for one to be held out.
    """
    if hold_out_every < 2:
        raise ViewError(f"split: hold_out_every must be at least 2, got {hold_out_every}")
    held = [i for i in range(len(views)) if i % hold_out_every == hold_out_every // 2]
    if not held:
        raise ViewError(f"split: {len(views)} views are too few to hold out one of every {hold_out_every}")
    return views.picked([i for i in range(len(views)) if i not in set(held)]), views.picked(held)


# -- pieces ------------------------------------------------------------------------------------------------------------


class Meeting(NamedTuple):
    p_world: np.ndarray
    ahead: np.ndarray
    """How far the point lies ahead of each camera along its axis; negative behind."""


def axes_meeting(cameras: Sequence[Camera]) -> Meeting | None:
    """The point closest to all optical axes in the mean square, or None where they don't meet in one place."""
    axes = np.stack([camera.T_world_cam.rotation()[:, 2].numpy() for camera in cameras])
    positions = np.stack([camera.position_world.numpy() for camera in cameras])
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    total = across.mean(0)
    if np.linalg.eigvalsh(total)[0] < 0.02:  # axes within about 8 degrees of each other
        return None
    p_world = np.linalg.solve(total, np.einsum("nij,nj->i", across, positions) / len(axes))
    offset = p_world - positions
    ahead = (offset * axes).sum(-1)
    miss = np.sqrt(np.clip((offset**2).sum(-1) - ahead**2, 0, None))
    # Positions that differ are what makes a meeting; cameras turning on the spot have none worth the name.
    if np.median(miss) > 0.25 * np.median(np.abs(ahead)) or np.median(np.abs(ahead)) < 1e-9:
        return None
    return Meeting(p_world, ahead)


def _as_bytes(value: Tensor, what: str) -> Tensor:
    if value.dtype == torch.uint8:
        return value
    if not value.dtype.is_floating_point or not bool(((value >= 0) & (value <= 1)).all()):
        raise ViewError(f"{what} must be uint8, or float in 0..1 without NaN, got {value.dtype}")
    return (value * 255 + 0.5).to(torch.uint8)


def known_depth(view: View, min_alpha: float = 0.5) -> Bool[Tensor, "h w"]:
    """Where a view has a measured depth that belongs to something."""
    depth, alpha = view.depth, view.alpha
    known = view.valid if depth is None else view.valid & torch.isfinite(depth)
    return known if alpha is None else known & (alpha >= min_alpha)


def back_projected(view: View, pixels: Int[Tensor, "n"]) -> Float[Tensor, "n 3"]:
    """World points of pixels given by their row-major numbers."""
    depth = view.depth
    if depth is None:
        raise ViewError(f"view {view.name!r} has no depth")
    uv = view.camera.pixel_centers(pixels)
    rays, along = view.camera.rays(uv), view.camera.depth_per_t(uv)
    return rays.at(depth.flatten()[pixels].double() / along)
