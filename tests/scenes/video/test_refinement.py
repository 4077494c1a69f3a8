import dataclasses

import numpy as np
import pytest

from scenes.video.decomposition import Decomposition, FoundObject
from scenes.video.labels import references
from scenes.video.maps import measure
from scenes.video.model import Model
from scenes.video.refinement import refine_motion, with_cameras
from scenes.video.rigid import exp, inverse
from scenes.video.shadows import left_behind
from scenes.video.volume import Grid
from tests.scenes.video.clips import HEIGHT, WIDTH, at, clip_of_boxes, looking

N = 6
HALF = np.array([0.07, 0.05, 0.045])
TURN = 0.22  # radians a frame
SPINS = np.stack([at(-0.06 + 0.02 * t, -0.02 + 0.01 * t, 0.06, TURN * t) for t in range(N)])
CAMERAS = np.stack([looking((0.3, -0.45, 0.42))] * N)


@pytest.fixture(scope="module")
def spin():
    return clip_of_boxes([(HALF, SPINS)], CAMERAS)


def said(ids, poses, rigid=True):
    from_first = tuple(poses @ np.linalg.inv(poses[0]))
    thing = FoundObject(1, "object_1", rigid, from_first, np.ones(len(poses)))
    return Decomposition(ids.astype(np.uint8), (thing,), CAMERAS, (), ())


def errors(found):
    """Millimetres of the middle and degrees, against the first frame."""
    got = np.stack(found.objects[0].poses)
    got, want = got @ np.linalg.inv(got[0]), SPINS @ np.linalg.inv(SPINS[0])
    middle = SPINS[0, :, 3]
    off = np.linalg.norm((got @ middle - want @ middle)[:, :3], axis=1)
    trace = np.trace(np.swapaxes(got[:, :3, :3], 1, 2) @ want[:, :3, :3], axis1=1, axis2=2)
    return 1000 * off.max(), np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))).max()


def test_a_model_looks_like_the_frames_that_it_was_made_of(spin):
    clip, ids = spin
    model = Model(Grid.around(np.full(3, -0.12), np.full(3, 0.12), 0.004, 2))
    to_cam = inverse(CAMERAS) @ SPINS
    for t in (0, 1):
        rgb = clip.rgb[t].astype(np.float32) / 255
        model.add(clip.depth[t], ids[t] == 1, np.ones((HEIGHT, WIDTH), np.float32), rgb, to_cam[t], clip.lens)
    view = model.seen_by(to_cam[0], clip.lens, (HEIGHT, WIDTH))
    mine = (view.depth > 0) & (ids[0] == 1)
    assert mine.sum() > 0.6 * (ids[0] == 1).sum() and ((view.depth > 0) & (ids[0] != 1)).sum() < 0.05 * mine.sum()
    assert np.median(np.abs(view.depth - clip.depth[0])[mine]) < 0.001
    assert np.abs(view.rgb - clip.rgb[0] / 255)[mine].mean() < 0.06
    assert (view.normal[mine][:, 2] < 0).mean() > 0.98


def test_nothing_is_seen_of_a_model_of_nothing():
    model = Model(Grid.around(np.full(3, -0.1), np.full(3, 0.1), 0.01, 2))
    view = model.seen_by(at(0, 0, 0.5), np.array([100.0, 100.0, 20.0, 15.0]), (30, 40))
    assert not view.depth.any()


def test_a_spin_that_was_missed_is_found_again_by_what_the_thing_looks_like(spin):
    clip, ids = spin
    slipped = np.stack([pose @ at(0, 0, 0, -0.6 * TURN * t) for t, pose in enumerate(SPINS)])
    refined = refine_motion(clip, said(ids, slipped))
    assert errors(said(ids, slipped))[1] > 30
    off, turned = errors(refined)
    assert off < 3 and turned < 2


def test_pixels_that_went_to_the_background_come_back_and_right_poses_stay(spin):
    clip, ids = spin
    damaged = ids.copy()
    damaged[1][:, : WIDTH // 2] = 0
    damaged[4, HEIGHT // 2 :] = 0
    refined = refine_motion(clip, said(damaged, SPINS))
    for t in (1, 4):
        both = ((refined.ids[t] == 1) & (ids[t] == 1)).sum() / ((refined.ids[t] == 1) | (ids[t] == 1)).sum()
        assert both > 0.93 > 0.85 > ((damaged[t] == 1) & (ids[t] == 1)).sum() / (ids[t] == 1).sum()
    off, turned = errors(refined)
    assert off < 2 and turned < 1  # a pixel is 6 mm wide


def test_what_bends_keeps_its_pixels_and_its_poses(spin):
    clip, ids = spin
    bends = said(ids, SPINS, rigid=False)
    assert refine_motion(clip, bends) is bends
    other = FoundObject(2, "object_2", True, bends.objects[0].poses, np.ones(N))
    both = dataclasses.replace(bends, objects=(*bends.objects, other))
    refined = refine_motion(clip, both)
    assert np.array_equal(refined.ids == 1, ids == 1)
    assert refined.objects[0] is bends.objects[0]


def test_cameras_that_were_found_are_aligned_by_the_background_and_things_stay_before_them(spin):
    clip, ids = spin
    twists = np.random.default_rng(3).normal(size=(N, 6)) * 0.0015
    twists[0] = 0
    off = CAMERAS @ exp(twists)
    found = dataclasses.replace(said(ids, SPINS), cameras=off)
    aligned = with_cameras(measure(clip.rgb, clip.depth, clip.lens), found)
    before, after = (np.linalg.norm((c - CAMERAS)[:, :3, 3], axis=1).max() for c in (off, aligned.cameras))
    assert after < 0.6 * before
    for t in range(N):
        seen = [inverse(d.cameras[t]) @ d.objects[0].poses[t] for d in (found, aligned)]
        assert np.abs(seen[0] - seen[1]).max() < 1e-6


def test_a_shadow_that_goes_along_with_a_thing_is_left_behind():
    poses = np.stack([at(-0.1 + 0.04 * t, 0, 0.045) for t in range(N)])
    clip, ids = clip_of_boxes([(HALF, poses)], CAMERAS)
    box, rgb = ids == 1, clip.rgb.copy()
    shadow = np.zeros_like(box)
    for shift in range(1, 9):
        shadow |= np.roll(box, shift, 2)
    shadow &= ~box & (clip.depth > 0)
    rgb[shadow] = (0.5 * rgb[shadow]).astype(np.uint8)
    maps, have = measure(rgb, clip.depth, clip.lens), np.ones(N, bool)
    to_cam = inverse(CAMERAS) @ poses
    found = left_behind(maps, ~box & ~shadow, inverse(CAMERAS), box | shadow, to_cam, have, references(N))
    assert found[shadow].mean() > 0.5 and found[box].mean() < 0.03
