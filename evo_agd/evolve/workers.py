"""Ray: starting it, and actors that score genomes on the supernet."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from time import perf_counter
from typing import Any

import ray
import torch
from torch import Tensor, nn

from evo_agd.space.genes import Genome
from evo_agd.train.distillation import score
from evo_agd.train.pairs import Pair

log = logging.getLogger(__name__)

# Two results a worker in flight keep it busy while the driver handles the last one.
AHEAD = 2
RETRIES = 3  # of an evaluation whose worker died


@contextmanager
def cluster(address: str | None, workers: int) -> Iterator[None]:
    """A Ray of ``workers`` cores on this machine, or the cluster at ``address``.

    Raises:
        ConnectionError: no cluster answers at that address.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    local: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False}
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=False,
        **({} if address else local),
    )
    try:
        yield
    finally:
        ray.shutdown()


class _Evaluator:
    """Holds the supernet and the validation set; tuples in, floats out. One torch thread."""

    def __init__(
        self,
        build: Callable[[], tuple[nn.Module, Callable[[Genome], Any]]],
        weights: dict[str, Tensor],
        validation: list[Pair],
        bf16: bool,
    ) -> None:
        torch.set_num_threads(1)
        self.net, self.decode = build()
        self.net.load_state_dict(weights)
        self.net.eval().to(memory_format=torch.channels_last)
        self.validation = validation
        self.bf16 = bf16

    def evaluate(self, genome: Genome) -> tuple[dict[str, float], float]:
        """Objectives by name, and the seconds that they took."""
        began = perf_counter()
        path = self.decode(genome)
        result = score(lambda x: self.net(x, path), self.validation, bf16=self.bf16)
        return asdict(result), perf_counter() - began


class Workers:
    """A pool of evaluators; scores genomes and yields results as they come.

    Args:
        build: makes the empty supernet and the function from genome to path, in the worker.
        weights, validation: go to the object store once.
    """

    def __init__(
        self,
        count: int,
        build: Callable[[], tuple[nn.Module, Callable[[Genome], Any]]],
        weights: dict[str, Tensor],
        validation: Sequence[Pair],
        *,
        bf16: bool,
    ) -> None:
        actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=RETRIES)(_Evaluator)
        stored, pictures = ray.put(weights), ray.put(list(validation))
        self.actors = [actor.remote(build, stored, pictures, bf16) for _ in range(count)]

    def __call__(
        self, genomes: Sequence[Genome], /
    ) -> Iterator[tuple[int, dict[str, float], float]]:
        waiting = iter(enumerate(genomes))
        running: dict[Any, tuple[int, Any]] = {}

        def submit(actor: Any) -> None:
            following = next(waiting, None)
            if following is not None:
                index, genome = following
                running[actor.evaluate.remote(genome)] = (index, actor)

        for actor in self.actors * AHEAD:
            submit(actor)
        while running:
            done, _ = ray.wait(list(running), num_returns=1)
            index, actor = running.pop(done[0])
            figures, seconds = ray.get(done[0])
            submit(actor)
            yield index, figures, seconds

    def close(self) -> None:
        """Free the actors."""
        for actor in self.actors:
            ray.kill(actor)
