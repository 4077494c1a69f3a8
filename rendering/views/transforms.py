"""Posed pictures named by a ``transforms.json``: nerfstudio, instant-ngp, NeuS2, NeRF synthetic. Keys: `rendering.views.keys`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from objects.pose import SE3
from rendering.camera import Camera
from rendering.views.keys import LAYERS, OTHER_LENSES, Keys, array, frame_level, number, short, top_level
from rendering.views.layers import Unreadable
from rendering.views.lens import LENS_KEYS, Lens
from rendering.views.paths import PICTURES, beside, located, text_of
from rendering.views.pictures import Notes, ReadOptions, Shot, ids_beside, picture_size
from rendering.views.types import ViewError

# What each camera model may bend; all are pinholes with the polynomial lens of OpenCV.
_MODELS = {
    "PINHOLE": (),
    "SIMPLE_PINHOLE": (),
    "SIMPLE_RADIAL": ("k1",),
    "RADIAL": ("k1", "k2"),
    "OPENCV": LENS_KEYS,
    "FULL_OPENCV": LENS_KEYS,  # with k4, k5 and k6 that are 0
    "PERSPECTIVE": LENS_KEYS,
}
_MORE_BENDS = ("k4", "k5", "k6", "s1", "s2", "s3", "s4")
# A file with few digits leaves a rotation this far from one; it is made exact.
_RIGID = 1e-3
_ALIKE = 0.02  # focal lengths that differ by more, of their size, contradict each other
_TURNED = (
    "the EXIF orientation isn't applied, as w and h fit the picture as it is stored (nerfstudio and COLMAP read it so),"
)


def transforms_of(folder: Path, split: str | None) -> Path | None:
    """The ``transforms*.json`` of a folder for a split; None where there is none at all.

    Raises:
        ViewError: There are some, but not for this split.
    """
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


def transforms_shots(
    path: Path, split: str | None, every: int, options: ReadOptions, notes: Notes
) -> tuple[list[Shot], torch.Tensor | None]:
    """The pictures that a file names, and its ``applied_transform``.

    Raises:
        ViewError: What is wrong, with its place.
    """
    data = _read_json(path)
    frames = data.get("frames") if isinstance(data, Mapping) else None
    if not isinstance(frames, list) or not frames:
        raise ViewError(f"{path}: expected a list 'frames' with at least one frame, got {short(frames)}")
    keys = Keys(path)
    top = top_level(keys, data)
    applied = _applied_transform(top, path)
    scale = _positive(top, "applied_scale", str(path), 1.0)
    opencv = _flag(top, "from_na", str(path))
    with_depth = options.depth and _flag(top, "enable_depth_loading", str(path), True)
    rows = []
    for i, frame in enumerate(frames):
        where = f"{path}: frames[{i}]"
        if not isinstance(frame, Mapping):
            raise ViewError(f"{where}: expected an object with a text 'file_path', got {short(frame)}")
        row = frame_level(keys, top, frame, where)
        if not isinstance(row.get("file_path"), str):
            got = short(row.get("file_path", frame))
            raise ViewError(f"{where}: expected an object with a text 'file_path', got {got}")
        rows.append(
            (f"{where} ({row['file_path']})", beside(path.parent, row["file_path"], f"{where}: file_path"), row)
        )
    rows = _of_split(rows, top, path, split, notes)[::every]
    shots = []
    for where, name, row in rows:
        try:
            picture = located(path.parent, name, PICTURES)
            if picture is None:
                notes.lose("whose picture is absent", row["file_path"])
            else:
                row = {**row, "depth_unit": _unit(row, where) * scale, "opencv": opencv, "with_depth": with_depth}
                shots.append(_shot(row, picture, path.parent, where, options, notes))
        except Unreadable as error:
            notes.lose("whose picture or mask can't be read", row["file_path"], str(error))
    notes.texts += [*keys.note(), *_decisions(top, rows, shots, options, keys)]
    return shots, applied


def _decisions(top: Mapping[str, Any], rows: list, shots: list[Shot], options: ReadOptions, keys: Keys) -> list[str]:
    """What was chosen where a file can be read in two ways."""
    said = []
    if options.masks is None and any(shot.mask for shot in shots):
        said.append(
            "pixels where a mask is 0 are ignored, as nerfstudio does (masks=ignore); where they mean that nothing is there, "
            "give masks=empty"
        )
    if options.masks is not None and not any(shot.mask for shot in shots):
        said.append(f"masks={options.masks} has nothing to say: no frame has a mask_path")
    named = any("depth_file_path" in row for _, _, row in rows)
    if options.depth and named and not top.get("enable_depth_loading", True):
        said.append("depth isn't read, as enable_depth_loading is false")
    elif "depth_path" in keys.renamed and not any("depth_unit_scale_factor" in row for _, _, row in rows):
        said.append("depth_path without integer_depth_scale: 0.001 m a step are taken; else give depth_unit=")
    if any(shot.picture.with_name(f"dynamic_mask_{shot.picture.stem}.png").is_file() for shot in shots):
        said.append("dynamic_mask_*.png beside pictures isn't read: name masks as mask_path, 0 where not to learn from")
    if top.get("applied_scale", 1) != 1:
        more = ", and depth is multiplied by it, as nerfstudio does" if any(shot.depth for shot in shots) else ""
        said.append(f"lengths are those of the file, metres times its applied_scale {top['applied_scale']:g}{more}")
    return said


def _of_split(rows: list, top: Mapping[str, Any], path: Path, split: str | None, notes: Notes) -> list:
    lists = {name: top[f"{name}_filenames"] for name in ("train", "val", "test") if f"{name}_filenames" in top}
    for name, listed in lists.items():
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise ViewError(f"{path}: {name}_filenames must be a list of texts, got {short(listed)}")
    if split is None or path.name != "transforms.json":
        if lists and split is None:
            notes.texts.append(
                f"{', '.join(f'{name}_filenames' for name in lists)} aren't looked at without split=: all frames are read"
            )
        return rows
    if split not in lists:
        if lists or split != "train":
            raise ViewError(
                f"{path}: has no list '{split}_filenames', and there is no transforms_{split}.json beside it; "
                "load without split and divide the views by split(views, hold_out_every)"
            )
        return rows
    what = f"{path}: {split}_filenames"
    wanted = {beside(path.parent, name, what): name for name in lists[split]}
    rows = [row for row in rows if row[1] in wanted]
    if not rows:
        raise ViewError(f"{path}: none of the pictures in '{split}_filenames' is the file_path of a frame")
    if unknown := [name for key, name in wanted.items() if key not in {row[1] for row in rows}]:
        notes.texts.append(f"{split}_filenames names {len(unknown)} pictures of no frame, first {unknown[0]}")
    return rows


def _shot(frame: Mapping[str, Any], picture: Path, root: Path, where: str, options: ReadOptions, notes: Notes) -> Shot:
    name = str(frame["file_path"]).strip().replace("\\", "/")
    try:
        camera, lens, upright = _camera(frame, picture, name, notes)
    except Unreadable:
        raise
    except ViewError as error:
        raise ViewError(f"{where}: {error}") from None
    posed = "transform_matrix" in frame
    if not posed and not options.unposed:
        raise ViewError(
            f"{where}: has no transform_matrix, so its camera's pose is unknown; add it, or give the bare pictures as a "
            "folder of photos, to have the cameras found"
        )
    if posed:
        camera = replace(camera, T_world_cam=_pose(frame["transform_matrix"], where, opencv=frame["opencv"]))
    time = None if frame.get("time") is None else number(frame, "time", where)
    files = {}
    for key in LAYERS:
        value = frame.get(key)
        if value is not None and not isinstance(value, str):
            raise ViewError(f"{where}: {key} must be a text, got {short(value)}")
        at = beside(root, value, f"{where}: {key}") if value else None
        files[key] = None if at is None else located(root, at) or root / at
    depth = files["depth_file_path"] if frame["with_depth"] else None
    ids = ids_beside(root, name, options) or files["instance_path"]
    return Shot(name, picture, camera, lens, time, depth, frame["depth_unit"], files["mask_path"], ids, upright, posed)


def _camera(frame: Mapping[str, Any], picture: Path, name: str, notes: Notes) -> tuple[Camera, Lens, bool]:
    """A camera at the origin, its lens, and whether the picture is to be turned by its EXIF orientation."""
    lens = _lens(frame)
    (width, height), upright = _size(frame, picture, name, notes)
    focal = {}
    for axis, size in (("x", width), ("y", height)):
        if f"fl_{axis}" in frame:
            focal[axis] = number(frame, f"fl_{axis}")
            if focal[axis] <= 0:
                raise ViewError(
                    f"fl_{axis} must be greater than 0, got {focal[axis]:g}: a focal length in pixels; a mirrored picture "
                    "must be flipped instead"
                )
        if f"camera_angle_{axis}" in frame:
            angle = number(frame, f"camera_angle_{axis}")
            if not 0 < angle < math.pi:
                raise ViewError(f"camera_angle_{axis} (radians) must lie in (0, pi), got {angle:g}")
            seen = 0.5 * size / math.tan(0.5 * angle)
            if abs(seen / focal.setdefault(axis, seen) - 1) > _ALIKE:
                notes.add(
                    f"fl_{axis} ({focal[axis]:g}) is taken, not camera_angle_{axis}, which means {seen:g} pixels,", name
                )
    if not focal:
        raise ViewError("there is no focal length: give fl_x (pixels), or camera_angle_x (radians)")
    fx, fy = focal.get("x", focal.get("y", 0.0)), focal.get("y", focal.get("x", 0.0))
    cx, cy = (number(frame, key) if key in frame else 0.5 * size for key, size in (("cx", width), ("cy", height)))
    if not (0 < cx < width and 0 < cy < height):
        notes.add(f"the optical axis (cx {cx:g}, cy {cy:g}) is not in the picture ({width}x{height})", name)
    return Camera(SE3.identity(), fx, fy, cx, cy, width, height), lens, upright


def _lens(frame: Mapping[str, Any]) -> Lens:
    model = frame.get("camera_model", "OPENCV")
    for key in OTHER_LENSES:
        if key in frame and _flag(frame, key, ""):
            model = {"is_fisheye": "OPENCV_FISHEYE", "fisheye": "OPENCV_FISHEYE"}.get(key, key.upper())
    bent = _MODELS.get(model.upper()) if isinstance(model, str) else None
    if bent is None:
        said = f"camera_model {short(model)}" + "".join(f" ({key} is true)" for key in OTHER_LENSES if frame.get(key))
        raise ViewError(
            f"{said} is unknown; known are {', '.join(_MODELS)}: undistort the pictures to PINHOLE "
            "with the program that made them"
        )
    bends = {key: number(frame, key) for key in (*LENS_KEYS, *_MORE_BENDS) if key in frame}
    for key, value in bends.items():
        if value != 0 and key not in bent:
            raise ViewError(
                f"{key} is {value:g}, but camera_model {model} has no {key}: set it to 0, or name the model that has it"
            )
    if array(frame.get("distortion_params", 0), "distortion_params must be numbers").any():
        raise ViewError("distortion_params aren't read: give k1, k2, k3, p1, p2, or undistort the pictures")
    return Lens(**{key: value for key, value in bends.items() if key in LENS_KEYS})


def _size(frame: Mapping[str, Any], picture: Path, name: str, notes: Notes) -> tuple[tuple[int, int], bool]:
    """Width and height of the picture that the camera belongs to, and whether that is the one turned by its EXIF orientation.

    ``w`` and ``h`` say which; where they fit both (or are absent), it is the one that is stored, as nerfstudio, instant-ngp and
    COLMAP read it, unless the optical axis fits the other alone.
    """
    stored, turn = picture_size(picture)
    turned = (stored[1], stored[0]) if turn >= 5 else stored
    given = [number(frame, key) if key in frame else None for key in ("w", "h")]

    def fits(size: tuple[int, int]) -> bool:
        return all(own is None or own == there for own, there in zip(given, size, strict=True))

    if fits(stored):
        if turn == 1 or (turned != stored and None not in given):
            return stored, False
        if turned != stored and {"cx", "cy"} <= set(frame):
            cx, cy = number(frame, "cx"), number(frame, "cy")
            if cx != cy:
                upright = (cx > cy) != (stored[0] > stored[1])
                return turned if upright else stored, upright
        notes.add(_TURNED, name)
        return stored, False
    if fits(turned):
        return turned, True
    w, h = (size if own is None else own for own, size in zip(given, stored, strict=True))
    ratio = [size / own if own else math.nan for own, size in zip((w, h), stored, strict=True)]
    raise ViewError(
        f"the picture has {stored[0]}x{stored[1]} pixels, but w and h say {w:g}x{h:g}: resize the picture, or "
        f"multiply fl_x and cx by {ratio[0]:.4g} and fl_y and cy by {ratio[1]:.4g}, and correct w and h"
    )


def _pose(value: Any, where: str, *, opencv: bool = False) -> SE3:
    """A camera-to-world matrix with OpenGL (or OpenCV) axes, as a pose with OpenCV ones."""
    matrix = array(value, f"{where}: transform_matrix must be 4x4 numbers")
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
    if np.abs(matrix).max() > 1e9:
        raise ViewError(f"{where}: transform_matrix holds {np.abs(matrix).max():g}, too large for metres")
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
    matrix[:3, :3] = u @ vt @ np.diag([1.0, 1.0, 1.0] if opencv else [1.0, -1.0, -1.0])
    return SE3.from_matrix(torch.from_numpy(matrix))


def _applied_transform(top: Mapping[str, Any], path: Path) -> torch.Tensor | None:
    if "applied_transform" not in top:
        return None
    expected = f"{path}: applied_transform must be 3x4 finite numbers"
    matrix = array(top["applied_transform"], expected)
    if matrix.shape not in ((3, 4), (4, 4)) or not np.isfinite(matrix).all():
        raise ViewError(f"{expected}, got {short(top['applied_transform'])}")
    return torch.from_numpy(matrix[:3])


def _unit(frame: Mapping[str, Any], where: str) -> float:
    return _positive(frame, "depth_unit_scale_factor", where, 0.001, " (metres for each step)")


def _positive(values: Mapping[str, Any], key: str, where: str, default: float, more: str = "") -> float:
    value = number(values, key, where) if key in values else default
    if value <= 0:
        raise ViewError(f"{where}: {key}{more} must be greater than 0, got {value:g}")
    return value


def _flag(values: Mapping[str, Any], key: str, where: str, default: bool = False) -> bool:
    value = values.get(key, default)
    if key == "ftheta_p0" or value in (0, 1):
        return bool(value)
    text = f"{key} must be true or false, got {short(value)}"
    raise ViewError(f"{where}: {text}" if where else text)


def _read_json(path: Path) -> Any:
    text = text_of(path)
    if not text.strip():
        raise ViewError(f"{path}: is empty; write it again with the program that made it")
    try:
        return json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise ViewError(f"{path}: damaged JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ValueError as error:  # a number of too many digits
        raise ViewError(f"{path}: damaged JSON: {error}") from None
    except RecursionError:
        raise ViewError(f"{path}: damaged JSON: nested too deeply") from None
