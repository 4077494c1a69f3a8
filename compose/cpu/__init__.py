"""The index and the networks on CPU cores, compiled by numba: all that a composite asks of a device.

A composite holds instances as arrays and asks these functions; another device is another folder with the same ones.

- `place` poses to rotations and world boxes; `build`, `refit` and `edit` the tree over them (top-level acceleration structure).
- `nearest`, `within` instances whose boxes are near points; `to_object` points in the frames of instances; `closest` true
  distances to surfaces.
- `trace`, `occluded` rays through the tree and the cells of each asset (bottom-level acceleration structure).
- `pack`, `sdf`, `surface` SIRENs evaluated at packed points; `serves` says which.
- `box_pairs`, `points_near` for contact.

Arrays are numpy's. Types of the same names say what each function reads.
"""

from compose.cpu.bvh import EMPTY, Bvh, build, edit, node_count, refit
from compose.cpu.contacts import SurfacePoints, box_pairs, count_near, points_near
from compose.cpu.distances import Surfaces
from compose.cpu.distances import nearest_surfaces as closest
from compose.cpu.kernels import InstanceTransforms, place
from compose.cpu.kernels import boxes_within as within
from compose.cpu.kernels import nearest_boxes as nearest
from compose.cpu.kernels import nearest_hits as take_nearer
from compose.cpu.kernels import points_to_object as to_object
from compose.cpu.march import Cells
from compose.cpu.siren_kernel import Nets, pack, serves
from compose.cpu.siren_kernel import siren_sdf as sdf
from compose.cpu.siren_kernel import siren_surface as surface
from compose.cpu.tracing import FINE_STEP, TraceCount, TraceScene, occluded, trace
from compose.cpu.warps import Warps, warps_of

__all__ = [
    "EMPTY",
    "FINE_STEP",
    "Bvh",
    "Cells",
    "InstanceTransforms",
    "Nets",
    "SurfacePoints",
    "Surfaces",
    "TraceCount",
    "TraceScene",
    "Warps",
    "box_pairs",
    "build",
    "closest",
    "count_near",
    "edit",
    "nearest",
    "node_count",
    "occluded",
    "pack",
    "place",
    "points_near",
    "refit",
    "sdf",
    "serves",
    "surface",
    "take_nearer",
    "to_object",
    "trace",
    "warps_of",
    "within",
]
