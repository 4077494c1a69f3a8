"""Fields and random scenes that the tests of compose share."""

import contextlib

import pytest
import torch

from compose import Composite, Instance, Rays
from objects import SE3, Aabb, SirenField
from objects.field import Union
from objects.placed import Placed
from objects.primitives import Box, Capsule, Cylinder, Sphere, Torus


@contextlib.contextmanager
def _one_thread():
    """Nothing here is large enough for torch to gain by a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def _one_thread_for_all():
    with _one_thread():
        yield


def _tiny_siren(shape, *, width, layers, seed, feature_width=0):
    """A SIREN taught for a moment: rough, but positive on the faces of its box."""
    bounds = Aabb(torch.full((3,), -0.5), torch.full((3,), 0.5))
    field = SirenField(
        bounds, width=width, layers=layers, color_width=16, color_layers=1, feature_width=feature_width, omega_first=8.0,
        omega_hidden=20.0, seed=seed,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(field.distance.parameters(), lr=3e-3)
    for _ in range(120):
        p = torch.rand(512, 3, generator=generator) - 0.5
        optimizer.zero_grad()
        (field.sdf(p) - shape.sdf(p)).abs().mean().backward()
        optimizer.step()
    return field.requires_grad_(False)


@pytest.fixture(scope="session")
def sirens():
    """Three of two shapes of network: two are evaluated in one call, one alone."""
    ring, pill = Torus(0.3, 0.1), Placed(Capsule(0.15, 0.3), SE3.from_axis_angle([1.0, 0.3, 0.0], 0.7))
    with _one_thread():
        return [
            _tiny_siren(ring, width=24, layers=2, seed=1),
            _tiny_siren(pill, width=24, layers=2, seed=2),
            _tiny_siren(ring | Sphere(0.2), width=16, layers=3, seed=3, feature_width=4),
        ]


@pytest.fixture(scope="session")
def solids():
    """Primitives and set operations, with 0 to 5 feature channels."""
    ball, brick = Sphere(0.3, (0.9, 0.1, 0.2), [0.5, -1.0]), Box([0.5, 0.3, 0.4], 0.05, (0.1, 0.8, 0.3))
    ring, can = Torus(0.3, 0.1, (0.2, 0.3, 0.9), [1.0, 2.0, 3.0]), Cylinder(0.2, 0.5, (0.7, 0.6, 0.1))
    shifted = Placed(Sphere(0.2, (1, 1, 0), [1.0, 2.0, 3.0, 4.0, 5.0]), SE3.from_translation([0.15, 0.1, 0.1]))
    return [
        ball, brick, ring, can, Capsule(0.15, 0.3), Sphere(0.25), brick - shifted, ball & brick, ring | shifted,
        Union(can, ring, smooth=0.1),
    ]  # fmt: skip


@pytest.fixture(scope="session")
def fields(solids, sirens):
    return solids + sirens


@pytest.fixture(scope="session")
def random_instances():
    """`(fields, m, seed, spread) -> instances`: fields at random, turned, scaled by 0.3 to 2, centres in a cube of edge
    ``2 * spread``; ``spread=None`` keeps about two boxes over each place."""

    def make(fields, m, seed, spread=None):
        g = torch.Generator().manual_seed(seed)
        spread = 0.5 * m ** (1 / 3) if spread is None else spread
        out = []
        for k in range(m):
            field = fields[int(torch.randint(len(fields), (1,), generator=g))]
            quat = torch.randn(4, generator=g, dtype=torch.float64)
            translation = spread * (2 * torch.rand(3, generator=g, dtype=torch.float64) - 1)
            scale = float(0.3 + 1.7 * torch.rand(1, generator=g) ** 2)
            out.append(Instance(f"object {k}", field, SE3(quat, translation), scale))
        return out

    return make


@pytest.fixture(scope="session")
def random_rays():
    """`(instances, n, seed) -> rays` towards the scene: half from a sphere around it, half from points within."""

    def make(instances, n, seed):
        g = torch.Generator().manual_seed(seed)
        bounds = Composite(instances).bounds
        target = bounds.lo + bounds.size * torch.rand(n, 3, generator=g, dtype=torch.float64)
        origins = bounds.lo + bounds.size * torch.rand(n, 3, generator=g, dtype=torch.float64)
        around = torch.nn.functional.normalize(torch.randn(n, 3, generator=g, dtype=torch.float64), dim=-1)
        half = torch.arange(n) < n // 2
        origins[half] = (bounds.center + bounds.diagonal * around)[half]
        return Rays(origins, torch.nn.functional.normalize(target - origins, dim=-1))

    return make
