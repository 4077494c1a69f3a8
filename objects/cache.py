"""The cache folder: what took long to compute, under the hash of what it was computed from. Deleting it costs time only."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numba.core.config
import platformdirs
from numba.core import event

from objects.progress import Compiling


def cache_folder(kind: str) -> Path:
    """The folder for one kind of content, made if need be: ``$SIRENSCAPE_CACHE/kind``, else in the user's cache folder.

    Raises:
        ValueError: The folder cannot be made.
    """
    folder = _cache_root() / kind
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


def _cache_root() -> Path:
    return Path(os.environ.get("SIRENSCAPE_CACHE") or platformdirs.user_cache_dir("sirenscape")).expanduser()


# Compiled kernels belong there, too, not beside the installed sources. Must stand before the first compiled function.
if not os.environ.get("NUMBA_CACHE_DIR"):
    setattr(numba.core.config, "CACHE_DIR", str(_cache_root() / "numba"))  # noqa: B010
event.register("numba:compile", Compiling())
