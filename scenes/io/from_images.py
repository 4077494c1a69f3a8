"""What the command line learns from a folder of posed pictures."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from objects.pose import SE3
from objects.training import FitError
from rendering import Camera, LearnedViews, Views, ViewsConfig, fit_views, load_views
from scenes.checks import BACKGROUND
from scenes.io.plan import Plan
from scenes.node import one_pose
from scenes.paths import Settings, numbers, picture_folder
from scenes.track import Track


def read_images(settings: Settings) -> Views:
    """The pictures of ``images=``.

    Raises:
        ValueError: A folder that is missing or holds no usable pictures, a key that is out of its range.
    """
    folder = picture_folder("images", settings["images"])
    for key, least, most in (("every", 1, math.inf), ("image_steps", 1, math.inf), ("image_width", 8, 1024)):
        if not least <= settings[key] <= most:
            words = f"{least} or more" if most == math.inf else f"{least} to {most}"
            raise ValueError(f"{key}: expected {words}, got {settings[key]}")
    if settings["masks"] not in (None, "ignore", "empty"):
        raise ValueError(f"masks: expected ignore or empty, got {settings['masks']!r}")
    intrinsics = None if settings["intrinsics"] is None else numbers("intrinsics", settings["intrinsics"], 4)
    unit = None if settings["depth_unit"] is None else numbers("depth_unit", settings["depth_unit"], 1)[0]
    return load_views(
        folder,
        every=settings["every"],
        depth=settings["depth"],
        masks=settings["masks"],
        intrinsics=intrinsics,
        depth_unit=unit,
    )


def learn_images(views: Views, settings: Settings, preview: Path) -> LearnedViews:
    """Learns them; ``preview`` shows how far it is.

    Raises:
        ValueError: Pictures from which nothing can be learned.
    """
    steps, usual = settings["image_steps"], ViewsConfig()
    # A short look is short from its beginning.
    voxels = usual.voxels._replace(steps=min(usual.voxels.steps, steps + 10))
    hull_steps = min(usual.hull_steps, steps + 500)
    width, room = settings["image_width"], usual.room.shortened(steps)
    if width != usual.width:
        room = dataclasses.replace(room, width=width)
    config = ViewsConfig(width=width, steps=steps, hull_steps=hull_steps, voxels=voxels, room=room)
    try:
        return fit_views(views, seed=settings["seed"], config=config, refine=settings["refine"], preview=preview)
    except FitError as error:
        raise ValueError(f"images: {error}") from error


def plans_of(learned: LearnedViews) -> list[Plan]:
    """A node for each object, one for a background with its parts beneath it, and one for the first picture's camera."""
    parts = sum(instance.name.startswith(f"{BACKGROUND}_") for instance in learned.instances)
    plans = [Plan(BACKGROUND, tags=(BACKGROUND,))] if parts else []
    plans += [
        Plan(
            _path(instance.name),
            _still(instance.T_world_obj),
            shape=instance.field,
            lit=False,
            tags=_tags(instance.name),
        )
        for instance in learned.instances
    ]
    first = learned.cameras[0]
    here = SE3.identity()
    lens = (first.fx, first.fy, first.cx, first.cy, first.width, first.height)
    return [*plans, Plan("camera", _still(first.T_world_cam), camera=Camera(here, *lens))]


def _path(name: str) -> str:
    """Parts of a background stand beneath it."""
    head, _, part = name.partition("_")
    if head != BACKGROUND or not part:
        return name
    return f"{BACKGROUND}/part_{part}" if part.isdigit() else f"{BACKGROUND}/{part}"


def _tags(name: str) -> tuple[str, ...]:
    """What is left of the pictures beside the objects is a background, in one part or several."""
    return (BACKGROUND,) if name.split("_")[0] == BACKGROUND else ()


def _still(pose: SE3) -> Track:
    return Track.constant(one_pose(pose, "pose"))
