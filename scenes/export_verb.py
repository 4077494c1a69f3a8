"""What ``sirenscape export`` does.

Libraries are loaded when it runs, so that help and mistakes are quick.
"""

from __future__ import annotations

from scenes.paths import Report, Settings, command, folder_for, numbers, output_file, preload, scene_folder, user_path


def export(settings: Settings) -> Report:
    """Write a scene for other programs, one node for each object: glTF (.glb), USD, PLY, OBJ, or a folder of PLY files.

    glTF holds names, hierarchy, motion, lights, cameras and tags; `build` reads it back. USD holds the same, and rigid bodies
    with physics=true. PLY and OBJ hold all objects at one
    time, with vertex colours. A folder holds each distinct mesh once, and objects.json with poses over time.
    """
    source = scene_folder("scene", settings["scene"])
    if not settings["out"]:
        raise ValueError("out: expected out=NAME.glb, NAME.usda, NAME.ply, NAME.obj or FOLDER/")
    target = user_path(settings["out"].rstrip("/"))
    if target.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"out: expected a place outside the scene {str(source)!r}, got {settings['out']!r}")
    if target.suffix and settings["out"].endswith("/"):
        raise ValueError(f"out: expected a folder without a suffix, got {settings['out']!r}")
    output_file("out", str(target if target.suffix else target / "objects.json"))
    time, tolerance = (
        None if settings[key] is None else numbers(key, settings[key], 1)[0] for key in ("time", "tolerance")
    )

    preload("scenes.io.scene_folder", "scenes.io.export")
    from scenes.io.export import SUFFIXES, export_scene, suffix_of
    from scenes.io.scene_folder import load_scene

    if not suffix_of(target, "out") and not (target.is_dir() or settings["out"].endswith("/")):
        known = ", ".join(SUFFIXES)
        raise ValueError(
            f"out: expected a name that ends in {known}, or a folder that ends in /, got {settings['out']!r}"
        )
    graph = load_scene(source)
    with folder_for(target):
        keys = {key: settings[key] for key in ("physics", "density")}
        notes = export_scene(graph, target, time=time, tolerance=tolerance, **keys)
    files = [target] if target.is_file() else [file for file in target.rglob("*") if file.is_file()]
    objects = [graph[path].field for path in graph if graph[path].field is not None]
    row = {"objects": len(objects), "meshes": len(set(map(id, objects))), "bytes": sum(f.stat().st_size for f in files)}
    back = f"Back: {command('build', scene=target, out='again.scene')}" if target.suffix == ".glb" else ""
    return Report([row | {"file": str(target)}], back, "\n".join(f"note: {note}" for note in notes), {"notes": notes})
