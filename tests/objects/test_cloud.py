"""Points with normals: which side is outside, and what is learned from them; against spheres and boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from objects import PointsConfig, fit_points
from objects.cloud import Cloud, read_cloud

FAST = PointsConfig(
    width=32, layers=2, omega_first=10, omega_hidden=10, color_width=16, color_layers=1, color_omega_first=5,
    steps=150, batch=512, learning_rate=5e-3, pool=16_384, falloff=1.0,
)  # fmt: skip


def _even(n: int) -> np.ndarray:
    """Points spread evenly over the unit sphere (a spiral by the golden angle)."""
    i = np.arange(n) + 0.5
    z, angle = 1 - 2 * i / n, np.pi * (1 + 5**0.5) * i
    return np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], 1)


def _signs(n: int, share: float) -> np.ndarray:
    return np.where(np.random.default_rng(0).random((n, 1)) < share, -1, 1)


def _read(points: np.ndarray, normals: np.ndarray, facing: str = "auto") -> Cloud:
    return read_cloud(points, normals, facing=facing, wall=0.05, name="points")


def _at(cloud: Cloud, *places: tuple[float, float, float]) -> list[float]:
    return cloud.signed_distance(np.array(places)).tolist()


@pytest.mark.parametrize("n", [300, 1000, 30_000])
def test_distance_of_an_even_sphere(n):
    normals = _even(n)
    cloud = _read(normals, 3 * normals)
    assert _at(cloud, (0, 0, 0), (0.5, 0, 0), (0, 2, 0)) == pytest.approx(
        [-1, -0.5, 1], abs=2 * cloud.spacing**2 + 1e-3
    )
    assert cloud.spacing == pytest.approx(np.sqrt(4 * np.pi / n), rel=0.25)


def test_inward_normals_are_turned_with_a_note():
    normals = _even(2000)
    with pytest.warns(UserWarning, match="all normals look inwards and were turned round"):
        cloud = _read(normals, -normals)
    np.testing.assert_allclose(cloud.normals, normals)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.6])
def test_normals_that_look_to_both_sides_are_made_consistent(share):
    points, face = trimesh.sample.sample_surface(trimesh.creation.box((1, 1, 1)), 6000, seed=0)
    normals = trimesh.creation.box((1, 1, 1)).face_normals[face]
    with pytest.warns(UserWarning, match="look to different sides"):
        cloud = _read(np.asarray(points), normals * _signs(6000, share))
    assert ((cloud.normals * normals).sum(1) > 0).mean() > 0.99
    assert _at(cloud, (0, 0, 0))[0] < -0.45


def test_bodies_of_different_sides_are_all_turned_outwards():
    one = _even(2000)
    points, normals = np.concatenate([one, 0.5 * one + [3, 0, 0]]), np.concatenate([one, -one])
    with pytest.warns(UserWarning, match="look to different sides"):
        cloud = _read(points, normals)
    assert _at(cloud, (0, 0, 0), (3, 0, 0), (1.8, 0, 0)) == pytest.approx([-1, -0.5, 0.7], abs=0.02)


def test_cavity_stays_empty_and_uneven_density_and_noise_do_no_harm():
    rng = np.random.default_rng(0)
    outer, inner = _even(4000), _even(2000)
    cloud = _read(np.concatenate([outer, 0.5 * inner]), np.concatenate([outer, -inner]))
    assert _at(cloud, (0, 0, 0), (0.75, 0, 0)) == pytest.approx([0.5, -0.25], abs=0.02)
    uneven = _even(8000)
    uneven = uneven[rng.random(8000) < np.where(uneven[:, 2] > 0, 1, 0.1)]
    noisy = uneven + rng.normal(0, 0.01, uneven.shape)
    p = rng.uniform(-1.3, 1.3, (3000, 3))
    radius = np.linalg.norm(p, axis=1)
    wrong = (_read(noisy, uneven).signed_distance(p) < 0) != (radius < 1)
    assert not wrong[np.abs(radius - 1) > 0.15].any()


def test_half_a_sphere_is_closed_by_its_plane():
    normals = _even(4000)
    normals = normals[normals[:, 2] > -0.2]
    distance = _at(_read(normals, normals), (0, 0, 0.3), (0, 0, -0.8), (0, 0, 1.5))
    assert [d < 0 for d in distance] == [True, False, False]


def test_room_without_a_ceiling_is_air_within_walls():
    box = trimesh.creation.box((4, 4, 4))
    points, face = trimesh.sample.sample_surface(box, 20_000, seed=0)
    kept = points[:, 2] < 1.999
    with pytest.warns(UserWarning, match="taken as walls.*facing=outwards"):
        cloud = _read(np.asarray(points)[kept], -box.face_normals[face][kept])
    air, wall, beyond = _at(cloud, (0, 0, 0), (2 + cloud.wall / 2, 0, 0), (3, 0, 0))
    assert air == pytest.approx(2, abs=0.05)
    assert wall < 0
    assert beyond == pytest.approx(1 - cloud.wall, abs=0.05)


def test_points_without_an_inside_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="normals"):
        _read(rng.random((3000, 3)), rng.normal(size=(3000, 3)))
    with pytest.raises(ValueError, match="different places"):
        _read(np.repeat(rng.random((20, 3)), 50, axis=0), np.ones((1000, 3)))


@pytest.mark.parametrize("inwards", [False, True])
def test_learned_sphere_of_few_points_is_solid(inwards):
    normals = torch.from_numpy(_even(1000))
    if inwards:
        with pytest.warns(UserWarning, match="turned"):
            field = fit_points(0.5 * normals, -normals, config=FAST, progress=False)
    else:
        field = fit_points(0.5 * normals, normals, config=FAST, progress=False)
    inside = 0.45 * torch.rand(2000, 1) ** (1 / 3) * torch.nn.functional.normalize(torch.randn(2000, 3), dim=-1)
    assert (field.sdf(inside) < 0).all()
    mesh = field.to_mesh()
    assert mesh.body_count == 1
    assert mesh.volume == pytest.approx(np.pi / 6, rel=0.03)


def test_points_far_from_the_origin_are_refused_with_the_way_out():
    normals = torch.from_numpy(_even(1000))
    middle = torch.tensor([451234.5, 5411987.25, 312.0], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"5.41199e\+06 from the origin.*origin=451234"):
        fit_points(middle + normals, normals, config=FAST)
    config = PointsConfig(**{**vars(FAST), "origin": tuple(middle.tolist())})
    field = fit_points(middle + normals, normals, config=config, progress=False)
    assert float(field.sdf(torch.zeros(1, 3))) < -0.5
    assert torch.allclose(field.bounds.center, torch.zeros(3), atol=1e-2)
