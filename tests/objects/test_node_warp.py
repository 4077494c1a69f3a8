"""The warp by nodes: both directions, time, its file."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import objects.node_kernel as node_kernel
import objects.node_warp as node_warp
from objects.field import Union
from objects.files import FieldFileError, load_field, save_field
from objects.node_warp import NodeKeys, NodeWarp
from objects.placed import Placed
from objects.pose import SE3
from objects.primitives import Capsule
from objects.warped import Warped, measure_warp

ROD = Capsule(0.1, 0.6)
TIMES = (0.0, 1.0, 2.0, 3.0)


def _keys(n=12, bend=0.8):
    """A rod along z that bends about x at each key by another angle; nodes along its axis."""
    z = np.linspace(-0.4, 0.4, n)
    nodes = np.stack([0 * z, 0 * z, z], 1)
    around = np.linspace(0, 2 * math.pi, 6, endpoint=False)
    anchors = np.concatenate([nodes + 0.1 * np.array([math.cos(a), math.sin(a), 0]) for a in around])
    near = np.argsort(np.abs(z[:, None] - z), 1)[:, :6]
    turns, shifts = [], []
    for time in TIMES:
        angle = bend * math.sin(time) * z
        turns.append(np.stack([np.cos(angle / 2), np.sin(angle / 2), 0 * z, 0 * z], 1))
        middle = np.cumsum(np.stack([0 * z, -np.sin(angle), np.cos(angle)], 1) * (z[1] - z[0]), 0)
        shifts.append(middle - middle.mean(0) - nodes)
    return NodeKeys(
        nodes, near, anchors, np.tile(np.arange(n), 6), 0.06, np.array(TIMES), np.array(turns), np.array(shifts)
    )


WARP = NodeWarp(_keys())


def _near(n=600):
    p = WARP.anchors[torch.randint(len(WARP.anchors), (n,))] + 0.02 * torch.randn(n, 3)
    return p, 3 * torch.randint(0, 7, (n,)) / 6


def test_canonical_inverts_deformed_to_a_thousandth_of_the_extent():
    p, time = _near()
    there = WARP.deformed(p, time)
    assert (there - p).norm(dim=-1).max() > 0.05
    # Where the nearest anchor differs on the two ways, so do the last of its nodes, whose weights are small.
    residual = WARP.residual(there, time)
    assert residual.median() < 1e-6
    assert residual.max() < 1e-3 * 0.8
    assert (WARP.canonical(there, time) - p).norm(dim=-1).quantile(0.99) < 1e-3 * 0.8


def test_a_node_goes_where_its_key_says_and_the_box_holds_all_anchors():
    keys = _keys()
    only = NodeWarp(keys._replace(near=np.arange(12)[:, None]))  # each point by one node: exactly rigid
    for i, time in enumerate(TIMES):
        there = only.deformed(only.nodes, torch.full((12,), time))
        assert torch.allclose(there, only.nodes + only.shifts[i], atol=1e-6)
        assert WARP.box.contains(WARP.deformed(WARP.anchors, torch.full((72,), time))).all()


def test_points_of_several_times_equal_those_of_each_time_alone():
    p, time = _near(50)
    together = WARP.canonical(p, time)
    for i in range(50):
        assert torch.allclose(WARP.canonical(p[i : i + 1], time[i : i + 1]), together[i : i + 1], atol=1e-6)


def test_times_beyond_the_span_are_clamped_and_a_loop_closes_smoothly():
    p, _ = _near(20)
    assert torch.equal(WARP.deformed(p, torch.full((20,), 9.0)), WARP.deformed(p, torch.full((20,), 3.0)))
    loop = NodeWarp(_keys(), period=4.0)
    assert loop.span == (0.0, 4.0)
    ends = [loop.deformed(p, torch.full((20,), t)) for t in (0.0, 0.01, 3.99, 4.0)]
    assert torch.allclose(ends[0], ends[3], atol=1e-6)
    assert (ends[1] - 2 * ends[0] + ends[2]).norm(dim=-1).max() < 0.1 * (ends[1] - ends[0]).norm(dim=-1).max()


def test_the_compiled_search_finds_what_the_plain_one_does():
    plain = copy.deepcopy(WARP).double()
    p = torch.cat([_near(400)[0], WARP.box.lo + torch.rand(400, 3) * WARP.box.size])  # far from the surface, too
    time = 3 * torch.randint(0, 5, (800,)) / 4
    for ask, same in ((WARP.canonical, plain.canonical), (WARP.deformed, plain.deformed)):
        found, wanted = ask(p, time), same(p.double(), time.double())
        off = (found - wanted).norm(dim=-1)
        assert (wanted - p).norm(dim=-1).max() > 0.05
        assert off.quantile(0.99) < 2e-5  # two anchors can be as near as each other
        assert ask(p[:0], time[:0]).shape == (0, 3)
        q = p.clone().requires_grad_()  # where torch runs, for gradients
        assert torch.allclose(ask(q, time), found, atol=2e-6)


def _legs():
    """Two rods side by side at rest that are far apart at 1 s, each moved by nodes of its own."""
    z = np.linspace(-0.3, 0.3, 7)
    nodes = np.concatenate([np.stack([0 * z + x, 0 * z, z], 1) for x in (-0.1, 0.1)])
    around = np.linspace(0, 2 * math.pi, 8, endpoint=False)
    ring = 0.06 * np.stack([np.cos(around), np.sin(around), 0 * around], 1)
    anchors, homes = (nodes[:, None] + ring).reshape(-1, 3), np.repeat(np.arange(14), 8)
    near = np.stack([np.argsort(np.abs(z - z[k % 7]))[:5] + 7 * (k // 7) for k in range(14)])
    apart = np.sign(nodes[:, :1]) * [[0.5, 0, 0]]
    turns = np.tile([1.0, 0, 0, 0], (2, 14, 1))
    keys = NodeKeys(nodes, near, anchors, homes, 0.1, np.array([0.0, 1.0]), turns, np.stack([0 * apart, apart]))
    leg = Capsule(0.06, 0.6)
    legs = [Placed(leg, SE3.from_translation((x, 0, 0))) for x in (-0.1, 0.1)]
    return Warped(Union(*legs), NodeWarp(keys), stretch=1.0), leg


def test_beside_a_part_stands_no_ghost_of_another_that_was_near_it_at_rest():
    field, leg = _legs()
    p = field.box_lo + torch.rand(4000, 3) * field.bounds.size
    now = torch.ones(len(p))
    true = torch.minimum(*(leg.sdf(p - torch.tensor([x, 0.0, 0.0])) for x in (-0.6, 0.6)))
    found = field.sdf(p, now)
    assert (field.field.sdf(field.warp.canonical(p, now)) < 0)[true > 0.02].any()  # the ghost, in the whole of space
    assert ((found < 0) == (true < 0))[true.abs() > 0.005].all()
    assert (found <= true.clamp(min=0) + 0.02).all()  # as far apart as anchors are
    assert torch.allclose(found[true.abs() < 0.02], true[true.abs() < 0.02], atol=5e-3)
    warp, plain = field.warp, copy.deepcopy(field.warp).double()
    for way in ((warp.reached(p.requires_grad_(), now)), plain.reached(p.double().detach(), now.double())):
        for mine, other in zip(warp.reached(p.detach(), now), way, strict=True):
            assert (mine - other).abs().float().quantile(0.99) < 1e-5


def test_derivatives_of_the_compiled_search_are_those_of_the_plain_one():
    legs, _ = _legs()
    for warp, p in ((WARP, _near(400)[0]), (legs.warp, legs.box_lo + torch.rand(2000, 3) * legs.bounds.size)):
        found = []
        for own, q in ((warp, p.clone()), (copy.deepcopy(warp).double(), p.double())):
            points, beyond = own.reached(q.requires_grad_(), torch.ones(len(q)).to(q))
            asked = (points * torch.tensor([1.0, 2.0, 3.0]).to(q)).sum() + 0.5 * beyond.sum()
            found.append(torch.autograd.grad(asked, q)[0].double())
        assert ((found[0] - found[1]).norm(dim=-1) < 1e-3 * found[1].norm(dim=-1)).double().mean() > 0.97


def test_the_nearest_anchor_is_the_nearest_of_all():
    draw = np.random.default_rng(0)
    for n in (1, 7, 300):
        anchors = draw.normal(size=(n, 3)).astype(np.float32)
        rest = node_kernel.rest(anchors[:1], np.zeros((1, 1)), anchors, np.zeros(n), 0.1, 0.1, 1e-5)
        stack, waits = np.empty(64, np.int64), np.empty(64, np.float32)
        for p in (3 * draw.normal(size=(200, 3))).astype(np.float32):
            guess = int(draw.integers(n))
            k = node_kernel.nearest_anchor(rest.anchors, rest.starts, rest.boxes, *p, guess, stack, waits)
            assert np.array_equal(rest.anchors[k], anchors[np.square(anchors - p).sum(1).argmin()])


def test_threads_may_ask_at_many_times_at_once(monkeypatch):
    monkeypatch.setattr(node_warp, "_KEPT", 2)
    p, times = _near(20)[0], torch.linspace(0, 3, 40)
    wanted = [copy.deepcopy(WARP).canonical(p, t.expand(20)) for t in times]
    shared = copy.deepcopy(WARP)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda k: shared.canonical(p, times[k % 40].expand(20)), range(400)))
    assert all(torch.equal(found[k], wanted[k % 40]) for k in range(400))


def test_what_is_not_a_number_stays_none():
    p, time = torch.tensor([[0.1, math.nan, 0.0], [0.1, 0.0, 0.0], [0.0, 0.0, 0.1]]), torch.tensor([1.0, math.nan, 1.0])
    for ask in (WARP.canonical, WARP.deformed):
        assert torch.isnan(ask(p, time)).any(1).tolist() == [True, True, False]


def test_numbers_that_change_are_seen():
    warp, (p, time) = copy.deepcopy(WARP), _near(50)
    before = warp.deformed(p, time)
    warp.shifts += 0.1
    assert torch.allclose(warp.deformed(p, time), before + 0.1, atol=1e-6)


def test_what_turns_wholly_in_a_loop_goes_on_turning():
    keys, angle = _keys(), 0.5 * math.pi * np.array(TIMES)
    half = 0.5 * np.stack([angle] * 12, 1)
    turns = np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], -1)
    warp = NodeWarp(keys._replace(turns=turns, shifts=np.zeros_like(keys.shifts)), period=4.0)
    p = torch.tensor([[0.1, 0.0, 0.05]])
    for time in (0.0, 0.5, 3.0, 3.5, 3.9):
        at = 0.5 * math.pi * time
        wanted = torch.tensor([[0.1 * math.cos(at), 0.1 * math.sin(at), 0.05]])
        assert torch.allclose(warp.deformed(p, torch.tensor([time])), wanted, atol=1e-3), time


def test_gradients_agree_with_finite_differences():
    warp = NodeWarp(_keys()).double()
    p = (warp.anchors[:8] + 0.01).requires_grad_()
    time = torch.full((8,), 0.7, dtype=torch.float64, requires_grad=True)
    for ask in (warp.canonical, warp.deformed):
        loss = ask(p, time).sum()
        by_point, by_time = torch.autograd.grad(loss, (p, time))
        with torch.no_grad():
            for k in range(3):
                step = 1e-5 * torch.eye(3, dtype=torch.float64)[k]
                slope = (ask(p + step, time) - ask(p - step, time)).sum(-1) / 2e-5
                assert torch.allclose(by_point[:, k], slope, rtol=2e-2, atol=2e-2)
            slope = (ask(p, time + 1e-5) - ask(p, time - 1e-5)).sum(-1) / 2e-5
            assert torch.allclose(by_time, slope, rtol=2e-2, atol=2e-3)


def test_a_file_gives_the_same_field_and_copies_are_whole(tmp_path):
    field = Warped(ROD, NodeWarp(_keys(), period=4.0), stretch=1.0)
    save_field(field, tmp_path / "rod.safetensors")
    p, time = _near(100)
    for other in (load_field(tmp_path / "rod.safetensors"), copy.deepcopy(field)):
        assert torch.equal(other.sdf(p, time), field.sdf(p, time))
        assert other.warp.span == field.warp.span


def test_a_gentle_warp_is_measured_as_one():
    measure = measure_warp(ROD, WARP)
    assert measure.folded < 0.01
    assert 1 <= measure.stretch < 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"times": np.array([0.0, 1.0, 1.0, 2.0])}, "times must increase"),
        ({"homes": np.full(72, 12)}, "homes to be numbers of the 12 nodes"),
        ({"near": np.full((12, 3), 0.5)}, "near to be numbers"),
        ({"spacing": 0.0}, "spacing"),
        ({"nodes": np.full((12, 3), np.nan)}, "finite nodes"),
        ({"turns": np.zeros((4, 12, 4))}, "quaternions"),
    ],
)
def test_numbers_that_make_no_warp_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        NodeWarp(_keys()._replace(**change))
    with pytest.raises(ValueError, match="period must be more"):
        NodeWarp(_keys(), period=2.5)


def test_a_file_with_a_wrong_index_is_refused(tmp_path):
    field = Warped(ROD, NodeWarp(_keys()), stretch=1.0)
    field.warp.homes[3] = 40
    with pytest.raises(FieldFileError, match="homes"):
        save_field(field, tmp_path / "bad.safetensors")
