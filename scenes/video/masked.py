"""One thing of a clip whose pixels are known, learned as a field that bends."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image

from objects.pose import SE3
from objects.warped import Warped
from scenes.video.clip import Clip
from scenes.video.decomposition import Decomposition, FoundObject
from scenes.video.learning import ClipConfig, LearnedClip, learn_clip

NAME = "object"


def read_ids(folder: Path, clip: Clip) -> Int[np.ndarray, "f h w"]:
    """Pictures that say whose each pixel is, one for each frame of a clip in the order of their names.

    Raises:
        ValueError: Pictures of another number or size, or that don't hold one byte for each pixel.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".png", ".bmp", ".tif", ".tiff"))
    if len(files) != len(clip):
        raise ValueError(f"ids: expected a picture for each of {len(clip)} frames in {str(folder)!r}, got {len(files)}")
    every = []
    for file in files:
        with Image.open(file) as picture:
            ids = np.asarray(picture)
        if ids.dtype != np.uint8 or ids.shape != clip.depth.shape[1:]:
            height, width = clip.depth.shape[1:]
            raise ValueError(
                f"ids: expected {width}x{height} pixels of one byte, {file.name} holds {ids.dtype} {list(ids.shape)}"
            )
        every.append(ids)
    return np.stack(every)


def learn_masked(
    clip: Clip,
    mask: Bool[np.ndarray, "f h w"],
    *,
    frames: Sequence[int] | None = None,
    seed: int = 0,
    config: ClipConfig | None = None,
) -> LearnedClip:
    """Learns a thing that bends from pictures with depth in which its pixels are known.

    Its surface is followed through the frames; from one to the next it moves by up to about a tenth of its size. All that any
    frame saw of it is put together at the time of one of them and closed where none did. The graph holds the node ``object``, a
    canonical SIREN field seen through a warp, with the rigid part of its motion as the track of its poses, ``camera``, and
    ``lights`` where its colours tell of light from one direction as it turns; then its colours are without that light.

    Args:
        clip: Frames with depth, from `load_clip`. Cameras that aren't given: the thing is learned in the frame of the camera.
        mask: Its pixels. Frames that show nothing of it are left out; there its motion lies between those of the others.
        frames: Frames to learn from, increasing; all by default. Only these are used, also for its motion.
        seed: Of initial weights and samples.
        config: How to learn; what it holds out doesn't matter here.

    Raises:
        ValueError: A mask of another shape, frames that the clip hasn't got, fewer than two frames that show enough of the thing.
        FitError: Its shape can't be learned.
    """
    n = len(clip)
    mask = np.asarray(mask)
    if mask.shape != clip.depth.shape or mask.dtype != bool:
        raise ValueError(
            f"learn_masked: mask must be bool with the frames and pixels of the clip, {list(clip.depth.shape)}, got {mask.dtype} "
            f"{list(mask.shape)}"
        )
    chosen = list(range(n)) if frames is None else list(frames)
    if any(not 0 <= t < n for t in chosen) or any(b <= a for a, b in pairwise(chosen)):
        raise ValueError(f"frames: expected increasing numbers from 0 to {n - 1}, got {chosen}")
    used = np.zeros(n, bool)
    used[chosen] = True
    shown = used & ((clip.depth > 0) & mask).any((1, 2))
    if shown.sum() < 2:
        raise ValueError(
            f"mask: expected pixels with depth in at least two of the {used.sum()} frames, got them in {shown.sum()}"
        )
    notes = list(clip.notes)
    cameras = clip.cameras
    if cameras is None:
        cameras = np.tile(np.eye(4), (n, 1, 1))
        notes.append("the clip says nothing of its cameras: the thing is learned in the frame of the camera")
    if (gone := int((used & ~shown).sum())) > 0:
        notes.append(f"{gone} of {used.sum()} frames show nothing of it")
    poses = tuple(np.eye(4) if shown[t] else None for t in range(n))
    thing = FoundObject(1, NAME, False, poses, shown.astype(float))
    found = Decomposition(mask.astype(np.uint8), (thing,), cameras, (), tuple(notes))
    return learn_clip(clip, found=found, learned=used, alone=True, seed=seed, config=config)


@torch.no_grad()
def residuals(clip: Clip, mask: Bool[np.ndarray, "f h w"], learned: LearnedClip) -> Float[np.ndarray, "f"]:
    """How far what each frame shows of the thing is from its learned surface, mean, a share of the longest edge of its box;
    NaN where a frame shows nothing. Parts that appear, vanish or grow together make it grow."""
    field, found = learned.graph[NAME].field, np.full(len(clip), np.nan)
    if not isinstance(field, Warped):
        return found
    fx, fy, cx, cy = clip.lens
    for t, time in enumerate(clip.times.tolist()):
        y, x = np.nonzero(mask[t] & (clip.depth[t] > 0))
        if len(y) == 0:
            continue
        z = clip.depth[t, y, x].astype(float)
        p_cam = torch.from_numpy(np.stack([(x + 0.5 - cx) / fx * z, (y + 0.5 - cy) / fy * z, z], -1))
        p_world = SE3.from_matrix(torch.from_numpy(learned.found.cameras[t])) @ p_cam
        p = (learned.graph.pose(NAME, time)[0].inverse() @ p_world).float()
        found[t] = float(field.field.sdf(field.canonical(p, torch.full((len(p),), time))).abs().double().mean())
    return found / float(field.bounds.size.max())
