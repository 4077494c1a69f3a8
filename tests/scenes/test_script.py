"""Edits as text do what the methods do."""

import pytest

from objects import SE3, Box, Sphere, save_field
from rendering import AmbientLight, PointLight
from scenes import SceneGraph, load_scene, save_scene
from scenes.script import VERBS, run_script, statements


def room() -> SceneGraph:
    graph = SceneGraph()
    graph.add("table", Box((1, 1, 0.1)), pose=SE3.from_translation([0.0, 0, 0.5]))
    graph.add("table/tray", Box((0.4, 0.3, 0.02)), pose=SE3.from_translation([0.1, 0, 0.1]))
    graph.add("table/tray/mug", Sphere(0.05), pose=SE3.from_translation([0.0, 0.1, 0.1]))
    graph.add("stuff")
    graph.add("a lamp; old", light=PointLight((0, 0, 1)))
    return graph


@pytest.mark.parametrize(
    ("script", "by_hand"),
    [
        ("move table/tray by 0.2 0 0", lambda g: g.move("table/tray", by=(0.2, 0, 0))),
        ("move table/tray to 1 -2e-1 .5", lambda g: g.move("table/tray", to=(1, -0.2, 0.5))),
        ("move table/tray by 1 0 0 frame own time 2", lambda g: g.move("table/tray", by=(1, 0, 0), frame="own", time=2)),
        ("move table by 1 0 0 time 2 frame parent", lambda g: g.move("table", by=(1, 0, 0), frame="parent", time=2)),
        ("rotate table by 30 about z", lambda g: g.rotate("table", (0, 0, 1), 30)),
        ("rotate table by -30 about 1 0 1 pivot 0 0 1", lambda g: g.rotate("table", (1, 0, 1), -30, about=(0, 0, 1))),
        ("rotate table by 5 about x frame own", lambda g: g.rotate("table", (1, 0, 0), 5, frame="own")),
        ("place table at 1 2 3 1 0 0 0", lambda g: g.place("table", SE3.from_translation([1.0, 2, 3]))),
        ("scale table by 2", lambda g: g.scale("table", 2)),
        ("remove table", lambda g: g.remove("table")),
        ("duplicate table as table2", lambda g: g.duplicate("table", "table2")),
        ("reparent table/tray to /", lambda g: g.reparent("table/tray", "/")),
        ("reparent table/tray to stuff from 2.5", lambda g: g.reparent("table/tray", "stuff", start=2.5)),
        ("group table stuff as all", lambda g: g.group("all", ["table", "stuff"])),
        ("group table stuff as all; ungroup all", lambda g: (g.group("all", ["table", "stuff"]), g.ungroup("all"))),
        ("hide table", lambda g: g.hide("table")),
        ("hide table; show table", lambda g: None),
        ("rename table to 'my desk'", lambda g: g.rename("table", "my desk")),
        ("move 'a lamp; old' by 0 0 1", lambda g: g.move("a lamp; old", by=(0, 0, 1))),
        ("move table by 0 0 1 time 1; retime table shift 2 factor 3",
         lambda g: (g.move("table", by=(0, 0, 1), time=1), g.retime("table", shift=2, factor=3))),
        ("lit table off", lambda g: g.set_lit("table", False)),
        ("tag table with big 'very old'", lambda g: g.tag("table", "big", "very old")),
        ("tag table with a b; untag table of a", lambda g: g.tag("table", "b")),
        ("add more; add more/yet", lambda g: (g.add("more"), g.add("more/yet"))),
        ("light stuff ambient intensity 0.2 color 1 0 0",
         lambda g: g.set_light("stuff", AmbientLight((1, 0, 0), 0.2))),
        ("light 'a lamp; old' off", lambda g: g.set_light("a lamp; old", None)),
        ("remove table; undo", lambda g: None),
        ("remove table; hide stuff; undo 2; redo", lambda g: g.remove("table")),
        (" ;\n move table by 0 0 1 \n\n;", lambda g: g.move("table", by=(0, 0, 1))),
    ],
)  # fmt: skip
def test_a_statement_does_what_its_method_does(script, by_hand):
    got, want = room(), room()
    run_script(got, script)
    by_hand(want)
    assert got == want


