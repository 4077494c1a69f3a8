"""Products of small matrices against numpy's in float64."""

import numpy as np
import pytest

from objects.products import padded, product


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("n", [16, 48, 80, 96, 144, 256])
def test_products_of_all_widths_equal_numpys_and_may_be_added(n):
    a, b, c = numbers(8, 37), numbers(37, n), numbers(8, n)
    want = c + a.astype(np.float64) @ b
    product(a, b, c, True)
    np.testing.assert_allclose(c, want, atol=2e-5)
    product(a, b, c, False)
    np.testing.assert_allclose(c, a.astype(np.float64) @ b, atol=2e-5)


def test_transposed_and_cut_out_factors_are_taken_as_they_lie():
    a, b, c = numbers(37, 8), numbers(40, 96), np.zeros((8, 96), np.float32)
    product(a.T, b[3:], c, False)
    np.testing.assert_allclose(c, a.T.astype(np.float64) @ b[3:], atol=2e-5)
    product(numbers(8, 50)[:, 5:42], b[:37, 16:80], c[:, 16:80], False)
    np.testing.assert_allclose(c[:, 16:80], numbers(8, 50)[:, 5:42].astype(np.float64) @ b[:37, 16:80], atol=2e-5)
    np.testing.assert_allclose(c[:, 80:], a.T.astype(np.float64) @ b[3:, 80:], atol=2e-5)


def test_a_number_has_the_same_bits_whatever_stands_beside_it():
    a, b = numbers(8, 37), numbers(37, 144)
    whole, alone = np.zeros((8, 144), np.float32), np.zeros((4, 16), np.float32)
    product(a, b, whole, False)
    product(a[4:], np.ascontiguousarray(b[:, 64:80]), alone, False)
    assert (whole[4:, 64:80] == alone).all()


def test_widths_are_filled_up_to_whole_vectors():
    assert [padded(n) for n in (1, 16, 17, 72)] == [16, 16, 32, 80]
