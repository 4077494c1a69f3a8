import math

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from trimesh.visual import ColorVisuals

from objects.aabb import Aabb
from objects.field import Difference, Field, FieldSample, Union
from objects.meshing import sample_grid
from objects.placed import Placed
from objects.pose import SE3
from objects.primitives import Box, Sphere, Torus
from objects.siren import SirenField


def _distances(field, points):
    with torch.no_grad():
        return field.in_double().sdf(torch.as_tensor(np.array(points))).abs().numpy()


# field, smallest radius of curvature, Euler number, volume
SMOOTH = {
    "sphere": (Sphere(0.8, color=(1.0, 0.5, 0.0)), 0.8, 2, 4 / 3 * math.pi * 0.8**3),
    "torus": (Torus(1.0, 0.3), 0.3, 0, 2 * math.pi**2 * 1.0 * 0.3**2),
    "far, small and turned": (
        Placed(Torus(1.0, 0.3), SE3.exp(torch.tensor([1.0, 2, 3, 0.4, 0.5, 0.6])), 0.01),
        0.003,
        0,
        1e-6 * 2 * math.pi**2 * 0.3**2,
    ),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_meshes_of_smooth_solids_are_closed_and_exact(name):
    field, radius, euler, volume = SMOOTH[name]
    mesh, longest = field.to_mesh(), float(field.bounds.size.max())
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.euler_number == euler
    # Positive, so faces look outward; and the mean deviation is a small part of the default tolerance.
    assert mesh.volume == pytest.approx(volume, abs=0.2 * mesh.area * longest / 2000)
    assert _distances(field, mesh.vertices).max() < 1e-6 * longest * max(1, np.abs(mesh.vertices).max() / longest)
    # The longest chord of a cell of edge h = longest / sqrt(18000) sags by 3 h^2 / 8r.
    assert _distances(field, mesh.triangles_center).max() < longest**2 / 48000 / radius


def test_vertices_carry_the_colours_of_the_field():
    blue = Placed(Sphere(0.5, color=(0.0, 0.4, 1.0)), SE3.from_translation([0.6, 0, 0]))
    field = Union(Sphere(0.5, color=(1.0, 0.0, 0.0)), blue)
    mesh = field.to_mesh(2e-3)
    assert isinstance(mesh.visual, ColorVisuals)
    colors = mesh.visual.vertex_colors
    left = mesh.vertices[:, 0] < 0.29
    right = mesh.vertices[:, 0] > 0.31
    assert (colors[left] == [255, 0, 0, 255]).all()
    assert (colors[right] == [0, 102, 255, 255]).all()


def test_a_finer_tolerance_is_kept():
    field = Sphere(1.0)
    deviation = [_distances(field, field.to_mesh(tol).triangles_center).max() for tol in (1e-2, 2e-3)]
    assert deviation[0] <= 1e-2 and deviation[1] <= 2e-3
    assert deviation[1] < deviation[0] / 3


def test_edges_are_cut_by_less_than_a_cell():
    field = Box((1.0, 0.5, 0.8))
    mesh, edge = field.to_mesh(), float(field.bounds.size.max())
    assert mesh.is_watertight
    cell = edge * math.sqrt(1 / 2000) / 3
    corners = 0.5 * field.size.double() * torch.cartesian_prod(*[torch.tensor([-1.0, 1], dtype=torch.float64)] * 3)
    assert KDTree(mesh.vertices).query(corners.numpy())[0].max() < cell
    assert np.median(_distances(field, mesh.triangles_center)) < 1e-6


def test_every_part_is_kept_however_small():
    specks = Union(Sphere(1.0), Placed(Sphere(0.03), SE3.from_translation([0.0, 0.0, 1.3])))
    mesh = specks.to_mesh(2e-3)
    assert mesh.body_count == 2
    hollow = Difference(Sphere(1.0), Sphere(0.5)).to_mesh(2e-3)
    assert hollow.body_count == 2 and hollow.is_watertight
    assert hollow.volume == pytest.approx(4 / 3 * math.pi * (1 - 0.125), rel=2e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_meshes_of_wild_networks_are_closed(seed):
    # No distance field at all: frequent sign changes, solids that touch the box, a Lipschitz estimate far too low.
    field = SirenField(
        Aabb(torch.tensor([-1.0, -1, -1]), torch.tensor([1.0, 1, 1])), width=16, layers=2, omega_first=8.0, seed=seed
    )
    mesh = field.to_mesh(5e-3)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume > 0


def test_refinement_gives_the_signs_of_the_full_grid():
    field = Union(Torus(0.8, 0.1), Placed(Box((0.3, 1.5, 0.2)), SE3.exp(torch.full((6,), 0.3))), smooth=0.2)
    cell = float(field.bounds.size.max()) / 100
    values, first = sample_grid(field, cell)
    index = torch.cartesian_prod(*[torch.arange(n) for n in values.shape])
    dense = field.sdf(first + cell * index).reshape(values.shape).numpy()
    assert ((values < 0) == (dense < 0)).all()
    near = np.abs(dense) < cell
    assert near.any() and np.abs(values - dense)[near].max() < 1e-6


class _Constant(Field):
    def __init__(self, value):
        super().__init__(Aabb(torch.tensor([-1.0, -1, -1]), torch.tensor([1.0, 1, 1])))
        self.value = value

    def inside(self, p_obj, time):
        return FieldSample(torch.full_like(p_obj[:, 0], self.value), torch.zeros_like(p_obj), p_obj[:, :0])


def test_fields_without_surface_or_number_and_bad_tolerances_are_refused():
    with pytest.raises(ValueError, match="no surface"):
        _Constant(1.0).to_mesh()
    with pytest.raises(ValueError, match="not finite"):
        _Constant(math.nan).to_mesh()
    for tolerance in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="tolerance must be finite and greater than 0"):
            Sphere(1.0).to_mesh(tolerance)
    with pytest.raises(ValueError, match="tolerance must be at least"):
        Sphere(1.0).to_mesh(1e-9)
