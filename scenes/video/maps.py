"""What is measured on the frames of a clip before anything moves: planes, noise, smooth colours, flow."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32
from scipy import ndimage

from objects.progress import Bar
from scenes.video.planes import local_planes
from scenes.video.regions import nearest, parts_of

_FLOW_AGREES = 1.0  # pixels, and a tenth of the way
_FLOW_WIDTH = 320  # pixels: flow is sought in frames of about this size at least
_TEXTURE = 0.02  # slope of colours (a pixel) at which a displacement counts half
_CLEAN = 0.0012  # metres: depth with more noise is smoothed over a wider window
_SMOOTHED = 0.4  # of the noise that is left then
_BILATERAL = (11, 0.3, 4.0)  # pixels; difference of normals, and distance in pixels, at which a neighbour counts less
_LEAST_TRUST = 0.05
_SKY, _SKY_MARGIN = 0.01, 4.0  # share of the picture; pixels beside what was measured


class Maps(NamedTuple):
    """Frames of a clip, as the compiled loops take them."""

    depth: Float32[np.ndarray, "f h w"]
    """Metres along the optical axis, smoothed by local planes, 0 where missing."""
    normal: Float32[np.ndarray, "f h w 3"]
    """Camera frame, towards the camera; 0 where unknown."""
    rgb: Float32[np.ndarray, "f h w 3"]
    """sRGB in 0..1, slightly blurred."""
    slope: Float32[np.ndarray, "f h w 3 2"]
    """Derivatives of ``rgb`` along x and y, per pixel."""
    flows: Float32[np.ndarray, "two f h w 2"]
    """Displacement in pixels to the next and to the previous frame, NaN where both directions disagree."""
    tensor: Float32[np.ndarray, "f h w 3"]
    """How well colours tell a displacement: symmetric matrices xx, xy, yy with eigenvalues in 0..1."""
    sky: np.ndarray
    """[F H W] bool: nothing in reach; elsewhere missing depth is lost."""
    lens: np.ndarray
    """fx, fy, cx, cy in pixels."""
    noise: np.ndarray
    """a, b: the deviation of depth is about ``a + b z^2`` metres."""


def measure(rgb: np.ndarray, depth: np.ndarray, lens: np.ndarray, flows: np.ndarray | None = None) -> Maps:
    """The maps of a clip.

    Args:
        rgb: [F H W 3] uint8, sRGB.
        depth: [F H W] float32, metres, 0 where missing.
        lens: fx, fy, cx, cy in pixels.
        flows: `flow_of` the frames, if it is known.
    """
    smooth, normal, off = local_planes(depth, lens, 2, 0.02)
    noise = noise_of(depth, off)
    typical = float(np.median(depth[depth > 0])) if (depth > 0).any() else 1.0
    kept = depth
    if noise[0] + noise[1] * typical**2 > _CLEAN:
        smooth, normal, _ = local_planes(depth, lens, 3, 0.03)
        kept = np.where(smooth > 0, smooth, depth)
        noise = noise * _SMOOTHED
    soft = np.stack([cv2.GaussianBlur(frame, (0, 0), 0.8) for frame in rgb.astype(np.float32) / 255])
    slope = slopes_of(soft)
    flows = flow_of(rgb) if flows is None else flows
    return Maps(
        kept.astype(np.float32), _smoothed(normal), soft, slope, flows, tensor_of(slope), sky_of(depth),
        lens, noise,
    )  # fmt: skip


def _smoothed(normal: np.ndarray) -> np.ndarray:
    """Normals [F H W 3] averaged with neighbours of about the same direction (bilateral filter), wherever these stand."""
    mean = np.stack([cv2.bilateralFilter(frame, *_BILATERAL) for frame in normal])
    length = np.linalg.norm(mean, axis=-1, keepdims=True)
    return np.where(normal[..., 2:] != 0, mean / np.maximum(length, 1e-6), 0).astype(np.float32)


def sky_of(depth: np.ndarray) -> np.ndarray:
    """[F H W] where nothing is in reach: holes of some size that touch the picture's edge, but for their margins."""
    out = np.zeros(depth.shape, bool)
    least = _SKY * depth.shape[1] * depth.shape[2]
    for t, hole in enumerate(depth <= 0):
        parts, n = parts_of(hole, corners=False)
        if n == 0:
            continue
        deep = (nearest(~hole)[0] > _SKY_MARGIN) if not hole.all() else hole
        edge = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
        for k in np.unique(edge[edge > 0]):
            inside = deep & (parts == k)
            if inside.sum() >= least:
                out[t] |= inside
    return out


def noise_of(depth: np.ndarray, off: np.ndarray) -> np.ndarray:
    """Deviation of depths from what they should be as ``a + b z^2``, from the medians of slices of equal numbers of pixels.

    Args:
        depth: Metres, any shape.
        off: How far each is off, metres; NaN where unknown.
    """
    known = np.isfinite(off)
    z, e = depth[known], np.abs(off[known])
    if len(z) < 100:
        return np.array([0.001, 0.0])
    order = np.argsort(z, kind="stable")
    slices = np.array_split(order, 12)
    zs = np.array([np.median(z[s]) for s in slices])
    es = np.array([1.48 * np.median(e[s]) for s in slices]) * 1.05 + 1e-5  # the plane takes some of the noise
    a, b = np.linalg.lstsq(np.stack([np.ones(12), zs**2], -1) / es[:, None], np.ones(12), rcond=None)[0]
    if b < 0:
        a, b = np.median(es), 0.0
    elif a < 0:
        a, b = 0.0, float(np.median(es / zs**2))
    return np.array([max(a, 0.0005), b])


