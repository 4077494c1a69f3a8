import math

import numpy as np
import pytest
import torch

from compose import Composite, Instance, Rays
from compose.batch import FieldBatch
from compose.cpu import siren_kernel
from objects import SE3, Aabb, SirenField
from objects.field import Field, FieldSample
from objects.primitives import Sphere


class Stranger(Field):
    """A user's field that says nothing of its make-up: two of them differ by a plain attribute."""

    def __init__(self, shift):
        super().__init__(Aabb(-torch.ones(3), torch.ones(3)), feature_width=1)
        self.shift = shift

    def inside(self, p_obj, time):
        return FieldSample(p_obj.norm(dim=-1) - 0.3 + self.shift, p_obj.sigmoid(), p_obj[:, :1] + self.shift)


class Breathing(Field):
    """A user's field that changes with time."""

    kind = "breathing"

    def __init__(self):
        super().__init__(Aabb(-torch.ones(3), torch.ones(3)))

    def inside(self, p_obj, time):
        return FieldSample(p_obj.norm(dim=-1) - 0.5 - 0.2 * time.sin(), p_obj.sigmoid(), p_obj[:, :0])


def place_parts(field, blend):
    """Spreads the parts of a field's appearance over its box."""
    g = torch.Generator().manual_seed(7)
    look = field.appearance
    look.tree.split(torch.rand(500, 3, generator=g).numpy() * 2 - 1, np.ones(500), blend)
    look.center.copy_(torch.rand(look.n_parts, 3, generator=g) - 0.5)
    look.half_extent.copy_(torch.rand(look.n_parts, generator=g) + 0.3)


@pytest.fixture(scope="module")
def mixed(fields):
    half = Aabb(torch.full((3,), -0.4), torch.full((3,), 0.6))
    more = [
        SirenField(half, width=24, layers=2, color_width=16, color_layers=1, omega_first=8, omega_hidden=20, seed=9)
    ]
    parts = SirenField(half, width=16, layers=2, color_width=12, color_parts=5, feature_width=2, seed=4)
    place_parts(parts, 0.1)
    return [*fields, *more, Sphere(0.35).double(), Stranger(0.0), Stranger(0.1), parts]


def _pairs(n_assets, n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(n_assets, (n,), generator=g), torch.randn(n, 3, generator=g, dtype=torch.float64) * 0.5


def _one_by_one(fields, asset, p, width):
    """Every pair alone, in the field's own type of numbers."""
    sdf, rgb, feature = (
        torch.zeros(len(p)).double(),
        torch.zeros(len(p), 3).double(),
        torch.zeros(len(p), width).double(),
    )
    for k, field in enumerate(fields):
        rows = (asset == k).nonzero()[:, 0]
        got = field(p[rows].to(field.box_lo.dtype))
        sdf = sdf.index_put((rows,), got.sdf.double())
        rgb = rgb.index_put((rows,), got.rgb.double())
        feature = feature.index_put(
            (rows,), torch.nn.functional.pad(got.feature, (0, width - got.feature.shape[1])).double()
        )
    return FieldSample(sdf, rgb, feature)


def test_packed_evaluation_equals_a_loop_over_fields(mixed):
    batch = FieldBatch(mixed)
    assert batch.channels == {"feature": 5}
    asset, p = _pairs(len(mixed), 3000)
    expected = _one_by_one(mixed, asset, p, 5)
    torch.testing.assert_close(batch.sample(asset, p), expected, rtol=1e-5, atol=2e-6, check_dtype=True)
    torch.testing.assert_close(batch.sdf(asset, p), expected.sdf.detach(), rtol=1e-5, atol=1e-5)


def test_packed_evaluation_in_float64_is_exact(mixed):
    doubles = [field.in_double() for field in mixed]
    asset, p = _pairs(len(doubles), 1000)
    want = _one_by_one(doubles, asset, p, 5)
    torch.testing.assert_close(FieldBatch(doubles).sample(asset, p), want, rtol=1e-12, atol=1e-12)


def test_surfaces_are_the_same_bits_in_any_order(mixed):
    """In random order pairs are sorted by their parts first, in an order of places they are taken as they come."""
    batch, (asset, p) = FieldBatch(mixed), _pairs(len(mixed), 4000, 3)
    asset[::2] = len(mixed) - 1
    order = torch.from_numpy(np.lexsort([*(5 * p).round().numpy().T, asset.numpy()]))
    for geometry in (False, True):
        first, slope = batch.surface(asset, p, torch.zeros(4000), geometry=geometry)
        again, turned = batch.surface(asset[order], p[order], torch.zeros(4000), geometry=geometry)
        number, q = asset[order].numpy(), p[order].numpy()
        fused = (batch.nets.at[number] >= 0) & ((q > batch.box_lo[number]) & (q < batch.box_hi[number])).all(1)
        assert fused.sum() > 500
        for a, b in ((first.rgb, again.rgb), (first.feature, again.feature), (first.sdf, again.sdf), (slope, turned)):
            assert torch.equal(a[order][fused], b[fused])


def test_gradients_to_points_and_weights_equal_those_of_a_loop(mixed):
    fields = [field.in_double().requires_grad_() for field in mixed]
    asset, p = _pairs(len(fields), 400)
    p.requires_grad_()
    weights = [v for field in fields for v in field.parameters()]
    gradients = []
    for sample in (FieldBatch(fields).sample(asset, p), _one_by_one(fields, asset, p, 5)):
        total = sample.sdf.sin().sum() + sample.rgb.square().sum() + sample.feature.sin().sum()
        gradients.append(torch.autograd.grad(total, [p, *weights]))
    assert any(float(g.abs().max()) > 0 for g in gradients[0][1:])
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_the_order_of_pairs_changes_no_bit(mixed):
    batch = FieldBatch(mixed)
    asset, p = _pairs(len(mixed), 2000)
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(5))
    assert torch.equal(batch.sdf(asset[order], p[order]), batch.sdf(asset, p)[order])


