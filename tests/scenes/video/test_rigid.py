import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scenes.video.camera import noise_between, points_of
from scenes.video.labels import SILENT_WORLD, references, track_costs
from scenes.video.maps import halved, measure, slopes_of
from scenes.video.residuals import residuals
from scenes.video.rigid import Pixels, adjoint, align, exp, inverse, kabsch, settled, solve_track
from tests.scenes.video.clips import at, clip_of_boxes, looking

HALF = np.array([0.06, 0.05, 0.04])


@pytest.fixture(scope="module")
def scene():
    """One box that moves on the floor, seen by one still camera: maps, ids, the camera's pose and the box's."""
    poses = np.stack([at(-0.04 + 0.012 * t, 0.02, 0.04, 0.3 + 0.08 * t) for t in range(5)])
    cameras = np.stack([looking((0.35, -0.45, 0.4))] * 5)
    clip, ids = clip_of_boxes([(HALF, poses)], cameras)
    return measure(clip.rgb, clip.depth, clip.lens), ids, inverse(cameras), inverse(cameras) @ poses


def test_exp_adjoint_and_inverse_agree():
    rng = np.random.default_rng(0)
    T, x = exp(rng.normal(size=6)), 1e-6 * rng.normal(size=6)
    np.testing.assert_allclose(exp(adjoint(T) @ x) @ T, T @ exp(x), atol=1e-11)
    np.testing.assert_allclose(inverse(T) @ T, np.eye(4), atol=1e-12)


def test_kabsch_finds_the_motion_of_many_sets_at_once():
    rng = np.random.default_rng(1)
    T = np.stack([exp(x) for x in rng.normal(size=(4, 6))])
    p = rng.normal(size=(4, 5, 3))
    q = np.einsum("kij,knj->kni", T[:, :3, :3], p) + T[:, None, :3, 3]
    np.testing.assert_allclose(kabsch(p, q), T, atol=1e-9)
    mirrored = kabsch(p[0], p[0] * [1, 1, -1])
    assert np.linalg.det(mirrored[:3, :3]) == pytest.approx(1)


def test_local_planes_are_exact_on_planes(scene):
    maps, ids, world_to_cam, _ = scene
    up = world_to_cam[0, :3, 2]
    floor = (ids[0] == 0) & (maps.depth[0] > 0)
    floor[:, :3] = floor[:, -3:] = floor[:3] = floor[-3:] = False
    angle = maps.normal[0][floor] @ up
    assert np.median(angle) > 0.99999
    assert maps.noise[0] + maps.noise[1] < 0.001


def test_the_gradient_is_that_of_the_squared_residuals(scene):
    """Of pure geometry with unit weights, for pixels that a small step leaves on the same pixel of the other frame."""
    maps, ids, _, to_cam = scene
    pairs = np.array([[0, 1]])
    T = to_cam[1] @ inverse(to_cam[0])
    x = 1e-4 * np.array([0.3, -0.2, 0.5, 0.4, 0.1, -0.3])
    y, u = np.nonzero(ids[0] == 1)
    p = points_of(maps, 0, y, u)
    fx, fy, cx, cy = maps.lens
    places = []
    for M in (T, exp(x) @ T):
        q = p @ M[:3, :3].T + M[:3, 3]
        places.append(np.floor(np.stack([fx * q[:, 0] / q[:, 2] + cx, fy * q[:, 1] / q[:, 2] + cy])))
    mask = np.zeros_like(ids, bool)
    mask[0, y, u] = (places[0] == places[1]).all(0)
    pixels = Pixels.of(mask, 60)
    maps = maps._replace(noise=np.array([1.0, 0.0]))  # deviation 1 m: weights are 1, nothing is an outlier

    def at_step(x):
        return residuals(
            pairs,
            (exp(x) @ T)[None],
            pixels.numbers,
            pixels.starts,
            np.full((*maps.depth.shape, 2), np.nan, np.float32),
            maps.depth,
            maps.normal,
            maps.rgb,
            maps.slope,
            maps.flows,
            maps.tensor,
            maps.lens,
            maps.noise,
            np.array([1e3, 0.0, 0.0, -1.0, 1.0]),
        )

    H, g, stats = at_step(np.zeros(6))
    assert stats[0, 0] > 30
    # The gradient of a quadratic model changes by H x along a small step.
    change = at_step(x)[1][0] - g[0]
    np.testing.assert_allclose(change, H[0] @ x, rtol=0.02, atol=0.01 * np.abs(H[0] @ x).max())


def test_a_motion_is_found_from_a_centimetre_and_two_degrees_away(scene):
    maps, ids, _, to_cam = scene
    guess = to_cam.copy()
    guess[2] = exp(np.array([0.02, -0.03, 0.02, 0, 0, 0])) @ to_cam[2]
    guess[2, :3, 3] = to_cam[2, :3, 3] + [0.006, -0.006, 0.006]
    found = align(maps, ids == 1, [1], 2, guess)
    assert found.agree > 0.8
    off = inverse(found.T_s_t) @ to_cam[2]
    assert np.linalg.norm(off[:3, 3]) < 0.002
    assert np.degrees(Rotation.from_matrix(off[:3, :3]).magnitude()) < 1.0


def test_poses_of_all_frames_are_solved_at_once(scene):
    maps, ids, _, to_cam = scene
    rng = np.random.default_rng(3)
    guess = np.stack([exp(0.003 * rng.normal(size=6)) @ T for T in to_cam])
    guess[2] = to_cam[2]
    fixed = np.arange(5) == 2
    found, share = solve_track(maps, ids == 1, guess, np.ones(5, bool), fixed=fixed, rounds=8)
    off = inverse(found) @ to_cam
    before = np.linalg.norm((inverse(guess) @ to_cam)[:, :3, 3], axis=1).max()
    assert np.linalg.norm(off[:, :3, 3], axis=1).max() < min(0.004, 0.4 * before)
    assert share.min() > 0.8


