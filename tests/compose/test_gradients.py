"""Gradients of query and of hits, in float64, against the dense reference's and against finite differences."""

import copy

import pytest
import torch

from compose import Composite, Hits, Instance, Rays
from compose.reference import hit_distance_reference, in_double, query_reference
from objects import SE3
from objects.primitives import Sphere


@pytest.fixture
def scene(fields, random_instances):
    """`m -> (instances, leaves)`: float64 fields, poses and scales that all ask for gradients."""

    def make(m, seed, spread=None):
        chosen, leaves = [], []
        instances = in_double(random_instances(fields, m, seed, spread))
        for field in {id(i.field): i.field for i in instances}.values():
            field.requires_grad_()
            leaves += list(field.parameters())
            for name in (
                "radius",
                "size",
                "color",
                "feature",
            ):  # sizes of primitives are buffers: these can be learned, too
                value = dict(field.named_buffers(recurse=False)).get(name)
                if value is not None and value.numel():
                    leaves.append(value.requires_grad_())
        for i in instances:
            quat, translation = i.T_world_obj.quat_wxyz.clone(), i.T_world_obj.translation.clone()
            scale = torch.tensor(i.scale, dtype=torch.float64)
            leaves += [v.requires_grad_() for v in (quat, translation, scale)]
            chosen.append(Instance(i.name, i.field, SE3(quat, translation), scale))
        return chosen, leaves

    return make


def _grads(value, inputs):
    return torch.autograd.grad(value, inputs, allow_unused=True)


def _assert_equal_gradients(got, want, least):
    used = 0
    for a, b in zip(got, want, strict=True):
        a, b = (torch.zeros(()) if v is None else v for v in (a, b))
        scale = max(1.0, float(b.abs().max()))
        assert float((a - b).abs().max()) <= 1e-8 * scale
        used += float(b.abs().max()) > 1e-9
    assert used >= least


@pytest.mark.parametrize(("m", "seed", "spread"), [(1, 0, None), (6, 1, None), (12, 2, 0.3)])
def test_gradients_of_query_equal_the_reference(scene, m, seed, spread):
    instances, leaves = scene(m, seed, spread)
    p = Composite(instances).bounds
    p = p.lo + p.size * torch.rand(120, 3, dtype=torch.float64)
    p.requires_grad_()
    got, want = Composite(instances).query(p), query_reference(instances, p)
    assert torch.equal(got.owner, want.owner)
    weights = [torch.randn(v.shape, dtype=torch.float64) for v in (got.sdf, got.rgb, got.feature)]
    totals = [sum((v * w).sum() for v, w in zip((s.sdf, s.rgb, s.feature), weights, strict=True)) for s in (got, want)]
    _assert_equal_gradients(_grads(totals[0], [p, *leaves]), _grads(totals[1], [p, *leaves]), least=4 * min(m, 4))


@pytest.mark.parametrize(("m", "seed", "spread"), [(1, 0, None), (6, 1, None), (12, 2, 0.3)])
def test_gradients_of_hits_equal_the_reference(scene, random_rays, m, seed, spread):
    instances, leaves = scene(m, seed, spread)
    rays = random_rays(instances, 150, seed)
    origins, directions = rays.origins.requires_grad_(), rays.directions.requires_grad_()
    rays = Rays(origins, directions)
    hits = Composite(instances).trace(rays)
    known = Hits(hits.t.detach(), hits.owner)
    assert int((hits.owner >= 0).sum()) > 20
    want = hit_distance_reference(instances, rays, known)
    hit = hits.owner >= 0
    weights = torch.randn(int(hit.sum()), dtype=torch.float64)
    inputs = [origins, directions, *leaves]
    got, want = (_grads((t[hit] * weights).sum(), inputs) for t in (hits.t, want))
    _assert_equal_gradients(got, want, least=2 + 3 * min(m, 3))


