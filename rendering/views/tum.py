"""Posed pictures in the format of the TUM RGB-D benchmark: ``rgb.txt``, ``groundtruth.txt``, ``depth.txt``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from objects.pose import SE3
from rendering.camera import Camera
from rendering.views.layers import Unreadable
from rendering.views.lens import Lens
from rendering.views.paths import PICTURES, beside, located, text_of
from rendering.views.pictures import Notes, ReadOptions, Shot, ids_beside, picture_size
from rendering.views.types import ViewError

_STEPS_PER_METRE = 5000
_PARTNER_S = 0.02
_COMMENTS = ("#", "%", "//")


def tum_shots(
    root: Path, every: int, intrinsics: Sequence[float] | None, options: ReadOptions, notes: Notes
) -> list[Shot]:
    """Pictures with their poses and depth, joined by the nearest times within 20 ms.

    Raises:
        ViewError: A file, line or number that is not as it must be, or nothing that fits together.
    """
    fx, fy, cx, cy, *bends = _intrinsics(root, intrinsics)
    k1, k2, p1, p2, k3 = (bends + [0.0] * 5)[:5]
    lens = Lens(k1=k1, k2=k2, k3=k3, p1=p1, p2=p2)
    times, names = _list(root / "rgb.txt", 1)
    pose_times, poses = _list(root / "groundtruth.txt", 7)
    depth_times, depths = np.zeros(0), []
    if options.depth and (root / "depth.txt").is_file():
        depth_times, depths = _list(root / "depth.txt", 1)
    shots = []
    for i in range(0, len(times), every):
        name = beside(root, names[i][0], f"{root / 'rgb.txt'}: the picture at {times[i]:.6f}")
        at = _nearest(pose_times, times[i])
        depth_at = _nearest(depth_times, times[i]) if depths else None
        picture = located(root, name, PICTURES)
        if picture is None:
            notes.lose("whose picture is absent", name)
        elif at is None or (depths and depth_at is None):
            notes.lose("without a pose or depth within 20 ms", name)
        else:
            try:
                size, turn = picture_size(picture)
            except Unreadable as error:
                notes.lose("whose picture or mask can't be read", name, str(error))
                continue
            if turn != 1:
                notes.add("the EXIF orientation isn't applied", name)
            pose = _pose(poses[at], f"{root / 'groundtruth.txt'}: the pose at {pose_times[at]:.6f}")
            # The published numbers count from the centre of the first pixel, which is (0.5, 0.5) here.
            camera = Camera(pose, fx, fy, cx + 0.5, cy + 0.5, *size)
            depth = None
            if depth_at is not None:
                there = beside(root, depths[depth_at][0], f"{root / 'depth.txt'}: depth at {depth_times[depth_at]:.6f}")
                depth = located(root, there) or root / there
            ids = ids_beside(root, name, options)
            time = float(times[i] - times[0])
            shots.append(Shot(name, picture, camera, lens, time, depth, 1 / _STEPS_PER_METRE, None, ids))
    if not shots:
        lost = notes.lost()
        raise ViewError(
            f"{root}: none of the {len(lost)} pictures in rgb.txt is there and has a pose (and depth) within 20 ms; the first "
            f"is {lost[0][0]}"
        )
    return shots


def _intrinsics(root: Path, given: Sequence[float] | None) -> list[float]:
    numbers, source = given, "intrinsics"
    if given is None:
        path, source = root / "calibration.txt", str(root / "calibration.txt")
        if not path.is_file():
            raise ViewError(
                f"{root}: a TUM folder doesn't tell the focal length: give intrinsics=fx,fy,cx,cy, or a calibration.txt "
                "with them in one line; for TUM's own sets (525, 525, 319.5, 239.5), or see their page for each camera"
            )
        try:
            lines = [line for line in _lines(path) if line]
            numbers = [float(word) for word in lines[0].split()] if lines else []
        except ValueError as error:
            raise ViewError(f"{path}: expected numbers fx fy cx cy [k1 k2 p1 p2 k3]: {error}") from None
    values = [float(x) for x in numbers or ()]
    if not 4 <= len(values) <= 9 or not all(map(math.isfinite, values)) or min(values[:2]) <= 0:
        raise ViewError(f"{source}: expected fx fy cx cy [k1 k2 p1 p2 k3] with fx, fy greater than 0, got {values}")
    return values


def _list(path: Path, n_values: int) -> tuple[np.ndarray, list[list[str]]]:
    """Times, ascending, and what stands beside them."""
    rows = []
    for number, line in enumerate(_lines(path), 1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        try:
            rows.append((float(words[0]), words[1 : 1 + n_values]))
        except ValueError:
            rows.append((math.nan, []))
        if not math.isfinite(rows[-1][0]) or len(rows[-1][1]) < n_values:
            raise ViewError(f"{path}: line {number}: expected a time and {n_values} more, got {line!r}")
    if not rows:
        raise ViewError(f"{path}: expected lines with a time and {n_values} more, got none")
    rows.sort(key=lambda row: row[0])
    return np.array([row[0] for row in rows]), [row[1] for row in rows]


def _lines(path: Path) -> list[str]:
    """Lines, empty where they hold nothing but a comment."""
    lines = [line.strip().removeprefix("\ufeff") for line in text_of(path).splitlines()]
    return ["" if line.startswith(_COMMENTS) else line for line in lines]


def _nearest(times: np.ndarray, time: float) -> int | None:
    i = int(np.abs(times - time).argmin())
    return i if abs(times[i] - time) <= _PARTNER_S else None


def _pose(words: list[str], where: str) -> SE3:
    """``tx ty tz qx qy qz qw``, camera to world, OpenCV axes."""
    try:
        x, y, z, qx, qy, qz, qw = (float(word) for word in words)
        length = math.sqrt(qx * qx + qy * qy + qz * qz + qw * qw)
        if abs(length - 1) > 0.01:
            raise ValueError(f"the quaternion must have length 1, has {length:g}")
        quat = torch.tensor([qw, qx, qy, qz], dtype=torch.float64) / length
        return SE3(quat, torch.tensor([x, y, z], dtype=torch.float64))
    except ValueError as error:
        raise ViewError(f"{where}: expected tx ty tz qx qy qz qw: {error}") from None
