"""The cache folder: what took long to compute, under the hash of what it was computed from. Deleting it costs time only."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from numba.core import event

from objects.environment import cache_root
from objects.progress import Compiling


def cache_folder(kind: str) -> Path:
    """The folder for one kind of content, made if need be: ``$SIRENSCAPE_CACHE/kind``, else in the user's cache folder.

    Raises:
        ValueError: The folder cannot be made.
    """
    folder = cache_root() / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"SIRENSCAPE_CACHE: expected a folder that can be written, got {folder}: {error.strerror}"
        ) from error
    return folder


def content_key(*parts: Any) -> str:
    """A hash of plain values (text, numbers, lists, dicts), equal for equal content."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


event.register("numba:compile", Compiling())
