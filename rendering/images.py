"""Pictures on disk: PNG, 16-bit depth and ids, MP4, contact sheets; and colours for depth, normals and owners."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rendering.atomic import replacing

# Viridis (Smith, van der Walt, 2015; CC0) at nine even steps.
_VIRIDIS = (
    (68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141),
    (39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37),
)  # fmt: skip

Path_ = str | os.PathLike[str]


# -- colours ---------------------------------------------------------------------------------------------------------


def depth_picture(
    depth: Float[Tensor, "h w"], near: float | None = None, far: float | None = None
) -> Float[Tensor, "h w 3"]:
    """Depth as colour: yellow near, violet far, black where there is none (inf or 0).

    Args:
        depth: Metres.
        near, far: Depths at the ends of the colours, metres; those of the picture by default.
    """
    known = torch.isfinite(depth) & (depth > 0)
    if not known.any():
        return torch.zeros(*depth.shape, 3)
    near = float(depth[known].min()) if near is None else near
    far = float(depth[known].max()) if far is None else far
    table = torch.tensor(_VIRIDIS, dtype=torch.float32).flip(0) / 255
    amount = ((depth.float() - near) / max(far - near, 1e-12)).nan_to_num(0, 0, 0).clamp(0, 1) * (len(table) - 1)
    cell = amount.long().clamp(max=len(table) - 2)
    color = torch.lerp(table[cell], table[cell + 1], (amount - cell)[..., None])
    return torch.where(known[..., None], color, 0.0)


def normal_picture(normal: Float[Tensor, "h w 3"]) -> Float[Tensor, "h w 3"]:
    """World normals as colour: -1..1 of x, y, z becomes 0..1 of red, green, blue; black where there is none (0)."""
    known = normal.square().sum(-1, keepdim=True) > 0.25
    return torch.where(known, (0.5 + 0.5 * normal.float()).clamp(0, 1), 0.0)


def owner_picture(owner: Int[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    """Owner indices as colour, the same for the same index in every picture; black for -1."""
    index = owner.long().clamp(min=0)
    # Hues go round by the golden ratio, so that consecutive indices lie far apart; brightness alternates in threes.
    hue = (index * 0.6180339887498949 + 0.08) % 1.0
    value = torch.tensor([0.95, 0.7, 0.85])[index % 3]
    saturation = torch.tensor([0.6, 0.75, 0.9, 0.45])[(index // 3) % 4]
    shift = (hue[..., None] * 6 + torch.tensor([0.0, 4.0, 2.0])) % 6
    ramp = ((shift - 3).abs() - 1).clamp(0, 1)
    color = value[..., None] * (1 - saturation[..., None] * (1 - ramp))
    return torch.where(owner[..., None] >= 0, color.float(), 0.0)


def contact_sheet(pictures: Sequence[Float[Tensor, "h w 3"]], columns: int, gap: int = 4) -> Float[Tensor, "H W 3"]:
    """Pictures of one size side by side, row by row, on white, ``gap`` pixels apart."""
    if not pictures or len({tuple(p.shape) for p in pictures}) != 1:
        raise ValueError(f"contact_sheet: expected pictures of one size, got {[list(p.shape) for p in pictures]}")
    if columns < 1:
        raise ValueError(f"contact_sheet: columns must be at least 1, got {columns}")
    h, w, _ = pictures[0].shape
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    sheet = torch.ones(rows * (h + gap) - gap, columns * (w + gap) - gap, 3)
    for i, picture in enumerate(pictures):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        sheet[y : y + h, x : x + w] = picture
    return sheet


# -- files -----------------------------------------------------------------------------------------------------------


def labelled(picture: Float[Tensor, "h w 3"], text: str) -> Float[Tensor, "h+20 w 3"]:
    """A picture with a line of text beneath, cut to its width."""
    h, w, _ = picture.shape
    sheet = Image.new("RGB", (w, h + 20), "white")
    sheet.paste(Image.fromarray(_bytes(picture, "labelled")))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    while len(text) > 4 and draw.textlength(text, font=font) > w - 8:
        text = text[:-4] + "..."
    draw.text((4, h + 2), text, fill=(40, 40, 40), font=font)
    return torch.from_numpy(np.asarray(sheet).copy()).float() / 255


def save_png(rgb: Float[Tensor, "h w c"], path: Path_) -> None:
    """Write an 8-bit PNG.

    Args:
        rgb: sRGB in 0..1 (values beyond are clipped), 3 channels, or 4 with alpha.
        path: A file in an existing folder; it is replaced at once, or stays as it was.

    Raises:
        ValueError: Another shape, NaN, another suffix, or no such folder.
    """
    if rgb.dim() != 3 or rgb.shape[-1] not in (3, 4) or 0 in rgb.shape:
        raise ValueError(f"save_png: rgb must have shape [h, w, 3 or 4], got {list(rgb.shape)}")
    if Path(path).suffix.lower() != ".png" and not Path(path).is_dir():
        raise ValueError(f"save_png: path must end in .png, got {path}")
    with replacing(path) as part:
        Image.fromarray(_bytes(rgb, "save_png")).save(part, format="PNG")


def save_depth_png(depth: Float[Tensor, "h w"], path: Path_, unit: float = 0.001) -> None:
    """Write depth as a 16-bit PNG in steps of ``unit`` metres; 0 means none (inf, NaN, or not above 0).

    Depth beyond the range (65,535 units) is written as none, with a warning; depth below half a unit as one unit.

    Raises:
        ValueError: Another shape, a unit that is not positive, or no such folder.
    """
    if depth.dim() != 2 or 0 in depth.shape:
        raise ValueError(f"save_depth_png: depth must have shape [h, w], got {list(depth.shape)}")
    if not (math.isfinite(unit) and unit > 0):
        raise ValueError(f"save_depth_png: unit must be finite and greater than 0, got {unit}")
    known = torch.isfinite(depth) & (depth > 0)
    steps = torch.where(known, depth.double() / unit, 0.0).round()
    too_far = steps > 65535
    if too_far.any():
        warnings.warn(
            f"save_depth_png: {int(too_far.sum())} pixels are farther than {65535 * unit:g} m and were written as none; "
            f"use a larger unit than {unit:g}",
            stacklevel=2,
        )
    steps = torch.where(too_far, 0.0, torch.where(known, steps.clamp(min=1), 0.0))
    with replacing(path) as part:
        Image.fromarray(steps.numpy().astype(np.uint16)).save(part, format="PNG")


def save_depth_npy(depth: Float[Tensor, "h w"], path: Path_) -> None:
    """Write depth as an array of float32, metres; 0 means none (inf, NaN, or not above 0).

    Raises:
        ValueError: Another shape, another suffix than ``.npy``, or no such folder.
    """
    if depth.dim() != 2 or 0 in depth.shape:
        raise ValueError(f"save_depth_npy: depth must have shape [h, w], got {list(depth.shape)}")
    if Path(path).suffix.lower() != ".npy":
        raise ValueError(f"save_depth_npy: path must end in .npy, got {path}")
    known = torch.isfinite(depth) & (depth > 0)
    with replacing(path) as part:
        np.save(part, torch.where(known, depth, 0.0).numpy().astype(np.float32), allow_pickle=False)


def save_ids_png(ids: Int[Tensor, "h w"], path: Path_) -> None:
    """Write instance ids as a 16-bit grey PNG; 0 means none.

    Raises:
        ValueError: Another shape, an id outside of 0..65535, or no such folder.
    """
    if ids.dim() != 2 or 0 in ids.shape:
        raise ValueError(f"save_ids_png: ids must have shape [h, w], got {list(ids.shape)}")
    if ids.min() < 0 or ids.max() > 65535:
        raise ValueError(f"save_ids_png: ids must lie in 0..65535, got {int(ids.min())}..{int(ids.max())}")
    with replacing(path) as part:
        Image.fromarray(ids.numpy().astype(np.uint16)).save(part, format="PNG")


def save_mask_png(mask: Bool[Tensor, "h w"], path: Path_) -> None:
    """Write a mask as an 8-bit grey PNG: 255 where it is set, else 0."""
    with replacing(path) as part:
        Image.fromarray(mask.numpy().astype(np.uint8) * np.uint8(255)).save(part, format="PNG")


def load_png(path: Path_) -> Float[Tensor, "h w c"]:
    """Read an 8-bit image as RGB or RGBA in 0..1."""
    with _open_image(path) as image:
        mode = "RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB"
        return torch.from_numpy(np.asarray(image.convert(mode)).copy()).float() / 255


def load_depth_png(path: Path_, unit: float = 0.001) -> Float[Tensor, "h w"]:
    """Read what `save_depth_png` wrote: metres, inf where there is none.

    Raises:
        ValueError: No such file, or no image with one channel.
    """
    with _open_image(path) as image:
        steps = np.asarray(image)
    if steps.ndim != 2:
        raise ValueError(f"load_depth_png: expected one channel, got {path} with {steps.shape[-1]}")
    metres = torch.from_numpy(steps.astype(np.float64)) * unit
    return torch.where(metres > 0, metres, math.inf).float()


def save_mp4(pictures: Iterable[Float[Tensor, "h w 3"]], path: Path_, fps: float = 30.0) -> int:
    """Write an H.264 film (yuv420p, plays everywhere) and return the number of pictures.

    Args:
        pictures: sRGB in 0..1, all of one size; taken one by one, so a generator keeps the memory small. An odd width or
            height (which the format lacks) is grown by one pixel by repeating the last one.
        path: A file ending in ``.mp4`` in an existing folder; it is replaced at once, or stays as it was.
        fps: Pictures each second.

    Raises:
        ValueError: No pictures, different sizes, a rate that is not positive, another suffix, or no such folder.
        RuntimeError: ffmpeg failed; the text is its own.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"save_mp4: fps must be finite and greater than 0, got {fps}")
    if Path(path).suffix.lower() != ".mp4":
        raise ValueError(f"save_mp4: path must end in .mp4, got {path}")
    with replacing(path) as part:  # before the first picture is made: a wrong path should not cost a render
        stream = iter(pictures)
        first = next(stream, None)
        if first is None:
            raise ValueError("save_mp4: pictures must hold at least one picture")
        if first.dim() != 3 or first.shape[-1] != 3 or 0 in first.shape:
            raise ValueError(f"save_mp4: pictures must have shape [h, w, 3], got {list(first.shape)}")
        h, w = first.shape[0] + first.shape[0] % 2, first.shape[1] + first.shape[1] % 2
        settings: dict[str, Any] = {
            "fps": fps,
            "codec": "libx264",
            "pix_fmt_out": "yuv420p",
            "macro_block_size": 2,
            "ffmpeg_log_level": "error",
            "output_params": ["-crf", "18", "-movflags", "+faststart", "-f", "mp4"],
        }
        writer = imageio_ffmpeg.write_frames(part, (w, h), **settings)
        count = 0
        try:
            writer.send(None)
            for picture in chain((first,), stream):
                if picture.shape != first.shape:
                    raise ValueError(
                        f"save_mp4: picture {count} has shape {list(picture.shape)}, the first {list(first.shape)}"
                    )
                data = _bytes(picture, "save_mp4")
                data = np.pad(data, ((0, h - data.shape[0]), (0, w - data.shape[1]), (0, 0)), mode="edge")
                writer.send(np.ascontiguousarray(data))
                count += 1
        except OSError as error:
            raise RuntimeError(f"save_mp4: ffmpeg failed: {error}") from error
        finally:
            writer.close()
        if not part.is_file() or part.stat().st_size == 0:
            raise RuntimeError(f"save_mp4: ffmpeg wrote nothing to {part}")
    return count


def _bytes(rgb: Tensor, caller: str) -> np.ndarray:
    if torch.isnan(rgb).any():
        raise ValueError(f"{caller}: the picture must not hold NaN")
    return (rgb.detach().float().clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()


def _open_image(path: Path_) -> Image.Image:
    try:
        return Image.open(path)
    except OSError as error:
        raise ValueError(f"{path}: expected an image file ({error})") from error
