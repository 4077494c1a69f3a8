"""What ``sirenscape build``, ``edit``, ``render`` and ``info`` do.

Libraries are loaded when a verb runs, so that help and mistakes are quick.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scenes.io import check_suffix, read_scene
from scenes.paths import (
    DATASETS,
    Report,
    Settings,
    command,
    dataset_folder,
    error_columns,
    folder_for,
    input_file,
    layer_names,
    numbers,
    one_of,
    output_file,
    picture_files,
    preload,
    preview_file,
    quality,
    scene_folder,
    solid_settings,
    user_path,
)
from scenes.presence import told

if TYPE_CHECKING:
    from torch import Tensor

    from objects import Field
    from rendering import Camera
    from scenes.graph import SceneGraph
    from scenes.node_view import NodeView


def build(settings: Settings) -> Report:
    """Build a scene from a description (YAML), a glTF file or posed pictures; what isn't learned yet is learned on the way.

    Pictures (images=FOLDER): an object for each instance mask and a background, or one object; a stopped run goes on. The
    description's keys are listed in docs/guides/build.md. glTF: hierarchy, names, meshes, cameras, lights, animation of rigid
    nodes; y up becomes z up.
    """
    if settings["images"]:
        return _build_images(settings)
    source = scene_folder("scene", settings["scene"], or_file=True)
    target = scene_target(settings["out"], [source])
    if settings["seed"] < 0:
        raise ValueError(f"seed: expected 0 or more, got {settings['seed']}")
    if not source.is_dir():
        check_suffix(source)

    preload("scenes.io.scene_folder", "scenes.io.plan")
    from objects import FitConfig
    from scenes.io.scene_folder import save_scene

    config = FitConfig.of(settings["quality"], **solid_settings(settings))
    replaced = replaced_notes(target)
    graph, notes = read_scene(source, seed=settings["seed"], config=config)
    with folder_for(target):
        save_scene(graph, target)
    from scenes.checks import size_notes

    text = "\n".join(f"note: {note}" for note in [*notes, *replaced, *size_notes(graph, graph.span[0])])
    return Report(
        [_counts(graph) | {"file": str(target)}],
        f"Next: {command('render', scene=target, out='scene.png')}",
        text,
        {"notes": notes},
    )


def _build_images(settings: Settings) -> Report:
    if settings["scene"]:
        raise ValueError("scene: expected scene=FILE or images=FOLDER, got both")
    if not settings["out"]:
        raise ValueError("out: expected out=NAME.scene")

    from scenes.io.from_images import learn_images, plans_of, read_images
    from scenes.io.plan import build as build_plans
    from scenes.io.scene_folder import save_scene

    views = read_images(settings)
    target = scene_target(settings["out"], [])  # before, not after what takes long
    replaced = replaced_notes(target)
    preview = preview_file(target)
    with folder_for(preview):
        learned = learn_images(views, settings, preview)
    graph = build_plans(plans_of(learned))
    graph.log.append(f"build from {user_path(settings['images']).name}")
    with folder_for(target):
        save_scene(graph, target)
    next_step = command("render", scene=target, out="scene.png", layers="rgb,seen")
    rows = [_counts(graph) | {"file": str(target)}]
    text = "\n".join([quality(learned, preview), *(f"note: {note}" for note in replaced)])
    return Report(rows, f"Next: {next_step}", text, {"psnr_db": learned.psnr_db})


def _warn_of_oddities(graph: SceneGraph, views: list[tuple[float, Camera]]) -> None:
    from scenes.checks import camera_notes, size_notes, time_notes

    times = [time for time, _ in views]
    for note in [*camera_notes(graph, views), *size_notes(graph, views[0][0]), *time_notes(graph, times)]:
        warnings.warn(note, stacklevel=2)


def replaced_notes(target: Path) -> list[str]:
    """What to say of a scene that a build replaces."""
    there = (target / "scene.json").is_file()
    return [f"the scene that was {target} before is replaced, with its edits and their history"] * there


def edit(settings: Settings) -> Report:
    """Edit a scene by name: everything in do=..., or nothing if a part of it can't be done.

    VERBS
    """
    source = scene_folder("scene", settings["scene"])
    target = scene_target(settings["out"], []) if settings["out"] else source
    if not settings["do"]:
        raise ValueError(
            "do: expected edits, such as do='move table/tray by 0.2 0 0'; sirenscape edit --help lists them"
        )

    preload("scenes.io.scene_folder")
    from scenes.io.scene_folder import kept_history, load_scene, locked, save_scene
    from scenes.script import run_script

    with locked(source) if target == source else nullcontext():  # no edit of another process is lost in between
        graph = load_scene(source)
        try:
            done = run_script(graph, settings["do"])
        except ValueError as error:
            raise ValueError(f"do: {error}") from error
        with folder_for(target):
            save_scene(graph, target)
    only_edits = not any(line.startswith(("undo", "redo")) for line in done)
    only_edits = only_edits and 0 < len(done) <= len(kept_history(graph)[0])
    undo = f"; to take it back: {command('edit', scene=target, do=f'undo {len(done)}')}" if only_edits else ""
    return Report(
        [_counts(graph) | {"file": str(target)}],
        f"Next: {command('render', scene=target, out='scene.png')}{undo}",
        "\n".join(done),
        {"done": done},
    )


def render(settings: Settings) -> Report:
    """Render a scene to a picture, a film, or a folder with one file for each layer.

    With several layers, out=a.png gives a.png for rgb and a-depth.png and so on for the others.
    """
    source = scene_folder("scene", settings["scene"])
    layers, form = layer_names(settings["layers"]), settings["dataset"]
    is_film = form is None and bool(settings["out"]) and settings["out"].lower().endswith(".mp4")
    if form is not None:
        one_of("dataset", form, DATASETS)
        if layers != ["rgb"]:
            raise ValueError("layers: a data set has layers of its own; leave it out")
        files = {form: dataset_folder(settings["out"], source)}
    else:
        files = picture_files(settings["out"], layers, is_film, source)
    one_of("clip", settings["clip"], ("auto", "orbit", "time", "both"))
    if settings["level"] < 0:
        raise ValueError(f"level: expected 0 or more, got {settings['level']}")
    if not 0 < settings["fps"] <= 240:
        raise ValueError(f"fps: expected a number above 0 and at most 240, got {settings['fps']}")
    seconds = None if settings["seconds"] is None else numbers("seconds", settings["seconds"], 1)[0]
    if seconds is not None and not 0 < seconds <= 3600:
        raise ValueError(f"seconds: expected a number above 0 and at most 3600, got {seconds}")

    given_time = None if settings["time"] is None else numbers("time", settings["time"], 1)[0]

    preload("scenes.io.scene_folder", "scenes.pictures")
    from rendering import RenderConfig
    from rendering import render as render_frame
    from scenes.io.scene_folder import load_scene
    from scenes.pictures import camera_for, film, save_film, save_picture

    background = numbers("background", settings["background"], 3)
    behind = (background[0], background[1], background[2])
    config = RenderConfig(
        settings["antialias"],
        settings["shadows"],
        behind,
        canonical="canonical" in files,
        certify=settings["certify"],
    )
    graph = load_scene(source)
    time = graph.span[0] if given_time is None else given_time
    level, details = settings["level"], {}
    if is_film or form is not None:
        views = film(graph, settings, time, seconds)
        _warn_of_oddities(graph, views)
        row = {"frames": len(views), "width": views[0][1].width, "height": views[0][1].height}
        with folder_for(*(file / "images" if form else file for file in files.values())):
            if form is not None:
                from scenes.io.dataset import save_dataset

                save_dataset(graph, views, form, files[form], config=config, level=level)
            else:
                save_film(graph, views, layers[0], files[layers[0]], settings["fps"], config=config, level=level)
    else:
        camera = camera_for(graph, settings, time)
        _warn_of_oddities(graph, [(time, camera)])
        frame = render_frame(graph.at(time), camera, lights=graph.lights_at(time), config=config)
        with folder_for(*files.values()):
            in_folder = (
                user_path(settings["out"]).suffix.lower() not in (".png", ".npy") or user_path(settings["out"]).is_dir()
            )
            save_picture(frame, camera, files, graph, time, level, in_folder)
        row = {
            "covered": f"{100 * float((frame.owner >= 0).float().mean()):.1f} %",
            "width": camera.width,
            "height": camera.height,
        }
        details = {"camera": camera.to_nerfstudio() | {"time": time}}
    rows = [{"layer": layer} | row | {"file": str(file)} for layer, file in files.items()]
    nodes = [graph[path] for path in graph]
    dark = ("rgb" in files or form) and not graph.lights_at(time) and any(n.lit for n in nodes if n.field is not None)
    note = "The scene has no light: colours are shown as they are. A light: edit do='add sun; light sun directional'"
    return Report(rows, note if dark else "", "", details)


def info(settings: Settings) -> Report:
    """Show what is in a scene: its tree, its objects, what overlaps; sheet=FILE.png and graph=FILE.svg draw it.

    Of a field file it shows kind, parameters, box and measured errors.
    """
    if (settings["scene"] or "").endswith(".safetensors"):
        return _field_info(settings)
    source = scene_folder("scene", settings["scene"])
    sheet, drawing = (
        _drawing(key, settings[key], suffix, source) for key, suffix in (("sheet", ".png"), ("graph", ".svg"))
    )
    if settings["min_depth"] < 0 or settings["lines"] < 1:
        raise ValueError("min_depth, lines: expected a depth of 0 or more and at least 1 line")

    preload("scenes.io.scene_folder")
    from objects.files import field_hash
    from scenes.checks import overlaps, size_notes
    from scenes.io.scene_folder import load_scene

    graph = load_scene(source)
    time = settings["time"]
    users: dict[Any, list[str]] = {}
    for path in graph:
        if (field := graph[path].field) is not None:
            users.setdefault(field, []).append(path)
    objects = [
        {
            **_field_row(field, source / "fields" / f"{field_hash(field)}.safetensors"),
            "objects": len(paths),
            "used by": paths[0] + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""),
        }
        for field, paths in users.items()
    ]
    shared = overlaps(graph, time, settings["min_depth"])
    counts = _counts(graph)
    first, last = graph.span
    lines = [f"{source.name}: " + ", ".join(f"{n} {word}" for word, n in counts.items())]
    lines.append(f"moves from {first:g} s to {last:g} s" if last > first else "does not move")
    if (bounds := graph.at(time).bounds) is not None:
        lines.append("boxes with margins span " + " x ".join(f"{x:.3g}" for x in bounds.size.tolist()) + " m")
    lines += ["", *_tree(graph, settings["lines"]), ""]
    for pair in shared[:10]:
        lines.append(f"overlap: {pair.first} and {pair.second}, {1000 * pair.depth:.1f} mm deep")
    if len(shared) > 10:
        lines.append(f"overlap: {len(shared) - 10} more pairs")
    if not shared:
        lines.append(f"nothing overlaps more than {1000 * settings['min_depth']:g} mm")
    lines += [f"note: {note}" for note in size_notes(graph, time)]
    undo, redo = graph.history
    for word, edits in (("undo", undo), ("redo", redo)):
        if edits:
            newest = edits[-5:][::-1]
            lines.append(f"can {word} ({len(edits)}): " + "; ".join(newest) + (" ..." if len(edits) > 5 else ""))
    lines.append("")
    if sheet is not None:
        from scenes.pictures import save_sheet

        with folder_for(sheet):
            save_sheet(graph, users, sheet, time)
    if drawing is not None:
        from scenes.graph_picture import save_graph

        with folder_for(drawing):
            save_graph(graph, drawing)
    details = {
        "counts": counts,
        "tree": list(graph),
        "overlaps": [pair._asdict() for pair in shared],
        "log": graph.log,
        "can_undo": undo,
    }
    shown = objects[: settings["lines"]]
    more = f"{len(objects) - len(shown)} more fields" if len(objects) > len(shown) else ""
    return Report(shown, more, "\n".join(lines), details)


def _field_info(settings: Settings) -> Report:
    source = input_file("scene", settings["scene"])
    if drawn := [key for key in ("sheet", "graph") if settings[key]]:
        raise ValueError(f"{drawn[0]}: expected a scene to draw, got the field {settings['scene']!r}")

    preload("objects.files")
    from objects.files import load_field
    from scenes.node import quoted

    field = load_field(source)
    lines = [
        f"{source.name}: a field ({field.kind})",
        f"box with margin from {_place(field.bounds.lo)} to {_place(field.bounds.hi)}",
    ]
    if field.deforms and field.span is not None:
        lines.append("bends from {:g} s to {:g} s".format(*field.span))
    if field.channels:
        lines.append("channels: " + ", ".join(f"{name} ({width})" for name, width in field.channels.items()))
    lines += [f"measured {name}: {value:g}" for name, value in field.measured.items()]
    next_step = "In a scene: " + command("edit", scene="NAME.scene", do=f"add thing field {quoted(str(source))}")
    return Report([_field_row(field, source)], next_step, "\n".join([*lines, ""]), {"measured": dict(field.measured)})


# -- parts -------------------------------------------------------------------------------------------------------------


def scene_target(out: str | None, inputs: list[Path]) -> Path:
    """The folder of the scene that a verb writes, checked."""
    if not out:
        raise ValueError("out: expected out=NAME.scene")
    path = user_path(out.rstrip("/"))
    if path.suffix != ".scene":
        raise ValueError(f"out: expected a name that ends in .scene, got {out!r}")
    if any(path.exists() and path.samefile(other) for other in inputs):
        raise ValueError(f"out: {out!r} is also the input")
    if not path.is_dir():
        output_file("out", str(path))
    if path.parent.is_dir():  # else it is made
        preload("scenes.io.scene_folder")
        from scenes.io.scene_folder import check_target

        check_target(path)
    return path


def _drawing(key: str, value: str | None, suffix: str, source: Path) -> Path | None:
    """The picture of a scene that a key asks for, if it does."""
    if not value:
        return None
    file = output_file(key, value)
    if file.suffix.lower() != suffix:
        raise ValueError(f"{key}: expected a name that ends in {suffix}, got {value!r}")
    if file.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{key}: expected a place outside the scene {str(source)!r}, got {value!r}")
    return file


def _field_row(field: Field, file: Path) -> dict[str, Any]:
    return {
        "field": field.kind,
        "parameters": sum(p.numel() for p in field.parameters()),
        "bytes": file.stat().st_size,
        "box with margin": field.bounds.size.tolist(),
        **error_columns(field),
    }


def _place(p: Tensor) -> str:
    return "(" + ", ".join(f"{x:.4g}" for x in p.tolist()) + ")"


def _counts(graph: SceneGraph) -> dict[str, int]:
    nodes = [graph[path] for path in graph]
    return {
        "nodes": len(nodes),
        "objects": sum(n.field is not None for n in nodes),
        "fields": len(graph.fields),
        "lights": sum(n.light is not None for n in nodes),
        "cameras": sum(n.camera is not None for n in nodes),
    }


def _bending(node: NodeView) -> list[str]:
    """How it bends over time, if it does."""
    if node.field is None or not node.field.deforms:
        return []
    clock, span = node.clock, node.field.span
    when = "" if span is None else f" {span[0]:g} to {span[1]:g} s"
    changed = [f"offset {clock.offset:g} s"] * (clock.offset != 0) + [f"speed {clock.speed:g}"] * (clock.speed != 1)
    known = node.field.measured
    told = [f"off {known['worst_distance_pct']:.2g} % at worst, at {known['worst_at_s']:g} s"] * ("worst_at_s" in known)
    told += [f"folds {known['folded_pct']:.2g} %"] * (known.get("folded_pct", 0) > 0)
    return [" ".join([f"bends{when}", *changed, *["loops"] * clock.loop]), *told]


def _tree(graph: SceneGraph, most: int) -> list[str]:
    lines = []
    for path in graph:
        if len(lines) == most:
            lines.append(f"... {len(graph) - most:,} more nodes")
            break
        node = graph[path]
        marks = (
            [node.what()]
            + ["moves"] * node.moves
            + _bending(node)
            + [told(node.spans)] * bool(node.spans)
            + ["hidden"] * node.hidden
            + [f"#{tag}" for tag in node.tags]
        )
        lines.append("  " * path.count("/") + f"{node.name}  ({', '.join(marks)})")
    return lines
