"""A real browser on a viewer: Debian's Chromium by Playwright, without a window."""

import shutil
import time
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from scenes import view

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
MISSING = None if CHROMIUM else "no Chromium browser (Debian: apt install chromium)"
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
WAIT_S = 240.0  # on a machine that is new to it, kernels are compiled before the first picture


@pytest.fixture(scope="module")
def chromium():
    if MISSING:
        pytest.skip(MISSING)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Page:
    """One browser window on a viewer, and what went wrong in it."""

    def __init__(self, page, viewer):
        self.page, self.viewer, self.errors, self.requests = page, viewer, [], []
        page.set_default_timeout(1000 * WAIT_S)
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(viewer.url)
        page.wait_for_selector(".ss-tree")

    def _note(self, kind, text):
        # viser's own page says this when a node is dragged; nothing follows from it.
        if kind == "error" and "preventDefault inside passive event listener" not in text:
            self.errors.append(text)

    def until(self, question, what):
        """Waits for something to come true."""
        end = time.monotonic() + WAIT_S
        while not (found := question()):
            assert time.monotonic() < end, f"waited {WAIT_S:g} s for {what}"
            self.page.wait_for_timeout(50)
        return found

    def rest(self):
        """Waits until the finest picture is drawn, here and on the page."""
        self.until(lambda: self.viewer.at_rest and self.viewer.figures.pictures, "the picture")
        self.page.wait_for_timeout(400)

    def row(self, name):
        return self.page.locator(".ss-row", has=self.page.get_by_text(name, exact=True))

    def press(self, action):
        button = self.page.locator(f".ss-bar [data-do={action}]:not([disabled])")
        button.dispatch_event("click")  # a busy machine draws too seldom for the patience of click()

    def field(self, label):
        """The input fields beside a label."""
        return self.page.locator(".mantine-Flex-root", has=self.page.get_by_text(label, exact=True)).last.locator(
            "input:visible"
        )

    def picture(self, **clip):
        return np.asarray(Image.open(BytesIO(self.page.screenshot(**clip))).convert("RGB")).astype(int)

    def pixel(self, x, y):
        return tuple(self.picture(clip={"x": x, "y": y, "width": 1, "height": 1})[0, 0].tolist())

    def knob(self):
        """Where the violet knob of the gizmo is; None where it isn't seen."""
        red, green, blue = np.moveaxis(self.picture(), -1, 0)
        rows, columns = ((blue - green > 80) & (red - green > 25) & (blue - red > 40)).nonzero()
        return None if len(rows) < 20 else (float(np.median(columns)), float(np.median(rows)))


@contextmanager
def opened(chromium, scene, width=960, height=480, **options):
    """A viewer of a scene, and a page on it."""
    with view(scene, port=0, **options) as viewer:
        context = chromium.new_context(viewport={"width": width, "height": height})
        page = Page(context.new_page(), viewer)
        try:
            yield page
        finally:
            context.close()
