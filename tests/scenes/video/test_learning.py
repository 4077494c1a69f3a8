import dataclasses

import numpy as np
import pytest
import torch
import trimesh

from objects import SE3
from rendering import render
from scenes.checks import BACKGROUND
from scenes.video import ClipConfig, learn_clip, learning
from scenes.video.decomposition import Carrying, Decomposition, FoundObject
from scenes.video.maps import trust_of
from scenes.video.regions import widened
from scenes.video.report import figures_of, rendered, write_report
from scenes.video.rigid import nearest_rigid
from scenes.video.scene import graph_of, track_of
from scenes.video.shapes import Part, Shaped, parts_of, seen_far, solid_of
from tests.scenes.video.clips import at, clip_of_boxes, looking

N = 8
HALF = np.array([0.06, 0.05, 0.04])
SLIDES = np.stack([at(-0.16 + 0.04 * t, -0.04 + 0.01 * t, 0.04, 0.15 * t) for t in range(N)])
CAMERAS = np.stack([looking((0.35, -0.5, 0.45))] * N)
CONFIG = ClipConfig(steps=300, color_steps=200)


def true_motion(ids, *poses, carryings=()):
    """What `decompose` would find if it made no mistake."""
    objects = []
    for k, world in enumerate(poses, 1):
        from_first = tuple(world @ np.linalg.inv(world[0]))
        objects.append(FoundObject(k, f"object_{k}", True, from_first, np.ones(len(world))))
    return Decomposition(ids.astype(np.uint8), tuple(objects), CAMERAS[: len(ids)], tuple(carryings), ())


@pytest.fixture(scope="module")
def slide():
    clip, ids = clip_of_boxes([(HALF, SLIDES)], CAMERAS)
    return clip, ids, learn_clip(clip, found=true_motion(ids, SLIDES), config=CONFIG)


def test_a_clip_becomes_a_background_an_object_and_a_camera_over_time(slide):
    clip, _, learned = slide
    assert list(learned.graph) == ["background", "object_1", "camera"]
    assert BACKGROUND in learned.graph["background"].tags
    assert learned.graph.span == (0.0, pytest.approx(clip.times[-1]))
    assert np.flatnonzero(~learned.learned).tolist() == [3]
    for t in (0, 4, 7):
        middle = learned.graph.pose("object_1", clip.times[t])[0].translation
        assert np.linalg.norm(middle.numpy() - SLIDES[t, :3, 3]) < 0.02


def test_rendered_frames_tell_the_clip_also_those_that_were_held_out(slide):
    clip, ids, learned = slide
    made = rendered(clip, learned)
    figures = figures_of(clip, learned, made)
    assert figures["psnr_db"] > 24 and figures["held_out_psnr_db"] > figures["psnr_db"] - 1.5
    assert figures["psnr_db"] > figures["frame_before_psnr_db"] + 2
    owner = made.owner.numpy()
    assert ((owner == 1) == (ids == 1)).mean() > 0.98


def test_without_the_object_the_floor_beneath_it_is_seen(slide):
    _, _, learned = slide
    less = learned.graph
    less.remove("object_1")
    shown = render(less, less.camera_at("camera", 0.0), time=0.0, progress=False)
    less.undo()
    floor, _ = clip_of_boxes([(HALF, np.stack([at(0, 0, -1)] * N))], CAMERAS)
    want = torch.from_numpy(floor.rgb[0]).float() / 255
    assert (shown.owner == 0).float().mean() > 0.98
    assert (shown.rgb - want).square().mean() < 10**-2.2


def test_the_second_time_nothing_is_learned(slide, monkeypatch):
    clip, ids, learned = slide

    def fails(*_, **__):
        raise AssertionError("learned again")

    monkeypatch.setattr(learning, "learn_shapes", fails)
    again = learn_clip(clip, found=true_motion(ids, SLIDES), config=CONFIG)
    assert again.graph == learned.graph and again.notes == learned.notes


