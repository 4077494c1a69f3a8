"""Tracks of a clip while they are found: poses, costs of all pixels under them, labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from scenes.video.costs import MEAN_COUNTS
from scenes.video.labels import SILENT, SILENT_WORLD, labels_of, references, ties_of, track_costs
from scenes.video.maps import Maps
from scenes.video.regions import parts_in_space, parts_of, widened

FAILS = 0.31  # cost above which a pixel isn't explained
_TOP_LEAST, _TOP_MOST, _TOP_COST = 6, 0.1, 0.1  # pixels; share of the picture; cost a pixel
BRIEF = 1 / 6  # share of the clip: what is seen for less is no object
SHOWN_BONUS = np.float32(0.3)  # what a pixel costs less under the track whose model it looks like
_NEAR = 10  # pixels about a track's pixels in which its costs are asked
_ISLAND = 0.1  # of a track's largest part in a frame: smaller parts elsewhere aren't believed


@dataclass
class State:
    """Tracks of a clip while they are found. Track 0 is the still world; its pose is that of the world in each camera."""

    maps: Maps
    refs: np.ndarray
    to_cam: np.ndarray
    """[K F 4 4] object to camera."""
    have: np.ndarray
    """[K F] where a track's pose is known."""
    cost: np.ndarray
    """[F K H W]"""
    ids: np.ndarray
    """[F H W] number of the track, -1 without depth."""
    share: np.ndarray
    """[K F] share of the visible pixels that agree."""
    ties: np.ndarray
    """`labels.ties_of`"""
    tried: np.ndarray
    """[F H W] pixels from which nothing could be made."""
    shown: np.ndarray
    """[F K H W] pixels that look as the model of a track does, in frames in which it was found by it (`seeking.seek`)."""

    @property
    def n_frames(self) -> int:
        return len(self.maps.depth)

    @classmethod
    def start(cls, maps: Maps, world_to_cam: np.ndarray) -> State:
        n = len(maps.depth)
        refs = references(n)
        have = np.ones((1, n), bool)
        cost = track_costs(maps, world_to_cam, have[0], np.arange(n), refs, silent=SILENT_WORLD)[:, None]
        ids = np.where(maps.depth > 0, 0, -1).astype(np.int32)
        return cls(
            maps,
            refs,
            world_to_cam[None].copy(),
            have,
            cost,
            ids,
            np.ones((1, n)),
            ties_of(maps),
            np.zeros(ids.shape, bool),
            np.zeros(cost.shape, bool),
        )

    def energy(self) -> float:
        """Sum of the costs of all pixels under their labels."""
        picked = np.take_along_axis(self.cost, np.maximum(self.ids, 0)[:, None], 1)[:, 0]
        return float(np.nansum(np.where(self.ids >= 0, picked, 0)))

    def recost(self, k: int, masks: np.ndarray | None = None) -> None:
        """Costs of a track anew, near to its pixels (or ``masks`` [F H W]) and where the still world fails; else it costs all."""
        region = None
        if k > 0:
            near = widened((self.ids == k if masks is None else masks) | self.shown[:, k], _NEAR)
            region = near | (self.cost[:, 0] > FAILS)
        frames = np.arange(self.n_frames)
        self.cost[:, k] = track_costs(
            self.maps, self.to_cam[k], self.have[k], frames, self.refs, region, SILENT if k else SILENT_WORLD
        )

    def add(self, to_cam: np.ndarray, have: np.ndarray, masks: np.ndarray) -> None:
        """One more track; ``masks`` [F H W]: about where its pixels are."""
        self.to_cam = np.concatenate([self.to_cam, to_cam[None]])
        self.have = np.concatenate([self.have, have[None]])
        self.share = np.concatenate([self.share, have[None].astype(float)])
        self.cost = np.concatenate([self.cost, np.ones_like(self.cost[:, :1])], 1)
        self.shown = np.concatenate([self.shown, np.zeros_like(self.shown[:, :1])], 1)
        self.recost(len(self.to_cam) - 1, masks)

    def drop(self, gone: list[int]) -> None:
        """Removes tracks; their pixels go to the best of the others."""
        keep = [k for k in range(len(self.to_cam)) if k not in gone]
        self.to_cam, self.have, self.share = self.to_cam[keep], self.have[keep], self.share[keep]
        self.cost, self.shown = (np.ascontiguousarray(a[:, keep]) for a in (self.cost, self.shown))
        self.relabel()

    def fair_cost(self) -> np.ndarray:
        """[F K H W] costs as they are compared: a frame in which a track isn't known says nothing, as one in which it is hidden.

        Else a track would cost less, the fewer frames it is known in.
        """
        asked = (self.refs >= 0).sum(1)[:, None] + 1
        unknown = np.stack([(~have[self.refs] & (self.refs >= 0)).sum(1) for have in self.have], 1) / asked
        w = unknown[:, :, None, None].astype(np.float32)
        return (1 - w) * self.cost + w * np.float32(SILENT * MEAN_COUNTS)

    def relabel(self, *, fair: bool = False) -> None:
        """Labels of least cost; ``fair``: of least `fair_cost`, once tracks aren't sought any more."""
        costs = self.fair_cost() if fair else self.cost
        # What rests can't be told from the still world by motion; its model knows it from other frames.
        costs = np.where(self.shown, np.maximum(costs - SHOWN_BONUS, 0), costs) if self.shown.any() else costs
        self.ids = labels_of(costs, self.ties)
        for ids, cost, depth in zip(self.ids, costs, self.maps.depth, strict=True):
            remove_islands(ids)
            join_tops(ids, cost, depth)

    def failing(self) -> np.ndarray:
        """[F H W] pixels that no track explains and from which none was sought in vain."""
        return self.unexplained(~self.tried)

    def unexplained(self, where: np.ndarray | bool = True) -> np.ndarray:
        """[F H W] pixels that no track explains."""
        best = np.nanmin(np.where(np.isnan(self.cost), np.inf, self.cost), 1)
        bad = (best > FAILS) & np.isfinite(best) & where
        return np.stack([ndimage.binary_opening(b, np.ones((2, 2))) for b in bad])


