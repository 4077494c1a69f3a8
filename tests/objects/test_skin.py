"""Skinning and morph targets as a warp."""

import igl
import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from objects.files import FieldFileError, load_field, save_field
from objects.placed import Placed
from objects.pose import SE3
from objects.primitives import Capsule
from objects.skin import Skin
from objects.warped import Warped, measure_warp

ROD = Capsule(0.1, 0.8)


def _turn(angle, pivot):
    """An affine map [3, 4] that turns about y through a point."""
    matrix = trimesh.transformations.rotation_matrix(angle, [0, 1, 0], pivot)
    return matrix[:3]


def _parts():
    mesh = trimesh.creation.capsule(height=0.8, radius=0.1, count=[24, 24])
    mesh = mesh.subdivide_to_size(0.08)
    upper = np.clip((mesh.vertices[:, 2] + 0.1) / 0.2, 0, 1)
    joints = np.tile([0, 1, 0, 0], (len(mesh.vertices), 1))
    weights = np.stack([1 - upper, upper, 0 * upper, 0 * upper], 1)
    return np.array(mesh.vertices), np.array(mesh.faces), joints, weights


def _arm(angle=1.2, **more):
    """A rod whose upper half turns about its middle."""
    vertices, faces, joints, weights = _parts()
    matrices = np.stack([[_turn(0, (0, 0, 0)), _turn(a, (0, 0, 0))] for a in (0, angle)])
    return Skin(vertices, faces, joints, weights, np.array([0.0, 2.0]), matrices, **more)


ARM = _arm()


def test_vertices_go_where_linear_blend_skinning_puts_them():
    for time in (0.0, 0.7, 2.0, 5.0):
        share = min(time / 2, 1)
        upper = (1 - share) * np.eye(3, 4) + share * _turn(1.2, (0, 0, 0))
        vertices, _, _, weights = _parts()
        points = np.c_[vertices, np.ones(len(vertices))]
        wanted = weights[:, :1] * vertices + weights[:, 1:2] * (points @ upper.T)
        assert np.abs(ARM.mesh_at(time) - wanted).max() < 1e-6
        found = ARM.deformed(torch.from_numpy(vertices).float(), torch.full((len(vertices),), time))
        assert np.abs(found.numpy() - wanted).max() < 1e-5


@settings(max_examples=8)
@given(st.floats(0, 2))
def test_points_of_the_surface_come_back(time):
    vertices, faces, _, _ = _parts()
    draw = np.random.default_rng(0)
    shares = draw.dirichlet((1, 1, 1), 300)
    chosen = faces[draw.integers(len(faces), size=300)]
    rest = torch.from_numpy((shares[..., None] * vertices[chosen]).sum(1)).float()
    bent = torch.from_numpy((shares[..., None] * ARM.mesh_at(time)[chosen]).sum(1)).float()
    times = torch.full((300,), time)
    assert (ARM.canonical(bent, times) - rest).norm(dim=-1).quantile(0.99) < 1e-3
    assert (ARM.deformed(rest, times) - bent).norm(dim=-1).max() < 1e-3
    assert ARM.residual(bent, times).quantile(0.99) < 1e-3


def test_the_warped_field_is_the_solid_in_the_bent_mesh():
    field = Warped(ROD, ARM)
    p = field.box_lo + torch.rand(8000, 3) * field.bounds.size
    for time in (0.0, 1.1, 2.0):
        sdf = field.sdf(p, torch.full((8000,), time)).numpy()
        mesh, faces = ARM.mesh_at(time), _parts()[1]
        distance = np.sqrt(igl.point_mesh_squared_distance(p.double().numpy(), mesh, faces.astype(np.int64))[0])
        inside = igl.fast_winding_number(mesh, faces.astype(np.int64), p.double().numpy()) > 0.5
        clear = distance > 0.004  # facets of the mesh cut into the round field
        assert ((sdf < 0) == inside)[clear].all()
        assert (np.abs(sdf) <= distance + 0.004).all()
        far = distance > 0.1
        assert (np.abs(sdf)[far] > distance[far] - 1.5 * ARM.reach).all()  # far away it says nearly all of the distance


