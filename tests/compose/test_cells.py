import numpy as np
import pytest
import torch

from compose.cells import Cells, build_cells, cells_of
from objects import SirenField
from objects.aabb import Aabb
from objects.field import Field, FieldSample
from objects.primitives import Box, Sphere


@pytest.fixture(scope="module")
def indexed(fields):
    return [(field, build_cells(field)) for field in fields]


def _read(cells, ijk):
    """By a way of its own, what the index says of cells ``ijk [n, 3]``: whether they have a plane, whether they are inside, and the
    plane's middle, gradient and bound."""
    block = cells.block[tuple((ijk // 4).T)].astype(np.int64)
    bit = (ijk % 4) @ [16, 4, 1]
    masks = [[(int(m) >> b) & 1 for b in range(64)] for m in cells.mask] or [[0] * 64]
    insides = [[(int(m) >> b) & 1 for b in range(64)] for m in cells.inside] or [[0] * 64]
    masks, insides = np.array(masks), np.array(insides)
    mixed = np.maximum(block, 0)
    has = (block >= 0) & (masks[mixed, bit] == 1)
    inside = np.where(block >= 0, insides[mixed, bit] == 1, (-1 - block) % 2 == 1)
    before = np.cumsum(masks, 1) - masks
    row = np.where(has, (cells.first[mixed] if len(cells.first) else 0) + before[mixed, bit], 0)
    plane = cells.plane[row]
    bound = (plane[:, 3].astype(np.int64) % 256) * cells.unit[1]
    middle = plane[:, 5].astype(np.int64) * 256 + plane[:, 4].astype(np.int64) % 256
    return has, inside, middle * cells.unit[2], plane[:, :3] * cells.unit[0], bound


def _random_points(field, cells, n, seed):
    """Points of the box, their cells and their places in them from the middle, object units."""
    shape = 4 * np.array(cells.block.shape)
    u = np.random.default_rng(seed).uniform(0, 1, (n, 3)) * shape
    ijk = np.minimum(u.astype(np.int64), shape - 1)
    return field.box_lo.double().numpy() + u * cells.cell, ijk, (u - ijk - 0.5) * cells.cell


def test_cells_fill_the_box_and_fit_the_budget(indexed):
    for field, cells in indexed:
        size = 4 * np.array(cells.block.shape) * cells.cell
        np.testing.assert_allclose(size, (field.box_hi - field.box_lo).double().numpy(), rtol=1e-6)
        assert cells.nbytes < 120_000, field.kind
        assert len(cells.plane) == sum(int(m).bit_count() for m in cells.mask)


def test_the_bound_holds_at_random_points_of_cells_that_may_hold_surface(indexed):
    """The bound is sampled, so it is no proof; here it must hold at each of 200,000 points of each field."""
    for seed, (field, cells) in enumerate(indexed):
        p, ijk, offset = _random_points(field, cells, 200_000, seed)
        has, _, middle, gradient, bound = _read(cells, ijk)
        assert has.sum() > 300
        plane = middle + (gradient * offset).sum(1)
        deviation = np.abs(field.in_double().sdf(torch.from_numpy(p[has])).detach().numpy() - plane[has])
        assert (deviation / bound[has]).max() < 1, field.kind


def test_cells_that_are_skipped_lie_on_one_side(indexed):
    for seed, (field, cells) in enumerate(indexed):
        p, ijk, _ = _random_points(field, cells, 100_000, 100 + seed)
        has, inside, *_ = _read(cells, ijk)
        negative = field.in_double().sdf(torch.from_numpy(p)).detach().numpy() < 0
        assert 0.5 < (~has).mean() < 1 and np.array_equal(negative[~has], inside[~has])


def test_free_blocks_know_how_far_the_nearest_surface_is(indexed):
    for _, cells in indexed:
        mixed = np.argwhere(cells.block >= 0)
        free = np.argwhere(cells.block < 0)
        for block in free[np.random.default_rng(0).integers(0, len(free), 200)]:
            away = (-1 - int(cells.block[tuple(block)])) // 2
            assert away == np.abs(mixed - block).max(1).min()


def test_a_field_without_surface_is_skipped_whole():
    far = Sphere(0.1)
    far.box_lo, far.box_hi = torch.full((3,), 1.0), torch.full((3,), 2.0)
    cells = build_cells(far)
    assert (cells.block == -1 - 2 * 255).all() and len(cells.plane) == 0


def test_a_flat_box_gets_at_least_twelve_cells_across():
    cells = build_cells(Box([1.0, 1.0, 0.01]))
    assert 4 * min(cells.block.shape) >= 12 and len(cells.plane) > 0


def test_assets_are_packed_one_after_another(indexed):
    packed = Cells.of([cells for _, cells in indexed])
    for a, (_, cells) in enumerate(indexed):
        mixed = packed.mixed_at[a]
        np.testing.assert_array_equal(packed.mask[mixed : mixed + len(cells.mask)], cells.mask)
        at = packed.plane_at[a]
        np.testing.assert_array_equal(packed.plane[at : at + len(cells.plane)], cells.plane)
        at = packed.block_at[a]
        np.testing.assert_array_equal(packed.block[at : at + cells.block.size], cells.block.ravel())
    assert Cells.of([]).plane.shape == (0, 6)


def test_an_index_is_made_once_and_again_when_weights_change():
    half = torch.full((3,), 0.5)
    field = SirenField(Aabb(-half, half), width=8, layers=1, color_width=8, color_layers=1)
    first = cells_of(field, None)
    assert cells_of(field, None) is first
    with torch.no_grad():
        field.distance.linears[-1].bias.add_(0.1)
    second = cells_of(field, None)
    assert second is not first and not np.array_equal(second.plane, first.plane)


class Growing(Field):
    """A ball whose radius is a tenth of its age."""

    def __init__(self):
        super().__init__(Aabb(-torch.ones(3), torch.ones(3)))

    def inside(self, p_obj, time):
        return FieldSample(p_obj.norm(dim=-1) - 0.1 * time, torch.ones_like(p_obj), p_obj[:, :0])


def test_each_time_has_an_index_of_its_own():
    field = Growing()
    early, late = cells_of(field, 1.0), cells_of(field, 3.0)
    assert cells_of(field, 1.0) is early
    assert len(late.mask) > 2 * len(early.mask)


def test_an_index_kept_in_the_cache_folder_is_the_one_that_would_be_built(tmp_path, monkeypatch):
    monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path))
    first = cells_of(Sphere(0.31), None)
    (file,) = (tmp_path / "cells").iterdir()
    built = []
    monkeypatch.setattr("compose.cells.build_cells", lambda *a: built.append(a) or build_cells(*a))

    def same(a, b):
        return all(
            x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
        )

    assert same(cells_of(Sphere(0.31), None), first)
    assert built == []
    for damage in (b"", b"x" * 100, file.read_bytes()[:-7]):
        file.write_bytes(damage)
        assert same(cells_of(Sphere(0.31), None), first)
    assert len(built) == 3
    cells_of(Sphere(0.32), None)
    assert len(list((tmp_path / "cells").iterdir())) == 2


class _Mine(Sphere):
    """Has the numbers of a sphere, but is none."""

    def inside_sdf(self, p_obj, time):
        return p_obj.abs().amax(-1) - 0.5 * self.radius


def test_fields_of_ones_own_making_are_never_taken_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path))
    sphere, mine = cells_of(Sphere(0.3), None), cells_of(_Mine(0.3), None)
    assert not np.array_equal(sphere.plane, mine.plane)
    assert len(list((tmp_path / "cells").iterdir())) == 1


def test_a_field_that_is_not_finite_is_refused():
    class Broken(Sphere):
        def inside_sdf(self, p_obj, time):
            return torch.where(p_obj[:, 0] > 0.2, torch.nan, super().inside_sdf(p_obj, time))

    with pytest.raises(ValueError, match="Broken: expected finite distances"):
        build_cells(Broken(0.3))


def test_planes_of_a_ball_are_its_tangents():
    """Against the closed form: the plane's gradient is the direction from the middle, to the bend of the surface in a cell."""
    ball = Sphere(0.4)
    cells = build_cells(ball)
    p, ijk, offset = _random_points(ball, cells, 50_000, 0)
    has, _, middle, gradient, _ = _read(cells, ijk)
    centre = (p - offset)[has]
    radius = np.linalg.norm(centre, axis=1)
    np.testing.assert_allclose(gradient[has], centre / radius[:, None], atol=0.03)
    np.testing.assert_allclose(middle[has], radius - 0.4, atol=0.03 * cells.cell.max())
