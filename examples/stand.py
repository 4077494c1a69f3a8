"""A stepped stand in a half circle, with learned objects on it, sorted by colour."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from objects import SE3, Box, FitConfig, SirenField
from rendering import AmbientLight, Camera, PointLight
from scenes import SceneGraph

SIZE = (640, 480)  # of the picture that the camera takes
ARC = math.radians(72)  # of the stand, seen from its middle
SEGMENTS = 8  # straight pieces of each step
DEPTH, RISE, PITCH = 0.125, 0.09, 0.12  # metres; PITCH is the room for one object along a step
SHORTEST, LONGEST = 0.115, 0.14  # longest edge of an object: those beyond are scaled to it
STONE, FLOOR, WALL = (0.86, 0.84, 0.81), (0.62, 0.52, 0.42), (0.58, 0.66, 0.72)


class Exhibit(NamedTuple):
    name: str
    field: SirenField
    color: tuple[float, float, float]


class Slot(NamedTuple):
    """A place for an object: on which step, and how far along the arc (0..1)."""

    row: int
    along: float


def first_radius(n: int) -> float:
    """Of the lowest step for ``n`` objects, so that the stand always has about the same shape."""
    return max(0.3, 0.075 * math.sqrt(n))


def seats(n: int) -> list[Slot]:
    """``n`` places on as few steps as hold them, spread evenly, from the left to the right."""
    room: list[int] = []
    first = first_radius(n)
    while sum(room) < n:
        room.append(max(1, int(ARC * (first + DEPTH * len(room)) / PITCH)))
    ends = np.round(np.cumsum([0, *room]) * n / sum(room)).astype(int)
    slots = [Slot(row, (i + 0.5) / (b - a)) for row, (a, b) in enumerate(pairwise(ends)) for i in range(b - a)]
    return sorted(slots, key=lambda s: (s.along, s.row))


def on_step(slot: Slot, first: float) -> SE3:
    """The middle of a place on the top of its step, y away from the middle of the stand; ``first`` is its lowest radius."""
    angle = (slot.along - 0.5) * ARC
    piece = ARC / SEGMENTS
    straight = (min(int(slot.along * SEGMENTS), SEGMENTS - 1) + 0.5) * piece - ARC / 2  # the angle that its piece faces
    radius = (first + DEPTH * (slot.row + 0.5)) / math.cos(angle - straight)
    place = (radius * math.sin(angle), radius * math.cos(angle), RISE * (slot.row + 1))
    return SE3.from_translation(place) @ SE3.from_axis_angle((0.0, 0.0, 1.0), -straight)


def upright(field: SirenField, padding: float = FitConfig.padding) -> tuple[SE3, float]:
    """Pose on its place and scale: its longest edge upright, its shortest towards the viewer, its lowest point at z = 0."""
    size = field.bounds.size.double()
    longest = float(size.max()) / (1 + 2 * padding)  # without the space that the box leaves around the object
    short, middle, long = size.argsort().tolist()
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.eye(3, dtype=torch.float64)[[middle, short, long]]
    if torch.linalg.det(matrix[:3, :3]) < 0:
        matrix[1, :3] *= -1
    turn = SE3.from_matrix(matrix)
    scale = min(max(longest, SHORTEST), LONGEST) / longest
    middle_world = turn @ (scale * field.bounds.center.double())
    lift = torch.tensor([0.0, 0.0, 0.5 * scale * longest], dtype=torch.float64)
    return SE3.from_translation(lift - middle_world) @ turn, scale


def by_color(exhibits: Sequence[Exhibit], slots: Sequence[Slot]) -> list[tuple[Exhibit, Slot]]:
    """The hue goes round the stand; at each hue the dark ones stand in front."""
    n_rows = 1 + max(s.row for s in slots)
    hues = sorted(exhibits, key=lambda e: (colorsys.rgb_to_hls(*e.color)[0], e.name))
    pairs = []
    for i in range(0, len(hues), n_rows):
        light = sorted(hues[i : i + n_rows], key=lambda e: (colorsys.rgb_to_hls(*e.color)[1], e.name))
        pairs += zip(light, sorted(slots[i : i + n_rows]), strict=True)
    return pairs


def build(exhibits: Sequence[Exhibit]) -> SceneGraph:
    """A stepped stand in a half circle with all exhibits on it, in an open room with two lamps."""
    graph = SceneGraph()
    slots, first = seats(len(exhibits)), first_radius(len(exhibits))
    n_rows = 1 + max(s.row for s in slots)
    outer = first + DEPTH * n_rows
    graph.add("room")
    graph.add("room/floor", Box((30.0, 30.0, 0.1), color=FLOOR), pose=SE3.from_translation((0.0, 0.0, -0.05)))
    graph.add("room/wall", Box((30.0, 0.1, 16.0), color=WALL), pose=SE3.from_translation((0.0, outer + 0.6, 8.0)))
    graph.add("room/sky", light=AmbientLight((0.95, 0.97, 1.0), 0.42, ground_color=(0.74, 0.66, 0.58)))
    # Lamps fall off with the square of the distance, so they grow with the stand.
    reach = outer + 1.0
    lamps = {
        "lamp": ((-0.85, -0.45, 1.15), (1.0, 0.95, 0.86), 1.9),
        "window": ((0.95, -0.35, 0.95), (0.85, 0.92, 1.0), 0.55),
    }
    for name, (place, color, intensity) in lamps.items():
        light = PointLight((0.0, 0.0, 0.0), color, intensity * reach**2)
        graph.add(f"room/{name}", light=light, pose=SE3.from_translation([reach * x for x in place]))
    graph.add("stand")
    graph.add("stand/steps")
    for row in range(n_rows):
        inner, height = first + DEPTH * row, RISE * (row + 1)
        width = 2 * (inner + DEPTH) * math.tan(ARC / SEGMENTS / 2)
        step = Box((width, DEPTH, height), color=STONE)
        for k in range(SEGMENTS):
            turn = SE3.from_axis_angle((0.0, 0.0, 1.0), -((k + 0.5) / SEGMENTS - 0.5) * ARC)
            middle = SE3.from_translation((0.0, inner + 0.5 * DEPTH, 0.5 * height))
            graph.add(f"stand/steps/{row:02d}-{k}", step, pose=turn @ middle)
    graph.add("stand/objects")
    for exhibit, slot in by_color(exhibits, slots):
        pose, scale = upright(exhibit.field)
        graph.add(f"stand/objects/{exhibit.name}", exhibit.field, pose=on_step(slot, first) @ pose, scale=scale)
    places = torch.stack([on_step(s, first).translation for s in slots])
    around = LONGEST * torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (0, 1)])
    graph.add("camera", camera=framed((places[:, None] + around).reshape(-1, 3), *SIZE))
    return graph


def framed(
    points: torch.Tensor, width: int, height: int, elevation_deg: float = 36.0, fov_y_deg: float = 34.0
) -> Camera:
    """A camera in front (at negative y) and above that holds all points in its picture, as close as can be."""
    up = math.radians(elevation_deg)
    away = torch.tensor([0.0, -math.cos(up), math.sin(up)], dtype=torch.float64)
    target, distance = 0.5 * (points.amin(0) + points.amax(0)), 20.0
    size = torch.tensor([width, height], dtype=torch.float64)
    for _ in range(20):
        camera = Camera.look_at(target + distance * away, target, width, height, fov_y_deg)
        uv, _ = camera.project(points)
        lo, hi = uv.amin(0), uv.amax(0)
        off = 0.5 * (lo + hi) - 0.5 * size
        right, down = camera.T_world_cam.rotation()[:, 0], camera.T_world_cam.rotation()[:, 1]
        target = target + (off[0] * right + off[1] * down) * distance / camera.fy
        distance = distance * (0.5 + 0.5 * float(((hi - lo) / (0.92 * size)).max()))
    return camera


def lift_out(graph: SceneGraph, seconds: float) -> str:
    """One object of the middle rises from its place, comes towards the camera and turns; all else stays."""
    paths = [p for p in graph if p.startswith("stand/objects/")]
    places = torch.stack([graph.pose(p)[0].translation for p in paths])
    middle = places.median(0).values * torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    path = paths[int((places - middle).norm(dim=1).argmin())]
    start, camera = graph.pose(path)[0].translation, graph.camera_at("camera")
    risen = start + torch.tensor([0.0, 0.0, 1.5 * LONGEST], dtype=torch.float64)
    forward, eye = camera.T_world_cam.rotation()[:, 2], camera.position_world
    near = eye + (0.25 * float((start - eye).norm()) + 3 * LONGEST) * forward
    graph.move(path, by=(0.0, 0.0, 0.0), time=0.1 * seconds)
    graph.move(path, to=risen.tolist(), time=0.3 * seconds)
    graph.move(path, to=near.tolist(), time=0.9 * seconds)
    graph.rotate(path, (0, 0, 1), 150, time=0.9 * seconds)
    return path