def test_gradients_of_query_equal_finite_differences(sirens):
    field = sirens[2].in_double()

    def ask(quat, translation, scale, p, bias):
        own = sirens[2].in_double()
        own.distance.linears[-1].bias = None
        del own.distance.linears[-1].bias  # a parameter would be a leaf
        own.distance.linears[-1].bias = bias
        other = Instance("ball", Sphere(0.2).double(), SE3.from_translation([0.4, 0.0, 0.0]))
        got = Composite([Instance("thing", own, SE3(quat, translation), scale), other]).query(p)
        return got.sdf, got.rgb, got.feature

    quat = torch.tensor([0.9, 0.1, -0.2, 0.3], dtype=torch.float64, requires_grad=True)
    translation = torch.tensor([0.1, 0.0, -0.1], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    p = (0.5 * torch.randn(8, 3, dtype=torch.float64)).requires_grad_()
    bias = field.distance.linears[-1].bias.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(ask, (quat, translation, scale, p, bias), eps=1e-6, atol=1e-5, rtol=1e-5)


def test_hits_move_with_the_object_as_finite_differences_say(sirens):
    """Not by the implicit function theorem, but by moving, turning and scaling the object and tracing anew."""
    field = sirens[0].in_double()
    rays = Rays(
        torch.tensor([[0.3, 0.05, 2.0], [0.0, 0.28, 2.0], [-0.29, 0.1, 2.0]]).double(),
        torch.tensor([[0.0, 0, -1]]).double().repeat(3, 1),
    )
    start = [torch.tensor([1.0, 0.05, -0.1, 0.2]), torch.tensor([0.01, 0.02, 0.03]), torch.tensor(1.1)]
    inputs = [v.double().requires_grad_() for v in start]

    def distances(quat, translation, scale):
        return Composite([Instance("thing", field, SE3(quat, translation), scale)]).trace(rays).t

    t = distances(*inputs)
    assert bool(torch.isfinite(t).all())
    for ray in range(3):
        gradients = torch.autograd.grad(t[ray], inputs, retain_graph=True)
        for value, gradient in zip(inputs, gradients, strict=True):
            for k in range(value.numel()):
                shift = torch.zeros(value.numel(), dtype=torch.float64)
                shift[k] = 2e-3
                ends = []
                for sign in (1, -1):
                    moved = [v.detach() + sign * shift.view(v.shape) if v is value else v.detach() for v in inputs]
                    ends.append(float(distances(*moved)[ray]))
                assert (ends[0] - ends[1]) / 4e-3 == pytest.approx(float(gradient.reshape(-1)[k]), abs=5e-3, rel=5e-3)


def test_a_graph_is_made_only_where_something_asks(sirens):
    pose = SE3.identity()
    plain = Composite([Instance("thing", sirens[0], pose)])
    down = Rays(torch.tensor([[0.3, 0.0, 2.0]]), torch.tensor([[0.0, 0.0, -1.0]]))
    p = torch.tensor([[0.3, 0.0, 0.1]])
    assert int(plain.trace(down).owner) == 0
    assert not plain.query(p).sdf.requires_grad and not plain.trace(down).t.requires_grad
    assert plain.query(p.clone().requires_grad_()).sdf.requires_grad
    assert plain.trace(Rays(down.origins.clone().requires_grad_(), down.directions)).t.requires_grad
    moving = SE3(pose.quat_wxyz, pose.translation.clone().requires_grad_())
    scene = Composite([Instance("thing", sirens[0], moving)])
    assert scene.query(p).sdf.requires_grad and scene.trace(down).t.requires_grad
    with torch.no_grad():
        assert not scene.query(p).sdf.requires_grad and not scene.trace(down).t.requires_grad


def test_asking_for_gradients_changes_no_hit(fields, random_instances, random_rays):
    instances = random_instances(fields, 10, 3)
    rays = random_rays(instances, 300, 3)
    scene = Composite(instances)
    plain = scene.trace(rays)
    graph = scene.trace(Rays(rays.origins.clone().requires_grad_(), rays.directions))
    assert graph.t.requires_grad and torch.equal(graph.t.detach(), plain.t) and torch.equal(graph.owner, plain.owner)


def test_float32_gradients_reach_the_weights_of_every_instance_that_answers(sirens):
    fields = [copy.deepcopy(s).requires_grad_() for s in sirens]
    scene = Composite([Instance(str(k), f, SE3.from_translation([1.5 * k, 0.0, 0.0])) for k, f in enumerate(fields)])
    p = torch.tensor([[0.3, 0.1, 0.0], [1.6, 0.1, 0.0], [3.1, 0.0, 0.1]])
    got = scene.query(p)
    assert got.owner.tolist() == [0, 1, 2]
    (got.sdf.sum() + got.rgb.sum()).backward()
    for field in fields:
        for name, weight in field.named_parameters():
            assert weight.grad is not None and bool(torch.isfinite(weight.grad).all()), name
        assert float(field.distance.linears[0].weight.grad.abs().max()) > 0


def test_gradients_through_moved_poses_reach_them(sirens):
    scene = Composite([Instance(str(k), sirens[0], SE3.from_translation([1.5 * k, 0.0, 0.0])) for k in range(3)])
    translation = torch.tensor([[0.0, 0.1, 0.0]], dtype=torch.float64, requires_grad=True)
    moved = scene.with_poses([1], SE3(torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64), translation))
    down = Rays(torch.tensor([[0.3, 0.1, 2.0]]), torch.tensor([[0.0, 0.0, -1.0]]))
    moved.trace(down).t.sum().backward()
    assert translation.grad is not None and float(translation.grad.abs().max()) > 0.1
