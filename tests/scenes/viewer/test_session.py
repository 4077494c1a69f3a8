"""What browsers share: selection by clicks, time, what is left out while it is dragged, one thread for all."""

import threading
import time

import numpy as np
import pytest
import torch

from objects import Box, Sphere
from rendering import Camera, PointLight, RenderConfig, render
from scenes import SceneGraph
from scenes.viewer.gizmo import scale_about
from scenes.viewer.session import Session, outlined
from scenes.viewer.worker import Worker
from tests.scenes.helpers import at

AHEAD = np.array([0.0, 1.0, 0.0])


@pytest.fixture
def session():
    scene = SceneGraph()
    scene.add("shelf", Box((2, 0.2, 2)), pose=at(0, 1, 0))
    scene.add("shelf/toys")
    scene.add("shelf/toys/ball", Sphere(0.3), pose=at(0, -1, 0))
    found = []
    session = Session(scene, found.append)
    session.failures = found
    return session


def settle(session):
    """Does what was posted, in this thread: the worker was not started."""
    done = threading.Event()
    session.post(done.set)
    session.worker.start()
    assert done.wait(20)
    session.worker.stop()


def test_clicks_go_up_the_hierarchy_and_round_and_beside_everything_they_deselect(session):
    origin = session.unit * np.array([0.0, -5.0, 0.0])
    seen = []
    for _ in range(4):
        session.click(origin, AHEAD, False)
        seen.append(session.selected.path)
    assert seen == ["shelf/toys/ball", "shelf/toys", "shelf", "shelf/toys/ball"]
    session.click(origin, AHEAD, False)
    session.click(origin, AHEAD, True)
    assert session.selected.path == "shelf/toys/ball"
    session.click(origin + session.unit * np.array([0.8, 0, 0]), AHEAD, False)
    assert session.selected.path == "shelf"
    session.click(origin + session.unit * np.array([8.0, 0, 0]), AHEAD, False)
    assert session.selected is None


def test_a_click_with_ctrl_adds_an_object_and_takes_it_away_again(session):
    scene = session.graph
    scene.add("ball", Sphere(0.3), pose=at(4, 0, 0))
    origin = session.unit * np.array([0.0, -5.0, 0.0])
    there = session.unit * np.array([4.0, -5.0, 0.0])
    session.click(origin, AHEAD)
    session.click(there, AHEAD, more=True)
    assert [node.path for node in session.selection] == ["shelf/toys/ball", "ball"]
    assert session.bounds_of(session.selection).hi[0] > 4
    session.click(session.unit * np.array([9.0, -5.0, 0.0]), AHEAD, more=True)  # beside everything
    assert len(session.selection) == 2
    session.click(origin, AHEAD, more=True)
    assert [node.path for node in session.selection] == ["ball"]


def test_what_is_scaled_stays_in_its_middle(session):
    scene = session.graph
    session.select(scene["shelf/toys"], scene["shelf/toys/ball"])
    before = scene.at().bounds
    for node in ("shelf", "shelf/toys"):
        box = session.bounds_of([scene[node]])
        with session.steps.together():
            scale_about(session, [scene[node]], 1.5, box.center.double())
        grown = session.bounds_of([scene[node]])
        assert torch.allclose(grown.center, box.center, atol=1e-6)
        assert torch.allclose(grown.size, 1.5 * box.size, atol=1e-6)
    session.steps.undo()
    session.steps.undo()
    assert torch.equal(scene.at().bounds.lo, before.lo)


def test_what_is_lifted_is_left_out_and_the_scene_stays(session):
    session.lift(session.graph["shelf/toys"])
    assert session.subject().composite.arrays.names == ["shelf"]
    assert len(session.graph.at()) == 2
    session.lift()
    assert len(session.subject().composite) == 2


def test_a_selection_follows_names_and_goes_with_its_node(session):
    node = session.graph["shelf/toys/ball"]
    session.select(node)
    session.graph.rename("shelf/toys/ball", "globe")
    session.graph.remove("shelf/toys")
    settle(session)
    assert session.selected is None
    assert session.failures == []
    session.graph.undo()
    assert node.path == "shelf/toys/globe"


def test_a_scene_without_lights_is_lit_for_looking_at_it_and_others_by_their_own(session):
    assert session.lighting == "studio"
    assert len(session.subject().lights) == 2
    session.graph.add("lamp", light=PointLight((0, -2, 2)))
    other = Session(session.graph, print)
    assert other.lighting == "scene"
    other.show_layer("normal")
    assert other.subject().lights == ()


def test_an_outline_surrounds_a_thing_and_leaves_it_as_it_is(session):
    picture, mask = torch.zeros(40, 40, 3), torch.zeros(40, 40, dtype=torch.bool)
    mask[10:20, 10:20] = True
    drawn = outlined(picture, mask)
    assert (drawn[mask] == 0).all()
    assert (drawn[9, 10:20] == torch.tensor([1.0, 0.55, 0.1])).all()
    assert (drawn[:8] == 0).all()


def test_two_threads_edit_while_a_third_draws():
    scene = SceneGraph()
    for k in range(30):
        scene.add(f"ball {k}", Sphere(0.1), pose=at(k, 0, 0))
    errors = []

    def edit(first):
        try:
            for k in range(40):
                scene.move(f"ball {first + k % 10}", by=(0, 0.01, 0))
                scene.add(f"more {first} {k}", Sphere(0.05))
                scene.undo()
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=edit, args=(first,)) for first in (0, 10)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert len(scene.at()) >= 30
    assert errors == []
    with scene.lock:
        assert len(list(scene)) == len(scene)


def test_jobs_come_before_drawing_and_a_mistake_does_not_end_them():
    order, failures, drawn = [], [], threading.Event()

    def draw():
        order.append("draw")
        drawn.set()
        return False

    worker = Worker(draw, failures.append)
    worker.post(lambda: order.append("first"))
    worker.post(lambda: int("x"))
    worker.post(
        lambda: (worker.post_later("a", 0.01, lambda: order.append("late")), worker.post_once("a", 0, order.clear))
    )
    worker.post(lambda: worker.post_later("b", 0.02, lambda: order.append("replaced")))
    worker.post(lambda: worker.post_later("b", 0.03, lambda: order.append("later")))
    worker.post(lambda: worker.post_idle("c", lambda: order.append("idle")))
    worker.start()
    assert drawn.wait(10)
    end = time.monotonic() + 10
    while "later" not in order:
        assert time.monotonic() < end
        time.sleep(0.01)
    worker.stop()
    assert [word for word in order if word != "draw"] == ["first", "idle", "late", "later"]
    assert order[0] == "first"
    assert [type(error) for error in failures] == [ValueError]


def test_the_picture_is_what_render_gives(session):
    subject, camera = session.subject(), Camera.look_at((0, -6, 1), (0, 0, 0), 64, 48)
    frame = render(subject.composite, camera, lights=subject.lights, config=RenderConfig(1), progress=False)
    np.testing.assert_allclose(subject.paint(frame, subject.composite) / 255, frame.rgb.numpy(), atol=0.5 / 255 + 1e-6)
