"""Scene files: what is saved comes back to the bit, a crash leaves the old or the new scene, hostile files are refused."""

import json
import subprocess
import sys

import pytest
import torch

from objects import Box, Sphere
from objects.files import field_hash
from rendering import RenderConfig, render
from scenes import SceneFileError, SceneGraph, load_scene, save_scene
from tests.scenes.io.folders import changed, mixed_graph, node, texts


@pytest.fixture
def graph() -> SceneGraph:
    return mixed_graph()


def test_a_loaded_scene_equals_the_saved_one_and_renders_the_same_bits(graph, tmp_path):
    save_scene(graph, tmp_path / "a.scene")
    loaded = load_scene(tmp_path / "a.scene")
    assert loaded == graph
    assert list(loaded) == list(graph)
    assert loaded.log == graph.log
    assert loaded.history == graph.history
    for t in (0.0, 0.2, 1.5):
        config = RenderConfig(antialias=1)
        got = render(loaded.at(t), loaded.camera_at("eye", t), lights=loaded.lights_at(t), config=config)
        want = render(graph.at(t), graph.camera_at("eye", t), lights=graph.lights_at(t), config=config)
        assert (want.owner >= 0).any()
        for layer in ("rgb", "depth", "normal", "owner", "alpha"):
            assert torch.equal(getattr(got, layer), getattr(want, layer)), layer


def test_saving_again_what_was_loaded_gives_the_same_bytes(graph, tmp_path):
    save_scene(graph, tmp_path / "a.scene")
    save_scene(load_scene(tmp_path / "a.scene"), tmp_path / "b.scene")
    assert texts(tmp_path / "a.scene") == texts(tmp_path / "b.scene")


def test_the_file_is_readable_and_knows_no_clock_and_no_place(graph, tmp_path):
    save_scene(graph, tmp_path / "a.scene")
    text = (tmp_path / "a.scene/scene.json").read_text()
    assert str(tmp_path) not in text
    data = json.loads(text)
    assert (data["format"], data["version"]) == ("sirenscape.scene", 1)
    assert [n["name"] for n in data["nodes"]] == [n.name for n in sorted(graph.records().values(), key=lambda n: n.id)]
    assert len(text.splitlines()) > len(data["nodes"])  # one line for each node


def test_equal_fields_are_stored_once_and_unused_ones_go(tmp_path):
    graph = SceneGraph()
    for k in range(5):
        graph.add(f"s{k}", Sphere(0.5))
    graph.add("box", Box((1, 1, 1)))
    save_scene(graph, tmp_path / "a.scene")
    assert len(list((tmp_path / "a.scene/fields").iterdir())) == 2
    graph.remove("box")
    save_scene(graph, tmp_path / "a.scene")
    assert len(list((tmp_path / "a.scene/fields").iterdir())) == 2  # undo could bring it back
    graph.forget_history()
    save_scene(graph, tmp_path / "a.scene")
    assert len(list((tmp_path / "a.scene/fields").iterdir())) == 1


def test_files_of_others_are_left_alone(graph, tmp_path):
    folder = tmp_path / "a.scene"
    save_scene(graph, folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "fields" / "other.bin").write_text("mine")
    graph.remove("ball")
    graph.forget_history()
    save_scene(graph, folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "fields" / "other.bin").read_text() == "mine"


def test_edits_can_be_undone_after_loading(graph, tmp_path):
    before = [i.name for i in graph.at().instances]
    graph.remove("lights")
    graph.move("ball", by=(1, 0, 0))
    save_scene(graph, tmp_path / "a.scene")
    loaded = load_scene(tmp_path / "a.scene")
    assert loaded.lights_at() == ()
    loaded.undo(2)
    assert [i.name for i in loaded.at().instances] == before
    assert len(loaded.lights_at()) == 2
    loaded.redo(2)
    assert loaded == graph


def test_a_history_whose_fields_are_gone_is_dropped_and_said(tmp_path):
    graph = SceneGraph()
    graph.add("a", Sphere(0.5))
    graph.add("b", Box((1, 1, 1)))
    graph.remove("b")
    save_scene(graph, tmp_path / "a.scene")
    used = field_hash(graph["a"].field)
    for spoil in (lambda file: file.write_bytes(b"x"), lambda file: file.unlink()):
        spoil(next(file for file in (tmp_path / "a.scene/fields").iterdir() if used not in file.name))
        loaded = load_scene(tmp_path / "a.scene")
        assert loaded == graph
        assert loaded.history == ([], [])
        assert "history dropped" in loaded.log[-1]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["undo"][-1].update(before_gone=[1]),
        lambda d: d["undo"][0]["after"][0].update(name="zzz"),
        lambda d: d["undo"][0]["after"][0].update(name="a/b"),
        lambda d: d["undo"][0]["after"][0]["held"][0].update(under=999),
        lambda d: d["undo"][0]["after"][0].update(held=[]),
        lambda d: d["undo"][0]["after"][0]["held"][0].update(under=1),
        lambda d: d["undo"][0]["after"][0]["held"][0].update(scale=-1),
        lambda d: d["redo"][-1]["after"][0]["held"][0].update(scale=-1),
        lambda d: d["redo"][-1]["after"][0]["held"][0].update(under=999),
        lambda d: node(d, "table").update(name="desk"),  # by hand: it must stay
        lambda d: node(d, "table")["held"][0].update(position=[5, 5, 5]),
    ],
)
def test_a_history_that_does_not_fit_the_scene_is_dropped_and_the_scene_is_what_the_file_says(graph, tmp_path, change):
    graph.move("table", by=(1, 0, 0))
    graph.undo()
    save_scene(graph, tmp_path / "a.scene")
    changed(tmp_path / "a.scene", change)
    names = [n["name"] for n in json.loads((tmp_path / "a.scene/scene.json").read_text())["nodes"]]
    loaded = load_scene(tmp_path / "a.scene")
    assert loaded.history == ([], [])
    assert "history dropped" in loaded.log[-1]
    assert [n.name for n in sorted(loaded.records().values(), key=lambda n: n.id)] == names
    if "desk" in names:
        assert "desk/mug" not in loaded  # it was handed to the ball, and is still there
        assert "ball/mug" in loaded


