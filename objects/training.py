"""The one training loop, for everything that is learned: Adam on any tensors, Muon on stacks of square matrices, with exact
resumption after a kill.

Steps and rates come from the configuration, never from the clock, and all randomness from one generator, so that equal
input gives equal bits (on the same machine with the same number of threads). The optimisers are Adam (Kingma, Ba 2015) and
Muon (`objects.muon`).
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from objects import progress
from objects.files import write_atomically
from objects.muon import Muon

LossFn = Callable[[int, torch.Generator], Tensor]
OnStep = Callable[[int, float], str | None]


class FitError(RuntimeError):
    """Learning went wrong: the loss stopped being finite, or the result breaks a promise."""


class CheckpointError(ValueError):
    """A checkpoint that is damaged or belongs to another run; the message names the file."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        steps: Number of steps.
        learning_rate: Peak rate; groups of parameters may scale it.
        warmup: Share of the steps in which the rate rises to its peak.
        final_rate: Rate at the end as a share of the peak; it falls along a cosine.
        betas: Decay of Adam's two averages.
        seed: Seed of the generator that the loss function draws from.
        label: What the progress bar says.
        progress: Whether to show a bar, after 2 s; where there is no terminal, a line then and every half
            minute.
        checkpoint: File to resume from and to save to; removed by the caller.
        checkpoint_every: Steps between checkpoints.
    """

    steps: int = 1000
    learning_rate: float = 3e-3
    warmup: float = 0.05
    final_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    seed: int = 0
    label: str = "fit"
    progress: bool = True
    checkpoint: Path | None = None
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        if self.steps < 1 or self.checkpoint_every < 1:
            raise ValueError(
                f"TrainConfig: steps and checkpoint_every must be at least 1, got {self.steps}, {self.checkpoint_every}"
            )
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"TrainConfig: learning_rate must be finite and greater than 0, got {self.learning_rate}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"TrainConfig: warmup must be a share in [0, 1), got {self.warmup}")

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then half a cosine."""
        x = (step + 1) / self.steps
        if x < self.warmup:
            return self.learning_rate * x / self.warmup
        fall = 0.5 + 0.5 * math.cos(math.pi * (x - self.warmup) / (1 - self.warmup))
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * fall)


class FitResult(NamedTuple):
    """``losses [steps]`` and the step at which the run was taken up again (0 where it ran in one go)."""

    losses: Float[Tensor, "steps"]
    resumed_at: int


