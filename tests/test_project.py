"""The layout of the project: who imports whom, where a library may be used, that every configuration can be read."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ["objects", "compose", "rendering", "scenes", "sirenscape"]
SOURCES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# The distribution that an import comes from, where the names differ.
DISTRIBUTIONS = {"hydra": "hydra-core", "igl": "libigl", "skimage": "scikit-image", "PIL": "pillow", "yaml": "pyyaml"}
# Imports that come along with a dependency which is nothing without them.
BROUGHT_ALONG = {"omegaconf": "hydra-core", "OpenGL": "pyrender"}


def imported_modules(source: str) -> set[str]:
    """Full names of all modules that a source imports anywhere, and of what it takes out of them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def users_of(library: str) -> list[str]:
    """Source files that import a library."""
    return [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if any(name.split(".")[0] == library for name in imported_modules(path.read_text(encoding="utf-8")))
    ]


def layer_breaches(layer: str, source: str) -> list[str]:
    """Imports of a layer that stands above or beside the package."""
    above = {*LAYERS[LAYERS.index(layer) + 1 :], "tests", "benchmarks", "examples"}
    return sorted(name for name in imported_modules(source) if name.split(".")[0] in above)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_layer_imports_only_those_below_it(path):
    assert layer_breaches(path.relative_to(ROOT).parts[0], path.read_text(encoding="utf-8")) == []


def test_the_layer_check_sees_imports_inside_functions_and_of_names():
    assert layer_breaches("objects", "def f():\n    from scenes.cli import main\n") == ["scenes.cli", "scenes.cli.main"]
    assert layer_breaches("compose", "import objects.pose, rendering.camera as c") == ["rendering.camera"]
    assert layer_breaches("scenes", "from rendering import render") == []


def test_hydra_is_imported_only_by_the_command_line():
    assert users_of("hydra") == ["scenes/cli.py"]
    assert set(users_of("omegaconf")) <= {"scenes/cli.py"}


def test_pyrender_is_imported_only_by_the_rasteriser():
    assert set(users_of("pyrender")) <= {"rendering/rasterize.py"}


def test_torch_scatter_is_imported_only_by_the_segments():
    assert set(users_of("torch_scatter")) <= {"compose/segments.py"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_that_is_read_from_a_file_can_be_executed(path):
    source = path.read_text(encoding="utf-8")
    roots = {name.split(".")[0] for name in imported_modules(source)}
    assert not roots & {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
    assert not calls & {"torch.load", "torch.save", "eval", "exec", "yaml.load", "yaml.unsafe_load", "hydra.main"}
    assert "allow_pickle=True" not in source


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_configuration_is_plain_values(path):
    def check(values):
        assert isinstance(values, dict)
        assert values
        for key, value in values.items():
            assert re.fullmatch(r"[a-z][a-z0-9_]*", key)
            if isinstance(value, dict):
                check(value)
            else:
                assert value is None or value == [] or isinstance(value, bool | int | float | str)

    check(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_every_import_of_the_packages_is_a_declared_dependency():
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    optional = {
        canonicalize_name(Requirement(line).name)
        for extra in ("scatter", "demo", "bench")
        for line in PROJECT["optional-dependencies"][extra]
    }
    used = {name.split(".")[0] for path in SOURCES for name in imported_modules(path.read_text(encoding="utf-8"))}
    third_party = used - set(sys.stdlib_module_names) - set(LAYERS) - {"configs"}
    distributions = {
        canonicalize_name(BROUGHT_ALONG.get(name) or DISTRIBUTIONS.get(name) or name) for name in third_party
    }
    assert distributions - declared - optional == set()


def test_every_dependency_is_pinned_in_the_constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, equals, number = line.partition("==")
            assert equals, line
            pinned[canonicalize_name(name)] = number
    wanted = [
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert name in pinned, name
        assert requirement.specifier.contains(pinned[name]), requirement
