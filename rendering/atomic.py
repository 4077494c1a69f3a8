"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside ``path`` to write to; when the block ends well, it takes the place of ``path`` at once.

    After an error (also a full disk) the partial file is removed and what was at ``path`` stays. The partial file keeps
    the suffix of ``path``.

    Raises:
        ValueError: The folder does not exist, ``path`` is a folder, or it cannot be written (no space, no permission).
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"path: the folder {path.parent} does not exist (wanted to write {path.name})")
    if path.is_dir():
        raise ValueError(f"path: expected a file, got the folder {path}")
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise ValueError(f"path: {path} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
