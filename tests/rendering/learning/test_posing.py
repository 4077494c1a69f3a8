"""Poses of known objects and of cameras, corrected from pictures."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import pytest
import torch

from compose import Composite, Instance
from objects import SE3
from objects.primitives import Box, Cylinder
from rendering import Camera, PosesConfig, RenderConfig, View, ViewError, Views, align_cameras, refine_poses, render


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


def pictures(depth: bool, n: int = 6, width: int = 48, beside: Sequence[Instance] = ()) -> Views:
    scene, views = Composite([*truth(), *beside]), []
    for i in range(n):
        a = 2 * math.pi * i / n
        camera = Camera.look_at((2 * math.cos(a), 2 * math.sin(a), 1.3), (0.0, 0.0, 0.2), width, 3 * width // 4, 45.0)
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


# Without depth few rays leave chance its say: of 256 each step, between 3.0 and 4.4 degrees.
@pytest.mark.parametrize(("depth", "rays", "degrees", "metres"), [(True, 256, 0.7, 0.004), (False, 1024, 3.5, 0.01)])
def test_an_object_that_stands_wrong_is_put_right(depth, rays, degrees, metres):
    start = disturbed()
    assert errors(start)[0] > 6 and errors(start)[1] > 0.05
    found = refine_poses(start, pictures(depth), config=PosesConfig(steps=120, rays=rays), progress=False)
    assert errors(found)[0] < degrees and errors(found)[1] < metres
    assert torch.equal(found.instances[0].T_world_obj.translation, start.instances[0].T_world_obj.translation)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ViewError, match="labels"):
        refine_poses(disturbed(), pictures(True), labels=[1], progress=False)


def test_cameras_that_stand_wrong_are_aligned_by_their_depths():
    """What is left shows in the steps from each camera to the next, as the whole may move."""
    box = Box((0.3, 0.2, 0.5), color=(0.2, 0.7, 0.3))
    places = [(-0.6, 0.5, 0.2), (0.6, -0.5, 0.1), (-0.5, -0.6, 0.15), (0.7, 0.5, 0.2)]
    beside = [
        Instance(str(i), box, SE3.from_translation(at) @ SE3.from_axis_angle((0, 0.3, 1), float(i)), lit=False)
        for i, at in enumerate(places)
    ]
    exact = pictures(True, n=12, width=64, beside=beside)
    generator = torch.Generator().manual_seed(0)
    wrong = []
    for view in exact:
        axis, way = torch.nn.functional.normalize(torch.randn(2, 3, generator=generator).double(), dim=-1)
        pose = view.camera.T_world_cam @ SE3.from_axis_angle(axis, math.radians(2.0))
        pose = SE3.from_translation(0.02 * way) @ pose
        wrong.append(view.with_camera(dataclasses.replace(view.camera, T_world_cam=pose)))

    def apart(views: Views) -> tuple[float, float]:
        found, true = ([view.camera.T_world_cam for view in some] for some in (views, exact))
        steps = [[a.inverse() @ b for a, b in itertools.pairwise(p)] for p in (found, true)]
        away = [a.inverse() @ b for a, b in zip(*steps, strict=True)]
        turn = torch.stack([pose.log()[3:].norm() for pose in away]).mean()
        return math.degrees(float(turn)), float(torch.stack([pose.translation.norm() for pose in away]).mean())

    before, aligned = apart(Views(wrong)), align_cameras(Views(wrong), progress=False)
    after = apart(aligned)
    assert after[0] < 0.3 * before[0]
    assert after[1] < 0.5 * before[1]
    torch.testing.assert_close(aligned[0].depth, exact[0].depth, equal_nan=True)


def test_cameras_without_depth_stay_where_they_are():
    views = pictures(False)
    assert align_cameras(views, progress=False) is views
