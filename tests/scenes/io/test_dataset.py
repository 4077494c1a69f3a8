"""Rendered data sets: what is written is read back the same, and is what the formats' specifications demand."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from objects import SE3, Box, Sphere
from rendering import RenderConfig, load_views, render
from scenes import SceneGraph, Track, load_scene, save_scene
from scenes.cli import main
from scenes.io.dataset import bounding_box, run_lengths

FILM = ["fps=1", "seconds=3", "camera.width=48", "camera.height=36", "camera.eye=0.4,-2,1.2", "antialias=1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A board, two equal balls (one hides the other at times, one is larger by its scale), a group, something that moves."""
    graph = SceneGraph()
    graph.add("board", Box((1.2, 0.8, 0.1), color=(0.5, 0.4, 0.3)), tags=["furniture"])
    graph.add("set", pose=SE3.from_translation([0.0, 0.0, 0.2]))
    ball = Sphere(0.15, color=(0.9, 0.1, 0.1))
    graph.add("set/red", ball, pose=SE3.from_translation([0.3, 0.0, 0.0]), tags=["ball", "toy"])
    graph.add("set/big", ball, pose=SE3.from_translation([-0.2, 0.1, 0.1]), scale=1.5)
    track = Track.keyframes([0, 2], SE3.from_translation(torch.tensor([[0.0, -0.3, 0.15], [0.4, -0.3, 0.15]])))
    graph.add("cube", Box((0.2, 0.2, 0.2)), track=track)
    graph.remove("set/red")
    graph.undo()
    save_scene(graph, tmp_path / "a.scene")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def truth(clip="both"):
    """Cameras, times and frames by the plain way."""
    from scenes.paths import defaults_of
    from scenes.pictures import film

    graph = load_scene("a.scene")
    settings = defaults_of("render") | dict(word.split("=", 1) for word in FILM)
    settings |= {"fps": 1.0, "clip": clip}
    views = film(graph, settings, 0.0, 3.0)
    frames = [
        render(graph.at(t), camera, lights=graph.lights_at(t), config=RenderConfig(antialias=1)) for t, camera in views
    ]
    return graph, views, frames


def pixels(path) -> np.ndarray:
    return np.array(Image.open(path))


def test_a_film_as_a_data_set_is_read_back_with_its_cameras_ids_depth_and_times(folder, capsys):
    assert main(["render", "scene=a.scene", "out=new/set/", "dataset=nerfstudio", "clip=both", *FILM]) == 0
    graph, views, frames = truth()
    read = load_views("new/set")
    assert len(read) == 3
    names = json.loads((folder / "new/set/ids.json").read_text())
    assert names[str(graph["set/red"].record.id)] == {"path": "set/red", "tags": ["ball", "toy"]}
    assert {entry["path"] for entry in names.values()} == {"board", "set/red", "set/big", "cube"}
    for view, (time, camera), frame in zip(read, views, frames, strict=True):
        torch.testing.assert_close(view.camera.T_world_cam.as_matrix(), camera.T_world_cam.as_matrix())
        for key in ("fx", "fy", "cx", "cy", "width", "height"):
            assert getattr(view.camera, key) == pytest.approx(getattr(camera, key))
        assert view.time == time
        assert (view.rgb - frame.rgb).abs().max() < 0.003
        known = torch.isfinite(frame.depth)
        assert torch.equal(torch.isfinite(view.depth), known)
        assert torch.equal(view.depth[known], frame.depth[known])
        paths = [names[str(i)]["path"] if i else None for i in view.ids.flatten().tolist()]
        instances = graph.at(time).instances
        assert paths == [instances[i].name if i >= 0 else None for i in frame.owner.flatten().tolist()]
        assert len(view.ids.unique()) >= 4


def test_ids_keep_their_number_when_the_scene_is_edited(folder):
    before = load_scene("a.scene")["cube"].record.id
    assert main(["edit", "scene=a.scene", "do=remove set; add first"]) == 0
    assert main(["render", "scene=a.scene", "out=b.png", "layers=ids", "camera.width=40", "camera.height=30"]) == 0
    assert before in pixels("b.png")
    assert json.loads((folder / "b.json").read_text())[str(before)]["path"] == "cube"


