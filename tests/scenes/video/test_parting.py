from types import SimpleNamespace

import numpy as np

from scenes.video.maps import measure
from scenes.video.parting import join_sides, keep_together
from scenes.video.rigid import inverse
from scenes.video.state import State
from tests.scenes.video.clips import at, clip_of_boxes, looking


def test_what_lies_apart_from_a_thing_is_no_part_of_it():
    half, poses = np.array([0.05, 0.05, 0.04]), np.stack([at(-0.04 + 0.015 * t, 0, 0.04) for t in range(4)])
    cameras = np.stack([looking((0.35, -0.5, 0.45))] * 4)
    clip, ids = clip_of_boxes([(half, poses)], cameras)
    state = State.start(measure(clip.rgb, clip.depth, clip.lens), inverse(cameras))
    state.add(inverse(cameras) @ poses, np.ones(4, bool), ids == 1)
    state.ids = np.where(ids == 1, 1, np.minimum(ids, 0)).astype(np.int32)
    state.ids[:, 4:9, 80:90] = 1  # some floor, far behind
    keep_together(state)
    np.testing.assert_array_equal(state.ids == 1, ids == 1)


def test_a_side_that_shows_only_at_rest_joins_what_is_about_it_unless_its_motion_speaks_against():
    ids = np.zeros((1, 40, 60), np.int32)
    ids[0, 10:30, 10:40] = 1
    ids[0, 20:30, 30:40] = 0  # a lower corner, on the floor
    planes = np.ones((1, 40, 60), bool)
    planes[0, 10:30, 10:40] = False
    cost = np.zeros((1, 2, 40, 60), np.float32)

    class Seen:
        n_frames = 1
        maps = SimpleNamespace(depth=np.ones((1, 40, 60), np.float32))

        def __init__(self, added):
            self.ids = ids.copy()
            self.added = cost + np.array([0, added], np.float32)[:, None, None]

        def fair_cost(self):
            return self.added

    rests, moves = Seen(0.08), Seen(0.5)
    for state in (rests, moves):
        join_sides(state, planes)
    np.testing.assert_array_equal(rests.ids > 0, ~planes)
    np.testing.assert_array_equal(moves.ids, ids)
    on_floor = Seen(0.08)
    join_sides(on_floor, planes | (ids == 0))
    np.testing.assert_array_equal(on_floor.ids, ids)
