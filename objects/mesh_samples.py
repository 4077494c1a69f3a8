"""How meshes are learned, and the samples of distance that are drawn of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from objects.learned import in_box
from objects.mesh import THICKNESS, MeshSource
from objects.siren import SirenField
from objects.siren_layout import NetworkConfig
from objects.solid import FACING

_HELD_OUT = 4096  # samples that are never learned from


@dataclass(frozen=True)
class DescentConfig(NetworkConfig):
    """What a training step of distance networks is; lengths are shares of half of the longest edge of the box.

    Attributes:
        width ... color_omega_first: The networks (see `NetworkConfig`).
        batch: Points a step for each network; ``surface`` is the share of them that lies on the surface.
        learning_rate: Peak rate; ``matrix_rate`` that of the square matrices, which Muon learns, as a multiple of it.
        falloff: The loss weighs an error at distance d by falloff / (falloff + |d|).
        normal_weight: What an error of 1 in the gradient at the surface weighs beside an error of 1 in the distance.
    """

    batch: int = 2048
    surface: float = 0.5
    learning_rate: float = 2.5e-3
    matrix_rate: float = 1.2
    falloff: float = 0.2
    normal_weight: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.surface < 1:
            raise ValueError(f"surface: expected a share of the batch between 0 and 1, got {self.surface}")
        if not self.falloff > 0:
            raise ValueError(f"falloff: expected a distance above 0, got {self.falloff}")


@dataclass(frozen=True)
class FitConfig(DescentConfig):
    """How meshes are learned; lengths are shares of half of the longest edge of the box.

    Attributes:
        width ... color_omega_first: The networks (see `NetworkConfig`).
        batch ... normal_weight: A step (see `DescentConfig`).
        steps: Training steps, ``warm_steps`` of them when a field to start from is given.
        color_batch, color_rate: Points a step for each colour network, and its rate as a multiple of the peak rate.
        padding: Space between the object and its box, as a share of the object's longest edge.
        surface_pool: Samples on the surface, drawn once for each mesh.
        pool: Samples off the surface, likewise: in the shares ``near`` (normal noise of ``near_sigma``
            about the surface), ``mid`` (likewise), and the rest uniform in the box.
        color_parts: Most networks that share the appearance of one mesh (see `objects.coloring`), each of ``color_width``.
        color_pool, color_sigma: Colour samples of a mesh, and their noise about the surface.
        color_samples: Samples of each network; where it has fewer, they are repeated.
        color_steps: Steps in which colours are learned, as a share of those for distances (at most 40 passes over the samples).
        color_matrix_rate: As ``matrix_rate``, of the colour networks.
        spread, usual_deg: An object whose normals are ``usual_deg`` off after a fifth of ``steps`` gets ``steps`` in all; others
            get more or fewer in proportion, at most ``spread`` times as many and at least that part of them (1: all the same).
        mend_rounds, mend_steps, mend_rate, mend_share: A result with other parts than its source learns on, so many times at
            most, for this share of the steps, at this share of the rate, with this share of its samples drawn about the flaws.
        facing, thickness, origin: How meshes are understood (see `objects.mesh.read_mesh`). A field lives in the frame of its
            file moved by ``-origin``.
    """

    width: int = 58
    layers: int = 4
    color_width: int = 32
    color_omega_first: float = 35.0
    steps: int = 3200
    warm_steps: int = 1100
    color_batch: int = 512
    color_rate: float = 1.4
    padding: float = 0.05
    surface_pool: int = 131_072
    pool: int = 65_536
    near: float = 0.36
    near_sigma: float = 0.01
    mid: float = 0.2
    mid_sigma: float = 0.06
    color_parts: int = 14
    color_pool: int = 393_216
    color_samples: int = 32_768
    color_sigma: float = 0.003
    color_steps: float = 0.55
    color_matrix_rate: float = 1.2
    spread: float = 2.0
    usual_deg: float = 6.0
    mend_rounds: int = 3
    mend_steps: float = 0.25
    mend_rate: float = 0.15
    mend_share: float = 0.1
    facing: str = "auto"
    thickness: float = THICKNESS
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def of(cls, quality: str = "normal", **settings: Any) -> Self:
        """The configuration of a quality, one of `QUALITIES`; ``settings`` by name take the place of its own.

        Raises:
            ValueError: No such quality.
        """
        if quality not in QUALITIES:
            raise ValueError(f"quality: expected {', '.join(QUALITIES)}, got {quality!r}")
        return cls(**QUALITIES[quality] | settings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.near, self.mid) < 0 or self.near + self.mid >= 1:
            raise ValueError("FitConfig: near and mid must be shares that leave some for the uniform samples")
        if not (1 <= self.batch <= min(self.pool, self.surface_pool) and 1 <= self.color_batch <= self.color_samples):
            raise ValueError(
                "FitConfig: batch and color_batch must be at least 1 and at most the pools and color_samples"
            )
        if not self.padding > 0:
            raise ValueError(f"FitConfig: padding must be above 0, got {self.padding}")
        if not (self.spread >= 1 and self.usual_deg > 0):
            raise ValueError(
                f"FitConfig: expected a spread of at least 1 and a usual_deg above 0, got {self.spread} and {self.usual_deg}"
            )
        if self.facing not in FACING:
            raise ValueError(f"facing: expected {', '.join(FACING)}, got {self.facing!r}")
        if not 0 < self.thickness < 1:
            raise ValueError(f"thickness: expected a share of the longest edge between 0 and 1, got {self.thickness}")


# What differs from the defaults, which are the quality ``normal``.
QUALITIES: dict[str, dict[str, Any]] = {
    "draft": {"steps": 800, "warm_steps": 400, "spread": 1.0, "mend_rounds": 1},
    "normal": {},
    "fine": {
        "width": 96,
        "color_parts": 16,
        "color_pool": 786_432,
        "color_samples": 65_536,
        "color_steps": 0.2,
        "steps": 12_000,
        "warm_steps": 4_000,
        "surface_pool": 262_144,
        "pool": 131_072,
    },
}


@dataclass(frozen=True, eq=False)
class Pool:
    """Samples of one mesh in random order, in the coordinates of its networks: on the surface with its normals, elsewhere with
    signed distances and what an error there weighs; and some on the surface that are held out of learning. ``extent`` is the
    longest edge of the object."""

    surface_x: Float[Tensor, "s 3"]
    normal: Float[Tensor, "s 3"]
    x: Float[Tensor, "n 3"]
    distance: Float[Tensor, "n 1"]
    weight: Float[Tensor, "n"]
    held_x: Float[Tensor, "h 3"]
    held_normal: Float[Tensor, "h 3"]
    extent: float


def draw_pool(source: MeshSource, field: SirenField, config: FitConfig, seed: int) -> Pool:
    """Samples of a mesh for a field whose box it stands in; the same seed draws the same."""
    rng = np.random.default_rng(seed)
    center, half = field.center.double().numpy(), float(field.half_extent)
    lo, hi = field.box_lo.double().numpy(), field.box_hi.double().numpy()
    n_near, n_mid = round(config.near * config.pool), round(config.mid * config.pool)
    n_uniform = config.pool - n_near - n_mid
    on_surface, outwards = source.sample(config.surface_pool, rng)
    near, mid = source.sample(n_near, rng)[0], source.sample(n_mid, rng)[0]
    near = near + rng.normal(0, config.near_sigma * half, near.shape)
    mid = mid + rng.normal(0, config.mid_sigma * half, mid.shape)
    off_surface = np.clip(np.concatenate([near, mid, in_box(lo, hi, n_uniform, rng)]), lo, hi)
    distance = source.signed_distance(off_surface)
    on, off = rng.permutation(len(on_surface)), rng.permutation(len(off_surface))
    held_out, held_normal = source.sample(_HELD_OUT, np.random.default_rng((seed, _HELD_OUT)))
    return Pool(
        _tensor((on_surface[on] - center) / half),
        _tensor(outwards[on]),
        _tensor((off_surface[off] - center) / half),
        _tensor(distance[off, None] / half),
        _tensor(config.falloff / (config.falloff + np.abs(distance[off]) / half)),
        _tensor((held_out - center) / half),
        _tensor(held_normal),
        source.extent / half,
    )


def with_hard(
    pool: Pool, field: SirenField, p_obj: np.ndarray, distance: np.ndarray, falloff: float, rng: np.random.Generator
) -> Pool:
    """The pool with some of its samples off the surface exchanged for others."""
    center, half = field.center.double().numpy(), float(field.half_extent)
    x, d, weight = pool.x.clone(), pool.distance.clone(), pool.weight.clone()
    at = torch.from_numpy(rng.permutation(len(x))[: len(p_obj)])
    x[at], d[at] = _tensor((p_obj - center) / half), _tensor(distance[:, None] / half)
    weight[at] = falloff / (falloff + d[at, 0].abs())
    return replace(pool, x=x, distance=d, weight=weight)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def cut(n: int, batch: int, generator: torch.Generator) -> slice:
    """So many samples in a row of ``n``, from a random one on."""
    at = int(torch.randint(n - batch + 1, (), generator=generator))
    return slice(at, at + batch)