def slopes_of(rgb: np.ndarray) -> np.ndarray:
    """Derivatives of colours [F H W 3] along x and y, per pixel, float32 [F H W 3 2] (Sobel, each frame and channel alone)."""
    return np.stack(
        [np.stack([cv2.Sobel(frame, cv2.CV_32F, *way, scale=0.125) for way in ((1, 0), (0, 1))], -1) for frame in rgb]
    )


def tensor_of(slope: np.ndarray) -> np.ndarray:
    """Square roots of structure tensors, each eigenvalue of which goes from 0 (no texture) to 1 (`Maps.tensor`)."""
    x, y = slope[..., 0], slope[..., 1]
    window = (0, 1.5, 1.5)
    xx, xy, yy = (ndimage.gaussian_filter(a.sum(-1), window) for a in (x * x, x * y, y * y))
    half, apart = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    strong, weak = (np.sqrt(e / (e + _TEXTURE**2)) for e in (half + apart, np.maximum(half - apart, 0)))
    # The matrix with the same eigenvectors: mean + difference along the first one.
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)
    mean, spread = (strong + weak) / 2, (strong - weak) / 2
    out = np.stack(
        [mean + spread * np.cos(2 * angle), spread * np.sin(2 * angle), mean - spread * np.cos(2 * angle)], -1
    )
    return out.astype(np.float32)


def flow_of(rgb: np.ndarray) -> np.ndarray:
    """Optical flow [2 F H W 2] between neighbouring frames, both ways, kept where the ways agree; see `Maps.flows`.

    Dense inverse search: Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016 (OpenCV). Small frames are
    enlarged: on small things that spin, patches of few pixels slip less.
    """
    n, height, width = rgb.shape[:3]
    up = max(1, round(_FLOW_WIDTH / width))
    found = np.full((2, n, height, width, 2), np.nan, np.float32)
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    dis.setPatchSize(8)
    dis.setPatchStride(2 if up > 1 else 3)
    size = (width * up, height * up)
    grey = [
        cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_CUBIC) if up > 1
        else cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        for frame in rgb
    ]  # fmt: skip
    v, u = np.meshgrid(np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32), indexing="ij")

    def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        flow = dis.calc(a, b, None)  # pyright: ignore[reportCallIssue, reportArgumentType]
        return cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) / up if up > 1 else flow

    for t in Bar(range(n - 1), desc="optical flow", unit="frame"):
        ahead, back = between(grey[t], grey[t + 1]), between(grey[t + 1], grey[t])
        for way, here, there, frame in ((0, ahead, back, t), (1, back, ahead, t + 1)):
            again = cv2.remap(
                there,
                u + here[..., 0],
                v + here[..., 1],
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=(1e6, 1e6, 0, 0),
            )
            apart = np.linalg.norm(here + again, axis=-1)
            agree = apart < _FLOW_AGREES + 0.1 * np.linalg.norm(here, axis=-1)
            found[way, frame] = np.where(agree[..., None], here, np.nan)
    return found


def fewer(flows: np.ndarray, step: int) -> np.ndarray:
    """Flow between frames of fewer pixels, see `halved`: that at the middle of each block."""
    if step == 1:
        return flows
    height, width = (n // step * step for n in flows.shape[2:4])
    return np.ascontiguousarray(flows[:, :, step // 2 : height : step, step // 2 : width : step]) / np.float32(step)


def halved(
    rgb: np.ndarray, depth: np.ndarray, lens: np.ndarray, step: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames of fewer pixels: colours averaged over ``step`` x ``step`` pixels, depth of the pixel nearest to the centre."""
    if step == 1:
        return rgb, depth, lens
    n, height, width = depth.shape
    h, w = height // step, width // step
    small = rgb[:, : h * step, : w * step].reshape(n, h, step, w, step, 3).astype(np.float32).mean((2, 4))
    blocks = depth[:, : h * step, : w * step].reshape(n, h, step, w, step).transpose(0, 1, 3, 2, 4).reshape(n, h, w, -1)
    # Averages would put points into the air between things: the median is a depth that was measured.
    known = np.where(blocks > 0, blocks, np.nan)
    count = (blocks > 0).sum(-1)
    ordered = np.sort(known, -1)
    pick = np.maximum((count - 1) // 2, 0)
    middle = np.take_along_axis(ordered, pick[..., None], -1)[..., 0]
    less = np.where(count > 0, middle, 0).astype(np.float32)
    return np.rint(small).astype(np.uint8), np.ascontiguousarray(less), lens / step


def trust_of(depth: Float32[np.ndarray, "f h w"], lens: Float[np.ndarray, "4"]) -> Float32[np.ndarray, "f h w"]:
    """Weights of depths: low where surfaces are seen at a grazing angle, and where they are no surfaces."""
    normal = local_planes(depth, lens, 1, 0.02)[1]
    height, width = depth.shape[1:]
    v, u = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    fx, fy, cx, cy = lens
    ray = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1)
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    cosine = np.abs(np.einsum("fhwc,hwc->fhw", normal, ray))
    return np.maximum(cosine, _LEAST_TRUST).astype(np.float32) ** 2