def test_a_field_file_and_a_scene_come_in_by_name(tmp_path):
    save_field(Sphere(0.3), tmp_path / "a ball.safetensors")
    save_scene(room(), tmp_path / "room.scene")
    graph = room()
    run_script(
        graph,
        f"add stuff/ball field '{tmp_path}/a ball.safetensors'; replace table with '{tmp_path}/a ball.safetensors';"
        f"include {tmp_path}/room.scene at stuff/room",
    )
    assert graph["stuff/ball"].field.kind == "sphere"
    assert graph["table"].field.kind == "sphere"
    assert graph["stuff/room/table/tray/mug"].field is graph["table/tray/mug"].field


def test_the_log_can_be_carried_out_again(tmp_path):
    graph = room()
    start = len(graph.log)
    script = (
        "move table/tray by 0.1 0 0; rotate table by 20 about 0 0 1; duplicate table/tray as 'a copy'; scale 'a copy' by 2;"
        "reparent 'a copy' to stuff from 2; hide stuff; rename stuff to things; tag table with x; undo; undo 2; redo;"
        "move table by 0 0 1 frame parent time 3; place table/tray at 1 2 3 1 0 0 0; retime table shift 1 factor 2"
    )
    run_script(graph, script)
    again = room()
    for line in graph.log[start:]:
        undone = line.startswith(("undo: ", "redo: "))
        run_script(again, line.split(":")[0] if undone else line)
    assert again == graph


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("", "at least one statement"),
        (" ; ;", "at least one statement"),
        ("mvoe table by 0 0 1", "unknown verb 'mvoe'; did you mean 'move'"),
        ("move", "expected a path at the end; usage: move PATH"),
        ("move table", "expected by or to at the end"),
        ("move table by 0 0", "expected x y z at the end"),
        ("move table by 0 0 up", "a number, got 'up'"),
        ("move table by 0 0 1 2", "expected the end, got '2'"),
        ("move table into 0 0 1", "expected by or to, got 'into'"),
        ("move table by 0 0 nan", "finite"),
        ("move tabel by 0 0 1", "did you mean 'table'"),
        ("rotate table by 30 about w", "a number, got 'w'"),
        ("move 'table by 0 0 1", "a quote is not closed"),
        ("undo 99", "expected 1 to"),
        ("undo x", "whole number"),
        ("lit table maybe", "on or off"),
        ("group table stuff", "'as' at the end"),
        ("replace table with nothing.safetensors", "nothing there"),
        ("light stuff point direction 0 0 1", "belongs to a directional"),
        ("move table by 0 0 'a\nb'", "a number, got 'a.*nb'"),
        ("q" * 900, r"unknown verb 'q+\.\.\.$"),
        ("reparent table/tray from 2 to stuff", "expected to, got 'from'"),
        ("drop table onto tabel", "did you mean 'table'"),
        ("put stuff near 0 0", "expected x y z at the end"),
        ("put stuff seed 1.5", "expected a seed, a whole number"),
        ("place stuff into 0 0 1", "expected at, got 'into'"),
        ("camera stuff on size inf 3", "from 1 to 16384"),
        ("add b; include " + "d" * 300 + ".scene at z", "cannot be read"),
    ],
)
def test_a_mistake_names_the_statement_and_undoes_all_before_it(script, message):
    graph, want = room(), room()
    history, log = graph.history, list(graph.log)
    for before in ("", "remove table/tray; duplicate table as other; undo; "):
        if before and script.strip(" ;") == "":
            continue
        with pytest.raises(ValueError, match=message):
            run_script(graph, before + script)
        assert graph == want
        assert (graph.history, graph.log) == (history, log)


def test_statements_split_at_semicolons_outside_quotes():
    assert statements("a 'b; c' d;e\nf \"g'\"") == [["a", "b; c", "d"], ["e"], ["f", "g'"]]
    assert statements("hide ';'; show ';'") == [["hide", ";"], ["show", ";"]]


def test_every_verb_shows_its_usage():
    for name, verb in VERBS.items():
        assert verb.usage.split()[0] == name
        assert verb.meaning


def test_a_scene_edited_by_text_saves_and_loads(tmp_path):
    graph = room()
    run_script(graph, "duplicate table as 'b c'; move 'b c' by 1 1 1")
    save_scene(graph, tmp_path / "a.scene")
    assert load_scene(tmp_path / "a.scene") == graph
