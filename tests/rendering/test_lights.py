import math
from typing import Any

import pytest
import torch

from rendering.lights import AmbientLight, DirectionalLight, PointLight, linear_from_srgb, srgb_from_linear

ORIGIN = torch.zeros(1, 3, dtype=torch.float64)
UP = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)


def test_srgb_inverts_linear():
    values = torch.linspace(0, 1, 30000, dtype=torch.float64).view(-1, 3)
    torch.testing.assert_close(srgb_from_linear(linear_from_srgb(values)), values, rtol=0, atol=1e-9)
    torch.testing.assert_close(linear_from_srgb(srgb_from_linear(values)), values, rtol=0, atol=1e-9)


def test_srgb_has_the_values_of_the_standard():
    srgb = torch.tensor([[0.0, 0.04, 0.5]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 0.04 / 12.92, ((0.5 + 0.055) / 1.055) ** 2.4]], dtype=torch.float64)
    torch.testing.assert_close(linear_from_srgb(srgb), expected)
    torch.testing.assert_close(
        linear_from_srgb(torch.tensor([188 / 255] * 3)), torch.full((3,), 0.5029), atol=1e-4, rtol=0
    )


def test_srgb_gradients_are_finite_at_zero():
    x = torch.zeros(3, requires_grad=True)
    (linear_from_srgb(x).sum() + srgb_from_linear(x).sum()).backward()
    torch.testing.assert_close(x.grad, torch.full((3,), 1 / 12.92 + 12.92))


def test_directional_light_follows_the_cosine():
    angle = math.radians(35)
    light = DirectionalLight((math.sin(angle) * 7, 0, -math.cos(angle) * 7), intensity=2.0)
    expected = torch.full((1, 3), 2 * math.cos(angle), dtype=torch.float64)
    torch.testing.assert_close(light.irradiance(ORIGIN, UP), expected)
    assert (light.irradiance(ORIGIN, -UP) == 0).all()


def test_point_light_falls_off_with_the_square_of_the_distance():
    light = PointLight((0, 3, 4), color=(1, 0.5, 0), intensity=10.0)
    color = linear_from_srgb(torch.tensor([1, 0.5, 0], dtype=torch.float64))
    torch.testing.assert_close(light.irradiance(ORIGIN, UP)[0], 10 / 25 * (4 / 5) * color)
    direction, distance = light.toward(ORIGIN)
    torch.testing.assert_close(direction[0], torch.tensor([0, 0.6, 0.8], dtype=torch.float64))
    assert float(distance[0]) == 5.0


def test_ambient_light_mixes_sky_and_ground_by_the_normal():
    light = AmbientLight(color=(1, 1, 1), intensity=0.5, ground_color=(0, 0, 0))
    side = torch.tensor([[1.0, 0, 0]], dtype=torch.float64)
    for normal, share in ((UP, 1.0), (side, 0.5), (-UP, 0.0)):
        torch.testing.assert_close(
            light.irradiance(ORIGIN, normal), torch.full((1, 3), 0.5 * share, dtype=torch.float64)
        )
    assert light.toward(ORIGIN) is None
    plain = AmbientLight(intensity=0.5)
    torch.testing.assert_close(plain.irradiance(ORIGIN, -UP), torch.full((1, 3), 0.5, dtype=torch.float64))


def test_lights_of_equal_numbers_are_equal():
    position: Any = torch.tensor([1.0, 2, 3])
    assert PointLight(position) == PointLight((1, 2, 3))
    assert DirectionalLight((0, 0, -1)) != DirectionalLight((0, 0, 1))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: AmbientLight(color=(1, 1, 2)), "color"),
        (lambda: AmbientLight(intensity=-1), "intensity"),
        (lambda: AmbientLight(ground_color=(0, 0, math.nan)), "ground_color"),
        (lambda: DirectionalLight((0, 0, 0)), "direction"),
        (lambda: DirectionalLight((0, math.nan, 0)), "direction"),
        (lambda: PointLight((0, 0, math.inf)), "position"),
        (lambda: PointLight((0, 0, 1), intensity=math.nan), "intensity"),
    ],
)
def test_impossible_lights_are_refused_by_name(make, named):
    with pytest.raises(ValueError, match=named):
        make()