def fit(
    params: Iterable[Tensor] | Iterable[Mapping[str, Any]],
    loss_fn: LossFn,
    config: TrainConfig,
    *,
    on_step: OnStep | None = None,
) -> FitResult:
    """Changes ``params`` in place so that the loss falls.

    Args:
        params: Leaf tensors that require gradients; or groups ``{"params": [tensors], "rate": factor}``, where ``rate``
            scales the learning rate (default 1). With ``"muon": True`` the tensors are stacks of square matrices, ``[..., n, n]``,
            which Muon changes.
        loss_fn: ``loss_fn(step, generator)`` gives a scalar loss. All its randomness must come from ``generator``.
        config: Steps, rates, seed, checkpoint.
        on_step: Called as ``on_step(step, loss)`` after each step; what it returns stands in the bar in place of the loss.
            An exception in it ends the run.

    Raises:
        ValueError: No parameters, or a checkpoint that is damaged or of another run (CheckpointError).
        FitError: A loss that is not finite; the parameters are then those of the step before.
    """
    groups = _groups(params)
    tensors = [p for group in groups for p in group["params"]]
    optimizers = _optimizers(groups, config)
    generator = torch.Generator().manual_seed(config.seed)
    losses = torch.zeros(config.steps, dtype=torch.float64)
    start = 0
    if config.checkpoint is not None and config.checkpoint.exists():
        start = _load(config, tensors, optimizers, generator, losses)
    with _Progress(config, start) as shown:
        for step in range(start, config.steps):
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = config.rate(step) * group["rate"]
                optimizer.zero_grad()
            loss = loss_fn(step, generator)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise FitError(
                    f"{config.label}: the loss became {value} at step {step} of {config.steps}; "
                    f"a lower learning_rate than {config.learning_rate:g} may help"
                )
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            losses[step] = value
            if config.checkpoint is not None and (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps:
                _save(config, step + 1, tensors, optimizers, generator, losses)
            shown.update(step, value, None if on_step is None else on_step(step, value))
    return FitResult(losses, start)


def _groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    params = list(params)
    if params and isinstance(params[0], Mapping):
        groups = [{**group, "params": list(group["params"]), "rate": float(group.get("rate", 1.0))} for group in params]
    else:
        groups = [{"params": params, "rate": 1.0}]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("fit: params must hold at least one tensor, got none")
    for p in (p for group in groups for p in group["params"]):
        if not (isinstance(p, Tensor) and p.is_leaf and p.requires_grad):
            raise ValueError("fit: params must be leaf tensors that require gradients (call requires_grad_() first)")
    return groups


def _optimizers(groups: list[dict[str, Any]], config: TrainConfig) -> list[torch.optim.Optimizer]:
    usual, matrices = ([g for g in groups if bool(g.get("muon")) == muon] for muon in (False, True))
    found: list[torch.optim.Optimizer] = []
    if usual:
        found.append(torch.optim.Adam(usual, lr=config.learning_rate, betas=config.betas, eps=1e-12, fused=True))
    if matrices:
        found.append(Muon(matrices, lr=config.learning_rate))
    return found


# -- progress --------------------------------------------------------------------------------------------------------


class _Progress:
    """A bar on stderr once a run has lasted 2 s; where stderr is no terminal (a log), a line then and every half minute."""

    def __init__(self, config: TrainConfig, start: int) -> None:
        self.config, self.start = config, start
        self.bar: tqdm | None = None

    def __enter__(self) -> _Progress:
        self.began = time.monotonic()
        self.next_line = self.began + progress.FIRST_S
        if self.config.progress and self.start:
            print(f"{self.config.label}: going on from step {self.start} of {self.config.steps}", file=sys.stderr)
        if self.config.progress and sys.stderr.isatty():
            self.bar = tqdm(
                total=self.config.steps, initial=self.start, desc=self.config.label, unit="step", delay=2, leave=False
            )
        return self

    def update(self, step: int, loss: float, note: str | None) -> None:
        if self.bar is not None:
            if step % 20 == 0 or note:
                self.bar.set_postfix_str(note or f"loss {loss:.3g}", refresh=False)
            self.bar.update(1)
        elif self.config.progress and (now := time.monotonic()) > self.next_line:
            self.next_line = now + progress.LINE_S
            left = (now - self.began) / (step + 1 - self.start) * (self.config.steps - step - 1)
            words = f"step {step + 1} of {self.config.steps}, {note or f'loss {loss:.3g}'}, {left / 60:.1f} min left"
            print(f"{self.config.label}: {words}", file=sys.stderr)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


# -- checkpoints -----------------------------------------------------------------------------------------------------


def _state_tensors(tensors: list[Tensor], optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    state = {f"param.{i}": p.detach() for i, p in enumerate(tensors)}
    for i, p in enumerate(tensors):
        for optimizer in optimizers:
            state |= {f"{key}.{i}": value for key, value in optimizer.state.get(p, {}).items()}
    return state


def _identity(config: TrainConfig, tensors: list[Tensor]) -> str:
    """What a checkpoint must have in common with the run that takes it up."""
    run = [config.steps, config.learning_rate, config.warmup, config.final_rate, list(config.betas), config.seed]
    return json.dumps([run, [[list(p.shape), str(p.dtype)] for p in tensors]])


def _save(
    config: TrainConfig,
    step: int,
    tensors: list[Tensor],
    optimizers: list[torch.optim.Optimizer],
    generator: torch.Generator,
    losses: Tensor,
) -> None:
    state = {k: v.contiguous() for k, v in _state_tensors(tensors, optimizers).items()}
    state |= {"generator": generator.get_state(), "losses": losses}
    if config.checkpoint is not None:
        write_atomically(config.checkpoint, save(state, {"run": _identity(config, tensors), "step": str(step)}))


def _load(
    config: TrainConfig,
    tensors: list[Tensor],
    optimizers: list[torch.optim.Optimizer],
    generator: torch.Generator,
    losses: Tensor,
) -> int:
    """Takes up a checkpoint; returns the step to go on with."""
    expected = _identity(config, tensors)
    try:
        with safe_open(str(config.checkpoint), framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{config.checkpoint}: expected a checkpoint, got a damaged file ({error}); delete it"
        ) from error
    if metadata.get("run") != expected:
        raise CheckpointError(
            f"{config.checkpoint}: expected a checkpoint of the same run, got one of another; delete it"
        )
    with torch.no_grad():
        for i, p in enumerate(tensors):
            p.copy_(state[f"param.{i}"])
            owner = next(o for o in optimizers if any(p is q for group in o.param_groups for q in group["params"]))
            kept = {k: state[f"{k}.{i}"] for k in ("exp_avg", "exp_avg_sq", "step") if f"{k}.{i}" in state}
            owner.state[p].update(kept)
    generator.set_state(state["generator"])
    losses.copy_(state["losses"])
    return int(metadata["step"])
