"""Cameras of plain photos, found by structure from motion (pycolmap, an optional extra)."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from objects.pose import SE3
from rendering.camera import Camera
from rendering.views.layers import loaded, opened
from rendering.views.lens import Lens
from rendering.views.pictures import picture_size
from rendering.views.types import ViewError, axes_meeting

# SIFT finds nothing better in larger pictures, and takes longer.
_LONGEST_SIDE = 1600


@dataclass(frozen=True)
class FoundCameras:
    """What structure from motion tells.

    Args:
        cameras: Camera and lens by file name; photos that don't fit in are left out.
        landmarks: Points that several photos see, world frame.
    """

    cameras: dict[str, tuple[Camera, Lens]]
    landmarks: Float[Tensor, "m 3"]


def find_cameras(folder: Path, names: Sequence[str], *, seed: int = 0) -> FoundCameras:
    """Finds the cameras of photos: SIFT features, all pairs matched, incremental mapping; the same photos give the same bits.

    Photos tell neither scale nor direction, so the world is chosen: up (z) is the mean up of the cameras; the origin is where
    the optical axes meet in front of the cameras, else the median landmark; the median distance of the cameras from it is 1;
    the first camera looks towards +y. Photos are looked at upright, as their EXIF orientation says. All photos of one size are
    taken to come from one camera; its focal length and one radial coefficient are found too. Work happens in a temporary folder.

    Args:
        folder: Where the photos lie.
        names: Their file names.
        seed: Of the random choices.

    Raises:
        ViewError: pycolmap is not installed, fewer than 3 photos, or photos that don't overlap enough.
    """
    if len(names) < 3:
        raise ViewError(
            f"{folder}: finding cameras needs at least 3 photos, got {len(names)}; or give a transforms.json"
        )
    pycolmap = _pycolmap(folder)
    with tempfile.TemporaryDirectory(prefix="sirenscape-photos-") as work, _quiet(pycolmap):
        model = _map(pycolmap, folder, list(names), Path(work), seed)
    if model is None or model.num_reg_images() < 3:
        found = 0 if model is None else model.num_reg_images()
        raise ViewError(
            f"{folder}: the cameras of {found} of {len(names)} photos could be found, at least 3 are needed: take more "
            "photos, each overlapping the next by two thirds, of things with texture, and move between them"
        )
    poses, lenses = {}, {}
    for image in model.images.values():
        if image.has_pose:
            T_cam_world = np.eye(4)
            T_cam_world[:3] = image.cam_from_world().matrix()
            poses[image.name] = np.linalg.inv(T_cam_world)
            lenses[image.name] = model.cameras[image.camera_id]
    cameras = {name: _camera(poses[name], lenses[name]) for name in sorted(poses)}
    landmarks = np.array([model.points3D[i].xyz for i in sorted(model.points3D)]).reshape(-1, 3)
    return _normalised(cameras, landmarks)


def _pycolmap(folder: Path) -> Any:
    try:
        return importlib.import_module("pycolmap")
    except ImportError:
        raise ViewError(
            f"{folder}: holds photos without cameras, and finding cameras needs pycolmap, which is not installed: "
            "pip install 'sirenscape[photos]'"
        ) from None


@contextmanager
def _quiet(pycolmap: Any):
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.FATAL)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def _map(pycolmap: Any, folder: Path, names: list[str], work: Path, seed: int) -> Any:
    """The largest model, or None."""
    folder = upright_folder(folder, names, work / "upright")
    sizes = set()
    for name in names:
        with Image.open(folder / name) as image:
            sizes.add(image.size)
    pycolmap.set_random_seed(seed)
    database = work / "database.db"
    reading = pycolmap.FeatureExtractionOptions()
    reading.max_image_size = _LONGEST_SIDE
    # One thread throughout: with more, even the numbers of the photos depend on which is done first.
    reading.num_threads = 1
    mode = pycolmap.CameraMode.SINGLE if len(sizes) == 1 else pycolmap.CameraMode.PER_IMAGE
    pycolmap.extract_features(database, folder, image_names=names, camera_mode=mode, extraction_options=reading)
    matching, verification = pycolmap.FeatureMatchingOptions(), pycolmap.TwoViewGeometryOptions()
    matching.num_threads = 1
    verification.ransac.random_seed = seed
    verification.ransac.num_threads = 1
    pycolmap.match_exhaustive(database, matching_options=matching, verification_options=verification)
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = 1
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = seed
    options.mapper.num_threads = 1
    options.min_model_size = 3
    options.extract_colors = False
    models = pycolmap.incremental_mapping(database, folder, work, options=options)
    return max(models.values(), key=lambda model: model.num_reg_images(), default=None)


def upright_folder(folder: Path, names: list[str], work: Path) -> Path:
    """A folder with the photos turned by their EXIF orientation, which pycolmap doesn't look at; the one given where all are."""
    turned = [name for name in names if picture_size(folder / name)[1] != 1]
    if not turned:
        return folder
    work.mkdir()
    for name in set(names).difference(turned):
        (work / name).symlink_to((folder / name).resolve())
    for name in turned:
        with opened(folder / name) as image:
            # What EXIF says of the focal length stays; turning drops the orientation.
            picture = loaded(image, folder / name, upright=True)
            picture.save(work / name, format=image.format, exif=picture.getexif(), quality=98)
    return work


def _camera(T_world_cam: np.ndarray, lens: Any) -> tuple[Camera, Lens]:
    focal, cx, cy, k1 = lens.params  # SIMPLE_RADIAL; the centre of the first pixel is (0.5, 0.5) there too
    pose = SE3.from_matrix(torch.from_numpy(T_world_cam))
    return Camera(pose, focal, focal, cx, cy, lens.width, lens.height), Lens(k1=k1)


def _normalised(cameras: dict[str, tuple[Camera, Lens]], landmarks: np.ndarray) -> FoundCameras:
    """Turns, moves and scales the world as `find_cameras` says."""
    plain = [camera for camera, _ in cameras.values()]
    rotations = np.stack([camera.T_world_cam.rotation().numpy() for camera in plain])
    positions = np.stack([camera.position_world.numpy() for camera in plain])
    up = -rotations[:, :, 1].mean(0)
    up = up / np.linalg.norm(up)
    level = rotations[0, :, 2] - up * (up @ rotations[0, :, 2])
    if np.linalg.norm(level) < 1e-6:  # it looks straight down or up: let the top of its picture lie towards +y
        level = -rotations[0, :, 1] - up * (up @ -rotations[0, :, 1])
    north = level / np.linalg.norm(level)
    R = np.stack([np.cross(north, up), north, up])
    meeting = axes_meeting(plain)
    inward = meeting is not None and float(np.mean(meeting.ahead > 0)) >= 0.9
    center = meeting.p_world if meeting is not None and inward else np.median(landmarks, axis=0)
    scale = 1 / float(np.median(np.linalg.norm(positions - center, axis=1)))

    moved = {}
    for i, (name, (camera, lens)) in enumerate(cameras.items()):
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = R @ rotations[i], scale * (R @ (positions[i] - center))
        pose = SE3.from_matrix(torch.from_numpy(matrix))
        moved[name] = (Camera(pose, camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height), lens)
    return FoundCameras(moved, torch.from_numpy(scale * (landmarks - center) @ R.T))
