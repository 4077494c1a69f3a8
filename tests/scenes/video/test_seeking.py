"""Tracks are sought by their own shape where they aren't known."""

import numpy as np

from scenes.video.maps import measure
from scenes.video.rigid import inverse
from scenes.video.seeking import seek
from scenes.video.state import FAILS, State
from tests.scenes.video.clips import at, clip_of_boxes, looking

N, HALF = 12, np.array([0.06, 0.04, 0.04])
CAMERAS = np.stack([looking((0.3, -0.5, 0.45))] * N)
FRAMES = np.arange(N)


def state_of(boxes, known):
    """The first of some boxes as a track that is known in some frames; its ids and its true poses before the camera."""
    clip, ids = clip_of_boxes(boxes, CAMERAS)
    state = State.start(measure(clip.rgb, clip.depth, clip.lens), inverse(CAMERAS))
    to_cam = inverse(CAMERAS) @ boxes[0][1]
    mine = (ids == 1) & known[:, None, None]
    state.add(np.where(known[:, None, None], to_cam, np.eye(4)), known, mine)
    state.ids = np.where(mine, 1, state.ids)
    return state, ids == 1, to_cam


def errors(state, true):
    """Metres and degrees by which the poses of track 1 are off."""
    T = inverse(true) @ state.to_cam[1]
    turn = np.degrees(np.arccos(np.clip((np.trace(T[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1)))
    return np.linalg.norm(T[:, :3, 3], axis=1), turn


def test_a_thing_that_bounced_is_found_again_by_its_shape():
    """It slides, then is elsewhere, turned; the track ends in between."""
    poses = np.stack(
        [at(-0.12 + 0.02 * t, 0, 0.04) if t < 6 else at(0.0 + 0.01 * (t - 6), 0.12, 0.04, 0.4) for t in FRAMES]
    )
    state, mine, true = state_of([(HALF, poses)], FRAMES < 6)
    assert seek(state)
    assert state.have[1].all()
    far, turn = errors(state, true)
    assert far.max() < 0.006 and turn.max() < 4
    found = state.ids == 1
    assert ((found & mine).sum((1, 2)) > 0.8 * (found | mine).sum((1, 2))).all()
    assert not seek(state)  # nothing is left to be sought


def test_what_moves_late_is_found_where_it_rested_though_its_old_place_is_never_seen_again():
    """Something stands before the place that it left, so nothing says that it isn't a part of the still world."""
    poses = np.stack([at(-0.1 + 0.04 * max(0, t - 6), 0, 0.04) for t in FRAMES])
    hides = np.stack([at(-0.02 - 0.03 * max(0, 8 - t), -0.13, 0.1) for t in FRAMES])
    state, mine, true = state_of([(HALF, poses), (np.array([0.08, 0.02, 0.1]), hides)], FRAMES > 8)
    assert (state.cost[:4, 0][mine[:4]] < FAILS).mean() > 0.9
    assert seek(state)
    visible = mine.sum((1, 2)) > 60
    assert visible[:4].all() and state.have[1][visible].all()
    assert errors(state, true)[0][visible].max() < 0.006
    found = state.ids == 1
    assert ((found & mine)[:4].sum((1, 2)) > 0.6 * mine[:4].sum((1, 2))).all()


def test_a_thing_that_left_is_not_found():
    """Another box, of the same size and other colours, stands where it was."""
    gone = np.stack([at(-0.12 + 0.02 * t, 0, 0.04) if t < 6 else at(5, 5, 0.04) for t in FRAMES])
    other = np.stack([at(0.05, 0.1, 0.04) if t > 6 else at(5, 5, 0.04) for t in FRAMES])
    state, _, _ = state_of([(HALF, gone), (HALF, other)], FRAMES < 6)
    assert not seek(state)
    np.testing.assert_array_equal(state.have[1], FRAMES < 6)
