"""What ``sirenscape decompose`` does.

Libraries are loaded when it runs, so that help and mistakes are quick.
"""

from __future__ import annotations

import numpy as np

from scenes.paths import Report, Settings, folder_for, one_of, output_file, picture_folder, preload, user_path

STAGES = ("motion",)


def decompose(settings: Settings) -> Report:
    """Find what moves in an RGB-D clip: an id for each pixel, and where each object is in each frame.

    Nothing but the clip is needed: no masks, boxes or names. Cameras that aren't given are found. OUT/decomposition/ gets masks/
    (8-bit ids, 0 = background), objects.json (poses, confidence, who carries whom) and cameras.json.
    """
    if not settings["video"]:
        raise ValueError("video: expected video=FOLDER")
    source = picture_folder("video", settings["video"])
    one_of("until", settings["until"], STAGES)
    out = (settings["out"] or "").rstrip("/")
    if not out.endswith(".scene"):
        raise ValueError(f"out: expected out=NAME.scene, got {settings['out']!r}")
    target = user_path(out) / "decomposition"
    if target.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"out: expected a place outside the clip {settings['video']!r}, got {out!r}")
    output_file("out", str(target / "objects.json"))

    preload("scenes.video.decomposition")
    from scenes.video.clip import load_clip
    from scenes.video.decomposition import decompose as decompose_clip

    clip = load_clip(source)
    found = decompose_clip(clip)
    with folder_for(target / "objects.json"):
        found.save(target)
    rows = []
    for thing in found.objects:
        known = [pose is not None for pose in thing.poses]
        sure = thing.confidence[known]
        rows.append(
            {
                "object": thing.name,
                "id": thing.id,
                "rigid": thing.rigid,
                "frames": int(np.sum(known)),
                "pixels": int((found.ids == thing.id).sum() / max((found.ids == thing.id).any((1, 2)).sum(), 1)),
                "confidence": float(sure.mean()) if len(sure) else 0.0,
            }
        )
    lines = [f"note: {note}" for note in found.notes]
    lines += [f"object_{c.parent} carries object_{c.child} in frames {c.first} to {c.last}" for c in found.carryings]
    lines.append(f"{len(clip)} frames: {len(rows)} moving objects, written to {target}")
    return Report(rows, "", "\n".join(lines), {"frames": len(clip), "notes": list(found.notes)})
