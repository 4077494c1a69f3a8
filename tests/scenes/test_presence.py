"""What is there for a part of the time: pictures, questions, edits and files know it."""

import math

import pytest
import torch

from objects import Box, Sphere
from rendering import PointLight
from scenes import SceneGraph, load_scene, save_scene
from scenes.io.export import export_scene
from scenes.io.glb import read_glb
from scenes.script import run_script
from tests.scenes.helpers import at


@pytest.fixture
def scene() -> SceneGraph:
    """A cup rides on a tray from 2 s on, and stands beside it before."""
    graph = SceneGraph()
    graph.add("tray", Box((0.5, 0.5, 0.1)))
    graph.add("cup", Sphere(0.2), pose=at(2))
    graph.add("lamp", light=PointLight((0.0, 0.0, 3.0)))
    graph.reparent("cup", "tray", start=2.0)
    return graph


def shown(graph: SceneGraph, time: float) -> list[str]:
    return [instance.name for instance in graph.at(time).instances]


def test_a_node_is_shown_within_its_spans_ends_included_and_with_what_carries_it_then(scene):
    scene.limit("tray", [(-math.inf, 1.0), (3.0, 4.0)])
    want = {0.0: ["tray", "tray/cup"], 1.0: ["tray", "tray/cup"], 1.5: ["tray/cup"], 2.5: [], 3.0: ["tray", "tray/cup"]}
    want |= {3.5: ["tray", "tray/cup"], 4.5: [], 1.2: ["tray/cup"], -5.0: ["tray", "tray/cup"]}
    for time, names in want.items():
        assert shown(scene, time) == names
    fresh = SceneGraph()
    fresh.include(scene, "all")
    for time, names in want.items():  # built anew gives the same as followed through time
        fresh.tag("all", f"t{len(names)}{time}")
        assert shown(fresh, time) == [f"all/{name}" for name in names]


def test_questions_and_lights_heed_when_a_node_is_there(scene):
    scene.limit("lamp", [(0.0, 1.0)])
    scene.limit("tray", [(0.0, 1.0)])
    assert len(scene.lights_at(1.0)) == 1
    assert scene.lights_at(1.1) == ()
    assert scene.cast([[0, 0, 2.0]], [[0, 0, -1.0]], 0.5)[0] is not None
    assert scene.cast([[0, 0, 2.0]], [[0, 0, -1.0]], 1.5) == [None]
    with pytest.raises(ValueError, match=r"tray: expected a visible object, but it isn't there at 1\.5 s"):
        scene.clearance("tray", "tray/cup", 1.5)
    assert scene.span == (0.0, 2.0)


def test_it_is_undone_copied_retimed_and_kept_in_files(scene, tmp_path):
    scene.limit("tray", [(-math.inf, 1.0), (3.0, 4.0)])
    scene.duplicate("tray/cup", "cup2")
    run_script(scene, "limit cup2 to 0 1 2 inf")
    assert scene["cup2"].spans == ((0.0, 1.0), (2.0, math.inf))
    scene.retime("cup2", shift=1.0, factor=2.0)
    assert scene["cup2"].spans == ((1.0, 3.0), (5.0, math.inf))
    save_scene(scene, tmp_path / "a.scene")
    kept = load_scene(tmp_path / "a.scene")
    assert kept == scene
    kept.undo(2)
    assert kept["cup2"].spans == ()
    run_script(kept, "limit tray to always")
    assert kept["tray"].spans == ()
    assert kept != scene
    kept.undo()
    assert kept["tray"].spans == scene["tray"].spans


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(1.0, 0.5)], "from and to, the first not after the second, got 1 0.5"),
        ([(0.0, 2.0), (1.0, 3.0)], "one after the other, got one to 2 s and the next from 1 s"),
        ([(0.0, math.nan)], "got 0 nan"),
        ([1.0, 2.0], "expected pairs of seconds"),
    ],
)
def test_spans_that_make_no_sense_are_named(scene, spans, message):
    before = scene["tray"].spans
    with pytest.raises(ValueError, match=f"limit tray: .*{message}"):
        scene.limit("tray", spans)
    assert scene["tray"].spans == before


def test_glb_has_it_as_steps_of_scale_and_reads_it_back(scene, tmp_path):
    scene.limit("tray", [(-math.inf, 1.0), (3.0, 4.0)])
    scene.limit("lamp", [(0.5, math.inf)])
    export_scene(scene, tmp_path / "a.glb", tolerance=0.05)
    scene.reparent("tray/cup", "/")
    scene.remove("cup")
    plans = {plan.path: plan for plan in read_glb(tmp_path / "a.glb")[0]}
    for path in ("tray", "lamp"):
        torch.testing.assert_close(torch.tensor(plans[path].spans), torch.tensor(scene[path].spans), atol=1e-6, rtol=0)
        assert plans[path].scale == 1.0


def test_files_of_one_time_leave_out_what_is_not_there(scene, tmp_path):
    scene.limit("tray", [(3.0, 4.0)])
    notes = export_scene(scene, tmp_path / "a.ply", time=0.0, tolerance=0.05)
    assert "not there at 0 s, so left out: tray" in notes
    assert len(notes) == len(set(notes))


def test_usd_shows_it_within_its_spans(scene, tmp_path):
    pytest.importorskip("pxr", reason="no usd-core: pip install 'sirenscape[usd]'")
    from pxr import Usd, UsdGeom

    scene.limit("tray", [(0.5, 1.0), (3.0, 4.0)])
    scene.limit("lamp", [(-math.inf, 1.0)])
    export_scene(scene, tmp_path / "a.usda", tolerance=0.05)
    stage = Usd.Stage.Open(str(tmp_path / "a.usda"))
    rate = stage.GetTimeCodesPerSecond()
    want = {
        "tray": {0: False, 0.5: True, 1.0: True, 2: False, 3.5: True, 5: False},
        "lamp": {-3: True, 1: True, 2: False},
    }
    for name, there in want.items():
        prim = next(p for p in stage.Traverse() if p.GetName() == name)
        for time, visible in there.items():
            got = UsdGeom.Imageable(prim).ComputeVisibility(Usd.TimeCode(time * rate))
            assert (got == UsdGeom.Tokens.inherited) == visible, (name, time)
