"""The light of a clip: one direction from which the light comes, and light from everywhere, told from what changes as things move.

A place looks its albedo times the irradiance there. Its albedo stays while shadows come and go and while it turns; so the direction
is the one whose shadows and cosines explain best how the colours of the same places change between frames (photometric stereo with
cast shadows: Woodham, "Photometric Method for Determining Surface Orientation from Multiple Images", 1980; Sato, Sato, Ikeuchi,
"Illumination from Shadows", PAMI 2003). Colours are then learned without it, and what is taken out takes its shadow along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float, Int

from compose.types import Rays
from objects.progress import Bar
from rendering.lights import AmbientLight, DirectionalLight, Light, linear_from_srgb, srgb_from_linear
from scenes.video.looks import Seen, composite_at
from scenes.video.shapes import Shaped

_PLACES, _TIMES = 5000, 8  # places that are looked at, and frames in which each is
_SAME = 0.004  # metres: what lies this near in an object's frame is one place
_RATIOS = np.array([0.25, 0.4, 0.6, 0.9, 1.3, 2.0, 3.0, 5.0, 8.0])  # of direct light to light from everywhere
_OUTLIER = 0.3  # of the logarithm of brightness: more is cut to it
_EXPLAINS = 0.2  # of the changes that a light must explain at least
_LEAST_CHANGE = 0.03  # deviation of the logarithm of brightness at places, below which nothing is to be explained
_OFFSET = 0.002  # metres off the surface, where shadow rays start
_DARKEST = 0.02  # linear light, below which colours say nothing
_EDGE_DEG = (
    1.5  # beside the direction: where light comes from one and not from the other, a place is at the edge of a shadow
)


class Sun(NamedTuple):
    """Light from one direction and from everywhere, linear RGB."""

    toward: Float[np.ndarray, "3"]
    """Unit vector to the light, world frame."""
    direct: Float[np.ndarray, "3"]
    everywhere: Float[np.ndarray, "3"]
    explains: float
    """Share of the changes of brightness that it explains."""

    def lights(self) -> tuple[Light, ...]:
        """The same as lights of a scene."""
        (ambient, a), (color, b) = (_color_of(x) for x in (self.everywhere, self.direct))
        x, y, z = (-self.toward).tolist()
        return AmbientLight(ambient, a), DirectionalLight((x, y, z), color, b)


def _color_of(linear: Float[np.ndarray, "3"]) -> tuple[tuple[float, float, float], float]:
    strength = float(linear.max())
    r, g, b = srgb_from_linear(torch.from_numpy(linear / strength)).clamp(0, 1).tolist()
    return (r, g, b), strength


def find_sun(shapes: Sequence[Shaped], seen: Seen, *, seed: int = 0) -> Sun | None:
    """The light that explains best how places change, None where none explains much.

    Args:
        shapes: What stands in the light and casts shadows.
        seen: What pixels show of them.
        seed: Of the choice of places.
    """
    rows, place = _repeated(seen, np.random.default_rng(seed))
    linear = linear_from_srgb(torch.from_numpy(seen.rgb[rows])).numpy()
    bright = linear.mean(1)
    usable = bright > _DARKEST
    rows, linear, bright = rows[usable], linear[usable], bright[usable]
    place = np.unique(place[usable], return_inverse=True)[1].ravel()
    if len(rows) < 100:
        return None
    log = np.log(bright)
    before = _changes(log, place)
    if np.sqrt(before) < _LEAST_CHANGE:
        return None
    stiff = [s for s in shapes if s.bent is None]  # shadows of what bends take long to trace, and directions are many
    cosines = lit_by(stiff, seen, rows)
    ways = np.asarray(trimesh.creation.icosphere(2).vertices)
    best, toward, ratio = before, ways[0], 0.0
    for spread in (None, 8.0, 4.0, 2.0, 1.0):
        tried = ways if spread is None else _beside(toward, spread)
        for way in Bar(tried, desc="light", unit="direction"):
            light = cosines(way)
            left = [_changes(log - np.log1p(r * light), place) for r in _RATIOS]
            k = int(np.argmin(left))
            if left[k] < best:
                best, toward, ratio = left[k], way, float(_RATIOS[k])
    if 1 - best / before < _EXPLAINS:
        return None
    return _colored(toward, ratio, cosines(toward), linear, place, 1 - best / before)


def _repeated(seen: Seen, rng: np.random.Generator) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]:
    """Rows of places that several frames show, and the number of the place of each."""
    cell = np.floor(seen.p_obj / _SAME).astype(np.int64)
    keys = np.column_stack([seen.part.astype(np.int64), cell])
    order = rng.permutation(len(keys))
    _, number = np.unique(keys[order], axis=0, return_inverse=True)
    number = number.ravel()
    by_place = np.argsort(number, kind="stable")
    rows, number = order[by_place], number[by_place]
    rank = np.arange(len(number)) - np.flatnonzero(np.diff(number, prepend=-1))[number]
    count = np.bincount(number)
    change = np.zeros(len(count))
    log = np.log(np.maximum(seen.rgb[rows].mean(1), 0.05))
    mean = np.bincount(number, log) / count
    change = np.bincount(number, (log - mean[number]) ** 2) / count
    # Places that change say most; those of the others are kept so that no light is seen where none is.
    good = np.flatnonzero(count >= 3)
    weight = np.sqrt(change[good] + 1e-4)
    picked = rng.choice(good, min(_PLACES, len(good)), replace=False, p=weight / weight.sum()) if len(good) else good
    kept = np.isin(number, picked) & (rank < _TIMES)
    return rows[kept], np.unique(number[kept], return_inverse=True)[1].ravel()


def _changes(log: Float[np.ndarray, "m"], place: Int[np.ndarray, "m"]) -> float:
    """Mean square of what logarithms differ from the mean of their place, outliers cut."""
    count = np.bincount(place)
    off = log - (np.bincount(place, log) / count)[place]
    return float(np.minimum(off**2, _OUTLIER**2).mean())


def lit_by(
    shapes: Sequence[Shaped], seen: Seen, rows: Int[np.ndarray, "m"]
) -> Callable[[Float[np.ndarray, "3"]], Float[np.ndarray, "m"]]:
    """A function of a direction to a light: the cosines at which some places are lit, 0 in shadow."""
    p, normal, frame = seen.p_world[rows] + _OFFSET * seen.normal[rows], seen.normal[rows], seen.frame[rows]
    scenes = {t: composite_at(shapes, t) for t in np.unique(frame).tolist()} if shapes else {}

    def cosines(way: Float[np.ndarray, "3"]) -> Float[np.ndarray, "m"]:
        found = np.maximum(normal @ way, 0.0)
        for t, scene in scenes.items():
            at = np.flatnonzero((frame == t) & (found > 0))
            if len(at):
                aim = torch.from_numpy(way).expand(len(at), 3).contiguous()
                found[at[scene.occluded(Rays(torch.from_numpy(p[at]), aim)).numpy()]] = 0.0
        return found

    return cosines


def _beside(way: Float[np.ndarray, "3"], degrees: float) -> Float[np.ndarray, "8 3"]:
    """Directions so far from another."""
    a = np.cross(way, np.eye(3)[np.argmin(np.abs(way))])
    a /= np.linalg.norm(a)
    b, angle = np.cross(way, a), np.radians(degrees)
    around = np.arange(8) * np.pi / 4
    ring = np.cos(around)[:, None] * a + np.sin(around)[:, None] * b
    return np.cos(angle) * way + np.sin(angle) * ring


def _colored(
    toward: np.ndarray, ratio: float, light: np.ndarray, linear: np.ndarray, place: np.ndarray, explains: float
) -> Sun:
    """The light with a colour: the ratio of each channel that explains its changes best. A place that is lit as most lit places are
    looks its own albedo."""
    channels = []
    log = np.log(np.maximum(linear, 1e-3))
    for c in range(3):
        tried = ratio * np.geomspace(0.5, 2.0, 25)
        channels.append(tried[int(np.argmin([_changes(log[:, c] - np.log1p(r * light), place) for r in tried]))])
    ratios = np.array(channels)
    usual = float(np.median(light[light > 0])) if (light > 0).any() else 1.0
    everywhere = 1 / (1 + ratios * usual)
    return Sun(toward, everywhere * ratios, everywhere, explains)


def without_light(shapes: Sequence[Shaped], seen: Seen, sun: Sun, unlit: Bool[np.ndarray, "p"]) -> Seen:
    """What pixels show with the light taken out: albedo in place of colour. Places at the edges of shadows are left out.

    Args:
        unlit: Parts whose colours hold their light.
    """
    cosines = lit_by(shapes, seen, np.arange(len(seen.part)))
    light = cosines(sun.toward)
    edge = np.zeros(len(light), bool)
    for way in _beside(sun.toward, _EDGE_DEG)[::2]:
        edge |= (cosines(way) > 0) != (light > 0)
    linear = linear_from_srgb(torch.from_numpy(seen.rgb)).numpy()
    albedo = linear / (sun.everywhere + light[:, None] * sun.direct)
    rgb = srgb_from_linear(torch.from_numpy(np.clip(albedo, 0, 1))).numpy()
    kept = unlit[seen.part]
    rgb = np.where(kept[:, None], seen.rgb, rgb)
    rows = np.flatnonzero(kept | ~edge)
    return Seen(*(column[rows] for column in seen._replace(rgb=rgb)))
