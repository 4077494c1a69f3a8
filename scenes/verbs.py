"""What ``sirenscape fit``, ``build``, ``edit``, ``render`` and ``info`` do.

Libraries are loaded when a verb runs, so that help and mistakes are quick.
"""

from __future__ import annotations

import shlex
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scenes.paths import (
    DATASETS,
    Report,
    Settings,
    dataset_folder,
    defaults_of,
    folder_for,
    input_file,
    layer_names,
    numbers,
    one_of,
    output_file,
    path_of,
    picture_files,
    preload,
    scene_folder,
)

if TYPE_CHECKING:
    from rendering import Camera, LearnedViews
    from scenes.graph import SceneGraph


# -- learning ----------------------------------------------------------------------------------------------------------

_NETWORKS = ("width", "layers", "color_width", "color_layers", "omega_first", "omega_hidden", "color_omega_first")
_SOLID = ("facing", "thickness", "origin")
_FOR_IMAGES = ("image_steps", "image_width", "refine", "every", "depth", "masks", "intrinsics", "depth_unit")
# The kinds of input of `fit` that a key says something for; all, where it isn't listed.
_ONLY_FOR: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("init", "steps", "warm_steps"), ("mesh",)),
    **dict.fromkeys(("point_steps",), ("points",)),
    **dict.fromkeys((*_NETWORKS, *_SOLID), ("mesh", "points")),
    **dict.fromkeys(_FOR_IMAGES, ("images",)),
}


def fit(settings: Settings) -> Report:
    """Learn objects from meshes, point clouds or posed pictures; each becomes a field file.

    A mesh learned before with the same settings comes from the cache; a stopped run goes on where it was. Pictures: a folder
    with a nerfstudio transforms.json, a TUM RGB-D folder, or plain photos. With instance masks each object becomes a file.
    """
    meshes, clouds = settings["mesh"], settings["points"]
    if bool(meshes) + bool(clouds) + bool(settings["images"]) != 1:
        got = ", ".join(key for key in ("mesh", "points", "images") if settings[key]) or "none of them"
        raise ValueError(f"mesh: expected one of mesh=FILE, points=FILE and images=FOLDER, got {got}")
    for key, value in settings.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not (0 <= value < 2**63 if key == "seed" else value > 0):
            raise ValueError(f"{key}: expected {'0 or more' if key == 'seed' else 'a number above 0'}, got {value}")
    kind = "mesh" if meshes else "points" if clouds else "images"
    for key, value in defaults_of("fit").items():
        owners = _ONLY_FOR.get(key, (kind,))
        if kind not in owners and settings[key] != value:
            other = {"steps": "image_steps", "width": "image_width"} if kind == "images" else {}
            hint = f"; did you mean {other[key]!r}?" if key in other else ""
            raise ValueError(f"{key}: it is for {' and '.join(f'{o}=' for o in owners)}, not for {kind}={hint}")
    if settings["images"]:
        return _fit_images(settings)
    sources = [input_file("mesh" if meshes else "points", value) for value in meshes or clouds]
    init = [input_file("init", settings["init"])] if settings["init"] is not None else []
    targets = _targets(sources, settings["out"], [*sources, *init])

    preload("objects.fitting")
    from objects import FitConfig, FitError, PointsConfig, SirenField, fit_meshes, fit_points, load_field, save_field
    from scenes.io.point_files import read_points

    seed = settings["seed"]
    networks = {key: settings[key] for key in _NETWORKS} | _solid(settings)
    try:
        if meshes:
            start = load_field(init[0]) if init else None
            if start is not None and not isinstance(start, SirenField):
                raise ValueError(f"init: expected a SIREN field, {settings['init']!r} is a {start.kind}")
            config = FitConfig(steps=settings["steps"], warm_steps=settings["warm_steps"], **networks)
            learned = fit_meshes(sources, seed=seed, init=[start] * len(sources), config=config)
        else:
            config = PointsConfig(steps=settings["point_steps"], **networks)
            learned = [fit_points(*read_points(source), seed=seed, config=config) for source in sources]
    except FitError as error:
        raise ValueError(f"{'mesh' if meshes else 'points'}: {error}") from error

    rows = []
    for source, target, field in zip(sources, targets, learned, strict=True):
        with folder_for(target):
            save_field(field, target)
        rows.append(
            {
                "object": source.stem,
                "parameters": sum(p.numel() for p in field.parameters()),
                "bytes": target.stat().st_size,
                "box": field.bounds.size.tolist(),
                "file": str(target),
            }
        )
    load = f"load_field({str(targets[0])!r}).to_mesh().export({sources[0].stem + '.ply'!r})"
    return Report(
        rows, "Next, to see what was learned: python -c " + shlex.quote(f"from objects import load_field; {load}")
    )


