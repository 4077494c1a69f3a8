"""Small networks that share the colours of objects, against the fields that hold them."""

from __future__ import annotations

import torch

from objects import SirenField
from objects.aabb import Aabb
from objects.field import TINT, TINT_WIDTH
from rendering.learning.config import ViewsConfig
from rendering.learning.parts import ColorParts, divided, without_tint

BOX = Aabb(-torch.ones(3), torch.ones(3))
SMALL = {"width": 8, "layers": 1, "color_width": 8, "color_layers": 2, "omega_first": 3.0, "color_omega_first": 3.0}


def fields() -> list[SirenField]:
    """One whose colours are shared by three networks, and one with a single network."""
    made = [SirenField(BOX, color_parts=n, channels={TINT: TINT_WIDTH}, seed=n, **SMALL) for n in (3, 1)]
    return [field.requires_grad_(False) for field in made]


def test_colours_of_parts_are_those_that_the_fields_show():
    some, generator = fields(), torch.Generator().manual_seed(0)
    parts = ColorParts.of(some)
    x, owner = 2 * torch.rand(400, 3, generator=generator) - 1, torch.arange(400) % 2
    x[:200, 0] *= 0.02  # where parts meet
    shares = parts.shares(x, owner)
    assert int((shares.net >= 0).all(1).sum()) > 20
    rgb, tint = parts.look(parts.rows(), x, shares, 1)
    two = (shares.share.sum(1) > 1 - 1e-6) & (some[0].appearance.tree(x).gt(0).sum(1) <= 2)  # more share nothing
    for i, field in enumerate(some):
        at = (owner == i) & two
        want = field(x[at])
        torch.testing.assert_close(rgb[at], want.rgb, atol=1e-5, rtol=0)
        torch.testing.assert_close(tint[at].flatten(1), want.more[TINT], atol=1e-5, rtol=0)


def test_numbers_of_parts_go_into_the_fields_and_come_back():
    parts = ColorParts.of(fields())
    rows = without_tint(parts)
    assert bool(
        (parts.look(rows, torch.zeros(2, 3), parts.shares(torch.zeros(2, 3), torch.tensor([0, 1])), 1)[1] == 0).all()
    )
    parts.write(rows)
    assert torch.equal(parts.rows(), rows)
    parts.write(rows, shorten=True)
    assert 0 < float((parts.rows() - rows).abs().max()) < 0.01


def test_an_object_has_as_many_networks_as_its_colours_need_and_its_pixels_bear():
    x = 2 * torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)) - 1
    plain, busy = torch.full((20_000, 3), 90), (127 + 120 * torch.sin(20 * x)).long()
    field = fields()[1]
    config = ViewsConfig(**SMALL, color_parts=4, part_pixels=4000)
    cases = ((20_000, plain), (20_000, busy), (6000, busy))
    counts = [len(ColorParts.of([divided(field, 0, x[:n], rgb[:n], config)]).half) for n, rgb in cases]
    assert counts == [1, 4, 1]
