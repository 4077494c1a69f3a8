"""SIREN object fields: sine-activated networks for distance and for colour with channels.

Source: Sitzmann, Martel, Bergman, Lindell, Wetzstein, "Implicit Neural Representations with Periodic Activation
Functions" (NeurIPS 2020): layers ``sin(omega (W x + b))``, and the initialisation of section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from objects.aabb import Aabb
from objects.blend_tree import BlendTree
from objects.field import FEATURE, Field, FieldSample
from objects.rounding import rounded
from objects.siren_layout import NetworkConfig, SineShape

OBSERVED_CELLS = 16
_CHUNK = 8192  # points that all parts of a network are asked at once


class _Linear(nn.Linear):
    """Without weights of its own: `SineMlp` draws them."""

    def reset_parameters(self) -> None:
        pass


class SineMlp(nn.Module):
    """``layers`` sine layers of equal ``width``, then a linear one.

    Args:
        n_in, n_out: Channels in and out.
        width: Units of each sine layer.
        layers: Number of sine layers, at least 1.
        omega_first, omega_hidden: Frequencies of the first and of the other sine layers.
        generator: Source of the initial weights.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        width: int,
        layers: int,
        omega_first: float,
        omega_hidden: float,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.shape = SineShape(n_in, n_out, width, layers, float(omega_first), float(omega_hidden))
        linears = [_Linear(a, b) for a, b in self.shape.sizes]
        with torch.no_grad():
            for i, linear in enumerate(linears):
                n = linear.in_features
                # First layer: U(-1/n, 1/n), so that omega_first sets its band; later ones: U(-sqrt(6/n)/omega, ...), so
                # that each sine sees a standard normal (theorem 1.8 of the supplement).
                limit = 1 / n if i == 0 else math.sqrt(6 / n) / self.shape.omega_hidden
                linear.weight.uniform_(-limit, limit, generator=generator)
                linear.bias.uniform_(-1 / math.sqrt(n), 1 / math.sqrt(n), generator=generator)
        self.linears = nn.ModuleList(linears)

    @property
    def last(self) -> nn.Linear:
        """The linear layer at the end."""
        return cast(nn.Linear, self.linears[-1])

    def forward(self, x: Tensor) -> Tensor:
        for omega, linear in zip(self.shape.omegas, self.linears, strict=False):
            x = torch.sin(omega * linear(x))
        return self.last(x)


