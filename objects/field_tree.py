"""The tree that says what the numbers of a field file make: kinds, plain numbers, children, warps; it is taken as hostile."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from objects.analytic_warps import Bend, Twist
from objects.field import FEATURE, TINT, TINT_WIDTH, Difference, Field, Intersection, Union, channel_fault
from objects.node_warp import NodeWarp
from objects.placed import Placed
from objects.primitives import Box, Capsule, Cylinder, Sphere, Torus
from objects.siren import OBSERVED_CELLS, SirenField
from objects.siren_layout import NetworkConfig
from objects.skin import COUNTS, Skin
from objects.warp import Warp
from objects.warped import Warped

MAX_NUMBERS = 10_000_000
MAX_NODES = 4096
MAX_DEPTH = 64
MAX_CHANNELS = 64


@dataclass(frozen=True)
class _Number:
    """A number of a node's config: an int or a float within ``least`` and ``most``."""

    type: type
    least: float
    most: float


@dataclass(frozen=True)
class Kind:
    """A kind of field: its class, how many fields it is made of, and what its config holds."""

    cls: type[Field]
    n_children: int
    config: dict[str, _Number]
    more: dict[str, _Number] = dataclasses.field(default_factory=dict)  # what a config may hold besides
    has_channels: bool = False  # whether it may hold channels by name


@dataclass(frozen=True)
class WarpKind:
    """A kind of warp: its class, what its config holds, and how many numbers a warp with such a config has at least."""

    cls: type[Warp]
    config: dict[str, _Number]
    least_numbers: Callable[[dict[str, Any]], int]


_CHANNEL = _Number(int, 1, 4096)
_FEATURES = {"feature_width": _Number(int, 0, 4096)}
_NETWORK = {
    **dict.fromkeys(("width", "color_width"), _Number(int, 1, 4096)),
    **dict.fromkeys(("layers", "color_layers"), _Number(int, 1, 64)),
    **dict.fromkeys(("omega_first", "omega_hidden", "color_omega_first"), _Number(float, 1e-6, 1e6)),
}
# All kinds of fields that a file may hold; nothing else is ever built from a file.
KINDS: dict[str, Kind] = {
    **{cls.kind: Kind(cls, 0, _FEATURES) for cls in (Sphere, Box, Cylinder, Capsule, Torus)},
    **{cls.kind: Kind(cls, 2, {}) for cls in (Union, Intersection, Difference)},
    Placed.kind: Kind(Placed, 1, {}),
    Warped.kind: Kind(Warped, 1, {}),
    SirenField.kind: Kind(
        SirenField,
        0,
        _FEATURES | _NETWORK,
        {"observed": _Number(int, 1, 1), "color_parts": _Number(int, 2, 4096)},
        has_channels=True,
    ),
}

_KEYS = {"keys": _Number(int, 1, 1_000_000)}
_NODES = {
    **_KEYS, **dict.fromkeys(("nodes", "near", "anchors"), _Number(int, 1, 1_000_000)), "loops": _Number(int, 0, 1),
}  # fmt: skip
# All kinds of warps that a file may hold.
WARPS: dict[str, WarpKind] = {
    **{cls.kind: WarpKind(cls, _KEYS, lambda config: 2 * config["keys"]) for cls in (Bend, Twist)},
    NodeWarp.kind: WarpKind(
        NodeWarp,
        _NODES,
        lambda c: c["nodes"] * (3 + c["near"] + 7 * c["keys"]) + 4 * c["anchors"] + c["keys"] + 1,
    ),
    Skin.kind: WarpKind(Skin, dict.fromkeys(COUNTS, _Number(int, 0, MAX_NUMBERS)), Skin.least_numbers),
}


def tree_version(tree: dict[str, Any]) -> int:
    """The least version that can say all of it."""
    config = tree["config"]
    own = 4 if "color_parts" in config else 3 if "warp" in tree else 2 if "channels" in config else 1
    return max([own, *(tree_version(child) for child in tree.get("children", []))])


