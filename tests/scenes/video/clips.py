"""Small clips with known answers: exact boxes and balls on a textured floor, cast by formulas."""

import numpy as np

from scenes.video import Clip

WIDTH, HEIGHT, FOCAL = 96, 72, 105.0


def texture(p, seed, scale):
    """Colours of points that differ from cell to cell and are smooth within."""
    waves = np.random.default_rng(seed).normal(size=(12, 3)) / scale
    phase = np.random.default_rng(seed + 1).uniform(0, 6.3, 12)
    s = np.sin(p @ waves.T + phase).reshape(*p.shape[:-1], 3, 4).sum(-1)
    return 0.5 + 0.14 * s


def looking(eye, aim=(0.0, 0.0, 0.05)):
    """Camera to world, OpenCV axes."""
    z = np.subtract(aim, eye) / np.linalg.norm(np.subtract(aim, eye))
    x = np.cross(z, [0, 0, 1.0])
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = np.stack([x, np.cross(z, x), z], 1), eye
    return pose


def box_hits(origin, rays, half, pose):
    """Ray parameters where rays enter a box, inf where they miss it."""
    o = (origin - pose[:3, 3]) @ pose[:3, :3]
    d = rays @ pose[:3, :3]
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (-half - o) / d, (half - o) / d
    near, far = np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)
    return np.where((near < far) & (near > 0), near, np.inf)


def clip_of_boxes(boxes, cameras, *, noise=0.0, given=True):
    """A clip of boxes on the floor z = 0.

    Args:
        boxes: (half sizes, poses [F 4 4]) of each box.
        cameras: [F 4 4] camera to world.
        noise: deviation of the depth, metres.
        given: whether the clip says where the cameras are.

    Returns:
        The clip, and ids [F H W]: 0 floor, 1.. boxes.
    """
    rng = np.random.default_rng(0)
    v, u = np.meshgrid(np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5, indexing="ij")
    local = np.stack([(u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL, np.ones_like(u)], -1)
    rgbs, depths, ids = [], [], []
    for t, camera in enumerate(cameras):
        rays = local @ camera[:3, :3].T
        origin = camera[:3, 3]
        with np.errstate(divide="ignore"):
            floor = np.where(rays[..., 2] < -1e-6, -origin[2] / rays[..., 2], np.inf)
        hits = [floor, *(box_hits(origin, rays, half, poses[t]) for half, poses in boxes)]
        who = np.argmin(hits, 0)
        z = np.min(hits, 0)
        z = np.where(z < 5, z, 0)
        p = origin + rays * z[..., None]
        rgb = texture(p, 5, 0.06)
        for k, (_, poses) in enumerate(boxes, 1):
            mine = who == k
            rgb[mine] = texture((p[mine] - poses[t][:3, 3]) @ poses[t][:3, :3], 10 * k, 0.02)
        depths.append(np.where(z > 0, z + noise * rng.normal(size=z.shape), 0).astype(np.float32))
        rgbs.append(np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8))
        ids.append(np.where(z > 0, who, 0))
    lens = np.array([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2])
    times = np.arange(len(cameras)) / 30
    clip = Clip(np.stack(rgbs), np.stack(depths), lens, times, np.stack(cameras) if given else None)
    return clip, np.stack(ids)


def at(x, y, z, turn=0.0):
    """A pose turned about z (radians)."""
    pose = np.eye(4)
    c, s = np.cos(turn), np.sin(turn)
    pose[:2, :2] = [[c, -s], [s, c]]
    pose[:3, 3] = x, y, z
    return pose
