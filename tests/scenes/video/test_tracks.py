import numpy as np

from scenes.video.maps import measure
from scenes.video.rigid import inverse
from scenes.video.state import State
from scenes.video.tracks import join_world
from tests.scenes.video.clips import at, clip_of_boxes, looking

N, HALF = 7, np.array([0.05, 0.05, 0.05])
DRIFT = np.stack([at(0.006 * t, 0, 0) for t in range(N)])


def state_of(plain, moves):
    """A box on a floor, seen by a camera that goes by; whether the floor has one colour, and whether the box moves."""
    poses = DRIFT @ at(0, 0, 0.05) if moves else np.stack([at(0, 0, 0.05)] * N)
    cameras = np.stack([looking((0.3 + 0.01 * t, -0.5, 0.45)) for t in range(N)])
    clip, ids = clip_of_boxes([(HALF, poses)], cameras)
    if plain:
        clip.rgb[ids == 0] = 128
    state = State.start(measure(clip.rgb, clip.depth, clip.lens), inverse(cameras))
    state.add(inverse(cameras) @ poses, np.ones(N, bool), ids == 1)
    state.ids = np.where(ids == 1, 1, state.ids)
    return state, inverse(cameras)


def test_what_rests_on_a_plain_floor_tells_how_the_camera_goes():
    state, true = state_of(plain=True, moves=False)
    state.to_cam[0] = true @ DRIFT  # the floor looks the same
    state.recost(0)
    assert join_world(state)
    assert len(state.to_cam) == 1
    apart = np.linalg.norm((inverse(state.to_cam[0]) - inverse(true))[:, :3, 3], axis=1)
    assert apart.max() < 0.002


def test_a_thing_that_moves_is_no_part_of_a_world_with_colours():
    state, true = state_of(plain=False, moves=True)
    assert not join_world(state)
    np.testing.assert_array_equal(state.to_cam[0], true)
    assert len(state.to_cam) == 2


def test_of_two_tracks_that_move_alike_the_one_known_in_fewer_frames_costs_more():
    state, _ = state_of(plain=False, moves=True)
    have = np.arange(N) < 3
    state.add(state.to_cam[1], have, state.ids == 1)
    fair, box = state.fair_cost(), state.ids[:3] == 1
    assert (fair[:3, 1][box] <= fair[:3, 2][box]).mean() > 0.9
    assert fair[:3, 1][box].mean() + 0.03 < fair[:3, 2][box].mean()
    np.testing.assert_array_equal(fair[:, :2], state.cost[:, :2])
