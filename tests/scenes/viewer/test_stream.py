"""Pictures for browsers: coarse first, in bands that make a whole, dropped when overtaken."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from compose import Composite, Instance
from objects import Box, Sphere
from rendering import AmbientLight, DirectionalLight, Frame, RenderConfig, render
from scenes.viewer import stream
from scenes.viewer.stream import Stream, Subject
from tests.scenes.helpers import at


class Client:
    """Stands for a browser: what it looks from, and the pictures that it got."""

    def __init__(self, number, width=320, height=240):
        self.client_id, self.pictures = number, []
        self.camera = SimpleNamespace(
            wxyz=np.array([0.7071067811865476, -0.7071067811865475, 0, 0]), position=np.array([0.0, -20.0, 2.0]), fov=0.7,
            image_width=width, image_height=height,
        )  # fmt: skip
        self.scene = SimpleNamespace(set_background_image=lambda image, **more: self.pictures.append((image, more)))

    def flush(self):
        pass


@pytest.fixture
def subject():
    composite = Composite(
        [
            Instance("ball", Sphere(0.5, color=(0.9, 0.2, 0.1)), at(0, 0, 0.3)),
            Instance("floor", Box((3, 3, 0.1)), at(0, 0, -0.3)),
        ]
    )
    lights = (AmbientLight(), DirectionalLight((0.4, 0.5, -1)))
    kept = []

    def paint(frame: Frame, composite: Composite):
        kept.append(frame)
        return (frame.rgb * 255).round().to(torch.uint8).numpy()

    return Subject(composite, lights, False, paint), kept


def drawn(stream_, steps=1000):
    for _ in range(steps):
        if not stream_.step():
            return
    raise AssertionError("it never rests")


def test_pictures_get_finer_and_bands_make_the_whole_picture(subject, monkeypatch):
    monkeypatch.setattr(stream, "BAND_PIXELS", 5000)
    what, frames = subject
    client, levels = Client(1), []
    made = Stream(lambda: what, 10.0, lambda client_id, level: levels.append(level))
    made.add(client)
    assert not made.at_rest
    drawn(made)
    assert levels == [0, 1, 2]
    assert made.at_rest
    sizes = [image.shape[0] * image.shape[1] for image, _ in client.pictures]
    assert sizes[0] < sizes[1] == sizes[2] == 320 * 240
    whole = render(
        what.composite,
        made.camera_of(1),
        lights=what.lights,
        config=RenderConfig(2, background=stream.BACKGROUND),
        progress=False,
    )
    for name in ("rgb", "depth", "normal", "owner", "alpha"):
        assert torch.equal(getattr(frames[2], name), getattr(whole, name)), name
    depth = client.pictures[2][1]["depth"]
    seen = (whole.owner >= 0).numpy()
    np.testing.assert_allclose(depth[seen], 10 * whole.depth.numpy()[seen], atol=1e-3)
    assert depth.max() <= 160


def test_what_is_overtaken_starts_again_and_the_coarse_come_first(subject):
    what, _ = subject
    first, second, order = Client(1, 640, 480), Client(2, 640, 480), []
    made = Stream(lambda: what, 1.0, lambda client_id, level: order.append((client_id, level)))
    made.add(first)
    made.step()
    made.step()  # a band of the full picture
    made.add(second)
    made.step()
    assert order == [(1, 0), (2, 0)]
    first.camera.position = np.array([0.0, -21.0, 2.0])
    made.look(first)
    made.step()
    assert order[-1] == (1, 0)
    made.look(first)  # it did not move
    drawn(made)
    assert order[-4:] in ([(2, 1), (1, 1), (2, 2), (1, 2)], [(1, 1), (2, 1), (1, 2), (2, 2)])
    made.drop(first)
    made.invalidate()
    drawn(made)
    assert {client_id for client_id, _ in order[-3:]} == {2}
