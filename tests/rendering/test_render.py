import math
from dataclasses import replace
from typing import get_type_hints

import pytest
import torch
from torch import Tensor

from compose import Composite, Instance
from objects.pose import SE3
from objects.primitives import Box, Sphere
from rendering import AmbientLight, Camera, DirectionalLight, PointLight, RenderConfig, render
from rendering.lights import linear_from_srgb, srgb_from_linear
from rendering.render import RenderOptions
from scenes import SceneGraph

PLAIN = RenderConfig(antialias=1)
ORIGIN = SE3.identity()


def at(x: float, y: float, z: float) -> SE3:
    return SE3.from_translation([x, y, z])


def ball(radius=0.5, color=(0.8, 0.4, 0.2), pose=ORIGIN, **more) -> Instance:
    return Instance("ball", Sphere(radius, color=color, feature=more.pop("feature", None)), pose, **more)


def floor(color=(0.5, 0.5, 0.5), **more) -> Instance:
    """A slab whose upper face is the plane z = 0."""
    return Instance("floor", Box([4.0, 4.0, 0.2], color=color), at(0, 0, -0.1), **more)


def sphere_hit(camera: Camera, center: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Closed form: distance along each ray to a sphere (inf for none), and the share of the radius by which it is missed."""
    rays = camera.rays()
    to_center = center.double() - rays.origins
    along = (to_center * rays.directions).sum(-1)
    gap = (to_center - along[:, None] * rays.directions).norm(dim=-1)
    half = (radius**2 - gap**2).clamp(min=0).sqrt()
    return torch.where(gap < radius, along - half, math.inf), gap / radius


def floor_points(camera: Camera) -> Tensor:
    rays = camera.rays()
    return rays.at(-rays.origins[:, 2] / rays.directions[:, 2])


# -- how it is called ------------------------------------------------------------------------------------------------


def test_options_are_keywords_and_equal_those_of_a_config():
    scene, camera = Composite([ball(), floor()]), Camera.look_at((2, 1.5, 1), (0, 0, 0), 40, 30)
    config = RenderConfig(antialias=1, shadows=False, background=(0, 0, 1))
    want = render(scene, camera, lights=[DirectionalLight((0, 0.5, -1))], config=config)
    got = render(
        scene, camera, lights=[DirectionalLight((0, 0.5, -1))], antialias=1, shadows=False, background=(0, 0, 1)
    )
    assert torch.equal(got.rgb, want.rgb)
    both = render(
        scene, camera, lights=[DirectionalLight((0, 0.5, -1))], config=replace(config, antialias=3), antialias=1
    )
    assert torch.equal(both.rgb, want.rgb)


def test_the_options_of_render_are_the_fields_of_its_config():
    assert get_type_hints(RenderOptions) == get_type_hints(RenderConfig)


def test_a_scene_graph_is_shown_with_its_own_lights_at_a_time():
    graph = SceneGraph()
    graph.add("floor", Box((4, 4, 0.2)))
    graph.add("ball", Sphere(0.3), pose=at(0, 0, 0.5))
    graph.add("sun", light=DirectionalLight((0.2, 0, -1)))
    graph.move("ball", to=(1, 0, 0.5), time=2.0)
    camera = Camera.look_at((2, 1.5, 1), (0, 0, 0), 40, 30)
    for time in (0.0, 1.5):
        want = render(graph.at(time), camera, lights=graph.lights_at(time))
        assert torch.equal(render(graph, camera, time=time).rgb, want.rgb)
    assert torch.equal(render(graph, camera, lights=()).rgb, render(graph.at(), camera).rgb)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"antialiasing": 1}, "unknown option 'antialiasing'; did you mean 'antialias'"),
        ({"light": []}, "unknown option 'light'; did you mean 'lights'"),
        ({"qqq": []}, "unknown option 'qqq'; there is antialias, shadows"),
        ({"antialias": 2.5}, "antialias must be a whole number, got 2.5"),
        ({"antialias": True}, "antialias must be a whole number"),
        ({"shadows": "no"}, "shadows must be True or False, got 'no'"),
        ({"background": "white"}, "background must be 3 numbers"),
        ({"background": 1}, "background must be 3 numbers"),
        ({"config": {"antialias": 1}}, "config must be a RenderConfig, got dict"),
        ({"time": 1.0}, "a Composite is a scene at one time already"),
    ],
)
def test_options_that_make_no_sense_are_named(options, message):
    camera = Camera.look_at((2, 1.5, 1), (0, 0, 0), 4, 3)
    with pytest.raises(ValueError, match=message):
        render(Composite([ball()]), camera, **options)


# -- geometry --------------------------------------------------------------------------------------------------------


def test_sphere_has_closed_form_depth_normal_owner_and_alpha():
    center = torch.tensor([0.3, -0.2, 0.1])
    camera = Camera.look_at((2, 1.5, 1), (0.2, 0, 0), 61, 47)
    frame = render(Composite([ball(0.4, pose=SE3.from_translation(center))]), camera, config=PLAIN)
    t, miss = sphere_hit(camera, center, 0.4)
    clear = (miss - 1).abs() > 1e-3
    hit = (torch.isfinite(t) & clear).view(47, 61)
    none = (torch.isinf(t) & clear).view(47, 61)
    assert hit.sum() > 200
    assert (frame.owner[hit] == 0).all()
    assert (frame.owner[none] == -1).all()
    assert (frame.alpha == (frame.owner >= 0)).all()
    assert torch.isinf(frame.depth[none]).all()
    assert (frame.normal[none] == 0).all()
    depth = (t * camera.depth_per_t()).view(47, 61)
    torch.testing.assert_close(frame.depth[hit].double(), depth[hit], rtol=0, atol=5e-6)
    normal = (camera.rays().at(t).view(47, 61, 3) - center) / 0.4
    torch.testing.assert_close(frame.normal[hit].double(), normal[hit], rtol=0, atol=1e-4)


def test_depth_of_a_wall_square_to_the_view_is_the_same_all_over():
    wall = Instance("wall", Box([0.2, 4.0, 4.0]), at(2.1, 0, 0))
    frame = render(Composite([wall]), Camera.look_at((0, 0, 0), (1, 0, 0), 24, 20, 70), config=PLAIN)
    torch.testing.assert_close(frame.depth, torch.full((20, 24), 2.0), rtol=0, atol=2e-5)
    torch.testing.assert_close(frame.normal, torch.tensor([-1.0, 0, 0]).expand(20, 24, 3), rtol=0, atol=1e-5)


def test_nearer_object_hides_the_farther_one():
    balls = [ball(0.5, pose=at(0, 3, 0)), ball(0.5, pose=at(0, 0, 0)), ball(0.5, pose=at(1.2, 1, 0))]
    camera = Camera.look_at((0, -4, 0), (0, 0, 0), 41, 31)
    frame = render(Composite(balls), camera, config=PLAIN)
    found = torch.stack([sphere_hit(camera, b.T_world_obj.translation, 0.5)[0] for b in balls])
    first = torch.where(torch.isfinite(found.amin(0)), found.argmin(0), -1).view(31, 41)
    assert (frame.owner != first).sum() <= 2
    assert frame.owner[15, 20] == 1
    assert set(frame.owner.unique().tolist()) == {-1, 1, 2}


def test_empty_scene_is_background():
    config = RenderConfig(background=(0.2, 0.3, 0.4))
    frame = render(Composite([]), Camera.look_at((1, 0, 0), (0, 0, 0), 9, 6), lights=[AmbientLight()], config=config)
    torch.testing.assert_close(frame.rgb, torch.tensor([0.2, 0.3, 0.4]).expand(6, 9, 3))
    assert torch.isinf(frame.depth).all()
    assert (frame.owner == -1).all()
    assert (frame.alpha == 0).all()
    assert frame.feature.shape == (6, 9, 0)


def test_background_goes_linearly_from_top_to_bottom():
    config = RenderConfig(antialias=1, background=(0, 0, 0), background_top=(1, 1, 1))
    rgb = render(Composite([]), Camera.look_at((1, 0, 0), (0, 0, 0), 3, 4), config=config).rgb
    linear = torch.tensor([0.875, 0.625, 0.375, 0.125])
    assert (rgb.diff(dim=0) < 0).all()
    torch.testing.assert_close(rgb[:, 1, 0], linear)


def test_features_of_different_widths_share_a_picture():
    balls = [ball(pose=at(0, -0.6, 0), feature=[1.0, 2.0, 3.0]), ball(pose=at(0, 0.6, 0), feature=[5.0])]
    frame = render(Composite(balls), Camera.look_at((4, 0, 0), (0, 0, 0), 33, 20), config=PLAIN)
    assert frame.feature.shape == (20, 33, 3)
    for owner, expected in ((0, [1.0, 2.0, 3.0]), (1, [5.0, 0, 0]), (-1, [0.0, 0, 0])):
        got = frame.feature[frame.owner == owner]
        assert len(got) > 20
        torch.testing.assert_close(got, torch.tensor(expected).expand_as(got))


def test_picture_does_not_depend_on_the_chunk():
    scene = Composite([ball(), floor(), ball(0.3, pose=at(0.7, 0.7, 0.3))])
    camera = Camera.look_at((3, 1, 2), (0, 0, 0), 32, 24)
    lights = [PointLight((1, 2, 3), intensity=8)]
    whole = render(scene, camera, lights=lights)
    parts = render(scene, camera, lights=lights, config=RenderConfig(chunk_rays=256))
    assert (whole.owner == parts.owner).all()
    torch.testing.assert_close(whole.rgb, parts.rgb, rtol=0, atol=2e-4)
    torch.testing.assert_close(whole.depth, parts.depth, rtol=0, atol=1e-5)


def test_same_input_gives_the_same_bits():
    scene = Composite([ball(), floor()])
    camera = Camera.look_at((3, 1, 2), (0, 0, 0), 40, 30)
    a, b = (render(scene, camera, lights=[DirectionalLight((1, 0, -1))]) for _ in range(2))
    for name in ("rgb", "depth", "normal", "owner", "alpha"):
        assert torch.equal(getattr(a, name), getattr(b, name))


# -- light -----------------------------------------------------------------------------------------------------------


def test_without_lights_or_lit_the_colours_are_the_fields_own():
    camera = Camera.look_at((3, 0, 0.5), (0, 0, 0), 20, 16)
    color = torch.tensor([0.8, 0.4, 0.2])
    for scene, lights in ((ball(), []), (ball(lit=False), [DirectionalLight((0, 0, -1)), AmbientLight()])):
        frame = render(Composite([scene]), camera, lights=lights, config=PLAIN)
        seen = frame.rgb[frame.owner == 0]
        torch.testing.assert_close(seen, color.expand_as(seen), rtol=0, atol=1e-5)


def test_plane_under_sun_and_lamp_has_the_closed_form_brightness():
    camera = Camera.look_at((0.3, -0.4, 1.5), (0, 0.1, 0), 30, 24, 45)
    sun = DirectionalLight((0.3, 0.2, -0.8), color=(1, 0.9, 0.7), intensity=0.3)
    lamp = PointLight((0.5, 0.4, 0.9), color=(0.6, 0.8, 1), intensity=0.25)
    frame = render(
        Composite([floor(color=(0.6, 0.7, 0.8))]), camera, lights=[sun, lamp, AmbientLight(intensity=0.1)], config=PLAIN
    )
    p = floor_points(camera)
    albedo, warm, cold = (
        linear_from_srgb(torch.tensor(c).double()) for c in ((0.6, 0.7, 0.8), (1, 0.9, 0.7), (0.6, 0.8, 1))
    )
    gap = torch.tensor([0.5, 0.4, 0.9]).double() - p
    r = gap.norm(dim=-1, keepdim=True)
    light = 0.3 * 0.8 / math.sqrt(0.77) * warm + 0.25 * gap[:, 2:] / r**3 * cold + 0.1
    expected = srgb_from_linear(albedo * light).view(24, 30, 3)
    assert expected.max() < 1
    torch.testing.assert_close(frame.rgb.double(), expected, rtol=0, atol=2e-4)


def shadow_scene(light):
    """Ball of radius 0.3 at height 0.6 above the floor, seen from straight above but for a little."""
    camera = Camera.look_at((0.0, -2.0, 2.2), (0, 0, 0), 80, 60, 60)
    scene = Composite([floor(), ball(0.3, pose=at(0, 0, 0.6))])
    return camera, *(
        render(scene, camera, lights=[light], config=RenderConfig(antialias=1, shadows=s)) for s in (True, False)
    )


@pytest.mark.parametrize("light", [DirectionalLight((0.5, 0.3, -1)), PointLight((-0.6, -0.4, 2.0), intensity=3)])
def test_shadow_of_a_ball_on_the_floor_lies_where_geometry_puts_it(light):
    camera, frame, bright = shadow_scene(light)
    p = floor_points(camera)
    direction, distance = light.toward(p)
    to_center = torch.tensor([0, 0, 0.6]).double() - p
    along = (to_center * direction).sum(-1)
    gap = (to_center - along[:, None] * direction).norm(dim=-1)
    assert (along < distance).all()  # the ball is nearer than the lamp
    on_floor = frame.owner.flatten() == 0
    dark, light_here = on_floor & (gap < 0.298), on_floor & (gap > 0.302)
    assert dark.sum() > 40
    rgb, full = frame.rgb.view(-1, 3), bright.rgb.view(-1, 3)
    assert (rgb[dark] == 0).all()
    assert torch.equal(rgb[light_here], full[light_here])
    assert full[dark].min() > 0.05


def test_lit_surfaces_do_not_shadow_themselves():
    light = DirectionalLight((0.5, 0.3, -1))
    camera, frame, bright = shadow_scene(light)
    on_ball = frame.owner == 1
    assert on_ball.sum() > 100
    assert torch.equal(frame.rgb[on_ball], bright.rgb[on_ball])  # a ball is convex
    assert (bright.rgb[on_ball].sum(-1) == 0).any()  # its far side is dark in any case
    alone = [
        render(Composite([floor()]), camera, lights=[light], config=RenderConfig(shadows=s)).rgb for s in (True, False)
    ]
    assert torch.equal(*alone)


def test_lamp_behind_the_wall_lights_nothing_in_front_of_it():
    wall = Instance("wall", Box([0.2, 4.0, 4.0]), at(0, 0, 0))
    scene = Composite([wall, ball(0.3, pose=at(1, 0, 0))])
    camera = Camera.look_at((4, 0, 1), (0, 0, 0), 24, 18)
    frame = render(scene, camera, lights=[PointLight((-1, 0, 0), intensity=9)], config=PLAIN)
    assert (frame.rgb[frame.owner >= 0] == 0).all()


@pytest.mark.parametrize("edge", [2.0, 100.0, 400.0])
def test_a_thin_plate_casts_its_shadow_however_large_the_floor(edge):
    """Sun 5 degrees high: 30 cm wide and ``1.5 cm / tan 5`` long, whatever the floor's box is."""
    slope = math.radians(5)
    slab = Instance("floor", Box((edge, edge, 0.1)), SE3.from_translation([0.0, 0.0, -0.05]))
    plate = Instance("plate", Box((0.3, 0.3, 0.015)), SE3.from_translation([0.0, 0.0, 0.0075]))
    sun = DirectionalLight((-math.cos(slope), 0.0, -math.sin(slope)))
    camera = Camera.look_at((-0.22, 0, 1.5), (-0.22, 0.0001, 0), 128, 128, 12)
    with_shadow, without = (
        render(Composite([slab, plate]), camera, lights=[sun], config=RenderConfig(antialias=1, shadows=s))
        for s in (True, False)
    )
    dark = ((with_shadow.rgb - without.rgb).abs().amax(-1) > 0.01) & (with_shadow.owner == 0)
    pixel = 2 * 1.5 * math.tan(math.radians(6)) / 128
    assert float(dark.sum()) * pixel**2 == pytest.approx(0.3 * 0.015 / math.tan(slope), rel=0.06)


def test_ball_beyond_the_lamp_casts_no_shadow():
    scene = Composite([floor(), ball(0.2, pose=at(0, 0, 1.5))])
    camera = Camera.look_at((0, -1.5, 1.0), (0, 0, 0), 30, 20, 40)
    lights = [PointLight((0, 0, 1.0), intensity=1)]
    with_shadow, without = (render(scene, camera, lights=lights, config=RenderConfig(shadows=s)) for s in (True, False))
    assert torch.equal(with_shadow.rgb, without.rgb)


# -- antialiasing ----------------------------------------------------------------------------------------------------


def test_antialiased_coverage_of_a_disc_is_its_area():
    camera = Camera.look_at((0, -20, 0), (0, 0, 0), 40, 40, 4.0)
    scene = Composite([ball(0.5)])
    # The outline of a sphere seen from far on the axis: a circle of angular radius asin(r / d).
    radius = camera.fx * math.tan(math.asin(0.5 / 20))
    area = math.pi * radius**2
    errors = [
        abs(float(render(scene, camera, config=RenderConfig(antialias=n)).alpha.sum()) / area - 1) for n in (1, 8)
    ]
    assert errors[1] < 5e-4
    alpha = render(scene, camera, config=RenderConfig(antialias=4)).alpha
    partial = (alpha > 0) & (alpha < 1)
    assert partial.sum() > 2 * radius
    assert ((alpha * 16) % 1 == 0).all()


def test_antialiased_halfplane_covers_each_pixel_by_its_area():
    # The upper edge of a wall, 1/4 pixel up in every pixel of row 10: rows above are empty, rows below full.
    camera = Camera.look_at((-10, 0, 0), (0, 0, 0), 20, 20, 10.0)
    height = 10 * 0.25 / camera.fy  # at depth 10 the middle of the picture is v = 10
    wall = Instance("wall", Box([1.0, 8.0, 8.0]), at(0.5, 0, height - 4.0))
    alpha = render(Composite([wall]), camera, config=RenderConfig(antialias=16)).alpha
    torch.testing.assert_close(alpha[9], torch.full((20,), 0.25), rtol=0, atol=1 / 16 + 1e-6)
    assert (alpha[:9] == 0).all()
    assert (alpha[10:] == 1).all()


def test_antialiasing_changes_colours_only():
    scene = Composite([ball(), floor(), ball(0.3, pose=at(0.7, 0.7, 0.3), feature=[1.0])])
    camera = Camera.look_at((3, 1, 2), (0, 0, 0), 40, 30)
    plain, smooth = (render(scene, camera, config=RenderConfig(antialias=n)) for n in (1, 3))
    for name in ("depth", "normal", "owner", "feature"):
        assert torch.equal(getattr(plain, name), getattr(smooth, name))
    changed = (plain.rgb - smooth.rgb).abs().amax(-1) > 1e-3
    assert 0 < changed.sum() < 0.3 * changed.numel()
    inside = torch.zeros_like(changed)
    inside[1:-1, 1:-1] = True
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            inside &= plain.owner == plain.owner.roll((dy, dx), (0, 1))
    flat = inside & (plain.owner == 1)
    torch.testing.assert_close(plain.rgb[flat], smooth.rgb[flat], rtol=0, atol=1e-5)


def test_antialiased_edge_is_mixed_in_linear_light():
    white = ball(0.5, color=(1, 1, 1))
    config = RenderConfig(antialias=4, background=(0, 0, 0))
    frame = render(Composite([white]), Camera.look_at((3, 0, 0), (0, 0, 0), 24, 24), config=config)
    expected = srgb_from_linear(frame.alpha[..., None].expand(-1, -1, 3))
    torch.testing.assert_close(frame.rgb, expected, rtol=0, atol=1e-4)


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"antialias": 0}, "antialias"),
        ({"antialias": 17}, "antialias"),
        ({"chunk_rays": 1}, "chunk_rays"),
        ({"background": (0, 0, 2)}, "background"),
        ({"background_top": (0, 0)}, "background_top"),
    ],
)
def test_impossible_configuration_is_refused_by_name(change, named):
    with pytest.raises(ValueError, match=named):
        RenderConfig(**change)


def test_lights_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="lights must be Light objects, got str"):
        render(Composite([]), Camera.look_at((1, 0, 0), (0, 0, 0), 4, 4), lights=["sun"])  # pyright: ignore[reportArgumentType]
