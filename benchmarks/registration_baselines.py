"""What learned warps are compared with: frames as fields of their own, blended; and registration by a pyramid of small networks."""

from __future__ import annotations

from collections.abc import Sequence

import igl
import numpy as np
import torch
import trimesh
from scipy.spatial import KDTree
from torch import Tensor, nn

from objects import SE3, fit_meshes
from objects.field import Field
from objects.mesh import read_mesh
from objects.meshing import grid_cell, zero_set


class Blended:
    """Each frame a field of its own; between two times their distances are blended, points stay where they are. Where a blend has
    no inside (a thin thing has moved by more than its thickness) the nearer frame is shown."""

    def __init__(self, meshes: Sequence[trimesh.Trimesh], times: Sequence[float]) -> None:
        self.fields: list[Field] = list(fit_meshes(list(meshes)))
        self.times = np.array(times)

    def mesh_at(self, seconds: float) -> trimesh.Trimesh:
        at = int(np.clip(np.searchsorted(self.times, seconds, "right") - 1, 0, len(self.times) - 2))
        share = float(np.clip((seconds - self.times[at]) / (self.times[at + 1] - self.times[at]), 0, 1))
        one, other = self.fields[at], self.fields[at + 1]
        union = one | other

        def ask(p: Tensor) -> Tensor:
            return torch.lerp(one.sdf(p), other.sdf(p), share)

        cell = grid_cell(union, 1e-3 * float(union.bounds.size.max()))
        with torch.no_grad():
            try:
                vertices, faces = zero_set(union, cell, ask)
            except ValueError:
                vertices, faces = zero_set(union, cell, (one if share < 0.5 else other).sdf)
        return trimesh.Trimesh(vertices.double().numpy(), faces, process=False)

    def carry(self, p: np.ndarray, start: float, end: float) -> np.ndarray:
        """To the nearest point of the surface at the other time."""
        del start
        mesh = self.mesh_at(end)
        return np.asarray(igl.point_mesh_squared_distance(p, mesh.vertices, np.asarray(mesh.faces, np.int64))[2])


class Pyramids:
    """The first frame registered to each next one by a pyramid of networks, coarse to fine; linear between two times.

    The idea of Li, Harada, "Non-rigid Point Cloud Registration with Neural Deformation Pyramid" (NeurIPS 2022): each level is a
    small network of sines and cosines of the point at one frequency, which gives a rigid motion; levels are learned one after the
    other by the Chamfer distance (here with normals), each on what the levels before left.
    """

    LEVELS, STEPS, WIDTH, POINTS, NORMAL = 8, 60, 64, 2000, 0.05

    def __init__(self, meshes: Sequence[trimesh.Trimesh], times: Sequence[float]) -> None:
        self.times, self.first = np.array(times), meshes[0]
        self.vertices = [np.asarray(meshes[0].vertices)]
        self.center = self.vertices[0].mean(0)
        self.scale = float(np.ptp(self.vertices[0], 0).max())
        source = read_mesh(meshes[0])
        points, normals = source.sample(self.POINTS, np.random.default_rng(0))
        p, n = self._unit(points), torch.from_numpy(normals).float()
        every = self._unit(self.vertices[0])
        for i, mesh in enumerate(meshes[1:]):
            goal, goal_normals = read_mesh(mesh).sample(self.POINTS, np.random.default_rng(1))
            levels = self._register(p, n, self._unit(goal), torch.from_numpy(goal_normals).float(), seed=i)
            with torch.no_grad():
                for level in levels:
                    p, n = level(p, n)
                    every, _ = level(every, every)
            self.vertices.append(every.double().numpy() * self.scale + self.center)

    def _unit(self, p: np.ndarray) -> Tensor:
        return torch.from_numpy((p - self.center) / self.scale).float()

    def _register(self, p: Tensor, n: Tensor, goal: Tensor, goal_n: Tensor, seed: int) -> list[Level]:
        levels = []
        tree = KDTree(torch.cat([goal, self.NORMAL * goal_n], 1).numpy())
        for k in range(self.LEVELS):
            level = Level(2.0 ** (k - 2) * np.pi, self.WIDTH, seed)
            optimizer = torch.optim.Adam(level.parameters(), lr=0.01)
            for _ in range(self.STEPS):
                moved, turned = level(p, n)
                mine = torch.cat([moved, self.NORMAL * turned], 1)
                there = goal[torch.from_numpy(tree.query(mine.detach().numpy())[1])]
                here = torch.from_numpy(KDTree(mine.detach().numpy()).query(tree.data)[1])
                loss = (moved - there).abs().mean() + (moved[here] - goal).abs().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                p, n = level(p, n)
            levels.append(level)
        return levels

    def _at(self, states: list[np.ndarray], seconds: float) -> np.ndarray:
        at = int(np.clip(np.searchsorted(self.times, seconds, "right") - 1, 0, len(self.times) - 2))
        share = float(np.clip((seconds - self.times[at]) / (self.times[at + 1] - self.times[at]), 0, 1))
        return (1 - share) * states[at] + share * states[at + 1]

    def mesh_at(self, seconds: float) -> trimesh.Trimesh:
        return trimesh.Trimesh(self._at(self.vertices, seconds), self.first.faces, process=False)

    def carry(self, p: np.ndarray, start: float, end: float) -> np.ndarray:
        """By the nearest vertex of the registered mesh."""
        vertex = KDTree(self._at(self.vertices, start)).query(p)[1]
        return p + (self._at(self.vertices, end) - self._at(self.vertices, start))[vertex]


class Level(nn.Module):
    """A rigid motion for each point from sines and cosines of it at one frequency; the identity at first."""

    def __init__(self, frequency: float, width: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.frequency = frequency
        last = nn.Linear(width, 6)
        self.net = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), last)
        nn.init.normal_(last.weight, std=1e-4)
        nn.init.zeros_(last.bias)

    def forward(self, p: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        x = self.frequency * p
        motion = SE3.exp(self.net(torch.cat([x.sin(), x.cos()], 1)))
        rotation = motion.rotation()
        return motion @ p, (rotation @ n[..., None])[..., 0]
