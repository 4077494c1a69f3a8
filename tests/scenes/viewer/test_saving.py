"""Where a viewed scene may be saved."""

import os

import pytest

from objects import Sphere
from scenes import SceneFileError, SceneGraph, load_scene, save_scene
from scenes.viewer.saving import AskFirst, Saving


@pytest.fixture
def scene():
    graph = SceneGraph()
    graph.add("ball", Sphere(0.5))
    return graph


def test_a_scene_that_changed_on_disk_meanwhile_is_asked_about(scene, tmp_path):
    file = tmp_path / "a.scene"
    save_scene(scene, file)
    saving, other = Saving(file, None), load_scene(file)
    scene.rename("ball", "mine")
    assert saving.save(scene) == file
    scene.rename("mine", "mine-2")
    saving.save(scene)  # what it wrote itself is no surprise
    other.rename("ball", "theirs")
    save_scene(other, file)
    with pytest.raises(AskFirst, match="changed on disk meanwhile"):
        saving.save(scene)
    assert "theirs" in load_scene(file)
    saving.save(scene, overwrite=True)
    assert "mine-2" in load_scene(file)


def test_copies_go_to_the_folder_that_was_given_and_nowhere_else(scene, tmp_path):
    places = tmp_path / "places"
    places.mkdir()
    saving = Saving(None, places)
    assert saving.save_as(scene, "Küche 2.scene") == places / "Küche 2.scene"
    assert load_scene(places / "Küche 2.scene") == scene
    with pytest.raises(AskFirst, match="there is a"):
        saving.save_as(scene, "Küche 2")
    saving.save_as(scene, "Küche 2", overwrite=True)
    (places / "link.scene").symlink_to(tmp_path / "outside.scene")
    for name in ("../b", "/etc/b", "a/b", "..", "", "a\x00b", ".hidden", "link", "x" * 200):
        with pytest.raises(ValueError, match="save as:"):
            saving.save_as(scene, name, overwrite=True)
    assert sorted(path.name for path in tmp_path.rglob("*.scene")) == ["Küche 2.scene", "link.scene"]
    with pytest.raises(ValueError, match="no folder of its own"):
        saving.save(scene)
    with pytest.raises(ValueError, match="no folder for copies"):
        Saving(tmp_path / "a.scene", None).save_as(scene, "b")


def test_places_that_cannot_be_written_to_are_told_at_the_start(tmp_path):
    with pytest.raises(ValueError, match="save_as: expected a folder that can be written to"):
        Saving(None, tmp_path / "missing")
    with pytest.raises(SceneFileError, match="there is no folder"):
        Saving(tmp_path / "missing" / "a.scene", None)
    if os.geteuid() != 0:  # root writes anywhere
        (tmp_path / "locked").mkdir(mode=0o555)
        with pytest.raises(SceneFileError, match="no permission"):
            Saving(tmp_path / "locked" / "a.scene", None)