def test_layers_of_a_picture_are_a_data_set_of_one_picture(folder):
    command = ["render", "scene=a.scene", "out=one/", "time=1", "camera.width=40", "camera.height=30"]
    assert main([*command, "layers=rgb,depth,depth_npy,ids,owner", "level=1", "antialias=1"]) == 0
    assert sorted(path.name for path in (folder / "one").iterdir()) == [
        "depth.npy", "depth.png", "ids.json", "ids.png", "owner.png", "rgb.png", "transforms.json",
    ]  # fmt: skip
    with pytest.warns(UserWarning, match="one view only"):
        (view,) = load_views("one")
    ids = pixels("one/ids.png")
    assert ids.dtype == np.uint16
    assert np.array_equal(ids, view.ids.numpy())
    names = {int(number): entry["path"] for number, entry in json.loads((folder / "one/ids.json").read_text()).items()}
    assert {names[i] for i in np.unique(ids) if i} == {"board", "set", "cube"}  # level 1: the set is one thing
    depth = np.load("one/depth.npy")
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth == 0, ids == 0)
    np.testing.assert_array_equal(view.depth.nan_to_num(0).numpy(), depth)
    np.testing.assert_allclose(pixels("one/depth.png") / 1000, depth, atol=6e-4)
    assert view.time == 1.0


def test_a_single_png_says_its_camera_in_the_summary(folder):
    view = ["camera.eye=0,-2,1", "camera.width=40", "camera.height=30"]
    assert main(["render", "scene=a.scene", "out=p.png", "summary=p.json", *view]) == 0
    frame = {"file_path": "p.png", **json.loads((folder / "p.json").read_text())["camera"]}
    (folder / "transforms.json").write_text(json.dumps({"frames": [frame]}))
    with pytest.warns(UserWarning, match="one view only"):
        camera = load_views(folder)[0].camera
    torch.testing.assert_close(camera.position_world, torch.tensor([0.0, -2, 1], dtype=torch.float64))
    assert (camera.width, camera.height) == (40, 30)


def test_bop_poses_put_the_model_where_the_picture_shows_it(folder):
    assert main(["render", "scene=a.scene", "out=bop", "dataset=bop", "clip=both", *FILM]) == 0
    graph, views, frames = truth()
    gt, info, cameras, objects = (
        json.loads((folder / f"bop/{name}.json").read_text())
        for name in ("scene_gt", "scene_gt_info", "scene_camera", "objects")
    )
    assert list(gt) == list(info) == list(cameras) == ["0", "1", "2"]
    # equal fields of different sizes are different models
    assert sorted(sorted(entry["paths"]) for entry in objects.values()) == [
        ["board"],
        ["cube"],
        ["set/big"],
        ["set/red"],
    ]
    for k, ((time, camera), frame) in enumerate(zip(views, frames, strict=True)):
        K = np.array(cameras[str(k)]["cam_K"]).reshape(3, 3)
        depth_mm = pixels(f"bop/depth/{k:06d}.png") * cameras[str(k)]["depth_scale"]
        known = torch.isfinite(frame.depth).numpy()
        np.testing.assert_allclose(depth_mm[known], 1000 * frame.depth.numpy()[known], atol=0.6)
        R_w2c, t_w2c = np.array(cameras[str(k)]["cam_R_w2c"]).reshape(3, 3), np.array(cameras[str(k)]["cam_t_w2c"])
        np.testing.assert_allclose(-R_w2c.T @ t_w2c / 1000, camera.position_world, atol=1e-9)
        for n, (entry, about) in enumerate(zip(gt[str(k)], info[str(k)], strict=True)):
            (path,) = objects[str(entry["obj_id"])]["paths"]
            instance = next(i for i in graph.at(time).instances if i.name == path)
            visible = pixels(f"bop/mask_visib/{k:06d}_{n:06d}.png") > 0
            whole = pixels(f"bop/mask/{k:06d}_{n:06d}.png") > 0
            owner = (
                graph.at(time).instances[int(frame.owner[torch.from_numpy(visible)][0])].name if visible.any() else path
            )
            assert owner == path
            assert not (visible & ~whole).any()
            assert about["px_count_visib"] == visible.sum()
            if not visible.any():
                continue
            # A pixel of the visible part, by K and depth alone, lies on the surface of the model (BOP counts from pixel centres).
            v, u = visible.nonzero()
            z = depth_mm[v, u]
            p_cam = np.stack([(u - K[0, 2]) * z / K[0, 0], (v - K[1, 2]) * z / K[1, 1], z], 1)
            R, t = np.array(entry["cam_R_m2c"]).reshape(3, 3), np.array(entry["cam_t_m2c"])
            p_model = torch.from_numpy((p_cam - t) @ R / 1000)
            sdf = instance.scale * instance.field(p_model / instance.scale).sdf
            assert sdf.abs().max() < 1.5e-3
            assert about["px_count_all"] == whole.sum()
            assert about["px_count_valid"] == (whole & (depth_mm > 0)).sum()
            assert about["visib_fract"] == pytest.approx(visible.sum() / whole.sum())
            x, y, w, h = about["bbox_obj"]
            assert whole[y : y + h, x : x + w].sum() == whole.sum()
            assert whole[y, x : x + w].any() and whole[y + h - 1, x : x + w].any()
            assert whole[y : y + h, x].any() and whole[y : y + h, x + w - 1].any()
    assert any(about["visib_fract"] < 1 for entries in info.values() for about in entries)


