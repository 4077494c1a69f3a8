"""Files that a set of posed pictures names: their paths, as other systems write them, and text in any usual encoding."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from rendering.views.types import ViewError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def text_of(path: Path) -> str:
    """The text of a file: UTF-8, UTF-16 or UTF-32, with or without a byte order mark; what isn't UTF-8 is taken as Latin-1.

    Raises:
        ViewError: A file that can't be read, or a byte order mark that what follows doesn't keep.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ViewError(f"{path}: cannot be read ({error.strerror or error})") from None
    encoding = json.detect_encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8":
            return data.decode("latin-1")
        raise ViewError(f"{path}: expected text in UTF-8, got other bytes at place {error.start}") from None


def beside(root: Path, name: str, what: str) -> str:
    """The path of a file relative to a folder, with ``/`` between its parts; ``\\`` and spaces around it are no part of it. Files
    elsewhere on this machine are only read, so they may be named, too; those with absolute paths keep them.

    Args:
        root: The folder.
        name: What a file says.
        what: The place that says it, for messages.

    Raises:
        ViewError: No name, or an absolute path that leads nowhere.
    """
    path = name.strip().replace("\\", "/")
    if not path:
        raise ViewError(f"{what} is empty: give the path of a file, relative to {root}")
    if path.startswith("/") or re.match(r"[A-Za-z]:/", path):
        for start in (Path.cwd() / root, root.resolve()):
            if Path(os.path.normpath(path)).is_relative_to(start):
                return Path(os.path.normpath(path)).relative_to(start).as_posix()
        if not _is_file(Path(path)):
            raise ViewError(f"{what}: {name!r} is an absolute path of another machine: write paths relative to {root}")
    return os.path.normpath(path)


def located(root: Path, path: str, suffixes: Sequence[str] = ()) -> Path | None:
    """The file of a path that `beside` gave; upper and lower case may differ, and a suffix that isn't among those given may be
    missing. None where there is none."""
    named = not suffixes or Path(path).suffix.lower() in suffixes
    names = [path] if named else [path, *(path + suffix for suffix in suffixes)]
    for name in names:
        if _is_file(root / name):
            return root / name
    return next((found for name in names if (found := _in_any_case(root, name)) is not None), None)


def _in_any_case(root: Path, path: str) -> Path | None:
    found = root
    for part in Path(path).parts:
        try:
            names = _names(found, found.stat().st_mtime_ns).get(part.lower(), [])
        except (OSError, ValueError):
            return None
        if part not in names and len(names) != 1:
            return None
        found = found / (part if part in names else names[0])
    return found if _is_file(found) else None


@functools.lru_cache(maxsize=16)
def _names(folder: Path, changed: int) -> dict[str, list[str]]:
    """Names in a folder by their lower case; ``changed`` is when it last did."""
    names: dict[str, list[str]] = {}
    for entry in folder.iterdir():
        names.setdefault(entry.name.lower(), []).append(entry.name)
    return names


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
