"""The example that draws posed pictures: what it writes can be read, and is what it says."""

import json

import igl
import numpy as np
import pytest
import torch
import trimesh

from objects import SE3
from rendering import load_views
from rendering.rasterize import egl_available

if reason := egl_available():
    pytest.skip(f"examples.posed draws by pyrender: {reason}", allow_module_level=True)


def farthest(p, mesh) -> float:
    p, v = np.asarray(p, np.float64), np.asarray(mesh.vertices)
    return float(np.sqrt(igl.point_mesh_squared_distance(p, v, np.asarray(mesh.faces))[0]).max())


def test_the_folders_fit_together(tmp_path, monkeypatch):
    from examples import posed

    monkeypatch.setattr(posed, "N_TEST", 2)
    files = []
    for i in range(2):
        mesh = trimesh.creation.icosphere(subdivisions=2) if i else trimesh.creation.box((1, 2, 1))
        mesh.visual.vertex_colors = [200, 60 * i, 30, 255]
        mesh.export(tmp_path / f"{i}.ply")
        files.append(str(tmp_path / f"{i}.ply"))
    posed.make(tmp_path / "shots", files, n_train=3)
    views, test = load_views(tmp_path / "shots"), load_views(tmp_path / "shots", split="test")
    moved = load_views(tmp_path / "shots_moved")
    assert (len(views), len(test), len(moved)) == (3, 2, 2)
    assert views[0].ids.unique().tolist() == [0, 1, 2]
    # The measured points of a thing lie on the mesh of the truth.
    cloud = views.points()
    truth = trimesh.load(tmp_path / "shots_truth" / "2.ply", force="mesh")
    p = cloud.p_world[cloud.ids == 2].numpy()
    assert farthest(p, truth) < 1e-3
    # What was moved stands where the truth says.
    facts = json.loads((tmp_path / "shots_truth" / "truth.json").read_text())
    assert facts["moved"] == 2
    change = SE3.from_matrix(torch.tensor(facts["T_new_old"], dtype=torch.float64))
    away = change.inverse() @ moved.points().p_world[moved.points().ids == 2].double()
    assert farthest(away.numpy(), truth) < 1e-3
