"""The pose at which the model of a thing agrees with a frame: what it would look like there is compared with what was observed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy import ndimage

from scenes.video.maps import Maps, slopes_of, tensor_of
from scenes.video.model import Model, View
from scenes.video.rigid import adjoint, align, exp, information, judge, outline_of

_TURNS_DEG = (8.0, 16.0)
_TRIED, _APART = 3, 0.15  # poses that are aligned, and how much their rotations differ
_AGREES = 0.006  # metres, beside the noise
_COLOR, _HIDDEN, _OTHER = (
    0.22,
    0.3,
    0.6,
)  # difference that costs all; costs of hidden pixels and of those of another colour
_MARGIN = 12  # pixels about what is compared
_LOOKS = 2  # times that flow between model and frame is sought
_NO_FLOW, _LARGE = 24, 100  # pixels: in smaller windows no flow is sought; larger ones aren't enlarged for it
_PER_FRAME = ("depth", "normal", "rgb", "slope", "tensor", "sky")


class Match(NamedTuple):
    """A pose, and how well what the model looks like there agrees with a frame, in a window of it."""

    to_cam: Float[np.ndarray, "4 4"]
    view: View
    agrees: Bool[np.ndarray, "h w"]
    color: Float32[np.ndarray, "h w"]
    """Cost of the difference in colour, 0 to 1."""
    cost: float
    """Mean over the pixels of the model, 0 to 1."""
    share: float
    """Of the pixels that aren't hidden, those that agree in depth."""


class Window(NamedTuple):
    """A part of a frame about a thing: ``pair`` holds what the model looks like (frame 0) and what was observed (frame 1)."""

    pair: Maps
    box: tuple[slice, slice]
    outline: Float32[np.ndarray, "2 h w 2"]


def window(
    maps: Maps, t: int, mine: Bool[np.ndarray, "h w"], guesses: Sequence[np.ndarray], radius: float
) -> Window | None:
    """The part of frame t in which things of this radius can be at some poses; None where they are out of view."""
    fx, fy, cx, cy = maps.lens
    height, width = maps.depth.shape[1:]
    at = np.stack([g[:3, 3] for g in guesses])
    at = at[at[:, 2] > 1.1 * radius]
    if len(at) == 0:
        return None
    reach = radius / (at[:, 2] - radius)
    u, v = fx * at[:, 0] / at[:, 2] + cx, fy * at[:, 1] / at[:, 2] + cy
    left, right = (u - fx * reach).min() - _MARGIN, (u + fx * reach).max() + _MARGIN
    top, bottom = (v - fy * reach).min() - _MARGIN, (v + fy * reach).max() + _MARGIN
    columns = slice(int(np.clip(left, 0, width)), int(np.clip(right + 1, 0, width)))
    rows = slice(int(np.clip(top, 0, height)), int(np.clip(bottom + 1, 0, height)))
    if columns.stop - columns.start < 4 or rows.stop - rows.start < 4:
        return None
    box = rows, columns
    two = {k: np.stack([np.zeros_like(a[t][box]), a[t][box]]) for k, a in maps._asdict().items() if k in _PER_FRAME}
    shape = two["depth"].shape[1:]
    flows = np.full((2, 2, *shape, 2), np.nan, np.float32)
    lens = np.array([fx, fy, cx - columns.start, cy - rows.start])
    outline = np.stack([np.full((*shape, 2), np.nan, np.float32), outline_of(mine[box][None])[0]])
    return Window(Maps(**two, flows=flows, lens=lens, noise=maps.noise), box, outline)


def compare(there: Window, model: Model, to_cam: Float[np.ndarray, "4 4"]) -> Match:
    """How well the model at a pose agrees with what was observed: hidden pixels cost little, what is seen through costs all."""
    maps = there.pair
    view = model.seen_by(to_cam, maps.lens, maps.depth.shape[1:])
    d, z, rgb = view.depth, maps.depth[1], maps.rgb[1]
    known = (d > 0) & (z > 0)
    tau = (_AGREES + 3 * (maps.noise[0] + maps.noise[1] * d * d)) / np.maximum(-view.normal[..., 2], 0.3)
    agrees = known & (np.abs(d - z) < tau)
    violated, hidden = known & (z > d + tau), known & (z < d - tau)
    gain = (view.rgb * rgb).sum(-1) / ((view.rgb**2).sum(-1) + 1e-4)
    # Shading multiplies: a common factor costs less than another colour.
    off = np.abs(gain.clip(0.6, 1.6)[..., None] * view.rgb - rgb).max(-1)
    color = np.minimum((np.minimum(2 * off, 1) + 0.3 * np.abs(view.rgb - rgb).max(-1)) / _COLOR, 1)
    n = max(int(known.sum()), 1)
    cost = (violated.sum() + _OTHER * color[agrees].sum() + _HIDDEN * hidden.sum()) / n
    return Match(to_cam, view, agrees, color, float(cost), float(agrees.sum() / max(n - hidden.sum(), 1)))


