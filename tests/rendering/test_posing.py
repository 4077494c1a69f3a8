"""Poses of known objects, corrected from pictures."""

import math

import pytest
import torch

from compose import Composite, Instance
from objects import SE3
from objects.primitives import Box, Cylinder
from rendering import Camera, PosesConfig, RenderConfig, View, ViewError, Views, refine_poses, render


def truth() -> list[Instance]:
    parts = Box((0.5, 0.25, 0.2), color=(0.9, 0.3, 0.1)) | Cylinder(0.1, 0.5, color=(0.1, 0.4, 0.9))
    return [
        Instance(
            "floor", Box((2.0, 2.0, 0.2), color=(0.3, 0.6, 0.3)), SE3.from_translation((0.0, 0.0, -0.1)), lit=False
        ),
        Instance(
            "thing", parts, SE3.from_translation((0.1, 0.2, 0.3)) @ SE3.from_axis_angle((0, 0, 1), 0.4), lit=False
        ),
    ]


def pictures(depth: bool) -> Views:
    scene, views = Composite(truth()), []
    for i in range(6):
        a = 2 * math.pi * i / 6
        camera = Camera.look_at((2 * math.cos(a), 2 * math.sin(a), 1.3), (0.0, 0.0, 0.2), 48, 36, 45.0)
        frame = render(scene, camera, config=RenderConfig(antialias=1), progress=False)
        kept = torch.where(torch.isfinite(frame.depth), frame.depth, 0.0) if depth else None
        views.append(View(camera, frame.rgb, depth=kept, ids=frame.owner.clamp(min=0)))
    return Views(views)


def disturbed() -> Composite:
    instances = truth()
    wrong = SE3.from_translation((0.04, -0.03, 0.03)) @ instances[1].T_world_obj @ SE3.from_axis_angle((1, 1, 0), 0.12)
    return Composite([instances[0], instances[1].with_pose(wrong)])


def errors(scene: Composite) -> tuple[float, float]:
    away = truth()[1].T_world_obj.inverse() @ scene.instances[1].T_world_obj
    return math.degrees(float(away.log()[3:].norm())), float(away.translation.norm())


@pytest.mark.parametrize(("depth", "degrees", "metres"), [(True, 0.7, 0.004), (False, 3.5, 0.01)])
def test_an_object_that_stands_wrong_is_put_right(depth, degrees, metres):
    start = disturbed()
    assert errors(start)[0] > 6 and errors(start)[1] > 0.05
    found = refine_poses(start, pictures(depth), config=PosesConfig(steps=120, rays=256), progress=False)
    assert errors(found)[0] < degrees and errors(found)[1] < metres
    assert torch.equal(found.instances[0].T_world_obj.translation, start.instances[0].T_world_obj.translation)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ViewError, match="labels"):
        refine_poses(disturbed(), pictures(True), labels=[1], progress=False)
