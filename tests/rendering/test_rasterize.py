"""pyrender against closed forms, and `render` against pyrender; skipped where there is no EGL."""

import math

import pytest
import torch
import trimesh

from compose import Composite, Instance
from objects.pose import SE3
from objects.primitives import Box, Torus
from rendering import Camera, RenderConfig, render
from rendering.rasterize import egl_available, rasterize_meshes

needs_egl = pytest.mark.skipif(egl_available() is not None, reason=str(egl_available()))


@needs_egl
def test_rasterised_ball_has_closed_form_depth_to_a_small_part_of_a_pixel():
    # An odd size, and a principal point off the middle: a flip or half a pixel of shift would show.
    pose = SE3.exp(torch.tensor([0.3, -2.0, 0.4, -1.7, 0.2, 0.1], dtype=torch.float64))
    camera = Camera(pose, 170.0, 160.0, 71.3, 40.9, 133, 101)
    center = camera.rays(torch.tensor([[60.0, 55.0]])).at(torch.tensor([2.0], dtype=torch.float64))[0]
    mesh = trimesh.creation.icosphere(subdivisions=5, radius=1.0)
    depth, owner, rgb = rasterize_meshes([mesh], [SE3.from_translation(center)], camera, scales=[0.5])
    assert depth.shape == owner.shape == (101, 133)
    assert rgb.shape == (101, 133, 3)
    rays = camera.rays()
    to_center = center - rays.origins
    along = (to_center * rays.directions).sum(-1)
    gap = (to_center - along[:, None] * rays.directions).norm(dim=-1)
    expected = ((along - (0.25 - gap**2).clamp(min=0).sqrt()) * camera.depth_per_t()).view(101, 133)
    gap = gap.view(101, 133)
    # A tenth of a pixel is 0.0012 m here.
    assert (owner[gap < 0.4988] == 0).all()
    assert (owner[gap > 0.5012] == -1).all()
    assert torch.isinf(depth[owner < 0]).all()
    error = (depth - expected)[gap < 0.45]
    assert len(error) > 3000
    assert error.abs().max() < 1e-3
    assert abs(error.mean()) < 2e-4


@needs_egl
def test_rasterised_colours_are_those_of_the_mesh():
    box = trimesh.creation.box(face_colors=[40, 160, 220, 255])
    camera = Camera.look_at((3, 1, 1), (0, 0, 0), 40, 30)
    _, owner, rgb = rasterize_meshes([box], [SE3.identity()], camera)
    inside = torch.nn.functional.max_pool2d((owner < 0).float()[None], 3, 1, 1)[0] == 0
    expected = torch.tensor([40, 160, 220]) / 255
    torch.testing.assert_close(rgb[inside], expected.expand_as(rgb[inside]), rtol=0, atol=1.5 / 255)
    assert (rgb[0, 0] == 1).all()
    shaded = rasterize_meshes([box], [SE3.identity()], camera, shaded=True)[2]
    assert shaded[inside].std() > 0.02


@needs_egl
def test_nothing_in_view_is_an_empty_picture():
    camera = Camera.look_at((0, 0, 0), (1, 0, 0), 12, 8)
    for meshes, poses in (([], []), ([trimesh.creation.box()], [SE3.from_translation([-5.0, 0, 0])])):
        depth, owner, rgb = rasterize_meshes(meshes, poses, camera)
        assert torch.isinf(depth).all()
        assert (owner == -1).all()
        assert (rgb == 1).all()


@needs_egl
def test_traced_fields_agree_with_their_rasterised_meshes():
    """Two renderers that share no code, on the same two solids: which pixel is whose, and how deep."""
    poses = [
        SE3.exp(torch.tensor([0.0, -0.3, 0.2, 0.5, 0.9, -0.2], dtype=torch.float64)),
        SE3.exp(torch.tensor([0.1, 0.5, -0.1, -0.8, 0.4, 0.3], dtype=torch.float64)),
    ]
    fields, scales = [Box([0.6, 0.8, 0.5]), Torus(1.0, 0.35)], [1.0, 0.5]
    meshes = [
        trimesh.creation.box((0.6, 0.8, 0.5)),
        trimesh.creation.torus(1.0, 0.35, major_sections=256, minor_sections=128),
    ]
    instances = [Instance(f"{i}", f, p, s) for i, (f, p, s) in enumerate(zip(fields, poses, scales, strict=True))]
    camera = Camera.look_at((2.2, 0.4, 1.1), (0, 0.1, 0), 97, 71, 40)
    frame = render(Composite(instances), camera, config=RenderConfig(antialias=1))
    depth, owner, _ = rasterize_meshes(meshes, poses, camera, scales=scales)
    assert (frame.owner != owner).sum() <= 12  # outlines that pass a pixel centre closely
    same = (frame.owner == owner) & (owner >= 0)
    assert same.sum() > 1500
    error = (frame.depth - depth)[same].abs()
    assert error.median() < 1e-4
    assert error.quantile(0.99) < 2e-3  # steep faces of the faceted torus


@needs_egl
def test_wrong_lists_and_empty_meshes_are_refused():
    camera = Camera.look_at((3, 0, 0), (0, 0, 0), 8, 8)
    with pytest.raises(ValueError, match="same length"):
        rasterize_meshes([trimesh.creation.box()], [], camera)
    with pytest.raises(ValueError, match=r"meshes\[0\] must have faces"):
        rasterize_meshes([trimesh.Trimesh()], [SE3.identity()], camera)


def test_without_egl_the_reason_is_told(monkeypatch):
    from rendering import rasterize

    monkeypatch.setattr(rasterize, "egl_available", lambda: "no off-screen OpenGL by EGL (a test)")
    with pytest.raises(RuntimeError, match="a test"):
        rasterize_meshes([], [], Camera.look_at((math.pi, 0, 0), (0, 0, 0), 8, 8))
