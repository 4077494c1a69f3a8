import math

import igl
import numpy as np
import pytest
import torch

from compose import Composite, Instance, surfaces
from compose.reference import closest_reference, in_double
from compose.surfaces import TOLERANCE, surface_of
from objects import SE3
from objects.placed import Placed
from objects.primitives import Box, Capsule, Cylinder, Sphere, Torus


def _points(instances, n, seed):
    """Around the scene, near its objects, and far away."""
    g = torch.Generator().manual_seed(seed)
    bounds = Composite(instances).bounds
    assert bounds is not None
    p = bounds.center + 1.6 * bounds.size * (torch.rand(n, 3, generator=g, dtype=torch.float64) - 0.5)
    far = torch.arange(n) % 10 == 9
    return torch.where(far[:, None], bounds.center + 20 * (p - bounds.center), p)


SOLIDS = [
    Sphere(0.3), Box((0.5, 0.3, 0.4)), Box((0.5, 0.3, 0.4), 0.1), Cylinder(0.2, 0.5), Capsule(0.15, 0.3), Torus(0.3, 0.1),
    Placed(Placed(Box((0.2, 0.3, 0.1), 0.02), SE3.exp(torch.full((6,), 0.4)), 1.5), SE3.exp(torch.full((6,), -0.3)), 0.7),
]  # fmt: skip


