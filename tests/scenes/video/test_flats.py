import numpy as np
import pytest

from scenes.video.camera import points_of
from scenes.video.flats import plane_pixels, upright
from scenes.video.maps import measure
from scenes.video.rigid import inverse
from scenes.video.state import State
from tests.scenes.video.clips import at, clip_of_boxes, looking

HALF = np.array([0.08, 0.05, 0.05])
CAMERAS = np.stack([looking((0.3 + 0.02 * t, -0.5, 0.45)) for t in range(3)])


@pytest.fixture(scope="module")
def still():
    """A box that stands on the floor, in the world of the first camera."""
    clip, ids = clip_of_boxes([(HALF, np.stack([at(0, 0, 0.05)] * 3))], CAMERAS)
    maps = measure(clip.rgb, clip.depth, clip.lens)
    return State.start(maps, inverse(inverse(CAMERAS[0]) @ CAMERAS)), ids


def test_the_floor_is_a_plane_and_boxes_are_none(still):
    state, ids = still
    on = plane_pixels(state)
    y, x = np.indices(ids.shape[1:])
    points = points_of(state.maps, 0, y, x) @ CAMERAS[0, :3, :3].T + CAMERAS[0, :3, 3]
    floor = (ids[0] == 0) & (state.maps.depth[0] > 0)
    assert on[0][floor].mean() > 0.8
    assert not on[0][points[..., 2] > 0.08].any()


def test_the_floor_tells_what_is_up(still):
    T, level = upright(still[0])
    assert level
    first = T @ inverse(still[0].to_cam[0, 0])
    np.testing.assert_allclose(first[:3, 3], [0, 0, 0.45], atol=2e-3)
    np.testing.assert_allclose(first[:3, :3].T @ [0, 0, 1], CAMERAS[0, :3, :3].T @ [0, 0, 1], atol=5e-3)
    assert abs(first[0, 2]) < 1e-9
    assert first[1, 2] > 0.5


def test_without_a_level_plane_up_is_how_cameras_are_held():
    wall = looking((0, 0, 0), (0, 1, 0))
    clip, _ = clip_of_boxes([(np.array([2, 0.1, 2]), np.stack([at(0, 1, 0)] * 2))], np.stack([wall] * 2))
    state = State.start(measure(clip.rgb, clip.depth, clip.lens), np.stack([np.eye(4)] * 2))
    T, level = upright(state)
    assert not level
    np.testing.assert_allclose(T[:3, :3], wall[:3, :3], atol=1e-9)
    np.testing.assert_allclose(T[:3, 3], 0, atol=1e-12)
