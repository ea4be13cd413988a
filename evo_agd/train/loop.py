"""The training loop that the supernet and the students share, resumable to the bit."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import torch
from torch import Tensor, nn

from evo_agd.files import write_bytes
from evo_agd.processors import cores as cores

CLIP = 0.5  # gradient norm; keeps the first steps of a high learning rate from blowing up
CHECKPOINT_SECONDS = 10.0
# A short memory of squared gradients: branches start small, and their gradients grow quickly.
BETAS = (0.9, 0.99)
FAN_IN = 50.0  # layers up to this fan-in learn at the full rate

Tick = Callable[[int, str], None]
Losses = Callable[[int], Sequence[Callable[[], Tensor]]]


@dataclass(frozen=True)
class Schedule:
    """Adam with a linear warm-up and a cosine decay (one cycle), and averaged weights.

    Args:
        steps: how many.
        learning_rate: the peak.
        ema: decay of the exponential moving average of the weights, 0 to use the last ones.
        rise: share of the steps in which the learning rate rises.
        by_fan_in: lower the rate of wide layers, see :func:`_groups`.
    """

    steps: int
    learning_rate: float
    ema: float = 0.0
    rise: float = 0.1
    by_fan_in: bool = True

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        up = max(1.0, self.rise * self.steps)
        if step < up:
            return self.learning_rate * (step + 1) / up
        phase = (step - up) / max(1.0, self.steps - up)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * phase)))


def bf16_pays() -> bool:
    """Whether this processor multiplies BF16 natively (AVX-512 BF16, AMX, or a recent Arm)."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def mixed(bf16: bool, device: str = "cpu") -> torch.autocast | nullcontext[None]:
    """BF16 autocast, or nothing."""
    # No cache: it is shared by all threads, and slices of weights would not be in it anyway.
    return torch.autocast(device, torch.bfloat16, cache_enabled=False) if bf16 else nullcontext()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with this many torch threads, then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class DivergedError(RuntimeError):
    """The loss is no longer a number."""


def fit(
    net: nn.Module,
    losses: Losses,
    schedule: Schedule,
    *,
    workers: int = 1,
    checkpoint: Path | None = None,
    tick: Tick = lambda step, note: None,
    looks: Collection[int] = (),
    look: Callable[[int], None] = lambda step: None,
) -> nn.Module:
    """Train ``net`` in place, with one torch thread per loss, and leave its averaged weights in it.

    It stays on the device that it is on, where ``losses`` have to compute.

    Args:
        losses: the losses of a step, as functions to call; their gradients are added in order.
        workers: how many of them are computed at once; the result does not depend on it.
        checkpoint: a file to resume from if it is there, and to write every few seconds.
        tick: called with (steps done, note) after each step.
        looks: numbers of steps after which ``look`` is called with the averaged weights in ``net``.

    Raises:
        DivergedError: a loss is not finite.
    """
    net.to(memory_format=torch.channels_last)
    parameters = list(net.parameters())
    groups = _groups(net) if schedule.by_fan_in else [{"params": parameters, "share": 1.0}]
    optimizer = torch.optim.Adam(groups, lr=schedule.learning_rate, betas=BETAS, fused=True)
    average = {k: v.detach().clone() for k, v in net.state_dict().items()}
    start = 0
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        average = {k: v.to(average[k].device) for k, v in state["average"].items()}
        start = int(state["step"])

    def gradients(loss: Callable[[], Tensor]) -> tuple[float, tuple[Tensor | None, ...]]:
        value = loss()
        return float(value.detach()), torch.autograd.grad(value, parameters, allow_unused=True)

    saved = monotonic()
    note = ""
    with threads(1), ThreadPoolExecutor(workers) as pool:
        for step in range(start, schedule.steps):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step) * group["share"]
            found = list(pool.map(gradients, losses(step)))
            total = sum(value for value, _ in found)
            if not math.isfinite(total):
                raise DivergedError(f"the loss is {total} at step {step}; lower learning_rate")
            for parameter, parts in zip(
                parameters, zip(*(g for _, g in found), strict=True), strict=True
            ):
                known = [p for p in parts if p is not None]
                parameter.grad = functools.reduce(torch.add, known).clone() if known else None
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            decay = min(schedule.ema, (step + 1) / (step + 10))
            with torch.no_grad():
                current = list(net.state_dict().values())
                torch._foreach_lerp_(list(average.values()), current, 1 - decay)
            if step % 20 == 0:
                note = f"loss {total:.4f}"
            tick(step + 1, note)
            if step + 1 in looks:
                with _holding(net, average):
                    look(step + 1)
            if checkpoint is not None and monotonic() - saved > CHECKPOINT_SECONDS:
                state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
                save(checkpoint, state | {"average": average, "step": step + 1})
                saved = monotonic()
    net.load_state_dict(average)
    return net


@contextmanager
def _holding(net: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """Other weights in a network for a while."""
    own = {k: v.detach().clone() for k, v in net.state_dict().items()}
    net.load_state_dict(weights)
    try:
        yield
    finally:
        net.load_state_dict(own)


def _groups(net: nn.Module) -> list[dict[str, object]]:
    """Parameters grouped by fan-in, with the learning rate of wide layers lowered in proportion.

    One Adam step moves a layer's output by learning rate x fan-in (Yang et al., Tensor Programs V,
    2021). Without this the largest paths of a supernet diverge at rates that suit the small ones.
    A single network whose layers are normed learns faster without.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in net.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
        groups.setdefault(min(1.0, FAN_IN / fan_in), []).append(parameter)
    return [{"params": members, "share": share} for share, members in sorted(groups.items())]


def save(path: Path, state: dict[str, object]) -> None:
    """``torch.save``, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())
