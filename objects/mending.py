"""Flaws of a learned solid, found by counting its parts, and samples that mend them.

A network that is near its limit (thin walls, narrow slits) leaves loose specks and bubbles within its error of the surface, where
samples are too few to tell. They are found on the grid that makes meshes, and learned about.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from objects.field import Field
from objects.mesh import MeshSource
from objects.meshing import grid_cell, sample_grid

_SMALL = 0.1  # loose parts smaller than this share of the box are taken away, whatever the source says of them
_SOME = 0.05  # where the source's parts can't be counted: what is smaller than this is no part
_CLEARANCE = 0.25  # by how much, in cells, a speck is to be outside
_NOISE = 0.01  # about the surface, as a share of half the extent


def hard_samples(
    field: Field, source: MeshSource, n: int, rng: np.random.Generator
) -> tuple[int, Float[np.ndarray, "n 3"], Float[np.ndarray, "n"]] | None:
    """How many flaws there are, points (object frame) where the field has parts that its source hasn't or lacks some, and
    distances to learn there.

    Those are the source's, but for small loose parts: they are to be outside (bubbles: inside) even where the source has
    something there that is too thin to be learned as one piece.

    Returns:
        None where nothing is amiss.
    """
    cell = grid_cell(field)
    with torch.no_grad():
        values, first = sample_grid(field, cell)
    corner = first.double().numpy()
    solid, air = (labelled(side) for side in (values < 0, values >= 0))
    sizes = [np.bincount(label.ravel())[1:] for label in (solid, air)]
    if all(len(size) == 1 for size in sizes) and (source.parts is None or source.parts == (1, 1)):
        return None
    wanted = source.parts or tuple(_some(label) for label in (solid, air))
    loose = [np.argsort(-size, kind="stable")[count:] + 1 for size, count in zip(sizes, wanted, strict=True)]
    few = any(len(size) < count for size, count in zip(sizes, wanted, strict=True))
    flaws = sum(abs(len(size) - count) for size, count in zip(sizes, wanted, strict=True))
    if not flaws:
        return None

    seeds, small = [], []
    for label, stray in zip((solid, air), loose, strict=True):
        boxes = ndimage.find_objects(label)
        mask = np.zeros(label.shape, bool)
        for k in stray:
            seeds.append(corner + cell * (np.argwhere(label[boxes[k - 1]] == k) + [s.start for s in boxes[k - 1]]))
            reach = max(s.stop - s.start for s in boxes[k - 1])
            if reach < _SMALL * max(label.shape):
                mask[boxes[k - 1]] |= label[boxes[k - 1]] == k
            else:
                few = True
        small.append(mask)
    if few:
        seeds += [wrong] * max(1, len(seeds)) if len(wrong := _wrong(field, source, rng)) else []
    if not seeds:
        return None
    pick = rng.integers(len(seeds), size=n)
    p = np.stack([seeds[k][rng.integers(len(seeds[k]))] for k in pick])
    p += rng.normal(0, cell, p.shape) * rng.choice([0.5, 1.0, 3.0], (n, 1))
    p = p.clip(field.box_lo.double().numpy(), field.box_hi.double().numpy())
    distance = source.signed_distance(p)
    at = tuple(np.round((p - corner) / cell).astype(int).clip(0, np.array(values.shape) - 1).T)
    for mask, sign in zip(small, (1, -1), strict=True):
        kept = ((values < 0) if sign > 0 else (values >= 0)) & ~mask
        zone = (ndimage.binary_dilation(mask, np.ones((3, 3, 3))) & ~kept)[at]
        distance[zone] = sign * np.maximum(sign * distance[zone], _CLEARANCE * cell)
    return flaws, p, distance


def labelled(mask: Bool[np.ndarray, "x y z"]) -> Int[np.ndarray, "x y z"]:
    """Connected cells (over their faces) under equal numbers from 1 on."""
    label = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=label)
    return label


def _some(label: Int[np.ndarray, "x y z"]) -> int:
    """How many parts are large."""
    reach = [max(s.stop - s.start for s in box) for box in ndimage.find_objects(label)]
    return max(1, sum(r >= _SOME * max(label.shape) for r in reach))


def _wrong(field: Field, source: MeshSource, rng: np.random.Generator) -> Float[np.ndarray, "m 3"]:
    """Points near the surface at which the field has the wrong sign."""
    p = source.sample(40_000, rng)[0]
    p = p + rng.normal(0, _NOISE * source.extent / 2, p.shape)
    with torch.no_grad():
        got = field.sdf(torch.from_numpy(p).float()).numpy()
    return p[(got < 0) != (source.signed_distance(p) < 0)]
