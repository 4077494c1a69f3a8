"""What a user does in the browser, in a real one."""

import threading

import numpy as np
import torch

from objects import Box, Sphere
from rendering import Camera, PointLight
from scenes import SceneGraph, load_scene
from scenes.viewer import stream
from tests.scenes.helpers import at
from tests.scenes.viewer.browser import WAIT_S, chromium, opened  # noqa: F401 (a fixture)

WIDTH, HEIGHT = 960, 480


def small_scene() -> SceneGraph:
    """A red ball in the middle of a picture, and a grey box under it; unlit."""
    scene = SceneGraph()
    scene.add("table", Box((4, 4, 0.2), color=(0.5, 0.5, 0.5)), pose=at(0, 0, -1.1), lit=False)
    scene.add("toys")
    scene.add("toys/ball", Sphere(0.5, color=(0.9, 0.1, 0.1)), lit=False)
    scene.add("camera", camera=Camera.look_at((0, -6, 0.6), (0, 0, 0), WIDTH, HEIGHT, 40))
    return scene


def at_pixel(scene, point):
    """Where a world point is on the page."""
    return tuple(scene.camera_at("camera").project(torch.tensor([point], dtype=torch.float64))[0][0].tolist())


def is_red(rgb):
    return rgb[0] > 150 and rgb[1] < 90


def test_a_click_selects_a_drag_moves_undo_brings_back_and_save_keeps(chromium, tmp_path):  # noqa: F811
    scene, file = small_scene(), tmp_path / "small.scene"
    with opened(chromium, scene, WIDTH, HEIGHT, save=file) as page:
        x, y = at_pixel(scene, [0.0, 0.0, 0.0])
        page.until(lambda: is_red(page.pixel(x, y)), "the picture")
        page.page.mouse.click(x + 10, y)
        page.until(lambda: page.viewer.selected == "toys/ball", "the selection")
        page.page.mouse.click(x + 10, y)
        page.until(lambda: page.viewer.selected == "toys", "the group above it")
        page.row("ball").click()
        page.until(lambda: page.viewer.selected == "toys/ball", "the selection in the tree")
        page.rest()

        # The arrow along +x, which stands out of the ball.
        tip = at_pixel(scene, [0.9, 0.0, 0.0])
        page.page.mouse.move(*tip)
        page.page.mouse.down()
        page.page.mouse.move(tip[0] + 30, tip[1], steps=4)
        page.page.mouse.move(tip[0] + 90, tip[1], steps=4)
        page.page.mouse.up()
        page.until(lambda: len(scene.log) > 4, "the edit")
        assert scene.log[-1].startswith("move toys/ball by 0.")
        moved = scene.pose("toys/ball")[0].translation
        assert moved[0] > 0.4
        assert abs(moved[1]) < 1e-5
        page.until(lambda: not is_red(page.pixel(x - 20, y)), "the pixel that the ball left")
        page.until(lambda: is_red(page.pixel(*at_pixel(scene, moved.tolist()))), "the pixel where it is now")

        page.page.keyboard.press("Control+z")
        page.until(lambda: scene.pose("toys/ball")[0].translation[0] == 0, "undo")
        page.until(lambda: is_red(page.pixel(x - 20, y)), "the pixel of the ball that came back")
        page.press("redo")
        page.until(lambda: scene.pose("toys/ball")[0].translation[0] > 0.4, "redo")
        assert page.viewer.unsaved > 0
        page.press("save")
        page.until(lambda: page.viewer.unsaved == 0, "saving")
        assert load_scene(file) == scene
        assert page.errors == []
        assert {url.split("/")[2] for url in page.requests if url.startswith("http")} == {page.viewer.url.split("/")[2]}


def test_a_row_that_is_dragged_onto_another_hangs_under_it(chromium):  # noqa: F811
    scene = small_scene()
    with opened(chromium, scene) as page:
        page.row("table").drag_to(page.row("toys"))
        page.until(lambda: "toys/table" in scene, "the table under the toys")
        page.row("table").drag_to(page.row("scene"))
        page.until(lambda: "table" in scene, "the table at the top")
        np.testing.assert_allclose(scene.pose("table")[0].translation, [0, 0, -1.1], atol=1e-12)


def test_edits_in_code_appear_and_two_browsers_see_one_scene(chromium):  # noqa: F811
    scene = small_scene()
    with opened(chromium, scene) as page:
        other = chromium.new_context(viewport={"width": 400, "height": 300}).new_page()
        other.set_default_timeout(1000 * WAIT_S)
        other.goto(page.viewer.url)
        other.wait_for_selector(".ss-tree")
        scene.rename("toys/ball", "<b>&\"'")
        for one in (page.page, other):
            one.get_by_text("<b>&\"'", exact=True).wait_for()
        page.page.get_by_text("<b>&\"'", exact=True).click()
        other.wait_for_selector(".ss-row.selected")
        page.press("delete")
        page.until(lambda: len(scene) == 3, "the deletion")
        other.context.close()