class SineParts(nn.Module):
    """Many small sine networks of one shape, each in a part of space; where parts meet, their outputs are blended.

    Args:
        n_parts: How many there are.
        shape: Their shape.
        generator: Source of the initial weights.

    Attributes:
        tree: Which part says how much at a point.
        center, half_extent: What each part takes off a point, and divides it by.
    """

    center: Tensor
    half_extent: Tensor

    def __init__(self, n_parts: int, shape: SineShape, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.tree = BlendTree(n_parts)
        self.register_buffer("center", torch.zeros(n_parts, 3))
        self.register_buffer("half_extent", torch.ones(n_parts))
        linears = [
            [cast(nn.Linear, x) for x in SineMlp(**shape._asdict(), generator=generator).linears]
            for _ in range(n_parts)
        ]
        layers = list(zip(*linears, strict=True))
        self.weights = nn.ParameterList([torch.stack([x.weight.detach() for x in layer]) for layer in layers])
        self.biases = nn.ParameterList([torch.stack([x.bias.detach() for x in layer]) for layer in layers])

    @property
    def n_parts(self) -> int:
        """How many parts there are."""
        return len(self.half_extent)

    def forward(self, x: Float[Tensor, "n 3"]) -> Float[Tensor, "n o"]:
        """Every part is asked at every point, and most have no weight: `compose.cpu.siren_kernel` asks those that have some."""
        flat = x.reshape(-1, 3)
        parts = (
            [self._blended(some) for some in flat.split(_CHUNK)] if len(flat) else [flat.new_zeros(0, self.shape.n_out)]
        )
        return torch.cat(parts).reshape(*x.shape[:-1], self.shape.n_out)

    def _blended(self, x: Tensor) -> Tensor:
        h = (x - self.center[:, None]) / self.half_extent[:, None, None]
        for omega, weight, bias in zip([*self.shape.omegas, 0.0], self.weights, self.biases, strict=True):
            h = torch.baddbmm(bias[:, None], h, weight.transpose(1, 2))
            h = torch.sin(omega * h) if omega else h
        return (self.tree(x).T[..., None] * h).sum(0)

    def rows(self, multiple: int = 64) -> Float[Tensor, "k n_row"]:
        """The numbers of each part, as `pack` gives those of networks."""
        parts = [t.detach().flatten(1) for pair in zip(self.weights, self.biases, strict=True) for t in pair]
        return nn.functional.pad(torch.cat(parts, 1), (0, -self.shape.n_numbers % multiple))

    def shorten(self) -> None:
        """Rounds its numbers to what field files hold in one byte (weights) and two (biases, and the weights of the first layer,
        whose errors its frequency multiplies)."""
        with torch.no_grad():
            for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                weight.copy_(rounded(weight) if layer else weight.half())
                bias.copy_(bias.half())

    def set_rows(self, rows: Float[Tensor, "k n_row"]) -> None:
        """Writes the numbers of each part, in place (see `unpack`)."""
        with torch.no_grad():
            for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                at = self.shape.weight(layer)
                weight.copy_(rows[:, at].view_as(weight))
                bias.copy_(rows[:, at.stop : at.stop + bias.shape[1]])


def pack(networks: Sequence[SineMlp], multiple: int = 64) -> Float[Tensor, "k n_row"]:
    """The numbers of networks of one shape, a row each (see `objects.siren_layout`), filled up with zeros to a multiple: where rows
    are whole vector registers, each gets equal arithmetic whatever stands before it."""
    rows = torch.stack([nn.utils.parameters_to_vector(net.parameters()).detach() for net in networks])
    return nn.functional.pad(rows, (0, -rows.shape[1] % multiple))


def unpack(row: Float[Tensor, "n_row"], network: SineMlp) -> None:
    """Writes a row of numbers into a network, in place: indices made of older weights are known as such."""
    at = 0
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(row[at : at + p.numel()].view_as(p))
            at += p.numel()


def split_matrices(
    rows: Float[Tensor, "k n_row"], shape: SineShape
) -> tuple[Float[Tensor, "k n_rest"], Float[Tensor, "k m w w"]]:
    """Packed rows apart: the square matrices of the sine layers after the first, and all other numbers in their order."""
    cuts = [shape.weight(layer) for layer in range(1, shape.layers)]
    ends = [0, *(at for cut in cuts for at in (cut.start, cut.stop)), rows.shape[1]]
    parts = [rows[:, a:b] for a, b in pairwise(ends)]
    matrices = [part.reshape(-1, shape.width, shape.width) for part in parts[1::2]]
    empty = rows.new_zeros(len(rows), 0, shape.width, shape.width)
    return torch.cat(parts[::2], 1), torch.stack(matrices, 1) if matrices else empty


def join_matrices(
    rest: Float[Tensor, "k n_rest"], matrices: Float[Tensor, "k m w w"], shape: SineShape
) -> Float[Tensor, "k n_row"]:
    """The rows of which `split_matrices` gave the parts."""
    parts, at = [], 0
    for k, layer in enumerate(range(1, shape.layers)):
        end = shape.weight(layer).start - k * shape.width**2
        parts += [rest[:, at:end], matrices[:, k].flatten(1)]
        at = end
    return torch.cat([*parts, rest[:, at:]], 1)


class SirenField(Field):
    """An object whose distance and whose appearance are a SIREN each.

    Points are centred and divided by half of the longest edge of the box before they enter the networks, and distances
    multiplied by it, so that one set of frequencies fits objects of every size.

    Args:
        bounds: Box in the object frame (object units).
        network: The make-up of its networks; ``numbers`` of `NetworkConfig` by name (``width=32``) take the place of its own.
        feature_width: Width of the channel ``feature``, 0 for none.
        channels: Widths of other channels by name. `objects.field.TINT` lets colour depend on the direction of view.
        color_parts: How many networks share the appearance, each in a part of space (`SineParts`); one network, where it is 1.
        observed: Whether the field carries a coarse grid (`OBSERVED_CELLS` cells along each edge of its box) of how well each
            part was seen by the pictures that it was learned from, 0 to 1; it begins with 0 everywhere.
        seed: Seed of the initial weights.

    Raises:
        ValueError: A channel that no field may have (see `Field`).
    """

    kind = "siren"
    center: Tensor
    half_extent: Tensor
    observed: Tensor

    def __init__(
        self,
        bounds: Aabb,
        network: NetworkConfig | None = None,
        *,
        feature_width: int = 0,
        channels: Mapping[str, int] | None = None,
        color_parts: int = 1,
        observed: bool = False,
        seed: int = 0,
        **numbers: float,
    ) -> None:
        super().__init__(bounds, feature_width=feature_width, channels=channels)
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("center", bounds.center.float().clone())
        self.register_buffer("half_extent", (0.5 * bounds.size.max()).float().clone())
        made: dict[str, Any] = (network or NetworkConfig()).network_numbers() | numbers
        self.network = NetworkConfig(**made)
        color = self.network.color_shape(sum(self.channels.values()))
        self.distance = SineMlp(**self.network.distance_shape._asdict(), generator=generator)
        self.appearance: SineMlp | SineParts = (
            SineMlp(**color._asdict(), generator=generator)
            if color_parts == 1
            else SineParts(color_parts, color, generator)
        )
        self.has_observed = observed
        if observed:
            self.register_buffer("observed", torch.zeros((OBSERVED_CELLS,) * 3))

    @property
    def whole_appearance(self) -> SineMlp:
        """The appearance where it is one network.

        Raises:
            ValueError: Parts share it.
        """
        if isinstance(self.appearance, SineParts):
            raise ValueError(f"siren: expected one network of appearance, got {self.appearance.n_parts} parts")
        return self.appearance

    def inside(self, p_obj: Tensor, time: Tensor | None) -> FieldSample:
        x = (p_obj - self.center) / self.half_extent
        look = self.appearance(x)
        channels = dict(zip(self.channels, look[..., 3:].split(list(self.channels.values()), -1), strict=True))
        feature = channels.pop(FEATURE, look[..., :0])
        return FieldSample(self.distance(x)[..., 0] * self.half_extent, look[..., :3].sigmoid(), feature, more=channels)

    def inside_sdf(self, p_obj: Tensor, time: Tensor | None) -> Tensor:
        return self.distance((p_obj - self.center) / self.half_extent)[..., 0] * self.half_extent

    def shape_state(self) -> dict[str, Tensor]:
        state = super().shape_state()
        return {name: t for name, t in state.items() if name.split(".")[0] not in ("appearance", "observed")}

    def check_values(self) -> None:
        super().check_values()
        if self.has_observed and not bool(((self.observed >= 0) & (self.observed <= 1)).all()):
            raise ValueError("siren: observed must lie in 0..1")
        if isinstance(self.appearance, SineParts) and not bool(
            (self.appearance.half_extent > 0).all() and (self.appearance.tree.blend > 0).all()
        ):
            raise ValueError("siren: half_extent and blend of its parts must be greater than 0")
        if not 0 < float(self.half_extent) < math.inf:
            raise ValueError(f"siren: half_extent must be finite and greater than 0, got {float(self.half_extent)}")

    @property
    def grids(self) -> dict[str, Tensor]:
        return {"observed": self.observed} if self.has_observed else {}

    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = self.network.network_numbers() | {"feature_width": self.feature_width}
        if others := {name: width for name, width in self.channels.items() if name != FEATURE}:
            found["channels"] = others
        if isinstance(self.appearance, SineParts):
            found["color_parts"] = self.appearance.n_parts
        return found | ({"observed": 1} if self.has_observed else {})

    @classmethod
    def empty(cls, config: dict[str, Any], children: list[Field]) -> Self:
        unit = torch.ones(3)
        return cls(Aabb(-unit, unit), **config)
