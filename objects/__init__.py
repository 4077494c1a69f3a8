"""Objects: poses, fields of signed distance and colour, and how they are learned. Knows nothing of scenes or images."""

from objects.aabb import Aabb
from objects.field import Field, FieldSample
from objects.files import FieldFileError, load_field, save_field
from objects.fitting import FitConfig, fit_mesh, fit_meshes
from objects.mesh import MeshError
from objects.points import PointsConfig, fit_points
from objects.pose import SE3
from objects.primitives import Box, Capsule, Cylinder, Sphere, Torus
from objects.setops import Difference, Intersection, Placed, Union
from objects.siren import SirenField
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