def _solid(settings: Settings) -> dict[str, Any]:
    """How meshes and points are understood, as their configurations take it."""
    origin = tuple(numbers("origin", settings["origin"], 3)) if settings["origin"] is not None else (0.0, 0.0, 0.0)
    return {"facing": settings["facing"], "thickness": settings["thickness"], "origin": origin}


def _fit_images(settings: Settings) -> Report:
    out = settings["out"]
    if not out:
        raise ValueError("out: expected out=FILE.safetensors, or a folder for pictures with instance masks")

    from objects import save_field
    from scenes.io.from_images import learn_images, read_images

    views = read_images(settings)
    path = path_of(out)
    single = path.suffix == ".safetensors" and not path.is_dir()
    if single and any(view.ids is not None for view in views):
        raise ValueError(f"out: these pictures have instance masks; expected a folder for several objects, got {out!r}")
    if not single and not (path.is_dir() or out.endswith("/")):
        raise ValueError(f"out: expected a name that ends in .safetensors, or a folder that ends in /, got {out!r}")
    if not single and (path / "scene.json").is_file():
        raise ValueError(f"out: expected a folder for fields, got the scene {out!r}")
    preview = _preview(path) if single else output_file("out", str(path / "preview.png"))
    with folder_for(preview):
        learned = learn_images(views, settings, preview)
    rows = []
    for instance in learned.instances:
        target = path if single else path / f"{instance.name}.safetensors"
        with folder_for(target):
            save_field(instance.field, target)
        place = "(" + ", ".join(f"{x:.3f}" for x in instance.T_world_obj.translation.tolist()) + ")"
        rows.append(
            {"object": instance.name, "box": instance.field.bounds.size.tolist(), "at": place, "file": str(target)}
        )
    usual = defaults_of("fit")
    same = {key: settings[key] for key in ("seed", *_FOR_IMAGES) if settings[key] != usual[key]}
    command = _command("build", images=settings["images"], **same, out="NAME.scene")
    return Report(
        rows,
        f"Next, for a scene with all of them in their places (nothing is learned again): {command}",
        _quality(learned, preview),
        {"psnr_db": learned.psnr_db},
    )


def _preview(beside: Path) -> Path:
    """Where a picture goes that shows how far learning is."""
    return output_file("out", str(beside.with_name(f"{beside.stem}-preview.png")))


def _quality(learned: LearnedViews, preview: Path) -> str:
    seen = f"preview: {preview}\n" if preview.is_file() else ""
    return f"{seen}the pictures are explained to {learned.psnr_db:.1f} dB (PSNR of what was learned from)"


def _targets(sources: list[Path], out: str | None, inputs: list[Path]) -> list[Path]:
    """Where each field goes: ``out`` itself, or a file in the folder ``out``."""
    if not out:
        raise ValueError("out: expected out=FILE.safetensors" + (" or a folder" if len(sources) > 1 else ""))
    path = path_of(out)
    if path.suffix == ".safetensors" and not path.is_dir():
        if len(sources) > 1:
            raise ValueError(f"out: expected a folder for {len(sources)} objects, got the file name {out!r}")
        targets = [path]
    elif len(sources) > 1 or path.is_dir() or out.endswith("/"):
        targets = [path / f"{source.stem}.safetensors" for source in sources]
    else:
        raise ValueError(f"out: expected a name that ends in .safetensors, or a folder that ends in /, got {out!r}")
    for i, target in enumerate(targets):
        if target in targets[:i]:
            raise ValueError(f"out: two objects would both be written to {str(target)!r}; give their files other names")
    return [output_file("out", str(target), inputs) for target in targets]


