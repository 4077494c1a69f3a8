"""How far poses are trusted: what nothing tells is not known."""

import numpy as np

from scenes.video.confidence import Spread, before_camera, between_frames, spread_of, with_camera
from scenes.video.maps import measure, trust_of
from scenes.video.rigid import inverse
from tests.scenes.video.clips import at, clip_of_boxes, looking

N = 8
HALF = np.array([0.05, 0.05, 0.06])
POSES = np.stack([at(-0.1 + 0.02 * t, 0, 0.06, 0.05 * t) for t in range(N)])
CAMERAS = np.stack([looking((0.35, -0.5, 0.3))] * N)


def trusted(clip, ids, poses):
    maps = measure(clip.rgb, clip.depth, clip.lens)
    return before_camera(maps, trust_of(clip.depth, clip.lens), ids == 1, inverse(CAMERAS) @ poses, np.ones(N, bool))


def test_a_pose_that_depth_and_colours_tell_is_sure_and_a_wrong_one_is_not():
    clip, ids = clip_of_boxes([(HALF, POSES)], CAMERAS)
    assert (trusted(clip, ids, POSES) > 0.9).all()
    wrong = POSES.copy()
    wrong[2] = wrong[2] @ at(0, 0, 0, 0.35)
    sure = trusted(clip, ids, wrong)
    assert sure[2] < 0.5
    assert (np.delete(sure, 2) > 0.9).all()


def test_the_turn_of_a_plain_ball_is_not_known():
    clip, ids = clip_of_boxes([(HALF, POSES)], CAMERAS)
    fx, fy, cx, cy = clip.lens
    v, u = np.indices(ids.shape[1:]) + 0.5
    ray = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1)
    for t, T in enumerate(inverse(CAMERAS) @ POSES):  # a ball in place of the box
        far = (ray @ T[:3, 3]) / (ray**2).sum(-1)
        inside = far**2 - (T[:3, 3] @ T[:3, 3] - 0.05**2) / (ray**2).sum(-1)
        ids[t] = inside > 0
        clip.depth[t][ids[t] == 1] = (far - np.sqrt(np.maximum(inside, 0)))[ids[t] == 1]
        clip.rgb[t][ids[t] == 1] = (120, 60, 60)
    sure = trusted(clip, ids, POSES)
    assert np.median(sure) < 0.5 and (sure < 0.9).all()  # each frame of the box is surer


def test_a_camera_that_sees_less_is_less_certain_and_its_things_are():
    clip, ids = clip_of_boxes([(HALF, POSES)], CAMERAS)
    maps, have, rng = measure(clip.rgb, clip.depth, clip.lens), np.ones(N, bool), np.random.default_rng(0)
    still = (ids == 0) & (maps.depth > 0)
    much = spread_of(maps, still, inverse(CAMERAS), have)
    little = spread_of(maps, still & (rng.random(ids.shape) < 0.01), inverse(CAMERAS), have)
    points = POSES[:, :3, 3]
    off = ~np.eye(N, dtype=bool)
    assert (little.apart(points)[off] > 1.3 * much.apart(points)[off]).all()
    assert np.abs(much.apart(points)[~off]).max() < 1e-6
    sure, lost = np.ones(N), Spread(much.known, 1e4 * much.covariance)
    assert with_camera(sure, None, POSES, np.zeros(3)) is sure
    assert (with_camera(sure, lost, POSES, np.zeros(3)) < 0.5).sum() == N - 1
    assert (with_camera(sure, much, POSES, np.zeros(3)) <= sure).all()


def test_what_lies_behind_a_jump_that_frames_do_not_bear_out_is_lost_though_its_poses_agree():
    clip, ids = clip_of_boxes([(HALF, POSES)], CAMERAS)
    maps, known = measure(clip.rgb, clip.depth, clip.lens), np.ones(N, bool)
    sure = between_frames(maps, ids == 1, inverse(CAMERAS) @ POSES, known)
    assert (sure > 0.9).all()
    wrong = POSES.copy()
    wrong[5:] = wrong[5:] @ at(0, 0, 0, 0.5)
    sure = between_frames(maps, ids == 1, inverse(CAMERAS) @ wrong, known)
    assert (sure[:5] > 0.9).all() and (sure[5:] < 0.5).all()
    assert (between_frames(maps, ids == 1, inverse(CAMERAS) @ POSES, np.arange(N) == 3) == 0).all()
