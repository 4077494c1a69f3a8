"""RGB-D clips of things that fall, are pushed, slide and are carried, with the truth to score a decomposition against.

    python -m benchmarks.clips FOLDER [--seeds 0-19]

Physics by pybullet, pictures by rays against the moved meshes (Embree): exact depth and ids at pixel centres, colours from 2x2
rays a pixel with a sun and its shadows. Things are meshes of pybullet_data and plain solids, with colours that are functions of
the point. Odd seeds have depth like a structured-light camera and withhold the cameras. Each clip is a folder in the nerfstudio
convention with a ``truth/`` beside the input: ``masks/``, ``objects.json``, ``cameras.json``.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pybullet
import pybullet_data
import trimesh
from PIL import Image
from scipy import ndimage
from scipy.spatial.transform import Rotation
from tqdm import tqdm
from trimesh.ray.ray_pyembree import RayMeshIntersector

DATA = Path(pybullet_data.getDataPath())
SCRIPTS = ("fall", "push", "slide", "tray", "throw")
GRAVITY = 9.81


@dataclass
class Thing:
    """A mesh in its own frame, its paint, and where it stands in each frame (object to world)."""

    name: str
    mesh: trimesh.Trimesh
    paint: tuple[str, np.ndarray, float, int]
    body: int = -1
    poses: list[np.ndarray] = field(default_factory=list)


def solid(rng: np.random.Generator) -> tuple[str, trimesh.Trimesh]:
    """A closed mesh of 6 to 20 cm, centred, of a random kind."""
    kind = rng.choice(["box", "can", "ball", "duck", "mug", "teddy", "plank", "random", "random", "random"])
    make = trimesh.creation
    if kind == "box":
        mesh = make.box(rng.uniform(0.4, 1, 3))
    elif kind == "plank":
        mesh = make.box([1, rng.uniform(0.4, 0.7), 0.2])
    elif kind == "can":
        mesh = make.cylinder(0.33, rng.uniform(0.7, 1.2), sections=48)
    elif kind == "ball":
        mesh = make.icosphere(3)
    elif kind == "random":
        number = int(rng.choice([n for n in range(1000) if n != 168]))
        kind = f"random_{number:03d}"
        mesh = trimesh.load_mesh(DATA / f"random_urdfs/{number:03d}/{number:03d}.obj")
    else:
        file = {"duck": "duck.obj", "mug": "objects/mug.obj", "teddy": "teddy2_VHACD_CHs.obj"}[kind]
        mesh = trimesh.load_mesh(DATA / file)
    size = rng.uniform(0.09, 0.12) if kind == "ball" else rng.uniform(0.11, 0.2)
    mesh = trimesh.Trimesh(mesh.vertices - mesh.bounds.mean(0), mesh.faces)
    mesh.apply_scale(size / mesh.extents.max())
    return kind, mesh


def painted(paint: tuple[str, np.ndarray, float, int], p: np.ndarray) -> np.ndarray:
    """sRGB in 0..1 of points in the frame of what is painted, metres."""
    kind, colors, scale, seed = paint
    if kind == "plain":
        return np.broadcast_to(colors[0], p.shape).copy()
    if kind == "checks":
        pick = np.floor(p / scale + 0.01).astype(int).sum(-1) % 2
    elif kind == "stripes":
        pick = np.floor((p @ np.array([0.8, 0.5, 0.33])) / scale).astype(int) % len(colors)
    elif kind == "patches":
        cell = np.floor(p / scale + 0.013).astype(np.int64) @ np.array([73856093, 19349663, 83492791]) + seed * 7919
        pick = (cell ^ (cell >> 7) ^ (cell >> 13)) % len(colors)
    else:  # clouds
        rng = np.random.default_rng(seed)
        waves = rng.normal(size=(24, 3)) / scale * rng.uniform(0.3, 2.5, (24, 1))
        wave = np.sin(p @ waves.T * 2 + rng.uniform(0, 6.3, 24)) / 24**0.5
        mix = np.stack([wave[:, :12].sum(-1), wave[:, 12:].sum(-1)], -1)
        return np.clip(colors[0] + mix[:, :1] * (colors[1] - colors[0]) + 0.15 * mix[:, 1:], 0, 1)
    return colors[pick]


def paint_of(rng: np.random.Generator, scale: float, kinds: tuple[str, ...]) -> tuple[str, np.ndarray, float, int]:
    """A kind of paint with colours that differ."""
    colors = rng.uniform(0.1, 0.95, (4, 3))
    while np.ptp(colors.mean(-1)) < 0.35:
        colors = rng.uniform(0.1, 0.95, (4, 3))
    return str(rng.choice(kinds)), colors, scale * rng.uniform(0.7, 1.5), int(rng.integers(1 << 30))


class World:
    """Things in a pybullet world with a floor at z = 0; `step` moves it on by a frame, and keeps the poses."""

    def __init__(self, rng: np.random.Generator, fps: float, friction: float) -> None:
        self.things: list[Thing] = []
        self.rng, self.fps, self.friction = rng, fps, friction
        self.client = pybullet.connect(pybullet.DIRECT)
        pybullet.setGravity(0, 0, -GRAVITY, physicsClientId=self.client)
        pybullet.setPhysicsEngineParameter(fixedTimeStep=1 / (fps * 8), physicsClientId=self.client)
        floor = pybullet.createCollisionShape(pybullet.GEOM_BOX, halfExtents=[5, 5, 0.5], physicsClientId=self.client)
        self._body(floor, 0.0, [0, 0, -0.5], [0, 0, 0, 1])

    def _body(self, shape: int, mass: float, at: list[float], quat: list[float]) -> int:
        body = pybullet.createMultiBody(mass, shape, -1, at, quat, physicsClientId=self.client)
        pybullet.changeDynamics(
            body, -1, lateralFriction=self.friction, restitution=0.25, rollingFriction=1e-4, spinningFriction=1e-4,
            physicsClientId=self.client,
        )  # fmt: skip
        return body

    def add(self, name: str, mesh: trimesh.Trimesh, pose: np.ndarray, *, mass: float = 0.3) -> Thing:
        """A thing whose convex hull collides; of mass 0, it goes where it is put."""
        kinds = ("checks", "stripes", "patches", "patches", "clouds", "plain")
        thing = Thing(name, mesh, paint_of(self.rng, 0.035, kinds))
        hull = mesh.convex_hull
        shape = pybullet.createCollisionShape(
            pybullet.GEOM_MESH, vertices=hull.vertices.tolist(), physicsClientId=self.client
        )
        quat = Rotation.from_matrix(pose[:3, :3]).as_quat().tolist()
        thing.body = self._body(shape, mass, pose[:3, 3].tolist(), quat)
        self.things.append(thing)
        return thing

    def push(self, thing: Thing, velocity: np.ndarray, spin: np.ndarray) -> None:
        pybullet.resetBaseVelocity(thing.body, velocity.tolist(), spin.tolist(), physicsClientId=self.client)

    def put(self, thing: Thing, pose: np.ndarray) -> None:
        quat = Rotation.from_matrix(pose[:3, :3]).as_quat().tolist()
        pybullet.resetBasePositionAndOrientation(thing.body, pose[:3, 3].tolist(), quat, physicsClientId=self.client)

    def pose(self, thing: Thing) -> np.ndarray:
        at, quat = pybullet.getBasePositionAndOrientation(thing.body, physicsClientId=self.client)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = Rotation.from_quat(quat).as_matrix(), at
        return pose

    def keep(self) -> None:
        for thing in self.things:
            thing.poses.append(self.pose(thing))

    def step(self, n_frames: float = 1) -> None:
        for _ in range(round(8 * n_frames)):
            pybullet.stepSimulation(physicsClientId=self.client)


def placed(at: Sequence[float] | np.ndarray, turn: np.ndarray | None = None) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, 3] = at
    if turn is not None:
        pose[:3, :3] = turn
    return pose


def spots(rng: np.random.Generator, n: int, apart: float, reach: float) -> np.ndarray:
    """Random places on the floor that keep a distance."""
    found: list[np.ndarray] = []
    while len(found) < n:
        p = rng.uniform(-reach, reach, 2)
        if all(np.linalg.norm(p - q) > apart for q in found):
            found.append(p)
            continue
        apart *= 0.995
    return np.array(found)


def act(script: str, rng: np.random.Generator, n_frames: int, fps: float) -> tuple[list[Thing], list[dict]]:
    """Plays a script. Gives the things with their poses, and the intervals in which one carries another."""
    world = World(rng, fps, {"slide": 0.15, "tray": 0.9}.get(script, 0.5))
    n = int(rng.integers(3, 6))
    places = spots(rng, n, 0.2, 0.3)
    for i in range(n):
        kind, mesh = solid(rng)
        lift = {"fall": rng.uniform(0.05, 0.3), "throw": rng.uniform(0.08, 0.25)}.get(script, 0.001)
        loose = script in ("fall", "throw")
        turn = Rotation.random(rng=rng).as_matrix() if loose else np.eye(3)
        low = (mesh.vertices @ turn.T)[:, 2].min()
        thing = world.add(kind, mesh, placed((*places[i], lift - low), turn))
        if script == "fall":
            world.push(thing, rng.normal(0, 0.2, 3), rng.normal(0, 4, 3))
        elif script == "throw" and i < n - 1:
            world.push(thing, np.append(-places[i] * rng.uniform(1, 4), rng.uniform(0, 1)), rng.normal(0, 5, 3))
        elif script == "slide" and i < n - 1:
            world.push(thing, np.append(-places[i] * rng.uniform(2, 5), 0), np.array([0, 0, rng.normal(0, 3)]))
    still = n_frames / fps
    moving = None
    if script == "push":
        world.step(2 * fps)  # settle
        hand = trimesh.creation.box((0.06, 0.24, 0.14))
        angle = rng.uniform(0, 2 * math.pi)
        moving = world.add("pusher", hand, placed((0, 0, 5)), mass=0)
    if script == "tray":
        return carry(world, n_frames)
    for t in range(n_frames):
        if moving is not None:
            way = np.array([math.cos(angle), math.sin(angle)])
            at = way * (-0.45 + 0.6 * (0.5 - 0.5 * math.cos(math.pi * t / n_frames)))
            for _ in range(8):
                world.put(moving, placed((*at, 0.075), Rotation.from_euler("z", angle).as_matrix()))
                speed = way * 0.3 * math.pi / still * math.sin(math.pi * t / n_frames)
                world.push(moving, np.append(speed, 0), np.zeros(3))
                world.step(1 / 8)
        world.keep()
        if moving is None:
            world.step()
    return world.things, []


def carry(world: World, n_frames: int) -> tuple[list[Thing], list[dict]]:
    """A thin tray slides with a thing on it, which is then lifted off; another starts to move late."""
    rng = world.rng
    board = trimesh.creation.box((0.26, 0.18, rng.uniform(0.012, 0.022)))
    high = float(board.extents[2])
    tray = Thing("tray", board, paint_of(rng, 0.03, ("stripes", "patches", "checks")))
    cargo, late, *others = world.things
    world.step(2 * world.fps)
    start, lift = [world.pose(thing) for thing in world.things], n_frames // 2
    angle = rng.uniform(0, 2 * math.pi)
    way = np.array([math.cos(angle), math.sin(angle), 0])
    side = np.array([-way[1], way[0], 0])
    upright = start[0].copy()
    upright[:3, 3] = [0, 0, high - (cargo.mesh.vertices @ upright[:3, :3].T)[:, 2].min()]
    for t in range(n_frames):
        s = t / (n_frames - 1)
        turned = Rotation.from_euler("z", angle + 0.7 * s).as_matrix()
        tray.poses.append(
            placed(way * (0.36 * s - 0.2) + 0.05 * side * math.sin(3 * s) + [0, 0, high / 2 + 5e-4], turned)
        )
        base = tray.poses[min(t, lift)]
        on = base @ placed((0, 0, -high / 2)) @ upright
        r = max(t - lift, 0) / (n_frames - lift)
        on[:3, 3] += np.array([0, 0, 0.16 * math.sin(1.6 * r)]) - side * 0.2 * r * r
        on[:3, :3] = on[:3, :3] @ Rotation.from_euler("z", 1.2 * r * r).as_matrix()
        cargo.poses.append(on)
        r = max(s - 0.6, 0) / 0.4
        go = start[1].copy()
        go[:2, 3] = side[:2] * 0.27 + way[:2] * 0.1
        moved = go.copy()
        moved[:2, 3] += side[:2] * 0.16 * (0.5 - 0.5 * math.cos(math.pi * r))
        late.poses.append(moved)
        for k, (thing, pose) in enumerate(zip(others, start[2:], strict=True)):
            away = pose.copy()
            away[:2, 3] = 0.42 * np.array([math.cos(angle - 1.2 - 0.5 * k), math.sin(angle - 1.2 - 0.5 * k)])
            thing.poses.append(away)
    things = [tray, *world.things]
    return things, [{"child": 2, "parent": 1, "from": 0, "to": lift}]


def camera_path(rng: np.random.Generator, n_frames: int, moving: bool) -> np.ndarray:
    """Camera to world, OpenCV axes, [n 4 4]."""
    angle, up, far = rng.uniform(0, 2 * math.pi), rng.uniform(0.35, 0.75), rng.uniform(0.85, 1.15)
    sweep = rng.uniform(0.15, 0.4) * rng.choice([-1, 1]) * moving
    sway = rng.uniform(0, 6.3, 6)
    found = []
    for t in np.arange(n_frames) / max(n_frames - 1, 1):
        a = angle + sweep * (t - 0.5)
        eye = far * np.array([math.cos(a) * math.cos(up), math.sin(a) * math.cos(up), math.sin(up)])
        aim = np.array([0, 0, 0.08])
        if moving:
            eye = eye + 0.012 * np.sin(sway[:3] + t * np.array([9, 7, 11]))
            aim = aim + 0.012 * np.sin(sway[3:] + t * np.array([8, 10, 6]))
        z = (aim - eye) / np.linalg.norm(aim - eye)
        x = np.cross(z, [0, 0, 1])
        x /= np.linalg.norm(x)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = np.stack([x, np.cross(z, x), z], 1), eye
        found.append(pose)
    return np.array(found)


class Painter:
    """Draws things on a floor, maybe with a wall, in the light of a sun."""

    def __init__(self, rng: np.random.Generator, things: list[Thing], lens: tuple[float, int, int]) -> None:
        self.things, (self.focal, self.width, self.height) = things, lens
        floor = trimesh.creation.box((3, 3, 0.02))
        floor.apply_translation((0, 0, -0.01))
        ground = Thing("floor", floor, paint_of(rng, 0.13, ("checks", "stripes", "patches", "clouds", "clouds")))
        self.still = [ground]
        if rng.random() < 0.5:
            wall = trimesh.creation.box((0.02, 3, 3))
            wall.apply_translation((-0.9, 0, 0))
            turn = rng.uniform(0, 2 * math.pi)
            wall.apply_transform(trimesh.transformations.rotation_matrix(turn, (0, 0, 1)))
            self.still.append(Thing("wall", wall, paint_of(rng, 0.3, ("plain", "clouds", "stripes"))))
        self.sun = rng.normal(size=3) * 0.6 + [0, 0, 1.5]
        self.sun /= np.linalg.norm(self.sun)

    def clear(self, eyes: np.ndarray) -> None:
        """Turns a wall that stands before or about one of the cameras' places [n 3] to the other side of the floor."""
        for wall in self.still[1:]:
            out = wall.mesh.centroid * [1, 1, 0]
            if (eyes @ (out / np.linalg.norm(out))).max() > 0.8:
                wall.mesh.apply_transform(trimesh.transformations.rotation_matrix(math.pi, (0, 0, 1)))

    def draw(self, frame: int, T_world_cam: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``rgb`` [h w 3] in 0..1, ``depth`` [h w] metres (0 for none) and ``ids`` [h w] of one frame."""
        poses = [*(np.eye(4) for _ in self.still), *(thing.poses[frame] for thing in self.things)]
        everything = [*self.still, *self.things]
        parts = [thing.mesh.copy().apply_transform(pose) for thing, pose in zip(everything, poses, strict=True)]
        owner = np.repeat(np.arange(len(parts)), [len(part.faces) for part in parts])
        caster = RayMeshIntersector(trimesh.util.concatenate(parts))
        v, u = np.meshgrid(np.arange(2 * self.height) / 2 + 0.25, np.arange(2 * self.width) / 2 + 0.25, indexing="ij")
        fine, _, _ = self._cast(caster, owner, poses, T_world_cam, u, v)
        rgb = fine.reshape(self.height, 2, self.width, 2, 3).mean((1, 3))
        v, u = np.meshgrid(np.arange(self.height) + 0.5, np.arange(self.width) + 0.5, indexing="ij")
        _, depth, hit = self._cast(caster, owner, poses, T_world_cam, u, v)
        return rgb, depth, np.maximum(hit - len(self.still) + 1, 0)

    def _cast(self, caster, owner, poses, T_world_cam, u, v) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        local = np.stack([(u - self.width / 2) / self.focal, (v - self.height / 2) / self.focal, np.ones_like(u)], -1)
        rays = local.reshape(-1, 3) @ T_world_cam[:3, :3].T
        eye = np.broadcast_to(T_world_cam[:3, 3], rays.shape)
        face = caster.intersects_first(eye, rays)
        hit = face >= 0
        normal, corner = caster.mesh.face_normals[face], caster.mesh.triangles[face, 0]
        slope = np.einsum("ij,ij->i", normal, rays)
        depth = np.where(hit, np.einsum("ij,ij->i", normal, corner - eye) / np.where(hit, slope, 1), 0)
        points = eye + rays * depth[:, None]
        rgb = np.broadcast_to([0.75, 0.82, 0.9], points.shape).copy()
        who = np.where(hit, owner[face], -1)
        for i, (thing, pose) in enumerate(zip([*self.still, *self.things], poses, strict=True)):
            mine = who == i
            rgb[mine] = painted(thing.paint, (points[mine] - pose[:3, 3]) @ pose[:3, :3])
        normal = normal * -np.sign(slope)[:, None]
        away = points + 1e-4 * normal
        dark = caster.intersects_any(away, np.broadcast_to(self.sun, away.shape).copy())
        light = 0.45 + 0.55 * np.clip(normal @ self.sun, 0, 1) * ~dark
        rgb[hit] *= light[hit, None] ** (1 / 2.2)
        return rgb.reshape(*u.shape, 3), depth.reshape(u.shape), who.reshape(u.shape)


def measured(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Depth as a structured-light camera has it: noise that grows, lost edges and blobs."""
    noisy = depth + rng.normal(size=depth.shape) * (0.0015 + 0.002 * depth**2)
    edge = np.zeros(depth.shape, bool)
    jump = 0.02 + 0.02 * depth
    edge[:, 1:] |= np.abs(np.diff(depth, axis=1)) > jump[:, 1:]
    edge[1:] |= np.abs(np.diff(depth, axis=0)) > jump[1:]
    lost = np.asarray(ndimage.binary_dilation(edge), bool)
    blobs = ndimage.gaussian_filter(rng.normal(size=depth.shape), 3)
    lost |= blobs > np.quantile(blobs, 0.97)
    return np.where(lost | (depth == 0), 0, noisy)


def make_clip(folder: Path, seed: int) -> None:
    """Writes the clip of a seed."""
    rng = np.random.default_rng(seed)
    script = SCRIPTS[seed // 2 % len(SCRIPTS)]
    noisy, large = seed % 2 == 1, seed % 7 == 3
    n_frames = 36 if script == "tray" else 24
    fps = float({"fall": 60, "throw": 60, "push": 30, "slide": 40, "tray": 24}[script])
    things, intervals = act(script, rng, n_frames, fps)
    width, height = (320, 240) if large else (160, 120)
    painter = Painter(rng, things, (1.15 * width, width, height))
    cameras = camera_path(rng, n_frames, moving=bool(rng.random() < 0.6))
    painter.clear(cameras[:, :3, 3])
    for part in ("rgb", "depth", "truth/masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    opengl = [(pose @ np.diag([1.0, -1, -1, 1])).tolist() for pose in cameras]
    frames = []
    for t in tqdm(range(n_frames), desc=f"seed {seed} ({script})", delay=2, leave=False, disable=None):
        rgb, depth, ids = painter.draw(t, cameras[t])
        file = f"{t:05d}.png"
        Image.fromarray(np.rint(rgb * 255).astype(np.uint8)).save(folder / "rgb" / file)
        depth = measured(depth, rng) if noisy else depth
        Image.fromarray(np.rint(depth * 1000).astype(np.uint16)).save(folder / "depth" / file)
        Image.fromarray(ids.astype(np.uint8)).save(folder / "truth/masks" / file)
        frame = {"file_path": f"rgb/{file}", "depth_file_path": f"depth/{file}", "time": round(t / fps, 6)}
        frames.append(frame if noisy else frame | {"transform_matrix": opengl[t]})
    lens = {"fl_x": 1.15 * width, "fl_y": 1.15 * width, "cx": width / 2, "cy": height / 2, "w": width, "h": height}
    head = {**lens, "camera_model": "PINHOLE", "depth_unit_scale_factor": 0.001, "fps": fps}
    _write(folder / "transforms.json", {**head, "frames": frames})
    objects = [
        {"id": i, "name": t.name, "rigid": True, "extent": t.mesh.extents.tolist(), "poses": np.array(t.poses).tolist()}
        for i, t in enumerate(things, 1)
    ]
    _write(folder / "truth/objects.json", {"script": script, "objects": objects, "parent_intervals": intervals})
    _write(folder / "truth/cameras.json", {"transform_matrices": opengl})


def _write(path: Path, data: dict) -> None:
    path.write_text(json.dumps(data) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", default="0-19", help="first-last")
    args = parser.parse_args()
    first, _, last = args.seeds.partition("-")
    for seed in range(int(first), int(last or first) + 1):
        make_clip(args.folder / f"clip_{seed:02d}", seed)


if __name__ == "__main__":
    main()
