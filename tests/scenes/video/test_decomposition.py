import json

import numpy as np
import pytest
from PIL import Image

from scenes.video import decompose
from scenes.video.filling import fill
from scenes.video.rigid import inverse
from tests.scenes.video.clips import at, clip_of_boxes, looking

ONE, TWO = np.array([0.06, 0.05, 0.04]), np.array([0.04, 0.04, 0.06])
N = 8
LATE = np.stack([at(0.1, 0.08, 0.06, 0.2)] * 3 + [at(0.1 - 0.02 * t, 0.08 + 0.01 * t, 0.06, 0.2) for t in range(5)])
SLIDES = np.stack([at(-0.12 + 0.018 * t, -0.06, 0.04, 0.2 + 0.06 * t) for t in range(N)])
STILL_CAMERA = np.stack([looking((0.35, -0.5, 0.45))] * N)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.fixture(scope="module")
def two_boxes():
    """One slides all the time, one starts late."""
    clip, ids = clip_of_boxes([(ONE, SLIDES), (TWO, LATE)], STILL_CAMERA)
    return clip, ids, decompose(clip)


def test_what_moves_is_found_and_kept_apart(two_boxes):
    _, ids, found = two_boxes
    assert len(found.objects) == 2
    for k in (1, 2):
        assert max(iou(ids == k, found.ids == o.id) for o in found.objects) > 0.9


def test_what_moves_late_is_an_object_from_the_first_frame(two_boxes):
    _, ids, found = two_boxes
    late = max(found.objects, key=lambda o: iou(ids == 2, found.ids == o.id))
    assert iou(ids[0] == 2, found.ids[0] == late.id) > 0.85
    assert all(pose is not None for pose in late.poses)


def test_poses_are_those_of_the_true_motion(two_boxes):
    _, ids, found = two_boxes
    for k, true in ((1, SLIDES), (2, LATE)):
        mine = max(found.objects, key=lambda o: iou(ids == k, found.ids == o.id))
        poses = np.stack(mine.poses)
        off = inverse(true @ inverse(true[0])) @ poses @ inverse(poses[0])
        at_box = np.einsum("fij,j->fi", off, np.append(true[0][:3, 3], 1))[:, :3] - true[0][:3, 3]
        assert np.linalg.norm(at_box, axis=1).max() < 0.004
        assert mine.confidence.min() > 0.5
        assert mine.rigid


def test_a_rest_is_a_rest(two_boxes):
    _, ids, found = two_boxes
    late = max(found.objects, key=lambda o: iou(ids == 2, found.ids == o.id))
    assert np.abs(np.stack(late.poses[:3]) - late.poses[0]).max() < 0.002


def test_what_rides_on_a_lower_thing_is_its_child_while_it_does_though_it_is_larger():
    plate = np.stack([at(-0.1 + 0.02 * min(t, 5), 0, 0.01) for t in range(10)])
    block = np.stack(
        [at(-0.1 + 0.02 * min(t, 5), 0.022 * max(t - 5, 0), 0.13 + 0.02 * max(t - 5, 0)) for t in range(10)]
    )
    clip, ids = clip_of_boxes(
        [(np.array([0.07, 0.06, 0.01]), plate), (np.array([0.04, 0.04, 0.11]), block)], STILL_CAMERA[[0] * 10]
    )
    found = decompose(clip)
    lower, upper = (max(found.objects, key=lambda o: iou(ids == k, found.ids == o.id)).id for k in (1, 2))
    (ride,) = found.carryings
    assert (ride.child, ride.parent) == (upper, lower)
    assert ride.first <= 1 and 4 <= ride.last <= 6


def test_it_is_written_as_the_scorer_reads_it(two_boxes, tmp_path):
    clip, _, found = two_boxes
    (tmp_path / "masks").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "masks/00099.png")  # of a longer clip before
    found.save(tmp_path)
    masks = sorted((tmp_path / "masks").glob("*.png"))
    assert [m.name for m in masks] == [f"{t:05d}.png" for t in range(N)]
    assert np.array_equal(np.stack([np.array(Image.open(m)) for m in masks]), found.ids)
    data = json.loads((tmp_path / "objects.json").read_text())
    assert {"id", "name", "rigid", "poses", "confidence", "lost"} == set(data["objects"][0])
    cameras = np.array(json.loads((tmp_path / "cameras.json").read_text())["frames"])
    np.testing.assert_allclose(cameras, clip.cameras @ np.diag([1, -1, -1, 1]), atol=1e-12)


def test_without_motion_everything_is_background_and_this_is_said():
    clip, _ = clip_of_boxes([(ONE, np.stack([SLIDES[3]] * 4))], STILL_CAMERA[:4])
    found = decompose(clip)
    assert found.objects == ()
    assert not found.ids.any()
    assert any("nothing moves" in note for note in found.notes)


def test_the_camera_is_found_from_noisy_depth():
    cameras = np.stack([looking((0.35 + 0.012 * t, -0.5 + 0.01 * t, 0.45)) for t in range(5)])
    clip, _ = clip_of_boxes([(ONE, np.stack([SLIDES[3]] * 5))], cameras, noise=0.002, given=False)
    found = decompose(clip)
    true, got = inverse(cameras[0]) @ cameras, inverse(found.cameras[0]) @ found.cameras
    assert np.linalg.norm(got[:, :3, 3] - true[:, :3, 3], axis=1).max() < 0.006
    np.testing.assert_allclose(found.cameras[0, :3, 3], [0, 0, 0.45], atol=5e-3)
    assert any("cameras were found" in note for note in found.notes)


def test_lost_depth_is_filled_by_distance_and_colour_and_sky_is_background():
    ids = np.zeros((12, 16), np.int32)
    rgb = np.full((12, 16, 3), 0.2, np.float32)
    ids[4:8, 4:9] = 1
    rgb[4:8, 4:10] = 0.8
    ids[:, 9:11] = -1  # lost between the thing and the floor; the thing's colour reaches one pixel into it
    full = fill(ids, rgb)
    assert (full[4:8, 9] == 1).all() and (full[4:8, 10] == 0).all()
    sky = np.full((20, 20), -1, np.int32)
    sky[14:] = 0
    sky[10:14, 8:12] = 1
    colors = np.full((20, 20, 3), 0.9, np.float32)
    colors[14:] = 0.3
    colors[10:14, 8:12] = 0.1
    full = fill(sky, colors)
    assert (full == 1).sum() == 16 and (full[:10] == 0).all()


def test_what_creeps_is_an_object_with_all_its_pixels():
    """Of a thing that moves by some millimetres, most looks as if it stood still."""
    poses = np.stack([at(0.003 * t, 0, 0.05, 0.2 + 0.03 * t) for t in range(N)])
    clip, ids = clip_of_boxes([(np.array([0.09, 0.06, 0.05]), poses)], STILL_CAMERA)
    found = decompose(clip)
    (thing,) = found.objects
    assert thing.rigid
    assert iou(ids == 1, found.ids == thing.id) > 0.9
