"""What the command line learns from a folder of posed pictures."""

from __future__ import annotations

from pathlib import Path

from objects.pose import SE3
from objects.training import FitError
from rendering import Camera, LearnedViews, Views, ViewsConfig, fit_views, load_views
from scenes.paths import Settings, path_of
from scenes.plan import Plan
from scenes.store import one_pose
from scenes.track import Track


def read_images(settings: Settings) -> Views:
    """The pictures of ``images=``.

    Raises:
        ValueError: A folder that is missing or holds no usable pictures.
    """
    folder = path_of(settings["images"])
    if not folder.is_dir():
        raise ValueError(f"images: expected a folder of pictures, there is no folder {settings['images']!r}")
    if settings["every"] < 1:
        raise ValueError(f"every: expected 1 or more, got {settings['every']}")
    return load_views(folder, every=settings["every"], depth=settings["depth"])


def learn_images(views: Views, settings: Settings, preview: Path) -> LearnedViews:
    """Learns them; ``preview`` shows how far it is.

    Raises:
        ValueError: Pictures from which nothing can be learned.
    """
    if settings["image_steps"] < 1:
        raise ValueError(f"image_steps: expected 1 or more, got {settings['image_steps']}")
    if not 8 <= settings["image_width"] <= 1024:
        raise ValueError(f"image_width: expected 8 to 1024, got {settings['image_width']}")
    steps, usual = settings["image_steps"], ViewsConfig()
    # A short look is short from its beginning.
    voxels = usual.voxels._replace(steps=min(usual.voxels.steps, steps + 10))
    hull_steps = min(usual.hull_steps, steps + 500)
    config = ViewsConfig(width=settings["image_width"], steps=steps, hull_steps=hull_steps, voxels=voxels)
    try:
        return fit_views(views, seed=settings["seed"], config=config, refine=settings["refine"], preview=preview)
    except FitError as error:
        raise ValueError(f"images: {error}") from error


def plans_of(learned: LearnedViews) -> list[Plan]:
    """A node for each object, and one for the first picture's camera."""
    plans = [
        Plan(instance.name, _still(instance.T_world_obj), shape=instance.field, lit=False)
        for instance in learned.instances
    ]
    first = learned.cameras[0]
    here = SE3.identity()
    lens = (first.fx, first.fy, first.cx, first.cy, first.width, first.height)
    return [*plans, Plan("camera", _still(first.T_world_cam), camera=Camera(here, *lens))]


def _still(pose: SE3) -> Track:
    return Track.constant(one_pose(pose, "pose"))
