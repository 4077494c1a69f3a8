"""`view`: the way in, which loads viser when it is called."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scenes.graph import SceneGraph
from scenes.viewer.saving import Saving

if TYPE_CHECKING:
    from scenes.viewer.viewer import Viewer


def view(
    scene: SceneGraph,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    save: str | os.PathLike[str] | None = None,
    save_as: str | os.PathLike[str] | None = None,
    origins: Sequence[str] = (),
) -> Viewer:
    """Shows a scene in the browser while the program goes on.

    Edits made in code appear there; edits made there are in the scene, with their undo. `Viewer.close` ends it, or the end of a
    ``with`` block; `Viewer.wait` waits until the program is stopped.

    Args:
        scene: The scene; other threads may edit it meanwhile.
        host: The address to listen at. Whoever reaches it can edit the scene: there is no password.
        port: 0 for any that is free.
        save: The scene's own folder (``NAME.scene``), to which the save button writes; nothing is saved by itself.
        save_as: A folder in which it may be saved under other names.
        origins: Pages (``https://name``) that may connect beside the viewer's own.

    Raises:
        ValueError: No scene, a port that is taken, a place that can't be written to.
        ImportError: viser isn't installed.
    """
    if not isinstance(scene, SceneGraph):
        raise ValueError(f"view: expected a SceneGraph, got {type(scene).__name__}")
    try:
        from scenes.viewer.viewer import Viewer
    except ModuleNotFoundError as error:
        raise ImportError(f"the viewer needs a library: pip install 'sirenscape[view]' ({error})") from error

    saving = Saving(None if save is None else Path(save), None if save_as is None else Path(save_as))
    return Viewer(scene, host, port, origins, saving)