def test_ids_far_apart_cost_no_memory(graph, tmp_path):
    save_scene(graph, tmp_path / "a.scene")
    text = (tmp_path / "a.scene/scene.json").read_text()
    ball = node(json.loads(text), "ball")["id"]
    text = text.replace(f'"id":{ball},', f'"id":{2**39},').replace(f'"under":{ball},', f'"under":{2**39},')
    (tmp_path / "a.scene/scene.json").write_text(text.replace(f'"before_gone":[{ball}]', f'"before_gone":[{2**39}]'))
    loaded = load_scene(tmp_path / "a.scene")
    assert set(loaded) == set(graph)
    assert len(loaded.at()) == len(graph.at())
    assert max(n.id for n in loaded.records().values()) < 1000


def test_an_edit_of_thousands_of_nodes_can_be_undone_after_loading(tmp_path):
    graph = SceneGraph()
    graph.add("all")
    for k in range(6000):
        graph.add(f"all/n{k}")
    graph.remove("all")
    save_scene(graph, tmp_path / "a.scene")
    loaded = load_scene(tmp_path / "a.scene")
    assert len(loaded) == 0
    loaded.undo()
    assert len(loaded) == 6001


def test_a_long_history_is_cut_to_what_the_file_may_hold(tmp_path):
    graph = SceneGraph()
    graph.add("a")
    for k in range(150):
        graph.move("a", by=(k + 1, 0, 0))
    save_scene(graph, tmp_path / "a.scene")
    loaded = load_scene(tmp_path / "a.scene")
    assert len(loaded.history[0]) == 100
    assert len(loaded.log) == 151
    loaded.undo(100)
    graph.undo(100)
    assert loaded == graph


SAVER = """
import os, sys
from objects import Box, Sphere
from scenes import SceneGraph, save_scene

def scene(kind):
    graph = SceneGraph()
    for k in range(6):
        graph.add(f"{kind}{k}", Sphere(0.1 * (k + 1)) if kind == "s" else Box((0.1, 0.2, 0.1 * (k + 1))))
    graph.forget_history()
    return graph

folder, new, left = sys.argv[1], scene("b"), 0

def step(event, arguments):
    global left
    if event in ("open", "os.rename", "os.remove", "fsync") and str(arguments[0]).startswith(folder):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), 9)

fsync = os.fsync
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        left = int(line)
        sys.addaudithook(step)
        os.fsync = lambda file: (step("fsync", [folder]), fsync(file))
        save_scene(new, folder)
        os._exit(0)
    print(os.WIFSIGNALED(os.waitpid(pid, 0)[1]), flush=True)
"""


def test_killed_at_any_step_of_saving_leaves_the_old_or_the_new_scene_whole(tmp_path):
    """Before each file that is opened, flushed, renamed or removed."""
    folder = tmp_path / "a.scene"
    want = {kind: SceneGraph() for kind in "sb"}
    for k in range(6):
        want["s"].add(f"s{k}", Sphere(0.1 * (k + 1)))
        want["b"].add(f"b{k}", Box((0.1, 0.2, 0.1 * (k + 1))))
    seen, torn = [], 0
    saver = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert saver.stdin is not None
    assert saver.stdout is not None
    try:
        while True:
            save_scene(want["s"], folder)  # sweeps what was left
            assert len(list((folder / "fields").iterdir())) == 6
            assert [path.name for path in folder.glob(".*")] == [".lock"]
            saver.stdin.write(f"{len(seen) + 1}\n")
            saver.stdin.flush()
            killed = saver.stdout.readline() == "True\n"
            loaded = load_scene(folder)
            kind = [k for k in "sb" if loaded == want[k]]
            assert len(kind) == 1
            if not killed:
                break
            seen += kind
            torn += len(list((folder / "fields").iterdir())) != 6 or any(folder.glob(".*.tmp"))
    finally:
        saver.kill()
        saver.wait()
        saver.stdin.close()
        saver.stdout.close()
    assert kind == ["b"] and len(seen) > 25
    assert seen == sorted(seen, reverse=True) and set(seen) == {
        "s",
        "b",
    }  # the old one up to a step, the new one from then
    assert torn > 20


def test_an_error_at_any_step_of_saving_leaves_the_old_scene(graph, tmp_path, monkeypatch):
    import objects.files as field_files

    small = SceneGraph()
    small.add("a", Sphere(0.3))
    replace, calls = field_files.os.replace, []

    for step in range(1, 5):  # three fields, then scene.json
        folder = tmp_path / f"{step}.scene"
        save_scene(small, folder)

        def failing(a, b, step=step):
            calls.append(b)
            if len(calls) == step:
                raise OSError(28, "No space left on device")
            replace(a, b)

        calls.clear()
        monkeypatch.setattr(field_files.os, "replace", failing)
        with pytest.raises(SceneFileError, match="No space left"):
            save_scene(graph, folder)
        monkeypatch.undo()
        assert load_scene(folder) == small
        assert [path.name for path in folder.rglob(".*")] == [".lock"]
    save_scene(graph, folder)
    assert load_scene(folder) == graph