def find_pose(there: Window, model: Model, guesses: Sequence[np.ndarray], *, turned: bool = True) -> Match:
    """The pose at which the model agrees best with a frame, from guesses and turns about them.

    Depth and colour, from a few guesses that differ, then flow between what the model looks like and what was observed.
    """
    best = compare(there, model, guesses[0])
    _show(there, best.view)
    masks = np.stack([best.view.depth > 0, np.zeros(best.view.depth.shape, bool)])
    tried = [T for g in guesses for T in (turns_of(g) if turned else [g])]
    poses = np.stack([guesses[0], guesses[0]])
    picked: list[np.ndarray] = []
    for fit in sorted(judge(there.pair, masks, [0], 1, poses, tried), key=lambda fit: fit.cost):
        if all(np.linalg.norm(fit.T_s_t[:3, :3] - p[:3, :3]) > _APART for p in picked):
            picked.append(fit.T_s_t)
        if len(picked) == _TRIED:
            break
    for guess in picked:
        poses = np.stack([guesses[0], guess])
        fit = align(there.pair, masks, [0], 1, poses, outline=there.outline, rounds=4)
        found = compare(there, model, fit.T_s_t)
        best = found if found.cost < best.cost else best
    for _ in range(_LOOKS):
        _show(there, best.view)
        _seek_flow(there.pair)
        masks = np.stack([best.view.depth > 0, np.zeros(best.view.depth.shape, bool)])
        poses = np.stack([best.to_cam, best.to_cam])
        fit = align(there.pair, masks, [0], 1, poses, outline=there.outline, rounds=3)
        found, last = compare(there, model, fit.T_s_t), best.cost
        best = found if found.cost < best.cost else best
        if found.cost > last - 1e-3:
            break
    return best


def evidence(there: Window, model: Model, match: Match, turn: float, move: float) -> float:
    """How many pixels speak for a pose against others: the least difference of their costs, times the pixels that agree.

    The others are off by a turn (radians), about the axis that depth and colours tell least of and those across, or by a move
    (metres) in the way that they tell least of. Near 0 where one would do as well, as for a plain can that turns about its axis.
    """
    if not match.agrees.any():
        return 0.0
    _show(there, match.view)
    maps, at = there.pair, match.to_cam[:3, 3]
    inner = ndimage.binary_erosion(match.view.depth > 0)
    maps.slope[0] = np.where(inner[..., None, None], slopes_of(match.view.rgb[None])[0], 0)
    spread = np.linalg.inv(information(maps, match.agrees, 1, 0) + 1e-6 * np.eye(6))
    about = adjoint(_moved_to(np.eye(4), -at))  # twists by the turn about the thing, and its own move
    spread = about @ spread @ about.T
    axes, way = np.linalg.eigh(spread[:3, :3])[1].T, np.linalg.eigh(spread[3:, 3:])[1][:, -1]
    others = [_turned(match.to_cam, sign * turn * axis) for axis in axes for sign in (1, -1)]
    others += [_moved_to(match.to_cam, at + sign * move * way) for sign in (1, -1)]
    least = min(compare(there, model, other).cost for other in others)
    return float(match.agrees.sum() * (least - match.cost))


def _moved_to(pose: np.ndarray, place: np.ndarray) -> np.ndarray:
    out = pose.copy()
    out[:3, 3] = place
    return out


def _turned(pose: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """A pose turned about its own middle, by a rotation vector in the camera's frame."""
    return _moved_to(exp(np.concatenate([turn, np.zeros(3)])) @ pose, pose[:3, 3])


def turns_of(pose: np.ndarray) -> list[np.ndarray]:
    """A pose, and turns of it about axes through its own middle."""
    out = [pose]
    for angle in np.radians(_TURNS_DEG):
        for axis in np.concatenate([np.eye(3), -np.eye(3)]):
            out.append(_turned(pose, angle * axis))
    return out


def _show(there: Window, view: View) -> None:
    """Puts what a model looks like into frame 0 of a pair, without flow."""
    maps = there.pair
    maps.depth[0], maps.normal[0], maps.rgb[0] = view
    maps.flows[:] = np.nan


def _seek_flow(maps: Maps) -> None:
    """Fills in the optical flow from frame 0 of a pair to frame 1; where frame 0 holds nothing, it is taken for the same."""
    height, width = maps.depth.shape[1:]
    if min(height, width) < _NO_FLOW:
        return
    front = (maps.depth[0] > 0) & ~((maps.depth[1] > 0) & (maps.depth[1] < maps.depth[0] - 0.02))
    made = np.where(front[..., None], maps.rgb[0], maps.rgb[1])
    up = 1 if min(height, width) > _LARGE else 2
    size = (up * width, up * height)
    grey = [
        cv2.resize(cv2.cvtColor(np.uint8(255 * a.clip(0, 1)), cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_CUBIC)  # pyright: ignore[reportCallIssue, reportArgumentType]
        for a in (made, maps.rgb[1])
    ]
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    dis.setPatchSize(8)
    dis.setPatchStride(2)
    ahead, back = dis.calc(grey[0], grey[1], None), dis.calc(grey[1], grey[0], None)  # pyright: ignore[reportCallIssue, reportArgumentType]
    v, u = np.indices((up * height, up * width), np.float32)
    again = cv2.remap(
        back, u + ahead[..., 0], v + ahead[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(1e6,) * 4
    )  # fmt: skip
    same = np.linalg.norm(ahead + again, axis=-1) < up
    flow = np.where(same[..., None], ahead, np.nan)[up // 2 :: up, up // 2 :: up] / up
    inner = ndimage.binary_erosion(front, iterations=2)
    maps.flows[0, 0] = np.where(inner[..., None], flow, np.nan)
    maps.tensor[0] = tensor_of(slopes_of(made[None].astype(np.float32)))[0]