def test_the_report_needs_nothing_beside_it(slide, tmp_path):
    clip, _, learned = slide
    made = rendered(clip, learned)
    write_report(clip, learned, made, figures_of(clip, learned, made), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (
        "object_1" in page
        and "data:image/png;base64," in page
        and "@" not in page.split("<script>")[0].split("base64,")[0]
    )
    assert "http" not in page
    assert (tmp_path / "side_by_side.mp4").stat().st_size > 1000


def test_a_thing_that_was_hardly_seen_is_left_out_with_a_note(slide):
    clip, ids, _ = slide
    found = true_motion(ids, SLIDES, SLIDES)
    few = found.ids.copy()
    few[2, :2, :3] = 2
    parts, notes = parts_of(clip, dataclasses.replace(found, ids=few), np.ones(N, bool))
    assert [part.name for part in parts] == ["background", "object_1"]
    assert [note for note in notes if note.startswith("object_2: too few pixels")]


def test_poses_that_drifted_are_taken_for_the_rigid_ones_next_to_them():
    drifted = SLIDES.copy()
    drifted[:, :3, :3] *= 1.0004
    assert np.abs(nearest_rigid(drifted) - SLIDES).max() < 1e-12
    assert len(track_of(np.arange(N) / 30, drifted).times) > 1


def test_large_stretches_without_depth_are_sky_and_small_ones_are_lost(slide):
    clip, ids, _ = slide
    depth = clip.depth.copy()
    depth[:, :20], depth[:, 60:63, 40:43] = 0, 0
    some = dataclasses.replace(clip, depth=depth)
    far, weight = seen_far(some, true_motion(ids * 0), np.ones_like(depth))
    assert far[:, 5, 5].min() > 5 * depth.max() and weight[0, 5, 5] < 0.1
    assert far[0, 61, 41] == 0 and weight[0, 61, 41] == 1


def test_depth_lost_along_an_edge_against_the_sky_goes_on_as_a_plane():
    camera = looking((0.6, -1.6, 0.5), (0.0, 0.0, 0.5))
    clip, _ = clip_of_boxes([], [camera] * 2)
    floor, rgb, depth = clip.depth > 0, clip.rgb.copy(), clip.depth.copy()
    assert 0.05 < (~floor).mean() < 0.7
    rgb[~floor], rgb[floor] = (190, 200, 220), (120, 80, 40)
    lost = floor & np.stack([widened(~sight, 2) for sight in floor])
    depth[lost] = 0
    seen = dataclasses.replace(clip, rgb=rgb, depth=depth)
    found = Decomposition(np.zeros(depth.shape, np.uint8), (), np.stack([camera] * 2), (), ())
    full, weight = seen_far(seen, found, np.ones_like(depth))
    assert np.abs(full[lost] / clip.depth[lost] - 1).max() < 0.02 and weight[lost].max() < 0.1
    assert full[~floor].min() > 5 * depth.max() and np.array_equal(full[depth > 0], depth[depth > 0])


def test_keys_that_lie_on_a_line_are_left_out():
    times = np.arange(12) / 10
    rests = np.stack([at(0, 0, 0)] * 4 + [at(0.1 * t, 0, 0, 0.05 * t) for t in range(1, 9)])
    track = track_of(times, rests)
    assert track.times.tolist() == pytest.approx([0.0, 0.3, 1.1])
    for t, pose in zip(times, rests, strict=True):
        assert np.abs(track.pose(t).as_matrix().numpy() - pose).max() < 1e-4
    assert len(track_of(times, np.stack([at(1, 2, 3)] * 12)).times) == 1


def test_who_is_carried_hangs_under_its_carrier_for_that_time_and_stands_where_it_stood(slide):
    clip, ids, learned = slide
    tray = np.stack([at(0.05 * max(0, t - 2), 0, 0.1, 0.1 * t) for t in range(N)])
    cup = np.stack([tray[t] @ at(0.01, 0.02, 0.05) if 2 <= t <= 5 else at(0.3 - 0.01 * t, 0, 0.4) for t in range(N)])
    found = true_motion(ids, tray, cup, carryings=[Carrying(2, 1, 2, 5)])
    body = learned.graph["object_1"].field
    shapes = []
    for k, world in enumerate((tray, cup), 1):
        part = Part(k, f"object_{k}", True, world, np.ones(N, bool), np.ones(N, bool))
        shapes.append(Shaped(part, body))
    graph, notes = graph_of(clip, found, shapes, ())
    assert notes == []
    node = graph.records()["object_2"]
    assert [a.start for a in node.attachments[1:]] == pytest.approx(clip.times[[2, 6]].tolist())
    for t in range(N):
        pose, _ = graph.pose("object_2", float(clip.times[t]))
        assert np.abs(pose.as_matrix().numpy() - cup[t]).max() < 2e-4
    graph.move("object_1", by=(0, 0, 1), time=None)
    lifted, _ = graph.pose("object_2", float(clip.times[4]))
    assert float(lifted.translation[2]) == pytest.approx(cup[4, 2, 3] + 1, abs=1e-3)
    assert isinstance(lifted, SE3)


def test_where_no_pose_is_known_a_thing_is_not_shown_but_over_short_gaps(slide):
    clip, ids, learned = slide
    found = true_motion(ids, SLIDES)
    known = np.array([False, True, False, True, False, False, False, False])
    poses = tuple(pose if there else None for pose, there in zip(found.objects[0].poses, known, strict=True))
    found = dataclasses.replace(found, objects=(dataclasses.replace(found.objects[0], poses=poses),))
    parts, _ = parts_of(clip, found, np.ones(N, bool))
    (part,) = [part for part in parts if part.id == 1]
    assert part.there.tolist() == [False, True, True, True, False, False, False, False]
    middle = nearest_rigid(part.T_world_obj[[1, 3]].mean(0)[None])[0]
    assert np.abs(part.T_world_obj[2] - middle).max() < 1e-3
    graph, notes = graph_of(clip, found, [Shaped(part, learned.graph["object_1"].field)], ())
    shown = ["object_1" in [i.name for i in graph.at(float(t)).instances] for t in clip.times]
    assert shown == part.there.tolist()
    assert notes == [
        "object_1: its pose isn't known in frames 2: it goes evenly there",
        "object_1: its pose isn't known in frames 0, 4 to 7: it isn't shown there",
    ]


def test_the_background_is_not_where_a_thing_is_though_labels_say_so_at_times():
    rest = np.stack([at(0, 0, 0.1)] * 3)
    half = np.array([0.08, 0.08, 0.1])
    clip, ids = clip_of_boxes([(half, rest)], CAMERAS[:3])
    found = true_motion(ids, rest)
    wrong = found.ids.copy()
    wrong[1][wrong[1] == 1] = 0
    found = dataclasses.replace(found, ids=wrong)
    (background, thing), _ = parts_of(clip, found, np.ones(3, bool))
    box = trimesh.creation.box(2 * half)
    box.apply_translation(rest[0, :3, 3] - thing.T_world_obj[0, :3, 3])
    trust = trust_of(clip.depth, clip.lens)
    tops = []
    for things in ([], [(box, thing)]):
        mesh = solid_of(clip.depth, trust, clip, found, background, things)
        p = mesh.vertices + background.T_world_obj[0, :3, 3]
        over = (np.abs(p[:, :2]) < 0.05).all(1)
        tops.append(p[over, 2].max())
    assert tops[0] > 0.08 and tops[1] < 0.04
