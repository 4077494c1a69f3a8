"""What travels and bends: rigid motion by poses, bending by the warp, and both together as before."""

import math

import numpy as np
import pytest
import torch

from objects.node_warp import NodeKeys, NodeWarp
from objects.pose import SE3
from objects.primitives import Capsule
from objects.travel import travel
from objects.warped import Warped

ROD = Capsule(0.1, 0.6)
TIMES = np.arange(8) / 8


def _flying(span, turns, period=None):
    """A rod along z that bends about x, flies ``span`` metres in a parabola or a circle and turns about z."""
    z = np.linspace(-0.4, 0.4, 12)
    nodes = np.stack([0 * z, 0 * z, z], 1)
    around = np.linspace(0, 2 * math.pi, 6, endpoint=False)
    anchors = np.concatenate([nodes + 0.1 * np.array([math.cos(a), math.sin(a), 0]) for a in around])
    near, half = np.argsort(np.abs(z[:, None] - z), 1)[:, :6], 0.3 * np.sin(2 * math.pi * TIMES)[:, None] * z
    bend = SE3(
        torch.from_numpy(np.stack([np.cos(half), np.sin(half), 0 * half, 0 * half], -1)), torch.zeros(8, 12, 3).double()
    )
    angle, wave = 2 * math.pi * turns * TIMES, 2 * math.pi * TIMES
    x = np.cos(wave) if period else TIMES
    places = span * np.stack([x, 0 * x, np.sin(wave) if period else TIMES - TIMES**2], -1)
    flight = SE3(
        torch.from_numpy(np.stack([np.cos(angle / 2), 0 * x, 0 * x, np.sin(angle / 2)], -1))[:, None],
        torch.from_numpy(places)[:, None],
    )
    shifts = (flight @ torch.from_numpy(nodes)).numpy() - nodes
    whole, homes = (flight @ bend).quat_wxyz.numpy(), np.tile(np.arange(12), 6)
    keys = NodeKeys(nodes, near, anchors, homes, 0.06, TIMES, whole, shifts)
    return Warped(ROD, NodeWarp(keys, period=period))


@pytest.mark.parametrize(("span", "turns", "period"), [(2.0, 0.3, None), (0.0, 0.7, None), (1.0, 1.0, 1.0)])
def test_poses_and_what_is_left_are_together_what_the_warp_was(span, turns, period):
    learned = _flying(span, turns, period)
    found = travel(learned)
    assert found is not None and found.field.span == learned.span
    assert (found.times[0], found.times[-1]) == learned.span
    p, at = learned.warp.anchors, dict(zip(np.round(found.times, 6), range(len(found.times)), strict=True))
    for time, least in [*((t, 1e-5) for t in TIMES), *((t + 1 / 16, 0.02) for t in TIMES[:-1])]:
        now = torch.full((len(p),), float(time))
        left = found.field.warp.deformed(p, now)
        there = found.poses[at[round(float(time), 6)]].to(torch.float32) @ left
        assert (there - learned.warp.deformed(p, now)).norm(dim=-1).max() < least
        assert (left - p).norm(dim=-1).max() < 0.1  # bending alone
    if span:
        assert found.field.bounds.size.prod() < 0.3 * learned.bounds.size.prod()
    if period:
        ends = [found.poses[k].to(torch.float32) @ p for k in (0, -1)]
        assert torch.allclose(*ends, atol=1e-5)


def test_what_stays_about_where_it_is_keeps_its_warp():
    assert travel(_flying(0.1, 0.05)) is None
