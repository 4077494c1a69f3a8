"""Icons of the panel: lines on a field of 16 x 16, coloured as the text around them."""

# ruff: noqa: E501 (paths are data)

from __future__ import annotations

_PATHS = {
    "undo": "M6 3 3 6l3 3 M3 6h6a4 4 0 0 1 0 8H6",
    "redo": "M10 3l3 3-3 3 M13 6H7a4 4 0 0 0 0 8h3",
    "copy": "M6 6h7v7H6z M3 10V3h7",
    "delete": "M3 4.5h10 M6.5 4V2.5h3V4 M4.5 4.5l.6 9h5.8l.6-9",
    "eye": "M1.5 8S4 3.8 8 3.8 14.5 8 14.5 8 12 12.2 8 12.2 1.5 8 1.5 8z M8 6.3a1.7 1.7 0 1 0 0 3.4 1.7 1.7 0 0 0 0-3.4z",
    "eye-off": "M2 2l12 12 M4.6 4.8C2.6 6 1.5 8 1.5 8S4 12.2 8 12.2c1 0 2-.3 2.8-.7 M6.5 4c.5-.1 1-.2 1.5-.2 4 0 6.5 4.2 6.5 4.2s-.6 1-1.6 2",
    "group": "M2 5V2h3 M11 2h3v3 M14 11v3h-3 M5 14H2v-3 M5.5 5.5h5v5h-5z",
    "ungroup": "M2.5 2.5h5v5h-5z M8.5 8.5h5v5h-5z M10.5 2.5h3v3 M5.5 13.5h-3v-3",
    "frame": "M2 5V2h3 M11 2h3v3 M14 11v3h-3 M5 14H2v-3 M8 6.5a1.5 1.5 0 1 0 0 3 1.5 1.5 0 0 0 0-3z",
    "save": "M3 2.5h8l2.5 2.5v8.5H2.5V2.5z M5 2.5v3.5h5V2.5 M4.8 13.5V9.5h6.4v4",
    "object": "M8 1.8 13.5 5v6L8 14.2 2.5 11V5z M8 8v6.2 M8 8l5.5-3 M8 8 2.5 5",
    "folder": "M1.8 12.5v-9h4l1.5 1.8h6.9v7.2z",
    "light": "M8 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6z M8 1v1.6 M8 13.4V15 M1 8h1.6 M13.4 8H15 M3 3l1.1 1.1 M11.9 11.9 13 13 M3 13l1.1-1.1 M11.9 4.1 13 3",
    "camera": "M1.8 5h2.4l1.3-2h5l1.3 2h2.4v8H1.8z M8 6.4a2.3 2.3 0 1 0 0 4.6 2.3 2.3 0 0 0 0-4.6z",
    "play": "M4.5 2.8v10.4L13 8z",
    "pause": "M5 3v10 M11 3v10",
    "back": "M12.5 3 7 8l5.5 5z M4 3v10",
    "forward": "M3.5 3 9 8l-5.5 5z M12 3v10",
    "key": "M8 2.2 13.8 8 8 13.8 2.2 8z",
    "key-off": "M8 4.2 11.8 8 8 11.8 4.2 8z M2 2l12 12",
    "add-camera": "M1.8 5h2.4l1.3-2h3 M14.2 8v5H1.8V5 M8 6.9a2.1 2.1 0 1 0 0 4.2 2.1 2.1 0 0 0 0-4.2z M12.5 1.5v5 M10 4h5",
}  # fmt: skip


def icon(name: str) -> str:
    """An icon as SVG text."""
    return f'<svg viewBox="0 0 16 16"><path d="{_PATHS[name]}"/></svg>'
