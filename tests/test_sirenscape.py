"""The thin package that holds all public names."""

import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest

import compose
import objects
import rendering
import scenes
import scenes.video
import sirenscape as ss

PACKAGES = (objects, compose, rendering, scenes, scenes.video)


def test_it_has_the_public_names_of_all_packages():
    assert sorted(name for package in PACKAGES for name in package.__all__) == dir(ss)
    for package in PACKAGES:
        for name in package.__all__:
            assert getattr(ss, name) is getattr(package, name)
    with pytest.raises(AttributeError, match="'sirenscape' has no attribute 'nothing'"):
        ss.nothing  # noqa: B018


def test_help_lists_them_by_topic():
    topics = dict(re.findall(r"^(\w.*) \(`[\w.]+`\):\n((?: {4}.*\n)+)", ss.__doc__, re.MULTILINE))
    assert topics["Scenes"].split() == [
        "SceneGraph",
        "Track",
        "load_scene",
        "save_scene",
        "SceneFileError",
        "export_scene",
        "view",
    ]
    assert sorted(name for names in topics.values() for name in names.split()) == dir(ss)
    assert pydoc.plain(pydoc.render_doc(ss)).count("\n") < 70


def test_importing_it_loads_none_of_the_libraries():
    code = "import sys, sirenscape; dir(sirenscape); print({'torch', 'numba', 'numpy', 'objects'} & set(sys.modules))"
    root = Path(__file__).resolve().parent.parent
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
