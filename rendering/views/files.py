"""Folders of posed pictures: nerfstudio ``transforms.json`` and its like, TUM RGB-D, and plain photos.

Whatever the folder holds, what comes out is the same (`Views`): OpenCV camera axes, z up, metres, no distortion.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from objects.progress import Bar
from rendering.views.checks import check_views
from rendering.views.layers import Unreadable, loaded, opened
from rendering.views.paths import PICTURES
from rendering.views.photos import find_cameras
from rendering.views.pictures import Notes, ReadOptions, Shot, read_shots
from rendering.views.transforms import transforms_of, transforms_shots
from rendering.views.tum import tum_shots
from rendering.views.types import ViewError, Views

Path_ = str | os.PathLike[str]

# What other programs keep cameras in, which isn't read.
_CAMERAS = {
    "cameras_sphere.npz": "IDR and NeuS",
    "cameras.npz": "IDR and NeuS",
    "meta_data.json": "SDFStudio",
    "poses_bounds.npy": "LLFF",
    "sparse": "COLMAP",
    "colmap": "COLMAP",
    "cameras.json": "Gaussian splatting",
    "cameras.xml": "Metashape",
    "bundle.out": "Bundler",
}
_MASKS = ("mask", "masks")
# Pictures, too, which aren't read.
_OTHERS = (
    ".heic",
    ".heif",
    ".avif",
    ".jxl",
    ".jp2",
    ".gif",
    ".exr",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".raf",
    ".orf",
    ".rw2",
)


def load_views(
    folder: Path_,
    *,
    split: str | None = None,
    depth: bool = True,
    masks: Literal["ignore", "empty"] | None = None,
    instances: str | None = None,
    every: int = 1,
    depth_unit: float | None = None,
    intrinsics: Sequence[float] | None = None,
    unposed: bool = False,
) -> Views:
    """Reads posed pictures, and checks that they make sense together (see `check_views`).

    What the folder holds decides how it is read:

    * ``transforms.json`` (nerfstudio, instant-ngp), or ``transforms_train.json`` and its like (NeRF synthetic). Intrinsics
      stand in the file or in each frame: ``fl_x``, ``fl_y``, ``cx``, ``cy``, ``w``, ``h``, or ``camera_angle_x``; what is left out
      follows from the picture. ``camera_model`` is PINHOLE, SIMPLE_PINHOLE, SIMPLE_RADIAL, RADIAL or OPENCV (the default), with
      ``k1 k2 k3 p1 p2``. Each frame: ``file_path``, ``transform_matrix`` (camera to world, OpenGL axes), and if wanted
      ``time``, ``depth_file_path`` (times ``depth_unit_scale_factor``, 0.001 if left out), ``mask_path``, ``instance_path``.
      `rendering.views.keys` lists all keys, and the names that other programs give them. ``applied_transform`` is kept, not undone.
    * ``rgb.txt`` and ``groundtruth.txt``, if wanted ``depth.txt`` (TUM RGB-D). Pictures, depth and poses are joined by the
      nearest time stamp within 20 ms; depth has 5,000 steps a metre. Time counts from the first picture.
    * Nothing but photos, in the folder or its ``images/``. Their cameras are found by pycolmap, see `find_cameras`.

    Which kinds of pictures, depth and masks can be read is listed in `rendering.views.pictures` and `rendering.views.layers`.
    Photos are turned by their EXIF orientation; pictures of a ``transforms.json`` where its ``w`` and ``h`` say so. Pictures are
    undistorted: bilinear; depth, ids and masks by the nearest pixel. Beyond the lens nothing is ``valid``. Nothing is written.

    Args:
        folder: The folder, or a ``transforms*.json`` itself.
        split: ``"train"``, ``"val"``, ``"test"``: ``transforms_<split>.json``, or the frames that ``<split>_filenames`` in
            ``transforms.json`` lists. By default ``transforms.json`` whole, else ``transforms_train.json``.
        depth: False leaves depth unread.
        masks: What 0 in a ``mask_path`` means. ``"ignore"``: nothing is to be learned from there (not ``valid``), as nerfstudio has
            it. ``"empty"``: nothing is there; the mask joins the picture's alpha. None: as nerfstudio has it, which is said.
        instances: A folder (relative to the data) with id pictures, named like the pictures but for the suffix; for sets
            whose frames have no ``instance_path``.
        every: Take every n-th frame only.
        depth_unit: Metres for each step of the depth files, instead of what the files say.
        intrinsics: For TUM folders without ``calibration.txt`` (a line ``fx fy cx cy [k1 k2 p1 p2 k3]``): these numbers in
            this order, as published, which is pixels counted from the centre of the first pixel.
        unposed: Frames of a ``transforms.json`` may lack their ``transform_matrix`` (`View.posed`).

    Warns:
        UserWarning: What files say and isn't taken, or is read under another name; frames, depth and ids that are missing or
            damaged and were left out; depth of 65535 and the like, which means missing.

    Raises:
        ViewError: A folder, file, number, matrix or picture that is not as it must be. The text names it and says what to do.
    """
    path = Path(folder)
    if every < 1:
        raise ViewError(f"load_views: every must be at least 1, got {every}")
    if masks not in (None, "ignore", "empty"):
        raise ViewError(f"load_views: masks must be 'ignore' or 'empty', got {masks!r}")
    if not path.exists():
        raise ViewError(f"{path}: there is no such folder")
    if path.is_file() and path.suffix.lower() != ".json":
        raise ViewError(f"{path}: expected a folder of pictures or a transforms.json, got another file")
    if depth_unit is not None and not (math.isfinite(depth_unit) and depth_unit > 0):
        raise ViewError(f"load_views: depth_unit must be finite and greater than 0, got {depth_unit}")
    options, notes = ReadOptions(depth, masks, instances, depth_unit, unposed), Notes()
    root = path.parent if path.is_file() else path
    transforms = path if path.is_file() else transforms_of(path, split)
    landmarks = applied = None
    if transforms is not None:
        shots, applied = transforms_shots(transforms, split, every, options, notes)
    elif (root / "rgb.txt").is_file():
        shots = tum_shots(root, every, intrinsics, options, notes)
    else:
        shots, landmarks = _photo_shots(root, every, notes)
    n_frames = len(shots) + len(notes.lost())
    progress = Bar(shots, desc="reading pictures", unit="picture")
    views = Views(read_shots(progress, options, root, notes), landmarks=landmarks, applied_transform=applied)
    for text in notes.all(n_frames):
        warnings.warn(f"{transforms or root}: {text}", stacklevel=2)
    check_views(views, str(path))
    return views


def _photo_shots(root: Path, every: int, notes: Notes) -> tuple[list[Shot], torch.Tensor]:
    known = {name: program for name, program in _CAMERAS.items() if (root / name).exists()}
    other = []
    for folder in (root, root / "images"):
        names = sorted(p.name for p in folder.glob("*") if p.suffix.lower() in PICTURES and p.is_file())[::every]
        other += sorted(p.name for p in folder.glob("*") if p.suffix.lower() in _OTHERS and p.is_file())
        if names:
            break
    else:
        hint = f"; {len(other)} pictures like {other[0]} aren't read: convert them to JPEG or PNG" if other else ""
        hint += "".join(
            f"; {name} ({program}) isn't read: convert it to a transforms.json" for name, program in known.items()
        )
        raise ViewError(
            f"{root}: there is no transforms.json, no TUM rgb.txt and no picture ({', '.join(PICTURES)}) here or in images/; "
            f"give the folder that holds one of them{hint}"
        )
    prefix = "" if folder == root else "images/"
    whole = []
    for name in names:  # damaged pictures are known before the long work starts
        try:
            with opened(folder / name) as image:
                loaded(image, folder / name, upright=False)
            whole.append(name)
        except Unreadable as error:
            notes.lose("whose picture or mask can't be read", prefix + name, str(error))
    found = find_cameras(folder, whole)
    for name, program in known.items():
        notes.texts.append(
            f"{name} ({program}) isn't read: the cameras were found anew; to keep them, write a transforms.json"
        )
    if other:
        notes.texts.append(
            f"left out {len(other)} pictures in formats that aren't read, first {other[0]}: convert them to JPEG"
        )
    for name in _MASKS:
        if (root / name).is_dir():
            notes.texts.append(f"the masks in {name}/ aren't read: name them in a transforms.json, as mask_path")
    for name in whole:
        if name not in found.cameras:
            notes.lose("whose camera could not be found (take more pictures that overlap them)", prefix + name)
    upright = [name for name in whole if name in found.cameras]
    return [Shot(prefix + name, folder / name, *found.cameras[name], upright=True) for name in upright], found.landmarks
