"""The one description of a SIREN's numbers: how many there are, where each stands, and the frequencies of its layers.

In a flat row a network is its layers one after another, the linear one last. Rows for training (`objects.siren.pack`) hold of each
layer the weight ``[out, in]`` and then the bias, in the order of ``SineMlp.parameters()``; rows for evaluation
(`compose.cpu.siren_kernel`) arrange a layer in their own way, but layers begin at the same places (`layer_at`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import NamedTuple


def layer_at(n_in, width, layer):
    """Where a layer begins in a row, the first being 0 and the linear one at the end ``layers``; plain, for numba."""
    return 0 if layer == 0 else (n_in + 1) * width + (layer - 1) * (width + 1) * width


class SineShape(NamedTuple):
    """``layers`` sine layers of equal ``width``, then a linear one (see `objects.siren.SineMlp`)."""

    n_in: int
    n_out: int
    width: int
    layers: int
    omega_first: float
    omega_hidden: float

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each layer, the linear one included."""
        return list(pairwise([self.n_in] + [self.width] * self.layers + [self.n_out]))

    @property
    def omegas(self) -> list[float]:
        """The frequency of each sine layer."""
        return [self.omega_first] + [self.omega_hidden] * (self.layers - 1)

    def weight(self, layer: int) -> slice:
        """Where the weight of a layer stands in a row for training; its bias comes next."""
        at = layer_at(self.n_in, self.width, layer)
        n_in, n_out = self.sizes[layer]
        return slice(at, at + n_in * n_out)

    @property
    def n_numbers(self) -> int:
        """How many weights and biases there are."""
        return layer_at(self.n_in, self.width, self.layers) + (self.width + 1) * self.n_out

    @property
    def last_bias(self) -> slice:
        """Where the bias of the linear layer stands in a row for training."""
        return slice(self.n_numbers - self.n_out, self.n_numbers)


@dataclass(frozen=True)
class NetworkConfig:
    """The make-up of a SIREN field's two networks.

    Attributes:
        width, layers, omega_first, omega_hidden: Units of each sine layer of the distance network, number of these layers,
            frequencies of the first and of the others.
        color_width, color_layers, color_omega_first: The same of the colour network, whose other layers have ``omega_hidden``.
    """

    width: int = 64
    layers: int = 3
    omega_first: float = 30.0
    omega_hidden: float = 30.0
    color_width: int = 64
    color_layers: int = 3
    color_omega_first: float = 30.0

    def network_numbers(self) -> dict[str, int | float]:
        """These seven by name, without what a subclass adds."""
        return {f.name: (float if f.type == "float" else int)(getattr(self, f.name)) for f in fields(NetworkConfig)}

    @property
    def distance_shape(self) -> SineShape:
        """The network of signed distance."""
        return SineShape(3, 1, self.width, self.layers, float(self.omega_first), float(self.omega_hidden))

    def color_shape(self, n_channels: int = 0) -> SineShape:
        """The network of colour, and of so many numbers beside it."""
        omegas = float(self.color_omega_first), float(self.omega_hidden)
        return SineShape(3, 3 + n_channels, self.color_width, self.color_layers, *omegas)
