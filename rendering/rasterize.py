"""Meshes drawn by pyrender (OpenGL): a quick preview, and a check of `render` that shares no code with it.

The only module that knows pyrender. It draws off screen through EGL, which needs no display; Debian's software renderer is
in ``libegl1 libegl-mesa0 libgl1-mesa-dri``.
"""

from __future__ import annotations

import importlib
import math
import os
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from objects.pose import SE3
from rendering.camera import Camera

_HALF_TURN_X = np.diag([1.0, -1.0, -1.0, 1.0])  # camera axes: OpenCV to OpenGL


@cache
def egl_available() -> str | None:
    """None where off-screen OpenGL works, else the reason why not."""
    try:
        _renderer(8, 8).delete()
    except Exception as error:  # noqa: BLE001 - PyOpenGL fails in a dozen ways where a library or a device is missing
        return f"no off-screen OpenGL by EGL ({type(error).__name__}: {error})".replace("\n", " ")
    return None


def rasterize_meshes(
    meshes: Sequence[Any],
    T_world_obj: Sequence[SE3],
    camera: Camera,
    *,
    scales: Sequence[float] | None = None,
    shaded: bool = False,
) -> tuple[Float[Tensor, "h w"], Int[Tensor, "h w"], Float[Tensor, "h w 3"]]:
    """Draw triangle meshes, both sides of each face.

    Args:
        meshes: `trimesh.Trimesh` objects, object frame, with vertex colours or texture.
        T_world_obj: A single pose for each.
        camera: Where from.
        scales: Uniform scale for each, 1 by default; ``p_world = T_world_obj @ (scale * p_obj)``.
        shaded: Lit from the camera; else colours as they are.

    Returns:
        ``depth`` (metres along the optical axis at pixel centres, inf where nothing is), ``owner`` (index of the mesh at
        the pixel centre, -1 for none) and ``rgb`` (sRGB in 0..1 on white, antialiased).

    Raises:
        ValueError: Lists of different lengths, or a mesh without faces.
        RuntimeError: Off-screen OpenGL does not work here; the text is the reason.
    """
    scales = [1.0] * len(meshes) if scales is None else scales
    if not len(meshes) == len(T_world_obj) == len(scales):
        raise ValueError(
            f"rasterize_meshes: meshes, T_world_obj and scales must have the same length, "
            f"got {len(meshes)}, {len(T_world_obj)} and {len(scales)}"
        )
    for i, mesh in enumerate(meshes):
        if len(mesh.faces) == 0:
            raise ValueError(f"rasterize_meshes: meshes[{i}] must have faces")
    if reason := egl_available():
        raise RuntimeError(f"rasterize_meshes: {reason}")
    shape = (camera.height, camera.width)
    matrices = [_matrix(pose, scale) for pose, scale in zip(T_world_obj, scales, strict=True)]
    near, far = _depth_range(meshes, matrices, camera)
    if far <= 0:
        return torch.full(shape, math.inf), torch.full(shape, -1), torch.ones(*shape, 3)

    pyrender = _pyrender()
    scene = pyrender.Scene(bg_color=[1.0, 1.0, 1.0, 1.0], ambient_light=[0.25] * 3)
    nodes = {}
    for i, (mesh, matrix) in enumerate(zip(meshes, matrices, strict=True)):
        node = scene.add(pyrender.Mesh.from_trimesh(mesh, smooth=False), pose=matrix)
        number = i + 1  # 0 is what the pass leaves where nothing is
        nodes[node] = (number >> 16 & 255, number >> 8 & 255, number & 255)
    T_world_gl = camera.T_world_cam.as_matrix().numpy() @ _HALF_TURN_X
    # pyrender counts image coordinates as we do: the corner of the first pixel is (0, 0).
    lens = pyrender.IntrinsicsCamera(camera.fx, camera.fy, camera.cx, camera.cy, znear=near, zfar=far)
    scene.add(lens, pose=T_world_gl)
    if shaded:
        scene.add(pyrender.DirectionalLight(color=np.ones(3), intensity=4.0), pose=T_world_gl)
    flags = pyrender.RenderFlags
    renderer = _renderer(camera.width, camera.height)
    try:
        # Depth of the colour pass comes from one of four samples that lie off the pixel centre; this pass has one.
        numbers, depth = renderer.render(scene, flags.SEG | flags.SKIP_CULL_FACES, nodes)
        look = flags.SKIP_CULL_FACES if shaded else flags.SKIP_CULL_FACES | flags.FLAT
        rgb, _ = renderer.render(scene, look)
    finally:
        renderer.delete()
    numbers = torch.from_numpy(numbers.astype(np.int64))
    owner = (numbers[..., 0] << 16 | numbers[..., 1] << 8 | numbers[..., 2]) - 1
    depth = torch.where(owner >= 0, torch.from_numpy(depth.copy()), math.inf)
    return depth, owner, torch.from_numpy(rgb.astype(np.float32) / 255)


def _matrix(pose: SE3, scale: float) -> np.ndarray:
    matrix = pose.to(torch.float64).as_matrix().detach().numpy().copy()
    matrix[:3, :3] *= float(scale)
    return matrix


def _depth_range(meshes: Sequence[Any], matrices: Sequence[np.ndarray], camera: Camera) -> tuple[float, float]:
    """Planes just before and behind all vertices in front of the camera: the 24 bits of depth are spent between them."""
    forward = camera.T_world_cam.rotation()[:, 2].numpy()
    eye = camera.position_world.numpy()
    near, far = math.inf, 0.0
    for mesh, matrix in zip(meshes, matrices, strict=True):
        depth = (mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3] - eye) @ forward
        near, far = min(near, float(depth.min())), max(far, float(depth.max()))
    return max(0.99 * near, 1e-4 * far), 1.01 * far


def _renderer(width: int, height: int) -> Any:
    return _pyrender().OffscreenRenderer(width, height)


def _pyrender() -> Any:
    os.environ.setdefault("PYOPENGL_PLATFORM", "egl")  # read once, when OpenGL is imported
    np.__dict__.setdefault("infty", np.inf)  # pyrender 0.1.45 still uses the name that numpy 2 removed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("pyrender")
