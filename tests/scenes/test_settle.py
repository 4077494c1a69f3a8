"""Things fall until they touch, or find a free place; places are known in closed form."""

import math

import numpy as np
import pytest
import torch

from objects import Aabb, Box, Capsule, Sphere, Torus
from objects.placed import Placed
from objects.siren import SirenField
from scenes import SceneGraph
from scenes.script import run_script
from tests.scenes.helpers import at, turned


def where(graph, path):
    return graph[path].pose().translation.numpy()


def pair(below, pose_below, above, pose_above) -> SceneGraph:
    graph = SceneGraph()
    graph.add("below", below, pose=pose_below)
    graph.add("above", above, pose=pose_above)
    return graph


@pytest.mark.parametrize(
    ("below", "pose_below", "above", "pose_above", "fall"),
    [
        (Box((1, 1, 0.1)), at(0), Sphere(0.1), at(0, 0, 1), 0.85),
        (Box((1, 1, 0.1)), at(0), Box((0.2, 0.2, 0.2)), at(0, 0, 1), 0.85),
        (Sphere(0.2), at(0), Sphere(0.1), at(0.1, 0.05, 1), 1 - math.sqrt(0.09 - 0.0125)),
        (Torus(0.2, 0.05), at(0), Sphere(0.2), at(0, 0, 1), 1 - math.sqrt(0.25**2 - 0.2**2)),
        (Capsule(0.05, 0.4), turned(90, (1, 0, 0)), Capsule(0.05, 0.4), at(0.02, 0.03, 1) @ turned(90, (0, 1, 0)), 0.9),
        (Box((0.2, 0.2, 0.2)), turned(45, (0, 1, 0)), Box((0.2, 0.2, 0.2)), at(0.03, 0.02, 1) @ turned(45, (1, 0, 0)),
         1 - 0.2 * math.sqrt(2)),
        (Box((100, 100, 0.1)), at(0), Box((0.3, 0.3, 0.015)), at(3, 4, 1), 0.9425),
    ],
    ids=["ball-slab", "box-slab", "ball-ball", "ball-ring", "capsules", "edge-edge", "plate-floor"],
)  # fmt: skip
def test_a_thing_falls_as_far_as_geometry_says(below, pose_below, above, pose_above, fall):
    graph = pair(below, pose_below, above, pose_above)
    before = where(graph, "above")
    gone = graph.drop("above")
    assert gone == pytest.approx(fall, abs=1.2e-5)
    np.testing.assert_allclose(where(graph, "above"), before - (0, 0, gone), atol=1e-12)
    tolerance = 1e-4 * 2 * float(above.bounds.size.norm())
    assert not graph.overlaps(min_depth=tolerance)
    graph.undo()
    np.testing.assert_array_equal(where(graph, "above"), before)


def test_what_rests_already_stays():
    graph = pair(Box((1, 1, 0.1)), at(0), Sphere(0.1), at(0, 0, 1))
    graph.drop("above")
    assert graph.drop("above") < 1e-5


def test_a_thing_falls_along_a_direction_and_at_a_time():
    graph = pair(Box((1, 1, 0.1)), at(0), Sphere(0.1), at(-1))
    assert graph.drop("above", direction=(2, 0, 0), time=1.0) == pytest.approx(0.4, abs=1e-5)
    np.testing.assert_allclose(graph["above"].pose(1.0).translation, (-0.6, 0, 0), atol=1e-5)


def test_a_group_falls_as_one_inside_turned_parents_and_past_what_does_not_count():
    graph = SceneGraph()
    graph.add("floor", Box((4, 4, 0.2)), pose=at(0, 0, -0.1))
    graph.add("shelf", Box((0.2, 0.2, 0.02)), pose=at(1.5, 0, 1))
    graph.add("frame", pose=at(0, 0, 3) @ turned(90, (1, 0, 0)), scale=2.0)
    graph.add("frame/pair", pose=at(0, 0, 0))
    graph.add("frame/pair/a", Sphere(0.1), pose=at(0))
    graph.add("frame/pair/b", Sphere(0.05), pose=at(0.2, -0.2, 0))  # under the frame's turn: 0.4 m lower, radius 0.1
    assert graph.drop("frame/pair") == pytest.approx(3 - 0.4 - 0.1, abs=1e-4)
    graph.add("ball", Sphere(0.05), pose=at(1.5, 0, 2))
    assert graph.drop("ball", "floor") == pytest.approx(1.95, abs=1e-5)
    graph.undo()
    assert graph.drop("ball") == pytest.approx(2 - 0.05 - 1.01, abs=1e-5)


def test_a_jaw_that_opens_sideways_is_caught_by_what_comes_in_between():
    jaw = Box((0.4, 0.2, 0.4)) - Placed(Box((0.4, 0.3, 0.2)), at(0.1))
    graph = pair(Box((0.4, 0.1, 0.04)), at(0.25), jaw, at(0, 0, 0.03))
    # The upper jaw's lower face is 0.1 above the middle of the jaw, the bar's upper face at 0.02.
    assert graph.drop("above") == pytest.approx(0.03 + 0.1 - 0.02, abs=1e-4)


