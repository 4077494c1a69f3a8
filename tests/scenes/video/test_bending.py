from dataclasses import replace

import numpy as np
import pytest

from scenes.video.bending import bending_groups, join_still
from scenes.video.decomposition import decompose
from scenes.video.maps import measure
from scenes.video.rigid import inverse
from scenes.video.state import State
from tests.scenes.video.clips import at, clip_of_boxes, looking

HALF = np.array([0.05, 0.03, 0.03])
N = 10
CAMERAS = np.stack([looking((0.3, -0.5, 0.45))] * N)


def hinge(t: int) -> list[np.ndarray]:
    """Two boxes that slide along, the one turning about the end of the other."""
    x, angle = -0.14 + 0.012 * t, 0.09 * t
    end = np.array([x + 0.05, 0.0])
    middle = end + 0.05 * np.array([np.cos(angle), np.sin(angle)])
    return [at(x, 0, 0.03), at(middle[0], middle[1], 0.03, angle)]


@pytest.fixture(scope="module")
def hinged():
    poses = [np.stack(p) for p in zip(*(hinge(t) for t in range(N)), strict=True)]
    clip, ids = clip_of_boxes([(HALF, poses[0]), (HALF, poses[1])], CAMERAS)
    return clip, ids, decompose(clip)


def test_parts_whose_seam_stays_closed_are_one_thing_that_bends(hinged):
    _, ids, found = hinged
    (thing,) = found.objects
    assert not thing.rigid
    mine, true = found.ids == thing.id, ids > 0
    assert (mine & true).sum() / (mine | true).sum() > 0.85


def test_what_bends_is_followed_by_its_middle(hinged):
    _, _, found = hinged
    (thing,) = found.objects
    poses = np.stack(thing.poses)
    np.testing.assert_allclose(poses[:, :3, :3], np.broadcast_to(np.eye(3), (N, 3, 3)), atol=1e-9)
    assert 0.07 < poses[-1, 0, 3] < 0.14


def test_what_bends_moves_in_the_upright_world_of_found_cameras(hinged):
    clip = replace(hinged[0], cameras=None)
    (thing,) = decompose(clip).objects
    go = thing.poses[-1][:3, 3]
    assert abs(go[2]) < 0.015
    assert 0.07 < np.linalg.norm(go) < 0.14


def tracked(boxes, known):
    """Boxes as tracks with their true poses and pixels, in the frames in which each is known."""
    clip, ids = clip_of_boxes(boxes, CAMERAS)
    state = State.start(measure(clip.rgb, clip.depth, clip.lens), inverse(CAMERAS))
    for k, (_, poses) in enumerate(boxes, 1):
        state.add(inverse(CAMERAS) @ poses, known[k - 1], ids == k)
        state.ids = np.where((ids == k) & known[k - 1][:, None, None], k, state.ids)
    return state


PUSHES = np.stack([at(-0.11 + 0.025 * (t - 5), 0, 0.03) for t in range(N)])
PUSHED = np.stack([at(-0.009 + 0.025 * max(0, t - 5), 0, 0.03) for t in range(N)])


def test_a_thing_and_what_it_pushes_are_two():
    """The one comes to the other, which rests until then: they touch, and move alike, in all frames in which the other moves."""
    late = np.arange(N) >= 5
    state = tracked([(HALF, PUSHES), (HALF, PUSHED)], [np.ones(N, bool), late])
    assert bending_groups(state, [1, 2])[0] == [[1], [2]]


def test_two_that_were_never_seen_apart_are_one():
    late = np.arange(N) >= 5
    state = tracked([(HALF, PUSHES), (HALF, PUSHED)], [late, late])
    groups, masks = bending_groups(state, [1, 2])
    assert groups == [[1, 2]]
    np.testing.assert_array_equal(masks[0], state.ids > 0)


def test_a_still_part_within_something_that_bends_belongs_to_it_unless_it_is_on_a_plane_or_large():
    class Frames:
        depth = np.full((1, 40, 60), 2.0, np.float32)

    class Seen:
        maps, ids = Frames, np.zeros((1, 40, 60), np.int32)

    thing = np.zeros((1, 40, 60), bool)
    thing[0, 5:35, 10:40] = True
    Frames.depth[0, 5:35, 10:40] = 1.0
    mask = thing.copy()
    mask[0, 15:25, 20:30] = False  # 100 pixels of 900 stand still
    planes = ~thing
    np.testing.assert_array_equal(join_still(Seen, mask, planes), thing)
    on_plane = planes.copy()
    on_plane[0, 15:25, 20:30] = True
    np.testing.assert_array_equal(join_still(Seen, mask, on_plane), mask)
    mask[0, 8:32, 13:37] = False  # 576 of 900
    np.testing.assert_array_equal(join_still(Seen, mask, planes), mask)
