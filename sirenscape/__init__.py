"""Sirenscape: scenes made of separate objects, every object a SIREN implicit field with a rigid pose.

The public names of `objects`, `compose`, `rendering` and `scenes`, each loaded when it is asked for::

    import sirenscape as ss

    mug = ss.fit_mesh("mug.obj")
"""

from __future__ import annotations

import textwrap
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compose import *  # noqa: F403
    from objects import *  # noqa: F403
    from rendering import *  # noqa: F403
    from scenes import *  # noqa: F403
    from scenes.video import *  # noqa: F403

# What belongs together, and the package it comes from; the reference has a page for each.
TOPICS = {
    ("Poses and boxes", "objects"): "SE3 Aabb",
    ("Fields", "objects"): "Field FieldSample SirenField load_field save_field FieldFileError",
    ("Exact solids", "objects"): "Box Capsule Cylinder Sphere Torus Placed Union Intersection Difference",
    ("Fields that bend", "objects"): "Warp Warped Bend Twist",
    ("Learning from meshes and points", "objects"): "fit_mesh fit_meshes FitConfig MeshError fit_points PointsConfig",
    ("Learning from sequences", "objects"): "fit_sequence SequenceConfig PointFrame",
    ("Aligning things that bend", "objects"): "register Registration RegistrationConfig",
    ("The training loop", "objects"): "fit TrainConfig FitResult FitError",
    ("Instances at one time", "compose"): "Composite Instance Rays Hits SceneSample SurfaceSample",
    ("Cameras and lights", "rendering"): (
        "Camera save_transforms Light AmbientLight DirectionalLight PointLight"
    ),
    ("Rendering", "rendering"): "render RenderConfig Frame render_volume VolumeFrame",
    ("Pictures and films", "rendering"): (
        "load_png save_png load_depth_png save_depth_png save_mp4 depth_picture normal_picture owner_picture contact_sheet "
        "labelled"
    ),
    ("Posed pictures, and learning from them", "rendering"): (
        "load_views Views View ViewError fit_views ViewsConfig LearnedViews align_cameras refine_poses PosesConfig"
    ),
    ("From video to objects", "scenes.video"): (
        "load_clip Clip decompose Decomposition FoundObject Carrying decompose_scene learn_clip LearnedClip ClipConfig learn_masked"
    ),
    ("Scenes", "scenes"): "SceneGraph Track load_scene save_scene SceneFileError export_scene view",
}  # fmt: skip
_HOME = {name: package for (_, package), names in TOPICS.items() for name in names.split()}

__doc__ = f"{__doc__}" + "".join(
    f"\n{topic} (`{package}`):\n{textwrap.indent(textwrap.fill(names, 100), '    ')}\n"
    for (topic, package), names in TOPICS.items()
)

if not TYPE_CHECKING:  # type checkers know the names, and say which ones aren't there

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'sirenscape' has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:  # no __all__: with it, help() would print every class whole below the topics
    return sorted(_HOME)
