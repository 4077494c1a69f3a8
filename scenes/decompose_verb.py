"""What ``sirenscape decompose`` does.

Libraries are loaded when it runs, so that help and mistakes are quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scenes.paths import Report, Settings, command, folder_for, one_of, output_file, picture_folder, preload
from scenes.verbs import replaced_notes, scene_target

if TYPE_CHECKING:
    from scenes.video import Clip, Decomposition

STAGES = ("motion", "scene")


def decompose(settings: Settings) -> Report:
    """Make a scene of an RGB-D clip: a field for each thing that moves and for the background, with tracks over time.

    Nothing but the clip is needed: no masks, boxes or names. Cameras that aren't given are found. OUT/decomposition/ gets masks/
    (8-bit ids, 0 = background), objects.json (poses, confidence, who carries whom), cameras.json, report.html and a film of input,
    ids, rendering and error side by side. A killed run goes on after the last stage that was done. until=motion stops before
    shapes and colours, which take most of the time.
    """
    if not settings["video"]:
        raise ValueError("video: expected video=FOLDER")
    source = picture_folder("video", settings["video"])
    one_of("until", settings["until"], STAGES)
    if not 0 <= settings["seed"] < 2**63:
        raise ValueError(f"seed: expected 0 or more, got {settings['seed']}")
    scene = scene_target(settings["out"], [])
    target = scene / "decomposition"
    if target.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"out: expected a place outside the clip {settings['video']!r}, got {settings['out']!r}")
    output_file("out", str(target / "objects.json"))

    preload("scenes.video.decomposition")
    from scenes.video.clip import load_clip
    from scenes.video.learning import find_motion, refined_motion

    clip = load_clip(source)
    found = find_motion(clip)
    if settings["until"] == "scene":
        found = refined_motion(clip, found)
    with folder_for(target / "objects.json"):
        found.save(target)
    notes, details, next_step, where = list(found.notes), {}, "", target
    if settings["until"] == "scene":
        notes, details = _scene(clip, found, settings, scene, source.name)
        edit = {"do": f"remove {found.objects[0].name}"} if found.objects else {}
        done = (
            "to take a thing out: " + command("edit", scene=scene, **edit, out="less.scene")
            if edit
            else "to see it: " + command("render", scene=scene, out="clip.mp4")
        )
        next_step, where = f"Next, {done}", scene
    rows = [
        {
            "object": thing.name,
            "id": thing.id,
            "rigid": thing.rigid,
            "frames": sum(pose is not None for pose in thing.poses),
            "pixels": int((found.ids == thing.id).sum() / max((found.ids == thing.id).any((1, 2)).sum(), 1)),
            "confidence": float(
                np.mean([c for c, p in zip(thing.confidence, thing.poses, strict=True) if p is not None] or [0])
            ),
        }
        for thing in found.objects
    ]
    lines = [f"note: {note}" for note in notes]
    lines += [f"object_{c.parent} carries object_{c.child} in frames {c.first} to {c.last}" for c in found.carryings]
    lines += [f"{key.removesuffix('_db')}: {value:.1f} dB" for key, value in details.items()]
    lines.append(f"{len(clip)} frames: {len(rows)} moving objects, written to {where}")
    return Report(rows, next_step, "\n".join(lines), {"frames": len(clip), "notes": notes, **details})


def _scene(
    clip: Clip, found: Decomposition, settings: Settings, target: Path, name: str
) -> tuple[list[str], dict[str, Any]]:
    """Learns the scene and writes it with its report; notes and figures."""
    from objects import FitError
    from scenes.io.scene_folder import save_scene
    from scenes.video.learning import learn_clip
    from scenes.video.report import figures_of, rendered, write_report

    said = replaced_notes(target)
    try:
        learned = learn_clip(clip, found=found, seed=settings["seed"])
    except FitError as error:
        raise ValueError(f"video: {error}") from error
    learned.graph.log.append(f"decompose from {name}")
    save_scene(learned.graph, target)
    made = rendered(clip, learned)
    figures = figures_of(clip, learned, made)
    write_report(clip, learned, made, figures, target / "decomposition")
    return [*learned.notes, *said], figures
