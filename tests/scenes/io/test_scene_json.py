"""Scene files that are damaged, hostile or of another version."""

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from objects import Aabb, Box, SirenField, Sphere
from objects.files import is_unread
from scenes import SceneFileError, SceneGraph, load_scene, save_scene
from scenes.io.scene_folder import locked
from tests.scenes.helpers import at
from tests.scenes.io.folders import changed, mixed_graph, node, texts


@pytest.fixture
def graph() -> SceneGraph:
    return mixed_graph()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(version=4), "newer than this program"),
        (lambda d: d.update(version=0), "version of 1 or more"),
        (lambda d: d.update(version="1"), "Expected `int`"),
        (lambda d: d.update(format="other"), "expected the format"),
        (lambda d: d.update(extra=1), "unknown field `extra`"),
        (lambda d: d.pop("nodes"), "missing required field `nodes`"),
        (lambda d: node(d, "ball").update(colour="red"), "unknown field `colour`"),
        (lambda d: node(d, "ball").update(name="a/b"), "name"),
        (lambda d: node(d, "ball").update(name="table"), "used twice"),
        (lambda d: node(d, "ball").update(id=node(d, "table")["id"]), "got one twice"),
        (lambda d: node(d, "ball").update(id=0), "node 3, which isn't there"),
        (lambda d: node(d, "ball").update(id=-4), ">= 0"),
        (lambda d: node(d, "ball").update(held=[]), "holds one after the other"),
        (lambda d: node(d, "ball")["held"][0].update(under=999), "isn't there"),
        (lambda d: node(d, "ball")["held"][0].update({"from": 1.0}), "the first without a start"),
        (lambda d: node(d, "ball")["held"][0].update(scale=0), "above 0"),
        (lambda d: node(d, "ball")["held"][0].update(scale=-1), "above 0"),
        (lambda d: node(d, "ball")["held"][0]["keys"].reverse(), "times must increase"),
        (lambda d: node(d, "ball")["held"][0]["keys"][0].update(rotation=[0, 0, 0, 0]), "of a length"),
        (lambda d: node(d, "ball")["held"][0].update(end="bounce"), "Invalid enum value 'bounce'"),
        (lambda d: node(d, "table")["held"][0].update(position=[1, 2]), "length 3"),
        (lambda d: node(d, "table")["held"][0].update(under=node(d, "mug")["id"]), "hangs under itself"),
        (lambda d: node(d, "table")["held"][0].update(under=node(d, "table")["id"]), "hangs under itself"),
        (lambda d: node(d, "table").update(field="../../etc/passwd"), "matching regex"),
        (lambda d: node(d, "table").update(field="0" * 64), "is missing"),
        (lambda d: node(d, "sun")["light"].update(kind="laser"), "Invalid value 'laser'"),
        (lambda d: node(d, "sun")["light"].update(color=[2, 0, 0]), "0..1"),
        (lambda d: node(d, "eye")["camera"].update(width=0), "width"),
        (lambda d: node(d, "eye")["camera"].update(fx=-1), "fx"),
        (lambda d: node(d, "table").update(tags=[""]), "tags"),
    ],
)  # fmt: skip
def test_a_record_that_makes_no_sense_is_refused_in_one_line(graph, tmp_path, change, message):
    save_scene(graph, tmp_path / "a.scene")
    changed(tmp_path / "a.scene", change)
    before = texts(tmp_path / "a.scene")
    with pytest.raises(SceneFileError, match=message) as error:
        load_scene(tmp_path / "a.scene")
    assert "\n" not in str(error.value)
    assert texts(tmp_path / "a.scene") == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("{", "not a scene"),
        ("[]", "not a scene"),
        ('{"format": "sirenscape.scene", "version": 1, "nodes": [NaN]}', "not a scene"),
        ('{"format":"sirenscape.scene","version":1,"nodes":[{"id":1,"name":"a","held":[{"scale":1e999}]}]}', "range"),
        ('{"format":"sirenscape.scene","version":1,"nodes":' + "[" * 100_000, "not a scene"),
        ('{"a":' * 100_000, "not a scene"),
        (b"\xff\xfe\x00", "not a scene"),
    ],
)
def test_text_that_is_no_scene_is_refused(tmp_path, text, message):
    folder = tmp_path / "a.scene"
    folder.mkdir()
    (folder / "scene.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SceneFileError, match=message) as error:
        load_scene(folder)
    assert len(str(error.value)) < 500 + len(str(folder))


def test_200_000_nested_groups_are_refused(tmp_path):
    folder = tmp_path / "a.scene"
    folder.mkdir()
    rows = ",".join(f'{{"id":{k},"name":"n","held":[{{"under":{k - 1}}}]}}' for k in range(1, 200_001))
    (folder / "scene.json").write_text(f'{{"format":"sirenscape.scene","version":1,"nodes":[{rows}]}}')
    with pytest.raises(SceneFileError, match="at most 100 levels"):
        load_scene(folder)


def test_fields_that_are_swapped_damaged_or_missing_are_refused(graph, tmp_path):
    folder = tmp_path / "a.scene"
    save_scene(graph, folder)
    first, second, *_ = sorted((folder / "fields").iterdir())
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    with pytest.raises(SceneFileError, match="another field than its name says"):
        load_scene(folder)
    first.write_bytes(one[:-4])
    with pytest.raises(SceneFileError, match=first.name):
        load_scene(folder)
    first.write_bytes(b"")
    with pytest.raises(SceneFileError, match=first.name):
        load_scene(folder)
    first.unlink()
    with pytest.raises(SceneFileError, match="is missing"):
        load_scene(folder)
    save_scene(graph, folder)
    assert load_scene(folder) == graph


def test_saving_repairs_a_damaged_field_file(graph, tmp_path):
    folder = tmp_path / "a.scene"
    save_scene(graph, folder)
    file = next((folder / "fields").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    save_scene(graph, folder)
    assert load_scene(folder) == graph


@pytest.mark.parametrize("name", ["a.txt", "a", "missing/a.scene"])
def test_a_bad_target_is_refused(graph, tmp_path, name):
    with pytest.raises(SceneFileError):
        save_scene(graph, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_folder_or_file_of_something_else_is_not_overwritten(graph, tmp_path):
    (tmp_path / "a.scene").mkdir()
    (tmp_path / "a.scene/photos.zip").write_text("mine")
    with pytest.raises(SceneFileError, match=r"photos\.zip"):
        save_scene(graph, tmp_path / "a.scene")
    (tmp_path / "b.scene").write_text("mine")
    with pytest.raises(SceneFileError, match="in the way"):
        save_scene(graph, tmp_path / "b.scene")
    with pytest.raises(SceneFileError, match="found nothing"):
        load_scene(tmp_path / "c.scene")
    with pytest.raises(SceneFileError, match="found none"):
        load_scene(tmp_path)


def test_a_field_that_cannot_be_stored_leaves_the_old_scene(graph, tmp_path):
    save_scene(graph, tmp_path / "a.scene")
    other = load_scene(tmp_path / "a.scene")
    bad = Sphere(0.2)
    bad.radius.fill_(math.nan)
    other.add("bad", bad)
    with pytest.raises(SceneFileError):
        save_scene(other, tmp_path / "a.scene")
    assert load_scene(tmp_path / "a.scene") == graph


def unread(graph: SceneGraph) -> list[str]:
    return sorted(path for path in graph if is_unread(graph[path].field or Box((1, 1, 1))))


def test_fields_are_made_only_when_something_asks_for_them(tmp_path):
    graph = SceneGraph()
    for i, name in enumerate(("shown", "hidden", "gone")):
        field = SirenField(Aabb(-torch.ones(3), torch.ones(3)), width=8, layers=1, seed=i)
        graph.add(name, field, pose=at(2 * i))
    graph.hide("hidden")
    before = graph.at(0.0)
    graph.remove("gone")
    save_scene(graph, tmp_path / "a.scene")
    scene = load_scene(tmp_path / "a.scene")
    assert unread(scene) == ["hidden", "shown"]
    scene.rename("hidden", "other")
    save_scene(scene, tmp_path / "b.scene")
    assert unread(scene) == ["other", "shown"]
    names = [sorted(p.name for p in (tmp_path / f"{k}.scene" / "fields").iterdir()) for k in "ab"]
    assert names[0] == names[1] and len(names[0]) == 3
    p_world = torch.tensor([[0.1, 0.2, 0.3], [4.4, 0.0, 0.1]])
    scene.at(0.0)
    assert unread(scene) == ["other"]
    scene.undo()  # the new name
    scene.undo()  # the removal
    got, want = scene.at(0.0).query(p_world), before.query(p_world)
    assert torch.equal(got.sdf, want.sdf) and torch.equal(got.rgb, want.rgb)
    assert unread(scene) == ["hidden"]


def test_numbers_that_do_not_fit_their_description_are_found_on_use(tmp_path):
    graph = SceneGraph()
    graph.add("ball", Sphere(0.5))
    save_scene(graph, tmp_path / "a.scene")
    (file,) = (tmp_path / "a.scene" / "fields").iterdir()
    data = file.read_bytes().replace(b'"radius"', b'"sadius"')
    name = hashlib.sha256(data).hexdigest()
    file.with_name(f"{name}.safetensors").write_bytes(data)
    text = (tmp_path / "a.scene" / "scene.json").read_text()
    (tmp_path / "a.scene" / "scene.json").write_text(text.replace(file.stem, name))
    scene = load_scene(tmp_path / "a.scene")
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{name}.*missing"):
            scene.at(0.0)


def _other_process(code: str, *arguments: str) -> subprocess.Popen:
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_edit_one_scene_lose_no_edit(tmp_path):
    save_scene(SceneGraph(), tmp_path / "a.scene")
    code = """
import sys
from scenes.cli import main
for k in range(12):
    if main(["edit", f"scene={sys.argv[1]}", f"do=add {sys.argv[2]}-{k}"]):
        sys.exit(1)
"""
    editors = [_other_process(code, str(tmp_path / "a.scene"), name) for name in ("left", "right")]
    for editor in editors:
        editor.communicate(timeout=120)
    assert [editor.returncode for editor in editors] == [0, 0]
    assert set(load_scene(tmp_path / "a.scene")) == {f"{name}-{k}" for name in ("left", "right") for k in range(12)}


def test_a_scene_that_another_process_holds_is_refused_in_one_line_and_then_free_again(tmp_path, monkeypatch):
    graph = SceneGraph()
    save_scene(graph, tmp_path / "a.scene")
    before = (tmp_path / "a.scene/scene.json").read_bytes()
    monkeypatch.setattr("scenes.io.scene_folder._LOCK_S", 0.3)
    code = "import sys\nfrom scenes.io.scene_folder import locked\nwith locked(sys.argv[1]): print('held', flush=True); input()"
    holder = _other_process(code, str(tmp_path / "a.scene"))
    try:
        assert holder.stdout.readline() == "held\n"
        graph.add("ball", Sphere(0.1))
        with pytest.raises(SceneFileError, match=r"a\.scene: another process is saving to this scene .*try again"):
            save_scene(graph, tmp_path / "a.scene")
        assert (tmp_path / "a.scene/scene.json").read_bytes() == before
        load_scene(tmp_path / "a.scene")  # reading needs no lock
        save_scene(graph, tmp_path / "b.scene")
        holder.kill()  # whatever ends it
        holder.wait()
        save_scene(graph, tmp_path / "a.scene")
    finally:
        holder.kill()
        holder.communicate()
    assert "ball" in load_scene(tmp_path / "a.scene")


def test_locks_of_one_process_stand_in_one_another(tmp_path):
    graph = SceneGraph()
    save_scene(graph, tmp_path / "a.scene")
    with locked(tmp_path / "a.scene"), locked(tmp_path / "." / "a.scene"):
        graph.add("ball", Sphere(0.1))
        save_scene(graph, tmp_path / "a.scene")
    assert "ball" in load_scene(tmp_path / "a.scene")


def test_a_new_scene_that_cannot_be_saved_leaves_no_folder(tmp_path, monkeypatch):
    graph = SceneGraph()
    graph.add("ball", Sphere(0.1))
    monkeypatch.setattr("scenes.io.scene_folder.MAX_FILE_BYTES", 10)
    monkeypatch.setattr("scenes.io.scene_folder.save_field", lambda *_: None)
    with pytest.raises(SceneFileError, match="at most 10 bytes"):
        save_scene(graph, tmp_path / "a.scene")
    assert not list(tmp_path.iterdir())