def test_until_the_first_picture_the_page_says_why_and_shows_meshes(chromium, monkeypatch):  # noqa: F811
    compiled, draw = threading.Event(), stream.render
    monkeypatch.setattr(stream, "render", lambda *args, **keys: (compiled.wait(WAIT_S), draw(*args, **keys))[1])
    scene = small_scene()
    with opened(chromium, scene, WIDTH, HEIGHT) as page:
        try:
            told = page.page.get_by_text("The first picture is on its way")
            told.wait_for()
            x, y = at_pixel(scene, [0.0, 0.0, 0.0])
            page.until(lambda: page.pixel(x, y)[0] > 2 * page.pixel(x, y)[1], "the mesh of the ball")
            assert page.viewer.figures.pictures == 0
        finally:
            compiled.set()
        page.rest()
        assert told.count() == 0
        assert is_red(page.pixel(x, y))
        assert page.errors == []


def test_marks_of_lights_and_cameras_are_seen_and_clicked(chromium):  # noqa: F811
    scene = small_scene()
    scene.add("lamp", light=PointLight((0.0, 0.0, 0.0), color=(0.1, 0.2, 1.0)), pose=at(-0.9, 0, 0.8))
    scene.add("other", camera=Camera.look_at((-1.8, 0, -0.5), (-1.8, 9, -0.5), 64, 48))
    with opened(chromium, scene, WIDTH, HEIGHT) as page:
        page.rest()
        x, y = at_pixel(scene, [-0.9, 0.0, 0.8])
        page.until(lambda: page.pixel(x, y)[2] > 1.3 * page.pixel(x, y)[0], "the blue lamp")
        page.page.mouse.click(x, y)
        page.until(lambda: page.viewer.selected == "lamp", "the lamp's selection")
        page.page.keyboard.down("Control")
        page.page.mouse.click(*at_pixel(scene, [-1.8, -0.05, -0.5]))
        page.page.keyboard.up("Control")
        page.until(lambda: page.viewer.selection == ["lamp", "other"], "the camera beside it")
        page.row("ball").click(modifiers=["Control"])
        page.until(lambda: page.viewer.selection[-1] == "toys/ball", "a third from the tree")
        page.until(lambda: page.page.locator(".ss-row.selected").count() == 3, "three rows")
        page.field("Marks").dispatch_event("click")
        page.until(lambda: page.pixel(x, y)[0] < 1.2 * page.pixel(x, y)[2], "no mark any more")


def test_words_that_mean_nothing_are_told_and_change_nothing(chromium):  # noqa: F811
    scene = small_scene()
    before = list(scene.log)
    with opened(chromium, scene) as page:
        for number, words in enumerate(["drop 1 1", "select 99", "frobnicate", "drop 1", "undo 3"]):
            page.page.evaluate("words => sirenscape.send(words)", words)
            told = page.page.get_by_text("That did not work")
            page.until(lambda told=told, number=number: told.count() > number, f"what is told of {words}")
        assert scene.log == before


def test_the_panel_types_plays_sets_keys_keeps_views_and_scales(chromium):  # noqa: F811
    scene = small_scene()
    with opened(chromium, scene, 800, 900) as page:
        page.row("ball").click()
        page.until(lambda: page.viewer.selected == "toys/ball", "the selection")
        page.field("Name").fill("Erde")
        page.until(lambda: "toys/Erde" in scene, "the name")
        page.field("Position").nth(2).fill("0.25")
        page.field("Position").nth(2).press("Enter")
        page.until(lambda: scene.pose("toys/Erde")[0].translation[2] == 0.25, "the height")

        page.page.get_by_text("Time", exact=True).click()
        page.press("key")
        page.field("Seconds").fill("0.5")
        page.field("Seconds").press("Enter")
        page.until(lambda: page.viewer.time == 0.5, "the time")
        page.field("Position").nth(0).fill("-0.7")
        page.field("Position").nth(0).press("Enter")
        page.until(lambda: scene["toys/Erde"].moves, "a key")
        assert scene["toys/Erde"].track.times.tolist() == [0.0, 0.5]
        assert scene.pose("toys/Erde", 0.0)[0].translation.tolist() == [0.0, 0.0, 0.25]
        page.press("key-off")
        page.until(lambda: not scene["toys/Erde"].moves, "the key that goes")
        page.press("play")
        page.until(lambda: page.viewer.time not in (0.0, 0.5), "time that passes")
        page.press("play")

        page.press("look-top")

        page.until(lambda: page.viewer.cameras[0].T_world_cam.rotation()[2, 2] < -0.99, "the view from above")
        page.press("keep-camera")
        page.until(lambda: "view-1" in scene, "the view as a camera")
        assert scene.camera_at("view-1").T_world_cam.rotation()[2, 2] < -0.99

        before = scene["toys/Erde"].scale()
        page.until(lambda: page.knob() is not None, "the knob")
        x, y = page.knob()
        page.page.mouse.move(x, y)
        page.page.mouse.down()
        page.page.mouse.move(x - 20, y + 20, steps=5)
        page.page.mouse.move(x - 60, y + 60, steps=5)
        page.page.mouse.up()
        page.until(lambda: scene["toys/Erde"].scale() > 1.1 * before, "a larger ball")
        assert page.errors == []
