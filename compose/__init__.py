"""Instances at one time, and the index that routes every point and ray to the objects that matter."""

from compose.composite import Composite
from compose.types import Hits, Instance, Rays, SceneSample, SurfaceSample

__all__ = ["Composite", "Hits", "Instance", "Rays", "SceneSample", "SurfaceSample"]
