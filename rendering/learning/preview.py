"""How far learning is, for a person to look at: a picture, and a page that shows it with the curve of the run."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from objects.files import write_atomically
from rendering.images import save_png

_POINTS = 400  # of a curve, at most
_WIDTH, _HEIGHT = 640, 240


def save_preview(
    picture: Float[Tensor, "h w 3"], curve: Sequence[float], what: str, path: str | os.PathLike[str]
) -> None:
    """Writes the picture, and beside it a page of the same name (``.html``) that needs no other file.

    Args:
        picture: What was learned beside what it should be, sRGB in 0..1.
        curve: A number for each step so far.
        what: What the numbers are.
        path: A PNG file.

    Raises:
        ValueError: As `save_png`.
        FieldFileError: The page can't be written.
    """
    save_png(picture, path)
    shown = base64.b64encode(Path(path).read_bytes()).decode()
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(Path(path).stem)}</title>
<body style="font:14px sans-serif;margin:2em"><p>Learned (left) and wanted (right), after {len(curve)} steps.</p>
<img alt="learned and wanted" style="max-width:100%;image-rendering:pixelated;width:{_WIDTH}px" src="data:image/png;base64,{shown}">
<p>{html.escape(what)}</p>{_drawn(curve)}</body></html>
"""
    write_atomically(Path(path).with_suffix(".html"), page.encode())


def _drawn(curve: Sequence[float]) -> str:
    """A curve as SVG, from its least to its greatest value."""
    stride = max(len(curve) // _POINTS, 1)
    some = [(i, y) for i, y in enumerate(curve) if i % stride == 0 and y == y]
    if len(some) < 2:
        return ""
    low, high = min(y for _, y in some), max(y for _, y in some)
    height = _HEIGHT / max(high - low, 1e-12)
    line = " ".join(f"{_WIDTH * i / (len(curve) - 1):.1f},{height * (high - y):.1f}" for i, y in some)
    style = 'fill="none" stroke="#1f6fb4" stroke-width="2"'
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    return f'<p>{high:.3g}</p><svg {box} role="img"><polyline points="{line}" {style}/></svg><p>{low:.3g}</p>'
