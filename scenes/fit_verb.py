"""What ``sirenscape fit`` does.

Libraries are loaded when it runs, so that help and mistakes are quick.
"""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from objects.siren_layout import NetworkConfig
from scenes.paths import (
    Report,
    Settings,
    command,
    defaults_of,
    error_columns,
    folder_for,
    input_file,
    numbers,
    output_file,
    picture_folder,
    preload,
    preview_file,
    quality,
    solid_settings,
    user_path,
    whole_number,
)

_NETWORKS = tuple(field.name for field in dataclasses.fields(NetworkConfig))
# Numbers that are what suits meshes of a quality, or points, where they aren't given.
_UNSET = ("steps", "warm_steps", "width", "layers")
_SOLID = ("facing", "thickness", "origin")
_FOR_IMAGES = ("image_steps", "image_width", "refine", "every", "depth", "masks", "intrinsics", "depth_unit")
# The kinds of input of `fit` that a key says something for; all, where it isn't listed.
_ONLY_FOR: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("init", "quality", "steps", "warm_steps"), ("mesh",)),
    **dict.fromkeys(("point_steps",), ("points",)),
    **dict.fromkeys(_NETWORKS, ("mesh", "points")),
    **dict.fromkeys(_SOLID, ("mesh", "points", "sequence")),
    **dict.fromkeys(("frames", "fps", "ids", "id"), ("sequence",)),
    **dict.fromkeys(_FOR_IMAGES, ("images",)),
}


def fit(settings: Settings) -> Report:
    """Learn objects from meshes, point clouds or posed pictures; each becomes a field file. A sequence of meshes or point clouds
    becomes a scene with one object that bends, and so does what ids= and id= name in an RGB-D clip.

    A mesh learned before with the same settings comes from the cache; a stopped run goes on where it was. Pictures: a folder
    with a nerfstudio transforms.json, a TUM RGB-D folder, or plain photos. With instance masks each object becomes a file.
    """
    meshes, clouds = settings["mesh"], settings["points"]
    if bool(meshes) + bool(clouds) + bool(settings["images"]) + bool(settings["sequence"]) != 1:
        got = ", ".join(key for key in ("mesh", "points", "images", "sequence") if settings[key]) or "none of them"
        raise ValueError(f"mesh: expected one of mesh=FILE, points=FILE, images=FOLDER and sequence=FOLDER, got {got}")
    given: dict[str, Any] = {key: whole_number(key, settings[key]) for key in _UNSET if settings[key] is not None}
    for key, value in (settings | given).items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not (0 <= value < 2**63 if key == "seed" else value > 0):
            raise ValueError(f"{key}: expected {'0 or more' if key == 'seed' else 'a number above 0'}, got {value}")
    kind = "mesh" if meshes else "points" if clouds else "images" if settings["images"] else "sequence"
    for key, value in defaults_of("fit").items():
        owners = _ONLY_FOR.get(key, (kind,))
        if kind not in owners and settings[key] != value:
            other = {"steps": "image_steps", "width": "image_width"} if kind == "images" else {}
            hint = f"; did you mean {other[key]!r}?" if key in other else ""
            raise ValueError(f"{key}: it is for {' and '.join(f'{o}=' for o in owners)}, not for {kind}={hint}")
    if settings["images"]:
        return _fit_images(settings)
    if settings["sequence"]:
        return _fit_masked(settings) if settings["ids"] else _fit_sequence(settings)
    sources = [input_file("mesh" if meshes else "points", value) for value in meshes or clouds]
    init = [input_file("init", settings["init"])] if settings["init"] is not None else []
    targets = _targets(sources, settings["out"], [*sources, *init])

    preload("objects.fitting")
    from objects import FitConfig, FitError, PointsConfig, SirenField, fit_meshes, fit_points, load_field, save_field
    from scenes.io.point_files import read_points

    seed = settings["seed"]
    networks = {key: settings[key] for key in _NETWORKS if key not in _UNSET} | solid_settings(settings)
    try:
        if meshes:
            start = load_field(init[0]) if init else None
            if start is not None and not isinstance(start, SirenField):
                raise ValueError(f"init: expected a SIREN field, {settings['init']!r} is a {start.kind}")
            config = FitConfig.of(settings["quality"], **networks, **given)
            learned = fit_meshes(sources, seed=seed, init=[start] * len(sources), config=config)
        else:
            config = PointsConfig(steps=settings["point_steps"], **networks, **given)
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
                **error_columns(field),
                "file": str(target),
            }
        )
    load = f"load_field({str(targets[0])!r}).to_mesh().export({sources[0].stem + '.ply'!r})"
    return Report(
        rows, "Next, to see what was learned: python -c " + shlex.quote(f"from objects import load_field; {load}")
    )


