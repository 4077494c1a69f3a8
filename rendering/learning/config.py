"""How objects are learned from posed pictures, and what comes out of it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

from compose.types import Instance
from objects.mesh_samples import DescentConfig
from objects.siren_layout import NetworkConfig
from rendering.camera import Camera
from rendering.learning.voxels import VoxelTraining


@dataclass(frozen=True)
class RoomConfig(DescentConfig):
    """How a place is learned from depth, in parts (see `rendering.learning.rooms`).

    Attributes:
        width ... normal_weight: The networks of each part, and a step (see `DescentConfig`).
        points: Of the surface, in a part at most; they stand closer where pictures are taken from nearer.
        steps, color_steps: Training steps of each part.
        surface_pool, pool: Samples of each part on the surface and off it.
        color_parts, color_pool: Most networks that share the colours of a part, and places from which they learn.
    """

    width: int = 58
    layers: int = 4
    color_width: int = 32
    color_omega_first: float = 35.0
    normal_weight: float = 0.1
    points: int = 12_000
    steps: int = 400
    color_steps: int = 200
    surface_pool: int = 16_384
    pool: int = 32_768
    color_parts: int = 6
    color_pool: int = 49_152

    def shortened(self, steps: int) -> RoomConfig:
        """With so many steps at most."""
        return dataclasses.replace(self, steps=min(self.steps, steps), color_steps=min(self.color_steps, steps))


@dataclass(frozen=True)
class ViewsConfig(NetworkConfig):
    """How objects are learned from pictures; lengths are shares of half of the longest edge of an object's box.

    Attributes:
        width ... color_omega_first: The networks (see `NetworkConfig`).
        steps, rays: Training steps, and rays in each.
        learning_rate, color_rate, matrix_rate: Peak rate, and as multiples of it the colour network's, and that of the square
            matrices of the distance network, which Muon learns.
        part_rate: The same for colour networks in parts, Muon for their square matrices.
        pose_rate: That of camera poses (radians, and shares of the scene's half) as a multiple of it, where they are refined.
        n_uniform, n_fine: Most boundaries of intervals on a ray: spread evenly, and where the lattices say that light is stopped.
        sharpness: Of opacity at first and at last; it grows geometrically over five sixths of the steps.
        lattice, refresh: Vertices along the longest edge, and steps after which lattices are made anew.
        voxels: How the voxel field is learned from which pictures without depth get first shapes.
        room: How places are learned whose pictures hold depth or give it (`stereo`); nothing else here counts for them.
        hull_steps, hull_points, hull_cells: Steps in which networks learn their first shapes, places in each, shared by all
            objects, and cells along the longest edge of a box, on which those shapes are carved.
        polish, polish_rate: Further steps, and their peak rate, in which colours alone learn on at the end, at traced surfaces.
        color_parts, part_width, part_omega_first: Most networks that share the colours of an object, each of this width and first
            frequency.
        part_pixels: That show an object, for each of these networks: with fewer they learn the noise of pictures.
        tint: Weight of the tint's square where colours are in parts.
        opacity, ids, depth, eikonal, overlap: Weights of the losses beside that of colour.
        n_eikonal: Places near surfaces, and as many all over the boxes, at which slopes are looked at in each step.
        depth_band: Beside a measured depth, the distance is asked to have the right sign this far from it.
    """

    width: int = 128
    color_width: int = 96
    color_omega_first: float = 90.0
    steps: int = 6000
    rays: int = 2048
    learning_rate: float = 1.5e-4
    color_rate: float = 3.0
    part_rate: float = 8.0
    matrix_rate: float = 1.0
    pose_rate: float = 5.0
    n_uniform: int = 4
    n_fine: int = 10
    sharpness: tuple[float, float] = (300.0, 600.0)
    lattice: int = 64
    refresh: int = 50
    voxels: VoxelTraining = dataclasses.field(default_factory=VoxelTraining)
    room: RoomConfig = dataclasses.field(default_factory=RoomConfig)
    hull_steps: int = 1500
    hull_points: int = 8192
    polish: int = 600
    polish_rate: float = 3.5e-3
    color_parts: int = 64
    part_width: int = 48
    part_omega_first: float = 35.0
    part_pixels: int = 16_384
    tint: float = 0.01
    hull_cells: int = 128
    opacity: float = 0.01
    ids: float = 0.01
    depth: float = 1.0
    depth_band: float = 0.02
    eikonal: float = 0.04
    n_eikonal: int = 512
    overlap: float = 0.1


class LearnedViews(NamedTuple):
    """What pictures taught.

    Args:
        instances: Objects and background parts, where they stand; not lit, as their colours hold the light of the pictures.
        background: sRGB where nothing is.
        sharpness: Of the opacity at the end (1 / metres), for `render_volume`.
        cameras: Those of the pictures, refined if that was asked for.
        psnr_db: Of the last rays that were learned from, rendered as volumes, or of places, traced; NaN where nobody looked.
        exposure: For each picture, what multiplies the colours of the place in it, sRGB; empty where it wasn't asked for.
        notes: What should be known of the result.
    """

    instances: tuple[Instance, ...]
    background: tuple[float, float, float]
    sharpness: float
    cameras: tuple[Camera, ...]
    psnr_db: float = math.nan
    exposure: tuple[tuple[float, float, float], ...] = ()
    notes: tuple[str, ...] = ()
