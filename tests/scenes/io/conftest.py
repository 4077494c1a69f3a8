"""Fixtures of several tests of files."""

import pytest

from tests.scenes.io.glb_files import Maker


@pytest.fixture
def maker():
    return Maker()
