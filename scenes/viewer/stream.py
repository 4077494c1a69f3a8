"""Pictures for browsers: a coarse one at once while anything moves, finer ones when it rests.

Each browser has a camera of its own. A picture is drawn in bands of rows, so that an edit or another view waits for a band and
not for a picture; one that was overtaken is dropped.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields

import numpy as np
import torch
import viser

from compose.composite import Composite
from objects.pose import SE3
from rendering import Camera, Frame, Light, RenderConfig, render

BACKGROUND = (0.955, 0.96, 0.97)
DRAFT_S = 0.07  # what a coarse picture may take
DRAFT_PIXELS = (6_000, 100_000)  # fewest and most of it
FULL_PIXELS = 260_000  # of the picture that follows it
FINE_PIXELS = 1_600_000  # most of the last one
BAND_PIXELS = 24_000
_MARGIN = 2  # rows around a band that it is drawn with, so that edges are found as in a whole picture
_FAR = 160.0  # viser's depth ends at 167


@dataclass(frozen=True, eq=False)
class Subject:
    """What is drawn: a scene at one time, lit, as a layer."""

    composite: Composite
    lights: tuple[Light, ...]
    canonical: bool
    paint: Callable[[Frame, Composite], np.ndarray]  # to bytes [h w 3]


@dataclass
class Figures:
    """What the last pictures took."""

    draft_s: float = 0.0
    full_s: float = 0.0
    evaluations: int = 0
    pixels: int = 0
    pictures: int = 0


@dataclass(eq=False)
class _View:
    """One browser."""

    client: viser.ClientHandle
    camera: tuple | None = None  # orientation, position, fov, width, height in the browser
    level: int = 0  # of the picture that is drawn: coarse, full, fine; beyond: at rest
    bands: list[Frame] = field(default_factory=list)
    row: int = 0
    began: float = 0.0
    touched: float = 0.0


class Stream:
    """All browsers and the pictures that they see.

    Args:
        subject: What is to be drawn now.
        unit: Lengths in the browser are the world's times this.
        drawn: Told after each picture: for which browser, and how fine it is (0 coarse, 1 full, 2 fine).
    """

    def __init__(self, subject: Callable[[], Subject], unit: float, drawn: Callable[[int, int], None]) -> None:
        self._subject, self._unit, self._drawn = subject, unit, drawn
        self._views: dict[int, _View] = {}
        self._rate = DRAFT_PIXELS[0] / DRAFT_S  # pixels a second, as measured
        self.figures = Figures()

    # -- what happens --------------------------------------------------------------------------------------------------

    def add(self, client: viser.ClientHandle) -> None:
        self._views[client.client_id] = _View(client)
        self.look(client)

    def drop(self, client: viser.ClientHandle) -> None:
        self._views.pop(client.client_id, None)

    def look(self, client: viser.ClientHandle) -> None:
        """A browser's camera moved."""
        view = self._views.get(client.client_id)
        if view is None:
            return
        state = client.camera
        camera = (
            tuple(map(float, state.wxyz)),
            tuple(map(float, state.position)),
            float(state.fov),
            int(state.image_width),
            int(state.image_height),
        )
        if camera != view.camera:
            view.camera = camera
            self._restart(view)

    def invalidate(self) -> None:
        """What is to be drawn changed."""
        for view in self._views.values():
            self._restart(view)

    def camera_of(self, client_id: int) -> Camera | None:
        """The camera of a browser, world, in its own pixels."""
        view = self._views.get(client_id)
        return None if view is None or view.camera is None else self._camera(view.camera, math.inf)

    @property
    def at_rest(self) -> bool:
        """Whether every browser has its finest picture."""
        return all(view.level > 2 or view.camera is None for view in self._views.values())

    def _restart(self, view: _View) -> None:
        view.level, view.bands, view.touched = 0, [], time.perf_counter()

    # -- drawing -------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Draws the next band, of the coarsest picture that is waited for; False if there is none."""
        waiting = [view for view in self._views.values() if view.level <= 2 and view.camera is not None]
        if not waiting:
            return False
        view = min(waiting, key=lambda v: (v.level, v.touched))
        subject = self._subject()
        camera, config = self._asked(view, subject)
        if not view.bands:
            view.row, view.began = 0, time.perf_counter()
        rows = camera.height if view.level == 0 else max(8, BAND_PIXELS // camera.width)
        end = min(view.row + rows, camera.height)
        view.bands.append(_band(subject, camera, config, view.row, end))
        view.row = end
        if end == camera.height:
            self._finish(view, subject, camera)
        return True

    def _asked(self, view: _View, subject: Subject) -> tuple[Camera, RenderConfig]:
        """The camera and the settings of the picture at a view's level."""
        if view.camera is None:
            raise ValueError("a browser without a camera")
        rest = view.level == 2
        draft = min(max(DRAFT_PIXELS[0], self._rate * DRAFT_S), DRAFT_PIXELS[1])
        most = (draft, FULL_PIXELS, FINE_PIXELS)[view.level]
        config = RenderConfig(
            antialias=2 if rest else 1, shadows=view.level > 0, background=BACKGROUND, canonical=subject.canonical
        )
        return self._camera(view.camera, most), config

    def _camera(self, state: tuple, most_pixels: float) -> Camera:
        wxyz, position, fov, width, height = state
        shrink = min(1.0, math.sqrt(most_pixels / (width * height)))
        w, h = max(round(shrink * width), 16), max(round(shrink * height), 16)
        focal = 0.5 * h / math.tan(0.5 * fov)
        place = SE3(torch.tensor(wxyz, dtype=torch.float64), torch.tensor(position, dtype=torch.float64) / self._unit)
        return Camera(place, focal, focal, 0.5 * w, 0.5 * h, w, h)

    def _finish(self, view: _View, subject: Subject, camera: Camera) -> None:
        frame = joined(view.bands)
        seconds = time.perf_counter() - view.began
        pixels = camera.width * camera.height
        figures = self.figures
        figures.pixels, figures.pictures = pixels, figures.pictures + 1
        if view.level == 0:
            self._rate += 0.3 * (pixels / max(seconds, 1e-4) - self._rate)
            figures.draft_s = seconds
        elif view.level == 1:
            figures.full_s = seconds
        depth = np.minimum(self._unit * frame.depth.numpy(), _FAR)
        picture = subject.paint(frame, subject.composite)
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Queued a .* on a closed connection"
            )  # the browser may have gone meanwhile
            view.client.scene.set_background_image(
                picture,
                format="jpeg",
                jpeg_quality=(85, 90, 95)[view.level],
                depth=np.round(depth, 3),  # what is rounded is packed into half the bytes
            )
        view.client.flush()
        level, view.bands = view.level, []
        view.level += 1
        self._drawn(view.client.client_id, level)


def _band(subject: Subject, camera: Camera, config: RenderConfig, start: int, end: int) -> Frame:
    """Some rows of a picture, as they are in the whole of it."""
    first, last = max(start - _MARGIN, 0), min(end + _MARGIN, camera.height)
    part = Camera(camera.T_world_cam, camera.fx, camera.fy, camera.cx, camera.cy - first, camera.width, last - first)
    frame = render(subject.composite, part, lights=subject.lights, config=config, progress=False)
    rows = slice(start - first, end - first)
    return Frame(*(getattr(frame, f.name)[rows] for f in fields(Frame)))


def joined(bands: list[Frame]) -> Frame:
    """One picture of bands of rows."""
    return (
        bands[0] if len(bands) == 1 else Frame(*(torch.cat([getattr(b, f.name) for b in bands]) for f in fields(Frame)))
    )
