import numpy as np

from scenes.video.maps import measure
from scenes.video.parting import keep_together
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
