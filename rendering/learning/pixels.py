"""Pixels of many posed pictures in one table, and the rays that go through them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from objects.pose import SE3
from rendering.camera import Camera
from rendering.views import Views

_MOST_PIXELS = 10_000_000  # of larger sets an equal share of each picture is learned from


@dataclass(frozen=True)
class Pixels:
    """Pixels to learn from, a row each: colours and opacity in bytes, their picture, their number in it, ids (-1 unknown) and depth
    (metres along the optical axis, NaN unknown); what no picture has is None."""

    rgb: Int[Tensor, "n 3"]
    view: Int[Tensor, "n"]
    pixel: Int[Tensor, "n"]
    alpha: Int[Tensor, "n"] | None
    ids: Int[Tensor, "n"] | None
    depth: Float[Tensor, "n"] | None

    @staticmethod
    def of(views: Views) -> Pixels:
        """All that are valid; of very large sets an equal share of each picture."""
        sizes = [view.camera.width * view.camera.height for view in views]
        share = min(1.0, _MOST_PIXELS / sum(sizes))
        generator = torch.Generator().manual_seed(0)
        rows = []
        for view, n in zip(views, sizes, strict=True):
            chosen = view.valid.reshape(n) & (torch.rand(n, generator=generator) < share)
            rows.append(chosen.nonzero()[:, 0])

        def gathered(layers: Sequence[Tensor | None], missing: Tensor) -> Tensor | None:
            if all(layer is None for layer in layers):
                return None
            parts = zip(layers, rows, strict=True)
            return torch.cat([missing.expand(len(at)) if x is None else x.reshape(-1)[at] for x, at in parts])

        return Pixels(
            rgb=torch.cat([view.stored["rgb"].reshape(-1, 3)[at] for view, at in zip(views, rows, strict=True)]),
            view=torch.repeat_interleave(torch.arange(len(views)), torch.tensor([len(at) for at in rows])),
            pixel=torch.cat(rows),
            alpha=gathered([view.stored.get("alpha") for view in views], torch.tensor(255, dtype=torch.uint8)),
            ids=gathered([view.ids for view in views], torch.tensor(-1, dtype=torch.int32)),
            depth=gathered([view.depth for view in views], torch.tensor(torch.nan)),
        )

    def kept(self, rows: Int[Tensor, "k"]) -> Pixels:
        """These rows alone."""
        return dataclasses.replace(self, **{key: x[rows] for key, x in vars(self).items() if x is not None})

    def __len__(self) -> int:
        return len(self.rgb)


class Lenses:
    """Rays of pixels of all cameras, float32; ``twist [v, 6]`` moves the cameras (translation in metres, rotation in radians,
    world frame, about their own places)."""

    def __init__(self, cameras: Sequence[Camera]) -> None:
        self.rot = torch.stack([c.T_world_cam.rotation() for c in cameras]).float()
        self.pos = torch.stack([c.position_world for c in cameras]).float()
        self.lens = torch.tensor([[c.fx, c.fy, c.cx, c.cy] for c in cameras])
        self.columns = torch.tensor([c.width for c in cameras])
        self.twist = torch.zeros(len(cameras), 6)

    def twisted(self, twist: Float[Tensor, "v 6"]) -> Lenses:
        """The same with another twist."""
        made = copy.copy(self)
        made.twist = twist
        return made

    def moved(self) -> list[SE3]:
        """The poses of the cameras, with their twists, float64."""
        rot = self._turns(self.twist.detach().double()) @ self.rot.double()
        matrix = torch.eye(4, dtype=torch.float64).repeat(len(rot), 1, 1)
        matrix[:, :3, :3] = rot
        matrix[:, :3, 3] = self.pos.double() + self.twist[:, :3].detach().double()
        return [SE3.from_matrix(m) for m in matrix]

    def rays(self, view: Int[Tensor, "n"], pixel: Int[Tensor, "n"]) -> tuple[Tensor, Tensor, Tensor]:
        """Origins, unit directions, and metres along the ray for each metre of depth."""
        lens, columns = self.lens[view], self.columns[view]
        u, v = (pixel % columns) + 0.5, (pixel // columns) + 0.5
        d = torch.stack([(u - lens[:, 2]) / lens[:, 0], (v - lens[:, 3]) / lens[:, 1], torch.ones(len(u))], -1)
        length = d.norm(dim=-1)
        d = ((d / length[:, None])[:, None] * self.rot[view]).sum(-1)
        if not (self.twist.requires_grad or bool(self.twist.any())):
            return self.pos[view], d, length
        turn = self._turns(self.twist)
        return self.pos[view] + self.twist[view, :3], (d[:, None] * turn[view]).sum(-1), length

    @staticmethod
    def _turns(twist: Float[Tensor, "v 6"]) -> Float[Tensor, "v 3 3"]:
        return SE3.exp(torch.cat([torch.zeros_like(twist[:, :3]), twist[:, 3:]], -1)).rotation()
