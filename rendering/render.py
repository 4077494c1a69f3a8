"""From a composite and a camera to a picture: colour, depth, normals, owners, features, canonical coordinates."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import Protocol, TypedDict, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from compose.canonical import canonical_colors
from compose.composite import Composite
from compose.types import Rays
from objects.progress import Bar
from rendering.camera import Camera, pixel_offsets
from rendering.lights import Light, Rgb, linear_from_srgb, srgb_from_linear

_TILE = 16  # pixels along the edge of a square that is traced together

# Neighbouring pixels that differ by more than this are given extra samples. The jump of inverse depth is the second
# difference along a row or column, relative to it: 0 on planes, at any slant.
_EDGE_INVERSE_DEPTH = 0.005
_EDGE_NORMAL_COSINE = 0.9
_EDGE_SRGB = 0.06


@dataclass(frozen=True)
class RenderConfig:
    """How to render.

    Args:
        antialias: ``n`` for up to ``n x n`` samples in a pixel, 1 for none. Only pixels get them whose owner, depth, normal
            or colour differs from a neighbour's; a thing thinner than a pixel may slip between the pixel centres.
        shadows: Whether lights other than ambient ones cast shadows.
        background: sRGB where nothing is, in 0..1.
        background_top: If given, the background goes linearly from this at the top edge to ``background`` at the bottom.
        normals: Whether `Frame.normal` is wanted. Without, it is zeros unless light or antialiasing needs normals anyway.
        canonical: Whether `Frame.canonical` is wanted. Without, it is zeros.
        certify: Whether rays go by proven indices (`Composite.certified`) and not by sampled ones.
        chunk_rays: Most rays traced at once; bounds the memory beyond that of the frame itself.

    Raises:
        ValueError: ``antialias`` outside 1..16, ``chunk_rays`` below 256, a colour outside 0..1, a value of another kind.
    """

    antialias: int = 2
    shadows: bool = True
    background: Rgb = (1.0, 1.0, 1.0)
    background_top: Rgb | None = None
    normals: bool = True
    canonical: bool = False
    certify: bool = False
    chunk_rays: int = 1 << 17

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "bool" and not isinstance(value, bool):
                raise ValueError(f"RenderConfig: {field.name} must be True or False, got {value!r}")
            if field.type == "int" and (isinstance(value, bool) or not isinstance(value, Integral)):
                raise ValueError(f"RenderConfig: {field.name} must be a whole number, got {value!r}")
        if not 1 <= self.antialias <= 16:
            raise ValueError(f"RenderConfig: antialias must lie in 1..16, got {self.antialias}")
        if self.chunk_rays < 256:
            raise ValueError(f"RenderConfig: chunk_rays must be at least 256, got {self.chunk_rays}")
        for name in ("background", "background_top"):
            color = getattr(self, name)
            if color is not None and not _is_color(color):
                raise ValueError(f"RenderConfig: {name} must be 3 numbers in 0..1, got {color}")


class RenderOptions(TypedDict, total=False):
    """The fields of `RenderConfig` as keywords of `render`."""

    antialias: int
    shadows: bool
    background: Rgb
    background_top: Rgb | None
    normals: bool
    canonical: bool
    certify: bool
    chunk_rays: int


class SceneOverTime(Protocol):
    """What has a composite and lights at each time (seconds), such as a `scenes.SceneGraph`."""

    def at(self, time: float = ..., /) -> Composite: ...
    def lights_at(self, time: float = ..., /) -> tuple[Light, ...]: ...


@dataclass(frozen=True, eq=False)
class Frame:
    """A rendered picture: CPU tensors, float32 and int64.

    ``depth``, ``normal``, ``owner`` and ``feature`` are taken at pixel centres; ``rgb`` and ``alpha`` are means over the
    pixel where it was antialiased.

    Args:
        rgb: sRGB in 0..1, on the background.
        depth: Metres along the optical axis, inf where nothing is.
        normal: Unit normals, world frame, 0 where nothing is.
        owner: Index into ``composite.instances``, -1 where nothing is.
        alpha: Share of the pixel that something covers.
        feature: The feature channels, 0 where nothing is.
        seen: How well what the pixel shows was seen by the pictures that it was learned from, 0 to 1; 1 where it wasn't
            learned from pictures, 0 where nothing is.
        canonical: Where on its thing each place is, as a colour: coordinates in the box of the canonical field, 0 to 1, which stay
            while it moves and bends; 0 where nothing is.
    """

    rgb: Float[Tensor, "h w 3"]
    depth: Float[Tensor, "h w"]
    normal: Float[Tensor, "h w 3"]
    owner: Int[Tensor, "h w"]
    alpha: Float[Tensor, "h w"]
    feature: Float[Tensor, "h w f"]
    seen: Float[Tensor, "h w"]
    canonical: Float[Tensor, "h w 3"]


@dataclass(frozen=True, eq=False)
class _Samples:
    """What ``n`` rays see; ``color`` is shaded RGB on the background: linear, or sRGB where `_Renderer` needs none."""

    color: Float[Tensor, "n 3"]
    depth: Float[Tensor, "n"]
    normal: Float[Tensor, "n 3"]
    owner: Int[Tensor, "n"]
    feature: Float[Tensor, "n f"]
    seen: Float[Tensor, "n"]
    canonical: Float[Tensor, "n 3"]


@torch.no_grad()
def render(
    composite: Composite | SceneOverTime,
    camera: Camera,
    *,
    lights: Sequence[Light] | None = None,
    config: RenderConfig | None = None,
    time: float = 0.0,
    progress: bool = True,
    **options: Unpack[RenderOptions],
) -> Frame:
    """Render a composite, or a scene at a time: ``render(scene, camera, antialias=1, shadows=False)``.

    Same input, same bits. Not differentiable (see `Composite.query` and `Composite.trace` for gradients).

    Args:
        composite: The scene at one time; or a scene graph, which is shown at ``time``.
        camera: Where from.
        lights: What lights it; Lambert shading in linear light. By default a graph's own lights, and none for a composite. Without
            lights, and on instances with ``lit`` false, the colours of the fields are shown as they are.
        config: `RenderConfig()` by default.
        time: Seconds, for a scene graph.
        progress: Show a bar (on a terminal, once the picture takes longer than 2 s).
        options: Fields of `RenderConfig`, which take the place of those of ``config``.

    Raises:
        ValueError: Something in ``lights`` that is no `Light`, no scene or `Camera`, an unknown option (the nearest is named).
    """
    config = _config(config, options)
    if not isinstance(composite, Composite):
        if not (hasattr(composite, "at") and hasattr(composite, "lights_at")):
            raise ValueError(f"render: expected a Composite or a SceneGraph, got {type(composite).__name__}")
        lights = composite.lights_at(time) if lights is None else lights
        composite = composite.at(time)
    elif time != 0:
        raise ValueError("render: time is for a SceneGraph; a Composite is a scene at one time already")
    if not isinstance(camera, Camera):
        raise ValueError(f"render: camera must be a Camera, got {type(camera).__name__}")
    lights = () if lights is None else lights
    for light in lights:
        if not isinstance(light, Light):
            raise ValueError(f"render: lights must be Light objects, got {type(light).__name__}")
    if config.certify:
        composite = composite.certified()
    view = _Renderer(composite, camera, tuple(lights), config)
    n_pixels = camera.width * camera.height
    rgb, normal, canonical = torch.empty(3, n_pixels, 3)
    depth, alpha, observed = torch.empty(n_pixels), torch.empty(n_pixels), torch.empty(n_pixels)
    owner = torch.empty(n_pixels, dtype=torch.int64)
    feature = torch.empty(n_pixels, composite.feature_width)
    with Bar(total=n_pixels, desc="render", unit="ray", unit_scale=True, disable=not progress) as bar:
        for index in tiled(camera.width, camera.height).split(config.chunk_rays):
            seen = view.see(camera.pixel_centers(index))
            rgb[index] = view.display(seen.color)
            depth[index], normal[index], owner[index] = seen.depth.float(), seen.normal.float(), seen.owner
            alpha[index], feature[index] = (seen.owner >= 0).float(), seen.feature.float()
            observed[index], canonical[index] = seen.seen, seen.canonical
            bar.update(len(index))

        if config.antialias > 1:
            n, shape = config.antialias, (camera.height, camera.width)
            edges = _edges(rgb.view(*shape, 3), depth.view(shape), normal.view(*shape, 3), owner.view(shape))
            edges = edges.flatten().nonzero()[:, 0]
            bar.total = n_pixels + len(edges) * n * n
            offsets = pixel_offsets(n)
            for index in edges.split(max(1, config.chunk_rays // (n * n))):
                uv = camera.pixel_centers(index)[:, None] + offsets
                seen = view.see(uv.view(-1, 2))
                rgb[index] = view.display(seen.color.view(len(index), n * n, 3).mean(1))
                alpha[index] = (seen.owner >= 0).float().view(len(index), n * n).mean(1)
                bar.update(len(index) * n * n)
    planes = (rgb, depth, normal, owner, alpha, feature, observed, canonical)
    return Frame(*(plane.view(camera.height, camera.width, *plane.shape[1:]) for plane in planes))


def _config(config: RenderConfig | None, options: RenderOptions) -> RenderConfig:
    if not isinstance(config, RenderConfig | None):
        raise ValueError(f"render: config must be a RenderConfig, got {type(config).__name__}")
    known = [field.name for field in fields(RenderConfig)]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, [*known, "lights", "config", "time", "progress"], n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(known)}"
            raise ValueError(f"render: unknown option {name!r}; {hint}")
    return replace(config or RenderConfig(), **options)


def _is_color(color: Rgb) -> bool:
    try:
        return len(color) == 3 and all(0 <= x <= 1 for x in color)
    except TypeError:
        return False


class _Renderer:
    """What is the same for all rays of one picture."""

    def __init__(self, composite: Composite, camera: Camera, lights: tuple[Light, ...], config: RenderConfig) -> None:
        self.composite, self.camera, self.lights, self.config = composite, camera, lights, config
        self.lit = composite.lit & bool(lights)
        # Colours that nothing is done to stay as they are.
        self.in_linear_light = config.antialias > 1 or bool(self.lit.any())
        self.normals = config.normals or self.in_linear_light
        self.surface_errors = composite.surface_errors

    def see(self, uv: Float[Tensor, "n 2"]) -> _Samples:
        rays = self.camera.rays(uv)
        hits = self.composite.trace(rays)
        hit = (hits.owner >= 0).nonzero()[:, 0]
        t, owner = hits.t[hit].double(), hits.owner[hit].long()
        color = self._background(uv)
        depth = rays.origins.new_full((len(uv),), math.inf)
        depth[hit] = t * self.camera.depth_per_t(uv[hit])
        normal = torch.zeros(len(uv), 3, dtype=torch.float64)
        feature, observed = torch.zeros(len(uv), self.composite.feature_width), torch.zeros(len(uv))
        canonical = torch.zeros(len(uv), 3)
        if len(hit):
            p_world = rays.origins[hit] + t[:, None] * rays.directions[hit]
            surface = self.composite.evaluate(p_world, owner, rays.directions[hit], geometry=self.normals)
            if self.normals:
                normal[hit] = surface.normal.double()
            feature[hit] = surface.feature.float()
            observed[hit] = self.composite.observed(p_world, owner)
            if self.config.canonical:
                canonical[hit] = canonical_colors(self.composite, p_world, owner).float()
            color[hit] = self._shade(
                p_world, normal[hit], surface.sdf, self._taken_in(surface.rgb.double().clamp(0, 1)), owner
            )
        return _Samples(color, depth, normal, hits.owner.long(), feature, observed, canonical)

    def display(self, color: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Colours of `_Samples` as sRGB in 0..1."""
        color = srgb_from_linear(color.clamp(0, 1)) if self.in_linear_light else color
        return color.clamp(0, 1).float()

    def _taken_in(self, srgb: Tensor) -> Tensor:
        return linear_from_srgb(srgb) if self.in_linear_light else srgb

    def _shade(self, p_world: Tensor, normal: Tensor, sdf: Tensor, albedo: Tensor, owner: Tensor) -> Tensor:
        """Lambert: albedo times the irradiance of all lights; unlit instances keep their own colour.

        Shadow rays start off the surface by the error of the surface and of the hit (``sdf``, what the field says at it), however
        large the object is: whatever stands on it casts its shadow.
        """
        lit = self.lit[owner].nonzero()[:, 0]
        if len(lit) == 0:
            return albedo
        p_world, normal = p_world[lit], normal[lit]
        start = p_world + (self.surface_errors[owner[lit]] - sdf[lit].double())[:, None] * normal
        total = torch.zeros_like(p_world)
        for light in self.lights:
            irradiance = light.irradiance(p_world, normal)
            if self.config.shadows:
                irradiance[self._in_shadow(light, start, irradiance)] = 0
            total += irradiance
        shaded = albedo.clone()
        shaded[lit] *= total
        return shaded

    def _in_shadow(self, light: Light, start: Tensor, irradiance: Tensor) -> Tensor:
        """Which of the points get none of this light (indices). Points that it does not reach anyway are not traced."""
        reached = (irradiance > 0).any(-1).nonzero()[:, 0]
        aim = light.toward(start[reached])
        if aim is None or len(reached) == 0:
            return reached[:0]
        direction, distance = aim
        return reached[self.composite.occluded(Rays(start[reached], direction, 0.0, distance))]

    def _background(self, uv: Tensor) -> Tensor:
        bottom = uv.new_tensor(self.config.background)
        if self.config.background_top is None:
            return self._taken_in(bottom).repeat(len(uv), 1)
        top = uv.new_tensor(self.config.background_top)
        return self._taken_in(top + (uv[:, 1:] / self.camera.height).clamp(0, 1) * (bottom - top))


