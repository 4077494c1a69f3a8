"""Fields from posed pictures, on small scenes that the project renders itself."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from compose import Composite, Instance
from objects import SE3, SirenField
from objects.aabb import Aabb
from objects.primitives import Box, Sphere
from rendering import Camera, RenderConfig, View, ViewError, Views, ViewsConfig, fit_views, render, render_volume
from rendering.learning.bundle import thinned
from rendering.learning.first_shapes import boxes_of
from rendering.learning.fit import finish_views
from rendering.learning.hulls import Carver, distance_from_fused, fused, measured_ahead
from rendering.learning.losses import depth_loss, id_loss, overlap_loss
from rendering.learning.polish import polish_colors
from rendering.learning.stages import carve_first_shapes, learn_volumes
from rendering.learning.state import observe, start
from rendering.sampling import route
from tests.rendering.learning.small_scene import SMALL, cameras, psnr, seen_by, things


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIRENSCAPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return fit_views(seen_by(things(), cameras(), depth=True, ids=True), config=SMALL, progress=False)


def test_each_object_is_learned_in_its_own_frame_and_box(learned):
    assert [i.name for i in learned.instances] == ["background", "object_1", "object_2"]
    ball = learned.instances[1]
    assert not ball.lit
    torch.testing.assert_close(ball.T_world_obj.translation, torch.tensor([-0.4, 0.0, 0.3]).double(), atol=0.05, rtol=0)
    direction = torch.nn.functional.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    direction[:, 2] = direction[:, 2].abs()  # the upper half was seen
    p_obj = torch.tensor([-0.4, 0.0, 0.3]) - ball.T_world_obj.translation.float() + 0.3 * direction
    assert float(ball.field.sdf(p_obj).abs().mean()) < 0.02


def test_held_out_pictures_are_right_by_volume_and_by_tracing(learned):
    camera = Camera.look_at((1.6, -1.7, 1.5), (0.0, 0.0, 0.15), 40, 30, 45.0)
    want = render(Composite(things()), camera, config=RenderConfig(antialias=1))
    scene = Composite(learned.instances)
    volume = render_volume(scene, camera, sharpness=learned.sharpness, background=learned.background)
    traced = render(scene, camera, config=RenderConfig(antialias=1, background=learned.background))
    assert psnr(volume.rgb, want.rgb) > 20
    assert psnr(traced.rgb, want.rgb) > 20
    assert float((traced.owner == want.owner).float().mean()) > 0.95


def test_a_learned_object_moves_alone(learned):
    moved = SE3.from_translation((-0.1, -0.6, 0.0))
    instances = list(learned.instances)
    instances[1] = instances[1].with_pose(moved @ instances[1].T_world_obj)
    truth = things()
    truth[1] = truth[1].with_pose(moved @ truth[1].T_world_obj)
    camera = Camera.look_at((1.6, -1.7, 1.5), (0.0, 0.0, 0.15), 40, 30, 45.0)
    want = render(Composite(truth), camera)
    got = render(Composite(instances), camera, config=RenderConfig(background=learned.background))
    assert float((got.owner == want.owner).float().mean()) > 0.93


def test_what_was_never_seen_is_marked(learned):
    scene = Composite(learned.instances)
    above = render(scene, Camera.look_at((0.3, -2.2, 1.6), (0.0, 0.0, 0.1), 40, 30, 45.0))
    below = render(scene, Camera.look_at((0.3, -1.2, -2.2), (0.0, 0.0, 0.1), 40, 30, 45.0))
    assert float(above.seen[above.owner >= 0].mean()) > 0.8
    assert float(below.seen[below.owner >= 0].mean()) < 0.3
    assert float(above.seen[above.owner < 0].sum()) == 0


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    views = seen_by(things()[1:2], cameras(6), depth=False, ids=False, alpha=True)
    config = ViewsConfig(**{**vars(SMALL), "steps": 12, "refresh": 1, "rays": 64, "lattice": 16, "hull_steps": 5})

    def stop(step: int, loss: float) -> None:
        if step == 10:
            raise KeyboardInterrupt

    monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path / "whole"))
    whole = fit_views(views, config=config, progress=False)
    monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path / "killed"))
    with pytest.raises(KeyboardInterrupt):
        fit_views(views, config=config, progress=False, on_step=stop)
    steps = []
    again = fit_views(views, config=config, progress=False, on_step=lambda step, loss: steps.append(step))
    assert steps[0] == 10
    for a, b in zip(whole.instances[0].field.parameters(), again.instances[0].field.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_was_learned_once_comes_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIRENSCAPE_CACHE", str(tmp_path))
    views = seen_by(things(), cameras(6), depth=True, ids=True)
    config = ViewsConfig(**{**vars(SMALL), "steps": 3, "rays": 64, "lattice": 16, "hull_steps": 5})
    first = fit_views(views, config=config, refine=True, progress=False)
    assert math.isfinite(first.psnr_db) and not list((tmp_path / "views").glob("*.safetensors"))
    steps: list[int] = []
    again = fit_views(views, config=config, refine=True, progress=False, on_step=lambda step, loss: steps.append(step))
    assert steps == [] and again[1:3] == first[1:3] and again.psnr_db == first.psnr_db
    for a, b in zip(first.instances, again.instances, strict=True):
        assert (a.name, a.lit) == (b.name, b.lit)
        assert torch.equal(a.T_world_obj.as_matrix(), b.T_world_obj.as_matrix())
        for key, value in a.field.state_dict().items():
            assert torch.equal(value, b.field.state_dict()[key])
    for a, b in zip(first.cameras, again.cameras, strict=True):
        torch.testing.assert_close(a.T_world_cam.as_matrix(), b.T_world_cam.as_matrix(), atol=1e-12, rtol=0)
    facts = next(tmp_path.glob("views/*/learned.json"))
    facts.write_text("{}")  # damaged: learned again
    fit_views(views, config=config, refine=True, progress=False, on_step=lambda step, loss: steps.append(step))
    assert steps == [0, 1, 2]


def test_an_object_that_is_hidden_gets_no_gradient_from_the_pictures_that_hide_it():
    wall = Instance("wall", Box((0.2, 2.0, 2.0)), SE3.from_translation((1.0, 0.0, 0.0)), lit=False)
    ball = Instance("ball", Sphere(0.3), SE3.identity(), lit=False)
    front = Camera.look_at((3.0, 0.0, 0.0), (0.0, 0.0, 0.0), 20, 20, 20.0)
    sides = [Camera.look_at((x, y, 2.0), (0.0, 0.0, 0.0), 20, 20, 60.0) for x, y in ((-2, 1), (-2, -1), (1, 2.5))]
    views = seen_by([wall, ball], [front, *sides], depth=True, ids=True)
    config = ViewsConfig(**{**vars(SMALL), "sharpness": (200.0, 200.0), "hull_steps": 300})
    boxes = [
        Aabb(torch.tensor([0.8, -1.1, -1.1]), torch.tensor([1.2, 1.1, 1.1])),
        Aabb(-0.4 * torch.ones(3), 0.4 * torch.ones(3)),
    ]
    state = carve_first_shapes(start(views, boxes, [0, 1], config), progress=False)
    theta = state.nets.theta.requires_grad_()
    px = state.pixels
    rows = (px.view == 0).nonzero()[:, 0]
    rays, length = state.rays(rows)
    seen = state.nets.render(rays, state.sharpness(0), torch.full((len(rows), 16), 0.5))
    want, size, half = px.rgb[rows].float() / 255, state.nets.size, state.nets.half
    loss = (seen.rgb - want).square().sum() + id_loss(seen, px.ids[rows], state.labels, size)
    band = config.depth_band * float(half.min())
    loss = loss + depth_loss(seen, px.depth[rows] * length, px.ids[rows], state.labels, half, band)
    gradient = torch.autograd.grad(loss, [theta])[0].norm(dim=1)
    assert float(gradient[0]) > 0
    assert float(gradient[1]) < 1e-4 * float(gradient[0])


@pytest.mark.parametrize("shape", [(400,), (400, 3)])
def test_thinned_gradients_are_right_on_average(shape):
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(shape, generator=generator) ** 3
    x = torch.zeros(shape, requires_grad=True)
    total, dropped = torch.zeros(shape), 0.0
    for _ in range(2000):
        (got,) = torch.autograd.grad(thinned(x, generator), x, wanted)
        total += got
        dropped += float((got.reshape(400, -1) == 0).all(1).float().mean())
    assert dropped / 2000 > 0.5
    error = (total / 2000 - wanted).norm() / wanted.norm()
    assert float(error) < 0.1  # falls with the root of the number of draws
    assert thinned(x, None) is x


def test_objects_that_share_space_are_pushed_apart():
    views = seen_by(things(), cameras(4), depth=True, ids=True)
    box = Aabb(-0.5 * torch.ones(3), 0.5 * torch.ones(3))
    state = start(views, [box, box], [0, 1], SMALL)
    theta = state.nets.theta
    theta[1] = theta[0]  # the same solid twice
    bias = state.nets.shape.last_bias
    theta[:, bias] -= 0.3  # with an inside
    theta.requires_grad_()
    rays, _ = state.rays(torch.arange(64))
    seen = state.nets.refreshed().render(rays, 50.0, torch.full((64, 16), 0.5))
    loss = overlap_loss(seen.distances, state.labels, state.nets.size)
    assert float(loss.detach()) > 0
    gradient = torch.autograd.grad(loss, [theta])[0]
    assert float(gradient[:, bias].max()) < 0  # more distance, less overlap


def test_an_object_that_moves_while_it_is_filmed_is_learned_and_rendered_where_it_stands():
    """A box that is carried and turned about the ball, its poses known; each picture is of one of four times."""
    still, shots, frames = things(), cameras(), [i % 4 for i in range(16)]
    path = SE3.stack(
        [
            SE3.from_translation((0.45 - 0.1 * f, 0.3 * f - 0.4, 0.2 + 0.05 * f))
            @ SE3.from_axis_angle((0.2, 0.1, 1.0), 0.5 * f + 0.3)
            for f in range(4)
        ]
    )
    scenes = [[still[0], still[1], still[2].with_pose(path[f])] for f in range(4)]
    views = Views([seen_by(scenes[f], [c], depth=True, ids=True)[0] for c, f in zip(shots, frames, strict=True)])
    boxes = [
        Aabb((-1.1, -1.1, -0.3), (1.1, 1.1, 0.1)),
        Aabb((-0.75, -0.35, -0.05), (-0.05, 0.35, 0.65)),
        Aabb((-0.25, -0.3, -0.25), (0.25, 0.3, 0.25)),
    ]
    centers = torch.stack([box.center for box in boxes[:2]]).double()
    poses = SE3.stack([*(SE3.from_translation(c.expand(4, 3)) for c in centers), path])
    state = start(views, boxes, [0, 1, 2], SMALL, T_world_obj=poses, frames=frames)
    state = learn_volumes(carve_first_shapes(state, progress=False), progress=False)
    learned = finish_views(state, progress=False)
    camera = Camera.look_at((1.6, -1.7, 1.5), (0.0, 0.0, 0.15), 40, 30, 45.0)
    for f in range(4):
        want = render(Composite(scenes[f]), camera, config=RenderConfig(antialias=1), progress=False)
        now = Composite(learned.instances).with_poses(range(3), poses[:, f])
        got = render(now, camera, config=RenderConfig(background=learned.background), progress=False)
        assert float((got.owner == want.owner).float().mean()) > 0.95
        assert psnr(got.rgb, want.rgb) > 20
        rays = camera.rays()
        routed = route(rays.origins.float(), rays.directions.float(), state.nets.transforms, torch.full((1200,), f))
        seen = state.nets.render(routed, learned.sharpness, torch.full((1200, 14), 0.5))
        volume = seen.rgb + (1 - seen.opacity[:, None]) * state.background.sigmoid()
        assert psnr(volume.detach().view(30, 40, 3), want.rgb) > 20


def test_frames_in_which_nothing_moves_change_no_bit():
    views = seen_by(things(), cameras(6), depth=True, ids=True)
    config = dataclasses.replace(SMALL, steps=5, rays=64, lattice=16, hull_steps=5)
    boxes, labels = boxes_of(views)
    still = SE3.from_translation(torch.stack([box.center for box in boxes]).float().double()[:, None].expand(-1, 3, 3))
    found = []
    for options in ({}, {"T_world_obj": still, "frames": [0, 1, 2, 2, 1, 0]}):
        state = carve_first_shapes(start(views, boxes, labels, config, **options), progress=False)
        found.append(learn_volumes(state, progress=False))
        assert not found[-1].nets.moves
    a, b = (polish_colors(state, progress=False).nets for state in found)
    assert torch.equal(a.theta, b.theta)
    for one, other in zip(a.fields, b.fields, strict=True):
        assert one.config() == other.config()
        other_state = other.state_dict()
        assert all(torch.equal(x, other_state[name]) for name, x in one.state_dict().items())


def test_cameras_that_stand_wrong_are_put_right():
    views = seen_by(things(), cameras(12), depth=True, ids=True)
    generator = torch.Generator().manual_seed(0)
    wrong = []
    for view in views:
        axis, way = torch.nn.functional.normalize(torch.randn(2, 3, generator=generator).double(), dim=-1)
        pose = SE3.from_translation(0.03 * way) @ view.camera.T_world_cam @ SE3.from_axis_angle(axis, math.radians(1.5))
        camera = dataclasses.replace(view.camera, T_world_cam=pose)
        wrong.append(View(camera, view.rgb, depth=view.depth.nan_to_num(0.0), ids=view.ids))
    config = ViewsConfig(**{**vars(SMALL), "steps": 200, "pose_rate": 0.3})
    found = fit_views(Views(wrong), config=config, refine=True, progress=False).cameras

    def errors(cameras: list[Camera]) -> tuple[float, float]:
        """Of the steps from each camera to the next, as the whole may have moved."""
        poses = [[c.T_world_cam for c in some] for some in (cameras, views.cameras)]
        steps = [[a.inverse() @ b for a, b in itertools.pairwise(some)] for some in poses]
        away = [a.inverse() @ b for a, b in zip(*steps, strict=True)]
        turn = torch.stack([pose.log()[3:].norm() for pose in away]).mean()
        return math.degrees(float(turn)), float(torch.stack([pose.translation.norm() for pose in away]).mean())

    before, after = errors([view.camera for view in wrong]), errors(list(found))
    assert after[0] < 0.4 * before[0]
    assert after[1] < 0.5 * before[1]


def test_carving_keeps_the_object_and_little_else():
    views = seen_by(things(), cameras(), depth=False, ids=True)
    p = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    solid = Carver(views).support(p, 0.03, 1) > 0
    away = (p - torch.tensor([-0.4, 0.0, 0.3])).norm(dim=-1) - 0.3
    assert bool(solid[away < -0.07].all())
    assert not bool(solid[(away > 0.25) & (p[:, 2] > 0.05)].any())


def test_carving_leaves_all_of_an_object_that_pixels_only_half_show():
    """A place inside, next to an outline, may lie in a pixel whose middle is outside."""
    ball = Instance("ball", Sphere(0.5), SE3.identity(), lit=False)
    shots = [c.resized(20, 15) for c in cameras(24)]
    p = torch.nn.functional.normalize(torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)), dim=-1).double()
    for depth in (False, True):
        views = seen_by([ball], shots, depth=depth, ids=False, alpha=True)
        assert bool((Carver(views).support(0.48 * p, 0.01, None) > 0).all())


def test_fused_depths_place_a_surface_within_a_cell():
    ball = Instance("ball", Sphere(0.5), SE3.identity(), lit=False)
    views = seen_by([ball], cameras(24), depth=True, ids=False, alpha=True)
    n, cell = 24, 0.05
    axis = cell * (torch.arange(n) + 0.5) - 0.5 * n * cell
    centers = torch.cartesian_prod(axis, axis, axis).double()
    near = fused(centers, views.cameras, [measured_ahead(v) for v in views], 4 * cell).view(n, n, n).numpy()
    got = torch.from_numpy(distance_from_fused(near, torch.full((3,), cell).numpy())).view(-1)
    true = centers.norm(dim=-1) - 0.5
    by = (true.abs() < cell) & (centers[:, 2] > -0.2)  # the lower part is seen by few
    assert int(by.sum()) > 500
    assert float((got - true)[by].abs().mean()) < 0.15 * cell
    assert float((got - true)[by].mean().abs()) < 0.05 * cell


def test_an_outline_says_nothing_of_places_that_one_of_its_pixels_hides():
    camera = Camera.look_at((0.0, 0.0, 2.0), (0.0, 0.0, 0.0), 8, 8, 40.0)
    ahead = torch.full((8, 8), torch.inf)
    ahead[:, :4] = 2.0
    edge = camera.rays(torch.tensor([[3.4, 4.5], [3.9, 4.5], [4.4, 4.5], [5.0, 4.5]]))
    before, behind = ((edge.origins + t * edge.directions).double() for t in (1.5, 2.04))
    assert fused(before, [camera], [ahead], 0.1).tolist() == pytest.approx([0.1] * 4)
    assert fused(behind, [camera], [ahead], 0.1).tolist() == pytest.approx([-0.04, -0.1, -0.1, 0.1], abs=1e-5)


def test_depth_carves_what_stands_before_it():
    views = seen_by(things(), cameras(), depth=True, ids=True)
    above_the_floor = torch.tensor([[0.0, -0.7, 0.3], [0.0, -0.7, -0.02]]).double()
    assert (Carver(views).support(above_the_floor, 0.03, 0) > 0).tolist() == [False, True]


def test_boxes_hold_the_objects():
    for depth in (True, False):
        boxes, ids = boxes_of(seen_by(things(), cameras(), depth=depth, ids=True))
        assert ids == [0, 1, 2]
        ball = boxes[1]
        assert bool((ball.lo < torch.tensor([-0.69, -0.29, 0.05])).all())
        assert bool((ball.hi > torch.tensor([-0.11, 0.29, 0.59])).all())
        assert float(ball.size.max()) < 1.0


def test_a_mask_without_pixels_in_common_is_named():
    views = list(seen_by(things(), cameras(4), depth=False, ids=True))
    for i, view in enumerate(views):
        ids = view.ids.clone()
        ids[0, 8 * i] = 7
        views[i] = View(view.camera, view.rgb, ids=ids)
    with pytest.raises(ViewError, match="instance 7"):
        boxes_of(Views(views))


def test_one_view_without_depth_is_refused():
    with pytest.raises(ViewError, match="depth"):
        fit_views(seen_by(things(), cameras(1), depth=False, ids=False), config=SMALL, progress=False)


def test_masks_that_are_empty_all_over_are_refused():
    views = seen_by(things()[1:2], cameras(3), depth=False, ids=False, alpha=True)
    empty = Views([View(v.camera, v.rgb, alpha=torch.zeros_like(v.alpha)) for v in views])
    with pytest.raises(ViewError, match="nothing to learn"):
        fit_views(empty, config=SMALL, progress=False)


def test_pictures_of_different_sizes_and_missing_depth_are_learned_from():
    views = list(seen_by(things(), cameras(4), depth=True, ids=True))
    small = seen_by(things(), [c.resized(20, 15) for c in cameras(4)], depth=False, ids=True)
    views[1] = small[1]
    config = ViewsConfig(**{**vars(SMALL), "steps": 3, "rays": 64, "lattice": 16, "hull_steps": 5})
    learned = fit_views(Views(views), config=config, progress=False)
    assert len(learned.instances) == 3


def test_the_preview_shows_the_learned_beside_the_wanted(tmp_path):
    views = seen_by(things()[1:2], cameras(6), depth=False, ids=False, alpha=True)
    config = ViewsConfig(**{**vars(SMALL), "steps": 3, "rays": 64, "lattice": 16, "hull_steps": 5})
    fit_views(views, config=config, preview=tmp_path / "preview.png", progress=False)
    from rendering import load_png

    page = (tmp_path / "preview.html").read_text()
    assert "<polyline" in page and page.count("http") == 0 and "data:image/png;base64," in page
    picture = load_png(tmp_path / "preview.png")
    assert picture.shape == (30, 80, 3)
    torch.testing.assert_close(picture[:, 40:], views[3].composited((1, 1, 1)), atol=0.01, rtol=0)


# -- pixels that aren't valid ------------------------------------------------------------------------------------------


def spotted(views: Views, seed: int) -> Views:
    """The same with a spot in the middle and one at an edge of each picture that isn't valid, and holds what chance put there."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for view in views:
        valid = torch.ones_like(view.valid)
        valid[12:18, 14:22] = False
        valid[:, :4] = False

        def odd(layer, highest):
            if layer is None:
                return None
            junk = (torch.rand(layer.shape, generator=generator) * highest).to(layer.dtype)
            return torch.where(valid if layer.dim() == 2 else valid[..., None], layer, junk)  # noqa: B023

        layers = {"alpha": odd(view.alpha, 1.0), "depth": odd(view.depth, 2.0), "ids": odd(view.ids, 3.0)}
        result.append(View(view.camera, odd(view.rgb, 1.0), valid=valid, **layers))
    return Views(result)


