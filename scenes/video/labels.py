"""Which pixel belongs to which track: costs under every rigid motion, and labels of least cost."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32

from scenes.video.costs import pixel_costs
from scenes.video.maps import Maps
from scenes.video.smoothing import mean_field, neighbour_weights

_DISPLACED = 0.5  # pixels by which colours may be displaced
_SLACK = (0.003, 0.15)  # metres, beside the noise, that violate free space; difference of colour that costs all
SILENT_WORLD, SILENT = (
    0.06,
    0.32,
)  # cost of a frame that says nothing of a pixel, under the still world and under others
_STRENGTH, _SHARP, _ROUNDS = 0.35, 12.0, 12
_GATE = 0.02


def references(n_frames: int, n_keys: int = 12) -> np.ndarray:
    """Frames [F r] that each frame is compared with, -1 for none: its neighbours, and key frames all over the clip."""
    keys = {round(k) for k in np.linspace(0, n_frames - 1, min(n_frames, n_keys))}
    rows = [sorted((keys | {t - 2, t - 1, t + 1, t + 2}) - {t}) for t in range(n_frames)]
    rows = [[s for s in row if 0 <= s < n_frames] for row in rows]
    out = np.full((n_frames, max(len(row) for row in rows)), -1, np.int64)
    for t, row in enumerate(rows):
        out[t, : len(row)] = row
    return out


def track_costs(
    maps: Maps,
    to_cam: Float[np.ndarray, "f 4 4"],
    have: Bool[np.ndarray, "f"],
    frames: np.ndarray,
    refs: np.ndarray,
    region: Bool[np.ndarray, "n h w"] | None = None,
    silent: float = SILENT,
) -> Float32[np.ndarray, "n h w"]:
    """`pixel_costs` of frames under a track, everywhere or in a region (outside it costs all).

    ``silent``: cost of a frame that says nothing of a pixel; less for the still world, before which anything may stand.
    """
    frames = np.asarray(frames, np.int64)
    region = np.ones((len(frames), *maps.depth.shape[1:]), bool) if region is None else region
    slack = np.array([*_SLACK, silent, _DISPLACED])
    cost, _, _ = pixel_costs(
        frames, refs, to_cam, have, region, maps.depth, maps.normal, maps.rgb, maps.slope, maps.sky, maps.lens, maps.noise,
        slack,
    )  # fmt: skip
    return cost


def ties_of(maps: Maps) -> Float32[np.ndarray, "f four h w"]:
    """`neighbour_weights` of all frames."""
    return neighbour_weights(maps.depth, maps.normal, maps.rgb, _GATE)


def labels_of(
    cost: Float32[np.ndarray, "n k h w"], ties: Float32[np.ndarray, "n four h w"]
) -> Int32[np.ndarray, "n h w"]:
    """Numbers of tracks of least cost, smooth where depth and colour are; -1 without depth."""
    return mean_field(cost, ties, _STRENGTH, _SHARP, _ROUNDS)
