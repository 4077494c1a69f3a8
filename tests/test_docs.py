"""What the documentation shows can be done, and pages that are made from the code hold what it says."""

import importlib.util
import re
import runpy
import shlex
from pathlib import Path

import pytest
import trimesh

import objects
from objects import FitConfig, PointsConfig
from scenes import cli, script
from scenes.io.description import read_description

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/guides").glob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
# A block after this line takes long, or needs data that the page doesn't make.
NOT_RUN = "<!-- not run by the tests -->\n"


def blocks(text, language):
    found = re.findall(rf"(<!--[^\n]*-->\n)?```{language}\n(.*?)```", text, re.DOTALL)
    return [code for mark, code in found if mark != NOT_RUN]


def commands(text):
    """The words after ``sirenscape`` in each line of shell."""
    lines = re.findall(r"^    sirenscape (.*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def generated():
    """The module that makes pages from the code."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs/pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with the meshes that the pages name; what is learned there is learned shortly."""
    monkeypatch.chdir(tmp_path)
    for name in ("mug.obj", "bowl.ply", "table.obj"):
        trimesh.creation.icosphere(2, 0.05).export(name)
    small = {"width": 16, "layers": 2, "color_width": 8, "pool": 4096, "batch": 1024, "steps": 60, "omega_first": 8.0}
    quick = FitConfig(**small, surface_pool=4096, color_parts=1, color_samples=2048, mend_rounds=0, spread=1.0)
    learn, learn_points = objects.fit_meshes, objects.fit_points
    monkeypatch.setattr(objects, "fit_meshes", lambda meshes: learn(meshes, config=quick))
    monkeypatch.setattr(objects, "fit_mesh", lambda mesh, config=None: learn([mesh], config=quick)[0])
    monkeypatch.setattr(objects, "fit_points", lambda *points: learn_points(*points, config=PointsConfig(**small)))
    return tmp_path


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if blocks(text, "python")])
@pytest.mark.filterwarnings("ignore:.*draft")
def test_the_code_of_a_page_runs(page, files):
    code = "\n".join(blocks(TEXTS[page], "python")).replace("640, 480", "80, 60")
    (files / "page.py").write_text(code, encoding="utf-8")
    names = runpy.run_path(str(files / "page.py"))
    if "twist" in names:  # the page says so
        left = names["true"].inverse() @ names["pose"]
        assert left.translation.norm() < 1e-3
        assert left.log()[3:].rad2deg().norm() < 1


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if blocks(text, "yaml")])
def test_the_description_of_a_page_is_one(page, files):
    for text in blocks(TEXTS[page], "yaml"):
        (files / "room.yaml").write_text(text, encoding="utf-8")
        assert len(read_description("room.yaml")) > 2


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if commands(text)])
def test_the_commands_of_a_page_have_keys_and_statements_that_there_are(page):
    for verb, *arguments in commands(TEXTS[page]):
        if verb in cli.VERBS:
            edits = script.statements(cli.read_settings(verb, arguments).get("do") or "")
            assert {words[0] for words in edits} <= set(script.VERBS)
        else:
            assert (verb, arguments) == ("VERB", ["--help"])


def test_what_the_readme_links_to_is_there():
    links = re.findall(r"\]\(([^)#]+)", TEXTS["README.md"])
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_page_of_the_command_line_has_every_verb_key_and_statement(generated):
    page = generated.command_line().replace(r"\|", "|")
    for verb in cli.VERBS:
        assert f"\n## {verb}\n" in page
        assert [row["key"] for row in cli.keys_of(verb) if f"| `{row['key']}` | " not in page] == []
    assert [row["statement"] for row in cli.statements() if f"| `{row['statement']}` | " not in page] == []


def test_the_check_of_pages_finds_what_they_would_load_from_the_network(generated):
    page = """<a href="https://a.org/page">a link may be followed</a> <script src="local.js"></script>
    <link rel="stylesheet" href="//b.org/x.css"><img alt="" src='http://c.org/y.png'>
    <style>@import "https://d.org/z.css"; p { background: url(https://e.org/p.png) } q { src: url("font.woff2") }</style>"""
    assert generated.remote_resources(page) == [
        "//b.org/x.css",
        "http://c.org/y.png",
        "https://e.org/p.png",
        "https://d.org/z.css",
    ]