def check_tree(tree: dict[str, Any], version: int) -> int:
    """Checks a tree node by node, brings it to the newest version, and gives the least count of numbers of such a field.

    Raises:
        ValueError: What was expected and what came.
    """
    total, n_nodes, todo = 0, 0, [(tree, 1)]
    while todo:
        node, depth = todo.pop()
        n_nodes += 1
        if depth > MAX_DEPTH or n_nodes > MAX_NODES:
            _fail(f"expected a tree of at most {MAX_DEPTH} levels and {MAX_NODES} nodes, got more")
        known = {"kind", "config", "children"} | ({"warp"} if version >= 3 else set())
        if not isinstance(node, dict) or not {"kind", "config"} <= node.keys() <= known:
            _fail(f"expected a node with kind, config and children, got {short(node)}")
        kind = KINDS.get(node["kind"]) if isinstance(node["kind"], str) else None
        if kind is None:
            _fail(f"expected a kind of field out of {', '.join(KINDS)}, got {short(node['kind'])}")
        config, children = node["config"], node.get("children", [])
        _check_config(node["kind"], config, version)
        if not isinstance(children, list) or len(children) != kind.n_children:
            _fail(f"{node['kind']}: expected {kind.n_children} children, got {short(children)}")
        total += _least_numbers(config) + _checked_warp(node, node["kind"] == Warped.kind)
        if total > MAX_NUMBERS:
            _fail(f"expected at most {MAX_NUMBERS} numbers, its tree describes more")
        todo += [(child, depth + 1) for child in children]
    return total


def _checked_warp(node: dict[str, Any], expected: bool) -> int:
    """Checks the warp of a node, which it has or must not have; the least count of its numbers."""
    if not expected:
        if "warp" in node:
            _fail(f"{node['kind']}: expected no warp, got {short(node['warp'])}")
        return 0
    warp = node.get("warp")
    if not isinstance(warp, dict) or warp.keys() != {"kind", "config"}:
        _fail(f"{node['kind']}: expected a warp with kind and config, got {short(warp)}")
    name, config = warp["kind"], warp["config"]
    kind = WARPS.get(name) if isinstance(name, str) else None
    if kind is None:
        _fail(f"{node['kind']}: expected a kind of warp out of {', '.join(WARPS)}, got {short(name)}")
    if not isinstance(config, dict) or config.keys() != kind.config.keys():
        _fail(f"{name}: expected a config of {list(kind.config)}, got {short(config)}")
    for key, value in config.items():
        _check_number(f"{name}: expected {key}", kind.config[key], value)
    return kind.least_numbers(config)


def _check_config(name: str, config: Any, version: int) -> None:
    """Checks what fixes the make-up of a node, and brings it to the newest version."""
    kind, named = KINDS[name], {}
    known = kind.config | kind.more
    if isinstance(config, dict) and kind.has_channels:
        if version == 1:
            known = known | {"tinted": _Number(int, 1, 1)}
        else:
            named = config.pop("channels", {})
    if not isinstance(config, dict) or not kind.config.keys() <= config.keys() <= known.keys():
        _fail(f"{name}: expected a config of {list(kind.config)}, got {short(config)}")
    if not isinstance(named, dict) or len(named) > MAX_CHANNELS or FEATURE in named:
        _fail(f"{name}: expected at most {MAX_CHANNELS} channels by name, got {short(named)}")
    for key, value in config.items():
        _check_number(f"{name}: expected {key}", known[key], value)
    for key, value in named.items():
        _check_number(f"{name}: expected the channel {short(key)}", _CHANNEL, value)
    if config.pop("tinted", 0):  # version 1: the tint is the last nine features
        if config["feature_width"] < TINT_WIDTH:
            _fail(f"{name}: expected a feature_width of at least {TINT_WIDTH} beside tinted")
        config["feature_width"] -= TINT_WIDTH
        named = {TINT: TINT_WIDTH}
    if fault := channel_fault(named):
        _fail(f"{name}: {fault}")
    if named:
        config["channels"] = named


def _check_number(expected: str, number: _Number, value: Any) -> None:
    types = (int,) if number.type is int else (int, float)
    if type(value) not in types or not number.least <= value <= number.most:
        wanted = f"{number.type.__name__} within {number.least:g}..{number.most:g}"
        _fail(f"{expected} to be {wanted}, got {short(value)}")


def _least_numbers(config: dict[str, Any]) -> int:
    n_features = config.get("feature_width", 0) + sum(config.get("channels", {}).values())
    if "width" not in config:
        return n_features
    network = NetworkConfig(**{name: config[name] for name in _NETWORK})
    n_networks = network.distance_shape.n_numbers
    n_networks += config.get("color_parts", 1) * network.color_shape(n_features).n_numbers
    return n_networks + OBSERVED_CELLS**3 * config.get("observed", 0)


def build(node: dict[str, Any]) -> Field:
    """The field that a checked tree describes; its numbers are still to come."""
    children = [build(child) for child in node.get("children", [])]
    if "warp" in node:
        warp = WARPS[node["warp"]["kind"]].cls.empty(node["warp"]["config"])
        return Warped(children[0], warp, stretch=1.0)
    return KINDS[node["kind"]].cls.empty(node["config"], children)


def short(value: Any) -> str:
    """A value as text for a message."""
    text = reprlib.repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _fail(message: str) -> NoReturn:
    raise ValueError(message)
