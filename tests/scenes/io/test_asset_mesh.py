"""Meshes for other programs: closed, within the tolerance, no finer than shape and colour ask for."""

import numpy as np
import pytest
import torch
import trimesh

from objects import Box, Field, FieldSample, Sphere, Torus
from objects.aabb import Aabb
from scenes.io import asset_mesh as module
from scenes.io import refining
from scenes.io.asset_mesh import asset_mesh


class Striped(Field):
    """A block whose colour goes with x in a wave or not at all; of this file's making, so that nothing is kept of it."""

    kind = ""

    def __init__(self, striped):
        super().__init__(Aabb([-1.2, -0.7, -0.7], [1.2, 0.7, 0.7]))
        self.striped = striped
        self.asked = 0

    def inside(self, p_obj, time):
        self.asked += 1
        gap = p_obj.abs() - p_obj.new_tensor([1.0, 0.5, 0.5])
        sdf = gap.clamp(min=0).norm(dim=-1) + gap.amax(-1).clamp(max=0) - 0.1
        wave = 0.5 + 0.4 * torch.sin(8 * p_obj[:, 0]) * self.striped
        return FieldSample(sdf, wave[:, None].expand(-1, 3), p_obj[:, :0])


def closed(mesh):
    made = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    return made.is_watertight and made.is_winding_consistent and made.volume > 0


def points_on(mesh, n=2000):
    rng = np.random.default_rng(1)
    corners = mesh.vertices[mesh.of].astype(float)[mesh.corners]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    face, share = rng.choice(len(area), n, p=area / area.sum()), rng.dirichlet(np.ones(3), n)
    rgb = np.einsum("nc,ncd->nd", share, mesh.rgb[mesh.corners[face]])
    return torch.tensor(np.einsum("nc,ncd->nd", share, corners[face])).float(), rgb


@pytest.mark.parametrize("tolerance", [5e-3, 2e-2])
@pytest.mark.parametrize("field", [Torus(1.0, 0.3), Sphere(0.7) | Box((1.0, 1.0, 1.0))], ids=["torus", "union"])
def test_a_mesh_is_closed_and_within_the_tolerance(field, tolerance):
    mesh = asset_mesh(field, tolerance)
    assert closed(mesh)
    off = float(field.sdf(points_on(mesh)[0]).abs().max())
    assert off <= tolerance and off <= 1.05 * mesh.strays[0] + 1e-6


def test_a_larger_tolerance_gives_fewer_triangles():
    fine, coarse = (len(asset_mesh(Torus(1.0, 0.3), t).faces) for t in (5e-3, 2e-2))
    assert coarse < fine / 2


def test_a_tolerance_that_cannot_be_reached_gives_the_finest_mesh_and_says_how_far_it_strays(monkeypatch):
    monkeypatch.setattr(module, "_MOST_CELLS", 24)
    monkeypatch.setattr(refining, "_MOST", 5000)
    mesh = asset_mesh(Striped(False), 1e-5)
    assert closed(mesh) and 1e-5 < mesh.strays[0] < 0.5 * 2.4 / 24


def test_edges_of_exact_solids_are_sharp_in_shape_and_shading():
    mesh = asset_mesh(Box((1.0, 2.0, 3.0)))
    assert len(mesh.vertices) == 8 and len(mesh.faces) == 12 and len(mesh.of) == 24
    assert sorted(np.abs(mesh.normals).max(1)) == [1.0] * 24
    corners = mesh.vertices[mesh.faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.einsum("td,tcd->tc", across, mesh.normals[mesh.corners]) > 0).all()


def test_colours_hold_their_place_where_flat_faces_have_one_and_cost_nothing_where_they_have_none():
    plain, striped = (asset_mesh(Striped(striped), 5e-3) for striped in (False, True))
    assert len(plain.faces) < len(striped.faces) / 3
    p_obj, rgb = points_on(striped)
    off = np.abs(rgb - Striped(True)(p_obj).rgb.numpy())
    assert off.max() < 2 * 16 / 255 and off.mean() < 4 / 255


def test_where_two_solids_of_other_colours_meet_no_face_is_of_both():
    field = Box((1.0, 1.0, 1.0), color=(1.0, 0.0, 0.0)) | Sphere(0.65, color=(0.0, 0.0, 1.0))
    mesh = asset_mesh(field)
    assert (np.ptp(mesh.rgb[mesh.corners], 1) == 0).all()
    vertices, faces, rgb = mesh.colored()
    assert (np.ptp(rgb[faces], 1) == 0).all() and {tuple(c) for c in rgb} == {(1, 0, 0), (0, 0, 1)}
    assert np.allclose(vertices[faces], mesh.vertices[mesh.faces])


def test_a_field_without_an_inside_is_an_error():
    with pytest.raises(ValueError, match="no inside"):
        asset_mesh(Sphere(0.2) & Box((0.1, 0.1, 0.1)) - Box((0.5, 0.5, 0.5)))
    hollow = Striped(False)
    hollow.inside = lambda p, time: FieldSample(p.new_ones(len(p)), p.new_ones(len(p), 3), p[:, :0])
    with pytest.raises(ValueError, match="no inside"):
        asset_mesh(hollow)


def test_a_mesh_is_made_once_for_each_content_and_tolerance(monkeypatch):
    first = asset_mesh(Torus(1.0, 0.31), 1e-2)
    monkeypatch.setattr(module, "manifold_of", lambda *_: pytest.fail("made again"))
    again = asset_mesh(Torus(1.0, 0.31), 1e-2)
    assert np.array_equal(first.vertices, again.vertices) and np.array_equal(first.corners, again.corners)
    with pytest.raises(pytest.fail.Exception):
        asset_mesh(Torus(1.0, 0.31), 2e-2)


class Plate(Field):
    """A thin plate stands beside a block; sharp edges, as the exact distance of their union has them."""

    kind = ""

    def __init__(self, thin):
        super().__init__(Aabb([-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]))
        self.half = torch.tensor([[0.3, 0.8, 0.5], [0.5 * thin, 0.8, 0.8]])

    def inside(self, p_obj, time):
        gaps = torch.stack([p_obj + p_obj.new_tensor([0.5, 0, 0]), p_obj - p_obj.new_tensor([0.6, 0, 0])]).abs()
        gap = gaps - self.half[:, None].to(p_obj)
        sdf = (gap.clamp(min=0).norm(dim=-1) + gap.amax(-1).clamp(max=0)).amin(0)
        return FieldSample(sdf, torch.full_like(p_obj, 0.5), p_obj[:, :0])


def test_sharp_edges_are_reached():
    mesh = asset_mesh(Plate(0.3))
    assert closed(mesh) and mesh.strays[0] <= 2e-3 and len(mesh.faces) < 6000
    corner = np.array([-0.2, 0.8, 0.5])
    assert np.linalg.norm(mesh.vertices - corner, axis=1).min() < 4e-3


def test_what_is_thinner_than_the_first_cells_is_found_or_said_to_be_missing(monkeypatch):
    mesh = asset_mesh(Plate(0.03), 1e-2)
    assert mesh.strays[0] <= 1e-2 and mesh.vertices[:, 0].max() > 0.6
    monkeypatch.setattr(module, "_MOST_CELLS", 40)
    assert asset_mesh(Plate(0.03), 1e-2).strays[0] > 0.1
