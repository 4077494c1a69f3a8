"""Cameras, lights, pictures; fields learned from pictures."""

from __future__ import annotations

import objects  # noqa: F401  (first: it says how many threads torch gets)  # isort: skip
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rendering.camera import Camera, save_transforms
from rendering.images import (
    contact_sheet,
    depth_picture,
    labelled,
    load_depth_png,
    load_png,
    normal_picture,
    owner_picture,
    save_depth_png,
    save_mp4,
    save_png,
)
from rendering.lights import AmbientLight, DirectionalLight, Light, PointLight
from rendering.render import Frame, RenderConfig, render

if TYPE_CHECKING:
    from rendering.learning.config import LearnedViews, ViewsConfig
    from rendering.learning.fit import fit_views
    from rendering.learning.posing import PosesConfig, align_cameras, refine_poses
    from rendering.views import View, ViewError, Views
    from rendering.views.files import load_views
    from rendering.volume import VolumeFrame, render_volume

__all__ = [
    "AmbientLight",
    "Camera",
    "DirectionalLight",
    "Frame",
    "LearnedViews",
    "Light",
    "PointLight",
    "PosesConfig",
    "RenderConfig",
    "View",
    "ViewError",
    "Views",
    "ViewsConfig",
    "VolumeFrame",
    "align_cameras",
    "contact_sheet",
    "depth_picture",
    "fit_views",
    "labelled",
    "load_depth_png",
    "load_png",
    "load_views",
    "normal_picture",
    "owner_picture",
    "refine_poses",
    "render",
    "render_volume",
    "save_depth_png",
    "save_mp4",
    "save_png",
    "save_transforms",
]

# Posed pictures bring in libraries that take long to load: they come with the first name that needs them.
_HOME = {
    **dict.fromkeys(("LearnedViews", "ViewsConfig"), "learning.config"),
    "fit_views": "learning.fit",
    **dict.fromkeys(("PosesConfig", "align_cameras", "refine_poses"), "learning.posing"),
    **dict.fromkeys(("View", "ViewError", "Views"), "views"),
    **dict.fromkeys(("VolumeFrame", "render_volume"), "volume"),
    "load_views": "views.files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rendering' has no attribute {name!r}")
    return getattr(import_module(f"rendering.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