def tiled(width: int, height: int) -> Int[Tensor, "n"]:
    """All pixels, those of one square tile after the other: neighbouring rays are traced together."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    tile = (y // _TILE) * (width // _TILE + 1) + x // _TILE
    return tile.flatten().sort(stable=True).indices


def _edges(
    rgb: Float[Tensor, "h w 3"], depth: Float[Tensor, "h w"], normal: Float[Tensor, "h w 3"], owner: Int[Tensor, "h w"]
) -> Bool[Tensor, "h w"]:
    """Pixels that differ from one of their eight neighbours."""
    edges = torch.zeros_like(owner, dtype=torch.bool)
    h, w = owner.shape
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        a = (slice(0, h - dy), slice(max(0, -dx), w - max(0, dx)))
        b = (slice(dy, h), slice(max(0, dx), w - max(0, -dx)))
        differs = owner[a] != owner[b]
        differs |= ((normal[a] * normal[b]).sum(-1) < _EDGE_NORMAL_COSINE) & (owner[a] >= 0)
        differs |= (rgb[a] - rgb[b]).abs().amax(-1) > _EDGE_SRGB
        edges[a] |= differs
        edges[b] |= differs
    inverse = 1 / depth
    for axis in (0, 1):
        if inverse.shape[axis] >= 3:
            left, mid, right = (inverse.narrow(axis, k, inverse.shape[axis] - 2) for k in range(3))
            edges.narrow(axis, 1, inverse.shape[axis] - 2).logical_or_(
                (left - 2 * mid + right).abs() > _EDGE_INVERSE_DEPTH * mid
            )
    return edges
