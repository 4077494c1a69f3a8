"""Tracks and similarity transforms, against `SE3` and by their own laws."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objects import SE3
from scenes import Track
from scenes.track import Sim3, quat_of, slerp, unit_quat, vec_of


def random_sim(seed: int) -> Sim3:
    rng = np.random.default_rng(seed)
    return Sim3(unit_quat(rng.normal(size=4)), tuple(rng.normal(size=3)), float(rng.uniform(0.2, 3)))


def matrix(sim: Sim3) -> np.ndarray:
    m = sim.pose().as_matrix().numpy().copy()
    m[:3, :3] *= sim.scale
    return m


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_similarities_compose_and_invert_like_matrices(seed):
    a, b = random_sim(seed), random_sim(seed + 1)
    np.testing.assert_allclose(matrix(a @ b), matrix(a) @ matrix(b), atol=1e-12)
    np.testing.assert_allclose(matrix(a.inverse()) @ matrix(a), np.eye(4), atol=1e-12)
    p = (0.3, -1.2, 2.0)
    np.testing.assert_allclose(a.apply(p), (matrix(a) @ [*p, 1])[:3], atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(-1, 5))
def test_a_track_interpolates_like_se3(seed, time):
    rng = np.random.default_rng(seed)
    poses = SE3(torch.from_numpy(rng.normal(size=(4, 4))), torch.from_numpy(rng.normal(size=(4, 3))))
    times = [0.0, 1.0, 2.5, 4.0]
    got = Track.keyframes(times, poses).pose(time)
    k = min(max(np.searchsorted(times, time, side="right") - 1, 0), 2)
    amount = min(max((time - times[k]) / (times[k + 1] - times[k]), 0.0), 1.0)
    want = poses[k].interpolate(poses[k + 1], amount)
    torch.testing.assert_close(got.as_matrix(), want.as_matrix(), atol=1e-9, rtol=0)


def keys(**more) -> Track:
    poses = SE3.from_translation([[0.0, 0, 0], [2.0, 0, 0], [2.0, 4, 0]])
    return Track.keyframes([1.0, 2.0, 4.0], poses, **more)


def test_step_holds_until_the_next_key():
    track = keys(interpolation="step")
    assert [track.at(t)[1][:2] for t in (0, 1, 1.99, 2, 3.9, 4, 9)] == [
        (0, 0), (0, 0), (0, 0), (2, 0), (2, 0), (2, 4), (2, 4),
    ]  # fmt: skip


def test_a_loop_repeats_from_first_to_last():
    track = keys(end="loop")
    for t in (1.0, 1.5, 3.0, 3.999):
        np.testing.assert_allclose(track.at(t + 3)[1], track.at(t)[1], atol=1e-12)
        np.testing.assert_allclose(track.at(t - 6)[1], track.at(t)[1], atol=1e-12)


def test_a_key_read_at_its_time_comes_back_to_the_bit():
    rng = np.random.default_rng(0)
    quats = rng.normal(size=(3, 4))
    track = Track(np.array([0.0, 1, 2]), quats, rng.normal(size=(3, 3)))
    again = Track(track.times, track.quats, track.translations)
    assert again == track
    for k in range(3):
        assert track.at(float(k)) == (tuple(track.quats[k]), tuple(track.translations[k]))


def test_a_track_seen_from_another_frame_moves_the_same_way():
    rng = np.random.default_rng(1)
    track = Track(np.array([0.0, 1, 2]), rng.normal(size=(3, 4)), rng.normal(size=(3, 3)))
    relative = random_sim(5)
    moved = track.moved_into(relative)
    for t in np.linspace(-0.5, 2.5, 13):
        want = relative @ Sim3(*track.at(t))
        got = Sim3(*moved.at(t), relative.scale)
        np.testing.assert_allclose(matrix(got), matrix(want), atol=1e-9)


def test_a_key_turns_a_constant_pose_into_a_motion_from_time_0():
    track = Track.constant(SE3.from_translation([1.0, 0, 0])).with_key(2.0, (1, 0, 0, 0), (3, 0, 0))
    assert track.times.tolist() == [0, 2]
    assert track.at(1.0)[1] == (2, 0, 0)
    assert track.with_key(2.0, (1, 0, 0, 0), (5, 0, 0)).at(9)[1] == (5, 0, 0)


def test_retimed_keys_come_at_the_new_times():
    track = keys().retimed(shift=10, factor=2)
    assert track.times.tolist() == [12, 14, 18]
    assert track.at(13)[1] == keys().at(1.5)[1]


def test_slerp_takes_the_shorter_arc_and_survives_opposite_signs():
    a, b = quat_of(SE3.from_axis_angle([0, 0, 1], 0.2)), quat_of(SE3.from_axis_angle([0, 0, 1], 1.0))
    np.testing.assert_allclose(slerp(a, tuple(-v for v in b), 0.5), quat_of(SE3.from_axis_angle([0, 0, 1], 0.6)))
    assert math.isclose(math.hypot(*slerp(a, a, 0.3)), 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": [0.0, 2.0, 1.0]}, "times must increase"),
        ({"times": [0.0, 1.0, 1.0]}, "times must increase"),
        ({"times": [0.0, math.nan, 1.0]}, "finite"),
        ({"times": [0.0, 1.0]}, "shapes"),
        ({"quats": np.zeros((3, 4))}, "of a length"),
        ({"quats": np.full((3, 4), 1e200)}, "of a length"),
        ({"translations": np.full((3, 3), math.inf)}, "finite"),
        ({"interpolation": "cubic"}, "linear or step"),
        ({"end": "bounce"}, "hold or loop"),
        ({"times": [], "quats": np.zeros((0, 4)), "translations": np.zeros((0, 3))}, "k >= 1"),
    ],
)
def test_a_track_that_makes_no_sense_is_refused(change, message):
    values = {"times": [0.0, 1.0, 2.0], "quats": np.ones((3, 4)), "translations": np.zeros((3, 3))} | change
    with pytest.raises(ValueError, match=message):
        Track(**values)


def test_a_step_loop_just_before_its_start_shows_the_first_key():
    poses = SE3.from_translation([[0.0, 0, 0], [1.0, 0, 0]])
    track = Track.keyframes([0.0, 2.0], poses, interpolation="step", end="loop")
    assert track.at(-1e-20)[1] == (0, 0, 0)


def test_a_constant_pose_has_no_time():
    assert Track(np.array([5.0]), np.ones((1, 4)), np.zeros((1, 3))).times.tolist() == [0]


def test_a_loop_of_one_key_is_refused():
    with pytest.raises(ValueError, match="at least 2 keys"):
        Track(np.zeros(1), np.ones((1, 4)), np.zeros((1, 3)), end="loop")


def test_poses_go_in_and_out_unchanged():
    pose = SE3.from_translation([1.0, 2, 3]) @ SE3.from_axis_angle([1.0, 1, 0], 0.7)
    assert (quat_of(pose), vec_of(pose)) == Track.constant(pose).at(5.0)


def test_a_track_is_never_changed():
    times, quats, trans = np.array([0.0, 1.0]), np.tile([1.0, 0, 0, 0], (2, 1)), np.zeros((2, 3))
    track = Track(times, quats, trans)
    times += 1  # what it was made of is the caller's
    trans += 1
    assert track.times.tolist() == [0, 1] and track.at(0.5) == ((1, 0, 0, 0), (0, 0, 0))
    for values in (track.times, track.quats, track.translations):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 1
    for name in ("end", "interpolation", "times"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(track, name, getattr(track, name))
    assert copy.deepcopy(track) == track
