"""Poses corrected: those of known objects, by gradient, and those of cameras whose pictures hold depth.

`refine_poses` renders the objects as volumes, as in `rendering.learning.fit`, and compares them with the pictures; here the fields
stay as they are and the poses learn. Opacity is blunt at first, so that an object that stands beside its picture is drawn
towards it. `align_cameras` knows no objects: it lays what all pictures measured onto each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from compose.composite import Composite
from compose.types import Rays, SceneSample
from objects.pose import SE3
from objects.progress import Bar
from objects.training import OnStep, TrainConfig, fit
from rendering.camera import Camera
from rendering.learning.hulls import fused, measured_ahead
from rendering.sampling import Lattices, lattices_of_scene, route, sample_intervals, transforms_of_scene
from rendering.views import View, ViewError, Views
from rendering.volume import RayRender, accumulate_along_rays, render_rays

_ROUNDS = 16  # surfaces fused anew
_STEPS = 3  # of Gauss and Newton with each
_CELLS = 96  # along the longest edge of the scene
_BLUNT = 0.1  # of that edge, as far as a surface reaches in the first round; in the last 3 cells
_POINTS = 4000  # of each camera
_HOLD = 1e-3  # weight of a camera's start, as a share of that of its points


@dataclass(frozen=True)
class PosesConfig:
    """How poses are corrected; lengths are shares of the scene's size (the diagonal of all boxes).

    Attributes:
        steps, rays: Steps, and rays in each.
        learning_rate: Peak rate: radians, and shares of the mean size of an object.
        n_uniform, n_fine: Most boundaries of intervals on a ray.
        sharpness: Of opacity at the first and the last step (1 / share).
        ids, depth: Weights of the losses beside that of colour.
    """

    steps: int = 200
    rays: int = 512
    learning_rate: float = 1e-2
    n_uniform: int = 8
    n_fine: int = 12
    sharpness: tuple[float, float] = (60.0, 600.0)
    ids: float = 0.02
    depth: float = 2.0


def refine_poses(
    composite: Composite,
    views: Views,
    *,
    labels: Sequence[int | None] | None = None,
    background: Sequence[float] = (1.0, 1.0, 1.0),
    seed: int = 0,
    config: PosesConfig | None = None,
    progress: bool = True,
    on_step: OnStep | None = None,
) -> Composite:
    """Moves instances to where pictures show them, from poses that are nearly right (some degrees, some hundredths of the scene).

    Args:
        composite: Known objects; ids and depth of the pictures are used where they are there.
        views: Pictures whose cameras are right.
        labels: Of each instance the id that it has in the masks; None for one that stays where it is. By default they are
            numbered as in the composite, the first being the background (id 0), which stays.
        background: sRGB where nothing is.
        seed: Of the choice of rays.
        config: How to go about it.
        progress, on_step: As in `fit`.

    Returns:
        The same scene with corrected poses.

    Raises:
        ViewError: Labels that don't fit the instances, or pictures that show nothing of them.
    """
    config = PosesConfig() if config is None else config
    m = len(composite)
    known = [None if i == 0 else i for i in range(m)] if labels is None else list(labels)
    if len(known) != m or all(label is None for label in known):
        raise ViewError(f"refine_poses: labels must say of each of the {m} instances its id or None, got {labels}")
    moving = torch.tensor([i for i, label in enumerate(known) if label is not None])
    instance_of = {label: i for i, label in enumerate(known) if label is not None}
    start = [composite.instances[int(i)].T_world_obj.to(torch.float64) for i in moving]
    quat, trans = torch.stack([p.quat_wxyz for p in start]), torch.stack([p.translation for p in start])
    size, reach = composite.size, float(composite.diagonals[moving].mean())
    twist = torch.zeros(len(moving), 6, dtype=torch.float64, requires_grad=True)
    lattices = lattices_of_scene(composite)

    def placed() -> Composite:
        turn = SE3.exp(torch.cat([torch.zeros_like(twist[:, :3]), twist[:, 3:]], -1))
        turned = turn @ SE3.unchecked(quat, torch.zeros_like(trans))
        return composite.with_poses(moving, SE3.unchecked(turned.quat_wxyz, trans + reach * twist[:, :3]))

    def loss_fn(step: int, generator: torch.Generator) -> Tensor:
        first, last = config.sharpness
        sharpness = first * (last / first) ** (step / config.steps) / size
        view = views[int(torch.randint(len(views), (), generator=generator))]
        n = view.camera.width * view.camera.height
        pixel = torch.randint(n, (config.rays,), generator=generator)
        pixel = pixel[view.valid.reshape(-1)[pixel]]
        jitter = torch.rand(len(pixel), config.n_uniform + config.n_fine, generator=generator)
        scene = placed()
        rays, found = _rendered(scene, lattices, view.camera, pixel, sharpness, jitter, config.n_uniform)
        want = view.composited(background).reshape(-1, 3)[pixel].double()
        behind = torch.as_tensor(background, dtype=torch.float64)
        loss = (found.rgb + (1 - found.opacity[:, None]) * behind - want).square().mean()
        if view.ids is None:
            return loss
        shown = torch.tensor([instance_of.get(int(i), -1) for i in view.ids.reshape(-1)[pixel]])
        loss = loss - config.ids * _share_of(found, shown, moving).clamp(1e-3, 1).log().mean()
        if view.depth is not None:
            z = view.depth.reshape(-1)[pixel].double() / view.camera.depth_per_t(view.camera.pixel_centers(pixel))
            rows = (torch.isfinite(z) & (shown >= 0)).nonzero()[:, 0]
            if len(rows):
                p_world = rays.origins[rows] + z[rows, None] * rays.directions[rows]
                away = scene.evaluate(p_world, shown[rows]).sdf.abs() / reach
                loss = loss + config.depth * away.clamp(max=0.3).sum() / len(pixel)
        return loss

    c = config
    train = TrainConfig(c.steps, c.learning_rate, final_rate=0.02, seed=seed, label="poses", progress=progress)
    fit([twist], loss_fn, train, on_step=on_step)
    with torch.no_grad():
        return placed()


def _rendered(
    scene: Composite,
    lattices: Lattices,
    camera: Camera,
    pixel: Int[Tensor, "r"],
    sharpness: float,
    jitter: Float[Tensor, "r n"],
    n_uniform: int,
) -> tuple[Rays, RayRender]:
    """Pixels of a camera, coloured at the boundaries of samples: there the scene was asked already."""
    rays = camera.rays(camera.pixel_centers(pixel))
    transforms = transforms_of_scene(scene)
    routed = route(rays.origins, rays.directions, transforms)
    intervals = sample_intervals(routed, lattices, transforms, sharpness=sharpness, jitter=jitter, n_uniform=n_uniform)
    colors = []

    def distance(p_world: Tensor, ray: Tensor) -> SceneSample:
        found = scene.query(p_world)
        colors.append(found.rgb.double())
        return found._replace(sdf=found.sdf.double())

    return rays, render_rays(
        routed, intervals, distance, lambda at: colors[0][at.end], sharpness=sharpness, min_weight=-1.0
    )


def _share_of(found: RayRender, shown: Int[Tensor, "r"], moving: Int[Tensor, "k"]) -> Float[Tensor, "r"]:
    """The light of each ray that the instance it shows stops; for -1 what neither of the ``moving`` stops."""
    owner, shown_there = found.distances.owner[found.samples.first + 1], shown[found.samples.ray_indices]
    right = (owner == shown_there) | ((shown_there < 0) & ~torch.isin(owner, moving))
    share = accumulate_along_rays(found.weights * right, None, found.samples)[:, 0]
    return torch.where(shown < 0, share + 1 - found.opacity, share)


# -- cameras whose pictures hold depth ---------------------------------------------------------------------------------


@torch.no_grad()
def align_cameras(views: Views, *, seed: int = 0, progress: bool = True) -> Views:
    """Moves cameras so that their depths agree: each picture's points are laid onto the surface fused from all, in turns.

    Good for a few degrees and a few hundredths of the scene. The whole stays where it was; pictures without depth stay where
    they are. Source: Bylow, Sturm, Kerl, Kahl, Cremers, "Real-Time Camera Tracking and 3D Reconstruction Using Signed Distance
    Functions" (RSS 2013); here all cameras at once, from known starts.

    Args:
        views: Pictures.
        seed: Of the choice of points.
        progress: Show a bar (on a terminal, once it takes longer than 2 s).
    """
    generator = torch.Generator().manual_seed(seed)
    clouds = [_cloud(view, generator) for view in views]
    moving = [i for i, cloud in enumerate(clouds) if len(cloud)]
    if not moving:
        return views
    ahead = [measured_ahead(view) for view in views]
    box = views.scene_box()
    size = float(box.size.max())
    n = (box.size / size * _CELLS).ceil().long().clamp(min=8)
    axes = [torch.linspace(float(box.lo[c]), float(box.hi[c]), int(n[c]), dtype=torch.float64) for c in range(3)]
    steps = [float(axis[1] - axis[0]) for axis in axes]
    centers = torch.cartesian_prod(*axes)
    last, now = 3 * max(steps), views
    with Bar(total=_ROUNDS, desc="cameras", unit="round", disable=not progress) as bar:
        for k in range(_ROUNDS):
            reach = max(_BLUNT * size, last) ** (1 - k / (_ROUNDS - 1)) * last ** (k / (_ROUNDS - 1))
            surface = fused(centers, now.cameras, ahead, reach).view(*(int(x) for x in n)).double()
            slopes = [torch.from_numpy(g) for g in np.gradient(surface.numpy(), *steps)]
            volume = torch.stack([surface, *slopes])[None]
            moved: list[View] = list(now)
            for i in moving:
                start, pose = (v[i].camera.T_world_cam for v in (views, now))
                pose = _laid(pose, start, clouds[i], volume, box.lo.double(), box.hi.double(), reach)
                moved[i] = views[i].with_camera(dataclasses.replace(views[i].camera, T_world_cam=pose))
            now = Views(moved)
            bar.update(1)
    if len(moving) < len(views):
        return now
    whole = _between(now, views)
    return Views([v.with_camera(dataclasses.replace(v.camera, T_world_cam=whole @ v.camera.T_world_cam)) for v in now])


def _between(now: Views, start: Views) -> SE3:
    """The rigid motion of all cameras that brings them closest to where they began: the mean turn, and that of their middle."""
    poses = [[view.camera.T_world_cam for view in views] for views in (now, start)]
    turn = torch.stack([b.rotation() @ a.rotation().T for a, b in zip(*poses, strict=True)]).sum(0)
    u, _, vt = torch.linalg.svd(turn)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = u @ torch.diag(torch.tensor([1.0, 1.0, float(torch.det(u @ vt))], dtype=torch.float64)) @ vt
    middle = [torch.stack([pose.translation for pose in some]).mean(0) for some in poses]
    matrix[:3, 3] = middle[1] - matrix[:3, :3] @ middle[0]
    return SE3.from_matrix(matrix)


def _cloud(view: View, generator: torch.Generator) -> Float[Tensor, "n 3"]:
    """Some measured points of a picture, camera frame, metres, float64."""
    rays = dataclasses.replace(view.camera, T_world_cam=SE3.identity()).rays(view.camera.pixel_centers())
    ahead = measured_ahead(view).reshape(-1).double()
    at = torch.isfinite(ahead).nonzero()[:, 0]
    at = at[torch.randint(len(at), (min(_POINTS, len(at)),), generator=generator)] if len(at) else at
    return rays.origins[at].double() + ahead[at, None] * rays.directions[at].double()


def _laid(pose: SE3, start: SE3, p_cam: Tensor, volume: Tensor, lo: Tensor, hi: Tensor, reach: float) -> SE3:
    """A camera's pose after some steps of Gauss and Newton that bring its points onto the zero of a volume (distance, slopes).
    Where they don't say where it stands, it stays near its start."""
    for _ in range(_STEPS):
        p = pose @ p_cam
        at = 2 * (p - lo) / (hi - lo) - 1
        found = torch.nn.functional.grid_sample(volume, at.flip(-1)[None, :, None, None], align_corners=True)
        f, g = found[0, 0, :, 0, 0], found[0, 1:, :, 0, 0].T
        use = (at.abs() < 1).all(-1) & (f.abs() < 0.95 * reach)
        weight = use / (1 + (f / (0.3 * reach)).square())  # of points far away less, as they may lie on nothing known
        jacobian = torch.cat([g, torch.linalg.cross(p - pose.translation, g)], 1)
        far = (p - pose.translation).square().sum(-1).mean()
        hold = _HOLD * (weight.sum() + 1e-9) * torch.cat([torch.ones(3).double(), far.expand(3)])
        gone = torch.cat([pose.translation - start.translation, (pose @ start.inverse()).log()[3:]])
        normal = jacobian.T @ (weight[:, None] * jacobian) + torch.diag(hold)
        change = torch.linalg.solve(normal, -jacobian.T @ (weight * f) - hold * gone)
        turn = SE3.exp(torch.cat([torch.zeros(3, dtype=torch.float64), change[3:]])).rotation()
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, :3] = turn @ pose.rotation()
        matrix[:3, 3] = pose.translation + change[:3]
        pose = SE3.from_matrix(matrix)
    return pose
