import numpy as np

from scenes.video.volume import Grid, Sight, closed, fuse, hull, surface
from tests.scenes.video.clips import FOCAL, HEIGHT, WIDTH, looking

LENS = np.array([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2])
RADIUS = 0.1


def ball_seen_from(eyes):
    """Depth of a ball about the origin before a wall 0.3 m behind it, and pixels that show it."""
    v, u = np.meshgrid(np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5, indexing="ij")
    local = np.stack([(u - LENS[2]) / FOCAL, (v - LENS[3]) / FOCAL, np.ones_like(u)], -1)
    depth, mine, to_cam = [], [], []
    for eye in eyes:
        pose = looking(eye, (0, 0, 0))
        away = np.linalg.norm(eye)
        a, b, c = (local**2).sum(-1), local[..., 2] * away, away**2 - RADIUS**2
        root = b**2 - a * c
        hit = root > 0
        depth.append(np.where(hit, (b - np.sqrt(np.maximum(root, 0))) / a, away + 0.3))
        mine.append(hit)
        to_cam.append(np.linalg.inv(pose))
    depth = np.array(depth, np.float32)
    return Sight(depth, np.array(mine), np.ones_like(depth), np.array(to_cam), LENS)


def solid(eyes, behind=0.0):
    grid = Grid.around(np.full(3, -RADIUS), np.full(3, RADIUS), 0.005, 4)
    value, weight = fuse(grid, ball_seen_from(eyes), behind)
    return surface(grid, closed(value, weight > 0, hull(grid, value, weight > 0)))


def test_depths_from_all_sides_give_the_surface_within_a_fraction_of_a_cell():
    eyes = [(0.6, 0, 0.01), (-0.6, 0, 0.01), (0, 0.6, 0.01), (0, -0.6, 0.01), (0.01, 0, 0.6), (0.01, 0, -0.6)]
    mesh = solid(eyes)
    assert mesh.is_watertight and mesh.volume > 0
    off = np.linalg.norm(mesh.vertices, axis=1) - RADIUS
    assert np.abs(off).mean() < 0.001 and np.abs(off).max() < 0.004


def test_what_is_seen_from_one_side_is_closed_and_no_larger_than_its_hull():
    mesh = solid([(0.6, 0, 0.01)])
    assert mesh.is_watertight
    front = mesh.vertices[:, 0] > 0.05
    assert np.abs(np.linalg.norm(mesh.vertices[front], axis=1) - RADIUS).mean() < 0.002
    half = 2 / 3 * np.pi * RADIUS**3
    assert 0.5 * half < mesh.volume < 1.5 * half


def test_a_hole_in_a_floor_is_closed_level():
    z = np.arange(20)[None, None]
    value = np.broadcast_to(np.clip((z - 9.5) / 3, -1, 1), (20, 20, 20)).astype(np.float32)
    known = np.ones_like(value, bool)
    known[6:13, 6:13] = False
    full = closed(np.where(known, value, 0), known, None)
    assert np.abs(np.abs(full[9, 9, 9:11]) - 1 / 6).max() < 0.12
    assert (full[9, 9, :8] < 0).all() and (full[9, 9, 12:] > 0).all()


def test_specks_and_bubbles_are_left_out():
    grid = Grid(np.zeros(3), 1.0, (20, 20, 20))
    value = np.ones(grid.shape, np.float32)
    value[4:14, 4:14, 4:14] = -1
    value[8, 8, 8] = 1
    value[17, 17, 17] = -1
    mesh = surface(grid, value)
    assert len(mesh.split()) == 1 and mesh.vertices.max() < 15
    assert surface(grid, np.ones(grid.shape, np.float32)) is None