def test_a_wrong_motion_costs_more_than_the_right_one(scene):
    """Pixels of the box violate free space under the still world; pixels of the floor do under the box's motion."""
    maps, ids, world_to_cam, to_cam = scene
    frames, have = np.arange(5), np.ones(5, bool)
    still = track_costs(maps, world_to_cam, have, frames, references(5), silent=SILENT_WORLD)
    moving = track_costs(maps, to_cam, have, frames, references(5))
    box, floor = ids == 1, (ids == 0) & (maps.depth > 0)
    assert np.mean(moving[box]) + 0.05 < np.mean(still[box])
    assert np.median(still[floor]) < 0.15
    assert (still < moving)[floor].mean() > 0.9


def test_outside_the_region_a_track_costs_all(scene):
    maps, ids, _, to_cam = scene
    region = np.zeros_like(ids, bool)
    region[2, 20:30, 20:40] = True
    frames, have = np.arange(5), np.ones(5, bool)
    part = track_costs(maps, to_cam, have, frames, references(5), region)
    whole = track_costs(maps, to_cam, have, frames, references(5))
    known = maps.depth > 0
    assert (part[known & ~region] == 1).all()
    np.testing.assert_array_equal(part[region], whole[region])


def test_halved_frames_hold_depths_that_were_measured():
    depth = np.array([[[1.0, 1.0, 2.0, 0.0], [3.0, 1.0, 0.0, 0.0]]], np.float32)
    rgb = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    small, less, lens = halved(rgb, depth, np.array([10.0, 10, 2, 1]), 2)
    assert less[0].tolist() == [[1.0, 2.0]]
    assert small.shape == (1, 1, 2, 3) and lens.tolist() == [5, 5, 1, 0.5]


def test_slopes_are_the_differences_of_neighbours_in_their_own_frame_and_channel():
    v, u = np.indices((20, 30), dtype=np.float32)
    ramp = np.stack([0.01 * u, 0.02 * v, 0.01 * u - 0.02 * v], -1)
    frames = np.stack([ramp, np.zeros_like(ramp), -ramp])
    slopes = slopes_of(frames)[:, 1:-1, 1:-1]
    true = np.array([[0.01, 0], [0, 0.02], [0.01, -0.02]])
    for found, times in zip(slopes, (1, 0, -1), strict=True):
        np.testing.assert_allclose(found, np.broadcast_to(times * true, found.shape), atol=1e-6)


def test_colours_alone_lead_back_to_the_right_pose_in_few_steps(scene):
    """Gauss-Newton steps are about as long as the way: slopes have the scale of the colours."""
    maps, ids, _, _ = scene
    pixels = Pixels.of((ids == 0) & (maps.depth > 0), 4000)
    none = np.full((*maps.depth.shape, 2), np.nan, np.float32)
    weights = np.array([0.01, 0.04, 0.0, 0.5, 1.0])
    off = np.array([0, 0, 0, 0.001, 0.001, 0])  # along the picture: a quarter of a pixel
    pose = exp(off)
    for _ in range(3):
        H, g, _ = residuals(
            np.array([[1, 2]]), pose[None], pixels.numbers, pixels.starts, none, maps.depth, maps.normal, maps.rgb, maps.slope,
            maps.flows, maps.tensor, maps.lens, maps.noise, weights,
        )  # fmt: skip
        pose = exp(-np.linalg.solve(H[0], g[0])) @ pose
    p = points_of(maps, 1, *np.nonzero((ids[1] == 0) & (maps.depth[1] > 0)))
    moved = [
        np.median(np.linalg.norm((p @ T[:3, :3].T + T[:3, 3] - p)[:, :2] / p[:, 2:], axis=1)) for T in (exp(off), pose)
    ]
    assert moved[1] < 0.5 * moved[0]


def test_errors_that_all_pixels_share_are_noise_between_frames(scene):
    maps, _, world_to_cam, _ = scene
    pairs = np.array([(t, t + 1) for t in range(4)])
    quiet = noise_between(maps, world_to_cam, pairs)
    assert (quiet == maps.noise).all()
    drifted = maps._replace(depth=maps.depth * (1 + 0.02 * (np.arange(5) % 2)[:, None, None]).astype(np.float32))
    a, b = noise_between(drifted, world_to_cam, pairs)
    z = float(np.median(maps.depth[maps.depth > 0]))
    assert 0.003 * z < a + b * z * z < 0.02 * z


def test_poses_settle_only_where_frames_agree_better(scene):
    maps, ids, _, to_cam = scene
    masks, have = ids == 1, np.ones(5, bool)
    twists = np.random.default_rng(4).normal(size=(5, 6)) * np.array([0.03, 0.03, 0.03, 0.003, 0.003, 0.003])
    start = exp(twists) @ to_cam
    same, before = settled(maps, masks, start, have, rounds=0)
    assert np.array_equal(same, start)
    poses, after = settled(maps, masks, start, have)
    assert after == settled(maps, masks, poses, have, rounds=0)[1] < before

    def off(path):
        apart = [inverse(path[t] @ inverse(path[0])) @ to_cam[t] @ inverse(to_cam[0]) for t in range(1, 5)]
        return max(np.degrees(Rotation.from_matrix(T[:3, :3]).magnitude()) for T in apart)

    assert off(poses) < 1 < 3 < off(start)
    right, cost = settled(maps, masks, to_cam, have)
    assert cost <= settled(maps, masks, to_cam, have, rounds=0)[1] and off(right) < 0.5
