"""Objects: poses, fields of signed distance and colour, and how they are learned. Knows nothing of scenes or images."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import objects.threads  # before torch and numba  # isort: skip
from objects.aabb import Aabb
from objects.field import Field, FieldSample
from objects.files import FieldFileError, load_field, save_field
from objects.pose import SE3
from objects.primitives import Box, Capsule, Cylinder, Sphere, Torus
from objects.setops import Difference, Intersection, Placed, Union
from objects.siren import SirenField

if TYPE_CHECKING:
    from objects.fitting import FitConfig, fit_mesh, fit_meshes
    from objects.mesh_files import MeshError
    from objects.points import PointsConfig, fit_points
    from objects.training import FitError, FitResult, TrainConfig, fit

__all__ = [
    "SE3",
    "Aabb",
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
    "PointsConfig",
    "SirenField",
    "Sphere",
    "Torus",
    "TrainConfig",
    "Union",
    "fit",
    "fit_mesh",
    "fit_meshes",
    "fit_points",
    "load_field",
    "save_field",
]

# Learning brings in libraries for meshes that take seconds to load: they come with the first name that needs them.
_LEARNING = {
    **dict.fromkeys(("FitConfig", "fit_mesh", "fit_meshes"), "fitting"),
    **dict.fromkeys(("PointsConfig", "fit_points"), "points"),
    **dict.fromkeys(("FitError", "FitResult", "TrainConfig", "fit"), "training"),
    "MeshError": "mesh_files",
}


def __getattr__(name: str) -> Any:
    if name not in _LEARNING:
        raise AttributeError(f"module 'objects' has no attribute {name!r}")
    return getattr(import_module(f"objects.{_LEARNING[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
