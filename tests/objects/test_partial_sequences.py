"""Frames that show a part of a surface each: followed, put together, learned."""

import numpy as np
import pytest
import torch
import trimesh

from objects.analytic_warps import Bend
from objects.partial_sequences import Seen, first_frame, follow_parts
from objects.points import PointsConfig
from objects.primitives import Capsule
from objects.warp_learning import PointFrame, SequenceConfig, fit_sequence
from objects.warp_tracking import moved

ROD = Capsule(0.1, 0.6)
TIMES = np.linspace(0, 1, 5)
BEND = Bend(ROD.bounds, (0, 0, 1), (1, 0, 0), (0, 0, 0), 0.6, (0, 1), (0, 1.5))
EXTENT = 0.8


def _bent(p, time):
    q = torch.from_numpy(np.asarray(p, np.float32))
    return BEND.deformed(q, torch.full((len(q),), float(time))).double().numpy()


def _shown(time, angle, n=1500):
    """What is seen of a flat rod from a direction at an angle about its axis; with colours that change smoothly."""
    rod = trimesh.creation.capsule(height=0.6, radius=0.1, count=(24, 24)).apply_translation((0, 0, -0.3))
    rod.apply_scale((1.5, 0.7, 1))  # a round one could roll
    rest, face = trimesh.sample.sample_surface(rod, n, seed=int(1000 * time))
    bent = trimesh.Trimesh(_bent(rod.vertices, time), rod.faces, process=False)
    normals = bent.face_normals[face]
    seen = normals @ np.array([np.cos(angle), np.sin(angle), 0.0]) > 0.2
    colors = 0.5 + 0.3 * np.sin(rest * [15, 15, 12] + 9 * rest[:, [2, 0, 1]])
    return Seen(_bent(rest, time)[seen], normals[seen], colors[seen])


@pytest.fixture(scope="module")
def parts():
    return [_shown(time, angle) for time, angle in zip(TIMES, (0, 0.3, 0.6, 0.9, 1.2), strict=True)]


def test_parts_are_followed_and_put_together(parts):
    template, followed, whole = follow_parts(parts, TIMES, n_nodes=30, n_points=400, n_dense=1200, seed=0)
    first = TIMES[first_frame(parts)]
    rest = _straightened(template.points, first)
    assert np.linalg.norm(template.points - _bent(rest, first), axis=1).max() < 0.02 * EXTENT
    for time, motion in zip(TIMES, followed.motions, strict=True):
        off = np.linalg.norm(moved(template, motion)[0] - _bent(rest, time), axis=1)
        assert np.median(off) < 0.02 * EXTENT
    assert max(followed.misfits) < 0.01
    normal = whole.normals @ np.array([np.cos(0.6), np.sin(0.6), 0.0])
    assert normal.min() < 0  # of what frame 2 doesn't show
    assert len(whole.points) > 1.2 * len(parts[2].points) * 0.5


def _straightened(p, time):
    q = torch.from_numpy(np.asarray(p, np.float32))
    return BEND.canonical(q, torch.full((len(q),), float(time))).double().numpy()


def test_where_points_are_known_to_go_leads_what_is_followed():
    """A round rod that rolls about itself: only pairs that are known tell."""
    rng = np.random.default_rng(0)
    rod = trimesh.creation.capsule(height=0.6, radius=0.1, count=(24, 24)).apply_translation((0, 0, -0.3))
    rest, face = trimesh.sample.sample_surface(rod, 3000, seed=1)

    def turned(p, angle):
        c, s = np.cos(angle), np.sin(angle)
        return p @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T

    frames = []
    for angle in (0.0, 0.3, 0.6):
        normals = turned(rod.face_normals[face], angle)
        seen = (normals[:, 0] > 0.2) & (rng.random(len(normals)) < 0.8)
        at, ahead, behind = (turned(rest[seen], angle + d) for d in (0, 0.3, -0.3))
        frames.append(Seen(at, normals[seen], np.full_like(at, 0.5), behind, ahead))
    template, followed, _ = follow_parts(frames, np.arange(3.0), n_nodes=30, n_points=400, n_dense=1200, seed=0)
    first = first_frame(frames)
    for t, motion in enumerate(followed.motions):
        off = np.linalg.norm(moved(template, motion)[0] - turned(template.points, 0.3 * (t - first)), axis=1)
        assert np.median(off) < 0.02


def test_a_thing_seen_from_one_side_is_learned_where_it_was_seen(parts):
    config = SequenceConfig(
        nodes=60, points=800, dense=2400, anchors=600, cloud=PointsConfig(width=24, color_width=8, steps=200, pool=8192)
    )
    frames = [PointFrame(*part[:3]) for part in parts]
    learned = fit_sequence(frames, TIMES.tolist(), partial=True, config=config, progress=False)
    for time, part in zip(TIMES, parts, strict=True):
        p = torch.from_numpy(part.points).float()
        off = learned.field.sdf(learned.canonical(p, torch.full((len(p),), float(time)))).abs()
        assert float(off.mean()) < 0.015 * EXTENT


def test_partial_frames_must_be_points_without_a_loop(parts):
    frames = [PointFrame(*part[:3]) for part in parts]
    with pytest.raises(ValueError, match="no loop"):
        fit_sequence(frames, TIMES.tolist(), partial=True, period=2.0)
    with pytest.raises(ValueError, match=r"points with normals, got frames\[0\], Trimesh"):
        fit_sequence([trimesh.creation.box()] * 5, TIMES.tolist(), partial=True)