def test_bop_lists_what_is_hidden_with_an_empty_visible_part(folder):
    graph = SceneGraph()
    graph.add("wall", Box((2.0, 0.1, 2.0)), pose=SE3.from_translation([0.0, 0.0, 0.0]))
    graph.add("behind", Sphere(0.2), pose=SE3.from_translation([0.0, 1.0, 0.0]))
    save_scene(graph, "wall.scene")
    view = ["camera.eye=0,-3,0", "camera.target=0,0,0", "camera.width=40", "camera.height=30", "fps=1", "seconds=1"]
    assert main(["render", "scene=wall.scene", "out=w/", "dataset=bop", "clip=time", *view]) == 0
    hidden = json.loads((folder / "w/scene_gt_info.json").read_text())["0"][1]
    assert hidden["px_count_visib"] == hidden["visib_fract"] == 0 < hidden["px_count_all"]
    assert hidden["bbox_visib"] == [-1, -1, -1, -1]


def decoded(segmentation) -> np.ndarray:
    """COCO's run lengths as a mask, by the words of its specification."""
    h, w = segmentation["size"]
    flat, value = [], 0
    for count in segmentation["counts"]:
        flat += [value] * count
        value = 1 - value
    return np.array(flat, dtype=bool).reshape(w, h).T


def test_coco_masks_boxes_and_categories_are_those_of_the_picture(folder):
    assert main(["render", "scene=a.scene", "out=coco", "dataset=coco", "clip=both", *FILM]) == 0
    graph, views, frames = truth()
    data = json.loads((folder / "coco/annotations.json").read_text())
    assert [image["file_name"] for image in data["images"]] == [f"images/{k:06d}.png" for k in range(3)]
    assert len({a["id"] for a in data["annotations"]}) == len(data["annotations"]) >= 9
    categories = {entry["id"]: entry["name"] for entry in data["categories"]}
    names = {int(number): e["path"] for number, e in json.loads((folder / "coco/ids.json").read_text()).items()}
    for annotation in data["annotations"]:
        k = annotation["image_id"] - 1
        path = names[annotation["instance_id"]]
        # the first tag, else the name of the first thing of this shape
        wanted = {"board": "furniture", "set/red": "ball", "set/big": "red", "cube": "cube"}[path]
        assert categories[annotation["category_id"]] == wanted
        owner = [i.name for i in graph.at(views[k][0]).instances].index(path)
        mask = decoded(annotation["segmentation"])
        assert np.array_equal(mask, (frames[k].owner == owner).numpy())
        assert annotation["area"] == mask.sum()
        x, y, w, h = annotation["bbox"]
        rows, columns = mask.nonzero()
        assert (x, y, x + w - 1, y + h - 1) == (columns.min(), rows.min(), columns.max(), rows.max())
        assert annotation["iscrowd"] == 0


def test_run_lengths_begin_with_zeros_and_go_down_the_columns():
    mask = torch.tensor([[1, 0, 0], [1, 0, 1]], dtype=torch.bool)
    assert run_lengths(mask) == {"size": [2, 3], "counts": [0, 2, 3, 1]}
    assert run_lengths(~mask) == {"size": [2, 3], "counts": [2, 3, 1]}
    assert run_lengths(torch.zeros(2, 2, dtype=torch.bool)) == {"size": [2, 2], "counts": [4]}
    assert bounding_box(mask) == [0, 0, 3, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out=x/", "dataset=bob"], "did you mean 'bop'"),
        (["out=x.mp4", "dataset=bop"], "folder that ends in /"),
        (["out=x/", "dataset=coco", "layers=ids"], "leave it out"),
        (["out=x/y/", "dataset=bop", "level=1"], "expected level=0"),
        (["out=a.scene/x", "dataset=bop"], "outside the scene"),
        (["out=x.mp4", "layers=ids"], "dataset=nerfstudio"),
        (["out=x.png", "layers=depth_npy"], "ends in .npy"),
        (["out=x.png", "layers=onwer"], "did you mean 'owner'"),
        (["out=x.mp4", "clip=orbti"], "did you mean 'orbit'"),
    ],
)
def test_a_mistake_is_one_line_and_makes_nothing(folder, capsys, arguments, message):
    before = sorted(folder.rglob("*"))
    assert main(["render", "scene=a.scene", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1
    assert sorted(folder.rglob("*")) == before
