"""Ray: starting it, and actors that score genomes on the supernet."""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from time import perf_counter
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError
from torch import Tensor, nn

from evo_agd.errors import InputError
from evo_agd.space.genes import Genome
from evo_agd.train.distillation import score
from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import Pair

log = logging.getLogger(__name__)

# Two evaluations in flight keep a worker busy while the driver handles the last one.
AHEAD = 2
RETRIES = 3  # of an evaluation whose worker died


def check_address(address: str) -> None:
    """Knock at a cluster's door; Ray itself takes two minutes to find nobody in.

    Raises:
        InputError: not an address, or nobody answers there.
    """
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        raise InputError("--address", "HOST:PORT, ray://HOST:PORT or auto", address)
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise InputError("--address", f"a Ray cluster at {address}", error) from error


@contextmanager
def cluster(address: str | None, workers: int) -> Iterator[None]:
    """A Ray of ``workers`` cores on this machine, or the cluster at ``address``."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name in ("ray", "ray.tune"):  # they explain themselves at length; what fails is raised
        logging.getLogger(name).setLevel(logging.ERROR)
    local: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False}
    ray.init(
        address=address or "local",  # None would look for a cluster to join
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
        stored: list[Any],
        bf16: bool,
    ) -> None:
        torch.set_num_threads(1)
        weights, validation, self.loss = ray.get(stored)
        self.net, self.decode = build()
        self.net.load_state_dict(weights)
        self.net.eval().to(memory_format=torch.channels_last)
        self.validation = validation
        self.bf16 = bf16

    def pid(self) -> int:
        """The worker's process."""
        return os.getpid()

    def evaluate(self, genome: Genome) -> tuple[dict[str, float], float]:
        """Objectives by name, and the seconds that they took."""
        began = perf_counter()
        path = self.decode(genome)
        result = score(lambda x: self.net(x, path), self.validation, loss=self.loss, bf16=self.bf16)
        return asdict(result), perf_counter() - began


class Workers:
    """A pool of evaluators; scores genomes and yields results as they come.

    A worker that dies is replaced, and what it held is given to another.

    Args:
        build: makes the empty supernet and the function from genome to path, in the worker.
        weights, validation, loss: go to the object store once.
    """

    def __init__(
        self,
        count: int,
        build: Callable[[], tuple[nn.Module, Callable[[Genome], Any]]],
        weights: dict[str, Tensor],
        validation: Sequence[Pair],
        *,
        loss: DistillationLoss,
        bf16: bool,
    ) -> None:
        self.kind = ray.remote(num_cpus=1)(_Evaluator)
        stored = [ray.put(weights), ray.put(list(validation)), ray.put(loss)]
        self.arguments = (build, stored, bf16)
        self.successors: dict[Any, Any] = {}
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        # An actor that no core is free for would wait, with the genomes that it was given.
        count = max(1, min(count, int(free.get("CPU", 1))))
        self.actors: list[Any] = [self.kind.remote(*self.arguments) for _ in range(count)]

    def __call__(
        self, genomes: Sequence[Genome], /
    ) -> Iterator[tuple[int, dict[str, float], float]]:
        """Yield (index, objectives, seconds) of each genome, in the order in which they end.

        Raises:
            RuntimeError: workers died again and again over one genome.
        """
        waiting = deque(enumerate(genomes))
        running: dict[Any, tuple[int, Any]] = {}
        deaths = [0] * len(genomes)

        def submit(actor: Any) -> None:
            if waiting:
                index, genome = waiting.popleft()
                running[actor.evaluate.remote(genome)] = (index, actor)

        for actor in self.actors * AHEAD:
            submit(actor)
        while running:
            done, _ = ray.wait(list(running), num_returns=1)
            index, actor = running.pop(done[0])
            try:
                figures, seconds = ray.get(done[0])
            except RayActorError as error:
                deaths[index] += 1
                if deaths[index] > RETRIES:
                    raise RuntimeError(f"workers keep dying over {genomes[index]}") from error
                log.warning("a worker died; %s is evaluated again", genomes[index])
                waiting.append((index, genomes[index]))
                submit(self._replacement(actor))
                continue
            submit(actor)
            yield index, figures, seconds

    def _replacement(self, dead: Any) -> Any:
        """The actor in a dead one's place, started once however many evaluations it held."""
        if dead in self.actors:
            place = self.actors.index(dead)
            self.actors[place] = self.kind.remote(*self.arguments)
            self.successors[dead] = self.actors[place]
        return self.successors[dead]

    def close(self) -> None:
        """Free the actors."""
        for actor in self.actors:
            ray.kill(actor)
