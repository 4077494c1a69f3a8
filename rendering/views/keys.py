"""The keys of a ``transforms.json``: what each means, under the names that other programs give it.

Read at the top or in a frame, where it goes before what stands at the top:

| key | meaning | also read as it |
|---|---|---|
| ``camera_model`` | see `rendering.views.transforms` | ``camera_type`` |
| ``fl_x fl_y`` | pixels | ``fx fy``; angles and matrices, see below |
| ``cx cy w h`` | pixels | ``c_x c_y width height image_width image_height`` |
| ``k1 k2 k3 k4 p1 p2`` | lens, OpenCV's | |
| ``is_fisheye`` and its like | refused where true | ``fisheye equirectangular latlong ftheta_p0`` |
| ``depth_unit_scale_factor`` | metres a step, 0.001 without | ``depth_unit_scale integer_depth_scale`` |
| ``file_path`` | the picture | ``image_path img_path rgb_path file_name filename image_file_path`` |
| ``transform_matrix`` | camera to world, OpenGL axes | |
| ``depth_file_path`` | depth along the optical axis | ``depth depth_path depth_filename depth_file`` |
| ``mask_path`` | 0 where not to learn from | ``mask mask_filename mask_file_path mask_file`` |
| ``instance_path`` | instance ids | the same with ``instance_``, and ``instance_mask_path`` |
| ``time`` | seconds | |

Focal lengths are also read from ``camera_angle_x camera_angle_y`` (radians), ``x_fov y_fov`` (degrees) and 3x3 matrices
(``intrinsic_matrix K intrinsics intrinsic camera_intrinsics camera_matrix cam_K``). An object of such a name, or named ``camera
camera_params calibration``, is read as if its keys stood beside it.

Read at the top alone: ``frames``; ``applied_transform`` (was applied to the world before the poses were written: the cameras hold
it already); ``applied_scale`` (so, too, but depth doesn't hold it); ``train_filenames val_filenames test_filenames``;
``enable_depth_loading`` (false: no depth); ``from_na`` (NeuS2; true: OpenCV camera axes).

Passed over in silence, as they say nothing of pictures, cameras or the scene: notes, names, and

| of | keys |
|---|---|
| a program's own world | ``aabb_scale scale offset aabb render_aabb scene_box up radius near far orientation_override`` |
| | ``auto_scale_poses_override center_method worldtogt`` |
| training | ``n_extra_learnable_dims importance_sampling wants_importance_sampling sharpen envmap pairs`` |
| | ``driver_parameters enable_ray_loading has_mono_prior`` |
| the film | ``n_frames frame_count fps seconds rotation sharpness sharpness_discard_threshold blur_score`` |
| finding cameras | ``colmap_im_id ply_file_path sparse_point_cloud point_cloud`` |

Keys that say something of which nothing is made are named with what that means, as is every key that isn't known at all.

Sources: nerfstudio ``nerfstudio_dataparser.py``, instant-ngp ``nerf_loader.cu``, NeuS2 ``DATA_CONVENTION.md``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rendering.views.types import ViewError

_LENS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "s1", "s2", "s3", "s4", "distortion_params")
OTHER_LENSES = ("is_fisheye", "fisheye", "equirectangular", "latlong", "ftheta_p0")
FOCAL = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")
_CENTER = ("cx", "cy")
LAYERS = ("depth_file_path", "mask_path", "instance_path")
_CAMERA = ("camera_model", *FOCAL, *_CENTER, "w", "h", *_LENS, *OTHER_LENSES, "depth_unit_scale_factor")
_FRAME = ("file_path", "transform_matrix", "time", *LAYERS)
_SPLITS = ("train_filenames", "val_filenames", "test_filenames")
_TOP = ("frames", "applied_transform", "applied_scale", "enable_depth_loading", "from_na", *_SPLITS)
KNOWN = (*_CAMERA, *_FRAME, *_TOP)
ALIASES = {
    "depth_path": "depth_file_path",
    "depth": "depth_file_path",
    "depth_filename": "depth_file_path",
    "depth_file": "depth_file_path",
    "mask": "mask_path",
    "mask_filename": "mask_path",
    "mask_file_path": "mask_path",
    "mask_file": "mask_path",
    "instance_file_path": "instance_path",
    "instance_filename": "instance_path",
    "instance_mask_path": "instance_path",
    "instance_file": "instance_path",
    "depth_unit_scale": "depth_unit_scale_factor",
    "integer_depth_scale": "depth_unit_scale_factor",
    "image_path": "file_path",
    "img_path": "file_path",
    "rgb_path": "file_path",
    "file_name": "file_path",
    "filename": "file_path",
    "image_file_path": "file_path",
    "camera_type": "camera_model",
    "fx": "fl_x",
    "fy": "fl_y",
    "c_x": "cx",
    "c_y": "cy",
    "width": "w",
    "height": "h",
    "image_width": "w",
    "image_height": "h",
}
_DEGREES = {"x_fov": "camera_angle_x", "y_fov": "camera_angle_y"}
MATRIX = ("intrinsic_matrix", "K", "intrinsics", "intrinsic", "camera_intrinsics", "camera_matrix", "cam_K")
INSIDE = (
    "camera",
    "camera_params",
    "calibration",
    *MATRIX,
)  # objects whose keys are read as if they stood beside them
# fmt: off
HARMLESS = {
    "aabb_scale", "scale", "offset", "aabb", "render_aabb", "scene_box", "up", "radius", "near", "far", "orientation_override",
    "auto_scale_poses_override", "center_method", "worldtogt",
    "n_extra_learnable_dims", "importance_sampling", "wants_importance_sampling", "sharpen", "envmap", "pairs",
    "driver_parameters", "enable_ray_loading", "has_mono_prior",
    "n_frames", "frame_count", "fps", "seconds", "rotation", "sharpness", "sharpness_discard_threshold", "blur_score",
    "colmap_im_id", "ply_file_path", "sparse_point_cloud", "point_cloud",
}
# fmt: on
# Any key with one of these words tells where something comes from, or what it is called.
_WORDS = {
    "note",
    "notes",
    "comment",
    "comments",
    "source",
    "description",
    "author",
    "license",
    "licence",
    "version",
    "date",
}
_WORDS |= {"name", "id", "idx", "index", "label", "uuid", "copyright", "generator", "software", "device"}
_UNIT = "it may mean metres a step or steps a metre: give depth_unit_scale_factor or depth_unit="
_EXPOSED = "all of a picture is taken to be seen from one place"
_COLORS = "colours are taken as they are"
_NOT_TAKEN = {
    "rolling_shutter": _EXPOSED,
    "transform_matrix_start": _EXPOSED,
    "transform_matrix_end": _EXPOSED,
    "white_transparent": "white stays opaque: give pictures with alpha",
    "black_transparent": "black stays opaque: give pictures with alpha",
    "fix_premult": "colours are taken as not multiplied by alpha",
    "exposure": _COLORS,
    "white_balance": _COLORS,
    "background_color": "alpha says where nothing is",
    "timestamp": "'time' in seconds is read",
    "depth_scale": _UNIT,
    "depth_factor": _UNIT,
    "depth_scale_factor": _UNIT,
    "png_depth_scale": _UNIT,
    "confidence_path": "depth is trusted everywhere",
    "depth_confidence_path": "depth is trusted everywhere",
    "normal_path": "normals aren't learned from",
    "normal_file_path": "normals aren't learned from",
    "semantic_path": "classes aren't objects: give instance_path",
    "semantic_file_path": "classes aren't objects: give instance_path",
    "segmentation_path": "give instance_path",
    "foreground_mask": "give mask_path and masks=empty",
}
_REFUSED = {
    "from_mitsuba": "cameras and world have Mitsuba's axes: write OpenGL camera axes and a world whose z is up",
    "normal_mts_args": "cameras and world have Mitsuba's axes: write OpenGL camera axes and a world whose z is up",
}


class Keys:
    """Collects what the levels of a file say: what was read under another name, and what isn't taken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.renamed: dict[str, str] = {}
        self.untold: dict[str, str] = {}

    def level(self, given: Mapping[str, Any], where: str, known: tuple[str, ...]) -> dict[str, Any]:
        """One level by the names of this module, without what is null.

        Raises:
            ViewError: A key that changes the meaning of all others, or an ``intrinsic_matrix`` or angle that is none.
        """
        flat = dict(given)
        for key in INSIDE:
            if isinstance(inner := flat.get(key), Mapping):
                del flat[key]
                flat = {**inner, **flat}
        found: dict[str, Any] = {}
        for key, value in flat.items():
            if value is None:
                continue
            if key in _REFUSED and value is not False:
                raise ViewError(f"{where}: {key}: {_REFUSED[key]}")
            if key in known:
                found[key] = value
            elif key in _DEGREES or key in MATRIX:
                continue
            elif (name := ALIASES.get(key, "")) in known:
                first = flat[name] if flat.get(name) is not None else found.setdefault(name, value)
                if name in found and first is value:
                    self.renamed[key] = name
                elif first != value:
                    self.untold[key] = f"{name} is there, too"
            else:
                self._untaken(key, value, known)
        for key, name in _DEGREES.items():
            if flat.get(key) is not None and name not in found and name in known:
                found[name] = math.radians(number(flat, key, where))
        for key in MATRIX:
            if flat.get(key) is not None and "w" in known:
                self._matrix(flat[key], key, found, where)
        return found

    def _matrix(self, value: Any, key: str, found: dict[str, Any], where: str) -> None:
        numbers = array(value, f"{where}: {key} must be a 3x3 matrix")
        if numbers.size not in (9, 12, 16):
            raise ViewError(f"{where}: {key} must be a 3x3 matrix, got shape {list(numbers.shape)}")
        K = numbers.reshape({9: (3, 3), 12: (3, 4), 16: (4, 4)}[numbers.size])[:3, :3]
        rest = [K[0, 1] / max(abs(K[0, 0]), 1e-9), K[1, 0], K[2, 0], K[2, 1], K[2, 2] - 1]
        if not np.abs(rest).max() < 1e-3:
            raise ViewError(f"{where}: {key} must be fx 0 cx, 0 fy cy, 0 0 1, without skew, got {K.tolist()}")
        own = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2]}
        if any(name in found and found[name] != float(x) for name, x in own.items()):
            self.untold[key] = "fl_x is there, too"
            return
        self.renamed[key] = "fl_x, fl_y, cx and cy"
        found |= {name: float(x) for name, x in own.items()}

    def _untaken(self, key: str, value: Any, known: tuple[str, ...]) -> None:
        words = set(key.lower().strip("_").split("_"))
        if key in HARMLESS or key.startswith("_") or (words & _WORDS and not words & {"depth", "mask", "instance"}):
            return
        if key in _NOT_TAKEN:
            if value:
                self.untold[key] = _NOT_TAKEN[key]
        elif key in KNOWN:
            self.untold[key] = "it has no meaning at this level"
        else:
            near = difflib.get_close_matches(key, [*known, *ALIASES, *HARMLESS, *_NOT_TAKEN], 1, 0.75)
            if not near:
                self.untold[key] = "it isn't known"
            elif near[0] not in HARMLESS:
                self.untold[key] = f"did you mean {near[0]!r}?"

    def note(self) -> list[str]:
        """What was made of the keys, in one text; nothing where all were plain."""
        parts = []
        if self.untold:
            rows = [f"{key!r} ({why})" for key, why in list(self.untold.items())[:12]]
            more = f" and {len(self.untold) - 12} more" if len(self.untold) > 12 else ""
            parts.append(f"nothing is made of {', '.join(rows)}{more}")
        if self.renamed:
            parts.append("read " + ", ".join(f"{key} as {name}" for key, name in sorted(self.renamed.items())))
        return ["; ".join(parts)] if parts else []


def top_level(keys: Keys, data: Mapping[str, Any]) -> dict[str, Any]:
    """What stands at the top."""
    return keys.level(data, str(keys.path), KNOWN)


def frame_level(keys: Keys, top: Mapping[str, Any], frame: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A frame, with what it leaves to the top; focal lengths are left to it as a whole, by whatever name."""
    own = keys.level(frame, where, (*_CAMERA, *_FRAME))
    left = set(top) - set(_TOP)
    if any(key in own for key in FOCAL):
        left -= set(FOCAL)
    return {**{key: top[key] for key in left}, **own}


def number(values: Mapping[str, Any], key: str, where: str = "") -> float:
    """A finite number.

    Raises:
        ViewError: Anything else.
    """
    value = values.get(key)
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    text = f"{key} must be a finite number, got {short(value)}"
    raise ViewError(f"{where}: {text}" if where else text)


def array(value: Any, expected: str) -> np.ndarray:
    """Numbers as float64; they may be nan.

    Raises:
        ViewError: ``expected`` and what came.
    """
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ViewError(f"{expected}, got {short(value)}") from None


def short(value: Any) -> str:
    """A value as text for a message."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
