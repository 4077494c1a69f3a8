"""The layout of the project: who imports whom, where a library may be used, how large things are, that configurations are plain."""

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Set
from pathlib import Path

import networkx
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ["objects", "compose", "rendering", "scenes", "sirenscape"]
SOURCES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
PROGRAMS = sorted(path for folder in ("benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# The distribution that an import comes from, where the names differ.
DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "hydra": "hydra-core",
    "igl": "libigl",
    "skimage": "scikit-image",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "pxr": "usd-core",
}
# Imports that come along with a dependency which is nothing without them.
BROUGHT_ALONG = {"omegaconf": "hydra-core", "OpenGL": "pyrender"}


@functools.cache
def imported_modules(source: str) -> frozenset[str]:
    """Full names of all modules that a source imports anywhere, and of what it takes out of them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


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
        for extra in ("scatter", "demo", "bench", "usd", "view")
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


# -- how modules hang together -----------------------------------------------------------------------------------------

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [*SOURCES, *PROGRAMS]
}
TESTS = sorted((ROOT / "tests").rglob("*.py"))
# What named tuples, `os` and torch offer under such names is public, or has no other.
PUBLIC = {"_replace", "_asdict", "_fields", "_make", "_exit", "_version", "_pytree"}


def executed_imports(source: str) -> frozenset[str]:
    """`imported_modules` without those for type checkers alone."""

    class Runs(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
            return node.orelse if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)

    return imported_modules(ast.unparse(Runs().visit(ast.parse(source))))


def circles(imports: dict[str, Set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, at the top or inside functions."""
    graph = networkx.DiGraph([(name, other) for name, others in imports.items() for other in others & set(imports)])
    return sorted(sorted(group) for group in networkx.strongly_connected_components(graph) if len(group) > 1)


def private_names(source: str) -> set[str]:
    """Private names that are imported, or asked of something, and that the source doesn't define."""
    tree = ast.parse(source)
    own: set[str] = set()
    asked: set[str] = set()
    taken: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # slots, buffers, object.__setattr__
            own.add(node.value)
        elif isinstance(node, ast.Attribute):
            on_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            (own if on_self and isinstance(node.ctx, ast.Store) else asked).add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            taken.update(alias.name for alias in node.names)
    private = re.compile(r"_(?!_).*")
    return {name for name in taken | (asked - own - PUBLIC) if private.fullmatch(name)}


def too_large(source: str) -> set[str]:
    """``file``, and functions with more than 80 lines or 10 arguments that numba doesn't compile."""
    found = {"file"} if source.count("\n") > 500 else set()

    def walk(node: ast.AST, inside: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = inside
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                if any(re.search(r"\b(numba|inlined|intrinsic)\b", ast.unparse(d)) for d in child.decorator_list):
                    continue
                name = f"{inside}.{child.name}".lstrip(".")
            if isinstance(child, ast.FunctionDef):
                arguments = [*child.args.posonlyargs, *child.args.args, *child.args.kwonlyargs]
                lines = (child.end_lineno or 0) - child.lineno + 1
                if lines > 80 or len([a for a in arguments if a.arg not in ("self", "cls")]) > 10:
                    found.add(name)
            walk(child, name)

    walk(ast.parse(source), "")
    return found


def offences(check: Callable[[str], set[str]], paths: Iterable[Path]) -> set[str]:
    return {
        f"{path.relative_to(ROOT).as_posix()}: {what}"
        for path in paths
        for what in check(path.read_text(encoding="utf-8"))
    }


def test_no_module_imports_itself_through_others():
    found = circles({name: executed_imports(path.read_text(encoding="utf-8")) for name, path in MODULES.items()})
    assert found == []


def test_no_module_uses_a_private_name_of_another():
    found = offences(private_names, [*SOURCES, *PROGRAMS, *TESTS])
    assert found == set()


def test_no_file_or_function_is_too_large():
    found = offences(too_large, [*SOURCES, *PROGRAMS])
    assert found == set()


def test_the_checks_of_structure_see_what_they_should():
    hidden = "if TYPE_CHECKING:\n    import a.d\ndef f():\n    from a import b\n"
    assert circles({"a": set(), "a.b": {"a.c"}, "a.c": executed_imports(hidden), "a.d": {"a.c"}}) == [["a.b", "a.c"]]
    assert private_names("from a import _x, y\nimport b\nb._z + y._replace(a=1).__dict__") == {"_x", "_z"}
    assert private_names("class A:\n    def f(self, a):\n        self._x = a._x\n        return self._f()\n") == {"_f"}
    many = ", ".join(f"a{i}" for i in range(11))
    assert too_large(f"class A:\n    def f(self, {many}): ...\n@numba.njit\ndef g({many}): ...\n") == {"A.f"}
    assert too_large("def f():\n" + 80 * "    g()\n" + 420 * "\n") == {"file", "f"}
