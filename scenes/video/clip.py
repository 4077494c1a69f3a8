"""An RGB-D clip: frames in the order of time, and checks that they are one."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8

from rendering.views import ViewError, Views, load_views
from rendering.views.paths import PICTURES

_NO_DEPTH = (
    "a decomposition needs it: give depth_file_path in a transforms.json, or estimate depth with another program first"
)
_CUT = 0.15  # share of the pixels whose flow agrees both ways, below which neighbours have nothing in common
_CUT_COLOR = 0.04  # mean difference of colours that a cut has at least


@dataclass(frozen=True)
class Clip:
    """Frames of one camera in the order of time.

    Raises:
        ValueError: Arrays whose shapes don't fit, fewer than two frames, or no depth at all.
    """

    rgb: UInt8[np.ndarray, "f h w 3"]
    """sRGB."""
    depth: Float32[np.ndarray, "f h w"]
    """Metres along the optical axis at pixel centres, 0 where missing."""
    lens: Float[np.ndarray, "4"]
    """fx, fy, cx, cy in pixels; pixel centres at +0.5."""
    times: Float[np.ndarray, "f"]
    """Seconds."""
    cameras: Float[np.ndarray, "f 4 4"] | None = None
    """Camera to world, OpenCV axes; None where unknown."""
    notes: tuple[str, ...] = field(default=())
    """What was chosen in reading it."""

    def __post_init__(self) -> None:
        n = len(self.rgb)
        if self.rgb.ndim != 4 or self.rgb.shape[-1] != 3 or self.rgb.dtype != np.uint8:
            raise ValueError(f"Clip: rgb must be uint8 [f h w 3], got {self.rgb.dtype} {list(self.rgb.shape)}")
        if self.depth.shape != self.rgb.shape[:3]:
            raise ValueError(
                f"Clip: depth must have the frames and pixels of rgb, {list(self.rgb.shape[:3])}, got {list(self.depth.shape)}"
            )
        if n < 2:
            raise ValueError(f"Clip: expected at least 2 frames, as objects are found by their motion, got {n}")
        if len(self.times) != n or not (np.diff(self.times) > 0).all():
            raise ValueError("Clip: times must be one for each frame, and grow from frame to frame")
        if self.cameras is not None and self.cameras.shape != (n, 4, 4):
            raise ValueError(f"Clip: cameras must be [{n} 4 4], got {list(self.cameras.shape)}")
        if not (np.isfinite(self.depth).all() and (self.depth >= 0).all()):
            raise ValueError("Clip: depth must be finite and at least 0 (missing)")
        if not (self.depth > 0).any():
            raise ValueError("Clip: there is no depth in any frame; rigid motions in space can't be told without")

    def __len__(self) -> int:
        return len(self.rgb)


def load_clip(folder: str | os.PathLike[str]) -> Clip:
    """Reads a clip: a folder in the nerfstudio convention with depth and maybe cameras, or TUM RGB-D (see `load_views`).

    Raises:
        ViewError: What can't be read, or photos alone.
        ValueError: What is no clip: see `clip_of`.
    """
    root = Path(folder)
    plain = root.is_dir() and not (any(root.glob("transforms*.json")) or (root / "rgb.txt").is_file())
    if plain and any(p.suffix.lower() in PICTURES for place in (root, root / "images") for p in place.glob("*")):
        raise ViewError(f"{root}: there are photos alone, without depth, and {_NO_DEPTH}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        views = load_views(folder, unposed=True)
    said = tuple(str(w.message) for w in caught if "one view only" not in str(w.message))
    return clip_of(views, said)


def clip_of(views: Views, notes: tuple[str, ...] = ()) -> Clip:
    """A clip from pictures. Frames out of order are sorted by their times, which is noted; without times, they stand as they are.

    Raises:
        ViewError: Fewer than two frames; sizes, lenses or times that differ in a way that no single camera's do; no depth.
    """
    if len(views) < 2:
        raise ViewError(
            f"{views[0].name}: a clip needs at least 2 frames, as objects are found by their motion; there is {len(views)}"
        )
    said = list(notes)
    views, times = _in_order(views, said)
    first = views[0].camera
    for view in views:
        c = view.camera
        if (c.width, c.height) != (first.width, first.height):
            raise ViewError(
                f"{view.name}: all frames of a clip must have one size; the first has {first.width}x{first.height}, this one "
                f"{c.width}x{c.height}"
            )
        if not np.allclose([c.fx, c.fy, c.cx, c.cy], [first.fx, first.fy, first.cx, first.cy], rtol=1e-3):
            raise ViewError(
                f"{view.name}: the focal length or optical axis differs from the first frame's; expected one lens"
            )
    depth = np.zeros((len(views), first.height, first.width), np.float32)
    for t, view in enumerate(views):
        if view.depth is not None:
            depth[t] = np.nan_to_num(np.where(view.valid, view.depth, 0))
    if not depth.any():
        raise ViewError("; ".join([f"{views[0].name}: there is no depth in any frame, and {_NO_DEPTH}", *notes]))
    blind = [view.name for view, d in zip(views, depth, strict=True) if not d.any()]
    if blind:
        said.append(f"{len(blind)} frames have no depth, first {blind[0]}: nothing is placed in them")
    cameras = np.stack([v.camera.T_world_cam.as_matrix().double().numpy() for v in views])
    posed = [view.posed for view in views]
    if any(posed) and not all(posed):
        said.append("some frames have cameras and some don't: all are found from the pictures")
    rgb = np.stack([(view.stored["rgb"]).numpy() for view in views])
    lens = np.array([first.fx, first.fy, first.cx, first.cy], float)
    return Clip(rgb, depth, lens, times, cameras if all(posed) else None, tuple(said))


def _in_order(views: Views, said: list[str]) -> tuple[Views, np.ndarray]:
    given = [view.time for view in views]
    if any(time is None for time in given):
        said.append("frames have no times: they are taken in the order of the file, 1/30 s apart")
        return views, np.arange(len(views)) / 30
    times = np.array(given, float)
    if (np.diff(times) < 0).any():
        said.append("frames stand out of order in the file: they are sorted by their times")
        order = np.argsort(times, kind="stable")
        views, times = views.picked(order.tolist()), times[order]
    same = np.flatnonzero(np.diff(times) == 0)
    if len(same):
        raise ViewError(f"{views[int(same[0]) + 1].name}: has the time of the frame before it, {times[same[0]]:g} s")
    return views, times


def check_for_cuts(clip: Clip, flows: Float32[np.ndarray, "two f h w 2"]) -> None:
    """Are all frames of one shot?

    Raises:
        ValueError: Two neighbouring frames have nothing in common.
    """
    agree = np.isfinite(flows[0, :-1, ..., 0]).mean((1, 2))
    small = clip.rgb[:, ::4, ::4].astype(np.float32) / 255
    change = np.abs(np.diff(small, axis=0)).mean((1, 2, 3))
    typical = np.median(change)
    for t in np.flatnonzero((agree < _CUT) & (change > max(_CUT_COLOR, 3 * typical))):
        raise ValueError(
            f"frames {t} and {t + 1} have nothing in common (a cut?): give the parts before and after as clips of their own"
        )