def _fit_sequence(settings: Settings) -> Report:
    from scenes.verbs import replaced_notes, scene_target

    target = scene_target(settings["out"], [])
    folder = user_path(settings["sequence"])
    if (folder / "transforms.json").is_file():
        raise ValueError(
            f"ids: {settings['sequence']!r} is a clip; expected ids=FOLDER with the pixels of the thing, and id="
        )
    frames = _frames(settings)
    fps = None if settings["fps"] is None else numbers("fps", settings["fps"], 1)[0]

    preload("objects.warp_learning", "scenes.io.scene_folder")
    from objects import FitConfig, FitError, PointsConfig, SequenceConfig, fit_sequence
    from objects.travel import travel
    from objects.warp_learning import residual
    from scenes.graph import SceneGraph
    from scenes.io.scene_folder import save_scene
    from scenes.io.sequence_files import read_sequence
    from scenes.track import Track

    sequence = read_sequence(folder, frames, fps=fps)
    solid = solid_settings(settings)
    config = SequenceConfig(mesh=FitConfig(**solid), cloud=PointsConfig(**solid))
    notes = replaced_notes(target)
    try:
        learned = fit_sequence(
            sequence.frames, sequence.times, period=sequence.period, seed=settings["seed"], config=config
        )
    except FitError as error:
        raise ValueError(f"sequence: {error}") from error
    graph = SceneGraph()
    moving = travel(learned)
    if moving is None:
        graph.add("object", learned)
    else:
        poses, end = moving.poses, "hold" if sequence.period is None else "loop"
        track = Track(moving.times, poses.quat_wxyz.numpy(), poses.translation.numpy(), end=end)
        graph.add("object", moving.field, track=track)
        notes.append("it travels: the node has a track, the warp bends it in a frame that goes along")
    if sequence.period is not None:
        graph.set_clock("object", loop=True)
    graph.log.append(f"fit from {folder.name}")
    with folder_for(target):
        save_scene(graph, target)
    size = float(learned.field.bounds.size.max())
    rows = [
        {"frame": i, "time": time, "off_pct": 100 * residual(learned, frame, time, config=config) / size}
        for i, frame, time in zip(frames or range(len(sequence.times)), sequence.frames, sequence.times, strict=True)
    ]
    notes.append("its index is made at the first render, a part for each short interval of time, and kept in the cache")
    span = "{:g} to {:g} s".format(*learned.warp.span) + (", a loop" if sequence.period else "")
    lines = [f"object: {span}; off_pct: of its size; space folded {learned.measured['folded_pct']:.2g} %"]
    text = "\n".join([*lines, *(f"note: {note}" for note in notes)])
    return Report(rows, f"Next: {command('render', scene=target, out='scene.png')}", text, {"file": str(target)})


def _frames(settings: Settings) -> list[int] | None:
    """The frames that are named; None for all."""
    if settings["frames"] is None:
        return None
    return [whole_number("frames", word) for word in settings["frames"].strip("[] ").replace(",", " ").split()]


def _fit_masked(settings: Settings) -> Report:
    from scenes.verbs import replaced_notes, scene_target

    target = scene_target(settings["out"], [])
    source, pictures = picture_folder("sequence", settings["sequence"]), picture_folder("ids", settings["ids"])
    number = whole_number("id", str(settings["id"]))
    usual = defaults_of("fit")
    for key in ("fps", *_SOLID):
        if settings[key] != usual[key]:
            raise ValueError(f"{key}: it is not for a clip with ids=")
    frames = _frames(settings)

    preload("scenes.video.masked", "scenes.io.scene_folder")
    from objects import FitError
    from scenes.io.scene_folder import save_scene
    from scenes.video.clip import load_clip
    from scenes.video.masked import learn_masked, read_ids, residuals

    clip = load_clip(source)
    mask = read_ids(pictures, clip) == number
    said = replaced_notes(target)
    try:
        learned = learn_masked(clip, mask, frames=frames, seed=settings["seed"])
    except FitError as error:
        raise ValueError(f"sequence: {error}") from error
    learned.graph.log.append(f"fit from {source.name}")
    with folder_for(target):
        save_scene(learned.graph, target)
    rows = [
        {"frame": t, "time": clip.times[t], "learned": bool(learned.learned[t]), "off_pct": 100 * off}
        for t, off in enumerate(residuals(clip, mask, learned).tolist())
    ]
    text = "\n".join(["off_pct: of the box", *(f"note: {note}" for note in [*learned.notes, *said])])
    notes = {"notes": list(learned.notes)}
    return Report(
        rows, f"Next: {command('render', scene=target, out='clip.mp4')}", text, {"file": str(target), **notes}
    )


def _fit_images(settings: Settings) -> Report:
    out = settings["out"]
    if not out:
        raise ValueError("out: expected out=FILE.safetensors, or a folder for pictures with instance masks")

    from objects import save_field
    from rendering.learning.rooms import is_room
    from scenes.io.from_images import learn_images, read_images

    views = read_images(settings)
    path = user_path(out)
    single = path.suffix == ".safetensors" and not path.is_dir()
    if single and any(view.ids is not None for view in views):
        raise ValueError(f"out: these pictures have instance masks; expected a folder for several objects, got {out!r}")
    if single and is_room(views):
        raise ValueError(f"out: these pictures show a place, which is learned in parts; expected a folder, got {out!r}")
    if not single and not (path.is_dir() or out.endswith("/")):
        raise ValueError(f"out: expected a name that ends in .safetensors, or a folder that ends in /, got {out!r}")
    if not single and (path / "scene.json").is_file():
        raise ValueError(f"out: expected a folder for fields, got the scene {out!r}")
    preview = preview_file(path) if single else output_file("out", str(path / "preview.png"))
    with folder_for(preview):
        learned = learn_images(views, settings, preview)
    if single and len(learned.instances) > 1:
        raise ValueError(
            f"out: these photos show a place, which was learned in parts; expected a folder (nothing is learned again), got {out!r}"
        )
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
    next_step = command("build", images=settings["images"], **same, out="NAME.scene")
    return Report(
        rows,
        f"Next, for a scene with all of them in their places (nothing is learned again): {next_step}",
        quality(learned, preview),
        {"psnr_db": learned.psnr_db},
    )


def _targets(sources: list[Path], out: str | None, inputs: list[Path]) -> list[Path]:
    """Where each field goes: ``out`` itself, or a file in the folder ``out``."""
    if not out:
        raise ValueError("out: expected out=FILE.safetensors" + (" or a folder" if len(sources) > 1 else ""))
    path = user_path(out)
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
