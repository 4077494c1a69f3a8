"""How colours of meshes are learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from objects import Aabb, FitConfig, SirenField
from objects import coloring as coloring_module
from objects.coloring import colors_at, divide, learn_colors
from objects.rounding import as_bytes
from objects.siren import SineParts
from objects.training import TrainConfig

BOX = Aabb(-torch.ones(3), torch.ones(3))
CONFIG = FitConfig(color_width=16, color_layers=2, color_batch=256, color_samples=4096, color_steps=1.0)
TRAIN = TrainConfig(steps=200, progress=False)


def _surface(paint, n=16_384, seed=0):
    """Colours of points on a ball."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    x *= 0.9 / np.linalg.norm(x, axis=1, keepdims=True)
    return colors_at(x, paint(x), rng)


def _checks(x, n=6):
    return np.repeat((np.floor(n * x).sum(1) % 2)[:, None], 3, 1)


def _gradient(x):
    return 0.5 + 0.5 * x


def _grey(x):
    return np.full((len(x), 3), 0.25)


def _learned(surfaces, parts, train=TRAIN):
    fields = [SirenField(BOX, CONFIG, width=4, layers=1, color_parts=k).requires_grad_(False) for k in parts]
    for field, colors in zip(fields, surfaces, strict=True):
        divide(field, colors)
    learn_colors(fields, surfaces, CONFIG, train)
    return fields


def _error(field, paint):
    new = _surface(paint, seed=1)
    return float((field(new.x).rgb - new.rgb).abs().mean())


def _weights(field):
    return torch.cat([p.flatten() for p in field.appearance.state_dict().values()])


def test_detail_decides_how_many_networks_share_a_surface():
    flat, even, detailed = (_surface(paint, 65_536) for paint in (_grey, _gradient, _checks))
    assert flat.n_parts(14) == 1 and flat.flat is not None
    assert 1 <= even.n_parts(14) <= 5 and even.flat is None
    assert detailed.n_parts(14) == 14
    assert _surface(_checks, 8192).n_parts(14) == 2  # as few samples allow
    assert _surface(_checks, 100).n_parts(14) == 1


def test_parts_learn_checks_better_than_one_network_of_their_width():
    one, many = _learned([_surface(_checks)] * 2, (1, 8))
    assert _error(many, _checks) < 0.65 * _error(one, _checks)


def test_a_gradient_and_one_colour_are_learned_too():
    even, flat = _learned([_surface(_gradient), _surface(_grey)], (3, 2))
    assert _error(even, _gradient) < 0.03  # one colour for all would be wrong by 0.23
    assert torch.allclose(flat(torch.rand(9, 3)).rgb, torch.tensor(0.25), atol=1e-6)


def test_learned_parts_are_numbers_that_files_hold_in_bytes():
    look = _learned([_surface(_gradient)], (3,), replace(TRAIN, steps=5))[0].appearance
    assert isinstance(look, SineParts)
    first, *others = look.weights
    assert all(as_bytes(w.detach().numpy()) is not None for w in others)
    assert all(torch.equal(b.half().float(), b) for b in (first, *look.biases))


def test_a_field_gets_the_same_bits_alone_and_among_others():
    surfaces, parts = [_surface(_checks), _surface(_gradient), _surface(_grey)], (4, 1, 1)
    together = _learned(surfaces, parts, replace(TRAIN, steps=30))
    for field, surface, k in zip(together, surfaces, parts, strict=True):
        assert torch.equal(_weights(_learned([surface], (k,), replace(TRAIN, steps=30))[0]), _weights(field))


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    train = replace(TRAIN, steps=60, checkpoint=tmp_path / "colors", checkpoint_every=20)
    whole = _learned([_surface(_checks)], (4,), replace(train, checkpoint=None))[0]
    calls, loss = [], coloring_module.weighted_l1

    def stopping(*args, **options):
        calls.append(1)
        if len(calls) == 50:
            raise KeyboardInterrupt
        return loss(*args, **options)

    monkeypatch.setattr(coloring_module, "weighted_l1", stopping)
    with pytest.raises(KeyboardInterrupt):
        _learned([_surface(_checks)], (4,), train)
    again = _learned([_surface(_checks)], (4,), train)[0]
    assert len(calls) == 50 + 20
    assert torch.equal(_weights(again), _weights(whole))
