"""Fused sine networks against torch's autograd."""

import pytest
import torch

from objects.fused import sine_mlps, surface_l1
from objects.siren import SineMlp
from objects.siren_layout import SineShape


def shape_of(width: int, layers: int, n_out: int) -> SineShape:
    return SineShape(3, n_out, width, layers, 20.0, 30.0)


def networks(k: int, shape: SineShape) -> tuple[list[SineMlp], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    nets = [SineMlp(**shape._asdict(), generator=generator) for _ in range(k)]
    theta = torch.stack([torch.nn.utils.parameters_to_vector(net.parameters()).detach() for net in nets])
    return nets, theta.requires_grad_()


@pytest.mark.parametrize(("width", "layers", "n_out"), [(16, 1, 1), (64, 3, 1), (48, 2, 3), (100, 3, 3)])
def test_values_and_gradients_equal_autograd(width, layers, n_out):
    shape = shape_of(width, layers, n_out)
    nets, theta = networks(3, shape)
    offsets = torch.tensor([0, 70, 70, 5000])  # one network without points, one of more than one job
    generator = torch.Generator().manual_seed(1)
    x = (2 * torch.rand(5000, 3, generator=generator) - 1).requires_grad_()
    push = torch.randn(5000, n_out, generator=generator)
    push *= torch.rand(5000, 1, generator=generator) < 0.4  # the other points are left out on the way back
    got = sine_mlps(theta, x, offsets, shape)
    want = torch.cat([net(x[a:b]) for net, a, b in zip(nets, offsets[:-1], offsets[1:], strict=True)])
    torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)
    g_theta, g_x = torch.autograd.grad((got * push).sum(), [theta, x])
    params = [p for net in nets for p in net.parameters()]
    g_params = torch.autograd.grad((want * push).sum(), [*params, x], allow_unused=True)
    flat = [torch.zeros(p.numel()) if g is None else g.flatten() for p, g in zip(params, g_params, strict=False)]
    scale = float(torch.cat(flat).abs().max())
    torch.testing.assert_close(g_theta / scale, torch.cat(flat).view_as(theta) / scale, atol=2e-5, rtol=0)
    torch.testing.assert_close(g_x, g_params[-1], atol=2e-5 * float(g_params[-1].abs().max()), rtol=0)


def test_the_bits_do_not_depend_on_the_number_of_threads():
    shape = shape_of(64, 2, 1)
    _, theta = networks(2, shape)
    offsets = torch.tensor([0, 9000, 9100])
    x = torch.rand(9100, 3, generator=torch.Generator().manual_seed(2))
    found = []
    for n_threads in (1, 3):
        out = sine_mlps(theta, x, offsets, shape, n_threads=n_threads)
        found.append((out, *torch.autograd.grad(out.square().sum(), [theta])))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_no_points_at_all_give_no_values_and_no_gradient():
    shape = shape_of(16, 2, 3)
    _, theta = networks(2, shape)
    out = sine_mlps(theta, torch.zeros(0, 3), torch.zeros(3, dtype=torch.int64), shape)
    assert out.shape == (0, 3)
    assert float(torch.autograd.grad(out.sum(), [theta])[0].abs().max()) == 0


@pytest.mark.parametrize(("width", "layers"), [(16, 1), (72, 3), (100, 2)])
def test_distances_and_gradients_are_learned_as_second_derivatives_say(width, layers):
    shape = shape_of(width, layers, 1)
    nets, theta = networks(3, shape)
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.rand(3, 700, 3, generator=generator) - 1
    target, weight, steep = (torch.rand(3, 700, generator=generator) for _ in range(3))
    normal = torch.nn.functional.normalize(torch.randn(3, 700, 3, generator=generator), dim=-1)
    got = surface_l1(theta, x, target, weight, normal, steep, shape)
    (g_got,) = torch.autograd.grad((got * torch.tensor([1.0, 2.0, 3.0])).sum(), theta)
    for k, net in enumerate(nets):
        net.double()
        at = x[k].double().requires_grad_()
        sdf = net(at)[:, 0]
        (slope,) = torch.autograd.grad(sdf.sum(), at, create_graph=True)
        error = weight[k] * (sdf - target[k]).abs() + steep[k] * (slope - normal[k]).norm(dim=-1)
        want = (k + 1) * error.mean()
        torch.testing.assert_close((k + 1) * got[k].double(), want, atol=1e-5, rtol=1e-5)
        flat = torch.cat([g.flatten() for g in torch.autograd.grad(want, list(net.parameters()))])
        torch.testing.assert_close(g_got[k].double() / flat.abs().max(), flat / flat.abs().max(), atol=5e-5, rtol=0)


def test_the_bits_of_learned_gradients_do_not_depend_on_threads_or_company():
    shape = shape_of(40, 3, 1)
    _, theta = networks(2, shape)
    x = torch.rand(2, 300, 3, generator=torch.Generator().manual_seed(2))
    normal, ones = torch.nn.functional.normalize(x - 0.5, dim=-1), torch.ones(2, 300)
    found = []
    for rows, n_threads in ((slice(0, 2), 1), (slice(0, 2), 3), (slice(1, 2), 2)):
        samples = x[rows], ones[rows], ones[rows], normal[rows], ones[rows]
        loss = surface_l1(theta[rows], *samples, shape, n_threads=n_threads)
        found.append((loss[-1], torch.autograd.grad(loss[-1], theta)[0][1]))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