def test_a_network_falls_until_its_own_surface_touches():
    half = torch.tensor([0.5, 0.5, 0.5])
    field = SirenField(Aabb(-half, half), width=16, layers=2, color_width=4, color_layers=1, omega_first=8.0, seed=1)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(field.distance.parameters(), lr=3e-3)
    for _ in range(150):
        p = torch.rand(512, 3, generator=generator) - 0.5
        optimizer.zero_grad()
        (field.sdf(p) - Torus(0.3, 0.1).sdf(p)).abs().mean().backward()
        optimizer.step()
    field.requires_grad_(False)
    graph = pair(Box((2, 2, 0.1)), at(0), field, at(0, 0, 2) @ turned(20, (1, 1, 0)))
    graph.drop("above")
    assert abs(graph.clearance("above", "below").distance) < 1e-4 * 2


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda g: g.drop("above", direction=(0, 0, 1)), "drop above: it is not above any of it"),
        (lambda g: g.drop("above", direction=(0, 0, 0)), "zero length"),
        (lambda g: g.drop("above", "above"), "no visible object in above"),
        (lambda g: g.drop("abov"), "did you mean 'above'"),
        (lambda g: g.drop("above", "belw"), "did you mean 'below'"),
        (
            lambda g: (g.move("above", to=(0, 0, 0.1)), g.drop("above")),
            "above overlaps below already, 50 mm deep; lift it",
        ),
        (lambda g: g.place_free("above", region=Aabb(torch.zeros(3), torch.ones(3) * 0.1)), "no free place was found"),
        (lambda g: g.place_free("above", gap=-1), "must be 0 or more"),
        (lambda g: g.place_free("above", seed=1.5), "must be 0 or more"),
        (lambda g: g.place_free("above", region=(0, 1)), "must be an Aabb"),
        (lambda g: g.place_free("above", on="nothing"), "no node 'nothing'"),
    ],
)
def test_a_fall_that_cannot_be_is_refused(edit, message):
    graph = pair(Box((1, 1, 0.1)), at(0), Sphere(0.1), at(0, 0, 1))
    with pytest.raises(ValueError, match=message):
        edit(graph)


def table() -> SceneGraph:
    graph = SceneGraph()
    graph.add("table", Box((1, 1, 0.1)), pose=at(0, 0, 0.5))
    graph.add("table/vase", Capsule(0.1, 0.2), pose=at(0, 0, 0.25))
    graph.add("mug", Sphere(0.05), pose=at(0, 0, 0.7))
    return graph


def test_a_free_place_is_the_wanted_one_where_that_is_free():
    graph = table()
    np.testing.assert_allclose(graph.place_free("mug", near=(0.3, 0.1, 0.8)), (0.3, 0.1, 0.8), atol=1e-12)
    np.testing.assert_allclose(where(graph, "mug"), (0.3, 0.1, 0.8), atol=1e-12)


def test_a_free_place_overlaps_nothing_is_near_and_keeps_its_gap():
    graph = table()
    x, y, z = graph.place_free("mug", gap=0.02)
    assert z == pytest.approx(0.7)
    assert 0.17 <= math.hypot(x, y) < 0.22
    assert graph.clearance("mug", "table/vase").distance >= 0.02
    assert table().place_free("mug", gap=0.02) == (x, y, z)  # by the seed alone
    assert table().place_free("mug", gap=0.02, seed=1) != (x, y, z)
    graph.undo()
    assert graph == table()


def test_a_thing_is_laid_on_another_beside_what_stands_there():
    graph = table()
    x, y, z = graph.place_free(
        "mug", near=(0, 0, 0), on="table", region=Aabb(torch.tensor([-1.0, 0, 0]), torch.ones(3))
    )
    assert z == pytest.approx(0.6, abs=1e-4)
    assert math.hypot(x, y) > 0.1  # the vase stands there
    assert y >= 0.05 - 1e-4
    assert abs(x) <= 0.5
    assert not graph.overlaps(min_depth=1e-4)


@pytest.mark.parametrize(
    ("script", "by_hand"),
    [
        ("drop mug onto table", lambda g: g.drop("mug", "table")),
        ("move mug by 0.1 0 0; drop mug", lambda g: (g.move("mug", by=(0.1, 0, 0)), g.drop("mug"))),
        ("move mug to 0.8 0 0.5; drop mug along -1 0 0 time 1",
         lambda g: (g.move("mug", to=(0.8, 0, 0.5)), g.drop("mug", direction=(-1, 0, 0), time=1))),
        ("move mug to 0.3 0 0.57; put mug gap 0.02 seed 3",
         lambda g: (g.move("mug", to=(0.3, 0, 0.57)), g.place_free("mug", gap=0.02, seed=3))),
        ("put mug near 0.1 0 0.7 on table within -1 -1 0 1 1 2",
         lambda g: g.place_free("mug", near=(0.1, 0, 0.7), on="table",
                                region=Aabb(torch.tensor([-1.0, -1, 0]), torch.tensor([1.0, 1, 2])))),
    ],
)  # fmt: skip
def test_statements_do_what_the_methods_do_and_so_does_the_log(script, by_hand):
    got, want, again = table(), table(), table()
    run_script(got, f"move mug to 0.3 0 0.9; {script}")
    want.move("mug", to=(0.3, 0, 0.9))
    by_hand(want)
    assert got == want
    run_script(again, "; ".join(got.log[3:]))
    assert again == got
