"""Do the views fit together? Mistakes that no single picture shows: wrong camera axes, depth in a wrong unit, empty masks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from rendering.camera import Camera
from rendering.views.types import Meeting, View, ViewError, Views, axes_meeting, back_projected, known_depth

# Are the camera axes turned (OpenCV for OpenGL), and by what is depth to be multiplied? Mistakes of unit are powers of ten,
# and the 5,000 steps a metre of TUM against 1,000.
_Hypothesis = tuple[bool, float]
_AS_GIVEN: _Hypothesis = (False, 1.0)
_TURNED: _Hypothesis = (True, 1.0)
_HYPOTHESES: tuple[_Hypothesis, ...] = (
    _AS_GIVEN,
    _TURNED,
    *((False, scale) for scale in (1e-3, 1e-2, 0.1, 0.2, 5.0, 10.0, 100.0, 1e3)),
)
_FIX_AXES = (
    "the files have OpenCV camera axes (x right, y down, z forward) where OpenGL ones (x right, y up, z back) are expected: "
    "negate the second and third column of every transform_matrix"
)


def check_views(views: Views, where: str = "views") -> None:
    """Looks for mistakes that no single picture shows: wrong camera axes, depth in a wrong unit, empty masks.

    The axes and the unit are judged by depth of one view seen from others, as it is and under the usual mistakes; where
    that tells nothing, by the point where the optical axes meet. Where the data can't tell (a camera that doesn't move),
    nothing is said.

    Args:
        views: To be checked.
        where: What to call them in messages.

    Warns:
        UserWarning: One view only; pictures whose mask, or depth, is empty throughout; depth that disagrees between the
            views for a reason unknown; cameras upside down; cameras that look away from the point that they
            surround, without depth that agrees, which a sweep from the middle of a room may do.

    Raises:
        ViewError: Masks that leave nothing; cameras with OpenCV axes in a file that wants OpenGL ones, or depth in a wrong unit;
            the text says by what to multiply.
    """
    if len(views) == 1:
        warnings.warn(
            f"{where}: one view only: what it doesn't show, and without depth how far things are, is guesswork",
            stacklevel=3,
        )
    ignored = [view.name for view in views if not bool(view.valid.any())]
    if len(ignored) == len(views):
        raise ViewError(
            f"{where}: the masks are 0 all over in all {len(views)} pictures: nothing is left to learn from"
        )
    if ignored:
        warnings.warn(
            f"{where}: the mask is 0 all over, so nothing is learned from, in {listed(ignored)}", stacklevel=3
        )
    empty = [view.name for view in views if "alpha" in view.stored and not bool(view.stored["alpha"].any())]
    if empty:
        warnings.warn(f"{where}: the mask (or alpha) is empty all over in {listed(empty)}", stacklevel=3)
    ids = [view.stored["ids"] for view in views if "ids" in view.stored]
    if ids and not any(bool((layer != 0).any()) for layer in ids):
        warnings.warn(f"{where}: the instance ids are 0 all over in all {len(views)} views", stacklevel=3)
    blind = [v.name for v in views if "depth" in v.stored and not bool(known_depth(v).any())]
    if blind:
        warnings.warn(f"{where}: the depth is missing all over in {listed(blind)}", stacklevel=3)
    if all(view.posed for view in views):
        _check_axes_and_unit(views, where)


def listed(names: Sequence[str]) -> str:
    """How many names there are, and the first of them."""
    return f"{len(names)} picture{'s' * (len(names) > 1)}, first {names[0]}"


def _check_axes_and_unit(views: Views, where: str) -> None:
    told = _plausible(_explained(views))
    if told == [_AS_GIVEN]:
        return
    if told and _AS_GIVEN not in told:
        if len(told) == 1:
            turned, scale = told[0]
            if turned:
                raise ViewError(
                    f"{where}: depth agrees between the views only when the cameras are turned; {_FIX_AXES}"
                )
            raise _wrong_unit(views, where, scale, f"multiplied by {scale:g} it agrees between the views")
        warnings.warn(
            f"{where}: depth doesn't agree between the views as it is: its unit (depth_unit_scale_factor) or the cameras "
            "look wrong",
            stacklevel=4,
        )
    cameras = views.cameras
    has_depth = any("depth" in view.stored for view in views)
    meeting = axes_meeting(cameras) if len(views) > 2 else None
    away = meeting is not None and float(np.mean(meeting.ahead < 0)) >= 0.9
    upside_down = np.mean([float(camera.T_world_cam.rotation()[2, 1]) > 0 for camera in cameras]) >= 0.9
    if meeting is not None and away and upside_down:
        raise ViewError(
            f"{where}: all cameras hang upside down and look away from the point {_rounded(meeting.p_world)} that they "
            f"surround, and look at it once their y and z axes are turned; {_FIX_AXES}"
        )
    if meeting is not None and has_depth and not told and float(np.mean(meeting.ahead > 0)) >= 0.9:
        _check_depth_of_meeting(views, meeting, where)
    if meeting is not None and away and not (has_depth and told):
        warnings.warn(
            f"{where}: all cameras look away from the point {_rounded(meeting.p_world)} that they surround: right for a "
            "sweep from the middle of a room, but if they stand around an object, their axes are not OpenGL's (x right, "
            "y up, z back)",
            stacklevel=4,
        )
    elif upside_down:
        warnings.warn(
            f"{where}: all cameras hang upside down: the world's z must point up, or {_FIX_AXES}",
            stacklevel=4,
        )


def _check_depth_of_meeting(views: Views, meeting: Meeting, where: str) -> None:
    """Depth far from where the optical axes meet, by a factor that no scene explains."""
    ratios = []
    for view, ahead in zip(views, meeting.ahead, strict=True):
        depth = view.depth
        if depth is not None and ahead > 0:
            depth = depth.where(known_depth(view), torch.nan)
            h, w = depth.shape
            ratios.append(float(depth[h // 4 : h - h // 4, w // 4 : w - w // 4].nanmedian()) / ahead)
    ratio = float(np.nanmedian(ratios)) if np.isfinite(ratios).any() else 1.0
    if not 1 / 30 < ratio < 30:
        scale = 10.0 ** -round(math.log10(ratio))
        why = f"in the middle of the pictures it is {ratio:.3g} times the distance at which the optical axes meet"
        raise _wrong_unit(views, where, scale, why)


def _wrong_unit(views: Views, where: str, scale: float, why: str) -> ViewError:
    unit = next(view.depth_unit for view in views if "depth" in view.stored)
    size = f"{1 / scale:g} times too large" if scale < 1 else f"{scale:g} times too small"
    return ViewError(
        f"{where}: depth is in the wrong unit, {size} ({why}): set depth_unit_scale_factor (or load with depth_unit=) to "
        f"{unit * scale:g}, now {unit:g}"
    )


class _Support(NamedTuple):
    """Parts of all samples that fell on measured depth of another view."""

    agree: float
    against: float
    """In front of what the other view saw there, so that it should have seen it."""


def _plausible(found: Mapping[_Hypothesis, _Support] | None) -> list[_Hypothesis]:
    """The hypotheses that depth supports; none where depth tells nothing.

    What is given has the benefit of the doubt: where it is supported, no other unit is considered, only turned axes.
    """
    most = max(support.agree for support in found.values()) if found else 0.0
    if not found or most < 0.01:
        return []

    def supported(hypothesis: _Hypothesis, part: float) -> bool:
        agree, against = found[hypothesis]
        return agree >= part * most and against <= 0.25 * agree

    if supported(_AS_GIVEN, 0.4):
        return [_AS_GIVEN, _TURNED] if supported(_TURNED, 0.4) else [_AS_GIVEN]
    return [hypothesis for hypothesis in found if supported(hypothesis, 0.6)]


def _explained(views: Views, n_samples: int = 200) -> dict[_Hypothesis, _Support] | None:
    """How depth agrees between views under each hypothesis; None with fewer than two views that have depth.

    Sampled pixels of one view are looked for in another. They agree at 2 % of its depth, speak against where they lie in
    front of it, and say nothing where they lie behind it (hidden) or outside.
    """
    measured = [view for view in views if "depth" in view.stored and bool(known_depth(view).any())]
    if len(measured) < 2:
        return None
    generator = torch.Generator().manual_seed(0)

    def some(count: int) -> list[View]:
        return [measured[i] for i in sorted({round(i) for i in np.linspace(0, len(measured) - 1, count)})]

    sources, targets = some(12), some(24)
    samples = []
    for view in sources:
        known = known_depth(view).flatten().nonzero()[:, 0]
        pick = known[torch.randint(len(known), (n_samples,), generator=generator)]
        samples.append(view.camera.T_world_cam.inverse() @ back_projected(view, pick))
    p_cam = torch.stack(samples).numpy()
    R, t = _rotations_positions(sources)
    votes: dict[_Hypothesis, list[tuple[float, float]]] = {hypothesis: [] for hypothesis in _HYPOTHESES}
    for target in targets:
        others = [i for i, source in enumerate(sources) if source is not target]
        near, far = _depth_range(target)
        for turned, scale in _HYPOTHESES:
            turn = np.array([1.0, -1.0, -1.0]) if turned else np.ones(3)
            p_world = np.einsum("sij,snj->sni", R[others], p_cam[others] * (scale * turn)) + t[others, None]
            votes[turned, scale].append(_votes(p_world, target.camera, near * scale, far * scale, turn))
    return {key: _Support(*np.mean(pairs, axis=0).tolist()) for key, pairs in votes.items()}


def _votes(
    p_world: np.ndarray, camera: Camera, near: np.ndarray, far: np.ndarray, turn: np.ndarray
) -> tuple[float, float]:
    """The parts of the points that agree with a picture's depth, and that lie in front of it."""
    R, t = camera.T_world_cam.rotation().numpy(), camera.position_world.numpy()
    x, y, z = np.moveaxis(((p_world - t) @ R) * turn, -1, 0)
    front = z > 1e-9
    safe = np.where(front, z, 1.0)
    u, v = camera.fx * x / safe + camera.cx, camera.fy * y / safe + camera.cy
    seen = front & (u >= 0.5) & (u < camera.width - 0.5) & (v >= 0.5) & (v < camera.height - 0.5)
    row, column = (v[seen] - 0.5).astype(int), (u[seen] - 0.5).astype(int)
    lo, hi, z = near[row, column], far[row, column], z[seen]  # NaN is neither
    return float(((z > 0.98 * lo) & (z < 1.02 * hi)).sum() / seen.size), float((z <= 0.98 * lo).sum() / seen.size)


def _depth_range(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest depth of each 2x2 pixels, NaN where one of them is missing."""
    depth = np.where(known_depth(view), np.asarray(view.depth), np.nan)
    corners = np.stack([depth[:-1, :-1], depth[1:, :-1], depth[:-1, 1:], depth[1:, 1:]])
    return corners.min(0), corners.max(0)


def _rotations_positions(views: Sequence[View]) -> tuple[np.ndarray, np.ndarray]:
    R = np.stack([view.camera.T_world_cam.rotation().numpy() for view in views])
    return R, np.stack([view.camera.position_world.numpy() for view in views])


def _rounded(p: np.ndarray) -> str:
    return "(" + ", ".join(f"{x:.3g}" for x in p) + ")"