# -- scenes ------------------------------------------------------------------------------------------------------------


def build(settings: Settings) -> Report:
    """Build a scene from a description (YAML), a glTF file or posed pictures; what isn't learned yet is learned on the way.

    Pictures (images=FOLDER): an object for each instance mask and a background, or one object; a stopped run goes on. The
    description's keys are listed in the README. glTF: hierarchy, names, meshes, cameras, lights, animation of rigid nodes; y up
    becomes z up.
    """
    if settings["images"]:
        return _build_images(settings)
    source = scene_folder("scene", settings["scene"], or_file=True)
    target = _scene_target(settings["out"], [source])
    if settings["seed"] < 0:
        raise ValueError(f"seed: expected 0 or more, got {settings['seed']}")
    kind = source.suffix.lower()
    if not source.is_dir() and kind not in (".yaml", ".yml", ".glb", ".gltf"):
        raise ValueError(f"scene: expected a file that ends in .yaml, .glb or .gltf, got {source.name!r}")

    preload("scenes.io.scene_folder", "scenes.io.plan")
    from objects import FitConfig
    from scenes.io.plan import build as build_plans
    from scenes.io.scene_folder import load_scene, save_scene

    config = FitConfig(**_solid(settings))

    notes: list[str] = []
    replaced = _replaced(target)
    if source.is_dir():
        graph = load_scene(source)
    else:
        if kind in (".yaml", ".yml"):
            from scenes.io.description import read_description

            plans = read_description(source)
        else:
            from scenes.io.glb import read_glb

            plans, notes = read_glb(source)
        try:
            graph = build_plans(plans, seed=settings["seed"], config=config)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        graph.log.append(f"build from {source.name}")
    with folder_for(target):
        save_scene(graph, target)
    from scenes.checks import size_notes

    text = "\n".join(f"note: {note}" for note in [*notes, *replaced, *size_notes(graph, graph.span[0])])
    return Report(
        [_counts(graph) | {"file": str(target)}],
        f"Next: {_command('render', scene=target, out='scene.png')}",
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
    target = _scene_target(settings["out"], [])  # before, not after what takes long
    replaced = _replaced(target)
    preview = _preview(target)
    with folder_for(preview):
        learned = learn_images(views, settings, preview)
    graph = build_plans(plans_of(learned))
    graph.log.append(f"build from {path_of(settings['images']).name}")
    with folder_for(target):
        save_scene(graph, target)
    command = _command("render", scene=target, out="scene.png", layers="rgb,seen")
    rows = [_counts(graph) | {"file": str(target)}]
    text = "\n".join([_quality(learned, preview), *(f"note: {note}" for note in replaced)])
    return Report(rows, f"Next: {command}", text, {"psnr_db": learned.psnr_db})


def _warn_of_oddities(graph: SceneGraph, views: list[tuple[float, Camera]]) -> None:
    from scenes.checks import camera_notes, size_notes

    for note in [*camera_notes(graph, views), *size_notes(graph, views[0][0])]:
        warnings.warn(note, stacklevel=2)


def _replaced(target: Path) -> list[str]:
    """What to say of a scene that a build replaces."""
    there = (target / "scene.json").is_file()
    return [f"the scene that was {target} before is replaced, with its edits and their history"] * there


def edit(settings: Settings) -> Report:
    """Edit a scene by name: everything in do=..., or nothing if a part of it can't be done.

    VERBS
    """
    source = scene_folder("scene", settings["scene"])
    target = _scene_target(settings["out"], []) if settings["out"] else source
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
    only_edits = not any(line.startswith(("undo", "redo")) for line in done) and len(done) <= len(
        kept_history(graph)[0]
    )
    undo = f"; to take it back: {_command('edit', scene=target, do=f'undo {len(done)}')}" if only_edits else ""
    return Report(
        [_counts(graph) | {"file": str(target)}],
        f"Next: {_command('render', scene=target, out='scene.png')}{undo}",
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
    config = RenderConfig(settings["antialias"], settings["shadows"], behind, certify=settings["certify"])
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
                path_of(settings["out"]).suffix.lower() not in (".png", ".npy") or path_of(settings["out"]).is_dir()
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
    """Show what is in a scene: its tree, its objects, what overlaps; with sheet=FILE.png as pictures, too."""
    source = scene_folder("scene", settings["scene"])
    sheet = output_file("sheet", settings["sheet"]) if settings["sheet"] else None
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise ValueError(f"sheet: expected a name that ends in .png, got {settings['sheet']!r}")
    if sheet is not None and sheet.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"sheet: expected a place outside the scene {str(source)!r}, got {settings['sheet']!r}")
    if settings["min_depth"] < 0 or settings["lines"] < 1:
        raise ValueError("min_depth, lines: expected a depth of 0 or more and at least 1 line")

    preload("scenes.io.scene_folder")
    from objects.files import field_hash
    from scenes.checks import size_notes, without_background
    from scenes.io.scene_folder import load_scene

    graph = load_scene(source)
    time = settings["time"]
    users: dict[Any, list[str]] = {}
    for path in graph:
        if (field := graph[path].field) is not None:
            users.setdefault(field, []).append(path)
    objects = [
        {
            "field": field.kind,
            "objects": len(paths),
            "parameters": sum(p.numel() for p in field.parameters()),
            "bytes": (source / "fields" / f"{field_hash(field)}.safetensors").stat().st_size,
            "box with margin": field.bounds.size.tolist(),
            "used by": paths[0] + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""),
        }
        for field, paths in users.items()
    ]
    overlaps = without_background(graph, graph.overlaps(time, min_depth=settings["min_depth"]))
    counts = _counts(graph)
    first, last = graph.span
    lines = [f"{source.name}: " + ", ".join(f"{n} {word}" for word, n in counts.items())]
    lines.append(f"moves from {first:g} s to {last:g} s" if last > first else "does not move")
    if (bounds := graph.at(time).bounds) is not None:
        lines.append("boxes with margins span " + " x ".join(f"{x:.3g}" for x in bounds.size.tolist()) + " m")
    lines += ["", *_tree(graph, settings["lines"]), ""]
    for pair in overlaps[:10]:
        lines.append(f"overlap: {pair.first} and {pair.second}, {1000 * pair.depth:.1f} mm deep")
    if len(overlaps) > 10:
        lines.append(f"overlap: {len(overlaps) - 10} more pairs")
    if not overlaps:
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
    details = {
        "counts": counts,
        "tree": list(graph),
        "overlaps": [pair._asdict() for pair in overlaps],
        "log": graph.log,
        "can_undo": undo,
    }
    shown = objects[: settings["lines"]]
    more = f"{len(objects) - len(shown)} more fields" if len(objects) > len(shown) else ""
    return Report(shown, more, "\n".join(lines), details)


# -- parts -------------------------------------------------------------------------------------------------------------


def _command(verb: str, **keys: Any) -> str:
    return f"sirenscape {verb} " + " ".join(f"{key}={shlex.quote(str(value))}" for key, value in keys.items())


def _scene_target(out: str | None, inputs: list[Path]) -> Path:
    if not out:
        raise ValueError("out: expected out=NAME.scene")
    path = path_of(out.rstrip("/"))
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


def _counts(graph: SceneGraph) -> dict[str, int]:
    nodes = [graph[path] for path in graph]
    return {
        "nodes": len(nodes),
        "objects": sum(n.field is not None for n in nodes),
        "fields": len(graph.fields),
        "lights": sum(n.light is not None for n in nodes),
        "cameras": sum(n.camera is not None for n in nodes),
    }


def _tree(graph: SceneGraph, most: int) -> list[str]:
    lines = []
    for path in graph:
        if len(lines) == most:
            lines.append(f"... {len(graph) - most:,} more nodes")
            break
        node = graph[path]
        marks = [node.what()] + ["moves"] * node.moves + ["hidden"] * node.hidden + [f"#{tag}" for tag in node.tags]
        lines.append("  " * path.count("/") + f"{node.name}  ({', '.join(marks)})")
    return lines
