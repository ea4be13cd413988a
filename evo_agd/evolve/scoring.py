"""Scoring members on a supernet: what a worker does all day, and so what has to be fast.

What it took, measured by ``benchmark throughput`` (``benchmarks/throughput.md``):

* **Shared prefixes.** Members that begin alike have the same activations for as long as they do,
  and children begin like their parents. The states behind each step are kept, those that were
  not asked for longest go first, so neighbours in a batch and later generations find them.
* **Channels last**, and no enlarged pictures (:func:`evo_agd.nets.upsamplers.enlarged`).
* **Outputs compared in one go** (:mod:`evo_agd.evolve.comparing`).
* **Memory that is kept.** glibc gives blocks of megabytes back to the kernel when they are freed
  and gets them back page by page: a third of the time went there.

The figures are those of :func:`evo_agd.train.distillation.score`, whoever stands beside a member.
"""

from __future__ import annotations

import ctypes
import math
import platform
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evo_agd.evolve.comparing import Reference
from evo_agd.nets.elastic import State, Step
from evo_agd.space.genes import Genome
from evo_agd.train.loop import mixed
from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import Pair

# mallopt's numbers of M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_memory() -> None:
    """Let this process keep the large blocks that it frees, where the C library is glibc."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


@dataclass(frozen=True)
class Scored:
    """What came of one member.

    Attributes:
        figures: objectives by name; None where it failed, or was left behind in a race.
        error: why it failed.
        seconds: its share of the time; what it shares with others counts for the first of them.
        quick: the figures of its race, if there was one.
    """

    figures: dict[str, float] | None
    seconds: float
    error: str = ""
    quick: dict[str, float] | None = None


class Scorer:
    """Holds a supernet and the validation pictures, and scores members on them.

    Args:
        net: with a method ``steps`` from a decoded path to what it does.
        decode: from genomes to paths.
        bf16: whether the network runs under BF16, see :func:`evo_agd.train.loop.mixed`.
        prefix_mb: megabytes of activations that may be kept for members that begin alike; each
            of two scorers of a worker has as many.
        extras: further figures by name, of the member as a network of its own.
    """

    def __init__(
        self,
        net: nn.Module,
        decode: Callable[[Genome], Any],
        validation: Sequence[Pair],
        *,
        loss: DistillationLoss,
        bf16: bool,
        prefix_mb: float,
        device: str = "cpu",
        extras: Mapping[str, Callable[[nn.Module], float]] = MappingProxyType({}),
    ) -> None:
        self.device = torch.device(device)
        self.net: Any = net.eval().to(device=self.device).to(memory_format=torch.channels_last)
        self.decode = decode
        loss = loss.to(self.device)
        self.pictures = [Reference(pair, loss, self.device) for pair in validation]
        self.bf16 = bf16
        self.extras = dict(extras)
        self.kept = _Kept(prefix_mb * 1e6)
        self.network_seconds = 0.0
        """In the steps of the network so far."""
        self.steps_run = self.steps_saved = 0

    @torch.inference_mode()
    def score(self, genomes: Sequence[Genome]) -> list[Scored]:
        """The figures of each, in their order. Those that share a front should stand together.

        One that raises an error (out of memory, say) fails, the others do not.
        """
        results = [_Sum() for _ in genomes]
        paths = [self.net.steps(self.decode(genome)) for genome in genomes]
        for number, picture in enumerate(self.pictures):
            for result, steps in zip(results, paths, strict=True):
                began = perf_counter()
                try:
                    result.add(*picture.compare(self._output(number, steps)))
                except (RuntimeError, MemoryError) as error:
                    self.kept.clear()  # what may have been too much
                    result.error = f"{type(error).__name__}: {error}"
                result.seconds += perf_counter() - began
        if self.extras:
            for result, genome in zip(results, genomes, strict=True):
                self._look_closer(result, genome)
        return [result.scored() for result in results]

    def _look_closer(self, result: _Sum, genome: Genome) -> None:
        began = perf_counter()
        try:
            student = self.net.cut(self.decode(genome)).eval()
            for name, figure in self.extras.items():
                result.extras[name] = figure(student)
        except (RuntimeError, MemoryError) as error:
            result.error = f"{type(error).__name__}: {error}"
        result.seconds += perf_counter() - began

    def _output(self, number: int, steps: list[Step]) -> Tensor:
        """A path's output for a picture, (1, 3, H, W) in FP32."""
        keys = (number, *(step.key for step in steps))
        done, state = self.kept.longest(keys)
        if state is None:
            state = (self.pictures[number].low,)
        self.steps_saved += done
        self.steps_run += len(steps) - done
        began = perf_counter()
        with mixed(self.bf16, self.device.type):
            for index, step in enumerate(steps[done:], done + 1):
                before, state = state, step.run(state)
                if index < len(steps):
                    self.kept.add(keys[: index + 1], state, before)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.network_seconds += perf_counter() - began
        return state[0].float()


class _Kept:
    """States behind the first steps of paths, up to a limit in bytes; the stalest go first."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.size = 0
        self.states: OrderedDict[tuple[Any, ...], tuple[State, int]] = OrderedDict()

    def longest(self, keys: tuple[Any, ...]) -> tuple[int, State | None]:
        """How many of a path's steps need not be done, and the state behind them."""
        for done in range(len(keys) - 2, 0, -1):
            found = self.states.get(keys[: done + 1])
            if found is not None:
                self.states.move_to_end(keys[: done + 1])
                return done, found[0]
        return 0, None

    def add(self, keys: tuple[Any, ...], state: State, before: State) -> None:
        """Keep a state; what it shares with the one before is counted there."""
        known = {tensor.data_ptr() for tensor in before}
        size = sum(t.nbytes for t in state if t.data_ptr() not in known)
        self.states[keys] = (state, size)
        self.size += size
        while self.size > self.limit and self.states:
            _, (_, freed) = self.states.popitem(last=False)
            self.size -= freed

    def clear(self) -> None:
        self.states.clear()
        self.size = 0


class _Sum:
    """Figures of one member, picture by picture."""

    def __init__(self) -> None:
        self.distances: list[float] = []
        self.decibels: list[float] = []
        self.extras: dict[str, float] = {}
        self.seconds = 0.0
        self.error = ""

    def add(self, distance: float, decibels: float) -> None:
        self.distances.append(distance)
        self.decibels.append(decibels)

    def scored(self) -> Scored:
        if self.error:
            return Scored(None, self.seconds, self.error)
        figures = {
            "distillation_loss": float(np.mean(self.distances)),
            "psnr": float(np.mean(self.decibels)),
            **self.extras,
        }
        wrong = [f"{name} is {v}" for name, v in figures.items() if not math.isfinite(v)]
        return Scored(None if wrong else figures, self.seconds, ", ".join(wrong))