def test_the_same_pairs_twice_give_the_same_bits(mixed):
    asset, p = _pairs(len(mixed), 2000)
    a, b = FieldBatch(mixed).sample(asset, p), FieldBatch(mixed).sample(asset, p)
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_no_pairs_and_no_fields_give_empty_answers(mixed):
    nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3, dtype=torch.float64)
    assert FieldBatch(mixed).sample(*nothing).feature.shape == (0, 5)
    assert FieldBatch([]).sample(*nothing).feature.shape == (0, 0) and FieldBatch([]).sdf(*nothing).shape == (0,)


@pytest.mark.parametrize(("width", "layers"), [(24, 2), (16, 3), (33, 1), (7, 4)])
def test_the_fused_kernel_equals_float64_inside_and_outside_the_box(width, layers):
    bounds = [
        Aabb(torch.full((3,), -0.5), torch.full((3,), 0.5)),
        Aabb(torch.tensor([1.0, 2, 3]), torch.tensor([2.0, 4, 3.5])),
    ]
    fields = [
        SirenField(b, width=width, layers=layers, color_width=4, color_layers=1, seed=k) for k, b in enumerate(bounds)
    ]
    g = torch.Generator().manual_seed(0)
    for k, (field, box) in enumerate(zip(fields, bounds, strict=True)):
        p = box.center + 3 * box.size * (torch.rand(2000, 3, generator=g) - 0.5)
        p[:1000] = box.lo + box.size * torch.rand(1000, 3, generator=g)
        asset = torch.full((2000,), k)
        p = p.double()
        outside = ~box.contains(p.float())
        with torch.no_grad():
            got, want = FieldBatch(fields).sdf(asset, p), field.in_double().sdf(p)
        assert 900 < int(outside.sum()) < 1000 + 1
        # The phase of the first layer (up to 30 radians) alone has float32 noise of 2e-6.
        error = (got - want).abs() / box.diagonal
        assert float(error.max()) < 1e-5


