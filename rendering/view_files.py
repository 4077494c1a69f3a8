"""Folders of posed pictures: nerfstudio ``transforms.json``, TUM RGB-D, and plain photos.

Whatever the folder holds, what comes out is the same (`Views`): OpenCV camera axes, z up, metres, no distortion.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from objects.pose import SE3
from objects.progress import Bar
from rendering.camera import Camera
from rendering.lens import LENS_KEYS, Lens
from rendering.view_checks import check_views
from rendering.view_photos import find_cameras
from rendering.view_pictures import PICTURES, ReadOptions, Shot, ids_beside, picture_size, read_shot
from rendering.views import ViewError, Views

Path_ = str | os.PathLike[str]

# What each camera model of a transforms.json may bend; all are pinholes with the polynomial lens of OpenCV.
# What a frame may say beside its lens.
_KEYS = (
    "file_path",
    "transform_matrix",
    "depth_file_path",
    "mask_path",
    "instance_path",
    "depth_unit_scale_factor",
    "time",
)
_MODELS = {
    "PINHOLE": (),
    "SIMPLE_PINHOLE": (),
    "SIMPLE_RADIAL": ("k1",),
    "RADIAL": ("k1", "k2"),
    "OPENCV": LENS_KEYS,
}
# A file with few digits leaves a rotation this far from one; it is made exact.
_RIGID = 1e-3
_TUM_STEPS_PER_METRE = 5000
_TUM_PARTNER_S = 0.02


def load_views(
    folder: Path_,
    *,
    split: str | None = None,
    depth: bool = True,
    masks: Literal["object", "valid"] = "object",
    instances: str | None = None,
    every: int = 1,
    depth_unit: float | None = None,
    intrinsics: Sequence[float] | None = None,
) -> Views:
    """Reads posed pictures, and checks that they make sense together (see `check_views`).

    What the folder holds decides how it is read:

    * ``transforms.json`` (nerfstudio), or ``transforms_train.json`` and its like (NeRF synthetic). Intrinsics stand in the
      file or in each frame: ``fl_x``, ``fl_y``, ``cx``, ``cy``, ``w``, ``h``, or ``camera_angle_x``; what is left out follows
      from the picture. ``camera_model`` is PINHOLE, SIMPLE_PINHOLE, SIMPLE_RADIAL, RADIAL or OPENCV (the default), with
      ``k1 k2 k3 p1 p2``. Each frame: ``file_path``, ``transform_matrix`` (camera to world, OpenGL axes), and if wanted
      ``time``, ``depth_file_path`` (16-bit picture or .npy, times ``depth_unit_scale_factor``, 0.001 if left out),
      ``mask_path``, ``instance_path`` (instance ids, 8 or 16 bit, 0 for none). ``applied_transform`` is kept, not undone.
    * ``rgb.txt`` and ``groundtruth.txt``, if wanted ``depth.txt`` (TUM RGB-D). Pictures, depth and poses are joined by the
      nearest time stamp within 20 ms; depth has 5,000 steps a metre. Time counts from the first picture.
    * Nothing but photos, in the folder or its ``images/``. Their cameras are found by pycolmap, see `find_cameras`.

    Pictures are undistorted by reading them: bilinear; depth, ids and masks by the nearest pixel. What lies beyond the
    lens is not ``valid``. Frames whose picture is absent are left out, with one warning. Nothing is written to the folder.

    Args:
        folder: The folder, or a ``transforms*.json`` itself.
        split: ``"train"``, ``"val"``, ``"test"``: ``transforms_<split>.json``, or the frames that ``<split>_filenames`` in
            ``transforms.json`` lists. By default ``transforms.json`` whole, else ``transforms_train.json``.
        depth: False leaves depth unread.
        masks: What ``mask_path`` means. ``"object"``: opacity of what is to be learned, joined with the picture's alpha.
            ``"valid"``: nerfstudio's meaning, pixels at 0 are not to be learned from at all.
        instances: A folder (relative to the data) with an id picture for each picture, of the same name but for the
            suffix; for sets whose frames have no ``instance_path``.
        every: Take every n-th frame only.
        depth_unit: Metres for each step of the depth files, instead of what the files say.
        intrinsics: For TUM folders without ``calibration.txt`` (a line ``fx fy cx cy [k1 k2 p1 p2 k3]``): these numbers in
            this order, as published, which is pixels counted from the centre of the first pixel.

    Raises:
        ViewError: A folder, file, number, matrix or picture that is not as it must be. The text names it and says what to do.
    """
    path = Path(folder)
    if every < 1:
        raise ViewError(f"load_views: every must be at least 1, got {every}")
    if masks not in ("object", "valid"):
        raise ViewError(f"load_views: masks must be 'object' or 'valid', got {masks!r}")
    if not path.exists():
        raise ViewError(f"{path}: there is no such folder")
    if path.is_file() and path.suffix.lower() != ".json":
        raise ViewError(f"{path}: expected a folder of pictures or a transforms.json, got another file")
    if depth_unit is not None and not (math.isfinite(depth_unit) and depth_unit > 0):
        raise ViewError(f"load_views: depth_unit must be finite and greater than 0, got {depth_unit}")
    options = ReadOptions(depth, masks, instances, depth_unit)
    root = path.parent if path.is_file() else path
    transforms = path if path.is_file() else _transforms_of(path, split)
    landmarks = applied = None
    if transforms is not None:
        shots, applied = _nerfstudio_shots(transforms, split, every, options)
    elif (root / "rgb.txt").is_file():
        shots = _tum_shots(root, every, intrinsics, options)
    else:
        shots, landmarks = _photo_shots(root, every)
    progress = Bar(shots, desc="reading pictures", unit="picture")
    views = Views([read_shot(shot, options, root) for shot in progress], landmarks=landmarks, applied_transform=applied)
    check_views(views, str(path))
    return views


def _no_data(folder: Path) -> ViewError:
    return ViewError(
        f"{folder}: there is no transforms.json, no TUM rgb.txt and no picture ({', '.join(PICTURES)}) here or in images/; "
        "give the folder that holds one of them"
    )


def _left_out(where: Path, names: Sequence[str], total: int, why: str) -> None:
    warnings.warn(f"{where}: left out {len(names)} of {total} frames, {why}; the first is {names[0]}", stacklevel=4)


# -- nerfstudio, NeRF synthetic ----------------------------------------------------------------------------------------


def _transforms_of(folder: Path, split: str | None) -> Path | None:
    found = sorted(p.name for p in folder.glob("transforms*.json"))
    for name in [f"transforms_{split}.json"] if split else ["transforms.json", "transforms_train.json"]:
        if name in found:
            return folder / name
    if split and "transforms.json" in found:
        return folder / "transforms.json"
    if found:
        raise ViewError(f"{folder}: there are no transforms for split={split!r}; there are {', '.join(found)}")
    if split:
        raise ViewError(f"{folder}: split={split!r} needs a transforms_{split}.json, which is not there")
    return None


def _nerfstudio_shots(path: Path, split: str | None, every: int, options: ReadOptions) -> tuple[list[Shot], Any]:
    data = _read_json(path)
    frames = data.get("frames") if isinstance(data, Mapping) else None
    if not isinstance(frames, list) or not frames:
        raise ViewError(f"{path}: expected a list 'frames' with at least one frame, got {_short(frames)}")
    if split and path.name == "transforms.json":
        wanted = data.get(f"{split}_filenames")
        others = any(f"{name}_filenames" in data for name in ("train", "val", "test"))
        if isinstance(wanted, list):
            chosen = {str(name) for name in wanted}
            frames = [f for f in frames if isinstance(f, Mapping) and f.get("file_path") in chosen]
        elif others or split != "train":
            raise ViewError(
                f"{path}: has no list '{split}_filenames', and there is no transforms_{split}.json beside it; "
                "load without split and divide the views by split(views, hold_out_every)"
            )
        if not frames:
            raise ViewError(f"{path}: none of the pictures in '{split}_filenames' is the file_path of a frame")
    shots, absent = [], []
    for i, frame in list(enumerate(frames))[::every]:
        where = f"{path}: frames[{i}]"
        if not isinstance(frame, Mapping) or not isinstance(frame.get("file_path"), str):
            raise ViewError(f"{where}: expected an object with a text 'file_path', got {_short(frame)}")
        where = f"{where} ({frame['file_path']})"
        picture = _picture_at(path.parent, frame["file_path"])
        if picture is None:
            absent.append(frame["file_path"])
        else:
            shots.append(_shot({**data, **frame}, picture, path.parent, where, options))
    for key in sorted({key for frame in frames[::every] for key in frame}.difference(_KEYS)):
        if meant := difflib.get_close_matches(key, _KEYS, 1, 0.85):
            warnings.warn(
                f"{path}: frames have {key!r}, which means nothing here; did you mean {meant[0]!r}?", stacklevel=4
            )
    total = len(shots) + len(absent)
    if not shots:
        raise ViewError(f"{path}: none of the {total} pictures is there, first {path.parent / absent[0]}")
    if absent:
        _left_out(path, absent, total, "whose picture is absent")
    return shots, _applied_transform(data, path)


def _picture_at(root: Path, name: str) -> Path | None:
    """The picture of a frame; NeRF synthetic leaves out the suffix."""
    candidates = [root / name] if Path(name).suffix.lower() in PICTURES else [root / f"{name}{s}" for s in PICTURES]
    return next((p for p in candidates if p.is_file()), None)


def _shot(frame: Mapping[str, Any], picture: Path, root: Path, where: str, options: ReadOptions) -> Shot:
    try:
        camera, lens = _camera(frame, picture)
    except ValueError as error:
        raise ViewError(f"{where}: {error}") from None
    if "transform_matrix" not in frame:
        raise ViewError(
            f"{where}: has no transform_matrix, so its camera's pose is unknown; add it, or give the bare pictures as a "
            "folder of photos, to have the cameras found"
        )
    pose = _pose(frame["transform_matrix"], where)
    camera = Camera(pose, camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height)
    time = None if frame.get("time") is None else _number(frame, "time", where)
    unit = _number(frame, "depth_unit_scale_factor", where) if "depth_unit_scale_factor" in frame else 0.001
    if unit <= 0:
        raise ViewError(f"{where}: depth_unit_scale_factor (metres for each step) must be greater than 0, got {unit:g}")
    beside = {}
    for key in ("depth_file_path", "mask_path", "instance_path"):
        value = frame.get(key)
        if value is not None and not isinstance(value, str):
            raise ViewError(f"{where}: {key} must be a text, got {_short(value)}")
        beside[key] = root / value if value else None
    name = str(frame["file_path"])
    depth = beside["depth_file_path"] if options.depth else None
    ids = ids_beside(root, name, options) or beside["instance_path"]
    return Shot(name, picture, camera, lens, time, depth, unit, beside["mask_path"], ids)


def _camera(frame: Mapping[str, Any], picture: Path) -> tuple[Camera, Lens]:
    """A camera at the origin."""
    model = frame.get("camera_model", "OPENCV")
    if model not in _MODELS:
        raise ValueError(
            f"camera_model {_short(model)} is unknown; known are {', '.join(_MODELS)}: undistort the pictures to PINHOLE "
            "with the program that made them"
        )
    bends = {key: _number(frame, key) for key in (*LENS_KEYS, "k4") if frame.get(key) is not None}
    for key, value in bends.items():
        if value != 0 and key not in _MODELS[model]:
            raise ValueError(
                f"{key} is {value:g}, but camera_model {model} has no {key}: set it to 0, or name the model that has it"
            )
    width, height = picture_size(picture)
    given = [_number(frame, key) if key in frame else size for key, size in (("w", width), ("h", height))]
    if given != [width, height]:
        raise ValueError(
            f"the picture has {width}x{height} pixels, but w and h say {given[0]:g}x{given[1]:g}: resize the picture, or "
            f"multiply fl_x and cx by {width / given[0] if given[0] else math.nan:.4g} and fl_y and cy by "
            f"{height / given[1] if given[1] else math.nan:.4g}, and correct w and h"
        )
    focal = {}
    for axis, size in (("x", width), ("y", height)):
        if f"fl_{axis}" in frame:
            focal[axis] = _number(frame, f"fl_{axis}")
            if focal[axis] <= 0:
                raise ValueError(
                    f"fl_{axis} must be greater than 0, got {focal[axis]:g}: a focal length in pixels; a mirrored picture "
                    "must be flipped instead"
                )
        elif f"camera_angle_{axis}" in frame:
            angle = _number(frame, f"camera_angle_{axis}")
            if not 0 < angle < math.pi:
                raise ValueError(f"camera_angle_{axis} (radians) must lie in (0, pi), got {angle:g}")
            focal[axis] = 0.5 * size / math.tan(0.5 * angle)
    if not focal:
        raise ValueError("there is no focal length: give fl_x (pixels), or camera_angle_x (radians)")
    fx, fy = focal.get("x", focal.get("y", 0.0)), focal.get("y", focal.get("x", 0.0))
    cx, cy = (_number(frame, key) if key in frame else 0.5 * size for key, size in (("cx", width), ("cy", height)))
    lens = Lens(**{key: value for key, value in bends.items() if key in LENS_KEYS})
    return Camera(SE3.identity(), fx, fy, cx, cy, width, height), lens


def _pose(value: Any, where: str) -> SE3:
    """A camera-to-world matrix with OpenGL axes, as a pose with OpenCV ones."""
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ViewError(f"{where}: transform_matrix must be 4x4 numbers, got {_short(value)}") from None
    if matrix.shape == (3, 4):
        matrix = np.concatenate([matrix, [[0.0, 0.0, 0.0, 1.0]]])
    if matrix.shape != (4, 4):
        raise ViewError(f"{where}: transform_matrix must be 4x4 numbers, got shape {list(matrix.shape)}")
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        raise ViewError(
            f"{where}: transform_matrix[{row}][{column}] must be a finite number, got {matrix[row, column]}"
        )
    if np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise ViewError(
            f"{where}: the last row of transform_matrix must be 0 0 0 1, got {matrix[3].tolist()}; is it transposed?"
        )
    u, scales, vt = np.linalg.svd(matrix[:3, :3])
    off = float(np.abs(scales - 1).max())
    if off > _RIGID:
        scale = float(scales.mean())
        if np.abs(scales / max(scale, 1e-300) - 1).max() <= _RIGID:
            fix = f"it scales by {scale:.6g}: divide its 3x3 part by that"
        else:
            fix = f"it stretches by {', '.join(f'{s:.4g}' for s in scales)}: its 3x3 part must be a rotation"
        raise ViewError(f"{where}: transform_matrix is not rigid, off by {off:.3g}; {fix}")
    if np.linalg.det(u @ vt) < 0:
        raise ViewError(
            f"{where}: transform_matrix is not rigid: it mirrors (determinant -1); an axis has the wrong sign, or two are "
            "exchanged"
        )
    matrix[:3, :3] = u @ vt @ np.diag([1.0, -1.0, -1.0])
    return SE3.from_matrix(torch.from_numpy(matrix))


def _applied_transform(data: Mapping[str, Any], path: Path) -> torch.Tensor | None:
    if data.get("applied_transform") is None:
        return None
    try:
        matrix = torch.tensor(data["applied_transform"], dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        matrix = torch.zeros(0)
    if matrix.shape not in ((3, 4), (4, 4)) or not torch.isfinite(matrix).all():
        raise ViewError(
            f"{path}: applied_transform must be 3x4 finite numbers, got {_short(data['applied_transform'])}"
        )
    return matrix[:3]


# -- TUM RGB-D ---------------------------------------------------------------------------------------------------------


def _tum_shots(root: Path, every: int, intrinsics: Sequence[float] | None, options: ReadOptions) -> list[Shot]:
    fx, fy, cx, cy, *bends = _tum_intrinsics(root, intrinsics)
    k1, k2, p1, p2, k3 = (bends + [0.0] * 5)[:5]
    lens = Lens(k1=k1, k2=k2, k3=k3, p1=p1, p2=p2)
    times, names = _tum_list(root / "rgb.txt", 1)
    pose_times, poses = _tum_list(root / "groundtruth.txt", 7)
    depth_times, depths = np.zeros(0), []
    if options.depth and (root / "depth.txt").is_file():
        depth_times, depths = _tum_list(root / "depth.txt", 1)
    shots, absent, alone = [], [], []
    for i in range(0, len(times), every):
        name = names[i][0]
        at = _nearest(pose_times, times[i])
        depth_at = _nearest(depth_times, times[i]) if depths else None
        if not (root / name).is_file():
            absent.append(name)
        elif at is None or (depths and depth_at is None):
            alone.append(name)
        else:
            where = f"{root / 'groundtruth.txt'}: the pose at {pose_times[at]:.6f}"
            pose = _tum_pose(poses[at], where)
            size = picture_size(root / name)
            # The published numbers count from the centre of the first pixel, which is (0.5, 0.5) here.
            camera = Camera(pose, fx, fy, cx + 0.5, cy + 0.5, *size)
            depth = None if depth_at is None else root / depths[depth_at][0]
            ids = ids_beside(root, name, options)
            time = float(times[i] - times[0])
            shots.append(Shot(name, root / name, camera, lens, time, depth, 1 / _TUM_STEPS_PER_METRE, None, ids))
    total = len(shots) + len(absent) + len(alone)
    if not shots:
        raise ViewError(
            f"{root}: none of the {total} pictures in rgb.txt is there and has a pose (and depth) within 20 ms; the first "
            f"is {(absent or alone)[0]}"
        )
    if absent:
        _left_out(root, absent, total, "whose picture is absent")
    if alone:
        _left_out(root, alone, total, "without a pose or depth within 20 ms")
    return shots


def _tum_intrinsics(root: Path, given: Sequence[float] | None) -> list[float]:
    numbers, source = given, "intrinsics"
    if given is None:
        path, source = root / "calibration.txt", str(root / "calibration.txt")
        if not path.is_file():
            raise ViewError(
                f"{root}: a TUM folder doesn't tell the focal length: give intrinsics=fx,fy,cx,cy, or a calibration.txt "
                "with them in one line; for TUM's own sets (525, 525, 319.5, 239.5), or see their page for each camera"
            )
        try:
            lines = [
                line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()[:1] not in ("", "#")
            ]
            numbers = [float(word) for word in lines[0].split()] if lines else []
        except ValueError as error:
            raise ViewError(f"{path}: expected numbers fx fy cx cy [k1 k2 p1 p2 k3]: {error}") from None
    values = [float(x) for x in numbers or ()]
    if not 4 <= len(values) <= 9 or not all(map(math.isfinite, values)) or min(values[:2]) <= 0:
        raise ViewError(f"{source}: expected fx fy cx cy [k1 k2 p1 p2 k3] with fx, fy greater than 0, got {values}")
    return values


def _tum_list(path: Path, n_values: int) -> tuple[np.ndarray, list[list[str]]]:
    """Times, ascending, and what stands beside them."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ViewError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    rows = []
    for number, line in enumerate(lines, 1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
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


def _nearest(times: np.ndarray, time: float) -> int | None:
    i = int(np.abs(times - time).argmin())
    return i if abs(times[i] - time) <= _TUM_PARTNER_S else None


def _tum_pose(words: list[str], where: str) -> SE3:
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


# -- photos ------------------------------------------------------------------------------------------------------------


def _photo_shots(root: Path, every: int) -> tuple[list[Shot], torch.Tensor]:
    for folder in (root, root / "images"):
        names = sorted(p.name for p in folder.glob("*") if p.suffix.lower() in PICTURES and p.is_file())[::every]
        if names:
            break
    else:
        raise _no_data(root)
    for name in names:
        picture_size(folder / name)  # damaged pictures are named before the long work starts
    found = find_cameras(folder, names)
    prefix = "" if folder == root else "images/"
    shots = [Shot(prefix + name, folder / name, *found.cameras[name]) for name in names if name in found.cameras]
    lost = [prefix + name for name in names if name not in found.cameras]
    if lost:
        _left_out(root, lost, len(names), "whose camera could not be found (take more pictures that overlap them)")
    return shots, found.landmarks


# -- pieces ------------------------------------------------------------------------------------------------------------


def _read_json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ViewError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ViewError(f"{path}: expected JSON in UTF-8, got other bytes at place {error.start}") from None
    if not text.strip():
        raise ViewError(f"{path}: is empty; write it again with the program that made it")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ViewError(f"{path}: damaged JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ViewError(f"{path}: damaged JSON: nested too deeply") from None


def _number(frame: Mapping[str, Any], key: str, where: str = "") -> float:
    value = frame.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        text = f"{key} must be a finite number, got {_short(value)}"
        raise ViewError(f"{where}: {text}" if where else text)
    return float(value)


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
