import math

import pytest
import torch

from compose.segments import segment_reduce, torch_scatter_available

LENGTHS = [3, 0, 1, 7, 0, 0, 12, 1, 0]
IDENTITY = {"sum": 0.0, "mean": 0.0, "min": math.inf, "max": -math.inf}
REDUCTIONS = sorted(IDENTITY)


def _segments(*channels, seed=0):
    offsets = torch.tensor([0, *LENGTHS]).cumsum(0)
    g = torch.Generator().manual_seed(seed)
    return torch.randn(int(offsets[-1]), *channels, generator=g, dtype=torch.float64), offsets


def _loop(values, offsets, reduction):
    """One row after another, in Python numbers."""
    rows = []
    for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        columns = values[a:b].reshape(b - a, math.prod(values.shape[1:])).T.tolist()
        join = {"sum": math.fsum, "mean": lambda c: math.fsum(c) / len(c), "min": min, "max": max}[reduction]
        rows.append([join(c) if c else IDENTITY[reduction] for c in columns])
    return torch.tensor(rows, dtype=torch.float64).view(len(offsets) - 1, *values.shape[1:])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("channels", [(), (1,), (4,), (2, 3)])
def test_reductions_equal_a_loop(reduction, channels):
    values, offsets = _segments(*channels)
    torch.testing.assert_close(
        segment_reduce(values, offsets, reduction), _loop(values, offsets, reduction), rtol=1e-14, atol=1e-14
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_equal_finite_differences(reduction):
    values, offsets = _segments(2)
    filled = torch.tensor(LENGTHS) > 0
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: segment_reduce(v, offsets, reduction)[filled], values)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_empty_segments_give_the_identity_and_no_gradient(reduction):
    values, offsets = _segments(2)
    values.requires_grad_()
    out = segment_reduce(values, offsets, reduction)
    empty = torch.tensor(LENGTHS) == 0
    assert torch.equal(out[empty], torch.full_like(out[empty], IDENTITY[reduction]))
    (gradient,) = torch.autograd.grad(out[~empty].sum(), values)
    assert torch.isfinite(gradient).all() and (gradient.abs().sum() > 0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("n_segments", [0, 3])
def test_no_rows_at_all(reduction, n_segments):
    out = segment_reduce(torch.zeros(0, 2), torch.zeros(n_segments + 1, dtype=torch.int64), reduction)
    assert out.shape == (n_segments, 2)
    assert torch.equal(out, torch.full((n_segments, 2), IDENTITY[reduction]))


@pytest.mark.parametrize(
    ("offsets", "words"),
    [
        ([0, 2], "from 0 to the number of rows"),
        ([1, 4], "from 0 to the number of rows"),
        ([0, 3, 2, 4], "must not decrease"),
        ([], "from 0 to the number of rows"),
        ([[0, 4]], "from 0 to the number of rows"),
    ],
)
def test_offsets_that_do_not_fit_are_refused(offsets, words):
    with pytest.raises(ValueError, match=words):
        segment_reduce(torch.zeros(4), torch.tensor(offsets, dtype=torch.int64), "sum")


def test_unknown_names_are_refused():
    values, offsets = _segments()
    with pytest.raises(ValueError, match="reduction must be one of"):
        segment_reduce(values, offsets, "median")
    with pytest.raises(ValueError, match="backend must be"):
        segment_reduce(values, offsets, "sum", backend="numpy")


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr("compose.segments.torch_scatter_available", lambda: False)
    values, offsets = _segments()
    with pytest.raises(ModuleNotFoundError, match="make test-scatter"):
        segment_reduce(values, offsets, "sum", backend="torch_scatter")


@pytest.mark.skipif(
    not torch_scatter_available(), reason="torch-scatter is not installed (make test-scatter builds it)"
)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("channels", [(), (4,), (2, 3)])
def test_torch_scatter_says_the_same(reduction, channels):
    values, offsets = _segments(*channels)
    values.requires_grad_()
    ours, theirs = (segment_reduce(values, offsets, reduction, backend=b) for b in ("torch", "torch_scatter"))
    torch.testing.assert_close(theirs, ours, rtol=1e-14, atol=1e-14)
    filled = torch.tensor(LENGTHS) > 0
    weights = torch.randn_like(ours[filled])
    gradients = [torch.autograd.grad((out[filled] * weights).sum(), values)[0] for out in (ours, theirs)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-14, atol=1e-14)
    empty = segment_reduce(values[:0], torch.zeros(4, dtype=torch.int64), reduction, backend="torch_scatter")
    assert torch.equal(empty, torch.full_like(empty, IDENTITY[reduction]))
