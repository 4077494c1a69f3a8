import copy

import numpy as np
import pytest
import torch

from compose.batch import FieldBatch
from compose.cells import build_cells, cells_of, joined_cells, keep_cells
from compose.distance_weights import evaluation_error
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


def _same(a, b):
    return all(
        x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


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


def test_planes_and_inside_are_unpacked(indexed):
    for _, cells in indexed:
        ijk = np.argwhere(np.ones(4 * np.array(cells.block.shape), dtype=bool))
        has, inside, *want = _read(cells, ijk)
        np.testing.assert_array_equal(cells.inside_cells().ravel(), inside)
        place, gradient, middle, bound = cells.planes()
        order = np.lexsort(place.T[::-1])
        np.testing.assert_array_equal(place[order], ijk[has])
        for got, all_of in zip((middle, gradient, bound), want, strict=True):
            np.testing.assert_array_equal(got[order], all_of[has])


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
    assert len(cells.planes()[0]) == 0 and not cells.inside_cells().any()


def test_a_flat_box_gets_at_least_twelve_cells_across():
    cells = build_cells(Box([1.0, 1.0, 0.01]))
    assert 4 * min(cells.block.shape) >= 12 and len(cells.plane) > 0


def test_assets_are_packed_one_after_another(indexed):
    packed = joined_cells([cells for _, cells in indexed], [False] * len(indexed))
    for a, (_, cells) in enumerate(indexed):
        mixed = packed.mixed_at[a]
        np.testing.assert_array_equal(packed.mask[mixed : mixed + len(cells.mask)], cells.mask)
        at = packed.plane_at[a]
        np.testing.assert_array_equal(packed.plane[at : at + len(cells.plane)], cells.plane)
        at = packed.block_at[a]
        np.testing.assert_array_equal(packed.block[at : at + cells.block.size], cells.block.ravel())
    assert joined_cells([], []).plane.shape == (0, 6)


def test_an_index_is_made_once_and_again_when_weights_change():
    half = torch.full((3,), 0.5)
    field = SirenField(Aabb(-half, half), width=8, layers=1, color_width=8, color_layers=1)
    first = cells_of(field, None)
    assert cells_of(field, None) is first
    with torch.no_grad():
        field.distance.linears[-1].bias.add_(0.1)
    second = cells_of(field, None)
    assert second is not first and not np.array_equal(second.plane, first.plane)


def test_an_index_outlives_a_change_of_colours_and_is_found_again():
    half = torch.full((3,), 0.5)
    field = SirenField(Aabb(-half, half), width=8, layers=1, color_width=8, color_layers=1, seed=3)
    first = cells_of(field, None)
    with torch.no_grad():
        field.whole_appearance.last.bias.add_(0.1)
    assert cells_of(field, None) is first
    keep_cells(field)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compose.cells.build_cells", None)  # it is not made again
        assert _same(cells_of(copy.deepcopy(field), None), first)


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
    assert _same(cells_of(Sphere(0.31), None), first)
    assert built == []
    for damage in (b"", b"x" * 100, file.read_bytes()[:-7]):
        file.write_bytes(damage)
        assert _same(cells_of(Sphere(0.31), None), first)
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


# -- certified -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def few_cells(monkeypatch):
    """Certified indices of at most about 50 cells along an edge: a second each."""
    monkeypatch.setattr("compose.certified_cells.BYTES", 20_000)


def _random_siren(width, layers, omega, offset, seed):
    """Weights as they are before learning, moved so that the middle of the box lies on the surface."""
    center, half = torch.tensor([1.0, -0.7, 0.4]) * offset, torch.tensor([0.5, 0.8, 0.3])
    field = SirenField(
        Aabb(center - half, center + half), width=width, layers=layers, color_width=1, color_layers=1, omega_first=omega,
        omega_hidden=omega, seed=seed,
    )  # fmt: skip
    with torch.no_grad():
        field.distance.linears[-1].bias -= field.distance(torch.zeros(1, 3))[0]
    return field.requires_grad_(False)


def _sum_of_sines(weights, phases, shares, offset=0.0):
    """``offset + sum_k shares[k] sin(weights[k] x + phases[k])`` in the box from -1 to 1."""
    unit = torch.ones(3)
    make = {"width": len(weights), "layers": 1, "color_width": 1, "color_layers": 1}
    field = SirenField(Aabb(-unit, unit), **make, omega_first=1.0)
    with torch.no_grad():
        values = ([[w, 0.0, 0.0] for w in weights], phases, [shares], [offset])
        for p, value in zip(field.distance.parameters(), values, strict=True):
            p.copy_(torch.tensor(value))
    return field.requires_grad_(False)


def _points_of_cells(field, cells, n, seed):
    """Points of cells, half of these with a plane: anywhere, on faces, edges and corners, and a hair beyond them."""
    rng = np.random.default_rng(seed)
    shape = 4 * np.array(cells.block.shape)
    ijk = rng.integers(0, shape, (n, 3))
    with_plane = np.argwhere(np.ones(shape, dtype=bool))
    with_plane = with_plane[_read(cells, with_plane)[0]]
    ijk[: n // 2] = with_plane[rng.integers(0, len(with_plane), n // 2)]
    place = rng.uniform(0, 1, (n, 3))
    for value in (0.0, 1.0, -9e-7, 1 + 9e-7):
        place = np.where(rng.random((n, 3)) < 0.12, value, place)
    lo, hi = field.box_lo.double().numpy(), field.box_hi.double().numpy()
    p = np.clip(lo + (ijk + place) * cells.cell, lo, hi)
    return p, ijk, p - (lo + (ijk + 0.5) * cells.cell)


def _kernel_says(field, p):
    return FieldBatch([field]).sdf_sorted(np.zeros(len(p), dtype=np.int64), p, np.zeros(len(p)))


def _hold_against_samples(field, cells, seed):
    """What a certified index says must be true of the float32 kernel and in float64; returns the share of bounds that is used."""
    p, ijk, offset = _points_of_cells(field, cells, 200_000, seed)
    has, inside, middle, gradient, bound = _read(cells, ijk)
    q = torch.from_numpy(p).requires_grad_()
    exact = field.in_double().sdf(q)
    (slope,) = torch.autograd.grad(exact.sum(), q)
    plane = middle + (gradient * offset).sum(1)
    used = 0.0
    for value in (_kernel_says(field, p), exact.detach().numpy()):
        assert np.array_equal(value[~has] < 0, inside[~has])
        assert (value[~has] != 0).all()
        assert (np.abs(value - plane)[has] <= bound[has]).all()
        used = np.max(np.abs(value - plane)[has] / bound[has], initial=used)
    assert slope.norm(dim=1).numpy()[has].max(initial=0.0) <= cells.lipschitz[0]
    return used


def test_samples_never_deny_what_a_certified_index_says(sirens, few_cells):
    for seed, field in enumerate(sirens):
        cells = build_cells(field, certify=True)
        assert 0.3 < _hold_against_samples(field, cells, seed) <= 1
        free = np.repeat(cells.block < 0, 64).sum() + sum(64 - int(m).bit_count() for m in cells.mask)
        assert free > 0.5 * 64 * cells.block.size
        assert 10_000 < cells.nbytes < 60_000
        assert cells.plane[:, 3].view(np.uint8).max() == 255


@pytest.mark.parametrize(
    ("width", "layers", "omega", "offset"),
    [(8, 2, 3.0, 0.0), (8, 2, 3.0, 100.0), (7, 3, 6.0, 1.0), (16, 1, 30.0, 0.0), (8, 2, 30.0, 0.0), (1, 1, 1.0, 0.0)],
)
def test_samples_never_deny_certified_indices_of_networks_that_have_learned_nothing(
    width, layers, omega, offset, few_cells
):
    field = _random_siren(width, layers, omega, offset, seed=width)
    _hold_against_samples(field, build_cells(field, certify=True), width)


def test_a_certified_index_keeps_ripples_that_hide_from_samples(few_cells, monkeypatch):
    """A slope with a ripple whose period is the distance of the samples: these see a crest wherever they are."""
    monkeypatch.setattr("compose.sampled_cells.BYTES", 10_000_000)  # the finest cells: 96
    field = _sum_of_sines([0.5 * np.pi, 384 * np.pi], [0.0, 0.5 * np.pi], [1.0, 0.3])
    p = np.random.default_rng(0).uniform(-1, 1, (100_000, 3))
    negative = _kernel_says(field, p) < 0

    def wrong(cells):
        ijk = ((p + 1) / cells.cell).astype(np.int64)
        has, inside, *_ = _read(cells, ijk)
        return ~has & (inside != negative)

    sampled, certified = build_cells(field), build_cells(field, certify=True)
    assert 4 * sampled.block.shape[0] == 96
    assert wrong(sampled).sum() > 5000
    assert wrong(certified).sum() == 0
    # Away from the ripple's reach, where the slope is more than 0.3 up or down, most is proven to have one sign.
    free = ~_read(certified, ((p + 1) / certified.cell).astype(np.int64))[0]
    assert free[np.abs(p[:, 0]) > 0.35].all() and not free[np.abs(p[:, 0]) < 0.15].any()


def test_certified_cells_near_a_plane_are_as_thin_as_they_can_be(few_cells):
    """Of a flat surface the cells that it passes through hold it, and no others."""
    field = _sum_of_sines([1e-3], [0.0], [1e3], offset=-0.111)
    cells = build_cells(field, certify=True)
    ijk = np.argwhere(np.ones(4 * np.array(cells.block.shape), dtype=bool))
    has, _, middle, gradient, bound = _read(cells, ijk)
    lo = -1 + ijk[:, 0] * cells.cell[0]
    np.testing.assert_array_equal(has, (lo < 0.111) & (0.111 < lo + cells.cell[0]))
    assert (np.abs(gradient[has] - [1, 0, 0]) < 1e-4).all() and (bound[has] < 1e-3).all()
    assert (np.abs(middle[has] - (lo[has] + 0.5 * cells.cell[0] - 0.111)) < 1e-3).all()
    noise = 2 * evaluation_error(field) / (np.sqrt(12) / 2000)  # over 1/2000 of the diagonal
    assert 1 + noise <= cells.lipschitz[0] < 1 + 1e-6 + noise


def test_a_field_that_is_proven_to_have_no_surface_is_skipped_whole(few_cells):
    for offset, inside in ((2.0, 0), (-2.0, 1)):
        cells = build_cells(_sum_of_sines([1.0], [0.0], [1.0], offset), certify=True)
        assert (cells.block == -1 - (2 * 255 + inside)).all() and len(cells.plane) == len(cells.mask) == 0


def test_no_sign_is_proven_where_float32_may_say_another(few_cells):
    """In exact arithmetic the field is 1e-7 outside, all over the box."""
    cells = build_cells(_sum_of_sines([1.0], [0.0], [0.0], 1e-7), certify=True)
    assert (cells.block < 0).all()
    cells = build_cells(_sum_of_sines([1000.0], [0.0], [1e-7], 2e-7), certify=True)
    assert (cells.block < 0).all()
    cells = build_cells(_sum_of_sines([1000.0], [0.0], [1.0], 1.0 + 1e-7), certify=True)
    assert (cells.block >= 0).any()


class _Waves(SirenField):
    """A network, but perhaps not asked for what it says."""


def test_fields_that_cannot_be_certified_are_named():
    half = torch.full((3,), 0.5)
    small = {"width": 4, "layers": 1, "color_width": 1, "color_layers": 1}
    plain = SirenField(Aabb(-half, half), **small)
    for field in (Sphere(0.3), _Waves(Aabb(-half, half), **small), plain.in_double()):
        for ask in (lambda f: build_cells(f, certify=True), lambda f: cells_of(f, None, True)):
            with pytest.raises(ValueError, match=f"certify: expected a SirenField.*got {type(field).__name__}"):
                ask(field)
    for value, message in ((torch.nan, "expected finite weights"), (1e35, "certify: .*stay finite in float32")):
        with torch.no_grad():
            plain.distance.linears[-1].weight.fill_(value)
        with pytest.raises(ValueError, match=message):
            build_cells(plain, certify=True)


def test_sampled_and_certified_indices_of_a_field_are_kept_side_by_side(tmp_path, monkeypatch, few_cells):
    monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path))
    field = _random_siren(8, 2, 3.0, 0.0, seed=0)
    sampled = cells_of(field, None)
    (sampled_file,) = (tmp_path / "cells").iterdir()
    certified = cells_of(field, None, certify=True)
    assert cells_of(field, None) is sampled and cells_of(field, None, certify=True) is certified
    assert _same(certified, build_cells(field, certify=True)) and not _same(certified, sampled)
    (file,) = set((tmp_path / "cells").iterdir()) - {sampled_file}

    built = []
    monkeypatch.setattr("compose.cells.build_cells", lambda *a: built.append(a) or build_cells(*a))
    assert _same(cells_of(_random_siren(8, 2, 3.0, 0.0, seed=0), None, certify=True), certified)
    assert _same(cells_of(_random_siren(8, 2, 3.0, 0.0, seed=0), None), sampled)
    assert built == []
    for damage in (b"", b"x" * 100, file.read_bytes()[:-7]):
        file.write_bytes(damage)
        assert _same(cells_of(_random_siren(8, 2, 3.0, 0.0, seed=0), None, certify=True), certified)
    assert len(built) == 3
