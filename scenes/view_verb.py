"""What ``sirenscape view`` does.

Libraries are loaded when it runs, so that help and mistakes are quick.
"""

from __future__ import annotations

from scenes.paths import Report, Settings, command, preload, scene_folder, user_path


def view(settings: Settings) -> Report:
    """Show a scene in the browser: look around, select, drag, regroup, animate, undo, save. Ctrl-C ends it.

    Nothing is saved but by the save button. The page has no password: listen at 127.0.0.1 only, or in a network that you trust.
    """
    source = scene_folder("scene", settings["scene"])
    places = None if settings["save_as"] is None else user_path(settings["save_as"])
    if not settings["host"]:
        raise ValueError("host: expected an address such as 127.0.0.1")

    preload("scenes.io.scene_folder", "scenes.viewer.opening")
    from scenes.io.scene_folder import load_scene
    from scenes.viewer.opening import view as open_view

    graph = load_scene(source)
    edits = len(graph.log)
    keys = {key: settings[key] for key in ("host", "port")} | {"origins": settings["origin"]}
    try:
        viewer = open_view(graph, save=source, save_as=places, **keys)
    except ImportError as error:
        raise ValueError(str(error)) from error
    with viewer:
        print(f"{source.name} is at {viewer.url} (Ctrl-C ends it)", flush=True)
        try:
            viewer.wait()
        except KeyboardInterrupt:
            print()
        unsaved = viewer.unsaved
    row = {"scene": str(source), "edits": len(graph.log) - edits, "not saved": unsaved}
    return Report([row], f"Next: {command('render', scene=source, out='scene.png')}")
