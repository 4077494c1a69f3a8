import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator

from compose.grid import build_grid, grid_of
from objects import SirenField
from objects.aabb import Aabb
from objects.field import Field, FieldSample
from objects.primitives import Box, Sphere


@pytest.fixture(scope="module")
def gridded(fields):
    return [(field, build_grid(field)) for field in fields]


def _random_points(grid, n, seed):
    """Points in the box, their values by trilinear interpolation (scipy's), and their cells."""
    shape = np.array(grid.bound.shape)
    u = np.random.default_rng(seed).uniform(0, 1, (n, 3)) * shape
    axes = [np.arange(k + 1.0) for k in shape]
    interpolated = RegularGridInterpolator(axes, grid.value.astype(np.float64))(u)
    return grid.lo + u * grid.cell, interpolated, tuple(np.minimum(u.astype(int), shape - 1).T)


def test_vertices_hold_the_field_and_cells_fill_the_box(gridded):
    for field, grid in gridded:
        shape = np.array(grid.bound.shape)
        assert max(shape) == 48 and grid.value.shape == tuple(shape + 1)
        np.testing.assert_allclose(grid.lo + shape * grid.cell, field.box_hi.double().numpy(), rtol=1e-6)
        corner = np.stack(np.meshgrid(*(np.arange(k + 1) for k in shape), indexing="ij"), -1).reshape(-1, 3)
        p = torch.from_numpy(grid.lo + corner * grid.cell).float()
        np.testing.assert_allclose(grid.value.ravel(), field.sdf(p).detach().numpy(), atol=1e-6)


def test_the_bound_holds_at_random_points_of_cells_that_may_hold_surface(gridded):
    """The bound is sampled, so it is no proof; here it must hold at each of 100,000 points of each field."""
    for k, (field, grid) in enumerate(gridded):
        p, interpolated, cell = _random_points(grid, 100_000, seed=k)
        deviation = np.abs(field.in_double().sdf(torch.from_numpy(p)).detach().numpy() - interpolated)
        surface = grid.skip[cell] == 0
        assert surface.sum() > 100
        assert (deviation / grid.bound[cell])[surface].max() < 1, field.kind


def test_cells_that_are_skipped_hold_no_change_of_sign(gridded):
    for k, (field, grid) in enumerate(gridded):
        p, _, cell = _random_points(grid, 100_000, seed=100 + k)
        negative = field.in_double().sdf(torch.from_numpy(p)).detach().numpy() < 0
        x, y, z = cell
        skipped = grid.skip[cell] > 0
        assert skipped.any() and np.array_equal(negative[skipped], (grid.value[x, y, z] < 0)[skipped])


def test_skip_is_the_distance_to_the_nearest_cell_that_may_hold_surface(gridded):
    for _, grid in gridded:
        surface = np.argwhere(grid.skip == 0)
        for cell in np.random.default_rng(0).integers(0, grid.skip.shape, (200, 3)):
            assert grid.skip[tuple(cell)] == np.abs(surface - cell).max(1).min()


def test_a_field_without_surface_is_skipped_whole():
    far = Sphere(0.1)
    far.box_lo, far.box_hi = torch.full((3,), 1.0), torch.full((3,), 2.0)
    assert (build_grid(far).skip == 255).all()


def test_a_flat_box_gets_at_least_twelve_cells_across():
    grid = build_grid(Box([1.0, 1.0, 0.01]))
    assert min(grid.skip.shape) >= 12 and (grid.skip == 0).any()


def test_a_grid_is_made_once_and_again_when_weights_change():
    half = torch.full((3,), 0.5)
    field = SirenField(Aabb(-half, half), width=8, layers=1, color_width=8, color_layers=1)
    first = grid_of(field, None)
    assert grid_of(field, None) is first
    with torch.no_grad():
        field.distance.linears[-1].bias.add_(0.1)
    second = grid_of(field, None)
    assert second is not first and np.abs(second.value - first.value).mean() == pytest.approx(0.05, rel=1e-4)


class Growing(Field):
    """A ball whose radius is a tenth of its age."""

    def __init__(self):
        super().__init__(Aabb(-torch.ones(3), torch.ones(3)))

    def inside(self, p_obj, time):
        return FieldSample(p_obj.norm(dim=-1) - 0.1 * time, torch.ones_like(p_obj), p_obj[:, :0])


def test_each_time_has_a_grid_of_its_own():
    field = Growing()
    early, late = grid_of(field, 1.0), grid_of(field, 3.0)
    assert grid_of(field, 1.0) is early
    np.testing.assert_allclose(early.value - late.value, 0.2, atol=1e-6)


def test_a_grid_kept_in_the_cache_folder_is_the_one_that_would_be_built(tmp_path, monkeypatch):
    monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path))
    first = grid_of(Sphere(0.31), None)
    (file,) = (tmp_path / "grids").iterdir()
    built = []
    monkeypatch.setattr("compose.grid.build_grid", lambda *a: built.append(a) or build_grid(*a))

    def same(a, b):
        arrays = ((getattr(a, name), getattr(b, name)) for name in ("lo", "cell", "value", "bound", "skip"))
        return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in arrays) and a.lipschitz == b.lipschitz

    assert same(grid_of(Sphere(0.31), None), first)
    assert built == []
    for damage in (b"", b"x" * 100, file.read_bytes()[:-7]):
        file.write_bytes(damage)
        assert same(grid_of(Sphere(0.31), None), first)
    assert len(built) == 3
    grid_of(Sphere(0.32), None)
    assert len(list((tmp_path / "grids").iterdir())) == 2


class _Mine(Sphere):
    """Has the numbers of a sphere, but is none."""

    def inside_sdf(self, p_obj, time):
        return p_obj.abs().amax(-1) - 0.5 * self.radius


def test_fields_of_ones_own_making_are_never_taken_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path))
    sphere, mine = grid_of(Sphere(0.3), None), grid_of(_Mine(0.3), None)
    assert not np.array_equal(sphere.value, mine.value)
    assert len(list((tmp_path / "grids").iterdir())) == 1
