import numpy as np

from scenes.video.state import join_tops, remove_islands


def test_small_parts_far_from_a_track_go_to_what_surrounds_them():
    ids = np.zeros((20, 30), np.int32)
    ids[5:15, 3:13] = 1
    ids[5:8, 20:22] = 1  # 6 pixels of 100
    ids[10:14, 18:28] = 2
    ids[12, 22] = 1  # within another track
    remove_islands(ids)
    assert (ids == 1).sum() == 100
    assert ids[6, 20] == 0 and ids[12, 22] == 2


def test_a_large_second_part_is_believed():
    """Something stands before the middle of a thing."""
    ids = np.zeros((10, 30), np.int32)
    ids[2:8, 2:10] = 1
    ids[2:8, 10:14] = 2
    ids[2:8, 14:20] = 1
    before = ids.copy()
    remove_islands(ids)
    np.testing.assert_array_equal(ids, before)


def test_what_hangs_in_space_on_one_track_is_a_side_of_it_unless_its_motion_speaks_against():
    ids = np.zeros((30, 40), np.int32)
    depth = np.full((30, 40), 2.0, np.float32)
    depth[10:20, 10:30] = 1.0
    ids[14:20, 10:30] = 1  # the front; above it the top, which nothing tells from the still world
    cost = np.zeros((2, 30, 40), np.float32)
    cost[1] = 0.02
    found = ids.copy()
    join_tops(found, cost, depth)
    assert (found[10:20, 10:30] == 1).all() and (found == 1).sum() == 200
    cost[1, 10:14, 10:30] = 0.6
    kept = ids.copy()
    join_tops(kept, cost, depth)
    np.testing.assert_array_equal(kept, ids)
