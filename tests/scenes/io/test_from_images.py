"""Learning from folders of pictures, as a user types it."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from compose import Composite, Instance
from objects import SE3, FitError, load_field
from objects.primitives import Box, Sphere
from rendering import Camera, LearnedViews, RenderConfig, load_png, render, save_depth_png, save_png, save_transforms
from scenes import load_scene
from scenes.cli import main
from scenes.io.from_images import plans_of
from tests.scenes.helpers import run


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Six pictures with depth and masks of a ball on a board, in ``shots``; the same without masks in ``plain``."""
    folder = tmp_path_factory.mktemp("drawn")
    scene = Composite(
        [
            Instance("board", Box((1.5, 1.5, 0.1)), SE3.from_translation((0.0, 0.0, -0.05)), lit=False),
            Instance("ball", Sphere(0.3, color=(0.9, 0.2, 0.1)), SE3.from_translation((0.0, 0.1, 0.3)), lit=False),
        ]
    )
    cameras = [
        Camera.look_at((2 * math.cos(a), 2 * math.sin(a), 1.4), (0.0, 0.0, 0.1), 24, 18, 45.0)
        for a in (2 * math.pi * i / 6 for i in range(6))
    ]
    for name in ("shots", "plain"):
        shots = folder / name
        shots.mkdir()
        more = []
        for i, camera in enumerate(cameras):
            frame = render(scene, camera, config=RenderConfig(antialias=1))
            save_png(frame.rgb, shots / f"{i}.png")
            save_depth_png(frame.depth, shots / f"depth{i}.png")
            Image.fromarray(frame.owner.clamp(min=0).to(torch.uint8).numpy()).save(shots / f"mask{i}.png")
            entry = {"depth_file_path": f"depth{i}.png", "instance_path": f"mask{i}.png"}
            more.append(entry if name == "shots" else {"depth_file_path": f"depth{i}.png"})
        files = [f"{i}.png" for i in range(len(cameras))]
        entries = {"depth_unit_scale_factor": 0.001}
        save_transforms(shots / "transforms.json", cameras, files, frame_entries=more, entries=entries)
    return folder


