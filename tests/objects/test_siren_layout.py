"""The description of a SIREN's numbers against the networks themselves."""

import dataclasses

import pytest
import torch

from objects import Aabb, FitConfig, PointsConfig, SirenField
from objects.siren import SineMlp, pack, unpack
from objects.siren_layout import NetworkConfig, SineShape, layer_at

BOX = Aabb(-torch.ones(3), torch.ones(3))


@pytest.mark.parametrize("shape", [SineShape(3, 1, 8, 1, 30.0, 20.0), SineShape(2, 5, 7, 4, 3.0, 4.0)])
def test_layers_stand_where_they_are_said_to(shape):
    nets = [SineMlp(**shape._asdict(), generator=torch.Generator().manual_seed(k)) for k in range(2)]
    rows = pack(nets)
    assert rows.shape[1] % 64 == 0 and rows.shape[1] - shape.n_numbers < 64 and not rows[:, shape.n_numbers :].any()
    for net, row in zip(nets, rows, strict=True):
        assert shape.n_numbers == sum(p.numel() for p in net.parameters())
        assert shape.sizes == [(linear.in_features, linear.out_features) for linear in net.linears]
        for layer, linear in enumerate(net.linears):
            at = layer_at(shape.n_in, shape.width, layer)
            weight_end = at + linear.weight.numel()
            assert torch.equal(row[at:weight_end], linear.weight.flatten())
            assert torch.equal(row[weight_end : weight_end + len(linear.bias)], linear.bias)
        assert torch.equal(row[shape.last_bias], net.last.bias)


def test_unpack_inverts_pack_in_place():
    shape = NetworkConfig(width=9, layers=2).distance_shape
    a, b = (SineMlp(**shape._asdict(), generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    held = list(b.parameters())
    places = [p.data_ptr() for p in held]
    unpack(pack([a])[0], b)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), held, strict=True))
    assert [p.data_ptr() for p in b.parameters()] == places
    assert torch.equal(pack([a]), pack([b]))


@pytest.mark.parametrize("config", [FitConfig, PointsConfig])
def test_configs_hold_the_seven_numbers_of_a_field(config):
    made = config(width=24, color_omega_first=12)
    field = SirenField(BOX, made, seed=3)
    assert field.network == NetworkConfig(**made.network_numbers())
    assert field.distance.shape == made.distance_shape and field.appearance.shape == made.color_shape()
    assert list(dataclasses.asdict(made))[:7] == list(made.network_numbers())
    same = SirenField(BOX, **made.network_numbers(), seed=3)
    assert all(torch.equal(p, q) for p, q in zip(field.parameters(), same.parameters(), strict=True))
    assert SirenField(BOX, made, width=8).network == NetworkConfig(**made.network_numbers() | {"width": 8})


def test_unknown_numbers_are_refused_by_name():
    with pytest.raises(TypeError, match="widht"):
        SirenField(BOX, widht=8)
