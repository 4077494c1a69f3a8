"""The command line: settings, help, errors, and what `fit` writes."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from objects import Aabb, FitConfig, PointsConfig, SirenField, load_field
from rendering import ViewsConfig
from scenes import cli, paths
from scenes.io.point_files import OrientedPoints, read_points

PATHS = [
    "a b.obj",
    "a;b",
    "a=b=c",
    "mesh(1).obj",
    "Tür ß.obj",
    "a,b.obj",
    "it's",
    'say "x"',
    "a\\b",
    "a\\",
    "\\'",
    "#1",
    "${x}",
]
PATHS += [
    "[1]",
    "{a: b}",
    "null",
    "true",
    "12",
    "1e3",
    "???",
    "a: b",
    "%",
    "~",
    "$HOME",
    "  x  ",
    "日本",
    "\\${x}",
    "-x",
    "*",
]


@pytest.fixture
def echo(tmp_path, monkeypatch):
    """A verb that gives its settings back; the returned function runs it."""
    folder = tmp_path / "configs of the test"
    folder.mkdir()
    (folder / "echo.yaml").write_text(
        "# Any text\n# at all.\ntext: null\n# Many.\nmany: []\ncount: 3\nsize: 0.5\nsmooth: false\nname: plain\nsummary: null\n"
    )
    seen = []

    def run(settings):
        """Give settings back."""
        seen.append(settings)
        return cli.Report([{"object": "duck", "bytes": 12345, "box": [0.5, 1.0, 2.25]}], "Next: nothing")

    monkeypatch.setattr(paths, "CONFIGS", folder)
    monkeypatch.setitem(cli.VERBS, "echo", run)
    return lambda *arguments: (cli.main(["echo", *arguments]), seen[-1] if seen else None)


def failure(capsys, *arguments) -> str:
    """The one line that a failing command prints."""
    assert cli.main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"sirenscape: [^\n]+\n", printed.err), printed.err
    return printed.err


# -- settings


@pytest.mark.parametrize("path", PATHS)
def test_a_path_arrives_as_it_was_typed(echo, path):
    assert echo(f"text={path}", f"many={path}", f"many={path}x")[1] == {
        "text": path,
        "many": [path, path + "x"],
        "count": 3,
        "size": 0.5,
        "smooth": False,
        "name": "plain",
    }


def _characters(alphabet):
    return st.text(alphabet, min_size=1).filter(lambda text: "${" not in text)


@settings(max_examples=15)
@given(st.lists(_characters(st.characters(codec="utf-8", exclude_categories=["Cc"])) | _characters("\\'\"$ ,[]=")))
def test_any_text_survives_quoting(texts):
    assert cli.read_settings("fit", [f"mesh={text}" for text in texts])["mesh"] == texts


def test_values_take_the_type_of_the_default(echo):
    code, got = echo("count=-12", "size=1e-4", "smooth=Yes", "name=12", "text=")
    assert code == 0
    assert got == {"text": None, "many": [], "count": -12, "size": 1e-4, "smooth": True, "name": "12"}
    assert [type(got[key]) for key in ("count", "size", "smooth", "name")] == [int, float, bool, str]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("count=2.5", "count: expected a whole number, got '2.5'"),
        ("count=", "count: expected a whole number, got ''"),
        ("size=big", "size: expected a number, got 'big'"),
        ("size=nan", "size: expected a number, got 'nan'"),
        ("smooth=perhaps", "smooth: expected true or false, got 'perhaps'"),
        ("cuont=1", "unknown key 'cuont' of echo; did you mean 'count'?"),
        ("--count=1", "unknown key '--count' of echo; did you mean 'count'?"),
        ("hydra.run.dir=x", "unknown key 'hydra.run.dir' of echo"),
        ("+count=1", "unknown key '+count' of echo; did you mean 'count'?"),
        ("count", "expected key=value, got 'count'"),
    ],
)
def test_a_wrong_argument_is_named(echo, capsys, argument, message):
    assert message in failure(capsys, "echo", argument)


def test_a_key_given_twice_is_refused_unless_it_takes_many(echo, capsys):
    assert "count: expected once, got 2 times" in failure(capsys, "echo", "count=1", "count=2")


# -- verbs, help, tables


def test_a_misspelt_verb_is_corrected(capsys):
    assert "unknown verb 'fti'; did you mean 'fit'?" in failure(capsys, "fti", "mesh=x")


def test_a_report_is_printed_and_kept_in_the_summary(echo, capsys, tmp_path):
    summary = tmp_path / "new folder" / "summary.json"
    assert echo("count=4", f"summary={summary}")[0] == 0
    head, row, seconds, next_step = capsys.readouterr().out.splitlines()
    assert head.split() == ["object", "bytes", "box"]
    assert row == "duck    12,345  0.5 x 1 x 2.25"
    assert re.fullmatch(r"\d+\.\d s", seconds)
    assert next_step == "Next: nothing"
    kept = json.loads(summary.read_text())
    assert kept["verb"] == "echo"
    assert kept["settings"]["count"] == 4
    assert kept["rows"] == [{"object": "duck", "bytes": 12345, "box": [0.5, 1.0, 2.25]}]


@pytest.mark.parametrize("arguments", [["fit", "--help"], ["help", "fit"], ["fit", "-h"]])
def test_help_of_a_verb_lists_every_key_with_default_and_meaning(capsys, arguments):
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    for key, value in yaml.safe_load((paths.CONFIGS / "fit.yaml").read_text()).items():
        (line,) = [line for line in lines if line.split()[:1] == [key]]
        words = line.split()
        assert value in (None, []) or words[1] == cli.shown(value)
        assert len(words) > 3, f"{key} has no meaning in configs/fit.yaml"


def test_the_general_help_says_a_whole_sentence_of_each_verb():
    lines = cli.general_help().splitlines()[3:-2]
    assert [line.split()[0] for line in lines] == list(cli.VERBS)
    assert all(line.endswith(".") and len(line) < 150 for line in lines)
    assert "; each becomes a field file." in lines[0]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("path: a.png cannot be written:\n no room", "out: a.png cannot be written: no room"),
        ("fit_sequence: expected 2 frames; fit_mesh learns one", "sequence: expected 2 frames; fit mesh= learns one"),
        ("meshes[1] 'b.obj': expected faces", "mesh 'b.obj': expected faces"),
        ("frames[2] 'b.obj': expected faces", "sequence: frame 2 'b.obj': expected faces"),
        ("paths: two of them", "paths: two of them"),
    ],
)
def test_messages_name_keys_and_not_arguments_of_functions(message, shown, echo, capsys, monkeypatch):
    assert cli.in_keys(message) == shown
    monkeypatch.setitem(cli.VERBS, "echo", lambda settings: (_ for _ in ()).throw(ValueError(message)))
    assert cli.main(["echo"]) == 2 and capsys.readouterr().err == f"sirenscape: {shown}\n"


def test_a_comment_of_several_lines_is_one_meaning(echo, capsys):
    assert cli.main(["help", "echo"]) == 0
    assert re.search(r"^text +Any text at all\.$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_its_configuration_and_every_configuration_its_verb(verb):
    assert {path.stem for path in paths.CONFIGS.glob("*.yaml")} == set(cli.VERBS)
    assert "summary" in paths.defaults_of(verb)
    assert cli.VERBS[verb].__doc__


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_without_a_verb_the_verbs_are_listed(capsys, arguments):
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^{verb} ", out, re.MULTILINE) for verb in cli.VERBS)


def test_the_version_is_that_of_the_distribution(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sirenscape ")


# -- errors


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("a: expected\n  b, got c"), 2, "sirenscape: a: expected b, got c\n"),
        (OSError(28, "No space left on device", "x.bin"), 2, "sirenscape: x.bin: No space left on device\n"),
        (MemoryError(), 2, f"sirenscape: {cli.OUT_OF_MEMORY}\n"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
            2,
            f"sirenscape: {cli.OUT_OF_MEMORY}\n",
        ),
        (KeyboardInterrupt(), 130, "sirenscape: stopped; the same command goes on where it was\n"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(monkeypatch, capsys, error, code, message):
    def run(settings):
        raise error

    monkeypatch.setitem(cli.VERBS, "fit", run)
    assert cli.main(["fit"]) == code
    assert capsys.readouterr().err == message


def test_a_warning_is_one_line_without_code(monkeypatch, capsys):
    def run(settings):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("a\n  thing", stacklevel=1)
        return cli.Report([])

    monkeypatch.setitem(cli.VERBS, "fit", run)
    assert cli.main(["fit"]) == 0
    assert capsys.readouterr().err == "sirenscape: note: a thing\n"


@pytest.mark.parametrize("error", [KeyError("bug"), RuntimeError("bug")])
def test_a_mistake_of_the_program_keeps_its_traceback(monkeypatch, error):
    def run(settings):
        raise error

    monkeypatch.setitem(cli.VERBS, "fit", run)
    with pytest.raises(type(error)):
        cli.main(["fit"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "mesh: expected one of mesh=FILE, points=FILE, images=FOLDER and sequence=FOLDER, got none of them"),
        (["mesh=duck.obj", "points=p.ply", "out=o.safetensors"], "got mesh, points"),
        (["mesh=", "out=o.safetensors"], "mesh: expected a file name, got nothing"),
        (["mesh=ducc.obj", "out=o.safetensors"], "mesh: no file 'ducc.obj'; did you mean 'Duck.obj'?"),
        (["mesh=meshs/a.obj", "out=o.safetensors"], "there is no folder 'meshs'; did you mean 'meshes'?"),
        (["mesh=meshes", "out=o.safetensors"], "mesh: expected a file, got the folder 'meshes'"),
        (["mesh=empty.obj", "out=o.safetensors"], "mesh: the file 'empty.obj' is empty"),
        (["Duck.obj", "out=o.safetensors"], "expected key=value, got 'Duck.obj'; did you mean mesh=Duck.obj?"),
        (["mesh=Duck.obj"], "out: expected out=FILE.safetensors"),
        (["mesh=Duck.obj", "out=duck.obj.txt"], "out: expected a name that ends in .safetensors"),
        (["mesh=Duck.obj", "out=Duck.obj/duck.safetensors"], "cannot make the folder 'Duck.obj'"),
        (["mesh=Duck.obj", "mesh=meshes/Goose.obj", "out=o.safetensors"], "out: expected a folder for 2 objects"),
        (["mesh=Duck.obj", "mesh=meshes/Duck.obj", "out=o/"], "two objects would both be written"),
        (["mesh=Duck.obj", "init=no.safetensors", "out=o.safetensors"], "init: no file 'no.safetensors'"),
        (["mesh=Duck.obj", "init=f.safetensors", "out=./f.safetensors"], "out: 'f.safetensors' is also an input"),
        (["mesh=Duck.obj", "out=o.safetensors", "summary=Duck.obj"], "summary: 'Duck.obj' is also mesh="),
        (["mesh=Duck.obj", "out=o.safetensors", "summary=meshes"], "summary: expected a file name, got the folder"),
    ],
)
def test_fit_refuses_files_that_cannot_be_right(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("meshes").mkdir()
    for name in ("Duck.obj", "meshes/Duck.obj", "meshes/Goose.obj", "f.safetensors"):
        Path(name).write_text("something")
    Path("empty.obj").touch()
    assert message in failure(capsys, "fit", *arguments)
    assert Path("Duck.obj").read_text() == Path("f.safetensors").read_text() == "something"
    assert sorted(entry.name for entry in Path().iterdir()) == ["Duck.obj", "empty.obj", "f.safetensors", "meshes"]


# -- fit


def test_fit_writes_fields_that_hold_the_meshes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trimesh.creation.icosphere(3, 0.5).export("Kugel ä,b;c=(1).ply")
    trimesh.creation.capsule(1.0, 0.4).export("capsule.stl")
    small = [
        "steps=300",
        "width=32",
        "layers=2",
        "omega_first=10",
        "omega_hidden=10",
        "color_width=8",
        "color_layers=1",
    ]
    meshes = ["mesh=Kugel ä,b;c=(1).ply", "mesh=capsule.stl"]
    assert cli.main(["fit", *meshes, "out=fields/", "summary=s.json", *small]) == 0
    head, *_ = capsys.readouterr().out.splitlines()
    assert head.replace("error ", "").split() == [
        "object", "parameters", "bytes", "box", "distance", "%", "normal", "deg", "file",
    ]  # fmt: skip
    rows = json.loads(Path("s.json").read_text())["rows"]
    assert [row["file"] for row in rows] == ["fields/Kugel ä,b;c=(1).safetensors", "fields/capsule.safetensors"]
    for row in rows:
        assert row["bytes"] == Path(row["file"]).stat().st_size
    ball = load_field(rows[0]["file"])
    assert rows[0]["distance error %"] == ball.measured["distance_pct"] > 0
    p = 0.5 * torch.nn.functional.normalize(torch.randn(500, 3), dim=1)
    assert float(ball.sdf(0.8 * p).max()) < 0 < float(ball.sdf(1.2 * p).min())

    # One mesh to a named file, the same bits; then a start from it.
    assert cli.main(["fit", meshes[0], "out=ball.safetensors", *small]) == 0
    assert Path("ball.safetensors").read_bytes() == Path(rows[0]["file"]).read_bytes()
    assert cli.main(["fit", meshes[0], "out=warm.safetensors", "init=ball.safetensors", "warm_steps=20", *small]) == 0
    assert Path("warm.safetensors").read_bytes() != Path("ball.safetensors").read_bytes()
    capsys.readouterr()
    message = failure(capsys, "fit", meshes[0], "out=x.safetensors", "init=ball.safetensors")
    assert "init: expected a field with the make-up of config" in message
    assert "too few steps" in failure(capsys, "fit", meshes[0], "out=x.safetensors", "steps=1", *small[1:])
    assert not Path("x.safetensors").exists()


@pytest.mark.parametrize(
    "argument", ["steps=0", "width=0", "layers=-1", "omega_first=0", "seed=-1", "seed=9223372036854775808"]
)
def test_fit_names_a_number_out_of_range(tmp_path, monkeypatch, capsys, argument):
    monkeypatch.chdir(tmp_path)
    trimesh.creation.box().export("box.stl")
    message = failure(capsys, "fit", "mesh=box.stl", "out=new/o.safetensors", argument)
    assert re.search(rf"{argument.split('=')[0]}: expected .*, got {argument.split('=')[1]}", message)
    assert not Path("new").exists()


@pytest.mark.parametrize("content", ["hello", "v 0 0 0\nv 1 0 0\nv 0 1 0\n", "v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"])
def test_fit_refuses_a_bad_mesh_in_one_line(tmp_path, monkeypatch, capsys, content):
    monkeypatch.chdir(tmp_path)
    Path("bad.obj").write_text(content)
    assert "bad.obj" in failure(capsys, "fit", "mesh=bad.obj", "out=o.safetensors")
    assert not Path("o.safetensors").exists()


def test_the_defaults_of_fit_are_those_of_the_library():
    defaults = paths.defaults_of("fit")
    assert FitConfig.of(defaults["quality"]) == FitConfig()
    unset = ("steps", "warm_steps", "width", "layers")  # what suits is taken
    assert [defaults[key] for key in unset] == [None] * 4
    for config, names in ((FitConfig(), {}), (PointsConfig(), {"steps": "point_steps"})):
        shaping = [
            key for key in defaults if "_width" in key or "_layers" in key or "_omega" in key or key == "omega_hidden"
        ]
        networks = {key: key for key in shaping if not key.startswith("image_")}
        assert {key: defaults[name] for key, name in (networks | names).items()} == {
            key: getattr(config, key) for key in networks | names
        }
    for verb in ("fit", "build"):
        defaults, pictures = paths.defaults_of(verb), ViewsConfig()
        assert (defaults["image_steps"], defaults["image_width"]) == (pictures.steps, pictures.width)


# -- point clouds


@pytest.fixture
def cloud():
    p = torch.nn.functional.normalize(torch.randn(40, 3), dim=1)
    return OrientedPoints(2 * p, p, torch.randint(256, (40, 3)) / 255)


def write_ply(path: str, cloud: OrientedPoints, *, binary: bool, without: str = "") -> None:
    names = [name for name in ("x", "y", "z", "nx", "ny", "nz", "red", "green", "blue") if name not in without.split()]
    types = {name: "u1" if name in ("red", "green", "blue") else "<f4" for name in names}
    rows = np.zeros(len(cloud.points), list(types.items()))
    for group, values in zip((("x", "y", "z"), ("nx", "ny", "nz"), ("red", "green", "blue")), cloud, strict=True):
        for i, name in enumerate(group):
            if name in names:
                rows[name] = (values[:, i] * (255 if name in ("red", "green", "blue") else 1)).round(decimals=5)
    head = ["ply", f"format {'binary_little_endian' if binary else 'ascii'} 1.0", f"element vertex {len(rows)}"]
    head += [f"property {'uchar' if types[name] == 'u1' else 'float'} {name}" for name in names] + ["end_header", ""]
    body = rows.tobytes() if binary else "\n".join(" ".join(map(str, row)) for row in rows.tolist()).encode() + b"\n"
    Path(path).write_bytes("\n".join(head).encode() + body)


@pytest.mark.parametrize("binary", [True, False])
def test_points_normals_and_colours_are_read(tmp_path, cloud, binary):
    write_ply(str(tmp_path / "p.ply"), cloud, binary=binary)
    for got, expected in zip(read_points(tmp_path / "p.ply"), cloud, strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=0, check_dtype=False)
    write_ply(str(tmp_path / "p.ply"), cloud, binary=binary, without="red")
    assert read_points(tmp_path / "p.ply").colors is None


def test_points_without_normals_or_structure_are_refused(tmp_path, monkeypatch, capsys, cloud):
    monkeypatch.chdir(tmp_path)
    write_ply("p.ply", cloud, binary=True, without="nx nz")
    assert "'p.ply' has no nx nz" in failure(capsys, "fit", "points=p.ply", "out=o.safetensors")
    for content in (b"not a ply", b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nend_header\n1\n"):
        Path("p.ply").write_bytes(content)
        assert "'p.ply'" in failure(capsys, "fit", "points=p.ply", "out=o.safetensors")


def test_fit_hands_points_and_settings_to_the_library(tmp_path, monkeypatch, cloud):
    monkeypatch.chdir(tmp_path)
    write_ply("p.ply", cloud, binary=True)
    calls = []

    def fit_points(*arguments, **keywords):
        calls.append((arguments, keywords))
        return SirenField(Aabb(-torch.ones(3), torch.ones(3)), width=4, layers=1)

    monkeypatch.setattr("objects.fit_points", fit_points)
    assert cli.main(["fit", "points=p.ply", "out=o.safetensors", "seed=3", "point_steps=7", "color_width=9"]) == 0
    ((arguments, keywords),) = calls
    torch.testing.assert_close(arguments[1], cloud.normals, atol=2e-5, rtol=0)
    assert keywords == {"seed": 3, "config": PointsConfig(steps=7, color_width=9)}
    assert load_field("o.safetensors").bounds.size.tolist() == [2, 2, 2]


def test_looking_at_a_scene_loads_none_of_the_libraries_of_learning():
    code = """
import sys
from scenes.paths import preload
preload("scenes.io.scene_folder", "scenes.pictures", "scenes.checks")
import gc
names = {"scipy.ndimage", "scipy.spatial", "trimesh", "igl", "skimage", "pygltflib", "manifold3d"}
print(gc.isenabled(), sorted(names & sys.modules.keys()))
"""
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "[]"]