@pytest.mark.parametrize("m", [1, 7, 60])
def test_of_exact_solids_distances_gradients_and_names_are_exact(random_instances, m):
    instances = random_instances(SOLIDS, m, m)
    p = _points(instances, 800, m)
    got = Composite(instances).closest(p)
    probe = p.clone().requires_grad_(True)
    each = []
    for i in in_double(instances):
        each.append(i.scale * i.field.sdf((i.T_world_obj.inverse() @ probe) / i.scale))
    want, owner = torch.stack(each).min(0)
    (gradient,) = torch.autograd.grad(want.sum(), probe)
    torch.testing.assert_close(got.sdf, want.detach(), atol=2e-6, rtol=1e-6)
    assert float((got.owner == owner).double().mean()) > 0.999
    same = (gradient * got.gradient).sum(-1)
    assert float((same > 1 - 1e-4).double().mean()) > 0.999
    torch.testing.assert_close((p - got.point).norm(dim=-1), got.sdf.abs(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("k", range(6))
def test_each_solid_has_unit_gradients_where_it_is_not_smooth(k):
    corners = torch.cartesian_prod(*[torch.tensor([-0.3, 0.0, 0.3], dtype=torch.float64)] * 3)
    got = Composite([Instance("solid", SOLIDS[k], SE3.identity())]).closest(corners)
    torch.testing.assert_close(got.gradient.norm(dim=-1), torch.ones(27, dtype=torch.float64))
    torch.testing.assert_close(got.sdf, SOLIDS[k].in_double().sdf(corners), atol=1e-6, rtol=0)


def test_of_learned_objects_distances_and_names_are_those_of_fine_meshes(sirens, random_instances):
    instances = random_instances(sirens, 5, 4)
    p = _points(instances, 3000, 4)
    scene = Composite(instances)
    got = scene.closest(p)
    want, owner = closest_reference(in_double(instances), p, 2e-4)
    room = TOLERANCE * scene.diagonals[got.owner]
    error = (got.sdf - want).abs()
    assert float((error <= room).double().mean()) > 0.995, float((error / room).max())
    clear = error < 0.5 * room
    assert float((got.owner == owner)[clear].double().mean()) > 0.999
    torch.testing.assert_close(got.gradient.norm(dim=-1), torch.ones(len(p), dtype=torch.float64))
    assert bool(((p - got.point).norm(dim=-1) - got.sdf.abs() <= room).all())


def test_cut_solids_keep_their_sharp_edges_and_the_depth_of_their_unions():
    """A box with a pocket, and two boxes that share a face: distances by hand."""
    pocket = Box((1.0, 1.0, 0.4)) - Placed(Box((0.6, 0.6, 0.4)), SE3.from_translation([0.0, 0.0, 0.2]))
    pair = Placed(Box((1.0, 1.0, 1.0)), SE3.from_translation([-0.5, 0, 0])) | Placed(
        Box((1.0, 1.0, 1.0)), SE3.from_translation([0.5, 0, 0])
    )
    p = torch.tensor([[0.0, 0, 0.3], [0.0, 0.0, 0.15], [0.31, 0, 0.19], [0.8, 0, 0.6]], dtype=torch.float64)
    got = Composite([Instance("pocket", pocket, SE3.identity())]).closest(p)
    want = torch.tensor([0.3, 0.15, -0.01, 0.5], dtype=torch.float64)
    want[0] = min(0.3, math.hypot(0.3, 0.1))
    torch.testing.assert_close(got.sdf, want, atol=1e-3 * pocket.bounds.diagonal, rtol=0)
    got = Composite([Instance("pair", pair, SE3.identity())]).closest(torch.zeros(1, 3, dtype=torch.float64))
    assert math.isclose(got.sdf.item(), -0.5, abs_tol=2e-3)


def test_a_moved_object_is_found_where_it_went(sirens):
    scene = Composite([Instance("a", sirens[0], SE3.identity()), Instance("b", Sphere(0.2), SE3.identity())])
    p = _points([Instance("a", sirens[0], SE3.identity())], 200, 1)
    shift = torch.tensor([5.0, -3.0, 2.0], dtype=torch.float64)
    moved = scene.with_poses([0, 1], SE3.from_translation(shift.repeat(2, 1)))
    before, after = scene.closest(p), moved.closest(p + shift)
    torch.testing.assert_close(after.sdf, before.sdf, atol=1e-9, rtol=0)
    torch.testing.assert_close(after.point, before.point + shift, atol=1e-9, rtol=0)


def test_far_from_the_origin_distances_are_the_same(sirens):
    """5,000 km away, to what float64 resolves there."""
    shift = torch.tensor([5e6, -5e6, 1e6], dtype=torch.float64)
    fields = [sirens[0], Box((0.5, 0.4, 0.3))]
    near = [Instance(str(k), f, SE3.from_translation([k, 0.0, 0.0])) for k, f in enumerate(fields)]
    far = [i.with_pose(SE3.from_translation(i.T_world_obj.translation + shift)) for i in near]
    p = _points(near, 300, 2)
    got, want = Composite(far).closest(p + shift), Composite(near).closest(p)
    torch.testing.assert_close(got.sdf, want.sdf, atol=1e-7, rtol=0)
    assert torch.equal(got.owner, want.owner)


def test_a_surface_is_that_of_the_plain_mesh(sirens):
    """As `Field.to_mesh` makes it by torch, of equal cells, but for making it sparser."""
    for field in sirens:
        longest, diagonal = float(field.bounds.size.max()), field.bounds.diagonal
        plain = field.to_mesh((3 * longest / 192) ** 2 / longest)
        surface = surface_of(field)
        corners = surface.corner.reshape(-1, 3).astype(np.float64) + surface.centre
        faces = np.arange(len(corners)).reshape(-1, 3)
        for a, b in ((corners, (plain.vertices, plain.faces)), (plain.vertices, (corners, faces))):
            squared, _, _ = igl.point_mesh_squared_distance(np.asarray(a), np.asarray(b[0]), np.asarray(b[1]))
            away = np.sqrt(squared) / diagonal
            assert np.max(away) < 7e-4 and np.mean(away) < 1e-4
        volume = np.linalg.det(corners[faces]).sum() / 6
        assert volume == pytest.approx(plain.volume, rel=3e-3)


def test_nothing_to_find_is_said():
    got = Composite([]).closest(torch.zeros(2, 3))
    assert bool((got.sdf == math.inf).all()) and got.owner.tolist() == [-1, -1]
    assert bool(got.point.isnan().all()) and bool((got.gradient == 0).all())
    empty = Box((1.0, 1.0, 1.0)) - Box((2.0, 2.0, 2.0))
    got = Composite([Instance("void", empty, SE3.identity()), Instance("ball", Sphere(0.1), SE3.identity())]).closest(
        torch.tensor([[0.0, 0.0, 1.0]])
    )
    assert got.owner.tolist() == [1]
    assert math.isclose(got.sdf.item(), 0.9, abs_tol=1e-6)
    with pytest.raises(ValueError, match="closest: p_world must be finite"):
        Composite([]).closest(torch.full((1, 3), math.nan))


def test_a_stored_surface_is_the_one_that_was_made(sirens):
    made = surface_of(sirens[0])
    again = surface_of(type(sirens[0]).empty(sirens[0].config(), []).float())
    assert not np.array_equal(made.corner.shape, again.corner.shape)  # other weights, another surface
    twin = sirens[0].in_double().float()
    for a, b in zip(vars(surface_of(twin)).values(), vars(made).values(), strict=True):
        assert np.array_equal(a, b)


def _everywhere(scene):
    return scene.closest(_points(scene.instances, 500, 7))


def test_what_was_asked_before_changes_no_bit(sirens, random_instances):
    instances = random_instances([*sirens, *SOLIDS[:3]], 12, 4)
    want = _everywhere(Composite(instances))
    scene = Composite(instances)
    for k in (7, 2, 11, 2):
        scene.closest(scene.instances[k].T_world_obj.translation[None])
    for got, value in zip(_everywhere(scene), want, strict=True):
        assert np.array_equal(got.numpy(), value.numpy())


def test_only_surfaces_that_may_be_nearest_are_made(sirens, monkeypatch):
    """Of three objects in a row the last is too far to count, also for whoever moved the first."""
    made, real = [], surfaces.surface_of
    monkeypatch.setattr(surfaces, "surface_of", lambda field, time: made.append(field) or real(field, time))
    places = [SE3.from_translation([x, 0.0, 0.0]) for x in (0.0, 2.0, 40.0)]
    fields = [sirens[0], Sphere(0.3), sirens[1]]
    scene = Composite([Instance(str(k), f, T) for k, (f, T) in enumerate(zip(fields, places, strict=True))])
    scene.closest(torch.tensor([[2.0, 0.0, 0.1], [2.1, 0.0, 0.0]]))
    assert made == [fields[1]]
    scene.closest(torch.tensor([[2.0, 0.0, 0.1], [1.0, 0.0, 0.0]]))
    assert made == [fields[1], fields[0]]
    scene.with_poses([0], SE3.from_translation(torch.tensor([[0.1, 0.0, 0.0]]))).closest(
        torch.tensor([[1.0, 0.0, 0.0]])
    )
    assert made == [fields[1], fields[0]]
    scene.closest(torch.tensor([[30.0, 0.0, 0.0]]))
    assert made == [fields[1], fields[0], fields[2]]


def test_a_surface_that_does_not_close_is_made_anew_or_refused_but_never_taken_for_none(monkeypatch):
    real, field, tried = surfaces.zero_set, Torus(0.3, 0.1) & Box((0.4, 0.9, 0.9), 0.1), []

    def opened(field, cell, ask):
        tried.append(cell)
        vertices, faces = real(field, cell, ask)
        return vertices, faces[1:] if len(tried) == 1 else faces

    monkeypatch.setattr(surfaces, "zero_set", opened)
    found = [surfaces.manifold_of(part, None, 24) for part in (field.a, field.b)]
    assert min(part.volume() for part in found) > 0.01 and len(tried) == 3
    monkeypatch.setattr(surfaces, "zero_set", lambda *args: (real(*args)[0], real(*args)[1][1:]))
    with pytest.raises(ValueError, match="Torus: its surface could not be closed"):
        surfaces.manifold_of(field.a, None, 24)