SHORT = dataclasses.replace(SMALL, steps=40, hull_steps=100)


@pytest.mark.parametrize(
    ("layers", "refine"),
    [
        ({"depth": True, "ids": True}, False),
        ({"depth": True, "ids": False}, True),
        ({"depth": False, "ids": False, "alpha": True}, False),
        ({"depth": False, "ids": True, "alpha": True}, False),
        ({"depth": False, "ids": False}, False),
    ],
)
def test_what_pixels_that_arent_valid_hold_changes_nothing(layers, refine):
    views = seen_by(things(), cameras(8), **layers)
    first, second = (fit_views(spotted(views, seed), config=SHORT, refine=refine, progress=False) for seed in (1, 2))
    assert first.psnr_db == second.psnr_db and first.background == second.background
    assert [i.name for i in first.instances] == [i.name for i in second.instances]
    for a, b in zip(first.instances, second.instances, strict=True):
        assert torch.equal(a.T_world_obj.as_matrix(), b.T_world_obj.as_matrix())
        for key, value in a.field.state_dict().items():
            assert torch.equal(value, b.field.state_dict()[key]), (a.name, key)
    for a, b in zip(first.cameras, second.cameras, strict=True):
        assert torch.equal(a.T_world_cam.as_matrix(), b.T_world_cam.as_matrix())