def test_the_fused_kernel_gives_a_point_the_same_bits_wherever_it_stands(sirens):
    nets = siren_kernel.pack(sirens[:2])

    def ask(slot, p):
        return siren_kernel.siren_sdf(nets, slot.numpy(), p.numpy())

    g = torch.Generator().manual_seed(0)
    p = torch.randn(500, 3, generator=g, dtype=torch.float64) * 0.4
    slot = torch.zeros(500, dtype=torch.int64)
    slot[300:] = 1
    whole = ask(slot, p)
    for k in (0, 1, 7, 8, 9, 15, 16, 63, 64, 65, 127, 299, 300, 301, 499):
        assert ask(slot[k : k + 1], p[k : k + 1])[0] == whole[k]
        for n in (5, 8, 9, 70):
            assert (ask(slot[k : k + n], p[k : k + n]) == whole[k : k + n]).all()
    back = torch.arange(299, -1, -1)
    assert (ask(slot[back], p[back]) == whole[back.numpy()]).all()


def test_surfaces_without_a_graph_equal_those_with_one(mixed):
    """Values and gradients, of fields that the fused kernel serves and of others, within their boxes and beyond them."""
    batch = FieldBatch(mixed)
    asset, p = _pairs(len(mixed), 3000)
    with torch.enable_grad():
        q = p.clone().requires_grad_()
        want = batch.sample(asset, q)
        (want_gradient,) = torch.autograd.grad(want.sdf.sum(), q)
    got, gradient = batch.surface(asset, p, torch.zeros(len(p), dtype=torch.float64), geometry=True)
    inside = (p.numpy() > batch.box_lo[asset]).all(1) & (p.numpy() < batch.box_hi[asset]).all(1)
    assert 300 < inside.sum() < 2700 and 0 < (batch.nets.at >= 0).sum() < len(mixed)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=3e-6)
    assert float((gradient - want_gradient).norm(dim=1).max()) < 2e-4
    got, gradient = batch.surface(asset, p, torch.zeros(len(p), dtype=torch.float64), geometry=False)
    assert not gradient.any() and not got.sdf.any()
    torch.testing.assert_close(got.rgb, want.rgb.detach(), rtol=1e-5, atol=3e-6)


def test_fields_are_stacked_by_shape(mixed):
    """Primitives of one kind share a call, so do SIRENs of one shape; strangers stay alone."""
    batch = FieldBatch(mixed)
    by_size = sorted(len(g.fields) for g in batch.groups)
    assert by_size.count(3) == 1  # the SIRENs of one shape
    assert all(len(g.fields) == 1 for g in batch.groups if isinstance(g.fields[0], Stranger))


def test_a_scene_of_fields_that_name_no_kind_is_right():
    near, far = Stranger(0.0), Stranger(0.1)
    scene = Composite(
        [Instance("near", near, SE3.identity()), Instance("far", far, SE3.from_translation([0.0, 0.0, 5.0]))]
    )
    got = scene.query(torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 4.5]]))
    torch.testing.assert_close(got.sdf, torch.tensor([0.2, 0.3], dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(got.feature[:, 0], torch.tensor([0.0, 0.1], dtype=torch.float64), rtol=0, atol=1e-6)
    assert got.owner.tolist() == [0, 1]


def test_each_instance_of_a_deforming_field_has_its_own_time():
    field, times = Breathing(), [0.0, 0.5 * math.pi, 1.5 * math.pi]
    scene = Composite(
        [Instance(str(t), field, SE3.from_translation([3.0 * k, 0.0, 0.0]), time=t) for k, t in enumerate(times)]
    )
    p = torch.tensor([[3.0 * k, 0.0, 0.9] for k in range(3)], dtype=torch.float64)
    radius = 0.5 + 0.2 * torch.tensor([math.sin(t) for t in times], dtype=torch.float64)
    got = scene.query(p)
    torch.testing.assert_close(got.sdf, 0.9 - radius, rtol=0, atol=1e-6)
    assert got.owner.tolist() == [0, 1, 2]
    down = torch.tensor([[0.0, 0.0, -1.0]], dtype=torch.float64).expand(3, 3)
    hits = scene.trace(Rays(p + torch.tensor([0.0, 0.0, 4.1]), down))
    torch.testing.assert_close(hits.t, 5.0 - radius, rtol=0, atol=1e-5)
