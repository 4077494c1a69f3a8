"""A canonical field and a warp from a sequence of meshes or point clouds with times; no correspondences are needed.

First the surface of the frame in which things are farthest apart is followed to all others (`objects.warp_tracking`), then that
frame is learned as a field (`fit_mesh`, `fit_points`), and the nodes that carried the surface become the warp's
(`objects.node_warp`).
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from objects.aabb import without_origin
from objects.cache import cache_folder, content_key
from objects.cloud import Cloud, read_cloud
from objects.files import FieldFileError, load_field, save_field
from objects.fitting import fit_mesh
from objects.mesh import MeshSource, read_mesh
from objects.mesh_files import Meshlike
from objects.mesh_samples import FitConfig
from objects.node_warp import NodeKeys, NodeWarp
from objects.partial_sequences import Seen, first_frame, follow_parts
from objects.points import PointsConfig, fit_points
from objects.pose import SE3
from objects.progress import Bar
from objects.siren import SirenField
from objects.warp_following import Followed, follow
from objects.warp_surface import Surface, surface_of
from objects.warp_tracking import Template, template_of
from objects.warped import Warped, measure_warp

_VERSION = 6  # part of every cache key
_UNFOLDED = 0.95  # share of the largest spread from which a frame counts as unfolded
_STEADY = 1.0  # what the distance of nodes that move together changes by at most, in units of the spacing
_LOST = 0.01  # a frame in which the surface is farther from where it was carried is told of, a share of the extent


class PointFrame(NamedTuple):
    """A frame given by points on the surface: places, normals of any length but 0, and colours (sRGB in 0..1) if there are any."""

    points: np.ndarray
    normals: np.ndarray
    colors: np.ndarray | None = None


@dataclass(frozen=True)
class SequenceConfig:
    """How sequences are learned.

    Attributes:
        nodes: Nodes of the warp.
        points, dense: Points by which a surface is followed, and points that describe the others.
        anchors: Points of the surface that the warp keeps.
            Of these four numbers half is taken where frames are partial.
        mesh, cloud: How the canonical frame is learned.
    """

    nodes: int = 300
    points: int = 4000
    dense: int = 12_000
    anchors: int = 2000
    mesh: FitConfig = field(default_factory=FitConfig)
    cloud: PointsConfig = field(default_factory=PointsConfig)

    def __post_init__(self) -> None:
        if not 2 <= self.nodes <= self.anchors <= self.points <= self.dense:
            raise ValueError(
                "SequenceConfig: expected 2 <= nodes <= anchors <= points <= dense, got "
                f"{self.nodes}, {self.anchors}, {self.points}, {self.dense}"
            )


def fit_sequence(
    frames: Sequence[Meshlike | PointFrame],
    times: Sequence[float],
    *,
    period: float | None = None,
    partial: bool = False,
    seed: int = 0,
    config: SequenceConfig | None = None,
    progress: bool = True,
) -> Warped:
    """Learns a thing that bends from frames of it, or takes it from the cache.

    The order of vertices and faces says nothing: frames may have other triangles each. What holds for the thing should hold for
    it at all times: what is one piece stays one piece, and lengths along the surface about stay. A frame that it cannot be
    carried to (parts that appear or grow together, motion too far from frame to frame) is told of by a warning with its distance.

    Args:
        frames: Meshes (see `objects.mesh_files`), or points with normals; at least 2, all of one kind.
        times: Of the frames, seconds, increasing.
        period: Seconds after which the motion begins again, more than the frames span; None where it doesn't.
        partial: Whether frames show only a part of the surface each, such as the pixels of a picture with depth; then they are
            points with normals towards the camera, and from one to the next things move by a few hundredths of their size. What no
            frame shows is closed somehow.
        seed: Seed of all randomness; same seed, same bits.
        config: How to learn.
        progress: Whether to show a bar.

    Returns:
        A field in the frame and units of the input, for times from the first to the last (to the end of the period).

    Raises:
        MeshError: A frame that is no mesh (a ``ValueError``).
        ValueError: Fewer than 2 frames, times that don't belong to them or don't increase, a period that is too short, points
            that have no inside.
        FitError: The canonical frame was not learned.
    """
    config = SequenceConfig() if config is None else config
    seconds = _checked_times(frames, times, period)
    if partial:
        _check_parts(frames, period)
    sources = [_source(frame, i, config, partial) for i, frame in enumerate(frames)]
    digest = hashlib.sha256(b"".join(map(_digest, sources, frames))).hexdigest()
    key = content_key("sequence", _VERSION, digest, seconds.tolist(), period, partial, seed, asdict(config))
    kept = cache_folder("fields") / f"{key}.safetensors"
    if kept.exists():
        try:
            known = load_field(kept)
        except FieldFileError:
            known = None  # damaged: learn it again
        if isinstance(known, Warped):
            return known.requires_grad_(False)
    with Bar(total=len(frames), desc="sequence", unit="frames", disable=not progress) as bar:
        if partial:
            template, followed, first, whole = _followed_parts(sources, seconds, config, seed, bar)
        else:
            template, followed, first = _followed(sources, seconds, period, config, seed, bar)
            whole = frames[first]
    lost = _tell_lost(followed, first, seconds)
    canonical = _learned(whole, config, seed, progress)
    anchors = config.anchors // 2 if partial else config.anchors
    warp = NodeWarp(node_keys(template, followed, seconds, anchors), period=period)
    more = [max(misfit - followed.misfits[first], 0.0) for misfit in followed.misfits]
    learned = _measured(canonical, warp, sources, seconds, more).requires_grad_(False)
    if not lost:
        save_field(learned, kept)
    return learned


def _followed(
    sources: Sequence[MeshSource | Cloud | PointFrame],
    seconds: np.ndarray,
    period: float | None,
    config: SequenceConfig,
    seed: int,
    bar: Bar,
) -> tuple[Template, Followed, int]:
    surfaces = [
        surface_of(source, n_points=config.points, n_dense=config.dense, seed=seed + i)
        for i, source in enumerate(sources)
    ]
    first = canonical_frame(surfaces)
    template = template_of(surfaces[first], config.nodes)
    bar.update(1)
    followed = follow(template, surfaces, first, seconds, period=period, on_frame=lambda frame: bar.update(1))
    return template, followed, first


def _followed_parts(
    sources: Sequence[MeshSource | Cloud | PointFrame], seconds: np.ndarray, config: SequenceConfig, seed: int, bar: Bar
) -> tuple[Template, Followed, int, PointFrame]:
    parts = [Seen(s.points, s.normals, s.colors) for s in sources if isinstance(s, PointFrame) and s.colors is not None]
    bar.update(1)
    template, followed, whole = follow_parts(
        parts, seconds, n_nodes=config.nodes // 2, n_points=config.points // 2, n_dense=config.dense // 2, seed=seed,
        on_frame=lambda frame: bar.update(1),
    )  # fmt: skip
    return template, followed, first_frame(parts), PointFrame(whole.points, whole.normals, whole.colors)


def canonical_frame(surfaces: Sequence[Surface]) -> int:
    """The frame nearest to the middle, from which nothing is far, among those in which the surface is about as unfolded as it ever
    is: its points have nearly the largest spread (the measure of Weinberger, Saul, "Unsupervised Learning of Image Manifolds by
    Semidefinite Programming", 2006)."""
    spread = [float(np.sqrt(surface.dense.var(0).sum())) for surface in surfaces]
    open_ = [i for i, value in enumerate(spread) if value >= _UNFOLDED * max(spread)]
    return min(open_, key=lambda i: abs(i - (len(surfaces) - 1) / 2))


def node_keys(template: Template, followed: Followed, times: np.ndarray, n_anchors: int) -> NodeKeys:
    """What a warp keeps of a template that was followed; the first of its points are spread, too.

    Nodes whose distance hardly changes count as near each other whichever way leads from one to the other along the surface: so
    both faces of a sheet are moved by the nodes of both.
    """
    turns = continuous(np.stack([quaternions(motion.rotation) for motion in followed.motions]))
    shifts = np.stack([motion.shift for motion in followed.motions])
    anchors, homes = template.points[:n_anchors], template.home[:n_anchors]
    near = together(template, template.nodes + shifts)
    return NodeKeys(template.nodes, near, anchors, homes, template.spacing, times, turns, shifts)


def together(template: Template, places: Float[np.ndarray, "t k 3"]) -> Int[np.ndarray, "k m"]:
    """The nodes that may move what belongs to each: the nearest of those that are near along the surface, or whose distances stay
    at all times."""
    rest, k = template.nodes, len(template.nodes)
    apart = np.linalg.norm(rest[:, None] - rest, axis=2)
    least, most = np.full((k, k), np.inf), np.zeros((k, k))
    for at in places:
        now = np.linalg.norm(at[:, None] - at, axis=2)
        least, most = np.minimum(least, now), np.maximum(most, now)
    rank = np.where(most - least > _STEADY * template.spacing, 2.0, 0.0)
    m = template.index.shape[1]
    np.put_along_axis(rank, template.near[:, m:], np.minimum(1.0, np.take_along_axis(rank, template.near[:, m:], 1)), 1)
    np.put_along_axis(rank, template.near[:, :m], 0.0, axis=1)
    order = np.argsort(apart + 10 * template.extent * rank, 1, kind="stable")
    return order[:, : template.near.shape[1]]


def quaternions(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternions (wxyz) of rotation matrices ``[k 3 3]``."""
    u, _, vt = np.linalg.svd(rotation)  # many small steps leave them not quite at right angles
    matrix = np.zeros((len(rotation), 4, 4))
    matrix[:, :3, :3], matrix[:, 3, 3] = u @ vt, 1
    return SE3.from_matrix(torch.from_numpy(matrix)).quat_wxyz.numpy()


def continuous(turns: Float[np.ndarray, "t k 4"]) -> Float[np.ndarray, "t k 4"]:
    """Quaternions over time: of the two signs of each the one that a spline has the shorter way to."""
    turned = np.where((turns[1:] * turns[:-1]).sum(-1, keepdims=True) < 0, -1, 1)
    return np.concatenate([turns[:1], turns[1:] * np.cumprod(turned, 0)])


def residual(
    learned: Warped,
    frame: Meshlike | PointFrame,
    time: float,
    *,
    config: SequenceConfig | None = None,
    n_points: int = 4000,
    seed: int = 0,
) -> float:
    """Mean distance of points of a frame from the learned surface at its time, by the canonical field; object units."""
    source = _source(frame, 0, SequenceConfig() if config is None else config)
    return _off(learned, source, time, n_points, seed)


@torch.no_grad()
def _off(
    learned: Warped, source: MeshSource | Cloud | PointFrame, time: float, n_points: int = 4000, seed: int = 0
) -> float:
    if isinstance(source, MeshSource):
        points = source.sample(n_points, np.random.default_rng(seed))[0]
    else:
        points = source.points[np.random.default_rng(seed).permutation(len(source.points))[:n_points]]
    p = torch.from_numpy(points).float()
    return float(learned.field.sdf(learned.canonical(p, torch.full((len(p),), float(time)))).abs().mean())


def _measured(
    canonical: SirenField,
    warp: NodeWarp,
    sources: Sequence[MeshSource | Cloud | PointFrame],
    times: np.ndarray,
    misfits: Sequence[float],
) -> Warped:
    """The field, and what it misses: distances at the times that it was learned from (percent of the canonical box; at least
    ``misfits``, shares, which know what a frame lacks, too) and how the warp treats space (`WarpMeasure`)."""
    measure = measure_warp(canonical, warp)
    learned = Warped(canonical, warp, stretch=measure.stretch)
    size = float(canonical.bounds.size.max())
    shares = [_off(learned, source, t) / size for source, t in zip(sources, times.tolist(), strict=True)]
    off = [100 * max(share, misfit) for share, misfit in zip(shares, misfits, strict=True)]
    worst = int(np.argmax(off))
    learned.measured = {
        "distance_pct": float(np.mean(off)), "worst_distance_pct": off[worst], "worst_at_s": float(times[worst]),
        "folded_pct": 100 * measure.folded, "round_trip_pct": 100 * measure.residual,
    }  # fmt: skip
    return learned


def _checked_times(frames: Sequence[object], times: Sequence[float], period: float | None) -> np.ndarray:
    if isinstance(frames, str) or not isinstance(frames, Sequence):
        raise ValueError(f"fit_sequence: frames must be a list of meshes or points, got {type(frames).__name__}")
    if len(frames) < 2:
        raise ValueError(f"fit_sequence: expected at least 2 frames, got {len(frames)}; fit_mesh learns what is still")
    seconds = np.asarray(times, np.float64)
    if seconds.shape != (len(frames),):
        raise ValueError(f"fit_sequence: expected a time for each of {len(frames)} frames, got {seconds.shape}")
    if not (np.isfinite(seconds).all() and (np.diff(seconds) > 0).all()):
        raise ValueError(f"fit_sequence: times must be finite and increase, got {seconds.tolist()}")
    span = float(seconds[-1] - seconds[0])
    if period is not None and not (math.isfinite(period) and period > span):
        raise ValueError(f"fit_sequence: period must be more than the {span:g} s of the frames, got {period}")
    return seconds


def _check_parts(frames: Sequence[Meshlike | PointFrame], period: float | None) -> None:
    if period is not None:
        raise ValueError(f"fit_sequence: partial frames make no loop yet; leave period out, got {period}")
    for i, frame in enumerate(frames):
        if not isinstance(frame, PointFrame):
            raise ValueError(
                f"fit_sequence: partial frames are points with normals, got frames[{i}], {type(frame).__name__}"
            )


def _source(
    frame: Meshlike | PointFrame, number: int, config: SequenceConfig, partial: bool = False
) -> MeshSource | Cloud | PointFrame:
    name = f"frames[{number}]"
    if not isinstance(frame, PointFrame):
        made = config.mesh
        return read_mesh(frame, name, facing=made.facing, thickness=made.thickness, origin=made.origin)
    points, normals = (np.asarray(x, np.float64) for x in frame[:2])
    if points.ndim != 2 or points.shape[1:] != (3,) or points.shape != normals.shape or len(points) < 100:
        raise ValueError(f"{name}: expected at least 100 points with normals, got {points.shape}, {normals.shape}")
    if not (np.isfinite(points).all() and np.isfinite(normals).all() and (normals != 0).any(1).all()):
        raise ValueError(f"{name}: expected finite points, and normals of a length above 0")
    places = without_origin(points, config.cloud.origin, name)
    if partial:
        normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        colors = np.full_like(places, 0.7) if frame.colors is None else np.asarray(frame.colors, np.float64)
        if colors.shape != places.shape:
            raise ValueError(f"{name}: expected a colour for each of {len(places)} points, got {colors.shape}")
        return PointFrame(places, normals, colors)
    wall = config.cloud.thickness * float(np.ptp(places, 0).max())
    return read_cloud(places, normals, facing=config.cloud.facing, wall=wall, name=name)


def _digest(source: MeshSource | Cloud | PointFrame, frame: Meshlike | PointFrame) -> bytes:
    """Of all that is learned of a frame: what it was read as, and the colours of points, which only the frame holds."""
    if isinstance(source, MeshSource):
        return bytes.fromhex(source.content_hash())
    colors = None if not isinstance(frame, PointFrame) or frame.colors is None else np.asarray(frame.colors)
    parts = [source.points, source.normals, *([] if colors is None else [colors])]
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).digest()


def _learned(frame: Meshlike | PointFrame, config: SequenceConfig, seed: int, progress: bool) -> SirenField:
    if not isinstance(frame, PointFrame):
        return fit_mesh(frame, seed=seed, config=config.mesh, progress=progress)
    points, normals = torch.as_tensor(frame.points), torch.as_tensor(frame.normals)
    colors = None if frame.colors is None else torch.as_tensor(frame.colors).float()
    return fit_points(points, normals, colors, seed=seed, config=config.cloud, progress=progress)


def _tell_lost(followed: Followed, first: int, times: np.ndarray) -> bool:
    """Warns of frames that the surface could not be carried to; whether there are any."""
    usual = followed.misfits[first]
    lost = [(t, m - usual) for t, m in zip(times, followed.misfits, strict=True) if m - usual > _LOST]
    if lost:
        words = ", ".join(f"{100 * off:.1f} % at {t:g} s" for t, off in lost[:6]) + (" and more" if lost[6:] else "")
        warnings.warn(
            f"sequence: in {len(lost)} of {len(times)} frames the surface is off where it was carried, by {words} of its size: "
            "parts that appear, vanish or grow together, or motion too far from one frame to the next",
            stacklevel=3,
        )
    return bool(lost)
