"""Things that bend in clips: followed, split into rigid motion and the rest, learned."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from compose import Composite, Instance
from compose.canonical import canonical_points
from objects import SE3, Capsule, Warped
from objects.analytic_warps import Bend
from objects.node_warp import NodeKeys, NodeWarp
from rendering import Camera, render
from scenes import cli
from scenes.video import Clip, ClipConfig, learn_masked
from scenes.video.flexible import at_times, in_two
from scenes.video.masked import read_ids, residuals
from tests.scenes.video.clips import FOCAL, HEIGHT, WIDTH, looking, texture

N = 6
TIMES = np.arange(N) / 20
ROD = Capsule(0.04, 0.26)
BEND = Bend(ROD.bounds, (0, 0, 1), (1, 0, 0), (0, 0, 0), 0.26, (0, 1), (0.2, 1.2))
THING = Warped(ROD, BEND)
EYE = looking((0.1, -0.55, 0.1), (0.06, 0.0, 0.0))


def _pose(time):
    return SE3.from_matrix(torch.from_numpy(_matrix(time)))


def _matrix(time):
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec([0, 0, 0.8 * time]).as_matrix()
    pose[:3, 3] = 0.3 * time, 0, 0.1 * time
    return pose


@torch.no_grad()
def _clip():
    """A painted rod that bends, turns and travels, before nothing; and its mask."""
    camera = Camera(SE3.from_matrix(torch.from_numpy(EYE)), FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT)
    rgb, depth = np.zeros((N, HEIGHT, WIDTH, 3), np.uint8), np.zeros((N, HEIGHT, WIDTH), np.float32)
    for t, time in enumerate(TIMES):
        scene = Composite([Instance("rod", THING, _pose(time), time=time / TIMES[-1])])
        rays, uv = camera.rays(), camera.pixel_centers()
        hits = scene.trace(rays)
        hit = (hits.owner >= 0).nonzero()[:, 0]
        p = rays.origins[hit] + hits.t[hit, None] * rays.directions[hit]
        depth[t].reshape(-1)[hit.numpy()] = (hits.t[hit].double() * camera.depth_per_t(uv[hit])).numpy()
        color = texture(canonical_points(scene, p, hits.owner[hit]).numpy(), 10, 0.04)
        rgb[t].reshape(-1, 3)[hit.numpy()] = np.rint(255 * np.clip(color, 0, 1))
    lens = np.array([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2])
    return Clip(rgb, depth, lens, TIMES, np.stack([EYE] * N)), depth > 0


@pytest.fixture(scope="module")
def rod():
    clip, mask = _clip()
    mask[4] = False  # as if it were gone for a frame
    config = ClipConfig(steps=300, color_steps=200)
    return clip, mask, learn_masked(clip, mask, config=config)


def _keys(rng, n=12, times=(0.0, 0.4, 1.0)):
    nodes = rng.normal(size=(n, 3))
    turns = rng.normal(size=(len(times), n, 4)) * 0.1 + [1, 0, 0, 0]
    turns /= np.linalg.norm(turns, axis=-1, keepdims=True)
    near = np.argsort(np.linalg.norm(nodes[:, None] - nodes, axis=2), 1)[:, :6]
    shifts = 0.2 * rng.normal(size=(len(times), n, 3)) + np.arange(len(times))[:, None, None]
    return NodeKeys(nodes, near, nodes, np.arange(n), 1.0, np.array(times), turns, shifts)


def test_rigid_motion_and_the_rest_are_together_what_they_were():
    keys = _keys(np.random.default_rng(0))
    poses, rest = in_two(keys)
    before, after = NodeWarp(keys), NodeWarp(rest)
    p = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    for k, time in enumerate(keys.times):
        seconds = torch.full((len(p),), float(time))
        want = before.deformed(p, seconds).double().numpy()
        got = after.deformed(p, seconds).double().numpy() @ poses[k, :3, :3].T + poses[k, :3, 3]
        assert np.abs(got - want).max() < 1e-5
    assert np.abs(rest.shifts).max() < 0.5 * np.abs(keys.shifts).max()


def test_more_keys_move_nothing_at_the_old_ones_and_rest_beyond_them():
    keys = _keys(np.random.default_rng(1))
    more = at_times(keys, np.array([-1.0, 0.0, 0.2, 0.4, 1.0, 2.0]))
    assert np.allclose(more.shifts[[1, 3, 4]], keys.shifts) and np.allclose(more.turns[[1, 3, 4]], keys.turns)
    assert np.allclose(more.shifts[[0, 5]], keys.shifts[[0, -1]])


def test_what_bends_in_a_clip_is_learned_where_it_was_seen(rod):
    clip, mask, learned = rod
    assert list(learned.graph) == ["object", "camera"]
    off = residuals(clip, mask, learned)
    assert np.isnan(off[4]) and np.nanmax(off) < 0.01
    assert "1 of 6 frames show nothing" in " ".join(learned.notes)
    moved = learned.graph.pose("object", TIMES[-1])[0].translation - learned.graph.pose("object", 0.0)[0].translation
    assert float(moved.norm()) > 0.05  # travelling is no matter of the warp


def test_points_of_what_bends_are_followed_also_through_a_frame_without_it(rod):
    _, _, learned = rod
    q = torch.tensor([[0.0, -0.04, -0.07], [0.0, -0.04, 0.0], [0.01, -0.0387, 0.07]])
    places = [_pose(t) @ THING.deformed(q, torch.full((3,), float(t / TIMES[-1]))).double() for t in TIMES]
    for t in (3, 4, 5):
        got = learned.graph.follow("object", places[0], float(TIMES[0]), float(TIMES[t]))
        assert (got - places[t]).norm(dim=1).median() < 0.05 * 0.3


def test_what_bends_is_rendered_as_it_was_filmed_and_marked_where_it_was_seen(rod):
    clip, _, learned = rod
    time = float(TIMES[1])
    frame = render(learned.graph, learned.graph.camera_at("camera", time), time=time, progress=False)
    there, shown = torch.from_numpy(clip.depth[1] > 0), frame.alpha > 0
    assert (there & shown).sum() > 0.9 * (there | shown).sum()
    error = (frame.rgb - torch.from_numpy(clip.rgb[1]) / 255)[there & (frame.alpha == 1)]
    assert float(error.square().mean()) < 10**-2.2
    assert float(frame.seen[there & shown].mean()) > 0.5
    behind = Camera.look_at((0.1, 0.6, 0.1), (0.06, 0, 0.05), WIDTH, HEIGHT, 50)
    other = render(learned.graph, behind, time=time, progress=False)
    assert float(other.seen[other.alpha > 0].mean()) < 0.3


def test_masks_and_frames_that_tell_nothing_are_refused(rod, tmp_path):
    clip, mask, _ = rod
    with pytest.raises(ValueError, match="mask must be bool"):
        learn_masked(clip, mask[:3])
    with pytest.raises(ValueError, match="at least two of the 6 frames, got them in 0"):
        learn_masked(clip, np.zeros_like(mask))
    with pytest.raises(ValueError, match="increasing numbers from 0 to 5"):
        learn_masked(clip, mask, frames=[3, 2])
    with pytest.raises(ValueError, match="a picture for each of 6 frames"):
        read_ids(tmp_path, clip)
    for t in range(N):
        Image.fromarray(mask[t, ::2].astype(np.uint8)).save(tmp_path / f"{t}.png")
    with pytest.raises(ValueError, match="96x72 pixels of one byte"):
        read_ids(tmp_path, clip)


def test_fit_says_what_a_clip_lacks(tmp_path, capsys):
    (tmp_path / "clip/ids").mkdir(parents=True)
    (tmp_path / "clip/transforms.json").write_text("{}")
    start = ["fit", f"sequence={tmp_path / 'clip'}", f"out={tmp_path / 'x.scene'}"]
    for arguments, words in (
        ([], "is a clip; expected ids=FOLDER"),
        ([f"ids={tmp_path / 'clip/ids'}", "fps=3"], "fps: it is not for a clip"),
        ([f"ids={tmp_path / 'nowhere'}"], "there is no folder"),
        (["mesh=x.ply", "id=2"], "expected one of"),
    ):
        assert cli.main([*start, *arguments]) != 0
        assert words in capsys.readouterr().err
