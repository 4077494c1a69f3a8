"""What is asked of every learned field: distances above 0 on the faces of its box, and the right sign where it is known."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from objects.paint import GREY
from objects.siren import SineParts, SirenField
from objects.training import FitError

_LIPSCHITZ_MARGIN = 1.05
_WRONG_SIDES = 0.1  # share of the points away from the surface
GREY_RGB = torch.full((3,), GREY)


def paint_flat(field: SirenField, rgb: Float[Tensor, "3"]) -> None:
    """Gives a field one colour everywhere."""
    net = field.appearance
    weight, bias = (net.weights[-1], net.biases[-1]) if isinstance(net, SineParts) else (net.last.weight, net.last.bias)
    with torch.no_grad():
        weight.zero_()
        bias[..., :3] = torch.logit(rgb.clamp(1e-4, 1 - 1e-4))


def face_points(lo: Float[Tensor, "3"], hi: Float[Tensor, "3"], n: int = 33) -> Float[Tensor, "6*n*n 3"]:
    """A lattice on the faces of a box: where a learned distance must be above 0."""
    ramp = torch.linspace(0, 1, n)
    u, v = (g.reshape(-1) for g in torch.meshgrid(ramp, ramp, indexing="ij"))
    faces = [
        torch.stack([*((u, v)[:axis]), torch.full_like(u, end), *((u, v)[axis:])], -1)
        for axis in range(3)
        for end in (0.0, 1.0)
    ]
    return torch.lerp(lo, hi, torch.cat(faces))


def finish(field: SirenField, p_obj: Float[Tensor, "n 3"]) -> None:
    """Measures the Lipschitz estimate of a learned field at sample points, and checks the sign on the faces of its box.

    Raises:
        FitError: The distance isn't positive on the faces of the box, or isn't finite.
    """
    p = p_obj.detach().clamp(field.box_lo, field.box_hi).requires_grad_()
    with torch.enable_grad():
        slope = torch.autograd.grad(field.inside_sdf(p, None).sum(), p)[0].norm(dim=-1).max()
    with torch.no_grad():
        lowest = float(field.sdf(face_points(field.box_lo, field.box_hi)).min())
    if not (math.isfinite(lowest) and lowest > 0 and bool(torch.isfinite(slope))):
        raise FitError(
            f"fit: expected a distance above 0 on the faces of the object's box, got {lowest:.3g}; "
            "the surface was not learned (too few steps)"
        )
    field.lipschitz_estimate.fill_(float(slope) * _LIPSCHITZ_MARGIN)


def check_sides(field: SirenField, p_obj: Float[Tensor, "n 3"], inside: Bool[Tensor, "n"]) -> None:
    """Checks a learned field at points whose side of the surface is known.

    Raises:
        FitError: More than ``_WRONG_SIDES`` of the points inside, or of those outside, have the wrong sign.
    """
    with torch.no_grad():
        got = torch.cat([field.sdf(p) for p in p_obj.split(1 << 16)]) < 0 if len(p_obj) else inside
    for which, text in ((inside, "inside"), (~inside, "outside")):
        wrong = float((got != inside)[which].float().mean()) if bool(which.any()) else 0.0
        if wrong > _WRONG_SIDES:
            raise FitError(
                f"fit: {100 * wrong:.0f} % of what is {text} the solid has the wrong sign; the surface was not learned: "
                "give it more steps, or a wider network for thin walls"
            )


def in_box(
    lo: Float[np.ndarray, "3"], hi: Float[np.ndarray, "3"], n: int, rng: np.random.Generator
) -> Float[np.ndarray, "n 3"]:
    """Points spread evenly in a box, a quarter of them on its faces, where a learned distance must be above 0."""
    p = rng.uniform(lo, hi, (n, 3))
    faces = p[: n // 4]
    axis = rng.integers(0, 3, len(faces))
    faces[np.arange(len(faces)), axis] = np.where(rng.random(len(faces)) < 0.5, lo[axis], hi[axis])
    return p
