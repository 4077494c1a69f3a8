"""What is one thing, what bends and what isn't explained, on hand-made labels and poses: a plane at 1 m seen from the front."""

import numpy as np
import pytest

from scenes.video.bending import bending_groups, is_bending, join_still, unexplained_things
from scenes.video.maps import Maps
from scenes.video.state import State

F, H, W = 12, 60, 320
NOTHING = np.zeros((F, H, W), bool)


def state_of(ids, to_cam=None, have=None, cost=None, depth=None, flow=(0.0, 0.0)):
    """A state whose frames say nothing but depth, labels and an even flow; a pixel at 1 m is 1 cm wide."""
    depth = np.ones((F, H, W), np.float32) if depth is None else depth
    normal = np.zeros((F, H, W, 3), np.float32)
    normal[..., 2] = -1
    flows = np.broadcast_to(np.array([flow, flow], np.float32)[:, None, None, None], (2, F, H, W, 2))
    blank = np.zeros((F, H, W, 3), np.float32)
    lens, noise = np.array([100.0, 100.0, W / 2, H / 2]), np.zeros(2)
    maps = Maps(depth, normal, blank, np.zeros((F, H, W, 3, 2), np.float32), flows, blank, NOTHING, lens, noise)
    k = 1 + int(ids.max())
    to_cam = np.tile(np.eye(4), (k, F, 1, 1)) if to_cam is None else to_cam
    have = np.ones((k, F), bool) if have is None else have
    cost = np.zeros((F, k, H, W), np.float32) if cost is None else cost
    refs = np.zeros((F, 1), np.int64)
    ids, shown = ids.astype(np.int32), np.zeros(cost.shape, bool)
    return State(maps, refs, to_cam, have, cost, ids, have.astype(float), np.zeros(0), NOTHING.copy(), shown)


# -- parts that stand still ----------------------------------------------------------------------------------------------


@pytest.fixture
def around():
    """Something that bends about a part of 10 x 8 pixels that stands still, and the labels of its state."""
    masks, part = NOTHING.copy(), NOTHING.copy()
    masks[:, 15:45, 20:50] = True
    part[:, 25:35, 30:38] = True
    return masks & ~part, part


def test_a_still_part_within_what_bends_is_a_part_of_it(around):
    masks, part = around
    np.testing.assert_array_equal(
        join_still(state_of(np.zeros((F, H, W))), masks, NOTHING | ~(masks | part)), masks | part
    )


def test_a_plane_within_what_bends_is_no_part_of_it(around):
    masks, _ = around
    np.testing.assert_array_equal(join_still(state_of(np.zeros((F, H, W))), masks, ~masks), masks)


def test_what_is_seen_behind_what_bends_is_no_part_of_it(around):
    masks, part = around
    depth = np.where(part, 1.5, 1).astype(np.float32)
    state = state_of(np.zeros((F, H, W)), depth=depth)
    np.testing.assert_array_equal(join_still(state, masks, NOTHING | ~(masks | part)), masks)


def test_a_still_part_is_smaller_than_what_bends(around):
    masks, part = around
    large = NOTHING.copy()
    large[:, 18:42, 23:47] = True
    np.testing.assert_array_equal(
        join_still(state_of(np.zeros((F, H, W))), masks & ~large, ~(masks | part | large)), masks & ~large
    )


# -- what no track explains ----------------------------------------------------------------------------------------------


def moves(frames, width=20, cost=0.9):
    """A state in which a region that goes on by two pixels a frame isn't explained in some frames."""
    costs = np.zeros((F, 1, H, W), np.float32)
    for t in range(*frames):
        costs[t, 0, 20:40, 10 + 2 * t : 10 + 2 * t + width] = cost
    return state_of(np.zeros((F, H, W)), cost=costs, flow=(2.0, 0.0))


def test_what_is_seen_through_for_some_frames_is_one_thing():
    (thing,) = unexplained_things(moves((2, 8)), NOTHING)
    np.testing.assert_array_equal(thing.any((1, 2)), (np.arange(F) >= 2) & (np.arange(F) < 8))
    assert thing[5, 20:40, 20:40].all() and not thing[5, :15].any()


@pytest.mark.parametrize(
    "state",
    [moves((2, 5)), moves((2, 8), width=4), moves((2, 8), cost=0.4)],
    ids=["brief", "thin", "of another colour only"],
)
def test_rims_and_shadows_are_no_things(state):
    assert unexplained_things(state, NOTHING) == []


def test_what_belongs_to_a_thing_isnt_another_one():
    assert unexplained_things(moves((2, 8)), ~NOTHING) == []


@pytest.mark.parametrize(("share", "bends"), [(0.05, False), (0.3, True)])
def test_a_thing_bends_if_its_motion_leaves_much_of_it_unexplained(share, bends):
    ids, cost = np.zeros((F, H, W)), np.zeros((F, 2, H, W), np.float32)
    ids[:, 20:40, 20:60] = 1
    cost[:, :, 20:40, 20 : 20 + round(40 * share)] = 0.9
    assert is_bending(state_of(ids, cost=cost), [1]) == bends


# -- one thing or two ----------------------------------------------------------------------------------------------------


def pushed(comes):
    """Two tracks that go to the right side by side from frame 6 on, where the second begins; before, the first comes or rests."""
    to_cam, ids = np.tile(np.eye(4), (3, F, 1, 1)), np.zeros((F, H, W))
    have = np.ones((3, F), bool)
    have[2] = np.arange(F) >= 6
    for t in range(F):
        first = 10 + 3 * t if comes else 10 + 3 * max(t, 6)
        to_cam[1, t, 0, 3], to_cam[2, t, 0, 3] = 0.01 * first, 0.01 * (22 + 3 * max(t, 6))
        ids[t, 20:40, first : first + 12] = 1
        if have[2, t]:
            ids[t, 20:40, first + 12 : first + 24] = 2
    return state_of(ids, to_cam, have)


def test_what_comes_to_a_thing_that_rests_is_another_thing():
    groups, _ = bending_groups(pushed(comes=True), [1, 2])
    assert groups == [[1], [2]]


def test_what_is_beside_a_thing_all_the_time_is_a_part_of_it():
    state = pushed(comes=False)
    groups, (mask,) = bending_groups(state, [1, 2])
    assert groups == [[1, 2]]
    np.testing.assert_array_equal(mask, state.ids > 0)
