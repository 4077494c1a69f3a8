"""What is known while fields learn from pictures; the stages (`rendering.learning.stages`) go from one state to the next."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from compose.composite import Composite
from compose.types import Instance
from objects.aabb import Aabb
from objects.field import Field
from objects.pose import SE3
from objects.siren import OBSERVED_CELLS, SirenField
from rendering.camera import Camera
from rendering.learning.bundle import Bundle
from rendering.learning.config import LearnedViews, ViewsConfig
from rendering.learning.hulls import BACKGROUND
from rendering.learning.pixels import Lenses, Pixels
from rendering.sampling import RoutedRays, route
from rendering.views import ViewError, Views

CHUNK = 1 << 14  # rays at once
_SHARPENING = 1.2  # surfaces are as sharp as they get after the inverse of this, as a share of the run
_OBSERVED_PIXELS = 20_000  # of each picture are looked at to say what it saw


@dataclass(frozen=True)
class State:
    """Fields while they learn, and what they learn from.

    Attributes:
        views, config: What is learned from, and how.
        labels: ``[m]``, the instance id of each object; several may share one (parts of the background).
        frames: ``[v]``, the frame of each picture: instances stand in it as ``nets.T_world_obj[:, frame]`` says.
        nets: The fields, and where their objects stand.
        pixels, lenses: What rays should show, and where they run.
        background: Logits of sRGB where nothing is; learned where pictures are opaque.
    """

    views: Views
    config: ViewsConfig
    labels: Int[Tensor, "m"]
    frames: Int[Tensor, "v"]
    nets: Bundle
    pixels: Pixels
    lenses: Lenses
    background: Float[Tensor, "3"]

    @property
    def opaque(self) -> bool:
        return self.pixels.alpha is None

    def sharpness(self, step: int) -> float:
        """Of opacity at a step, 1 / metres."""
        first, last = self.config.sharpness
        return first * (last / first) ** min(_SHARPENING * step / self.config.steps, 1.0) / self.nets.size

    def rays(self, rows: Int[Tensor, "r"]) -> tuple[RoutedRays, Float[Tensor, "r"]]:
        """Rays of rows of the pixels, and metres along each for a metre of depth."""
        px = self.pixels
        o, d, length = self.lenses.rays(px.view[rows], px.pixel[rows])
        return route(o, d, self.nets.transforms, self.frames[px.view[rows]]), length

    def cameras(self) -> list[Camera]:
        """The cameras of the pictures, where they are by now."""
        cameras = self.views.cameras
        if not bool(self.lenses.twist.any()):
            return cameras
        return [dataclasses.replace(c, T_world_cam=pose) for c, pose in zip(cameras, self.lenses.moved(), strict=True)]

    def scenes(self) -> list[Composite]:
        """The fields as they are now (shared, not copied), as they stand in each frame."""
        self.nets.write_back()
        instances, poses = [], self.nets.T_world_obj
        for i, (field, label) in enumerate(zip(self.nets.fields, self.labels.tolist(), strict=True)):
            name = f"object_{label}" if label != BACKGROUND else "object" if self.pixels.ids is None else "background"
            if int((self.labels == label).sum()) > 1:
                name = f"background_{i}"
            instances.append(Instance(name, field, poses[i, 0], lit=False))
        first = Composite(instances)
        later = range(1, poses.translation.shape[1])
        return [first, *(first.with_poses(range(len(instances)), poses[:, f]) for f in later)]


def start(
    views: Views,
    boxes: Sequence[Aabb],
    labels: Sequence[int],
    config: ViewsConfig,
    *,
    seed: int = 0,
    T_world_obj: SE3 | None = None,
    frames: Sequence[int] | None = None,
) -> State:
    """The state before anything is learned.

    Args:
        boxes: A box for each object, metres. In the world; where ``T_world_obj`` is given, only their sizes count.
        labels: The instance id of each.
        seed: Of initial weights.
        T_world_obj: ``[m, f]``, where the middle of each object's box is in each of ``f`` frames, for things that move; by default
            nothing does.
        frames: The frame of each picture; the first by default.

    Raises:
        ViewError: No pixel looks at a box.
    """
    nets = Bundle.of(boxes, config, seed, T_world_obj)
    of_view = torch.zeros(len(views), dtype=torch.int64) if frames is None else torch.tensor(frames)
    pixels = Pixels.of(views)
    state = State(views, config, torch.tensor(labels), of_view, nets, pixels, Lenses(views.cameras), torch.zeros(3))
    meets = torch.cat([nets.meets(state.rays(rows)[0]) for rows in torch.arange(len(pixels)).split(CHUNK)])
    background = torch.zeros(3)
    if state.opaque and not meets.all():
        background = pixels.rgb[~meets].float().mean(0) / 255
    if not meets.any():
        raise ViewError("fit_views: no pixel looks at a box")
    return dataclasses.replace(
        state, pixels=pixels.kept(meets.nonzero()[:, 0]), background=torch.logit(background.clamp(0.02, 0.98))
    )


def snapshot(state: State, step: int) -> LearnedViews:
    """What is learned so far, after ``step`` steps. The fields are those of the state: they change with it."""
    scenes = state.scenes()
    observe([scenes[f] for f in state.frames], state.cameras(), [view.valid for view in state.views])
    background = (1.0, 1.0, 1.0) if not state.opaque else tuple(state.background.detach().sigmoid().tolist())
    return LearnedViews(tuple(scenes[0].instances), background, state.sharpness(step), tuple(state.cameras()))


@torch.no_grad()
def observe(scenes: Sequence[Composite], cameras: Sequence[Camera], valid: Sequence[Bool[Tensor, "h w"]]) -> None:
    """Fills the fields' grids of what was seen: 1 - 0.5^n in a cell whose surface ``n`` pictures show at pixels that are valid.

    Args:
        scenes: The instances that are there when each picture is taken, as they stand then.
    """
    count = {i.field: torch.zeros(OBSERVED_CELLS**3) for scene in scenes for i in scene.instances}
    for scene, camera, whole in zip(scenes, cameras, valid, strict=True):
        shrink = min(1.0, math.sqrt(_OBSERVED_PIXELS / (camera.width * camera.height)))
        width, height = math.ceil(camera.width * shrink), math.ceil(camera.height * shrink)
        rays = camera.resized(width, height).rays()
        shown = nn.functional.interpolate(whole[None, None].float(), (height, width), mode="nearest-exact") > 0
        hits = scene.trace(rays)
        for i, instance in enumerate(scene.instances):
            rows = ((hits.owner == i) & shown.reshape(-1)).nonzero()[:, 0]
            field = instance.field
            p = instance.T_world_obj.inverse() @ (rays.origins[rows] + hits.t[rows, None] * rays.directions[rows])
            count[field] += shown_cells(field, p)
    for field, n in count.items():
        grid = cast(SirenField, field).observed
        grid.copy_((1 - 0.5**n).view(grid.shape))


def shown_cells(field: Field, p_obj: Float[Tensor, "n 3"]) -> Float[Tensor, "c"]:
    """1 for each cell of a field's grid of what was seen that holds any of the points, else 0; flat, last axis fastest."""
    share = (p_obj - field.box_lo) / (field.box_hi - field.box_lo)
    cell = (share * OBSERVED_CELLS).long().clamp(0, OBSERVED_CELLS - 1)
    held = torch.zeros(OBSERVED_CELLS**3)
    held[((cell[:, 0] * OBSERVED_CELLS + cell[:, 1]) * OBSERVED_CELLS + cell[:, 2]).unique()] = 1
    return held


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """The kernels spread over threads of their own; torch's, asleep between them, would spin and take their cores."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
