"""What runs on any device that torch knows: poses and fields take theirs from their tensors. All that routes and traces is
numpy and numba on CPU cores (`compose.cpu`), and so is learning, which draws its samples there.

The device is torch's own "meta", which computes shapes but no numbers, and refuses to meet a tensor of the CPU.
"""

import pytest
import torch

from objects import (
    SE3,
    Aabb,
    Box,
    Capsule,
    Cylinder,
    Difference,
    Intersection,
    Placed,
    SirenField,
    Sphere,
    Torus,
    Union,
)

UNIT = Aabb(-torch.ones(3), torch.ones(3))
FIELDS = [
    Sphere(0.4, (0.1, 0.2, 0.3), [1.0, 2.0]),
    Box([0.5, 0.3, 0.4], 0.05),
    Cylinder(0.2, 0.5),
    Capsule(0.1, 0.4),
    Torus(0.3, 0.1),
    Union(Sphere(0.3), Box([0.2, 0.2, 0.9]), smooth=0.1),
    Intersection(Sphere(0.3), Torus(0.3, 0.1)),
    Difference(Box([0.5, 0.5, 0.5]), Placed(Sphere(0.3), SE3.from_axis_angle([0.0, 1.0, 0.0], 0.3))),
    SirenField(UNIT, width=8, layers=2, color_width=8, color_layers=1, feature_width=3),
]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.kind)
def test_a_field_answers_where_its_tensors_are(field):
    p = torch.zeros(5, 3)
    here, there = field(p), field.to("meta")(p.to("meta"))
    for a, b in zip(here[:3], there[:3], strict=True):
        assert b.device.type == "meta" and a.shape == b.shape and a.dtype == b.dtype
    assert field.sdf(p.to("meta")).device.type == "meta"


def test_poses_are_applied_where_their_tensors_are():
    pose = SE3(torch.randn(4, 4), torch.randn(4, 3))
    moved = SE3.unchecked(pose.quat_wxyz.to("meta"), pose.translation.to("meta"))
    assert (moved @ torch.zeros(4, 3, device="meta")).device.type == "meta"
    assert moved.rotation().device.type == "meta"
