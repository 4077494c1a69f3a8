import math

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

from objects.aabb import Aabb
from objects.field import structure
from objects.siren import SineMlp, SirenField, unpack

BOX = Aabb(torch.tensor([-1.0, -2.0, 0.0]), torch.tensor([1.0, 2.0, 1.0]))


def _mlp(layers, width=256, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return SineMlp(3, 1, width=width, layers=layers, omega_first=30.0, omega_hidden=30.0, generator=generator)


def _linears(mlp):
    return [linear for linear in mlp.linears if isinstance(linear, torch.nn.Linear)]


def _inputs(n=4000):
    return 2 * torch.rand(n, 3, generator=torch.Generator().manual_seed(1)) - 1


@torch.no_grad()
def test_initial_pre_activations_are_unit_normals_at_every_depth():
    mlp, x = _mlp(layers=6), _inputs()
    omega = mlp.shape.omega_first
    for i, linear in enumerate(_linears(mlp)[:-1]):
        z = omega * (x @ linear.weight.T)  # the theorem is about weights; biases only shift the phase
        if i > 0:
            assert float(z.std()) == pytest.approx(1.0, abs=0.1)
            kurtosis = float(((z - z.mean()) / z.std()).pow(4).mean())
            assert kurtosis == pytest.approx(3.0, abs=0.5)
        x = torch.sin(z + omega * linear.bias)
        omega = mlp.shape.omega_hidden


@torch.no_grad()
def test_activations_keep_the_arcsine_spread_with_depth():
    mlp, x = _mlp(layers=8), _inputs()
    omega = mlp.shape.omega_first
    for linear in _linears(mlp)[:-1]:
        x = torch.sin(omega * linear(x))
        omega = mlp.shape.omega_hidden
        assert float(x.std()) == pytest.approx(math.sqrt(0.5), abs=0.05)


def test_first_layer_is_uniform_within_one_over_n():
    weight = _linears(_mlp(layers=2))[0].weight.detach()
    assert float(weight.abs().max()) <= 1 / 3
    assert float(weight.std()) == pytest.approx(1 / 3 / math.sqrt(3), rel=0.1)


def test_field_is_the_network_written_out():
    field = SirenField(BOX, width=16, layers=2, feature_width=2, seed=3).double()
    p = torch.tensor([[0.3, -1.2, 0.7]], dtype=torch.float64)
    x = (p - torch.tensor([0.0, 0.0, 0.5])) / 2.0  # centre, and half of the longest edge

    def network(mlp, x):
        for i, linear in enumerate(_linears(mlp)):
            x = x @ linear.weight.T + linear.bias
            x = torch.sin(30 * x) if i + 1 < len(_linears(mlp)) else x
        return x

    sample = field(p)
    torch.testing.assert_close(sample.sdf, 2.0 * network(field.distance, x)[:, 0])
    look = network(field.appearance, x)
    torch.testing.assert_close(sample.rgb, 1 / (1 + torch.exp(-look[:, :3])))
    torch.testing.assert_close(sample.feature, look[:, 3:])
    torch.testing.assert_close(field.sdf(p), sample.sdf)


def _parted(dtype=torch.float64, blend=0.1):
    """A field of appearance in five parts that stand apart."""
    g = torch.Generator().manual_seed(1)
    field = SirenField(BOX, width=8, layers=1, color_width=12, color_parts=5, feature_width=2, seed=3)
    field.requires_grad_(False)
    look = field.appearance
    look.tree.split(2 * torch.rand(500, 3, generator=g).numpy() - 1, torch.ones(500).numpy(), blend)
    look.center.copy_(torch.rand(5, 3, generator=g) - 0.5)
    look.half_extent.copy_(torch.rand(5, generator=g) + 0.5)
    return field.to(dtype)


def test_parts_are_networks_blended_by_their_tree():
    field = _parted()
    look, x = field.appearance, _inputs(300).double()
    share, total = look.tree(x), 0
    for k, row in enumerate(look.rows()):
        net = SineMlp(**look.shape._asdict()).double()
        unpack(row, net)
        total = total + share[:, k : k + 1] * net((x - look.center[k]) / look.half_extent[k])
    torch.testing.assert_close(look(x), total.detach())
    p = torch.lerp(field.box_lo, field.box_hi, 0.5 * x + 0.5)
    torch.testing.assert_close(field(p).feature, look((p - field.center) / field.half_extent)[:, 3:])
    assert look(x.reshape(3, 100, 3)).shape == (3, 100, 5) and look(x[:0]).shape == (0, 5)


def test_rows_of_parts_can_be_written_back():
    a, b = _parted(), _parted()
    a.appearance.set_rows(torch.zeros_like(b.appearance.rows()))
    assert not a.appearance.rows().any()
    a.appearance.set_rows(b.appearance.rows())
    assert torch.equal(a.appearance.rows(), b.appearance.rows())


def test_parts_meet_without_seams_in_value_and_gradient():
    look = _parted(blend=0.05).appearance
    line = torch.linspace(-1, 1, 40_001, dtype=torch.float64)[:, None] * torch.tensor([[0.8, -0.6, 0.7]]).double()
    line.requires_grad_()
    out = look(line)[:, 0]
    (slope,) = torch.autograd.grad(out.sum(), line)
    values, slopes = out.detach().diff().abs(), slope.diff(dim=0).norm(dim=1)
    for step in (values, slopes):  # steps of a continuous line shrink with its spacing; a jump would stand out
        assert float(step.max()) < 30 * float(step.mean())


def test_an_appearance_of_parts_is_no_single_network():
    with pytest.raises(ValueError, match="5 parts"):
        _ = _parted().whole_appearance
    assert _parted().config()["color_parts"] == 5
    assert "color_parts" not in SirenField(BOX).config()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_have_the_dtype_of_the_field(dtype):
    field = SirenField(BOX, width=8, feature_width=3, channels={"semantic": 2}).to(dtype)
    sample = field(_inputs(5).to(dtype))
    assert [part.dtype for part in (*sample[:3], sample.channel("semantic"))] == [dtype] * 4
    assert sample.feature.shape == (5, 3)
    assert SirenField(BOX, width=8).to(dtype)(_inputs(5).to(dtype)).feature.shape == (5, 0)


def test_float32_follows_float64():
    field = SirenField(BOX)
    p = _inputs(500)
    torch.testing.assert_close(field.sdf(p), field.in_double().sdf(p.double()).float(), atol=2e-5, rtol=1e-4)


def test_equal_seeds_give_equal_weights_and_other_seeds_others():
    a, b, c = (SirenField(BOX, seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["distance.linears.1.weight"], c["distance.linears.1.weight"])


def test_making_a_field_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    SirenField(BOX)
    assert torch.equal(torch.rand(1), expected)


def test_gradients_equal_finite_differences():
    field = SirenField(BOX, width=8, layers=2).double()
    p = (1.5 * _inputs(4)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: field(x)[:2], p, atol=1e-4)


def test_stacked_fields_equal_the_loop():
    boxes = [Aabb(torch.tensor([-1.0, -1, -1]), torch.tensor([s, 2 * s, s])) for s in (1.0, 2.0, 5.0)]
    fields = [
        SirenField(box, width=16, feature_width=2, channels={"tint": 9}, seed=i).double() for i, box in enumerate(boxes)
    ]
    assert len({str(structure(field)) for field in fields}) == 1
    p = (3 * _inputs(60)).double().reshape(3, 20, 3)
    params, buffers = stack_module_state(fields)
    stacked = vmap(lambda w, b, x: functional_call(fields[0], (w, b), (x,)))(params, buffers, p)
    for i, field in enumerate(fields):
        expected = field(p[i])
        for got, want in zip((*stacked[:3], stacked.more["tint"]), (*expected[:3], expected.more["tint"]), strict=True):
            torch.testing.assert_close(got[i], want, atol=1e-12, rtol=1e-12)


def test_empty_has_the_same_structure():
    field = SirenField(BOX, width=9, layers=2, color_width=7, color_layers=1, feature_width=4, omega_first=12.5)
    empty = SirenField.empty(field.config(), [])
    assert structure(empty) == structure(field)
    empty.load_state_dict(field.state_dict())
    assert torch.equal(empty.sdf(_inputs(9)), field.sdf(_inputs(9)))
