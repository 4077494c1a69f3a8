"""Warps: inverses, spans, fields seen through them, their files."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from objects.aabb import Aabb
from objects.analytic_warps import Bend, Twist
from objects.field import structure
from objects.files import FieldFileError, load_field, save_field, storable
from objects.placed import Placed
from objects.pose import SE3
from objects.primitives import Box, Capsule
from objects.warp import Warp
from objects.warped import Warped, measure_warp

ROD = Capsule(0.1, 0.6)
TWIST = Twist(ROD.bounds, (0, 0, 1), (0, 0, 0), (0, 1, 2), (0, 3, -3))
BEND = Bend(ROD.bounds, (0, 0, 1), (1, 0.5, 0.2), (0, 0, 0.05), 0.6, (0, 1, 2), (0, 4, -3))
GENTLE = Bend(ROD.bounds, (0, 0, 1), (1, 0.5, 0.2), (0, 0, 0.05), 0.6, (0, 1, 2), (0, 2.5, -2))
every_warp = pytest.mark.parametrize("warp", [TWIST, BEND], ids=["twist", "bend"])


class OneWay(Warp):
    """Another warp, of which it knows one direction only."""

    def __init__(self, other):
        super().__init__(other.box, other.span)
        self.other = other


class Forward(OneWay):
    def forward_map(self, p_canonical, time):
        return self.other.forward_map(p_canonical, time)


class Backward(OneWay):
    def backward_map(self, p_obj, time):
        return self.other.backward_map(p_obj, time)


def _points(n=500):
    time = 2 * torch.rand(n)
    return ROD.box_lo + torch.rand(n, 3) * ROD.bounds.size, time


@every_warp
def test_canonical_inverts_deformed_and_the_box_holds_all_that_is_deformed(warp):
    p, time = _points()
    deformed = warp.deformed(p, time)
    assert warp.box.contains(deformed).all()
    assert (warp.canonical(deformed, time) - p).norm(dim=-1).max() < 1e-5
    assert (deformed - p).norm(dim=-1).max() > 0.1
    assert warp.residual(deformed, time).max() < 1e-5


@pytest.mark.parametrize("warp", [TWIST, GENTLE], ids=["twist", "bend"])
@pytest.mark.parametrize("one_way", [Forward, Backward])
def test_the_other_direction_is_found_by_iteration(warp, one_way):
    p, time = _points()
    found = one_way(warp)
    deformed = warp.deformed(p, time)
    assert (found.deformed(p, time) - deformed).norm(dim=-1).max() < 1e-3 * ROD.bounds.diagonal
    assert (found.canonical(deformed, time) - p).norm(dim=-1).max() < 1e-3 * ROD.bounds.diagonal


def test_an_inverse_found_by_iteration_has_the_gradients_of_the_exact_one():
    p, time = _points(50)
    points, times = p.double().requires_grad_(True), time.double().requires_grad_(True)
    twist = Twist(ROD.bounds, (0, 0, 1), (0, 0, 0), (0, 2), (0, 3)).double()
    wanted = torch.autograd.grad(twist.canonical(points, times).pow(3).sum(), (points, times))
    for value, want in zip(
        torch.autograd.grad(Forward(twist).double().canonical(points, times).pow(3).sum(), (points, times)),
        wanted,
        strict=True,
    ):
        assert (value - want).abs().max() < 1e-3 * want.abs().max()


@every_warp
def test_the_jacobian_is_that_of_finite_differences(warp):
    p, time = _points(50)
    wide, p, time = type(warp).empty(warp.config()).double(), p.double(), time.double()
    wide.load_state_dict(warp.state_dict())
    got, step = wide.jacobian(p, time), 1e-6
    for k in range(3):
        ahead = wide.canonical(p + step * torch.eye(3)[k], time) - wide.canonical(p - step * torch.eye(3)[k], time)
        assert torch.allclose(got[..., k], ahead / (2 * step), atol=1e-5)


@every_warp
def test_times_outside_the_span_are_clamped(warp):
    p, _ = _points(50)
    for outside, inside in ((-3.0, 0.0), (5.0, 2.0)):
        assert torch.equal(warp.canonical(p, torch.full((50,), outside)), warp.canonical(p, torch.full((50,), inside)))
        assert torch.equal(warp.deformed(p, torch.full((50,), outside)), warp.deformed(p, torch.full((50,), inside)))


@given(st.floats(-6, 6), st.floats(0.2, 1.5))
def test_a_bend_keeps_lengths_along_its_axis(angle, length):
    bend = Bend(Box((0.1, 0.1, length)).bounds, (0, 0, 1), (0, 1, 0), (0, 0, 0), length, (0,), (angle / length * 0.9,))
    z = torch.linspace(-length / 2, length / 2, 200)
    line = bend.deformed(torch.stack([0 * z, 0 * z, z], -1), torch.zeros(200))
    assert line.diff(dim=0).norm(dim=-1).sum().item() == pytest.approx(length, rel=1e-3)
    assert bend.residual(line, torch.zeros(200)).max() < 1e-4


@every_warp
def test_a_warped_field_shows_the_canonical_surface_and_its_distance_is_a_bound(warp):
    field = Warped(ROD, warp)
    p = field.box_lo + torch.rand(20_000, 3) * field.bounds.size
    time = 2 * torch.rand(1).expand(20_000)
    assert torch.equal(field.sdf(p, time) < 0, ROD.sdf(warp.canonical(p, time)) < 0)
    surface = torch.nn.functional.normalize(torch.randn(4000, 3), dim=-1) * 0.1
    surface[:, 2] += torch.where(surface[:, 2] > 0, 0.3, -0.3)
    surface = warp.deformed(surface, time[:4000])
    assert (field.sdf(surface, time[:4000])).abs().max() < 1e-5
    distance = torch.cdist(p[:2000], surface).amin(1)
    assert (field.sdf(p[:2000], time[:2000]).abs() <= distance + 0.02).all()
    faces = torch.where(torch.rand(500, 3) < 0.5, field.box_lo, field.box_hi)
    on_a_face = field.box_lo + torch.rand(500, 3) * field.bounds.size
    k = torch.randint(3, (500, 1))
    on_a_face.scatter_(1, k, faces.gather(1, k))
    assert (field.sdf(on_a_face, 2 * torch.rand(500)) > 0).all()


def test_a_twist_stretches_space_as_its_formula_says():
    twist = Twist(ROD.bounds, (0, 0, 1), (0, 0, 0), (0, 1), (3, 3))
    shear = 3 * float(ROD.bounds.padded(0.1 * ROD.bounds.diagonal).hi[:2].norm())
    largest = 0.5 * (shear + math.sqrt(shear**2 + 4))
    assert 1.1 < measure_warp(ROD, twist).stretch < 1.05 * largest
    assert measure_warp(ROD, twist).folded == 0


def test_a_warp_that_folds_space_is_measured():
    thick = Box((0.4, 0.4, 0.8))
    tight = Bend(thick.bounds, (0, 0, 1), (1, 0, 0), (0, 0, 0), 0.4, (0, 1), (0, 13))  # its centre lies within the box
    found = measure_warp(thick, tight)
    assert found.folded > 0.05 and found.residual > 0.02
    gentle = Bend(thick.bounds, (0, 0, 1), (1, 0, 0), (0, 0, 0), 0.4, (0, 1), (0, 1))
    assert measure_warp(thick, gentle).residual < 1e-4 and measure_warp(thick, gentle).folded == 0


def test_files_give_back_the_same_field_and_older_programs_are_told(tmp_path):
    for k, warp in enumerate((TWIST, BEND)):
        field = Placed(Warped(Capsule(0.1, 0.6), warp), SE3.identity(), 2.0)
        save_field(field, tmp_path / f"{k}.safetensors")
        again = load_field(tmp_path / f"{k}.safetensors")
        assert structure(again) == structure(field) and again.deforms and storable(field)
        p, time = _points(100)
        assert torch.equal(again.sdf(p, time), field.sdf(p, time))
        assert b'"version":"3"' in (tmp_path / f"{k}.safetensors").read_bytes()


def _written(path, edit):
    save_field(Warped(ROD, TWIST), path)
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    tree = json.loads(header["__metadata__"]["tree"])
    edit(tree, header["__metadata__"])
    header["__metadata__"]["tree"] = json.dumps(tree)
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data[8 + n :])


HOSTILE = {
    "unknown kind": (lambda tree, _: tree["warp"].update(kind="os.system"), "kind of warp out of bend, twist"),
    "kind is a list": (lambda tree, _: tree["warp"].update(kind=[]), "kind of warp"),
    "no warp": (lambda tree, _: tree.pop("warp"), "expected a warp with kind and config"),
    "huge": (lambda tree, _: tree["warp"]["config"].update(keys=10**9), "keys to be int within"),
    "many keys": (lambda tree, _: tree["warp"]["config"].update(keys=10**6), "numbers"),
    "other config": (lambda tree, _: tree["warp"].update(config={"layers": 3}), "expected a config of"),
    "a warp where none belongs": (lambda tree, _: tree["children"][0].update(warp=tree["warp"]), "expected no warp"),
    "in an older version": (lambda _, meta: meta.update(version="2"), "expected a node"),
}


@pytest.mark.parametrize(("edit", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_warps_get_clear_errors(edit, message, tmp_path):
    _written(tmp_path / "f.safetensors", edit)
    with pytest.raises(FieldFileError, match=message):
        load_field(tmp_path / "f.safetensors")


def test_warps_of_files_are_checked(tmp_path):
    broken = Warped(ROD, Twist(ROD.bounds, (0, 0, 1), (0, 0, 0), (0, 1), (0, 1)))
    broken.warp.times.copy_(torch.tensor([1.0, 0.0]))
    with pytest.raises(FieldFileError, match="times must be finite and increase"):
        save_field(broken, tmp_path / "f.safetensors")
    with pytest.raises(FieldFileError, match="kind of warp out of"):
        save_field(Warped(ROD, Forward(TWIST)), tmp_path / "g.safetensors")


def test_bad_input_is_refused():
    box = ROD.bounds
    for make, message in (
        (lambda: Twist(ROD, (0, 0, 1), (0, 0, 0), (0, 1), (0, 1)), "box: expected an Aabb"),
        (lambda: Twist(box, (0, 0, 0), (0, 0, 0), (0, 1), (0, 1)), "axis must be"),
        (lambda: Twist(box, (0, 0, 1), (0, 0), (0, 1), (0, 1)), "origin must be"),
        (lambda: Twist(box, (0, 0, 1), (0, 0, 0), (0, 1), (0, 1, 2)), "as many values as times"),
        (lambda: Twist(box, (0, 0, 1), (0, 0, 0), (1, 0), (0, 1)), "increase|not end before"),
        (lambda: Twist(box, (0, 0, 1), (0, 0, 0), (0, 1), (0, math.nan)), "finite values"),
        (lambda: Bend(box, (0, 0, 1), (0, 0, 2), (0, 0, 0), 1, (0, 1), (0, 1)), "must not lie along"),
        (lambda: Bend(box, (0, 0, 1), (0, 1, 0), (0, 0, 0), 0, (0, 1), (0, 1)), "length must be"),
        (lambda: Bend(box, (0, 0, 1), (0, 1, 0), (0, 0, 0), 1, (0, 1), (0, 7)), "from end to end"),
        (lambda: Warped(Warped(ROD, TWIST), TWIST), "depends on time itself"),
        (lambda: Warped(ROD, ROD), "warp must be a Warp"),
        (lambda: Warped(ROD, TWIST, stretch=0), "stretch must be"),
        (lambda: Warped(ROD, Twist(Aabb(box.lo + 9, box.hi + 9), (0, 0, 1), (0, 0, 0), (0,), (0,))), "maps to about"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_times_that_float32_cannot_tell_apart_are_refused():
    box = Aabb([-0.3, -0.3, -0.6], [0.3, 0.3, 0.6])
    with pytest.raises(ValueError, match="twist: expected a span near 0 s"):
        Twist(box, (0, 0, 1), (0, 0, 0), (1e6, 1e6 + 2), (0, 1))
    assert Twist(box, (0, 0, 1), (0, 0, 0), (1e3, 1e3 + 2), (0, 1)).span == (1e3, 1e3 + 2)
