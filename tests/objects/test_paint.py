"""What a colour in a file means: a test for each row of the table in `objects.paint`, values from the formats' texts."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from objects.paint import Paint, PictureError, Texture, linear_from_srgb, read_picture, shares, srgb_from_linear

FACE = np.zeros(1, np.int64)
MIDDLE = np.full((1, 3), 1 / 3)


def encoded(picture: Image.Image, kind: str = "PNG", **more) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **more)
    return file.getvalue()


def texture_color(texture: Texture, u: float, v: float, linear: bool = False) -> np.ndarray:
    return Paint(uv=np.tile([u, v], (1, 3, 1)), texture=texture, linear=linear).at(FACE, MIDDLE)[0]


def test_srgb_is_that_of_the_standard():
    """IEC 61966-2-1: 0.5 linear is 188 of 255; 0.0031308 the end of the straight part."""
    assert np.round(srgb_from_linear(np.array([0, 0.5, 0.214, 1])) * 255).tolist() == [0, 188, 127, 255]
    assert srgb_from_linear(np.array(0.002)) == pytest.approx(12.92 * 0.002)
    x = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(linear_from_srgb(srgb_from_linear(x)), x, atol=1e-7)
    assert srgb_from_linear(np.array([-1, 7.0])).tolist() == pytest.approx([0, 1])


@pytest.mark.parametrize(
    ("stored", "rgb", "told"),
    [
        (np.array([0, 128, 255], np.uint8), [0, 128 / 255, 1], ""),
        (np.array([0, 1, 1], np.uint8), [0, 1 / 255, 1 / 255], ""),
        (np.array([0, 32768, 65535], np.uint16), [0, 32768 / 65535, 1], ""),
        (np.array([0, 128, 255], np.uint16), [0, 128 / 255, 1], "0..255"),
        (np.array([0, 128, 255], np.int32), [0, 128 / 255, 1], "0..255"),
        (np.array([-1, 0, 65535], np.int32), [0, 0, 1], "0..65535"),
        (np.array([0, 2**31, 2**32 - 1], np.uint32), [0, 0.5, 1], "0..4294967295"),
        (np.array([0, 0.5, 1], np.float32), [0, 0.5, 1], ""),
        (np.array([0, 0.5, 1.001], np.float64), [0, 0.5, 1], ""),
        (np.array([0, 128, 255], np.float32), [0, 128 / 255, 1], "0..255"),
        (np.array([np.nan, 0.5, 1], np.float32), [0, 0.5, 1], ""),
        (np.zeros(0, np.int32), [], "0..255"),
    ],
)
def test_the_range_of_colours_follows_from_type_and_largest_value(stored, rgb, told):
    got, said = shares(stored)
    np.testing.assert_allclose(got, rgb, atol=1e-6)
    assert told in said and bool(told) == bool(said)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("nearest", [False, True])
def test_a_palette_gives_exactly_its_texel_at_its_centre(linear, nearest):
    image = np.random.default_rng(0).integers(0, 256, (2, 256, 3)).astype(np.uint8)
    texture = Texture(image, nearest=nearest)
    for i in (0, 1, 100, 254, 255):
        for k in range(2):
            got = texture_color(texture, (i + 0.5) / 256, (k + 0.5) / 2, linear)
            np.testing.assert_allclose(got, image[k, i] / 255, atol=1e-7)


def test_texels_are_mixed_as_they_are_or_in_linear_light():
    texture = Texture(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8))
    np.testing.assert_allclose(texture_color(texture, 0.5, 0.5), 0.5)
    np.testing.assert_allclose(texture_color(texture, 0.5, 0.5, linear=True), srgb_from_linear(np.array(0.5)))


def test_products_are_taken_as_they_are_or_in_linear_light():
    uv, texture = np.full((1, 3, 2), 0.5), Texture(np.full((1, 1, 3), 128, np.uint8))
    half = Paint.flat((0.5, 1, 0), 1).corner_rgb
    np.testing.assert_allclose(Paint(half, uv, texture).at(FACE, MIDDLE), [[64 / 255, 128 / 255, 0]])
    light = linear_from_srgb(np.array(128 / 255))
    wanted = srgb_from_linear(np.array([[0.5 * light, light, 0]]))
    np.testing.assert_allclose(Paint(half, uv, texture, linear=True).at(FACE, MIDDLE), wanted)


def test_faces_turned_round_keep_their_colours():
    rng = np.random.default_rng(0)
    paint = Paint(
        rng.random((1, 3, 3)), rng.random((1, 3, 2)), Texture(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8))
    )
    at = np.array([[0.2, 0.3, 0.5]])
    np.testing.assert_allclose(paint.reversed().at(FACE, at[:, ::-1]), paint.at(FACE, at))


def test_a_hash_sees_all_that_decides_colours():
    uv, image = np.zeros((1, 3, 2)), np.zeros((1, 1, 3), np.uint8)
    paints = [
        Paint(uv=uv, texture=Texture(image)),
        Paint(uv=uv, texture=Texture(image, wrap=("clamp", "repeat"))),
        Paint(uv=uv, texture=Texture(image, nearest=True)),
        Paint(uv=uv, texture=Texture(image), linear=True),
        Paint(uv=uv, texture=Texture(image + 1)),
    ]
    assert len({b"".join(array.tobytes() for array in paint.arrays()) for paint in paints}) == len(paints)


def grey16(value: int) -> Image.Image:
    return Image.fromarray(np.full((2, 2), value, np.uint16))


def palette() -> Image.Image:
    picture = Image.new("P", (2, 2), 3)
    picture.putpalette([0, 0, 0, 1, 1, 1, 2, 2, 2, 200, 100, 50])
    return picture


@pytest.mark.parametrize(
    ("data", "rgb"),
    [
        (encoded(Image.new("RGB", (2, 2), (200, 100, 50))), (200, 100, 50)),
        (encoded(Image.new("RGBA", (2, 2), (200, 100, 50, 0))), (200, 100, 50)),
        (encoded(Image.new("L", (2, 2), 77)), (77, 77, 77)),
        (encoded(Image.new("LA", (2, 2), (77, 9))), (77, 77, 77)),
        (encoded(Image.new("1", (2, 2), 1)), (255, 255, 255)),
        (encoded(palette()), (200, 100, 50)),
        (encoded(palette(), transparency=3), (200, 100, 50)),
        (encoded(grey16(0x8080)), (128, 128, 128)),
        (encoded(grey16(300)), (300 / 257,) * 3),
        (encoded(Image.new("RGB", (2, 2), (200, 100, 50)), "BMP"), (200, 100, 50)),
        (encoded(Image.new("RGB", (2, 2), (200, 100, 50)), "TGA"), (200, 100, 50)),
        (encoded(Image.new("RGB", (2, 2), (200, 100, 50)), "TIFF"), (200, 100, 50)),
        (encoded(palette(), "GIF"), (200, 100, 50)),
        (encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG", quality=100), (255, 255, 255)),
    ],
)
def test_pictures_of_all_kinds(data, rgb):
    image = read_picture(data)
    assert image.shape[2] == 3
    np.testing.assert_allclose(image[0, 0] / np.iinfo(image.dtype).max * 255, rgb, atol=1e-3)


@pytest.mark.parametrize("data", [b"", b"no picture", encoded(Image.new("RGB", (64, 64), (1, 2, 3)))[:60]])
def test_pictures_that_cannot_be_read(data):
    with pytest.raises(PictureError, match=r"^[^\n]+\Z"):
        read_picture(data)
