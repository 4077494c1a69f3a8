import numpy as np
import pytest
import torch

from objects import Box
from rendering import AmbientLight, DirectionalLight, render
from scenes.video import Clip
from scenes.video.decomposition import Decomposition, FoundObject
from scenes.video.looks import camera_at, composite_at, look
from scenes.video.shapes import Part, Shaped
from scenes.video.sunlight import Sun, find_sun, without_light
from tests.scenes.video.clips import FOCAL, HEIGHT, WIDTH, at, looking

N = 6
TOWARD = np.array([0.5, 0.3, 0.8]) / np.linalg.norm([0.5, 0.3, 0.8])
FLOOR_RGB, BOX_RGB = (0.55, 0.6, 0.5), (0.6, 0.35, 0.3)


def shapes():
    poses = np.stack([at(-0.12 + 0.05 * t, 0.02 * t, 0.12, 0.5 * t) for t in range(N)])
    every = np.ones(N, bool)
    floor = Part(0, "background", True, np.stack([at(0, 0, -0.05)] * N), every, every)
    moving = Part(1, "object_1", True, poses, every, every)
    return [Shaped(floor, Box((1.5, 1.5, 0.1), color=FLOOR_RGB)), Shaped(moving, Box((0.12, 0.1, 0.08), color=BOX_RGB))]


def filmed(lights):
    """Exact shapes, their clip in some light, and what is known of its motion."""
    made = shapes()
    cameras = np.stack([looking((0.35, -0.5, 0.55))] * N)
    lens = np.array([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2])
    blank = Clip(
        np.zeros((N, HEIGHT, WIDTH, 3), np.uint8),
        np.ones((N, HEIGHT, WIDTH), np.float32),
        lens,
        np.arange(N) / 10,
        cameras,
    )
    ids = np.zeros((N, HEIGHT, WIDTH), np.uint8)
    thing = FoundObject(1, "object_1", True, tuple(made[1].part.T_world_obj), np.ones(N))
    found = Decomposition(ids, (thing,), cameras, (), ())
    rgb, depth = [], []
    for t in range(N):
        scene = composite_at(made, t)
        lit = type(scene)([type(i)(i.name, i.field, i.T_world_obj) for i in scene.instances])
        frame = render(lit, camera_at(blank, found, t), lights=lights, progress=False)
        rgb.append((frame.rgb.numpy() * 255).round().astype(np.uint8))
        depth.append(frame.depth.nan_to_num(posinf=0.0).numpy())
        ids[t] = frame.owner.numpy() == 1
    return made, Clip(np.stack(rgb), np.stack(depth), lens, blank.times, cameras), found


@pytest.fixture(scope="module")
def sunny():
    return filmed([AmbientLight(intensity=0.4), DirectionalLight(tuple(-TOWARD), intensity=0.8)])


def test_the_light_is_found_by_its_shadows_and_colours_are_what_they_are_without(sunny):
    made, clip, found = sunny
    seen = look(clip, found, made)
    sun = find_sun(made, seen)
    assert sun is not None and sun.explains > 0.8
    assert np.degrees(np.arccos(min(1.0, float(sun.toward @ TOWARD)))) < 3
    assert float(sun.direct.mean() / sun.everywhere.mean()) == pytest.approx(2.0, rel=0.15)
    bare = without_light(made, seen, sun, np.zeros(2, bool))
    for part, rgb in ((0, FLOOR_RGB), (1, BOX_RGB)):
        mine = bare.rgb[bare.part == part]
        assert np.quantile(np.abs(mine - np.median(mine, 0)).max(1), 0.9) < 0.03
        ratio = np.median(mine, 0) / rgb
        assert np.ptp(ratio) < 0.05  # one factor of brightness can't be told


def test_even_light_is_no_light_from_one_direction():
    made, clip, found = filmed([AmbientLight(intensity=0.9)])
    assert find_sun(made, look(clip, found, made)) is None


def test_the_lights_of_a_scene_are_those_that_were_found():
    sun = Sun(TOWARD, np.array([0.8, 0.7, 0.6]), np.array([0.3, 0.35, 0.4]), 0.5)
    normal = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    got = sum(light.irradiance(torch.zeros(1, 3, dtype=torch.float64), normal) for light in sun.lights())
    assert np.abs(got.numpy() - (sun.everywhere + sun.toward[2] * sun.direct)).max() < 1e-6