def test_parts_that_lie_side_by_side_at_rest_leave_no_ghosts():
    """Two rods a tenth apart; one swings away: where it was at rest beside the other there must be nothing."""
    first, faces, joints, _ = _parts()
    second = first + np.array([0.35, 0, 0])
    weights = np.zeros((2 * len(first), 4))
    weights[: len(first), 0], weights[len(first) :, 1] = 1, 1
    joints = np.tile([0, 1, 0, 0], (2 * len(first), 1))
    faces = np.r_[faces, faces + len(first)]
    matrices = np.stack([[np.eye(3, 4), _turn(a, (0.35, 0, -0.4))] for a in (0, 1.5)])
    skin = Skin(np.r_[first, second], faces, joints, weights, np.array([0.0, 1.0]), matrices)
    both = ROD | Placed(ROD, SE3(torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.35, 0, 0])))
    field = Warped(both, skin)
    p = field.box_lo + torch.rand(20_000, 3) * field.bounds.size
    inside = igl.fast_winding_number(skin.mesh_at(1.0), faces.astype(np.int64), p.double().numpy()) > 0.5
    distance = np.sqrt(
        igl.point_mesh_squared_distance(p.double().numpy(), skin.mesh_at(1.0), faces.astype(np.int64))[0]
    )
    wrong = (field.sdf(p, torch.ones(20_000)).numpy() < 0) != inside
    assert not wrong[distance > 0.004].any() and inside.sum() > 100


def test_morph_targets_add_their_offsets():
    vertices, faces, joints, weights = _parts()
    offsets = np.zeros((2, *vertices.shape))
    offsets[0, :, 0] = 0.3 * np.cos(3 * vertices[:, 2])
    offsets[1, :, 2] = 0.2 * vertices[:, 2]
    still = np.broadcast_to(np.eye(3, 4), (3, 2, 3, 4))
    amounts = np.array([[0, 0], [1, 0.5], [0, 1.0]])
    morph = Skin(vertices, faces, joints, weights, np.array([0.0, 1.0, 2.0]), still, offsets, amounts)
    assert np.abs(morph.mesh_at(0.5) - (vertices + 0.5 * offsets[0] + 0.25 * offsets[1])).max() < 1e-6
    p = torch.from_numpy(vertices).float()
    back = morph.canonical(torch.from_numpy(morph.mesh_at(1.5)).float(), torch.full((len(p),), 1.5))
    assert (back - p).norm(dim=-1).max() < 1e-4


def _sides_are_right(field: Warped, skin: Skin, faces, time: float, clear: float) -> bool:
    p = field.box_lo + torch.rand(8000, 3, generator=torch.Generator().manual_seed(0)) * field.bounds.size
    mesh, q = skin.mesh_at(time), p.double().numpy()
    inside = igl.fast_winding_number(mesh, faces.astype(np.int64), q) > 0.5
    distance = np.sqrt(igl.point_mesh_squared_distance(q, mesh, faces.astype(np.int64))[0])
    sdf = field.sdf(p, torch.full((8000,), time)).numpy()
    assert inside.sum() > 50
    return bool(((sdf < 0) == inside)[distance > clear].all())


def test_sides_of_the_surface_are_kept_where_morph_targets_turn_it_round():
    """A rod is bent to three quarters of a circle by a morph target alone."""
    vertices, faces, joints, _ = _parts()
    x, y, z = vertices.T
    angle, reach = 1.5 * np.pi * np.clip(z, -0.4, 0.4) / 0.8, 0.8 / (1.5 * np.pi)
    beyond = z - np.clip(z, -0.4, 0.4)
    out, up = reach * (1 - np.cos(angle)), reach * np.sin(angle)
    bent = np.stack(
        [
            out + np.cos(angle) * x + np.sin(angle) * beyond,
            y,
            up - np.sin(angle) * x + np.cos(angle) * beyond,
        ],
        1,
    )
    still = np.broadcast_to(np.eye(3, 4), (2, 1, 3, 4))
    morphs = (bent - vertices)[None], np.array([[0.0], [1.0]])
    skin = Skin(vertices, faces, 0 * joints, np.zeros((len(vertices), 4)), np.array([0.0, 1.0]), still, *morphs)
    assert _sides_are_right(Warped(ROD, skin, stretch=4.0), skin, faces, 1.0, 0.006)
    assert measure_warp(ROD, skin).folded < 0.01


