"""How meshes are learned, and the samples of distance that are drawn of each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from objects.learned import in_box
from objects.mesh import THICKNESS, MeshSource
from objects.siren import SirenField
from objects.siren_layout import NetworkConfig
from objects.solid import FACING


@dataclass(frozen=True)
class FitConfig(NetworkConfig):
    """How meshes are learned; lengths are shares of half of the longest edge of the box.

    Attributes:
        width ... color_omega_first: The networks (see `NetworkConfig`).
        steps: Training steps, ``warm_steps`` of them when a field to start from is given.
        batch, color_batch: Points a step for each network.
        learning_rate, color_rate: Peak rate, and the colour network's as a multiple of it.
        padding: Space between the object and its box, as a share of the object's longest edge.
        pool: Distance samples drawn once for each mesh, in the shares ``surface``, ``near`` (normal noise of ``near_sigma``
            about the surface), ``mid`` (likewise), and the rest uniform in the box. A batch has the same share of the surface.
        normal_weight: What an error of 1 in the gradient at the surface weighs beside an error of 1 in the distance.
        matrix_rate: Rate of the square matrices, which Muon learns, as a multiple of the learning rate.
        color_pool, color_sigma: Colour samples, and their noise about the surface.
        color_steps: Steps in which colours are learned, as a share of those for distances.
        falloff: The loss weighs an error at distance d by falloff / (falloff + |d|).
        mend_rounds, mend_steps, mend_rate, mend_share: A result with other parts than its source learns on, so many times at
            most, for this share of the steps, at this share of the rate, with this share of its samples drawn about the flaws.
        facing, thickness, origin: How meshes are understood (see `objects.mesh.read_mesh`). A field lives in the frame of its
            file moved by ``-origin``.
    """

    width: int = 72
    color_omega_first: float = 35.0
    steps: int = 2240
    warm_steps: int = 800
    batch: int = 2048
    color_batch: int = 1024
    learning_rate: float = 2.5e-3
    color_rate: float = 1.0
    padding: float = 0.05
    pool: int = 131_072
    surface: float = 0.5
    near: float = 0.18
    near_sigma: float = 0.01
    mid: float = 0.1
    mid_sigma: float = 0.06
    color_pool: int = 98_304
    color_sigma: float = 0.003
    color_steps: float = 1.0
    falloff: float = 0.4
    normal_weight: float = 0.2
    matrix_rate: float = 1.2
    mend_rounds: int = 3
    mend_steps: float = 0.25
    mend_rate: float = 0.15
    mend_share: float = 0.05
    facing: str = "auto"
    thickness: float = THICKNESS
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if min(self.surface, self.near, self.mid) < 0 or self.surface + self.near + self.mid >= 1:
            raise ValueError("FitConfig: surface, near and mid must be shares that leave some for the uniform samples")
        if not (1 <= self.batch <= self.pool and 1 <= self.color_batch <= self.color_pool):
            raise ValueError("FitConfig: batch and color_batch must be at least 1 and at most pool and color_pool")
        if not (self.padding > 0 and self.falloff > 0):
            raise ValueError(f"FitConfig: padding and falloff must be above 0, got {self.padding} and {self.falloff}")
        if self.facing not in FACING:
            raise ValueError(f"facing: expected {', '.join(FACING)}, got {self.facing!r}")
        if not 0 < self.thickness < 1:
            raise ValueError(f"thickness: expected a share of the longest edge between 0 and 1, got {self.thickness}")


@dataclass(frozen=True, eq=False)
class Pool:
    """Samples of one mesh in random order, in the coordinates of its networks: on the surface with its normals, elsewhere with
    signed distances."""

    surface_x: Float[Tensor, "s 3"]
    normal: Float[Tensor, "s 3"]
    x: Float[Tensor, "n 3"]
    distance: Float[Tensor, "n 1"]


def draw_pool(source: MeshSource, field: SirenField, config: FitConfig, seed: int) -> Pool:
    """Samples of a mesh for a field whose box it stands in; the same seed draws the same."""
    rng = np.random.default_rng(seed)
    center, half = field.center.double().numpy(), float(field.half_extent)
    lo, hi = field.box_lo.double().numpy(), field.box_hi.double().numpy()
    n_surface, n_near, n_mid = (round(share * config.pool) for share in (config.surface, config.near, config.mid))
    n_uniform = config.pool - n_surface - n_near - n_mid
    on_surface, outwards = source.sample(n_surface, rng)
    near, mid = source.sample(n_near, rng)[0], source.sample(n_mid, rng)[0]
    near = near + rng.normal(0, config.near_sigma * half, near.shape)
    mid = mid + rng.normal(0, config.mid_sigma * half, mid.shape)
    off_surface = np.clip(np.concatenate([near, mid, in_box(lo, hi, n_uniform, rng)]), lo, hi)
    distance = source.signed_distance(off_surface)
    on, off = rng.permutation(n_surface), rng.permutation(len(off_surface))

    return Pool(
        _tensor((on_surface[on] - center) / half),
        _tensor(outwards[on]),
        _tensor((off_surface[off] - center) / half),
        _tensor(distance[off, None] / half),
    )


def with_hard(pool: Pool, field: SirenField, p_obj: np.ndarray, distance: np.ndarray, rng: np.random.Generator) -> Pool:
    """The pool with some of its samples off the surface exchanged for others."""
    center, half = field.center.double().numpy(), float(field.half_extent)
    x, d = pool.x.clone(), pool.distance.clone()
    at = torch.from_numpy(rng.permutation(len(x))[: len(p_obj)])
    x[at], d[at] = _tensor((p_obj - center) / half), _tensor(distance[:, None] / half)
    return replace(pool, x=x, distance=d)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def cut(n: int, batch: int, generator: torch.Generator) -> slice:
    """So many samples in a row of ``n``, from a random one on."""
    at = int(torch.randint(n - batch + 1, (), generator=generator))
    return slice(at, at + batch)
