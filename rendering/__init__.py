"""Cameras, lights, pictures; fields learned from pictures."""

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
from rendering.learning import LearnedViews, ViewsConfig, fit_views
from rendering.lights import AmbientLight, DirectionalLight, Light, PointLight
from rendering.posing import PosesConfig, align_cameras, refine_poses
from rendering.render import Frame, RenderConfig, render
from rendering.view_files import load_views
from rendering.views import View, ViewError, Views
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
