"""Pictures that mesh files name: found beside them, or told."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Int

from objects.paint import read_picture


def beside(folder: Path, name: str) -> Path | None:
    """The file that a mesh file names: in its folder or from there on, by its last part where the name is a path of
    another machine, in any case of letters. None where there is none.
    """
    name = name.strip().strip('"').replace("\\", "/")
    if not name or "\0" in name:
        return None
    absolute = name.startswith("/") or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", name)
    for tried in ([] if absolute else [name], [name.rsplit("/", 1)[-1]]):
        for each in tried:
            path = folder / each
            try:
                if path.is_file():
                    return path
                if path.parent.is_dir():
                    for entry in path.parent.iterdir():
                        if entry.name.lower() == path.name.lower() and entry.is_file():
                            return entry
            except OSError:  # too long for a name, or no right to look
                continue
    return None


def find_picture(folder: Path, name: str, notes: list[str]) -> Int[np.ndarray, "h w 3"] | None:
    """The texels of a picture that a mesh file names; None, and a note, where it is missing or damaged."""
    path = beside(folder, name)
    said = " ".join(name.split())[:80]
    if path is None:
        notes.append(f"the texture {said!r} is missing; copy it beside the file")
        return None
    try:
        return read_picture(path.read_bytes())
    except (OSError, ValueError) as error:
        notes.append(f"the texture {said!r} cannot be read and was left out: {error}")
        return None
