"""A real browser on a viewer: Debian's Chromium by Playwright, without a window."""

import shutil
import time
from contextlib import contextmanager

import pytest

from scenes import view

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
MISSING = None if CHROMIUM else "no Chromium browser (Debian: apt install chromium)"
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
WAIT_S = 60.0


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
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(viewer.url)
        page.wait_for_selector(".ss-tree")

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
        self.page.click(f".ss-bar [data-do={action}]")

    def pixel(self, x, y):
        from io import BytesIO

        from PIL import Image

        shot = self.page.screenshot(clip={"x": x, "y": y, "width": 1, "height": 1})
        return Image.open(BytesIO(shot)).convert("RGB").getpixel((0, 0))


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