def test_a_mirror_folds_nothing():
    vertices, faces, joints, weights = _parts()
    turns = np.stack([[_turn(0, (0, 0, 0)), _turn(a, (0, 0, 0))] for a in (0, 1.2)])
    skin = Skin(vertices, faces, joints, weights, np.array([0.0, 2.0]), np.diag([1.0, -1.0, 1.0]) @ turns)
    mirrored, plain = measure_warp(ROD, skin), measure_warp(ROD, ARM)
    assert abs(mirrored.folded - plain.folded) < 0.02 and plain.folded < 0.1


@pytest.mark.parametrize("size", [1e-3, 100.0])
def test_joints_may_change_the_unit(size):
    """Rigs often are in millimetres or centimetres; what is learned may lie a little outside of its mesh."""
    vertices, faces, joints, weights = _parts()
    matrices = size * np.stack([[_turn(0, (0, 0, 0)), _turn(a, (0, 0, 0))] for a in (0, 1.2)])
    skin = Skin(vertices, faces, joints, weights, np.array([0.0, 2.0]), matrices)
    field = Warped(Capsule(0.102, 0.8), skin)
    assert _sides_are_right(field, skin, faces, 2.0, 0.006 * size)
    same = Warped(Capsule(0.102, 0.8), ARM)
    p, time = 0.4 * torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), torch.full((500,), 1.3)
    assert (field.sdf(size * p, time) / size - same.sdf(p, time)).abs().max() < 1e-4


def test_normals_through_a_skin_are_those_of_the_bent_mesh():
    mesh = trimesh.Trimesh(ARM.mesh_at(2.0), _parts()[1], process=False)
    points, face = trimesh.sample.sample_surface(mesh, 500, seed=0)
    q = torch.from_numpy(np.array(points)).float().requires_grad_(True)
    (slope,) = torch.autograd.grad(Warped(ROD, ARM).sdf(q, torch.full((500,), 2.0)).sum(), q)
    cosine = (torch.nn.functional.normalize(slope, dim=-1).numpy() * mesh.face_normals[face]).sum(1)
    assert np.quantile(cosine, 0.1) > 0.97 and np.median(cosine) > 0.99


def test_a_skin_is_measured_and_stored(tmp_path):
    found = measure_warp(ROD, ARM)
    assert found.folded < 0.1 and 1 < found.stretch < 4
    save_field(field := Warped(ROD, ARM), tmp_path / "f.safetensors")
    again = load_field(tmp_path / "f.safetensors")
    p, time = 0.3 * torch.randn(200, 3), torch.randint(3, (200,)).float()
    assert torch.equal(again.sdf(p, time), field.sdf(p, time)) and again.span == (0.0, 2.0)
    broken = Warped(ROD, _arm())
    broken.warp.joints[0, 0] = 7.0
    with pytest.raises(FieldFileError, match="joints must be whole numbers from 0 to 1"):
        save_field(broken, tmp_path / "g.safetensors")


def test_bad_input_is_refused():
    vertices, faces, joints, weights = _parts()
    matrices, times = np.broadcast_to(np.eye(3, 4), (2, 2, 3, 4)), np.array([0.0, 1.0])
    good = [vertices, faces, joints, weights, times, matrices]
    for k, value, message in (
        (1, faces + len(vertices), "faces must be whole numbers"),
        (2, joints + 5, "joints must be whole numbers from 0 to 1"),
        (3, weights * 2, "weights must be"),
        (4, np.array([1.0, 1.0]), "times must increase"),
        (5, matrices[:1], "matrices must have shape"),
        (0, vertices * np.nan, "vertices must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            Skin(*good[:k], value, *good[k + 1 :])
