"""Objects: poses, fields of signed distance and colour, and how they are learned. Knows nothing of scenes or images."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import objects.environment  # noqa: F401  (before torch and numba)  # isort: skip

if TYPE_CHECKING:
    from objects.aabb import Aabb
    from objects.analytic_warps import Bend, Twist
    from objects.field import Difference, Field, FieldSample, Intersection, Union
    from objects.files import FieldFileError, load_field, save_field
    from objects.fitting import fit_mesh, fit_meshes
    from objects.mesh_files import MeshError
    from objects.mesh_samples import FitConfig
    from objects.placed import Placed
    from objects.points import PointsConfig, fit_points
    from objects.pose import SE3
    from objects.primitives import Box, Capsule, Cylinder, Sphere, Torus
    from objects.registration import Registration, RegistrationConfig, register
    from objects.siren import SirenField
    from objects.training import FitError, FitResult, TrainConfig, fit
    from objects.warp import Warp
    from objects.warp_learning import PointFrame, SequenceConfig, fit_sequence
    from objects.warped import Warped

__all__ = [
    "SE3",
    "Aabb",
    "Bend",
    "Box",
    "Capsule",
    "Cylinder",
    "Difference",
    "Field",
    "FieldFileError",
    "FieldSample",
    "FitConfig",
    "FitError",
    "FitResult",
    "Intersection",
    "MeshError",
    "Placed",
    "PointFrame",
    "PointsConfig",
    "Registration",
    "RegistrationConfig",
    "SequenceConfig",
    "SirenField",
    "Sphere",
    "Torus",
    "TrainConfig",
    "Twist",
    "Union",
    "Warp",
    "Warped",
    "fit",
    "fit_mesh",
    "fit_meshes",
    "fit_points",
    "fit_sequence",
    "load_field",
    "register",
    "save_field",
]

# Everything comes with the first name that needs it: torch takes a second to load, libraries for meshes another.
_HOME = {
    **dict.fromkeys(("Difference", "Field", "FieldSample", "Intersection", "Union"), "field"),
    **dict.fromkeys(("FieldFileError", "load_field", "save_field"), "files"),
    **dict.fromkeys(("Box", "Capsule", "Cylinder", "Sphere", "Torus"), "primitives"),
    **dict.fromkeys(("fit_mesh", "fit_meshes"), "fitting"),
    **dict.fromkeys(("PointsConfig", "fit_points"), "points"),
    **dict.fromkeys(("FitError", "FitResult", "TrainConfig", "fit"), "training"),
    **dict.fromkeys(("Bend", "Twist"), "analytic_warps"),
    **dict.fromkeys(("Registration", "RegistrationConfig", "register"), "registration"),
    **dict.fromkeys(("PointFrame", "SequenceConfig", "fit_sequence"), "warp_learning"),
    "Aabb": "aabb",
    "FitConfig": "mesh_samples",
    "MeshError": "mesh_files",
    "Placed": "placed",
    "SE3": "pose",
    "SirenField": "siren",
    "Warp": "warp",
    "Warped": "warped",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'objects' has no attribute {name!r}")
    return getattr(import_module(f"objects.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