@pytest.mark.parametrize("layers", [{"depth": True, "ids": True}, {"depth": False, "ids": True, "alpha": True}])
def test_pixels_that_arent_valid_carve_nothing(layers):
    whole = seen_by(things(), cameras(), **layers)
    grid = torch.cartesian_prod(*(torch.linspace(-0.28, 0.28, 9, dtype=torch.float64),) * 3)
    inside = grid[grid.norm(dim=-1) < 0.28] + torch.tensor([-0.4, 0.0, 0.3])
    assert bool((Carver(whole).support(inside, 0.07, 1) > 0).all())
    assert bool((Carver(spotted(whole, 1)).support(inside, 0.07, 1) > 0).all())


def test_a_surface_that_only_pixels_that_arent_valid_show_was_not_seen():
    field = SirenField(Aabb(torch.full((3,), -0.5), torch.full((3,), 0.5)), observed=True, seed=0).requires_grad_(False)
    camera, seen = cameras(1)[0], []
    for columns in (40, 20, 0):
        valid = torch.zeros(30, 40, dtype=torch.bool)
        valid[:, :columns] = True
        observe([Composite([Instance("thing", field, SE3.identity())])], [camera], [valid])
        seen.append(int((field.observed > 0).sum()))
    assert seen[0] > seen[1] > seen[2] == 0


def test_pictures_whose_masks_leave_nothing_are_refused():
    view = seen_by(things(), cameras(1), depth=True, ids=False)[0]
    nothing = View(view.camera, view.rgb, depth=view.depth, valid=torch.zeros_like(view.valid))
    with pytest.raises(ViewError, match="leaves nothing of any picture"):
        fit_views(Views([nothing]), config=SHORT, progress=False)
