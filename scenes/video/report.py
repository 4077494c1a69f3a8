"""How well a learned scene tells its clip: rendered anew from the same cameras, as figures, one page and a film."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from objects.progress import Bar
from rendering.atomic import replacing
from rendering.images import contact_sheet, labelled, owner_picture, save_mp4
from rendering.render import render
from scenes.video.clip import Clip
from scenes.video.learning import LearnedClip
from scenes.video.scene import CAMERA

_ROWS = 8  # of the contact sheet, at most
_ERROR_GAIN = 4.0
_COLUMNS = ("input", "ids", "rendered", f"error x {_ERROR_GAIN:g}")
_PAGE = Path(__file__).with_name("report.html")


class Rendered(NamedTuple):
    """A learned scene at the times and from the cameras of its clip."""

    rgb: Float[Tensor, "f h w 3"]
    owner: Int[Tensor, "f h w"]
    """Index of the instance, -1 for none."""


def rendered(clip: Clip, learned: LearnedClip) -> Rendered:
    """All frames, antialiased as ever."""
    frames = []
    for time in Bar(clip.times.tolist(), desc="rendering", unit="frame"):
        camera = learned.graph.camera_at(CAMERA, time)
        frames.append(render(learned.graph, camera, time=time, progress=False))
    return Rendered(torch.stack([f.rgb for f in frames]), torch.stack([f.owner for f in frames]))


def figures_of(clip: Clip, learned: LearnedClip, made: Rendered) -> dict[str, float]:
    """PSNR (dB) of whole rendered frames against the clip: of those learned from, of those held out, of the pixels of objects; and
    of a copy of the frame before, which a scene must beat."""
    want = torch.from_numpy(clip.rgb).float() / 255
    error = (made.rgb - want).square().mean(-1)
    held = torch.from_numpy(~learned.learned)
    figures = {"psnr_db": _db(error[~held])}
    if bool(held.any()):
        figures["held_out_psnr_db"] = _db(error[held])
    objects = torch.from_numpy(learned.found.ids > 0)
    if bool(objects.any()):
        figures["objects_psnr_db"] = _db(error[objects])
    figures["frame_before_psnr_db"] = _db((want[1:] - want[:-1]).square().mean(-1))
    return figures


def _db(error: Tensor) -> float:
    return round(-10 * math.log10(max(float(error.double().mean()), 1e-10)), 2)


def panels(clip: Clip, learned: LearnedClip, made: Rendered, t: int) -> list[Float[Tensor, "h w 3"]]:
    """Input, ids, rendering and error of a frame."""
    want = torch.from_numpy(clip.rgb[t]).float() / 255
    error = (_ERROR_GAIN * (made.rgb[t] - want).abs().mean(-1, keepdim=True)).clamp(0, 1).expand(-1, -1, 3)
    ids = torch.from_numpy(learned.found.ids[t].astype(np.int64)) - 1
    return [want, owner_picture(ids), made.rgb[t], error]


def write_report(clip: Clip, learned: LearnedClip, made: Rendered, figures: dict[str, float], folder: Path) -> None:
    """Writes ``report.html``, which needs nothing beside it, and ``side_by_side.mp4`` into a folder."""
    n = len(clip)
    frames = sorted({round(i * (n - 1) / max(1, min(_ROWS, n) - 1)) for i in range(min(_ROWS, n))})
    sheet = contact_sheet(
        [
            labelled(p, f"{c}, frame {t}")
            for t in frames
            for p, c in zip(panels(clip, learned, made, t), _COLUMNS, strict=True)
        ],
        len(_COLUMNS),
    )
    rows = [
        (k.removesuffix("_db").replace("_psnr", "").replace("psnr", "learned from").replace("_", " "), v)
        for k, v in figures.items()
    ]
    page = _PAGE.read_text(encoding="utf-8")
    for key, value in (
        ("FIGURES", "".join(f"<tr><td>{html.escape(k)}</td><td>{v:.2f} dB</td></tr>" for k, v in rows)),
        ("NOTES", "".join(f"<li>{html.escape(note)}</li>" for note in learned.notes) or "<li>none</li>"),
        ("OBJECTS", _object_rows(learned)),
        ("SHEET", _png(sheet)),
        ("TRACKS", json.dumps(_tracks(learned)).replace("<", "\\u003c")),
        ("SIZE", f"{n} frames of {clip.depth.shape[2]} x {clip.depth.shape[1]}"),
    ):
        page = page.replace(f"@{key}@", value)
    with replacing(folder / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    rate = (n - 1) / float(clip.times[-1] - clip.times[0])
    pictures = (contact_sheet(panels(clip, learned, made, t), len(_COLUMNS), 2) for t in range(n))
    save_mp4(pictures, folder / "side_by_side.mp4", fps=min(rate, 60.0))


def _object_rows(learned: LearnedClip) -> str:
    rows = []
    for thing in learned.found.objects:
        known = np.array([pose is not None for pose in thing.poses])
        sure = f"{thing.confidence[known].mean():.2f}" if known.any() else "-"
        made = "yes" if any(path.rsplit("/", 1)[-1] == thing.name for path in learned.graph) else "no"
        cells = (thing.name, "yes" if thing.rigid else "no", f"{known.sum()}", sure, made)
        rows.append("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>")
    return "".join(rows)


def _tracks(learned: LearnedClip) -> list[dict]:
    """Paths of the objects' middles and of the camera, world frame, with colours."""
    found = []
    for thing in learned.found.objects:
        path = _middles(learned, thing.name)
        color = (owner_picture(torch.tensor([[thing.id - 1]]))[0, 0] * 255).int().tolist()
        at = [p if pose is not None else None for p, pose in zip(path, thing.poses, strict=True)]
        found.append({"name": thing.name, "color": "rgb({}, {}, {})".format(*color), "points": at})
    camera = [[round(float(x), 4) for x in pose[:3, 3]] for pose in learned.found.cameras]
    return [*found, {"name": "camera", "color": "#888", "points": camera}]


def _middles(learned: LearnedClip, name: str) -> Sequence[list[float]]:
    path = next((p for p in learned.graph if p.rsplit("/", 1)[-1] == name), None)
    if path is None:
        return [[0.0, 0.0, 0.0]] * len(learned.times)
    return [[round(x, 4) for x in learned.graph.pose(path, t)[0].translation.tolist()] for t in learned.times]


def _png(picture: Float[Tensor, "h w 3"]) -> str:
    buffer = io.BytesIO()
    Image.fromarray((picture.clamp(0, 1) * 255).round().byte().numpy()).save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