def remove_islands(ids: np.ndarray) -> None:
    """Gives small parts of a track, away from its largest part in the frame [H W], to what surrounds them; in place."""
    for k in np.unique(ids[ids > 0]):
        parts, n = parts_of(ids == k)
        if n < 2:
            continue
        sizes = np.bincount(parts.ravel())[1:]
        for i, box in enumerate(ndimage.find_objects(parts), 1):
            if box is None or sizes[i - 1] >= _ISLAND * sizes.max():
                continue
            wide = tuple(slice(max(b.start - 1, 0), b.stop + 1) for b in box)
            mine = parts[wide] == i
            ring = ids[wide][widened(mine, 1) & ~mine]
            ring = ring[ring >= 0]
            ids[wide][mine] = np.bincount(ring).argmax() if len(ring) else 0


def join_tops(ids: np.ndarray, cost: np.ndarray, depth: np.ndarray) -> None:
    """Gives parts of the still world that hang in space on one track alone to it, if it explains them about as well; in place.

    A side of a thing that shows only while it rests says nothing of its motion by itself.

    Args:
        ids: [H W] labels.
        cost: [K H W] costs of the frame.
        depth: [H W] metres.
    """
    if len(cost) < 2:
        return
    parts, n = parts_in_space(ids == 0, depth)
    sizes = np.bincount(parts.ravel(), minlength=n + 1)
    for i, box in enumerate(ndimage.find_objects(parts), 1):
        if box is None or not _TOP_LEAST <= sizes[i] < _TOP_MOST * ids.size:
            continue
        wide = tuple(slice(max(b.start - 2, 0), b.stop + 2) for b in box)
        mine = parts[wide] == i
        ring = ids[wide][widened(mine, 2) & ~mine]
        ring = ring[ring > 0]
        if len(ring) == 0:
            continue
        k = int(np.bincount(ring).argmax())
        if float((cost[k][wide] - cost[0][wide])[mine].mean()) < _TOP_COST:
            ids[wide][mine] = k