@pytest.fixture
def folder(drawn, tmp_path, monkeypatch):
    """A folder of its own for each test with the pictures in it. What is learned of them is kept for the tests that follow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIRENSCAPE_CACHE", str(drawn / "cache"))
    for name in ("shots", "plain"):
        shutil.copytree(drawn / name, tmp_path / name)
    return tmp_path


def test_build_makes_a_scene_of_objects_in_their_places(folder, capsys):
    code, out, err = run(capsys, "build", "images=shots", "out=learned.scene", "image_steps=3", "image_width=32")
    assert (code, err) == (0, "")
    scene = load_scene("learned.scene")
    assert sorted(scene) == ["background", "camera", "object_1"]
    assert (scene["background"].tags, scene["object_1"].tags) == (("background",), ())
    place = scene.pose("object_1")[0].translation
    assert float((place - torch.tensor([0.0, 0.1, 0.3])).norm()) < 0.1
    assert "layers=rgb,seen" in out
    assert load_png("learned-preview.png").shape == (18, 48, 3)
    assert main(["render", "scene=learned.scene", "out=a.png", "layers=rgb,seen"]) == 0
    assert load_png("a-seen.png").shape == (18, 24, 3)
    assert "no light" not in capsys.readouterr().out  # lights don't act on what pictures taught
    code, out, err = run(capsys, "build", "images=shots", "out=learned.scene", "image_steps=3", "image_width=32")
    assert (code, err) == (0, "") and "the scene that was learned.scene before is replaced" in out


def test_fit_writes_a_field_for_each_object(folder, capsys):
    code, out, err = run(capsys, "fit", "images=shots", "out=fields/", "image_steps=3", "image_width=32")
    assert (code, err) == (0, "")
    assert load_field("fields/object_1.safetensors").observed.shape == (16, 16, 16)
    assert "object_1" in out and "background" in out


def test_fit_of_one_object_writes_one_file(folder, capsys):
    code, _, err = run(
        capsys, "fit", "images=plain", "out=thing.safetensors", "image_steps=3", "image_width=32", "every=2"
    )
    assert (code, err) == (0, "")
    load_field("thing.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "images=nowhere", "out=a/"], "no folder 'nowhere'"),
        (["fit", "images=nowhere", "out=a/", "depth=false"], "no folder 'nowhere'"),
        (["fit", "images=shots", "out=a.safetensors"], "instance masks"),
        (["fit", "images=shots"], "out:"),
        (["fit", "images=shots", "out=a/", "image_steps=0"], "image_steps"),
        (["fit", "images=shots", "out=a/", "every=0"], "every"),
        (["fit", "images=shots", "out=a/", "image_width=0"], "image_width"),
        (["fit", "images=shots", "mesh=a.obj", "out=a/"], "got mesh, images"),
        (["fit", "imges=shots", "out=a/"], "did you mean 'images'"),
        (["fit", "images=shot", "out=a/"], "did you mean 'shots'"),
        (["fit", "images=shots", "out=a/", "width=64"], "did you mean 'image_width'"),
        (["fit", "mesh=a.obj", "out=a/", "image_steps=5"], "image_steps: it is for images=, not for mesh="),
        (["fit", "images=shots", "out=old.scene/"], "got the scene"),
        (["fit", "images=shots", "out=a/", "depth_unit=1mm"], "depth_unit: expected a number"),
        (["fit", "images=shots", "out=a/", "masks=valid"], "masks: expected ignore or empty, got 'valid'"),
        (["fit", "mesh=a.obj", "out=a/", "masks=empty"], "masks: it is for images=, not for mesh="),
        (["build", "images=shots", "out=full.scene"], "got one with 'notes.txt'"),
        (["build", "images=shots", "out=file.scene"], "a file is in the way"),
        (["build", "images=shots", "scene=a.yaml", "out=a.scene"], "got both"),
        (["build", "images=shots", "out=a.blend"], "out"),
    ],
)
def test_what_cannot_be_learned_is_said_in_one_line(folder, capsys, arguments, message):
    for name, file in (("full.scene", "notes.txt"), ("old.scene", "scene.json")):
        (folder / name).mkdir()
        (folder / name / file).write_text("{}")
    (folder / "file.scene").write_text("")
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert message in err and err.count("\n") == 1


@pytest.mark.filterwarnings("default:.*give masks=empty")  # shown, not raised
@pytest.mark.parametrize(("masks", "said"), [(None, "give masks=empty"), ("empty", ""), ("ignore", "")])
def test_what_a_mask_means_is_settable_and_said(folder, capsys, masks, said, monkeypatch):
    data = json.loads((folder / "shots/transforms.json").read_text())
    for i, frame in enumerate(data["frames"]):
        frame["mask_path"] = frame.pop("instance_path")
        mask = np.full((18, 24), 255, np.uint8)
        mask[:9, :6] = 0
        Image.fromarray(mask).save(folder / f"shots/mask{i}.png")
    (folder / "shots/transforms.json").write_text(json.dumps(data))
    got = []

    def caught(views, *_, **__):
        got.append(views)
        raise FitError("stop here")

    monkeypatch.setattr("scenes.io.from_images.fit_views", caught)
    more = [] if masks is None else [f"masks={masks}"]
    code, _, err = run(capsys, "fit", "images=shots", "out=a.safetensors", *more)
    assert code == 2 and (said in err if said else err.count("\n") == 1)
    view = got[0][0]
    assert (view.alpha is None) == (masks != "empty")
    assert bool(view.valid.all()) == (masks == "empty")


def test_an_empty_folder_is_named(folder, capsys):
    (folder / "empty").mkdir()
    code, _, err = run(capsys, "fit", "images=empty", "out=a/")
    assert code == 2
    assert "transforms.json" in err


def test_parts_of_a_background_and_its_backdrop_stand_beneath_it():
    camera = Camera.look_at((0.0, -3.0, 0.0), (0.0, 0.0, 0.0), 8, 6, 60.0)
    names = ("background_0", "background_backdrop", "object_1")
    learned = LearnedViews(
        tuple(Instance(name, Sphere(0.2), SE3.identity()) for name in names), (0.0, 0.0, 0.0), 100.0, (camera,)
    )
    got = {plan.path: plan.tags for plan in plans_of(learned)}
    assert list(got) == ["background", "background/part_0", "background/backdrop", "object_1", "camera"]
    assert all((path.split("/")[0] == "background") == ("background" in tags) for path, tags in got.items())
