"""Instances at one time, and the index that routes every point and ray to the objects that matter."""

import objects  # noqa: F401  (first: it says how many threads torch gets)  # isort: skip
from compose.composite import Composite
from compose.types import Hits, Instance, Rays, SceneSample, SurfaceSample

__all__ = ["Composite", "Hits", "Instance", "Rays", "SceneSample", "SurfaceSample"]
